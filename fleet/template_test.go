package fleet_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/store"
)

// baked is a store in which the template base has a snapshot.
type baked struct {
	*store.Store
	snapshots []soulbox.SnapshotID // of all templates
	err       error
}

func (b *baked) TemplateSnapshots(context.Context) ([]soulbox.SnapshotID, error) {
	return b.snapshots, b.err
}

func (b *baked) TemplateByName(ctx context.Context, team soulbox.TeamID, name string) (*soulbox.Template, error) {
	tpl, err := b.Store.TemplateByName(ctx, team, name)
	if err == nil {
		tpl.Snapshot, tpl.Baked = b.snapshots[0], "ibaked"
	}
	return tpl, err
}

// What templates have written down is not the fleet's to remove, whatever its
// own records say, and not when nobody can tell what that is.
func TestTemplateSnapshotsStay(t *testing.T) {
	const theirs, stray = soulbox.SnapshotID("stheirs00000000000000"), soulbox.SnapshotID("sstray000000000000000")
	h := build(t.Context(), t, folder(t))
	t.Cleanup(func() { h.store.Close() })
	t.Cleanup(func() { h.Close() })
	records := &baked{Store: h.store, err: errors.New("the database is not there")}
	h.opts.Store = records
	h.Fleet = fleet.New(h.opts)
	h.node.snaps[theirs], h.node.snaps[stray] = mind{}, mind{}
	if err := h.Start(t.Context()); !errors.Is(err, records.err) {
		t.Errorf("Start = %v, want %v", err, records.err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if all, err := h.node.Snapshots(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("after a start that failed there is %v, %v; want both", all, err)
	}

	records.err, records.snapshots = nil, []soulbox.SnapshotID{theirs}
	for range 2 {
		h.Fleet = fleet.New(h.opts)
		h.start()
		eventually(t, "only that of the template is left", func() bool {
			all, err := h.node.Snapshots(t.Context())
			_, there := all[theirs]
			return err == nil && there && len(all) == 1
		})
		if err := h.Close(); err != nil { // waits for what is removed behind
			t.Fatal(err)
		}
	}
	if all, err := h.node.Snapshots(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("in the end there is %v, %v", all, err)
	}
}

// A template whose start command runs already has no sandboxes of an isolation
// that cannot restore it.
func TestBakedTemplate(t *testing.T) {
	h := build(t.Context(), t, folder(t))
	t.Cleanup(func() { h.store.Close() })
	t.Cleanup(func() { h.Close() })
	h.opts.Store = &baked{Store: h.store, snapshots: []soulbox.SnapshotID{"stheirs00000000000000"}}
	h.opts.Allowed = []soulbox.Isolation{soulbox.Runc}
	h.Fleet = fleet.New(h.opts)
	h.start()
	req := request()
	req.Isolation = new(soulbox.Runc)
	_, err := h.Create(t.Context(), req)
	wantKind(t, "Create of isolation runc", err, soulbox.Invalid)
	wantMessage(t, "Create of isolation runc", err, "sandboxes of template 'base' begin with its start command running, and one of isolation runc cannot; leave out the isolation, or name a template without a start command")
	if n := len(h.records("us")); n != 0 {
		t.Errorf("%d records of what was refused", n)
	}

	sb := h.create()
	if err := h.Pause(t.Context(), "us", sb.ID, true); err != nil {
		t.Fatal(err)
	}
	h.connect(sb.ID)
	if _, err := h.Fork(t.Context(), "us", sb.ID, 1, time.Minute); err != nil {
		t.Error(err)
	}
}
