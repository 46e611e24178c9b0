package main

import (
	"bytes"
	"io"
	"net/http"
	"reflect"
	"testing"
)

// net/http sends the body of http.NewRequest in one write with the header, and
// retry libraries treat its GetBody in ways of their own.
func TestJob_PostIsMadeByNewRequest(t *testing.T) {
	data := pattern(100)
	j := newJob(memoryURL, getBody, bodyOf(data))
	want, err := http.NewRequest(http.MethodPost, memoryURL, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for call := range 2 {
		req := j.next()
		if reflect.TypeOf(req.Body) != reflect.TypeOf(want.Body) || req.ContentLength != 100 {
			t.Errorf("call %d: got a body of type %T and length %d, want %T and 100", call, req.Body, req.ContentLength, want.Body)
		}
		again, err := req.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range []io.Reader{req.Body, again} {
			if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data) {
				t.Errorf("call %d: read %d bytes and %v, want the 100 of the job", call, len(got), err)
			}
		}
		req.Body = http.NoBody // as some contenders leave it
	}
}
