package server_test

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// knock asks a port of l's sandbox with a traffic token, or without one.
func (l *laboratory) knock(t *testing.T, port int, token string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	path := "/notebooks/good"
	if port == 49983 {
		path = "/health"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("E2b-Sandbox-Id", l.sb.ID)
	req.Header.Set("E2b-Sandbox-Port", strconv.Itoa(port))
	if token != "" {
		req.Header.Set("E2B-Traffic-Access-Token", token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// TestPrivatePorts serves something in a real sandbox whose ports are private,
// and comes to it with its token, with others and with none: while it runs,
// while it is paused, after a fork and after the server was killed.
func TestPrivatePorts(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	l := newLaboratory(t, s, client.CreateOptions{PrivatePorts: true, Lifecycle: soulbox.Lifecycle{Pause: true, Wake: true}})
	info := func(id string) *client.Info {
		t.Helper()
		i, err := l.c.Sandboxes.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	const interpreter, agent = 49999, 49983
	token := info(l.sb.ID).TrafficToken
	if token == "" || !info(l.sb.ID).PrivatePorts {
		t.Fatalf("it is not private: %+v", info(l.sb.ID))
	}
	closed := func(when string) {
		t.Helper()
		for _, other := range []string{"", "wrong", token[1:]} {
			if status, body := l.knock(t, interpreter, other); status != http.StatusForbidden || !strings.Contains(body, `"sandboxId":"`+l.sb.ID) {
				t.Errorf("%s, with token %q: %d %s, want 403", when, other, status, body)
			}
		}
	}
	open := func(when string) {
		t.Helper()
		if status, body := l.knock(t, interpreter, token); status != http.StatusOK || !strings.Contains(body, "good.ipynb") {
			t.Errorf("%s, with its token: %d %s, want 200", when, status, body)
		}
	}
	closed("running")
	open("running")
	if status, body := l.knock(t, agent, ""); status != http.StatusNoContent {
		t.Errorf("its agent: %d %s, want 204", status, body)
	}
	if status, body := l.knock(t, 81, ""); status != http.StatusForbidden {
		t.Errorf("a closed port: %d %s, want 403, as any other", status, body)
	}
	// What asks for the team knows the way without.
	if n, err := l.c.Notebooks.Get(t.Context(), l.sb.ID, "good"); err != nil || n.Revision != "abc" {
		t.Errorf("through /v1: %+v, %v", n, err)
	}

	forks, err := l.c.Sandboxes.Fork(t.Context(), l.sb.ID, 1, time.Hour)
	if err != nil || forks[0].Err != nil {
		t.Fatal(forks, err)
	}
	fork := &laboratory{c: l.c, url: l.url, key: l.key, sb: forks[0].Sandbox}
	own := info(fork.sb.ID).TrafficToken
	if status, _ := fork.knock(t, interpreter, token); status != http.StatusForbidden || own == token || own == "" {
		t.Errorf("a fork, with its parent's token: %d, want 403; its own is %q", status, own)
	}
	if status, body := fork.knock(t, interpreter, own); status != http.StatusOK {
		t.Errorf("a fork, with its own token: %d %s, want 200", status, body)
	}

	if err := l.c.Sandboxes.Pause(t.Context(), l.sb.ID, client.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	closed("paused")
	if state := info(l.sb.ID).State; state != soulbox.Paused {
		t.Fatalf("it is %s after requests that may not resume it", state)
	}
	open("paused")
	if state := info(l.sb.ID).State; state != soulbox.Running {
		t.Errorf("it is %s after a request that may resume it", state)
	}

	s.Kill()
	s.Start(t)
	l.c = connect(t, s)
	l.url, l.key = s.Credentials(t)
	if after := info(l.sb.ID).TrafficToken; after != token {
		t.Errorf("after a restart its token is %q, want %q", after, token)
	}
	closed("after a restart")
	open("after a restart")
}
