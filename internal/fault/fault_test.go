package fault_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/soulbox/soulbox/internal/fault"
)

// With these set, the test binary is the program that is to die.
const (
	armVar    = "SOULBOX_FAULT_TEST_ARM"
	manyAtVar = "SOULBOX_FAULT_TEST_MANY"
	renameVar = "SOULBOX_FAULT_TEST_RENAME" // the file, which is given another name after each round
)

func TestMain(m *testing.M) {
	if arm, ok := os.LookupEnv(armVar); ok {
		victim(fault.Arm(arm), os.Getenv(manyAtVar) != "", os.Getenv(renameVar))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victim passes three steps twice, and says so. With a file it does so twice
// for each of two names in it.
func victim(p *fault.Points, many bool, file string) {
	if many {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { p.Reach("one") })
		}
		wg.Wait()
		return
	}
	rounds := 2
	if file != "" {
		rounds = 4
	}
	for round := range rounds {
		if file != "" {
			name := []string{"two@3", "two@2"}[round/2]
			if err := os.WriteFile(file, []byte(name), 0o600); err != nil {
				panic(err)
			}
		}
		for _, step := range []string{"one", "two", "three"} {
			p.Reach(step)
			fmt.Fprintf(os.Stdout, "%s%d ", step, round)
		}
	}
}

const all = "one0 two0 three0 one1 two1 three1 "

func TestReach(t *testing.T) {
	tests := []struct {
		arm, passed string
	}{
		{"", all},
		{"one", ""},
		{"one@1", ""},
		{"two", "one0 "},
		{"two@2", "one0 two0 three0 one1 "},
		{"three@2", "one0 two0 three0 one1 two1 "},
		{"three@3", all}, // is not reached a third time
		{"four", all},
		{"two@0", all}, // no number of a pass, so a name that no step has
		{"two@-1", all},
		{"two@x", all},
		{"two@", all},
		{"@2", all},
	}
	for _, tt := range tests {
		t.Run(tt.arm, func(t *testing.T) {
			out, err := run(t, armVar+"="+tt.arm)
			if out != tt.passed {
				t.Errorf("armed with %q it passed %q, want %q", tt.arm, out, tt.passed)
			}
			if died := killed(err); died != (tt.passed != all) || !died && err != nil {
				t.Errorf("armed with %q: %v", tt.arm, err)
			}
		})
	}
}

// The step may be named while the program runs.
func TestReachNamedInFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "step")
	p := fault.Arm("file:" + path)
	p.Reach("") // there is no file
	p.Reach("one")
	for _, tt := range []struct{ name, passed string }{
		{"", all},
		{"four", all},
		{"two", "one0 "},
		{"two@2", "one0 two0 three0 one1 "},
		{"two@3", all},
		{"file:" + path, all}, // a name that no step has
	} {
		if err := os.WriteFile(path, []byte(tt.name), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := run(t, armVar+"=file:"+path)
		if dies := tt.passed != all; out != tt.passed || killed(err) != dies || !dies && err != nil {
			t.Errorf("with %q in the file: %v after %q, want it to pass %q", tt.name, err, out, tt.passed)
		}
	}
}

// Passes from before the file had that name do not count.
func TestReachNamedAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "step")
	out, err := run(t, armVar+"=file:"+path, renameVar+"="+path)
	if want := "one0 two0 three0 one1 two1 three1 one2 two2 three2 one3 "; out != want || !killed(err) {
		t.Errorf("%v after %q, want it killed after %q", err, out, want)
	}
}

// Of many goroutines at a step one brings the end, and the others do not
// prevent it.
func TestReachAtOnce(t *testing.T) {
	for arm, dies := range map[string]bool{"one@1": true, "one@57": true, "one@100": true, "one@101": false} {
		out, err := run(t, armVar+"="+arm, manyAtVar+"=1")
		if killed(err) != dies || out != "" || !dies && err != nil {
			t.Errorf("%s: %v, output %q; want killed: %v", arm, err, out, dies)
		}
	}
}

func TestNil(*testing.T) {
	var p *fault.Points
	p.Reach("")
	p.Reach("one")
}

// run runs the victim and returns what it wrote before it ended.
func run(t *testing.T, env ...string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), env...)
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // it has a second's rest otherwise
	var out strings.Builder
	cmd.Stdout = &out
	err = cmd.Run()
	return out.String(), err
}

func killed(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}
