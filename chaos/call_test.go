package chaos_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/httpretry/httpretry"
)

// A call is one request that is sent through the layer.
type call struct {
	p      plan
	ledger *ledger

	attempts    int
	mayHaveBeen atomic.Bool // processed, as far as the client can tell
}

type callKey struct{}

// A tagger is the Base of the layer. It numbers the attempts for the server, and
// checks whether the result of an attempt allows the next one.
type tagger struct{ base *http.Transport }

func (t tagger) RoundTrip(req *http.Request) (*http.Response, error) {
	c := req.Context().Value(callKey{}).(*call)
	if c.attempts++; c.mayHaveBeen.Load() && !c.p.repeatable() {
		c.ledger.breach(sentAgain, "%+v: attempt %d went out", c.p, c.attempts)
	}
	var wrote atomic.Bool
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		// The connection, if there was one, is new: net/http itself would retry
		// on a reused one.
		GetConn:      func(string) { wrote.Store(false) },
		WroteHeaders: func() { wrote.Store(true) },
	})
	sent := req.WithContext(ctx)
	sent.Header = req.Header.Clone()
	// The number of the layer itself may be wrong.
	sent.Header.Set("Attempt", strconv.Itoa(c.attempts))
	resp, err := t.base.RoundTrip(sent)
	turnedAway := err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable)
	if wrote.Load() && !turnedAway {
		c.mayHaveBeen.Store(true)
	}
	if err != nil {
		c.ledger.count("attempts that failed: " + kindOf(err))
		return nil, err
	}
	c.ledger.bodies.Add(1)
	resp.Body = &openBody{ReadCloser: resp.Body, ctx: ctx, ledger: c.ledger}
	return resp, nil
}

// An openBody is a response body that counts as open until it is closed. The
// connections alone would not show a leak, because they are closed when the
// caller's context ends.
type openBody struct {
	io.ReadCloser
	once   sync.Once
	ctx    context.Context // of the attempt
	ledger *ledger
}

func (b *openBody) Close() error {
	b.once.Do(func() {
		b.ledger.bodies.Add(-1)
		if isStall(context.Cause(b.ctx)) {
			b.ledger.count("responses that stalled")
		}
	})
	return b.ReadCloser.Close()
}

// isStall reports whether err is that of a body without progress.
func isStall(err error) bool { return err != nil && strings.Contains(err.Error(), " body stalled: ") }

// kindOf returns the kind of an attempt's error, to check that all occur.
func kindOf(err error) string {
	var timeout net.Error
	var op *net.OpError
	switch {
	case isStall(err):
		return "stalled"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "out of time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "end of file"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "handshake timeout"
	case errors.As(err, &op):
		return op.Op
	case errors.As(err, new(tls.RecordHeaderError)):
		return "no TLS"
	}
	return "other"
}

// roundTrip makes one call and checks the contract of http.RoundTripper.
func roundTrip(l *ledger, layer http.RoundTripper, addr string, p plan) (status int, whole bool) {
	c := &call{p: p, ledger: l}
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), callKey{}, c), p.patience)
	defer cancel()
	req, err := p.request(addr, &l.entries[p.id].closed)
	if err != nil {
		panic(err)
	}
	req = req.WithContext(ctx)
	before := *req
	url := *req.URL
	before.Header, before.URL = req.Header.Clone(), &url

	start := time.Now()
	resp, err := layer.RoundTrip(req)
	if (resp == nil) == (err == nil) {
		l.breach(notOneResult, "%+v: got %v and %v", p, resp, err)
	}
	status, whole = c.end(resp, err)
	if took := time.Since(start); took > p.patience+l.grace {
		l.breach(overtime, "%+v: took %v", p, took)
	}
	c.unmodified(&before, req)
	return status, whole
}

// end records the end of a call.
func (c *call) end(resp *http.Response, err error) (status int, whole bool) {
	if c.attempts > 1 {
		c.ledger.count("calls with more than one attempt")
	}
	var failure *httpretry.Error
	if errors.As(err, &failure) {
		c.ledger.count("calls that gave up: " + string(failure.Reason))
	}
	if resp == nil {
		c.ledger.count("calls that ended with an error")
		return 0, false
	}
	defer resp.Body.Close()
	c.ledger.count(fmt.Sprint("calls that ended with status ", resp.StatusCode))
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, false
	}
	attempts := c.attempts
	switch err := compare(resp.Body, c.p.answered()); {
	case errors.Is(err, errOtherBytes):
		c.ledger.breach(otherAnswer, "%+v: %v", c.p, err)
	case err != nil:
		c.ledger.count("responses that failed")
	case c.attempts > attempts:
		c.ledger.count("responses that failed and were resumed")
		fallthrough
	default:
		whole = true
	}
	return resp.StatusCode, whole
}

// unmodified checks the caller's request after the call.
func (c *call) unmodified(before, after *http.Request) {
	same := before.Method == after.Method && *before.URL == *after.URL && before.Host == after.Host &&
		before.Body == after.Body && (before.GetBody == nil) == (after.GetBody == nil) &&
		before.ContentLength == after.ContentLength && before.Context() == after.Context() &&
		maps.EqualFunc(before.Header, after.Header, slices.Equal)
	if !same {
		c.ledger.breach(requestModified, "%+v", c.p)
	}
}
