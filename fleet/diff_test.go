package fleet_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestDiff(t *testing.T) {
	h := open(t)
	sb, other := h.create(), h.create()
	h.write(sb.ID, "a")
	one := h.checkpoint(sb.ID, "one")
	h.write(sb.ID, "b")
	two := h.checkpoint(sb.ID, "two")
	h.write(sb.ID, "c")
	foreign := h.checkpoint(other.ID, "")
	want := func(a, b soulbox.SnapshotID, paths ...string) {
		t.Helper()
		got, err := h.Diff(t.Context(), "us", sb.ID, a, b)
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, c := range got.List {
			found = append(found, c.Path)
		}
		if diff := cmp.Diff(paths, found); diff != "" {
			t.Errorf("Diff(%s, %s): (-want +got)\n%s", a, b, diff)
		}
	}
	want(one.ID, two.ID, "/b")
	want(two.ID, one.ID)
	want(one.ID, "", "/b", "/c")
	named, err := h.Snapshot(t.Context(), "us", sb.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		team soulbox.TeamID
		id   soulbox.SandboxID
		a, b soulbox.SnapshotID
	}{
		"another team":          {"them", sb.ID, one.ID, two.ID},
		"no sandbox":            {"us", "inobody", one.ID, two.ID},
		"another's checkpoint":  {"us", sb.ID, foreign.ID, two.ID},
		"another's, after":      {"us", sb.ID, one.ID, foreign.ID},
		"no checkpoint":         {"us", sb.ID, named.ID, two.ID},
		"no checkpoint, after":  {"us", sb.ID, one.ID, named.ID},
		"no id":                 {"us", sb.ID, "", two.ID},
		"no id at all, and now": {"us", sb.ID, "../x", ""},
	} {
		_, err := h.Diff(t.Context(), tt.team, tt.id, tt.a, tt.b)
		wantKind(t, what, err, soulbox.NotFound)
	}

	h.pause(sb.ID, true)
	want(one.ID, two.ID, "/b")
	_, err = h.Diff(t.Context(), "us", sb.ID, one.ID, "")
	wantKind(t, "Diff of a paused one with now", err, soulbox.Conflict)
	wantMessage(t, "Diff of a paused one with now", err,
		"sandbox "+string(sb.ID)+" is paused, so it cannot be compared as it is now; compare two of its checkpoints, or resume it first")
	h.connect(sb.ID)

	// It ends while it is compared.
	h.node.onDiff = func(ctx context.Context, id soulbox.SandboxID) error {
		if err := h.Kill(ctx, "us", id, soulbox.ByClient, "killed"); err != nil {
			t.Error(err)
		}
		return soulbox.Errorf(soulbox.Unavailable, "it is gone")
	}
	_, err = h.Diff(t.Context(), "us", sb.ID, one.ID, "")
	wantKind(t, "Diff of one that ends", err, soulbox.NotFound)
}

// A comparison does not keep the fleet from closing.
func TestDiffAtClose(t *testing.T) {
	h := open(t)
	sb := h.create()
	one := h.checkpoint(sb.ID, "")
	began := make(chan struct{})
	h.node.onDiff = func(ctx context.Context, _ soulbox.SandboxID) error {
		close(began)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	told := make(chan error, 1)
	go func() {
		_, err := h.Diff(context.Background(), "us", sb.ID, one.ID, "")
		told <- err
	}()
	<-began
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "Diff", <-told, soulbox.Unavailable)
}
