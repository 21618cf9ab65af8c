package cgroup_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// headlessVar makes the test a program whose first thread has ended, which the
// kernel calls a zombie although it runs.
const headlessVar = "SOULBOX_CGROUP_TEST_HEADLESS"

func TestMain(m *testing.M) {
	if os.Getenv(headlessVar) != "" {
		headless()
	}
	os.Exit(m.Run())
}

func headless() {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		panic("main does not run in the first thread")
	}
	go func() {
		time.Sleep(200 * time.Millisecond) // the thread below has ended
		os.Stdout.WriteString("headless\n")
		time.Sleep(time.Hour)
	}()
	unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

func TestKill(t *testing.T) {
	tests := []struct{ name, script string }{
		{"nothing", ""},
		{"one", "exec sleep 1h"},
		{"ignores all signals", "trap '' HUP INT TERM QUIT; while :; do sleep 1h; done"},
		{"many", "for i in 1 2 3 4 5 6 7 8 9; do setsid sleep 1h & done; wait"},
		{"forks on", "f() { f | f & }; f; exec sleep 1h"},
		{"stopped", "kill -STOP $$; exec sleep 1h"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := open(t)
			g := create(t, p, "ione", small)
			bystander := prepare(t, "exec sleep 1h")
			if tt.script != "" {
				victim := prepare(t, tt.script)
				if err := g.Add(victim.Process.Pid); err != nil {
					t.Fatal(err)
				}
				if err := victim.begin(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(100 * time.Millisecond) // so that it does what it does
			}
			for range 2 { // it repeats
				if err := g.Kill(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := g.Remove(); err != nil { // it is empty
					t.Fatal(err)
				}
			}
			if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
				t.Errorf("a process that is not in the group: %v", err)
			}
		})
	}
}

// A process whose first thread has ended looks as if it had ended itself.
func TestKillHeadless(t *testing.T) {
	p, _ := open(t)
	g := create(t, p, "ione", small)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), headlessVar+"=1")
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || strings.TrimSpace(line) != "headless" {
		t.Fatalf("the program says %q, %v", line, err)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the program ended with %v, want killed", err)
	}
}

// Nothing can be started in a group once Kill was called, also if it gave up.
func TestKillGivesUp(t *testing.T) {
	p, _ := open(t)
	g := create(t, p, "ione", small)
	victim := prepare(t, "sleep 1h & sleep 1h & wait")
	if err := g.Add(victim.Process.Pid); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if err := g.Kill(ctx); err != nil && !errors.Is(err, gone) { // it may have been quick
		t.Errorf("Kill: %v, want %v", err, gone)
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	ran := run(t, g, "exec sh -c '/bin/true; echo forked'")
	if got := ran.out.String(); strings.Contains(got, "forked") || !strings.Contains(got, "annot fork") {
		t.Errorf("a program that forks in the group after Kill says %q", got)
	}
}
