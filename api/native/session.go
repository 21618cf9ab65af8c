package native

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// sessions is what this room needs of whoever keeps sessions.
type sessions interface {
	Create(ctx context.Context, q soulbox.SessionRequest) (*soulbox.Session, error)
	Get(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID) (*soulbox.Session, error)
	List(ctx context.Context, f soulbox.SessionFilter) (soulbox.SessionPage, error)
	Change(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, c soulbox.SessionChange) (*soulbox.Session, error)
	End(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, then soulbox.Absence) ([]soulbox.MemberResult, error)
	Heartbeat(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, resume bool) (*soulbox.Session, []soulbox.MemberResult, error)
	Add(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, sandbox soulbox.SandboxID) (*soulbox.Session, error)
	Remove(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, sandbox soulbox.SandboxID) (*soulbox.Session, error)
	Run(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, c soulbox.SessionCommand) (*soulbox.StartedCommand, error)
	// State returns what differs from an earlier state if since names one.
	State(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, since string) (*soulbox.SessionState, *soulbox.StateDelta, error)
	// Events calls each with events in order, and idle when there is nothing to
	// tell for a while; with idle nil it does not wait for more.
	Events(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, after uint64, idle func() error, each func(soulbox.SessionEvent) error) error
	Checkpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, name string) (*soulbox.SessionSave, error)
	Checkpoints(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID) ([]*soulbox.SessionSave, error)
	Resume(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, checkpoint string) ([]soulbox.MemberResult, error)
}

// sessionRoom answers requests about sessions.
type sessionRoom struct{ sessions sessions }

// SessionRoutes returns the rows for sessions.
func SessionRoutes(s sessions) []api.Route {
	n := &sessionRoom{s}
	const (
		get    = http.MethodGet
		post   = http.MethodPost
		patch  = http.MethodPatch
		remove = http.MethodDelete
		one    = "/v1/sessions/{session}"
		read   = api.ReadSandboxes
		write  = api.WriteSandboxes
	)
	return []api.Route{
		{Verb: get, Path: "/v1/sessions", Permission: read, Handle: n.list},
		{Verb: post, Path: "/v1/sessions", Permission: write, Handle: n.create},
		{Verb: get, Path: one, Permission: read, Handle: n.get},
		{Verb: patch, Path: one, Permission: write, Handle: n.change},
		{Verb: remove, Path: one, Permission: write, Handle: n.end},
		{Verb: post, Path: one + "/heartbeat", Permission: write, Handle: n.heartbeat},
		{Verb: post, Path: one + "/sandboxes", Permission: write, Handle: n.add},
		{Verb: remove, Path: one + "/sandboxes/{sandbox}", Permission: write, Handle: n.remove},
		{Verb: post, Path: one + "/commands", Permission: write, Handle: n.run},
		{Verb: get, Path: one + "/state", Permission: read, Handle: n.state},
		{Verb: get, Path: one + "/events", Permission: read, Handle: n.events},
		{Verb: get, Path: one + "/events/ws", Permission: read, Handle: n.webSocket},
		{Verb: get, Path: one + "/checkpoints", Permission: read, Handle: n.checkpoints},
		{Verb: post, Path: one + "/checkpoints", Permission: write, Handle: n.checkpoint},
		{Verb: post, Path: one + "/resume", Permission: write, Handle: n.resume},
	}
}

// sessionID reads the id in the path. What cannot be one does not exist.
func sessionID(r *http.Request) soulbox.SessionID { return soulbox.SessionID(r.PathValue("session")) }

func (n *sessionRoom) list(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	query := r.URL.Query()
	f := soulbox.SessionFilter{Team: who.Team, Cursor: query.Get("cursor")}
	var err error
	if f.Ended, err = boolean(r, "ended", false); err != nil {
		return err
	}
	if f.Limit, err = limit(query.Get("limit")); err != nil {
		return err
	}
	page, err := n.sessions.List(r.Context(), f)
	if err != nil {
		return err
	}
	out := sessionList{Sessions: make([]sessionAnswer, len(page.Sessions)), Next: page.Next}
	for i, s := range page.Sessions {
		out.Sessions[i] = sessionOf(s)
	}
	return api.Answer(w, http.StatusOK, out)
}

// boolean reads a parameter that is true, false or left out.
func boolean(r *http.Request, name string, otherwise bool) (bool, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, soulbox.Errorf(soulbox.Invalid, "%s must be true or false, not %.50q", name, s)
	}
	return b, nil
}

// heartbeatBody is how a client describes its heartbeat.
type heartbeatBody struct {
	IntervalSeconds int    `json:"interval_seconds"`
	TimeoutSeconds  int    `json:"timeout_seconds"`
	Then            string `json:"then"`
}

func (b *heartbeatBody) noun() (soulbox.Heartbeat, error) {
	if b == nil {
		return soulbox.Heartbeat{}, nil
	}
	interval, err := seconds("interval_seconds", b.IntervalSeconds)
	if err != nil {
		return soulbox.Heartbeat{}, err
	}
	timeout, err := seconds("timeout_seconds", b.TimeoutSeconds)
	return soulbox.Heartbeat{Interval: interval, Timeout: timeout, Then: soulbox.Absence(b.Then)}, err
}

// seconds reads a time that is 0 if it is left out.
func seconds(name string, n int) (time.Duration, error) {
	const most = 1 << 30 // some 34 years
	if n < 0 || n > most {
		return 0, soulbox.Errorf(soulbox.Invalid, "%s must be from 0 to %d, not %d", name, most, n)
	}
	return time.Duration(n) * time.Second, nil
}

func (n *sessionRoom) create(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		LifetimeSeconds int                        `json:"lifetime_seconds"`
		Heartbeat       *heartbeatBody             `json:"heartbeat"`
		Metadata        map[string]string          `json:"metadata"`
		Variables       map[string]json.RawMessage `json:"variables"`
		Watch           []string                   `json:"watch"`
		Sandboxes       []string                   `json:"sandboxes"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	q := soulbox.SessionRequest{Team: who.Team, Metadata: body.Metadata, Variables: body.Variables, Watch: body.Watch}
	var err error
	if q.Lifetime, err = seconds("lifetime_seconds", body.LifetimeSeconds); err != nil {
		return err
	}
	if q.Heartbeat, err = body.Heartbeat.noun(); err != nil {
		return err
	}
	for _, id := range body.Sandboxes {
		q.Sandboxes = append(q.Sandboxes, soulbox.SandboxID(id))
	}
	s, err := n.sessions.Create(r.Context(), q)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, sessionOf(s))
}

func (n *sessionRoom) get(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	s, err := n.sessions.Get(r.Context(), who.Team, sessionID(r))
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, sessionOf(s))
}

func (n *sessionRoom) change(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		LifetimeSeconds *int                       `json:"lifetime_seconds"`
		Heartbeat       *heartbeatBody             `json:"heartbeat"`
		Metadata        map[string]string          `json:"metadata"`
		Variables       map[string]json.RawMessage `json:"variables"`
		Watch           *[]string                  `json:"watch"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	c := soulbox.SessionChange{Metadata: body.Metadata, Variables: body.Variables, Watch: body.Watch}
	if body.LifetimeSeconds != nil {
		d, err := seconds("lifetime_seconds", *body.LifetimeSeconds)
		if err != nil {
			return err
		}
		if d == 0 {
			return soulbox.Errorf(soulbox.Invalid, "lifetime_seconds must be more than 0; DELETE ends a session")
		}
		c.Lifetime = d
	}
	if body.Heartbeat != nil {
		h, err := body.Heartbeat.noun()
		if err != nil {
			return err
		}
		c.Heartbeat = &h
	}
	s, err := n.sessions.Change(r.Context(), who.Team, sessionID(r), c)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, sessionOf(s))
}

// end ends a session; sandboxes=pause or =kill does that to its sandboxes, too.
func (n *sessionRoom) end(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	results, err := n.sessions.End(r.Context(), who.Team, sessionID(r), soulbox.Absence(r.URL.Query().Get("sandboxes")))
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, resultsOf(results))
}

func (n *sessionRoom) heartbeat(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Resume bool `json:"resume"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	s, results, err := n.sessions.Heartbeat(r.Context(), who.Team, sessionID(r), body.Resume)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, beatAnswer{Session: sessionOf(s), Resumed: resultsOf(results).Sandboxes})
}

func (n *sessionRoom) add(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Sandbox string `json:"sandbox"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	s, err := n.sessions.Add(r.Context(), who.Team, sessionID(r), soulbox.SandboxID(body.Sandbox))
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, sessionOf(s))
}

func (n *sessionRoom) remove(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	s, err := n.sessions.Remove(r.Context(), who.Team, sessionID(r), id)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, sessionOf(s))
}

// run starts a program and does not wait for its end.
func (n *sessionRoom) run(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Sandbox string            `json:"sandbox"`
		Command string            `json:"command"`
		Args    []string          `json:"args"`
		Env     map[string]string `json:"env"`
		Cwd     string            `json:"cwd"`
		User    string            `json:"user"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	if (body.Command == "") == (len(body.Args) == 0) {
		return soulbox.Errorf(soulbox.Invalid, "either command, a line for a shell, or args, a program and its arguments, is needed")
	}
	c := soulbox.SessionCommand{Sandbox: soulbox.SandboxID(body.Sandbox), Args: body.Args, Env: body.Env, Dir: body.Cwd, User: body.User}
	if body.Command != "" {
		c.Args = []string{"/bin/bash", "-l", "-c", body.Command} // as E2B's clients do
	}
	started, err := n.sessions.Run(r.Context(), who.Team, sessionID(r), c)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, commandAnswer{Sandbox: string(started.Sandbox), PID: started.PID, After: started.After})
}

// state tells what goes on, and with since what has changed since then.
func (n *sessionRoom) state(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	s, d, err := n.sessions.State(r.Context(), who.Team, sessionID(r), r.URL.Query().Get("since"))
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, stateOf(s, d))
}

func (n *sessionRoom) checkpoints(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	all, err := n.sessions.Checkpoints(r.Context(), who.Team, sessionID(r))
	if err != nil {
		return err
	}
	out := saveList{Checkpoints: make([]saveAnswer, len(all))}
	for i, s := range all {
		out.Checkpoints[i] = saveOf(s)
	}
	return api.Answer(w, http.StatusOK, out)
}

func (n *sessionRoom) checkpoint(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Name string `json:"name"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	s, err := n.sessions.Checkpoint(r.Context(), who.Team, sessionID(r), body.Name)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, saveOf(s))
}

// resume makes all sandboxes run again, where they were or at a checkpoint.
func (n *sessionRoom) resume(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Checkpoint string `json:"checkpoint"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	results, err := n.sessions.Resume(r.Context(), who.Team, sessionID(r), body.Checkpoint)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, resultsOf(results))
}
