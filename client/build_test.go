package client_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func build(t *testing.T, c *client.Client, name, dockerfile string, o client.BuildOptions) *soulbox.Build {
	t.Helper()
	o.Dir = folder(t, "Dockerfile", dockerfile)
	started, err := c.Templates.Build(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Templates.Wait(t.Context(), started.Template.ID, string(started.Build.ID), nil); err != nil {
		t.Fatal(err)
	}
	b, err := c.Templates.GetBuild(t.Context(), started.Template.ID, string(started.Build.ID))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBuildAndVersions(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	first := build(t, c, "mine:stable", "FROM debian\nRUN true\n", client.BuildOptions{Start: "serve", Ready: "true", Args: map[string]string{"A": "1"}, Target: "last", NoCache: true})
	if first.State != soulbox.BuildReady || first.Version.String() != "1.0.0" || !cmp.Equal(first.Tags, []string{"stable"}) || first.Recipe.Dockerfile != "FROM debian\nRUN true\n" ||
		first.Recipe.Start != "serve" || first.Recipe.Ready != "true" || !first.Recipe.Force || first.Recipe.Target != "last" || first.Recipe.Args["A"] != "1" || first.EndedAt.IsZero() {
		t.Errorf("the first build: %+v", first)
	}
	second := build(t, c, "mine", "FROM ubuntu\nRUN pip install numpy\n", client.BuildOptions{Bump: soulbox.Major, Tags: []string{"stable", "default"}, CPUs: 4, Memory: 2 * soulbox.GiB, Disk: 8 * soulbox.GiB, Isolation: new(soulbox.Runc), Public: new(true)})
	if second.Version.String() != "2.0.0" || second.Bump != soulbox.Major {
		t.Errorf("the second build: %+v", second)
	}
	got, err := c.Templates.Get(ctx, "mine")
	if err != nil || got.Build != string(second.ID) || got.Version != second.Version || !got.Public || got.CPUs != 4 || got.Memory != 2*soulbox.GiB || got.Disk != 8*soulbox.GiB || got.Isolation != soulbox.Runc || got.Listing == nil {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if len(got.Tags) != 2 || got.Tags[1].Name != "stable" || got.Tags[1].Build != second.ID {
		t.Errorf("its tags: %+v", got.Tags)
	}
	var ids []soulbox.BuildID
	for b, err := range c.Templates.Builds(ctx, "mine", soulbox.BuildReady, soulbox.BuildFailed) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, b.ID)
	}
	if want := []soulbox.BuildID{second.ID, first.ID}; !cmp.Equal(ids, want) {
		t.Errorf("Builds = %v, want %v", ids, want)
	}
	versions, err := c.Templates.Versions(ctx, "mine")
	if err != nil || len(versions) != 2 || versions[0].Version != second.Version || versions[1].Build != string(first.ID) || !versions[1].Started || versions[0].Started || versions[0].Bytes != 120*soulbox.MiB || versions[0].Isolation != soulbox.Runc {
		t.Errorf("Versions = %+v, %v", versions, err)
	}
	d, err := c.Templates.Diff(ctx, "mine", "1", "default")
	if err != nil || d.Before.Version != first.Version || d.After.ID != second.ID || !strings.Contains(d.Recipe, "-FROM debian\n") || len(d.Packages) != 1 || d.Packages[0].After != "2.1.0" || len(d.Values) != 1 {
		t.Errorf("Diff = %+v, %v", d, err)
	}
	back, err := c.Templates.Rollback(ctx, "mine", "")
	if err != nil || back.Build != string(first.ID) || !cmp.Equal(back.Tags, []string{"default"}) {
		t.Errorf("Rollback = %+v, %v", back, err)
	}
	if _, err := c.Templates.Rollback(ctx, "mine", ""); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Rollback behind the first: %v", err)
	}
	if v, err := c.Templates.Promote(ctx, "mine", "^2", "next"); err != nil || !slices.Contains(v.Tags, "next") {
		t.Errorf("Promote = %+v, %v", v, err)
	}
	if v, err := c.Templates.Rollback(ctx, "mine", string(second.ID)); err != nil || v.Build != string(second.ID) {
		t.Errorf("Rollback to a build = %+v, %v", v, err)
	}
	if err := c.Templates.RemoveTag(ctx, "mine", "next"); err != nil {
		t.Error(err)
	}
	if tags, err := c.Templates.Tags(ctx, "mine"); err != nil || len(tags) != 2 {
		t.Errorf("Tags = %+v, %v", tags, err)
	}
	if v, err := c.Templates.Deprecate(ctx, "mine", "1.0.0", "too old"); err != nil || v.Deprecated != "too old" {
		t.Errorf("Deprecate = %+v, %v", v, err)
	}
	if v, err := c.Templates.Deprecate(ctx, "mine", "1.0.0", ""); err != nil || v.Deprecated != "" {
		t.Errorf("Deprecate without a reason = %+v, %v", v, err)
	}
	facts, err := c.Templates.Facts(ctx, "mine", "1")
	if err != nil || facts.ID != first.ID || facts.Facts.Base != "debian" || facts.Facts.Packages[0] != (soulbox.Package{Manager: "dpkg", Name: "bash", Version: "5.2"}) ||
		facts.Env["PATH"] != "/bin" || facts.User != "user" || facts.Facts.Layers != 3 || facts.Facts.Written != 12*soulbox.MiB || facts.Isolation != soulbox.Runc {
		t.Errorf("Facts = %+v, %v", facts, err)
	}
	if doc, err := c.Templates.SBOM(ctx, "mine", ""); err != nil || !strings.Contains(string(doc), `"mine@2.0.0"`) {
		t.Errorf("SBOM = %s, %v", doc, err)
	}
	var out bytes.Buffer
	if err := c.Templates.Export(ctx, "mine", "1", &out); err != nil || out.String() != "an archive of mine 1.0.0" {
		t.Errorf("Export: %q, %v", &out, err)
	}
	if err := c.Templates.Export(ctx, "mine", "7", &out); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Export of what is not there: %v", err)
	}
}

// The stand-in cuts the stream every few lines; none may be missing or come twice.
func TestWatch(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	var dockerfile strings.Builder
	dockerfile.WriteString("FROM a\n")
	for i := range 12 {
		fmt.Fprintf(&dockerfile, "RUN echo %d\n", i)
	}
	started, err := c.Templates.Build(ctx, "mine", client.BuildOptions{
		Dir: folder(t, "Dockerfile", dockerfile.String()), Secrets: map[string][]byte{"npm": []byte("hush")}, Logins: map[string]soulbox.Login{"ghcr.io": {User: "ada", Password: "hush"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if started.Build.State != soulbox.BuildWaiting || started.Template.Name != "mine" {
		t.Errorf("Build = %+v", started)
	}
	id := string(started.Build.ID)
	lost, text := 0, ""
	var last client.BuildEvent
	for e, err := range c.Templates.Watch(ctx, "mine", id, client.EventsOptions{Follow: true, Lost: func(error, time.Duration) { lost++ }}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Build == nil && e.Number != last.Number+1 {
			t.Fatalf("line %d comes after %d", e.Number, last.Number)
		}
		if says, ok := strings.CutPrefix(e.Line.Message, "[builder "); ok && strings.Contains(says, "[stdout]: ") {
			_, says, _ = strings.Cut(says, "[stdout]: ")
			text += says + " "
		}
		if e.Build == nil {
			last.Number = e.Number
		}
		last.Build = e.Build
	}
	if text != "0 1 2 3 4 5 6 7 8 9 10 11 " || lost == 0 || last.Build == nil || last.Build.State != soulbox.BuildReady {
		t.Errorf("it said %q over %d lost connections, and last %+v", text, lost, last)
	}
	// From the middle, and without waiting.
	n := 0
	for e, err := range c.Templates.Watch(ctx, "mine", id, client.EventsOptions{After: last.Number - 1}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1 && e.Number != last.Number || n == 2 && e.Build == nil {
			t.Errorf("event %d: %+v", n, e)
		}
	}
	if n != 2 {
		t.Errorf("%d events behind the last but one, want 2", n)
	}
	lines, err := c.Templates.BuildLog(ctx, "mine", id, soulbox.BuildLogQuery{Level: "info", Offset: 1, Limit: 2})
	if err != nil || len(lines) != 2 || lines[0].Message != "[builder 1/12] RUN echo 0" || lines[0].Step != "1" {
		t.Errorf("BuildLog = %+v, %v", lines, err)
	}
	debug, err := c.Templates.BuildLog(ctx, "mine", id, soulbox.BuildLogQuery{Limit: 2})
	if err != nil || len(debug) != 2 || debug[0].Message != "a secret npm of 4 bytes" || debug[1].Message != "a login ada at ghcr.io" {
		t.Errorf("BuildLog = %+v, %v", debug, err)
	}
}

func TestBuildFails(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	started, err := c.Templates.Build(ctx, "mine", client.BuildOptions{Dir: folder(t, "Dockerfile", "from a\nRUN fail\nRUN true\n")})
	if err != nil {
		t.Fatal(err)
	}
	if len(started.Problems) != 1 || started.Problems[0].Line != 1 || started.Problems[0].Fatal || started.Problems[0].Remedy != "write FROM" {
		t.Errorf("its problems: %+v", started.Problems)
	}
	b, err := c.Templates.Wait(ctx, "mine", string(started.Build.ID), nil)
	failure, ok := errors.AsType[*soulbox.BuildFailure](err)
	if !ok || failure.Step != 1 || failure.Finish || b.State != soulbox.BuildFailed || err.Error() != "the command ended with exit code 1" {
		t.Errorf("Wait = %+v, %v", b, err)
	}
	if _, err := c.Templates.CancelBuild(ctx, "mine", string(b.ID)); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("CancelBuild of one that is over: %v", err)
	}
	started, err = c.Templates.Build(ctx, "mine", client.BuildOptions{Dir: folder(t, "Dockerfile", "FROM a\nRUN hold\n")})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.Templates.CancelBuild(ctx, "mine", string(started.Build.ID)); err != nil || b.State != soulbox.BuildFailed {
		t.Errorf("CancelBuild = %+v, %v", b, err)
	}
	found, err := c.Templates.Validate(ctx, "FROM a\nRUM b\n")
	if err != nil || len(found) != 1 || found[0].Line != 2 || !found[0].Fatal {
		t.Errorf("Validate = %+v, %v", found, err)
	}
	_, err = c.Templates.Build(ctx, "mine", client.BuildOptions{Dir: folder(t, "Dockerfile", "FROM a\nRUM b\n")})
	if soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("Build of a bad Dockerfile: %v", err)
	}
}

func TestBuildOfTar(t *testing.T) {
	c, _ := newClient(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "docker/File", Size: 7, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, "FROM a\n")
	_ = w.Close()
	got := sent(t, c, client.BuildOptions{Context: &b, Dockerfile: "docker/File"})
	if want := []string{"docker/File 0 0:0 600"}; !cmp.Equal(want, got) {
		t.Errorf("sent %q, want %q", got, want)
	}
	_, err := c.Templates.Build(t.Context(), "mine", client.BuildOptions{Context: io.MultiReader(strings.NewReader("x"), failing{})})
	if err == nil || err.Error() != "the disk is on fire" {
		t.Errorf("Build of a tar that cannot be read: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the disk is on fire") }

// A build that is not wanted any more ends, and so does what packs its folder.
func TestBuildCanceled(t *testing.T) {
	got := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		close(got)
		_, _ = io.Copy(stalled{r.Context()}, r.Body) // as slow as a server can be
	}))
	defer server.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("not wanted any more")
	go func() {
		<-got
		cancel(why)
	}()
	_, err := clientOf(t, server.URL).Templates.Build(ctx, "mine", client.BuildOptions{Dir: folder(t, "Dockerfile", "FROM a\n", "big", strings.Repeat("x", 32<<20))})
	if !errors.Is(err, why) {
		t.Errorf("Build: %v, want %v", err, why)
	}
}

// stalled takes what is written only when nobody waits any more.
type stalled struct{ context.Context }

func (s stalled) Write(p []byte) (int, error) {
	select {
	case <-s.Done():
	case <-time.After(10 * time.Millisecond):
	}
	return len(p), nil
}

// A server that refuses before it has read everything is heard all the same.
func TestBuildRefusedEarly(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"code":403,"message":"this key may not build"}`))
	}))
	defer server.Close()
	_, err := clientOf(t, server.URL).Templates.Build(t.Context(), "mine", client.BuildOptions{Dir: folder(t, "Dockerfile", "FROM a\n", "big", strings.Repeat("x", 64<<20))})
	if soulbox.KindOf(err) != soulbox.Forbidden || err.Error() != "this key may not build" {
		t.Errorf("Build: %v, want Forbidden", err)
	}
}

func TestMarket(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	build(t, c, "mine", "FROM a\n", client.BuildOptions{})
	listed, err := c.Templates.SetListing(ctx, "mine", soulbox.ListingChange{
		Description: new("A line"), Readme: new("# é\n"), Licence: new("MIT"), Categories: &[]string{"data"}, Keywords: &[]string{"python"},
	})
	if err != nil || listed.Listing == nil || listed.Listing.Description != "A line" || listed.Listing.Licence != "MIT" || !cmp.Equal(listed.Listing.Categories, []string{"data"}) || !cmp.Equal(listed.Listing.Keywords, []string{"python"}) {
		t.Errorf("SetListing = %+v, %v", listed, err)
	}
	if text, err := c.Templates.Readme(ctx, "mine"); err != nil || text != "# é\n" {
		t.Errorf("Readme = %q, %v", text, err)
	}
	if again, err := c.Templates.SetListing(ctx, "mine", soulbox.ListingChange{Readme: new("")}); err != nil || again.Listing.Description != "A line" {
		t.Errorf("SetListing of a readme = %+v, %v", again, err)
	}
	if _, err := c.Templates.Readme(ctx, "mine"); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Readme of a template without one: %v", err)
	}
	if p, err := c.Templates.Publish(ctx, "mine"); err != nil || !p.Public || p.Listing.PublishedAt.IsZero() {
		t.Errorf("Publish = %+v, %v", p, err)
	}
	if p, err := c.Templates.Unpublish(ctx, "mine"); err != nil || p.Public || !p.Listing.PublishedAt.IsZero() {
		t.Errorf("Unpublish = %+v, %v", p, err)
	}
	if r, err := c.Templates.Rate(ctx, "mine", 4); err != nil || r.Listing.Mine != 4 || r.Listing.Stars != 4 || r.Listing.Ratings != 1 {
		t.Errorf("Rate = %+v, %v", r, err)
	}
	if r, err := c.Templates.Rate(ctx, "mine", 0); err != nil || r.Listing.Mine != 0 {
		t.Errorf("Rate with nothing = %+v, %v", r, err)
	}
	if err := c.Templates.Report(ctx, "mine", "it mines"); err != nil {
		t.Error(err)
	}
	if err := c.Templates.Report(ctx, "mine", ""); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Report without a reason: %v", err)
	}
	if f, err := c.Templates.Fork(ctx, "mine", "1.0.0", "other"); err != nil || f.Name != "other" {
		t.Errorf("Fork = %+v, %v", f, err)
	}
	if _, err := c.Templates.Fork(ctx, "mine", "9", "more"); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Fork of a version that is not there: %v", err)
	}
	var names []string
	for found, err := range c.Templates.Search(ctx, client.SearchOptions{Query: "A line", Category: "data"}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found.Name)
	}
	if !cmp.Equal(names, []string{"mine"}) {
		t.Errorf("Search = %v", names)
	}
	if counts, err := c.Templates.Categories(ctx); err != nil || counts["data"] != 2 {
		t.Errorf("Categories = %v, %v", counts, err)
	}
}

// What is asked for is checked against what the API describes by its tests; here is
// what the client makes of its arguments.
func TestTemplateRequests(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+strings.TrimSpace(string(body))))
		_, _ = w.Write([]byte("{}"))
	}))
	defer server.Close()
	c := clientOf(t, server.URL)
	ctx := t.Context()
	ignore := func(any, error) {}
	for range c.Templates.Search(ctx, client.SearchOptions{Query: "a b", Category: "data", Package: "pip:numpy", Mine: true, Sort: soulbox.ByStars}) {
		t.Error("there is none")
	}
	ignore(c.Templates.Get(ctx, "ns/name"))
	ignore(c.Templates.Promote(ctx, "x", "1.4", "stable"))
	ignore(c.Templates.Promote(ctx, "x", "1.4", ""))
	ignore(c.Templates.Rollback(ctx, "x", ""))
	ignore(c.Templates.Facts(ctx, "x", "^1"))
	ignore(c.Templates.Diff(ctx, "x", ":1.4", "a"))
	ignore(c.Templates.Fork(ctx, "ns/x", "", ""))
	ignore(nil, c.Templates.Delete(ctx, "ns/x"))
	want := []string{
		"GET /v1/templates?category=data&limit=100&mine=true&package=pip%3Anumpy&q=a+b&sort=stars",
		"GET /v1/templates/ns%2Fname",
		`POST /v1/templates/x/promote {"tag":"stable","to":"1.4"}`,
		`POST /v1/templates/x/promote {"to":"1.4"}`,
		"POST /v1/templates/x/rollback {}",
		"GET /v1/templates/x/facts?at=%5E1",
		"GET /v1/templates/x/versions/:1.4/diff/a",
		"POST /v1/templates/ns%2Fx/fork {}",
		"DELETE /v1/templates/ns%2Fx",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	got = nil
	for name, err := range map[string]error{
		"no template":     second(c.Templates.Get(ctx, "")),
		"dots":            second(c.Templates.Get(ctx, "..")),
		"no build":        second(c.Templates.GetBuild(ctx, "x", "../x")),
		"no version":      second(c.Templates.Deprecate(ctx, "x", "", "y")),
		"no first":        second(c.Templates.Diff(ctx, "x", "", "y")),
		"no second":       second(c.Templates.Diff(ctx, "x", "y", "")),
		"no tag":          c.Templates.RemoveTag(ctx, "x", ""),
		"no name":         second(c.Templates.Build(ctx, "", client.BuildOptions{Dir: "."})),
		"delete nothing":  c.Templates.Delete(ctx, ""),
		"watch no build":  firstError(c.Templates.Watch(ctx, "x", "y", client.EventsOptions{})),
		"builds of none":  firstError(c.Templates.Builds(ctx, "")),
		"report nothing":  c.Templates.Report(ctx, "", "x"),
		"export of none":  c.Templates.Export(ctx, "", "", io.Discard),
		"sbom of none":    second(c.Templates.SBOM(ctx, "", "")),
		"readme of none":  second(c.Templates.Readme(ctx, "")),
		"listing of none": second(c.Templates.SetListing(ctx, "", soulbox.ListingChange{Readme: new("x")})),
	} {
		if soulbox.KindOf(err) != soulbox.Invalid || err == nil {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	if len(got) != 0 {
		t.Errorf("asked for %q", got)
	}
}

func second[T any](_ T, err error) error { return err }

func firstError[T any](all func(func(T, error) bool)) error {
	for _, err := range all {
		return err
	}
	return nil
}
