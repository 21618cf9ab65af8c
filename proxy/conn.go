package proxy

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// A conn is a connection to a sandbox, tied to it until it is closed.
type conn struct {
	net.Conn
	tie     *tie
	buffers *buffers
	once    sync.Once

	user atomic.Pointer[exchange] // that waits for an answer; nil when idle
}

// Read also tells a waiting exchange that no answer will come.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		if x := c.user.Load(); x != nil {
			x.interrupt()
		}
	}
	return n, err
}

// ReadFrom lets uploads of known length pass with one copy and few calls:
// net/http hands the body over as soon as the headers are sent.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	n, rerr, werr := c.buffers.pump(c.Conn, r, nil)
	if werr != nil {
		return n, werr
	}
	return n, rerr
}

// CloseWrite ends our half of the connection, which upgraded ones need.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// Close closes the connection and unties it.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.tie.pool.meter.connections.Dec()
		c.tie.release()
	})
	return err
}

// abort closes the connection under whoever uses it; the user then sees an
// error and calls Close.
func (c *conn) abort() { abort(c.Conn) }

// abort closes c so that the other side sees a reset, if c can do that.
func abort(c net.Conn) {
	if inner, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS would send a farewell
		c = inner.NetConn()
	}
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // it is being closed
	}
	_ = c.Close() // what was to be sent is void
}

// reset ends the exchange so that the client cannot take what it has got for
// the whole answer. It panics where only net/http can do that, as a handler
// is meant to.
func reset(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	abort(c)
}
