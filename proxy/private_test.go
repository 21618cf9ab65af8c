package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/soulbox/soulbox"
)

const trafficToken = "traffic-of-" + boxA

// private closes the ports of a sandbox.
func private(sb *soulbox.Sandbox) {
	sb.Network.Private, sb.Traffic = true, trafficToken
}

const (
	noToken  = "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing"
	badToken = "Sandbox is secured with traffic access token. Provided token in header 'e2b-traffic-access-token' is invalid"
)

// TestPrivate knocks at ports of a private sandbox, in each way that leads to
// one.
func TestPrivate(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		port         int
		token        *string // nil: no header
		change       func(*soulbox.Sandbox)
		refused      string // empty: it is carried
	}{
		{"with the token", "GET", 3000, new(trafficToken), private, ""},
		{"with the token, to the code interpreter", "POST", 49999, new(trafficToken), private, ""},
		{"without", "GET", 3000, nil, private, noToken},
		{"without, to the code interpreter", "POST", 49999, nil, private, noToken},
		{"empty", "GET", 3000, new(""), private, noToken},
		{"a browser that asks first", "OPTIONS", 3000, nil, private, noToken},
		{"another", "GET", 3000, new(trafficToken + "x"), private, badToken},
		{"a part", "GET", 3000, new(trafficToken[:5]), private, badToken},
		{"the agent's", "GET", 3000, new("token-of-" + boxA), private, badToken},
		{"there is none", "GET", 3000, new(trafficToken), func(sb *soulbox.Sandbox) { sb.Network.Private = true }, badToken},
		{"the agent without", "GET", agent, nil, private, ""},
		{"the agent with another", "GET", agent, new("x"), private, ""},
		{"public without", "GET", 3000, nil, func(*soulbox.Sandbox) {}, ""},
		{"public with another's", "GET", 3000, new("x"), func(*soulbox.Sandbox) {}, ""},
	} {
		for _, by := range []string{"headers", "host"} {
			t.Run(tt.name+"/"+by, func(t *testing.T) {
				w := newWorld(t)
				sb := &soulbox.Sandbox{ID: boxA, State: soulbox.Running, Secure: true, Token: "token-of-" + boxA}
				tt.change(sb)
				w.set(sb)
				w.serve(boxA, uint16(tt.port), func(rw http.ResponseWriter, r *http.Request) {
					fmt.Fprintf(rw, "inside %q", r.Header["E2b-Traffic-Access-Token"])
				})
				r := w.request(tt.method, boxA, tt.port, "/", nil)
				if by == "host" {
					r.Header = http.Header{}
					r.Host = fmt.Sprintf("%d-%s.example.com", tt.port, boxA)
				}
				got := []string{}
				if tt.token != nil {
					r.Header.Set("e2b-traffic-access-token", *tt.token)
					got = append(got, *tt.token)
				}
				res := w.do(r)
				if tt.refused == "" { // the program sees the header, as it does at E2B
					if body := w.read(res); res.StatusCode != http.StatusOK || body != fmt.Sprintf("inside %q", got) {
						t.Errorf("%d %s, want 200 and that the header was %q", res.StatusCode, body, got)
					}
					return
				}
				want := map[string]any{"sandboxId": boxA, "message": tt.refused, "code": 403.}
				if p := w.problem(res); res.StatusCode != http.StatusForbidden || fmt.Sprint(p) != fmt.Sprint(want) || w.dialled() != 0 {
					t.Errorf("%d %v after %d dials, want %v after none", res.StatusCode, p, w.dialled(), want)
				}
			})
		}
	}
}

func TestPrivateInABrowser(t *testing.T) {
	w := newWorld(t)
	private(w.add(boxA))
	r := w.request("GET", boxA, 3000, "/", nil)
	r.Header.Set("Accept", "text/html")
	res := w.do(r)
	if page := w.read(res); res.StatusCode != http.StatusForbidden || !strings.HasPrefix(page, "<!doctype html>") || !strings.Contains(page, "is missing") {
		t.Errorf("%d %s, want a page that says what is missing", res.StatusCode, page)
	}
}

func TestPrivateWebSocket(t *testing.T) {
	w := newWorld(t)
	private(w.add(boxA))
	w.serve(boxA, 8080, func(rw http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.Write(r.Context(), websocket.MessageText, []byte("come in"))
	})
	dial := func(token string) (*websocket.Conn, *http.Response, error) {
		h := http.Header{"E2b-Sandbox-Id": {boxA}, "E2b-Sandbox-Port": {"8080"}}
		if token != "" {
			h.Set("E2b-Traffic-Access-Token", token)
		}
		return websocket.Dial(t.Context(), w.url, &websocket.DialOptions{HTTPHeader: h, HTTPClient: w.client})
	}
	for _, token := range []string{"", "wrong"} {
		if c, res, err := dial(token); err == nil || res == nil || res.StatusCode != http.StatusForbidden {
			t.Errorf("token %q: %v, %v, %v, want 403", token, c, res, err)
		}
	}
	c, _, err := dial(trafficToken)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if _, got, err := c.Read(t.Context()); string(got) != "come in" || err != nil {
		t.Errorf("%q, %v, want come in", got, err)
	}
}

// TestPrivateSleeps calls a private sandbox that traffic wakes: only with its
// token.
func TestPrivateSleeps(t *testing.T) {
	for _, tt := range []struct {
		token string
		wakes int32
	}{{"", 0}, {"wrong", 0}, {"token-of-" + boxA, 0}, {trafficToken, 1}} {
		b := newBed(t, private)
		b.wake = func(_ context.Context, id soulbox.SandboxID) error {
			private(b.add(id))
			return nil
		}
		b.serve(boxA, 3000, func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "awake") })
		r := b.request("GET", boxA, 3000, "/", nil)
		if tt.token != "" {
			r.Header.Set("E2b-Traffic-Access-Token", tt.token)
		}
		res := b.do(r)
		body := b.read(res)
		if n := b.wakes.Load(); n != tt.wakes {
			t.Errorf("token %q: %d wakes, want %d", tt.token, n, tt.wakes)
		}
		if tt.wakes == 0 && (res.StatusCode != http.StatusForbidden || !strings.Contains(body, "this request may not resume it")) || tt.wakes == 1 && body != "awake" {
			t.Errorf("token %q: %d %s", tt.token, res.StatusCode, body)
		}
	}
	b := newBed(t, private)
	b.serve(boxA, agent, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
	r := b.request("GET", boxA, agent, "/health", nil)
	r.Header.Set("X-Access-Token", "token-of-"+boxA)
	if res := b.do(r); res.StatusCode != http.StatusNoContent || b.wakes.Load() != 1 {
		t.Errorf("the agent with its own token: %d after %d wakes", res.StatusCode, b.wakes.Load())
	}
}
