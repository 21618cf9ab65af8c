package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	dialTimeout = 10 * time.Second

	// agentIdle is how long a connection to an agent is kept. Agents keep
	// theirs longer, so that none is closed under a request.
	agentIdle = 610 * time.Second
	// userIdle is shorter than what common servers allow (gunicorn 2 s, Node
	// and uvicorn 5 s): a POST sent on a connection that its server closes at
	// that moment can neither be answered nor repeated.
	userIdle = time.Second

	idlePerPort = 32
	idleAgents  = 2048
	idleUsers   = 1024

	// expectTimeout is how long a body waits for a server that does not say
	// "100 Continue".
	expectTimeout = 300 * time.Millisecond

	// maxHeader is the most that a response's headers may take.
	maxHeader = 256 << 10
)

// errGone says that the sandbox does not run any more.
var errGone = errors.New("the sandbox does not run")

// A dialError wraps what the node said when it could not connect.
type dialError struct{ err error }

func (e *dialError) Error() string { return "dial: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// pool makes and keeps the connections to sandboxes, and knows for each
// sandbox what is open to it. net/http's transport does the keeping; its key
// is <id>:<port>, which no resolver ever sees.
type pool struct {
	node    dialer
	running func(soulbox.SandboxID) bool
	buffers *buffers
	meter   *meter
	streams int

	agents, users *http.Transport

	open sync.WaitGroup // ties
	mu   sync.Mutex
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	boxes map[soulbox.SandboxID]*box // those to which something is open
	// +checklocks:mu
	asleep map[soulbox.SandboxID]*box // those for which something waits
	// +checklocks:mu
	last map[soulbox.SandboxID]time.Time // when a request began or ended; of sandboxes that were not dropped since
}

// A box is what is open to one sandbox. Its fields are guarded by pool.mu.
type box struct {
	id      soulbox.SandboxID
	home    map[soulbox.SandboxID]*box // boxes or asleep
	streams int
	ties    map[*tie]bool
	dropped bool
}

func newPool(node dialer, running func(soulbox.SandboxID) bool, b *buffers, m *meter, streams int) *pool {
	p := &pool{
		node: node, running: running, buffers: b, meter: m, streams: streams,
		boxes: make(map[soulbox.SandboxID]*box), asleep: make(map[soulbox.SandboxID]*box), last: make(map[soulbox.SandboxID]time.Time),
	}
	p.agents = p.transport(idleAgents, agentIdle)
	p.users = p.transport(idleUsers, userIdle)
	return p
}

func (p *pool) transport(idle int, timeout time.Duration) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext:            p.dial,
		DisableCompression:     true, // bodies pass as they are
		MaxIdleConns:           idle,
		MaxIdleConnsPerHost:    idlePerPort,
		IdleConnTimeout:        timeout,
		ExpectContinueTimeout:  expectTimeout,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              protocols,
	}
}

// transportFor returns the connections that serve t.
func (p *pool) transportFor(t target) *http.Transport {
	if t.port == agentPort {
		return p.agents
	}
	return p.users
}

// A tie is one thing that ends with its sandbox: a request, a connection, a
// connection being made.
type tie struct {
	pool   *pool
	box    *box
	stream bool

	mu sync.Mutex
	// +checklocks:mu
	cut func() // nil once called or released
}

// enter ties a request to sandbox id. cut is called at most once, and never
// after release has returned.
func (p *pool) enter(id soulbox.SandboxID, cut func()) (*tie, error) {
	return p.tie(p.boxes, id, true, cut)
}

// await ties a request that waits until sandbox id runs. A drop is what the
// end of a pause looks like, so that only close cuts it.
func (p *pool) await(id soulbox.SandboxID, cut func()) (*tie, error) {
	return p.tie(p.asleep, id, true, cut)
}

func errStopping() error { return soulbox.Errorf(soulbox.Unavailable, "the server is stopping") }

// tie ties something to the box of id in home.
func (p *pool) tie(home map[soulbox.SandboxID]*box, id soulbox.SandboxID, stream bool, cut func()) (*tie, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errStopping()
	}
	b := home[id]
	if b == nil {
		b = &box{id: id, home: home, ties: make(map[*tie]bool)}
		home[id] = b
	}
	t := &tie{pool: p, box: b, stream: stream, cut: cut}
	if stream {
		if b.streams >= p.streams {
			return nil, soulbox.Errorf(soulbox.Exhausted, "The sandbox has too many open requests (limit: %d)", p.streams)
		}
		b.streams++
		p.meter.streams.Inc()
		p.last[id] = time.Now()
	}
	p.open.Add(1)
	b.ties[t] = true
	return t, nil
}

// release unties t. A second call does nothing.
func (t *tie) release() {
	t.mu.Lock()
	t.cut = nil
	t.mu.Unlock()

	p := t.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !t.box.ties[t] {
		return
	}
	delete(t.box.ties, t)
	p.open.Done()
	if t.stream {
		t.box.streams--
		p.meter.streams.Dec()
		if !t.box.dropped {
			p.last[t.box.id] = time.Now()
		}
	}
	if len(t.box.ties) == 0 && t.box.home[t.box.id] == t.box {
		delete(t.box.home, t.box.id)
	}
}

// replace sets another cut, or reports that t was cut already.
func (t *tie) replace(cut func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut == nil {
		return false
	}
	t.cut = cut
	return true
}

func (t *tie) sever() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut != nil {
		t.cut()
		t.cut = nil
	}
}

// dropped reports whether t's sandbox was dropped.
func (t *tie) dropped() bool {
	t.pool.mu.Lock()
	defer t.pool.mu.Unlock()
	return t.box.dropped
}

// drop cuts everything that is tied to sandbox id.
func (p *pool) drop(id soulbox.SandboxID) {
	p.mu.Lock()
	b := p.boxes[id]
	ties := p.detachLocked(b)
	delete(p.last, id)
	p.mu.Unlock()
	for _, t := range ties {
		t.sever()
	}
}

// traffic tells what passes to sandbox id: how many requests are being carried,
// and when the last one began or ended.
func (p *pool) traffic(id soulbox.SandboxID) (open int, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.boxes[id]; b != nil {
		open = b.streams
	}
	return open, p.last[id]
}

// detachLocked takes b out of the pool; what asks for its id from now on gets
// a new one. b may be nil.
//
// +checklocks:p.mu
func (p *pool) detachLocked(b *box) []*tie {
	if b == nil {
		return nil
	}
	b.dropped = true
	delete(b.home, b.id)
	ties := make([]*tie, 0, len(b.ties))
	for t := range b.ties {
		ties = append(ties, t)
	}
	return ties
}

// close cuts everything and waits until all of it has ended.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	var ties []*tie
	for _, home := range []map[soulbox.SandboxID]*box{p.boxes, p.asleep} {
		for _, b := range home {
			ties = append(ties, p.detachLocked(b)...)
		}
	}
	p.mu.Unlock()
	for _, t := range ties {
		t.sever()
	}
	p.agents.CloseIdleConnections()
	p.users.CloseIdleConnections()
	p.open.Wait()
}

// dial connects to addr, which is <id>:<port>.
func (p *pool) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	name, text, _ := strings.Cut(addr, ":")
	port, err := strconv.ParseUint(text, 10, 16)
	id := soulbox.SandboxID(name)
	if err != nil || !id.Valid() {
		return nil, fmt.Errorf("dial %q: not a sandbox's port", addr)
	}
	return p.connect(ctx, id, uint16(port), false)
}

// connect makes a connection that ends with sandbox id. With stream it counts
// as a request until it is closed.
func (p *pool) connect(ctx context.Context, id soulbox.SandboxID, port uint16, stream bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	t, err := p.tie(p.boxes, id, stream, cancel)
	if err != nil {
		return nil, err
	}
	raw, err := p.attempt(ctx, id, port)
	if err != nil {
		t.release()
		return nil, &dialError{err}
	}
	p.meter.connections.Inc()
	c := &conn{Conn: raw, tie: t, buffers: p.buffers}
	// The second question is for the sandbox that ended after this request
	// was let in: its drop either comes later and finds the connection, or
	// came before and then it does not run any more.
	if !t.replace(c.abort) || !p.running(id) {
		_ = c.Close() // nothing went over it
		return nil, errGone
	}
	return c, nil
}

// attempt dials. An agent that does not listen yet gets a little time; a
// user's port is open or it is not.
func (p *pool) attempt(ctx context.Context, id soulbox.SandboxID, port uint16) (net.Conn, error) {
	const tries, step = 5, 100 * time.Millisecond
	for i := 1; ; i++ {
		c, err := p.node.Dial(ctx, id, port)
		if err == nil || port != agentPort || i == tries || !errors.Is(err, syscall.ECONNREFUSED) {
			return c, err
		}
		wait := time.NewTimer(time.Duration(i) * step)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, err
		}
	}
}
