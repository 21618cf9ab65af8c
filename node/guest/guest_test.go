package guest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/guest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long something may take that must end by itself.
const patience = 20 * time.Second

// agentAt returns the agent that listens at addr.
func agentAt(t *testing.T, addr, token string) *guest.Agent {
	t.Helper()
	a := guest.New(func(ctx context.Context, port uint16) (net.Conn, error) {
		if port != guest.Port {
			return nil, fmt.Errorf("port %d was dialled, want %d", port, guest.Port)
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}, token)
	t.Cleanup(a.Close)
	return a
}

// standIn returns an agent that answers with h.
func standIn(t *testing.T, token string, h http.HandlerFunc) *guest.Agent {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return agentAt(t, srv.Listener.Addr().String(), token)
}

// raw returns an agent that answers each connection with the bytes that say
// writes, after it has read the head of the request.
func raw(t *testing.T, say func(conn net.Conn)) *guest.Agent {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 8<<10)); err == nil {
					say(conn)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return agentAt(t, l.Addr().String(), "")
}

// silence keeps a connection open until the other side ends it.
func silence(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// flood writes text until the other side ends the connection.
func flood(conn net.Conn, text string) {
	for err := error(nil); err == nil; {
		_, err = io.WriteString(conn, text)
	}
}

// within fails the test if do takes too long.
func within(t *testing.T, what string, most time.Duration, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(most):
		t.Fatalf("%s takes more than %v", what, most)
	}
}

func TestInit(t *testing.T) {
	var got map[string]any
	var head http.Header
	var path string
	a := standIn(t, "secret", func(w http.ResponseWriter, r *http.Request) {
		path, head = r.Method+" "+r.URL.Path, r.Header
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	before := time.Now()
	err := a.Init(t.Context(), guest.Identity{
		Sandbox: "ione", Template: "tone", Hostname: "sandbox", Token: "secret", Env: map[string]string{"A": "<b>"},
		User: "user", Workdir: "/home/user", Nameservers: []string{"10.0.0.1"}, Seed: []byte{1, 2, 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	if path != "POST /init" || head.Get("X-Access-Token") != "secret" || head.Get("Content-Type") != "application/json" {
		t.Errorf("%s %v", path, head)
	}
	stamp, _ := got["timestamp"].(string)
	if at, err := time.Parse(time.RFC3339Nano, stamp); err != nil || at.Before(before.Add(-time.Second)) || at.After(time.Now()) {
		t.Errorf("timestamp %q, %v; want now", stamp, err)
	}
	delete(got, "timestamp")
	want := map[string]any{
		"envVars": map[string]any{"A": "<b>"}, "accessToken": "secret", "defaultUser": "user", "defaultWorkdir": "/home/user",
		"hostname": "sandbox", "sandboxId": "ione", "templateId": "tone", "nameservers": []any{"10.0.0.1"}, "seed": "AQID",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("body: (-want +got)\n%s", diff)
	}
}

// Without a token nothing says that there could be one.
func TestInitWithoutToken(t *testing.T) {
	a := standIn(t, "", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if _, has := r.Header["X-Access-Token"]; has || err != nil || strings.Contains(string(body), "accessToken") {
			t.Errorf("%v %s, %v", r.Header, body, err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := a.Init(t.Context(), guest.Identity{Sandbox: "ione"}); err != nil {
		t.Fatal(err)
	}
}

// A sandbox that had a token and shall have none hears that it has none: what
// it is not told stays as it is.
func TestInitTakesTokenAway(t *testing.T) {
	a := standIn(t, "", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if r.Header.Get("X-Access-Token") != "old" || err != nil || !strings.Contains(string(body), `"accessToken":""`) {
			t.Errorf("%v %s, %v", r.Header, body, err)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := a.Init(t.Context(), guest.Identity{Sandbox: "ione", Was: "old"}); err != nil {
		t.Fatal(err)
	}
}

// Whoever answers in the agent's place can make a call fail, but not make it
// last, nor send it elsewhere.
func TestHostileAnswers(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n\r\n"
	lure := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(lure.Close)
	say := func(text string) func(net.Conn) {
		return func(conn net.Conn) { io.WriteString(conn, text); silence(conn) }
	}
	floods := func(head, text string) func(net.Conn) {
		return func(conn net.Conn) { io.WriteString(conn, head); flood(conn, text) }
	}
	tests := []struct {
		name     string
		say      func(net.Conn)
		initGood bool
	}{
		{"silence", silence, false},
		{"hangs_up", func(net.Conn) {}, false},
		{"no_http", say("220 mail\r\n"), false},
		{"half_a_head", say("HTTP/1.1 200 OK\r\nX: "), false},
		{"endless_status_line", floods("HTTP/1.1 200 ", "OK"), false},
		{"endless_head", floods("HTTP/1.1 200 OK\r\n", "X: y\r\n"), false},
		{"endless_continues", floods("", "HTTP/1.1 100 Continue\r\n\r\n"), false},
		{"switches_protocols", say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), false},
		{"switches_protocols_and_floods", floods("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "x"), false},
		{"redirect", say("HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: " + lure.URL + "\r\n\r\n"), false},
		{"refusal", say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"), false},
		{"endless_refusal", floods("HTTP/1.1 500 No\r\n\r\n", "no "), false},
		{"refusal_without_its_end", say("HTTP/1.1 500 No\r\nContent-Length: 400\r\n\r\nno"), false},
		{"endless_line", floods(ok, "x"), true},
		{"body_without_an_end", say(ok), true},
		{"no_entry", say(ok + "hello\n"), true},
		{"wrong_types", say(ok + `{"seq":"1"}` + "\n"), true},
		{"negative", say(ok + `{"seq":-1}` + "\n"), true},
		{"huge_fields", say(ok + `{"seq":1,"fields":{"k":"` + strings.Repeat("v", 70<<10) + `"}}` + "\n"), true},
		{"deep", say(ok + strings.Repeat("[", 60<<10) + "\n"), true},
		{"half_a_line", func(conn net.Conn) { io.WriteString(conn, ok+`{"seq":1,`) }, true},
	}
	const short = 500 * time.Millisecond
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := raw(t, tt.say)
			for what, call := range map[string]func(context.Context) error{
				"Init": func(ctx context.Context) error { return a.Init(ctx, guest.Identity{}) },
				"Logs": func(ctx context.Context) error {
					return a.Logs(ctx, 0, func(e guest.Entry) error { return fmt.Errorf("there is an entry %+.100v", e) })
				},
				"Start": func(ctx context.Context) error {
					_, err := a.Start(ctx, "true")
					return err
				},
			} {
				within(t, what, patience, func() {
					ctx, cancel := context.WithTimeout(t.Context(), short)
					defer cancel()
					err := call(ctx)
					if good := what == "Init" && tt.initGood; good != (err == nil) {
						t.Errorf("%s: %v", what, err)
					}
					if err != nil && len(err.Error()) > 4<<10 {
						t.Errorf("%s: an error of %d bytes", what, len(err.Error()))
					}
				})
			}
		})
	}
}

func TestLogs(t *testing.T) {
	var head http.Header
	var uri string
	a := standIn(t, "secret", func(w http.ResponseWriter, r *http.Request) {
		head, uri = r.Header, r.URL.String()
		io.WriteString(w, `{"seq":8,"time":"2026-01-02T13:00:00+01:00","level":"warn","message":"m","fields":{"k":"v"},"new":1}`+"\n")
		io.WriteString(w, `{"seq":9,"time":"2026-01-02T12:00:00Z","level":"fatal","message":"`+strings.Repeat("x", 60<<10)+`"}`+"\n")
	})
	var got []guest.Entry
	err := a.Logs(t.Context(), 7, func(e guest.Entry) error { got = append(got, e); return nil })
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Logs ends with %v, want io.ErrUnexpectedEOF: the log goes on", err)
	}
	if uri != "/soulbox/logs?after=7" || head.Get("X-Access-Token") != "secret" {
		t.Errorf("asked for %s with %v", uri, head)
	}
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	want := []guest.Entry{
		{Seq: 8, LogEntry: soulbox.LogEntry{At: noon, Level: "warn", Message: "m", Fields: map[string]string{"k": "v"}}},
		{Seq: 9, LogEntry: soulbox.LogEntry{At: noon, Level: "info", Message: strings.Repeat("x", 60<<10)}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// An agent's clock can be anything. What comes out is a time that ours has
// seen and that every reader can write down.
func TestLogsTimes(t *testing.T) {
	times := []string{
		"0001-01-01T00:00:00Z", "0000-01-01T00:00:00+23:00", "0000-01-01T00:00:00Z", "1969-12-31T23:59:59Z",
		"9999-12-31T23:59:59-23:00", "9999-12-31T23:59:59Z", "2100-01-01T00:00:00Z",
	}
	a := standIn(t, "", func(w http.ResponseWriter, _ *http.Request) {
		for i, s := range times {
			fmt.Fprintf(w, `{"seq":%d,"time":%q}`+"\n", i+1, s)
		}
		fmt.Fprintf(w, `{"seq":%d}`+"\n", len(times)+1)
	})
	before := time.Now()
	n := 0
	err := a.Logs(t.Context(), 0, func(e guest.Entry) error {
		n++
		if _, err := json.Marshal(e.At); err != nil || e.At.Before(before.Add(-time.Second)) || e.At.After(time.Now()) {
			t.Errorf("entry %d is of %v, %v; want now", e.Seq, e.At, err)
		}
		return nil
	})
	if n != len(times)+1 {
		t.Errorf("%d entries, %v; want %d", n, err, len(times)+1)
	}
}

func TestLogsStop(t *testing.T) {
	a := standIn(t, "", func(w http.ResponseWriter, r *http.Request) {
		for seq := 1; r.Context().Err() == nil; seq++ {
			if _, err := fmt.Fprintf(w, `{"seq":%d}`+"\n", seq); err != nil {
				return
			}
		}
	})
	enough := errors.New("enough")
	within(t, "Logs", patience, func() {
		err := a.Logs(t.Context(), 0, func(e guest.Entry) error {
			if e.Seq == 3 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Errorf("Logs: %v, want what each said", err)
		}
	})
	within(t, "Logs", patience, func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := a.Logs(ctx, 0, func(guest.Entry) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Logs: %v, want context.Canceled", err)
		}
	})
}
