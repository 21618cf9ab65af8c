package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	maxForks    = 100 // in one request, as in E2B's
	forksAtOnce = 4   // made at the same time
)

// Fork makes n copies of a running sandbox, which runs on. They have ids of
// their own and live for d. Each of them may fail by itself, for want of quota
// for example, and what became of it is in its place in the answer. The error is
// set when there was nothing to make copies of. It is a Conflict when the
// sandbox does not run.
func (f *Fleet) Fork(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, n int, d time.Duration) ([]soulbox.Fork, error) {
	if err := f.begin(); err != nil {
		return nil, err
	}
	defer f.wg.Done()
	if n < 1 || n > maxForks {
		return nil, soulbox.Errorf(soulbox.Invalid, "a sandbox can be forked 1 to %d times at once, not %d times", maxForks, n)
	}
	if d <= 0 {
		return nil, soulbox.Errorf(soulbox.Invalid, "the timeout must be more than 0, not %v", d)
	}
	owner, err := f.opts.Store.Team(ctx, team)
	if err != nil {
		return nil, fmt.Errorf("fork sandbox %s: %w", id, err)
	}
	if err := allowed(owner, d); err != nil {
		return nil, err
	}
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return nil, err
	}
	source := e.sb.Load().Clone()
	snap, err := f.take(ctx, e, soulbox.ForFork, "", saveSteps{finished: "fork/written"})
	if err != nil {
		return nil, err
	}
	defer f.wg.Go(func() { f.discard(ctx, snap.ID) })
	source.Network = e.sb.Load().Network // it may have been closed meanwhile
	forks := make([]soulbox.Fork, n)
	turns := make(chan struct{}, forksAtOnce)
	var wg sync.WaitGroup
	for i := range forks {
		turns <- struct{}{}
		wg.Go(func() {
			forks[i].Sandbox, forks[i].Err = f.forkOne(ctx, source, snap, owner, d)
			<-turns
		})
	}
	wg.Wait()
	return forks, nil
}

func (f *Fleet) forkOne(ctx context.Context, source *soulbox.Sandbox, snap *soulbox.Snapshot, team *soulbox.Team, d time.Duration) (*soulbox.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := f.reserve(team); err != nil {
		return nil, fmt.Errorf("fork sandbox %s: %w", source.ID, err)
	}
	created := now()
	sb := source.Clone()
	sb.ID, sb.State, sb.End, sb.Pause = soulbox.NewSandboxID(), soulbox.Starting, nil, nil
	sb.From = snap.Parent // the snapshot itself goes when the forks run
	sb.CreatedAt, sb.StartedAt, sb.ExpiresAt, sb.Timeout = created, time.Time{}, created.Add(d), d
	running, err := f.launch(ctx, f.lend(sb), origin{snap: snap}, forking)
	if err != nil {
		return nil, fmt.Errorf("fork sandbox %s: %w", source.ID, err)
	}
	return running, nil
}
