package server_test

import (
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// warmed returns a client once a sandbox is served that was made ahead: its
// folder was there before anybody asked.
func warmed(t *testing.T, s *servertest.Server) {
	t.Helper()
	for end := time.Now().Add(time.Minute); len(s.Folders(t)) == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no sandbox was made ahead within a minute")
		}
	}
	time.Sleep(time.Second) // the first folder is there before its sandbox
}

// A sandbox that was made ahead is in nothing different from one that was not.
func TestWarm(t *testing.T) {
	s := servertest.New(t)
	s.Warm = true
	s.Start(t)
	c := connect(t, s)
	warmed(t, s)
	before := s.Folders(t)

	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Timeout: time.Hour, Env: map[string]string{"GREETING": "hello"}})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, folder := range before {
		found = found || strings.HasSuffix(folder, "/"+sb.ID)
	}
	if !found {
		t.Errorf("%s was not among %v, which were made ahead", sb.ID, before)
	}
	if got := run(t, sb, "echo $E2B_SANDBOX_ID $GREETING $(whoami) $(hostname)"); got != sb.ID+" hello user sandbox\n" {
		t.Errorf("it says that it is %q", got)
	}
	other := create(t, c, time.Hour)
	const random = "cat /proc/sys/kernel/random/uuid; python3 -c 'import random; print(random.random())'"
	if a, b := run(t, sb, random), run(t, other, random); a == b {
		t.Errorf("two sandboxes have the same randomness: %q", a)
	}
	for info, err := range c.Sandboxes.List(t.Context(), client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if info.ID != sb.ID && info.ID != other.ID {
			t.Errorf("%s is listed, which is nobody's", info.ID)
		}
	}
	for _, id := range []string{sb.ID, other.ID} {
		if err := c.Sandboxes.Kill(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}

// TestKilledAroundWarm kills the server when a sandbox has just been made
// ahead, and when somebody has just been given one.
func TestKilledAroundWarm(t *testing.T) {
	t.Parallel()
	s := servertest.New(t)
	s.Warm = true
	for _, step := range []string{"node/warm@2", "node/claimed"} {
		t.Run(step, func(t *testing.T) {
			s.Start(t)
			bystander := create(t, connect(t, s), time.Hour)
			run(t, bystander, "echo still here > note")
			s.Stop(t)

			if err := s.TryStart("SOULBOX_FAULT=" + step); err == nil && step == "node/claimed" {
				c := connect(t, s)
				warmed(t, s)
				if _, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Timeout: time.Hour}); err == nil {
					t.Error("the client was told that the sandbox exists, by a dead server")
				}
			}
			if err := s.WaitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the server ended with %v, want killed at the step", err)
			}

			s.Start(t)
			c := connect(t, s)
			var alive []string
			for info, err := range c.Sandboxes.List(t.Context(), client.ListOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				alive = append(alive, info.ID)
			}
			if len(alive) != 1 || alive[0] != bystander.ID {
				t.Errorf("%v live, want only %s", alive, bystander.ID)
			} else if got := run(t, reach(t, c, bystander.ID), "cat note"); got != "still here\n" {
				t.Errorf("its file holds %q", got)
			}
			for _, id := range alive {
				if err := c.Sandboxes.Kill(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			s.Stop(t)
			s.WantNothingLeft(t)
		})
	}
}
