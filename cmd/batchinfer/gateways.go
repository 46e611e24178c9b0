package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/httpretry/httpretry/failover"
)

// setGateways sets the gateways to a URL or a list of URLs, each of which may have
// a weight.
func setGateways(c *config, value *yaml.Node) error {
	const must = "the URL of a gateway"
	nodes := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		nodes = value.Content
	}
	var texts []string
	for _, node := range nodes {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		if node.ShortTag() != "!!str" {
			return invalid(node, must)
		}
		texts = append(texts, node.Value)
	}
	if len(texts) == 0 {
		return errors.New("is an empty list")
	}
	return c.parseGateways(texts)
}

// parseGateways sets the gateways to those in texts, which have the form "URL" or
// "URL weight=N". The error does not hold a text.
func (c *config) parseGateways(texts []string) error {
	var gateways []failover.Endpoint
	for i, text := range texts {
		g, err := parseGateway(text)
		for _, other := range gateways {
			if err == nil && g.URL == other.URL {
				err = errors.New("is in the list already")
			}
		}
		if err != nil && len(texts) > 1 {
			err = fmt.Errorf("number %d: %w", i+1, err)
		}
		if err != nil {
			return err
		}
		gateways = append(gateways, g)
	}
	c.gatewayURL, c.gateways = gateways[0].URL, nil
	if len(gateways) > 1 {
		c.gateways = gateways
	}
	return nil
}

func parseGateway(text string) (g failover.Endpoint, err error) {
	address, option, found := strings.Cut(text, " ")
	if found {
		value, ok := strings.CutPrefix(strings.TrimSpace(option), "weight=")
		g.Weight, err = strconv.Atoi(value)
		if !ok || err != nil || g.Weight < 1 || g.Weight > maxWeight {
			return g, fmt.Errorf("after the URL: must be weight= and a whole number from 1 to %d", maxWeight)
		}
	}
	return g, parseURL(&g.URL, address)
}

const maxWeight = 1000

// gatewayURLs returns the URLs of all gateways.
func (c *config) gatewayURLs() []*url.URL {
	var urls []*url.URL
	for _, text := range c.gatewayTexts() {
		if u, err := url.Parse(text); err == nil {
			urls = append(urls, u)
		}
	}
	return urls
}
