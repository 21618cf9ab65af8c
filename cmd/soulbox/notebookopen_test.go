package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"github.com/soulbox/soulbox/client"
)

func TestLabURL(t *testing.T) {
	lab := &client.JupyterLab{Port: 8888, Token: "a&b", Path: "/lab"}
	for notebook, want := range map[string]string{
		"":               "https://h/lab?token=a%26b",
		"weather":        "https://h/lab/tree/weather.ipynb?token=a%26b",
		"/a b/c#1.ipynb": "https://h/lab/tree/a%20b/c%231.ipynb?token=a%26b",
	} {
		if got := labURL("https", "h", lab, notebook); got != want {
			t.Errorf("URL of %q is %s, want %s", notebook, got, want)
		}
	}
}

// What a browser sends to this machine arrives in the sandbox, WebSockets too, and
// pages of others reach nothing.
func TestLabProxy(t *testing.T) {
	jupyter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" || r.Header.Get("Referer") != "" {
			t.Errorf("%s came with %v", r.URL, r.Header)
		}
		if r.URL.Path != "/ws" {
			_, _ = io.WriteString(w, r.Method+" "+r.URL.String()+" "+r.Header.Get("Cookie"))
			return
		}
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		kind, b, err := ws.Read(r.Context())
		if err != nil {
			t.Error(err)
			return
		}
		_ = ws.Write(r.Context(), kind, append([]byte("echo "), b...))
	}))
	t.Cleanup(jupyter.Close)
	inside, err := url.Parse(jupyter.URL)
	if err != nil {
		t.Fatal(err)
	}
	outside := httptest.NewUnstartedServer(nil)
	address := outside.Listener.Addr().String()
	outside.Config.Handler = labProxy(address, rerouted{inside.Host})
	outside.Start()
	t.Cleanup(outside.Close)

	for _, tt := range []struct {
		host, origin string
		status       int
	}{
		{address, "", 200},
		{address, "http://" + address, 200},
		{strings.Replace(address, "127.0.0.1", "localhost", 1), "", 200},
		{address, "https://evil.example", 403},
		{address, "null", 403},
		{"evil.example", "", 403},
		{strings.Replace(address, "127.0.0.1", "evil.example", 1), "", 403},
		{"127.0.0.1:1", "", 403},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, outside.URL+"/lab?token=x", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		req.Header.Set("Cookie", "a=b")
		req.Header.Set("Referer", "http://"+address+"/lab")
		if tt.origin != "" {
			req.Header.Set("Origin", tt.origin)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || (tt.status == 200) != (string(b) == "GET /lab?token=x a=b") {
			t.Errorf("host %q, origin %q: %s %q, want %d", tt.host, tt.origin, resp.Status, b, tt.status)
		}
	}
	ws, _, err := websocket.Dial(t.Context(), "ws://"+address+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://" + address}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(t.Context(), websocket.MessageBinary, []byte{0, 255}); err != nil {
		t.Fatal(err)
	}
	if kind, b, err := ws.Read(t.Context()); err != nil || kind != websocket.MessageBinary || !bytes.Equal(b, []byte("echo \x00\xff")) {
		t.Errorf("a WebSocket says %v %q, %v", kind, b, err)
	}
}

// rerouted sends requests to a host, whatever they name.
type rerouted struct{ host string }

func (r rerouted) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Host = r.host
	return http.DefaultTransport.RoundTrip(req)
}

// The verb prints where JupyterLab is, and ends when it is told to.
func TestNotebookOpen(t *testing.T) {
	server := newServer(t)
	cmd := soulboxCommand(t, server, "notebook", "open", create(t, server), "weather")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(pipe).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(strings.TrimSpace(line))
	if err != nil || u.Scheme != "http" || u.Hostname() != "127.0.0.1" || u.Path != "/lab/tree/weather.ipynb" || u.Query().Get("token") != "lab-token" {
		t.Errorf("it printed %q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("after an interrupt it ended with %d", code)
	}
}
