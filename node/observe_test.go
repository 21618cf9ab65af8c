package node_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/event"
	"github.com/soulbox/soulbox/node"
)

// observed answers for an agent whose record has three events.
func observed(w http.ResponseWriter, r *http.Request, failing int, hang bool) {
	switch {
	case hang:
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the client leaves
		<-r.Context().Done()
	case failing != 0:
		w.WriteHeader(failing)
	case r.URL.Path == "/soulbox/state":
		_, _ = io.WriteString(w, `{"at":"2026-01-02T12:00:00Z","processes":[{"pid":2,"ppid":1,"command":"sleep"}],"ports":[]}`)
	case r.URL.Path == "/soulbox/record/position":
		_, _ = io.WriteString(w, `{"epochs":[{"id":"first","from":1}],"head":3,"tail":1}`)
	case r.Method == http.MethodPost:
		if b, err := io.ReadAll(r.Body); err != nil || string(b) != `{"paths":["/a"]}` {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		var b []byte
		for seq := range uint64(3) {
			b = event.Append(b, &event.Event{Kind: event.Output, Seq: seq + 1, PID: 2, Stream: "stdout", Text: []byte{byte('a' + seq)}})
		}
		_, _ = w.Write(b) // which is nonsense unless it is asked for after=0
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// calls are those that ask a sandbox's agent.
func calls(n *node.Node, id soulbox.SandboxID) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Record":   func(ctx context.Context) error { return n.Record(ctx, id, []string{"/a"}) },
		"Position": func(ctx context.Context) error { _, err := n.Position(ctx, id); return err },
		"Observe":  func(ctx context.Context) error { _, err := n.Observe(ctx, id); return err },
		"Follow": func(ctx context.Context) error {
			return n.Follow(ctx, id, 0, func(soulbox.GuestEvent) error { return nil })
		},
	}
}

func TestObserve(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	for what, call := range calls(n, "inone") {
		if err := call(t.Context()); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("%s of a sandbox that is not there: %v", what, err)
		}
	}
	if err := n.Record(t.Context(), "ione", []string{"/a"}); err != nil {
		t.Error(err)
	}
	if err := n.Record(t.Context(), "ione", []string{"/b"}); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Record of what cannot be watched: %v", err)
	}
	if p, err := n.Position(t.Context(), "ione"); err != nil || p.Head != 3 || len(p.Epochs) != 1 {
		t.Errorf("position %+v, %v", p, err)
	}
	if s, err := n.Observe(t.Context(), "ione"); err != nil || len(s.Processes) != 1 || s.Processes[0].Command != "sleep" {
		t.Errorf("state %+v, %v", s, err)
	}
	for status, kind := range map[int]soulbox.Kind{401: soulbox.Unavailable, 404: soulbox.Conflict, 409: soulbox.Conflict, 500: soulbox.Unavailable} {
		w.agent.set(status, false)
		for what, call := range calls(n, "ione") {
			if err := call(t.Context()); soulbox.KindOf(err) != kind {
				t.Errorf("%s, answered with %d: %v", what, status, err)
			}
		}
	}
	w.agent.set(0, true)
	for what, call := range calls(n, "ione") {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s of an agent that hangs: %v", what, err)
		}
		cancel()
	}
	w.agent.set(0, false)
	destroy(t, n, "ione")
}

func TestFollow(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	w.create(t, n, "itwo")
	enough := errors.New("enough")
	var got string
	err := n.Follow(t.Context(), "ione", 0, func(e soulbox.GuestEvent) error {
		if got += string(e.Data); e.Seq == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || got != "ab" {
		t.Errorf("Follow: %q, %v; want what fn said", got, err)
	}
	if err := n.Follow(t.Context(), "ione", 1, func(soulbox.GuestEvent) error { return nil }); soulbox.KindOf(err) != soulbox.Unavailable {
		t.Errorf("Follow of nonsense: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = n.Follow(ctx, "ione", 0, func(e soulbox.GuestEvent) error {
		if e.Seq == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Follow with a context that ended: %v", err)
	}
	// Whoever follows hears of the sandbox's end, and of the node's.
	followUntil(t, n, "ione", func() { destroy(t, n, "ione") })
	followUntil(t, n, "itwo", func() { closeNode(t, n) })
}

// followUntil follows a sandbox, brings about its end after the third event,
// and wants to hear of it.
func followUntil(t *testing.T, n *node.Node, id soulbox.SandboxID, end func()) {
	t.Helper()
	there, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- n.Follow(t.Context(), id, 0, func(e soulbox.GuestEvent) error {
			if e.Seq == 3 {
				close(there)
			}
			return nil
		})
	}()
	select {
	case <-there:
	case <-time.After(patience):
		t.Fatalf("%s has no events", id)
	}
	end()
	select {
	case err := <-over:
		if soulbox.KindOf(err) != soulbox.Unavailable {
			t.Errorf("Follow of %s until its end: %v", id, err)
		}
	case <-time.After(patience):
		t.Fatalf("Follow of %s does not end", id)
	}
}

// said returns what the agents were told about the record since the last call.
func (a *agent) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	said := strings.Join(a.told, " ")
	a.told = nil
	return said
}

// A record is held back while a snapshot is written, and shown again if the
// sandbox runs on, whatever happens.
func TestRecordIsHeld(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	want := func(when, said string) {
		t.Helper()
		if got := w.agent.said(); got != said {
			t.Errorf("%s: the agent was told %q, want %q", when, got, said)
		}
	}
	save := func(hold bool) error {
		snap := &soulbox.Snapshot{ID: soulbox.NewSnapshotID(), Sandbox: "ione", Memory: true, Secure: true}
		_, err := n.Snapshot(t.Context(), "ione", snap, hold)
		return err
	}
	if err := save(false); err != nil {
		t.Error(err)
	}
	want("a checkpoint", "hold release")
	if err := save(true); err != nil {
		t.Error(err)
	}
	want("a pause", "hold")
	if err := errors.Join(save(true), n.Thaw(t.Context(), "ione")); err != nil {
		t.Error(err)
	}
	want("another and a thaw", "release")
	broken := errors.New("broken")
	for _, hold := range []bool{false, true} {
		w.driver.fails.Store(&failure{save: broken})
		if err := save(hold); !errors.Is(err, broken) {
			t.Errorf("a snapshot that fails: %v", err)
		}
		w.driver.fails.Store(nil)
		want("a snapshot that failed", "hold release")
	}
	w.driver.fails.Store(&failure{freeze: broken})
	if err := save(true); !errors.Is(err, broken) {
		t.Errorf("a pause that fails: %v", err)
	}
	w.driver.fails.Store(nil)
	want("a pause that failed", "hold release")

	// An agent that does not listen is told again when somebody wants to know.
	w.agent.set(http.StatusInternalServerError, false)
	if err := save(false); err != nil {
		t.Error(err)
	}
	want("an agent that fails", "hold release")
	w.agent.set(0, false)
	for range 2 {
		if _, err := n.Position(t.Context(), "ione"); err != nil {
			t.Error(err)
		}
	}
	want("the next question", "release")

	// So is one whose node died, whatever it was about to do.
	closeNode(t, n)
	n = w.open(t)
	for range 2 {
		err := n.Follow(t.Context(), "ione", 0, func(soulbox.GuestEvent) error { return io.EOF })
		if !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	want("after a restart", "release")
	destroy(t, n, "ione")
}
