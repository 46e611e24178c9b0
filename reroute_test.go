package httpretry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/internal/route"
)

// A choice is a server that a RoundTripper below the RetryTransport has chosen.
type choice struct {
	name      string
	wait      time.Duration
	other     bool
	unreached bool
}

func (c *choice) Next() (time.Duration, bool) { return c.wait, c.other }
func (c *choice) Unreached() bool             { return c.unreached }

// A choiceError is an error that knows the server.
type choiceError struct {
	*choice
	error
}

func (e choiceError) Unwrap() error { return e.error }

// choosing returns a Base that responds with a status, or an error, and the choice.
func choosing(c *choice, status int, retryAfter string, err error) roundTripFunc {
	return func(req *http.Request) (*http.Response, error) {
		if err != nil {
			return nil, fmt.Errorf("middleware: %w", choiceError{c, err})
		}
		resp := response(req, status, "")
		if retryAfter != "" {
			resp.Header.Set("Retry-After", retryAfter)
		}
		resp.Request = req.WithContext(route.WithChoice(req.Context(), c))
		return resp, nil
	}
}

func TestRoute_WaitBeforeTheNextServer(t *testing.T) {
	noHost := &net.DNSError{Err: "no such host", IsNotFound: true}
	tests := []struct {
		name       string
		choice     choice
		status     int
		retryAfter string
		err        error
		want       time.Duration // negative: there is no retry
	}{
		{"another is free", choice{other: true}, 503, "30", nil, 0},
		{"another is free, which is not asked for an hour", choice{other: true}, 429, "3600", nil, 0},
		{"all are closed", choice{wait: 5 * time.Second}, 503, "30", nil, 5 * time.Second},
		{"all are closed for longer", choice{wait: 5 * time.Second}, 503, "", nil, 5 * time.Second},
		{"only this one is free", choice{}, 500, "", nil, time.Second},
		{"an error", choice{other: true}, 0, "", syscall.ECONNRESET, 0},
		{"this one cannot be reached", choice{other: true, unreached: true}, 0, "", noHost, 0},
		{"none can be reached", choice{unreached: true}, 0, "", noHost, -1},
		{"permanent", choice{other: true, unreached: true}, 0, "", httpretry.Permanent(noHost), -1},
		{"final", choice{other: true}, 0, "", noHost, -1},
		{"not found", choice{other: true, unreached: true}, 404, "", nil, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := time.Duration(-1)
				rt := &httpretry.RetryTransport{
					Base:   choosing(&tt.choice, tt.status, tt.retryAfter, tt.err),
					Policy: httpretry.RetryConfig{MaxRetries: 1, JitterFraction: -1},
					OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
						if d.Retry {
							got = d.Delay
						}
					},
				}
				rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
				if got != tt.want {
					t.Errorf("got a wait of %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// An attempt knows the server of the one before, also of one that timed out, and
// whether it resumes its response.
func TestRoute_AttemptKnowsThePreviousServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		attempt := 0
		rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, ResumeDownloads: true, Policy: now}
		rt.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
			attempt++
			previous := route.PreviousOf(req.Context())
			if c, ok := previous.Choice.(*choice); ok {
				got = append(got, fmt.Sprint(c.name, " ", previous.Resuming))
			} else if c, ok := previous.Choice.(choiceError); ok {
				got = append(got, fmt.Sprint(c.name, " ", previous.Resuming))
			} else {
				got = append(got, "none")
			}
			c := &choice{name: fmt.Sprint("server", attempt)}
			switch attempt {
			case 1:
				return choosing(c, 503, "", nil)(req)
			case 2:
				<-req.Context().Done()
				return choosing(c, 0, "", context.Cause(req.Context()))(req)
			case 3, 5:
				resp, _ := choosing(c, 200, "", nil)(req)
				resp.Header.Set("Etag", `"1"`)
				resp.Body, resp.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("12"), failingReader{})), 4
				if attempt == 5 {
					resp.StatusCode, resp.ContentLength = 206, 2
					resp.Header.Set("Content-Range", "bytes 2-3/4")
					resp.Body = io.NopCloser(strings.NewReader("34"))
				}
				return resp, nil
			}
			return choosing(c, 503, "", nil)(req)
		})
		resp, err := rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if err != nil || readAll(t, resp) != "1234" {
			t.Fatalf("got %v, %v", resp, err)
		}
		want := []string{"none", "server1 false", "server2 false", "server3 true", "server4 true"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("previous servers (-want +got):\n%s", diff)
		}
	})
}

// A Pacer hears of a refusal only if no other server accepts the attempt.
func TestRoute_PacerHearsOfRefusalsByAllServers(t *testing.T) {
	for _, other := range []bool{true, false} {
		var got httpretry.Attempt
		pacer := hearingPacer(func(a httpretry.Attempt) { got = a })
		rt := &httpretry.RetryTransport{
			Base: choosing(&choice{other: other}, 429, "", nil), Pacer: pacer, Policy: httpretry.Never,
		}
		rt.RoundTrip(newRequest(t, "GET", "http://example.com/", nil))
		if refused := got.Verdict.Outcome == httpretry.Unprocessed && got.Response != nil; refused == other {
			t.Errorf("another server: %t: the Pacer heard of %+v, %v", other, got.Verdict, got.Err)
		}
		if got.Response == nil && got.Err == nil {
			t.Error("neither a response nor an error")
		}
	}
}

type hearingPacer func(httpretry.Attempt)

func (hearingPacer) Delay(*http.Request) time.Duration { return 0 }
func (p hearingPacer) Wait(context.Context, *http.Request, time.Duration) (func(httpretry.Attempt), error) {
	return p, nil
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("connection lost") }

// The server that has redirected to another host renews the URL there.
func TestRoute_RenewalAsksTheServerOfTheRedirect(t *testing.T) {
	server := &choice{name: "a"}
	var asked []route.Previous
	base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		resp := response(req, http.StatusOK, "half")
		switch {
		case req.URL.Host == "gateway":
			asked = append(asked, route.PreviousOf(req.Context()))
			resp.StatusCode = http.StatusFound
			resp.Header.Set("Location", fmt.Sprintf("http://files/x?signature=%d", len(asked)))
			resp.Request = req.WithContext(route.WithChoice(req.Context(), server))
		case req.Header.Get("Range") == "":
			resp.ContentLength = 8 // more than is sent
			resp.Header.Set("ETag", `"1"`)
		case req.URL.RawQuery == "signature=1":
			resp.StatusCode = http.StatusForbidden
		default:
			resp.StatusCode = http.StatusPartialContent
			resp.Header.Set("ETag", `"1"`)
			resp.Header.Set("Content-Range", "bytes 4-7/8")
		}
		return resp, nil
	})
	client := &http.Client{Transport: &httpretry.RetryTransport{Base: base, Policy: now, ResumeDownloads: true}}
	resp, err := client.Get("http://gateway/x")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); string(got) != "halfhalf" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	want := []route.Previous{{}, {Choice: server, Resuming: true}}
	if !slices.Equal(asked, want) {
		t.Errorf("got %+v, want %+v", asked, want)
	}
}

// A RoundTripper that waits before it sends the request pauses AttemptTimeout.
func TestRoute_PausedAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := func(*http.Request) bool { return false }
		rt := &httpretry.RetryTransport{AttemptTimeout: time.Second, Idempotent: never}
		rt.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
			time.Sleep(600 * time.Millisecond)
			resume := route.Pause(req.Context())
			route.Pause(req.Context())() // has no effect
			time.Sleep(5 * time.Second)
			resume()
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		})
		begun := time.Now()
		_, err := rt.RoundTrip(newRequest(t, "GET", "http://gateway", nil))
		if got := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || got != 6*time.Second {
			t.Errorf("got %v after %v, want a timeout after 6s", err, got)
		}

		// A request that another one has overtaken may still be waiting.
		var late func()
		rt.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
			late = route.Pause(req.Context())
			return response(req, http.StatusOK, "body"), nil
		})
		resp, err := rt.RoundTrip(newRequest(t, "GET", "http://gateway", nil))
		if err != nil {
			t.Fatal(err)
		}
		late()
		time.Sleep(time.Minute)
		if got, err := io.ReadAll(resp.Body); string(got) != "body" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		resp.Body.Close()
	})
}
