package process_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// written returns how much a process has written to its stdout.
func written(t *testing.T, pid uint32) int64 {
	t.Helper()
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return -1
	}
	var n int64
	for line := range strings.Lines(string(io)) {
		fmt.Sscanf(line, "wchar: %d", &n)
	}
	return n
}

func TestOutputIsWhole(t *testing.T) {
	f := serve(t)
	s := f.start(t, bash("head -c 8000000 /dev/zero; head -c 1000000 /dev/zero >&2")).wait()
	if s.stdout.Len() != 8_000_000 || s.stderr.Len() != 1_000_000 {
		t.Errorf("%d and %d bytes, want 8000000 and 1000000", s.stdout.Len(), s.stderr.Len())
	}
}

// A caller who does not read slows the process down instead of filling our
// memory; when he leaves, it goes on.
func TestSlowCallerHoldsBack(t *testing.T) {
	f := serve(t)
	const total = 40_000_000
	s := f.start(t, bash(fmt.Sprintf("exec head -c %d /dev/zero", total)))
	last := int64(-1)
	eventually(t, "held back", func() bool {
		now := written(t, s.pid)
		held := now == last && now > 0
		last = now
		time.Sleep(100 * time.Millisecond)
		return held
	})
	if last >= total/2 {
		t.Fatalf("%d bytes were written although nobody reads", last)
	}
	other := f.connect(t, pid(s.pid))
	s.in.Close()
	if other.wait(); other.end.End == nil || other.end.End.ExitCode != 0 {
		t.Errorf("the other caller's end = %+v, %v", other.end.End, other.err)
	}
	if other.stdout.Len() < total/2 {
		t.Errorf("the other caller got %d bytes of %d", other.stdout.Len(), total)
	}
}

// Without a caller, output is read and dropped.
func TestNobodyListens(t *testing.T) {
	f := serve(t)
	s := f.start(t, bash("sleep 0.2; head -c 50000000 /dev/zero; exit 8"))
	s.in.Close()
	eventually(t, "over", func() bool { return !alive(s.pid) })
	if late := f.connect(t, pid(s.pid)).wait(); late.end.End == nil || late.end.End.ExitCode != 8 {
		t.Errorf("end = %+v, %v; want exit code 8", late.end.End, late.err)
	}
}

func TestTwoCallers(t *testing.T) {
	f := serve(t)
	s := f.start(t, object{"process": object{"cmd": "cat"}})
	other := f.connect(t, pid(s.pid))
	if err := f.call(t, "/SendInput", stdin(s.pid, "to both\n")); err != nil {
		t.Fatal(err)
	}
	s.until(&s.stdout, "to both\n")
	other.until(&other.stdout, "to both\n")
}
