package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func TestRun(t *testing.T) {
	box, _ := newSandbox(t)
	dir := t.TempDir()
	tests := []struct {
		name, line string
		o          client.RunOptions
		want       client.Result
		signal     syscall.Signal
	}{
		{name: "both outputs", line: "echo out; echo err >&2", want: client.Result{Stdout: "out\n", Stderr: "err\n"}},
		{name: "exit code", line: "echo why >&2; exit 3", want: client.Result{Stderr: "why\n", Code: 3}},
		{name: "signal", line: "kill -TERM $$", want: client.Result{Code: -1}, signal: syscall.SIGTERM},
		{name: "no input", line: "cat; echo done", want: client.Result{Stdout: "done\n"}},
		{name: "input", line: "wc -c", o: client.RunOptions{Stdin: strings.NewReader(strings.Repeat("x", 200_000))}, want: client.Result{Stdout: "200000\n"}},
		{name: "input nobody wants", line: "exec <&-; sleep 0.2; echo fine", o: client.RunOptions{Stdin: strings.NewReader(strings.Repeat("x", 1<<20))}, want: client.Result{Stdout: "fine\n"}},
		{name: "environment", line: "echo $FROM_SANDBOX $FROM_RUN", o: client.RunOptions{Env: map[string]string{"FROM_RUN": "2"}}, want: client.Result{Stdout: "1 2\n"}},
		{name: "folder", line: "pwd", o: client.RunOptions{Dir: dir}, want: client.Result{Stdout: dir + "\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := box.Run(t.Context(), tt.line, tt.o)
			exit, ended := errors.AsType[*client.ExitError](err)
			if err != nil && !ended {
				t.Fatal(err)
			}
			if *got != tt.want {
				t.Errorf("Run(%q) = %+v, want %+v", tt.line, *got, tt.want)
			}
			if ended != (tt.want.Code != 0) || ended && (exit.Code != tt.want.Code || exit.Stderr != tt.want.Stderr || exit.Signal() != tt.signal) {
				t.Errorf("Run(%q): error %v, want exit code %d and signal %v", tt.line, err, tt.want.Code, tt.signal)
			}
		})
	}
}

func TestExec(t *testing.T) {
	box, _ := newSandbox(t)
	got, err := box.Exec(t.Context(), []string{"printf", "%s|", "a b", "$HOME", ""}, client.RunOptions{})
	if err != nil || got.Stdout != "a b|$HOME||" {
		t.Errorf("Exec of printf: %+v, %v, want the arguments as they are", got, err)
	}
	_, err = box.Exec(t.Context(), []string{"/no/such/program"}, client.RunOptions{})
	if exit, ok := errors.AsType[*client.ExitError](err); !ok || exit.Code != 127 {
		t.Errorf("Exec of no program: %v, want exit status 127", err)
	}
	if _, err = box.Exec(t.Context(), nil, client.RunOptions{}); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Exec of nothing: %v, want Invalid", err)
	}
	_, err = box.Run(t.Context(), "true", client.RunOptions{Dir: "/no/such/folder"})
	if soulbox.KindOf(err) != soulbox.Invalid || err == nil {
		t.Errorf("Run in no folder: %v, want Invalid", err)
	}
}

// Output arrives while the program runs, not when it has ended.
func TestRunStreams(t *testing.T) {
	box, _ := newSandbox(t)
	in, input := io.Pipe()
	var got bytes.Buffer
	echo := writer(func(p []byte) (int, error) {
		got.Write(p)
		if got.String() == "ready\n" {
			go func() {
				_, _ = io.WriteString(input, "go on\n")
				input.Close()
			}()
		}
		return len(p), nil
	})
	if _, err := box.Run(t.Context(), "echo ready; cat", client.RunOptions{Stdin: in, Stdout: echo}); err != nil {
		t.Fatal(err)
	}
	if got.String() != "ready\ngo on\n" {
		t.Errorf("Run of a dialogue: %q", got.String())
	}
}

type writer func([]byte) (int, error)

func (f writer) Write(p []byte) (int, error) { return f(p) }

// A program does not outlive the Run that started it.
func TestRunCanceled(t *testing.T) {
	box, _ := newSandbox(t)
	mark := t.TempDir() + "/pid"
	cause := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := box.Run(ctx, "echo $$ >"+mark+"; echo started; sleep 60", client.RunOptions{
		Stdout: writer(func(p []byte) (int, error) { cancel(cause); return len(p), nil }),
	})
	if !errors.Is(err, cause) {
		t.Errorf("Run that is canceled: %v, want the cause", err)
	}
	waitGone(t, box)

	deadline, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	if _, err := box.Run(deadline, "sleep 60", client.RunOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run that takes too long: %v, want DeadlineExceeded", err)
	}
	waitGone(t, box)
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
}

func waitGone(t *testing.T, box *client.Sandbox) {
	t.Helper()
	for range 200 {
		list, err := box.Processes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the program still runs")
}

func TestRunFloods(t *testing.T) {
	box, _ := newSandbox(t)
	_, err := box.Exec(t.Context(), []string{"head", "-c", "17000000", "/dev/zero"}, client.RunOptions{})
	if soulbox.KindOf(err) != soulbox.TooLarge {
		t.Errorf("Exec of a program that writes 17 MB: %v, want TooLarge", err)
	}
	got := 0
	count := writer(func(p []byte) (int, error) { got += len(p); return len(p), nil })
	if _, err := box.Exec(t.Context(), []string{"head", "-c", "2000000", "/dev/zero"}, client.RunOptions{Stdout: count}); err != nil || got != 2000000 {
		t.Errorf("Exec of one that has a writer: %d bytes, %v", got, err)
	}
}

// A sandbox that ends under a program says why.
func TestRunSandboxEnds(t *testing.T) {
	box, server := newSandbox(t)
	_, err := box.Run(t.Context(), "echo started; sleep 60", client.RunOptions{
		Stdout: writer(func(p []byte) (int, error) {
			server.Cut(box.ID, soulbox.ByTimeout, "its time was up")
			return len(p), nil
		}),
	})
	if soulbox.KindOf(err) != soulbox.NotFound || !strings.Contains(err.Error(), "its time was up") {
		t.Errorf("Run in a sandbox that ends: %v, want the reason", err)
	}
}

func TestStart(t *testing.T) {
	box, _ := newSandbox(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out lockedBuffer
	p, err := box.Start(ctx, "read line; echo got $line", client.RunOptions{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // bounds only the start
	list, err := box.Processes(t.Context())
	if err != nil || len(list) != 1 || list[0].PID != p.PID || list[0].Args[0] != "/bin/bash" {
		t.Errorf("Processes: %+v, %v, want process %d", list, err, p.PID)
	}
	var heard lockedBuffer
	second, err := box.Attach(t.Context(), p.PID, &heard, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Send(t.Context(), []byte("this\n")); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if err := second.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if out.String() != "got this\n" || heard.String() != "got this\n" {
		t.Errorf("Start heard %q and Attach %q, want both %q", out.String(), heard.String(), "got this\n")
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Errorf("Kill of a program that has ended: %v", err)
	}
	if _, err := box.Attach(t.Context(), p.PID, nil, nil); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Attach to a program that has ended: %v, want NotFound", err)
	}
}

func TestStartAndKill(t *testing.T) {
	box, _ := newSandbox(t)
	for name, end := range map[string]func(*client.Process) error{
		"signal: killed":     func(p *client.Process) error { return p.Kill(t.Context()) },
		"signal: terminated": func(p *client.Process) error { return p.Terminate(t.Context()) },
	} {
		p, err := box.Start(t.Context(), "exec sleep 60", client.RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := end(p); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context()); err == nil || err.Error() != name {
			t.Errorf("Wait: %v, want %s", err, name)
		}
	}
}

// Wait that is canceled leaves the program alone.
func TestWaitCanceled(t *testing.T) {
	box, _ := newSandbox(t)
	p, err := box.Start(t.Context(), "exec sleep 60", client.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v, want DeadlineExceeded", err)
	}
	if list, err := box.Processes(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("Processes: %v, %v, want the program", list, err)
	}
}

func TestPTY(t *testing.T) {
	box, _ := newSandbox(t)
	var out lockedBuffer
	p, err := box.PTY(t.Context(), []string{"/bin/sh", "-c", "test -t 0 && stty size; read x; stty size; exit 4"}, client.Window{Cols: 100, Rows: 30}, client.RunOptions{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Resize(t.Context(), client.Window{Cols: 120, Rows: 40}); err != nil {
		t.Fatal(err)
	}
	if err := p.Feed(t.Context(), strings.NewReader("\n")); err != nil {
		t.Fatal(err)
	}
	err = p.Wait(t.Context())
	if exit, ok := errors.AsType[*client.ExitError](err); !ok || exit.Code != 4 {
		t.Errorf("Wait: %v, want exit status 4", err)
	}
	if !strings.Contains(out.String(), "40 120") {
		t.Errorf("the terminal showed %q, want the size 40 120 in it", out.String())
	}
}

// lockedBuffer is a buffer that a test may read while a program writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
