package gvisor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/pidfd"
)

// A process that has the number of one that ended is left alone.
func TestKill(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	pid := cmd.Process.Pid
	p, err := pidfd.Open(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := kill(t.Context(), pid, p.Started+1); err != nil {
		t.Errorf("kill of another that had the number: %v", err)
	}
	if again, err := pidfd.Open(pid, p.Started); err != nil {
		t.Errorf("the wrong process was killed: %v", err)
	} else {
		again.Close()
	}
	for range 2 {
		if err := kill(t.Context(), pid, p.Started); err != nil {
			t.Errorf("kill: %v", err)
		}
	}
}

func TestCommandLineOf(t *testing.T) {
	const dir = "/data/sandboxes/ione"
	tests := []struct {
		name string
		args []string
		want bool
	}{
		{"sentry", []string{"runsc-sandbox", "--root=/run", "boot", "--bundle=" + dir, "ione"}, true},
		{"only_it", []string{"runsc-sandbox", "--bundle=" + dir}, true},
		{"of_another", []string{"runsc-sandbox", "boot", "--bundle=/data/sandboxes/itwo"}, false},
		{"of_a_longer_name", []string{"runsc-sandbox", "boot", "--bundle=" + dir + "x"}, false},
		{"of_a_folder_below", []string{"runsc-sandbox", "boot", "--bundle=" + dir + "/root"}, false},
		{"inside_an_argument", []string{"runsc-sandbox", "boot", "x--bundle=" + dir}, false},
		{"two_arguments", []string{"runsc-sandbox", "boot", "--bundle", dir}, false},
		{"another_program", []string{"grep", "--bundle=" + dir}, false},
		{"its_path", []string{"/tmp/runsc-sandbox", "--bundle=" + dir}, false},
		{"name_is_the_argument", []string{"--bundle=" + dir}, false},
		{"nothing", nil, false},
		{"kernel_thread", []string{""}, false},
	}
	for _, tt := range tests {
		if got := commandLineOf(tt.args, dir); got != tt.want {
			t.Errorf("%s: commandLineOf(%q) = %v, want %v", tt.name, tt.args, got, tt.want)
		}
	}
}

// FuzzCommandLineOf: a process is the sentry of one folder at most.
func FuzzCommandLineOf(f *testing.F) {
	f.Add("runsc-sandbox\x00--bundle=/a\x00", "/a", "/b")
	f.Add("\x00", "", "/")
	f.Fuzz(func(t *testing.T, line, a, b string) {
		args := strings.Split(line, "\x00")
		bundles := 0
		for _, arg := range args {
			if strings.HasPrefix(arg, "--bundle=") {
				bundles++
			}
		}
		if a != b && bundles == 1 && commandLineOf(args, a) && commandLineOf(args, b) {
			t.Errorf("%q is the sentry of %q and of %q", args, a, b)
		}
		if commandLineOf(args, a) && (args[0] != "runsc-sandbox" || bundles == 0) {
			t.Errorf("%q is the sentry of %q", args, a)
		}
	})
}

// findSentries finds a process by its command line and nothing else.
func TestFindSentries(t *testing.T) {
	dir := t.TempDir()
	start := func(args ...string) int {
		cmd := exec.CommandContext(t.Context(), "/bin/sleep")
		cmd.Path, cmd.Args = "/bin/bash", append([]string{args[0], "-c", "read", "bash"}, args[1:]...)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // killed
		})
		return cmd.Process.Pid
	}
	pid := start("runsc-sandbox", "--bundle="+dir)
	start("runsc-sandbox", "--bundle="+dir+"2")
	start("other", "--bundle="+dir)
	if got := findSentries(dir); len(got) != 1 || got[0] != pid {
		t.Errorf("findSentries() = %v, want %d", got, pid)
	}
	if got := findSentries(filepath.Join(dir, "none")); len(got) > 0 {
		t.Errorf("findSentries of an unknown folder = %v", got)
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	if _, err := load(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("load of nothing: %v, want os.ErrNotExist", err)
	}
	first := state{Addr: "10.0.0.2", Socket: "/run/s"}
	if err := first.create(dir, nil); err != nil {
		t.Fatal(err)
	}
	if err := first.create(dir, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("create again: %v, want os.ErrExist", err)
	}
	second := state{PID: 7, Started: 1<<64 - 1, Addr: "10.0.0.2", Socket: "/run/s"}
	if err := second.save(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := load(dir); err != nil || got != second {
		t.Errorf("load() = %+v, %v; want %+v", got, err, second)
	}
}

// A torn record is not taken for a sandbox that runs, does not keep the server
// from starting, nor anybody from removing what is left.
func TestTornState(t *testing.T) {
	d := &Driver{runDir: t.TempDir()}
	whole := `{"pid":7,"started":1,"addr":"10.0.0.2","socket":"/run/s"}`
	for _, text := range []string{"", "\x00\x00\x00", whole[:1], whole[:len(whole)/2], whole[:len(whole)-1], whole + "}", "[]", `{"pid":"7"}`, `{"pid":1e99}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if st, err := load(dir); err == nil || st != (state{}) {
			t.Errorf("load(%q) = %+v, %v; want an error and nothing", text, st, err)
		}
		if _, err := d.Adopt(t.Context(), "ione", dir); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("Adopt with %q: %v, want NotFound, so that the server starts and Destroy cleans up", text, err)
		}
		for range 2 {
			if err := d.Destroy(t.Context(), "ione", dir); err != nil {
				t.Errorf("Destroy with %q: %v", text, err)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("Destroy with %q leaves %v, %v", text, left, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	base, err := os.MkdirTemp("", "soulbox-new-") //nolint:usetesting // t.TempDir makes folders that only root may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	write := func(dir string, dirMode, mode os.FileMode) string {
		path := filepath.Join(base, dir, "sentry")
		if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600), os.Chmod(path, mode), os.Chmod(filepath.Dir(path), dirMode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	good := write("good", 0o755, 0o755)
	if err := openToAll(good); err != nil {
		t.Fatalf("a good one is refused: %v", err)
	}
	run := filepath.Join(base, "run")
	tests := []struct{ name, sentry, run, says string }{
		{"not_executable", write("plain", 0o755, 0o644), run, "nobody"},
		{"only_for_root", write("root", 0o755, 0o700), run, "nobody"},
		{"in_a_private_folder", write("private", 0o700, 0o755), run, filepath.Join(base, "private") + " has mode 0700"},
		{"missing", filepath.Join(base, "none"), run, "no such file"},
		{"relative", "sentry", run, "not absolute"},
		{"long_run_folder", good, "/" + strings.Repeat("x", 60), "61 characters"},
		{"run_folder_is_a_file", good, good, "not a directory"},
	}
	in, out, errs := os.Stdin, os.Stdout, os.Stderr
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, programs := range [][2]string{{tt.sentry, good}, {good, tt.sentry}} {
				if _, err := New(programs[0], programs[1], tt.run, nil); err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("New(%q): %v, want %q", programs, err, tt.says)
				}
			}
			if os.Stdin != in || os.Stdout != out || os.Stderr != errs {
				t.Error("a refused New took the standard files")
			}
		})
	}
}
