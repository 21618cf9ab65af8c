package soulbox

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// A SessionID names one session: "e" and twenty characters of [a-z0-9].
type SessionID string

// NewSessionID returns an id that nobody can guess (103 bits).
func NewSessionID() SessionID { return SessionID(unguessable('e')) }

// Valid reports whether id could name a session. Everything that takes an id
// from outside checks it first, because ids become folder names.
func (id SessionID) Valid() bool {
	return len(id) == idLen && id[0] == 'e' && idForm.MatchString(string(id))
}

// The limits of a session, and what it has unless somebody says otherwise.
const (
	SessionLifetime    = 24 * time.Hour
	MaxSessionLifetime = 30 * 24 * time.Hour // from now, whenever it is set

	HeartbeatInterval    = 30 * time.Second
	MinHeartbeatInterval = time.Second
	MaxHeartbeatTimeout  = 24 * time.Hour
	heartbeatsMissed     = 3 // intervals that make the default timeout: two may get lost
)

// An Absence says what becomes of a session's sandboxes when its client is not
// heard of any more.
type Absence string

// What follows a missed heartbeat. None of it happens to a sandbox that works.
const (
	AbsencePauses Absence = "pause"
	AbsenceKills  Absence = "kill"
	AbsenceIsFine Absence = "nothing" // the sandboxes' own timeouts decide
)

// A Heartbeat says how a session's client shows that it is there.
type Heartbeat struct {
	Interval time.Duration // how often it means to; zero: 30 seconds
	Timeout  time.Duration // after what silence it counts as absent; zero: three intervals
	Then     Absence       // what follows; empty: pause
}

// Filled returns the heartbeat with its defaults, or what is wrong with it.
func (h Heartbeat) Filled() (Heartbeat, error) {
	if h.Interval == 0 {
		h.Interval = HeartbeatInterval
	}
	if h.Timeout == 0 {
		h.Timeout = max(h.Interval, min(heartbeatsMissed*h.Interval, MaxHeartbeatTimeout))
	}
	if h.Then == "" {
		h.Then = AbsencePauses
	}
	switch {
	case h.Interval < MinHeartbeatInterval:
		return h, Errorf(Invalid, "a heartbeat every %v is too often; every %v is the most", h.Interval, MinHeartbeatInterval)
	case h.Timeout < h.Interval:
		return h, Errorf(Invalid, "a heartbeat cannot be missed after %v when it comes every %v; the timeout must be at least the interval", h.Timeout, h.Interval)
	case h.Timeout > MaxHeartbeatTimeout:
		return h, Errorf(Invalid, "a heartbeat timeout of %v is more than the %v that there may be", h.Timeout, MaxHeartbeatTimeout)
	}
	switch h.Then {
	case AbsencePauses, AbsenceKills, AbsenceIsFine:
		return h, nil
	default:
		return h, Errorf(Invalid, "what follows a missed heartbeat is %s, %s or %s, not %.50q", AbsencePauses, AbsenceKills, AbsenceIsFine, string(h.Then))
	}
}

// A Session is what somebody works in who comes and goes: the sandboxes, what
// happened in them, and notes of the client's own. It outlasts connections,
// restarts of the server, and pauses of its sandboxes.
type Session struct {
	ID        SessionID
	Team      TeamID
	CreatedAt time.Time
	ExpiresAt time.Time // when it ends by itself; its sandboxes then have their own timeouts only

	Heartbeat Heartbeat
	BeatAt    time.Time // the last sign of its client

	Metadata  map[string]string          // the client's own, for finding it again
	Variables map[string]json.RawMessage // the client's own, part of the session's state
	Watch     []string                   // absolute folders in its sandboxes of which changes are told

	Members []SessionMember // in the order in which they joined, with those that have left
	End     *End            // set once it has ended
}

// A SessionMember is a sandbox's time in a session.
type SessionMember struct {
	Sandbox  SandboxID
	JoinedAt time.Time
	LeftAt   time.Time // zero: it is there
}

// Member reports whether a sandbox is in the session now.
func (s *Session) Member(id SandboxID) bool {
	return slices.ContainsFunc(s.Members, func(m SessionMember) bool { return m.Sandbox == id && m.LeftAt.IsZero() })
}

// Present returns the sandboxes that are in the session now, in the order in
// which they joined.
func (s *Session) Present() []SandboxID {
	var ids []SandboxID
	for _, m := range s.Members {
		if m.LeftAt.IsZero() {
			ids = append(ids, m.Sandbox)
		}
	}
	return ids
}

// Clone returns a copy that shares nothing with s that anybody changes.
func (s *Session) Clone() *Session {
	c := *s
	c.Metadata = maps.Clone(s.Metadata)
	c.Variables = maps.Clone(s.Variables)
	c.Watch = slices.Clone(s.Watch)
	c.Members = slices.Clone(s.Members)
	if s.End != nil {
		end := *s.End
		c.End = &end
	}
	return &c
}

// A SessionRequest asks for a session.
type SessionRequest struct {
	Team      TeamID
	Lifetime  time.Duration // zero: 24 hours
	Heartbeat Heartbeat
	Metadata  map[string]string
	Variables map[string]json.RawMessage
	Watch     []string
	Sandboxes []SandboxID // that join at once
}

// A SessionChange changes a session. What is nil or zero stays as it is.
type SessionChange struct {
	Lifetime  time.Duration // from now
	Heartbeat *Heartbeat
	Metadata  map[string]string          // instead of the one before
	Variables map[string]json.RawMessage // one by one; null removes one
	Watch     *[]string                  // instead of those before
}

// A SessionFilter selects sessions of one team, newest first.
type SessionFilter struct {
	Team   TeamID
	Ended  bool   // those that have ended, too
	Limit  int    // 0: no limit
	Cursor string // from the page before; empty is the first page
}

// A SessionPage is one page of an answer.
type SessionPage struct {
	Sessions []*Session
	Next     string // the cursor of the next page; empty on the last
}

// A SessionEventKind says what a SessionEvent tells.
type SessionEventKind string

// What a session's log holds, beside the kinds of [GuestEvent].
const (
	SessionStarted    SessionEventKind = "session_started"
	SessionEnded      SessionEventKind = "session_ended"
	SandboxJoined     SessionEventKind = "sandbox_joined"
	SandboxLeft       SessionEventKind = "sandbox_left"
	SandboxPaused     SessionEventKind = "sandbox_paused"
	SandboxResumed    SessionEventKind = "sandbox_resumed"
	SandboxRolledBack SessionEventKind = "sandbox_rolled_back"
	SandboxEnded      SessionEventKind = "sandbox_ended"
	EventsUndone      SessionEventKind = "events_undone"    // what a sandbox did has not happened, since it was taken back
	HeartbeatMissed   SessionEventKind = "heartbeat_missed" // the client counts as absent
	HeartbeatBack     SessionEventKind = "heartbeat_back"   // it was heard of again
	SessionCheckpoint SessionEventKind = "checkpoint"       // all sandboxes were written down together
	LogGap            SessionEventKind = "log_gap"          // events of the session's log are gone
)

// A SessionEvent is one thing that happened in a session.
type SessionEvent struct {
	ID      uint64    // 1, 2, 3… in the session
	At      time.Time // the server's clock, when it heard of it
	Kind    SessionEventKind
	Sandbox SandboxID // in which or to which it happened; empty: to the session itself

	Guest *GuestEvent // of the kinds that come from inside a sandbox; its Kind is the event's
	Epoch string      // in which Guest has its Seq, or EventsUndone its

	Seq      uint64     // EventsUndone: the last event of Epoch that still holds
	Lost     uint64     // EventsUndone, LogGap: how many events; of a LogGap, ID is that of the last one
	Snapshot SnapshotID // SandboxRolledBack: the checkpoint
	Name     string     // SessionCheckpoint: what it is called
	Reason   string     // a sentence for people, or empty
}

// A SessionCheckpointID names a checkpoint of a whole session: "k" and twenty
// characters of [a-z0-9].
type SessionCheckpointID string

// NewSessionCheckpointID returns an id that nobody can guess (103 bits).
func NewSessionCheckpointID() SessionCheckpointID { return SessionCheckpointID(unguessable('k')) }

// A SessionSave is a moment of all sandboxes of a session that they can return
// to together. Each has a checkpoint of its own under the same name.
type SessionSave struct {
	ID        SessionCheckpointID
	Session   SessionID
	Name      string
	Ready     bool // all of it is written; a record without it is of no use
	CreatedAt time.Time
	Variables map[string]json.RawMessage
	Members   []SavedMember
}

// A SavedMember is one sandbox's part of a [SessionSave].
type SavedMember struct {
	Sandbox  SandboxID
	Snapshot SnapshotID // its checkpoint; empty while it is being written
}

// A MemberResult is what became of one sandbox when something was done to all
// of a session.
type MemberResult struct {
	Sandbox SandboxID
	Err     error // nil: it was done
}

// A SessionCommand is a program to start in a sandbox of a session.
type SessionCommand struct {
	Sandbox SandboxID // empty: the session's only one
	Args    []string  // the program and its arguments
	Env     map[string]string
	Dir     string // empty: the template's
	User    string // empty: the template's
}

// A StartedCommand is a program that runs. What it writes, and its end, come
// as events.
type StartedCommand struct {
	Sandbox SandboxID
	PID     int
	After   uint64 // all its events have greater ids
}

// A SessionState is what goes on in a session at one moment.
type SessionState struct {
	Token     string // names this state; give it back to learn what changed since
	LastEvent uint64 // everything up to here had happened
	At        time.Time
	Variables map[string]json.RawMessage
	Members   []MemberState
}

// A MemberState is what goes on in one sandbox of a session.
type MemberState struct {
	Sandbox SandboxID
	State   State
	Guest   *GuestState // nil: it does not run, or its agent did not answer
	Reason  string      // why Guest is missing
}

// A StateDelta is what differs between two states of a session.
type StateDelta struct {
	Known     bool // the older state is still remembered; otherwise all else is empty
	Variables struct {
		Set     map[string]json.RawMessage
		Removed []string
	}
	Joined, Left []SandboxID
	States       map[SandboxID]State // of those whose state changed
	Started      []MemberProcess     // processes that run now and did not
	Ended        []MemberProcess     // that ran and do not
	Changed      []MemberProcess     // with another working directory or other open files
	Opened       []MemberPort        // ports on which something listens now
	Closed       []MemberPort
}

// A MemberProcess is a process in a sandbox of a session.
type MemberProcess struct {
	Sandbox SandboxID
	PID     int
	Command string // the beginning of it
	Dir     string
}

// A MemberPort is a port on which something listens in a sandbox of a session.
type MemberPort struct {
	Sandbox SandboxID
	Port    uint16
	Address string
}
