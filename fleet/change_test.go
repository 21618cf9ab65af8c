package fleet_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
)

// TestChanged listens to what becomes of a sandbox.
func TestChanged(t *testing.T) {
	h := build(t.Context(), t, folder(t))
	t.Cleanup(func() { h.store.Close() })
	t.Cleanup(func() { h.Close() })
	var mu sync.Mutex
	var got []soulbox.State
	h.opts.Changed = func(sb *soulbox.Sandbox) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, sb.State)
	}
	h.Fleet = fleet.New(h.opts)
	h.start()
	sb := h.create()
	snap := h.checkpoint(sb.ID, "here")
	h.pause(sb.ID, true)
	h.connect(sb.ID)
	if _, err := h.Rollback(context.Background(), "us", sb.ID, snap.ID); err != nil {
		t.Fatal(err)
	}
	if err := h.Kill(context.Background(), "us", sb.ID, soulbox.ByClient, "enough"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []soulbox.State{
		soulbox.Pausing, soulbox.Paused, soulbox.Resuming, soulbox.Running, soulbox.Resuming, soulbox.Running, soulbox.Ending,
	}
	if !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}
