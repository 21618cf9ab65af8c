package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An egress is the only way from BuildKit to the world: an HTTP proxy, and a
// plain wire to each registry on the loopback device, for which no client asks
// a proxy.
type egress struct {
	allowed map[string]bool // host:port of the operator's registries
	server  *http.Server
	work    sync.WaitGroup
	ctx     context.Context //nolint:containedctx // of its life
	end     context.CancelFunc

	mu      sync.Mutex        // nothing begins after it has closed
	closed  bool              // +checklocks:mu
	refused map[string]string // +checklocks:mu why, by the host that somebody wanted; the newest of few
}

const (
	dialTimeout = 30 * time.Second
	maxRefused  = 100
)

func newEgress(hosts []host) *egress {
	e := &egress{allowed: map[string]bool{}, refused: map[string]string{}}
	e.ctx, e.end = context.WithCancel(context.Background())
	for _, h := range hosts {
		e.allowed[h.dial()] = true
	}
	silent := slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) // clients hear of their errors
	forward := &httputil.ReverseProxy{
		Rewrite:      func(*httputil.ProxyRequest) {}, // only what hops add is taken away
		Transport:    e.transport(),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { refuse(w, err) },
		ErrorLog:     silent,
	}
	e.server = &http.Server{ReadHeaderTimeout: dialTimeout, ErrorLog: silent}
	e.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.begin() {
			return
		}
		defer e.work.Done()
		switch {
		case r.Method == http.MethodConnect:
			e.connect(w, r)
		case r.URL.Scheme == "http" && r.URL.Host != "":
			// Or net/http closes a body when its answer begins, and the transport,
			// if it has not seen the end of it yet, cuts that answer off.
			_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 always is
			forward.ServeHTTP(w, r)
		default:
			http.Error(w, "this is a proxy", http.StatusBadRequest)
		}
	})
	return e
}

// transport returns one for our own requests, which go where BuildKit's may go.
func (e *egress) transport() *http.Transport {
	return &http.Transport{DialContext: e.dial, DisableCompression: true, DisableKeepAlives: true, TLSHandshakeTimeout: dialTimeout}
}

// serve accepts connections of BuildKit until close.
func (e *egress) serve(proxy net.Listener, wires []net.Listener, addrs []string) {
	e.work.Go(func() { _ = e.server.Serve(proxy) }) // it says that it was closed
	for i, l := range wires {
		context.AfterFunc(e.ctx, func() { l.Close() })
		e.work.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if !e.begin() {
					c.Close()
					return
				}
				go func() {
					defer e.work.Done()
					e.wire(c, addrs[i])
				}()
			}
		})
	}
}

// wire connects c with an address of this machine.
func (e *egress) wire(c net.Conn, addr string) {
	defer c.Close()
	to, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(e.ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer to.Close()
	e.join(c, to)
}

// begin reports whether a connection may begin, which then ends with work.Done.
func (e *egress) begin() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.work.Add(1)
	}
	return !e.closed
}

// close cuts all connections and waits for their end.
func (e *egress) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.end()
	_ = e.server.Close() // nothing of it is used again
	e.work.Wait()
}

// connect makes a tunnel.
func (e *egress) connect(w http.ResponseWriter, r *http.Request) {
	to, err := e.dial(r.Context(), "tcp", r.Host)
	if err != nil {
		refuse(w, err)
		return
	}
	defer to.Close()
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Reader.Peek(n) // it is there
		if _, err := to.Write(early); err != nil {
			return
		}
	}
	e.join(c, to)
}

// join copies both ways until both have ended.
func (e *egress) join(a, b net.Conn) {
	stop := context.AfterFunc(e.ctx, func() { a.Close(); b.Close() })
	defer stop()
	var wg sync.WaitGroup
	half := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // an end is an end
		if t, ok := to.(interface{ CloseWrite() error }); ok {
			_ = t.CloseWrite()
		}
	}
	wg.Go(func() { half(a, b) })
	half(b, a)
	wg.Wait()
}

// refuse answers with the reason in the status line, which is all of an answer
// that clients of proxies show.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	if errors.Is(err, errNotPublic) {
		status = http.StatusForbidden
	}
	why := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, err.Error())
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, why, status)
		return
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %.300s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status, why)
}

var errNotPublic = errors.New("not a public address")

// dial connects to what a build may reach. The address is checked that is
// connected to, after its name was resolved.
func (e *egress) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	if !e.allowed[strings.ToLower(addr)] {
		d.ControlContext = func(_ context.Context, _, to string, _ syscall.RawConn) error { return checkPublic(to) }
	}
	c, err := d.DialContext(ctx, network, addr)
	if errors.Is(err, errNotPublic) {
		e.note(addr, err)
	}
	return c, err
}

// note remembers why somebody was refused: not every client says it.
func (e *egress) note(addr string, why error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.refused) >= maxRefused {
		clear(e.refused)
	}
	if op, ok := errors.AsType[*net.OpError](why); ok {
		why = op.Err
	}
	e.refused[host] = why.Error()
}

// whyRefused returns why an address was refused that text names, or nothing.
func (e *egress) whyRefused(text string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for host, why := range e.refused {
		if strings.Contains(text, host) {
			return why
		}
	}
	return ""
}

// checkPublic returns an error unless anybody on the internet could reach the
// address, and it is not one of this machine's.
func checkPublic(addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	ip := ap.Addr().Unmap().WithZone("")
	if !public(ip) {
		return fmt.Errorf("%s is %w", ip, errNotPublic)
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(own, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Unmap() == ip
	}) {
		return fmt.Errorf("%s is %w", ip, errNotPublic)
	}
	return nil
}

// reserved is what netip does not know to be out of bounds.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // shared by customers of one provider
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"),   // IPv4 behind it, also private
	netip.MustParsePrefix("64:ff9b:1::/48"), // the same
	netip.MustParsePrefix("2001::/23"),      // Teredo and others
	netip.MustParsePrefix("2002::/16"),      // IPv4 in it, also private
	netip.MustParsePrefix("fec0::/10"),      // link-local, once
}

func public(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !ip.IsPrivate() &&
		!slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(ip) })
}
