package native_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
	"github.com/soulbox/soulbox/api/native"
)

const (
	openID  = "e0open000000000000000"
	endedID = "e0ended00000000000000"
)

// diary stands for the room that keeps sessions and remembers what it was
// asked.
type diary struct {
	asked any
	after uint64
}

func (d *diary) session(team soulbox.TeamID, id soulbox.SessionID) (*soulbox.Session, error) {
	s := &soulbox.Session{
		ID: openID, Team: "ours", CreatedAt: epoch, ExpiresAt: epoch.Add(24 * time.Hour), BeatAt: epoch.Add(time.Minute),
		Heartbeat: soulbox.Heartbeat{Interval: 30 * time.Second, Timeout: 90 * time.Second, Then: soulbox.AbsencePauses},
		Metadata:  map[string]string{"user": "ada"}, Variables: map[string]json.RawMessage{"step": json.RawMessage(`{"n":3}`)},
		Watch: []string{"/home/user"},
		Members: []soulbox.SessionMember{
			{Sandbox: "igone", JoinedAt: epoch, LeftAt: epoch.Add(time.Second)}, {Sandbox: "ilive", JoinedAt: epoch},
		},
	}
	switch {
	case team != "ours":
	case id == openID:
		return s, nil
	case id == endedID:
		s.ID, s.End = endedID, &soulbox.End{At: epoch.Add(time.Hour), By: soulbox.ByTimeout, Reason: "its time was up"}
		return s, nil
	}
	return nil, soulbox.Errorf(soulbox.NotFound, "session %q does not exist, or you have no access to it", string(id))
}

func (d *diary) Create(_ context.Context, q soulbox.SessionRequest) (*soulbox.Session, error) {
	d.asked = q
	return d.session(q.Team, openID)
}

func (d *diary) Get(_ context.Context, team soulbox.TeamID, id soulbox.SessionID) (*soulbox.Session, error) {
	return d.session(team, id)
}

func (d *diary) List(_ context.Context, f soulbox.SessionFilter) (soulbox.SessionPage, error) {
	d.asked = f
	s, err := d.session(f.Team, openID)
	return soulbox.SessionPage{Sessions: []*soulbox.Session{s}, Next: "more"}, err
}

func (d *diary) Change(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, c soulbox.SessionChange) (*soulbox.Session, error) {
	d.asked = c
	return d.session(team, id)
}

func results() []soulbox.MemberResult {
	return []soulbox.MemberResult{{Sandbox: "ilive"}, {Sandbox: "ihurt", Err: soulbox.Errorf(soulbox.Unavailable, "the disk is full")}}
}

func (d *diary) End(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, then soulbox.Absence) ([]soulbox.MemberResult, error) {
	d.asked = then
	_, err := d.session(team, id)
	return results(), err
}

func (d *diary) Heartbeat(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, resume bool) (*soulbox.Session, []soulbox.MemberResult, error) {
	d.asked = resume
	s, err := d.session(team, id)
	return s, results(), err
}

func (d *diary) Add(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, sandbox soulbox.SandboxID) (*soulbox.Session, error) {
	d.asked = sandbox
	return d.session(team, id)
}

func (d *diary) Remove(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, sandbox soulbox.SandboxID) (*soulbox.Session, error) {
	d.asked = sandbox
	return d.session(team, id)
}

func (d *diary) Run(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, c soulbox.SessionCommand) (*soulbox.StartedCommand, error) {
	d.asked = c
	_, err := d.session(team, id)
	return &soulbox.StartedCommand{Sandbox: "ilive", PID: 12, After: 34}, err
}

func (d *diary) State(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, since string) (*soulbox.SessionState, *soulbox.StateDelta, error) {
	d.asked = since
	s, err := d.session(team, id)
	if err != nil {
		return nil, nil, err
	}
	state := &soulbox.SessionState{Token: "0123456789abcdef0123", LastEvent: 77, At: epoch, Variables: s.Variables, Members: []soulbox.MemberState{
		{Sandbox: "ilive", State: soulbox.Running, Guest: &soulbox.GuestState{
			Processes: []soulbox.GuestProcess{{
				PID: 5, PPID: 1, Command: "python3 -i", Dir: "/home/user", Env: map[string]string{"HOME": "/home/user"},
				OpenFiles: []string{"/tmp/x"}, CPU: 1500 * time.Millisecond, StartedAt: epoch,
			}},
			Ports: []soulbox.GuestPort{{Port: 8080, Address: "0.0.0.0", PID: 5}}, Truncated: true,
		}},
		{Sandbox: "icold", State: soulbox.Paused, Reason: "it does not run"},
	}}
	if since == "" {
		return state, nil, nil
	}
	delta := &soulbox.StateDelta{
		Known: true, Joined: []soulbox.SandboxID{"ilive"}, Left: []soulbox.SandboxID{"igone"},
		States:  map[soulbox.SandboxID]soulbox.State{"icold": soulbox.Paused},
		Started: []soulbox.MemberProcess{{Sandbox: "ilive", PID: 5, Command: "python3 -i", Dir: "/home/user"}},
		Opened:  []soulbox.MemberPort{{Sandbox: "ilive", Port: 8080, Address: "0.0.0.0"}},
	}
	delta.Variables.Set, delta.Variables.Removed = s.Variables, []string{"old"}
	return state, delta, nil
}

func events() []soulbox.SessionEvent {
	guest := func(kind soulbox.GuestEventKind) *soulbox.GuestEvent {
		return &soulbox.GuestEvent{Seq: 9, At: epoch, Kind: kind, PID: 12}
	}
	started, output, ended, gap := guest(soulbox.EventStarted), guest(soulbox.EventOutput), guest(soulbox.EventEnded), guest(soulbox.EventGap)
	started.Command = "make \"all\"\n"
	output.Stream, output.Data = "stdout", []byte("\x00\xff\r\n\nid: 1\n")
	gap.Lost = 4
	list := []soulbox.SessionEvent{
		{Kind: soulbox.SessionStarted},
		{Kind: soulbox.SandboxRolledBack, Sandbox: "ilive", Snapshot: firstID},
		{Kind: soulbox.EventsUndone, Sandbox: "ilive", Epoch: "a", Seq: 3, Lost: 4, Reason: "taken back"},
		{Kind: soulbox.SessionEventKind(started.Kind), Sandbox: "ilive", Epoch: "a", Guest: started},
		{Kind: soulbox.SessionEventKind(output.Kind), Sandbox: "ilive", Epoch: "a", Guest: output},
		{Kind: soulbox.SessionEventKind(ended.Kind), Sandbox: "ilive", Epoch: "a", Guest: ended},
		{Kind: soulbox.SessionEventKind(gap.Kind), Sandbox: "ilive", Epoch: "a", Guest: gap},
		{Kind: soulbox.SessionCheckpoint, Name: "good"},
		{Kind: soulbox.LogGap, Lost: 2},
		{Kind: soulbox.SessionEnded, Reason: "ended by client"},
	}
	for i := range list {
		list[i].ID, list[i].At = uint64(i+1), epoch
	}
	return list
}

func (d *diary) Events(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, after uint64, idle func() error, each func(soulbox.SessionEvent) error) error {
	if _, err := d.session(team, id); err != nil {
		return err
	}
	d.after = after
	if after > uint64(len(events())) {
		return soulbox.Errorf(soulbox.Invalid, "there is no event %d yet", after)
	}
	for _, e := range events()[after:] {
		if idle != nil {
			if err := idle(); err != nil {
				return err
			}
		}
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

func save() *soulbox.SessionSave {
	return &soulbox.SessionSave{
		ID: "k0save000000000000000", Session: openID, Name: "good", Ready: true, CreatedAt: epoch,
		Variables: map[string]json.RawMessage{"step": json.RawMessage(`1`)}, Members: []soulbox.SavedMember{{Sandbox: "ilive", Snapshot: firstID}},
	}
}

func (d *diary) Checkpoint(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, name string) (*soulbox.SessionSave, error) {
	d.asked = name
	_, err := d.session(team, id)
	return save(), err
}

func (d *diary) Checkpoints(_ context.Context, team soulbox.TeamID, id soulbox.SessionID) ([]*soulbox.SessionSave, error) {
	_, err := d.session(team, id)
	return []*soulbox.SessionSave{save()}, err
}

func (d *diary) Resume(_ context.Context, team soulbox.TeamID, id soulbox.SessionID, checkpoint string) ([]soulbox.MemberResult, error) {
	d.asked = checkpoint
	_, err := d.session(team, id)
	return results(), err
}

func newSessionAPI(t testing.TB, d *diary) http.Handler {
	t.Helper()
	a, err := api.New(slog.New(slog.DiscardHandler), &world{}, native.SessionRoutes(d), api.Options{})
	if err != nil {
		t.Fatalf("the route table is wrong: %v", err)
	}
	return a
}

func TestSessionAnswers(t *testing.T) {
	const one = "/v1/sessions/" + openID
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for _, tt := range []struct {
		name, verb, path, body string
		code                   int
		asked                  any
	}{
		{"sessions", "GET", "/v1/sessions", "", 200, soulbox.SessionFilter{Team: "ours", Limit: 100}},
		{"sessions", "GET", "/v1/sessions?ended=true&limit=5&cursor=c", "", 200, soulbox.SessionFilter{Team: "ours", Ended: true, Limit: 5, Cursor: "c"}},
		{"session", "POST", "/v1/sessions", "", 201, soulbox.SessionRequest{Team: "ours"}},
		{
			"session", "POST", "/v1/sessions", `{"lifetime_seconds":60,"heartbeat":{"interval_seconds":5,"timeout_seconds":10,"then":"kill"},
				"metadata":{"a":"b"},"variables":{"x":[1]},"watch":["/src"],"sandboxes":["ilive"]}`, 201,
			soulbox.SessionRequest{
				Team: "ours", Lifetime: time.Minute, Heartbeat: soulbox.Heartbeat{Interval: 5 * time.Second, Timeout: 10 * time.Second, Then: soulbox.AbsenceKills},
				Metadata: map[string]string{"a": "b"}, Variables: map[string]json.RawMessage{"x": raw("[1]")}, Watch: []string{"/src"},
				Sandboxes: []soulbox.SandboxID{"ilive"},
			},
		},
		{"session", "GET", one, "", 200, nil},
		{"session-ended", "GET", "/v1/sessions/" + endedID, "", 200, nil},
		{
			"session", "PATCH", one, `{"lifetime_seconds":60,"variables":{"x":null}}`, 200,
			soulbox.SessionChange{Lifetime: time.Minute, Variables: map[string]json.RawMessage{"x": raw("null")}},
		},
		{
			"", "PATCH", one, `{"heartbeat":{"then":"nothing"},"metadata":{},"watch":[]}`, 200,
			soulbox.SessionChange{Heartbeat: &soulbox.Heartbeat{Then: soulbox.AbsenceIsFine}, Metadata: map[string]string{}, Watch: &[]string{}},
		},
		{"session-results", "DELETE", one + "?sandboxes=pause", "", 200, soulbox.AbsencePauses},
		{"session-beat", "POST", one + "/heartbeat", `{"resume":true}`, 200, true},
		{"", "POST", one + "/heartbeat", "", 200, false},
		{"session", "POST", one + "/sandboxes", `{"sandbox":"ilive"}`, 200, soulbox.SandboxID("ilive")},
		{"session", "DELETE", one + "/sandboxes/ilive", "", 200, soulbox.SandboxID("ilive")},
		{"session-command", "POST", one + "/commands", `{"command":"make all"}`, 201, soulbox.SessionCommand{Args: []string{"/bin/bash", "-l", "-c", "make all"}}},
		{
			"", "POST", one + "/commands", `{"sandbox":"ilive","args":["make","all"],"env":{"A":"b"},"cwd":"/src","user":"root"}`, 201,
			soulbox.SessionCommand{Sandbox: "ilive", Args: []string{"make", "all"}, Env: map[string]string{"A": "b"}, Dir: "/src", User: "root"},
		},
		{"session-state", "GET", one + "/state", "", 200, ""},
		{"session-changes", "GET", one + "/state?since=abc", "", 200, "abc"},
		{"session-checkpoint", "POST", one + "/checkpoints", `{"name":"good"}`, 201, "good"},
		{"session-checkpoints", "GET", one + "/checkpoints", "", 200, nil},
		{"session-results", "POST", one + "/resume", `{"checkpoint":"good"}`, 200, "good"},
		{"session-results", "POST", one + "/resume", "", 200, ""},
	} {
		t.Run(tt.verb+" "+tt.path, func(t *testing.T) {
			d := &diary{}
			res := ask(newSessionAPI(t, d), tt.verb, tt.path, tt.body, "ours")
			if res.Code != tt.code {
				t.Fatalf("%d %s, want %d", res.Code, res.Body, tt.code)
			}
			if diff := cmp.Diff(tt.asked, d.asked); diff != "" {
				t.Errorf("the room behind was asked (-want +got):\n%s", diff)
			}
			if tt.name != "" {
				golden(t, tt.name, res.Body.Bytes())
			}
		})
	}
}

func TestSessionRefused(t *testing.T) {
	h := newSessionAPI(t, &diary{})
	const one = "/v1/sessions/" + openID
	for _, tt := range []struct {
		verb, path, body string
		code             int
		says             string
	}{
		{"GET", "/v1/sessions?limit=0", "", 400, "limit"},
		{"GET", "/v1/sessions?ended=perhaps", "", 400, "ended"},
		{"POST", "/v1/sessions", `{"lifetime_seconds":-1}`, 400, "lifetime_seconds"},
		{"POST", "/v1/sessions", `{"lifetime_seconds":"long"}`, 400, "lifetime_seconds"},
		{"POST", "/v1/sessions", `{"heartbeat":{"interval_seconds":99999999999}}`, 400, "interval_seconds"},
		{"POST", "/v1/sessions", `{"variables":3}`, 400, "variables"},
		{"PATCH", one, `{"lifetime_seconds":0}`, 400, "more than 0"},
		{"PATCH", one, ``, 400, "body"},
		{"POST", one + "/commands", `{}`, 400, "either"},
		{"POST", one + "/commands", `{"command":"a","args":["b"]}`, 400, "either"},
		{"DELETE", one + "/sandboxes/NOT-ONE", "", 400, "sandbox"},
		{"GET", one + "/events?last_event_id=minus", "", 400, "last_event_id"},
		{"GET", one + "/events?last_event_id=99", "", 400, "99"},
		{"GET", one + "/events?follow=so", "", 400, "follow"},
		{"GET", one + "/events/ws", "", 400, "WebSocket"},
		{"GET", "/v1/sessions/nothing", "", 404, "nothing"},
		{"GET", "/v1/sessions/nothing/events", "", 404, "nothing"},
	} {
		t.Run(tt.verb+" "+tt.path+" "+tt.body, func(t *testing.T) {
			wantFailure(t, ask(h, tt.verb, tt.path, tt.body, "ours"), tt.code, tt.says)
		})
	}
	for _, row := range native.SessionRoutes(&diary{}) {
		if strings.Contains(row.Path, "{session}") {
			path := strings.NewReplacer("{session}", openID, "{sandbox}", "ilive").Replace(row.Path)
			body := `{"command":"true","sandbox":"ilive"}`
			r := httptest.NewRequest(row.Verb, path, strings.NewReader(body))
			r.Header.Set("X-API-KEY", "theirs")
			r.Header.Set("Upgrade", "websocket")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			wantFailure(t, w, 404, openID)
		}
		wantFailure(t, ask(h, row.Verb, strings.NewReplacer("{session}", openID, "{sandbox}", "ilive").Replace(row.Path), "", "nobody"), 401, "key")
	}
}

// checkEvents compares what came with what there is, and with the description.
func checkEvents(t *testing.T, got []string, from int) {
	t.Helper()
	want := events()[from:]
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d: %q", len(got), len(want), got)
	}
	d := spec(t)
	for i, line := range got {
		var v any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		for _, wrong := range d.check(schema{Ref: "#/components/schemas/Event"}, v, string(want[i].Kind)) {
			t.Error(wrong)
		}
		var e struct {
			ID   uint64 `json:"id"`
			Kind string `json:"kind"`
			Data []byte `json:"data"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID != want[i].ID || e.Kind != string(want[i].Kind) {
			t.Errorf("event %q, want number %d", line, want[i].ID)
		}
		if g := want[i].Guest; g != nil && string(e.Data) != string(g.Data) {
			t.Errorf("data %q, want %q", e.Data, g.Data)
		}
	}
}

func TestEventStream(t *testing.T) {
	for _, tt := range []struct {
		query, header string
		from          int
	}{
		{"", "", 0},
		{"?follow=false", "", 0},
		{"?last_event_id=4", "", 4},
		{"?last_event_id=2", "7", 7},
		{"?last_event_id=10", "", 10},
		{"?last_event_id=10&follow=false", "", 10},
	} {
		d := &diary{}
		r := httptest.NewRequest(http.MethodGet, "/v1/sessions/"+openID+"/events"+tt.query, nil)
		r.Header.Set("X-API-KEY", "ours")
		if tt.header != "" {
			r.Header.Set("Last-Event-ID", tt.header)
		}
		w := httptest.NewRecorder()
		newSessionAPI(t, d).ServeHTTP(w, r)
		if w.Code != 200 || w.Header().Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%s: %d %v", tt.query, w.Code, w.Header())
		}
		var got []string
		var id string
		lines := bufio.NewScanner(w.Body)
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				id = value
			case "data":
				if !strings.HasPrefix(value, fmt.Sprintf(`{"id":%s,`, id)) {
					t.Errorf("data %s behind id %s", value, id)
				}
				got = append(got, value)
			case "event", "", ":":
			default:
				t.Errorf("line %q", lines.Text())
			}
		}
		checkEvents(t, got, tt.from)
	}
}

func TestEventWebSocket(t *testing.T) {
	s := httptest.NewServer(newSessionAPI(t, &diary{}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, path := range []string{"/events", "/events/ws"} {
		conn, _, err := websocket.Dial(ctx, s.URL+"/v1/sessions/"+openID+path+"?last_event_id=3", &websocket.DialOptions{
			HTTPHeader: http.Header{"X-Api-Key": {"ours"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			kind, b, err := conn.Read(ctx)
			if websocket.CloseStatus(err) == websocket.StatusNormalClosure {
				break
			}
			if err != nil || kind != websocket.MessageText {
				t.Fatalf("Read = %v, %v", kind, err)
			}
			got = append(got, string(b))
		}
		checkEvents(t, got, 3)
		_ = conn.CloseNow()
	}
	_, res, err := websocket.Dial(ctx, s.URL+"/v1/sessions/"+openID+"/events", &websocket.DialOptions{HTTPHeader: http.Header{"X-Api-Key": {"theirs"}}})
	if err == nil || res.StatusCode != http.StatusNotFound {
		t.Errorf("Dial by a foreign team: %v", err)
	}
}
