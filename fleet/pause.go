package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/soulbox/soulbox"
)

// Pause writes a running sandbox down and ends what runs of it: its files, and
// with memory its programs too. It is a Conflict when the sandbox does not run,
// or somebody else pauses it. When it fails, the sandbox runs on. It happens
// even if ctx ends before it is done.
func (f *Fleet) Pause(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, memory bool) error {
	if err := f.begin(); err != nil {
		return err
	}
	defer f.wg.Done()
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return err
	}
	if err := errors.Join(wantRunning(e.sb.Load()), savable(e.sb.Load(), memory)); err != nil { // waiting for our turn would not change it for the better
		return err
	}
	return f.carry(ctx, e, func(ctx context.Context, tell func(error)) { f.pause(ctx, e, memory, false, tell) })
}

var pausing = saveSteps{"pause/recorded", "pause/written", "pause/finished"}

// pause pauses a sandbox that the caller has seized. It tells when that is done
// or has failed, and then tidies up. With due, its time is up, and the caller
// sees to what becomes of it when it fails.
func (f *Fleet) pause(ctx context.Context, e *entry, memory, due bool, tell func(error)) {
	id := e.sb.Load().ID
	work, giveUp := f.until(ctx)
	defer giveUp(nil)
	snap, err := f.recordPausing(ctx, e, memory, giveUp)
	if snap == nil {
		tell(err)
		return
	}
	if err == nil {
		f.opts.Faults.Reach(pausing.recorded)
		err = f.save(ctx, work, snap, true, pausing)
	}
	if f.over(ctx, e) {
		tell(missing(id, e.sb.Load()))
		return
	}
	if err != nil {
		tell = once(tell)
		f.goBack(ctx, e, back{
			what: "let go", from: soulbox.Pausing, to: soulbox.Running,
			do:       func() error { return f.letGo(ctx, e, snap.ID) },
			tell:     func() { tell(unable("paused", id, err)) },
			obsolete: snap.ID,
			due:      due,
		})
		return
	}
	// There is no way back any more, because the record may be ahead of us.
	paused := false
	recorded := f.retry(ctx, "record the pause", id, func() (err error) {
		paused, err = f.recordPaused(ctx, e)
		return err
	})
	switch {
	case !recorded:
		tell(errStopping())
		return
	case !paused:
		tell(missing(id, e.sb.Load()))
		return
	}
	f.opts.Faults.Reach("pause/paused")
	f.log.InfoContext(ctx, "sandbox paused", "sandbox", id, "memory", memory)
	tell = once(tell)
	f.retry(ctx, "destroy paused sandbox", id, func() error {
		err := f.destroy(ctx, e)
		tell(nil)
		return err
	})
}

// recordPausing writes the records of a pause. Without a snapshot nothing came
// of it; with one and an error, it is unsure what is on record.
func (f *Fleet) recordPausing(ctx context.Context, e *entry, memory bool, giveUp context.CancelCauseFunc) (*soulbox.Snapshot, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load().Clone()
	if err := wantRunning(sb); err != nil {
		return nil, err
	}
	snap, err := f.draft(ctx, sb, soulbox.ForPause, "", memory)
	if err != nil {
		return nil, fmt.Errorf("pause sandbox %s: %w", sb.ID, err)
	}
	sb.Pause = &soulbox.Pause{Snapshot: snap.ID, Memory: memory, At: now()}
	err = f.move(ctx, sb, soulbox.Pausing)
	f.unschedule(e)
	f.show(e, sb)
	e.giveUp, e.died = giveUp, nil
	return snap, err
}

// recordPaused returns false when the sandbox was ended meanwhile.
func (f *Fleet) recordPaused(ctx context.Context, e *entry) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load().Clone()
	if sb.State != soulbox.Pausing {
		return false, nil
	}
	if err := f.move(ctx, sb, soulbox.Paused); err != nil {
		return false, err
	}
	f.show(e, sb)
	return true, nil
}

// letGo lets a sandbox run on that was to be paused. What was written goes
// first: from now on the sandbox is ahead of it.
func (f *Fleet) letGo(ctx context.Context, e *entry, snap soulbox.SnapshotID) error {
	id := e.sb.Load().ID
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	if err := f.opts.Node.RemoveSnapshot(ctx, snap); err != nil {
		return err
	}
	err := f.opts.Node.Thaw(ctx, id)
	if soulbox.KindOf(err) != soulbox.NotFound {
		return err
	}
	e.mu.Lock()
	end := soulbox.End{By: soulbox.ByServer, Reason: "it was lost when it was to be paused"}
	if e.died != nil {
		end = *e.died
	}
	e.mu.Unlock()
	f.end(ctx, e, exited, because(end))
	return nil
}

// back is the way back from a change that failed.
type back struct {
	what     string // for the log
	from, to soulbox.State
	pause    *soulbox.Pause     // that it has then
	do       func() error       // before the record; nil: nothing
	tell     func()             // after the first attempt; nil: nobody
	obsolete soulbox.SnapshotID // removed afterwards; empty: none
	due      bool               // its time is up, and somebody knows
}

// goBack undoes a change, until it is done, the sandbox is ended by somebody,
// or the fleet closes. The next one then does the same.
func (f *Fleet) goBack(ctx context.Context, e *entry, b back) {
	done := f.retry(ctx, b.what, e.sb.Load().ID, func() error {
		if b.tell != nil {
			defer b.tell()
		}
		if e.sb.Load().State != b.from {
			return nil
		}
		if b.do != nil {
			if err := b.do(); err != nil {
				return err
			}
		}
		died, err := f.recordBack(ctx, e, b)
		if died != nil {
			f.end(ctx, e, exited, because(*died))
		}
		return err
	})
	if done && b.obsolete != "" {
		f.discard(ctx, b.obsolete)
	}
}

func (f *Fleet) recordBack(ctx context.Context, e *entry, b back) (died *soulbox.End, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load().Clone()
	if sb.State != b.from || b.from == b.to {
		return nil, nil
	}
	sb.Pause = b.pause
	if err := f.move(ctx, sb, b.to); err != nil {
		return nil, err
	}
	f.show(e, sb)
	if b.to == soulbox.Running {
		if !b.due {
			f.schedule(e, sb.ExpiresAt)
		}
		return e.died, nil
	}
	return nil, nil
}

// once returns a tell that the first word of counts.
func once(tell func(error)) func(error) {
	told := false
	return func(err error) {
		if !told {
			told = true
			tell(err)
		}
	}
}

// unable says that something cannot be done to a sandbox. What the node does
// not find then is not the sandbox that was asked for.
func unable(done string, id soulbox.SandboxID, err error) error {
	err = fmt.Errorf("sandbox %s could not be %s: %w", id, done, err)
	if _, ok := errors.AsType[*soulbox.Error](err); !ok {
		return err
	}
	kind := soulbox.KindOf(err)
	if kind == soulbox.NotFound {
		kind = soulbox.Conflict
	}
	if kind == soulbox.Internal {
		return err
	}
	return soulbox.Hide(kind, err, fmt.Sprintf("sandbox %s could not be %s: %s", id, done, soulbox.MessageOf(err)))
}

// orMissing returns err, unless the sandbox was ended meanwhile: its snapshots
// go with it, and what is not found then says nothing.
func orMissing(e *entry, err error) error {
	if sb := e.sb.Load(); !sb.State.Live() {
		return missing(sb.ID, sb)
	}
	return err
}
