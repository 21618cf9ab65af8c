package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

// path is one of the ways to an end, for tests that kill us on it.
type path struct{ recorded, destroyed string }

var (
	killed    = path{"kill/recorded", "kill/destroyed"}
	expired   = path{"expire/recorded", "expire/destroyed"}
	exited    = path{"exit/recorded", "exit/destroyed"}
	undone    = path{"undo/recorded", "undo/destroyed"}
	recovered = path{"recover/recorded", "recover/destroyed"}
)

// Kill ends a live sandbox in somebody's name, paused or not, and returns when
// it can no longer run or answer; the rest of it, its checkpoints included, is
// removed behind. One that is unknown,
// of another team or not live any more is NotFound, so of two who kill the
// same sandbox one succeeds. When it fails for another reason, it is tried again
// behind.
func (f *Fleet) Kill(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, by soulbox.Ender, reason string) error {
	if err := f.begin(); err != nil {
		return err
	}
	defer f.wg.Done()

	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return err
	}
	why := because(soulbox.End{By: by, Reason: reason})
	ended, err := f.tryEnd(ctx, e, killed, why)
	if err != nil {
		// The record may say so all the same, and then nothing else can happen
		// to it any more.
		f.endBehind(ctx, e, killed, why)
		return fmt.Errorf("kill sandbox %s: %w", id, err)
	}
	if !ended {
		return missing(id, e.sb.Load())
	}
	select {
	case <-e.gone:
		if e.fail != nil {
			return fmt.Errorf("kill sandbox %s: %w", id, e.fail)
		}
	case <-ctx.Done(): // it is on record and will happen; nobody waits to hear
	}
	return nil
}

// verdict looks at a live sandbox and says whether, by whom and why it ends.
type verdict func(*soulbox.Sandbox) (soulbox.End, bool)

// because is the verdict that needs no look.
func because(end soulbox.End) verdict {
	if end.At.IsZero() {
		end.At = now()
	}
	return func(*soulbox.Sandbox) (soulbox.End, bool) { return end, true }
}

// end ends a live sandbox for good: when the record cannot be written now, it
// is tried again behind.
func (f *Fleet) end(ctx context.Context, e *entry, p path, why verdict) {
	if _, err := f.tryEnd(ctx, e, p, why); err != nil {
		f.endBehind(ctx, e, p, why)
	}
}

// endBehind tries to end a sandbox for as long as it takes.
func (f *Fleet) endBehind(ctx context.Context, e *entry, p path, why verdict) {
	f.wg.Go(func() {
		f.retry(ctx, "record the end", e.sb.Load().ID, func() error {
			_, err := f.tryEnd(ctx, e, p, why)
			return err
		})
	})
}

// tryEnd records that a live sandbox ends and sees to it that it is destroyed.
// It reports false when the sandbox was not live any more, or is not to end
// after all.
func (f *Fleet) tryEnd(ctx context.Context, e *entry, p path, why verdict) (bool, error) {
	giveUp, ended, err := f.recordEnd(ctx, e, why)
	if !ended || err != nil {
		return false, err
	}
	f.opts.Faults.Reach(p.recorded)
	sb := e.sb.Load()
	f.log.InfoContext(ctx, "sandbox ended", "sandbox", sb.ID, "team", sb.Team, "by", sb.End.By, "reason", sb.End.Reason)
	if giveUp != nil {
		// The node is still creating it, writing it down or making it again.
		// Who waits for that will destroy it.
		giveUp(fmt.Errorf("the sandbox was %v", *sb.End))
		return true, nil
	}
	f.wg.Go(func() { f.teardown(ctx, e, p) })
	return true, nil
}

func (f *Fleet) recordEnd(ctx context.Context, e *entry, why verdict) (giveUp context.CancelCauseFunc, ended bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.sb.Load()
	if !old.State.Live() {
		return nil, false, nil
	}
	end, ends := why(old)
	if !ends {
		return nil, false, nil
	}
	sb := old.Clone()
	sb.End, sb.Pause = &end, nil // it comes back from nowhere
	if err := f.move(ctx, sb, soulbox.Ending); err != nil {
		return nil, false, err
	}
	f.show(e, sb)
	f.unschedule(e)
	return e.giveUp, true, nil
}

// move records that sb, which nobody else sees yet, is in state to.
//
// A database may do what it is told and lose its answer. The record is then
// ahead of what we believe, and is taken for what it is instead of being a
// Conflict for ever.
func (f *Fleet) move(ctx context.Context, sb *soulbox.Sandbox, to soulbox.State) error {
	from := sb.State
	if err := sb.Move(to); err != nil {
		return err
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	err := f.opts.Store.MoveSandbox(ctx, sb, from)
	if soulbox.KindOf(err) != soulbox.Conflict {
		return err
	}
	record, readErr := f.opts.Store.Sandbox(ctx, sb.ID)
	if readErr != nil {
		return err
	}
	believed := from
	from = record.State
	if from != to && record.Move(to) != nil {
		// It is where we wanted it before, and have given up since: first back to
		// where we believed it to be.
		if record.Move(believed) != nil {
			return err
		}
		back := sb.Clone()
		back.State = believed
		if err := f.opts.Store.MoveSandbox(ctx, back, from); err != nil {
			return err
		}
		from = believed
	}
	return f.opts.Store.MoveSandbox(ctx, sb, from)
}

// destroy is one attempt. Whoever ends a sandbox and whoever has seized it may
// both want it gone; the node hears of it from one at a time.
func (f *Fleet) destroy(ctx context.Context, e *entry) error {
	e.destroying.Lock()
	defer e.destroying.Unlock()
	attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	return f.opts.Node.Destroy(attempt, e.sb.Load().ID)
}

// teardown destroys an ending sandbox, removes what was written down for it
// alone, and records that it has ended. It stops
// trying when the fleet closes; the record then says "ending", and Start goes
// on from there.
func (f *Fleet) teardown(ctx context.Context, e *entry, p path) {
	id := e.sb.Load().ID
	first := true
	destroyed := f.retry(ctx, "destroy sandbox", id, func() error {
		err := f.destroy(ctx, e)
		if first {
			first = false
			e.fail = err
			close(e.gone)
		}
		return err
	})
	if !destroyed {
		return
	}
	f.opts.Faults.Reach(p.destroyed)
	if !f.retry(ctx, "remove the snapshots", id, func() error { return f.removeOwn(ctx, id) }) {
		return
	}
	f.retry(ctx, "record the end", id, func() error { return f.recordGone(ctx, e) })
}

// removeOwn removes the snapshots that are of no use without their sandbox.
func (f *Fleet) removeOwn(ctx context.Context, id soulbox.SandboxID) error {
	read, cancel := detached(ctx)
	defer cancel()
	snaps, err := f.opts.Store.SnapshotsOf(read, id)
	if err != nil {
		return err
	}
	for _, snap := range snaps {
		if snap.Kind != soulbox.ForPause && snap.Kind != soulbox.ForRollback {
			continue
		}
		if err := f.remove(ctx, snap.ID); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) recordGone(ctx context.Context, e *entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load().Clone()
	if err := f.move(ctx, sb, soulbox.Ended); err != nil {
		return err
	}
	f.bury(e, sb)
	return nil
}

// bury keeps an ended sandbox in memory for a while, and drops those that were
// kept long enough.
func (f *Fleet) bury(e *entry, sb *soulbox.Sandbox) {
	slim := *sb
	slim.Env, slim.Metadata = nil, nil // Get reads the record
	e.sb.Store(&slim)

	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = append(f.ended, e)
	for len(f.ended) > rememberMost || time.Since(f.ended[0].sb.Load().End.At) > remember {
		old := f.ended[0]
		f.table.CompareAndDelete(old.sb.Load().ID, old)
		f.ended[0] = nil
		if f.ended = f.ended[1:]; len(f.ended) == 0 {
			return
		}
	}
}

// retry calls do until it succeeds, ever more slowly, and returns true; or
// false when the fleet closes before. It logs the first error only.
func (f *Fleet) retry(ctx context.Context, what string, id any, do func() error) bool {
	const most = 30 * time.Second
	f.retries.Add(1)
	defer f.retries.Add(-1)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, most) {
		err := do()
		if err == nil {
			return true
		}
		if wait == 100*time.Millisecond {
			f.log.ErrorContext(ctx, "what failed is tried again", "operation", what, "id", id, "err", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-f.stop:
			t.Stop()
			return false
		}
	}
}
