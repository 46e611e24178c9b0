/*
Batchinfer sends a batch of requests to an OpenAI-compatible inference gateway,
retries transient failures, and writes the answers to a file.

	batchinfer -input requests.jsonl -output answers.jsonl -url http://localhost:8000
	batchinfer join -input requests.jsonl -output answers.jsonl 'part-*'
	batchinfer -input requests.jsonl -output answers.jsonl -queue nats://queue:4222
	batchinfer work -queue nats://queue:4222 -url http://localhost:8000
	batchinfer status -queue nats://queue:4222
	batchinfer cancel -queue nats://queue:4222 -job NAME
	batchinfer

The second form joins the outputs of shards. The third form is the head of a job: it
hands the requests to the workers of a queue. The fourth form is such a worker. The
fifth form prints the jobs of a queue, and the sixth ends one.

The last form is a demonstration. It sends an embedded sample of 300 requests to an
endpoint in the same process, which has a rate limit and simulates failures. It ignores
INFERENCE_API_KEY and writes the answers to a temporary file, whose name it prints.

# Input

The input is an OpenAI batch file. Each line is a JSON object with the members
custom_id, method, url and body. The method is POST, GET, PUT, PATCH or DELETE; a
GET and a DELETE may be without a body. The url is a path, such as
/v1/chat/completions, /v1/embeddings, /v1/responses or /v1/rerank, with or
without a query, and without the segments "." and "..". Method, path and body are
sent as they stand in the line, below the path of the gateway's URL. Since a
request may be sent several times, it must not have a side effect.

All lines are checked before the first request is sent. A line has at most
16 MiB, a custom_id at most 512 bytes. A member must not occur twice in the line
or in its body, and the body must not ask for a stream. Blank lines, "\r\n" and a
byte order mark are accepted.

The file name "-" means the standard input. The standard input and pipes are
copied to a temporary file while they are checked.

# Output

The output is an OpenAI batch output file. Each line is a JSON object with the
members id, custom_id, response (status_code, request_id, body) and error, in
the order in which the answers arrive. The request_id is the value of the
request's X-Request-ID header. It is the custom_id, in which characters other than
printable ASCII, and the percent sign, are escaped as in a URL. In strings, U+0085,
U+2028 and U+2029 are escaped, because some programs cut lines there.

The id ends with a checksum of the line of input. A run that resumes compares it.
If a prompt has changed since its custom_id was answered, the run sends nothing.

A request that failed has a line too. Its error holds a category and a message.
The categories are those of package inference, and MODEL_NOT_FOUND, NOT_FOUND,
QUOTA_EXHAUSTED, UNKNOWN_HOST, CERTIFICATE, WRONG_SCHEME and TOO_MANY_OPEN_FILES. With
a queue there are also worker_lost, for a request whose workers died while they sent it,
and FOREIGN_RESULT, for one that workers of another version answered. Its response is the
gateway's response, with at most 64 KiB of its body, or null if there was none. A 2xx
response that is not JSON or describes an error is a failure, as is one of more than 16
MiB, and one without choices to a url that ends in /completions. A body that is not JSON,
or that is nested to a depth of almost 10000, is written as a JSON string. Bytes that are
not valid UTF-8 are replaced with U+FFFD.

Files are not held in memory. The input alone takes about 60 bytes of memory for each
request, and a whole run about 130 MiB for a million requests.

# Resuming a run

Run again with the same files, batchinfer sends only the requests that have no
answer yet. These include requests that failed: their lines are removed from the
output when the run starts, so that the output has at most one line for each
custom_id. If a loss of power has cut off the last line, it is removed too.
All bytes that a run removes are kept in the file OUTPUT.batchinfer-removed until
a run ends with every request answered.

An output that batchinfer can't have written for this input is an error and is not
modified. Examples are a custom_id that is not in the input, a failure with
additional members, and an unterminated last line that is not the beginning of
an answer.

Two runs can't use the same output at the same time on systems that have flock.
If another program removes, replaces or changes the output during a run, the run
stops with an error. The output must not be the file that the standard output or
the standard error is redirected to.

After SIGINT or SIGTERM the run stops, with whole lines in the output, and prints
the command that resumes it. A second signal kills the process. A run that can't
write its output, for example because the disk is full, stops in the same way.

# Shards

The flag -shard I/N sends only the requests of one shard of N, so that N machines can
share an input. Shards are counted from 0. A hash of the custom_id decides which shard
a request belongs to, so shards are about equally long, and lines may be added to the
input anywhere. Each shard reads and checks the whole input, which takes about 13 seconds
of CPU time for a million requests of 2 KB, but has only its own requests in memory. A
custom_id that occurs twice is reported by its shard and by join. An output with a line
of another shard is an error.

With -shard auto/N the environment has the number of the shard: JOB_COMPLETION_INDEX in
a pod of a Kubernetes Indexed Job with N completions, or SLURM_ARRAY_TASK_ID in a task
of a Slurm array. With -shard auto in a Slurm array, SLURM_ARRAY_TASK_COUNT is N. The
array must then begin at 0 and be without gaps; to repeat some tasks of it, submit all,
or use auto/N. In the names of -output and -summary, {shard} stands for the number of
the shard, with leading zeros. It is required with auto.

The command join makes one output of the parts, which are the outputs of the shards, in
the order of the input. It takes about 80 bytes of memory for each request. It writes the
output only if each request has exactly one line in all parts, with the checksum of its
line of input; else it lists the faults. No run may be using a part. Lines of requests
that failed are joined, too, and a run with the joined output sends them again. An output
that exists is replaced if the parts have all its answers.

# Speed

A run adapts to the gateway. It starts with 16 requests in flight, or with the
largest total number of concurrent requests if that is lower, and uses more as long
as that brings more answers or tokens per second. After a refusal, attempts wait
until the time that the gateway named. They are then sent at the rate, or up to the
number in flight, that the gateway was last seen to accept. The rate rises again by
itself; see [httpretry.AdaptivePacer].

# Failures

A 429, another refusal with a Retry-After, and an attempt that could not connect
do not use up the retries of a request. Nor does an attempt for which this machine
allows no more open files; fewer requests are then sent at a time. If the gateway asks for
a longer wait than inference_max_retry_after, the request fails, and its error has both
times.

If no connection to the gateway can be made, or 16 attempts in a row end without
a response of the gateway itself, the run pauses. One attempt is made at a time, at most
10 seconds and a twentieth of inference_max_outage apart, and all others wait until the
gateway responds. If the gateway has processed no request for inference_max_outage, to
which the longest wait that it asked for is added, the run ends. The requests without an
answer have no line in the output.

A request that used up its retries is sent once more at the end of the run, at
least inference_max_backoff later. Only if that fails too does it get a line. A
request that is refused 8 times while others are answered is put off to the end, too.

If 20 requests in a row fail for a reason that all requests share, such as a wrong
key or an exhausted quota, the run stops. It also stops if 20 requests in a row fail
in the same final way, such as an unknown model, before any is answered. Messages are
compared without numbers, ids and quoted text, and those about the length or the
content of a prompt do not count. With several gateways, a request fails for such a
reason only if all of them reject it.

# The head of a job

With -queue a run uses no gateway. It hands out its requests to the workers of a queue, at
most queue_window without an answer at one time, and writes the answers. The queue is NATS
with JetStream, at a URL. If -queue is an address such as :4222, the server is a part of
the run, which keeps its data beside the output, in a directory of the same name with
.queue at its end, until a run succeeds. Anyone who reaches the address can use the queue,
unless there are queue_credentials.

The name of the job is queue_job, or the base name of the output. A job has one head at a
time: a second one is refused while the first is alive. A head that is started again
with the same files continues. Input and output are the record of the job: a request
that the queue loses is handed out again, and a second answer to a request is dropped.

A change of queue_max_in_flight in the config file takes effect within 5 seconds. Of the
keys that begin with inference, a head uses only inference_max_backoff, the wait before
a failed request is handed out again. It waits for workers without a limit, whatever
inference_max_outage is. Heads and workers also wait for a queue that is out of reach,
and print a line when it has been for some seconds, and when it responds again.

# Workers of a queue

"batchinfer work" takes requests from a queue, sends them to its gateway and returns
the answers to the queue. Any number of workers may do so. A worker retries as a run
does, and adapts to its gateway in the same way. It takes as many requests as it sends,
and those of the next 100 milliseconds. Without -job it serves all jobs of the queue,
each in its turn, and waits while there is none.

After SIGINT or SIGTERM, a worker hands back the requests that wait. Those that the
gateway works on have 10 seconds to end, and are then handed back, too. A second signal
ends this time. Without a connection to the queue nothing can be handed back: the exit
status is then 1. A worker that is killed loses its requests to others after
queue_dead_after.

While its gateway is unreachable for more than 5 seconds, or accepts nothing for more
than 10, a worker hands back all requests but one, with which it finds out when the
gateway is back. No request fails because of that. An outage does not end a worker,
which ignores inference_max_outage.

Failures whose cause may be the worker, such as a wrong or revoked key, are not finished
before a request that was sent later has succeeded. After 20 in a row, or after 30 seconds
without an answer, the worker hands them back and ends with exit status 1. The head
and the status command print the reason.

A worker counts as dead if no message of it has arrived for queue_dead_after. A request
that two workers have taken, and neither answered nor handed back, may be the reason. From
then on, a worker sends it alone. When queue_max_deaths workers have died while they sent
it alone, it fails with the code worker_lost.

The keys gateway_max_in_flight and gateway_requests_per_second limit the attempts that
all workers of a queue send to one gateway. Each worker that has requests uses its share.
A worker that joins waits until the others have made room for it. If a limit is smaller
than the number of workers, the last ones take no requests until others have none. The
lowest limit of any worker applies to all workers of that gateway, including those without
these keys. If such a gateway names a time before which it accepts nothing, all of its
workers wait.

# Configuration

The -config flag names a YAML file. Its keys and their defaults are:

	inference_gateway_url: http://localhost:8000 # example, no default; without /v1
	inference_api_key: "example"                 # example, no default
	inference_headers: {X-Tenant: example}       # example, no default; sent with each request
	inference_request_timeout: 5m                # for one attempt, with its response body
	inference_max_retries: 3                     # after the first attempt
	inference_initial_backoff: 1s                # before the first retry
	inference_max_backoff: 60s                   # longest backoff, and wait before a failed request is sent again
	inference_backoff_factor: 2.0                # from each backoff to the next
	inference_jitter_fraction: 0.1               # a backoff varies by up to this fraction
	inference_max_retry_after: 1h                # longest wait that the gateway may ask for
	inference_max_outage: 1h                     # longest time in which the gateway answers nothing
	num_workers: 1
	max_job_concurrency: 256                     # most concurrent requests per worker
	queue_url: nats://queue:4222                 # example, no default; several are separated by commas
	queue_job: night                             # example; default: the output's base name; for a worker, all jobs
	queue_credentials: "example"                 # example, no default; user:password, a token or the name of a .creds file
	queue_window: 20000                          # most requests that are handed out without an answer
	queue_max_in_flight: 500                     # example; default: no limit; requests that all workers of the job have
	queue_replicas: 3                            # servers that store each request; default: 3, or 1 if the server is alone
	queue_dead_after: 30s                        # time without a message after which a worker has lost its requests
	queue_max_deaths: 3                          # workers that may die while they send a request alone
	gateway_max_in_flight: 40                    # example; default: no limit; attempts of all workers of a queue
	gateway_requests_per_second: 300             # example; default: no limit; attempts of all workers of a queue

An unknown key, a repeated key and an invalid value are errors. Whole numbers are
decimal, also with leading zeros. The flag -url overrides inference_gateway_url.
The flag can be repeated and the key can be a list, to name several gateways. Each
URL may be followed by a weight: "http://b:8000 weight=2". As long as no gateway refuses
requests, those in flight are shared by weight. A gateway that fails, or that asks for a
wait, gets none for a while, and retries go to another. So does a request after a 401,
402, 403, a 404 for the model or a 429 for an exhausted quota. A request that has to wait
is sent to the gateway at which its turn comes first. Requests that hang at one gateway
do not keep others from being sent. The flag -concurrency is the largest total number of
concurrent requests and overrides num_workers and max_job_concurrency. The flags -rps and
-tpm limit the requests per second and the tokens per minute. Tokens are those in the
usage of the answers. With -tpm, a run also waits for x-ratelimit-reset-tokens of a
response whose x-ratelimit-remaining-tokens is 0, if there is one gateway.

The flag -header adds a field to inference_headers, or replaces it. The flag -queue
overrides queue_url. The flag -job of work and status overrides queue_job. The command
cancel requires -job and ignores queue_job.

The environment variable BATCHINFER_QUEUE_CREDENTIALS overrides queue_credentials,
which are never printed. INFERENCE_API_KEY overrides inference_api_key. The key is
not printed, and it is redacted in the failures that are written to the output,
as are the values of inference_headers and the userinfo and the query of the
gateway's URL. A key of less than 4 bytes and a value of less than 8 bytes are not
redacted. Error messages about the config file show values only if they are numbers.

# Progress and logs

Progress is printed to the standard error, as one line that fits the width of a
terminal, and otherwise as occasional lines. It has the time left at the rate of the
last minute, the numbers of failures and retries, the answers and tokens per second,
and the attempts in flight. While all requests wait, it has their number and the time
until the next attempt. The last failure is shown if no answer has arrived for five
seconds. Logs are written by klog to the standard error. With -v=3, each retry is
logged, with its status, or its cause if there was no complete response, its number for the
request, from 1, as attempt, and inference_max_retries as max. The line has as excused
how many failures so far do not count, because the gateway asked for a wait or was not
reached. Messages of package
net/http are not printed, because they may quote bytes that the gateway sent.

The summary is printed to the standard output. In it, a redirect does not count
as an attempt, and a request that is answered after a retry counts as saved. The
-summary flag names a file for the summary as JSON, which also has up to 600 samples
of the run over time. It must not be another file of the run.

# Exit status

	0    every request of the input has an answer
	1    some requests failed, or the run was stopped by an error
	2    nothing was sent, because of a mistake in usage, config, input or output
	130  a signal stopped the run

Status 1 of a head also means that its job was canceled or taken over by another head, or
that the queue failed. Status 2 also means that the job has a head, or that the queue is
unreachable.

Exit status of join:

	0    every request of the input has an answer
	1    some requests failed, or nothing was written because of the parts or an error
	2    nothing was written, because of a mistake in usage, input or the name of a file
	130  a signal stopped the command; nothing was written

Exit status of work:

	0    a signal stopped the worker
	1    no request can succeed here, or the queue did not take requests back
	2    nothing was sent, because of a mistake in usage or config, or because the queue
	     is unreachable

Exit status of status and cancel:

	0    the state was printed, or the job is canceled
	1    there is no such job
	2    there was a mistake in usage or config, or the queue did not respond
	130  a signal stopped the command; status tells whether the job is canceled
*/
package main
