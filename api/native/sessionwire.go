package native

import (
	"encoding/json"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

type sessionList struct {
	Sessions []sessionAnswer `json:"sessions"`
	Next     string          `json:"next,omitempty"` // the cursor of the next page
}

type sessionAnswer struct {
	ID        string                     `json:"id"`
	State     string                     `json:"state"`
	CreatedAt time.Time                  `json:"created_at"`
	ExpiresAt time.Time                  `json:"expires_at"`
	Heartbeat heartbeatAnswer            `json:"heartbeat"`
	Metadata  map[string]string          `json:"metadata,omitempty"`
	Variables map[string]json.RawMessage `json:"variables,omitempty"`
	Watch     []string                   `json:"watch,omitempty"`
	Sandboxes []memberAnswer             `json:"sandboxes"`
	EndedAt   *time.Time                 `json:"ended_at,omitempty"`
	EndedBy   string                     `json:"ended_by,omitempty"`
	Reason    string                     `json:"reason,omitempty"`
}

type heartbeatAnswer struct {
	IntervalSeconds int       `json:"interval_seconds"`
	TimeoutSeconds  int       `json:"timeout_seconds"`
	Then            string    `json:"then"`
	LastAt          time.Time `json:"last_at"`
}

type memberAnswer struct {
	Sandbox  string     `json:"sandbox"`
	JoinedAt time.Time  `json:"joined_at"`
	LeftAt   *time.Time `json:"left_at,omitempty"`
}

func sessionOf(s *soulbox.Session) sessionAnswer {
	a := sessionAnswer{
		ID: string(s.ID), State: "open", CreatedAt: s.CreatedAt.UTC(), ExpiresAt: s.ExpiresAt.UTC(),
		Heartbeat: heartbeatAnswer{
			IntervalSeconds: int(s.Heartbeat.Interval / time.Second), TimeoutSeconds: int(s.Heartbeat.Timeout / time.Second),
			Then: string(s.Heartbeat.Then), LastAt: s.BeatAt.UTC(),
		},
		Metadata: s.Metadata, Variables: s.Variables, Watch: s.Watch, Sandboxes: make([]memberAnswer, len(s.Members)),
	}
	for i, m := range s.Members {
		a.Sandboxes[i] = memberAnswer{Sandbox: string(m.Sandbox), JoinedAt: m.JoinedAt.UTC(), LeftAt: moment(m.LeftAt)}
	}
	if s.End != nil {
		a.State, a.EndedAt, a.EndedBy, a.Reason = "ended", moment(s.End.At), string(s.End.By), s.End.Reason
	}
	return a
}

// resultList says what became of each sandbox.
type resultList struct {
	Sandboxes []resultAnswer `json:"sandboxes"`
}

type resultAnswer struct {
	Sandbox string       `json:"sandbox"`
	Error   *api.Failure `json:"error,omitempty"` // none: it was done
}

func resultsOf(results []soulbox.MemberResult) resultList {
	out := resultList{Sandboxes: make([]resultAnswer, len(results))}
	for i, r := range results {
		out.Sandboxes[i].Sandbox = string(r.Sandbox)
		if r.Err != nil {
			out.Sandboxes[i].Error = &api.Failure{Code: api.Status(r.Err), Message: soulbox.MessageOf(r.Err)}
		}
	}
	return out
}

type beatAnswer struct {
	Session sessionAnswer  `json:"session"`
	Resumed []resultAnswer `json:"resumed"` // what became of the sandboxes that were paused, if that was asked for
}

type commandAnswer struct {
	Sandbox string `json:"sandbox"`
	PID     int    `json:"pid"`
	After   uint64 `json:"after"` // its events have greater ids
}

// eventAnswer is an event. Which fields it has depends on its kind.
type eventAnswer struct {
	ID         uint64     `json:"id"`
	At         time.Time  `json:"at"`
	Kind       string     `json:"kind"`
	Sandbox    string     `json:"sandbox,omitempty"`
	Epoch      string     `json:"epoch,omitempty"`
	Seq        uint64     `json:"seq,omitempty"`
	GuestAt    *time.Time `json:"guest_at,omitempty"`
	PID        int        `json:"pid,omitempty"`
	Command    string     `json:"command,omitempty"`
	Stream     string     `json:"stream,omitempty"`
	Data       []byte     `json:"data,omitempty"`
	ExitCode   *int       `json:"exit_code,omitempty"`
	Signal     string     `json:"signal,omitempty"`
	Path       string     `json:"path,omitempty"`
	Op         string     `json:"op,omitempty"`
	Lost       uint64     `json:"lost,omitempty"`
	Checkpoint string     `json:"checkpoint,omitempty"`
	Reason     string     `json:"reason,omitempty"`
}

func eventOf(e soulbox.SessionEvent) eventAnswer {
	a := eventAnswer{
		ID: e.ID, At: e.At.UTC(), Kind: string(e.Kind), Sandbox: string(e.Sandbox), Epoch: e.Epoch, Seq: e.Seq, Lost: e.Lost,
		Checkpoint: e.Name, Reason: e.Reason,
	}
	if e.Snapshot != "" {
		a.Checkpoint = string(e.Snapshot)
	}
	if g := e.Guest; g != nil {
		a.Seq, a.GuestAt, a.PID, a.Command, a.Stream, a.Data = g.Seq, moment(g.At), g.PID, g.Command, g.Stream, g.Data
		a.Signal, a.Path, a.Op, a.Lost = g.Signal, g.Path, g.Op, g.Lost
		if g.Kind == soulbox.EventEnded {
			a.ExitCode = new(g.ExitCode)
		}
	}
	return a
}

type stateAnswer struct {
	Token       string                     `json:"token"`
	LastEventID uint64                     `json:"last_event_id"`
	At          time.Time                  `json:"at"`
	Variables   map[string]json.RawMessage `json:"variables"`
	Sandboxes   []memberState              `json:"sandboxes"`
	Changes     *deltaAnswer               `json:"changes,omitempty"`
}

type memberState struct {
	Sandbox   string         `json:"sandbox"`
	State     string         `json:"state,omitempty"`
	Reason    string         `json:"reason,omitempty"` // why nothing is known of what runs in it
	Truncated bool           `json:"truncated,omitempty"`
	Processes []processState `json:"processes,omitempty"`
	Ports     []portState    `json:"ports,omitempty"`
}

type processState struct {
	PID        int               `json:"pid"`
	PPID       int               `json:"ppid"`
	Command    string            `json:"command"`
	Cwd        string            `json:"cwd,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	OpenFiles  []string          `json:"open_files,omitempty"`
	CPUSeconds float64           `json:"cpu_seconds"`
	StartedAt  *time.Time        `json:"started_at,omitempty"`
}

type portState struct {
	Port    int    `json:"port"`
	Address string `json:"address"`
	PID     int    `json:"pid,omitempty"`
}

// deltaAnswer is what differs from the state whose token was given back.
type deltaAnswer struct {
	Known   bool                       `json:"known"` // that state is remembered; else take all of the new one
	Set     map[string]json.RawMessage `json:"variables_set,omitempty"`
	Removed []string                   `json:"variables_removed,omitempty"`
	Joined  []soulbox.SandboxID        `json:"joined,omitempty"`
	Left    []soulbox.SandboxID        `json:"left,omitempty"`
	States  map[string]string          `json:"states,omitempty"`
	Started []memberProcess            `json:"processes_started,omitempty"`
	Ended   []memberProcess            `json:"processes_ended,omitempty"`
	Changed []memberProcess            `json:"processes_changed,omitempty"`
	Opened  []memberPort               `json:"ports_opened,omitempty"`
	Closed  []memberPort               `json:"ports_closed,omitempty"`
}

type memberProcess struct {
	Sandbox string `json:"sandbox"`
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Cwd     string `json:"cwd,omitempty"`
}

type memberPort struct {
	Sandbox string `json:"sandbox"`
	Port    int    `json:"port"`
	Address string `json:"address"`
}

func stateOf(s *soulbox.SessionState, d *soulbox.StateDelta) stateAnswer {
	a := stateAnswer{Token: s.Token, LastEventID: s.LastEvent, At: s.At.UTC(), Variables: s.Variables, Sandboxes: make([]memberState, len(s.Members))}
	if a.Variables == nil {
		a.Variables = map[string]json.RawMessage{}
	}
	for i, m := range s.Members {
		out := memberState{Sandbox: string(m.Sandbox), State: string(m.State), Reason: m.Reason}
		if m.Guest != nil {
			out.Truncated = m.Guest.Truncated
			for _, p := range m.Guest.Processes {
				out.Processes = append(out.Processes, processState{
					PID: p.PID, PPID: p.PPID, Command: p.Command, Cwd: p.Dir, Env: p.Env, OpenFiles: p.OpenFiles,
					CPUSeconds: p.CPU.Seconds(), StartedAt: sane(p.StartedAt),
				})
			}
			for _, p := range m.Guest.Ports {
				out.Ports = append(out.Ports, portState{Port: int(p.Port), Address: p.Address, PID: p.PID})
			}
		}
		a.Sandboxes[i] = out
	}
	if d != nil {
		a.Changes = deltaOf(d)
	}
	return a
}

// sane is moment for a time that a sandbox tells, which may be one that cannot
// be written down.
func sane(t time.Time) *time.Time {
	if y := t.UTC().Year(); y < 1 || y > 9999 {
		return nil
	}
	return moment(t)
}

func deltaOf(d *soulbox.StateDelta) *deltaAnswer {
	a := &deltaAnswer{
		Known: d.Known, Set: d.Variables.Set, Removed: d.Variables.Removed, Joined: d.Joined, Left: d.Left,
		Started: processesOf(d.Started), Ended: processesOf(d.Ended), Changed: processesOf(d.Changed),
		Opened: portsOf(d.Opened), Closed: portsOf(d.Closed),
	}
	for id, state := range d.States {
		if a.States == nil {
			a.States = map[string]string{}
		}
		a.States[string(id)] = string(state)
	}
	return a
}

func processesOf(list []soulbox.MemberProcess) []memberProcess {
	var out []memberProcess
	for _, p := range list {
		out = append(out, memberProcess{Sandbox: string(p.Sandbox), PID: p.PID, Command: p.Command, Cwd: p.Dir})
	}
	return out
}

func portsOf(list []soulbox.MemberPort) []memberPort {
	var out []memberPort
	for _, p := range list {
		out = append(out, memberPort{Sandbox: string(p.Sandbox), Port: int(p.Port), Address: p.Address})
	}
	return out
}

type saveList struct {
	Checkpoints []saveAnswer `json:"checkpoints"`
}

// saveAnswer is a moment that all sandboxes of a session can return to.
type saveAnswer struct {
	ID        string                     `json:"id"`
	Name      string                     `json:"name"`
	CreatedAt time.Time                  `json:"created_at"`
	Variables map[string]json.RawMessage `json:"variables,omitempty"`
	Sandboxes []savedAnswer              `json:"sandboxes"`
}

type savedAnswer struct {
	Sandbox    string `json:"sandbox"`
	Checkpoint string `json:"checkpoint"`
}

func saveOf(s *soulbox.SessionSave) saveAnswer {
	a := saveAnswer{ID: string(s.ID), Name: s.Name, CreatedAt: s.CreatedAt.UTC(), Variables: s.Variables, Sandboxes: make([]savedAnswer, len(s.Members))}
	for i, m := range s.Members {
		a.Sandboxes[i] = savedAnswer{Sandbox: string(m.Sandbox), Checkpoint: string(m.Snapshot)}
	}
	return a
}
