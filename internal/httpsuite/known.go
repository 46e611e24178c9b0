package main

import (
	"slices"
	"strings"
)

// A difference is a test that is known to fail because the client's transport
// is wrapped.
type difference struct {
	test  string
	modes []string
	// skip, if not empty, is a pattern for go test's flag -skip. It matches the
	// parts of the test that would not end; the others must pass. If empty, the
	// test itself fails, at least sometimes.
	skip   string
	reason string
}

var differences = []difference{
	clientTimeout("TestClientTimeout"),
	clientTimeout("TestClientTimeout_Headers"),

	cancelRequest("TestTransportCancelRequest", "/^h1$/^TransportCancel$", "everything"),
	cancelRequest("TestTransportCancelRequestInDial", "/^h1$/^TransportCancel$", "everything"),
	cancelRequest("TestTransportCancelRequestWithBody", "/^h1$/^TransportCancel$", "everything"),
	cancelRequest("TestTransportCancelRequestBeforeResponseHeaders", "/^h1$/^TransportCancel$", "everything"),
	cancelRequest("TestTransportAndServerSharedBodyRace", "/^h1$", "everything", "retries"),

	oneAttempt("TestWriteHeader0", false),
	oneAttempt("TestTimeoutHandler", false),
	oneAttempt("TestTimeoutHandlerSuperfluousLogs", false),
	oneAttempt("TestServerKeepAliveAfterWriteError", false),
	oneAttempt("TestWriteDeadlineEnforcedPerStream", false),
	oneAttempt("TestDontCacheBrokenHTTP2Conn", false),
	oneAttempt("TestTransportResponseHeaderTimeout", true),
	oneAttempt("TestTransportProxyConnectHeader", true),
	oneAttempt("TestTransportProxyGetConnectHeader", true),
	oneAttempt("TestCancelRequestWhenSharingConnection", true),

	errorOfSeveral("TestStripPasswordFromError"),
	errorOfSeveral("TestTransportDialPreservesNetOpProxyError"),
}

func clientTimeout(test string) difference {
	return difference{
		test:  test,
		modes: []string{"wrapper", "never", "everything", "retries"},
		reason: "For any RoundTripper but its own, http.Client has two timers: the deadline of the context, and one\n" +
			"that adds \"Client.Timeout exceeded\" to the error. The text is missing when the deadline comes first.",
	}
}

func cancelRequest(test, subtest string, modes ...string) difference {
	return difference{
		test:  test,
		modes: modes,
		skip:  "^" + test + "$" + subtest,
		reason: "The test calls the deprecated Transport.CancelRequest, which must be given the request that was sent.\n" +
			"That is a copy if its body is buffered or AttemptTimeout is set.",
	}
}

func oneAttempt(test string, hangs bool) difference {
	d := difference{
		test:  test,
		modes: []string{"retries"},
		reason: "The test makes a request fail and expects a single attempt: it counts requests, streams or\n" +
			"connections, or its handler blocks when it is called again.",
	}
	if hangs {
		d.skip = "^" + test + "$"
	}
	return d
}

func errorOfSeveral(test string) difference {
	return difference{
		test:   test,
		modes:  []string{"retries"},
		reason: "After several attempts the error is an *Error, and the test expects the text or the type of the last one.",
	}
}

// known returns the known difference of a test in a mode, nil if there is none.
func known(mode, test string) *difference {
	i := slices.IndexFunc(differences, func(d difference) bool {
		return d.test == test && slices.Contains(d.modes, mode)
	})
	if i < 0 {
		return nil
	}
	return &differences[i]
}

// explains reports whether the difference is the reason for an outcome.
func (d *difference) explains(o outcome) bool {
	if d == nil {
		return false
	}
	if d.skip != "" {
		return o == leftOut
	}
	return o == failed
}

// skip returns a pattern for go test's flag -skip that leaves out the parts known
// not to end in a mode.
func skip(mode string) string {
	var patterns []string
	for _, d := range differences {
		if d.skip != "" && slices.Contains(d.modes, mode) {
			patterns = append(patterns, d.skip)
		}
	}
	return strings.Join(patterns, "|")
}
