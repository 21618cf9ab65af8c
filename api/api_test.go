package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

const goodKey = "e2b_0123456789012345678901234567890123456789"

var actor = soulbox.Actor{Team: "team1", Key: "key1"}

// oneKey knows one key.
type oneKey struct{}

func (oneKey) Authenticate(_ context.Context, plain string) (soulbox.Actor, error) {
	switch plain {
	case goodKey:
		return actor, nil
	case "e2b_broken":
		return soulbox.Actor{}, errors.New("database is on fire")
	}
	return soulbox.Actor{}, soulbox.Errorf(soulbox.Unauthenticated, "the API key is not valid")
}

// logBuffer collects log lines from several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) lines(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []map[string]any
	for line := range strings.Lines(l.b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		out = append(out, m)
	}
	return out
}

// routes has a row for everything that a handler may do.
func routes() []api.Route {
	fail := func(err error) api.Handler {
		return func(http.ResponseWriter, *http.Request, soulbox.Actor) error { return err }
	}
	return []api.Route{
		{Verb: "GET", Path: "/open", Permission: api.Anyone, Handle: func(w http.ResponseWriter, _ *http.Request, a soulbox.Actor) error {
			return api.Answer(w, http.StatusOK, map[string]string{"team": string(a.Team)})
		}},
		{Verb: "GET", Path: "/who", Permission: api.ReadTeam, Handle: func(w http.ResponseWriter, r *http.Request, a soulbox.Actor) error {
			return api.Answer(w, http.StatusOK, map[string]string{"team": string(a.Team), "key": api.Key(r)})
		}},
		{Verb: "POST", Path: "/things", Permission: api.WriteSandboxes, Handle: func(w http.ResponseWriter, r *http.Request, _ soulbox.Actor) error {
			var body thing
			if err := api.Decode(r, &body); err != nil {
				return err
			}
			return api.Answer(w, http.StatusCreated, body)
		}},
		{Verb: "DELETE", Path: "/things/{id}", Permission: api.WriteSandboxes, Handle: func(w http.ResponseWriter, r *http.Request, _ soulbox.Actor) error {
			var body thing
			if err := api.DecodeOptional(r, &body); err != nil {
				return err
			}
			w.WriteHeader(http.StatusNoContent)
			return nil
		}},
		{Verb: "POST", Path: "/long", Permission: api.WriteSandboxes, Body: 2 << 20, Handle: func(w http.ResponseWriter, r *http.Request, _ soulbox.Actor) error {
			var body thing
			if err := api.Decode(r, &body); err != nil {
				return err
			}
			return api.Answer(w, http.StatusOK, len(body.Name))
		}},
		{Verb: "POST", Path: "/upload", Permission: api.WriteTemplates, Upload: true, Handle: func(w http.ResponseWriter, r *http.Request, _ soulbox.Actor) error {
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				return err
			}
			return api.Answer(w, http.StatusOK, n)
		}},
		{Verb: "GET", Path: "/panic", Permission: api.Anyone, Handle: func(http.ResponseWriter, *http.Request, soulbox.Actor) error {
			panic("a bug")
		}},
		{Verb: "GET", Path: "/late", Permission: api.Anyone, Handle: func(w http.ResponseWriter, _ *http.Request, _ soulbox.Actor) error {
			w.WriteHeader(http.StatusAccepted)
			return errors.New("too late")
		}},
		{Verb: "GET", Path: "/plain-error", Permission: api.Anyone, Handle: fail(errors.New("disk /dev/sda is on fire"))},
		{Verb: "GET", Path: "/hidden", Permission: api.Anyone, Handle: fail(fmt.Errorf("start: %w", soulbox.Hide(soulbox.Unavailable, errors.New("node 7 is gone"), "no machine is free")))},
		{Verb: "GET", Path: "/forbidden", Permission: api.Anyone, Handle: fail(soulbox.Errorf(soulbox.Forbidden, "not yours"))},
		{Verb: "GET", Path: "/conflict", Permission: api.Anyone, Handle: fail(soulbox.Errorf(soulbox.Conflict, "not now"))},
		{Verb: "GET", Path: "/exhausted", Permission: api.Anyone, Handle: fail(soulbox.Errorf(soulbox.Exhausted, "20 sandboxes run already"))},
	}
}

type thing struct {
	Name  string            `json:"name,omitempty"`
	Count *int32            `json:"count,omitempty"`
	Tags  map[string]string `json:"tags,omitempty"`
	Inner *struct {
		On bool `json:"on"`
	} `json:"inner,omitempty"`
	List []string `json:"list,omitempty"`
}

func newAPI(t *testing.T, o api.Options) (*api.API, *logBuffer) {
	t.Helper()
	buf := &logBuffer{}
	log := slog.New(slog.NewJSONHandler(buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := api.New(log, oneKey{}, routes(), o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return a, buf
}

func ask(a http.Handler, verb, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(verb, path, strings.NewReader(body))
	r.Header.Set("X-API-KEY", goodKey)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

func failureOf(t *testing.T, w *httptest.ResponseRecorder) api.Failure {
	t.Helper()
	var f api.Failure
	if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
		t.Fatalf("body %q is not an error body: %v", w.Body, err)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type of an error is %q, want application/json", ct)
	}
	return f
}

func TestErrors(t *testing.T) {
	a, _ := newAPI(t, api.Options{})
	for _, tt := range []struct {
		name, verb, path, body string
		header                 []string
		code                   int
		msg                    string // a part of it
	}{
		{"no key", "GET", "/who", "", []string{"X-API-KEY", ""}, 401, "an API key is needed"},
		{"wrong key", "GET", "/who", "", []string{"X-API-KEY", "e2b_wrong"}, 401, "not valid"},
		{"wrong bearer", "GET", "/who", "", []string{"X-API-KEY", "", "Authorization", "Bearer x"}, 401, "not valid"},
		{"basic", "GET", "/who", "", []string{"X-API-KEY", "", "Authorization", "Basic " + goodKey}, 401, "is needed"},
		{"huge key", "GET", "/who", "", []string{"X-API-KEY", strings.Repeat("k", 5000)}, 401, "not valid"},
		{"keys cannot be looked up", "GET", "/who", "", []string{"X-API-KEY", "e2b_broken"}, 500, "internal error (request "},
		{"unknown path", "GET", "/nothing", "", nil, 404, `there is no "/nothing" here`},
		{"unknown path without a key", "GET", "/nothing", "", []string{"X-API-KEY", ""}, 404, "there is no"},
		{"root", "GET", "/", "", nil, 404, "there is no"},
		{"unclean path", "GET", "/open/../open", "", nil, 404, "there is no"},
		{"double slash", "GET", "//open", "", nil, 404, "there is no"},
		{"slash at the end", "GET", "/open/", "", nil, 404, "there is no"},
		{"wrong verb", "PATCH", "/things", "", nil, 405, "PATCH is not possible here; POST is"},
		{"strange verb", strings.Repeat("X", 300), "/things", "", nil, 405, "is not possible here"},
		{"panic", "GET", "/panic", "", nil, 500, "internal error (request "},
		{"error without a kind", "GET", "/plain-error", "", nil, 500, "internal error (request "},
		{"hidden cause", "GET", "/hidden", "", nil, 503, "no machine is free"},
		{"forbidden", "GET", "/forbidden", "", nil, 403, "not yours"},
		{"conflict", "GET", "/conflict", "", nil, 409, "not now"},
		{"exhausted", "GET", "/exhausted", "", nil, 429, "20 sandboxes run already"},
		{"body too large", "POST", "/things", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, "too large"},
		{"body too large even there", "POST", "/long", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, "too large"},
		{"no body", "POST", "/things", "", nil, 400, "needs a body"},
		{"only space", "POST", "/things", " \n", nil, 400, "needs a body"},
		{"not JSON", "POST", "/things", "{name", nil, 400, "not valid JSON (at byte 2)"},
		{"cut off", "POST", "/things", `{"name":"x"`, nil, 400, "not valid JSON"},
		{"array", "POST", "/things", `[]`, nil, 400, "must be a JSON object"},
		{"null", "POST", "/things", `null`, nil, 400, "must be a JSON object"},
		{"trailing garbage", "POST", "/things", `{"name":"x"} x`, nil, 400, "not valid JSON"},
		{"second object", "POST", "/things", `{}{}`, nil, 400, "not valid JSON"},
		{"said twice", "POST", "/things", `{"name":"x","name":"y"}`, nil, 400, `"name" is in the body twice`},
		{"said twice inside", "POST", "/things", `{"tags":{"a":"1","b":"2","a":"3"}}`, nil, 400, `"a" is in the body twice`},
		{"wrong type", "POST", "/things", `{"name":7}`, nil, 400, "name must be a string, not number"},
		{"wrong type inside", "POST", "/things", `{"inner":{"on":"yes"}}`, nil, 400, "inner.on must be true or false, not string"},
		{"wrong type in a map", "POST", "/things", `{"tags":{"a":1}}`, nil, 400, "must be a string, not number"},
		{"not a list", "POST", "/things", `{"list":"a"}`, nil, 400, "list must be an array, not string"},
		{"huge number", "POST", "/things", `{"count":3000000000}`, nil, 400, "count must be an integer below 2^31, not number 3000000000"},
		{"very huge number", "POST", "/things", `{"count":1` + strings.Repeat("0", 5000) + `}`, nil, 400, "count must be an integer"},
		{"fraction", "POST", "/things", `{"count":1.5}`, nil, 400, "count must be an integer"},
		{"deep", "POST", "/things", `{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, nil, 400, "nested deeper"},
		{"a form", "POST", "/things", `a=b`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 400, "must be application/json"},
		{"compressed", "POST", "/things", `{}`, []string{"Content-Encoding", "gzip"}, 400, "must not be compressed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(a, tt.verb, tt.path, tt.body, tt.header...)
			f := failureOf(t, w)
			if w.Code != tt.code || f.Code != tt.code || !strings.Contains(f.Message, tt.msg) {
				t.Errorf("%.20s %s: %d with %+v, want %d in both and a message with %q", tt.verb, tt.path, w.Code, f, tt.code, tt.msg)
			}
			id := w.Header().Get("X-Request-Id")
			if id == "" {
				t.Error("no X-Request-Id")
			}
			if tt.code == 500 && !strings.Contains(f.Message, id) {
				t.Errorf("message %q does not name request %s", f.Message, id)
			}
		})
	}
}

func TestLongBody(t *testing.T) {
	a, _ := newAPI(t, api.Options{})
	w := ask(a, "POST", "/long", `{"name":"`+strings.Repeat("x", 3<<19)+`"}`)
	if w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != "1572864" {
		t.Errorf("%d %s, want 200 and every byte of the body", w.Code, w.Body)
	}
}

func TestAllow(t *testing.T) {
	a, _ := newAPI(t, api.Options{})
	if got := ask(a, "PATCH", "/things", "").Header().Get("Allow"); got != "POST" {
		t.Errorf("Allow of /things is %q, want POST", got)
	}
}

func TestKeys(t *testing.T) {
	a, _ := newAPI(t, api.Options{})
	want := map[string]string{"team": "team1", "key": goodKey}
	for name, header := range map[string][]string{
		"header":       nil,
		"bearer":       {"X-API-KEY", "", "Authorization", "Bearer " + goodKey},
		"bearer lower": {"X-API-KEY", "", "Authorization", "bearer  " + goodKey},
		"both":         {"Authorization", "Bearer something"},
	} {
		w := ask(a, "GET", "/who", "", header...)
		var got map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %d %s, want %v", name, w.Code, w.Body, want)
		}
	}
	if w := ask(a, "GET", "/open", "", "X-API-KEY", "nonsense"); w.Code != 200 {
		t.Errorf("a row for anyone asked for the key: %d %s", w.Code, w.Body)
	}
}

func TestDecodeTolerates(t *testing.T) {
	a, _ := newAPI(t, api.Options{})
	for name, tt := range map[string]struct {
		body, contentType, want string
	}{
		"unknown fields": {`{"name":"x","new":{"a":[1,{"a":2}]}}`, "application/json", `{"name":"x"}`},
		"null":           {`{"name":null,"count":null,"inner":null}`, "application/json", `{}`},
		"charset":        {`{"count":3}`, "application/json; charset=utf-8", `{"count":3}`},
		"no type":        {` {"list":["a","a"]} `, "", `{"list":["a","a"]}`},
		"same names in two objects": {
			`{"name":"a","tags":{"name":"b"},"inner":{"on":true}}`, "application/merge-patch+json",
			`{"name":"a","tags":{"name":"b"},"inner":{"on":true}}`,
		},
	} {
		w := ask(a, "POST", "/things", tt.body, "Content-Type", tt.contentType)
		if got := strings.TrimSpace(w.Body.String()); w.Code != 201 || got != tt.want {
			t.Errorf("%s: %d %s, want 201 %s", name, w.Code, got, tt.want)
		}
	}
	if w := ask(a, "DELETE", "/things/1", ""); w.Code != 204 || w.Body.Len() > 0 {
		t.Errorf("without the optional body: %d %q, want 204 and nothing", w.Code, w.Body)
	}
	if w := ask(a, "DELETE", "/things/1", "{"); w.Code != 400 {
		t.Errorf("with a bad optional body: %d, want 400", w.Code)
	}
}

func TestLog(t *testing.T) {
	a, buf := newAPI(t, api.Options{})
	ask(a, "GET", "/open", "")                      // DEBUG: a read
	ask(a, "POST", "/things", `{}`)                 // INFO: a change
	ask(a, "POST", "/things", ``)                   // DEBUG: nothing changed
	ask(a, "GET", "/plain-error", "")               // ERROR with the cause
	ask(a, "GET", "/hidden", "")                    // WARN with the cause
	ask(a, "GET", "/late", "")                      // ERROR: the answer had been sent
	ask(a, "GET", "/panic", "")                     // ERROR with the stack
	ask(a, "GET", "/"+strings.Repeat("x", 5e3), "") // DEBUG, bounded

	want := []struct{ level, err string }{
		{"DEBUG", ""},
		{"INFO", ""},
		{"DEBUG", "needs a body"},
		{"ERROR", "disk /dev/sda is on fire"},
		{"WARN", "node 7 is gone"},
		{"ERROR", "too late"},
		{"ERROR", "api_test.go"},
		{"DEBUG", "there is no"},
	}
	lines := buf.lines(t)
	if len(lines) != len(want) {
		t.Fatalf("%d log lines, want one for each of %d requests: %v", len(lines), len(want), lines)
	}
	for i, w := range want {
		err, _ := lines[i]["err"].(string)
		if lines[i]["level"] != w.level || !strings.Contains(err, w.err) {
			t.Errorf("line %d is %v, want level %s and an error with %q", i, lines[i], w.level, w.err)
		}
		if len(fmt.Sprint(lines[i]["path"])) > 200 {
			t.Errorf("line %d has a path of %d bytes", i, len(fmt.Sprint(lines[i]["path"])))
		}
	}
	if lines[1]["team"] != "team1" || lines[1]["key"] != "key1" {
		t.Errorf("the change is logged without who made it: %v", lines[1])
	}
	for _, l := range lines {
		if strings.Contains(fmt.Sprint(l), goodKey) {
			t.Errorf("the key is in the log: %v", l)
		}
	}
}

func TestRate(t *testing.T) {
	a, _ := newAPI(t, api.Options{Rate: 0.5, Burst: 3})
	for i := range 3 {
		if w := ask(a, "GET", "/who", ""); w.Code != 200 {
			t.Fatalf("request %d: %d, want 200", i, w.Code)
		}
	}
	w := ask(a, "GET", "/who", "")
	if f := failureOf(t, w); w.Code != 429 || f.Code != 429 {
		t.Errorf("request beyond the burst: %d %+v, want 429", w.Code, f)
	}
	if s, err := strconv.Atoi(w.Header().Get("Retry-After")); err != nil || s < 1 || s > 2 {
		t.Errorf("Retry-After is %q, want 1 or 2", w.Header().Get("Retry-After"))
	}
	if w := ask(a, "GET", "/open", ""); w.Code != 200 {
		t.Errorf("a row for anyone: %d, want 200", w.Code)
	}
	if got := ask(a, "GET", "/exhausted", "").Header().Get("Retry-After"); got != "" {
		t.Errorf("Retry-After %q on a quota, where waiting does not help", got)
	}
	unlimited, _ := newAPI(t, api.Options{})
	for i := range 2000 {
		if w := ask(unlimited, "GET", "/who", ""); w.Code != 200 {
			t.Fatalf("request %d without a limit: %d", i, w.Code)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	a, _ := newAPI(t, api.Options{Metrics: reg})
	ask(a, "DELETE", "/things/1", "")
	ask(a, "DELETE", "/things/2", "")
	ask(a, "GET", "/who", "", "X-API-KEY", "x")
	for i := range 5 {
		ask(a, "GET", fmt.Sprintf("/random-%d", i), "")
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("gathered %v, %v, want one family", families, err)
	}
	got := map[string]uint64{}
	for _, m := range families[0].GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		got[strings.Join(labels, " ")] = m.GetHistogram().GetSampleCount()
	}
	want := map[string]uint64{
		"route=/things/{id} status=204 verb=DELETE": 2,
		"route=/who status=401 verb=GET":            1,
		"route=unmatched status=404 verb=":          5,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests counted (-want +got):\n%s", diff)
	}
	if _, err := api.New(slog.New(slog.DiscardHandler), oneKey{}, nil, api.Options{Metrics: reg}); err == nil {
		t.Error("New with metrics that are registered already: no error")
	}
}

func TestTable(t *testing.T) {
	ok := func(http.ResponseWriter, *http.Request, soulbox.Actor) error { return nil }
	for name, rows := range map[string][]api.Route{
		"no permission":      {{Verb: "GET", Path: "/a", Handle: ok}},
		"unknown permission": {{Verb: "GET", Path: "/a", Handle: ok, Permission: "everything"}},
		"no verb":            {{Path: "/a", Handle: ok, Permission: api.Anyone}},
		"no path":            {{Verb: "GET", Handle: ok, Permission: api.Anyone}},
		"no handler":         {{Verb: "GET", Path: "/a", Permission: api.Anyone}},
		"twice":              {{Verb: "GET", Path: "/a/{x}", Handle: ok, Permission: api.Anyone}, {Verb: "GET", Path: "/a/{y}", Handle: ok, Permission: api.Anyone}},
		"bad pattern":        {{Verb: "GET", Path: "/a/{", Handle: ok, Permission: api.Anyone}},
	} {
		if _, err := api.New(slog.New(slog.DiscardHandler), oneKey{}, rows, api.Options{}); err == nil {
			t.Errorf("%s: New took the table", name)
		}
	}
}

func TestStatus(t *testing.T) {
	for kind, want := range map[soulbox.Kind]int{
		soulbox.Internal: 500, soulbox.Invalid: 400, soulbox.Unauthenticated: 401, soulbox.Forbidden: 403,
		soulbox.NotFound: 404, soulbox.Conflict: 409, soulbox.TooLarge: 413, soulbox.Exhausted: 429, soulbox.Unavailable: 503,
	} {
		if got := api.Status(fmt.Errorf("deep: %w", soulbox.Errorf(kind, "x"))); got != want {
			t.Errorf("Status of kind %d is %d, want %d", kind, got, want)
		}
	}
	if got := api.Status(errors.New("x")); got != 500 {
		t.Errorf("Status of an error without a kind is %d, want 500", got)
	}
}

// serve starts a real server, for what only a connection shows.
func serve(t *testing.T, h http.Handler, tune func(*http.Server)) (addr string) {
	t.Helper()
	s := api.NewServer(h, slog.New(slog.DiscardHandler))
	if tune != nil {
		tune(s)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSlowHeaders(t *testing.T) {
	a, _ := newAPI(t, api.Options{})
	addr := serve(t, a, func(s *http.Server) {
		if s.ReadHeaderTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 || s.ReadTimeout != 0 || s.WriteTimeout != 0 {
			t.Errorf("NewServer: %+v, want limits on headers and idling and none on streams", s)
		}
		s.ReadHeaderTimeout = 200 * time.Millisecond
	})
	c := dial(t, addr)
	fmt.Fprintf(c, "GET /open HTTP/1.1\r\nHost: x\r\nX-A: ")
	if b, err := io.ReadAll(c); err != nil {
		t.Errorf("the server holds on to half a header: %q, %v", b, err)
	}
}

func TestChunkedAndKeepAlive(t *testing.T) {
	a, _ := newAPI(t, api.Options{})
	c := dial(t, serve(t, a, nil))
	in := bufio.NewReader(c)
	for i := range 3 {
		fmt.Fprintf(c, "POST /things HTTP/1.1\r\nHost: x\r\nX-API-KEY: %s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"nam\r\n6\r\ne\":\"x\"\r\n1\r\n}\r\n0\r\n\r\n", goodKey)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		b, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusCreated || string(b) != "{\"name\":\"x\"}\n" {
			t.Errorf("request %d: %d %q, want 201 and the thing", i, res.StatusCode, b)
		}
	}
}

// TestHugeBody sends more than anyone reads: the answer comes all the same, and
// early.
func TestHugeBody(t *testing.T) {
	a, _ := newAPI(t, api.Options{})
	addr := serve(t, a, nil)
	for name, tt := range map[string]struct {
		key  string
		code int
	}{"too large": {goodKey, 413}, "not even let in": {"wrong", 401}} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, addr)
			go func() {
				fmt.Fprintf(c, "POST /things HTTP/1.1\r\nHost: x\r\nX-API-KEY: %s\r\nContent-Length: 104857600\r\n\r\n{\"name\":\"", tt.key)
				chunk := bytes.Repeat([]byte("x"), 64<<10)
				for range 1600 {
					if _, err := c.Write(chunk); err != nil {
						return
					}
				}
			}()
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != tt.code {
				t.Errorf("status %d, want %d", res.StatusCode, tt.code)
			}
		})
	}
}

func TestCutOffBody(t *testing.T) {
	a, buf := newAPI(t, api.Options{})
	c := dial(t, serve(t, a, nil))
	fmt.Fprintf(c, "POST /upload HTTP/1.1\r\nHost: x\r\nX-API-KEY: %s\r\nContent-Length: 1000\r\n\r\nhalf", goodKey)
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(c) // until the server has closed it, after the handler
	lines := buf.lines(t)
	if len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0]["err"]), "the body ended early") {
		t.Errorf("log of a cut off upload: %v, want one line with the reason", lines)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{}`, `{"name":"x","count":3,"tags":{"a":"b"},"inner":{"on":true},"list":["a"]}`, `{"a":{"a":[{"a":1},{"a":2}]}}`, `{"a":1,"a":2}`, `[]`, `{}{}`, "{\"\\u0061\":1,\"a\":2}"} {
		f.Add(s)
	}
	a, err := api.New(slog.New(slog.DiscardHandler), oneKey{}, routes(), api.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		w := ask(a, "POST", "/things", body)
		switch w.Code {
		case 201:
			if !json.Valid([]byte(body)) {
				t.Errorf("%q is not JSON and was taken", body)
			}
		case 400, 413:
			if f := failureOf(t, w); f.Code != w.Code || f.Message == "" || len(f.Message) > 1000 {
				t.Errorf("%q: %d with %+v", body, w.Code, f)
			}
		default:
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}
