package fleet_test

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// A gate is what a server reaches the world through, until it is dead.
type gate struct {
	h      *history
	s      *server
	faulty atomic.Bool
	doom   atomic.Pointer[doom] // nil: it does not die
	dead   chan struct{}

	mu   sync.RWMutex
	over bool
}

// A doom is at which call a server dies.
type doom struct{ left atomic.Int64 }

// condemn has the server die at its nth call from now.
func (g *gate) condemn(n int) {
	d := &doom{}
	d.left.Store(int64(n))
	g.doom.Store(d)
}

var errDead = soulbox.Errorf(soulbox.Unavailable, "the server is dead")

// die ends the server. With d, that must still be its doom; it reports whether
// the server is dead.
func (g *gate) die(d *doom) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over || d != nil && g.doom.Load() != d {
		return g.over
	}
	g.over = true
	g.h.mu.Lock()
	g.s.died = g.h.tick()
	g.h.tally.deaths++
	g.h.mu.Unlock()
	close(g.dead)
	return true
}

// spare lets it live, if it still does, and nothing fail.
func (g *gate) spare() (lives bool) {
	g.faulty.Store(false)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doom.Store(nil)
	return !g.over
}

func (g *gate) call(do func() error) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.over {
		return errDead
	}
	return do()
}

// pass lets a server do something. With lossy, it may happen although it fails.
func (g *gate) pass(lossy bool, do func() error) error {
	g.h.dawdle()
	fails := g.faulty.Load() && g.h.chance(20)
	after := g.h.chance(2)
	d := g.doom.Load()
	last := d != nil && d.left.Add(-1) == 0
	if last && !after && g.die(d) {
		return errDead
	}
	if fails && (!lossy || !after) {
		return soulbox.Errorf(soulbox.Unavailable, "it does not work today")
	}
	err := g.call(do)
	if last && g.die(d) {
		return errDead
	}
	g.h.dawdle()
	if err == nil && fails {
		return soulbox.Errorf(soulbox.Unavailable, "the answer was lost")
	}
	return err
}

// A shelf is a server's store.
type shelf struct {
	*store.Store
	g *gate
}

func (s *shelf) InsertSandbox(ctx context.Context, sb *soulbox.Sandbox) error {
	return s.g.pass(true, func() error { return s.Store.InsertSandbox(ctx, sb) })
}

func (s *shelf) MoveSandbox(ctx context.Context, sb *soulbox.Sandbox, from soulbox.State) error {
	return s.g.pass(true, func() error { return s.Store.MoveSandbox(ctx, sb, from) })
}

func (s *shelf) SetSandboxExpiry(ctx context.Context, id soulbox.SandboxID, at time.Time, d time.Duration) error {
	return s.g.pass(true, func() error { return s.Store.SetSandboxExpiry(ctx, id, at, d) })
}

func (s *shelf) InsertSnapshot(ctx context.Context, snap *soulbox.Snapshot) error {
	return s.g.pass(true, func() error { return s.Store.InsertSnapshot(ctx, snap) })
}

func (s *shelf) FinishSnapshot(ctx context.Context, id soulbox.SnapshotID, size soulbox.Bytes) error {
	return s.g.pass(true, func() error { return s.Store.FinishSnapshot(ctx, id, size) })
}

func (s *shelf) DeleteSnapshot(ctx context.Context, id soulbox.SnapshotID) error {
	return s.g.pass(true, func() error { return s.Store.DeleteSnapshot(ctx, id) })
}

func (s *shelf) Snapshot(ctx context.Context, id soulbox.SnapshotID) (snap *soulbox.Snapshot, err error) {
	s.g.h.dawdle()
	return s.Store.Snapshot(ctx, id)
}

// A door is a server's way to the node.
type door struct {
	*machine
	g *gate
}

func (d *door) Create(ctx context.Context, sb *soulbox.Sandbox, tpl *soulbox.Template) error {
	return d.g.pass(true, func() error { return d.machine.Create(ctx, sb, tpl) })
}

func (d *door) Destroy(ctx context.Context, id soulbox.SandboxID) error {
	return d.g.pass(true, func() error { return d.machine.Destroy(ctx, id) })
}

// Snapshot holds and writes in two steps, between which a server may die.
func (d *door) Snapshot(ctx context.Context, id soulbox.SandboxID, snap *soulbox.Snapshot, hold bool) (soulbox.Bytes, error) {
	if hold {
		if err := d.g.pass(false, func() error { return d.hold(id) }); err != nil {
			return 0, err
		}
	}
	err := d.g.pass(false, func() error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return d.writeDown(id, snap, hold)
	})
	if err != nil && hold { // it runs on
		_ = d.g.call(func() error { return d.machine.Thaw(ctx, id) })
	}
	return 4 * soulbox.KiB, err
}

func (d *door) Thaw(ctx context.Context, id soulbox.SandboxID) error {
	return d.g.pass(true, func() error { return d.machine.Thaw(ctx, id) })
}

func (d *door) Restore(ctx context.Context, sb *soulbox.Sandbox, snap *soulbox.Snapshot) error {
	err := d.g.pass(true, func() error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return d.machine.Restore(ctx, sb, snap)
	})
	if err == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (d *door) RemoveSnapshot(ctx context.Context, id soulbox.SnapshotID) error {
	return d.g.pass(true, func() error { return d.machine.RemoveSnapshot(ctx, id) })
}

func (d *door) Verify(ctx context.Context, id soulbox.SnapshotID) error {
	d.g.h.dawdle()
	return d.machine.Verify(ctx, id)
}
