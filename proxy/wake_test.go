package proxy_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/proxy"
)

// A bed is a world whose sandbox boxA is paused, and what wakes it.
type bed struct {
	*world
	wakes atomic.Int32
	wake  func(ctx context.Context, id soulbox.SandboxID) error // nil: it runs at once
}

func (b *bed) Wake(ctx context.Context, id soulbox.SandboxID) error {
	b.wakes.Add(1)
	if b.wake != nil {
		return b.wake(ctx, id)
	}
	b.add(id)
	return nil
}

// newBed makes one; change may alter the sandbox.
func newBed(t *testing.T, change ...func(*soulbox.Sandbox)) *bed {
	t.Helper()
	b := &bed{}
	b.world = newWorld(t, func(o *proxy.Options) { o.Waker, o.Streams = b, 8 })
	b.pause(soulbox.Paused, change...)
	return b
}

func (b *bed) pause(state soulbox.State, change ...func(*soulbox.Sandbox)) {
	sb := &soulbox.Sandbox{
		ID: boxA, State: state, Secure: true, Token: "token-of-" + boxA, Lifecycle: soulbox.Lifecycle{Pause: true, Wake: true},
		Pause: &soulbox.Pause{Snapshot: soulbox.NewSnapshotID(), Memory: true},
	}
	for _, c := range change {
		c(sb)
	}
	b.set(sb)
}

func open(sb *soulbox.Sandbox) { sb.Secure = false }

// echo answers with what it got.
func echo(rw http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	fmt.Fprintf(rw, "%s %s %s", r.Method, r.URL.Path, b)
}

func signature(text string) string {
	sum := sha256.Sum256([]byte(text))
	return url.QueryEscape("v1_" + base64.RawStdEncoding.EncodeToString(sum[:]))
}

// TestTrafficWakes sends what may wake a paused sandbox, in each of the states
// that a pause goes through, and what may not.
func TestTrafficWakes(t *testing.T) {
	const token = "token-of-" + boxA
	later := fmt.Sprint(time.Now().Add(time.Hour).Unix())
	read := func(user, expiry string) string { return signature("/a:read:" + user + ":" + token + expiry) }
	for _, tt := range []struct {
		name, method, path string
		port               int // 0: the request does not say for which sandbox
		header             [2]string
		change             func(*soulbox.Sandbox)
		status             int
	}{
		{"a user's port", "POST", "/x", 3000, [2]string{}, nil, 200},
		{"a user's port with another's token", "GET", "/x", 3000, [2]string{"X-Access-Token", "theirs"}, nil, 200},
		{"agent of an open sandbox", "GET", "/health", agent, [2]string{}, open, 200},
		{"agent with the token", "POST", "/process.Process/List", agent, [2]string{"X-Access-Token", token}, nil, 200},
		{"signed file", "GET", "/files?path=/a&signature=" + read("", ""), 0, [2]string{}, nil, 200},
		{"signed file that lasts", "GET", "/files?path=/a&signature=" + read("", ":"+later) + "&signature_expiration=" + later, 0, [2]string{}, nil, 200},
		{"signed file of a named sandbox", "GET", "/files?path=/a&username=root&signature=" + read("root", ""), agent, [2]string{}, nil, 200},
		{"browser that asks first", "OPTIONS", "/files?path=/a&signature=" + read("", ""), agent, [2]string{"Access-Control-Request-Method", "GET"}, nil, 200},

		{"agent without the token", "GET", "/health", agent, [2]string{}, nil, 403},
		{"agent with an empty token", "GET", "/health", agent, [2]string{"X-Access-Token", ""}, func(sb *soulbox.Sandbox) { sb.Token = "" }, 403},
		{"agent with a wrong token", "GET", "/health", agent, [2]string{"X-Access-Token", token + "x"}, nil, 403},
		{"agent with a part of the token", "GET", "/health", agent, [2]string{"X-Access-Token", token[:5]}, nil, 403},
		{"token in the wrong header", "GET", "/health", agent, [2]string{"Authorization", "Bearer " + token}, nil, 403},
		{"signed for reading, used to write", "POST", "/files?path=/a&signature=" + read("", ""), agent, [2]string{}, nil, 403},
		{"signed for another path", "GET", "/files?path=/b&signature=" + read("", ""), agent, [2]string{}, nil, 403},
		{"signature that has expired", "GET", "/files?path=/a&signature=" + read("", ":1700000000") + "&signature_expiration=1700000000", 0, [2]string{}, nil, 403},
		{"signature that expired in 1969", "GET", "/files?path=/a&signature=" + read("", ":-1") + "&signature_expiration=-1", agent, [2]string{}, nil, 403},
		{"signature used elsewhere", "GET", "/health?path=/a&signature=" + read("", ""), agent, [2]string{}, nil, 403},
		{"control path", "POST", "/init", agent, [2]string{"X-Access-Token", token}, nil, 404},
	} {
		for _, state := range []soulbox.State{soulbox.Pausing, soulbox.Paused, soulbox.Resuming} {
			t.Run(tt.name+"/"+string(state), func(t *testing.T) {
				change := func(sb *soulbox.Sandbox) { sb.State = state }
				b := newBed(t, change)
				if tt.change != nil {
					b = newBed(t, change, tt.change)
				}
				b.serve(boxA, 3000, echo)
				b.serve(boxA, agent, echo)
				r := b.request(tt.method, boxA, tt.port, tt.path, strings.NewReader("body"))
				if tt.port == 0 {
					r.Header = http.Header{}
				}
				if tt.header[0] != "" {
					r.Header.Set(tt.header[0], tt.header[1])
				}
				res := b.do(r)
				body := b.read(res)
				wakes := int32(0)
				if tt.status == 200 {
					wakes = 1
				}
				if res.StatusCode != tt.status || b.wakes.Load() != wakes {
					t.Errorf("%d %s after %d wakes, want %d after %d", res.StatusCode, body, b.wakes.Load(), tt.status, wakes)
				}
				path, _, _ := strings.Cut(tt.path, "?")
				if want := tt.method + " " + path + " body"; wakes == 1 && body != want {
					t.Errorf("the sandbox got %q, want %q", body, want)
				}
				if tt.status == 403 && !strings.Contains(body, "this request may not resume it") {
					t.Errorf("refused with %s", body)
				}
			})
		}
	}
}

// What traffic does not wake is not there, but says how it can be woken.
func TestSoundSleepers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*soulbox.Sandbox)
		reason string
	}{
		{"its lifecycle does not say so", func(sb *soulbox.Sandbox) { sb.Lifecycle.Wake = false }, "it is paused; POST /v2/sandboxes/" + boxA + "/connect resumes it"},
		{"without its memory", func(sb *soulbox.Sandbox) { sb.Pause.Memory = false }, "it is paused; POST"},
		{"without a pause", func(sb *soulbox.Sandbox) { sb.Pause = nil }, "it is paused"},
		{"being paused, to stay so", func(sb *soulbox.Sandbox) { sb.State, sb.Lifecycle.Wake = soulbox.Pausing, false }, "it is pausing"},
		{"being resumed by somebody", func(sb *soulbox.Sandbox) { sb.State, sb.Pause.Memory = soulbox.Resuming, false }, "it is resuming"},
		{"ending", func(sb *soulbox.Sandbox) { sb.State = soulbox.Ending }, "it is ending"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, tt.change)
			r := b.request("GET", boxA, agent, "/health", nil)
			r.Header.Set("X-Access-Token", "token-of-"+boxA)
			res := b.do(r)
			p := b.problem(res)
			if res.StatusCode != http.StatusBadGateway || p["message"] != "The sandbox was not found" || !strings.HasPrefix(fmt.Sprint(p["reason"]), tt.reason) || b.wakes.Load() != 0 {
				t.Errorf("%d %v after %d wakes, want 502 not found, because %q", res.StatusCode, p, b.wakes.Load(), tt.reason)
			}
		})
	}
	t.Run("nobody wakes", func(t *testing.T) {
		w := newWorld(t)
		w.set(&soulbox.Sandbox{ID: boxA, State: soulbox.Paused, Lifecycle: soulbox.Lifecycle{Wake: true}, Pause: &soulbox.Pause{Memory: true}})
		if p := w.problem(w.do(w.request("GET", boxA, 80, "/", nil))); p["code"] != 502. || !strings.Contains(fmt.Sprint(p["reason"]), "it is paused") {
			t.Errorf("%v, want 502, because it is paused", p)
		}
	})
}

func TestWakeFails(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     error
		status  int
		message string
		reason  string // a part
	}{
		{"conflict", soulbox.Errorf(soulbox.Conflict, "sandbox x is ending"), 409, "sandbox x is ending", ""},
		{"quota", soulbox.Errorf(soulbox.Exhausted, "20 sandboxes run already"), 429, "20 sandboxes run already", ""},
		{"damaged", soulbox.Errorf(soulbox.NotFound, "the snapshot is gone"), 502, "The sandbox was not found", "could not be resumed: the snapshot is gone"},
		{"no room", soulbox.Errorf(soulbox.Unavailable, "the machine is full"), 502, "The sandbox was not found", "the machine is full"},
		{"bug", errors.New("secret detail"), 502, "The sandbox was not found", "could not be resumed: internal error"},
		{"no effect", nil, 502, "The sandbox was not found", "it is paused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t)
			b.wake = func(context.Context, soulbox.SandboxID) error { return tt.err }
			res := b.do(b.request("POST", boxA, 80, "/", strings.NewReader("body")))
			p := b.problem(res)
			if res.StatusCode != tt.status || p["code"] != float64(tt.status) || p["message"] != tt.message || p["sandboxId"] != boxA {
				t.Errorf("%d %v, want %d %s", res.StatusCode, p, tt.status, tt.message)
			}
			if reason := fmt.Sprint(p["reason"]); tt.reason != "" && !strings.Contains(reason, tt.reason) || strings.Contains(reason, "secret") {
				t.Errorf("reason %q, want one with %q", reason, tt.reason)
			}
		})
	}
	t.Run("it ends meanwhile", func(t *testing.T) {
		b := newBed(t)
		b.wake = func(context.Context, soulbox.SandboxID) error {
			b.end(boxA)
			return soulbox.Errorf(soulbox.NotFound, "it was killed")
		}
		if p := b.problem(b.do(b.request("GET", boxA, 80, "/", nil))); p["code"] != 502. || !strings.HasPrefix(fmt.Sprint(p["reason"]), "ended by timeout") {
			t.Errorf("%v, want 502 and its end", p)
		}
	})
}

// A client that waits for "100 Continue" must not get it before the sandbox
// runs: until then there is nowhere to put the body.
func TestWakeLeavesTheBody(t *testing.T) {
	b := newBed(t)
	asleep, awake := make(chan struct{}), make(chan struct{})
	b.wake = func(_ context.Context, id soulbox.SandboxID) error {
		close(asleep)
		<-awake
		b.add(id)
		return nil
	}
	b.serve(boxA, 80, echo)
	c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: 80-%s.x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", boxA)
	wait(t, asleep, "the wake")
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(fmt.Sprint(err), "timeout") {
		t.Errorf("%d bytes, %v before the sandbox runs; want none", n, err)
	}
	close(awake)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	br := bufio.NewReader(c)
	if line, _ := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("first line %q, want 100 Continue", line)
	}
	br.ReadString('\n')
	io.WriteString(c, "ok")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(res.Body); string(got) != "POST / ok" {
		t.Errorf("answer %d %q, want POST / ok", res.StatusCode, got)
	}
}

func TestWebSocketWakes(t *testing.T) {
	b := newBed(t)
	b.serve(boxA, 8080, func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.Write(r.Context(), websocket.MessageText, []byte("good morning"))
	})
	c := b.socket(8080)
	if _, got, err := c.Read(t.Context()); string(got) != "good morning" || err != nil || b.wakes.Load() != 1 {
		t.Errorf("%q, %v after %d wakes, want good morning after 1", got, err, b.wakes.Load())
	}
}

// TestHeldRequests lets a pause end, which drops, while requests wait for the
// sandbox already: they are carried when it runs.
func TestHeldRequests(t *testing.T) {
	b := newBed(t)
	b.pause(soulbox.Pausing)
	var asleep sync.WaitGroup
	awake := make(chan struct{})
	b.wake = func(ctx context.Context, id soulbox.SandboxID) error {
		asleep.Done()
		select {
		case <-awake:
			b.add(id)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.serve(boxA, 80, echo)
	const n = 8
	asleep.Add(n)
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			res, err := b.client.Do(b.request("POST", boxA, 80, fmt.Sprint("/", i), strings.NewReader("body")))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); string(got) != fmt.Sprintf("POST /%d body", i) || err != nil {
				t.Errorf("request %d got %q, %v", i, got, err)
			}
		})
	}
	asleep.Wait()
	if p := b.problem(b.do(b.request("GET", boxA, 80, "/", nil))); p["code"] != 429. {
		t.Errorf("one more than %d that wait: %v, want 429", n, p)
	}
	b.pause(soulbox.Paused)
	b.proxy.Drop(boxA)
	close(awake)
	clients.Wait()
}

// The sandbox is paused after the request was let in and before a connection
// was made: nothing has been sent, so the request wakes it.
func TestPausedUnderARequest(t *testing.T) {
	for _, how := range []string{"dropped", "not dropped yet", "refused"} {
		t.Run(how, func(t *testing.T) {
			b := newBed(t)
			b.serve(boxA, 80, echo)
			b.add(boxA)
			once := false
			b.mu.Lock()
			addr := b.addrs[boxA+":80"]
			b.onDial = func(context.Context) {
				if once {
					return
				}
				once = true
				b.pause(soulbox.Pausing)
				if how == "dropped" {
					b.proxy.Drop(boxA)
				}
			}
			if how == "refused" { // what a frozen sandbox might do
				delete(b.addrs, boxA+":80")
			}
			b.mu.Unlock()
			b.wake = func(_ context.Context, id soulbox.SandboxID) error {
				b.listen(boxA, 80, addr)
				b.add(id)
				return nil
			}
			res := b.do(b.request("POST", boxA, 80, "/", strings.NewReader("body")))
			if body := b.read(res); body != "POST / body" || b.wakes.Load() != 1 {
				t.Errorf("%d %s after %d wakes, want POST / body after 1", res.StatusCode, body, b.wakes.Load())
			}
		})
	}
	t.Run("again and again", func(t *testing.T) {
		b := newBed(t)
		b.serve(boxA, 80, echo)
		b.mu.Lock()
		b.onDial = func(context.Context) { b.pause(soulbox.Paused) }
		b.mu.Unlock()
		if p := b.problem(b.do(b.request("GET", boxA, 80, "/", nil))); p["code"] != 502. || b.wakes.Load() != 3 {
			t.Errorf("%v after %d wakes, want 502 after 3", p, b.wakes.Load())
		}
	})
}

// Whoever waits for a wake ends with the server and with its own client.
func TestHeldRequestsEnd(t *testing.T) {
	sleep := func(b *bed) (asleep chan struct{}, gone chan error) {
		asleep, gone = make(chan struct{}), make(chan error, 1)
		b.wake = func(ctx context.Context, _ soulbox.SandboxID) error {
			close(asleep)
			<-ctx.Done()
			gone <- ctx.Err()
			return ctx.Err()
		}
		return asleep, gone
	}
	t.Run("with the server", func(t *testing.T) {
		b := newBed(t)
		asleep, _ := sleep(b)
		go func() {
			<-asleep
			b.proxy.Close()
		}()
		if p := b.problem(b.do(b.request("POST", boxA, 80, "/", strings.NewReader("body")))); p["code"] != 503. {
			t.Errorf("%v, want 503", p)
		}
	})
	t.Run("with its client", func(t *testing.T) {
		b := newBed(t)
		asleep, gone := sleep(b)
		c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: 80-%s.x\r\n\r\n", boxA)
		wait(t, asleep, "the wake")
		c.Close()
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Error("the wake goes on for a client that has gone")
		}
	})
}
