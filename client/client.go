// Package client is the Go SDK of SoulBox: it starts sandboxes on a server,
// runs programs in them, and moves files in and out.
//
//	c, err := client.New(client.Options{APIURL: url, APIKey: key})
//	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
//	defer box.Kill(context.WithoutCancel(ctx))
//	result, err := box.Run(ctx, "python3 -c 'print(6*7)'", client.RunOptions{})
//
// A [Client] has a service for each noun of the server: [Sandboxes],
// [Templates], [Sessions], [Notebooks], [Packages], [Keys]. Create and Connect return a [Sandbox], the handle
// through which one works inside of it.
//
// # Errors
//
// What the server refuses is a *soulbox.Error whose kind says what to do about
// it ([github.com/soulbox/soulbox.KindOf]) and whose text is a sentence for
// people. A program that ends with anything but 0 is an [ExitError]. When a
// context ends, its error is in the chain.
//
// # Concurrency
//
// Everything here is safe for concurrent use, except that one goroutine at a
// time may call [Process.Wait]. Every method takes a context first. Even if it
// does not end, a call that only asks the server something ends after a minute,
// and one that makes it write down a sandbox, or read one back, after ten.
//
// This is the one import path of the house that promises to stay.
package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// requestTimeout bounds a request that has no stream in either direction.
// E2B's clients use the same.
const requestTimeout = time.Minute

// workTimeout bounds a request for which the server reads or writes a sandbox's
// memory and files: some gigabytes, on a disk that may be slow.
const workTimeout = 10 * time.Minute

// Client is a connection to one server with one key.
type Client struct {
	// Sandboxes starts, finds, pauses and ends sandboxes, and keeps snapshots
	// of them.
	Sandboxes *Sandboxes
	// Templates builds, imports, lists and shares what sandboxes are made of.
	Templates *Templates
	// Sessions keep what somebody works in who comes and goes.
	Sessions *Sessions
	// Notebooks are Jupyter's, in sandboxes with a code interpreter.
	Notebooks *Notebooks
	// Packages installs packages of Python in sandboxes with a code interpreter.
	Packages *Packages
	// Keys makes and revokes API keys.
	Keys *Keys

	api  string // base URLs, without a slash at the end
	data string
	key  string
	http *http.Client
}

// Options say which server a [Client] talks to.
type Options struct {
	// APIURL is the server's base URL, such as "http://127.0.0.1:7070".
	// Required.
	APIURL string
	// APIKey opens the door. Required by everything but [Client.Version].
	APIKey string
	// SandboxURL is the base URL of traffic to sandboxes. Empty: APIURL, where
	// a SoulBox server serves both.
	SandboxURL string
	// HTTPClient sends the requests. It must not have a timeout, because
	// streams live as long as the programs behind them. Nil: one with a
	// connection pool of its own.
	HTTPClient *http.Client
}

// New returns a client. It checks the options and sends nothing.
func New(o Options) (*Client, error) {
	api, err := baseURL("APIURL", o.APIURL)
	if err != nil {
		return nil, err
	}
	data := api
	if o.SandboxURL != "" {
		if data, err = baseURL("SandboxURL", o.SandboxURL); err != nil {
			return nil, err
		}
	}
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Transport: newTransport()}
	}
	c := &Client{api: api, data: data, key: o.APIKey, http: o.HTTPClient}
	c.Sandboxes = &Sandboxes{c}
	c.Templates = &Templates{c}
	c.Sessions = &Sessions{c}
	c.Notebooks = &Notebooks{c}
	c.Packages = &Packages{c}
	c.Keys = &Keys{c}
	return c, nil
}

// newTransport returns the default transport, made fit for many sandboxes
// behind one address and for files: decompressing what a server on the same
// machine has just compressed costs more than it saves.
func newTransport() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport // somebody replaced it, so they want it used
	}
	t = t.Clone()
	t.DisableCompression = true
	t.MaxIdleConnsPerHost = 64
	t.ReadBufferSize = 64 << 10
	t.WriteBufferSize = 64 << 10
	return t
}

func baseURL(name, s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", soulbox.Errorf(soulbox.Invalid, "%s %q is not a URL such as http://127.0.0.1:7070", name, s)
	}
	return strings.TrimRight(s, "/"), nil
}

// Version asks the server which version it runs.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		Version string `json:"version"`
	}
	if err := c.call(ctx, http.MethodGet, "/v1/version", nil, nil, &v); err != nil {
		return "", err
	}
	return v.Version, nil
}
