/*
Batchinfer sends a batch of requests to an OpenAI-compatible inference gateway,
retries transient failures, and writes the answers to a file.

	batchinfer -input requests.jsonl -output answers.jsonl -url http://localhost:8000
	batchinfer

The second form is a demonstration. It sends an embedded sample of 300 requests
to an endpoint in the same process, which has a rate limit and simulates
failures. It ignores INFERENCE_API_KEY and writes the answers to a temporary
file, whose name it prints.

# Input

The input is an OpenAI batch file. Each line is a JSON object with the members
custom_id, method (POST), url (/v1/chat/completions or /v1/completions) and body.
All lines are checked before the first request is sent. A line has at most
16 MiB, a custom_id at most 512 bytes. A member must not occur twice in the line
or in its body, and the body must not ask for a stream. Blank lines, "\r\n" and a
byte order mark are accepted.

The body is sent with the same JSON values. Numbers keep their digits, and nested
objects the order of their members. The order of the body's own members, white
space, and the escapes in strings may change.

The file name "-" means the standard input. The standard input and pipes are
copied to a temporary file while they are checked.

# Output

The output is an OpenAI batch output file. Each line is a JSON object with the
members id, custom_id, response (status_code, request_id, body) and error, in
the order in which the answers arrive. The request_id is the value of the
request's X-Request-ID header. It is the custom_id, escaped as in a URL if it is
not printable ASCII.

A request that failed has a line too. Its error holds a category and a message.
Its response is the gateway's response, with at most 64 KiB of its body, or null
if there was none. A 2xx response without an answer is a failure, as is one of
more than 16 MiB. A body that is not JSON, or that is nested to a depth of almost
10000, is written as a JSON string. Bytes that are not valid UTF-8 are replaced
with U+FFFD.

Files are not held in memory. An input takes about 60 bytes of memory for each
request, or 6 MiB for 100 000 requests.

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

# Configuration

The -config flag names a YAML file. Its keys and their defaults are:

	inference_gateway_url: http://localhost:8000 # example, no default; without /v1
	inference_api_key: "example"                 # example, no default
	inference_request_timeout: 5m                # for one attempt, with its response body
	inference_max_retries: 3                     # after the first attempt
	inference_initial_backoff: 1s                # before the first retry
	inference_max_backoff: 60s                   # also the longest Retry-After to wait for
	inference_backoff_factor: 2.0                # from each backoff to the next
	inference_jitter_fraction: 0.1               # a backoff varies by up to this fraction
	num_workers: 1
	max_job_concurrency: 16                      # concurrent requests per worker

An unknown key, a repeated key and an invalid value are errors. Whole numbers are
decimal, also with leading zeros. The flag -url overrides inference_gateway_url.
The flag -concurrency is the total number of concurrent requests and overrides
num_workers and max_job_concurrency.

The environment variable INFERENCE_API_KEY overrides inference_api_key. The key is
not printed, and it is redacted in the failures that are written to the output,
as are the userinfo and the query of the gateway's URL. A key of less than 4
bytes is not redacted. Error messages about the config file show values only if
they are numbers.

# Progress and logs

Progress is printed to the standard error, as a bar on a terminal and otherwise
as occasional lines. It has the number of retries, and the last failure if no
answer has arrived for five seconds. Logs are written by klog to the standard
error. With -v=3, each retry is logged. Messages of package net/http are not
printed, because they may quote the gateway.

The summary is printed to the standard output. In it, a redirect does not count
as an attempt, and a request that is answered after a retry counts as saved.

# Exit status

	0    every request of the input has an answer
	1    some requests failed, or the run was stopped by an error
	2    nothing was sent, because of a mistake in usage, config, input or output
	130  a signal stopped the run
*/
package main
