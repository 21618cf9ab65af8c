package native_test

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
	"github.com/soulbox/soulbox/api/native"
	"github.com/soulbox/soulbox/store/sqlite"
	"github.com/soulbox/soulbox/template"
	"github.com/soulbox/soulbox/template/buildkit"
)

// The tests in this file have the real register of templates behind the API, on
// the real store. Only what runs programs is not there: builds are made by a
// workshop, which does as the lines of a Dockerfile say.

// A workshop stands for BuildKit. It knows these lines:
//
//	RUN install NAME VERSION   a package that is in the image then
//	RUN fail                   fails
//	RUN wait                   waits until it is let go on
//	ENV NAME=VALUE, EXPOSE PORT
type workshop struct {
	goOn chan struct{}

	mu    sync.Mutex
	built int                              // +checklocks:mu
	jobs  map[soulbox.BuildID]buildkit.Job // +checklocks:mu
}

// Lint finds a line without a word that it knows, and the lack of FROM.
func (*workshop) Lint(_ context.Context, dockerfile string) ([]buildkit.Problem, error) {
	if !strings.HasPrefix(dockerfile, "FROM ") {
		return []buildkit.Problem{{Message: "no build stage in current context", Remedy: "begin with FROM and an image", Fatal: true}}, nil
	}
	n := 0
	for line := range strings.Lines(dockerfile) {
		n++
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "FROM", "RUN", "ENV", "EXPOSE", "COPY", "":
		default:
			return []buildkit.Problem{{Line: n, Message: "unknown instruction: " + word, Remedy: "correct the line", Fatal: true}}, nil
		}
	}
	return nil, nil
}

func (w *workshop) Build(ctx context.Context, job buildkit.Job, say func(soulbox.BuildLine)) (buildkit.Result, error) {
	w.mu.Lock()
	w.built++
	res := buildkit.Result{Image: fmt.Sprintf("%064x", w.built), User: "user", Workdir: "/home/user", Env: map[string]string{"PATH": "/bin"}}
	if w.jobs == nil {
		w.jobs = map[soulbox.BuildID]buildkit.Job{}
	}
	w.jobs[job.ID] = job
	w.mu.Unlock()
	res.Facts.Distribution, res.Facts.Bytes, res.Facts.Layers = "Debian GNU/Linux 12 (bookworm)", 120*soulbox.MiB, 3
	if job.Recipe.Context != "" {
		if _, err := job.Uploads(ctx, job.Recipe.Context); err != nil {
			return res, err
		}
	}
	step := 0
	for line := range strings.Lines(job.Recipe.Dockerfile) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		name, head := "base", "[base] "
		if words[0] != "FROM" {
			step++
			name, head = fmt.Sprint(step), fmt.Sprintf("[builder %d] ", step)
		}
		say(soulbox.BuildLine{Level: "info", Step: name, Message: head + line})
		switch {
		case words[0] == "FROM":
			res.Facts.Base = words[1] + "@sha256:" + strings.Repeat("12", 32)
		case words[0] == "ENV":
			k, v, _ := strings.Cut(words[1], "=")
			res.Env[k] = v
		case words[0] == "EXPOSE":
			res.Facts.Ports = append(res.Facts.Ports, words[1])
		case line == "RUN fail":
			return res, &buildkit.StepError{BuildFailure: soulbox.BuildFailure{Message: "the command ended with exit code 1", Step: step}}
		case line == "RUN wait":
			select {
			case <-w.goOn:
			case <-ctx.Done():
				return res, context.Cause(ctx)
			}
		case len(words) == 4 && words[1] == "install":
			res.Facts.Packages = append(res.Facts.Packages, soulbox.Package{Manager: "dpkg", Name: words[2], Version: words[3]})
		}
	}
	return res, nil
}

// store says that every image is there.
type imageStore struct{}

func (imageStore) Pack(context.Context, string, string, time.Time) (image, user string, err error) {
	return "", "", soulbox.Errorf(soulbox.Unavailable, "this test packs nothing")
}
func (imageStore) Stale(context.Context, []string) ([]string, error) { return nil, nil }
func (imageStore) Unpack(context.Context, string, string) error      { return nil }
func (imageStore) Retain(context.Context, []string) error            { return nil }

// Archive gives every image a tree of nothing.
func (imageStore) Archive(_ context.Context, _ string, w io.Writer) error {
	return tar.NewWriter(w).Close()
}

// A shop is the API with the real register behind it.
type shop struct {
	http.Handler

	workshop *workshop
	registry *template.Registry
	dir      string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	limits := soulbox.Limits{Sandboxes: 10, Timeout: time.Hour, Memory: 8 * soulbox.GiB, CPUs: 8}
	for _, team := range []*soulbox.Team{{ID: "ours", Name: "Ours", Slug: "ours", Limits: limits}, {ID: "theirs", Name: "Theirs", Slug: "theirs", Limits: limits}} {
		if err := db.InsertTeam(t.Context(), team); err != nil {
			t.Fatal(err)
		}
	}
	s := &shop{workshop: &workshop{goOn: make(chan struct{})}, dir: dir}
	s.registry, err = template.Open(template.Options{
		Log: slog.New(slog.DiscardHandler), Store: db, Packer: imageStore{}, Engine: s.workshop, Dir: filepath.Join(dir, "work"), BuildDir: filepath.Join(dir, "builds"),
		Defaults: soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: soulbox.GiB, PIDs: 100}, MaxUploads: 2 * soulbox.MiB, Allowed: []soulbox.Isolation{soulbox.Runc},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.registry.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.registry.Close(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.Handler, err = api.New(slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})), &world{}, native.TemplateRoutes(s.registry, s.registry), api.Options{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// get asks and reads the answer into what into points to.
func (s *shop) get(t *testing.T, key, verb, path, body string, code int, into any) {
	t.Helper()
	res := ask(s, verb, path, body, key)
	if res.Code != code {
		t.Fatalf("%s %s: %d %s, want %d", verb, path, res.Code, res.Body, code)
	}
	if into != nil {
		if err := json.Unmarshal(res.Body.Bytes(), into); err != nil {
			t.Fatalf("%s %s: %v", verb, path, err)
		}
	}
}

type builtAnswer struct {
	ID       string
	State    string
	Version  string
	Position int
	Failure  *struct{ Message, Step string }
	Recipe   *struct{ Dockerfile string }
}

// start starts a build of a Dockerfile that comes in a context.
func (s *shop) start(t *testing.T, key, name, query, text string) string {
	t.Helper()
	var out struct{ Build builtAnswer }
	s.get(t, key, "POST", "/v1/templates/"+name+"/builds?"+query, tarOf(t, "Dockerfile", text, "file", "x"), 202, &out)
	return out.Build.ID
}

// build builds one to its end.
func (s *shop) build(t *testing.T, key, name, query, text string) builtAnswer {
	t.Helper()
	id := s.start(t, key, name, query, text)
	name, _, _ = strings.Cut(name, ":")
	return s.wait(t, key, name, id)
}

func (s *shop) wait(t *testing.T, key, name, id string) builtAnswer {
	t.Helper()
	res := ask(s, "GET", "/v1/templates/"+name+"/builds/"+id+"/events", "", key)
	data := readEvents(t, res.Body.String())
	if res.Code != 200 || len(data) == 0 {
		t.Fatalf("events: %d %s", res.Code, res.Body)
	}
	var last struct{ Build builtAnswer }
	if err := json.Unmarshal([]byte(data[len(data)-1]), &last); err != nil || last.Build.ID != id {
		t.Fatalf("the last event is %s, %v", data[len(data)-1], err)
	}
	return last.Build
}

func TestRegisterBuilds(t *testing.T) {
	s := newShop(t)
	first := s.build(t, "ours", "mine", "start=&tag=stable&tag=default&cpus=4", "FROM debian:12\nRUN install bash 5.2\nENV A=1\n")
	if first.State != "ready" || first.Version != "1.0.0" {
		t.Fatalf("the first build: %+v", first)
	}
	s.workshop.mu.Lock()
	hash := s.workshop.jobs[soulbox.BuildID(first.ID)].Recipe.Context
	s.workshop.mu.Unlock()
	if there, err := s.registry.HasUpload(t.Context(), "ours", "", hash); there || err != nil {
		t.Errorf("the context of a build that is over is there: %v, %v", there, err)
	}
	second := s.build(t, "ours", "mine", "isolation=runc", "FROM debian:12\nRUN install bash 5.2\nRUN install curl 8\nENV A=2\nEXPOSE 80/tcp\n")
	if second.Version != "1.1.0" {
		t.Errorf("with a package more: %s, want 1.1.0", second.Version)
	}
	third := s.build(t, "ours", "mine:next", "bump=major", "FROM debian:12\nRUN install bash 5.2\nRUN install curl 8\nENV A=2\nEXPOSE 80/tcp\n")
	if third.Version != "2.0.0" {
		t.Errorf("as somebody said: %s, want 2.0.0", third.Version)
	}
	broken := s.build(t, "ours", "mine", "", "FROM debian:12\nRUN fail\n")
	if broken.State != "error" || broken.Failure == nil || broken.Failure.Step != "1" || broken.Failure.Message != "the command ended with exit code 1" {
		t.Errorf("one that fails: %+v", broken)
	}
	var info struct {
		Version, Isolation, Build string
		CPUs                      int
		Tags                      []struct{ Tag, Build string }
	}
	s.get(t, "ours", "GET", "/v1/templates/mine", "", 200, &info)
	if info.Version != "1.1.0" || info.CPUs != 4 || info.Isolation != "runc" || info.Build != second.ID || len(info.Tags) != 3 {
		t.Errorf("the template: %+v", info)
	}
	var versions struct {
		Versions []struct {
			Version, Build, Base, Deprecated string
			Tags                             []string
			CPUs                             int
		}
	}
	s.get(t, "ours", "GET", "/v1/templates/mine/versions", "", 200, &versions)
	if v := versions.Versions; len(v) != 3 || v[0].Version != "2.0.0" || !cmp.Equal(v[0].Tags, []string{"next"}) || !cmp.Equal(v[2].Tags, []string{"stable"}) || !strings.HasPrefix(v[2].Base, "debian:12@sha256:") || v[2].CPUs != 4 {
		t.Errorf("versions: %+v", v)
	}
	var diff struct {
		Bump, Recipe string
		Packages     []struct{ Kind, Name, After string }
		Env, Ports   []struct{ Kind, Name, Before, After string }
	}
	s.get(t, "ours", "GET", "/v1/templates/mine/versions/stable/diff/1.1", "", 200, &diff)
	if diff.Bump != "minor" || len(diff.Packages) != 1 || diff.Packages[0].Name != "curl" || len(diff.Env) != 1 || diff.Env[0].After != "2" || len(diff.Ports) != 1 || !strings.Contains(diff.Recipe, "\n+RUN install curl 8\n") {
		t.Errorf("differences: %+v", diff)
	}
	var back struct{ Version string }
	s.get(t, "ours", "POST", "/v1/templates/mine/rollback", "", 200, &back)
	if back.Version != "1.0.0" {
		t.Errorf("rolled back to %s, want 1.0.0", back.Version)
	}
	wantFailure(t, ask(s, "POST", "/v1/templates/mine/rollback", "", "ours"), 409, "no version before 1.0.0")
	s.get(t, "ours", "POST", "/v1/templates/mine/promote", `{"to":"next"}`, 200, &back)
	s.get(t, "ours", "PUT", "/v1/templates/mine/versions/1.1.0/deprecation", `{"reason":"bad"}`, 200, nil)
	s.get(t, "ours", "POST", "/v1/templates/mine/rollback", "", 200, &back)
	if back.Version != "1.0.0" {
		t.Errorf("rolled back to %s, want 1.0.0, because 1.1.0 is deprecated", back.Version)
	}
	s.get(t, "ours", "DELETE", "/v1/templates/mine/tags/next", "", 204, nil)
	wantFailure(t, ask(s, "DELETE", "/v1/templates/mine/tags/next", "", "ours"), 404, "tag 'next' does not exist for template 'mine'")
	wantFailure(t, ask(s, "POST", "/v1/templates/mine/promote", `{"to":"next"}`, "ours"), 404, "tag 'next' does not exist")
	wantFailure(t, ask(s, "POST", "/v1/templates/mine/promote", `{"to":"3"}`, "ours"), 404, "no version 3")
	wantFailure(t, ask(s, "POST", "/v1/templates/mine/promote", `{"to":"`+broken.ID+`"}`, "ours"), 404, "")
	wantFailure(t, ask(s, "DELETE", "/v1/templates/mine/tags/default", "", "ours"), 400, "cannot be removed")
	var builds struct {
		Builds []builtAnswer
		Next   string
	}
	s.get(t, "ours", "GET", "/v1/templates/mine/builds?limit=3", "", 200, &builds)
	if len(builds.Builds) != 3 || builds.Next == "" || builds.Builds[0].ID != broken.ID {
		t.Errorf("builds: %+v", builds)
	}
	s.get(t, "ours", "GET", "/v1/templates/mine/builds?limit=3&cursor="+builds.Next, "", 200, &builds)
	if len(builds.Builds) != 1 || builds.Builds[0].ID != first.ID {
		t.Errorf("the next page: %+v", builds)
	}
	s.get(t, "ours", "GET", "/v1/templates/mine/builds?state=error", "", 200, &builds)
	if len(builds.Builds) != 1 {
		t.Errorf("those that failed: %+v", builds)
	}
	var facts struct {
		Version, Base, Distribution string
		Packages                    []struct{ Name string }
		Env                         map[string]string
	}
	s.get(t, "ours", "GET", "/v1/templates/mine/facts?at=1.1", "", 200, &facts)
	if facts.Version != "1.1.0" || len(facts.Packages) != 2 || facts.Env["A"] != "2" {
		t.Errorf("facts: %+v", facts)
	}
	var doc struct {
		SPDXVersion string `json:"spdxVersion"`
		Packages    []struct{ Name string }
	}
	s.get(t, "ours", "GET", "/v1/templates/mine/sbom?at=1.1", "", 200, &doc)
	if doc.SPDXVersion != "SPDX-2.3" || len(doc.Packages) < 2 {
		t.Errorf("SBOM: %+v", doc)
	}
	var page struct {
		Lines []struct{ Message, Level string }
		Next  int
	}
	s.get(t, "ours", "GET", "/v1/templates/mine/builds/"+broken.ID+"/log?level=error", "", 200, &page)
	if len(page.Lines) != 1 || page.Lines[0].Message != "the command ended with exit code 1" || page.Next != 1 {
		t.Errorf("errors in the log: %+v", page)
	}
}

// TestRegisterRefuses sends what nothing may be made of.
func TestRegisterRefuses(t *testing.T) {
	s := newShop(t)
	for name, tt := range map[string]struct {
		query, text string
		code        int
		says        string
	}{
		"unknown instruction": {"", "FROM debian\nRUM true\n", 400, "Dockerfile line 2: "},
		"no FROM":             {"", "RUN true\n", 400, "Dockerfile"},
		"too many CPUs":       {"cpus=9", "FROM debian\n", 400, "1 to 8 CPUs"},
		"too much memory":     {"memory_mib=9000", "FROM debian\n", 400, "MiB of memory"},
		"too little memory":   {"memory_mib=1", "FROM debian\n", 400, "MiB of memory"},
	} {
		wantFailure(t, ask(s, "POST", "/v1/templates/mine/builds?"+tt.query, tarOf(t, "Dockerfile", tt.text), "ours"), tt.code, tt.says)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	for name, tar := range map[string]string{
		"cut off":          tarOf(t, "Dockerfile", dockerfile, "file", strings.Repeat("x", 9000))[:4000],
		"out of the tree":  tarOf(t, "Dockerfile", dockerfile, "../../etc/passwd", "root::0:0::/:/bin/sh\n"),
		"not a tar at all": strings.Repeat("no tar ", 200),
	} {
		res := askParts(s, "/v1/templates/mine/builds", "ours", "dockerfile", dockerfile, "context", tar)
		wantFailure(t, res, 400, "")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	var list struct{ Templates []struct{ Name string } }
	s.get(t, "ours", "GET", "/v1/templates", "", 200, &list)
	if len(list.Templates) != 0 {
		t.Errorf("templates were made: %+v", list)
	}
	wantFailure(t, ask(s, "POST", "/v1/templates/mine/builds?visibility=public&isolation=gvisor", tarOf(t, "Dockerfile", "FROM nosuch/template:latest\nCOPY --from=mine /x /x\n", "x", "y"), "nobody"), 401, "")
}

// TestRegisterContexts builds more often than a team could if the contexts of its
// builds stayed, whatever becomes of them.
func TestRegisterContexts(t *testing.T) {
	s := newShop(t)
	for i, text := range []string{"FROM debian\n", "FROM debian\nRUN fail\n", "FROM debian\nRUN wait\n", "FROM debian\nRUN wait\nRUN true\n", "FROM debian\nRUN true\n"} {
		var out struct{ Build builtAnswer }
		s.get(t, "ours", "POST", "/v1/templates/mine/builds", tarOf(t, "Dockerfile", text, "big", strings.Repeat("x", 900<<10)), 202, &out)
		switch i {
		case 2:
			s.get(t, "ours", "POST", "/v1/templates/mine/builds/"+out.Build.ID+"/cancel", "", 200, nil)
		case 3: // the next one takes its place
			continue
		}
		s.wait(t, "ours", "mine", out.Build.ID)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "builds/uploads/*/*"))
	if err != nil || len(left) != 0 {
		t.Errorf("when all builds are over there is %v, %v", left, err)
	}
}

// TestRegisterEvents follows a build while it goes on, on a real connection, and
// cancels it.
func TestRegisterEvents(t *testing.T) {
	s := newShop(t)
	server := httptest.NewServer(s)
	defer server.Close()
	id := s.start(t, "ours", "mine", "", "FROM debian\nRUN wait\nRUN true\n")
	next := s.start(t, "ours", "other", "", "FROM debian\n")
	var waits builtAnswer
	s.get(t, "ours", "GET", "/v1/templates/other/builds/"+next, "", 200, &waits)
	if waits.State != "waiting" || waits.Position != 1 || waits.Recipe == nil || waits.Recipe.Dockerfile != "FROM debian\n" {
		t.Errorf("the second build: %+v", waits)
	}
	open := func(query string) (*bufio.Reader, func()) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v1/templates/mine/builds/"+id+"/events"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", "ours")
		req.Header.Set("Accept", "application/x-ndjson")
		res, err := (&http.Client{Timeout: time.Minute}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(res.Body), func() { res.Body.Close() }
	}
	read := func(in *bufio.Reader) (e struct {
		Line *struct {
			ID      int
			Message string
		}
		Build *builtAnswer
	},
	) {
		for {
			text, err := in.ReadBytes('\n')
			if err != nil {
				t.Fatalf("the stream ended: %q, %v", text, err)
			}
			if len(text) > 1 {
				if err := json.Unmarshal(text, &e); err != nil {
					t.Fatal(err)
				}
				return e
			}
		}
	}
	in, leave := open("")
	last := 0
	for {
		e := read(in)
		if e.Line == nil || e.Line.ID != last+1 {
			t.Fatalf("%+v comes after line %d", e, last)
		}
		if last = e.Line.ID; strings.HasSuffix(e.Line.Message, "RUN wait") {
			break
		}
	}
	leave()
	in, leave = open(fmt.Sprint("?last_event_id=", last))
	defer leave()
	s.workshop.goOn <- struct{}{}
	if e := read(in); e.Line == nil || e.Line.ID != last+1 || !strings.HasSuffix(e.Line.Message, "RUN true") {
		t.Errorf("behind line %d comes %+v", last, e)
	}
	for e := read(in); ; e = read(in) {
		if e.Build != nil {
			if e.Build.State != "ready" || e.Build.Version != "1.0.0" {
				t.Errorf("the build is %+v", e.Build)
			}
			break
		}
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
		t.Errorf("behind the end comes %q, %v", rest, err)
	}
	if b := s.wait(t, "ours", "other", next); b.State != "ready" {
		t.Errorf("the second build is %+v", b)
	}

	// Cancelled, and what was not there when it was over.
	id = s.start(t, "ours", "mine", "", "FROM debian\nRUN wait\n")
	var b builtAnswer
	s.get(t, "ours", "POST", "/v1/templates/mine/builds/"+id+"/cancel", "", 200, &b)
	if b.State != "error" || b.Failure == nil || !strings.Contains(b.Failure.Message, "cancelled") {
		t.Errorf("a build that was cancelled: %+v", b)
	}
	wantFailure(t, ask(s, "POST", "/v1/templates/mine/builds/"+id+"/cancel", "", "ours"), 409, "is over")
	res := ask(s, "GET", "/v1/templates/mine/builds/"+id+"/events", "", "ours")
	if data := readEvents(t, res.Body.String()); len(data) < 2 || !strings.Contains(data[len(data)-2], "cancelled") {
		t.Errorf("its events: %q", data)
	}

	// A newer one of the same name takes its place.
	id = s.start(t, "ours", "mine", "", "FROM debian\nRUN wait\n")
	newer := s.build(t, "ours", "mine", "", "FROM debian\nRUN true\n")
	s.get(t, "ours", "GET", "/v1/templates/mine/builds/"+id, "", 200, &b)
	if newer.State != "ready" || b.State != "error" || !strings.Contains(b.Failure.Message, "newer build") {
		t.Errorf("the newer one is %+v, the older %+v", newer, b)
	}

	// A server that stops sends watchers away, and the build goes on later.
	id = s.start(t, "ours", "mine", "", "FROM debian\nRUN wait\n")
	in, leave2 := open("")
	defer leave2()
	for e := read(in); !strings.HasSuffix(e.Line.Message, "RUN wait"); e = read(in) {
	}
	s.registry.Disconnect()
	if rest, err := io.ReadAll(in); err != nil || strings.Contains(string(rest), `"build"`) {
		t.Errorf("a server that stops says %q, %v", rest, err)
	}
}

func TestRegisterMarket(t *testing.T) {
	s := newShop(t)
	s.build(t, "ours", "hello", "", "FROM debian\nRUN install nginx 1.27\n")
	s.build(t, "ours", "secret", "", "FROM debian\nRUN install nginx 1.27\n")
	s.get(t, "ours", "PATCH", "/v1/templates/hello", `{"description":"A small web server","licence":"MIT","categories":["web"],"keywords":["http","c++"]}`, 200, nil)
	s.get(t, "ours", "PUT", "/v1/templates/hello/readme", "# Hello\n\nIt greets penguins.\n", 204, nil)
	type listed struct {
		ID, Name, Version string
		Public            bool
		Listing           struct {
			Namespace, Description, Licence string
			Categories, Keywords            []string
			Stars                           float64
			Ratings, Mine                   int
		}
	}
	type found struct {
		Templates []listed
		Total     int
	}
	names := func(key, query string) string {
		var f found
		s.get(t, key, "GET", "/v1/templates?"+query, "", 200, &f)
		var list []string
		for _, t := range f.Templates {
			list = append(list, t.Listing.Namespace+"/"+t.Name)
		}
		if f.Total != len(list) {
			t.Errorf("%s finds %d, and shows %v", query, f.Total, list)
		}
		return strings.Join(list, " ")
	}
	if got := names("theirs", "q=web"); got != "" {
		t.Errorf("a stranger finds %q before anything was published", got)
	}
	s.get(t, "ours", "POST", "/v1/templates/hello/publish", "", 200, nil)
	for query, want := range map[string]string{
		"q=web+server": "ours/hello", "q=penguins": "ours/hello", "category=web": "ours/hello", "package=nginx": "ours/hello", "package=dpkg:nginx&sort=name": "ours/hello",
		"package=pip:nginx": "", "q=cobol": "", "q=secret": "", "category=data": "", "mine=true": "", "limit=1": "ours/hello", "q=%22%27*(": "",
	} {
		if got := names("theirs", query); got != want {
			t.Errorf("a stranger searches %q and finds %q, want %q", query, got, want)
		}
	}
	if got := names("ours", "mine=true&sort=name"); got != "ours/hello ours/secret" {
		t.Errorf("its own team finds %q", got)
	}
	var counts struct {
		Categories []struct {
			Category  string
			Templates int
		}
	}
	s.get(t, "theirs", "GET", "/v1/categories", "", 200, &counts)
	if len(counts.Categories) != 1 || counts.Categories[0].Category != "web" || counts.Categories[0].Templates != 1 {
		t.Errorf("categories: %+v", counts)
	}
	res := ask(s, "GET", "/v1/templates/ours%2Fhello/readme", "", "theirs")
	if res.Code != 200 || res.Body.String() != "# Hello\n\nIt greets penguins.\n" {
		t.Errorf("the readme: %d %s", res.Code, res.Body)
	}
	one := func(verb, path, body string) (l listed) {
		t.Helper()
		s.get(t, "theirs", verb, "/v1/templates/ours%2Fhello"+path, body, 200, &l)
		return l
	}
	if l := one("PUT", "/rating", `{"stars":4}`).Listing; l.Stars != 4 || l.Ratings != 1 || l.Mine != 4 || l.Licence != "MIT" || !cmp.Equal(l.Keywords, []string{"http", "c++"}) {
		t.Errorf("after a rating: %+v", l)
	}
	if l := one("DELETE", "/rating", "").Listing; l.Stars != 0 || l.Ratings != 0 || l.Mine != 0 {
		t.Errorf("after it was taken back: %+v", l)
	}
	wantFailure(t, ask(s, "PUT", "/v1/templates/hello/rating", `{"stars":5}`, "ours"), 403, "your team's own")
	s.get(t, "theirs", "POST", "/v1/templates/ours%2Fhello/report", `{"reason":"it mines"}`, 204, nil)
	if all, err := s.registry.Reports(t.Context()); err != nil || len(all) != 1 || all[0].Reason != "it mines" || all[0].Team != "theirs" {
		t.Errorf("reports: %+v, %v", all, err)
	}
	var fork struct{ ID, Name, Version string }
	s.get(t, "theirs", "POST", "/v1/templates/ours%2Fhello/fork", `{"name":"mine","at":"1"}`, 201, &fork)
	if fork.Name != "mine" || fork.Version != "1.0.0" {
		t.Errorf("a fork: %+v", fork)
	}
	s.get(t, "ours", "POST", "/v1/templates/hello/unpublish", "", 200, nil)
	wantFailure(t, ask(s, "GET", "/v1/templates/ours%2Fhello", "", "theirs"), 404, "template 'ours/hello' not found")
	s.get(t, "theirs", "GET", "/v1/templates/mine/facts", "", 200, nil)
	s.get(t, "theirs", "DELETE", "/v1/templates/mine", "", 204, nil)
	s.get(t, "ours", "GET", "/v1/templates/hello/facts", "", 200, nil)
}

// TestRegisterReaders does what TestTemplateReaders does, with the real register
// behind it: what another team asks of a private template is answered, in every
// row and by every name, like what is asked of one that does not exist, and
// changes nothing.
func TestRegisterReaders(t *testing.T) {
	s := newShop(t)
	b := s.build(t, "ours", "mine", "", "FROM debian\nRUN install bash 5.2\n")
	s.build(t, "ours", "mine:old", "", "FROM debian\nRUN install bash 5.1\n")
	open := s.build(t, "ours", "open", "visibility=public", "FROM debian\n")
	var mine struct{ ID string }
	s.get(t, "ours", "GET", "/v1/templates/mine", "", 200, &mine)
	absent := strings.Map(func(r rune) rune { // an id of the same form
		if r == 'a' {
			return 'b'
		}
		return 'a'
	}, mine.ID)
	state := func() string {
		var all strings.Builder
		for _, name := range []string{"mine", "open"} {
			for _, path := range []string{"", "/builds", "/versions", "/tags", "/facts"} {
				all.WriteString(ask(s, "GET", "/v1/templates/"+name+path, "", "ours").Body.String())
			}
		}
		return all.String()
	}
	before := state()
	bodies := map[string]string{
		"PATCH /v1/templates/{template}": `{"description":"x","isolation":"runc"}`, "PUT /v1/templates/{template}/versions/{version}/deprecation": `{"reason":"x"}`,
		"POST /v1/templates/{template}/promote": `{"to":"1.0.0"}`, "PUT /v1/templates/{template}/rating": `{"stars":4}`, "POST /v1/templates/{template}/report": `{"reason":"x"}`,
		"POST /v1/templates/{template}/fork": `{"name":"copy"}`,
	}
	rows := 0
	for _, row := range native.TemplateRoutes(s.registry, nil) {
		name := row.String()
		if !strings.Contains(row.Path, "{template}") || row.Upload {
			continue
		}
		rows++
		as := func(template string) *httptest.ResponseRecorder {
			path := strings.NewReplacer("{template}", template, "{build}", b.ID, "{version}", "1.0.0", "{a}", "1.0.0", "{b}", "old", "{tag}", "old").Replace(row.Path)
			return ask(s, row.Verb, path, bodies[name], "theirs")
		}
		for hidden, none := range map[string]string{"mine": "none", "ours%2Fmine": "ours%2Fnone", mine.ID: absent} {
			got, want := as(hidden), as(none)
			plain := strings.NewReplacer(strings.ReplaceAll(none, "%2F", "/"), strings.ReplaceAll(hidden, "%2F", "/"))
			wantFailure(t, got, 404, "not found")
			if got.Code != want.Code || got.Body.String() != plain.Replace(want.Body.String()) {
				t.Errorf("%s of %s: %d %s, of one that does not exist: %d %s", name, hidden, got.Code, got.Body, want.Code, want.Body)
			}
			got.Header().Del("X-Request-Id")
			want.Header().Del("X-Request-Id")
			if diff := cmp.Diff(want.Header(), got.Header()); diff != "" {
				t.Errorf("%s of %s: the headers differ: %s", name, hidden, diff)
			}
		}
		// Of the public one no more than a stranger may.
		if res := as("ours%2Fopen"); row.Verb != "GET" && res.Code < 400 && !strings.Contains(row.Path, "/rating") && !strings.Contains(row.Path, "/report") && !strings.Contains(row.Path, "/fork") {
			t.Errorf("%s of a public template, by another team: %d %s", name, res.Code, res.Body)
		}
	}
	if rows < 25 {
		t.Errorf("%d rows were asked for", rows)
	}
	s.get(t, "theirs", "DELETE", "/v1/templates/ours%2Fopen/rating", "", 200, nil)
	if after := state(); after != before {
		t.Errorf("another team has changed something:\n%s", cmp.Diff(before, after))
	}
	// Nothing of how the public one was built, or of what only its team should see.
	var out strings.Builder
	for _, path := range []string{"", "/builds", "/versions", "/tags", "/facts", "/sbom"} {
		out.WriteString(ask(s, "GET", "/v1/templates/ours%2Fopen"+path, "", "theirs").Body.String())
	}
	if strings.Contains(out.String(), "FROM") || strings.Contains(out.String(), "recipe") {
		t.Errorf("a stranger sees %s", out.String())
	}
	wantFailure(t, ask(s, "GET", "/v1/templates/ours%2Fopen/builds/"+open.ID+"/log", "", "theirs"), 403, "")
	wantFailure(t, ask(s, "GET", "/v1/templates/ours%2Fopen/builds/"+open.ID+"/events", "", "theirs"), 403, "")
}
