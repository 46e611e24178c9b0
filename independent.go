package httpretry

import (
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// An independent body has a GetBody that returns independent copies. They are
// sent unwrapped: net/http sends a *bytes.Reader in one write with the header,
// and any other type with a second one, which takes 8 % longer on loopback.
type independent struct{ req *http.Request }

func (b independent) untouched() bool { return true }

func (b independent) start(req *http.Request, first bool) error {
	if first {
		return nil
	}
	body, err := getBody(b.req)
	req.Body = body
	return err
}

func (b independent) hold() bool     { return true }
func (b independent) stop() bool     { return true }
func (b independent) settle(bool)    {}
func (b independent) failure() error { return nil }

// madeByNewRequest reports whether req has a GetBody that http.NewRequest has
// set. The copies that it returns are independent. Those of another GetBody may
// not be: the SDKs on azcore, connect-go and openai-go rewind one reader and return
// that.
//
// It reports false if req has a Trailer, because the source of the body fills that
// map, and each attempt needs a map of its own.
func madeByNewRequest(req *http.Request) bool {
	if req.Trailer != nil {
		return false
	}
	f := reflect.ValueOf(req.GetBody).Pointer()
	return f == newRequestGetBody[0] || f == newRequestGetBody[1] || f == newRequestGetBody[2]
}

// newRequestGetBody has the code pointers of the functions that http.NewRequest
// sets as GetBody, one for each type of body that it knows.
var newRequestGetBody = [...]uintptr{
	getBodyOf(strings.NewReader("any")),
	getBodyOf(bytes.NewReader([]byte("any"))),
	getBodyOf(bytes.NewBufferString("any")),
}

func getBodyOf(body io.Reader) uintptr {
	req, err := http.NewRequest(http.MethodPost, "http://localhost/", body)
	if err != nil || req.GetBody == nil {
		return 0
	}
	return reflect.ValueOf(req.GetBody).Pointer()
}

func getBody(req *http.Request) (io.ReadCloser, error) {
	body, err := req.GetBody()
	if err == nil && body == nil {
		err = errNilBody // otherwise the request would be sent without its body
	}
	return body, err
}
