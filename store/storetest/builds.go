package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// build returns a draft that came n minutes after epoch.
func build(team soulbox.TeamID, n int, tags ...string) *soulbox.Build {
	return &soulbox.Build{
		ID: buildID(n), Team: team, State: soulbox.BuildWaiting, CreatedAt: at(n), Tags: tags,
		Size: soulbox.Size{CPUs: 2, Memory: soulbox.GiB, Disk: 5 * soulbox.GiB, PIDs: 100},
	}
}

func buildID(n int) soulbox.BuildID {
	return soulbox.BuildID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
}

// plainTemplate is one that has no build yet.
func plainTemplate(id string, team soulbox.TeamID, name string) *soulbox.Template {
	return &soulbox.Template{ID: soulbox.TemplateID(id), Team: team, Name: name, CreatedAt: at(0), UpdatedAt: at(0)}
}

// made gives a build what comes of one.
func made(b *soulbox.Build) *soulbox.Build {
	b.Image = strings.Repeat("ab", 32)
	b.Env, b.User, b.Workdir = map[string]string{"PATH": "/bin", "雪": `'"\`}, "user", "/srv"
	b.Facts = soulbox.BuildFacts{
		Base: "debian:bookworm@sha256:0", Distribution: "Debian GNU/Linux 12 (bookworm)", Author: "me",
		Packages: []soulbox.Package{{Manager: "dpkg", Name: "curl", Version: "7.88"}, {Manager: "pip", Name: `odd "name", <b>`, Version: "1"}},
		Ports:    []string{"8080/tcp"}, Volumes: []string{"/data"}, Entrypoint: []string{"/bin/app"}, Command: []string{"-v"},
		Labels: map[string]string{"a": "b"}, Bytes: 123, Layers: 4, Written: 45,
		Meant: []byte(`{"config":{"User":"me:us","Labels":{"a":"\u003cb\u003e é"}}}`),
	}
	return b
}

// as returns a bump that is always the same.
func as(c soulbox.Bump) func(*soulbox.Build) soulbox.Bump {
	return func(*soulbox.Build) soulbox.Bump { return c }
}

// ready makes build n of a template with a name, from the draft on.
func ready(t *testing.T, s *store.Store, tpl *soulbox.Template, n int, c soulbox.Bump, tags ...string) *soulbox.Build {
	t.Helper()
	ctx := t.Context()
	b := build(tpl.Team, n, tags...)
	_, err := s.InsertDraft(ctx, tpl, b)
	must(t, err)
	b.State, b.StartedAt = soulbox.BuildRunning, at(n)
	must(t, s.MoveBuild(ctx, made(b), soulbox.BuildWaiting))
	b.EndedAt = at(n).Add(time.Second)
	must(t, s.FinishBuild(ctx, b, as(c)))
	return b
}

// light returns a build as lists have it.
func light(all ...*soulbox.Build) []*soulbox.Build {
	out := make([]*soulbox.Build, len(all))
	for i, b := range all {
		out[i] = b.Clone()
		out[i].Facts.Packages = nil
	}
	return out
}

func wantBuild(t *testing.T, s *store.Store, want *soulbox.Build) {
	t.Helper()
	got, err := s.Build(t.Context(), want.ID)
	must(t, err)
	wantSame(t, "Build", got, want)
}

func testBuildRoundTrip(t *testing.T, s *store.Store) {
	ctx := t.Context()
	tpl := plainTemplate("t1", "", "app")
	full := made(build("", 1, "default", "v1"))
	full.QueuedAt, full.StartedAt, full.EndedAt = at(2), at(3), at(4)
	full.Recipe = soulbox.Recipe{
		Image: "debian", Template: "base", Dockerfile: "FROM x\n", Context: "hash", Target: "last", Args: map[string]string{"A": "1"},
		Start: "run", Ready: "true", Force: true,
		Steps: []soulbox.Step{{Kind: soulbox.StepCopy, Args: []string{"a", "b", "", ""}, Files: "hash", Force: true}, {Kind: soulbox.StepRun, Args: []string{"echo '\"\x00'"}}},
	}
	full.Bump, full.Retired, full.Snapshot, full.Baked, full.Isolation = soulbox.Major, "old", "s1", "i1", soulbox.Runc
	full.Failure = &soulbox.BuildFailure{Message: "no", Step: 3, Finish: true}
	bare := &soulbox.Build{ID: buildID(2), State: soulbox.BuildWaiting, CreatedAt: at(5), Tags: []string{"other"}}
	for _, b := range []*soulbox.Build{full, bare} {
		have, err := s.InsertDraft(ctx, tpl, b)
		must(t, err)
		wantSame(t, "template of the draft", have, tpl)
		if b.Template != "t1" {
			t.Errorf("the draft is of template %q", b.Template)
		}
		wantBuild(t, s, b)
	}
	_, err := s.Build(ctx, "nobody")
	wantKind(t, "Build of an unknown id", err, soulbox.NotFound)
	if _, err := s.InsertDraft(ctx, tpl, build("", 1)); err == nil {
		t.Error("InsertDraft of an id that exists succeeds")
	}
	wantBuild(t, s, full)
}

// testBuildDrafts looks at what a draft does to what is there.
func testBuildDrafts(t *testing.T, s *store.Store) {
	ctx := t.Context()
	first := build("team1", 1)
	have, err := s.InsertDraft(ctx, plainTemplate("t1", "team1", "app"), first)
	must(t, err)
	other := build("team1", 2, "other")
	again, err := s.InsertDraft(ctx, plainTemplate("t2", "team1", "app"), other)
	must(t, err)
	wantSame(t, "template of the second draft", again, have)
	foreign := build("team2", 3)
	_, err = s.InsertDraft(ctx, plainTemplate("t3", "team2", "app"), foreign)
	must(t, err)
	queued := build("team1", 4, "queued")
	_, err = s.InsertDraft(ctx, plainTemplate("t4", "team1", "app"), queued)
	must(t, err)
	queued.Recipe, queued.QueuedAt, queued.Bump = soulbox.Recipe{Image: "debian"}, at(4), soulbox.Minor
	must(t, s.QueueBuild(ctx, queued))
	wantKind(t, "QueueBuild again", s.QueueBuild(ctx, queued), soulbox.Conflict)

	third := build("team1", 5, "default", "queued", "new")
	_, err = s.InsertDraft(ctx, plainTemplate("t5", "team1", "app"), third)
	must(t, err)
	first.State, first.EndedAt = soulbox.BuildFailed, third.CreatedAt
	first.Failure = &soulbox.BuildFailure{Message: "a newer build of the same template and tag took its place"}
	for _, b := range []*soulbox.Build{first, other, foreign, queued, third} {
		wantBuild(t, s, b)
	}
	wantKind(t, "QueueBuild of one that failed", s.QueueBuild(ctx, first), soulbox.Conflict)
	wantKind(t, "QueueBuild of nobody", s.QueueBuild(ctx, build("team1", 9)), soulbox.Conflict)
	all, err := s.AllTemplates(ctx)
	must(t, err)
	if len(all) != 2 {
		t.Errorf("%d templates, want 2", len(all))
	}

	// Many make the first draft of one template at once.
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[soulbox.TemplateID]bool{}
	for n := range 8 {
		wg.Go(func() {
			have, err := s.InsertDraft(ctx, plainTemplate(fmt.Sprint("x", n), "team1", "together"), build("team1", 10+n, fmt.Sprint("tag", n)))
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids[have.ID] = true
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Errorf("drafts of one name are of templates %v, want one", ids)
	}
}

func testBuildMoves(t *testing.T, s *store.Store) {
	ctx := t.Context()
	b := build("team1", 1)
	_, err := s.InsertDraft(ctx, plainTemplate("t1", "team1", "app"), b)
	must(t, err)
	running := made(b.Clone())
	running.State, running.StartedAt, running.Snapshot, running.Baked = soulbox.BuildRunning, at(2), "s1", "i1"
	wantKind(t, "MoveBuild from where it is not", s.MoveBuild(ctx, running, soulbox.BuildRunning), soulbox.Conflict)
	wantBuild(t, s, b)
	must(t, s.MoveBuild(ctx, running, soulbox.BuildWaiting))
	wantBuild(t, s, running)
	running.StartedAt, running.Snapshot = at(3), ""
	must(t, s.MoveBuild(ctx, running, soulbox.BuildRunning))
	wantBuild(t, s, running)

	done := running.Clone()
	done.State = soulbox.BuildReady
	if err := s.MoveBuild(ctx, done, soulbox.BuildRunning); err == nil {
		t.Error("MoveBuild makes a build ready")
	}
	failed := running.Clone()
	failed.State, failed.EndedAt, failed.Failure = soulbox.BuildFailed, at(4), &soulbox.BuildFailure{Message: "no", Step: 2}
	must(t, s.MoveBuild(ctx, failed, soulbox.BuildRunning))
	wantBuild(t, s, failed)
	if err := s.MoveBuild(ctx, running, soulbox.BuildFailed); err == nil {
		t.Error("MoveBuild moves one that is over")
	}
	wantKind(t, "FinishBuild of one that failed", s.FinishBuild(ctx, running, as("")), soulbox.Conflict)
	wantBuild(t, s, failed)

	second := ready(t, s, plainTemplate("t1", "team1", "app"), 5, "")
	wantKind(t, "FinishBuild again", s.FinishBuild(ctx, second.Clone(), as("")), soulbox.Conflict)
	wantBuild(t, s, second)
}

func testBuildVersions(t *testing.T, s *store.Store) {
	ctx := t.Context()
	tpl := plainTemplate("t1", "team1", "app")
	tpl.Public = true
	var all []*soulbox.Build
	for n, step := range []struct {
		says, shows soulbox.Bump
		want        soulbox.Version
	}{
		{"", "", soulbox.Version{Major: 1}},
		{"", soulbox.Patch, soulbox.Version{Major: 1, Patch: 1}},
		{"", soulbox.Minor, soulbox.Version{Major: 1, Minor: 1}},
		{soulbox.Major, soulbox.Patch, soulbox.Version{Major: 2}},
		{soulbox.Patch, soulbox.Major, soulbox.Version{Major: 2, Patch: 1}},
		{"", soulbox.Major, soulbox.Version{Major: 3}},
	} {
		b := build("team1", n)
		b.Bump = step.says
		_, err := s.InsertDraft(ctx, tpl, b)
		must(t, err)
		b.State = soulbox.BuildRunning
		must(t, s.MoveBuild(ctx, made(b), soulbox.BuildWaiting))
		b.EndedAt, b.Facts.Bytes = at(n), soulbox.Bytes(n)
		before := &soulbox.Build{}
		must(t, s.FinishBuild(ctx, b, func(is *soulbox.Build) soulbox.Bump { before = is; return step.shows }))
		if b.Version != step.want || b.State != soulbox.BuildReady {
			t.Errorf("build %d is %s and has version %s, want %s", n, b.State, b.Version, step.want)
		}
		switch {
		case step.says != "": // nobody asks
		case n == 0 && before != nil:
			t.Errorf("before the first build was %+v", before)
		case n > 0:
			wantSame(t, "what was before", before, all[n-1])
		}
		b.Tags = []string{"default"}
		wantBuild(t, s, b)
		all = append(all, b)

		want := tpl.At(b)
		want.UpdatedAt = b.EndedAt
		got, err := s.Template(ctx, "t1")
		must(t, err)
		wantSame(t, "Template", got, want)
	}
	slices.Reverse(all)
	got, err := s.Versions(ctx, "t1")
	must(t, err)
	wantSame(t, "Versions", got, light(all...))

	// One whose default is an older build: what it is compared with is that,
	// and its version comes after the newest.
	must(t, s.PutTags(ctx, "t1", buildID(1), []string{"default"}, at(20)))
	next := build("team1", 21, "apart")
	_, err = s.InsertDraft(ctx, tpl, next)
	must(t, err)
	next.State = soulbox.BuildRunning
	must(t, s.MoveBuild(ctx, next, soulbox.BuildWaiting))
	var before soulbox.BuildID
	must(t, s.FinishBuild(ctx, next, func(b *soulbox.Build) soulbox.Bump { before = b.ID; return soulbox.Minor }))
	if want := (soulbox.Version{Major: 3, Minor: 1}); before != buildID(1) || next.Version != want {
		t.Errorf("compared with %s it has version %s, want %s and %s", before, next.Version, buildID(1), want)
	}
	tplNow, err := s.Template(ctx, "t1")
	must(t, err)
	if tplNow.Build != buildID(1) {
		t.Errorf("the default build is %s after one of another tag, want %s", tplNow.Build, buildID(1))
	}
}

func testBuildsFinishAtOnce(t *testing.T, s *store.Store) {
	ctx := t.Context()
	const many = 12
	tpl := plainTemplate("t1", "team1", "app")
	all := make([]*soulbox.Build, many)
	for n := range many {
		all[n] = build("team1", n, fmt.Sprint("tag", n%3), "default")
		all[n].Tags = all[n].Tags[:1+n%2] // half of them are to be the default
		_, err := s.InsertDraft(ctx, tpl, all[n])
		must(t, err)
		all[n].State, all[n].EndedAt = soulbox.BuildRunning, at(n)
		must(t, s.MoveBuild(ctx, made(all[n]), soulbox.BuildWaiting))
	}
	var wg sync.WaitGroup
	for n, b := range all {
		wg.Go(func() {
			if err := s.FinishBuild(ctx, b, as([]soulbox.Bump{soulbox.Major, soulbox.Minor, soulbox.Patch}[n%3])); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[soulbox.Version]bool{}
	for _, b := range all {
		if seen[b.Version] || b.Version.IsZero() {
			t.Errorf("two builds have version %s", b.Version)
		}
		seen[b.Version] = true
		wantBuild(t, s, b)
	}
	wantConsistent(t, s)
}

// wantConsistent compares every template with its builds and tags.
func wantConsistent(t fataler, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	all, err := s.AllTemplates(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, tpl := range all {
		tags, err := s.Tags(ctx, tpl.ID)
		if err != nil {
			t.Fatal(err)
		}
		var usual soulbox.BuildID
		for _, tag := range tags {
			b, err := s.Build(ctx, tag.Build)
			if err != nil || b.State != soulbox.BuildReady || b.Template != tpl.ID {
				t.Fatalf("tag %s of template %s leads to build %s: %+v, %v", tag.Name, tpl.ID, tag.Build, b, err)
			}
			if tag.Name == soulbox.DefaultTag {
				usual = tag.Build
				if diff := cmp.Diff(tpl.At(b), tpl); diff != "" {
					t.Fatalf("template %s is not what its default build makes of it (-want +got):\n%s", tpl.ID, diff)
				}
			}
		}
		if usual != tpl.Build {
			t.Fatalf("template %s stands for build %q, and its tag for %q", tpl.ID, tpl.Build, usual)
		}
		versions, err := s.Versions(ctx, tpl.ID)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(versions); i++ {
			if versions[i].Version.Compare(versions[i-1].Version) >= 0 {
				t.Fatalf("template %s has versions %s and %s", tpl.ID, versions[i-1].Version, versions[i].Version)
			}
		}
	}
}

func testBuildAdditions(t *testing.T, s *store.Store) {
	ctx := t.Context()
	b := made(build("", 1))
	b.EndedAt = at(2)
	tpl := plainTemplate("t1", "", "base")
	tpl.Public = true
	have, err := s.AddBuild(ctx, tpl, b, "", as(""))
	must(t, err)
	b.Template = "t1"
	if b.State != soulbox.BuildReady || b.Version != (soulbox.Version{Major: 1}) {
		t.Errorf("the build is %s and has version %s", b.State, b.Version)
	}
	wantBuild(t, s, b)
	want := tpl.At(b)
	want.UpdatedAt = at(2)
	wantSame(t, "template", have, want)

	second := made(build("", 3))
	second.Image, second.EndedAt = "cd", at(3)
	have, err = s.AddBuild(ctx, plainTemplate("t2", "", "base"), second, "", as(soulbox.Minor))
	must(t, err)
	if have.ID != "t1" || have.Image != "cd" || have.Version != (soulbox.Version{Major: 1, Minor: 1}) || !have.Public {
		t.Errorf("the template is %+v", have)
	}

	// A copy is a template of its own, or none.
	fork := made(build("team1", 4))
	_, err = s.AddBuild(ctx, plainTemplate("t3", "team1", "mine"), fork, "t1", as(""))
	must(t, err)
	l, err := s.Listing(ctx, "t3", "team1")
	must(t, err)
	if l.ForkOf != "t1" {
		t.Errorf("the copy is one of %q", l.ForkOf)
	}
	_, err = s.AddBuild(ctx, plainTemplate("t4", "team1", "mine"), made(build("team1", 5)), "t1", as(""))
	wantKind(t, "AddBuild of a copy under a taken name", err, soulbox.Conflict)
	_, err = s.Build(ctx, buildID(5))
	wantKind(t, "Build of that copy", err, soulbox.NotFound)

	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			if _, err := s.AddBuild(ctx, plainTemplate(fmt.Sprint("x", n), "", "new"), made(build("", 10+n)), "", as(soulbox.Patch)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tpl, err = s.TemplateByName(ctx, "", "new")
	must(t, err)
	versions, err := s.Versions(ctx, tpl.ID)
	must(t, err)
	if len(versions) != 6 || versions[0].Version != (soulbox.Version{Major: 1, Patch: 5}) {
		t.Errorf("%d versions after six additions at once, the newest %s", len(versions), versions[0].Version)
	}
	wantConsistent(t, s)
}

func testBuildReferences(t *testing.T, s *store.Store) {
	ctx := t.Context()
	tpl, other := plainTemplate("t1", "team1", "app"), plainTemplate("t2", "team1", "other")
	builds := []*soulbox.Build{
		ready(t, s, tpl, 0, ""),                                   // 1.0.0
		ready(t, s, tpl, 1, soulbox.Minor, "v1"),                  // 1.1.0
		ready(t, s, tpl, 2, soulbox.Patch, "default", "v1.1-rc_"), // 1.1.1
		ready(t, s, tpl, 3, soulbox.Major, "edge"),                // 2.0.0
		ready(t, s, tpl, 4, soulbox.Minor, "edge"),                // 2.1.0
		ready(t, s, other, 5, "", "only"),
	}
	must(t, s.RetireBuild(ctx, buildID(4), "it is slow"))
	builds[4].Retired = "it is slow"
	waiting := build("team1", 6, "waiting")
	_, err := s.InsertDraft(ctx, tpl, waiting)
	must(t, err)
	wantKind(t, "RetireBuild of one that is not ready", s.RetireBuild(ctx, waiting.ID, "no"), soulbox.NotFound)

	for _, test := range []struct {
		template soulbox.TemplateID
		ref      string
		want     int // -1: none
	}{
		{"t1", "app", 2},
		{"t1", "app:default", 2},
		{"t1", "app:v1", 1},
		{"t1", "app:v1.1-rc_", 2},
		{"t1", "app:edge", 4}, // retired, and asked for by name
		{"t1", "app:" + string(buildID(3)), 3},
		{"t1", "app@1", 2},
		{"t1", "app@1.0", 0},
		{"t1", "app@1.1.0", 1},
		{"t1", "app@^1", 2},
		{"t1", "app@^1.1", 2},
		{"t1", "app@2", 3}, // the newest is retired
		{"t1", "app@2.1", 4},
		{"t1", "app@^2.1", 4},
		{"t2", "other:only", 5},

		{"t1", "app@3", -1},
		{"t1", "app@1.1.2", -1},
		{"t1", "app:only", -1},
		{"t1", "app:waiting", -1},
		{"t1", "app:" + string(buildID(5)), -1},
		{"t1", "app:" + string(waiting.ID), -1},
		{"t2", "other", -1},
		{"t2", "other:default", -1},
		{"t9", "ghost", -1},
	} {
		ref, err := soulbox.ParseTemplateRef(test.ref)
		must(t, err)
		got, err := s.BuildAt(ctx, test.template, ref)
		if test.want < 0 {
			wantKind(t, "BuildAt "+test.ref, err, soulbox.NotFound)
			continue
		}
		must(t, err)
		wantSame(t, "BuildAt "+test.ref, got, light(builds[test.want])[0])
	}
}

func testBuildLists(t *testing.T, s *store.Store) {
	ctx := t.Context()
	tpl := plainTemplate("t1", "team1", "app")
	var all []*soulbox.Build
	for n := range 5 {
		all = append(all, ready(t, s, tpl, n, soulbox.Patch))
	}
	failed := build("team1", 5)
	_, err := s.InsertDraft(ctx, tpl, failed)
	must(t, err)
	failed.State, failed.EndedAt, failed.Snapshot, failed.Image = soulbox.BuildFailed, at(6), "sleft", "ee"
	must(t, s.MoveBuild(ctx, failed, soulbox.BuildWaiting))
	late := build("team1", 6, "late")
	early := build("team1", 7, "early")
	draft := build("team1", 8, "draft")
	for n, b := range []*soulbox.Build{late, early, draft} {
		_, err := s.InsertDraft(ctx, tpl, b)
		must(t, err)
		if b != draft {
			b.QueuedAt = at(20 - n)
			must(t, s.QueueBuild(ctx, b))
		}
	}
	running := early.Clone()
	running.State, running.StartedAt, running.Image, running.Snapshot = soulbox.BuildRunning, at(30), "dd", "snew"
	must(t, s.MoveBuild(ctx, running, soulbox.BuildWaiting))
	must(t, s.MoveBuild(ctx, running, soulbox.BuildRunning))
	foreign := ready(t, s, plainTemplate("t2", "team2", "app"), 9, "")
	all = append(all, failed, late, running, draft)

	newest := slices.Clone(all)
	slices.Reverse(newest)
	page, err := s.Builds(ctx, soulbox.BuildFilter{Template: "t1"})
	must(t, err)
	wantSame(t, "Builds", page, soulbox.BuildPage{Builds: light(newest...), Total: len(newest)})
	var got []*soulbox.Build
	for cursor := ""; ; cursor = page.Next {
		page, err = s.Builds(ctx, soulbox.BuildFilter{Template: "t1", Limit: 4, Cursor: cursor})
		must(t, err)
		got = append(got, page.Builds...)
		if page.Total != len(all) {
			t.Errorf("a page says that there are %d builds, want %d", page.Total, len(all))
		}
		if page.Next == "" {
			break
		}
		if len(page.Builds) != 4 || len(got) > len(all) {
			t.Fatalf("a page of %d builds, %d in all", len(page.Builds), len(got))
		}
	}
	wantSame(t, "Builds in pages", got, light(newest...))
	page, err = s.Builds(ctx, soulbox.BuildFilter{Template: "t1", States: []soulbox.BuildState{soulbox.BuildFailed, soulbox.BuildRunning}})
	must(t, err)
	wantSame(t, "Builds of two states", page.Builds, light(running, failed))
	_, err = s.Builds(ctx, soulbox.BuildFilter{Template: "t1", Cursor: "nonsense"})
	wantKind(t, "Builds behind a bad cursor", err, soulbox.Invalid)

	unended, err := s.UnendedBuilds(ctx)
	must(t, err)
	wantSame(t, "UnendedBuilds", unended, light(draft, running, late))
	readies, err := s.ReadyBuilds(ctx)
	must(t, err)
	wantSame(t, "ReadyBuilds", readies, light(all[4], foreign, all[3], all[2], all[1], all[0]))

	images, err := s.Images(ctx)
	must(t, err)
	wantSame(t, "Images", images, []string{strings.Repeat("ab", 32), "dd"})
	snaps, err := s.TemplateSnapshots(ctx)
	must(t, err)
	wantSame(t, "TemplateSnapshots", snaps, []soulbox.SnapshotID{"sleft", "snew"})

	for team, want := range map[soulbox.TeamID]int{"team1": 3, "team2": 0} {
		if n, err := s.CountUnended(ctx, team); err != nil || n != want {
			t.Errorf("CountUnended of %s: %d, %v; want %d", team, n, err, want)
		}
	}
	untidy, err := s.UntidyBuilds(ctx)
	must(t, err)
	wantSame(t, "UntidyBuilds", untidy, light(failed))
	must(t, s.TidyBuild(ctx, failed.ID))
	must(t, s.TidyBuild(ctx, running.ID)) // it has not failed
	failed.Snapshot = ""
	wantBuild(t, s, failed)
	wantBuild(t, s, running)

	old, err := s.BuildsFailedBefore(ctx, at(6), 10)
	must(t, err)
	if len(old) != 0 {
		t.Errorf("failed before it did: %v", old)
	}
	old, err = s.BuildsFailedBefore(ctx, at(7), 10)
	must(t, err)
	wantSame(t, "BuildsFailedBefore", old, []soulbox.BuildID{failed.ID})
	must(t, s.DeleteBuild(ctx, failed.ID))
	must(t, s.DeleteBuild(ctx, failed.ID))
	_, err = s.Build(ctx, failed.ID)
	wantKind(t, "Build of a deleted one", err, soulbox.NotFound)
	must(t, s.DeleteBuild(ctx, running.ID))
	wantBuild(t, s, running)
}

func testBuildRenewal(t *testing.T, s *store.Store) {
	ctx := t.Context()
	tpl := plainTemplate("t1", "team1", "app")
	bake := func(b *soulbox.Build) {
		b.Snapshot, b.Baked = "sold", "iold"
	}
	plain := ready(t, s, tpl, 0, "", "plain")
	baked := build("team1", 1)
	_, err := s.InsertDraft(ctx, tpl, baked)
	must(t, err)
	baked.State = soulbox.BuildRunning
	bake(made(baked))
	must(t, s.MoveBuild(ctx, baked, soulbox.BuildWaiting))
	must(t, s.FinishBuild(ctx, baked, as("")))

	now := &soulbox.Build{Image: "new", Snapshot: "snew", Baked: "inew", User: "app"}
	n, err := s.RenewBuilds(ctx, baked, now)
	must(t, err)
	if n != 1 {
		t.Errorf("RenewBuilds changes %d builds, want 1", n)
	}
	baked.Image, baked.Snapshot, baked.Baked, baked.User = "new", "snew", "inew", "app"
	wantBuild(t, s, baked)
	wantBuild(t, s, plain)
	wantConsistent(t, s)

	n, err = s.RenewBuilds(ctx, plain, &soulbox.Build{Image: "newer", User: "user"})
	must(t, err)
	plain.Image = "newer"
	wantBuild(t, s, plain)
	wantBuild(t, s, baked)
	if again, err := s.RenewBuilds(ctx, made(build("team1", 9)), now); err != nil || again != 0 || n != 1 {
		t.Errorf("RenewBuilds of what is gone changes %d builds, %v; before %d, want 0 and 1", again, err, n)
	}
	wantConsistent(t, s)
}

func testBuildTags(t *testing.T, s *store.Store) {
	ctx := t.Context()
	tpl := plainTemplate("t1", "team1", "app")
	one := ready(t, s, tpl, 1, "")
	two := ready(t, s, tpl, 2, soulbox.Minor, "next", "v2")
	foreign := ready(t, s, plainTemplate("t2", "team1", "other"), 3, "")
	waiting := build("team1", 4, "waiting")
	_, err := s.InsertDraft(ctx, tpl, waiting)
	must(t, err)

	look := func(want map[string]soulbox.BuildID) {
		t.Helper()
		tags, err := s.Tags(ctx, "t1")
		must(t, err)
		got := map[string]soulbox.BuildID{}
		for _, tag := range tags {
			got[tag.Name] = tag.Build
		}
		wantSame(t, "Tags", got, want)
		wantConsistent(t, s)
	}
	look(map[string]soulbox.BuildID{"default": one.ID, "next": two.ID, "v2": two.ID})
	for what, err := range map[string]error{
		"one that waits":      s.PutTags(ctx, "t1", waiting.ID, []string{"x"}, at(5)),
		"another template's":  s.PutTags(ctx, "t1", foreign.ID, []string{"x"}, at(5)),
		"nobody":              s.PutTags(ctx, "t1", buildID(99), []string{"x"}, at(5)),
		"an unknown template": s.PutTags(ctx, "t9", one.ID, []string{"x"}, at(5)),
	} {
		wantKind(t, "PutTags to "+what, err, soulbox.NotFound)
	}
	look(map[string]soulbox.BuildID{"default": one.ID, "next": two.ID, "v2": two.ID})

	must(t, s.PutTags(ctx, "t1", two.ID, []string{"default", "stable"}, at(6)))
	look(map[string]soulbox.BuildID{"default": two.ID, "next": two.ID, "v2": two.ID, "stable": two.ID})
	must(t, s.PutTags(ctx, "t1", one.ID, []string{"stable"}, at(7)))
	must(t, s.DeleteTags(ctx, "t1", []string{"v2", "default", "ghost"}))
	look(map[string]soulbox.BuildID{"default": two.ID, "next": two.ID, "stable": one.ID})
	tags, err := s.Tags(ctx, "t1")
	must(t, err)
	wantSame(t, "Tags", tags, []soulbox.Tag{
		{Name: "default", Build: two.ID, At: at(6)}, {Name: "next", Build: two.ID, At: two.EndedAt}, {Name: "stable", Build: one.ID, At: at(7)},
	})
}
