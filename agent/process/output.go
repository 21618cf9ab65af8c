package process

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/soulbox/soulbox/agent/journal"
)

const (
	stdChunk = 32 << 10 // what one event carries at most
	ptyChunk = 16 << 10
	// maxDrain bounds what is still read after a process was cut off: more than
	// a pipe can hold.
	maxDrain = 1 << 20
)

// chunk is a piece of output on its way to its listeners. The last one to
// release it returns its memory.
type chunk struct {
	pool   *sync.Pool
	stream journal.Stream
	data   []byte
	refs   atomic.Int32
	buf    [stdChunk]byte
}

// newChunk takes a chunk from a pool. Pumps do so only when there is something
// to read: an idle process holds no memory for its output.
func newChunk(pool *sync.Pool) *chunk {
	c, ok := pool.Get().(*chunk)
	if !ok {
		c = &chunk{pool: pool}
	}
	c.refs.Store(1)
	return c
}

func (c *chunk) release() {
	if c.refs.Add(-1) == 0 {
		c.data = nil
		c.pool.Put(c)
	}
}

// hub hands the output of a process to whoever listens.
type hub struct {
	over chan struct{} // closed when no output will come

	mu   sync.Mutex
	subs []*listener // +checklocks:mu — replaced, never changed
}

// listener receives the output of a process. Chunks are released by it.
type listener struct {
	chunks chan *chunk   // unbuffered: a chunk is either taken or still the pump's
	gone   chan struct{} // closed by leave
}

// join adds a listener. After the end it hears nothing but over.
func (h *hub) join() *listener {
	l := &listener{chunks: make(chan *chunk), gone: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subs = append(slices.Clip(h.subs), l)
	return l
}

// leave removes a listener, also one that a pump is waiting for.
func (h *hub) leave(l *listener) {
	close(l.gone)
	h.mu.Lock()
	defer h.mu.Unlock()
	subs := make([]*listener, 0, len(h.subs))
	for _, other := range h.subs {
		if other != l {
			subs = append(subs, other)
		}
	}
	h.subs = subs
}

// deliver gives a chunk to every listener and waits until each has taken it or
// has left.
func (h *hub) deliver(c *chunk) {
	h.mu.Lock()
	subs := h.subs
	h.mu.Unlock()
	for _, l := range subs {
		c.refs.Add(1)
		select {
		case l.chunks <- c:
		case <-l.gone:
			c.release()
		}
	}
}

// pump moves the output of one stream to the hub, the journal and the record
// until the stream ends or cut wakes it up.
func (p *process) pump(stream journal.Stream, f *os.File, size int) {
	defer p.partDone()
	conn, err := f.SyscallConn()
	if err != nil {
		return // f was closed, which only happens after the pumps
	}
	for {
		c, err := readChunk(&p.service.chunks, conn.Read, size, false)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.drain(stream, conn, size)
			return
		}
		if err != nil {
			return
		}
		p.emit(stream, c)
	}
}

// drain reads what is in the pipe at this moment and no further.
func (p *process) drain(stream journal.Stream, conn syscall.RawConn, size int) {
	control := func(f func(uintptr) bool) error {
		return conn.Control(func(fd uintptr) { f(fd) })
	}
	for left := maxDrain; left > 0; {
		c, err := readChunk(&p.service.chunks, control, size, true)
		if err != nil {
			return
		}
		left -= len(c.data)
		p.emit(stream, c)
	}
}

func (p *process) emit(stream journal.Stream, c *chunk) {
	c.stream = stream
	p.log.Output(stream, c.data)
	p.service.record.Output(int(p.pid), stream.String(), c.data)
	p.hub.deliver(c)
	c.release()
}

// readChunk reads once. With read from a RawConn it waits for data without
// holding memory for it; with once it does not wait.
func readChunk(pool *sync.Pool, read func(func(uintptr) bool) error, size int, once bool) (*chunk, error) {
	var c *chunk
	var n int
	var rerr error
	err := read(func(fd uintptr) bool {
		if c == nil {
			c = newChunk(pool)
		}
		for {
			n, rerr = syscall.Read(int(fd), c.buf[:size])
			if !errors.Is(rerr, syscall.EINTR) {
				break
			}
		}
		if errors.Is(rerr, syscall.EAGAIN) && !once {
			c.release()
			c = nil
			return false
		}
		return true
	})
	switch {
	case err != nil:
	case rerr != nil:
		err = rerr // of a terminal: EIO, which is its end of file
	case n == 0:
		err = io.EOF
	default:
		c.data = c.buf[:n]
		return c, nil
	}
	if c != nil {
		c.release()
	}
	return nil, err
}
