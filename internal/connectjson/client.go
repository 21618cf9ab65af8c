package connectjson

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// maxErrorBody bounds what is read of a response that is not a message.
const maxErrorBody = 64 << 10

// Client calls the procedures of one server. It is safe for concurrent use as
// long as its fields stay as they are; copy it to change a header.
type Client struct {
	// HTTP sends the requests. It must not follow redirects to other hosts and
	// must not have a timeout of its own if streams are to outlive it.
	HTTP *http.Client
	// Base is the URL in front of every procedure, without a slash at its end.
	Base string
	// Header is sent with every call.
	Header http.Header
}

// Call calls a unary procedure, such as "/process.Process/List". The context's
// deadline is told to the server.
func Call[R, Q any](ctx context.Context, c *Client, procedure string, q *Q) (*R, error) {
	var b bytes.Buffer
	if err := encode(&b, q); err != nil {
		return nil, err
	}
	resp, err := c.post(ctx, procedure, unaryType, &b)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errorOf(resp)
	}
	data, err := readAll(resp.Body)
	if err != nil {
		return nil, wrapContext(ctx, err)
	}
	out := new(R)
	if err := unmarshal(data, out); err != nil {
		return nil, Errorf(Internal, "response of %s: %v", procedure, err)
	}
	return out, nil
}

// Open calls a procedure that streams its responses. The caller reads them and
// closes the receiver; ending ctx ends the stream as well.
func Open[R, Q any](ctx context.Context, c *Client, procedure string, q *Q) (*Receiver[R], error) {
	var b bytes.Buffer
	if err := writeEnvelope(&b, 0, q); err != nil {
		return nil, err
	}
	resp, err := c.post(ctx, procedure, streamType, &b)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, errorOf(resp)
	}
	return &Receiver[R]{body: resp.Body, client: true}, nil
}

func (c *Client) post(ctx context.Context, procedure, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Base+procedure, body)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", procedure, err)
	}
	maps.Copy(req.Header, c.Header)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set(versionHeader, "1")
	if d, ok := ctx.Deadline(); ok {
		req.Header.Set(timeoutHeader, strconv.FormatInt(max(1, time.Until(d).Milliseconds()), 10))
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", procedure, wrapContext(ctx, err))
	}
	return resp, nil
}

// wrapContext prefers the context's own reason over what it did to the
// connection, and calls everything else unavailable.
func wrapContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return asError(ctx.Err())
	}
	return Errorf(Unavailable, "%v", err)
}

// errorOf reads a response that is not a success.
func errorOf(resp *http.Response) error {
	var data []byte
	if resp.StatusCode != http.StatusSwitchingProtocols { // its "body" is the connection, and no context ends it
		data, _ = io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // a part is enough for a message
	}
	var e Error
	if json.Unmarshal(data, &e) == nil && e.Code != "" {
		return &e
	}
	// Not a Connect error: somebody on the way answered, with a body that may
	// still hold a message.
	var plain struct {
		Message string `json:"message"`
	}
	message := resp.Status
	if json.Unmarshal(data, &plain) == nil && plain.Message != "" {
		message = plain.Message
	}
	return &Error{Code: codeOfStatus(resp.StatusCode), Message: message}
}
