// Package inference provides a small client for OpenAI-compatible inference
// gateways such as vLLM, llm-d, LiteLLM and the OpenAI service itself.
//
// [HTTPInferenceClient] is an [http.Client] with an [httpretry.RetryTransport].
// The client builds requests and sorts failures into categories; the RetryTransport
// retries. [HTTPInferenceClient.Generate] returns a complete response, and
// [HTTPInferenceClient.Stream] returns a sequence of events. With
// [HTTPInferenceClientConfig.Endpoints], requests are spread over several gateways.
//
// [Classifier] decides which failures are retried. It can be used with other
// clients of such APIs too.
//
// Neither this package's log records nor its error messages contain the API key
// or the prompt. Package net/http, however, logs some messages that a transport
// cannot disable or redirect: "Unsolicited response received on idle HTTP
// channel" goes to the standard logger of package log and quotes bytes that the
// gateway sent. Use [log.SetOutput] to filter or discard such messages.
package inference
