package httpretry_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/httpretry/httpretry"
)

const (
	hub    = "https://hub.example/model"
	signed = "https://cdn.example/model?signature="
)

// redirected responds with a redirect to a URL, which may be relative.
func redirected(to string) reply {
	return status(302).with(func(r *http.Response) { r.Header.Set("Location", to) })
}

// urls returns the URLs of all requests.
func (o *origin) urls() []string {
	var urls []string
	for _, req := range o.sent {
		urls = append(urls, req.URL.String())
	}
	return urls
}

// fetchThrough downloads the alphabet through an http.Client above o.
func fetchThrough(t *testing.T, o *origin, rt httpretry.RetryTransport, req *http.Request) (string, error) {
	t.Helper()
	resp, err := (&http.Client{Transport: o.downloads(rt)}).Do(req)
	if err != nil {
		t.Fatalf("got error %v, want a response", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestDownload_RenewsExpiredURL(t *testing.T) {
	for code, want := range map[int]bool{
		401: true, 403: true, 404: true, 410: true,
		400: false, 402: false, 405: false, 412: false, 416: false, 451: false,
	} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			o := newOrigin(redirected(signed+"1"), whole(10, errBreak), status(code), redirected(signed+"2"), part(-1, nil))
			// A Policy that allows one retry shows that the renewal is not one.
			once := policyFunc(func(a httpretry.Attempt) (time.Duration, bool) { return 0, a.Number < 2 })
			got, err := fetchThrough(t, o, httpretry.RetryTransport{Policy: once}, newRequest(t, "GET", hub, nil))
			sent, ranges := []string{hub, signed + "1", signed + "1", hub, signed + "2"}, []string{"", "", "bytes=10-", "bytes=10-", "bytes=10-"}
			if want && (got != alphabet || err != nil) {
				t.Errorf("got %q, %v, want the alphabet", got, err)
			}
			if !want {
				sent, ranges = sent[:3], ranges[:3]
				if got != alphabet[:10] || err != errBreak {
					t.Errorf("got %q, %v, want the first ten letters and %v: status %d is not that of an expired URL", got, err, errBreak, code)
				}
			}
			if diff := cmp.Diff(sent, o.urls()); diff != "" {
				t.Errorf("URLs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(ranges, o.ranges()); diff != "" {
				t.Errorf("Range headers (-want +got):\n%s", diff)
			}
			for i, req := range o.sent[2:] {
				if got := req.Header.Get("If-Range"); got != `"v1"` {
					t.Errorf("request %d: got If-Range %q, want the ETag", i+3, got)
				}
				if got := httpretry.AttemptNumber(req.Context()); got != 2 {
					t.Errorf("request %d: got attempt number %d, want 2: they are one attempt", i+3, got)
				}
			}
			o.wantClosed(t)
		})
	}
}

func TestDownload_RenewsOnlyAfterRedirectOfGET(t *testing.T) {
	shared := response(nil, 302, "")
	shared.Header.Set("Location", signed)
	loop := func(*http.Request) (*http.Response, error) { return shared, nil }
	tests := []struct {
		name    string
		method  string
		replies []reply
		reason  string
	}{
		{"no redirect", "GET", []reply{whole(10, errBreak), status(403)}, "there is no other URL"},
		{"POST", "POST", []reply{status(303).with(func(r *http.Response) { r.Header.Set("Location", signed) }), whole(10, errBreak), status(403)},
			"a POST must not be sent again"},
		{"shared response", "GET", []reply{loop, loop, loop, whole(10, errBreak), status(403)},
			"a response that a Base returns twice makes the chain of requests endless"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(tt.replies...)
			got, err := fetchThrough(t, o, httpretry.RetryTransport{}, newRequest(t, tt.method, hub, nil))
			if got != alphabet[:10] || err != errBreak || len(o.sent) != len(tt.replies) {
				t.Errorf("got %q, %v after %d requests, want the first ten letters and %v after %d: %s",
					got, err, len(o.sent), errBreak, len(tt.replies), tt.reason)
			}
		})
	}
}

// A URL is renewed once per failure of the body. Retries then ask the first URL.
func TestDownload_RenewsOncePerBreak(t *testing.T) {
	tests := []struct {
		name    string
		replies []reply
		urls    []string
		want    int
		reason  string
	}{
		{"rejected again", []reply{redirected(signed + "1"), whole(10, errBreak), status(403), redirected(signed + "2"), status(403)},
			[]string{hub, signed + "1", signed + "1", hub, signed + "2"}, 10, "a second renewal would not help"},
		{"rejected at the first URL", []reply{redirected(signed + "1"), whole(10, errBreak), status(410), status(404)},
			[]string{hub, signed + "1", signed + "1", hub}, 10, "the file is gone"},
		{"failures after it", []reply{redirected(signed + "1"), whole(10, errBreak), status(403), status(503), fails(io.EOF), redirected(signed + "2"), status(500), redirected(signed + "3"), part(-1, nil)},
			[]string{hub, signed + "1", signed + "1", hub, hub, hub, signed + "2", hub, signed + "3"}, 26, "they are retried as usual, at the first URL"},
		{"a failure before it", []reply{redirected(signed + "1"), whole(10, errBreak), status(503), status(403), redirected(signed + "2"), part(-1, nil)},
			[]string{hub, signed + "1", signed + "1", signed + "1", hub, signed + "2"}, 26, "the URL may expire during a wait"},
		{"next break", []reply{redirected(signed + "1"), whole(10, errBreak), status(403), redirected(signed + "2"), part(5, errBreak), part(5, errBreak), status(403), redirected(signed + "3"), part(-1, nil)},
			[]string{hub, signed + "1", signed + "1", hub, signed + "2", signed + "2", signed + "2", hub, signed + "3"}, 26, "the new URL is used until it expires"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(tt.replies...)
			got, err := fetchThrough(t, o, httpretry.RetryTransport{}, newRequest(t, "GET", hub, nil))
			if complete := tt.want == len(alphabet); got != alphabet[:tt.want] || complete != (err == nil) || !complete && err != errBreak {
				t.Errorf("got %q, %v, want %q: %s", got, err, alphabet[:tt.want], tt.reason)
			}
			if diff := cmp.Diff(tt.urls, o.urls()); diff != "" {
				t.Errorf("URLs (-want +got): %s\n%s", tt.reason, diff)
			}
			o.wantClosed(t)
		})
	}
}

// The requests of a renewal are those that the http.Client has sent at first, but
// for the range: the same URLs, hosts and headers, without the credentials that
// it drops.
func TestDownload_RenewalFollowsRedirectsAsClientDoes(t *testing.T) {
	tests := []struct {
		name   string
		first  string
		header http.Header
		host   string
		hops   []string
	}{
		{"other host", hub, nil, "", []string{signed}},
		{"same host", hub, nil, "", []string{"/elsewhere", "three?a=b"}},
		{"subdomain", hub, nil, "", []string{"https://cdn.hub.example/model"}},
		{"similar host", hub, nil, "", []string{"https://evilhub.example/model"}},
		{"other port", hub, nil, "", []string{"https://hub.example:8443/model"}},
		{"http to https", "http://hub.example/model", nil, "", []string{hub}},
		{"there and back", hub, nil, "", []string{signed, hub, "https://cdn.hub.example/model"}},
		{"userinfo", "https://u:p@hub.example/model", http.Header{}, "", []string{"https://cdn.hub.example/model", "https://hub.example/model"}},
		{"userinfo and other credentials", "https://u:p@hub.example/model", http.Header{"Authorization": {"Basic eDp5"}}, "", []string{"https://cdn.hub.example/model"}},
		{"userinfo and header", "https://u:p@hub.example/model", nil, "", []string{"https://cdn.hub.example/model", signed}},
		{"referer", hub, http.Header{"Referer": {"https://a.example/"}}, "", []string{signed, "https://b.example/"}},
		{"own host", hub, nil, "virtual.example", []string{"/elsewhere", signed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var chain []reply
			for _, hop := range tt.hops {
				chain = append(chain, redirected(hop))
			}
			o := newOrigin(append(append(append([]reply{}, chain...), whole(10, errBreak), status(403)), append(chain, part(-1, nil))...)...)
			req := newRequest(t, "GET", tt.first, nil)
			req.Host = tt.host
			req.Header = tt.header
			if tt.header == nil {
				req.Header = http.Header{}
				for _, name := range []string{"Authorization", "Www-Authenticate", "Cookie", "Cookie2", "Proxy-Authorization", "Proxy-Authenticate", "X-Test", "Accept"} {
					req.Header.Set(name, "secret=1")
				}
			}
			if got, err := fetchThrough(t, o, httpretry.RetryTransport{}, req); got != alphabet || err != nil {
				t.Fatalf("got %q, %v, want the alphabet", got, err)
			}
			n := len(tt.hops) + 1
			if len(o.sent) != 2*n+1 {
				t.Fatalf("got %d requests, want %d", len(o.sent), 2*n+1)
			}
			for i, before := range o.sent[:n] {
				after := o.sent[n+1+i]
				header := after.Header.Clone()
				header.Del("Range")
				header.Del("If-Range")
				if diff := cmp.Diff(before.Header, header); diff != "" {
					t.Errorf("header of request %d of the chain (-first time +renewal):\n%s", i+1, diff)
				}
				if before.URL.String() != after.URL.String() || before.Host != after.Host {
					t.Errorf("request %d of the chain: got %v at host %q, want %v at %q", i+1, after.URL, after.Host, before.URL, before.Host)
				}
			}
			o.wantClosed(t)
		})
	}
}

// A redirect gets no header field that the http.Client has not sent there: its Jar
// knows the URLs of a cookie, and its CheckRedirect may remove a credential that is
// unknown to net/http.
func TestDownload_RenewalSendsNoOtherFields(t *testing.T) {
	const sub = "https://cdn.hub.example/"
	for name, last := range map[string]string{
		"same host": sub + "2", "other host": signed + "2", "other subdomain": "https://cdn2.hub.example/2", "same host at first": "https://hub.example/2",
	} {
		t.Run(name, func(t *testing.T) {
			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			root, err := url.Parse(hub)
			if err != nil {
				t.Fatal(err)
			}
			jar.SetCookies(root, []*http.Cookie{{Name: "session", Value: "secret"}, {Name: "shared", Value: "1", Domain: "hub.example"}})
			o := newOrigin(redirected(sub+"1"), whole(10, errBreak), status(403), redirected(last), part(-1, nil))
			client := &http.Client{Transport: o.downloads(httpretry.RetryTransport{}), Jar: jar, CheckRedirect: func(req *http.Request, via []*http.Request) error {
				req.Header.Del("X-Token")
				req.Header.Set("X-Cdn-Token", "other")
				return nil
			}}
			req := newRequest(t, "GET", hub, nil)
			req.Header.Set("X-Token", "secret")
			req.Header.Set("X-Cdn-Token", "secret")
			req.Header.Set("X-Test", "1")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, resp); got != alphabet {
				t.Fatalf("got %q, want the alphabet", got)
			}
			sent := o.sent[len(o.sent)-1]
			if own := sent.URL.Host == root.Host; own != strings.Contains(fmt.Sprint(sent.Header), "secret") {
				t.Errorf("%s got the header %v, want secrets only at the first host", sent.URL, sent.Header)
			}
			if sent.Header.Get("X-Test") == "" || strings.HasPrefix(last, sub) && sent.Header.Get("Cookie") != "shared=1" {
				t.Errorf("%s got the header %v, want the other fields", sent.URL, sent.Header)
			}
		})
	}
}

func TestDownload_RenewalStopsAtBadRedirect(t *testing.T) {
	endless := []reply{redirected(signed + "1"), whole(10, errBreak), status(403)}
	for range 10 {
		endless = append(endless, redirected(signed))
	}
	tests := []struct {
		name    string
		replies []reply
		reason  string
	}{
		{"ten redirects", endless, "http.Client does not follow the tenth"},
		{"https to http", []reply{redirected(signed + "1"), whole(10, errBreak), status(403), redirected("http://cdn.example/")}, "the range would not be encrypted"},
		{"no location", []reply{redirected(signed + "1"), whole(10, errBreak), status(403), status(302)}, "there is nothing to follow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(tt.replies...)
			got, err := fetchThrough(t, o, httpretry.RetryTransport{}, newRequest(t, "GET", hub, nil))
			if got != alphabet[:10] || err != errBreak || len(o.sent) != len(tt.replies) {
				t.Errorf("got %q, %v after %d requests, want the first ten letters and %v after %d: %s",
					got, err, len(o.sent), errBreak, len(tt.replies), tt.reason)
			}
			o.wantClosed(t)
		})
	}
}

// The rest at a renewed URL must match the download as any other.
func TestDownload_RenewalRejectsAnotherFile(t *testing.T) {
	replaced := part(-1, nil).with(func(r *http.Response) { r.Header.Set("ETag", `"v2"`) })
	for name, last := range map[string]reply{"other part": replaced, "other file": whole(26, nil), "longer": part(-1, nil).with(func(r *http.Response) {
		r.Header.Set("Content-Range", "bytes 10-26/27")
		r.ContentLength = 17
	})} {
		o := newOrigin(redirected(signed+"1"), whole(10, errBreak), status(403), redirected(signed+"2"), last)
		got, err := fetchThrough(t, o, httpretry.RetryTransport{}, newRequest(t, "GET", hub, nil))
		if got != alphabet[:10] || err != errBreak {
			t.Errorf("%s: got %q, %v, want the first ten letters and %v", name, got, err, errBreak)
		}
		o.wantClosed(t)
	}
}

// The requests of a renewal are part of the attempt that was rejected.
func TestDownload_RenewalIsOneAttempt(t *testing.T) {
	o := newOrigin(redirected(signed+"1"), whole(10, errBreak), status(403), redirected(signed+"2"), status(500), redirected(signed+"3"), part(-1, nil))
	var calls []string
	var last httpretry.Summary
	rt := httpretry.RetryTransport{
		Policy: now,
		OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) {
			outcome := fmt.Sprint(a.Err)
			if a.Response != nil {
				outcome = strconv.Itoa(a.Response.StatusCode)
			}
			calls = append(calls, fmt.Sprintf("%d: %s %v", a.Number, outcome, d.Retry))
		},
		OnDone: func(s httpretry.Summary) { last = s },
	}
	if got, err := fetchThrough(t, o, rt, newRequest(t, "GET", hub, nil)); got != alphabet || err != nil {
		t.Errorf("got %q, %v, want the alphabet", got, err)
	}
	want := []string{"1: 302 false", "1: 200 false", "1: the body failed true", "2: 500 true", "3: 206 false"}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("OnAttempt (-want +got):\n%s", diff)
	}
	if last.Attempts != 3 || last.Err != nil {
		t.Errorf("OnDone: got %d attempts and error %v, want 3 and none", last.Attempts, last.Err)
	}
	o.wantClosed(t)
}

// The error of a request of a renewal is that of Base, in hooks and for the
// Classifier, and not one of an http.Client.
func TestDownload_RenewalReturnsErrorOfBase(t *testing.T) {
	errGone := httpretry.Permanent(errors.New("the hub is gone"))
	o := newOrigin(redirected(signed+"1"), whole(10, errBreak), status(403), fails(errGone))
	var last error
	rt := httpretry.RetryTransport{OnAttempt: func(a httpretry.Attempt, d httpretry.Decision) { last = a.Err }}
	if _, err := fetchThrough(t, o, rt, newRequest(t, "GET", hub, nil)); err != errBreak || last != errGone {
		t.Errorf("got error %v, and %v in OnAttempt, want %v and %v", err, last, errBreak, errGone)
	}
}

// AttemptTimeout limits a renewal with all of its requests, and the rejection is
// discarded in a limited time.
func TestDownload_RenewalHasTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slowly := func(r reply) reply {
			return func(req *http.Request) (*http.Response, error) {
				select {
				case <-time.After(600 * time.Millisecond):
					return r(req)
				case <-req.Context().Done():
					return nil, req.Context().Err()
				}
			}
		}
		endless := func(r *http.Response) {
			r.ContentLength = -1
			r.Body = &contextBody{ctx: r.Request.Context(), after: time.Hour}
		}
		o := newOrigin(redirected(signed+"1"), whole(10, errBreak), status(403).with(endless),
			slowly(redirected(signed+"2")), slowly(part(-1, nil)), redirected(signed+"3"), part(-1, nil))
		rt := httpretry.RetryTransport{AttemptTimeout: time.Second}
		start := time.Now()
		got, err := fetchThrough(t, o, rt, newRequest(t, "GET", hub, nil))
		if elapsed := time.Since(start); got != alphabet || err != nil || elapsed > 2*time.Second {
			t.Errorf("got %q, %v after %v, want the alphabet after a second: the attempt times out during its second redirect", got, err, elapsed)
		}
		if len(o.sent) != 7 {
			t.Errorf("got %d requests, want 7", len(o.sent))
		}
		for i, req := range o.sent[2:] {
			if req.Context().Err() == nil {
				t.Errorf("the context of request %d outlives the download", i+3)
			}
		}
		o.wantClosed(t)
	})
}

// The rejection and the redirects of a renewal are discarded in a limited time,
// although there is no AttemptTimeout.
func TestDownload_RenewalDiscardsSilentBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := func(r *http.Response) {
			r.ContentLength = -1
			r.Body = &rhythm{quiet: true, closed: make(chan struct{})}
		}
		o := newOrigin(redirected(signed+"1"), whole(10, errBreak), status(403).with(silent),
			redirected("/elsewhere").with(silent), redirected(signed+"2").with(silent), part(-1, nil))
		start := time.Now()
		got, err := fetchThrough(t, o, httpretry.RetryTransport{IdleTimeout: idle}, newRequest(t, "GET", hub, nil))
		if elapsed := time.Since(start); got != alphabet || err != nil || elapsed > time.Second {
			t.Errorf("got %q, %v after %v, want the alphabet immediately", got, err, elapsed)
		}
		o.wantClosed(t)
	})
}

// renewalBytes is 256 MiB for the figure in docs/reliability.md.
var renewalBytes = flag.Int("renewal.bytes", 16<<20, "bytes that TestDownload_SurvivesExpiry downloads")

// A signingHub redirects to signed URLs of another host, which expire.
type signingHub struct {
	content []byte

	mu       sync.Mutex
	etag     string
	now      time.Duration // only advance changes it
	asked    int           // requests to the hub
	rejected int           // requests with a signature that has expired
	leaked   []string      // credentials that have reached the other host

	left int // bytes until the connection breaks
}

const validity = 2 * time.Second

func (h *signingHub) advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now += d
}

// replace replaces the file.
func (h *signingHub) replace() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.etag, h.content = `"v2"`, make([]byte, len(h.content))
}

func (h *signingHub) serveHub(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer secret" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	h.asked++
	http.Redirect(w, r, fmt.Sprintf("http://cdn.example/model?expires=%d", h.now+validity), http.StatusFound)
}

func (h *signingHub) serveFile(w http.ResponseWriter, r *http.Request) {
	content, ok := h.open(w.Header(), r)
	if !ok {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	http.ServeContent(&cutWriter{ResponseWriter: w, left: h.left}, r, "model.bin", time.Time{}, content)
}

// open returns the file if the signature of r is valid.
func (h *signingHub) open(header http.Header, r *http.Request) (content io.ReadSeeker, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range []string{"Authorization", "Cookie"} {
		if r.Header[name] != nil {
			h.leaked = append(h.leaked, name)
		}
	}
	expires, err := strconv.ParseInt(r.URL.Query().Get("expires"), 10, 64)
	if err != nil || h.now >= time.Duration(expires) {
		h.rejected++
		return nil, false
	}
	header.Set("ETag", h.etag)
	return bytes.NewReader(h.content), true
}

// startHub starts two servers with different hosts for a file of n bytes. Each
// connection breaks after left bytes of it. It returns a client for both, which
// uses rt.
func startHub(t *testing.T, n, left int, rt *httpretry.RetryTransport) (*signingHub, *http.Client) {
	t.Helper()
	h := &signingHub{etag: `"v1"`, content: pattern(n), left: left}
	cdn := quiet(newServer(t, h.serveFile))
	srv := newServer(t, h.serveHub)
	rt.Policy, rt.ResumeDownloads = now, true
	client := newClient(t, srv, rt)
	srv.Client().Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := srv
		if addr == "cdn.example:80" {
			to = cdn
		}
		return new(net.Dialer).DialContext(ctx, network, to.Listener.Addr().String())
	}
	return h, client
}

// getModel requests the file.
func getModel(t *testing.T, client *http.Client) *http.Response {
	t.Helper()
	req := newRequest(t, "GET", "http://hub.example/model", nil)
	req.Header.Set("Authorization", "Bearer secret")
	req.Header.Set("Cookie", "secret=1")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// A download whose connection breaks 20 times, and whose URL is valid for two
// seconds, takes one more request to the hub for each time that it expires.
func TestDownload_SurvivesExpiry(t *testing.T) {
	const breaks, between = 20, 700 * time.Millisecond
	failures := 0
	rt := new(httpretry.RetryTransport)
	h, client := startHub(t, *renewalBytes, *renewalBytes/(breaks+1)+1, rt)
	rt.OnAttempt = func(a httpretry.Attempt, d httpretry.Decision) {
		if a.Err != nil {
			failures++
			h.advance(between)
		}
	}
	resp := getModel(t, client)
	hash := sha256.New()
	if n, err := io.Copy(hash, resp.Body); n != int64(*renewalBytes) || err != nil {
		t.Fatalf("got %d bytes and error %v, want %d and none", n, err, *renewalBytes)
	}
	if [sha256.Size]byte(hash.Sum(nil)) != sha256.Sum256(h.content) {
		t.Error("the SHA-256 differs")
	}
	if failures != breaks || h.rejected < 5 || h.asked != h.rejected+1 {
		t.Errorf("%d failures, %d expiries and %d requests to the hub, want %d failures and one request more than expiries", failures, h.rejected, h.asked, breaks)
	}
	if h.leaked != nil {
		t.Errorf("the second host got %q, want no credentials", h.leaked)
	}
	t.Logf("%d bytes, %d failures, %d expiries, %d requests to the hub", *renewalBytes, failures, h.rejected, h.asked)
}

// A file that is replaced while its URL expires ends the download.
func TestDownload_ReplacedAfterExpiry(t *testing.T) {
	rt := new(httpretry.RetryTransport)
	h, client := startHub(t, 1<<20, 300_000, rt)
	before := h.content
	rt.OnAttempt = func(a httpretry.Attempt, d httpretry.Decision) {
		if a.Err != nil {
			h.advance(validity)
			h.replace()
		}
	}
	resp := getModel(t, client)
	got, err := io.ReadAll(resp.Body)
	if err == nil || len(got) == len(before) || !bytes.HasPrefix(before, got) {
		t.Errorf("got %d bytes and error %v, want less than %d, all of the first file, and an error", len(got), err, len(before))
	}
	if h.asked != 2 || h.rejected != 1 {
		t.Errorf("%d requests to the hub and %d expiries, want 2 and 1", h.asked, h.rejected)
	}
}
