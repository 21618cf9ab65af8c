package session_test

import (
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session"
)

// TestDiedInBetween has records that a server left which died before it wrote
// the events.
func TestDiedInBetween(t *testing.T) {
	ctx := t.Context()
	t.Run("a session without a log", func(t *testing.T) {
		w := newWorld(t)
		s := &soulbox.Session{
			ID: soulbox.NewSessionID(), Team: "us", CreatedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
			Heartbeat: soulbox.Heartbeat{Interval: time.Minute, Timeout: time.Minute, Then: soulbox.AbsencePauses},
		}
		if err := w.store.InsertSession(ctx, s); err != nil {
			t.Fatal(err)
		}
		r := w.registry()
		if _, _, err := r.Heartbeat(ctx, "us", s.ID, false); err != nil {
			t.Error(err)
		}
		wantLines(t, r, s.ID)
	})
	t.Run("joined", func(t *testing.T) {
		w := newWorld(t)
		w.add("ia", "us")
		w.add("iold", "us")
		r := w.registry()
		s := create(t, r, nil)
		w.close(r)
		if err := w.Kill(ctx, "us", "iold", soulbox.ByClient, "enough"); err != nil {
			t.Fatal(err)
		}
		for _, id := range []soulbox.SandboxID{"ia", "iold"} {
			if err := w.store.JoinSession(ctx, s.ID, id, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		r = w.registry()
		eventually(t, "it is all told", func() bool { return len(events(t, r, s.ID, 0)) == 4 })
		eventually(t, "the record is on", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.boxes["ia"].on
		})
		w.happen("ia", say("one"))
		eventually(t, "what happens is told", func() bool { return len(events(t, r, s.ID, 4)) == 1 })
		w.close(r)
		if got := events(t, w.registry(), s.ID, 0); len(got) != 5 {
			t.Errorf("after another start there are %d events, want 5", len(got))
		}
	})
	t.Run("left", func(t *testing.T) {
		w := newWorld(t)
		w.add("ia", "us")
		r := w.registry()
		s := create(t, r, nil, "ia")
		w.close(r)
		if err := w.store.LeaveSession(ctx, s.ID, "ia", time.Now()); err != nil {
			t.Fatal(err)
		}
		lines := []string{"session_started", "ia sandbox_joined", "ia sandbox_left"}
		r = w.registry()
		wantLines(t, r, s.ID, lines...)
		w.close(r)
		wantLines(t, w.registry(), s.ID, lines...)
	})
	t.Run("ended", func(t *testing.T) {
		w := newWorld(t)
		w.add("ia", "us")
		r := w.registry()
		s := create(t, r, nil, "ia")
		w.close(r)
		if err := w.store.EndSession(ctx, s.ID, soulbox.End{At: time.Now(), By: soulbox.ByClient, Reason: "done"}); err != nil {
			t.Fatal(err)
		}
		r = w.registry()
		for range 2 {
			wantLines(t, r, s.ID, "session_started", "ia sandbox_joined", "session_ended")
		}
		create(t, r, nil, "ia") // it is free
	})
}

// TestPrune forgets what ended long ago, and its log.
func TestPrune(t *testing.T) {
	w := newWorld(t)
	r := w.registry()
	s := create(t, r, nil)
	if _, err := r.End(t.Context(), "us", s.ID, ""); err != nil {
		t.Fatal(err)
	}
	w.close(r)
	r = w.registry(func(o *session.Options) { o.Retention = time.Nanosecond })
	eventually(t, "it is forgotten", func() bool {
		_, err := r.Get(t.Context(), "us", s.ID)
		return soulbox.KindOf(err) == soulbox.NotFound
	})
}
