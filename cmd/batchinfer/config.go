package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/httpretry/httpretry/inference"
)

const (
	maxConfigBytes = 1 << 20
	maxInFlight    = 10_000 // requests at once: each costs a goroutine and a connection
	apiKeyVariable = "INFERENCE_API_KEY"
)

// A config is what the program can be told. Its values are valid: what is read
// from a file, the environment or a flag is checked there, where it can be
// named.
type config struct {
	gatewayURL     string
	apiKey         string // must never be printed, not even in an error about it
	requestTimeout time.Duration
	maxRetries     int
	initialBackoff time.Duration
	maxBackoff     time.Duration
	backoffFactor  float64
	jitterFraction float64
	numWorkers     int
	perWorker      int // requests in flight per worker
}

func defaultConfig() config {
	return config{
		requestTimeout: 5 * time.Minute,
		maxRetries:     5,
		initialBackoff: time.Second,
		maxBackoff:     time.Minute,
		backoffFactor:  2,
		jitterFraction: 0.1,
		numWorkers:     1,
		perWorker:      16,
	}
}

// inFlight is how many requests are under way at once, over all workers.
func (c *config) inFlight() int { return c.numWorkers * c.perWorker }

// client is the part of the config that the client takes.
func (c *config) client() inference.HTTPInferenceClientConfig {
	jitter := c.jitterFraction
	if jitter == 0 {
		jitter = math.SmallestNonzeroFloat64 // the client takes 0 for its default
	}
	return inference.HTTPInferenceClientConfig{
		BaseURL:        c.gatewayURL,
		Timeout:        c.requestTimeout,
		MaxIdleConns:   c.inFlight(), // fewer, and connections would be made anew for every request
		APIKey:         c.apiKey,
		MaxRetries:     c.maxRetries,
		InitialBackoff: c.initialBackoff,
		MaxBackoff:     c.maxBackoff,
		BackoffFactor:  c.backoffFactor,
		JitterFraction: jitter,
		OnAttempt:      countAttempt,
	}
}

// keys are the names that a config file may use.
var keys = map[string]func(c *config, value *yaml.Node) error{
	"inference_gateway_url":     func(c *config, v *yaml.Node) error { return setURL(&c.gatewayURL, v) },
	"inference_api_key":         func(c *config, v *yaml.Node) error { return setSecret(&c.apiKey, v) },
	"inference_request_timeout": func(c *config, v *yaml.Node) error { return setDuration(&c.requestTimeout, v) },
	"inference_max_retries":     func(c *config, v *yaml.Node) error { return setInt(&c.maxRetries, v, 0, 1000) },
	"inference_initial_backoff": func(c *config, v *yaml.Node) error { return setDuration(&c.initialBackoff, v) },
	"inference_max_backoff":     func(c *config, v *yaml.Node) error { return setDuration(&c.maxBackoff, v) },
	"inference_backoff_factor":  func(c *config, v *yaml.Node) error { return setNumber(&c.backoffFactor, v, 1, 1000) },
	"inference_jitter_fraction": func(c *config, v *yaml.Node) error { return setNumber(&c.jitterFraction, v, 0, 1) },
	"num_workers":               func(c *config, v *yaml.Node) error { return setInt(&c.numWorkers, v, 1, maxInFlight) },
	"max_job_concurrency":       func(c *config, v *yaml.Node) error { return setInt(&c.perWorker, v, 1, maxInFlight) },
}

// readFile sets what the YAML file of that name says. The error has a line
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

// document returns the one mapping that the file consists of, nil if there is
// nothing in it.
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

// syntaxError says where the file is not YAML. A message is cut where it begins
// to quote from the file, since what it quotes may be the key.
func syntaxError(name string, text []byte, err error) error {
	at, what := name, ""
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
		if what = strings.TrimSpace(m[2]); what != "" {
			what = ": " + what
		}
	}
	return fmt.Errorf("%s: not valid YAML%s", at, what)
}

// lineOfGarbage returns the number of the first line with what can't be in a
// text file, which the YAML library does not tell; "" if there is none.
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
	if !ok || key.Kind != yaml.ScalarNode {
		return errors.New("unknown key")
	}
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	return set(c, value)
}

func setURL(field *string, value *yaml.Node) error {
	if value.ShortTag() != "!!str" {
		return invalid(value, "the URL of a gateway")
	}
	return parseURL(field, value.Value)
}

// parseURL sets field to the text, if that is where a gateway can be. The text
// is not in the error, since it may hold a password or a key.
func parseURL(field *string, text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("must begin with http:// or https:// and a host")
	case inference.HTTPInferenceClientConfig{BaseURL: text}.Validate() != nil:
		return errors.New("must have a port from 1 to 65535, or none and no colon")
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1"):
		return errors.New("must not end in /v1: that belongs to the url of each request")
	}
	*field = text
	return nil
}

func setSecret(field *string, value *yaml.Node) error {
	if value.ShortTag() != "!!str" {
		return errors.New("not a text: put it in quotes")
	}
	return parseSecret(field, value.Value)
}

// parseSecret sets field to the text, if that can travel in a header.
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

func setDuration(field *time.Duration, value *yaml.Node) error {
	const must = "a duration above 0, such as 500ms, 30s or 1m30s"
	d, err := time.ParseDuration(value.Value)
	if value.ShortTag() != "!!str" || err != nil || d <= 0 {
		return invalid(value, must)
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
	if tag != "!!int" && tag != "!!float" || err != nil || !(x >= low && x <= high) { // true for NaN
		return invalid(value, fmt.Sprintf("a number from %v to %v", low, high))
	}
	*field = x
	return nil
}

// invalid says what a value must be, and what it is, if it is a number. Any
// other may be an API key in the wrong line.
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

// printable is a key's name as it may be shown: where its colon or its blank is
// missing, the API key is part of it.
func printable(key *yaml.Node) string {
	const secret = "inference_api_key"
	switch {
	case key.Kind != yaml.ScalarNode:
		return "a list or mapping as key"
	case len(key.Value) > len(secret) && strings.HasPrefix(strings.ToLower(key.Value), secret):
		return secret + "…"
	}
	return quoteOdd(key.Value)
}

// quoteOdd quotes what is empty, long, or holds what would not be seen.
func quoteOdd(s string) string {
	if quoted := quote(s); s == "" || quoted != `"`+s+`"` {
		return quoted
	}
	return s
}
