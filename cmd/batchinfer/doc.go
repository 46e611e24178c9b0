/*
Batchinfer sends a batch of inference requests to an OpenAI-compatible gateway,
tries again what fails for a while, and writes the answers.

	batchinfer -input requests.jsonl -output answers.jsonl -url http://localhost:8000
	batchinfer

The second form needs nothing: it sends an embedded sample of 300 requests to
an endpoint inside the process that has a rate limit and fails on purpose, to
show what retrying saves. It ignores INFERENCE_API_KEY, writes the answers to a
temporary file whose name it prints, and leaves nothing else behind.

# Input and output

The input is an OpenAI batch file: in each line a JSON object with custom_id,
method (POST), url (/v1/chat/completions or /v1/completions) and body. Each
value in the body is sent as it stands, numbers digit by digit, nested objects
in their order; what changes is what means nothing in JSON: the body's own keys
are sorted, blanks go, and some characters in strings are escaped. A key that is
there twice, in the line or in the body, is an error. The body must not ask for
a stream. All lines are checked before the first request is sent. A line may
have 16 MiB, a custom_id 512 bytes. Blank lines, "\r\n" and a byte order mark
are accepted. "-" is the standard input, which is copied to a temporary file
first, as is a pipe.

The output is an OpenAI batch output file: in each line a JSON object with id,
custom_id, response (status_code, request_id, body) and error, in the order in
which the answers came. The request_id is what was sent as X-Request-ID: the
custom_id, escaped as in a URL unless it is printable ASCII. A request that
failed for good has a line too: its error holds the category and the message,
its response what the gateway said, at most the first 64 KiB, or null if it said
nothing. An answer of more than 16 MiB is a failure. A body that is not JSON, or
nested almost 10 000 deep, is a JSON string. Bytes in it that are not UTF-8
become U+FFFD.

Neither file is held in memory. What is held for each request is some 60 bytes,
6 MiB for 100 000 requests, beside the requests that are under way.

# Going on

Started again with the same files, batchinfer asks only what has no answer yet,
and what failed: the lines of failures are removed when the run starts, by
replacing the file, so that the output has at most one line for each custom_id.
A last line that was cut off, by a loss of power for example, is removed too. An
output with anything else in it that this program can't have written for this
input, such as a custom_id that is not in the input, is an error, and left as it
is. Two runs can't use one output at the same time, where the system has flock.
If anything else removes, replaces or changes it during the run, the run ends
with an error. It must be another file than the one that the standard output or
the standard error goes to.

SIGINT and SIGTERM end the run at once, with all finished lines written and a
word on how to go on. A second signal kills. When the output can't be written,
because the disk is full for example, the run ends in the same way.

# Configuration

The file of -config is YAML. These are the keys, with their defaults:

	inference_gateway_url: http://localhost:8000 # no default; without /v1
	inference_api_key: "example"                 # no default
	inference_request_timeout: 5m                # of one attempt, with its answer's body
	inference_max_retries: 5                     # after the first attempt
	inference_initial_backoff: 1s                # before the first retry
	inference_max_backoff: 1m                    # and the longest wait the gateway may ask for
	inference_backoff_factor: 2                  # from each wait to the next
	inference_jitter_fraction: 0.1               # a wait is up to this much longer or shorter
	num_workers: 1
	max_job_concurrency: 16                      # requests in flight per worker

An unknown key, a key that stands there twice, and an impossible value are
errors; no error shows a value that is not a number. Whole numbers are decimal,
with leading zeros too, in flags as well. Flags override the file: -url the
gateway, -concurrency the number of requests in flight in all, which is
otherwise num_workers times max_job_concurrency. A key in the environment
variable INFERENCE_API_KEY overrides the file's. The key is never printed, and
taken out of what a gateway says in a failure, unless it is shorter than 4 bytes.

# Progress, logs, exit status

Progress goes to the standard error: a bar on a terminal, otherwise a line now
and then. It counts retries as they happen, and names the last failure when
there has been no answer for five seconds. Logs go there too. They are klog's;
with -v=3 there is a line for each retry. What Go's HTTP client itself would log
is not shown, since it may quote the gateway.

The summary at the end goes to the standard output. In it, following a redirect
is no attempt of its own, and a request counts as saved if it was answered after
a retry.

The exit status is 0 if every request of the input has an answer; 1 if some
failed for good, the run broke off, or the output was changed by something else;
2 if usage, configuration, input or output were found to be wrong before
anything was sent; 130 if a signal ended the run.
*/
package main
