package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session/eventlog"
)

// member is a sandbox in an open session. One goroutine writes to the log what
// becomes of it and what its agent recorded, in order.
type member struct {
	l    *live
	id   soulbox.SandboxID
	ctx  context.Context    //nolint:containedctx // as long as it is in the session
	stop context.CancelFunc // of ctx
	over chan struct{}      // closed when the goroutine has ended
	wake chan struct{}      // there is something in queue

	active atomic.Int64 // when it was last seen to do something, in Unix nanoseconds
	acting atomic.Bool  // somebody pauses or kills it for its client's absence

	mu     sync.Mutex
	queue  []*soulbox.Sandbox // changes that are not in the log yet; +checklocks:mu
	cancel context.CancelFunc // ends the following of what runs now; +checklocks:mu
}

// tell takes note of a change. What is read from the agent from now on may be
// another epoch's, so the reading ends.
func (m *member) tell(sb *soulbox.Sandbox) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = append(m.queue, sb)
	m.cancel()
	select {
	case m.wake <- struct{}{}:
	default: // it will look at all of the queue
	}
}

// next takes the oldest change out of the queue. Without one it returns a
// context for following the sandbox, which ends with the next change.
func (m *member) next() (*soulbox.Sandbox, context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) > 0 {
		sb := m.queue[0]
		m.queue = m.queue[1:]
		return sb, nil
	}
	ctx, cancel := context.WithCancel(m.ctx)
	m.cancel = cancel
	return nil, ctx
}

// past is what a member remembers of changes that are no events by themselves.
type past struct {
	state soulbox.State      // the one before
	pause soulbox.SnapshotID // from which it is to be resumed
	back  soulbox.SnapshotID // the checkpoint to which it is being rolled back; empty: it is not
}

func (m *member) run() {
	defer close(m.over)
	var was past
	if !m.catchUp(&was) {
		return
	}
	for m.ctx.Err() == nil {
		sb, ctx := m.next()
		if sb != nil {
			if gone := m.note(sb, &was); gone {
				return
			}
			continue
		}
		if was.state == soulbox.Running {
			if err := m.follow(ctx); err != nil && ctx.Err() == nil {
				m.l.r.log.DebugContext(ctx, "record of a sandbox broke off", "session", m.l.id, "sandbox", m.id, "err", err)
				sleep(ctx, time.Second)
			}
			continue
		}
		select {
		case <-m.wake:
		case <-m.ctx.Done():
		}
	}
}

// catchUp writes what happened to the sandbox before anybody told us.
func (m *member) catchUp(was *past) (here bool) {
	var gone bool
	done := retry(m.ctx, func() error {
		sb, err := m.l.r.opts.Fleet.Get(m.ctx, m.l.session().Team, m.id)
		if soulbox.KindOf(err) == soulbox.NotFound {
			sb = &soulbox.Sandbox{ID: m.id, State: soulbox.Ended, End: &soulbox.End{At: now(), By: soulbox.ByServer, Reason: "it is not remembered any more"}}
		} else if err != nil {
			return err
		}
		if _, known := m.l.log.Place(m.id); !known {
			// The server died between the record and the event.
			state := sb.State
			if !state.Live() {
				state = soulbox.Running // which it was when it joined
			}
			if _, err := m.l.tell(soulbox.SessionEvent{Kind: soulbox.SandboxJoined, Sandbox: m.id}, &eventlog.Place{State: settled(state)}); err != nil {
				return err
			}
		}
		gone = m.note(sb, was)
		return nil
	})
	return done && !gone
}

// settled is the state that a log has of a sandbox: those on the way between
// two are the one before.
func settled(s soulbox.State) soulbox.State {
	switch s {
	case soulbox.Paused, soulbox.Resuming:
		return soulbox.Paused
	case soulbox.Ending, soulbox.Ended:
		return soulbox.Ended
	default:
		return soulbox.Running
	}
}

// note writes what a change of the sandbox means, if the log does not have it
// already. It reports whether the sandbox has ended and left.
func (m *member) note(sb *soulbox.Sandbox, was *past) (gone bool) {
	defer func() { was.state = sb.State }()
	place, _ := m.l.log.Place(m.id)
	e := soulbox.SessionEvent{Sandbox: m.id}
	switch sb.State {
	case soulbox.Paused:
		was.pause, was.back = pausedAt(sb), ""
		if place.State == soulbox.Paused {
			return false
		}
		e.Kind, place.State = soulbox.SandboxPaused, soulbox.Paused
		if sb.Pause != nil && !sb.Pause.Memory {
			e.Reason = "it keeps its files and not its memory"
		}
	case soulbox.Resuming:
		if to := pausedAt(sb); was.state == soulbox.Running || was.pause != "" && to != was.pause {
			was.back = to
		}
		return false
	case soulbox.Running:
		m.touch(time.Now())
		switch {
		case was.back != "":
			e.Kind, e.Snapshot, was.back = soulbox.SandboxRolledBack, sb.From, ""
		case place.State == soulbox.Paused:
			e.Kind = soulbox.SandboxResumed
		default:
			return false
		}
		place.State = soulbox.Running
	case soulbox.Ending, soulbox.Ended:
		m.gone(sb, place)
		return true
	default:
		return false
	}
	retry(m.ctx, func() error {
		_, err := m.l.tell(e, &place)
		return err
	})
	return false
}

func pausedAt(sb *soulbox.Sandbox) soulbox.SnapshotID {
	if sb.Pause == nil {
		return ""
	}
	return sb.Pause.Snapshot
}

// gone tells that the sandbox has ended, and takes it out of the session.
func (m *member) gone(sb *soulbox.Sandbox, place eventlog.Place) {
	e := soulbox.SessionEvent{Kind: soulbox.SandboxEnded, Sandbox: m.id}
	if sb.End != nil {
		e.Reason = sb.End.String()
	}
	left := retry(m.ctx, func() error {
		if place.State != soulbox.Ended {
			place = eventlog.Place{State: soulbox.Ended}
			if _, err := m.l.tell(e, &place); err != nil {
				place.State = soulbox.Running
				return err
			}
		}
		return m.l.leave(m.id)
	})
	if !left {
		return
	}
	m.l.log.Forget(m.id)
	m.l.r.mu.Lock()
	defer m.l.r.mu.Unlock()
	if m.l.r.members[m.id] == m {
		delete(m.l.r.members, m.id)
	}
}

// follow copies what the agent records into the log, until ctx ends or
// something fails.
func (m *member) follow(ctx context.Context) error {
	after, epochs, err := m.align(ctx)
	if err != nil {
		return err
	}
	var broken error
	err = m.l.r.opts.Guests.Follow(ctx, m.id, after, func(g soulbox.GuestEvent) error {
		if ctx.Err() != nil {
			return context.Cause(ctx) // the epochs may be others now
		}
		e := soulbox.SessionEvent{At: now(), Kind: soulbox.SessionEventKind(g.Kind), Sandbox: m.id, Guest: &g, Epoch: epochAt(epochs, g.Seq)}
		_, broken = m.l.log.Append(eventlog.Entry{Event: e})
		m.l.r.opts.Faults.Reach("session/stored")
		return broken
	})
	if broken != nil {
		m.l.r.log.WarnContext(ctx, "event not written", "session", m.l.id, "sandbox", m.id, "err", broken)
	}
	return err
}

// align switches the record on and finds the place in it from which the log
// goes on. When the sandbox was taken back behind it, it says so.
func (m *member) align(ctx context.Context) (after uint64, epochs []soulbox.GuestEpoch, err error) {
	place, _ := m.l.log.Place(m.id)
	if len(place.Epochs) == 0 {
		place, epochs, err = m.baseline(ctx, place.State)
		if err != nil {
			return 0, nil, err
		}
		if len(place.Epochs) == 0 {
			return 0, nil, errors.New("the record has no beginning")
		}
		return place.Epochs[len(place.Epochs)-1].Last, epochs, m.l.log.Mark(m.id, place)
	}
	pos, err := m.position(ctx)
	if err != nil {
		return 0, nil, err
	}
	a := align(place.Epochs, pos)
	if a.undone > 0 {
		e := soulbox.SessionEvent{
			Kind: soulbox.EventsUndone, Sandbox: m.id, Epoch: a.epoch, Seq: a.after, Lost: a.undone,
			Reason: "the sandbox was taken back to an earlier moment",
		}
		place.Epochs = a.seen
		if _, err := m.l.tell(e, &place); err != nil {
			return 0, nil, err
		}
	}
	return a.after, pos.Epochs, nil
}

// position switches the record on and tells where it is. One who is about to
// join must have the folders that are to be watched.
func (m *member) position(ctx context.Context) (soulbox.GuestPosition, error) {
	ctx, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	guests, watch := m.l.r.opts.Guests, m.l.session().Watch
	err := guests.Record(ctx, m.id, watch)
	if soulbox.KindOf(err) == soulbox.Invalid && len(watch) > 0 && m.ctx != nil {
		// A folder has gone since it was asked for. All else must not be lost
		// for that.
		m.l.r.log.InfoContext(ctx, "folders of a session not watched", "session", m.l.id, "sandbox", m.id, "err", err)
		err = guests.Record(ctx, m.id, nil)
	}
	if err != nil {
		return soulbox.GuestPosition{}, fmt.Errorf("record sandbox %s: %w", m.id, err)
	}
	pos, err := m.l.r.opts.Guests.Position(ctx, m.id)
	if err != nil {
		return pos, fmt.Errorf("find the place in the record of sandbox %s: %w", m.id, err)
	}
	return pos, nil
}

// baseline is the place from which everything is the session's: where the
// record was before it was switched on for it.
func (m *member) baseline(ctx context.Context, state soulbox.State) (eventlog.Place, []soulbox.GuestEpoch, error) {
	ask, cancel := context.WithTimeout(ctx, guestTimeout)
	defer cancel()
	before, err := m.l.r.opts.Guests.Position(ask, m.id)
	if err != nil {
		return eventlog.Place{}, nil, fmt.Errorf("find the place in the record of sandbox %s: %w", m.id, err)
	}
	pos, err := m.position(ctx)
	if err != nil {
		return eventlog.Place{}, nil, err
	}
	return eventlog.Place{State: state, Epochs: seenUpTo(pos, before.Head)}, pos.Epochs, nil
}

// touch notes that the sandbox does something.
func (m *member) touch(at time.Time) {
	for {
		old := m.active.Load()
		if at.UnixNano() <= old || m.active.CompareAndSwap(old, at.UnixNano()) {
			return
		}
	}
}
