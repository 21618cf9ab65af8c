package fleet

import (
	"context"

	"github.com/soulbox/soulbox"
)

// Diff tells which files of a live sandbox differ in b, one of its checkpoints,
// as against those in a, another. An empty b is the sandbox as it is now, which
// is a Conflict when it does not run.
func (f *Fleet) Diff(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, a, b soulbox.SnapshotID) (soulbox.Changes, error) {
	if err := f.begin(); err != nil {
		return soulbox.Changes{}, err
	}
	defer f.wg.Done()
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return soulbox.Changes{}, err
	}
	before, err := f.checkpoint(ctx, id, a)
	if err != nil {
		return soulbox.Changes{}, err
	}
	var after *soulbox.Snapshot
	if b != "" {
		after, err = f.checkpoint(ctx, id, b)
	} else if sb := e.sb.Load(); sb.State == soulbox.Paused {
		err = soulbox.Errorf(soulbox.Conflict, "sandbox %s is paused, so it cannot be compared as it is now; compare two of its checkpoints, or resume it first", id)
	} else {
		err = wantRunning(sb)
	}
	if err != nil {
		return soulbox.Changes{}, err
	}
	work, giveUp := f.until(ctx)
	defer giveUp(nil)
	found, err := f.opts.Node.Diff(work, id, before, after)
	if err == nil {
		return found, nil
	}
	if work.Err() != nil && f.life.Err() != nil {
		return soulbox.Changes{}, errStopping()
	}
	if sb := e.sb.Load(); after == nil { // it may have ended or been paused meanwhile
		if gone := wantRunning(sb); gone != nil {
			return soulbox.Changes{}, gone
		}
	}
	return soulbox.Changes{}, err
}
