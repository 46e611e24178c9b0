package http

// WrapTransport returns the RoundTripper that a Client uses in place of rt.
var WrapTransport = func(rt RoundTripper) RoundTripper { return rt }

func (c *Client) transport() RoundTripper { return WrapTransport(c.ownTransport()) }
