package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session/eventlog"
)

// live is an open session in memory.
type live struct {
	r     *Registry
	id    soulbox.SessionID
	log   *eventlog.Log
	shelf *shelved           // of log
	ctx   context.Context    //nolint:containedctx // until the session ends or the registry closes
	stop  context.CancelFunc // of ctx
	wg    sync.WaitGroup     // everything that may write to log
	s     atomic.Pointer[soulbox.Session]

	changing sync.Mutex // members, checkpoints and resumes

	mu     sync.Mutex
	ended  bool // +checklocks:mu
	absent bool // the client is not heard of, and the log says so; +checklocks:mu
}

func newLive(r *Registry, s *soulbox.Session, log *eventlog.Log) *live {
	l := &live{r: r, id: s.ID, log: log, shelf: &shelved{log: log, users: 1}}
	l.ctx, l.stop = context.WithCancel(r.life)
	l.s.Store(s)
	return l
}

// session returns what is on record. Nobody may change it.
func (l *live) session() *soulbox.Session { return l.s.Load() }

// tell writes an event of the session itself or of what happened to a sandbox.
func (l *live) tell(e soulbox.SessionEvent, place *eventlog.Place) (uint64, error) {
	e.At = now()
	return l.log.Append(eventlog.Entry{Event: e, Place: place})
}

// change lets do change a copy of the session, and shows the result once do has
// recorded it.
func (l *live) change(do func(s *soulbox.Session) error) (*soulbox.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil, soulbox.Errorf(soulbox.Conflict, "session %s has ended", l.id)
	}
	s := l.session().Clone()
	if err := do(s); err != nil {
		return nil, err
	}
	l.s.Store(s)
	return s, nil
}

// member returns a sandbox that is in the session.
func (l *live) member(id soulbox.SandboxID) (*member, error) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	m := l.r.members[id]
	if m == nil || m.l != l {
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %.64q is not in session %s", string(id), l.id)
	}
	return m, nil
}

// present returns the members, in the order in which they joined.
func (l *live) present() []*member {
	var all []*member
	for _, id := range l.session().Present() {
		if m, err := l.member(id); err == nil {
			all = append(all, m)
		}
	}
	return all
}

// follow begins to watch a member.
func (l *live) follow(id soulbox.SandboxID) {
	m := &member{l: l, id: id, wake: make(chan struct{}, 1), over: make(chan struct{}), cancel: func() {}}
	m.ctx, m.stop = context.WithCancel(l.ctx)
	m.active.Store(time.Now().UnixNano())
	l.r.mu.Lock()
	l.r.members[id] = m
	l.r.mu.Unlock()
	l.wg.Go(m.run)
}

// forget stops watching a member, and returns when nothing more is written of
// it.
func (l *live) forget(m *member) {
	m.stop()
	<-m.over
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.r.members[m.id] == m {
		delete(l.r.members, m.id)
	}
}

// watch looks after the presence of the client, and the expiry.
func (l *live) watch() {
	tick := time.NewTicker(l.r.opts.Tick)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		if l.expired() {
			if l.r.begin() == nil {
				go func() { // ending waits for this goroutine
					defer l.r.wg.Done()
					l.expire()
				}()
			}
			return
		}
		l.look()
	}
}

func (l *live) expired() bool { return !time.Now().Before(l.session().ExpiresAt) }

// expire ends the session, unless it was given more time a moment ago.
func (l *live) expire() {
	retry(l.r.life, func() error {
		return l.end(l.r.life, func(s *soulbox.Session) (soulbox.End, bool) {
			return soulbox.End{At: now(), By: soulbox.ByTimeout, Reason: "its time was up"}, !time.Now().Before(s.ExpiresAt)
		})
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended && l.ctx.Err() == nil {
		l.wg.Go(l.watch)
	}
}

// look does what the client's presence or absence asks for.
func (l *live) look() {
	s := l.session()
	absent := l.silence(s) > s.Heartbeat.Timeout
	if absent {
		l.markAbsent(true, "")
	}
	for _, m := range l.present() {
		m.look(s, absent)
	}
}

// silence is how long the client was not heard of.
func (l *live) silence(s *soulbox.Session) time.Duration {
	l.r.mu.Lock()
	since := l.r.since
	l.r.mu.Unlock()
	if since.Before(s.BeatAt) {
		since = s.BeatAt
	}
	return time.Since(since)
}

// markAbsent tells once that the client is not heard of, or is back.
func (l *live) markAbsent(absent bool, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.absent == absent || l.ended {
		return
	}
	e := soulbox.SessionEvent{Kind: soulbox.HeartbeatBack, Reason: reason}
	if absent {
		h := l.session().Heartbeat
		e.Kind = soulbox.HeartbeatMissed
		e.Reason = fmt.Sprintf("no heartbeat for %v; what follows: %s", h.Timeout, h.Then)
	}
	if _, err := l.tell(e, nil); err != nil {
		l.r.log.WarnContext(l.ctx, "presence not told", "session", l.id, "err", err) // the next look tries again
		return
	}
	l.absent = absent
}

// end ends the session if why says so. It stops what watches it, writes the last
// event, and closes the log once nobody reads it.
func (l *live) end(ctx context.Context, why func(*soulbox.Session) (soulbox.End, bool)) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return nil
	}
	s := l.session().Clone()
	end, ends := why(s)
	if !ends {
		l.mu.Unlock()
		return nil
	}
	record, cancel := detached(ctx)
	defer cancel()
	if err := l.r.opts.Store.EndSession(record, l.id, end); err != nil {
		l.mu.Unlock()
		return fmt.Errorf("end session %s: %w", l.id, err)
	}
	s.End = &end
	for i := range s.Members {
		if s.Members[i].LeftAt.IsZero() {
			s.Members[i].LeftAt = end.At
		}
	}
	members := l.present()
	l.s.Store(s)
	l.ended = true
	l.mu.Unlock()
	l.r.opts.Faults.Reach("session/ended")

	l.stop()
	for _, m := range members {
		l.forget(m)
	}
	l.wg.Wait()
	l.r.log.InfoContext(ctx, "session ended", "session", l.id, "team", s.Team, "by", end.By, "reason", end.Reason)
	l.r.shelve(l, end)
	return nil
}

// retry calls do until it succeeds or ctx ends, ever more slowly.
func retry(ctx context.Context, do func() error) bool {
	const most = 10 * time.Second
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, most) {
		if do() == nil {
			return true
		}
		if !sleep(ctx, wait) {
			return false
		}
	}
}

// sleep waits, and reports false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// dismiss brings the log into agreement with the record about who is not in the
// session any more.
func (l *live) dismiss() {
	for id, place := range l.log.Places() {
		if l.session().Member(id) {
			continue
		}
		if place.State == soulbox.Ended {
			l.log.Forget(id)
			continue
		}
		// The server died between the record and the event.
		if _, err := l.tell(soulbox.SessionEvent{Kind: soulbox.SandboxLeft, Sandbox: id}, nil); err != nil {
			l.r.log.WarnContext(l.ctx, "event not written", "session", l.id, "sandbox", id, "err", err) // the next start tries again
		}
	}
}

// leave records that a sandbox is not in the session any more.
func (l *live) leave(id soulbox.SandboxID) error {
	_, err := l.change(func(s *soulbox.Session) error {
		i := slices.IndexFunc(s.Members, func(m soulbox.SessionMember) bool { return m.Sandbox == id && m.LeftAt.IsZero() })
		if i < 0 {
			return nil
		}
		at := now()
		record, cancel := detached(l.ctx)
		defer cancel()
		if err := l.r.opts.Store.LeaveSession(record, l.id, id, at); err != nil {
			return fmt.Errorf("take sandbox %s out of session %s: %w", id, l.id, err)
		}
		s.Members[i].LeftAt = at
		return nil
	})
	return err
}
