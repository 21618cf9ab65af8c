package fleet_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/internal/fault"
)

// The test binary is also the server that dies: these tell it where.
const (
	crashStep = "FLEET_TEST_CRASH"
	crashDir  = "FLEET_TEST_DIR"
)

func TestMain(m *testing.M) {
	if step := os.Getenv(crashStep); step != "" {
		crash(step, os.Getenv(crashDir))
		os.Exit(1) // we should not have come here
	}
	// A run of the state machine writes some hundred records; 10 are enough
	// for every day. -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "10"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// crash lives a whole life, and dies at a step of it.
func crash(step, dir string) {
	t := &tb{}
	ctx := context.Background()
	h := build(ctx, t, dir)
	h.node.disk(dir)
	h.opts.Faults = fault.Arm(step)
	h.Fleet = fleet.New(h.opts)
	h.start()

	h.create() // stays
	short := request()
	short.Timeout = 10 * time.Millisecond
	if _, err := h.Create(ctx, short); err != nil { // expires
		panic(err)
	}
	h.node.die(h.create().ID, soulbox.ByCrash, "died") // exits
	h.node.onCreate = func(context.Context, *soulbox.Sandbox) error { return errors.New("no") }
	_, _ = h.Create(ctx, request()) // is undone
	h.node.onCreate = nil
	_ = h.Kill(ctx, "us", h.create().ID, soulbox.ByClient, "killed")
	time.Sleep(10 * time.Second)
}

// tb is a tester for a process that is no test.
type tb struct{ tester }

func (*tb) Helper()           {}
func (*tb) Fatal(args ...any) { panic(args) }

// TestKill9 kills the server at each step of each path, starts it again, and
// wants every record and every sandbox to agree.
func TestKill9(t *testing.T) {
	for _, test := range []struct {
		step    string
		survive int // how many sandboxes must run afterwards, at least
	}{
		{"create/validated", 0},
		{"create/recorded", 0},
		{"create/started", 0},
		{"create/running", 1}, // the record says it runs, so it does
		{"create/validated@2", 1},
		{"create/recorded@2", 1},
		{"create/started@2", 1},
		{"expire/recorded", 1},
		{"expire/destroyed", 1},
		{"exit/recorded", 1},
		{"exit/destroyed", 1},
		{"undo/recorded", 1},
		{"undo/destroyed", 1},
		{"kill/recorded", 1},
		{"kill/destroyed", 1},
	} {
		t.Run(test.step, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), crashStep+"="+test.step, crashDir+"="+dir)
			out, err := cmd.CombinedOutput()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the server did not die at %s: %v\n%s", test.step, err, out)
			}

			h := build(t.Context(), t, dir)
			h.node.disk(dir)
			t.Cleanup(func() { h.store.Close() })
			t.Cleanup(func() { h.Close() })
			h.start()
			var running []soulbox.SandboxID
			eventually(t, "records and node agree", func() bool {
				running = nil
				for _, sb := range h.records("us") {
					switch {
					case sb.State == soulbox.Running && time.Now().Before(sb.ExpiresAt):
						running = append(running, sb.ID)
					case sb.State != soulbox.Ended:
						return false
					}
				}
				slices.Sort(running)
				return slices.Equal(running, h.node.Sandboxes())
			})
			if len(running) < test.survive {
				t.Errorf("%d sandboxes survived, want %d", len(running), test.survive)
			}
			for _, sb := range h.records("us") {
				if sb.State == soulbox.Ended && (sb.End == nil || sb.End.By == "" || sb.End.Reason == "" || sb.End.At.IsZero()) {
					t.Errorf("sandbox %s ended without saying why: %+v", sb.ID, sb.End)
				}
			}
		})
	}
}
