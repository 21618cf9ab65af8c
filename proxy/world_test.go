package proxy_test

import (
	"context"
	"encoding/json"
	"io"
	"log" //nolint:depguard // net/http takes nothing else
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/proxy"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // net/http reports there what hostile servers send
	goleak.VerifyTestMain(m)
}

const (
	agent = 49983
	boxA  = "iaaaaaaaaaaaaaaaaaaa1"
	boxB  = "ibbbbbbbbbbbbbbbbbbb2"
)

// A world is a proxy with a front server, and sandboxes that are servers on
// loopback. Its Dial is the contract of a node.
type world struct {
	t       testing.TB
	proxy   *proxy.Proxy
	url     string // of the front server
	client  *http.Client
	metrics *prometheus.Registry

	mu     sync.Mutex
	boxes  map[soulbox.SandboxID]*soulbox.Sandbox
	addrs  map[string]string // <id>:<port> → address
	dials  int
	onDial func(ctx context.Context) // called before a dial
}

func newWorld(t testing.TB, change ...func(*proxy.Options)) *world {
	t.Helper()
	w := &world{
		t: t, metrics: prometheus.NewRegistry(),
		boxes: make(map[soulbox.SandboxID]*soulbox.Sandbox), addrs: make(map[string]string),
	}
	o := proxy.Options{Metrics: w.metrics, Sandboxes: w, Node: w}
	for _, c := range change {
		c(&o)
	}
	w.proxy = proxy.New(o)
	front := httptest.NewUnstartedServer(w.proxy.Handler(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(rw, "control plane")
	})))
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.Start()
	w.url = front.URL
	tr := &http.Transport{DisableCompression: true}
	w.client = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		w.proxy.Close()
		front.CloseClientConnections()
		front.Close()
		if n := w.gauge("soulbox_proxy_connections"); n != 0 {
			t.Errorf("%v connections to sandboxes after Close, want 0", n)
		}
		if n := w.gauge("soulbox_proxy_streams"); n != 0 {
			t.Errorf("%v streams after the server has ended, want 0", n)
		}
	})
	w.add(boxA)
	return w
}

func (w *world) add(id soulbox.SandboxID) *soulbox.Sandbox {
	sb := &soulbox.Sandbox{ID: id, State: soulbox.Running, Secure: true, Token: "token-of-" + string(id)}
	w.set(sb)
	return sb
}

func (w *world) set(sb *soulbox.Sandbox) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boxes[sb.ID] = sb
}

// end does what a fleet does: first the state, then the drop.
func (w *world) end(id soulbox.SandboxID) {
	w.set(&soulbox.Sandbox{ID: id, State: soulbox.Ended, End: &soulbox.End{
		At: time.Unix(1_800_000_000, 0), By: soulbox.ByTimeout, Reason: "its time was up",
	}})
	w.proxy.Drop(id)
}

func (w *world) Find(id soulbox.SandboxID) (*soulbox.Sandbox, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sb, ok := w.boxes[id]
	return sb, ok
}

func (w *world) All(yield func(*soulbox.Sandbox) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, sb := range w.boxes {
		if sb.State.Live() && !yield(sb) {
			return
		}
	}
}

func (w *world) Dial(ctx context.Context, id soulbox.SandboxID, port uint16) (net.Conn, error) {
	w.mu.Lock()
	addr := w.addrs[string(id)+":"+strconv.Itoa(int(port))]
	w.dials++
	on := w.onDial
	w.mu.Unlock()
	if on != nil {
		on(ctx)
	}
	if addr == "" {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	return (&net.Dialer{}).DialContext(context.WithoutCancel(ctx), "tcp", addr)
}

func (w *world) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

// listen puts a program on a port of a sandbox.
func (w *world) listen(id soulbox.SandboxID, port uint16, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addrs[string(id)+":"+strconv.Itoa(int(port))] = addr
}

// serve puts an HTTP server there.
func (w *world) serve(id soulbox.SandboxID, port uint16, h http.HandlerFunc) *httptest.Server {
	w.t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	w.t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	w.listen(id, port, s.Listener.Addr().String())
	return s
}

// raw puts a TCP server there that gives each connection to f and closes it.
func (w *world) raw(id soulbox.SandboxID, port uint16, f func(net.Conn)) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	w.t.Cleanup(func() {
		l.Close()
		w.proxy.Close()
		wg.Wait()
	})
	w.listen(id, port, l.Addr().String())
}

// request makes a request for a port of a sandbox, routed by headers.
func (w *world) request(method string, id soulbox.SandboxID, port int, path string, body io.Reader) *http.Request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("E2b-Sandbox-Id", string(id))
	r.Header.Set("E2b-Sandbox-Port", strconv.Itoa(port))
	return r
}

func (w *world) do(r *http.Request) *http.Response {
	w.t.Helper()
	res, err := w.client.Do(r)
	if err != nil {
		w.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	w.t.Cleanup(func() { res.Body.Close() })
	return res
}

func (w *world) get(id soulbox.SandboxID, port int, path string) (*http.Response, string) {
	w.t.Helper()
	res := w.do(w.request("GET", id, port, path, nil))
	return res, w.read(res)
}

func (w *world) read(res *http.Response) string {
	w.t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("read body of status %d: %v", res.StatusCode, err)
	}
	return string(b)
}

func (w *world) problem(res *http.Response) map[string]any {
	w.t.Helper()
	if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
		w.t.Fatalf("Content-Type %q, want JSON", ct)
	}
	var m map[string]any
	if err := json.NewDecoder(res.Body).Decode(&m); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// gauge returns a metric by name, summed over its labels.
func (w *world) gauge(name string) (sum float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// wait fails the test when c is not closed soon.
func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("waited 10 s for: %s", what)
	}
}
