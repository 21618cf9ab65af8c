package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/soulbox/soulbox"
)

func TestDropResetsStreams(t *testing.T) {
	for _, tt := range []struct{ name, length string }{{"chunked", ""}, {"known length", "1000000"}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.serve(boxA, agent, func(rw http.ResponseWriter, r *http.Request) {
				if tt.length != "" {
					rw.Header().Set("Content-Length", tt.length)
				}
				io.WriteString(rw, "first")
				rw.(http.Flusher).Flush()
				<-r.Context().Done()
			})
			res := w.do(w.request("GET", boxA, agent, "/", nil))
			if _, err := io.ReadFull(res.Body, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			w.end(boxA)
			_, err := io.ReadAll(res.Body)
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("rest of the stream: %v, want a reset", err)
			}
			res = w.do(w.request("GET", boxA, agent, "/health", nil))
			if p := w.problem(res); res.StatusCode != http.StatusBadGateway || !strings.Contains(p["reason"].(string), "its time was up") {
				t.Errorf("afterwards %d %v, want 502 and the reason", res.StatusCode, p)
			}
		})
	}
}

// An HTTP/1.0 client knows the end of a body only by the end of the
// connection, so nothing but a reset tells it the truth.
func TestDropResetsOldClients(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 80, func(rw http.ResponseWriter, r *http.Request) {
		io.WriteString(rw, "first")
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "GET / HTTP/1.0\r\nHost: 80-%s.x\r\n\r\n", boxA)
	var got []byte
	for !bytes.HasSuffix(got, []byte("first")) {
		b := make([]byte, 1)
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
		got = append(got, b[0])
	}
	w.end(boxA)
	if rest, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("then %q, %v; want a reset", rest, err)
	}
}

func TestDropResetsUploads(t *testing.T) {
	w := newWorld(t)
	begun, cut := make(chan struct{}), make(chan error, 1)
	w.serve(boxA, agent, func(_ http.ResponseWriter, r *http.Request) {
		io.ReadFull(r.Body, make([]byte, 5))
		close(begun)
		_, err := io.Copy(io.Discard, r.Body)
		cut <- err
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "POST /files HTTP/1.1\r\nHost: %d-%s.x\r\nContent-Length: 100\r\n\r\nfirst", agent, boxA)
	wait(t, begun, "the beginning of the upload")
	w.end(boxA)
	if b, err := io.ReadAll(c); len(b) > 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("upload ended with %q, %v; want a reset", b, err)
	}
	if err := <-cut; err == nil {
		t.Error("the sandbox saw a complete upload")
	}
}

func TestDropAnswersWhoWaits(t *testing.T) {
	w := newWorld(t)
	begun := make(chan struct{})
	w.serve(boxA, agent, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(begun)
		<-r.Context().Done()
	})
	go func() {
		<-begun
		w.end(boxA)
	}()
	res := w.do(w.request("POST", boxA, agent, "/process.Process/List", strings.NewReader("{}")))
	if p := w.problem(res); res.StatusCode != http.StatusBadGateway || p["message"] != "The sandbox was not found" {
		t.Errorf("%d %v, want 502 not found", res.StatusCode, p)
	}
}

func TestDropClosesUpgraded(t *testing.T) {
	w := newWorld(t)
	accepted := make(chan struct{})
	w.serve(boxA, 80, func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		close(accepted)
		c.Read(context.Background())
	})
	c := w.socket(80)
	wait(t, accepted, "the upgrade")
	w.end(boxA)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, _, err := c.Read(ctx); err == nil || ctx.Err() != nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("Read after Drop: %v, want a broken connection", err)
	}
}

// A client that does not read must not keep a dropped sandbox's stream.
func TestDropFreesStalledClients(t *testing.T) {
	w := newWorld(t)
	stalled := make(chan struct{})
	w.serve(boxA, 80, func(rw http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(rw)
		for {
			rc.SetWriteDeadline(time.Now().Add(40 * time.Millisecond))
			if _, err := rw.Write(make([]byte, 1<<20)); err != nil {
				close(stalled) // all buffers in between are full
				rc.SetWriteDeadline(time.Time{})
				<-r.Context().Done()
				return
			}
		}
	})
	res := w.do(w.request("GET", boxA, 80, "/", nil))
	wait(t, stalled, "the stream to stall")
	w.end(boxA)
	for deadline := time.Now().Add(10 * time.Second); w.gauge("soulbox_proxy_streams") != 0; {
		if time.Now().After(deadline) {
			t.Fatal("the stream lasts 10 s after Drop")
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("the client saw a clean end")
	}
}

// The sandbox ends while a connection to it is being made.
func TestDropDuringDial(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 80, func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "reached") })
	t.Run("dropped", func(t *testing.T) {
		w.mu.Lock()
		w.onDial = func(context.Context) { w.end(boxA) }
		w.mu.Unlock()
		if res, body := w.get(boxA, 80, "/"); res.StatusCode != http.StatusBadGateway || !strings.Contains(body, "not found") {
			t.Errorf("%d %s, want 502 not found", res.StatusCode, body)
		}
	})
	t.Run("ended and dropped before", func(t *testing.T) {
		w.add(boxA)
		w.mu.Lock()
		w.onDial = func(context.Context) { w.set(&soulbox.Sandbox{ID: boxA, State: soulbox.Ending}) }
		w.mu.Unlock()
		if res, body := w.get(boxA, 80, "/"); res.StatusCode != http.StatusBadGateway || !strings.Contains(body, "not found") {
			t.Errorf("%d %s, want 502 not found", res.StatusCode, body)
		}
	})
}

// Addresses are used again; connections must not be.
func TestConnectionsBelongToSandboxes(t *testing.T) {
	w := newWorld(t)
	w.add(boxB)
	conns := make(map[string]bool)
	s := w.serve(boxA, agent, func(_ http.ResponseWriter, r *http.Request) { conns[r.RemoteAddr] = true })
	for range 5 {
		w.get(boxA, agent, "/")
	}
	if len(conns) != 1 || w.dialled() != 1 {
		t.Errorf("5 requests took %d connections, want 1", len(conns))
	}
	w.end(boxA)
	w.listen(boxB, agent, s.Listener.Addr().String())
	w.listen(boxB, 80, s.Listener.Addr().String())
	w.get(boxB, agent, "/")
	w.get(boxB, 80, "/")
	if len(conns) != 3 {
		t.Errorf("%d connections after a second sandbox and port, want 3", len(conns))
	}
}

func TestManySandboxesLeaveNothing(t *testing.T) {
	w := newWorld(t)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "x") }))
	defer s.Close()
	const n = 300
	ids := make([]soulbox.SandboxID, n)
	for i := range ids {
		ids[i] = soulbox.NewSandboxID()
		w.add(ids[i])
		w.listen(ids[i], agent, s.Listener.Addr().String())
		w.listen(ids[i], 80, s.Listener.Addr().String())
	}
	var wg sync.WaitGroup
	for k := range 8 {
		wg.Go(func() {
			for i := k; i < n; i += 8 {
				w.get(ids[i], agent, "/")
				w.get(ids[i], 80, "/")
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		w.end(id)
	}
	w.proxy.Drop("inobody")
	for deadline := time.Now().Add(10 * time.Second); w.gauge("soulbox_proxy_connections") != 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%v connections after every sandbox was dropped", w.gauge("soulbox_proxy_connections"))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestCloseRefusesWhatComesLater(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 80, func(http.ResponseWriter, *http.Request) {})
	w.get(boxA, 80, "/")
	w.proxy.Close()
	w.proxy.Close()
	if res, _ := w.get(boxA, 80, "/"); res.StatusCode < 500 {
		t.Errorf("status %d after Close, want an error", res.StatusCode)
	}
}

// TestTraffic asks who calls a sandbox, while somebody does and after that.
func TestTraffic(t *testing.T) {
	w := newWorld(t)

	inside, leave := make(chan struct{}), make(chan struct{})
	w.serve(boxA, 8000, func(http.ResponseWriter, *http.Request) {
		close(inside)
		<-leave
	})
	if open, last := w.proxy.Traffic(boxA); open != 0 || !last.IsZero() {
		t.Errorf("before any request: %d open, the last one at %v", open, last)
	}
	done := make(chan struct{})
	before := time.Now()
	go func() {
		defer close(done)
		w.get(boxA, 8000, "/")
	}()
	<-inside
	if open, last := w.proxy.Traffic(boxA); open != 1 || last.Before(before) {
		t.Errorf("during a request: %d open, the last one at %v", open, last)
	}
	answered := time.Now()
	close(leave)
	<-done
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		open, last := w.proxy.Traffic(boxA)
		if open == 0 && !last.Before(answered) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a request: %d open, the last one at %v", open, last)
		}
	}
	w.end(boxA)
	w.proxy.Drop(boxA)
	if open, last := w.proxy.Traffic(boxA); open != 0 || !last.IsZero() {
		t.Errorf("after the end: %d open, the last one at %v", open, last)
	}
}
