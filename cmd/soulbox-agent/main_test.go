package main_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox/internal/connectjson"
)

type object = map[string]any

// build makes the program once for all tests.
func build(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "soulbox-agent-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "soulbox-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-tags=nethttpomithttp2", "-ldflags=-s -w", "-o", path, ".") // as the Makefile does
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	// As under a shell that runs the tests in the background, or under nohup.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// launched is a running agent.
type launched struct {
	*connectjson.Client
	cmd    *exec.Cmd
	url    string
	stderr bytes.Buffer
	done   chan error
}

// launch starts an agent as pid 1 of its own namespaces, or as a plain program,
// and waits until it is ready.
func launch(t *testing.T, pid1 bool, args ...string) *launched {
	t.Helper()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().String()
	probe.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	root := t.TempDir()
	for _, err := range []error{
		os.Mkdir(root+"/etc", 0o755),
		os.WriteFile(root+"/etc/passwd", []byte("root:x:0:0::/:/bin/bash\n"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l := &launched{url: "http://" + address, done: make(chan error, 1)}
	l.cmd = exec.Command(build(t), append([]string{"-listen", address, "-ready-fd", "3", "-root", root}, args...)...)
	l.cmd.ExtraFiles = []*os.File{w}
	l.cmd.Stderr = &l.stderr
	if pid1 {
		l.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC}
	}
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() { l.done <- l.cmd.Wait() }()
	t.Cleanup(func() { l.cmd.Process.Kill() })
	line, err := io.ReadAll(bufio.NewReader(r))
	if err != nil || string(line) != "ready\n" {
		t.Fatalf("ready descriptor said %q, %v; stderr %s", line, err, l.stderr.String())
	}
	l.Client = &connectjson.Client{
		HTTP: &http.Client{}, Base: l.url,
		Header: http.Header{"Authorization": {"Basic cm9vdDo="}},
	}
	return l
}

type response struct {
	Event struct {
		Data *struct{ Stdout connectjson.Bytes }
		End  *struct{ ExitCode int }
	}
}

func (l *launched) run(t *testing.T, script string) (string, int) {
	t.Helper()
	in, err := connectjson.Open[response](t.Context(), l.Client, "/process.Process/Start",
		&object{"process": object{"cmd": "/bin/bash", "args": []string{"-c", script}}, "stdin": false})
	if err != nil {
		t.Error(err)
		return "", -100
	}
	defer in.Close()
	var out strings.Builder
	code := -200
	for {
		m, err := in.Receive()
		if err != nil {
			return out.String(), code
		}
		if m.Event.Data != nil {
			out.Write(m.Event.Data.Stdout)
		}
		if m.Event.End != nil {
			code = m.Event.End.ExitCode
		}
	}
}

// children returns the agent's children as lines of state and name.
func (l *launched) children(t *testing.T) []string {
	t.Helper()
	var found []string
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", l.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		data, _ := os.ReadFile(path)
		for pid := range strings.FieldsSeq(string(data)) {
			stat, _ := os.ReadFile("/proc/" + pid + "/stat")
			found = append(found, string(stat))
		}
	}
	return found
}

// Orphans are reaped, and never in the place of the processes that somebody
// waits for.
func TestReapsOrphans(t *testing.T) {
	for _, pid1 := range []bool{true, false} {
		t.Run(fmt.Sprintf("pid1=%v", pid1), func(t *testing.T) {
			args := []string{"-subreaper"}
			if pid1 {
				args = nil
			}
			l := launch(t, pid1, args...)
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					script := fmt.Sprintf("for i in 1 2 3; do (sleep 0.0$i >/dev/null 2>&1 &); done; exit %d", i)
					if _, code := l.run(t, script); code != i {
						t.Errorf("exit code %d, want %d", code, i)
					}
				})
			}
			wg.Wait()
			for end := time.Now().Add(10 * time.Second); len(l.children(t)) > 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("children after 10 s: %q", l.children(t))
				}
			}
		})
	}
}

var signalSets = regexp.MustCompile(`(?m)^Sig(?:Blk|Ign):\t([0-9a-f]{16})$`)

func TestPID1(t *testing.T) {
	l := launch(t, true)
	if out, code := l.run(t, `echo $PPID; umask; grep Sig[IB] /proc/self/status`); code != 0 || !strings.HasPrefix(out, "1\n0022\n") {
		t.Errorf("output %q, code %d", out, code)
	} else if m := signalSets.FindAllStringSubmatch(out, -1); len(m) != 2 {
		t.Errorf("output %q, want two sets of signals", out)
	} else {
		// C libraries keep 32 and 33 for themselves, and so does Go; whoever
		// started the tests may have left them in any state.
		const reserved = 3 << 31
		for _, set := range m {
			if bits, err := strconv.ParseUint(set[1], 16, 64); err != nil || bits&^reserved != 0 {
				t.Errorf("a program inherits signals that are blocked or ignored: %q, %v", out, err)
			}
		}
	}
	resp, err := http.Post(l.url+"/init", "application/json", strings.NewReader(`{"hostname":"inside"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if out, _ := l.run(t, "uname -n"); resp.StatusCode != http.StatusNoContent || out != "inside\n" {
		t.Errorf("init %s, host name %q", resp.Status, out)
	}
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-l.done:
		if err != nil || l.stderr.Len() > 0 {
			t.Errorf("after SIGTERM: %v, stderr %q", err, l.stderr.String())
		}
	case <-time.After(10 * time.Second):
		t.Error("still there 10 s after SIGTERM")
	}
}

// What the agent may weigh, in the image and in memory.
func TestWeight(t *testing.T) {
	const maxFile, maxPrivate = 8 << 20, 2 << 10 // bytes, KiB
	l := launch(t, true)
	fi, err := os.Stat(build(t))
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() > maxFile {
		t.Errorf("the program has %d bytes, more than %d", fi.Size(), maxFile)
	}
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", l.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var private int
	for line := range strings.Lines(string(rollup)) {
		// Not Private_Dirty, which counts pages of a file just written.
		fmt.Sscanf(line, "Anonymous: %d", &private)
	}
	t.Logf("%d bytes, %d KiB private", fi.Size(), private)
	if private == 0 || private > maxPrivate {
		t.Errorf("%d KiB of private memory when idle, want at most %d", private, maxPrivate)
	}
}

func TestRefusesToStart(t *testing.T) {
	for _, args := range [][]string{{"-listen", "nowhere:x"}, {"-no-such-flag"}} {
		out, err := exec.CommandContext(t.Context(), build(t), args...).CombinedOutput()
		if err == nil || len(out) == 0 {
			t.Errorf("%v: %v, %q; want an error and a reason", args, err, out)
		}
	}
}
