package fleet

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
)

// exitGrace is how long Start waits for the node to say how the sandboxes
// ended that it does not have. Nothing waits when none are missing.
const exitGrace = 100 * time.Millisecond

// reconcile fills the table from the records and makes records and node agree.
// It returns the sandboxes that run on.
func (f *Fleet) reconcile(ctx context.Context) (adopted []*entry, err error) {
	rows, err := f.opts.Store.UnendedSandboxes(ctx, time.Now().Add(-remember))
	if err != nil {
		return nil, err
	}
	there := f.opts.Node.Sandboxes()
	exits := f.knownExits(ctx, rows, there)

	for _, sb := range rows {
		e := newEntry(f.lend(sb))
		f.table.Store(sb.ID, e)
		if sb.State.Live() {
			f.mu.Lock()
			f.live[sb.Team]++
			f.mu.Unlock()
		}
		exit, isExit := exits[sb.ID]
		switch {
		case sb.State == soulbox.Ended:
			f.bury(e, sb)
		case sb.State == soulbox.Ending:
			f.wg.Go(func() { f.teardown(ctx, e, recovered) })
		case sb.State == soulbox.Starting:
			f.end(ctx, e, recovered, because(soulbox.End{By: soulbox.ByServer, Reason: "the server stopped while it was starting"}))
		case isExit:
			f.end(ctx, e, recovered, because(exit))
		case !slices.Contains(there, sb.ID):
			f.end(ctx, e, recovered, because(soulbox.End{By: soulbox.ByServer, Reason: "it did not survive while the server was down"}))
		default:
			// One whose time passed meanwhile is due at once.
			f.schedule(e, sb.ExpiresAt)
			adopted = append(adopted, e)
			f.log.InfoContext(ctx, "sandbox adopted", "sandbox", sb.ID, "team", sb.Team)
		}
	}
	for _, id := range there {
		if sb, ok := f.Find(id); !ok || sb.State == soulbox.Ended {
			f.log.WarnContext(ctx, "sandbox without a record is destroyed", "sandbox", id)
			f.wg.Go(func() { f.destroyStray(ctx, id) })
		}
	}
	return adopted, nil
}

// knownExits returns what the node tells about running sandboxes that died
// while nobody watched.
func (f *Fleet) knownExits(ctx context.Context, rows []*soulbox.Sandbox, there []soulbox.SandboxID) map[soulbox.SandboxID]soulbox.End {
	missing := 0
	for _, sb := range rows {
		if sb.State == soulbox.Running && !slices.Contains(there, sb.ID) {
			missing++
		}
	}
	exits := map[soulbox.SandboxID]soulbox.End{}
	timer := time.NewTimer(exitGrace)
	defer timer.Stop()
	for {
		if missing == 0 {
			return exits // the rest comes through watchExits
		}
		select {
		case x, ok := <-f.opts.Node.Exits():
			if !ok {
				return exits
			}
			exits[x.ID] = x.End
			if !slices.Contains(there, x.ID) {
				missing--
			}
		case <-timer.C:
			return exits
		case <-ctx.Done():
			return exits
		}
	}
}

// destroyStray removes a sandbox that nobody remembers.
func (f *Fleet) destroyStray(ctx context.Context, id soulbox.SandboxID) {
	stray := newEntry(&soulbox.Sandbox{ID: id, State: soulbox.Ended})
	f.retry(ctx, "destroy", stray, func() error {
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		return f.opts.Node.Destroy(attempt, id)
	})
}

// watchExits ends the sandboxes that the node says are gone.
func (f *Fleet) watchExits(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case x, ok := <-f.opts.Node.Exits():
			if !ok {
				return
			}
			if e, ok := f.entry(x.ID); ok {
				f.end(ctx, e, exited, because(x.End))
			}
		}
	}
}

// confirmNetworks tells the node what every adopted sandbox may reach: the
// server may have died between the record and the deed.
func (f *Fleet) confirmNetworks(ctx context.Context, adopted []*entry) {
	for _, e := range adopted {
		if err := f.confirmNetwork(ctx, e); err != nil && ctx.Err() == nil {
			f.log.ErrorContext(ctx, "network of an adopted sandbox is unsure", "sandbox", e.sb.Load().ID, "err", err)
		}
	}
}

func (f *Fleet) confirmNetwork(ctx context.Context, e *entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load()
	if sb.State != soulbox.Running {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	if err := f.opts.Node.SetNetwork(ctx, sb.ID, sb.Network); err != nil {
		return fmt.Errorf("set network of sandbox %s: %w", sb.ID, err)
	}
	return nil
}
