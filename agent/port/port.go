// Package port leads connections from outside the sandbox to programs that
// listen on its loopback address only.
//
// The host can reach the sandbox's own address but not its 127.0.0.1, so it
// asks for an HTTP upgrade and gets the raw bytes of a connection from here.
// Each direction ends on its own, as TCP has it.
package port

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// protocol is what a tunnel's Upgrade header says.
	protocol = "soulbox-tunnel"
	// dialTimeout is generous for a loopback connection, which is either taken
	// or refused at once.
	dialTimeout = 5 * time.Second
	copySize    = 32 << 10
)

// Tunnel serves the upgrade. It is safe for concurrent use; a tunnel has two
// goroutines, its request's and one more, and Close ends both.
type Tunnel struct {
	copies sync.Pool
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool                  // +checklocks:mu
	conns  map[net.Conn]struct{} // +checklocks:mu
}

// New returns a server of tunnels.
func New() *Tunnel {
	return &Tunnel{
		copies: sync.Pool{New: func() any { return new([copySize]byte) }},
		conns:  map[net.Conn]struct{}{},
	}
}

// Close breaks all tunnels and waits until they are gone.
func (t *Tunnel) Close() {
	t.mu.Lock()
	t.closed = true
	for c := range t.conns {
		c.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

// ServeHTTP connects to the port that the query names, on 127.0.0.1 or else on
// ::1, and turns the connection into a tunnel to it. A port where nobody
// listens is 502.
func (t *Tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	switch {
	case err != nil || port == 0:
		refuse(w, http.StatusBadRequest, "port must be a number from 1 to 65535")
		return
	case !strings.EqualFold(r.Header.Get("Upgrade"), protocol):
		w.Header().Set("Upgrade", protocol)
		refuse(w, http.StatusUpgradeRequired, "this is a tunnel; ask for an upgrade to "+protocol)
		return
	}
	target, err := dial(r.Context(), port)
	if err != nil {
		refuse(w, http.StatusBadGateway, fmt.Sprintf("port %d is not open", port))
		return
	}
	t.serve(w, target)
}

// dial connects to a port of this machine.
func dial(ctx context.Context, port uint64) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return d.DialContext(ctx, "tcp6", fmt.Sprintf("[::1]:%d", port))
	}
	return conn, nil
}

func (t *Tunnel) serve(w http.ResponseWriter, target net.Conn) {
	if !t.hold(target) {
		refuse(w, http.StatusServiceUnavailable, "the agent is stopping")
		return
	}
	defer t.release(target)
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "this connection cannot be a tunnel")
		return
	}
	if !t.hold(client) {
		return
	}
	defer t.release(client)
	// What the server has read beyond the request belongs to the tunnel.
	early := make([]byte, buffered.Reader.Buffered())
	if _, err := io.ReadFull(buffered, early); err != nil {
		return
	}
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	if client.SetDeadline(time.Time{}) != nil {
		return
	}
	if _, err := io.WriteString(client, answer); err != nil {
		return
	}
	if _, err := target.Write(early); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { t.move(client, target) })
	t.move(target, client)
	back.Wait()
}

// move copies one direction and then ends it. An error ends both directions.
func (t *Tunnel) move(to, from net.Conn) {
	buf, ok := t.copies.Get().(*[copySize]byte)
	if !ok {
		buf = new([copySize]byte)
	}
	defer t.copies.Put(buf)
	// The wrappers keep io.Copy from its shortcuts: splicing costs more inside
	// a sandbox than it saves.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buf[:])
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		to.Close()
		from.Close()
	}
}

// hold takes charge of a connection, unless the tunnels are closed.
func (t *Tunnel) hold(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		c.Close()
		return false
	}
	t.conns[c] = struct{}{}
	t.wg.Add(1)
	return true
}

func (t *Tunnel) release(c net.Conn) {
	c.Close()
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
	t.wg.Done()
}

// refuse answers a request that does not become a tunnel.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // the client has gone if this fails
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message})
}
