package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// maxAnswer bounds a JSON answer of the server; a page of a hundred
	// sandboxes with all their metadata is far below it.
	maxAnswer = 64 << 20
	// maxErrorAnswer bounds what is read of an answer that says no.
	maxErrorAnswer = 64 << 10

	userAgent = "soulbox-go"

	// retries and maxRetryAfter bound how long a busy server is waited for.
	retries       = 3
	maxRetryAfter = 10 * time.Second
)

// call sends one request to the control plane. A nil in sends no body, a nil
// out ignores the answer's.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := c.exchange(ctx, method, path, query, in, out)
	return err
}

// work is call with POST for what makes the server write or read a sandbox's
// memory and files. It returns the status as well.
func (c *Client) work(ctx context.Context, path string, in, out any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	return c.exchange(ctx, http.MethodPost, path, nil, in, out)
}

// exchange sends one request as often as the server asks for it, and reads the
// answer.
func (c *Client) exchange(ctx context.Context, method, path string, query url.Values, in, out any) (status int, err error) {
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return 0, soulbox.Errorf(soulbox.Invalid, "%s %s: the request is not JSON: %w", method, path, err)
		}
	}
	var resp *http.Response
	for try := 0; ; try++ {
		req, err := c.request(ctx, method, path, query, bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		if in != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		if resp, err = c.do(req); err != nil {
			return 0, err
		}
		wait, again := retryAfter(resp)
		if !again || try == retries {
			break
		}
		discard(resp)
		select {
		case <-ctx.Done():
			return 0, contextError(ctx, c.api)
		case <-time.After(wait):
		}
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return resp.StatusCode, answerError(resp)
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		discard(resp)
		return resp.StatusCode, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		if ctx.Err() != nil {
			return 0, contextError(ctx, c.api)
		}
		return resp.StatusCode, soulbox.Errorf(soulbox.Unavailable, "%s %s: the server's answer is not what a SoulBox server says: %w", method, path, err)
	}
	return resp.StatusCode, nil
}

// A pageOf is one page of a list, with the cursor of the next one; that is empty
// on the last.
type pageOf[W any] interface {
	page() (items []W, next string)
}

// pages returns what is in a list, and asks for more pages P as the loop goes
// on. The first error ends it.
func pages[W any, P pageOf[W]](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[W, error] {
	return func(yield func(W, error) bool) {
		query := maps.Clone(query) // the loop may be run again
		var none W
		for {
			var p P
			if err := c.call(ctx, http.MethodGet, path, query, nil, &p); err != nil {
				yield(none, err)
				return
			}
			items, next := p.page()
			for _, w := range items {
				if !yield(w, nil) {
					return
				}
			}
			if next == "" || next == query.Get("cursor") {
				return
			}
			query.Set("cursor", next)
		}
	}
}

// request prepares a request to the control plane.
func (c *Client) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	u := c.api + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s %s: %w", method, path, err)
	}
	req.Header.Set("User-Agent", userAgent)
	if c.key != "" {
		req.Header.Set("X-API-KEY", c.key)
	}
	return req, nil
}

// do sends a request; its errors say which server did not answer.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err == nil {
		return resp, nil
	}
	server := req.URL.Scheme + "://" + req.URL.Host
	if req.Context().Err() != nil {
		return nil, contextError(req.Context(), server)
	}
	return nil, unreachable(server, err)
}

// retryAfter reports whether the server asked for the same request later: it
// says so with 429 and a number of seconds, before it has done anything.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp.StatusCode != http.StatusTooManyRequests {
		return 0, false
	}
	s, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	d := time.Duration(s) * time.Second
	return d, err == nil && s >= 0 && d <= maxRetryAfter
}

// discard reads what is left of an answer, so that its connection is used
// again.
func discard(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorAnswer)) // only a connection is at stake
	_ = resp.Body.Close()                                                 // as above
}
