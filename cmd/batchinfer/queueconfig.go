package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// queueCredentialsVariable is the environment variable that overrides
// queue_credentials.
const queueCredentialsVariable = "BATCHINFER_QUEUE_CREDENTIALS"

// readQueue sets the settings of the queue that the flags and the environment have.
func (c *config) readQueue(o *options, getenv func(string) string) error {
	if o.queue != "" {
		if err := parseQueueURL(&c.queueURL, o.queue); err != nil {
			return fmt.Errorf("-queue: %w", err)
		}
	}
	if o.job != "" {
		if err := parseJob(&c.queueJob, o.job); err != nil {
			return fmt.Errorf("-job: %w", err)
		}
	}
	if text := strings.TrimSpace(getenv(queueCredentialsVariable)); text != "" {
		if err := parseSecret(&c.queueCredentials, text); err != nil {
			return fmt.Errorf("%s: %w", queueCredentialsVariable, err)
		}
	}
	return nil
}

// parseQueueURL sets field to the URL of a queue's server, to several of them, separated
// by commas, or to the address for the server of a head. The error does not hold the
// text, which may have a password.
func parseQueueURL(field *string, text string) error {
	if _, port, err := net.SplitHostPort(text); err == nil && !strings.Contains(text, "://") && !strings.ContainsAny(text, "@,/") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("must have a port from 1 to 65535")
		}
		*field = text
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" {
			return errors.New("must begin with nats:// or tls:// and a host, such as nats://localhost:4222; several are separated by commas; a head may also have an address with a port, such as :4222")
		}
	}
	*field = text
	return nil
}

// embedsQueue reports whether the head has the server of the queue, because the
// settings have an address and no URL.
func (c *config) embedsQueue() bool {
	return c.queueURL != "" && !strings.Contains(c.queueURL, "://")
}

// checkRemoteQueue returns an error unless there is a queue elsewhere.
func (c *config) checkRemoteQueue() error {
	switch {
	case c.queueURL == "":
		return errors.New("no queue: give -queue, or queue_url in the file of -config")
	case c.embedsQueue():
		return fmt.Errorf("the queue is %s, which is an address for a head to listen on: give its URL, such as nats://HOST:4222", quoteOdd(c.queueURL))
	}
	return nil
}

const maxJobBytes = 128

// parseJob sets field to the name of a job.
func parseJob(field *string, text string) error {
	switch {
	case text == "":
		return errors.New("empty")
	case len(text) > maxJobBytes:
		return fmt.Errorf("longer than %d bytes", maxJobBytes)
	}
	*field = text
	return nil
}

func setText(value *yaml.Node, parse func(string) error) error {
	if value.ShortTag() != "!!str" {
		return errors.New("not a string: put it in quotes")
	}
	return parse(value.Value)
}

// gatewayTexts returns the URLs of all gateways as they were given.
func (c *config) gatewayTexts() []string {
	if len(c.gateways) == 0 {
		return []string{c.gatewayURL}
	}
	var texts []string
	for _, g := range c.gateways {
		texts = append(texts, g.URL)
	}
	return texts
}

// publicGateways returns the URLs of all gateways without their secrets.
func (c *config) publicGateways() (texts []string) {
	for _, text := range c.gatewayTexts() {
		if u, err := url.Parse(text); err == nil {
			texts = append(texts, (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String())
		}
	}
	return texts
}

// jobs describes the jobs that a worker is for.
func (c *config) jobs() string {
	if c.queueJob == "" {
		return "all jobs of the queue"
	}
	return "the job " + quoteOdd(c.queueJob)
}
