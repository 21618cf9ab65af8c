package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/soulbox/soulbox"
)

// Sessions keep what somebody works in who comes and goes: a group of
// sandboxes, a log of what happens in them, and variables.
type Sessions struct{ c *Client }

// SessionOptions describe a new session. The zero value is an empty one that
// lives for a day and wants a heartbeat every 30 seconds.
type SessionOptions struct {
	// Lifetime is sent in whole seconds. 0: 24 hours.
	Lifetime time.Duration
	// Heartbeat says what follows when its client is not heard of. Durations
	// are sent in whole seconds; zero fields are the server's defaults.
	Heartbeat soulbox.Heartbeat
	// Metadata is the caller's own, for finding the session again.
	Metadata map[string]string
	// Variables are the caller's own, part of the session's state.
	Variables map[string]json.RawMessage
	// Watch are absolute folders in its sandboxes of which changes are told.
	Watch []string
	// Sandboxes join at once.
	Sandboxes []string
}

// Create opens a session.
func (s *Sessions) Create(ctx context.Context, o SessionOptions) (*soulbox.Session, error) {
	in := sessionRequestWire{
		LifetimeSeconds: int(o.Lifetime / time.Second), Heartbeat: newHeartbeatWire(o.Heartbeat),
		Metadata: o.Metadata, Variables: o.Variables, Watch: o.Watch, Sandboxes: o.Sandboxes,
	}
	return s.one(ctx, http.MethodPost, "/v1/sessions", in)
}

// one makes a call that is answered with a session.
func (s *Sessions) one(ctx context.Context, method, path string, in any) (*soulbox.Session, error) {
	var out sessionWire
	if err := s.c.call(ctx, method, path, nil, in, &out); err != nil {
		return nil, err
	}
	return out.session(), nil
}

// Get tells about one session, also if it has ended.
func (s *Sessions) Get(ctx context.Context, id string) (*soulbox.Session, error) {
	path, err := sessionPath(id, "")
	if err != nil {
		return nil, err
	}
	return s.one(ctx, http.MethodGet, path, nil)
}

// List returns the team's open sessions, the newest first, and with ended those
// that have ended, too. The first error ends the loop.
func (s *Sessions) List(ctx context.Context, ended bool) iter.Seq2[*soulbox.Session, error] {
	query := url.Values{}
	if ended {
		query.Set("ended", "true")
	}
	return func(yield func(*soulbox.Session, error) bool) {
		for w, err := range pages[sessionWire, sessionsWire](ctx, s.c, "/v1/sessions", query) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(w.session(), nil) {
				return
			}
		}
	}
}

// Change changes an open session. Durations are sent in whole seconds.
func (s *Sessions) Change(ctx context.Context, id string, c soulbox.SessionChange) (*soulbox.Session, error) {
	path, err := sessionPath(id, "")
	if err != nil {
		return nil, err
	}
	in := map[string]any{}
	if c.Lifetime != 0 {
		in["lifetime_seconds"] = int(c.Lifetime / time.Second)
	}
	if c.Heartbeat != nil {
		in["heartbeat"] = newHeartbeatWire(*c.Heartbeat)
	}
	if c.Metadata != nil {
		in["metadata"] = c.Metadata
	}
	if c.Variables != nil {
		in["variables"] = c.Variables
	}
	if c.Watch != nil {
		in["watch"] = *c.Watch
	}
	return s.one(ctx, http.MethodPatch, path, in)
}

// End ends a session. Its sandboxes go on with their own timeouts, or are
// paused or killed with it; what became of each is returned then.
func (s *Sessions) End(ctx context.Context, id string, then soulbox.Absence) ([]soulbox.MemberResult, error) {
	path, err := sessionPath(id, "")
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if then != "" {
		query.Set("sandboxes", string(then))
	}
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	var out resultsWire
	if _, err := s.c.exchange(ctx, http.MethodDelete, path, query, nil, &out); err != nil {
		return nil, err
	}
	return resultsOf(out.Sandboxes), nil
}

// Heartbeat tells that the client of a session is there. With resume, it
// resumes the sandboxes of the session that are paused and returns what became
// of those.
func (s *Sessions) Heartbeat(ctx context.Context, id string, resume bool) (*soulbox.Session, []soulbox.MemberResult, error) {
	path, err := sessionPath(id, "/heartbeat")
	if err != nil {
		return nil, nil, err
	}
	var out struct {
		Session sessionWire  `json:"session"`
		Resumed []resultWire `json:"resumed"`
	}
	if _, err := s.c.work(ctx, path, map[string]bool{"resume": resume}, &out); err != nil {
		return nil, nil, err
	}
	return out.Session.session(), resultsOf(out.Resumed), nil
}

// Add lets a sandbox join a session.
func (s *Sessions) Add(ctx context.Context, id, sandbox string) (*soulbox.Session, error) {
	path, err := sessionPath(id, "/sandboxes")
	if err != nil {
		return nil, err
	}
	return s.one(ctx, http.MethodPost, path, map[string]string{"sandbox": sandbox})
}

// Remove takes a sandbox out of a session; it goes on.
func (s *Sessions) Remove(ctx context.Context, id, sandbox string) (*soulbox.Session, error) {
	path, err := sessionPath(id, "")
	if err != nil {
		return nil, err
	}
	if path, err = sandboxPath(path+"/sandboxes/", sandbox, ""); err != nil {
		return nil, err
	}
	return s.one(ctx, http.MethodDelete, path, nil)
}

// Start starts a program in a sandbox of a session and returns as soon as it
// runs. It runs on when the caller goes; what it writes, and its end, are
// events of the session with ids above After.
func (s *Sessions) Start(ctx context.Context, id string, cmd soulbox.SessionCommand) (*soulbox.StartedCommand, error) {
	path, err := sessionPath(id, "/commands")
	if err != nil {
		return nil, err
	}
	in := map[string]any{"args": cmd.Args}
	for name, value := range map[string]string{"sandbox": string(cmd.Sandbox), "cwd": cmd.Dir, "user": cmd.User} {
		if value != "" {
			in[name] = value
		}
	}
	if len(cmd.Env) > 0 {
		in["env"] = cmd.Env
	}
	var out struct {
		Sandbox soulbox.SandboxID `json:"sandbox"`
		PID     int               `json:"pid"`
		After   uint64            `json:"after"`
	}
	if _, err := s.c.work(ctx, path, in, &out); err != nil {
		return nil, err
	}
	return new(soulbox.StartedCommand(out)), nil
}

// State returns what goes on in a session, as the server words it in JSON: see
// GET /v1/sessions/{session}/state. since is a token that it gave before, or
// empty.
func (s *Sessions) State(ctx context.Context, id, since string) (json.RawMessage, error) {
	path, err := sessionPath(id, "/state")
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if since != "" {
		query.Set("since", since)
	}
	var out json.RawMessage
	err = s.c.call(ctx, http.MethodGet, path, query, nil, &out)
	return out, err
}

// Checkpoint writes all sandboxes of a session down under one name. Without a
// name it gets one.
func (s *Sessions) Checkpoint(ctx context.Context, id, name string) (*soulbox.SessionSave, error) {
	path, err := sessionPath(id, "/checkpoints")
	if err != nil {
		return nil, err
	}
	var out saveWire
	if _, err := s.c.work(ctx, path, nameWire{Name: name}, &out); err != nil {
		return nil, err
	}
	return out.save(id), nil
}

// Checkpoints returns the checkpoints of a session, oldest first.
func (s *Sessions) Checkpoints(ctx context.Context, id string) ([]*soulbox.SessionSave, error) {
	path, err := sessionPath(id, "/checkpoints")
	if err != nil {
		return nil, err
	}
	var out struct {
		Checkpoints []saveWire `json:"checkpoints"`
	}
	if err := s.c.call(ctx, http.MethodGet, path, nil, nil, &out); err != nil {
		return nil, err
	}
	var list []*soulbox.SessionSave
	for _, w := range out.Checkpoints {
		list = append(list, w.save(id))
	}
	return list, nil
}

// Resume makes all sandboxes of a session run: those that are paused, or all of
// them at a checkpoint, by its id or name. It returns what became of each.
func (s *Sessions) Resume(ctx context.Context, id, checkpoint string) ([]soulbox.MemberResult, error) {
	path, err := sessionPath(id, "/resume")
	if err != nil {
		return nil, err
	}
	in := map[string]string{}
	if checkpoint != "" {
		in["checkpoint"] = checkpoint
	}
	var out resultsWire
	if _, err := s.c.work(ctx, path, in, &out); err != nil {
		return nil, err
	}
	return resultsOf(out.Sandboxes), nil
}

func sessionPath(id, rest string) (string, error) {
	if !soulbox.SessionID(id).Valid() {
		return "", soulbox.Errorf(soulbox.Invalid, "%.80q is not the id of a session, which is an e and twenty of a-z and 0-9", id)
	}
	return "/v1/sessions/" + id + rest, nil
}

type sessionRequestWire struct {
	LifetimeSeconds int                        `json:"lifetime_seconds,omitempty"`
	Heartbeat       heartbeatWire              `json:"heartbeat"`
	Metadata        map[string]string          `json:"metadata,omitempty"`
	Variables       map[string]json.RawMessage `json:"variables,omitempty"`
	Watch           []string                   `json:"watch,omitempty"`
	Sandboxes       []string                   `json:"sandboxes,omitempty"`
}

type heartbeatWire struct {
	IntervalSeconds int             `json:"interval_seconds,omitempty"`
	TimeoutSeconds  int             `json:"timeout_seconds,omitempty"`
	Then            soulbox.Absence `json:"then,omitempty"`
}

func newHeartbeatWire(h soulbox.Heartbeat) heartbeatWire {
	return heartbeatWire{IntervalSeconds: int(h.Interval / time.Second), TimeoutSeconds: int(h.Timeout / time.Second), Then: h.Then}
}

type sessionsWire struct {
	Sessions []sessionWire `json:"sessions"`
	Next     string        `json:"next"`
}

func (w sessionsWire) page() (items []sessionWire, next string) { return w.Sessions, w.Next }

type sessionWire struct {
	ID        soulbox.SessionID `json:"id"`
	CreatedAt time.Time         `json:"created_at"`
	ExpiresAt time.Time         `json:"expires_at"`
	Heartbeat struct {
		heartbeatWire
		LastAt time.Time `json:"last_at"`
	} `json:"heartbeat"`
	Metadata  map[string]string          `json:"metadata"`
	Variables map[string]json.RawMessage `json:"variables"`
	Watch     []string                   `json:"watch"`
	Sandboxes []struct {
		Sandbox  soulbox.SandboxID `json:"sandbox"`
		JoinedAt time.Time         `json:"joined_at"`
		LeftAt   time.Time         `json:"left_at"`
	} `json:"sandboxes"`
	EndedAt time.Time     `json:"ended_at"`
	EndedBy soulbox.Ender `json:"ended_by"`
	Reason  string        `json:"reason"`
}

func (w sessionWire) session() *soulbox.Session {
	s := &soulbox.Session{
		ID: w.ID, CreatedAt: w.CreatedAt, ExpiresAt: w.ExpiresAt, BeatAt: w.Heartbeat.LastAt,
		Heartbeat: soulbox.Heartbeat{
			Interval: time.Duration(w.Heartbeat.IntervalSeconds) * time.Second,
			Timeout:  time.Duration(w.Heartbeat.TimeoutSeconds) * time.Second, Then: w.Heartbeat.Then,
		},
		Metadata: w.Metadata, Variables: w.Variables, Watch: w.Watch,
	}
	for _, m := range w.Sandboxes {
		s.Members = append(s.Members, soulbox.SessionMember(m))
	}
	if w.EndedBy != "" {
		s.End = &soulbox.End{At: w.EndedAt, By: w.EndedBy, Reason: w.Reason}
	}
	return s
}

type resultsWire struct {
	Sandboxes []resultWire `json:"sandboxes"`
}

type resultWire struct {
	Sandbox soulbox.SandboxID `json:"sandbox"`
	Error   *errorWire        `json:"error"`
}

func resultsOf(list []resultWire) []soulbox.MemberResult {
	var out []soulbox.MemberResult
	for _, w := range list {
		r := soulbox.MemberResult{Sandbox: w.Sandbox}
		if w.Error != nil {
			r.Err = w.Error.err()
		}
		out = append(out, r)
	}
	return out
}

type saveWire struct {
	ID        soulbox.SessionCheckpointID `json:"id"`
	Name      string                      `json:"name"`
	CreatedAt time.Time                   `json:"created_at"`
	Variables map[string]json.RawMessage  `json:"variables"`
	Sandboxes []struct {
		Sandbox    soulbox.SandboxID  `json:"sandbox"`
		Checkpoint soulbox.SnapshotID `json:"checkpoint"`
	} `json:"sandboxes"`
}

func (w saveWire) save(session string) *soulbox.SessionSave {
	s := &soulbox.SessionSave{
		ID: w.ID, Session: soulbox.SessionID(session), Name: w.Name, Ready: true, CreatedAt: w.CreatedAt, Variables: w.Variables,
	}
	for _, m := range w.Sandboxes {
		s.Members = append(s.Members, soulbox.SavedMember{Sandbox: m.Sandbox, Snapshot: m.Checkpoint})
	}
	return s
}
