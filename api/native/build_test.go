package native_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

const dockerfile = "FROM debian\nRUN true\n"

// tarOf packs names and texts in turn; a text of "/" makes a folder.
func tarOf(t testing.TB, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}
		if files[i+1] == "/" {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = io.WriteString(w, files[i+1])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

// partsOf makes a body of names and contents in turn.
func partsOf(parts ...string) (body, contentType string) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(parts); i += 2 {
		p, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + parts[i] + `"`}})
		if err == nil {
			_, _ = io.WriteString(p, parts[i+1])
		}
	}
	_ = w.Close()
	return b.String(), w.FormDataContentType()
}

// askParts sends a request in parts.
func askParts(h http.Handler, path, key string, parts ...string) *httptest.ResponseRecorder {
	body, kind := partsOf(parts...)
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("X-API-KEY", key)
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestBuildStarts(t *testing.T) {
	const path = "/v1/templates/mine/builds"
	context := tarOf(t, "./", "/", "./Dockerfile", dockerfile, "./app/main.py", "print()")
	plain := soulbox.Recipe{Dockerfile: dockerfile, Context: "context of ours", Args: map[string]string{}}
	everything := soulbox.BuildRequest{
		Team: "ours", Name: "mine", Tags: []string{"a", "v1.0", "b"}, Bump: soulbox.Major, Public: new(true), Isolation: new(soulbox.Runc),
		Size: soulbox.Size{CPUs: 4, Memory: 2 * soulbox.GiB, Disk: 20 * soulbox.GiB},
		Recipe: soulbox.Recipe{
			Dockerfile: dockerfile, Context: "context of ours", Target: "last", Args: map[string]string{"A": "1", "B": "x=y"}, Start: "serve --all", Ready: "curl localhost", Force: true,
		},
	}
	inParts := everything
	inParts.Secrets = map[string][]byte{"npm": []byte("hush")}
	inParts.Logins = map[string]soulbox.Login{"ghcr.io": {User: "ada", Password: "hush"}}
	inParts.Public = new(false)
	const request = `{"tags":["a","v1.0"],"bump":"major","dockerfile":"sub/../docker/File","target":"last","args":{"A":"1","B":"x=y"},"start":"serve --all","ready":"curl localhost","no_cache":true,
		"cpus":4,"memory_mib":2048,"disk_mib":20480,"isolation":"runc","visibility":"team","secrets":{"npm":"aHVzaA=="},"registries":{"ghcr.io":{"username":"ada","password":"hush"}}}`
	const query = "?tag=a&tag=v1.0&bump=major&dockerfile=docker/File&target=last&arg=A%3D1&arg=B%3Dx%3Dy&start=serve+--all&ready=curl+localhost&no_cache=1&cpus=4&memory_mib=2048&disk_mib=20480&isolation=runc&visibility=public"
	other := tarOf(t, "Dockerfile", "FROM other", "docker/File", "FROM first", "docker/File", dockerfile)
	for name, tt := range map[string]struct {
		path  string
		parts []string // with one, it is the body
		want  soulbox.BuildRequest
		tar   string
	}{
		"tar":               {path, []string{context}, soulbox.BuildRequest{Team: "ours", Name: "mine", Recipe: plain}, context},
		"tar, compressed":   {path, []string{zipped(context)}, soulbox.BuildRequest{Team: "ours", Name: "mine", Recipe: plain}, zipped(context)},
		"tar and a query":   {"/v1/templates/Mine:B/builds" + query, []string{other}, everything, other},
		"parts":             {"/v1/templates/mine:b/builds", []string{"request", request, "context", other}, inParts, other},
		"one part":          {path, []string{"context", context}, soulbox.BuildRequest{Team: "ours", Name: "mine", Recipe: soulbox.Recipe{Dockerfile: dockerfile, Context: "context of ours"}}, context},
		"only a Dockerfile": {path, []string{"dockerfile", dockerfile}, soulbox.BuildRequest{Team: "ours", Name: "mine", Recipe: soulbox.Recipe{Dockerfile: dockerfile}}, ""},
		"another Dockerfile": {
			"/v1/templates/mine:b/builds",
			[]string{"request", `{"tags":["b"]}`, "dockerfile", dockerfile, "context", "whatever it is"},
			soulbox.BuildRequest{Team: "ours", Name: "mine", Tags: []string{"b"}, Recipe: soulbox.Recipe{Dockerfile: dockerfile, Context: "context of ours"}},
			"whatever it is",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &shelf{problems: []soulbox.Problem{{Line: 2, Rule: "JSONArgsRecommended", Message: "a shell runs it", Remedy: "write [\"true\"]", URL: "https://example.com"}}}
			h := newTemplateAPI(t, s)
			var res *httptest.ResponseRecorder
			if len(tt.parts) == 1 {
				res = ask(h, "POST", tt.path, tt.parts[0], "ours")
			} else {
				res = askParts(h, tt.path, "ours", tt.parts...)
			}
			if res.Code != 202 {
				t.Fatalf("%d %s, want 202", res.Code, res.Body)
			}
			if diff := cmp.Diff(tt.want, s.asked); diff != "" {
				t.Errorf("the register was asked (-want +got):\n%s", diff)
			}
			if s.uploaded != tt.tar {
				t.Errorf("a context of %d bytes was taken in, want the %d of the tar", len(s.uploaded), len(tt.tar))
			}
			if name == "parts" {
				golden(t, "build-started", res.Body.Bytes())
			}
		})
	}
}

func TestBuildRefused(t *testing.T) {
	const path = "/v1/templates/mine/builds"
	context := tarOf(t, "Dockerfile", dockerfile)
	long := strings.Repeat("x", 256<<10)
	for name, tt := range map[string]struct {
		path  string
		parts []string // with one, it is the body
		code  int
		says  string
	}{
		"bad name":             {"/v1/templates/M%20M/builds", []string{context}, 400, "a name has 1 to 128"},
		"a namespace":          {"/v1/templates/theirs%2Fmine/builds", []string{context}, 400, "a name of your own team"},
		"a version":            {"/v1/templates/mine@1.2/builds", []string{context}, 400, "without a namespace and a version"},
		"tag like a build":     {path + "?tag=" + buildID, []string{context}, 400, "could be the id of a build"},
		"tag like a build 2":   {"/v1/templates/mine:" + buildID + "/builds", []string{context}, 400, "could be the id of a build"},
		"bad tag":              {path + "?tag=a%2Fb", []string{context}, 400, "a tag has 1 to 128"},
		"many tags":            {path + "?" + strings.Repeat("tag=a&", 33), []string{context}, 400, "at most 32 tags"},
		"bad bump":             {path + "?bump=huge", []string{context}, 400, "major, minor or patch"},
		"unknown parameter":    {path + "?tags=a", []string{context}, 400, `no "tags" in its query`},
		"parameter twice":      {path + "?bump=major&bump=minor", []string{context}, 400, "twice"},
		"bad arg":              {path + "?arg=A", []string{context}, 400, "NAME=VALUE"},
		"arg without a name":   {path + "?arg=%3DA", []string{context}, 400, "is not the name of a build argument"},
		"bad no_cache":         {path + "?no_cache=maybe", []string{context}, 400, "true or false"},
		"bad cpus":             {path + "?cpus=two", []string{context}, 400, "whole number"},
		"negative memory":      {path + "?memory_mib=-1", []string{context}, 400, "memory_mib"},
		"ready without start":  {path + "?ready=true", []string{context}, 400, "there is no start"},
		"long start":           {path + "?start=" + long[:9<<10], []string{context}, 400, "at most 8192 bytes"},
		"bad isolation":        {path + "?isolation=docker", []string{context}, 400, `the isolation is gvisor or runc, not "docker"`},
		"no isolation":         {path, []string{"request", `{"isolation":""}`, "dockerfile", dockerfile}, 400, `the isolation is gvisor or runc, not ""`},
		"bad visibility":       {path + "?visibility=some", []string{context}, 400, "private, team or public"},
		"dockerfile outside":   {path + "?dockerfile=../Dockerfile", []string{context}, 400, "within the context"},
		"dockerfile absolute":  {path + "?dockerfile=/etc/passwd", []string{context}, 400, "within the context"},
		"dockerfile missing":   {path + "?dockerfile=other", []string{context}, 400, `no file "other" in the context`},
		"dockerfile a folder":  {path + "?dockerfile=dir", []string{tarOf(t, "dir/", "/")}, 400, "not a plain file"},
		"dockerfile empty":     {path, []string{tarOf(t, "Dockerfile", " \n")}, 400, "the Dockerfile is empty"},
		"dockerfile large":     {path, []string{tarOf(t, "Dockerfile", "#"+long)}, 413, "larger than 256 KiB"},
		"dockerfile binary":    {path, []string{tarOf(t, "Dockerfile", "FROM a\x00")}, 400, "not text"},
		"dockerfile latin-1":   {path, []string{tarOf(t, "Dockerfile", "# \xe9")}, 400, "not text"},
		"nothing":              {path, []string{""}, 400, "nothing to build"},
		"no tar":               {path, []string{strings.Repeat("no tar ", 200)}, 400, "the context is not a tar"},
		"a cut tar":            {path, []string{tarOf(t, "a", long, "Dockerfile", dockerfile)[:100<<10]}, 400, "the context is not a tar"},
		"a cut gzip":           {path, []string{zipped(context)[:60]}, 400, "the context is not a tar"},
		"a bad gzip":           {path, []string{"\x1f\x8bxxxxxxxxxxxxxxxxxx"}, 400, "the context is not a tar"},
		"no parts":             {path, []string{}, 400, "nothing to build"},
		"a query and parts":    {path + "?tag=a", []string{"context", context}, 400, "leave the query out"},
		"unknown part":         {path, []string{"contxt", context}, 400, `no part "contxt"`},
		"part twice":           {path, []string{"context", context, "context", context}, 400, "twice or too late"},
		"part too late":        {path, []string{"context", context, "request", "{}"}, 400, "twice or too late"},
		"request no JSON":      {path, []string{"request", "{", "context", context}, 400, "not valid JSON"},
		"request empty":        {path, []string{"request", "", "context", context}, 400, "a JSON object is needed"},
		"request wrong type":   {path, []string{"request", `{"cpus":"two"}`, "context", context}, 400, "cpus must be an integer"},
		"request twice a name": {path, []string{"request", `{"bump":"major","bump":"minor"}`, "context", context}, 400, "twice"},
		"request large":        {path, []string{"request", `{"start":"` + strings.Repeat("x", 1<<20) + `"}`}, 413, "larger than 1024 KiB"},
		"bad bump in a part":   {path, []string{"request", `{"bump":"huge"}`, "dockerfile", dockerfile}, 400, "major, minor or patch"},
		"bad secret":           {path, []string{"request", `{"secrets":{"":"eA=="}}`, "dockerfile", dockerfile}, 400, "id of a secret"},
		"bad login":            {path, []string{"request", `{"registries":{"ghcr.io":{}}}`, "dockerfile", dockerfile}, 400, "registries"},
		"many args":            {path, []string{"request", manyArgs(), "dockerfile", dockerfile}, 400, "at most 256 args"},
		"dockerfile part huge": {path, []string{"dockerfile", "#" + long}, 413, "larger than 256 KiB"},
		"dockerfile part bad":  {path, []string{"dockerfile", "\xff"}, 400, "not text"},
		"empty context":        {path, []string{"context", ""}, 400, "the context is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &shelf{}
			h := newTemplateAPI(t, s)
			if len(tt.parts) == 1 {
				wantFailure(t, ask(h, "POST", tt.path, tt.parts[0], "ours"), tt.code, tt.says)
			} else {
				wantFailure(t, askParts(h, tt.path, "ours", tt.parts...), tt.code, tt.says)
			}
			if _, made := s.asked.(soulbox.BuildRequest); made {
				t.Errorf("a build was asked for: %+v", s.asked)
			}
		})
	}
}

func manyArgs() string {
	args := map[string]string{}
	for i := range 257 {
		args[strings.Repeat("a", i+1)] = ""
	}
	b, _ := json.Marshal(map[string]any{"args": args})
	return string(b)
}

// TestBuildCutOff ends the body before it should: nothing may be made of it.
func TestBuildCutOff(t *testing.T) {
	body, kind := partsOf("request", "{}", "context", tarOf(t, "Dockerfile", dockerfile, "big", strings.Repeat("x", 64<<10)))
	for _, contentType := range []string{kind, "multipart/form-data", "application/x-tar"} {
		s := &shelf{}
		r := httptest.NewRequest(http.MethodPost, "/v1/templates/mine/builds", io.MultiReader(strings.NewReader(body[:20<<10]), brokenReader{}))
		r.Header.Set("X-API-KEY", "ours")
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		newTemplateAPI(t, s).ServeHTTP(w, r)
		wantFailure(t, w, 400, "")
		if s.asked != nil || s.uploaded != "" {
			t.Errorf("%s: asked for %v, uploaded %d bytes", contentType, s.asked, len(s.uploaded))
		}
	}
	// Without an error, but before the last boundary.
	s := &shelf{}
	r := httptest.NewRequest(http.MethodPost, "/v1/templates/mine/builds", strings.NewReader(body[:20<<10]))
	r.Header.Set("X-API-KEY", "ours")
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	newTemplateAPI(t, s).ServeHTTP(w, r)
	wantFailure(t, w, 400, "multipart/form-data")
	if s.asked != nil || s.uploaded != "" {
		t.Errorf("asked for %v, uploaded %d bytes", s.asked, len(s.uploaded))
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// TestBuildUploadFails lets the register refuse what it is sent, or break.
func TestBuildUploadFails(t *testing.T) {
	h := newTemplateAPI(t, &shelf{fails: soulbox.Errorf(soulbox.Exhausted, "the team has too many builds")})
	wantFailure(t, ask(h, "POST", "/v1/templates/mine/builds", tarOf(t, "Dockerfile", dockerfile), "ours"), 429, "too many builds")
	h = newTemplateAPI(t, &shelf{fails: errors.New("disk on fire")})
	wantFailure(t, ask(h, "POST", "/v1/templates/mine/builds", tarOf(t, "Dockerfile", dockerfile), "ours"), 500, "internal error")
	h = newTemplateAPI(t, &shelf{problems: []soulbox.Problem{{Message: "no FROM", Fatal: false}, {Line: 3, Message: "unknown instruction: RUM", Remedy: "did you mean RUN?", Fatal: true}}})
	wantFailure(t, ask(h, "POST", "/v1/templates/mine/builds", tarOf(t, "Dockerfile", dockerfile), "ours"), 400, "Dockerfile line 3: unknown instruction: RUM; did you mean RUN?")
}

func TestValidate(t *testing.T) {
	s := &shelf{problems: []soulbox.Problem{
		{Line: 2, Rule: "JSONArgsRecommended", Message: "a shell runs it", Remedy: "write [\"true\"]", URL: "https://example.com/rule"},
		{Message: "there is no FROM", Fatal: true},
	}}
	h := newTemplateAPI(t, s)
	res := ask(h, "POST", "/v1/templates/validate", `{"dockerfile":"RUN x"}`, "theirs")
	if res.Code != 200 || s.asked != "RUN x" {
		t.Fatalf("%d %s, asked %q", res.Code, res.Body, s.asked)
	}
	golden(t, "problems", res.Body.Bytes())
	for _, tt := range []struct {
		body string
		code int
		says string
	}{
		{``, 400, "needs a body"},
		{`{}`, 400, "the Dockerfile is empty"},
		{`{"dockerfile":3}`, 400, "must be a string"},
		{`{"dockerfile":"\u0000"}`, 400, "not text"},
		{`{"dockerfile":"` + strings.Repeat("x", 300<<10) + `"}`, 413, "larger than 256 KiB"},
		{`{"dockerfile":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "too large"},
	} {
		wantFailure(t, ask(h, "POST", "/v1/templates/validate", tt.body, "ours"), tt.code, tt.says)
	}
}

// readEvents returns the data of a stream, and checks that ids go with lines.
func readEvents(t *testing.T, body string) (data []string) {
	t.Helper()
	id := ""
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			id = value
		case "data":
			if id != "" && !strings.HasPrefix(value, `{"line":{"id":`+id+`,`) {
				t.Errorf("data %s behind id %s", value, id)
			}
			id = ""
			data = append(data, value)
		case "event", "", ":":
		default:
			t.Errorf("line %q", line)
		}
	}
	return data
}

func TestBuildEvents(t *testing.T) {
	const path = "/v1/templates/mine/builds/" + buildID + "/events"
	for _, tt := range []struct {
		query, header, accept string
		from                  int
	}{
		{"", "", "", 0},
		{"?follow=false", "", "*/*", 0},
		{"?last_event_id=1", "", "text/event-stream, application/x-ndjson", 1},
		{"?last_event_id=1", "2", "", 2},
		{"?last_event_id=3", "", "", 3},
		{"", "", "application/x-ndjson", 0},
		{"?last_event_id=2&follow=false", "", "text/plain;q=0.1, application/jsonl;q=0.9", 2},
	} {
		r := httptest.NewRequest(http.MethodGet, path+tt.query, nil)
		r.Header.Set("X-API-KEY", "ours")
		if tt.header != "" {
			r.Header.Set("Last-Event-ID", tt.header)
		}
		if tt.accept != "" {
			r.Header.Set("Accept", tt.accept)
		}
		w := httptest.NewRecorder()
		newTemplateAPI(t, &shelf{}).ServeHTTP(w, r)
		var got []string
		switch kind := w.Header().Get("Content-Type"); {
		case w.Code != 200:
			t.Fatalf("%s: %d %s", tt.query, w.Code, w.Body)
		case kind == "application/x-ndjson":
			got = slices.DeleteFunc(strings.Split(w.Body.String(), "\n"), func(s string) bool { return s == "" })
		case kind == "text/event-stream":
			got = readEvents(t, w.Body.String())
		}
		if want := strings.Contains(tt.accept, "json") && !strings.HasPrefix(tt.accept, "text/event-stream"); want != (w.Header().Get("Content-Type") == "application/x-ndjson") {
			t.Errorf("Accept %q is answered with %s", tt.accept, w.Header().Get("Content-Type"))
		}
		checkBuildEvents(t, got, tt.from)
	}
}

func checkBuildEvents(t *testing.T, got []string, from int) {
	t.Helper()
	want := said()[from:]
	if len(got) != len(want)+1 {
		t.Fatalf("%d events, want %d: %q", len(got), len(want)+1, got)
	}
	d := spec(t)
	for i, data := range got {
		var v any
		var e struct {
			Line *struct {
				ID      int
				Message string
				Step    string
			}
			Build *struct{ State, Version string }
		}
		if err := errors.Join(json.Unmarshal([]byte(data), &v), json.Unmarshal([]byte(data), &e)); err != nil {
			t.Fatalf("event %q: %v", data, err)
		}
		for _, wrong := range d.check(schema{Ref: "#/components/schemas/BuildEvent"}, v, "event") {
			t.Error(wrong)
		}
		switch {
		case i == len(want):
			if e.Line != nil || e.Build == nil || e.Build.State != "ready" || e.Build.Version != "1.4.0" {
				t.Errorf("the last event is %s, want the build", data)
			}
		case e.Build != nil || e.Line == nil || e.Line.ID != from+i+1 || e.Line.Message != want[i].Message || e.Line.Step != want[i].Step:
			t.Errorf("event %s, want line %d, %+v", data, from+i+1, want[i])
		}
	}
}

// TestBuildEventsGone lets the client leave and the server stop, in the middle.
func TestBuildEventsGone(t *testing.T) {
	const path = "/v1/templates/mine/builds/" + buildID + "/events"
	s := &shelf{watch: func(idle func() error, each func(int, soulbox.BuildLine) error) (*soulbox.Build, error) {
		if err := errors.Join(idle(), each(1, said()[0])); err != nil {
			return nil, err
		}
		return nil, soulbox.Errorf(soulbox.Unavailable, "the server stops")
	}}
	res := ask(newTemplateAPI(t, s), "GET", path, "", "ours")
	if got := readEvents(t, res.Body.String()); res.Code != 200 || len(got) != 1 {
		t.Errorf("%d %q, want one line and nothing more", res.Code, res.Body)
	}
	left := errors.New("the client has left")
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("X-API-KEY", "ours")
	var seen error
	s.watch = func(idle func() error, each func(int, soulbox.BuildLine) error) (*soulbox.Build, error) {
		seen = each(1, said()[0])
		return nil, seen
	}
	newTemplateAPI(t, s).ServeHTTP(&leaving{ResponseRecorder: httptest.NewRecorder(), err: left, after: 1}, r)
	if !errors.Is(seen, left) {
		t.Errorf("the register heard %v, want that the client has left", seen)
	}
}

// leaving is a client that fetches only some of an answer.
type leaving struct {
	*httptest.ResponseRecorder
	err   error
	after int
}

func (l *leaving) Write(p []byte) (int, error) {
	if l.after--; l.after < 0 {
		return 0, l.err
	}
	return l.ResponseRecorder.Write(p)
}

// FuzzBuild sends bodies as nobody should. Whatever comes, the answer is a build or
// a sentence that says what is wrong.
func FuzzBuild(f *testing.F) {
	body, kind := partsOf("request", `{"tags":["a"]}`, "dockerfile", dockerfile, "context", tarOf(f, "Dockerfile", dockerfile))
	f.Add(kind, []byte(body))
	f.Add("application/x-tar", []byte(tarOf(f, "Dockerfile", dockerfile, "x", "y")))
	f.Add("", []byte(zipped(tarOf(f, "Dockerfile", dockerfile))))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=context\r\n\r\n--x--"))
	s := &shelf{}
	h := newTemplateAPI(f, s)
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		s.asked = nil
		r := httptest.NewRequest(http.MethodPost, "/v1/templates/mine/builds", bytes.NewReader(body))
		r.Header["X-Api-Key"], r.Header["Content-Type"] = []string{"ours"}, []string{kind}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		req, started := s.asked.(soulbox.BuildRequest)
		switch {
		case w.Code == 202 && started && strings.TrimSpace(req.Recipe.Dockerfile) != "" && len(req.Recipe.Dockerfile) <= 256<<10:
		case (w.Code == 400 || w.Code == 413) && !started:
		default:
			t.Errorf("%d %s after asking for %+v", w.Code, w.Body, s.asked)
		}
	})
}
