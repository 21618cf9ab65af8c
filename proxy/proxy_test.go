package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/proxy"
)

func TestRouting(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 3000, func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "user port") })
	w.serve(boxA, agent, func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "agent") })

	const control = http.StatusTeapot
	tests := []struct {
		name, host string
		id, port   string
		status     int
		body       string // a part of it
	}{
		{"nothing", "localhost", "", "", control, ""},
		{"headers on localhost", "localhost:7070", boxA, "3000", 200, "user port"},
		{"headers on an address", "10.1.2.3", boxA, "3000", 200, "user port"},
		{"headers on an IPv6 address", "[::1]:7070", boxA, "49983", 200, "agent"},
		{"headers on the shared host", "sandbox.example.com", boxA, "3000", 200, "user port"},
		{"headers on any host", "BOX.lan:80", boxA, "3000", 200, "user port"},
		{"id alone", "localhost", boxA, "", 400, "missing header E2b-Sandbox-Port"},
		{"port alone", "localhost", "", "3000", 400, "missing header E2b-Sandbox-Id"},
		{"port 0", "localhost", boxA, "0", 400, "invalid sandbox port"},
		{"port too large", "localhost", boxA, "65536", 400, "invalid sandbox port"},
		{"port with a sign", "localhost", boxA, "+80", 400, "invalid sandbox port"},
		{"id in upper case", "localhost", "IABC", "80", 400, "invalid sandbox id"},
		{"id with dots", "localhost", "../x", "80", 400, "invalid sandbox id"},
		{"host", "3000-" + boxA + ".example.com", "", "", 200, "user port"},
		{"host in upper case", "3000-" + strings.ToUpper(boxA) + ".example.com:8080", "", "", 200, "user port"},
		{"host with client", "3000-" + boxA + "-6532622b.example.com", "", "", 200, "user port"},
		{"host without domain", "3000-" + boxA, "", "", 200, "user port"},
		{"host before headers", "3000-" + boxA + ".localhost", boxB, "49983", 200, "user port"},
		{"host with a bad port", "99999-" + boxA + ".example.com", "", "", 400, "invalid sandbox port"},
		{"host of a nip service", "127-0-0-1.sslip.io:7070", "", "", control, ""},
		{"ordinary host", "2024-report.example.com", "", "", control, ""},
		{"label in second place", "www.3000-" + boxA + ".example.com", "", "", control, ""},
		{"unknown sandbox", "3000-" + boxB + ".example.com", "", "", 502, "The sandbox was not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = tt.host
			for k, v := range map[string]string{"E2b-Sandbox-Id": tt.id, "E2b-Sandbox-Port": tt.port} {
				if v != "" {
					r.Header.Set(k, v)
				}
			}
			res := w.do(r)
			if body := w.read(res); res.StatusCode != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("host %s, headers %q %q: %d %s, want %d %s", tt.host, tt.id, tt.port, res.StatusCode, body, tt.status, tt.body)
			}
		})
	}
}

func TestRequestArrivesAsSent(t *testing.T) {
	w := newWorld(t)
	var got *http.Request
	var body string
	h := func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		rw.Header()["Date"] = nil
		rw.Header().Set("X-Answer", "1")
		rw.Header().Set("Keep-Alive", "timeout=5")
		rw.WriteHeader(http.StatusCreated)
		rw.Write([]byte{0xff, 0xfe})
	}
	w.serve(boxA, 8000, h)
	w.serve(boxA, agent, h)
	send := func(port int) *http.Response {
		t.Helper()
		r := w.request("PATCH", boxA, port, "/a%2Fb/../c;d?x=1;y=%zz&", strings.NewReader("hello"))
		r.Host = "localhost:1234"
		for k, v := range map[string]string{
			"X-Api-Key": "e2b_0123456789abcdef", "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "evil",
			"Forwarded": "for=1.2.3.4", "X-Access-Token": "secret", "Authorization": "Basic dXNlcjo=",
			"Connection": "X-Hop", "X-Hop": "1", "Proxy-Authorization": "x", "Te": "trailers", "User-Agent": "",
		} {
			r.Header.Set(k, v)
		}
		return w.do(r)
	}
	res := send(8000)
	if b := w.read(res); res.StatusCode != http.StatusCreated || b != "\xff\xfe" || res.Header.Get("X-Answer") != "1" {
		t.Errorf("answer %d %q %v", res.StatusCode, b, res.Header)
	}
	if v, ok := res.Header["Keep-Alive"]; ok {
		t.Errorf("Keep-Alive %q came through", v)
	}
	want := http.Header{
		"Authorization": {"Basic dXNlcjo="}, "Content-Length": {"5"}, "E2b-Sandbox-Id": {boxA},
		"E2b-Sandbox-Port": {"8000"}, "Te": {"trailers"}, "X-Access-Token": {"secret"},
	}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Errorf("headers in the sandbox (-want +got):\n%s", diff)
	}
	if got.Method != http.MethodPatch || got.RequestURI != "/a%2Fb/../c;d?x=1;y=%zz&" || got.Host != "localhost:1234" || body != "hello" {
		t.Errorf("arrived as %s %s, host %s, body %q", got.Method, got.RequestURI, got.Host, body)
	}

	keys := []struct {
		port   int
		header string
		value  string
		want   string
	}{
		{8000, "X-Api-Key", "the program's own", "the program's own"},
		{8000, "X-Api-Key", "E2B_ABC", ""},
		{agent, "X-Api-Key", "whatever", ""},
		{8000, "Authorization", "Bearer e2b_abc", ""},
		{agent, "Authorization", "Bearer sk_e2b_abc", ""},
		{8000, "Authorization", "Bearer own", "Bearer own"},
	}
	for _, k := range keys {
		r := w.request("GET", boxA, k.port, "/", nil)
		r.Header.Set(k.header, k.value)
		w.read(w.do(r))
		if v := got.Header.Get(k.header); v != k.want {
			t.Errorf("%s: %s on port %d arrived as %q, want %q", k.header, k.value, k.port, v, k.want)
		}
	}
}

func TestContentTypeIsNotGuessed(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 80, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header()["Content-Type"] = nil
		io.WriteString(rw, "<html>")
	})
	if res, _ := w.get(boxA, 80, "/"); res.Header["Content-Type"] != nil {
		t.Errorf("Content-Type %q, want none", res.Header["Content-Type"])
	}
}

func TestTrailers(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 80, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "X-Known")
		io.Copy(io.Discard, r.Body)
		rw.Header().Set("X-Known", r.Trailer.Get("X-Up"))
		if r.URL.Path == "/late" {
			rw.Header().Set(http.TrailerPrefix+"X-Late", "late")
		}
	})
	for path, late := range map[string]string{"/": "", "/late": "late"} {
		r := w.request("POST", boxA, 80, path, io.MultiReader(strings.NewReader("x")))
		r.Trailer = http.Header{"X-Up": {"up"}}
		res := w.do(r)
		w.read(res)
		if res.Trailer.Get("X-Known") != "up" || res.Trailer.Get("X-Late") != late {
			t.Errorf("%s: trailers %v, want X-Known: up, X-Late: %q", path, res.Trailer, late)
		}
	}
}

// Every step waits for the one before to arrive at the other end, so a proxy
// that buffers anything hangs here.
func TestStreamsFlowAtOnceBothWays(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 80, func(rw http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(rw)
		rc.EnableFullDuplex()
		rw.Header().Set("Content-Type", "text/event-stream")
		rc.Flush() // headers, and no byte of the body
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			io.WriteString(rw, "echo "+line)
			rc.Flush()
		}
	})
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		res := w.do(w.request("POST", boxA, 80, "/", pr))
		out := bufio.NewReader(res.Body)
		for i := range 5 {
			want := fmt.Sprintf("line %d\n", i)
			io.WriteString(pw, want)
			if got, err := out.ReadString('\n'); got != "echo "+want || err != nil {
				t.Errorf("got %q, %v; want echo of %q", got, err, want)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(out); len(rest) > 0 || err != nil {
			t.Errorf("at the end %q, %v; want a clean end", rest, err)
		}
	}()
	wait(t, done, "five lines there and back")
}

func TestLargeBodies(t *testing.T) {
	w := newWorld(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	w.serve(boxA, agent, func(rw http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(b, data) {
			t.Errorf("upload of %d bytes arrived as %d, %v", len(data), len(b), err)
		}
		rw.Header().Set("Content-Length", fmt.Sprint(len(data)))
		rw.Write(data)
	})
	for name, body := range map[string]io.Reader{"known length": bytes.NewReader(data), "chunked": io.MultiReader(bytes.NewReader(data))} {
		res := w.do(w.request("POST", boxA, agent, "/files", body))
		if got := w.read(res); got != string(data) || res.ContentLength != int64(len(data)) {
			t.Errorf("%s: came back as %d bytes, Content-Length %d", name, len(got), res.ContentLength)
		}
	}
}

func TestExpectContinue(t *testing.T) {
	w := newWorld(t)
	asked := make(chan struct{})
	w.serve(boxA, 80, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		close(asked)
		b, _ := io.ReadAll(r.Body)
		rw.Write(b)
	})
	send := func(path string) (*bufio.Reader, net.Conn) {
		c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: 80-%s.x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", path, boxA)
		return bufio.NewReader(c), c
	}
	br, c := send("/yes")
	wait(t, asked, "the request without its body")
	line, _ := br.ReadString('\n')
	if line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("first line %q, want 100 Continue", line)
	}
	br.ReadString('\n')
	io.WriteString(c, "ok")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(res.Body); string(b) != "ok" || res.StatusCode != http.StatusOK {
		t.Errorf("answer %d %q, want 200 ok", res.StatusCode, b)
	}
	br, _ = send("/no")
	if line, _ := br.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 401") {
		t.Errorf("first line %q, want 401 without asking for the body", line)
	}
}

func TestEarlyHints(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 80, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Link", "</a.css>; rel=preload")
		rw.WriteHeader(http.StatusEarlyHints)
		rw.Header().Del("Link")
		rw.WriteHeader(http.StatusNoContent)
	})
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: 80-%s.x\r\nConnection: close\r\n\r\n", boxA)
	b, _ := io.ReadAll(c)
	hints, final, _ := strings.Cut(string(b), "\r\n\r\n")
	if !strings.HasPrefix(hints, "HTTP/1.1 103 ") || !strings.Contains(hints, "Link:") ||
		!strings.HasPrefix(final, "HTTP/1.1 204 ") || strings.Contains(final, "Link:") {
		t.Errorf("got:\n%s", b)
	}
}

func TestWebSocket(t *testing.T) {
	w := newWorld(t)
	echo := func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		for {
			typ, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), typ, b) != nil {
				return
			}
		}
	}
	w.serve(boxA, 8080, echo)
	w.serve(boxA, agent, echo)
	c := w.socket(8080)
	c.SetReadLimit(1 << 20)
	for _, n := range []int{1, 1000, 500_000} {
		msg := bytes.Repeat([]byte("x"), n)
		if err := c.Write(t.Context(), websocket.MessageBinary, msg); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(t.Context()); err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("echo of %d bytes: %d bytes, %v", n, len(got), err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("Close: %v", err)
	}

	h := http.Header{"E2b-Sandbox-Id": {boxA}, "E2b-Sandbox-Port": {"49983"}}
	_, res, err := websocket.Dial(t.Context(), w.url, &websocket.DialOptions{HTTPHeader: h, HTTPClient: w.client})
	if err == nil || res.StatusCode == http.StatusSwitchingProtocols {
		t.Error("the agent's port switched protocols")
	}
}

func (w *world) socket(port int) *websocket.Conn {
	w.t.Helper()
	h := http.Header{"E2b-Sandbox-Id": {boxA}, "E2b-Sandbox-Port": {fmt.Sprint(port)}}
	c, _, err := websocket.Dial(w.t.Context(), w.url, &websocket.DialOptions{HTTPHeader: h, HTTPClient: w.client})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.CloseNow() })
	return c
}

func TestErrorBodies(t *testing.T) {
	w := newWorld(t)
	w.set(&soulbox.Sandbox{ID: "istarting", State: soulbox.Starting})
	w.end(boxB)
	tests := []struct {
		name string
		id   soulbox.SandboxID
		port int
		path string
		want map[string]any
	}{
		{"unknown", "inobody", 80, "/", map[string]any{"sandboxId": "inobody", "message": "The sandbox was not found", "code": 502.}},
		{"ended", boxB, agent, "/health", map[string]any{
			"sandboxId": boxB, "message": "The sandbox was not found", "code": 502.,
			"reason": "ended by timeout at 2027-01-15T08:00:00Z: its time was up",
		}},
		{"starting", "istarting", agent, "/", map[string]any{
			"sandboxId": "istarting", "message": "The sandbox was not found", "code": 502., "reason": "it has not started yet",
		}},
		{"port closed", boxA, 81, "/", map[string]any{
			"sandboxId": boxA, "message": "The sandbox is running but port is not open", "port": 81., "code": 502.,
		}},
		{"control path", boxA, agent, "/x/..//%69nit/", map[string]any{
			"message": "this path is reserved for the control plane and cannot be reached from outside", "code": 404.,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := w.do(w.request("GET", tt.id, tt.port, tt.path, nil))
			if diff := cmp.Diff(tt.want, w.problem(res)); diff != "" || float64(res.StatusCode) != tt.want["code"] {
				t.Errorf("status %d, body (-want +got):\n%s", res.StatusCode, diff)
			}
			r := w.request("GET", tt.id, tt.port, tt.path, nil)
			r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
			res = w.do(r)
			page := w.read(res)
			if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/html") || !strings.Contains(page, tt.want["message"].(string)) {
				t.Errorf("to a browser: %s %s", ct, page)
			}
			if reason, ok := tt.want["reason"].(string); ok && !strings.Contains(page, reason) {
				t.Errorf("page does not give the reason %q:\n%s", reason, page)
			}
			r.Header.Set("Sec-Fetch-Mode", "cors")
			w.problem(w.do(r)) // a script wants JSON
		})
	}
}

func TestAgentMayStartLate(t *testing.T) {
	w := newWorld(t)
	w.mu.Lock()
	tries := 0
	w.onDial = func(context.Context) {
		if tries++; tries == 2 {
			w.serve(boxA, agent, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
		}
	}
	w.mu.Unlock()
	if res, body := w.get(boxA, agent, "/health"); res.StatusCode != http.StatusNoContent || tries != 3 {
		t.Errorf("status %d after %d dials (%s), want 204 after 3", res.StatusCode, tries, body)
	}
	w.get(boxA, 3000, "/")
	if tries != 4 {
		t.Errorf("a user's closed port was dialled %d times, want 1", tries-3)
	}
}

func TestSignedURLFindsItsSandbox(t *testing.T) {
	w := newWorld(t)
	w.add(boxB)
	w.set(&soulbox.Sandbox{ID: "iopen", State: soulbox.Running, Token: "open"})
	for _, id := range []string{boxA, boxB, "iopen"} {
		w.serve(soulbox.SandboxID(id), agent, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, id+" "+r.Method) })
	}
	// As E2B's clients do it.
	sign := func(path, op, user, token, expiry string) string {
		sum := sha256.Sum256([]byte(path + ":" + op + ":" + user + ":" + token + expiry))
		return "v1_" + strings.TrimRight(base64.StdEncoding.EncodeToString(sum[:]), "=")
	}
	type query = map[string]string
	tests := []struct {
		name, method, path string
		query              query
		status             int
		body               string
	}{
		{"read", "GET", "/files", query{"path": "/a b", "signature": sign("/a b", "read", "", "token-of-"+boxB, "")}, 200, boxB + " GET"},
		{"write", "POST", "/files", query{"path": "/a", "username": "root", "signature": sign("/a", "write", "root", "token-of-"+boxA, "")}, 200, boxA + " POST"},
		{"write without path", "POST", "/files", query{"signature": sign("", "write", "", "token-of-"+boxA, "")}, 200, boxA + " POST"},
		{"expiry", "GET", "/files", query{"path": "/a", "signature": sign("/a", "read", "", "token-of-"+boxB, ":1700000000"), "signature_expiration": "1700000000"}, 200, boxB + " GET"},
		{"expiry changed", "GET", "/files", query{"path": "/a", "signature": sign("/a", "read", "", "token-of-"+boxB, ":1700000000"), "signature_expiration": "1900000000"}, 401, "invalid signature"},
		{"expiry is no number", "GET", "/files", query{"path": "/a", "signature": sign("/a", "read", "", "token-of-"+boxB, ":0"), "signature_expiration": "x"}, 401, "invalid signature"},
		{"read signature to write", "POST", "/files", query{"path": "/a", "signature": sign("/a", "read", "", "token-of-"+boxB, "")}, 401, "invalid signature"},
		{"unsecured sandbox", "GET", "/files", query{"path": "/a", "signature": sign("/a", "read", "", "open", "")}, 401, "invalid signature"},
		{"empty", "GET", "/files", query{"path": "/a", "signature": ""}, 401, "invalid signature"},
		{"giant path", "GET", "/files", query{"path": strings.Repeat("a", 5000), "signature": sign(strings.Repeat("a", 5000), "read", "", "token-of-"+boxA, "")}, 401, "invalid signature"},
		{"no signature", "GET", "/files", query{"path": "/a"}, http.StatusTeapot, ""},
		{"other path", "GET", "/file", query{"path": "/a", "signature": "v1_x"}, http.StatusTeapot, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := url.Values{}
			for k, v := range tt.query {
				q.Set(k, v)
			}
			r, err := http.NewRequestWithContext(t.Context(), tt.method, w.url+tt.path+"?"+q.Encode(), nil)
			if err != nil {
				t.Fatal(err)
			}
			res := w.do(r)
			if body := w.read(res); res.StatusCode != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("%d %s, want %d %s", res.StatusCode, body, tt.status, tt.body)
			}
		})
	}
}

func TestTooManyStreams(t *testing.T) {
	w := newWorld(t, func(o *proxy.Options) { o.Streams = 2 })
	w.add(boxB)
	hold := make(chan struct{})
	h := func(rw http.ResponseWriter, r *http.Request) {
		rw.(http.Flusher).Flush()
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}
	w.serve(boxA, 80, h)
	w.serve(boxB, 80, h)
	a, _ := w.do(w.request("GET", boxA, 80, "/", nil)), w.do(w.request("GET", boxA, 80, "/", nil))
	res := w.do(w.request("GET", boxA, 80, "/", nil))
	if p := w.problem(res); res.StatusCode != http.StatusTooManyRequests || p["code"] != 429. {
		t.Errorf("third stream: %d %v, want 429", res.StatusCode, p)
	}
	if res := w.do(w.request("GET", boxB, 80, "/", nil)); res.StatusCode != http.StatusOK {
		t.Errorf("another sandbox: %d, want 200", res.StatusCode)
	}
	close(hold)
	w.read(a)
}

// TestEarlyAnswer refuses large uploads without reading them. A client that
// writes everything before it reads must get through with that, and find the
// answer.
func TestEarlyAnswer(t *testing.T) {
	w := newWorld(t)
	w.serve(boxA, 3000, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) })
	for range 20 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		const size = 8 << 20
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: %s\r\nE2b-Sandbox-Port: 3000\r\nContent-Length: %d\r\n\r\n", boxA, size)
		for sent := 0; sent < size; sent += 64 << 10 {
			if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
				t.Fatalf("after %d bytes: %v", sent, err)
			}
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != http.StatusForbidden {
			t.Fatalf("answer %v, %v, want 403", res, err)
		}
		res.Body.Close()
		conn.Close()
	}
}
