package pidfd

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const ended = " 1 2 2 0 -1 4194560 155 0 0 0 0 0 0 0 20 0 1 0 " // between the state and the start time

func TestParseStat(t *testing.T) {
	tests := []struct {
		name, text string
		want       uint64
		err        error // nil with want 0: any
	}{
		{"plain", "7 (sh) S" + ended + "4242 2519040 200\n", 4242, nil},
		{"spaces", "7 (a b c) R" + ended + "4242 0\n", 4242, nil},
		{"parentheses", "7 () S 1 2) Z 3 (x)) S" + ended + "4242 0\n", 4242, nil},
		{"line_ends", "7 (a\n) S" + ended + "4242\n", 4242, nil},
		{"largest", "7 (sh) S" + ended + "18446744073709551615\n", 1<<64 - 1, nil},
		{"zombie", "7 (sh) Z" + ended + "4242 0\n", 0, unix.ESRCH},
		{"dead", "7 (sh) X" + ended + "4242 0\n", 0, unix.ESRCH},
		{"name_of_a_zombie", "7 (x) Z" + ended + "1) S" + ended + "4242 0\n", 4242, nil},
		{"empty", "", 0, nil},
		{"short", "7 (sh) S 1 2\n", 0, nil},
		{"short_zombie", "7 (sh) Z\n", 0, nil},
		{"one_too_few", "7 (sh) S" + ended + "\n", 0, nil},
		{"no_number", "7 (sh) S" + ended + "x 0\n", 0, nil},
		{"negative", "7 (sh) S" + ended + "-1 0\n", 0, nil},
		{"too_large", "7 (sh) S" + ended + "18446744073709551616\n", 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat(tt.text)
			switch {
			case tt.want != 0 && (got != tt.want || err != nil):
				t.Errorf("parseStat(%q) = %d, %v; want %d", tt.text, got, err, tt.want)
			case tt.want == 0 && (err == nil || errors.Is(err, unix.ESRCH) != (tt.err != nil)):
				t.Errorf("parseStat(%q) = %d, %v; want %v", tt.text, got, err, tt.err)
			}
		})
	}
}

// FuzzParseStat: no name of a process changes what is read behind it.
func FuzzParseStat(f *testing.F) {
	f.Add("sh", uint64(4242))
	f.Add(") Z 1 (", uint64(0))
	f.Add("", uint64(1<<64-1))
	f.Fuzz(func(t *testing.T, name string, started uint64) {
		text := fmt.Sprintf("7 (%s) S%s%d 2519040 200\n", name, ended, started)
		if got, err := parseStat(text); got != started || err != nil {
			t.Errorf("parseStat(%q) = %d, %v; want %d", text, got, err, started)
		}
		_, _ = parseStat(name) // does not panic
	})
}

// A process is told from another that gets its number later.
func TestProcess(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	pid := cmd.Process.Pid
	p, err := Open(pid, 0)
	if err != nil || p.Started == 0 {
		t.Fatalf("Open(%d, 0) = %+v, %v", pid, p, err)
	}
	defer p.Close()
	for _, other := range []uint64{p.Started - 1, p.Started + 1} {
		if _, err := Open(pid, other); !errors.Is(err, unix.ESRCH) {
			t.Errorf("Open of one that began at another time: %v, want ESRCH", err)
		}
	}
	again, err := Open(pid, p.Started)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := again.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait for a process that lives: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(pid, p.Started); !errors.Is(err, unix.ESRCH) {
		t.Errorf("Open of one that has ended: %v, want ESRCH", err)
	}
	if status, ok := p.Reap(); !ok || status.Signal() != unix.SIGKILL {
		t.Errorf("Reap() = %v, %v; want killed", status, ok)
	}
	if _, ok := p.Reap(); ok {
		t.Error("a process is collected twice")
	}
	if err := p.Kill(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("Kill of one that has gone: %v, want ESRCH", err)
	}
}
