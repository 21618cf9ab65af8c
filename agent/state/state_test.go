package state_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox/agent/state"
)

// TestMain makes the test's program one that can be looked at.
func TestMain(m *testing.M) {
	const first = 1
	switch {
	case len(os.Args) > first && os.Args[first] == "work":
		if err := work(); err != nil {
			fmt.Println(err)
		}
	case len(os.Args) > first && os.Args[first] == "wait":
		_, _ = io.Copy(io.Discard, os.Stdin)
	default:
		os.Exit(m.Run())
	}
}

// work does what there is to see until its input ends.
func work() error {
	if err := os.Chdir("/usr/share"); err != nil {
		return err
	}
	var lc net.ListenConfig
	ctx := context.Background()
	v4, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	v6, err := lc.Listen(ctx, "tcp6", "[::1]:0")
	if err != nil {
		return err
	}
	for range 2 {
		f, err := os.Open("/etc/hostname")
		if err != nil {
			return err
		}
		defer f.Close()
	}
	child := exec.CommandContext(ctx, "sleep", "1000")
	if err := child.Start(); err != nil {
		return err
	}
	for begin := time.Now(); time.Since(begin) < 5*time.Second; {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil || used.Utime.Nano() > int64(200*time.Millisecond) {
			break
		}
	}
	fmt.Println(v4.Addr().(*net.TCPAddr).Port, v6.Addr().(*net.TCPAddr).Port, child.Process.Pid) //nolint:forcetypeassert // TCP
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = child.Process.Kill()
	_ = child.Wait()
	return nil
}

func TestLook(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "work", "a  b")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "A=1=2", "EMPTY=", "B=\xff"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var v4, v6 uint16
	var child int
	if _, err := fmt.Sscan(line, &v4, &v6, &child); err != nil {
		t.Fatal(err)
	}
	s, err := state.Look(t.Context(), "/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Processes, func(p state.Process) bool { return p.PID == cmd.Process.Pid })
	j := slices.IndexFunc(s.Processes, func(p state.Process) bool { return p.PID == child })
	if i < 0 || j < 0 {
		t.Fatalf("processes %+v", s.Processes)
	}
	p, c := s.Processes[i], s.Processes[j]
	if p.PPID != os.Getpid() || c.PPID != p.PID || c.Command != "sleep 1000" || p.Command != self+" work a  b" {
		t.Errorf("%+v\n%+v", p, c)
	}
	if p.Dir != "/usr/share" || c.Dir != "/usr/share" || p.CPU < 150*time.Millisecond || p.CPU > time.Minute {
		t.Errorf("in %s with %v", p.Dir, p.CPU)
	}
	if age := time.Since(p.StartedAt); age < -2*time.Second || age > time.Minute {
		t.Errorf("started %v ago", age)
	}
	if want := map[string]string{"PATH": "/usr/bin:/bin", "A": "1=2", "EMPTY": "", "B": "\xff"}; !maps.Equal(p.Env, want) {
		t.Errorf("environment %q", p.Env)
	}
	if count(p.OpenFiles, "/etc/hostname") != 1 || count(c.OpenFiles, "/dev/null") != 1 {
		t.Errorf("open files %q, of the child %q", p.OpenFiles, c.OpenFiles)
	}
	var mine []state.Port
	for _, port := range s.Ports {
		if port.PID == p.PID {
			mine = append(mine, port)
		}
	}
	if want := []state.Port{{Port: v4, Address: "127.0.0.1", PID: p.PID}, {Port: v6, Address: "::1", PID: p.PID}}; !slices.Equal(mine, want) {
		t.Errorf("ports %+v, want %+v", mine, want)
	}
	if s.Truncated || time.Since(s.At) > time.Minute {
		t.Errorf("at %v, truncated %v", s.At, s.Truncated)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := state.Look(ctx, "/proc", os.Getpid()); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
}

func count(all []string, one string) (n int) {
	for _, s := range all {
		if s == one {
			n++
		}
	}
	return n
}

// More than there is room for is cut, and said to be.
func TestBounds(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for i := range 300 {
		f, err := os.Create(fmt.Sprintf("%s/%d", t.TempDir(), i))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	cmd := exec.CommandContext(t.Context(), self, "wait", strings.Repeat("x", 10<<10))
	cmd.ExtraFiles = files
	for i := range 100 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("v", 1000)))
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	s, err := state.Look(t.Context(), "/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Processes, func(p state.Process) bool { return p.PID == cmd.Process.Pid })
	if i < 0 {
		t.Fatal(s.Processes)
	}
	p := s.Processes[i]
	env := 0
	for k, v := range p.Env {
		if len(v) != 1000 {
			t.Errorf("%s has %d bytes: it was cut", k, len(v))
		}
		env += len(k) + len(v) + 2
	}
	if !s.Truncated || len(p.Command) != 4<<10 || len(p.OpenFiles) != 256 || env > 64<<10 || env < 60<<10 {
		t.Errorf("truncated %v; %d bytes of command, %d of environment, %d files", s.Truncated, len(p.Command), env, len(p.OpenFiles))
	}
}

// A /proc that says strange things makes no sense, but no harm.
func TestStrange(t *testing.T) {
	if _, err := state.Look(t.Context(), t.TempDir()+"/none", 1); err == nil {
		t.Error("there is a state without /proc")
	}
	stat := func(pid, ppid int, name string) string {
		return fmt.Sprintf("%d (%s) S %d 0 0 0 0 0 0 0 0 0 5 6 0 0 20 0 1 0 100 0\n", pid, name, ppid)
	}
	dir := t.TempDir()
	for path, text := range map[string]string{
		"2/stat": stat(2, 1, "a) S 9 (b"), "2/cmdline": "",
		"3/stat": stat(3, 4, "x"), "4/stat": stat(4, 3, "x"), // a circle
		"5/stat": "5 (x) S", "6/stat": stat(7, 1, "of another"), "7/stat": "", "8/stat": stat(8, 1, "x")[:20],
		"9/stat": strings.Replace(stat(9, 1, "x"), " 5 6 ", " -5 99999999999999999 ", 1),
		"1/stat": stat(1, 1, "itself"),
		"stat":   "cpu 1\nbtime 1000\n",
		"net/tcp": "  sl  local_address rem_address   st\n" +
			"   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1\n" +
			"   1: 00000000:1F91 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 78 1\n" +
			"   2: 000000:1F92 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 79 1\n" +
			"   3: 00000000:FFFFF 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 79 1\n" +
			"   4: :::: 0A 0A 0A\n",
	} {
		if err := errors.Join(os.MkdirAll(dir+"/"+path[:strings.LastIndexByte("/"+path, '/')], 0o755), os.WriteFile(dir+"/"+path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := state.Look(t.Context(), dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Processes) != 1 || s.Processes[0].Command != "[a) S 9 (b]" || s.Processes[0].CPU != 110*time.Millisecond || !s.Processes[0].StartedAt.Equal(time.Unix(1001, 0)) {
		t.Errorf("processes %+v", s.Processes)
	}
	if len(s.Ports) != 1 || s.Ports[0] != (state.Port{Port: 8080, Address: "0.0.0.0"}) {
		t.Errorf("ports %+v", s.Ports)
	}
}
