package session

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/soulbox/soulbox"
)

// saveName is what a checkpoint may be called. The checkpoints of the sandboxes
// are called the same.
var saveName = regexp.MustCompile(`^[a-z0-9_-]{1,100}$`)

const maxSaves = 1000 // checkpoints of one session

// Checkpoint writes all sandboxes of an open session down under one name, and
// keeps its variables with them. Without a name it gets one. Either all of it
// is done or nothing: one that does not run, or has a checkpoint of that name,
// is a Conflict. The sandboxes are written down at nearly the same time, not at
// the same instant.
func (r *Registry) Checkpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, name string) (*soulbox.SessionSave, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	defer r.wg.Done()
	l, err := r.get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	save := &soulbox.SessionSave{ID: soulbox.NewSessionCheckpointID(), Session: id, Name: name, CreatedAt: now()}
	if name == "" {
		save.Name = "session-" + string(save.ID)
	}
	if !saveName.MatchString(save.Name) {
		return nil, soulbox.Errorf(soulbox.Invalid, "%.200q cannot be the name of a checkpoint; a name has 1 to 100 of a-z, 0-9, - and _", name)
	}
	l.changing.Lock()
	defer l.changing.Unlock()
	s := l.session()
	save.Variables = s.Variables
	for _, sandbox := range s.Present() {
		sb, err := r.opts.Fleet.Get(ctx, team, sandbox)
		if err != nil {
			return nil, err
		}
		if sb.State != soulbox.Running {
			return nil, soulbox.Errorf(soulbox.Conflict, "sandbox %s is %s; resume the session first", sandbox, sb.State)
		}
		save.Members = append(save.Members, soulbox.SavedMember{Sandbox: sandbox})
	}
	if len(save.Members) == 0 {
		return nil, soulbox.Errorf(soulbox.Conflict, "session %s has no sandboxes; let one join first", id)
	}
	if err := r.freeName(ctx, save); err != nil {
		return nil, err
	}
	record, cancel := detached(ctx)
	defer cancel()
	if err := r.opts.Store.InsertSessionSave(record, save); err != nil {
		return nil, fmt.Errorf("checkpoint session %s: %w", id, err)
	}
	r.opts.Faults.Reach("session/drafted")
	if err := r.save(ctx, team, save); err != nil {
		return nil, errors.Join(fmt.Errorf("checkpoint session %s: %w", id, err), r.undoSave(ctx, team, save, func(i int, c *soulbox.Snapshot) bool {
			return c.ID == save.Members[i].Snapshot
		}))
	}
	_, err = l.tell(soulbox.SessionEvent{Kind: soulbox.SessionCheckpoint, Name: save.Name}, nil)
	if err != nil {
		r.log.WarnContext(ctx, "checkpoint of a session not told", "session", id, "err", err) // it is there all the same
	}
	return save, nil
}

// freeName refuses a name that one of the sandboxes has given to a checkpoint
// already: undoing ours after a crash must not remove that.
func (r *Registry) freeName(ctx context.Context, save *soulbox.SessionSave) error {
	s, err := r.opts.Store.Session(ctx, save.Session)
	if err != nil {
		return err
	}
	saves, err := r.opts.Store.SessionSaves(ctx, save.Session)
	if err != nil {
		return err
	}
	if len(saves) >= maxSaves {
		return soulbox.Errorf(soulbox.Exhausted, "session %s has %d checkpoints, and may have no more", save.Session, len(saves))
	}
	for _, m := range save.Members {
		all, err := r.opts.Fleet.Checkpoints(ctx, s.Team, m.Sandbox)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(c *soulbox.Snapshot) bool { return c.Name == save.Name }) {
			return soulbox.Errorf(soulbox.Conflict, "sandbox %s has a checkpoint '%s' already; choose another name", m.Sandbox, save.Name)
		}
	}
	return nil
}

// save writes the sandboxes down, and records that it is done.
func (r *Registry) save(ctx context.Context, team soulbox.TeamID, save *soulbox.SessionSave) error {
	ids := make([]soulbox.SandboxID, len(save.Members))
	for i, m := range save.Members {
		ids[i] = m.Sandbox
	}
	results := together(ids, func(id soulbox.SandboxID) error {
		snap, err := r.opts.Fleet.Checkpoint(ctx, team, id, save.Name)
		if err == nil {
			save.Members[slices.Index(ids, id)].Snapshot = snap.ID
		}
		return err
	})
	var errs []error
	for _, res := range results {
		errs = append(errs, res.Err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.opts.Faults.Reach("session/saved")
	record, cancel := detached(ctx)
	defer cancel()
	save.Ready = true
	return r.opts.Store.FinishSessionSave(record, save)
}

// undoSave removes what came of a checkpoint that was not finished: what ours
// says of each member's.
func (r *Registry) undoSave(ctx context.Context, team soulbox.TeamID, save *soulbox.SessionSave, ours func(i int, c *soulbox.Snapshot) bool) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for i, m := range save.Members {
		all, err := r.opts.Fleet.Checkpoints(ctx, team, m.Sandbox)
		if soulbox.KindOf(err) == soulbox.NotFound {
			continue // gone with the sandbox
		}
		errs = append(errs, err)
		for _, c := range all {
			if !ours(i, c) {
				continue
			}
			if err := r.opts.Fleet.RemoveCheckpoint(ctx, team, m.Sandbox, c.ID); soulbox.KindOf(err) != soulbox.NotFound {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("undo checkpoint: %w", err) // the next start tries again
	}
	record, cancel := detached(ctx)
	defer cancel()
	return r.opts.Store.DeleteSessionSave(record, save.ID)
}

// undoSaves removes what an earlier process did not finish.
func (r *Registry) undoSaves(ctx context.Context) error {
	drafts, err := r.opts.Store.UnreadySessionSaves(ctx)
	if err != nil {
		return err
	}
	for _, save := range drafts {
		s, err := r.opts.Store.Session(ctx, save.Session)
		if err != nil {
			return err
		}
		// The name was free before, so that what has it is ours.
		ours := func(_ int, c *soulbox.Snapshot) bool {
			return c.Name == save.Name && !c.CreatedAt.Before(save.CreatedAt)
		}
		if err := r.undoSave(ctx, s.Team, save, ours); err != nil {
			r.log.WarnContext(ctx, "half a checkpoint of a session not removed", "session", save.Session, "name", save.Name, "err", err)
		}
	}
	return nil
}

// Checkpoints returns the moments that the sandboxes of a team's session can
// return to together, oldest first.
func (r *Registry) Checkpoints(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID) ([]*soulbox.SessionSave, error) {
	if _, err := r.Get(ctx, team, id); err != nil {
		return nil, err
	}
	all, err := r.opts.Store.SessionSaves(ctx, id)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(s *soulbox.SessionSave) bool { return !s.Ready }), nil
}

// Resume makes the sandboxes of an open session run. Without a checkpoint,
// those that are paused go on where they were. With one, by its id or name, all
// that were there go back to that moment, and so do the session's variables.
// What became of each sandbox is returned; if one fails, the others are done
// all the same.
func (r *Registry) Resume(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, checkpoint string) ([]soulbox.MemberResult, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	defer r.wg.Done()
	l, err := r.get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	l.changing.Lock()
	defer l.changing.Unlock()
	if checkpoint == "" {
		return l.wakeAll(ctx), nil
	}
	saves, err := r.Checkpoints(ctx, team, id)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(saves, func(s *soulbox.SessionSave) bool { return s.Name == checkpoint || string(s.ID) == checkpoint })
	if i < 0 {
		return nil, soulbox.Errorf(soulbox.NotFound, "session %s has no checkpoint %.100q", id, checkpoint)
	}
	save := saves[i]
	ids := make([]soulbox.SandboxID, len(save.Members))
	for i, m := range save.Members {
		ids[i] = m.Sandbox
	}
	results := together(ids, func(sandbox soulbox.SandboxID) error {
		if !l.session().Member(sandbox) {
			return soulbox.Errorf(soulbox.NotFound, "sandbox %s is not in the session any more", sandbox)
		}
		_, err := r.opts.Fleet.Rollback(ctx, team, sandbox, save.Members[slices.Index(ids, sandbox)].Snapshot)
		return err
	})
	r.opts.Faults.Reach("session/rolledback")
	_, err = l.change(func(s *soulbox.Session) error {
		s.Variables = save.Variables
		record, cancel := detached(ctx)
		defer cancel()
		return r.opts.Store.UpdateSession(record, s)
	})
	if err != nil {
		return results, fmt.Errorf("restore the variables of session %s: %w", id, err)
	}
	return results, nil
}
