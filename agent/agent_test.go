package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/agent"
	"github.com/soulbox/soulbox/internal/connectjson"
	"github.com/soulbox/soulbox/internal/event"
)

type object = map[string]any

// fixture is an agent behind a real server, over a root of its own.
type fixture struct {
	url, root string
	hostname  string
	clock     time.Time
}

func serve(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{root: t.TempDir()}
	for path, text := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/bash\nuser:x:54321:54321::" + f.root + ":/bin/bash\n",
		"group":  "root:x:0:\n",
		"hosts":  "127.0.0.1 localhost\n127.0.1.1 old-name\n::1 localhost",
	} {
		if err := os.MkdirAll(f.root+"/etc", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.root+"/etc/"+path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../run/systemd/nothing", f.root+"/etc/resolv.conf"); err != nil {
		t.Fatal(err)
	}
	a := agent.New(agent.Options{
		Root: f.root, Path: "/usr/bin:/bin",
		SetHostname: func(name string) error { f.hostname = name; return errors.New("not permitted") },
		SetClock:    func(now time.Time) error { f.clock = now; return errors.New("not permitted") },
	})
	srv := httptest.NewServer(a)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		a.Close()
		srv.Close()
	})
	f.url = srv.URL
	return f
}

func (f *fixture) do(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

func (f *fixture) init(t *testing.T, req object, header ...string) int {
	t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	resp, text := f.do(t, http.MethodPost, "/init", string(body), header...)
	if resp.Header.Get("X-Envd-Version") != agent.Version {
		t.Errorf("X-Envd-Version = %q", resp.Header.Get("X-Envd-Version"))
	}
	if resp.StatusCode != http.StatusNoContent {
		t.Log(text)
	}
	return resp.StatusCode
}

func (f *fixture) file(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(f.root + path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func TestHealth(t *testing.T) {
	f := serve(t)
	resp, body := f.do(t, http.MethodGet, "/health", "")
	if resp.StatusCode != http.StatusNoContent || body != "" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %q %v", resp.Status, body, resp.Header)
	}
	if resp, _ := f.do(t, http.MethodGet, "/nothing", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown path: %s", resp.Status)
	}
}

func TestMetrics(t *testing.T) {
	f := serve(t)
	_, body := f.do(t, http.MethodGet, "/metrics", "")
	var m map[string]float64
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ts", "cpu_count", "mem_total", "mem_used", "mem_cache", "mem_total_mib", "mem_used_mib", "disk_used", "disk_total"} {
		if m[name] <= 0 {
			t.Errorf("%s = %v", name, m[name])
		}
	}
	if m["mem_used"] > m["mem_total"] || m["disk_used"] > m["disk_total"] || m["cpu_used_pct"] < 0 || m["cpu_used_pct"] > 100 {
		t.Errorf("metrics = %v", m)
	}
}

func TestInit(t *testing.T) {
	f := serve(t)
	now := time.Now()
	if got := f.init(t, object{
		"envVars": object{"A": "1"}, "accessToken": "secret", "timestamp": now.Format(time.RFC3339Nano),
		"defaultUser": "root", "defaultWorkdir": "/tmp", "hostname": "sandbox-1", "sandboxId": "sbx", "templateId": "tpl",
		"nameservers": []string{"10.0.0.1", "fd00::1"}, "seed": []byte("random"), "lifecycleID": "x", "future": []int{1},
	}); got != 204 {
		t.Fatalf("init = %d", got)
	}
	for path, want := range map[string]string{
		"/etc/hostname":                "sandbox-1\n",
		"/etc/hosts":                   "127.0.0.1 localhost\n::1 localhost\n127.0.1.1\tsandbox-1\n",
		"/etc/resolv.conf":             "nameserver 10.0.0.1\nnameserver fd00::1\n",
		"/run/e2b/.E2B_SANDBOX":        "true",
		"/run/e2b/.E2B_SANDBOX_ID":     "sbx",
		"/run/e2b/.E2B_TEMPLATE_ID":    "tpl",
		"/run/e2b/.E2B_EVENTS_ADDRESS": "http://events.e2b.local",
	} {
		if got := f.file(t, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	if f.hostname != "sandbox-1" || !f.clock.IsZero() {
		t.Errorf("host name %q, clock set to %v", f.hostname, f.clock)
	}
	_, body := f.do(t, http.MethodGet, "/envs", "", "X-Access-Token", "secret")
	var envs map[string]string
	if err := json.Unmarshal([]byte(body), &envs); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{
		"A": "1", "E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "sbx", "E2B_TEMPLATE_ID": "tpl", "E2B_EVENTS_ADDRESS": "http://events.e2b.local",
	}, envs); diff != "" {
		t.Errorf("envs (-want +got):\n%s", diff)
	}

	// From now on only the token's holder may do it again.
	for _, token := range []string{"", "wrong", "secre", "secrets"} {
		if got := f.init(t, object{"accessToken": "stolen", "envVars": object{}}, "X-Access-Token", token); got != 401 {
			t.Errorf("init with the token %q = %d, want 401", token, got)
		}
	}
	// An older one changes nothing, a newer one rotates the token, and a clock
	// far off is set.
	if got := f.init(t, object{"envVars": object{"A": "old"}, "timestamp": now.Add(-time.Minute).Format(time.RFC3339Nano)}, "X-Access-Token", "secret"); got != 204 {
		t.Errorf("older init = %d", got)
	}
	later := now.Add(time.Hour)
	if got := f.init(t, object{"accessToken": "next", "timestamp": later.Format(time.RFC3339Nano), "sandboxId": "fork", "hostname": "sandbox-2"}, "X-Access-Token", "secret"); got != 204 {
		t.Errorf("newer init = %d", got)
	}
	if !f.clock.Equal(later) {
		t.Errorf("clock = %v, want %v", f.clock, later)
	}
	if resp, _ := f.do(t, http.MethodGet, "/envs", "", "X-Access-Token", "secret"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("old token: %s", resp.Status)
	}
	_, body = f.do(t, http.MethodGet, "/envs", "", "X-Access-Token", "next")
	if !strings.Contains(body, `"A":"1"`) || !strings.Contains(body, `"fork"`) {
		t.Errorf("envs = %s", body)
	}
	if got := f.file(t, "/etc/hosts"); got != "127.0.0.1 localhost\n::1 localhost\n127.0.1.1\tsandbox-2\n" {
		t.Errorf("hosts = %q", got)
	}
}

func TestInitRefused(t *testing.T) {
	f := serve(t)
	before := f.file(t, "/etc/hosts")
	for _, body := range []string{
		`{"accessToken":`, `[]`, `{"accessToken":5}`, `{"timestamp":"yesterday"}`, `{"seed":"!"}`,
		`{"accessToken":"x","hostname":"a b"}`, `{"accessToken":"x","hostname":"-a"}`, `{"accessToken":"x","hostname":"a.b\n"}`,
		`{"accessToken":"x","hostname":"` + strings.Repeat("a", 64) + `"}`,
		`{"accessToken":"x","nameservers":["not an address"]}`, `{"accessToken":"x","defaultWorkdir":"relative"}`,
		`{"accessToken":"x","defaultUser":"a\nb"}`, `{"accessToken":"` + strings.Repeat("x", 5<<20) + `"}`,
	} {
		if resp, text := f.do(t, http.MethodPost, "/init", body); resp.StatusCode != http.StatusBadRequest || !strings.Contains(text, `"message"`) {
			t.Errorf("%.60s: %s %s, want 400", body, resp.Status, text)
		}
	}
	if f.file(t, "/etc/hosts") != before || f.hostname != "" {
		t.Error("a refused init changed something")
	}
	if resp, _ := f.do(t, http.MethodGet, "/envs", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("a refused init set a token: %s", resp.Status)
	}
	if resp, _ := f.do(t, http.MethodPost, "/init", ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("empty init: %s", resp.Status)
	}
}

func TestToken(t *testing.T) {
	f := serve(t)
	if err := os.WriteFile(f.root+"/file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := f.init(t, object{"accessToken": "secret"}); got != 204 {
		t.Fatal(got)
	}
	const refusal = `{"code":401,"message":"unauthorized access, please provide a valid access token or method signing if supported"}`
	for _, path := range []string{
		"GET /envs", "GET /metrics", "POST /files/compose", "HEAD /files?path=file", "POST /process.Process/List", "POST /process.Process/Start",
		"POST /filesystem.Filesystem/Stat", "GET /soulbox/logs", "GET /soulbox/tunnel?port=1", "GET /nothing", "GET //files?path=file", "POST /health",
	} {
		method, path, _ := strings.Cut(path, " ")
		for _, token := range []string{"", "wrong", "SECRET"} {
			resp, body := f.do(t, method, path, "{}", "X-Access-Token", token, "Content-Type", "application/json")
			if resp.StatusCode != http.StatusUnauthorized || method != "HEAD" && strings.TrimSpace(body) != refusal {
				t.Errorf("%s %s with %q: %s %s", method, path, token, resp.Status, body)
			}
		}
	}
	resp, body := f.do(t, http.MethodPost, "/process.Process/List", "{}", "X-Access-Token", "secret", "Content-Type", "application/json")
	if resp.StatusCode != http.StatusOK || body != "{}" {
		t.Errorf("with the token: %s %s", resp.Status, body)
	}
	if resp, _ := f.do(t, http.MethodGet, "/health", ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("health: %s", resp.Status)
	}
}

// sign makes a signature as the SDKs do.
func sign(path, operation, user, token, expires string) string {
	text := path + ":" + operation + ":" + user + ":" + token
	if expires != "" {
		text += ":" + expires
	}
	sum := sha256.Sum256([]byte(text))
	return "v1_" + strings.TrimRight(base64.StdEncoding.EncodeToString(sum[:]), "=")
}

func TestSignature(t *testing.T) {
	f := serve(t)
	if got := f.init(t, object{"accessToken": "secret"}); got != 204 {
		t.Fatal(got)
	}
	later := fmt.Sprint(time.Now().Add(time.Hour).Unix())
	past := fmt.Sprint(time.Now().Add(-time.Hour).Unix())
	good := sign("file", "read", "", "secret", "")
	tests := []struct {
		name, method, query, token string
		status                     int
		message                    string
	}{
		{"upload", "POST", "path=file&signature=" + url.QueryEscape(sign("file", "write", "", "secret", later)) + "&signature_expiration=" + later, "", 200, ""},
		{"download", "GET", "path=file&signature=" + url.QueryEscape(good), "", 200, ""},
		{"expiring", "GET", "path=file&signature=" + url.QueryEscape(sign("file", "read", "", "secret", later)) + "&signature_expiration=" + later, "", 200, ""},
		{"as a user", "GET", "path=" + url.QueryEscape(f.root+"/file") + "&username=root&signature=" + url.QueryEscape(sign(f.root+"/file", "read", "root", "secret", "")), "", 200, ""},
		{"header instead", "GET", "path=file", "secret", 200, ""},
		{"none", "GET", "path=file", "", 401, "missing signature query parameter"},
		{"empty", "GET", "path=file&signature=", "", 401, "invalid signature"},
		{"expired", "GET", "path=file&signature=" + url.QueryEscape(sign("file", "read", "", "secret", past)) + "&signature_expiration=" + past, "", 401, "signature is already expired"},
		{"made longer", "GET", "path=file&signature=" + url.QueryEscape(sign("file", "read", "", "secret", past)) + "&signature_expiration=" + later, "", 401, "invalid signature"},
		{"made endless", "GET", "path=file&signature=" + url.QueryEscape(sign("file", "read", "", "secret", past)), "", 401, "invalid signature"},
		{"no number", "GET", "path=file&signature=" + url.QueryEscape(good) + "&signature_expiration=x", "", 401, "invalid signature"},
		{"other path", "GET", "path=etc/passwd&signature=" + url.QueryEscape(good), "", 401, "invalid signature"},
		{"other user", "GET", "path=file&username=root&signature=" + url.QueryEscape(good), "", 401, "invalid signature"},
		{"other operation", "POST", "path=file&signature=" + url.QueryEscape(good), "", 401, "invalid signature"},
		{"other token", "GET", "path=file&signature=" + url.QueryEscape(sign("file", "read", "", "guess", "")), "", 401, "invalid signature"},
		{"bad header beats a good signature", "GET", "path=file&signature=" + url.QueryEscape(good), "wrong", 401, "access token present in header but does not match"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := f.do(t, tt.method, "/files?"+tt.query, "content", "X-Access-Token", tt.token, "Content-Type", "application/octet-stream")
			if resp.StatusCode != tt.status || tt.message != "" && strings.TrimSpace(body) != fmt.Sprintf(`{"code":401,"message":%q}`, tt.message) {
				t.Errorf("%s %s, want %d %s", resp.Status, body, tt.status, tt.message)
			}
		})
	}
	if got := f.file(t, "/file"); got != "content" {
		t.Errorf("file = %q", got)
	}
}

func TestCORS(t *testing.T) {
	f := serve(t)
	if got := f.init(t, object{"accessToken": "secret"}); got != 204 {
		t.Fatal(got)
	}
	resp, _ := f.do(t, http.MethodOptions, "/process.Process/List", "", "Origin", "https://a.test",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-access-token,content-type")
	if h := resp.Header; resp.StatusCode != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(h.Get("Access-Control-Allow-Methods"), "POST") ||
		h.Get("Access-Control-Allow-Headers") != "x-access-token,content-type" {
		t.Errorf("preflight: %s %v", resp.Status, h)
	}
	// A refusal must be readable by the page, too.
	resp, _ = f.do(t, http.MethodGet, "/envs", "", "Origin", "https://a.test")
	if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("request: %s %v", resp.Status, resp.Header)
	}
}

// run runs a script and waits for its end.
func (f *fixture) run(t *testing.T, script, token string) {
	t.Helper()
	c := &connectjson.Client{HTTP: http.DefaultClient, Base: f.url, Header: http.Header{
		"X-Access-Token": {token}, "Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("root:"))},
	}}
	in, err := connectjson.Open[object](t.Context(), c, "/process.Process/Start", &object{"process": object{"cmd": "/bin/bash", "args": []string{"-c", script}}})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for err == nil {
		_, err = in.Receive()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestLogs(t *testing.T) {
	f := serve(t)
	if got := f.init(t, object{"accessToken": "secret", "sandboxId": "one"}); got != 204 {
		t.Fatal(got)
	}
	f.run(t, "echo before", "secret")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	follow := func(after string) *bufio.Scanner {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/soulbox/logs"+after, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Access-Token", "secret")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return bufio.NewScanner(resp.Body)
	}
	type line struct {
		Seq     uint64
		Message string
	}
	until := func(sc *bufio.Scanner, message string) line {
		t.Helper()
		for sc.Scan() {
			var l line
			if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
				t.Fatal(err)
			}
			if l.Message == message {
				return l
			}
		}
		t.Fatalf("no %q in the log: %v", message, sc.Err())
		return line{}
	}
	sc := follow("")
	first := until(sc, "before")
	f.run(t, "echo after", "secret")
	second := until(sc, "after")
	again := follow(fmt.Sprintf("?after=%d", second.Seq-1))
	again.Scan()
	if !bytes.Contains(again.Bytes(), []byte(`"after"`)) || first.Seq >= second.Seq {
		t.Errorf("after %d comes %s", second.Seq-1, again.Bytes())
	}
	if resp, _ := f.do(t, http.MethodGet, "/soulbox/logs?after=x", "", "X-Access-Token", "secret"); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("after=x: %s", resp.Status)
	}
	// Another sandbox made of this one's snapshot begins a log of its own.
	if got := f.init(t, object{"sandboxId": "two"}, "X-Access-Token", "secret"); got != 204 {
		t.Fatal(got)
	}
	f.run(t, "echo mine", "secret")
	fresh := follow("?after=0")
	fresh.Scan()
	if !bytes.Contains(fresh.Bytes(), []byte("init: set the host name")) && !bytes.Contains(fresh.Bytes(), []byte("echo mine")) {
		t.Errorf("first entry of the second sandbox = %s", fresh.Bytes())
	}
}

func TestFilesRoot(t *testing.T) {
	f := serve(t)
	if _, err := os.Stat(filepath.Join(f.root, "run/e2b")); err == nil {
		t.Error("an agent that nobody has spoken to has written files")
	}
}

func FuzzSignature(f *testing.F) {
	a := agent.New(agent.Options{Root: f.TempDir()})
	f.Cleanup(a.Close)
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/init", strings.NewReader(`{"accessToken":"secret-that-nobody-guesses"}`)))
	if w.Code != 204 {
		f.Fatal(w.Code)
	}
	f.Add("path=a&signature=v1_x&signature_expiration=99999999999")
	f.Add("signature=%00&path=%zz;")
	f.Fuzz(func(t *testing.T, query string) {
		req := httptest.NewRequest(http.MethodGet, "/files", nil)
		req.URL.RawQuery = query
		w := httptest.NewRecorder()
		a.ServeHTTP(w, req)
		if w.Code != http.StatusUnauthorized {
			t.Errorf("%q: %d", query, w.Code)
		}
	})
}

// The record is off until it is switched on, goes on through /init in a new
// epoch, and is nobody's without the token.
func TestRecord(t *testing.T) {
	f := serve(t)
	if code := f.init(t, object{"accessToken": "secret", "timestamp": time.Now()}); code != http.StatusNoContent {
		t.Fatal(code)
	}
	for _, request := range []string{"POST /soulbox/record", "GET /soulbox/record?after=0", "GET /soulbox/record/position", "POST /soulbox/record/hold", "POST /soulbox/record/release", "GET /soulbox/state"} {
		method, path, _ := strings.Cut(request, " ")
		if resp, _ := f.do(t, method, path, `{}`); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without the token: %s", request, resp.Status)
		}
	}
	token := []string{"X-Access-Token", "secret"}
	if resp, body := f.do(t, http.MethodGet, "/soulbox/record?after=0", "", token...); resp.StatusCode != http.StatusConflict {
		t.Errorf("a record that is off: %s %s", resp.Status, body)
	}
	if resp, body := f.do(t, http.MethodGet, "/soulbox/record/position", "", token...); resp.StatusCode != http.StatusOK || body != `{"epochs":null,"head":0,"tail":0}`+"\n" {
		t.Errorf("the position of a record that is off: %s %s", resp.Status, body)
	}
	if entries, err := os.ReadDir(f.root + "/var"); !os.IsNotExist(err) {
		t.Errorf("a record that is off left %v, %v", entries, err)
	}
	for _, bad := range []string{"", "[]", `{"paths":["relative"]}`, `{"paths":["/nonexistent"]}`, `{"paths":["` + f.root + `/var/lib/soulbox/record"]}`, `{"paths":["/proc"]}`} {
		if resp, body := f.do(t, http.MethodPost, "/soulbox/record", bad, token...); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s %s", bad, resp.Status, body)
		}
	}
	for range 2 {
		if resp, body := f.do(t, http.MethodPost, "/soulbox/record", fmt.Sprintf(`{"paths":[%q]}`, f.root), token...); resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%s %s", resp.Status, body)
		}
	}
	for _, bad := range []string{"", "?after=", "?after=-1", "?after=x"} {
		if resp, _ := f.do(t, http.MethodGet, "/soulbox/record"+bad, "", token...); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %s", bad, resp.Status)
		}
	}
	if resp, _ := f.do(t, http.MethodGet, "/soulbox/record?after=1000", "", token...); resp.StatusCode != http.StatusConflict {
		t.Errorf("after what has not happened: %s", resp.Status)
	}
	epochs := func() int {
		var p struct{ Epochs []object }
		_, body := f.do(t, http.MethodGet, "/soulbox/record/position", "", token...)
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Fatal(err)
		}
		return len(p.Epochs)
	}
	before := epochs()
	if code := f.init(t, object{"timestamp": time.Now()}, token...); code != http.StatusNoContent || epochs() <= before {
		t.Errorf("after another init (%d) there are %d epochs, were %d", code, epochs(), before)
	}

	// What the agent itself writes below a watched folder is in the record, but
	// for the record.
	if err := os.WriteFile(f.root+"/etc/new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/soulbox/record?after=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(token[0], token[1])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for frames := event.NewReader(resp.Body); ; {
		e, err := frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(e.Text), f.root+"/var/lib/soulbox/record/") {
			t.Errorf("the record tells of itself: %s", e.Text)
		}
		if e.Kind == event.File && e.Op == "create" && string(e.Text) == f.root+"/etc/new" {
			break
		}
	}
	if resp, body := f.do(t, http.MethodGet, "/soulbox/state", "", token...); resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, `{"at":"`) {
		t.Errorf("%s %.100s", resp.Status, body)
	}
}
