package session

import (
	"context"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// busyCPU is the share of one core, in per cent, above which a sandbox
	// works. An idle one with its agent takes less than half of it.
	busyCPU = 2.0
	// stale is how old a measurement may be and still tell something.
	stale = 30 * time.Second
	// slackTicks is how many looks may come late before a sandbox whose client
	// is there runs out of time.
	slackTicks = 6
)

// Heartbeat notes that the client of an open session is there. With resume, it
// also resumes the sandboxes of the session that are paused; what became of
// each of those is returned.
func (r *Registry) Heartbeat(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, resume bool) (*soulbox.Session, []soulbox.MemberResult, error) {
	if err := r.begin(); err != nil {
		return nil, nil, err
	}
	defer r.wg.Done()
	l, err := r.get(ctx, team, id)
	if err != nil {
		return nil, nil, err
	}
	s, err := l.change(func(s *soulbox.Session) error {
		s.BeatAt = now()
		record, cancel := detached(ctx)
		defer cancel()
		return r.opts.Store.BeatSession(record, id, s.BeatAt)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("heartbeat of session %s: %w", id, err)
	}
	l.markAbsent(false, "")
	var results []soulbox.MemberResult
	if resume {
		results = l.wakeAll(ctx)
	}
	return s, results, nil
}

// wakeAll resumes the members that are paused.
func (l *live) wakeAll(ctx context.Context) []soulbox.MemberResult {
	s := l.session()
	var paused []soulbox.SandboxID
	for _, id := range s.Present() {
		sb, err := l.r.opts.Fleet.Get(ctx, s.Team, id)
		if err == nil && (sb.State == soulbox.Paused || sb.State == soulbox.Pausing) {
			paused = append(paused, id)
		}
	}
	return together(paused, func(id soulbox.SandboxID) error {
		_, err := l.wake(ctx, s, id)
		return err
	})
}

// wake makes a member run for a while.
func (l *live) wake(ctx context.Context, s *soulbox.Session, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	sb, err := l.r.opts.Fleet.Get(ctx, s.Team, id)
	if err != nil {
		return nil, err
	}
	d, err := l.spell(ctx, s, sb)
	if err != nil {
		return nil, err
	}
	sb, _, err = l.r.opts.Fleet.Connect(ctx, s.Team, id, d, false)
	return sb, err
}

// spell is how long from now a sandbox is to live: until its client counts as
// absent at least, and no less than it was last given, within what the team may
// ask for and the session's own time.
func (l *live) spell(ctx context.Context, s *soulbox.Session, sb *soulbox.Sandbox) (time.Duration, error) {
	team, err := l.r.opts.Store.Team(ctx, s.Team)
	if err != nil {
		return 0, err
	}
	d := max(l.need(s), sb.Timeout)
	return max(0, min(d, team.Limits.Timeout, time.Until(s.ExpiresAt))), nil
}

// need is what a sandbox needs to be alive when its client counts as absent.
func (l *live) need(s *soulbox.Session) time.Duration {
	return s.Heartbeat.Timeout + slackTicks*l.r.opts.Tick + l.r.opts.Quiet
}

// look does for a member what the presence or absence of its client asks for.
func (m *member) look(s *soulbox.Session, absent bool) {
	ctx, cancel := context.WithTimeout(m.ctx, recordTimeout)
	defer cancel()
	sb, err := m.l.r.opts.Fleet.Get(ctx, s.Team, m.id)
	if err != nil || sb.State != soulbox.Running {
		return
	}
	idle := m.idle()
	switch {
	case !absent || !idle && s.Heartbeat.Then != soulbox.AbsenceIsFine:
		m.keep(ctx, s, sb)
	case idle && s.Heartbeat.Then != soulbox.AbsenceIsFine && m.acting.CompareAndSwap(false, true):
		m.l.wg.Go(func() {
			defer m.acting.Store(false)
			m.act(s)
		})
	}
}

// idle looks whether the sandbox does something, and reports whether it did
// nothing for a while. One of which nothing is known is not idle.
func (m *member) idle() bool {
	o := m.l.r.opts
	if open, last := o.Traffic.Traffic(m.id); open > 0 {
		m.touch(time.Now())
	} else if !last.IsZero() {
		m.touch(last)
	}
	used, ok := o.Meter.Latest(m.id)
	if !ok || time.Since(used.At) > stale {
		return false
	}
	if used.CPUPercent >= busyCPU {
		m.touch(used.At)
	}
	return time.Since(time.Unix(0, m.active.Load())) >= o.Quiet
}

// keep puts off the timeout of the sandbox if it is near.
func (m *member) keep(ctx context.Context, s *soulbox.Session, sb *soulbox.Sandbox) {
	if time.Until(sb.ExpiresAt) >= m.l.need(s) || !sb.ExpiresAt.Before(s.ExpiresAt) {
		return
	}
	d, err := m.l.spell(ctx, s, sb)
	if err == nil {
		_, err = m.l.r.opts.Fleet.Extend(ctx, s.Team, m.id, d)
	}
	if err != nil && ctx.Err() == nil {
		m.l.r.log.WarnContext(ctx, "sandbox of a session not extended", "session", m.l.id, "sandbox", m.id, "err", err)
	}
}

// act does to an idle sandbox what follows a missed heartbeat.
func (m *member) act(s *soulbox.Session) {
	if m.l.silence(m.l.session()) <= s.Heartbeat.Timeout || !m.idle() { // somebody came back
		return
	}
	var err error
	switch s.Heartbeat.Then {
	case soulbox.AbsencePauses:
		err = m.l.r.opts.Fleet.Pause(m.ctx, s.Team, m.id, true)
	case soulbox.AbsenceKills:
		err = m.l.r.opts.Fleet.Kill(m.ctx, s.Team, m.id, soulbox.ByTimeout,
			fmt.Sprintf("the client of its session was not heard of for %v, and it was idle", s.Heartbeat.Timeout))
	case soulbox.AbsenceIsFine:
		return
	}
	switch kind := soulbox.KindOf(err); {
	case err == nil:
		m.l.r.log.InfoContext(m.ctx, "sandbox of an absent client dealt with", "session", m.l.id, "sandbox", m.id, "then", s.Heartbeat.Then)
	case m.ctx.Err() == nil && kind != soulbox.Conflict && kind != soulbox.NotFound: // those say that somebody was faster
		m.l.r.log.WarnContext(m.ctx, "sandbox of an absent client not dealt with", "session", m.l.id, "sandbox", m.id, "err", err)
	}
}
