// Package proxy is the data plane: it carries a request to a port of a
// sandbox, and whatever comes back to the client.
//
// # Which requests
//
// Data plane and control plane share one listener. [Proxy.Handler] takes a
// request when its headers E2b-Sandbox-Id and E2b-Sandbox-Port name a sandbox,
// or the first label of its host does (3000-<id>.example.com), or when it is a
// signed file URL, which names nobody and is matched by its signature. All
// else goes to the next handler. The connection is always made to a port of a
// sandbox id; no header ever becomes an address.
//
// # Streams
//
// Headers and every piece of a body go on at once, in both directions and at
// the same time, and nothing limits how long that takes. Whoever reads a
// truncated stream must be able to tell: when a sandbox ends, [Proxy.Drop]
// cuts its connections, and the clients see a reset, never a clean end. What
// asks afterwards gets status 502 and the reason.
//
// # Private sandboxes
//
// A request for a port of a private sandbox has to show its traffic token, in
// a header that goes on with the request, as at E2B; a page in a browser that
// asks whether it may (CORS) is no exception. The agent's port is: the agent
// asks for a token of its own.
//
// # Paused sandboxes
//
// Where its lifecycle says so, traffic to any port wakes a sandbox that is
// paused with its memory: the request is held, its body unread, until the
// sandbox runs, and then carried. Requests for the agent of a secure sandbox,
// and for the ports of a private one, must first show that they know the token.
// All other paused sandboxes are treated as if they were not there, with the
// reason.
//
// # Trust
//
// Everything that comes out of a sandbox is hostile: its headers, its
// informational responses, its idle connections and the requests held by it
// are bounded, and connections are kept by sandbox id and port, never by
// address, because addresses are used again.
//
// # Locks
//
//	pool.mu
//	tie.mu   never while pool.mu is held
package proxy

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/soulbox/soulbox"
)

// finder knows the sandboxes. Both methods are safe for concurrent use, and
// what they hand out is not changed by anybody.
type finder interface {
	// Find returns a sandbox that lives, or one that ended and whose end is
	// still remembered.
	Find(id soulbox.SandboxID) (*soulbox.Sandbox, bool)
	// All calls yield for each sandbox that lives, until it returns false.
	All(yield func(*soulbox.Sandbox) bool)
}

// dialer reaches into sandboxes. Its error matches syscall.ECONNREFUSED when
// nothing listens on the port.
type dialer interface {
	Dial(ctx context.Context, id soulbox.SandboxID, port uint16) (net.Conn, error)
}

// Options say what a [Proxy] works with.
type Options struct {
	Log       *slog.Logger          // nil: silent
	Metrics   prometheus.Registerer // nil: counted, but not shown
	Sandboxes finder                // required
	Node      dialer                // required
	Waker     waker                 // nil: nobody wakes paused sandboxes

	// Streams is how many requests a sandbox may hold open at the same time;
	// more are answered with status 429. 0 is 4096.
	Streams int
}

// defaultStreams is above what one E2B client opens by itself (2000 calls).
const defaultStreams = 4096

// A Proxy is the data plane of one server. All methods are safe for
// concurrent use.
type Proxy struct {
	log       *slog.Logger
	sandboxes finder
	waker     waker
	pool      *pool
	buffers   *buffers
	meter     *meter
}

// New returns a proxy that has no connections yet. It panics when Metrics
// already holds a proxy's counters.
func New(o Options) *Proxy {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Streams <= 0 {
		o.Streams = defaultStreams
	}
	p := &Proxy{
		log:       o.Log,
		sandboxes: o.Sandboxes,
		waker:     o.Waker,
		buffers:   newBuffers(),
		meter:     newMeter(o.Metrics),
	}
	p.pool = newPool(o.Node, p.running, p.buffers, p.meter, o.Streams)
	return p
}

// Handler returns the front door: requests for sandboxes are carried there,
// all others go to next. It clears the deadlines of the connections it
// carries, so that the server may set some for the control plane.
func (p *Proxy) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, err := p.target(r)
		switch {
		case err != nil:
			p.refuse(w, r, t, err)
		case t.id == "":
			next.ServeHTTP(w, r)
		default:
			p.serve(w, r, t)
		}
	})
}

// Drop cuts everything that is open to sandbox id: streams are reset towards
// their clients, and no connection is kept. Call it after Find has stopped to
// say that the sandbox runs; a connection made in between is cut as well. An
// unknown id succeeds.
func (p *Proxy) Drop(id soulbox.SandboxID) { p.pool.drop(id) }

// Dial connects to a port of sandbox id for a room that has something to ask in
// there. Until it is closed the connection counts as a request, and a drop cuts
// it. The error matches syscall.ECONNREFUSED when nothing listens there.
func (p *Proxy) Dial(ctx context.Context, id soulbox.SandboxID, port uint16) (net.Conn, error) {
	c, err := p.pool.connect(ctx, id, port, true)
	if errors.Is(err, errGone) {
		return nil, soulbox.Errorf(soulbox.Unavailable, "sandbox %s has ended or was paused meanwhile", id)
	}
	return c, err
}

// Traffic tells how many requests for sandbox id are under way, and when the
// last one began or ended; zero is not since it was dropped last. It does no
// I/O.
func (p *Proxy) Traffic(id soulbox.SandboxID) (open int, last time.Time) { return p.pool.traffic(id) }

// Close drops every sandbox and waits until all connections and requests have
// ended, upgraded ones included, which no server waits for. What comes
// afterwards is refused. Close may be called again.
func (p *Proxy) Close() { p.pool.close() }

// running reports whether traffic may reach the sandbox.
func (p *Proxy) running(id soulbox.SandboxID) bool {
	sb, ok := p.sandboxes.Find(id)
	return ok && sb.State == soulbox.Running
}

// serve carries one request whose target is known.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, t target) {
	class := t.class()
	p.meter.requests.WithLabelValues(class).Inc()
	if r.Method == http.MethodConnect {
		p.fail(w, r, kindRefused, problem{SandboxID: t.id, Code: http.StatusMethodNotAllowed, Message: "CONNECT is not possible here"})
		return
	}
	if t.port == agentPort && controlPath(r.URL) {
		p.fail(w, r, kindBlocked, problem{Code: http.StatusNotFound, Message: "this path is reserved for the control plane and cannot be reached from outside"})
		return
	}
	for wakes := 0; ; {
		sb, ok := p.sandboxes.Find(t.id)
		switch {
		case ok && sb.State == soulbox.Running:
			if missing := untrusted(r, t, sb); missing != "" {
				p.fail(w, r, kindDenied, problem{SandboxID: t.id, Code: http.StatusForbidden, Message: missing})
				return
			}
			if p.carry(w, r, t) {
				return
			}
		case wakes == mostWakes || !p.sleeps(sb):
			p.fail(w, r, kindNotFound, gone(t.id, sb))
			return
		default:
			wakes++
			if !p.wake(w, r, t, sb) {
				return
			}
		}
	}
}

// untrusted returns what is wrong with the traffic token of r, or "" when it
// may reach its port of sb.
func untrusted(r *http.Request, t target, sb *soulbox.Sandbox) string {
	if !sb.Network.Private || t.port == agentPort {
		return ""
	}
	switch token := r.Header.Get(headerTraffic); {
	case token == "":
		return msgMissing
	case sb.Traffic == "" || subtle.ConstantTimeCompare([]byte(token), []byte(sb.Traffic)) != 1:
		return msgWrong
	default:
		return ""
	}
}

// carry takes r to a sandbox that ran a moment ago. It returns false, with
// nothing read and nothing answered, when the sandbox was paused since and the
// request can wake it.
func (p *Proxy) carry(w http.ResponseWriter, r *http.Request, t target) (done bool) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})  // a writer without deadlines has none to clear
	_ = rc.SetWriteDeadline(time.Time{}) // as above
	x := &exchange{proxy: p, w: w, r: r, rc: rc, target: t}
	hold, err := p.pool.enter(t.id, x.sever)
	if err != nil {
		p.busy(w, r, t, err)
		return true
	}
	x.hold = hold
	defer hold.release()

	start := time.Now()
	defer func() { // also when the exchange ends in an abort
		if p.log.Enabled(r.Context(), slog.LevelDebug) {
			p.log.DebugContext(r.Context(), "request carried", "sandbox", t.id, "port", t.port, "method", r.Method,
				"status", x.status, "sent", x.sent, "took", time.Since(start))
		}
	}()
	return x.run()
}
