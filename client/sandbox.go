package client

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
)

const (
	// agentPort is where the agent inside of every sandbox listens.
	agentPort = 49983

	// keepalive is how often the agent sends a sign of life on a silent
	// stream, so that nothing on the way takes it for dead.
	keepalive = 50 * time.Second
)

// Sandbox is a handle on one running sandbox. It holds no connection, so there
// is nothing to close, and it stays good when the sandbox is paused, resumed or
// rolled back.
type Sandbox struct {
	// ID names the sandbox; it is never empty and does not change.
	ID string
	// Resumed reports that the sandbox was paused, and runs again because of
	// the call that returned this handle.
	Resumed bool

	c       *Client
	token   string // what the agent wants
	traffic string // what opens its other ports, if it is private
	domain  string
	public  bool   // the server has a wildcard domain
	user    string // empty: the template's
}

// As returns a handle on the same sandbox whose programs run, and whose files
// are reached, as another user of the sandbox.
func (s *Sandbox) As(user string) *Sandbox {
	other := *s
	other.user = user
	return &other
}

// SetTimeout makes the sandbox live for timeout from now.
func (s *Sandbox) SetTimeout(ctx context.Context, timeout time.Duration) error {
	return s.c.Sandboxes.SetTimeout(ctx, s.ID, timeout)
}

// Kill ends the sandbox. It succeeds if the sandbox has ended already, so that
// it can be deferred.
func (s *Sandbox) Kill(ctx context.Context) error {
	err := s.c.Sandboxes.Kill(ctx, s.ID)
	if soulbox.KindOf(err) == soulbox.NotFound {
		return nil
	}
	return err
}

// Host returns the host name under which others reach a port of the sandbox,
// if the server has a wildcard domain; requests for a private port need the
// traffic token. [Sandbox.Transport] needs neither.
func (s *Sandbox) Host(port int) string {
	return strconv.Itoa(port) + "-" + s.ID + "." + s.domain
}

// Public reports whether a browser reaches [Sandbox.Host], by https: the server
// has a wildcard domain, and the sandbox's ports are not private.
func (s *Sandbox) Public() bool { return s.public && s.traffic == "" }

// Transport sends requests to a program that listens on port in the sandbox,
// whatever host their URLs name:
//
//	web := http.Client{Transport: box.Transport(8000)}
//	resp, err := web.Get("http://sandbox/index.html")
//
// It is safe for concurrent use.
func (s *Sandbox) Transport(port int) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		base, err := url.Parse(s.c.data)
		if err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.Host = "" // the sandbox is named by the headers
		req.URL.Scheme, req.URL.Host = base.Scheme, base.Host
		req.URL.Path = base.Path + req.URL.Path
		s.route(req.Header, port)
		if s.traffic != "" {
			req.Header.Set("E2b-Traffic-Access-Token", s.traffic)
		}
		next := s.c.http.Transport
		if next == nil {
			next = http.DefaultTransport
		}
		return next.RoundTrip(req)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// route puts the headers on a request by which the server finds the sandbox.
func (s *Sandbox) route(h http.Header, port int) {
	h.Set("E2b-Sandbox-Id", s.ID)
	h.Set("E2b-Sandbox-Port", strconv.Itoa(port))
}

// header returns the headers of a request to the agent.
func (s *Sandbox) header() http.Header {
	h := http.Header{"User-Agent": {userAgent}}
	s.route(h, agentPort)
	if s.token != "" {
		h.Set("X-Access-Token", s.token)
	}
	return h
}

// rpc returns a client of the agent's procedures.
func (s *Sandbox) rpc() *connectjson.Client {
	h := s.header()
	h.Set("Keepalive-Ping-Interval", strconv.Itoa(int(keepalive/time.Second)))
	if s.user != "" {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(s.user+":")))
	}
	return &connectjson.Client{HTTP: s.c.http, Base: s.c.data, Header: h}
}

// rpc calls one of the agent's unary procedures.
func rpc[R, Q any](ctx context.Context, s *Sandbox, procedure string, q *Q) (*R, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := connectjson.Call[R](ctx, s.rpc(), procedure, q)
	if err != nil {
		return nil, s.explain(ctx, rpcError(ctx, s.c.data, err))
	}
	return r, nil
}

// explain asks, after the way into a sandbox broke, whether the sandbox has
// ended or is paused, and says so instead.
func (s *Sandbox) explain(ctx context.Context, err error) error {
	if soulbox.KindOf(err) != soulbox.Unavailable || ctx.Err() != nil {
		return err
	}
	info, askErr := s.c.Sandboxes.Get(ctx, s.ID)
	switch {
	case askErr != nil:
		return err // nothing better is known
	case info.End != nil:
		return EndedError(info)
	case info.State == soulbox.Paused || info.State == soulbox.Pausing:
		return soulbox.Errorf(soulbox.Conflict, "sandbox %s is %s; resume it first", s.ID, info.State)
	default:
		return err
	}
}

// EndedError says how a sandbox that has ended did; nil if it has not.
func EndedError(i *Info) error {
	if i.End == nil {
		return nil
	}
	reason := i.End.Reason
	if reason == "" {
		reason = "ended by " + string(i.End.By)
	}
	return soulbox.Errorf(soulbox.NotFound, "sandbox %s has ended: %s", i.ID, reason)
}
