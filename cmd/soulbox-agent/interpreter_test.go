package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/kerneltest"
)

// The interpreter answers when its kernels are ready, and they end with it,
// however it ends.
func TestInterpreter(t *testing.T) {
	specs := kerneltest.Specs(t)
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(end.String(), func(t *testing.T) {
			probe, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := probe.Addr().String()
			probe.Close()
			dir, temp := t.TempDir(), filepath.Join(os.TempDir(), fmt.Sprintf("sb-%d", os.Getpid()))
			if err := os.MkdirAll(temp, 0o700); err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(temp)
			var log strings.Builder
			cmd := exec.Command(build(t), "interpreter", "-listen", address, "-specs", specs, "-dir", dir, "-envs", "", "-run", temp)
			cmd.Env = append(os.Environ(), "SUDO_USER=x")
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			defer func() { _ = cmd.Process.Kill() }()
			url := "http://" + address
			for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
				if resp, err := http.Get(url + "/health"); err == nil {
					b, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if resp.StatusCode != http.StatusOK || string(b) != `"OK"` {
						t.Fatalf("health: %s %s", resp.Status, b)
					}
					break
				}
				if time.Since(begin) > time.Minute {
					t.Fatal("no answer after a minute")
				}
			}
			kernels := children(t, cmd.Process.Pid)
			if len(kernels) != 2 {
				t.Errorf("kernels %v, want Python's and JavaScript's", kernels)
			}
			code := `{"code": "import os; print(os.getcwd(), os.environ.get('SUDO_USER'), os.environ.get('NO_COLOR'))"}`
			resp, err := http.Post(url+"/execute", "application/json", strings.NewReader(code))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := fmt.Sprintf(`"text":"%s None 1\n"`, dir); err != nil || !strings.Contains(string(b), want) {
				t.Errorf("execute: %s, %v; want %s", b, err, want)
			}
			if err := cmd.Process.Signal(end); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-done:
				if (err == nil) != (end == syscall.SIGTERM) || log.Len() > 0 {
					t.Errorf("after %v: %v, it said %q", end, err, log.String())
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("still there 20 s after %v", end)
			}
			for begin := time.Now(); len(alive(kernels)) > 0; time.Sleep(10 * time.Millisecond) {
				if time.Since(begin) > 10*time.Second {
					t.Fatalf("kernels %v outlive the interpreter", alive(kernels))
				}
			}
			if left, _ := filepath.Glob(temp + "/*"); end == syscall.SIGTERM && len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A kernel that does not start is said, and there is no answer that looks as if
// all were well.
func TestInterpreterWithoutKernel(t *testing.T) {
	specs := t.TempDir()
	if err := os.MkdirAll(specs+"/python3", 0o755); err != nil {
		t.Fatal(err)
	}
	spec := `{"argv": ["/bin/sh", "-c", "echo no such luck >&2; exit 3"], "language": "python"}`
	if err := os.WriteFile(specs+"/python3/kernel.json", []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), build(t), "interpreter", "-listen", "127.0.0.1:0", "-specs", specs, "-dir", specs, "-envs", "", "-run", t.TempDir())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "exit status 3; it said: no such luck") {
		t.Errorf("%v, %s; want what the kernel said", err, out)
	}
}

// children returns the processes that pid has started.
func children(t *testing.T, pid int) []string {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, path := range tasks {
		b, _ := os.ReadFile(path)
		all = append(all, strings.Fields(string(b))...)
	}
	return all
}

// alive returns those of the processes that run.
func alive(pids []string) []string {
	var all []string
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err == nil && !strings.Contains(string(b), ") Z ") {
			all = append(all, pid)
		}
	}
	return all
}
