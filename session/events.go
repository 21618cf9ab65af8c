package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session/eventlog"
)

// maxReaders bounds who reads the events of one session at the same time: each
// holds a file open.
const maxReaders = 256

// shelved is a log and how many use it: the session while it is open, and each
// reader. The last one closes it.
type shelved struct {
	log   *eventlog.Log
	users int // guarded by Registry.opening
}

// shelve writes the last event of a session, of which nothing watches any more,
// and puts its log away.
func (r *Registry) shelve(l *live, end soulbox.End) {
	if err := conclude(l.log, end); err != nil {
		// It is written when the log is opened next.
		r.log.WarnContext(r.life, "end of a session not told", "session", l.id, "err", err)
	}
	l.log.Seal()
	r.opening.Lock()
	defer r.opening.Unlock()
	r.mu.Lock()
	delete(r.open, l.id)
	r.shelf[l.id] = l.shelf
	r.mu.Unlock()
	r.putLocked(l.id, l.shelf)
}

// putLocked ends one use of a log, with r.opening held.
func (r *Registry) putLocked(id soulbox.SessionID, s *shelved) {
	if s.users--; s.users > 0 {
		return
	}
	r.mu.Lock()
	delete(r.shelf, id)
	r.mu.Unlock()
	if err := s.log.Close(); err != nil {
		r.log.WarnContext(r.life, "log of a session not closed", "session", id, "err", err)
	}
}

// conclude writes that a session has ended, if its log does not say so.
func conclude(log *eventlog.Log, end soulbox.End) error {
	if log.Over() {
		return nil
	}
	_, err := log.Append(eventlog.Entry{Event: soulbox.SessionEvent{At: now(), Kind: soulbox.SessionEnded, Reason: end.String()}})
	return err
}

// Events calls each with the events of a session that have greater ids than
// after, in order, and waits for more until ctx ends, each fails, the session
// ends or the server stops. idle is called when there is nothing to tell for a
// while; with idle nil, Events returns when there is nothing more now. The end
// of the session, after its last event, is no error.
func (r *Registry) Events(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, after uint64, idle func() error, each func(soulbox.SessionEvent) error) error {
	reader, release, err := r.reader(ctx, team, id, after)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	r.wg.Go(func() {
		select {
		case <-r.hangup:
			cancel(eventlog.ErrClosed)
		case <-stop:
		}
	})
	for {
		e, err := next(ctx, reader, idle)
		if err != nil {
			return unlessOver(err)
		}
		if e == nil {
			return nil
		}
		if err := each(*e); err != nil {
			return err
		}
	}
}

// idleTime is how long a stream has nothing to tell before its other end hears
// that it is still there.
const idleTime = 15 * time.Second

// next returns the next event, or nil when there is none and nobody waits.
func next(ctx context.Context, reader *eventlog.Reader, idle func() error) (*soulbox.SessionEvent, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if idle == nil {
		return reader.Try()
	}
	for {
		wait, cancel := context.WithTimeoutCause(ctx, idleTime, errIdle)
		e, err := reader.Next(wait)
		cancel()
		if !errors.Is(err, errIdle) {
			return &e, err
		}
		if err := idle(); err != nil {
			return nil, err
		}
	}
}

var errIdle = errors.New("nothing happens")

// reader returns a reader of a session's log, open or ended. It and its log
// are let go by release.
func (r *Registry) reader(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, after uint64) (_ *eventlog.Reader, release func(), err error) {
	if err := r.begin(); err != nil {
		return nil, nil, err
	}
	done := r.wg.Done
	defer func() {
		if err != nil {
			done()
		}
	}()
	s, err := r.Get(ctx, team, id)
	if err != nil {
		return nil, nil, err
	}
	if s.End == nil {
		if _, err := r.get(ctx, team, id); err != nil && soulbox.KindOf(err) != soulbox.Conflict {
			return nil, nil, err
		}
	}
	log, put, err := r.take(ctx, team, id)
	if err != nil {
		return nil, nil, fmt.Errorf("read events of session %s: %w", id, err)
	}
	reader, err := log.Reader(after)
	if err != nil {
		put()
		return nil, nil, err
	}
	return reader, func() { _ = reader.Close(); put(); done() }, nil // it was only read
}

// take returns the log of a session, and what ends the use of it.
func (r *Registry) take(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID) (*eventlog.Log, func(), error) {
	r.opening.Lock()
	defer r.opening.Unlock()
	r.mu.Lock()
	have, l := r.shelf[id], r.open[id]
	r.mu.Unlock()
	if l != nil {
		have = l.shelf
	}
	if have == nil {
		s, err := r.Get(ctx, team, id)
		if err != nil {
			return nil, nil, err
		}
		if s.End == nil {
			return nil, nil, soulbox.Errorf(soulbox.Unavailable, "the session is being opened; try again in a moment")
		}
		log, err := eventlog.Open(r.dir(id), r.opts.LogSize)
		if err != nil {
			return nil, nil, err
		}
		if err := conclude(log, *s.End); err != nil {
			return nil, nil, errors.Join(err, log.Close())
		}
		log.Seal()
		have = &shelved{log: log}
		r.mu.Lock()
		r.shelf[id] = have
		r.mu.Unlock()
	}
	if have.users > maxReaders {
		return nil, nil, soulbox.Errorf(soulbox.Exhausted, "%d clients read the events of session %s, and there may be no more", maxReaders, id)
	}
	have.users++
	return have.log, func() {
		r.opening.Lock()
		defer r.opening.Unlock()
		r.putLocked(id, have)
	}, nil
}

// prune forgets sessions that ended long ago.
func (r *Registry) prune() {
	for {
		ids, err := r.opts.Store.SessionsEndedBefore(r.life, time.Now().Add(-r.opts.Retention), pruneBatch)
		for _, id := range ids {
			err = errors.Join(err, r.delete(r.life, id))
		}
		if err != nil && r.life.Err() == nil {
			r.log.WarnContext(r.life, "old sessions not removed", "err", err)
		}
		if len(ids) == pruneBatch && err == nil {
			continue
		}
		if !sleep(r.life, pruneEvery) {
			return
		}
	}
}

// delete removes what is left of a session. The row goes last: while it is
// there, somebody knows of the log.
func (r *Registry) delete(ctx context.Context, id soulbox.SessionID) error {
	if err := os.RemoveAll(r.dir(id)); err != nil {
		return fmt.Errorf("remove log of session %s: %w", id, err)
	}
	record, cancel := detached(ctx)
	defer cancel()
	return r.opts.Store.DeleteSession(record, id)
}

// unlessOver forgives the end of a session's log.
func unlessOver(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
