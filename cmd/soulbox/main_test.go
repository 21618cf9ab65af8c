package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/term"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client/clienttest"
)

func TestMain(m *testing.M) {
	// A signal that whoever started the tests ignores would be ignored by the
	// programs, too; one that is caught here is not.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	testscript.Main(m, map[string]func(){"soulbox": main})
}

// serverKey is under which a script finds its server.
type serverKey struct{}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			box := filepath.Join(e.WorkDir, "box")
			if err := os.MkdirAll(box, 0o755); err != nil {
				return err
			}
			server := clienttest.New(box)
			e.Defer(server.Close)
			e.Values[serverKey{}] = server
			e.Setenv("BOX", box)
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("SERVER", server.URL)
			e.Setenv("KEY", clienttest.Key)
			e.Setenv("E2B_API_URL", server.URL)
			e.Setenv("E2B_API_KEY", clienttest.Key)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"live":   cmdLive,
			"end":    cmdEnd,
			"expire": cmdExpire,
			"let":    cmdLet,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func serverOf(ts *testscript.TestScript) *clienttest.Server {
	server, ok := ts.Value(serverKey{}).(*clienttest.Server)
	if !ok {
		ts.Fatalf("no server")
	}
	return server
}

// cmdLive checks how many sandboxes are alive: live N.
func cmdLive(ts *testscript.TestScript, _ bool, args []string) {
	if got := serverOf(ts).Live(); len(args) != 1 || strconv.Itoa(len(got)) != args[0] {
		ts.Fatalf("%d sandboxes live, want %s: %v", len(got), args, got)
	}
}

// cmdEnd ends a sandbox as the platform would: end ID WHO WHY.
func cmdEnd(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: end ID WHO WHY")
	}
	serverOf(ts).End(args[0], soulbox.Ender(args[1]), args[2])
}

// cmdExpire lets a sandbox's time be up: expire ID.
func cmdExpire(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: expire ID")
	}
	serverOf(ts).Expire(args[0])
}

// cmdLet sets a variable to the last output: let NAME.
func cmdLet(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: let NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// soulboxCommand returns the program as a process of its own, with a server.
func soulboxCommand(t *testing.T, server *clienttest.Server, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "soulbox", args...)
	cmd.Env = append(os.Environ(), "E2B_API_URL="+server.URL, "E2B_API_KEY="+clienttest.Key, "TERM=xterm")
	return cmd
}

func newServer(t *testing.T) *clienttest.Server {
	t.Helper()
	server := clienttest.New(t.TempDir())
	t.Cleanup(server.Close)
	return server
}

// A command that is told to stop takes its sandbox with it.
func TestRunSignals(t *testing.T) {
	for sig, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGHUP: 129} {
		t.Run(sig.String(), func(t *testing.T) {
			server := newServer(t)
			cmd := soulboxCommand(t, server, "run", "--", "sh", "-c", "echo started; exec sleep 60")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, len("started\n"))
			if _, err := io.ReadFull(out, line); err != nil {
				t.Fatal(err)
			}
			if got := server.Live(); len(got) != 1 {
				t.Errorf("%d sandboxes live while it runs, want 1", len(got))
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != code {
				t.Errorf("soulbox run after %v: %v, want exit code %d", sig, err, code)
			}
			if got := server.Live(); len(got) != 0 {
				t.Errorf("%v lives after %v", got, sig)
			}
			if stderr.Len() != 0 {
				t.Errorf("stderr: %q, want nothing", stderr.String())
			}
		})
	}
}

// create starts a sandbox and returns its id.
func create(t *testing.T, server *clienttest.Server) string {
	t.Helper()
	out, err := soulboxCommand(t, server, "sandbox", "create").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// What people see has columns, colours and distances in time.
func TestTableOnTerminal(t *testing.T) {
	server := newServer(t)
	id := create(t, server)
	got := onTerminal(t, soulboxCommand(t, server, "sandbox", "ls"))
	for _, want := range []string{"\x1b[1mID\x1b[0m", id + "  base", "\x1b[32mrunning\x1b[0m", "in 4m"} {
		if !strings.Contains(got, want) {
			t.Errorf("soulbox sandbox ls on a terminal: %q has no %q", got, want)
		}
	}
	cmd := soulboxCommand(t, server, "sandbox", "info", id)
	cmd.Env = append(cmd.Env, "NO_COLOR=1")
	got = onTerminal(t, cmd)
	if strings.Contains(got, "\x1b[") || !strings.Contains(got, "memory     512 MiB") {
		t.Errorf("soulbox sandbox info on a terminal with NO_COLOR: %q", got)
	}
}

// onTerminal runs cmd on a terminal and returns what it shows.
func onTerminal(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	return answering(t, cmd, "")
}

// answering is onTerminal with somebody who types.
func answering(t *testing.T, cmd *exec.Cmd, keys string) string {
	t.Helper()
	f, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, keys); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_, _ = io.Copy(&b, f) // ends with EIO when the program does
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %v", cmd.Args, err)
	}
	return b.String()
}

func TestShell(t *testing.T) {
	server := newServer(t)
	id := create(t, server)
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer tty.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Cols: 90, Rows: 20}); err != nil {
		t.Fatal(err)
	}
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	cmd := soulboxCommand(t, server, "sandbox", "shell", id, "--", "/bin/sh", "-c",
		`stty size; while read a && [ "$a" = x ]; do stty size; done; echo "[$TERM]"; exit 5`)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := newScreen(ptmx)
	s.waitFor(t, "20 90")
	if err := pty.Setsize(tty, &pty.Winsize{Cols: 70, Rows: 10}); err != nil {
		t.Fatal(err)
	}
	// The new size travels beside the keys, so ask until it has arrived.
	asked := make(chan struct{})
	go func() {
		for ask := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-ask.C:
				_, _ = io.WriteString(ptmx, "x\r")
			case <-asked:
				ask.Stop()
				return
			}
		}
	}()
	s.waitFor(t, "10 70")
	close(asked)
	_, _ = io.WriteString(ptmx, "y\r")
	s.waitFor(t, "[xterm]")
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 5 {
		t.Errorf("soulbox sandbox shell: %v, want exit code 5", err)
	}
	after, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if *before != *after {
		t.Error("the terminal is not as it was before")
	}
}

// A screen is what a terminal has shown.
type screen struct {
	parts chan string
	seen  string
}

func newScreen(f io.Reader) *screen {
	s := &screen{parts: make(chan string, 64)}
	go func() { // ends when the test closes the terminal
		defer close(s.parts)
		for buf := make([]byte, 1024); ; {
			n, err := f.Read(buf)
			if err != nil {
				return
			}
			s.parts <- string(buf[:n])
		}
	}()
	return s
}

func (s *screen) waitFor(t *testing.T, want string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for !strings.Contains(s.seen, want) {
		select {
		case part, ok := <-s.parts:
			if !ok {
				t.Fatalf("the terminal shows %q and closes, want %q", s.seen, want)
			}
			s.seen += part
		case <-late:
			t.Fatalf("the terminal shows %q, want %q", s.seen, want)
		}
	}
}
