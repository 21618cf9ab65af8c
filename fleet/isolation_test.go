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
	req.Isolation = new(soulbox.Runc)
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
	for _, class := range []*soulbox.Isolation{nil, new(soulbox.GVisor)} {
		req.Isolation, req.Lifecycle = class, soulbox.Lifecycle{}
		if sb, err := h.Create(ctx, req); err != nil || sb.Isolation != soulbox.GVisor {
			t.Errorf("of a snapshot, asking for %v: %+v, %v; want gvisor", class, sb, err)
		}
	}
}

// A sandbox has the isolation of its template unless whoever makes it says
// otherwise. What is made ahead is gVisor's, so it is not for the others.
func TestIsolationOfTemplate(t *testing.T) {
	h := open(t)
	h.template("tbare", "us", "bare", false)
	if err := h.store.SetTemplateIsolation(t.Context(), "tbare", soulbox.Runc, time.Now()); err != nil {
		t.Fatal(err)
	}
	bare := soulbox.TemplateRef{Name: "bare"}
	ready := soulbox.NewSandboxID()
	h.node.ready = []soulbox.SandboxID{ready}

	req := request()
	req.Template = bare
	_, err := h.Create(t.Context(), req)
	wantKind(t, "without leave", err, soulbox.Forbidden)
	wantMessage(t, "without leave", err, `sandboxes of isolation runc are not allowed on this server; its operator can allow them with the setting "isolation"`)
	if n := len(h.records("us")); n != 0 || len(h.node.ready) != 1 {
		t.Errorf("%d records, and %d wait; want none and one: it was refused", n, len(h.node.ready))
	}

	h.opts.Allowed = []soulbox.Isolation{soulbox.Runc}
	h.restart()
	req.Lifecycle = soulbox.Lifecycle{Pause: true}
	_, err = h.Create(t.Context(), req)
	wantKind(t, "to be paused with its memory", err, soulbox.Invalid)
	req.Lifecycle = soulbox.Lifecycle{}
	for _, tt := range []struct {
		template soulbox.TemplateRef
		asked    *soulbox.Isolation
		want     soulbox.Isolation
		ready    bool
	}{
		{bare, nil, soulbox.Runc, false},
		{bare, new(soulbox.Runc), soulbox.Runc, false},
		{base, new(soulbox.Runc), soulbox.Runc, false},
		{bare, new(soulbox.GVisor), soulbox.GVisor, true},
		{base, nil, soulbox.GVisor, false}, // the one that waited is taken
	} {
		req.Template, req.Isolation = tt.template, tt.asked
		sb, err := h.Create(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.record(sb.ID).Isolation; got != tt.want || sb.Isolation != tt.want || h.node.has[sb.ID].Isolation != tt.want || (sb.ID == ready) != tt.ready {
			t.Errorf("of %s: %+v, recorded as %s; want %s, and one that was made ahead: %v", tt.template, sb, got, tt.want, tt.ready)
		}
	}
}
