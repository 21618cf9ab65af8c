package main

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A signal ends the measuring, and what it made is removed.
func TestBenchSignals(t *testing.T) {
	for sig, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		t.Run(sig.String(), func(t *testing.T) {
			server := newServer(t)
			cmd := soulboxCommand(t, server, "bench", "--rows", "command,pause", "--samples", "2000")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(20 * time.Second); len(server.Live()) == 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("no sandbox was made")
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != code {
				t.Errorf("soulbox bench after %v: %v, want exit code %d", sig, err, code)
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

// People see what was measured on before the table, and remarks after it.
func TestBenchOnTerminal(t *testing.T) {
	cmd := soulboxCommand(t, newServer(t), "bench", "--rows", "pause,memory-idle", "--samples", "1")
	cmd.Env = append(cmd.Env, "NO_COLOR=1")
	got := onTerminal(t, cmd)
	const takenAway = "\r\x1b[K" // the progress line, which is there until the table comes
	got = got[strings.LastIndex(got, takenAway)+1:]
	last := 0
	for _, want := range []string{" cores, ", "0.0.0-test", "warm-up is left out", "ROW ", "P50 ", "WHAT", "pause with memory", "private memory of an idle sandbox", "run this as root on the server's machine"} {
		at := strings.Index(got, want)
		if at < last {
			t.Errorf("%q is not on the terminal where it should be: %q", want, got)
		}
		last = max(last, at)
	}
}
