package server_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// cable is a network between a client and a server, which can be cut. The
// server behind it may be another one after that.
type cable struct {
	lis net.Listener
	wg  sync.WaitGroup

	mu    sync.Mutex
	to    string // where the server listens; empty: nobody does
	conns map[net.Conn]bool
}

func newCable(t *testing.T) *cable {
	t.Helper()
	var listen net.ListenConfig
	lis, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{lis: lis, conns: map[net.Conn]bool{}}
	c.wg.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = lis.Close()
		c.cut()
		c.wg.Wait()
	})
	return c
}

func (c *cable) url() string { return "http://" + c.lis.Addr().String() }

// plug connects the cable to a server.
func (c *cable) plug(t *testing.T, s *servertest.Server) {
	t.Helper()
	at, _ := s.Credentials(t)
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = u.Host
}

// cut ends all connections, and nobody answers until it is plugged in again.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = ""
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *cable) carry(near net.Conn) {
	c.mu.Lock()
	to := c.to
	c.mu.Unlock()
	far, err := net.Dial("tcp", to)
	if err != nil {
		_ = near.Close()
		return
	}
	c.mu.Lock()
	c.conns[near], c.conns[far] = true, true
	if c.to == "" {
		_, _ = near.Close(), far.Close()
	}
	c.mu.Unlock()
	var wg sync.WaitGroup
	for a, b := range map[net.Conn]net.Conn{near: far, far: near} {
		wg.Go(func() {
			_, _ = io.Copy(a, b)
			_, _ = a.Close(), b.Close()
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, near)
	delete(c.conns, far)
}

// chatty is a program that writes lines of different lengths for some seconds,
// of which no two are alike.
const (
	chattyLines = 4000
	chatty      = `import sys, time
for n in range(4000):
    sys.stdout.write("%d %s\n" % (n, "x" * (n * 7919 % 977)))
    if n % 20 == 0:
        sys.stdout.flush()
        time.sleep(0.03)
`
)

func chattyOutput() []byte {
	var b bytes.Buffer
	for n := range chattyLines {
		fmt.Fprintf(&b, "%d %s\n", n, bytes.Repeat([]byte("x"), n*7919%977))
	}
	return b.Bytes()
}

// TestSessionOutlivesNetworkAndServer follows a program in a session while the
// client's network is cut, the server is stopped and started, and killed and
// started. What arrives is what the program wrote, byte for byte.
func TestSessionOutlivesNetworkAndServer(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	wire := newCable(t)
	wire.plug(t, s)
	_, key := s.Credentials(t)
	c, err := client.New(client.Options{APIURL: wire.url(), APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	sb := create(t, c, time.Hour)
	session, err := c.Sessions.Create(ctx, client.SessionOptions{Sandboxes: []string{sb.ID}})
	if err != nil {
		t.Fatal(err)
	}
	id := string(session.ID)
	cmd, err := c.Sessions.Start(ctx, id, soulbox.SessionCommand{Args: []string{"python3", "-c", chatty}})
	if err != nil {
		t.Fatal(err)
	}

	mishaps := []func(){
		func() { wire.cut(); wire.plug(t, s) },
		func() { wire.cut(); s.Stop(t); s.Start(t); wire.plug(t, s) },
		func() { wire.cut(); s.Kill(); s.Start(t); wire.plug(t, s) },
		func() { s.Kill(); s.Start(t); wire.cut(); wire.plug(t, s) },
	}
	var got bytes.Buffer
	last, lost := cmd.After, 0
	ended := false
	o := client.EventsOptions{After: cmd.After, Follow: true, Lost: func(error, time.Duration) { lost++ }}
	for e, err := range c.Sessions.Events(ctx, id, o) {
		if err != nil {
			t.Fatalf("after %d bytes and %d connections that were lost: %v", got.Len(), lost, err)
		}
		if e.ID != last+1 {
			t.Fatalf("event %d comes after event %d", e.ID, last)
		}
		last = e.ID
		if e.Guest == nil || e.Guest.PID != cmd.PID {
			continue
		}
		if e.Guest.Kind == soulbox.EventOutput && e.Guest.Stream == "stdout" {
			got.Write(e.Guest.Data)
		}
		if e.Guest.Kind == soulbox.EventEnded {
			if e.Guest.ExitCode != 0 {
				t.Errorf("the program ended with %d", e.Guest.ExitCode)
			}
			ended = true
			break
		}
		if n := len(chattyOutput()) / 6; len(mishaps) > 0 && got.Len() > (5-len(mishaps))*n {
			mishaps[0]()
			mishaps = mishaps[1:]
		}
	}
	want := chattyOutput()
	if !ended || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes arrived (%x), ended: %v; want %d (%x)", got.Len(), sha256.Sum256(got.Bytes()), ended, len(want), sha256.Sum256(want))
	}
	if len(mishaps) > 0 || lost == 0 { // what it had received before hides some
		t.Errorf("%d mishaps did not happen, and the client noticed %d", len(mishaps), lost)
	}

	// Somebody who asks for all of it later gets the same.
	again := 0
	for e, err := range c.Sessions.Events(ctx, id, client.EventsOptions{After: cmd.After}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Guest != nil && e.Guest.PID == cmd.PID && e.Guest.Kind == soulbox.EventOutput {
			if !bytes.HasPrefix(want[again:], e.Guest.Data) {
				t.Fatalf("at byte %d the log has something else", again)
			}
			again += len(e.Guest.Data)
		}
	}
	if again != len(want) {
		t.Errorf("the log has %d bytes, want %d", again, len(want))
	}
	s.Stop(t)
}

// TestSessionGoesBack takes a session back to a checkpoint, pauses what is in
// it, and looks at what its log and its state tell.
func TestSessionGoesBack(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	c := connect(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	one, two := create(t, c, time.Hour), create(t, c, time.Hour)
	session, err := c.Sessions.Create(ctx, client.SessionOptions{Sandboxes: []string{one.ID, two.ID}, Watch: []string{"/home/user"}})
	if err != nil {
		t.Fatal(err)
	}
	id := string(session.ID)
	run(t, one, "echo before > /home/user/note")
	if _, err := c.Sessions.Checkpoint(ctx, id, "good"); err != nil {
		t.Fatal(err)
	}
	run(t, one, "echo after > /home/user/note")
	results, err := c.Sessions.Resume(ctx, id, "good")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Errorf("resume of %s: %v", r.Sandbox, r.Err)
		}
	}
	if got := run(t, reach(t, c, one.ID), "cat /home/user/note"); got != "before\n" {
		t.Errorf("the note says %q", got)
	}
	if err := c.Sandboxes.Pause(ctx, two.ID, client.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Sessions.Heartbeat(ctx, id, true); err != nil {
		t.Fatal(err)
	}
	want := map[soulbox.SessionEventKind]bool{
		soulbox.SessionEventKind(soulbox.EventFile): true, soulbox.SessionEventKind(soulbox.EventStarted): true,
		soulbox.SessionCheckpoint: true, soulbox.SandboxRolledBack: true, soulbox.EventsUndone: true,
		soulbox.SandboxPaused: true, soulbox.SandboxResumed: true,
	}
	for e, err := range c.Sessions.Events(ctx, id, client.EventsOptions{Follow: true}) {
		if err != nil {
			t.Fatalf("%v, and these events did not come: %v", err, want)
		}
		if delete(want, e.Kind); len(want) == 0 {
			break
		}
	}
	if state, err := c.Sessions.State(ctx, id, ""); err != nil || !bytes.Contains(state, []byte(`"state":"running"`)) {
		t.Errorf("the state is %s, %v", state, err)
	}
	if results, err = c.Sessions.End(ctx, id, soulbox.AbsenceKills); err != nil || len(results) != 2 {
		t.Errorf("End = %v, %v", results, err)
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}

// TestSessionLeavesWorkAlone lets a client go whose sandboxes are to be paused
// then: one that idles is, and one that works is not, until its work is done.
func TestSessionLeavesWorkAlone(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	c := connect(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	idle, busy := create(t, c, time.Hour), create(t, c, time.Hour)
	session, err := c.Sessions.Create(ctx, client.SessionOptions{
		Sandboxes: []string{idle.ID, busy.ID}, Heartbeat: soulbox.Heartbeat{Interval: time.Second, Timeout: 2 * time.Second},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := string(session.ID)
	work, err := c.Sessions.Start(ctx, id, soulbox.SessionCommand{
		Sandbox: soulbox.SandboxID(busy.ID), Args: []string{"python3", "-c", "import os\nwhile not os.path.exists('/tmp/enough'): pass"},
	})
	if err != nil {
		t.Fatal(err)
	}
	paused := map[soulbox.SandboxID]bool{}
	for e, err := range c.Sessions.Events(ctx, id, client.EventsOptions{After: work.After, Follow: true}) {
		if err != nil {
			t.Fatalf("%v, and paused are %v", err, paused)
		}
		if e.Kind != soulbox.SandboxPaused {
			continue
		}
		paused[e.Sandbox] = true
		if e.Sandbox == soulbox.SandboxID(busy.ID) {
			break
		}
		if info, err := c.Sandboxes.Get(ctx, busy.ID); err != nil || info.State != soulbox.Running {
			t.Errorf("the one that works is %v, %v", info, err)
		}
		run(t, busy, "touch /tmp/enough")
	}
	if !paused[soulbox.SandboxID(idle.ID)] {
		t.Error("the one that works was paused before the one that idles")
	}
	s.Stop(t)
}

// TestSessionKilledAtEachStep kills the server with SIGKILL in the middle of
// what it does to sessions, starts it again, and looks whether the session is
// whole, and its log without a hole or a repetition.
func TestSessionKilledAtEachStep(t *testing.T) {
	t.Parallel()
	s := servertest.New(t)
	for _, step := range []string{
		"session/recorded", "session/joined", "session/left", "session/stored@40", "session/drafted", "session/saved", "session/rolledback", "session/ended",
	} {
		t.Run(step, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			s.Start(t)
			c := connect(t, s)
			one, two := create(t, c, time.Hour), create(t, c, time.Hour)
			made, err := c.Sessions.Create(ctx, client.SessionOptions{Sandboxes: []string{one.ID}})
			if err != nil {
				t.Fatal(err)
			}
			id := string(made.ID)
			if _, err := c.Sessions.Checkpoint(ctx, id, "before"); err != nil {
				t.Fatal(err)
			}
			s.Stop(t)

			s.Start(t, "SOULBOX_FAULT="+step)
			c = connect(t, s)
			var cmd *soulbox.StartedCommand
			switch step {
			case "session/recorded":
				_, err = c.Sessions.Create(ctx, client.SessionOptions{Sandboxes: []string{two.ID}})
			case "session/joined":
				_, err = c.Sessions.Add(ctx, id, two.ID)
			case "session/left":
				_, err = c.Sessions.Remove(ctx, id, one.ID)
			case "session/drafted", "session/saved":
				_, err = c.Sessions.Checkpoint(ctx, id, "later")
			case "session/rolledback":
				_, err = c.Sessions.Resume(ctx, id, "before")
			case "session/ended":
				_, err = c.Sessions.End(ctx, id, "")
			default:
				// The answer may come before or after the death.
				cmd, _ = c.Sessions.Start(ctx, id, soulbox.SessionCommand{Args: []string{"python3", "-c", chatty}})
				err = io.EOF
			}
			if end := s.WaitEnd(); end == nil || err == nil {
				t.Fatalf("the server ended with %v and answered with %v, want that it is killed at the step", end, err)
			}

			s.Start(t)
			c = connect(t, s)
			now, err := c.Sessions.Get(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			kinds, last, ended := map[soulbox.SessionEventKind]int{}, uint64(0), false
			var got bytes.Buffer
			for e, err := range c.Sessions.Events(ctx, id, client.EventsOptions{Follow: cmd != nil}) {
				if err != nil {
					t.Fatal(err)
				}
				if e.ID != last+1 {
					t.Fatalf("event %d comes after event %d", e.ID, last)
				}
				last = e.ID
				kinds[e.Kind]++
				if cmd != nil && e.Guest != nil && e.Guest.PID == cmd.PID {
					got.Write(e.Guest.Data)
					if ended = e.Guest.Kind == soulbox.EventEnded; ended {
						break
					}
				}
			}
			if cmd != nil && !bytes.Equal(got.Bytes(), chattyOutput()) {
				t.Errorf("%d bytes arrived, want %d", got.Len(), len(chattyOutput()))
			}
			for kind, want := range map[soulbox.SessionEventKind]bool{
				soulbox.SandboxLeft: step == "session/left", soulbox.SessionEnded: step == "session/ended", soulbox.SandboxRolledBack: false,
			} {
				if (kinds[kind] == 1) != want && kind != soulbox.SandboxRolledBack || kinds[kind] > 1 {
					t.Errorf("%d events tell %s", kinds[kind], kind)
				}
			}
			if (now.End != nil) != (step == "session/ended") {
				t.Errorf("the session's end is %v", now.End)
			}
			saves, err := c.Sessions.Checkpoints(ctx, id)
			if err != nil || len(saves) != 1 || saves[0].Name != "before" {
				t.Errorf("the checkpoints are %v, %v", saves, err)
			}
			for _, sb := range []*client.Sandbox{reach(t, c, one.ID), reach(t, c, two.ID)} {
				all, err := c.Sandboxes.Checkpoints(ctx, sb.ID)
				if err != nil {
					t.Error(err)
				}
				for _, snap := range all {
					if snap.Name != "before" {
						t.Errorf("half a checkpoint is left: %+v", snap)
					}
				}
				run(t, sb, "true")
				if err := sb.Kill(ctx); err != nil {
					t.Error(err)
				}
			}
			for left, err := range c.Sessions.List(ctx, false) {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Sessions.End(ctx, string(left.ID), ""); err != nil {
					t.Error(err)
				}
			}
			s.Stop(t)
			s.WantNothingLeft(t)
		})
	}
}
