package fleet_test

import (
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
)

// An isolation is there for those whom the operator lets, and what it cannot do
// is refused before anything is changed.
func TestIsolation(t *testing.T) {
	h := open(t)
	req := request()
	req.Isolation = soulbox.Runc
	_, err := h.Create(t.Context(), req)
	wantKind(t, "without leave", err, soulbox.Forbidden)
	wantMessage(t, "without leave", err, `sandboxes of isolation runc are not allowed on this server; its operator can allow them with the setting "isolation"`)

	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h.opts.Allowed = []soulbox.Isolation{soulbox.Runc}
	h.Fleet = fleet.New(h.opts)
	h.start()
	for _, cycle := range []soulbox.Lifecycle{{Pause: true}, {Pause: true, Wake: true}} {
		req.Lifecycle = cycle
		_, err := h.Create(t.Context(), req)
		wantKind(t, "to be paused with its memory", err, soulbox.Invalid)
	}
	req.Lifecycle = soulbox.Lifecycle{Pause: true, FilesOnly: true}
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.record(sb.ID).Isolation; sb.Isolation != soulbox.Runc || got != soulbox.Runc || h.node.has[sb.ID].Isolation != soulbox.Runc {
		t.Errorf("it has isolation %q, its record %q, and the node heard %q", sb.Isolation, got, h.node.has[sb.ID].Isolation)
	}
	if n := len(h.records("us")); n != 1 {
		t.Errorf("%d records, want one: what is refused has none", n)
	}

	ctx := t.Context()
	_, fork := h.Fork(ctx, "us", sb.ID, 1, time.Minute)
	_, snapshot := h.Snapshot(ctx, "us", sb.ID, "name")
	_, checkpoint := h.Checkpoint(ctx, "us", sb.ID, "")
	for what, err := range map[string]error{"fork": fork, "snapshot": snapshot, "checkpoint": checkpoint, "pause": h.Pause(ctx, "us", sb.ID, true)} {
		wantKind(t, what, err, soulbox.Invalid)
		if !strings.Contains(soulbox.MessageOf(err), "isolation runc") {
			t.Errorf("%s: %v, want the reason", what, err)
		}
	}
	if got := h.record(sb.ID); got.State != soulbox.Running || got.From != "" {
		t.Errorf("after what was refused it is %s, from %q", got.State, got.From)
	}
	if err := h.Pause(ctx, "us", sb.ID, false); err != nil {
		t.Errorf("a pause with files only: %v", err)
	}
	h.restart()
	if got, err := h.Get(ctx, "us", sb.ID); err != nil || got.State != soulbox.Paused || got.Isolation != soulbox.Runc {
		t.Errorf("after a restart: %+v, %v", got, err)
	}

	// What is made of a snapshot is what that was.
	other := h.create()
	snap, err := h.Snapshot(ctx, "us", other.ID, "mine")
	if err != nil {
		t.Fatal(err)
	}
	req.Template = soulbox.TemplateRef{Name: string(snap.ID)}
	_, err = h.Create(ctx, req)
	wantKind(t, "of a snapshot", err, soulbox.Invalid)
}
