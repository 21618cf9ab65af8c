package fleet

import (
	"context"
	"time"

	"github.com/soulbox/soulbox"
)

// Rollback takes a sandbox back to one of its checkpoints and returns it. It
// stays the same sandbox, with its id, its token and its timeout; what it did
// since the checkpoint is lost, and its connections are cut. A paused one runs
// afterwards. The checkpoint stays and is the parent of the next one. When the
// checkpoint is damaged, nothing changes; when it cannot be restored, the
// sandbox is paused there, or where it was if it was paused before.
func (f *Fleet) Rollback(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, snap soulbox.SnapshotID) (*soulbox.Sandbox, error) {
	if err := f.begin(); err != nil {
		return nil, err
	}
	defer f.wg.Done()
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return nil, err
	}
	if sb := e.sb.Load(); sb.State != soulbox.Paused { // look once: it may be resumed at this moment
		if err := wantRunning(sb); err != nil {
			return nil, err
		}
	}
	err = f.carry(ctx, e, func(ctx context.Context, tell func(error)) { f.rollback(ctx, e, snap, tell) })
	if err != nil {
		return nil, err
	}
	return e.sb.Load(), nil
}

// rollback is Rollback of a sandbox that the caller has seized.
func (f *Fleet) rollback(ctx context.Context, e *entry, id soulbox.SnapshotID, tell func(error)) {
	sb := e.sb.Load()
	read, cancel := detached(ctx)
	defer cancel()
	snap, err := f.checkpoint(read, sb.ID, id)
	if err != nil {
		tell(orMissing(e, err))
		return
	}
	verify, giveUp := f.until(ctx)
	err = f.opts.Node.Verify(verify, id)
	giveUp(nil)
	if soulbox.KindOf(err) == soulbox.NotFound { // its removal has got as far as the files
		tell(orMissing(e, noCheckpoint(id)))
		return
	}
	if err != nil {
		tell(orMissing(e, unable("rolled back", sb.ID, err)))
		return
	}
	f.opts.Faults.Reach("rollback/verified")

	sb = e.sb.Load()
	pause := soulbox.Pause{Snapshot: snap.ID, Memory: snap.Memory, At: now()}
	c := comeback{
		verb: "rolled back", from: sb.State, snap: snap, pause: pause, back: pause,
		steps: comebackSteps{"rollback/recorded", "rollback/destroyed", "rollback/restored", ""},
		run:   func(sb *soulbox.Sandbox, _ time.Duration) { sb.From = snap.ID },
	}
	if sb.State == soulbox.Paused {
		c.back = *sb.Pause
		c.run = func(sb *soulbox.Sandbox, most time.Duration) {
			sb.From, sb.ExpiresAt = snap.ID, now().Add(spell(sb, most))
		}
		again, done := detached(ctx)
		defer done()
		old, err := f.opts.Store.Snapshot(again, sb.Pause.Snapshot)
		if err == nil && old.Kind == soulbox.ForPause {
			c.obsolete = old.ID
		}
	} else if err := wantRunning(sb); err != nil {
		tell(err)
		return
	}
	f.comeBack(ctx, e, c, tell)
}
