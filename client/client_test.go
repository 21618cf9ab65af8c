package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/client/clienttest"
)

// newClient returns a client of a stand-in server.
func newClient(t *testing.T) (*client.Client, *clienttest.Server) {
	t.Helper()
	server := clienttest.New(t.TempDir())
	t.Cleanup(server.Close)
	return clientOf(t, server.URL), server
}

func clientOf(t *testing.T, url string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{APIURL: url, APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newSandbox returns a sandbox that is destroyed with the test.
func newSandbox(t *testing.T) (*client.Sandbox, *clienttest.Server) {
	t.Helper()
	c, server := newClient(t)
	box, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Env: map[string]string{"FROM_SANDBOX": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	return box, server
}

func TestNew(t *testing.T) {
	for _, url := range []string{"", "127.0.0.1:7070", "ftp://x", "http://", ":", "http://a b"} {
		_, err := client.New(client.Options{APIURL: url})
		if soulbox.KindOf(err) != soulbox.Invalid || err == nil {
			t.Errorf("New with APIURL %q: %v, want an Invalid error", url, err)
		}
	}
	if _, err := client.New(client.Options{APIURL: "http://x", SandboxURL: "nonsense"}); err == nil {
		t.Error("New with a SandboxURL that is none: no error")
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name, body string
		status     int
		kind       soulbox.Kind
		text       string
	}{
		{"sentence", `{"code":404,"message":"there is none"}`, 404, soulbox.NotFound, "there is none"},
		{"conflict", `{"code":409,"message":"not now"}`, 409, soulbox.Conflict, "not now"},
		{"quota", `{"code":429,"message":"too many"}`, 429, soulbox.Exhausted, "too many"},
		{"too large", `{}`, 413, soulbox.TooLarge, "the server answered 413 Request Entity Too Large"},
		{"page", `<html>`, 502, soulbox.Unavailable, "the server answered 502 Bad Gateway"},
		{"teapot", ``, 418, soulbox.Internal, "the server answered 418 I'm a teapot"},
		{"not json", `<html>`, 200, soulbox.Unavailable, "GET /v1/version: the server's answer is not what a SoulBox server says: invalid character '<' looking for beginning of value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			}))
			defer server.Close()
			_, err := clientOf(t, server.URL).Version(t.Context())
			if soulbox.KindOf(err) != tt.kind || err == nil || err.Error() != tt.text {
				t.Errorf("Version with status %d and body %q: kind %d %v, want kind %d %s", tt.status, tt.body, soulbox.KindOf(err), err, tt.kind, tt.text)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	_, err = clientOf(t, url).Version(t.Context())
	if soulbox.KindOf(err) != soulbox.Unavailable || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Version of a server that is not there: %v, want an Unavailable one caused by ECONNREFUSED", err)
	}
	if want := "the server at " + url + " does not answer: connection refused"; err.Error() != want {
		t.Errorf("Version of a server that is not there: %q, want %q", err, want)
	}
}

func TestCanceled(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := clientOf(t, server.URL).Version(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Version of a server that does not answer: %v, want DeadlineExceeded in its chain", err)
	}
}

func TestRetryAfter(t *testing.T) {
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls++
		if calls < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		_, _ = w.Write([]byte(`{"version":"9"}`))
	}))
	defer server.Close()
	v, err := clientOf(t, server.URL).Version(t.Context())
	if v != "9" || err != nil || calls != 3 {
		t.Errorf("Version of a busy server: %q, %v after %d calls, want 9 after 3", v, err, calls)
	}
}

func TestWrongKey(t *testing.T) {
	server := clienttest.New(t.TempDir())
	defer server.Close()
	c, err := client.New(client.Options{APIURL: server.URL + "/", APIKey: "e2b_00"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Version(t.Context()); soulbox.KindOf(err) != soulbox.Unauthenticated {
		t.Errorf("Version with a wrong key: %v, want Unauthenticated", err)
	}
}

func TestLife(t *testing.T) {
	c, server := newClient(t)
	ctx := t.Context()
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{Timeout: time.Hour, Metadata: map[string]string{"k": "a b&c"}, NoInternet: true})
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Sandboxes.Get(ctx, box.ID)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(info.ExpiresAt); left < 59*time.Minute || left > time.Hour {
		t.Errorf("a sandbox made for an hour has %v left", left)
	}
	if info.Internet || info.Memory != 512*soulbox.MiB || info.State != soulbox.Running || info.Template != "base" {
		t.Errorf("Get: %+v", info)
	}
	if got := list(t, c, client.ListOptions{Metadata: map[string]string{"k": "a b&c"}}); !cmp.Equal(got, []string{box.ID}) {
		t.Errorf("List with metadata: %v, want %v", got, box.ID)
	}
	if err := box.SetTimeout(ctx, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := box.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := box.Kill(ctx); err != nil {
		t.Errorf("Kill again: %v", err)
	}
	if err := c.Sandboxes.Kill(ctx, box.ID); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Sandboxes.Kill of an ended one: %v, want NotFound", err)
	}
	if got := list(t, c, client.ListOptions{}); !cmp.Equal(got, []string{other.ID}) {
		t.Errorf("List: %v, want %v", got, other.ID)
	}
	if got := list(t, c, client.ListOptions{Ended: true}); len(got) != 2 {
		t.Errorf("List with the ended: %v, want both", got)
	}
	server.End(other.ID, soulbox.ByOOM, "it used more than 512 MiB of memory")
	info, err = c.Sandboxes.Get(ctx, other.ID)
	if err != nil {
		t.Fatal(err)
	}
	if info.End == nil || info.End.By != soulbox.ByOOM || info.State != soulbox.Ended {
		t.Errorf("Get of an ended one: %+v", info)
	}
	if _, err := other.Run(ctx, "true", client.RunOptions{}); soulbox.KindOf(err) != soulbox.NotFound || !strings.Contains(err.Error(), "more than 512 MiB") {
		t.Errorf("Run in an ended one: %v, want the reason of its end", err)
	}
	if _, err := c.Sandboxes.Get(ctx, "../keys"); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Get of what is no id: %v, want Invalid", err)
	}
}

// TestPrivatePorts reaches a port of a private sandbox with each way to a handle
// on it, and not without one.
func TestPrivatePorts(t *testing.T) {
	c, server := newClient(t)
	ctx := t.Context()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer web.Close()
	port := web.Listener.Addr().(*net.TCPAddr).Port
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{PrivatePorts: true})
	if err != nil {
		t.Fatal(err)
	}
	reach := func(what string, s *client.Sandbox, want int) {
		t.Helper()
		resp, err := (&http.Client{Transport: s.Transport(port)}).Get("http://sandbox/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", what, resp.StatusCode, want)
		}
	}
	reach("who made it", box, http.StatusTeapot)
	for _, timeout := range []time.Duration{0, time.Minute} {
		again, err := c.Sandboxes.Connect(ctx, box.ID, timeout)
		if err != nil {
			t.Fatal(err)
		}
		reach(fmt.Sprintf("connected for %v", timeout), again, http.StatusTeapot)
	}
	info, err := c.Sandboxes.Get(ctx, box.ID)
	if err != nil || !info.PrivatePorts || info.TrafficToken == "" {
		t.Fatalf("Get: %+v, %v", info, err)
	}
	for token, want := range map[string]int{"": http.StatusForbidden, info.TrafficToken: http.StatusTeapot} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"E2b-Sandbox-Id": {box.ID}, "E2b-Sandbox-Port": {strconv.Itoa(port)}, "E2b-Traffic-Access-Token": {token}}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("with token %q: %d, want %d", token, resp.StatusCode, want)
		}
	}
}

func list(t *testing.T, c *client.Client, o client.ListOptions) []string {
	t.Helper()
	var ids []string
	for info, err := range c.Sandboxes.List(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.ID)
	}
	return ids
}

func TestListPages(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
		_, _ = w.Write([]byte(`{"sandboxes":[{"id":"i` + strconv.Itoa(from) + `"}],"next":"` + strconv.Itoa(from+1) + `"}`))
	}))
	defer server.Close()
	c := clientOf(t, server.URL)
	var got []string
	for info, err := range c.Sandboxes.List(t.Context(), client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, info.ID); len(got) == 3 {
			break
		}
	}
	if want := []string{"i0", "i1", "i2"}; !cmp.Equal(got, want) || asked != 3 {
		t.Errorf("List: %v in %d requests, want %v in 3", got, asked, want)
	}
}

func TestTransport(t *testing.T) {
	box, _ := newSandbox(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("you asked for " + r.URL.Path))
	}))
	defer web.Close()
	port := web.Listener.Addr().(*net.TCPAddr).Port
	resp, err := (&http.Client{Transport: box.Transport(port)}).Get("https://anything.example/some/page")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := make([]byte, 100)
	n, _ := resp.Body.Read(body)
	if got := string(body[:n]); got != "you asked for /some/page" {
		t.Errorf("GET through Transport: %q", got)
	}
	if got, want := box.Host(80), "80-"+box.ID+".127.0.0.1:"; !strings.HasPrefix(got, want) {
		t.Errorf("Host(80) = %q, want %s…", got, want)
	}
}

func TestKeys(t *testing.T) {
	c, _ := newClient(t)
	made, err := c.Keys.Create(t.Context(), "ci")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(made.Secret, "e2b_") || made.Name != "ci" {
		t.Errorf("Create: %+v", made)
	}
	all, err := c.Keys.List(t.Context())
	if err != nil || len(all) != 1 || all[0].ID != made.ID || all[0].Secret != "" {
		t.Errorf("List: %+v, %v", all, err)
	}
	if err := c.Keys.Revoke(t.Context(), made.ID); err != nil {
		t.Error(err)
	}
	if err := c.Keys.Revoke(t.Context(), made.ID); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Revoke again: %v, want NotFound", err)
	}
}

func TestTemplates(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	var progress []string
	made, err := c.Templates.Import(ctx, "py", client.ImportOptions{Image: "python:3", Progress: func(s string) { progress = append(progress, s) }})
	if err != nil {
		t.Fatal(err)
	}
	if made.Name != "py" || made.Source != "python:3" || made.Memory != 512*soulbox.MiB {
		t.Errorf("Import: %+v", made)
	}
	if !cmp.Equal(progress, []string{"pulling python:3"}) {
		t.Errorf("progress: %q", progress)
	}
	if _, err := c.Templates.Import(ctx, "bad", client.ImportOptions{Archive: strings.NewReader(strings.Repeat("no tar", 200))}); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Import of no tar: %v, want Invalid", err)
	}
	if _, err := c.Templates.Import(ctx, "both", client.ImportOptions{}); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Import of nothing: %v, want Invalid", err)
	}
	if all, err := c.Templates.List(ctx); err != nil || len(all) != 2 {
		t.Errorf("List: %v, %v, want two", all, err)
	}
	if made.Isolation != soulbox.GVisor {
		t.Errorf("Import without an isolation: %+v, want gvisor", made)
	}
	for _, class := range []soulbox.Isolation{soulbox.Runc, soulbox.GVisor} {
		changed, err := c.Templates.SetIsolation(ctx, made.ID, class)
		if err != nil || changed.Name != "py" || changed.Isolation != class {
			t.Errorf("SetIsolation to %s: %+v, %v", class, changed, err)
		}
	}
	if _, err := c.Templates.SetIsolation(ctx, "py", "docker"); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("SetIsolation to what there is not: %v, want Invalid", err)
	}
	if _, err := c.Templates.SetIsolation(ctx, "nosuch", soulbox.Runc); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("SetIsolation of none: %v, want NotFound", err)
	}
	if err := c.Templates.Delete(ctx, "py"); err != nil {
		t.Error(err)
	}
}

// A sandbox has what was asked for, else what its template has.
func TestIsolation(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	made, err := c.Templates.Import(ctx, "py", client.ImportOptions{Image: "python:3", Isolation: new(soulbox.Runc)})
	if err != nil || made.Isolation != soulbox.Runc {
		t.Fatalf("Import: %+v, %v, want one of runc", made, err)
	}
	for _, tt := range []struct {
		template string
		asked    *soulbox.Isolation
		want     soulbox.Isolation
	}{
		{"py", nil, soulbox.Runc},
		{"py", new(soulbox.GVisor), soulbox.GVisor},
		{"base", nil, soulbox.GVisor},
		{"base", new(soulbox.Runc), soulbox.Runc},
	} {
		box, err := c.Sandboxes.Create(ctx, client.CreateOptions{Template: tt.template, Isolation: tt.asked})
		if err != nil {
			t.Fatal(err)
		}
		if info, err := c.Sandboxes.Get(ctx, box.ID); err != nil || info.Isolation != tt.want {
			t.Errorf("of %s: %+v, %v, want isolation %s", tt.template, info, err, tt.want)
		}
	}
}

// An import whose answer is cut off has not succeeded.
func TestImportCutOff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"progress":"one"}` + "\n"))
	}))
	defer server.Close()
	_, err := clientOf(t, server.URL).Templates.Import(t.Context(), "x", client.ImportOptions{Image: "y"})
	if soulbox.KindOf(err) != soulbox.Unavailable || err == nil {
		t.Errorf("Import without an end: %v, want Unavailable", err)
	}
}
