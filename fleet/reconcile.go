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

// findings is what Start finds.
type findings struct {
	sandboxes []soulbox.SandboxID // on the node
	exits     map[soulbox.SandboxID]soulbox.End
	whole     map[soulbox.SnapshotID]soulbox.Bytes // on the node; 0: damaged, which is no reason to remove it
	snaps     []*soulbox.Snapshot                  // on record, oldest first
	foreign   []soulbox.SnapshotID                 // of templates: not ours to tidy
}

// usable reports whether a snapshot has both files and a record.
func (s *findings) usable(id soulbox.SnapshotID) bool {
	_, whole := s.whole[id]
	return whole && slices.ContainsFunc(s.snaps, func(snap *soulbox.Snapshot) bool { return snap.ID == id })
}

// reconcile fills the table from the records and makes records and node agree.
// It returns the sandboxes that run on.
func (f *Fleet) reconcile(ctx context.Context) (adopted []*entry, err error) {
	rows, err := f.opts.Store.UnendedSandboxes(ctx, time.Now().Add(-remember))
	if err != nil {
		return nil, err
	}
	found := findings{sandboxes: f.opts.Node.Sandboxes()}
	if found.whole, err = f.opts.Node.Snapshots(ctx); err != nil {
		return nil, err
	}
	if found.snaps, err = f.opts.Store.AllSnapshots(ctx); err != nil {
		return nil, err
	}
	// After those on the node: a template's is on record before it is there.
	if found.foreign, err = f.opts.Store.TemplateSnapshots(ctx); err != nil {
		return nil, err
	}
	found.exits = f.knownExits(ctx, rows, found.sandboxes)

	for _, sb := range rows {
		e := newEntry(f.lend(sb))
		f.table.Store(sb.ID, e)
		if sb.State.Active() {
			f.mu.Lock()
			f.live[sb.Team]++
			f.mu.Unlock()
		}
		runs, err := f.recover(ctx, e, &found)
		if err != nil {
			return nil, err
		}
		if runs {
			// One whose time passed meanwhile is due at once.
			f.schedule(e, sb.ExpiresAt)
			adopted = append(adopted, e)
			f.log.InfoContext(ctx, "sandbox adopted", "sandbox", sb.ID, "team", sb.Team)
		}
	}
	for _, id := range found.sandboxes {
		if sb, ok := f.Find(id); !ok || sb.State == soulbox.Ended {
			f.log.WarnContext(ctx, "sandbox without a record is destroyed", "sandbox", id)
			f.wg.Go(func() { f.destroyStray(ctx, id) })
		}
	}
	return adopted, f.tidySnapshots(ctx, &found)
}

// recover brings one sandbox into an honest state, and reports whether it
// simply runs on.
func (f *Fleet) recover(ctx context.Context, e *entry, found *findings) (runs bool, err error) {
	sb := e.sb.Load()
	end, here := f.whereabouts(sb, found)
	asleep := sb.Pause != nil && found.usable(sb.Pause.Snapshot)
	switch sb.State {
	case soulbox.Ended:
		f.bury(e, sb)
	case soulbox.Ending:
		f.wg.Go(func() { f.teardown(ctx, e, recovered) })
	case soulbox.Starting:
		f.end(ctx, e, recovered, because(soulbox.End{By: soulbox.ByServer, Reason: "the server stopped while it was starting"}))
	case soulbox.Running:
		if here {
			return true, nil
		}
		return false, f.lost(ctx, e, end, found)
	case soulbox.Pausing:
		switch {
		case asleep:
			f.goBackBehind(ctx, e, back{
				what: "pause", from: soulbox.Pausing, to: soulbox.Paused, pause: sb.Pause,
				do: func() error { return f.destroy(ctx, e) },
			})
		case here:
			snap := sb.Pause.Snapshot
			f.goBackBehind(ctx, e, back{
				what: "let go", from: soulbox.Pausing, to: soulbox.Running,
				do: func() error { return f.letGo(ctx, e, snap) }, obsolete: snap,
			})
		default:
			return false, f.lost(ctx, e, end, found)
		}
	case soulbox.Resuming, soulbox.Paused:
		if !asleep {
			f.end(ctx, e, recovered, because(soulbox.End{By: soulbox.ByServer, Reason: "it was paused, and what was written down of it is gone"}))
			return false, nil
		}
		if sb.State == soulbox.Resuming || slices.Contains(found.sandboxes, sb.ID) {
			f.goBackBehind(ctx, e, back{
				what: "pause again", from: sb.State, to: soulbox.Paused, pause: sb.Pause,
				do: func() error { return f.destroy(ctx, e) },
			})
		}
	}
	return false, nil
}

// whereabouts says whether the node has a sandbox, or what it tells of its end.
func (f *Fleet) whereabouts(sb *soulbox.Sandbox, found *findings) (end soulbox.End, here bool) {
	if end, ok := found.exits[sb.ID]; ok {
		return end, false
	}
	if !slices.Contains(found.sandboxes, sb.ID) {
		return soulbox.End{By: soulbox.ByServer, Reason: "it did not survive while the server was down"}, false
	}
	return soulbox.End{}, true
}

// lost decides about a sandbox that should run and does not: it is paused at
// its newest checkpoint, or else ended.
func (f *Fleet) lost(ctx context.Context, e *entry, end soulbox.End, found *findings) error {
	sb := e.sb.Load().Clone()
	var newest *soulbox.Snapshot
	for _, snap := range found.snaps {
		if found.whole[snap.ID] > 0 && snap.Ready && snap.Kind == soulbox.ForRollback && snap.Sandbox == sb.ID {
			newest = snap
		}
	}
	if newest == nil {
		f.end(ctx, e, recovered, because(end))
		return nil
	}
	f.log.WarnContext(ctx, "sandbox was lost and is paused at its newest checkpoint", "sandbox", sb.ID, "checkpoint", newest.ID, "reason", end.Reason)
	sb.Pause = &soulbox.Pause{Snapshot: newest.ID, Memory: newest.Memory, At: newest.CreatedAt}
	if sb.State == soulbox.Running { // from there it cannot be paused in one step
		if err := f.move(ctx, sb, soulbox.Resuming); err != nil {
			return err
		}
	}
	e.sb.Store(sb) // nobody else knows it yet
	f.goBackBehind(ctx, e, back{
		what: "pause at a checkpoint", from: sb.State, to: soulbox.Paused, pause: sb.Pause,
		do: func() error { return f.destroy(ctx, e) },
	})
	return nil
}

// goBackBehind seizes a sandbox that nobody knows yet and changes it in the
// background.
func (f *Fleet) goBackBehind(ctx context.Context, e *entry, b back) {
	e.busy <- struct{}{}
	f.wg.Go(func() {
		defer e.leave()
		f.goBack(ctx, e, b)
	})
}

// tidySnapshots finishes the records of those that a sandbox needs, and removes
// what nobody does.
func (f *Fleet) tidySnapshots(ctx context.Context, found *findings) error {
	known := make(map[soulbox.SnapshotID]bool, len(found.snaps)+len(found.foreign))
	for _, id := range found.foreign {
		known[id] = true
	}
	for _, snap := range found.snaps {
		known[snap.ID] = true
		size, whole := found.whole[snap.ID]
		owner, ok := f.Find(snap.Sandbox)
		lives := ok && owner.State.Live()
		needed := lives && owner.Pause != nil && owner.Pause.Snapshot == snap.ID
		switch {
		case snap.Node != f.opts.Node.ID():
			// Another machine's business.
		case needed:
			if whole && !snap.Ready {
				if err := f.opts.Store.FinishSnapshot(ctx, snap.ID, size); err != nil {
					return err
				}
			}
		case whole && snap.Ready && (snap.Kind == soulbox.ForCreate || snap.Kind == soulbox.ForRollback && lives):
			// Stays until somebody removes it.
		default:
			f.log.InfoContext(ctx, "snapshot that is of no use is removed", "snapshot", snap.ID, "kind", snap.Kind, "whole", whole, "ready", snap.Ready)
			if !whole && f.opts.Store.DeleteSnapshot(ctx, snap.ID) == nil {
				break // before anybody asks: a removal got no further than to the files
			}
			f.wg.Go(func() { f.discard(ctx, snap.ID) })
		}
	}
	for id := range found.whole {
		if !known[id] && !slices.Contains(found.foreign, id) {
			f.log.WarnContext(ctx, "snapshot without a record is removed", "snapshot", id)
			f.wg.Go(func() { f.discard(ctx, id) })
		}
	}
	return nil
}

// knownExits returns what the node tells about sandboxes that should run and
// died while nobody watched.
func (f *Fleet) knownExits(ctx context.Context, rows []*soulbox.Sandbox, there []soulbox.SandboxID) map[soulbox.SandboxID]soulbox.End {
	missing := 0
	for _, sb := range rows {
		if (sb.State == soulbox.Running || sb.State == soulbox.Pausing) && !slices.Contains(there, sb.ID) {
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
	f.retry(ctx, "destroy sandbox", id, func() error { return f.destroy(ctx, stray) })
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
				f.hear(ctx, e, x.End)
			}
		}
	}
}

// hear decides what it means that a sandbox is gone. One that runs or starts
// ends. Of one that is being written down or made again, whoever does that will
// want to know: a snapshot may be left. A paused one has lost nothing.
func (f *Fleet) hear(ctx context.Context, e *entry, end soulbox.End) {
	if end.At.IsZero() {
		end.At = now()
	}
	f.end(ctx, e, exited, func(sb *soulbox.Sandbox) (soulbox.End, bool) {
		if end.At.Before(e.since) { // it speaks of a former life
			return end, false
		}
		switch sb.State {
		case soulbox.Starting, soulbox.Running:
			return end, true
		case soulbox.Pausing, soulbox.Resuming:
			e.died = &end
		default:
		}
		return end, false
	})
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
