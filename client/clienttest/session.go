package clienttest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// streamed is after how many events a stream of them is cut, as networks do.
const streamed = 4

// A session stands in for one. Its checkpoints have names and no contents.
type session struct {
	ID        string                     `json:"id"`
	State     string                     `json:"state"`
	CreatedAt time.Time                  `json:"created_at"`
	ExpiresAt time.Time                  `json:"expires_at"`
	Heartbeat map[string]any             `json:"heartbeat"`
	Metadata  map[string]string          `json:"metadata,omitempty"`
	Variables map[string]json.RawMessage `json:"variables,omitempty"`
	Sandboxes []sessionBox               `json:"sandboxes"`
	EndedAt   *time.Time                 `json:"ended_at,omitempty"`
	EndedBy   soulbox.Ender              `json:"ended_by,omitempty"`
	Reason    string                     `json:"reason,omitempty"`

	saves   []map[string]any
	events  []map[string]any // of which each has its place as its id
	changed chan struct{}    // closed and replaced with every event
}

type sessionBox struct {
	Sandbox  string     `json:"sandbox"`
	JoinedAt time.Time  `json:"joined_at"`
	LeftAt   *time.Time `json:"left_at,omitempty"`
}

func (s *Server) sessionRoutes(mux *http.ServeMux) {
	for row, do := range map[string]func(http.ResponseWriter, *http.Request, *session){
		"GET /v1/sessions/{session}":                        s.sessionInfo,
		"DELETE /v1/sessions/{session}":                     s.endSession,
		"POST /v1/sessions/{session}/heartbeat":             s.heartbeat,
		"POST /v1/sessions/{session}/sandboxes":             s.joinSession,
		"DELETE /v1/sessions/{session}/sandboxes/{sandbox}": s.leaveSession,
		"POST /v1/sessions/{session}/commands":              s.startInSession,
		"GET /v1/sessions/{session}/state":                  s.sessionState,
		"GET /v1/sessions/{session}/checkpoints":            s.listSessionCheckpoints,
		"POST /v1/sessions/{session}/checkpoints":           s.createSessionCheckpoint,
		"POST /v1/sessions/{session}/resume":                s.resumeSession,
	} {
		mux.HandleFunc(row, func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			v := s.findSession(w, r)
			switch {
			case v == nil:
			case v.EndedBy != "" && r.Method != http.MethodGet:
				refuse(w, http.StatusConflict, "session "+v.ID+" has ended")
			default:
				do(w, r, v)
			}
		})
	}
	mux.HandleFunc("GET /v1/sessions", s.listSessions)
	mux.HandleFunc("POST /v1/sessions", s.createSession)
	mux.HandleFunc("GET /v1/sessions/{session}/events", s.sessionEvents)
}

// +checklocks:s.mu
func (s *Server) findSession(w http.ResponseWriter, r *http.Request) *session {
	id := r.PathValue("session")
	i := slices.IndexFunc(s.sessions, func(v *session) bool { return v.ID == id })
	if i < 0 {
		refuse(w, http.StatusNotFound, "session "+strconv.Quote(id)+" does not exist, or you have no access to it")
		return nil
	}
	return s.sessions[i]
}

// tell adds an event, with s.mu held.
func (v *session) tell(kind soulbox.SessionEventKind, more map[string]any) {
	e := map[string]any{"id": len(v.events) + 1, "at": time.Now(), "kind": kind}
	maps.Copy(e, more)
	v.events = append(v.events, e)
	close(v.changed)
	v.changed = make(chan struct{})
}

func (s *Server) createSession(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Lifetime  int `json:"lifetime_seconds"`
		Heartbeat struct {
			Interval int    `json:"interval_seconds"`
			Timeout  int    `json:"timeout_seconds"`
			Then     string `json:"then"`
		} `json:"heartbeat"`
		Metadata  map[string]string          `json:"metadata"`
		Variables map[string]json.RawMessage `json:"variables"`
		Sandboxes []string                   `json:"sandboxes"`
	}
	if !decode(w, r, &in) {
		return
	}
	if in.Lifetime == 0 {
		in.Lifetime = 24 * 60 * 60
	}
	if in.Heartbeat.Interval == 0 {
		in.Heartbeat.Interval = 30
	}
	if in.Heartbeat.Timeout == 0 {
		in.Heartbeat.Timeout = 3 * in.Heartbeat.Interval
	}
	if in.Heartbeat.Then == "" {
		in.Heartbeat.Then = string(soulbox.AbsencePauses)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	v := &session{
		ID: string(soulbox.NewSessionID()), State: "open", CreatedAt: now, ExpiresAt: now.Add(time.Duration(in.Lifetime) * time.Second),
		Heartbeat: map[string]any{
			"interval_seconds": in.Heartbeat.Interval, "timeout_seconds": in.Heartbeat.Timeout, "then": in.Heartbeat.Then, "last_at": now,
		},
		Metadata: in.Metadata, Variables: in.Variables, Sandboxes: []sessionBox{}, changed: make(chan struct{}),
	}
	v.tell(soulbox.SessionStarted, nil)
	for _, id := range in.Sandboxes {
		if !s.join(w, v, id) {
			return
		}
	}
	s.sessions = append(s.sessions, v)
	answer(w, http.StatusCreated, v)
}

// +checklocks:s.mu
func (s *Server) join(w http.ResponseWriter, v *session, id string) bool {
	if b := s.boxes[id]; b == nil || b.ended() != nil {
		sandboxMissing(w, id)
		return false
	}
	v.Sandboxes = append(v.Sandboxes, sessionBox{Sandbox: id, JoinedAt: time.Now()})
	v.tell(soulbox.SandboxJoined, map[string]any{"sandbox": id})
	return true
}

func (s *Server) listSessions(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []*session{}
	for _, v := range slices.Backward(s.sessions) {
		if v.EndedBy == "" || r.URL.Query().Get("ended") == "true" {
			all = append(all, v)
		}
	}
	answer(w, http.StatusOK, map[string]any{"sessions": all})
}

func (s *Server) sessionInfo(w http.ResponseWriter, _ *http.Request, v *session) {
	answer(w, http.StatusOK, v)
}

func (s *Server) endSession(w http.ResponseWriter, r *http.Request, v *session) {
	var done []map[string]any
	for i, m := range v.Sandboxes {
		if m.LeftAt != nil {
			continue
		}
		v.Sandboxes[i].LeftAt = new(time.Now())
		b := s.boxes[m.Sandbox]
		switch r.URL.Query().Get("sandboxes") {
		case "pause":
			b.pause()
		case "kill":
			b.end(soulbox.ByClient, "its session was ended")
		default:
			continue
		}
		done = append(done, map[string]any{"sandbox": m.Sandbox})
	}
	v.State, v.EndedAt, v.EndedBy, v.Reason = "ended", new(time.Now()), soulbox.ByClient, "it was ended through the API"
	v.tell(soulbox.SessionEnded, map[string]any{"reason": v.Reason})
	answer(w, http.StatusOK, map[string]any{"sandboxes": done})
}

// wake resumes what is paused.
//
// +checklocks:s.mu
func (s *Server) wake(v *session) []map[string]any {
	done := []map[string]any{}
	for _, m := range v.Sandboxes {
		if b := s.boxes[m.Sandbox]; m.LeftAt == nil && b.ended() == nil && b.isPaused() {
			b.resume(b.timeout)
			v.tell(soulbox.SandboxResumed, map[string]any{"sandbox": m.Sandbox})
			done = append(done, map[string]any{"sandbox": m.Sandbox})
		}
	}
	return done
}

func (s *Server) heartbeat(w http.ResponseWriter, r *http.Request, v *session) {
	var in struct {
		Resume bool `json:"resume"`
	}
	if !decode(w, r, &in) {
		return
	}
	v.Heartbeat["last_at"] = time.Now()
	done := []map[string]any{}
	if in.Resume {
		done = s.wake(v)
	}
	answer(w, http.StatusOK, map[string]any{"session": v, "resumed": done})
}

func (s *Server) joinSession(w http.ResponseWriter, r *http.Request, v *session) {
	var in struct {
		Sandbox string `json:"sandbox"`
	}
	if decode(w, r, &in) && s.join(w, v, in.Sandbox) {
		answer(w, http.StatusOK, v)
	}
}

func (s *Server) leaveSession(w http.ResponseWriter, r *http.Request, v *session) {
	id := r.PathValue("sandbox")
	i := slices.IndexFunc(v.Sandboxes, func(m sessionBox) bool { return m.Sandbox == id && m.LeftAt == nil })
	if i < 0 {
		refuse(w, http.StatusNotFound, "sandbox "+strconv.Quote(id)+" is not in session "+v.ID)
		return
	}
	v.Sandboxes[i].LeftAt = new(time.Now())
	v.tell(soulbox.SandboxLeft, map[string]any{"sandbox": id})
	answer(w, http.StatusOK, v)
}

// startInSession starts a program whose output goes into events.
func (s *Server) startInSession(w http.ResponseWriter, r *http.Request, v *session) {
	var in struct {
		Sandbox string            `json:"sandbox"`
		Args    []string          `json:"args"`
		Env     map[string]string `json:"env"`
		Cwd     string            `json:"cwd"`
	}
	if !decode(w, r, &in) {
		return
	}
	var there []string
	for _, m := range v.Sandboxes {
		if m.LeftAt == nil && (in.Sandbox == "" || m.Sandbox == in.Sandbox) {
			there = append(there, m.Sandbox)
		}
	}
	if len(there) != 1 {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("session %s has %d sandboxes; say in which one the command is to run", v.ID, len(there)))
		return
	}
	b := s.boxes[there[0]]
	cmd := exec.CommandContext(context.WithoutCancel(r.Context()), in.Args[0], in.Args[1:]...)
	cmd.Dir, cmd.SysProcAttr = b.agent.path(in.Cwd), &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = cmd.Environ()
	for name, value := range in.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	about := &program{s: s, v: v, sandbox: b.id}
	cmd.Stdout, cmd.Stderr = &told{p: about, stream: "stdout"}, &told{p: about, stream: "stderr"}
	after := len(v.events)
	if err := cmd.Start(); err != nil {
		refuse(w, http.StatusBadRequest, "the sandbox's agent says: "+err.Error())
		return
	}
	about.pid = cmd.Process.Pid
	v.tell(soulbox.SessionEventKind(soulbox.EventStarted), map[string]any{"sandbox": b.id, "pid": about.pid, "command": in.Args[0]})
	s.programs.Go(func() {
		_ = cmd.Wait() // its state tells how it ended
		s.mu.Lock()
		defer s.mu.Unlock()
		end := map[string]any{"sandbox": b.id, "pid": about.pid, "exit_code": cmd.ProcessState.ExitCode()}
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			end["signal"] = unix.SignalName(ws.Signal())
		}
		v.tell(soulbox.SessionEventKind(soulbox.EventEnded), end)
	})
	answer(w, http.StatusCreated, map[string]any{"sandbox": b.id, "pid": about.pid, "after": after})
}

// program is one that runs in a session.
type program struct {
	s       *Server
	v       *session
	sandbox string
	pid     int // set before s.mu is free for the first output
}

// told makes events of what a program writes.
type told struct {
	p      *program
	stream string
}

func (t *told) Write(b []byte) (int, error) {
	t.p.s.mu.Lock()
	defer t.p.s.mu.Unlock()
	t.p.v.tell(soulbox.SessionEventKind(soulbox.EventOutput), map[string]any{
		"sandbox": t.p.sandbox, "pid": t.p.pid, "stream": t.stream, "data": slices.Clone(b),
	})
	return len(b), nil
}

func (s *Server) sessionState(w http.ResponseWriter, _ *http.Request, v *session) {
	boxes := []map[string]any{}
	for _, m := range v.Sandboxes {
		boxes = append(boxes, map[string]any{"sandbox": m.Sandbox, "state": soulbox.Running})
	}
	answer(w, http.StatusOK, map[string]any{
		"token": "00000000000000000000", "last_event_id": len(v.events), "at": time.Now(), "variables": v.Variables, "sandboxes": boxes,
	})
}

func (s *Server) listSessionCheckpoints(w http.ResponseWriter, _ *http.Request, v *session) {
	answer(w, http.StatusOK, map[string]any{"checkpoints": v.saves})
}

func (s *Server) createSessionCheckpoint(w http.ResponseWriter, r *http.Request, v *session) {
	var in struct {
		Name string `json:"name"`
	}
	if !decode(w, r, &in) {
		return
	}
	id := string(soulbox.NewSessionCheckpointID())
	if in.Name == "" {
		in.Name = "session-" + id
	}
	boxes := []map[string]any{}
	for _, m := range v.Sandboxes {
		boxes = append(boxes, map[string]any{"sandbox": m.Sandbox, "checkpoint": soulbox.NewSnapshotID()})
	}
	save := map[string]any{"id": id, "name": in.Name, "created_at": time.Now(), "sandboxes": boxes}
	v.saves = append(v.saves, save)
	v.tell(soulbox.SessionCheckpoint, map[string]any{"checkpoint": in.Name})
	answer(w, http.StatusCreated, save)
}

func (s *Server) resumeSession(w http.ResponseWriter, r *http.Request, v *session) {
	var in struct {
		Checkpoint string `json:"checkpoint"`
	}
	if !decode(w, r, &in) {
		return
	}
	if in.Checkpoint == "" {
		answer(w, http.StatusOK, map[string]any{"sandboxes": s.wake(v)})
		return
	}
	if !slices.ContainsFunc(v.saves, func(save map[string]any) bool { return save["name"] == in.Checkpoint }) {
		refuse(w, http.StatusNotFound, "session "+v.ID+" has no checkpoint "+strconv.Quote(in.Checkpoint))
		return
	}
	done := []map[string]any{}
	for _, m := range v.Sandboxes {
		v.tell(soulbox.SandboxRolledBack, map[string]any{"sandbox": m.Sandbox})
		done = append(done, map[string]any{"sandbox": m.Sandbox})
	}
	answer(w, http.StatusOK, map[string]any{"sandboxes": done})
}

// sessionEvents streams events. It cuts the connection after a few of them, in
// the middle of a line.
func (s *Server) sessionEvents(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.Atoi(r.URL.Query().Get("last_event_id"))
	follow := r.URL.Query().Get("follow") != "false"
	s.mu.Lock()
	v := s.findSession(w, r)
	s.mu.Unlock()
	if v == nil {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	for n := 0; ; n++ {
		s.mu.Lock()
		changed, over := v.changed, v.EndedBy != ""
		var line []byte
		if after < len(v.events) {
			line, _ = json.Marshal(v.events[after]) // it was made of JSON
		}
		s.mu.Unlock()
		if line == nil && (!follow || over) {
			return
		}
		if line == nil {
			_ = http.NewResponseController(w).Flush() // the client has gone if this fails
			select {
			case <-changed:
				n--
				continue
			case <-r.Context().Done():
				return
			}
		}
		after++
		if follow && n == streamed {
			fmt.Fprintf(w, "id: %d\ndata: %s", after, line[:len(line)/2])
			_ = http.NewResponseController(w).Flush() // as above
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", after, line)
	}
}
