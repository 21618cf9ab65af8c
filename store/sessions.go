package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

const sessionColumns = `id, team, created_at, expires_at, beat_every_us, beat_limit_us, beat_then, beat_at,
	metadata, variables, watch, ended_at, ended_by, end_reason`

// InsertSession remembers a new session, without members. An id that exists is
// a Conflict.
func (s *Store) InsertSession(ctx context.Context, v *soulbox.Session) error {
	c, err := changeable(v)
	if err != nil {
		return wrap(err, "insert session", v.ID)
	}
	end := soulbox.End{}
	if v.End != nil {
		end = *v.End
	}
	err = s.change(ctx, soulbox.Errorf(soulbox.Conflict, "session %s exists already", v.ID), `
		INSERT INTO sessions (`+sessionColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
		ON CONFLICT (id) DO NOTHING`,
		string(v.ID), string(v.Team), micros(v.CreatedAt),
		c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7],
		micros(end.At), string(end.By), end.Reason)
	return wrap(err, "insert session", v.ID)
}

// changeable returns what [Store.UpdateSession] writes.
func changeable(v *soulbox.Session) ([]any, error) {
	metadata, err := pairs(v.Metadata).text()
	if err != nil {
		return nil, err
	}
	variables, err := variablesText(v.Variables)
	if err != nil {
		return nil, err
	}
	watch, err := json.Marshal(slices.Concat([]string{}, v.Watch))
	if err != nil {
		return nil, err
	}
	return []any{
		micros(v.ExpiresAt), v.Heartbeat.Interval.Microseconds(), v.Heartbeat.Timeout.Microseconds(), string(v.Heartbeat.Then), micros(v.BeatAt),
		metadata, variables, string(watch),
	}, nil
}

func variablesText(vars map[string]json.RawMessage) (string, error) {
	if len(vars) == 0 {
		return "{}", nil
	}
	b, err := json.Marshal(vars)
	return string(b), err
}

func parseVariables(s string) (map[string]json.RawMessage, error) {
	vars := map[string]json.RawMessage{}
	err := json.Unmarshal([]byte(s), &vars)
	return vars, err
}

// UpdateSession writes expiry, heartbeat, metadata, variables and watched
// folders of an open session. One that is not there or has ended is a Conflict.
func (s *Store) UpdateSession(ctx context.Context, v *soulbox.Session) error {
	c, err := changeable(v)
	if err == nil {
		err = s.change(ctx, soulbox.Errorf(soulbox.Conflict, "session %s has ended", v.ID), `
			UPDATE sessions SET expires_at = $1, beat_every_us = $2, beat_limit_us = $3, beat_then = $4, beat_at = $5,
				metadata = $6, variables = $7, watch = $8
			WHERE id = $9 AND ended_by = ''`, append(c, string(v.ID))...)
	}
	return wrap(err, "update session", v.ID)
}

// BeatSession notes when the client of an open session was heard of. A session
// that is not there or has ended is a Conflict.
func (s *Store) BeatSession(ctx context.Context, id soulbox.SessionID, at time.Time) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.Conflict, "session %s has ended", id),
		`UPDATE sessions SET beat_at = $1 WHERE id = $2 AND ended_by = ''`, micros(at), string(id))
	return wrap(err, "note heartbeat of session", id)
}

// EndSession ends an open session and the time of its members in it. One that
// has ended is a Conflict.
func (s *Store) EndSession(ctx context.Context, id soulbox.SessionID, end soulbox.End) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `
			UPDATE sessions SET ended_at = $1, ended_by = $2, end_reason = $3 WHERE id = $4 AND ended_by = ''`,
			micros(end.At), string(end.By), end.Reason, string(id))
		if err != nil {
			return err
		}
		if err := oneRow(res, soulbox.Errorf(soulbox.Conflict, "session %s has ended", id)); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE session_members SET left_at = $1 WHERE session = $2 AND left_at = 0`, micros(end.At), string(id))
		return err
	})
	return wrap(err, "end session", id)
}

// Session returns the session with an id, open or ended.
func (s *Store) Session(ctx context.Context, id soulbox.SessionID) (*soulbox.Session, error) {
	v, err := scanSession(s.b.Read.QueryRowContext(ctx, `SELECT `+sessionColumns+` FROM sessions WHERE id = $1`, string(id)))
	if err == nil {
		err = s.addMembers(ctx, v)
	}
	if err != nil {
		return nil, wrap(found(err, "session", id), "read session", id)
	}
	return v, nil
}

// Sessions returns one page of the sessions that f selects. Pages are stable as
// those of [Store.Sandboxes] are.
func (s *Store) Sessions(ctx context.Context, f soulbox.SessionFilter) (soulbox.SessionPage, error) {
	page, err := s.sessions(ctx, f)
	return page, wrap(err, "list sessions of team", f.Team)
}

func (s *Store) sessions(ctx context.Context, f soulbox.SessionFilter) (soulbox.SessionPage, error) {
	var page soulbox.SessionPage
	var q conditions
	q.and(`team = ?`, string(f.Team))
	if !f.Ended {
		q.and(`ended_by = ?`, "")
	}
	if f.Cursor != "" {
		at, id, err := parseCursor[soulbox.SessionID](f.Cursor)
		if err != nil {
			return page, err
		}
		q.and(`(created_at, id) < (?, ?)`, at, string(id))
	}
	query := `SELECT ` + sessionColumns + ` FROM sessions WHERE ` + q.text() + ` ORDER BY created_at DESC, id DESC`
	if f.Limit > 0 {
		// One more than asked for tells whether there is a next page.
		q.args = append(q.args, f.Limit+1)
		query += ` LIMIT $` + strconv.Itoa(len(q.args))
	}
	var err error
	if page.Sessions, err = collect(ctx, s.b.Read, scanSession, query, q.args...); err != nil {
		return page, err
	}
	if f.Limit > 0 && len(page.Sessions) > f.Limit {
		page.Sessions = page.Sessions[:f.Limit]
		last := page.Sessions[f.Limit-1]
		page.Next = cursor(micros(last.CreatedAt), last.ID)
	}
	return page, s.addMembers(ctx, page.Sessions...)
}

// OpenSessions returns the sessions of all teams that have not ended, oldest
// first.
func (s *Store) OpenSessions(ctx context.Context) ([]*soulbox.Session, error) {
	all, err := collect(ctx, s.b.Read, scanSession,
		`SELECT `+sessionColumns+` FROM sessions WHERE ended_by = '' ORDER BY created_at, id`)
	if err == nil {
		err = s.addMembers(ctx, all...)
	}
	return all, wrap(err, "list", "open sessions")
}

// SessionsEndedBefore returns some of those that ended before a time, the
// longest ended first.
func (s *Store) SessionsEndedBefore(ctx context.Context, t time.Time, limit int) ([]soulbox.SessionID, error) {
	scan := func(r row) (id soulbox.SessionID, err error) { return id, r.Scan(&id) }
	ids, err := collect(ctx, s.b.Read, scan,
		`SELECT id FROM sessions WHERE ended_by <> '' AND ended_at < $1 ORDER BY ended_at, id LIMIT $2`, micros(t), limit)
	return ids, wrap(err, "list", "ended sessions")
}

// DeleteSession forgets a session, its members and its checkpoints. One that is
// not there is not an error.
func (s *Store) DeleteSession(ctx context.Context, id soulbox.SessionID) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, query := range []string{
			`DELETE FROM session_saves WHERE session = $1`,
			`DELETE FROM session_members WHERE session = $1`,
			`DELETE FROM sessions WHERE id = $1`,
		} {
			if _, err := tx.ExecContext(ctx, query, string(id)); err != nil {
				return err
			}
		}
		return nil
	})
	return wrap(err, "delete session", id)
}

// JoinSession notes that a sandbox is in a session. One that is in any session
// is a Conflict.
func (s *Store) JoinSession(ctx context.Context, id soulbox.SessionID, sandbox soulbox.SandboxID, at time.Time) error {
	_, err := s.exec(ctx,
		`INSERT INTO session_members (session, sandbox, joined_at, left_at) VALUES ($1, $2, $3, 0)`,
		string(id), string(sandbox), micros(at))
	if err != nil && s.b.Duplicate(err) {
		err = soulbox.Errorf(soulbox.Conflict, "sandbox %s is in a session already; take it out of that one first", sandbox)
	}
	return wrap(err, "join session", id)
}

// LeaveSession notes that a sandbox is not in a session any more. One that was
// not is not an error.
func (s *Store) LeaveSession(ctx context.Context, id soulbox.SessionID, sandbox soulbox.SandboxID, at time.Time) error {
	_, err := s.exec(ctx,
		`UPDATE session_members SET left_at = $1 WHERE session = $2 AND sandbox = $3 AND left_at = 0`,
		micros(at), string(id), string(sandbox))
	return wrap(err, "leave session", id)
}

// addMembers reads the members of sessions.
func (s *Store) addMembers(ctx context.Context, all ...*soulbox.Session) error {
	const batch = 500 // parameters of a statement
	byID := make(map[soulbox.SessionID]*soulbox.Session, len(all))
	for _, v := range all {
		byID[v.ID] = v
	}
	type member struct {
		session soulbox.SessionID
		soulbox.SessionMember
	}
	scan := func(r row) (m member, err error) {
		var joined, left int64
		err = r.Scan(&m.session, &m.Sandbox, &joined, &left)
		m.JoinedAt, m.LeftAt = instant(joined), instant(left)
		return m, err
	}
	for part := range slices.Chunk(all, batch) {
		marks, args := make([]string, len(part)), make([]any, len(part))
		for i, v := range part {
			marks[i], args[i] = "$"+strconv.Itoa(i+1), string(v.ID)
		}
		members, err := collect(ctx, s.b.Read, scan, `SELECT session, sandbox, joined_at, left_at FROM session_members
			WHERE session IN (`+strings.Join(marks, ", ")+`) ORDER BY session, joined_at, sandbox`, args...)
		if err != nil {
			return err
		}
		for _, m := range members {
			byID[m.session].Members = append(byID[m.session].Members, m.SessionMember)
		}
	}
	return nil
}

func scanSession(r row) (*soulbox.Session, error) {
	var v soulbox.Session
	var created, expires, every, limit, beat, ended int64
	var metadata, variables, watch, by, reason string
	err := r.Scan(&v.ID, &v.Team, &created, &expires, &every, &limit, &v.Heartbeat.Then, &beat,
		&metadata, &variables, &watch, &ended, &by, &reason)
	if err != nil {
		return nil, err
	}
	if v.Metadata, err = parsePairs(metadata); err != nil {
		return nil, err
	}
	if v.Variables, err = parseVariables(variables); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(watch), &v.Watch); err != nil {
		return nil, err
	}
	if len(v.Watch) == 0 {
		v.Watch = nil
	}
	v.CreatedAt, v.ExpiresAt, v.BeatAt = instant(created), instant(expires), instant(beat)
	v.Heartbeat.Interval, v.Heartbeat.Timeout = time.Duration(every)*time.Microsecond, time.Duration(limit)*time.Microsecond
	if by != "" {
		v.End = &soulbox.End{At: instant(ended), By: soulbox.Ender(by), Reason: reason}
	}
	return &v, nil
}

const saveColumns = `id, session, name, ready, created_at, variables, members`

// savedMember is a member as it is stored.
type savedMember struct {
	Sandbox  string `json:"sandbox"`
	Snapshot string `json:"snapshot,omitempty"`
}

func membersText(members []soulbox.SavedMember) (string, error) {
	list := make([]savedMember, len(members))
	for i, m := range members {
		list[i] = savedMember{string(m.Sandbox), string(m.Snapshot)}
	}
	b, err := json.Marshal(list)
	return string(b), err
}

// InsertSessionSave remembers a checkpoint of a session. A name that another
// one of it has is a Conflict, ready or not.
func (s *Store) InsertSessionSave(ctx context.Context, save *soulbox.SessionSave) error {
	members, err := membersText(save.Members)
	if err != nil {
		return wrap(err, "insert checkpoint of session", save.Session)
	}
	variables, err := variablesText(save.Variables)
	if err != nil {
		return wrap(err, "insert checkpoint of session", save.Session)
	}
	_, err = s.exec(ctx, `INSERT INTO session_saves (`+saveColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		string(save.ID), string(save.Session), save.Name, save.Ready, micros(save.CreatedAt), variables, members)
	if err != nil && s.b.Duplicate(err) {
		err = soulbox.Errorf(soulbox.Conflict, "session %s has a checkpoint '%s' already; choose another name", save.Session, save.Name)
	}
	return wrap(err, "insert checkpoint of session", save.Session)
}

// FinishSessionSave notes that a checkpoint is complete, and of what it is made.
func (s *Store) FinishSessionSave(ctx context.Context, save *soulbox.SessionSave) error {
	members, err := membersText(save.Members)
	if err == nil {
		err = s.change(ctx, soulbox.Errorf(soulbox.NotFound, "checkpoint '%s' not found", save.Name),
			`UPDATE session_saves SET ready = $1, members = $2 WHERE id = $3`, true, members, string(save.ID))
	}
	return wrap(err, "finish checkpoint of session", save.Session)
}

// SessionSaves returns the checkpoints of a session, ready or not, oldest
// first.
func (s *Store) SessionSaves(ctx context.Context, id soulbox.SessionID) ([]*soulbox.SessionSave, error) {
	all, err := collect(ctx, s.b.Read, scanSave,
		`SELECT `+saveColumns+` FROM session_saves WHERE session = $1 ORDER BY created_at, id`, string(id))
	return all, wrap(err, "list checkpoints of session", id)
}

// UnreadySessionSaves returns the checkpoints of all sessions that were not
// finished.
func (s *Store) UnreadySessionSaves(ctx context.Context) ([]*soulbox.SessionSave, error) {
	all, err := collect(ctx, s.b.Read, scanSave,
		`SELECT `+saveColumns+` FROM session_saves WHERE ready = $1 ORDER BY created_at, id`, false)
	return all, wrap(err, "list", "unfinished checkpoints of sessions")
}

// DeleteSessionSave forgets a checkpoint of a session. One that is not there is
// not an error.
func (s *Store) DeleteSessionSave(ctx context.Context, id soulbox.SessionCheckpointID) error {
	_, err := s.exec(ctx, `DELETE FROM session_saves WHERE id = $1`, string(id))
	return wrap(err, "delete checkpoint of session", id)
}

func scanSave(r row) (*soulbox.SessionSave, error) {
	var v soulbox.SessionSave
	var created int64
	var variables, members string
	err := r.Scan(&v.ID, &v.Session, &v.Name, &v.Ready, &created, &variables, &members)
	if err != nil {
		return nil, err
	}
	if v.Variables, err = parseVariables(variables); err != nil {
		return nil, err
	}
	var list []savedMember
	if err := json.Unmarshal([]byte(members), &list); err != nil {
		return nil, err
	}
	for _, m := range list {
		v.Members = append(v.Members, soulbox.SavedMember{Sandbox: soulbox.SandboxID(m.Sandbox), Snapshot: soulbox.SnapshotID(m.Snapshot)})
	}
	v.CreatedAt = instant(created)
	return &v, nil
}
