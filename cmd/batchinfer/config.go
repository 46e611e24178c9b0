package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/httpretry/httpretry"
	"github.com/httpretry/httpretry/cmd/batchinfer/internal/share"
	"github.com/httpretry/httpretry/failover"
	"github.com/httpretry/httpretry/inference"
	"github.com/httpretry/httpretry/internal/redact"
	"github.com/httpretry/httpretry/internal/route"
)

const (
	maxConfigBytes = 1 << 20
	maxInFlight    = 10_000 // concurrent requests: each costs a goroutine and a connection
	apiKeyVariable = "INFERENCE_API_KEY"
)

// A config has the settings of a run. Its values are valid, because each is
// checked where it is read, so that an error can name its place.
type config struct {
	gatewayURL     string
	gateways       []failover.Endpoint // if there are several, with the first
	apiKey         string              // must not be printed, not even in an error about it
	header         http.Header         // its values are as secret as the key
	requestTimeout time.Duration
	maxRetries     int
	initialBackoff time.Duration
	maxBackoff     time.Duration
	backoffFactor  float64
	jitterFraction float64
	maxRetryAfter  time.Duration
	maxOutage      time.Duration
	numWorkers     int
	perWorker      int // requests in flight per worker

	maxPerSecond       float64 // attempts; 0: no limit
	maxTokensPerMinute int     // 0: no limit

	queueURL         string // may hold a password
	queueJob         string
	queueCredentials string        // must not be printed
	queueWindow      int           // requests that are handed out without a result, at most
	queueMaxInFlight int           // requests that all workers have taken; 0: no limit
	queueReplicas    int           // servers that hold each request; 0: 3, or 1 where the server is alone
	queueDeadAfter   time.Duration // silence after which a worker has lost its requests
	queueMaxDeaths   int           // workers that may die while they ask a suspect
	shared           share.Limits  // of each gateway, by all workers of a queue
}

func defaultConfig() config {
	return config{
		requestTimeout: 5 * time.Minute,
		maxRetries:     3,
		initialBackoff: time.Second,
		maxBackoff:     time.Minute,
		backoffFactor:  2,
		jitterFraction: 0.1,
		maxRetryAfter:  time.Hour,
		maxOutage:      time.Hour,
		numWorkers:     1,
		perWorker:      256,
		queueWindow:    20_000,
		queueDeadAfter: 30 * time.Second,
		queueMaxDeaths: 3,
	}
}

// inFlight returns the number of concurrent requests of all workers.
func (c *config) inFlight() int { return c.numWorkers * c.perWorker }

// secrets redacts the strings that must not be written to the output, other than
// in the answers. A key of less than 4 bytes would occur in ordinary text.
func (c *config) secrets() *redact.Redactor {
	s := redact.Secrets{Header: c.header}
	if len(c.apiKey) >= 4 {
		s.Keys = []string{c.apiKey}
	}
	s.URLs = c.gatewayURLs()
	return redact.New(s)
}

// client returns the configuration of the client.
func (c *config) client() inference.HTTPInferenceClientConfig {
	base := c.gatewayURL
	if len(c.gateways) > 0 {
		base = ""
	}
	return inference.HTTPInferenceClientConfig{
		BaseURL:        base,
		Endpoints:      c.gateways,
		Timeout:        c.requestTimeout,
		MaxIdleConns:   c.inFlight(), // with fewer, some requests could not reuse a connection
		APIKey:         c.apiKey,
		Header:         c.header,
		MaxRetries:     c.maxRetries,
		InitialBackoff: c.initialBackoff,
		MaxBackoff:     c.maxBackoff,
		BackoffFactor:  c.backoffFactor,
		JitterFraction: c.jitter(),
		OmitRawData:    true, // the output has the text
		OnAttempt:      countAttempt,
		Pacer:          noted(c.endpointPacer()),
	}
}

// jitter returns the JitterFraction, for which 0 would be the default.
func (c *config) jitter() float64 { return cmp.Or(c.jitterFraction, -1) }

// patience returns the Policy of the run.
func (c *config) patience() patience {
	return patience{
		retries: httpretry.RetryConfig{
			MaxRetries:     cmp.Or(c.maxRetries, -1), // 0 would be the default
			InitialBackoff: c.initialBackoff,
			MaxBackoff:     c.maxBackoff,
			BackoffFactor:  c.backoffFactor,
			JitterFraction: c.jitter(),
			MaxRetryAfter:  c.maxRetryAfter,
		},
		maxRetryAfter: c.maxRetryAfter,
	}
}

// endpointPacer returns the Pacer of several gateways, which finds the limit of each, or
// nil if there is one gateway.
func (c *config) endpointPacer() httpretry.Pacer {
	if len(c.gateways) == 0 {
		return nil // that of the run is enough
	}
	gateways := c.gatewayURLs()
	return &httpretry.AdaptivePacer{Key: func(req *http.Request) string {
		base := "" // of the gateway, since several may have the same host
		for _, u := range gateways {
			path := strings.TrimRight(u.Path, "/")
			if u.Host == req.URL.Host && len(path) > len(base) && strings.HasPrefix(req.URL.Path, path+"/") {
				base = path
			}
		}
		return req.URL.Host + base
	}}
}

// noted returns a Pacer that notes the waits in the tallies of the requests, or nil if p
// is nil.
func noted(p httpretry.Pacer) httpretry.Pacer {
	if p == nil {
		return nil
	}
	return notedPacer{p}
}

// A notedPacer notes the time of each wait in the tally of the request.
type notedPacer struct{ httpretry.Pacer }

// Wait implements [httpretry.Pacer]. A request waits at several gateways at the same time.
func (p notedPacer) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	begun := time.Now()
	done, err := p.Pacer.Wait(ctx, req, backoff)
	if err != nil {
		return nil, err
	}
	passed := time.Now()
	return func(a httpretry.Attempt) {
		if done != nil {
			done(a)
		}
		if a.Err == route.ErrNotSent {
			return // the request was sent to another gateway
		}
		t := tallyOf(ctx)
		t.sent = passed
		t.paced += passed.Sub(begun)
		t.live.wait(passed.Sub(begun))
	}, nil
}

// pacer returns the Pacer of the run. With several gateways, endpointPacer finds the
// limits, and the Pacer of the run only keeps -rps.
func (c *config) pacer() httpretry.Pacer {
	p := &httpretry.AdaptivePacer{MaxPerSecond: c.maxPerSecond}
	if len(c.gateways) > 0 {
		return ceiling{p}
	}
	return p
}

// A ceiling keeps the bounds of a Pacer, but does not let it find lower limits. A limit
// that it found while one of several gateways is down would be that of the others, and
// would remain when the gateway is back.
type ceiling struct{ httpretry.Pacer }

// Wait implements [httpretry.Pacer].
func (c ceiling) Wait(ctx context.Context, req *http.Request, backoff time.Duration) (func(httpretry.Attempt), error) {
	done, err := c.Pacer.Wait(ctx, req, backoff)
	if done == nil {
		return nil, err
	}
	return func(a httpretry.Attempt) {
		if a.Err != route.ErrNotSent {
			a = httpretry.Attempt{Request: a.Request, Number: a.Number} // accepted
		}
		done(a)
	}, nil
}

// keys has a function for each key of a config file. It sets the key's value.
var keys = map[string]func(c *config, value *yaml.Node) error{
	"inference_gateway_url":     func(c *config, v *yaml.Node) error { return setGateways(c, v) },
	"inference_api_key":         func(c *config, v *yaml.Node) error { return setSecret(&c.apiKey, v) },
	"inference_headers":         func(c *config, v *yaml.Node) error { return setHeader(&c.header, v) },
	"inference_request_timeout": func(c *config, v *yaml.Node) error { return setDuration(&c.requestTimeout, v) },
	"inference_max_retries":     func(c *config, v *yaml.Node) error { return setInt(&c.maxRetries, v, 0, 1000) },
	"inference_initial_backoff": func(c *config, v *yaml.Node) error { return setDuration(&c.initialBackoff, v) },
	"inference_max_backoff":     func(c *config, v *yaml.Node) error { return setDuration(&c.maxBackoff, v) },
	"inference_backoff_factor":  func(c *config, v *yaml.Node) error { return setNumber(&c.backoffFactor, v, 1, 1000) },
	"inference_jitter_fraction": func(c *config, v *yaml.Node) error { return setNumber(&c.jitterFraction, v, 0, 1) },
	"inference_max_retry_after": func(c *config, v *yaml.Node) error { return setDuration(&c.maxRetryAfter, v) },
	"inference_max_outage":      func(c *config, v *yaml.Node) error { return setDuration(&c.maxOutage, v) },
	"num_workers":               func(c *config, v *yaml.Node) error { return setInt(&c.numWorkers, v, 1, maxInFlight) },
	"gateway_max_in_flight":     func(c *config, v *yaml.Node) error { return setInt(&c.shared.InFlight, v, 1, math.MaxInt32) },
	"gateway_requests_per_second": func(c *config, v *yaml.Node) error {
		return setNumber(&c.shared.PerSecond, v, 0.001, math.MaxInt32)
	},
	"queue_url": func(c *config, v *yaml.Node) error {
		return setText(v, func(text string) error { return parseQueueURL(&c.queueURL, text) })
	},
	"queue_job": func(c *config, v *yaml.Node) error {
		return setText(v, func(text string) error { return parseJob(&c.queueJob, text) })
	},
	"queue_window":        func(c *config, v *yaml.Node) error { return setInt(&c.queueWindow, v, 1, 1_000_000) },
	"queue_max_in_flight": func(c *config, v *yaml.Node) error { return setInt(&c.queueMaxInFlight, v, 1, 1_000_000) },
	"queue_replicas":      func(c *config, v *yaml.Node) error { return setInt(&c.queueReplicas, v, 1, 5) },
	"queue_dead_after":    func(c *config, v *yaml.Node) error { return setDeadAfter(&c.queueDeadAfter, v) },
	"queue_max_deaths":    func(c *config, v *yaml.Node) error { return setInt(&c.queueMaxDeaths, v, 1, 1000) },
	"queue_credentials":   func(c *config, v *yaml.Node) error { return setSecret(&c.queueCredentials, v) },
	"max_job_concurrency": func(c *config, v *yaml.Node) error { return setInt(&c.perWorker, v, 1, maxInFlight) },
}

// readFile sets the values in the YAML file of that name. The error has a line
// FILE:LINE: for each of the first mistakes.
func (c *config) readFile(ctx context.Context, name string) error {
	f, err := openFile(ctx, name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := interruptible(ctx, io.LimitReader(f, maxConfigBytes+1))
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(text) > maxConfigBytes {
		return fmt.Errorf("%s: larger than %d MiB", name, maxConfigBytes>>20)
	}
	return c.parse(name, text)
}

func (c *config) parse(name string, text []byte) error {
	root, err := document(name, text)
	if line, key := missingBlank(text); err != nil && line > 0 {
		return fmt.Errorf("%s:%d: %s: needs a blank after the colon", name, line, key)
	}
	if root == nil || err != nil {
		return err
	}
	wrong := problems{file: name}
	lineOf := make(map[string]int)
	for i := 0; i+1 < len(root.Content) && wrong.overflow() == nil; i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		first, dup := lineOf[key.Value]
		if dup {
			wrong.add(key.Line, "%s: is already set in line %d", printable(key), first)
			continue
		}
		lineOf[key.Value] = key.Line
		if err := c.set(key, value); err != nil {
			wrong.add(key.Line, "%s: %v", printable(key), err)
		}
	}
	if len(wrong.list) == 0 && c.inFlight() > maxInFlight {
		line := max(lineOf["num_workers"], lineOf["max_job_concurrency"])
		wrong.add(line, "num_workers × max_job_concurrency: is %d: it must be at most %d", c.inFlight(), maxInFlight)
	}
	return wrong.err()
}

// missingBlank returns the first line in which a key is followed by its value
// without a blank. To YAML, that is one word.
func missingBlank(text []byte) (number int, key string) {
	for line := range bytes.Lines(text) {
		number++
		name, value, found := strings.Cut(strings.TrimSpace(string(line)), ":")
		if found && keys[name] != nil && value != "" && value[0] != ' ' && value[0] != '\t' {
			return number, name
		}
	}
	return 0, ""
}

// document returns the mapping in the file, or nil if the file is empty.
func document(name string, text []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, syntaxError(name, text, err)
	}
	if err := dec.Decode(&more); err == nil {
		return nil, fmt.Errorf("%s:%d: a second document", name, more.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxError(name, text, err)
	}
	root := doc.Content[0]
	if root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: not a mapping of keys to values", name, root.Line)
	}
	return root, nil
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntaxError returns an error with the place where the file is not YAML. The
// message is cut where it begins to quote the file, because the quote may hold
// the key.
func syntaxError(name string, text []byte, err error) error {
	at, reason := name, ""
	if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
		line := m[1]
		if line == "" {
			line = lineOfGarbage(text)
		}
		if line != "" {
			at += ":" + line
		}
		if end := strings.IndexAny(m[2], "'\"`"); end >= 0 {
			m[2] = m[2][:end]
		}
		if reason = strings.TrimSpace(m[2]); reason != "" {
			reason = ": " + reason
		}
	}
	return fmt.Errorf("%s: not valid YAML%s", at, reason)
}

// lineOfGarbage returns the number of the first line with a character that a
// text file can't have, or "" if there is none. The YAML library does not name
// that line.
func lineOfGarbage(text []byte) string {
	number := 0
	for line := range bytes.Lines(text) {
		number++
		if !utf8.Valid(line) || bytes.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) }) {
			return strconv.Itoa(number)
		}
	}
	return ""
}

func (c *config) set(key, value *yaml.Node) error {
	set, ok := keys[key.Value]
	if _, name := missingBlank([]byte(key.Value)); name != "" {
		return errors.New("needs a blank after the colon")
	}
	if !ok || key.Kind != yaml.ScalarNode {
		return errors.New("unknown key")
	}
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	return set(c, value)
}

// parseURL sets field to the URL of a gateway. The error does not hold the text,
// which may have a password or a key.
func parseURL(field *string, text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("must begin with http:// or https:// and a host")
	case strings.Contains(text, "#"):
		return errors.New("must not have a fragment")
	case inference.HTTPInferenceClientConfig{BaseURL: text}.Validate() != nil:
		return errors.New("must have a port from 1 to 65535, or none and no colon")
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1"):
		return errors.New("must not end in /v1, which begins the url of each request")
	}
	*field = text
	return nil
}

func setSecret(field *string, value *yaml.Node) error {
	if value.ShortTag() != "!!str" {
		return errors.New("not a string: put it in quotes")
	}
	return parseSecret(field, value.Value)
}

// parseSecret sets field to the text if it can be sent in a header.
func parseSecret(field *string, text string) error {
	for _, r := range text {
		if r <= ' ' || r > '~' {
			return errors.New("must consist of printable ASCII characters without blanks")
		}
	}
	if text == "" {
		return errors.New("empty")
	}
	*field = text
	return nil
}

// setHeader sets field to a mapping of names to values. No error holds a value.
func setHeader(field *http.Header, value *yaml.Node) error {
	if value.Kind != yaml.MappingNode {
		return errors.New("must be a mapping of names to values")
	}
	h := make(http.Header)
	for i := 0; i+1 < len(value.Content); i += 2 {
		name, v := value.Content[i], value.Content[i+1]
		if v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		switch {
		case name.Kind != yaml.ScalarNode:
			return errors.New("a name is not a string")
		case v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str":
			return errors.New("a value is not a string: put it in quotes")
		case h.Get(name.Value) != "":
			return errors.New("a name is there more than once")
		}
		if err := addField(h, name.Value, v.Value); err != nil {
			return err
		}
	}
	*field = h
	return nil
}

// parseField adds a field in the form of a line of a header. The error does not hold
// the text.
func parseField(field *http.Header, text string) error {
	name, value, ok := strings.Cut(text, ":")
	if value = strings.TrimSpace(value); !ok || value == "" {
		return errors.New("must have the form 'Name: value', in quotes")
	}
	if *field == nil {
		*field = make(http.Header)
	}
	return addField(*field, strings.TrimSpace(name), value)
}

// addField adds a field to h if the client accepts it.
func addField(h http.Header, name, value string) error {
	c := inference.HTTPInferenceClientConfig{BaseURL: "http://localhost", Header: http.Header{name: {value}}}
	if err := c.Validate(); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "inference: invalid Header: "))
	}
	h.Add(name, value)
	return nil
}

func setDuration(field *time.Duration, value *yaml.Node) error {
	const must = "a duration above 0, such as 500ms, 30s or 1m30s"
	d, err := time.ParseDuration(value.Value)
	if value.ShortTag() != "!!str" || err != nil || d <= 0 {
		return invalid(value, must)
	}
	*field = d
	return nil
}

// setDeadAfter sets the time after which a worker or a head counts as dead. Both report
// several times within it, and messages take some of that.
func setDeadAfter(field *time.Duration, value *yaml.Node) error {
	var d time.Duration
	if setDuration(&d, value) != nil || d < time.Second {
		return invalid(value, "a duration of at least 1s, such as 30s or 1m30s")
	}
	*field = d
	return nil
}

func setInt(field *int, value *yaml.Node, low, high int) error {
	n, err := strconv.Atoi(value.Value)
	if value.ShortTag() != "!!int" || err != nil || n < low || n > high {
		return invalid(value, fmt.Sprintf("a whole number from %d to %d", low, high))
	}
	*field = n
	return nil
}

func setNumber(field *float64, value *yaml.Node, low, high float64) error {
	x, err := strconv.ParseFloat(value.Value, 64)
	tag := value.ShortTag()
	if tag != "!!int" && tag != "!!float" || err != nil || !(x >= low && x <= high) { // also NaN
		return invalid(value, fmt.Sprintf("a number from %v to %v", low, high))
	}
	*field = x
	return nil
}

// invalid returns an error about a value. The error holds the value only if it is
// a number, because another could be an API key in the wrong line.
func invalid(value *yaml.Node, must string) error {
	_, err := strconv.ParseFloat(value.Value, 64)
	switch {
	case value.Kind != yaml.ScalarNode:
		return fmt.Errorf("is not a single value: it must be %s", must)
	case value.ShortTag() == "!!null":
		return fmt.Errorf("is empty: it must be %s", must)
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("must be %s", must)
	case value.ShortTag() == "!!str":
		return fmt.Errorf("is %s: it must be %s", quote(value.Value), must)
	}
	return fmt.Errorf("is %s: it must be %s", quoteOdd(value.Value), must)
}

// printable returns the name of a key for a message. An unknown name may be the
// API key, or begin with it where a colon or a space is missing, so it is shown
// only if it is nearly that of a setting.
func printable(key *yaml.Node) string {
	const secret = "inference_api_key"
	if key.Kind != yaml.ScalarNode {
		return "a list or mapping as key"
	}
	name := strings.ToLower(key.Value)
	if len(name) > len(secret) && strings.HasPrefix(name, secret) {
		return secret + "…"
	}
	const harmless, typos = 4, 3 // a name shorter than harmless is no API key
	if len(name) < harmless {
		return quoteOdd(key.Value)
	}
	for setting := range keys {
		if distance(name, setting) <= typos {
			return quoteOdd(key.Value)
		}
	}
	return "(not shown, may be secret)"
}

// distance returns the number of bytes to insert, remove or replace that turn a
// into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // from the read part of a to each beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// quoteOdd quotes a string that is empty, long, or has characters that a
// terminal would not show.
func quoteOdd(s string) string {
	if quoted := quote(s); s == "" || quoted != `"`+s+`"` {
		return quoted
	}
	return s
}
