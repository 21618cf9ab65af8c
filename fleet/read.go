package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

// Get returns a team's sandbox, live or ended. One that is unknown or of
// another team is NotFound.
func (f *Fleet) Get(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	if !id.Valid() {
		return nil, missing(id, nil)
	}
	sb, ok := f.Find(id)
	if !ok || sb.State == soulbox.Ended { // the table keeps ended ones in part
		var err error
		sb, err = f.opts.Store.Sandbox(ctx, id)
		if soulbox.KindOf(err) == soulbox.NotFound {
			return nil, missing(id, nil)
		}
		if err != nil {
			return nil, err
		}
		sb = f.lend(sb)
	}
	if sb.Team != team {
		return nil, missing(id, nil)
	}
	return sb, nil
}

// Live returns a team's sandbox that is live. One that has ended is NotFound
// with the reason.
func (f *Fleet) Live(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	sb, err := f.Get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	if !sb.State.Live() {
		return nil, missing(id, sb)
	}
	return sb, nil
}

// liveEntry is Live for those who want to change it.
func (f *Fleet) liveEntry(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*entry, error) {
	sb, err := f.Live(ctx, team, id)
	if err != nil {
		return nil, err
	}
	e, ok := f.entry(id)
	if !ok { // ended and forgotten since
		return nil, missing(id, sb)
	}
	return e, nil
}

// wantRunning says why a sandbox cannot be worked with now: a Conflict, or
// NotFound when it is not live.
func wantRunning(sb *soulbox.Sandbox) error {
	switch sb.State {
	case soulbox.Running:
		return nil
	case soulbox.Starting:
		return soulbox.Errorf(soulbox.Conflict, "sandbox %s is still starting", sb.ID)
	case soulbox.Pausing:
		return soulbox.Errorf(soulbox.Conflict, "sandbox %s is being paused", sb.ID)
	case soulbox.Paused:
		return soulbox.Errorf(soulbox.Conflict, "sandbox %s is paused", sb.ID)
	case soulbox.Resuming:
		return soulbox.Errorf(soulbox.Conflict, "sandbox %s is being resumed", sb.ID)
	default:
		return missing(sb.ID, sb)
	}
}

// missing says that there is no such live sandbox, and what became of it when
// the asking team owned it. The first sentence is the one that E2B's clients
// know.
func missing(id soulbox.SandboxID, sb *soulbox.Sandbox) error {
	const sentence = "Sandbox %.64q doesn't exist or you don't have access to it"
	if sb == nil || sb.End == nil {
		return soulbox.Errorf(soulbox.NotFound, sentence, id)
	}
	return soulbox.Errorf(soulbox.NotFound, sentence+": it was %v", id, *sb.End)
}

// List returns a page of a team's sandboxes.
func (f *Fleet) List(ctx context.Context, filter soulbox.SandboxFilter) (soulbox.SandboxPage, error) {
	page, err := f.opts.Store.Sandboxes(ctx, filter)
	if err != nil {
		return soulbox.SandboxPage{}, err
	}
	for _, sb := range page.Sandboxes {
		f.lend(sb)
	}
	return page, nil
}

// Usage returns what a team's sandbox, live or ended, used between two times.
func (f *Fleet) Usage(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, from, to time.Time) ([]soulbox.Usage, error) {
	if _, err := f.Get(ctx, team, id); err != nil {
		return nil, err
	}
	if f.opts.Meter == nil {
		return nil, nil
	}
	return f.opts.Meter.Usage(ctx, id, from, to)
}

// LatestUsage returns the last measurement of each of a team's live sandboxes
// among ids. Those that are unknown, of another team, paused or not measured
// yet are left out.
func (f *Fleet) LatestUsage(_ context.Context, team soulbox.TeamID, ids []soulbox.SandboxID) (map[soulbox.SandboxID]soulbox.Usage, error) {
	latest := make(map[soulbox.SandboxID]soulbox.Usage, len(ids))
	if f.opts.Meter == nil {
		return latest, nil
	}
	for _, id := range ids {
		sb, ok := f.Find(id)
		if !ok || sb.Team != team || !sb.State.Active() {
			continue
		}
		if u, ok := f.opts.Meter.Latest(id); ok {
			latest[id] = u
		}
	}
	return latest, nil
}

// Logs returns what a team's sandbox said, live or ended.
func (f *Fleet) Logs(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, q soulbox.LogQuery) ([]soulbox.LogEntry, error) {
	if _, err := f.Get(ctx, team, id); err != nil {
		return nil, err
	}
	logs, err := f.opts.Node.Logs(ctx, id, q)
	if err != nil {
		return nil, fmt.Errorf("read logs of sandbox %s: %w", id, err)
	}
	return logs, nil
}
