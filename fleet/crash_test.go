package fleet_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
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
	crashLife = "FLEET_TEST_LIFE" // which life it lives; if empty, a short one
)

func TestMain(m *testing.M) {
	if step := os.Getenv(crashStep); step != "" {
		dir := os.Getenv(crashDir)
		switch os.Getenv(crashLife) {
		case "long":
			crashAsleep(step, dir)
		case "removing":
			crashRemoving(step, dir, false)
		case "removing at work":
			crashRemoving(step, dir, true)
		default:
			crash(step, dir)
		}
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

// dieAndRise lets a server die at a step of a life, and returns the next one.
func dieAndRise(t *testing.T, step, life string) *house {
	t.Helper()
	dir := folder(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashStep+"="+step, crashDir+"="+dir, crashLife+"="+life)
	out, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the server did not die at %s: %v\n%s", step, err, out)
	}
	h := build(t.Context(), t, dir)
	h.node.disk(dir)
	t.Cleanup(func() { h.store.Close() })
	t.Cleanup(func() { h.Close() })
	h.start()
	return h
}

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
			h := dieAndRise(t, test.step, "")
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

// crashAsleep lives a life of pauses and copies, and dies at a step of it.
func crashAsleep(step, dir string) {
	ctx := context.Background()
	h := build(ctx, &tb{}, dir)
	h.node.disk(dir)
	h.opts.Faults = fault.Arm(step)
	h.Fleet = fleet.New(h.opts)
	h.start()

	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	id := h.create().ID
	h.write(id, "a")
	must(h.Pause(ctx, "us", id, true))
	h.connect(id)
	h.write(id, "b")
	snap := h.checkpoint(id, "c")
	h.write(id, "c")
	_, err := h.Rollback(ctx, "us", id, snap.ID)
	must(err)
	h.write(id, "d")
	_, err = h.Fork(ctx, "us", id, 2, time.Minute)
	must(err)
	_, err = h.Snapshot(ctx, "us", id, "named")
	must(err)
	must(h.Pause(ctx, "us", id, true))
	must(h.Kill(ctx, "us", id, soulbox.ByClient, "killed"))
	time.Sleep(10 * time.Second)
}

// TestKill9Asleep kills the server at each step of pausing, resuming and
// copying, starts it again, and wants every file where it belongs.
func TestKill9Asleep(t *testing.T) {
	const gone = "gone"
	for _, test := range []struct {
		step        string
		state       soulbox.State // of the sandbox, in the end
		files       string        // that it has when it runs
		checkpoints int
		named       int
	}{
		{"pause/recorded", soulbox.Running, "a", 0, 0},
		{"pause/written", soulbox.Paused, "a", 0, 0},
		{"pause/finished", soulbox.Paused, "a", 0, 0},
		{"pause/paused", soulbox.Paused, "a", 0, 0},
		{"resume/recorded", soulbox.Paused, "a", 0, 0},
		{"resume/restored", soulbox.Paused, "a", 0, 0},
		{"resume/running", soulbox.Running, "a", 0, 0},
		{"snapshot/recorded", soulbox.Running, "ab", 0, 0},
		{"snapshot/written", soulbox.Running, "ab", 0, 0},
		{"snapshot/finished", soulbox.Running, "ab", 1, 0},
		{"rollback/verified", soulbox.Running, "abc", 1, 0},
		{"rollback/recorded", soulbox.Paused, "ab", 1, 0},
		{"rollback/destroyed", soulbox.Paused, "ab", 1, 0},
		{"rollback/restored", soulbox.Paused, "ab", 1, 0},
		{"fork/written", soulbox.Running, "abd", 1, 0},
		{"fork/restored", soulbox.Running, "abd", 1, 0},
		{"fork/restored@2", soulbox.Running, "abd", 1, 0},
		{"snapshot/recorded@2", soulbox.Running, "abd", 1, 0},
		{"snapshot/written@2", soulbox.Running, "abd", 1, 0},
		{"snapshot/finished@2", soulbox.Running, "abd", 1, 1},
		{"pause/paused@2", soulbox.Paused, "abd", 1, 1},
		{"kill/recorded", soulbox.Ended, gone, 0, 1},
		{"kill/destroyed", soulbox.Ended, gone, 0, 1},
	} {
		t.Run(test.step, func(t *testing.T) {
			t.Parallel()
			h := dieAndRise(t, test.step, "long")
			var sb *soulbox.Sandbox
			var running []soulbox.SandboxID
			eventually(t, "records and node agree", func() bool {
				running = nil
				for _, row := range h.records("us") {
					if sb == nil || row.ID == sb.ID {
						sb = row // the first one
					}
					switch row.State {
					case soulbox.Running:
						running = append(running, row.ID)
					case soulbox.Paused, soulbox.Ended:
					default:
						return false
					}
				}
				slices.Sort(running)
				return slices.Equal(running, h.node.Sandboxes())
			})
			if sb.State != test.state {
				t.Errorf("it is %s, want %s", sb.State, test.state)
			}
			want := make([]soulbox.SnapshotID, 0, 3)
			if sb.Pause != nil && sb.Pause.Snapshot != sb.From {
				want = append(want, sb.Pause.Snapshot)
			}
			for kind, n := range map[soulbox.SnapshotKind]int{soulbox.ForRollback: test.checkpoints, soulbox.ForCreate: test.named} {
				page, err := h.Snapshots(t.Context(), soulbox.SnapshotFilter{Team: "us", Kind: kind})
				if err != nil {
					t.Fatal(err)
				}
				for _, snap := range page.Snapshots {
					if !slices.Contains(want, snap.ID) {
						want = append(want, snap.ID)
					}
				}
				if sb.State != soulbox.Ended && len(page.Snapshots) != n {
					t.Errorf("%d of kind %s, want %d", len(page.Snapshots), kind, n)
				}
			}
			if test.files != gone {
				h.wantSnapshots(want...)
				h.connect(sb.ID)
				h.wantInside(sb.ID, mind{Files: strings.Split(test.files, ""), Memory: "boot 1"})
			}
			for _, row := range h.records("us") {
				if row.State == soulbox.Ended {
					if row.End == nil || row.End.By == "" || row.End.Reason == "" || row.End.At.IsZero() {
						t.Errorf("sandbox %s ended without saying why: %+v", row.ID, row.End)
					}
					continue
				}
				if err := h.Kill(t.Context(), "us", row.ID, soulbox.ByClient, "cleared"); err != nil {
					t.Error(err)
				}
			}
			if test.named > 0 {
				snap, err := h.FindSnapshot(t.Context(), "us", "named")
				if err != nil {
					t.Fatal(err)
				}
				if err := h.RemoveSnapshot(t.Context(), "us", snap.ID); err != nil {
					t.Error(err)
				}
			}
			h.wantSnapshots() // nothing is left over
			if wrongs := h.node.complaints(); len(wrongs) > 0 {
				t.Error(wrongs)
			}
		})
	}
}
