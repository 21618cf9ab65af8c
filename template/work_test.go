package template_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template"
	"github.com/soulbox/soulbox/template/buildkit"
)

// A build from its draft to a template that sandboxes can be made of.
func TestBuild(t *testing.T) {
	w := open(t)
	w.start(t)
	tpl, draft, err := w.Draft(t.Context(), ours, "ours/App:v1", []string{"Latest", "v1"}, soulbox.Size{CPUs: 4, Memory: 512 * soulbox.MiB})
	if err != nil {
		t.Fatalf("Draft: %v", err)
	}
	if tpl.Name != "app" || tpl.Team != ours || tpl.Public || tpl.Build != "" || !draft.ID.Valid() || draft.Template != tpl.ID ||
		draft.State != soulbox.BuildWaiting || !slices.Equal(draft.Tags, []string{"v1", "latest"}) {
		t.Errorf("drafted %+v of %+v", draft, tpl)
	}
	if got, err := w.Template(t.Context(), ours, ref(t, "app")); err != nil || got.ID != tpl.ID || got.Image != "" {
		t.Errorf("Template of a draft: %+v, %v", got, err)
	}
	recipe := run("write motd hello", "install curl 1.0", "expose 80/tcp")
	recipe.Start, recipe.Ready = "serve", "true"
	logins := map[string]soulbox.Login{"ghcr.io": {User: "me", Password: "hunter2"}}
	if err := w.Trigger(t.Context(), ours, tpl.ID, draft.ID, recipe, logins); err != nil {
		t.Fatalf("Trigger: %v", err)
	}
	b := w.await(t, draft.ID, soulbox.BuildReady)
	want := &soulbox.Build{
		ID: draft.ID, Template: tpl.ID, Team: ours, State: soulbox.BuildReady, Recipe: recipe, Tags: []string{"v1", "latest"},
		Version: soulbox.Version{Major: 1}, Size: soulbox.Size{CPUs: 4, Memory: 512 * soulbox.MiB, Disk: soulbox.GiB, PIDs: 100},
		Env: map[string]string{"PATH": "/bin"}, User: "user", Workdir: "/srv",
		Facts: soulbox.BuildFacts{
			Base: "debian:bookworm", Packages: []soulbox.Package{{Manager: "dpkg", Name: "curl", Version: "1.0"}}, Ports: []string{"80/tcp"}, Written: 1,
			Meant: []byte(`{"config":{"User":"user","ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin"],"Cmd":["/bin/bash","-l","-c","serve"],"WorkingDir":"/srv"}}`),
		},
	}
	ignore := cmpopts.IgnoreFields(soulbox.Build{}, "CreatedAt", "QueuedAt", "StartedAt", "EndedAt", "Image", "Snapshot", "Baked", "Facts.Bytes")
	if diff := cmp.Diff(want, b, ignore); diff != "" {
		t.Errorf("build (-want +got):\n%s", diff)
	}
	times := []time.Time{b.CreatedAt, b.QueuedAt, b.StartedAt, b.EndedAt}
	if !slices.IsSortedFunc(times, time.Time.Compare) || b.CreatedAt.IsZero() || b.Facts.Bytes == 0 || b.Baked == "" {
		t.Errorf("times %v, %d bytes, baked %q", times, b.Facts.Bytes, b.Baked)
	}
	if got := content(t, w.tree(t, b.Image), "motd"); got != "hello" {
		t.Errorf("motd holds %q", got)
	}
	if got := w.baker.snapshots(t); !slices.Equal(got, []soulbox.SnapshotID{b.Snapshot}) {
		t.Errorf("snapshots %v, want %s", got, b.Snapshot)
	}
	job := w.engine.built()[0]
	// The engine keeps what one team has built from another.
	if diff := cmp.Diff(logins, job.Credentials); diff != "" || job.Team != ours || job.Limits.Time != time.Hour || !job.Limits.Internet {
		t.Errorf("the engine got limits %+v and logins (-want +got):\n%s", job.Limits, diff)
	}

	// Only its tags lead to it; "default" is none of them.
	if got := w.row(t, tpl.ID); got.Build != "" || got.Image != "" {
		t.Errorf("the template stands for %+v", got)
	}
	for in, want := range map[string]soulbox.BuildID{"app:v1": b.ID, "app:latest": b.ID, "ours/app:v1": b.ID, "app@1": b.ID, "app:" + string(b.ID): b.ID, "app": ""} {
		got, err := w.Template(t.Context(), ours, ref(t, in))
		if err != nil || got.Build != want || want != "" && (got.Image != b.Image || got.Snapshot != b.Snapshot || got.Size != b.Size) {
			t.Errorf("Template %s: %+v, %v; want build %q", in, got, err, want)
		}
	}
	wantLines := []string{
		"|building", "base|FROM debian:bookworm", "1|RUN write motd hello", "2|RUN install curl 1.0", "3|RUN expose 80/tcp",
		"finalize|Running start command", "finalize|ready",
	}
	if diff := cmp.Diff(wantLines, w.lines(t, b)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	w.put2rest(t, b)
}

// put2rest looks for what a build should not leave, once it is put away.
func (w *world) put2rest(t *testing.T, all ...*soulbox.Build) {
	t.Helper()
	for _, b := range all {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			left, err := os.ReadDir(filepath.Join(w.dir, "builds", string(b.ID)))
			if err == nil && len(left) == 1 && left[0].Name() == "log.jsonl" {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("left of build %s: %v, %v; want its log alone", b.ID, left, err)
				break
			}
		}
	}
	if left, err := os.ReadDir(w.engine.dir); err != nil || len(left) != 0 {
		t.Errorf("left of the engine: %v, %v", left, err)
	}
	w.idle(t)
}

// The next build is another version, derived from what is in it, and the tag
// "default" takes the template along.
func TestBuildVersions(t *testing.T) {
	w := open(t)
	w.start(t)
	for _, step := range []struct {
		bump   soulbox.Bump
		recipe soulbox.Recipe
		want   string
	}{
		{"", run("install a 1"), "1.0.0"},
		{"", run("install a 1", "write x y"), "1.0.1"},
		{"", run("install a 2"), "1.0.2"},
		{"", run("install a 2", "install b 1"), "1.1.0"},
		{"", run("install a 2", "install b 1", "expose 80/tcp"), "1.2.0"},
		{"", run("install b 1"), "2.0.0"},
		{soulbox.Minor, run("install b 1"), "2.1.0"},
		{soulbox.Patch, run("install c 1"), "2.1.1"},
		{"", soulbox.Recipe{Image: "alpine", Steps: run("install c 1").Steps}, "3.0.0"},
	} {
		_, b, err := w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "app", Recipe: step.recipe, Bump: step.bump})
		if err != nil {
			t.Fatal(err)
		}
		b = w.await(t, b.ID, soulbox.BuildReady)
		if got := b.Version.String(); got != step.want {
			t.Errorf("%+v has version %s, want %s", step.recipe.Steps, got, step.want)
		}
		tpl, err := w.Template(t.Context(), ours, ref(t, "app"))
		if err != nil || tpl.Build != b.ID || tpl.Version != b.Version || tpl.Image != b.Image {
			t.Errorf("the template stands for %+v, %v; want build %s", tpl, err, b.ID)
		}
	}
}

func TestBuildFails(t *testing.T) {
	w := open(t)
	w.start(t)
	ready := w.make(t, "app", run("write a b"))
	for _, tt := range []struct {
		name   string
		recipe soulbox.Recipe
		want   soulbox.BuildFailure
	}{
		{"a step", run("write a b", "fail with this"), soulbox.BuildFailure{Message: "fail with this", Step: 2}},
		{"the engine", run("break"), soulbox.BuildFailure{Message: "internal error"}},
		{"the start command", soulbox.Recipe{Image: "debian", Start: "exit"}, soulbox.BuildFailure{Message: "the start command ended", Finish: true}},
		{"no such template", soulbox.Recipe{Template: "ghost"}, soulbox.BuildFailure{Message: "template 'ghost' not found"}},
		{"no such tag", soulbox.Recipe{Template: "app:v9"}, soulbox.BuildFailure{Message: "tag 'v9' does not exist for template 'app'"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := w.await(t, w.ask(t, "app", tt.recipe).ID, soulbox.BuildFailed)
			if diff := cmp.Diff(&tt.want, b.Failure); diff != "" {
				t.Errorf("failure (-want +got):\n%s", diff)
			}
			if b.Image != "" || b.Snapshot != "" || !b.Version.IsZero() || b.EndedAt.IsZero() {
				t.Errorf("a build that failed has %+v", b)
			}
			step := map[bool]string{true: "finalize", false: ""}[tt.want.Finish]
			if tt.want.Step > 0 {
				step = fmt.Sprint(tt.want.Step)
			}
			if lines := w.lines(t, b); lines[len(lines)-1] != step+"|"+tt.want.Message {
				t.Errorf("the log is %q", lines)
			}
			w.put2rest(t, b)
			if got := w.row(t, b.Template); got.Build != ready.ID || got.Image != ready.Image {
				t.Errorf("the template stands for %+v, want what it did", got)
			}
		})
	}
	w.have(t, ready.Image)
	if got := w.baker.snapshots(t); len(got) != 0 {
		t.Errorf("snapshots %v", got)
	}
	if strings.Contains(w.log.String(), "hunter2") {
		t.Error("the server's log shows a secret")
	}
}

// A template is built on another, or on the house's base by E2B's name for it.
func TestBuildOnTemplate(t *testing.T) {
	w := open(t)
	w.start(t)
	base := w.ensure(t, "base", "1")
	w.make(t, "mine", run("write a b"))
	w.put(t, "their-gift", theirs, "gift", true)
	w.put(t, "their-secret", theirs, "secret", false)
	for _, tt := range []struct {
		recipe soulbox.Recipe
		want   soulbox.TemplateID // of what it is built on; empty: an image
		fails  string
	}{
		{soulbox.Recipe{Template: "mine"}, "mine", ""},
		{soulbox.Recipe{Template: "mine@^1"}, "mine", ""},
		{soulbox.Recipe{Template: "theirs/gift"}, "their-gift", ""},
		{soulbox.Recipe{Image: "e2bdev/base"}, base.ID, ""},
		{soulbox.Recipe{Image: "e2bdev/base:latest"}, base.ID, ""},
		{soulbox.Recipe{Image: "base"}, base.ID, ""},
		{soulbox.Recipe{Image: "ours/mine"}, "mine", ""},
		{soulbox.Recipe{Image: "theirs/gift:default"}, "their-gift", ""},
		{soulbox.Recipe{Image: "mine"}, "", ""}, // a bare name is an image
		{soulbox.Recipe{Image: "python:3.12"}, "", ""},
		{soulbox.Recipe{Image: "theirs/secret"}, "", ""}, // as if it did not exist
		{soulbox.Recipe{Image: "nobody/thing"}, "", ""},
		{soulbox.Recipe{Image: "ghcr.io/org/app@sha256:00"}, "", ""},
		{soulbox.Recipe{Template: "theirs/secret"}, "", "template 'theirs/secret' not found"},
		{soulbox.Recipe{Image: "ours/mine:v9"}, "", "tag 'v9' does not exist for template 'ours/mine'"},
	} {
		b := w.ask(t, "app", tt.recipe)
		if tt.fails != "" {
			if b = w.await(t, b.ID, soulbox.BuildFailed); b.Failure.Message != tt.fails || b.Failure.Step != 0 {
				t.Errorf("%+v: failure %+v, want %q", tt.recipe, b.Failure, tt.fails)
			}
			continue
		}
		w.await(t, b.ID, soulbox.BuildReady)
		jobs := w.engine.built()
		got := soulbox.TemplateID("")
		if on := jobs[len(jobs)-1].Base; on != nil {
			got = on.ID
			if on.Name == "mine" {
				got = "mine"
			}
			if on.Image == "" {
				t.Errorf("%+v: built on %+v", tt.recipe, on)
			}
		}
		if got != tt.want {
			t.Errorf("%+v is built on %q, want %q", tt.recipe, got, tt.want)
		}
	}
	_, draft, err := w.Draft(t.Context(), ours, "unbuilt", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	b := w.await(t, w.ask(t, "app", soulbox.Recipe{Template: "unbuilt"}).ID, soulbox.BuildFailed)
	if b.Failure.Message != "template 'unbuilt' has no build that is ready; build it, or name a tag that one has" {
		t.Errorf("built on %s: %+v", draft.ID, b.Failure)
	}
}

// A Dockerfile names templates as it names images, and the context is there for
// it.
func TestBuildDockerfile(t *testing.T) {
	w := open(t)
	w.start(t)
	base := w.ensure(t, "base", "1")
	w.put(t, "their-gift", theirs, "gift", true)
	w.put(t, "their-secret", theirs, "secret", false)
	b := w.make(t, "app", soulbox.Recipe{
		Dockerfile: "ARG V=3\nFROM e2bdev/base AS b\nFROM alpine:$V\nCOPY --from=b /a /a\nCOPY --from=theirs/gift /b /b\nCOPY --from=theirs/secret /c /c\n",
		Args:       map[string]string{"V": "3.20"}, Target: "",
	})
	job := w.engine.built()[0]
	got := map[string]soulbox.TemplateID{}
	for name, tpl := range job.Named {
		got[name] = tpl.ID
	}
	want := map[string]soulbox.TemplateID{"e2bdev/base": base.ID, "theirs/gift": "their-gift"}
	if diff := cmp.Diff(want, got); diff != "" || job.Base != nil || job.Recipe.Args["V"] != "3.20" {
		t.Errorf("the engine got %+v (-want +got):\n%s", job, diff)
	}
	if b.Facts.Base != "a Dockerfile" {
		t.Errorf("it is built on %q", b.Facts.Base)
	}
	failed := w.await(t, w.ask(t, "app", soulbox.Recipe{Dockerfile: "FRM x\n"}).ID, soulbox.BuildFailed)
	if failed.Failure.Message == "" || failed.Failure.Message == "internal error" {
		t.Errorf("a Dockerfile that cannot be read fails with %+v", failed.Failure)
	}
}

// Builds are made one after the other, and those that wait know where they are.
func TestQueue(t *testing.T) {
	w := open(t)
	w.start(t)
	first := w.ask(t, "a", run("wait"))
	w.await(t, first.ID, soulbox.BuildRunning)
	second, third, fourth := w.ask(t, "b", run("wait")), w.ask(t, "c", run("wait")), w.ask(t, "d", run("wait"))
	places := func(want ...int) {
		t.Helper()
		for i, b := range []*soulbox.Build{first, second, third, fourth} {
			got, err := w.Build(t.Context(), ours, b.Template, b.ID)
			if err != nil || got.Position != want[i] {
				t.Errorf("build %d is at place %d, %v; want %d", i+1, got.Position, err, want[i])
			}
		}
	}
	places(0, 1, 2, 3)
	if err := w.Cancel(t.Context(), ours, third.Template, third.ID); err != nil {
		t.Fatalf("Cancel: %v", err)
	}
	places(0, 1, 0, 2)
	if b := w.await(t, third.ID, soulbox.BuildFailed); b.Failure.Message != "the build was cancelled" || !b.StartedAt.IsZero() {
		t.Errorf("cancelled: %+v", b)
	}
	w.engine.proceed(first.ID)
	w.await(t, first.ID, soulbox.BuildReady)
	w.await(t, second.ID, soulbox.BuildRunning)
	places(0, 0, 0, 1)
	if diff := cmp.Diff([]string{"|waiting: number 3 in the queue", "|waiting: number 1 in the queue"}, w.lines(t, fourth)); diff != "" {
		t.Errorf("log of the one that waits (-want +got):\n%s", diff)
	}
	w.engine.proceed(second.ID)
	w.engine.proceed(fourth.ID)
	w.await(t, fourth.ID, soulbox.BuildReady)
	if n := len(w.engine.built()); n != 3 {
		t.Errorf("the engine was asked for %d builds, want 3", n)
	}
	w.put2rest(t, first, second, third, fourth)
}

// With more workers, more are built at the same time.
func TestWorkers(t *testing.T) {
	w := open(t)
	w.change = func(o *template.Options) { o.Workers = 3 }
	w.reopen(t)
	w.start(t)
	var all []*soulbox.Build
	for i := range 3 {
		b := w.ask(t, fmt.Sprint("t", i), run("wait"))
		all = append(all, b)
		w.await(t, b.ID, soulbox.BuildRunning)
	}
	for _, b := range all {
		w.engine.proceed(b.ID)
	}
	for _, b := range all {
		w.await(t, b.ID, soulbox.BuildReady)
	}
}

func TestCancel(t *testing.T) {
	w := open(t)
	w.start(t)
	for name, recipe := range map[string]soulbox.Recipe{"a step": run("block"), "the start command": {Image: "debian", Start: "block"}} {
		b := w.ask(t, "app", recipe)
		w.await(t, b.ID, soulbox.BuildRunning)
		for recipe.Start != "" && w.built(t, b).Snapshot == "" {
			time.Sleep(time.Millisecond)
		}
		if err := w.Cancel(t.Context(), ours, b.Template, b.ID); err != nil {
			t.Fatalf("Cancel in %s: %v", name, err)
		}
		// When it returns, nothing runs any more.
		if b = w.built(t, b); b.State != soulbox.BuildFailed || b.Failure.Message != "the build was cancelled" || b.Image != "" || b.Snapshot != "" {
			t.Errorf("cancelled in %s: %+v", name, b)
		}
		wantError(t, "Cancel again", w.Cancel(t.Context(), ours, b.Template, b.ID), soulbox.Conflict, "is over: it is error")
		w.put2rest(t, b)
	}
	w.have(t)

	_, draft, err := w.Draft(t.Context(), ours, "app", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Cancel(t.Context(), ours, draft.Template, draft.ID); err != nil {
		t.Errorf("Cancel of a draft: %v", err)
	}
	wantError(t, "Trigger of what was cancelled", w.Trigger(t.Context(), ours, draft.Template, draft.ID, run(), nil), soulbox.Invalid, "is not waiting for its recipe: it is error")
	done := w.make(t, "app", run("write a b"))
	wantError(t, "Cancel of what is ready", w.Cancel(t.Context(), ours, done.Template, done.ID), soulbox.Conflict, "is over: it is ready")
	wantError(t, "Cancel of nothing", w.Cancel(t.Context(), ours, done.Template, soulbox.NewBuildID()), soulbox.NotFound, "not found")

	// Who does not wait to hear does not stop it.
	b := w.ask(t, "app", run("block"))
	w.await(t, b.ID, soulbox.BuildRunning)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if err := w.Cancel(ctx, ours, b.Template, b.ID); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Cancel by somebody who leaves: %v", err)
	}
	if err := w.Cancel(t.Context(), ours, b.Template, b.ID); err != nil && soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Cancel: %v", err)
	}
	w.await(t, b.ID, soulbox.BuildFailed)
}

func (w *world) built(t tester, b *soulbox.Build) *soulbox.Build {
	t.Helper()
	b, err := w.store.Build(t.Context(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A newer build takes the place of older ones of the same tag, wherever they
// are, and leaves others alone.
func TestSupersede(t *testing.T) {
	w := open(t)
	w.start(t)
	request := func(name string, recipe soulbox.Recipe) *soulbox.Build { t.Helper(); return w.ask(t, name, recipe) }
	running := request("app", run("block"))
	w.await(t, running.ID, soulbox.BuildRunning)
	other := request("app:other", run("wait"))
	waiting := request("app:x", run("block"))
	_, draft, err := w.Draft(t.Context(), ours, "app:x", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	newer := request("app:default", run("write a b"))
	_, both, err := w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "app:x", Tags: []string{"y"}, Recipe: run("write c d")})
	if err != nil {
		t.Fatal(err)
	}
	const why = "a newer build of the same template and tag took its place"
	for what, b := range map[string]*soulbox.Build{"the one under work": running, "the one in the queue": waiting, "the draft": draft} {
		if b = w.await(t, b.ID, soulbox.BuildFailed); b.Failure.Message != why {
			t.Errorf("%s failed with %+v", what, b.Failure)
		}
	}
	w.engine.proceed(other.ID)
	for _, b := range []*soulbox.Build{other, newer, both} {
		w.await(t, b.ID, soulbox.BuildReady)
	}
	for in, want := range map[string]soulbox.BuildID{"app": newer.ID, "app:other": other.ID, "app:x": both.ID, "app:y": both.ID} {
		if got, err := w.Template(t.Context(), ours, ref(t, in)); err != nil || got.Build != want {
			t.Errorf("%s is build %s, %v; want %s", in, got.Build, err, want)
		}
	}
	wantError(t, "Trigger of the draft", w.Trigger(t.Context(), ours, draft.Template, draft.ID, run(), nil), soulbox.Invalid, "is not waiting for its recipe")
}

// The same team's builds of other templates, and other teams' of the same name,
// have nothing to do with each other.
func TestBuildsApart(t *testing.T) {
	w := open(t)
	w.start(t)
	mine := w.ask(t, "app", run("wait"))
	w.await(t, mine.ID, soulbox.BuildRunning)
	_, foreign, err := w.Request(t.Context(), soulbox.BuildRequest{Team: theirs, Name: "app", Recipe: run("write a b")})
	if err != nil {
		t.Fatal(err)
	}
	if foreign.Template == mine.Template {
		t.Fatal("two teams build one template")
	}
	w.engine.proceed(mine.ID)
	w.await(t, mine.ID, soulbox.BuildReady)
	w.await(t, foreign.ID, soulbox.BuildReady)
}

// What was under work when the server stopped goes on with the next one, before
// what waited; secrets are still there.
func TestRestart(t *testing.T) {
	w := open(t)
	w.start(t)
	logins := map[string]soulbox.Login{"docker.io": {User: "u", Password: "hunter2"}}
	secrets := map[string][]byte{"token": []byte("hunter2\x00")}
	var all []*soulbox.Build
	for i := range 3 {
		_, b, err := w.Request(t.Context(), soulbox.BuildRequest{
			Team: ours, Name: fmt.Sprint("app", i), Recipe: run("wait"), Logins: logins, Secrets: secrets,
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	w.await(t, all[0].ID, soulbox.BuildRunning)
	files, err := filepath.Glob(filepath.Join(w.dir, "builds", "*", "secrets"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files with secrets: %v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || strings.Contains(string(b), "hunter2") {
			t.Errorf("%s holds %q, %v", f, b, err)
		}
	}
	_, draft, err := w.Draft(t.Context(), ours, "draft", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}

	w.reopen(t)
	if b := w.built(t, all[0]); b.State != soulbox.BuildRunning {
		t.Errorf("after a stop the build is %s", b.State)
	}
	if b := w.built(t, draft); b.State != soulbox.BuildWaiting {
		t.Errorf("after a stop the draft is %s", b.State)
	}
	w.start(t)
	for i, b := range all {
		w.engine.proceed(b.ID)
		w.await(t, b.ID, soulbox.BuildReady)
		jobs := w.engine.built()
		slices.Reverse(jobs)
		job := jobs[slices.IndexFunc(jobs, func(j buildkit.Job) bool { return j.ID == b.ID })]
		if !cmp.Equal(job.Credentials, logins) || !cmp.Equal(job.Secrets, secrets) {
			t.Errorf("job %d after a restart is %+v", i, job)
		}
	}
	w.put2rest(t, all...)
	if err := w.Trigger(t.Context(), ours, draft.Template, draft.ID, run("write a b"), nil); err != nil {
		t.Errorf("Trigger of a draft from before: %v", err)
	}
	w.await(t, draft.ID, soulbox.BuildReady)
	if err := w.Start(t.Context()); err == nil {
		t.Error("Start again: no error")
	}
}

// Nothing goes on under a server that was closed, and nothing is told to have
// failed because of it.
func TestClose(t *testing.T) {
	w := open(t)
	w.start(t)
	b := w.ask(t, "app", run("block"))
	w.await(t, b.ID, soulbox.BuildRunning)
	if err := w.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if b = w.built(t, b); b.State != soulbox.BuildRunning || b.Failure != nil {
		t.Errorf("after Close the build is %+v", b)
	}
	if err := w.Start(t.Context()); err == nil {
		t.Error("Start after Close: no error")
	}
}
