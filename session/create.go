package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session/eventlog"
)

const (
	maxOpen      = 1000 // sessions of a team at the same time: each may have a full log
	maxMembers   = 64   // sandboxes in a session at the same time
	maxMetadata  = 16 << 10
	maxVariables = 256
	maxVariable  = 128      // bytes of a name
	maxNotes     = 64 << 10 // bytes of all variables together
	maxWatch     = 16
	maxPath      = 4096
)

// Create opens a session. Its client counts as heard of now. If one of the
// sandboxes cannot join, there is no session.
func (r *Registry) Create(ctx context.Context, q soulbox.SessionRequest) (*soulbox.Session, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	defer r.wg.Done()
	s, err := draft(q)
	if err != nil {
		return nil, err
	}
	if err := r.room(q.Team); err != nil {
		return nil, err
	}
	for _, id := range q.Sandboxes {
		if _, err := r.mayJoin(ctx, q.Team, id); err != nil {
			return nil, err
		}
	}
	record, cancel := detached(ctx)
	defer cancel()
	if err := r.opts.Store.InsertSession(record, s); err != nil {
		return nil, fmt.Errorf("create session: %w", err)
	}
	r.opts.Faults.Reach("session/recorded")
	l, err := r.resume(s)
	if err == nil {
		_, err = l.tell(soulbox.SessionEvent{Kind: soulbox.SessionStarted}, nil)
	}
	for _, id := range q.Sandboxes {
		if err == nil {
			err = l.add(ctx, id)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create session: %w", err), r.discard(ctx, l, s.ID))
	}
	r.log.InfoContext(ctx, "session created", "session", s.ID, "team", s.Team, "sandboxes", len(q.Sandboxes))
	return l.session(), nil
}

// discard undoes a session that could not be made.
func (r *Registry) discard(ctx context.Context, l *live, id soulbox.SessionID) error {
	var err error
	if l != nil {
		err = l.end(ctx, func(*soulbox.Session) (soulbox.End, bool) {
			return soulbox.End{At: now(), By: soulbox.ByServer, Reason: "it could not be made"}, true
		})
	}
	return errors.Join(err, r.delete(ctx, id))
}

// draft is the session that is asked for.
func draft(q soulbox.SessionRequest) (*soulbox.Session, error) {
	if q.Lifetime == 0 {
		q.Lifetime = soulbox.SessionLifetime
	}
	if err := checkLifetime(q.Lifetime); err != nil {
		return nil, err
	}
	beat, err := q.Heartbeat.Filled()
	if err != nil {
		return nil, err
	}
	if len(q.Sandboxes) > maxMembers {
		return nil, soulbox.Errorf(soulbox.Invalid, "a session has at most %d sandboxes, not %d", maxMembers, len(q.Sandboxes))
	}
	for i, id := range q.Sandboxes {
		if slices.Contains(q.Sandboxes[:i], id) {
			return nil, soulbox.Errorf(soulbox.Invalid, "sandbox %.64q is named twice", string(id))
		}
	}
	if err := checkMetadata(q.Metadata); err != nil {
		return nil, err
	}
	if err := checkWatch(q.Watch); err != nil {
		return nil, err
	}
	vars, err := merge(nil, q.Variables)
	if err != nil {
		return nil, err
	}
	at := now()
	return &soulbox.Session{
		ID: soulbox.NewSessionID(), Team: q.Team, CreatedAt: at, ExpiresAt: at.Add(q.Lifetime), Heartbeat: beat, BeatAt: at,
		Metadata: maps.Clone(q.Metadata), Variables: vars, Watch: slices.Clone(q.Watch),
	}, nil
}

func checkLifetime(d time.Duration) error {
	if d <= 0 || d > soulbox.MaxSessionLifetime {
		return soulbox.Errorf(soulbox.Invalid, "a session lives for more than 0 and at most %d days from now, not %v",
			soulbox.MaxSessionLifetime/(24*time.Hour), d)
	}
	return nil
}

func checkMetadata(m map[string]string) error {
	size := 0
	for k, v := range m {
		size += len(k) + len(v)
		if strings.ContainsRune(k+v, 0) || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return soulbox.Errorf(soulbox.Invalid, "the metadata entry %.100q is not text: it holds a NUL byte or is not UTF-8", k)
		}
	}
	if size > maxMetadata {
		return soulbox.Errorf(soulbox.TooLarge, "the metadata has %d bytes, and may have %d", size, maxMetadata)
	}
	return nil
}

func checkWatch(paths []string) error {
	if len(paths) > maxWatch {
		return soulbox.Errorf(soulbox.Invalid, "at most %d folders are watched, not %d", maxWatch, len(paths))
	}
	for _, p := range paths {
		if !path.IsAbs(p) || path.Clean(p) != p || len(p) > maxPath || strings.ContainsRune(p, 0) || !utf8.ValidString(p) {
			return soulbox.Errorf(soulbox.Invalid, "%.200q cannot be watched; name a folder by its absolute path, without . and .. in it", p)
		}
	}
	return nil
}

// merge returns variables with some changed; null removes one.
func merge(vars, change map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	out := maps.Clone(vars)
	if out == nil {
		out = map[string]json.RawMessage{}
	}
	for name, value := range change {
		if name == "" || len(name) > maxVariable || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
			return nil, soulbox.Errorf(soulbox.Invalid, "%.200q cannot be the name of a variable; it has 1 to %d bytes of text", name, maxVariable)
		}
		var b bytes.Buffer
		if err := json.Compact(&b, value); err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "variable %.100q is not JSON", name)
		}
		if b.String() == "null" {
			delete(out, name)
			continue
		}
		if bytes.Contains(b.Bytes(), []byte(`\u0000`)) || !utf8.Valid(b.Bytes()) {
			return nil, soulbox.Errorf(soulbox.Invalid, "variable %.100q is not text: it holds a NUL character or is not UTF-8", name)
		}
		out[name] = b.Bytes()
	}
	size := 0
	for name, value := range out {
		size += len(name) + len(value)
	}
	switch {
	case len(out) > maxVariables:
		return nil, soulbox.Errorf(soulbox.TooLarge, "a session has at most %d variables, not %d", maxVariables, len(out))
	case size > maxNotes:
		return nil, soulbox.Errorf(soulbox.TooLarge, "the variables of a session have at most %d bytes together, not %d", maxNotes, size)
	}
	return out, nil
}

// room refuses a team that has as many open sessions as it may.
func (r *Registry) room(team soulbox.TeamID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, l := range r.open {
		if l.session().Team == team {
			n++
		}
	}
	if n >= maxOpen {
		return soulbox.Errorf(soulbox.Exhausted, "your team has %d open sessions, and may have %d at the same time", n, maxOpen)
	}
	return nil
}

// Get returns a team's session, open or ended. One that is unknown or of
// another team is NotFound.
func (r *Registry) Get(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID) (*soulbox.Session, error) {
	if !id.Valid() {
		return nil, missing(id)
	}
	r.mu.Lock()
	l := r.open[id]
	r.mu.Unlock()
	if l != nil && l.session().Team == team {
		return l.session(), nil
	}
	s, err := r.opts.Store.Session(ctx, id)
	if soulbox.KindOf(err) == soulbox.NotFound || err == nil && s.Team != team {
		return nil, missing(id)
	}
	return s, err
}

// List returns a page of a team's sessions.
func (r *Registry) List(ctx context.Context, f soulbox.SessionFilter) (soulbox.SessionPage, error) {
	return r.opts.Store.Sessions(ctx, f)
}

// Change changes an open session.
func (r *Registry) Change(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, c soulbox.SessionChange) (*soulbox.Session, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	defer r.wg.Done()
	l, err := r.get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	if c.Watch != nil {
		if err := l.mayWatch(ctx, *c.Watch); err != nil {
			return nil, fmt.Errorf("change session %s: %w", id, err)
		}
	}
	s, err := l.change(func(s *soulbox.Session) error {
		if err := apply(s, c); err != nil {
			return err
		}
		record, cancel := detached(ctx)
		defer cancel()
		return r.opts.Store.UpdateSession(record, s)
	})
	if err != nil {
		return nil, fmt.Errorf("change session %s: %w", id, err)
	}
	if c.Watch != nil {
		for _, m := range l.present() {
			m.again()
		}
	}
	return s, nil
}

// mayWatch lets the members that run try to watch folders. Those that were
// watched before are watched again when one of them cannot.
func (l *live) mayWatch(ctx context.Context, paths []string) error {
	if err := checkWatch(paths); err != nil {
		return err
	}
	for _, m := range l.present() {
		ask, cancel := context.WithTimeout(ctx, guestTimeout)
		err := l.r.opts.Guests.Record(ask, m.id, paths)
		cancel()
		if soulbox.KindOf(err) != soulbox.Invalid { // it watches, or will when it runs
			continue
		}
		for _, m := range l.present() {
			m.again()
		}
		return fmt.Errorf("watch in sandbox %s: %w", m.id, err)
	}
	return nil
}

// again makes the following of a sandbox begin anew, with what is to be watched
// now.
func (m *member) again() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cancel()
}

func apply(s *soulbox.Session, c soulbox.SessionChange) (err error) {
	if c.Lifetime != 0 {
		if err := checkLifetime(c.Lifetime); err != nil {
			return err
		}
		s.ExpiresAt = now().Add(c.Lifetime)
	}
	if c.Heartbeat != nil {
		if s.Heartbeat, err = c.Heartbeat.Filled(); err != nil {
			return err
		}
	}
	if c.Metadata != nil {
		if err := checkMetadata(c.Metadata); err != nil {
			return err
		}
		s.Metadata = maps.Clone(c.Metadata)
	}
	if c.Watch != nil {
		if err := checkWatch(*c.Watch); err != nil {
			return err
		}
		s.Watch = slices.Clone(*c.Watch)
	}
	if c.Variables != nil {
		s.Variables, err = merge(s.Variables, c.Variables)
	}
	return err
}

// End ends an open session. Its sandboxes go on with their own timeouts, unless
// then says that they are paused or killed with it; what that did to each is
// returned.
func (r *Registry) End(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, then soulbox.Absence) ([]soulbox.MemberResult, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	defer r.wg.Done()
	switch then {
	case "", soulbox.AbsenceIsFine, soulbox.AbsencePauses, soulbox.AbsenceKills:
	default:
		return nil, soulbox.Errorf(soulbox.Invalid, "the sandboxes of a session that ends are left alone (%s), or %s or %s is done to them; not %.50q",
			soulbox.AbsenceIsFine, soulbox.AbsencePauses, soulbox.AbsenceKills, string(then))
	}
	l, err := r.get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	members := l.session().Present()
	err = l.end(ctx, func(*soulbox.Session) (soulbox.End, bool) {
		return soulbox.End{At: now(), By: soulbox.ByClient, Reason: "it was ended through the API"}, true
	})
	if err != nil || then == "" || then == soulbox.AbsenceIsFine {
		return nil, err
	}
	return together(members, func(sandbox soulbox.SandboxID) error {
		if then == soulbox.AbsenceKills {
			return r.opts.Fleet.Kill(ctx, team, sandbox, soulbox.ByClient, "its session was ended")
		}
		return unlessPaused(r.opts.Fleet.Pause(ctx, team, sandbox, true), func() (*soulbox.Sandbox, error) {
			return r.opts.Fleet.Get(ctx, team, sandbox)
		})
	}), nil
}

// unlessPaused forgives that what was to be paused is.
func unlessPaused(err error, get func() (*soulbox.Sandbox, error)) error {
	if soulbox.KindOf(err) != soulbox.Conflict {
		return err
	}
	if sb, getErr := get(); getErr == nil && sb.State == soulbox.Paused {
		return nil
	}
	return err
}

// Add lets a sandbox of the team join. From then on everything that happens in
// it is the session's. One that is in the session already is not an error; one
// that is in another is a Conflict.
func (r *Registry) Add(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, sandbox soulbox.SandboxID) (*soulbox.Session, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	defer r.wg.Done()
	l, err := r.get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	if err := l.add(ctx, sandbox); err != nil {
		return nil, err
	}
	return l.session(), nil
}

// mayJoin returns a sandbox that a session of the team can take in.
func (r *Registry) mayJoin(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	if !id.Valid() {
		return nil, soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a sandbox: those hold a-z and 0-9", string(id))
	}
	sb, err := r.opts.Fleet.Get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	switch sb.State {
	case soulbox.Running, soulbox.Paused:
		return sb, nil
	case soulbox.Ending, soulbox.Ended:
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s was %v", id, *sb.End)
	default:
		return nil, soulbox.Errorf(soulbox.Conflict, "sandbox %s is %s; try again in a moment", id, sb.State)
	}
}

func (l *live) add(ctx context.Context, id soulbox.SandboxID) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	s := l.session()
	if s.Member(id) {
		return nil
	}
	if len(s.Present()) >= maxMembers {
		return soulbox.Errorf(soulbox.Conflict, "session %s has %d sandboxes, and may have no more", l.id, maxMembers)
	}
	sb, err := l.r.mayJoin(ctx, s.Team, id)
	if err != nil {
		return err
	}
	place := eventlog.Place{State: sb.State}
	if sb.State == soulbox.Running {
		m := &member{l: l, id: id}
		if place, _, err = m.baseline(ctx, sb.State); err != nil {
			return err
		}
	}
	_, err = l.change(func(s *soulbox.Session) error {
		at := now()
		record, cancel := detached(ctx)
		defer cancel()
		if err := l.r.opts.Store.JoinSession(record, l.id, id, at); err != nil {
			return fmt.Errorf("let sandbox %s join session %s: %w", id, l.id, err)
		}
		s.Members = append(s.Members, soulbox.SessionMember{Sandbox: id, JoinedAt: at})
		return nil
	})
	if err != nil {
		return err
	}
	l.r.opts.Faults.Reach("session/joined")
	if _, err := l.tell(soulbox.SessionEvent{Kind: soulbox.SandboxJoined, Sandbox: id}, &place); err != nil {
		return errors.Join(err, l.leave(id))
	}
	l.follow(id)
	return nil
}

// Remove takes a sandbox out of a session. It goes on with its own timeout.
func (r *Registry) Remove(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, sandbox soulbox.SandboxID) (*soulbox.Session, error) {
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
	m, err := l.member(sandbox)
	if err != nil {
		return nil, err
	}
	if err := l.leave(sandbox); err != nil {
		return nil, err
	}
	r.opts.Faults.Reach("session/left")
	l.forget(m)
	if _, err := l.tell(soulbox.SessionEvent{Kind: soulbox.SandboxLeft, Sandbox: sandbox}, nil); err != nil {
		return nil, err
	}
	return l.session(), nil
}
