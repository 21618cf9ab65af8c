package server_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// steps are those at which the server is killed, each with what it is doing.
var steps = []struct{ name, during string }{
	{"create/validated", "create"},
	{"create/recorded", "create"},
	{"node/leased", "create"},
	{"node/recorded", "create"},
	{"node/grouped", "create"},
	{"sentry/named", "create"},
	{"sentry/recorded", "create"},
	{"sentry/booted", "create"},
	{"sentry/saved", "create"},
	{"sentry/running", "create"},
	{"node/started", "create"},
	{"node/initialised", "create"},
	{"create/started", "create"},
	{"create/running", "create"},
	{"kill/recorded", "kill"},
	{"node/destroyed", "kill"},
	{"kill/destroyed", "kill"},
	{"expire/recorded", "expire"},
	{"expire/destroyed", "expire"},
}

// TestKilledAtEachStep kills the server with SIGKILL in the middle of a
// create, a kill and an expiry, starts it again, and looks whether a sandbox
// that nothing happened to still answers, whether each other one is either
// whole or gone, and whether anything is left over.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	s := servertest.New(t)
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			s.Start(t)
			bystander := create(t, connect(t, s), time.Hour)
			victim := create(t, connect(t, s), time.Hour)
			run(t, bystander, "echo still here > note")
			s.Stop(t)

			s.Start(t, "SOULBOX_FAULT="+step.name)
			c := connect(t, s)
			var err error
			switch step.during {
			case "create":
				_, err = c.Sandboxes.Create(t.Context(), client.CreateOptions{Timeout: time.Hour})
			case "kill":
				err = c.Sandboxes.Kill(t.Context(), victim.ID)
			case "expire":
				// The answer may come before or after the death.
				_ = c.Sandboxes.SetTimeout(t.Context(), victim.ID, time.Second)
			}
			if err := s.WaitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the server ended with %v, want killed at the step", err)
			}
			if err == nil && step.during == "create" {
				t.Error("the client was told that the sandbox exists, by a dead server")
			}

			s.Start(t)
			c = connect(t, s)
			alive := map[string]bool{}
			for info, err := range c.Sandboxes.List(t.Context(), client.ListOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				alive[info.ID] = true
				sb, err := c.Sandboxes.Connect(t.Context(), info.ID, time.Hour)
				if err != nil {
					t.Fatalf("connect to %s, which is listed: %v", info.ID, err)
				}
				run(t, sb, "true")
			}
			if !alive[bystander.ID] {
				t.Error("the sandbox that nothing happened to is gone")
			} else if got := run(t, reach(t, c, bystander.ID), "cat note"); got != "still here\n" {
				t.Errorf("its file holds %q", got)
			}
			if step.during == "create" != alive[victim.ID] {
				t.Errorf("the other sandbox lives: %v, although the server was killed during %s", alive[victim.ID], step.during)
			}
			if !alive[victim.ID] {
				wantEnd(t, c, victim.ID)
			}
			for id := range alive {
				if err := c.Sandboxes.Kill(t.Context(), id); err != nil {
					t.Errorf("kill %s: %v", id, err)
				}
			}
			s.Stop(t)
			s.WantNothingLeft(t)
		})
	}
}

// ticker is a program that writes the time into a file twice a second. Whoever
// reads the file never sees it half written.
const ticker = `exec python3 -c '
import os, time
while True:
    with open("next", "w") as f:
        f.write(str(time.time_ns()))
    os.replace("next", "tick")
    time.sleep(0.5)
'`

// TestKilledUnderLoad kills the server while 50 sandboxes run programs.
func TestKilledUnderLoad(t *testing.T) {
	const sandboxes = 50
	s := servertest.New(t)
	s.Start(t)
	c := connect(t, s)
	ids := make([]string, sandboxes)
	var wg sync.WaitGroup
	limit := make(chan struct{}, 4)
	for i := range ids {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			sb := create(t, c, time.Hour)
			if _, err := sb.Start(t.Context(), ticker, client.RunOptions{}); err != nil {
				t.Errorf("start a program: %v", err)
			}
			ids[i] = sb.ID
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	// Commands are under way when the server dies.
	ctx, stop := context.WithCancel(t.Context())
	for i := range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				sb, err := c.Sandboxes.Connect(ctx, ids[i], time.Hour)
				if err == nil {
					_, _ = sb.Run(ctx, "true", client.RunOptions{}) // fails when the server dies
				}
			}
		})
	}
	time.Sleep(time.Second)
	s.Kill()
	stop()
	wg.Wait()

	s.Start(t)
	c = connect(t, s)
	for _, id := range ids {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			sb, err := c.Sandboxes.Connect(t.Context(), id, time.Hour)
			if err != nil {
				t.Errorf("sandbox %s is lost: %v", id, err)
				return
			}
			before := run(t, sb, "cat tick")
			after := run(t, sb, "sleep 2; cat tick")
			if before == after || before == "" {
				t.Errorf("the program of sandbox %s does not run any more: %q, then %q", id, before, after)
			}
			if err := c.Sandboxes.Kill(t.Context(), id); err != nil {
				t.Errorf("kill %s: %v", id, err)
			}
		})
	}
	wg.Wait()
	s.Stop(t)
	s.WantNothingLeft(t)
}

func connect(t *testing.T, s *servertest.Server) *client.Client {
	t.Helper()
	url, key := s.Credentials(t)
	c, err := client.New(client.Options{APIURL: url, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func create(t *testing.T, c *client.Client, timeout time.Duration) *client.Sandbox {
	t.Helper()
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Timeout: timeout})
	if err != nil {
		t.Errorf("create: %v", err)
		t.FailNow()
	}
	return sb
}

func reach(t *testing.T, c *client.Client, id string) *client.Sandbox {
	t.Helper()
	sb, err := c.Sandboxes.Connect(t.Context(), id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

func run(t *testing.T, sb *client.Sandbox, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	res, err := sb.Run(ctx, line, client.RunOptions{})
	if err != nil {
		t.Errorf("%s in %s: %v", line, sb.ID, err)
		return ""
	}
	return res.Stdout
}

// wantEnd asks what became of a sandbox that is gone, or is going.
func wantEnd(t *testing.T, c *client.Client, id string) {
	t.Helper()
	var info *client.Info
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var err error
		if info, err = c.Sandboxes.Get(t.Context(), id); err != nil {
			t.Errorf("ask for the ended sandbox: %v", err)
			return
		}
		if info.State == soulbox.Ended && info.End != nil && info.End.Reason != "" {
			return
		}
	}
	t.Errorf("the ended sandbox is %s, with the end %+v", info.State, info.End)
}
