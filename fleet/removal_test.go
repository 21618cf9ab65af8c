package fleet_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/internal/fault"
)

// crashRemoving lives a life in which a snapshot and then a checkpoint are
// removed, and dies at a step of it. With during, the snapshot is removed while
// a sandbox is being made of it.
func crashRemoving(step, dir string, during bool) {
	ctx := context.Background()
	h := build(ctx, &tb{}, dir)
	h.node.disk(dir)
	h.opts.Faults = fault.Arm(step)
	h.Fleet = fleet.New(h.opts)
	h.start()

	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	id := h.create().ID
	h.write(id, "a")
	named, err := h.Snapshot(ctx, "us", id, "named")
	must(err)
	h.checkpoint(id, "point")
	h.write(id, "b")
	req := request()
	req.Template.Name = "named"
	made, err := h.Create(ctx, req)
	must(err)
	h.write(made.ID, "c")
	if during {
		h.node.onRestore = func(context.Context, *soulbox.Sandbox, *soulbox.Snapshot) error {
			return h.RemoveSnapshot(ctx, "us", named.ID)
		}
		_, _ = h.Create(ctx, req)
	}
	must(h.RemoveSnapshot(ctx, "us", named.ID))
	points, err := h.Checkpoints(ctx, "us", id)
	must(err)
	must(h.RemoveCheckpoint(ctx, "us", id, points[0].ID))
	time.Sleep(10 * time.Second)
}

// TestKill9Removing kills the server at each step of removing a snapshot and a
// checkpoint, and starts it again. From the first moment on, each of the two is
// either whole and of use or not there at all, and whatever was made of it
// lives.
func TestKill9Removing(t *testing.T) {
	for _, test := range []struct {
		step         string
		named, point bool // it is there afterwards
	}{
		{"remove/begun", true, true},
		{"remove/deleted", false, true},
		{"remove/forgotten", false, true},
		{"remove/begun@2", false, true},
		{"remove/deleted@2", false, false},
		{"remove/forgotten@2", false, false},
	} {
		for _, life := range []string{"removing", "removing at work"} {
			if life == "removing at work" && test.step[len(test.step)-1] == '2' {
				continue // the second one is a checkpoint, which nothing is made of
			}
			t.Run(test.step+", "+life, func(t *testing.T) {
				t.Parallel()
				h := dieAndRise(t, test.step, life)
				rows := h.records("us")
				h.wantRemoved("named", test.named)
				h.wantPoint(rows[0].ID, test.point)
				h.wantInside(rows[1].ID, mind{Files: []string{"a", "c"}, Memory: "boot 1"})
				for _, sb := range rows[2:] { // was being made
					h.wantEnded(sb.ID, soulbox.ByServer, "the server stopped while it was starting")
				}
				if wrongs := h.node.complaints(); len(wrongs) > 0 {
					t.Error(wrongs)
				}
			})
		}
	}
}

// wantRemoved checks that a snapshot is gone without a trace, or else that it
// can be used and removed.
func (h *house) wantRemoved(name string, there bool) {
	h.t.Helper()
	ctx := context.Background()
	snap, err := h.FindSnapshot(ctx, "us", name)
	req := request()
	req.Template.Name = name
	made, madeErr := h.Create(ctx, req)
	if !there {
		wantKind(h.t, "FindSnapshot", err, soulbox.NotFound)
		wantKind(h.t, "Create", madeErr, soulbox.NotFound)
		all, err := h.store.AllSnapshots(ctx)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, snap := range all {
			if snap.Kind == soulbox.ForCreate {
				h.t.Errorf("on record is %+v", snap)
			}
		}
		return
	}
	if err != nil || madeErr != nil {
		h.t.Fatal(err, madeErr)
	}
	h.wantInside(made.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
	if err := h.Kill(ctx, "us", made.ID, soulbox.ByClient, "made of it"); err != nil {
		h.t.Error(err)
	}
	if err := h.RemoveSnapshot(ctx, "us", snap.ID); err != nil {
		h.t.Error(err)
	}
	h.wantEnded(made.ID, soulbox.ByClient, "made of it")
}

// wantPoint checks the same of the only checkpoint of a sandbox, and that
// nothing else is written down.
func (h *house) wantPoint(id soulbox.SandboxID, there bool) {
	h.t.Helper()
	ctx := context.Background()
	points, err := h.Checkpoints(ctx, "us", id)
	if err != nil {
		h.t.Fatal(err)
	}
	if !there {
		if len(points) > 0 {
			h.t.Errorf("it has %d checkpoints, want none", len(points))
		}
		h.wantInside(id, mind{Files: []string{"a", "b"}, Memory: "boot 1"})
		h.wantSnapshots()
		return
	}
	if len(points) != 1 {
		h.t.Fatalf("it has %d checkpoints, want 1", len(points))
	}
	if _, err := h.Rollback(ctx, "us", id, points[0].ID); err != nil {
		h.t.Error(err)
	}
	h.wantInside(id, mind{Files: []string{"a"}, Memory: "boot 1"})
	h.wantSnapshots(points[0].ID)
}

// TestRemovalCutOff starts a fleet after a crash that came between the files of
// snapshots and their records, while the records cannot be removed either: who
// asks hears that they are gone.
func TestRemovalCutOff(t *testing.T) {
	h := open(t)
	var refuses atomic.Bool
	h.opts.Store = keeper{h.store, &refuses}
	h.restart()
	t.Cleanup(func() { h.Close() })
	sb := h.create()
	named, err := h.Snapshot(t.Context(), "us", sb.ID, "named")
	if err != nil {
		t.Fatal(err)
	}
	point := h.checkpoint(sb.ID, "")
	refuses.Store(true)
	for _, id := range []soulbox.SnapshotID{named.ID, point.ID} {
		if err := h.node.RemoveSnapshot(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	h.restart()
	_, err = h.Rollback(t.Context(), "us", sb.ID, point.ID)
	wantKind(t, "Rollback", err, soulbox.NotFound)
	_, err = h.Diff(t.Context(), "us", sb.ID, point.ID, "")
	wantKind(t, "Diff", err, soulbox.NotFound)
	req := request()
	req.Template.Name = "named"
	_, err = h.Create(t.Context(), req)
	wantKind(t, "Create", err, soulbox.NotFound)
	h.wantState(sb.ID, soulbox.Running)
	refuses.Store(false)
	h.wantSnapshots()
}
