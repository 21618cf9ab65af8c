package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session"
)

func create(t *testing.T, r *session.Registry, change func(*soulbox.SessionRequest), ids ...soulbox.SandboxID) *soulbox.Session {
	t.Helper()
	q := soulbox.SessionRequest{Team: "us", Sandboxes: ids}
	if change != nil {
		change(&q)
	}
	s, err := r.Create(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// events returns what there is behind an event now.
func events(t *testing.T, r *session.Registry, id soulbox.SessionID, after uint64) []soulbox.SessionEvent {
	t.Helper()
	var all []soulbox.SessionEvent
	err := r.Events(t.Context(), "us", id, after, nil, func(e soulbox.SessionEvent) error {
		all = append(all, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// line is an event in short.
func line(e soulbox.SessionEvent) string {
	switch {
	case e.Kind == soulbox.SessionEventKind(soulbox.EventOutput):
		return fmt.Sprintf("%s says %s", e.Sandbox, e.Guest.Data)
	case e.Kind == soulbox.EventsUndone:
		return fmt.Sprintf("%s undoes %d after %d", e.Sandbox, e.Lost, e.Seq)
	case e.Guest != nil && e.Guest.Lost > 0:
		return fmt.Sprintf("%s lost %d", e.Sandbox, e.Guest.Lost)
	case e.Sandbox != "":
		return fmt.Sprintf("%s %s", e.Sandbox, e.Kind)
	default:
		return string(e.Kind)
	}
}

// wantLines waits for exactly these events.
func wantLines(t *testing.T, r *session.Registry, id soulbox.SessionID, want ...string) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got = nil
		for i, e := range events(t, r, id, 0) {
			if e.ID != uint64(i+1) {
				t.Fatalf("event %d has the id %d", i+1, e.ID)
			}
			got = append(got, line(e))
		}
		if slices.Equal(got, want) {
			return
		}
		if len(got) > len(want) {
			break
		}
	}
	t.Fatalf("events (-want +got):\n%s", cmp.Diff(want, got))
}

func wantKind(t *testing.T, what string, err error, want soulbox.Kind) {
	t.Helper()
	if err == nil || soulbox.KindOf(err) != want {
		t.Errorf("%s: error %v of kind %d, want kind %d", what, err, soulbox.KindOf(err), want)
	}
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	w.add("ib", "us")
	r := w.registry()
	w.happen("ia", say("before anybody records"))
	s := create(t, r, nil, "ia")
	w.happen("ia", say("one"), say("two"))
	wantLines(t, r, s.ID, "session_started", "ia sandbox_joined", "ia says one", "ia says two")
	if _, err := r.Add(t.Context(), "us", s.ID, "ib"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Add(t.Context(), "us", s.ID, "ib"); err != nil {
		t.Errorf("Add of a member: %v, want that nothing happens", err)
	}
	if err := w.Pause(t.Context(), "us", "ia", true); err != nil {
		t.Fatal(err)
	}
	wantLines(t, r, s.ID, "session_started", "ia sandbox_joined", "ia says one", "ia says two", "ib sandbox_joined", "ia sandbox_paused")
	if _, _, err := w.Connect(t.Context(), "us", "ia", time.Minute, false); err != nil {
		t.Fatal(err)
	}
	w.happen("ia", say("three"))
	lines := []string{
		"session_started", "ia sandbox_joined", "ia says one", "ia says two", "ib sandbox_joined", "ia sandbox_paused",
		"ia sandbox_resumed", "ia says three",
	}
	wantLines(t, r, s.ID, lines...)
	if err := w.Kill(t.Context(), "us", "ia", soulbox.ByClient, "enough"); err != nil {
		t.Fatal(err)
	}
	lines = append(lines, "ia sandbox_ended")
	wantLines(t, r, s.ID, lines...)
	eventually(t, "the ended sandbox has left", func() bool {
		now, err := r.Get(t.Context(), "us", s.ID)
		return err == nil && slices.Equal(now.Present(), []soulbox.SandboxID{"ib"})
	})
	if _, err := r.Remove(t.Context(), "us", s.ID, "ib"); err != nil {
		t.Fatal(err)
	}
	_, err := r.Remove(t.Context(), "us", s.ID, "ib")
	wantKind(t, "Remove of one that has left", err, soulbox.NotFound)
	if _, err := r.End(t.Context(), "us", s.ID, ""); err != nil {
		t.Fatal(err)
	}
	lines = append(lines, "ib sandbox_left", "session_ended")
	wantLines(t, r, s.ID, lines...)
	_, err = r.End(t.Context(), "us", s.ID, "")
	wantKind(t, "End of an ended one", err, soulbox.Conflict)
	w.close(r)
	wantLines(t, w.registry(), s.ID, lines...)
}

// TestRestart lets things happen while no server is there.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	w.add("ib", "us")
	w.add("ic", "us")
	r := w.registry()
	s := create(t, r, nil, "ia", "ib", "ic")
	w.happen("ia", say("one"))
	lines := []string{"session_started", "ia sandbox_joined", "ib sandbox_joined", "ic sandbox_joined", "ia says one"}
	wantLines(t, r, s.ID, lines...)
	for range 3 { // nothing comes twice
		w.close(r)
		r = w.registry()
	}
	wantLines(t, r, s.ID, lines...)
	w.close(r)
	w.happen("ia", say("two"))
	if err := w.Pause(t.Context(), "us", "ib", true); err != nil {
		t.Fatal(err)
	}
	if err := w.Kill(t.Context(), "us", "ic", soulbox.ByOOM, "too big"); err != nil {
		t.Fatal(err)
	}
	r = w.registry()
	eventually(t, "everything is told", func() bool { return len(events(t, r, s.ID, 0)) == len(lines)+3 })
	var got []string
	for _, e := range events(t, r, s.ID, uint64(len(lines))) {
		got = append(got, line(e))
	}
	slices.Sort(got) // those of different sandboxes have no order
	if diff := cmp.Diff([]string{"ia says two", "ib sandbox_paused", "ic sandbox_ended"}, got); diff != "" {
		t.Errorf("events of the time without a server (-want +got):\n%s", diff)
	}
}

func TestRollback(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	r := w.registry()
	s := create(t, r, nil, "ia")
	w.happen("ia", say("one"), say("two"))
	wantLines(t, r, s.ID, "session_started", "ia sandbox_joined", "ia says one", "ia says two")
	snap, err := w.Checkpoint(t.Context(), "us", "ia", "here")
	if err != nil {
		t.Fatal(err)
	}
	w.happen("ia", say("wrong"), say("worse"))
	lines := []string{"session_started", "ia sandbox_joined", "ia says one", "ia says two", "ia says wrong", "ia says worse"}
	wantLines(t, r, s.ID, lines...)
	if _, err := w.Rollback(t.Context(), "us", "ia", snap.ID); err != nil {
		t.Fatal(err)
	}
	w.happen("ia", say("right"))
	lines = append(lines, "ia sandbox_rolled_back", "ia undoes 2 after 2", "ia says right")
	wantLines(t, r, s.ID, lines...)
	if got := events(t, r, s.ID, 6)[0].Snapshot; got != snap.ID {
		t.Errorf("rolled back to %q, want %q", got, snap.ID)
	}

	// The same while no server is there; only the epochs tell.
	w.close(r)
	if _, err := w.Rollback(t.Context(), "us", "ia", snap.ID); err != nil {
		t.Fatal(err)
	}
	w.happen("ia", say("right again"))
	r = w.registry()
	lines = append(lines, "ia undoes 1 after 2", "ia says right again")
	wantLines(t, r, s.ID, lines...)
	w.close(r)
	wantLines(t, w.registry(), s.ID, lines...)
}

// TestGap has a sandbox whose record turned while nobody read it.
func TestGap(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	r := w.registry()
	s := create(t, r, nil, "ia")
	wantLines(t, r, s.ID, "session_started", "ia sandbox_joined")
	w.close(r)
	w.happen("ia", say("one"), say("two"), say("three"))
	w.mu.Lock()
	w.boxes["ia"].tape.tail = 3
	w.mu.Unlock()
	wantLines(t, w.registry(), s.ID, "session_started", "ia sandbox_joined", "ia lost 2", "ia says three")
}

func TestAbsence(t *testing.T) {
	for _, test := range []struct {
		then soulbox.Absence
		want soulbox.State
	}{
		{soulbox.AbsencePauses, soulbox.Paused},
		{soulbox.AbsenceKills, soulbox.Ending},
		{soulbox.AbsenceIsFine, soulbox.Running},
	} {
		t.Run(string(test.then), func(t *testing.T) {
			w := newWorld(t)
			w.add("iidle", "us")
			w.add("icpu", "us")
			w.add("icalled", "us")
			w.usage["icpu"] = soulbox.Usage{CPUPercent: 80}
			w.open["icalled"] = 1
			r := w.registry()
			s := create(t, r, func(q *soulbox.SessionRequest) {
				q.Heartbeat = soulbox.Heartbeat{Interval: time.Second, Timeout: time.Second, Then: test.then}
			}, "iidle", "icpu", "icalled")
			missed := func() bool {
				return slices.ContainsFunc(events(t, r, s.ID, 0), func(e soulbox.SessionEvent) bool { return e.Kind == soulbox.HeartbeatMissed })
			}
			eventually(t, "the client is missed", missed)
			eventually(t, "the idle sandbox is "+string(test.want), func() bool { return w.state("iidle") == test.want })
			for _, id := range []soulbox.SandboxID{"icpu", "icalled"} {
				if got := w.state(id); got != soulbox.Running {
					t.Errorf("sandbox %s, which works, is %s", id, got)
				}
			}
			if _, _, err := r.Heartbeat(t.Context(), "us", s.ID, true); err != nil {
				t.Fatal(err)
			}
			if test.then == soulbox.AbsencePauses && w.state("iidle") != soulbox.Running {
				t.Errorf("after a heartbeat that resumes, the sandbox is %s", w.state("iidle"))
			}
			if !slices.ContainsFunc(events(t, r, s.ID, 0), func(e soulbox.SessionEvent) bool { return e.Kind == soulbox.HeartbeatBack }) {
				t.Error("nothing tells that the client is back")
			}
		})
	}
}

// TestKeepsAlive has a sandbox that would end soon.
func TestKeepsAlive(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	r := w.registry()
	w.mu.Lock()
	sb := w.boxes["ia"].sb.Clone()
	sb.ExpiresAt, sb.Timeout = time.Now().Add(10*time.Second), 10*time.Second
	w.boxes["ia"].sb = sb
	w.mu.Unlock()
	create(t, r, nil, "ia")
	eventually(t, "its timeout is put off", func() bool {
		sb, err := w.Get(t.Context(), "us", "ia")
		return err == nil && time.Until(sb.ExpiresAt) > time.Minute
	})
}

func TestExpiry(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	r := w.registry()
	s := create(t, r, func(q *soulbox.SessionRequest) { q.Lifetime = 200 * time.Millisecond }, "ia")
	eventually(t, "the session ends", func() bool {
		s, err := r.Get(t.Context(), "us", s.ID)
		return err == nil && s.End != nil && s.End.By == soulbox.ByTimeout
	})
	wantLines(t, r, s.ID, "session_started", "ia sandbox_joined", "session_ended")
	if got := w.state("ia"); got != soulbox.Running {
		t.Errorf("its sandbox is %s, want that it goes on", got)
	}
	s = create(t, r, nil, "ia") // it is free again
	if len(s.Present()) != 1 {
		t.Errorf("members: %v", s.Members)
	}
}

func TestRun(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	w.add("ib", "us")
	r := w.registry()
	s := create(t, r, nil, "ia")
	got, err := r.Run(t.Context(), "us", s.ID, soulbox.SessionCommand{Args: []string{"echo", "hello"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&soulbox.StartedCommand{Sandbox: "ia", PID: 42, After: 2}, got); diff != "" {
		t.Errorf("Run (-want +got):\n%s", diff)
	}
	wantLines(t, r, s.ID, "session_started", "ia sandbox_joined", "ia process_started")
	if e := events(t, r, s.ID, 2)[0]; e.Guest.Command != "echo hello" || e.Guest.PID != 42 {
		t.Errorf("it started %q as %d", e.Guest.Command, e.Guest.PID)
	}
	if err := w.Pause(t.Context(), "us", "ia", true); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context(), "us", s.ID, soulbox.SessionCommand{Args: []string{"again"}}); err != nil {
		t.Errorf("Run in a paused sandbox: %v, want that it is resumed", err)
	}
	for name, c := range map[string]soulbox.SessionCommand{
		"nothing":            {},
		"no such program":    {Args: []string{"missing"}},
		"NUL":                {Args: []string{"a\x00b"}},
		"bad variable":       {Args: []string{"a"}, Env: map[string]string{"A=B": "c"}},
		"of another session": {Args: []string{"a"}, Sandbox: "ib"},
	} {
		_, err := r.Run(t.Context(), "us", s.ID, c)
		if k := soulbox.KindOf(err); err == nil || k != soulbox.Invalid && k != soulbox.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.Add(t.Context(), "us", s.ID, "ib"); err != nil {
		t.Fatal(err)
	}
	_, err = r.Run(t.Context(), "us", s.ID, soulbox.SessionCommand{Args: []string{"a"}})
	wantKind(t, "Run without saying where", err, soulbox.Invalid)
}

// TestWatch watches folders that are there, and one that is not.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	r := w.registry()
	ctx := t.Context()
	missing := []string{"/missing"}
	_, err := r.Create(ctx, soulbox.SessionRequest{Team: "us", Watch: missing, Sandboxes: []soulbox.SandboxID{"ia"}})
	wantKind(t, "Create with a folder that is not there", err, soulbox.Invalid)
	s := create(t, r, func(q *soulbox.SessionRequest) { q.Watch = []string{"/src"} }, "ia")
	paths := func() []string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.boxes["ia"].paths
	}
	_, err = r.Change(ctx, "us", s.ID, soulbox.SessionChange{Watch: &missing})
	wantKind(t, "Change to a folder that is not there", err, soulbox.Invalid)
	eventually(t, "the other is watched as before", func() bool { return slices.Equal(paths(), []string{"/src"}) })
	w.mu.Lock()
	w.boxes["ia"].has = true
	w.mu.Unlock()
	if _, err := r.Change(ctx, "us", s.ID, soulbox.SessionChange{Watch: &missing}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new one is watched", func() bool { return slices.Equal(paths(), missing) })

	// It goes, and nothing else is lost for that.
	w.close(r)
	w.mu.Lock()
	w.boxes["ia"].has = false
	w.mu.Unlock()
	r = w.registry()
	w.happen("ia", say("still here"))
	wantLines(t, r, s.ID, "session_started", "ia sandbox_joined", "ia says still here")
	eventually(t, "nothing is watched", func() bool { return len(paths()) == 0 })
}

func TestCheckpoint(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	w.add("ib", "us")
	r := w.registry()
	s := create(t, r, func(q *soulbox.SessionRequest) {
		q.Variables = map[string]json.RawMessage{"step": json.RawMessage("1")}
	}, "ia", "ib")
	save, err := r.Checkpoint(t.Context(), "us", s.ID, "good")
	if err != nil {
		t.Fatal(err)
	}
	if !save.Ready || len(save.Members) != 2 || save.Members[0].Snapshot == "" || save.Members[1].Snapshot == "" {
		t.Errorf("the checkpoint is %+v", save)
	}
	_, err = r.Checkpoint(t.Context(), "us", s.ID, "good")
	wantKind(t, "Checkpoint with a name that is taken", err, soulbox.Conflict)
	_, err = r.Checkpoint(t.Context(), "us", s.ID, "Not a name!")
	wantKind(t, "Checkpoint with a bad name", err, soulbox.Invalid)

	change := soulbox.SessionChange{Variables: map[string]json.RawMessage{"step": json.RawMessage("2"), "more": json.RawMessage("true")}}
	if _, err := r.Change(t.Context(), "us", s.ID, change); err != nil {
		t.Fatal(err)
	}

	// One that fails leaves nothing.
	w.mu.Lock()
	w.failing["ib"] = soulbox.Errorf(soulbox.Unavailable, "the disk is full")
	w.mu.Unlock()
	_, err = r.Checkpoint(t.Context(), "us", s.ID, "half")
	wantKind(t, "Checkpoint that fails", err, soulbox.Unavailable)
	all, err := r.Checkpoints(t.Context(), "us", s.ID)
	if err != nil || len(all) != 1 {
		t.Errorf("%d checkpoints, %v; want 1", len(all), err)
	}
	if snaps, _ := w.Checkpoints(t.Context(), "us", "ia"); len(snaps) != 1 {
		t.Errorf("%d checkpoints of a sandbox are left, want 1", len(snaps))
	}

	results, err := r.Resume(t.Context(), "us", s.ID, "good")
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 || results[0].Err != nil || results[1].Sandbox != "ib" || soulbox.KindOf(results[1].Err) != soulbox.Unavailable {
		t.Errorf("Resume = %+v; want that ib failed and ia did not", results)
	}
	now, err := r.Get(t.Context(), "us", s.ID)
	if err != nil || len(now.Variables) != 1 || string(now.Variables["step"]) != "1" {
		t.Errorf("variables after the resume: %s, %v", now.Variables, err)
	}
	_, err = r.Resume(t.Context(), "us", s.ID, "nowhere")
	wantKind(t, "Resume of an unknown checkpoint", err, soulbox.NotFound)
}

// TestHalfCheckpoint has a draft that a server left which died.
func TestHalfCheckpoint(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	r := w.registry()
	s := create(t, r, nil, "ia")
	w.close(r)
	draft := &soulbox.SessionSave{
		ID: soulbox.NewSessionCheckpointID(), Session: s.ID, Name: "half", CreatedAt: time.Now(), Members: []soulbox.SavedMember{{Sandbox: "ia"}},
	}
	if err := w.store.InsertSessionSave(t.Context(), draft); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Checkpoint(t.Context(), "us", "ia", "half"); err != nil {
		t.Fatal(err)
	}
	r = w.registry()
	if snaps, _ := w.Checkpoints(t.Context(), "us", "ia"); len(snaps) != 0 {
		t.Errorf("%d checkpoints of the sandbox are left", len(snaps))
	}
	if _, err := r.Checkpoint(t.Context(), "us", s.ID, "half"); err != nil {
		t.Errorf("Checkpoint with the name of the draft: %v", err)
	}
}

func TestState(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	w.add("ib", "us")
	r := w.registry()
	s := create(t, r, func(q *soulbox.SessionRequest) {
		q.Variables = map[string]json.RawMessage{"a": json.RawMessage("1"), "b": json.RawMessage("2")}
	}, "ia", "ib")
	w.mu.Lock()
	w.boxes["ia"].state = soulbox.GuestState{
		Processes: []soulbox.GuestProcess{{PID: 1, Command: "sh", Dir: "/"}, {PID: 2, Command: "top", Dir: "/"}},
		Ports:     []soulbox.GuestPort{{Port: 80, Address: "0.0.0.0"}},
	}
	w.mu.Unlock()
	first, _, err := r.State(t.Context(), "us", s.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	again, none, err := r.State(t.Context(), "us", s.ID, first.Token)
	if err != nil || again.Token != first.Token || !none.Known || len(none.Started)+len(none.Ended)+len(none.Variables.Set) != 0 {
		t.Errorf("the same state again: %+v, %+v, %v", again, none, err)
	}
	w.mu.Lock()
	w.boxes["ia"].state = soulbox.GuestState{
		Processes: []soulbox.GuestProcess{{PID: 1, Command: "sh", Dir: "/tmp"}, {PID: 3, Command: "make", Dir: "/"}},
		Ports:     []soulbox.GuestPort{{Port: 8080, Address: "127.0.0.1"}},
	}
	w.mu.Unlock()
	if err := w.Pause(t.Context(), "us", "ib", true); err != nil {
		t.Fatal(err)
	}
	change := soulbox.SessionChange{Variables: map[string]json.RawMessage{"a": json.RawMessage("null"), "b": json.RawMessage(" 3 ")}}
	if _, err := r.Change(t.Context(), "us", s.ID, change); err != nil {
		t.Fatal(err)
	}
	w.close(r)
	r = w.registry()
	_, got, err := r.State(t.Context(), "us", s.ID, first.Token)
	if err != nil {
		t.Fatal(err)
	}
	want := &soulbox.StateDelta{
		Known: true, States: map[soulbox.SandboxID]soulbox.State{"ib": soulbox.Paused},
		Started: []soulbox.MemberProcess{{Sandbox: "ia", PID: 3, Command: "make", Dir: "/"}},
		Ended:   []soulbox.MemberProcess{{Sandbox: "ia", PID: 2, Command: "top", Dir: "/"}},
		Changed: []soulbox.MemberProcess{{Sandbox: "ia", PID: 1, Command: "sh", Dir: "/tmp"}},
		Opened:  []soulbox.MemberPort{{Sandbox: "ia", Port: 8080, Address: "127.0.0.1"}},
		Closed:  []soulbox.MemberPort{{Sandbox: "ia", Port: 80, Address: "0.0.0.0"}},
	}
	want.Variables.Set = map[string]json.RawMessage{"b": json.RawMessage("3")}
	want.Variables.Removed = []string{"a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what changed (-want +got):\n%s", diff)
	}
	_, unknown, err := r.State(t.Context(), "us", s.ID, strings.Repeat("0", 20))
	if err != nil || unknown.Known {
		t.Errorf("an unknown token: %+v, %v", unknown, err)
	}
	_, _, err = r.State(t.Context(), "us", s.ID, "../../../etc/passwd")
	wantKind(t, "State since nonsense", err, soulbox.Invalid)
}

func TestForeignTeam(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	w.add("itheirs", "them")
	r := w.registry()
	s := create(t, r, nil, "ia")
	ctx := t.Context()
	for what, do := range map[string]func() error{
		"Get":       func() error { _, err := r.Get(ctx, "them", s.ID); return err },
		"Change":    func() error { _, err := r.Change(ctx, "them", s.ID, soulbox.SessionChange{}); return err },
		"Heartbeat": func() error { _, _, err := r.Heartbeat(ctx, "them", s.ID, true); return err },
		"End":       func() error { _, err := r.End(ctx, "them", s.ID, soulbox.AbsenceKills); return err },
		"Add":       func() error { _, err := r.Add(ctx, "them", s.ID, "itheirs"); return err },
		"Remove":    func() error { _, err := r.Remove(ctx, "them", s.ID, "ia"); return err },
		"Run": func() error {
			_, err := r.Run(ctx, "them", s.ID, soulbox.SessionCommand{Args: []string{"a"}})
			return err
		},
		"State":                    func() error { _, _, err := r.State(ctx, "them", s.ID, ""); return err },
		"Checkpoint":               func() error { _, err := r.Checkpoint(ctx, "them", s.ID, ""); return err },
		"Resume":                   func() error { _, err := r.Resume(ctx, "them", s.ID, ""); return err },
		"Events":                   func() error { return r.Events(ctx, "them", s.ID, 0, nil, nil) },
		"Add of a foreign sandbox": func() error { _, err := r.Add(ctx, "us", s.ID, "itheirs"); return err },
		"Create with a foreign sandbox": func() error {
			_, err := r.Create(ctx, soulbox.SessionRequest{Team: "us", Sandboxes: []soulbox.SandboxID{"itheirs"}})
			return err
		},
	} {
		wantKind(t, what, do(), soulbox.NotFound)
	}
	if got := w.state("ia"); got != soulbox.Running {
		t.Errorf("the sandbox is %s", got)
	}
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	r := w.registry()
	big := strings.Repeat("x", 70<<10)
	for name, test := range map[string]struct {
		q    soulbox.SessionRequest
		want soulbox.Kind
	}{
		"too long":        {soulbox.SessionRequest{Lifetime: 31 * 24 * time.Hour}, soulbox.Invalid},
		"over already":    {soulbox.SessionRequest{Lifetime: -time.Second}, soulbox.Invalid},
		"heartbeat":       {soulbox.SessionRequest{Heartbeat: soulbox.Heartbeat{Then: "dance"}}, soulbox.Invalid},
		"twice":           {soulbox.SessionRequest{Sandboxes: []soulbox.SandboxID{"ia", "ia"}}, soulbox.Invalid},
		"no id":           {soulbox.SessionRequest{Sandboxes: []soulbox.SandboxID{"../x"}}, soulbox.Invalid},
		"unknown":         {soulbox.SessionRequest{Sandboxes: []soulbox.SandboxID{"inone"}}, soulbox.NotFound},
		"relative":        {soulbox.SessionRequest{Watch: []string{"src"}}, soulbox.Invalid},
		"climbing":        {soulbox.SessionRequest{Watch: []string{"/a/../b"}}, soulbox.Invalid},
		"much metadata":   {soulbox.SessionRequest{Metadata: map[string]string{"a": big}}, soulbox.TooLarge},
		"NUL":             {soulbox.SessionRequest{Metadata: map[string]string{"a": "\x00"}}, soulbox.Invalid},
		"no JSON":         {soulbox.SessionRequest{Variables: map[string]json.RawMessage{"a": json.RawMessage("{")}}, soulbox.Invalid},
		"many variables":  {soulbox.SessionRequest{Variables: map[string]json.RawMessage{"a": json.RawMessage(`"` + big + `"`)}}, soulbox.TooLarge},
		"unnamed":         {soulbox.SessionRequest{Variables: map[string]json.RawMessage{"": json.RawMessage("1")}}, soulbox.Invalid},
		"NUL in variable": {soulbox.SessionRequest{Variables: map[string]json.RawMessage{"a": json.RawMessage(`"\u0000"`)}}, soulbox.Invalid},
	} {
		test.q.Team = "us"
		_, err := r.Create(t.Context(), test.q)
		wantKind(t, name, err, test.want)
	}
	if page, err := r.List(t.Context(), soulbox.SessionFilter{Team: "us", Ended: true}); err != nil || len(page.Sessions) != 0 {
		t.Errorf("%d sessions are left, %v", len(page.Sessions), err)
	}
	s := create(t, r, nil, "ia")
	_, err := r.Create(t.Context(), soulbox.SessionRequest{Team: "us", Sandboxes: []soulbox.SandboxID{"ia"}})
	wantKind(t, "Create with a sandbox of another session", err, soulbox.Conflict)
	wantKind(t, "Events from the future", r.Events(t.Context(), "us", s.ID, 99, nil, nil), soulbox.Invalid)
	_, err = r.Get(t.Context(), "us", "../../etc")
	wantKind(t, "Get of nonsense", err, soulbox.NotFound)
}

// TestReaders has as many who read a session as may, and one more.
func TestReaders(t *testing.T) {
	r := newWorld(t).registry()
	s := create(t, r, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var here, done sync.WaitGroup
	for range 256 {
		here.Add(1)
		done.Go(func() {
			_ = r.Events(ctx, "us", s.ID, 0, func() error { return nil }, func(soulbox.SessionEvent) error { // ends with ctx
				here.Done()
				return nil
			})
		})
	}
	here.Wait()
	err := r.Events(ctx, "us", s.ID, 0, nil, nil)
	wantKind(t, "Events for one more", err, soulbox.Exhausted)
	cancel()
	done.Wait()
	if got := events(t, r, s.ID, 0); len(got) != 1 {
		t.Errorf("%d events are read after that, want 1", len(got))
	}
}

// TestStream reads while things happen, and the server stops.
func TestStream(t *testing.T) {
	w := newWorld(t)
	w.add("ia", "us")
	r := w.registry()
	s := create(t, r, nil, "ia")
	got := make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- r.Events(context.Background(), "us", s.ID, 2, func() error { return nil }, func(e soulbox.SessionEvent) error {
			got <- line(e)
			return nil
		})
	}()
	for i := range 50 {
		w.happen("ia", say(fmt.Sprint(i)))
		if want := fmt.Sprintf("ia says %d", i); <-got != want {
			t.Fatalf("event %d is not %q", i, want)
		}
	}
	broken := errors.New("the client is gone")
	if err := r.Events(t.Context(), "us", s.ID, 0, nil, func(soulbox.SessionEvent) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Events = %v, want what each said", err)
	}
	r.Disconnect()
	if err := <-done; soulbox.KindOf(err) != soulbox.Unavailable {
		t.Errorf("the stream ended with %v, want Unavailable", err)
	}
}
