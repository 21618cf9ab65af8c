package template_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template"
)

// A template that is removed takes its builds along, those under work included.
func TestRemoveWithBuilds(t *testing.T) {
	w := open(t)
	w.start(t)
	recipe := run("write a b")
	recipe.Start = "serve"
	done := w.make(t, "app", recipe)
	failed := w.await(t, w.ask(t, "app", run("fail")).ID, soulbox.BuildFailed)
	running := w.ask(t, "app", run("block"))
	w.await(t, running.ID, soulbox.BuildRunning)
	waiting := w.ask(t, "app:other", run("block"))
	if err := w.Remove(t.Context(), ours, done.Template); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	for _, b := range []*soulbox.Build{done, failed, running, waiting} {
		if _, err := w.store.Build(t.Context(), b.ID); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("build %s: %v, want NotFound", b.ID, err)
		}
		if _, err := os.Stat(filepath.Join(w.dir, "builds", string(b.ID))); !os.IsNotExist(err) {
			t.Errorf("folder of build %s: %v", b.ID, err)
		}
	}
	if got := w.baker.snapshots(t); len(got) != 0 {
		t.Errorf("snapshots %v are left", got)
	}
	if got := w.baker.forgot(); !slices.Equal(got, []soulbox.TemplateID{done.Template}) {
		t.Errorf("what waits was ended of %v, want of %s", got, done.Template)
	}
	after := w.make(t, "app", run("write c d"))
	if after.Template == done.Template || after.Version != (soulbox.Version{Major: 1}) {
		t.Errorf("a build under the free name: %+v", after)
	}
	w.have(t, after.Image)
}

// A template on which sandboxes live stays as it is, with what is being built.
func TestRemoveRefused(t *testing.T) {
	w := open(t)
	w.start(t)
	done := w.make(t, "app", run("write a b"))
	sb := &soulbox.Sandbox{ID: soulbox.NewSandboxID(), Team: theirs, Template: done.Template, State: soulbox.Paused, CreatedAt: time.Now()}
	if err := w.store.InsertSandbox(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	running := w.ask(t, "app", run("wait"))
	w.await(t, running.ID, soulbox.BuildRunning)
	wantError(t, "Remove", w.Remove(t.Context(), ours, done.Template), soulbox.Invalid, "cannot be removed: 1 sandboxes")
	if got := w.baker.forgot(); len(got) != 0 {
		t.Errorf("what waits was ended of %v", got)
	}
	w.engine.proceed(running.ID)
	w.await(t, running.ID, soulbox.BuildReady)
}

// A snapshot that cannot be removed now is, later.
func TestSnapshotLeft(t *testing.T) {
	w := open(t)
	w.start(t)
	b := w.ask(t, "app", soulbox.Recipe{Image: "debian", Start: "block"})
	for w.built(t, b).Snapshot == "" {
		time.Sleep(time.Millisecond)
	}
	w.baker.set(errors.New("the disk does not answer"))
	if err := w.Cancel(t.Context(), ours, b.Template, b.ID); err != nil {
		t.Fatalf("Cancel: %v", err)
	}
	if b = w.built(t, b); b.State != soulbox.BuildFailed || b.Snapshot == "" {
		t.Fatalf("the build is %+v", b)
	}
	w.baker.set(nil)
	if err := os.WriteFile(filepath.Join(w.baker.dir, string(b.Snapshot)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	w.start(t)
	if b = w.built(t, b); b.Snapshot != "" {
		t.Errorf("the record still names %s", b.Snapshot)
	}
	if got := w.baker.snapshots(t); len(got) != 0 {
		t.Errorf("snapshots %v are left", got)
	}
}

// What nobody needs any more goes with time.
func TestPrune(t *testing.T) {
	w := open(t)
	w.start(t)
	_, draft, err := w.Draft(t.Context(), ours, "app:draft", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	done := w.make(t, "app", run("write a b"))
	failed := w.await(t, w.ask(t, "app", run("fail")).ID, soulbox.BuildFailed)
	prune := func(after time.Duration) {
		t.Helper()
		if err := template.Prune(t.Context(), w.Registry, time.Now().Add(after)); err != nil {
			t.Fatalf("prune: %v", err)
		}
	}
	prune(23 * time.Hour)
	if b := w.built(t, draft); b.State != soulbox.BuildWaiting {
		t.Errorf("a draft of a day is %s", b.State)
	}
	prune(25 * time.Hour)
	if b := w.built(t, draft); b.State != soulbox.BuildFailed || !strings.Contains(b.Failure.Message, "within 24h") {
		t.Errorf("a draft of more than a day is %s: %+v", b.State, b.Failure)
	}
	prune(29 * 24 * time.Hour)
	w.built(t, failed)
	prune(31 * 24 * time.Hour)
	if _, err := w.store.Build(t.Context(), failed.ID); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("a build that failed a month ago: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "builds", string(failed.ID))); !os.IsNotExist(err) {
		t.Errorf("its folder: %v", err)
	}
	if b := w.built(t, done); b.State != soulbox.BuildReady || len(w.lines(t, done)) == 0 {
		t.Errorf("a ready build is %+v", b)
	}

	// A folder without a record goes with the next start.
	stray := filepath.Join(w.dir, "builds", string(soulbox.NewBuildID()))
	if err := os.MkdirAll(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	w.start(t)
	if _, err := os.Stat(stray); !os.IsNotExist(err) {
		t.Errorf("a folder that nobody knows: %v", err)
	}
}

// Images of builds under work are nobody's to sweep.
func TestSweepDuringBuild(t *testing.T) {
	w := open(t)
	w.start(t)
	packed := make(chan struct{})
	w.packer.packed = func() {
		w.packer.packed = nil
		if err := w.Refresh(t.Context(), nil); err != nil { // sweeps, while no record names the image
			t.Errorf("Refresh: %v", err)
		}
		close(packed)
	}
	b := w.make(t, "app", run("write a b"))
	<-packed
	w.have(t, b.Image)
}

// Without an engine there is one honest answer.
func TestNoEngine(t *testing.T) {
	w := open(t)
	w.change = func(o *template.Options) { o.Engine = nil }
	w.reopen(t)
	w.start(t)
	_, _, err := w.Draft(t.Context(), ours, "app", nil, soulbox.Size{})
	wantError(t, "Draft", err, soulbox.Unavailable, "building templates needs a server built with BuildKit")
	_, _, err = w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "app", Recipe: run()})
	wantError(t, "Request", err, soulbox.Unavailable, "building templates needs a server built with BuildKit")
	wantError(t, "Trigger", w.Trigger(t.Context(), ours, "x", soulbox.NewBuildID(), run(), nil), soulbox.Unavailable, "BuildKit")
}

// What carries another agent, or cannot be read any more, is baked again behind.
func TestRebake(t *testing.T) {
	w := open(t)
	w.start(t)
	recipe := run("write a b")
	recipe.Start = "serve"
	b := w.make(t, "app", recipe)
	_, err := w.Fork(t.Context(), theirs, soulbox.TemplateRef{Name: "none"}, "")
	wantError(t, "Fork of nothing", err, soulbox.NotFound, "template 'none' not found")
	if _, err := w.Publish(t.Context(), ours, b.Template, true); err != nil {
		t.Fatal(err)
	}
	fork, err := w.Fork(t.Context(), theirs, ref(t, "ours/app"), "mine")
	if err != nil {
		t.Fatalf("Fork: %v", err)
	}
	if err := template.Rebake(t.Context(), w.Registry); err != nil || w.baker.bakes != 1 {
		t.Errorf("nothing is old, and there were %d bakes, %v", w.baker.bakes, err)
	}
	if err := w.Refresh(t.Context(), nil); err != nil {
		t.Fatal(err)
	}

	w.packer.agent = "agent 2"
	if err := w.Refresh(t.Context(), func(line string) { t.Errorf("progress %q: that is not for a start to wait for", line) }); err != nil {
		t.Fatal(err)
	}
	if err := template.Rebake(t.Context(), w.Registry); err != nil {
		t.Fatalf("rebake: %v", err)
	}
	after := w.built(t, b)
	if after.Image == b.Image || after.Snapshot == b.Snapshot || after.Baked == b.Baked || w.baker.bakes != 2 || after.Version != b.Version {
		t.Errorf("baked %d times, the build is %+v", w.baker.bakes, after)
	}
	row := w.row(t, fork.ID)
	if row.Image != after.Image || row.Snapshot != after.Snapshot || row.Baked != after.Baked {
		t.Errorf("the copy has %+v", row)
	}
	if got := content(t, w.tree(t, after.Image), ".soulbox/agent"); got != "agent 2" {
		t.Errorf("it carries %q", got)
	}
	// Whoever has read the old record finds what it names for a while.
	w.have(t, b.Image, after.Image)
	if got := w.baker.snapshots(t); len(got) != 2 {
		t.Errorf("snapshots %v, want the old one and the new one", got)
	}
	if err := template.Prune(t.Context(), w.Registry, time.Now()); err != nil {
		t.Fatal(err)
	}
	w.have(t, after.Image)
	if got := w.baker.snapshots(t); !slices.Equal(got, []soulbox.SnapshotID{after.Snapshot}) {
		t.Errorf("snapshots %v, want %s", got, after.Snapshot)
	}

	// One that this version cannot read.
	w.baker.mu.Lock()
	w.baker.unreadable[after.Snapshot] = true
	w.baker.mu.Unlock()
	w.reopen(t)
	w.start(t)
	for deadline := time.Now().Add(10 * time.Second); w.built(t, b).Snapshot == after.Snapshot; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a snapshot that cannot be read is not made again")
		}
	}
}
