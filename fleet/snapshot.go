package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/soulbox/soulbox"
)

// Snapshot writes a running sandbox down, memory included, so that its team can
// make others of it, and returns the snapshot. The sandbox runs on. The name is
// for [Fleet.Create] and may be empty; one that a template or another snapshot
// of the team has is a Conflict, and so is a sandbox that does not run.
func (f *Fleet) Snapshot(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, name string) (*soulbox.Snapshot, error) {
	if err := f.begin(); err != nil {
		return nil, err
	}
	defer f.wg.Done()
	owner, err := f.opts.Store.Team(ctx, team)
	if err != nil {
		return nil, fmt.Errorf("write sandbox %s down: %w", id, err)
	}
	if name, err = plainName(name, owner.Slug); err != nil {
		return nil, err
	}
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return nil, err
	}
	if name != "" {
		_, err := f.opts.Store.TemplateByName(ctx, team, name)
		if err == nil {
			return nil, soulbox.Errorf(soulbox.Conflict, "your team has a template '%s'; choose another name for the snapshot", name)
		}
		if soulbox.KindOf(err) != soulbox.NotFound {
			return nil, fmt.Errorf("write sandbox %s down: %w", id, err)
		}
	}
	return f.take(ctx, e, soulbox.ForCreate, name, saving)
}

// plainName reads the name of a snapshot as clients write it: like that of a
// template, with or without the team's own namespace and the usual tag.
func plainName(s, slug string) (string, error) {
	if s == "" {
		return "", nil
	}
	ref, err := soulbox.ParseTemplateRef(s)
	if err != nil || ref.Namespace != "" && ref.Namespace != slug || ref.Tag != "" && ref.Tag != soulbox.DefaultTag || ref.Versions != (soulbox.VersionRange{}) {
		return "", soulbox.Errorf(soulbox.Invalid, "%.200q cannot be the name of a snapshot; a name has 1 to 128 of a-z, 0-9, - and _", s)
	}
	return ref.Name, nil
}

// Snapshots returns a page of the snapshots that a team can make sandboxes of,
// or of another kind if the filter says so.
func (f *Fleet) Snapshots(ctx context.Context, filter soulbox.SnapshotFilter) (soulbox.SnapshotPage, error) {
	return f.opts.Store.Snapshots(ctx, filter)
}

// FindSnapshot returns the snapshot of a team that has a name or an id and of
// which sandboxes can be made.
func (f *Fleet) FindSnapshot(ctx context.Context, team soulbox.TeamID, idOrName string) (*soulbox.Snapshot, error) {
	owner, err := f.opts.Store.Team(ctx, team)
	if err != nil {
		return nil, fmt.Errorf("find snapshot: %w", err)
	}
	name, err := plainName(idOrName, owner.Slug)
	if err != nil || name == "" {
		return nil, noSnapshot(idOrName)
	}
	snap, err := f.opts.Store.SnapshotByName(ctx, team, name)
	if soulbox.KindOf(err) == soulbox.NotFound {
		snap, err = f.snapshotByID(ctx, team, soulbox.SnapshotID(name))
	}
	return snap, err
}

// snapshotByID returns a team's snapshot of which sandboxes can be made.
func (f *Fleet) snapshotByID(ctx context.Context, team soulbox.TeamID, id soulbox.SnapshotID) (*soulbox.Snapshot, error) {
	if !id.Valid() {
		return nil, noSnapshot(string(id))
	}
	snap, err := f.opts.Store.Snapshot(ctx, id)
	if err == nil && (snap.Team != team || snap.Kind != soulbox.ForCreate || !snap.Ready) {
		return nil, noSnapshot(string(id))
	}
	return snap, err
}

func noSnapshot(name string) error {
	return soulbox.Errorf(soulbox.NotFound, "snapshot '%.200s' not found", name)
}

// RemoveSnapshot removes a snapshot of which a team makes sandboxes. Those that
// were made of it stay, and one that is being made of it now gets all of it. Of
// two who remove the same one, the second gets NotFound. Once it has begun it
// happens, even if it fails at first.
func (f *Fleet) RemoveSnapshot(ctx context.Context, team soulbox.TeamID, id soulbox.SnapshotID) error {
	if err := f.begin(); err != nil {
		return err
	}
	defer f.wg.Done()
	if !f.claim(id) {
		return noSnapshot(string(id))
	}
	if _, err := f.snapshotByID(ctx, team, id); err != nil {
		f.unclaim(id)
		return err
	}
	told := make(chan error, 1)
	f.wg.Go(func() {
		defer f.unclaim(id)
		f.removeForGood(ctx, id, func(err error) { told <- err })
	})
	return <-told
}

// removeForGood removes a snapshot and tells how the first attempt went. After
// one that failed its files may be gone, and a record that says otherwise must
// not stay.
func (f *Fleet) removeForGood(ctx context.Context, id soulbox.SnapshotID, tell func(error)) {
	tell = once(tell)
	f.retry(ctx, "remove snapshot", id, func() error {
		err := f.remove(ctx, id)
		tell(err)
		return err
	})
}

func (f *Fleet) claim(id soulbox.SnapshotID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, taken := f.going[id]
	f.going[id] = struct{}{}
	return !taken
}

func (f *Fleet) unclaim(id soulbox.SnapshotID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.going, id)
}

// Checkpoint writes a running sandbox down, memory included, so that it can go
// back to this moment, and returns the checkpoint. The sandbox runs on. The name
// may be empty; one that another checkpoint of the sandbox has is a Conflict,
// and so is a sandbox that does not run.
func (f *Fleet) Checkpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, name string) (*soulbox.Snapshot, error) {
	if err := f.begin(); err != nil {
		return nil, err
	}
	defer f.wg.Done()
	name, err := plainName(name, "")
	if err != nil {
		return nil, err
	}
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return nil, err
	}
	return f.take(ctx, e, soulbox.ForRollback, name, saving)
}

// Checkpoints returns the moments that a live sandbox can go back to, oldest
// first. Their Parent makes a tree of them; one that is not among them was
// removed, or is what the sandbox was made of.
func (f *Fleet) Checkpoints(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) ([]*soulbox.Snapshot, error) {
	if _, err := f.Live(ctx, team, id); err != nil {
		return nil, err
	}
	all, err := f.opts.Store.SnapshotsOf(ctx, id)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(s *soulbox.Snapshot) bool { return s.Kind != soulbox.ForRollback || !s.Ready }), nil
}

// checkpoint returns one of a sandbox's.
func (f *Fleet) checkpoint(ctx context.Context, sandbox soulbox.SandboxID, id soulbox.SnapshotID) (*soulbox.Snapshot, error) {
	if !id.Valid() {
		return nil, noCheckpoint(id)
	}
	snap, err := f.opts.Store.Snapshot(ctx, id)
	if soulbox.KindOf(err) == soulbox.NotFound ||
		err == nil && (snap.Sandbox != sandbox || snap.Kind != soulbox.ForRollback || !snap.Ready) {
		return nil, noCheckpoint(id)
	}
	return snap, err
}

func noCheckpoint(id soulbox.SnapshotID) error {
	return soulbox.Errorf(soulbox.NotFound, "checkpoint '%.100s' not found", id)
}

// RemoveCheckpoint removes a moment that a sandbox could go back to. It is a
// Conflict while the sandbox is paused there. Once it has begun it happens, even
// if it fails at first.
func (f *Fleet) RemoveCheckpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, snap soulbox.SnapshotID) error {
	if err := f.begin(); err != nil {
		return err
	}
	defer f.wg.Done()
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return err
	}
	// Seized, because nobody must roll back to it meanwhile.
	return f.carry(ctx, e, func(ctx context.Context, tell func(error)) {
		read, cancel := detached(ctx)
		defer cancel()
		if _, err := f.checkpoint(read, id, snap); err != nil {
			tell(orMissing(e, err))
			return
		}
		if p := e.sb.Load().Pause; p != nil && p.Snapshot == snap {
			tell(soulbox.Errorf(soulbox.Conflict, "sandbox %s is paused at this checkpoint; resume it first", id))
			return
		}
		f.removeForGood(ctx, snap, tell)
	})
}

// saveSteps are those of writing a sandbox down, for tests that kill us on it.
type saveSteps struct{ recorded, written, finished string }

var saving = saveSteps{"snapshot/recorded", "snapshot/written", "snapshot/finished"}

// take writes a running sandbox down and lets it run on.
func (f *Fleet) take(ctx context.Context, e *entry, kind soulbox.SnapshotKind, name string, s saveSteps) (*soulbox.Snapshot, error) {
	if err := errors.Join(wantRunning(e.sb.Load()), savable(e.sb.Load(), true)); err != nil { // waiting for our turn would not change it for the better
		return nil, err
	}
	if err := f.seize(ctx, e); err != nil {
		return nil, err
	}
	defer e.leave()
	sb := e.sb.Load()
	if err := wantRunning(sb); err != nil {
		return nil, err
	}
	work, giveUp := f.until(ctx)
	defer giveUp(nil)
	snap, err := f.draft(ctx, sb, kind, name, true)
	if err != nil {
		return nil, unable("written down", sb.ID, err)
	}
	f.opts.Faults.Reach(s.recorded)
	err = f.save(ctx, work, snap, false, s)
	if err == nil {
		err = f.follow(ctx, e, snap)
	}
	if err != nil {
		f.wg.Go(func() { f.discard(ctx, snap.ID) })
		return nil, orMissing(e, unable("written down", sb.ID, err))
	}
	f.log.InfoContext(ctx, "sandbox written down", "sandbox", sb.ID, "snapshot", snap.ID, "kind", kind, "bytes", snap.Bytes)
	return snap, nil
}

// draft writes the first record of a snapshot.
func (f *Fleet) draft(ctx context.Context, sb *soulbox.Sandbox, kind soulbox.SnapshotKind, name string, memory bool) (*soulbox.Snapshot, error) {
	like, err := f.like(ctx, sb)
	if err != nil {
		return nil, err
	}
	snap := &soulbox.Snapshot{
		ID: soulbox.NewSnapshotID(), Team: sb.Team, Sandbox: sb.ID, Parent: sb.From, Kind: kind, Name: name, Node: f.opts.Node.ID(),
		Memory: memory, CreatedAt: now(),
		Template: sb.Template, Alias: sb.Alias, Image: like.Image, Size: sb.Size, Secure: sb.Secure,
		Env: merged(like.Env, sb.Env), User: like.User, Workdir: like.Workdir,
	}
	record, cancel := detached(ctx)
	defer cancel()
	err = f.opts.Store.InsertSnapshot(record, snap)
	if err != nil && soulbox.KindOf(err) != soulbox.Conflict {
		f.wg.Go(func() { f.discard(ctx, snap.ID) }) // the answer may have been lost, and not the record
	}
	if err != nil {
		return nil, err
	}
	return snap, nil
}

// like returns what a sandbox is like as far as its own record does not say.
// Both what it was made of and its template may be gone.
func (f *Fleet) like(ctx context.Context, sb *soulbox.Sandbox) (*soulbox.Template, error) {
	if sb.From != "" {
		snap, err := f.opts.Store.Snapshot(ctx, sb.From)
		if err == nil {
			return snap.AsTemplate(), nil
		}
		if soulbox.KindOf(err) != soulbox.NotFound {
			return nil, err
		}
	}
	tpl, err := f.opts.Store.Template(ctx, sb.Template)
	if soulbox.KindOf(err) == soulbox.NotFound {
		return &soulbox.Template{}, nil
	}
	if err != nil || sb.Build == "" || sb.Build == tpl.Build {
		return tpl, err
	}
	b, err := f.opts.Store.BuildAt(ctx, tpl.ID, soulbox.TemplateRef{Tag: string(sb.Build)})
	if soulbox.KindOf(err) == soulbox.NotFound {
		return tpl, nil
	}
	if err != nil {
		return nil, err
	}
	return tpl.At(b), nil
}

// save lets the node write, and records that it has. The node works under work.
func (f *Fleet) save(ctx, work context.Context, snap *soulbox.Snapshot, hold bool, s saveSteps) error {
	size, err := f.opts.Node.Snapshot(work, snap.Sandbox, snap, hold)
	if err != nil {
		if work.Err() != nil && f.life.Err() != nil {
			return errStopping()
		}
		return err
	}
	f.opts.Faults.Reach(s.written)
	record, cancel := detached(ctx)
	defer cancel()
	if err := f.opts.Store.FinishSnapshot(record, snap.ID, size); err != nil {
		return err
	}
	snap.Ready, snap.Bytes = true, size
	f.opts.Faults.Reach(s.finished)
	return nil
}

// follow makes a checkpoint the parent of what is written down next. Of the
// other kinds the tree of a sandbox's checkpoints knows nothing.
func (f *Fleet) follow(ctx context.Context, e *entry, snap *soulbox.Snapshot) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load().Clone()
	if snap.Kind != soulbox.ForRollback {
		return nil
	}
	if !sb.State.Live() {
		return missing(sb.ID, sb) // nobody can go back to it
	}
	if sb.State != soulbox.Running {
		return nil
	}
	sb.From = snap.ID
	record, cancel := detached(ctx)
	defer cancel()
	if err := f.opts.Store.MoveSandbox(record, sb, sb.State); err != nil {
		f.log.WarnContext(ctx, "snapshot will not be a parent", "sandbox", sb.ID, "snapshot", snap.ID, "err", err)
		return nil
	}
	e.sb.Store(sb)
	return nil
}

// remove removes a snapshot. The record goes last: while it is there, somebody
// knows of the files.
func (f *Fleet) remove(ctx context.Context, id soulbox.SnapshotID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	f.opts.Faults.Reach("remove/begun")
	if err := f.opts.Node.RemoveSnapshot(ctx, id); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	f.opts.Faults.Reach("remove/deleted")
	if err := f.opts.Store.DeleteSnapshot(ctx, id); err != nil {
		return err
	}
	f.opts.Faults.Reach("remove/forgotten")
	return nil
}

// discard removes a snapshot that nobody needs. It stops trying when the fleet
// closes; Start goes on from there.
func (f *Fleet) discard(ctx context.Context, id soulbox.SnapshotID) {
	f.retry(ctx, "remove snapshot", id, func() error { return f.remove(ctx, id) })
}
