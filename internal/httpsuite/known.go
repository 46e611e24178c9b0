package main

import "slices"

// A difference is a test that is known to fail, at least sometimes, because
// the client's transport is wrapped.
type difference struct {
	test   string
	modes  []string
	hangs  bool // it would not end, and is left out
	reason string
}

var differences = []difference{
	{
		test:  "TestClientTimeout",
		modes: []string{"wrapper", "never", "everything"},
		reason: "with any RoundTripper but its own, http.Client has two timers: the context's deadline, and one that " +
			"adds \"Client.Timeout exceeded\" to the error; the text is missing when the deadline is first",
	},
	{
		test:  "TestTransportAndServerSharedBodyRace",
		modes: []string{"everything"},
		hangs: true,
		reason: "it cancels with the deprecated Transport.CancelRequest, which takes the request that was sent; " +
			"that is a copy once a body is buffered or an attempt has a timeout",
	},
	{
		test:  "TestTransportCancelRequest",
		modes: []string{"everything"},
		hangs: true,
		reason: "it cancels with the deprecated Transport.CancelRequest, which takes the request that was sent; " +
			"that is a copy once a body is buffered or an attempt has a timeout",
	},
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

// hangs returns the tests that are known to hang in a mode.
func hangs(mode string) []string {
	var tests []string
	for _, d := range differences {
		if d.hangs && slices.Contains(d.modes, mode) {
			tests = append(tests, d.test)
		}
	}
	return tests
}
