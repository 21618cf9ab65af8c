package oci_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
	"github.com/soulbox/soulbox/api/oci"
	"github.com/soulbox/soulbox/blob/dir"
	"github.com/soulbox/soulbox/depot"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/sqlite"
	"github.com/soulbox/soulbox/team"
	"github.com/soulbox/soulbox/template"
)

// Readers, with the names of their keys.
const (
	owner    = "owner"
	mate     = "mate" // another key of the owner's team
	stranger = "stranger"
	nobody   = "" // has no key
)

// A world is the route table on the real depot, with templates that are made
// without being unpacked: what comes of a push is told by the depot's tests and
// the server's.
type world struct {
	t         *testing.T
	server    *httptest.Server
	store     *store.Store
	templates *shelf
	keys      map[string]string // by their readers
}

// A shelf imports by making the build's row, and does all else for real.
type shelf struct {
	*template.Registry

	store *store.Store
}

func (s *shelf) Import(ctx context.Context, req soulbox.ImportRequest, _ func(string)) (*soulbox.Template, error) {
	at := time.Now()
	t := &soulbox.Template{ID: soulbox.TemplateID("tpl" + req.Name), Team: req.Team, Name: req.Name, CreatedAt: at, UpdatedAt: at}
	b := &soulbox.Build{ID: soulbox.NewBuildID(), Team: req.Team, CreatedAt: at, EndedAt: at, Image: strings.Repeat("ab", 32), Tags: req.Tags}
	if req.Source.Parts != nil {
		b.Manifest = req.Source.Parts.Manifest.Digest
	}
	return s.store.AddBuild(ctx, t, b, "", func(*soulbox.Build) soulbox.Bump { return soulbox.Patch })
}

func open(t *testing.T) *world {
	t.Helper()
	path, log := t.TempDir(), slog.New(slog.DiscardHandler)
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(path, "db"))
	fatal(err)
	teams := team.New(log, db, soulbox.Limits{Sandboxes: 1})
	w := &world{t: t, store: db, keys: map[string]string{}}
	for reader, slug := range map[string]string{owner: "ours", mate: "ours", stranger: "theirs"} {
		id := soulbox.TeamID("team-" + slug)
		if _, err := db.Team(t.Context(), id); err != nil {
			fatal(db.InsertTeam(t.Context(), &soulbox.Team{ID: id, Slug: slug}))
		}
		w.keys[reader], _, err = teams.CreateKey(t.Context(), id, reader)
		fatal(err)
	}
	register, err := template.Open(template.Options{Log: log, Store: db, Dir: filepath.Join(path, "work"), BuildDir: filepath.Join(path, "builds")})
	fatal(err)
	w.templates = &shelf{register, db}
	blobs, err := dir.Open(filepath.Join(path, "blobs"))
	fatal(err)
	d, err := depot.Open(depot.Options{Log: log, Store: db, Templates: w.templates, Blobs: blobs, Dir: filepath.Join(path, "uploads"), MaxBlob: soulbox.MiB, MaxTeam: 3 * soulbox.MiB})
	fatal(err)
	control, err := api.New(log, teams, oci.Routes(d), api.Options{})
	fatal(err)
	w.server = httptest.NewServer(control)
	t.Cleanup(func() {
		w.server.Close()
		if err := errors.Join(d.Close(), register.Close(), teams.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// An answer is what came of a request.
type answer struct {
	status int
	code   string // of the first error
	header http.Header
	body   []byte
}

// ask makes a request as somebody. Headers are names and values in turn.
func (w *world) ask(as, verb, path string, body io.Reader, headers ...string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), verb, w.server.URL+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	if as != nobody {
		req.SetBasicAuth("whoever", w.keys[as])
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		w.t.Fatal(err)
	}
	var told struct {
		Errors []struct{ Code, Message string }
	}
	if res.StatusCode >= 400 && verb != http.MethodHead {
		if err := json.Unmarshal(a.body, &told); err != nil || len(told.Errors) != 1 || told.Errors[0].Message == "" {
			w.t.Errorf("%s %s: %d with body %q, want an error in the specification's shape", verb, path, a.status, a.body)
			return a
		}
		a.code = told.Errors[0].Code
	}
	return a
}

// want makes a request that must be answered like that.
func (w *world) want(status int, code, as, verb, path, body string, headers ...string) answer {
	w.t.Helper()
	a := w.ask(as, verb, path, strings.NewReader(body), headers...)
	if a.status != status || a.code != code {
		w.t.Errorf("%s: %s %s: %d %s %s; want %d %s", cmp.Or(as, "nobody"), verb, path, a.status, a.code, a.body, status, code)
	}
	return a
}

// put pushes a blob in one request.
func (w *world) put(as, repo string, b []byte) soulbox.Digest {
	w.t.Helper()
	d := soulbox.DigestOf(b)
	a := w.ask(as, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+string(d), bytes.NewReader(b))
	if a.status != http.StatusCreated || a.header.Get("Docker-Content-Digest") != string(d) {
		w.t.Fatalf("upload to %s: %d %s", repo, a.status, a.body)
	}
	return d
}

// push pushes an image, and returns its manifest and the digest of a layer.
func (w *world) push(as, repo, ref string) (manifest []byte, layer soulbox.Digest) {
	w.t.Helper()
	img, err := random.Image(500, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	manifest, layer = w.parts(as, repo, img)
	w.want(http.StatusCreated, "", as, http.MethodPut, "/v2/"+repo+"/manifests/"+ref, string(manifest))
	return manifest, layer
}

func (w *world) parts(as, repo string, img v1.Image) (manifest []byte, layer soulbox.Digest) {
	w.t.Helper()
	config, err := img.RawConfigFile()
	if err != nil {
		w.t.Fatal(err)
	}
	w.put(as, repo, config)
	layers, err := img.Layers()
	if err != nil {
		w.t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := io.ReadAll(rc)
	if err != nil {
		w.t.Fatal(err)
	}
	layer = w.put(as, repo, b)
	if manifest, err = img.RawManifest(); err != nil {
		w.t.Fatal(err)
	}
	return manifest, layer
}

// upload begins one and returns its path.
func (w *world) upload(as, repo string) string {
	w.t.Helper()
	a := w.want(http.StatusAccepted, "", as, http.MethodPost, "/v2/"+repo+"/blobs/uploads/", "")
	return a.header.Get("Location")
}

// TestReaders asks on every route, as everybody, of a template that is private,
// of one that is public, and of none.
func TestReaders(t *testing.T) {
	w := open(t)
	layers, manifests := map[string]soulbox.Digest{}, map[string][]byte{}
	for _, name := range []string{"private", "public"} {
		manifests[name], layers[name] = w.push(owner, "ours/"+name, "latest")
	}
	manifests["none"], layers["none"] = manifests["private"], soulbox.DigestOf([]byte("none"))
	if _, err := w.templates.Publish(t.Context(), "team-ours", "tplpublic", true); err != nil {
		t.Fatal(err)
	}
	type result struct {
		status int
		code   string
	}
	const d = http.StatusForbidden
	unauthorized, denied := result{401, "UNAUTHORIZED"}, result{d, "DENIED"}
	for _, name := range []string{"private", "public", "none"} {
		repo := "/v2/ours/" + name
		layer, digest := string(layers[name]), string(soulbox.DigestOf(manifests[name]))
		// What it is for those who see it; for the team of what there is not; and
		// for strangers.
		reads := func(code string) map[string]result {
			yes, no := result{200, ""}, result{404, code}
			switch name {
			case "public":
				return map[string]result{owner: yes, mate: yes, stranger: yes}
			case "private":
				return map[string]result{owner: yes, mate: yes, stranger: no}
			default:
				return map[string]result{owner: no, mate: no, stranger: no}
			}
		}
		writes := func(status int, code string) map[string]result {
			return map[string]result{owner: {status, code}, mate: {status, code}, stranger: denied}
		}
		uploads := writes(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		uploads[stranger] = uploads[owner] // nobody has one of that id
		for _, tt := range []struct {
			verb, path, body string
			want             map[string]result
		}{
			{"GET", "/v2/", "", map[string]result{owner: {200, ""}, mate: {200, ""}, stranger: {200, ""}}},
			{"GET", repo + "/tags/list", "", reads("NAME_UNKNOWN")},
			{"GET", repo + "/manifests/latest", "", reads("MANIFEST_UNKNOWN")},
			{"GET", repo + "/manifests/" + digest, "", reads("MANIFEST_UNKNOWN")},
			{"GET", repo + "/blobs/" + layer, "", reads("BLOB_UNKNOWN")},
			{"POST", repo + "/blobs/uploads/", "", writes(http.StatusAccepted, "")},
			{"POST", repo + "/blobs/uploads/?digest=" + string(soulbox.DigestOf([]byte("x"))), "x", writes(http.StatusCreated, "")},
			{"POST", repo + "/blobs/uploads/?from=ours/none&mount=" + layer, "", writes(http.StatusAccepted, "")},
			{"GET", repo + "/blobs/uploads/none", "", uploads},
			{"PATCH", repo + "/blobs/uploads/none", "x", uploads},
			{"PUT", repo + "/blobs/uploads/none?digest=" + layer, "", uploads},
			{"DELETE", repo + "/blobs/uploads/none", "", uploads},
			{"PUT", repo + "/manifests/v1", "{}", writes(http.StatusBadRequest, "MANIFEST_INVALID")},
		} {
			tt.want[nobody] = unauthorized
			for as, want := range tt.want {
				a := w.want(want.status, want.code, as, tt.verb, tt.path, tt.body)
				if realm := a.header.Get("WWW-Authenticate"); strings.HasPrefix(realm, `Basic realm="`) != (as == nobody) {
					t.Errorf("%s %s as %q: WWW-Authenticate is %q", tt.verb, tt.path, as, realm)
				}
				if tt.verb == "GET" {
					if h := w.ask(as, http.MethodHead, tt.path, nil); h.status != a.status || len(h.body) != 0 {
						t.Errorf("HEAD %s as %q: %d, want %d as with GET", tt.path, as, h.status, a.status)
					}
				}
			}
		}
	}
}

// What a client sends in one, in parts, and again.
func TestUploads(t *testing.T) {
	w := open(t)
	const repo = "/v2/ours/app"
	at := w.upload(owner, "ours/app")
	wantRange := func(a answer, want string) {
		t.Helper()
		if a.header.Get("Range") != want || a.header.Get("Location") != at {
			t.Errorf("Range %q, Location %q; want %q, %q", a.header.Get("Range"), a.header.Get("Location"), want, at)
		}
	}
	wantRange(w.want(202, "", owner, "PATCH", at, "abc", "Content-Range", "0-2"), "0-2")
	wantRange(w.want(202, "", mate, "PATCH", at, "def"), "0-5")
	wantRange(w.want(204, "", owner, "GET", at, ""), "0-5")
	w.want(416, "BLOB_UPLOAD_INVALID", owner, "PATCH", at, "x", "Content-Range", "7-7")
	w.want(416, "BLOB_UPLOAD_INVALID", owner, "PATCH", at, "x", "Content-Range", "0-0")
	w.want(400, "BLOB_UPLOAD_INVALID", owner, "PATCH", at, "x", "Content-Range", "first-last")
	digest := soulbox.DigestOf([]byte("abcdefgh"))
	w.want(400, "DIGEST_INVALID", owner, "PUT", at, "gh")
	w.want(400, "DIGEST_INVALID", owner, "PUT", at+"?digest=sha512:00", "gh")
	w.want(400, "DIGEST_INVALID", owner, "PUT", at+"?digest="+string(soulbox.DigestOf(nil)), "gh")
	w.want(404, "BLOB_UPLOAD_UNKNOWN", stranger, "PUT", at+"?digest="+string(digest), "gh")
	a := w.want(201, "", owner, "PUT", at+"?digest="+string(digest), "gh", "Content-Range", "6-7")
	if a.header.Get("Location") != repo+"/blobs/"+string(digest) {
		t.Errorf("Location %q", a.header.Get("Location"))
	}
	w.want(404, "BLOB_UPLOAD_UNKNOWN", owner, "GET", at, "")

	other := w.upload(owner, "ours/app")
	w.want(204, "", owner, "DELETE", other, "")
	w.want(404, "BLOB_UPLOAD_UNKNOWN", owner, "PATCH", other, "x")

	w.want(413, "SIZE_INVALID", owner, "POST", repo+"/blobs/uploads/?digest="+string(digest), strings.Repeat("x", 1<<20+1))
	w.want(400, "DIGEST_INVALID", owner, "POST", repo+"/blobs/uploads/?digest="+string(digest), "abcdefg")
	w.want(400, "DIGEST_INVALID", owner, "POST", repo+"/blobs/uploads/?mount=md5:1&from=ours/app", "")

	// Mounted from where it is; otherwise it is to be sent.
	w.want(201, "", owner, "POST", "/v2/ours/b/blobs/uploads/?from=ours/app&mount="+string(digest), "")
	w.want(202, "", owner, "POST", "/v2/ours/b/blobs/uploads/?from=../app&mount="+string(digest), "")
	w.want(202, "", stranger, "POST", "/v2/theirs/b/blobs/uploads/?from=ours/app&mount="+string(digest), "")
	w.want(404, "BLOB_UNKNOWN", stranger, "GET", "/v2/theirs/b/blobs/"+string(digest), "")
	w.want(200, "", owner, "GET", "/v2/ours/b/blobs/"+string(digest), "")
}

// An upload that is cut off leaves what had arrived whole before.
func TestUploadCutOff(t *testing.T) {
	w := open(t)
	at := w.upload(owner, "ours/app")
	w.want(202, "", owner, "PATCH", at, "abc")
	ctx, cancel := context.WithCancel(t.Context())
	r, pipe := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, w.server.URL+at, r)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("", w.keys[owner])
	over := make(chan struct{})
	go func() {
		defer close(over)
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
			t.Errorf("a request that was cut off was answered with %d", res.StatusCode)
		}
	}()
	if _, err := pipe.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	pipe.CloseWithError(context.Canceled) // the client waits for who reads from it
	<-over
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		a := w.ask(owner, "GET", at, nil)
		if a.status == http.StatusNoContent {
			if a.header.Get("Range") != "0-2" {
				t.Errorf("Range %q, want 0-2", a.header.Get("Range"))
			}
			break
		}
		if a.status != http.StatusConflict || time.Now().After(deadline) { // the server has not noticed yet
			t.Fatalf("status of the upload: %d %s", a.status, a.body)
		}
	}
	w.want(201, "", owner, "PUT", at+"?digest="+string(soulbox.DigestOf([]byte("abcd"))), "d")
}

func TestBlobRange(t *testing.T) {
	w := open(t)
	d := w.put(owner, "ours/app", []byte("0123456789"))
	path := "/v2/ours/app/blobs/" + string(d)
	for header, want := range map[string]struct {
		status     int
		body, part string
	}{
		"":              {200, "0123456789", ""},
		"bytes=0-":      {206, "0123456789", "bytes 0-9/10"},
		"bytes=3-5":     {206, "345", "bytes 3-5/10"},
		"bytes=9-9":     {206, "9", "bytes 9-9/10"},
		"bytes=5-500":   {206, "56789", "bytes 5-9/10"},
		"bytes=5-3":     {200, "0123456789", ""}, // as if there were none
		"bytes=-3":      {200, "0123456789", ""},
		"bytes=0-1,3-4": {200, "0123456789", ""},
		"lines=0-1":     {200, "0123456789", ""},
		"bytes=x-y":     {200, "0123456789", ""},
	} {
		a := w.want(want.status, "", owner, "GET", path, "", "Range", header)
		if string(a.body) != want.body || a.header.Get("Content-Range") != want.part || a.header.Get("Docker-Content-Digest") != string(d) {
			t.Errorf("Range %q: %q, Content-Range %q; want %+v", header, a.body, a.header.Get("Content-Range"), want)
		}
	}
	a := w.want(416, "SIZE_INVALID", owner, "GET", path, "", "Range", "bytes=10-")
	if a.header.Get("Content-Range") != "bytes */10" {
		t.Errorf("Content-Range %q", a.header.Get("Content-Range"))
	}
	if h := w.ask(owner, "HEAD", path, nil); h.header.Get("Content-Length") != "10" {
		t.Errorf("HEAD says %q bytes", h.header.Get("Content-Length"))
	}
}

func TestManifests(t *testing.T) {
	w := open(t)
	const kind = "application/vnd.docker.distribution.manifest.v2+json"
	m, _ := w.push(owner, "ours/app", "v1")
	d := string(soulbox.DigestOf(m))
	for _, ref := range []string{"v1", d} {
		a := w.want(200, "", owner, "GET", "/v2/ours/app/manifests/"+ref, "")
		if !bytes.Equal(a.body, m) || a.header.Get("Content-Type") != kind || a.header.Get("Docker-Content-Digest") != d {
			t.Errorf("manifest of %s: %q, %v", ref, a.body, a.header)
		}
	}
	put := func(status int, code, ref string, body []byte, kind string) {
		t.Helper()
		w.want(status, code, owner, "PUT", "/v2/ours/app/manifests/"+ref, string(body), "Content-Type", kind)
	}
	put(201, "", "v1", m, kind)
	put(201, "", d, m, kind+"; charset=utf-8")
	put(400, "MANIFEST_INVALID", "v1", m, "application/vnd.oci.image.manifest.v1+json")
	put(400, "MANIFEST_INVALID", "v1", m, "not a type")
	put(400, "MANIFEST_INVALID", "v1", []byte(`{"schemaVersion":2,"mediaType":"text/html","config":{}}`), "text/html")
	put(400, "DIGEST_INVALID", string(soulbox.DigestOf(nil)), m, kind)
	put(400, "TAG_INVALID", "sha512:00", m, kind)
	put(400, "TAG_INVALID", "00000000-0000-4000-8000-000000000000", m, kind)
	put(413, "MANIFEST_INVALID", "v1", bytes.Repeat([]byte(" "), 4<<20+1), kind)
	w.want(404, "MANIFEST_BLOB_UNKNOWN", owner, "PUT", "/v2/ours/other/manifests/v1", string(m))
	w.want(404, "MANIFEST_UNKNOWN", owner, "GET", "/v2/ours/app/manifests/v2", "")
	w.want(400, "TAG_INVALID", owner, "GET", "/v2/ours/app/manifests/.v%3F", "")

	if _, err := w.templates.Import(t.Context(), soulbox.ImportRequest{Team: "team-ours", Name: "built"}, nil); err != nil {
		t.Fatal(err)
	}
	if a := w.want(404, "MANIFEST_UNKNOWN", owner, "GET", "/v2/ours/built/manifests/latest", ""); !strings.Contains(string(a.body), "soulbox template export") {
		t.Errorf("of a template that was built: %s", a.body)
	}
}

func TestTags(t *testing.T) {
	w := open(t)
	for _, tag := range []string{"c", "a", "b"} {
		w.push(owner, "ours/app", tag)
	}
	list := func(query string) (tags []string, link string) {
		t.Helper()
		a := w.want(200, "", owner, "GET", "/v2/ours/app/tags/list"+query, "")
		var got struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(a.body, &got); err != nil || got.Name != "ours/app" || got.Tags == nil {
			t.Errorf("tags%s: %s, %v", query, a.body, err)
		}
		return got.Tags, a.header.Get("Link")
	}
	for _, tt := range []struct{ query, tags, link string }{
		{"", "[a b c]", ""},
		{"?n=2", "[a b]", `</v2/ours/app/tags/list?last=b&n=2>; rel="next"`},
		{"?n=2&last=b", "[c]", ""},
		{"?n=3", "[a b c]", ""},
		{"?n=0", "[]", ""},
		{"?last=aa", "[b c]", ""},
		{"?last=z", "[]", ""},
	} {
		tags, link := list(tt.query)
		if diff := gocmp.Diff(tt.tags+tt.link, fmt.Sprint(tags)+link); diff != "" {
			t.Errorf("tags%s (-want +got):\n%s", tt.query, diff)
		}
	}
	for _, n := range []string{"-1", "x", "99999999999999999999"} {
		w.want(400, "PAGINATION_NUMBER_INVALID", owner, "GET", "/v2/ours/app/tags/list?n="+n, "")
	}
}

// Names are names, and no ways out.
func TestNames(t *testing.T) {
	w := open(t)
	for _, name := range []string{"Ours/app", "ours/App", "ours/a:b", "ours/a@1.0.0", "ours/%2e%2e", "ours/a%2Fb", "%2E/app", "ours/" + strings.Repeat("a", 129), "ours/a%00"} {
		for _, path := range []string{"/tags/list", "/manifests/latest", "/blobs/" + string(soulbox.DigestOf(nil)), "/blobs/uploads/x"} {
			w.want(400, "NAME_INVALID", owner, "GET", "/v2/"+name+path, "")
		}
		w.want(400, "NAME_INVALID", owner, "POST", "/v2/"+name+"/blobs/uploads/", "")
		w.want(400, "NAME_INVALID", owner, "PUT", "/v2/"+name+"/manifests/v1", "{}")
	}
	for _, digest := range []string{"sha256:..%2F..%2Fetc", "sha256:" + strings.Repeat("A", 64), "x"} {
		w.want(400, "DIGEST_INVALID", owner, "GET", "/v2/ours/app/blobs/"+digest, "")
	}
	w.want(404, "BLOB_UPLOAD_UNKNOWN", owner, "PATCH", "/v2/ours/app/blobs/uploads/..%2F..%2Fdb", "x")
}

// A key is the password of whoever; a wrong one is none.
func TestLogin(t *testing.T) {
	w := open(t)
	w.keys["wrong"] = "e2b_" + strings.Repeat("0", 40)
	w.keys["empty"] = ""
	w.keys["long"] = strings.Repeat("x", 300)
	for _, as := range []string{"wrong", "empty", "long"} {
		w.want(401, "UNAUTHORIZED", as, "GET", "/v2/", "")
	}
	a := w.want(200, "", owner, "GET", "/v2/", "")
	if a.header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
		t.Errorf("header %v", a.header)
	}
	w.want(200, "", nobody, "GET", "/v2/", "", "X-API-KEY", w.keys[owner])
	w.want(200, "", nobody, "GET", "/v2/", "", "Authorization", "Bearer "+w.keys[owner])
}
