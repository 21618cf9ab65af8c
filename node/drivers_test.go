package node_test

import (
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/driver/fake"
)

// Sandboxes of two isolations live on one node. Each is started, adopted, saved
// and restored by its own driver.
func TestTwoDrivers(t *testing.T) {
	w := newWorld(t)
	second := &testDriver{Driver: fake.New(w.agent), fails: &atomic.Pointer[failure]{}, seen: &seen{}, format: "other", bare: true, class: soulbox.Runc}
	both := func(o *node.Options) { o.Others = []driver.Driver{second} }
	n := w.open(t, both)
	w.create(t, n, "ione")
	sb := w.sandbox("itwo")
	sb.Isolation = soulbox.Runc
	if err := n.Create(t.Context(), sb, w.template()); err != nil {
		t.Fatal(err)
	}
	w.wantLeft(t, of("ione", "itwo"))

	snap := func(id soulbox.SnapshotID, memory bool) *soulbox.Snapshot {
		return &soulbox.Snapshot{ID: id, Template: "tone", Image: w.image, Size: size, Memory: memory, Secure: true}
	}
	files := snap(soulbox.NewSnapshotID(), false)
	if _, err := n.Snapshot(t.Context(), "itwo", snap(soulbox.NewSnapshotID(), true), false); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Snapshot with memory: %v, want Invalid", err)
	}
	if _, err := n.Snapshot(t.Context(), "itwo", files, false); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Snapshot(t.Context(), "ione", snap(soulbox.NewSnapshotID(), true), false); err != nil {
		t.Errorf("Snapshot with memory of the other: %v", err)
	}
	if err := n.Restore(t.Context(), w.sandbox("ithree"), files); err != nil { // whatever it says of its isolation
		t.Fatal(err)
	}
	for what, starts := range map[string][2][]string{
		"the usual driver": {w.driver.seen.starts, {"boot"}},
		"the other driver": {second.seen.starts, {"boot", "files"}},
	} {
		if diff := cmp.Diff(starts[1], starts[0]); diff != "" {
			t.Errorf("%s started (-want +got):\n%s", what, diff)
		}
	}

	closeNode(t, n)
	second = &testDriver{Driver: second.Driver.Reopen(), fails: second.fails, seen: second.seen, format: "other", bare: true, class: soulbox.Runc}
	if _, err := node.Open(t.Context(), w.options(t)); soulbox.KindOf(err) != soulbox.Unavailable {
		t.Errorf("Open without the driver of two that run: %v, want Unavailable", err)
	}
	n = w.open(t, both)
	for _, id := range []soulbox.SandboxID{"ione", "itwo", "ithree"} {
		if conn, err := n.Dial(t.Context(), id, 49983); err != nil {
			t.Errorf("%s after a restart: %v", id, err)
		} else {
			conn.Close()
		}
		destroy(t, n, id)
	}
	w.wantLeft(t, left{})
}
