package template_test

import (
	"slices"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template"
)

// What carries another agent, or cannot be read any more, is baked again behind.
func TestRebake(t *testing.T) {
	w := open(t)
	w.start(t)
	recipe := run("write a b")
	recipe.Start = "serve"
	b := w.make(t, "app", recipe)
	fork, err := w.Fork(t.Context(), theirs, soulbox.TemplateRef{Name: "none"}, "")
	wantError(t, "Fork of nothing", err, soulbox.NotFound, "template 'none' not found")
	if _, err := w.Publish(t.Context(), ours, b.Template, true); err != nil {
		t.Fatal(err)
	}
	if fork, err = w.Fork(t.Context(), theirs, ref(t, "ours/app"), "mine"); err != nil {
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
