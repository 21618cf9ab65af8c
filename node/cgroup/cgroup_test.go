package cgroup_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/cgroup"
)

var small = soulbox.Size{CPUs: 1, Memory: 64 * soulbox.MiB, PIDs: 100}

// open returns a parent of this test's own, which is removed when it ends.
func open(t *testing.T) (*cgroup.Parent, string) {
	t.Helper()
	name := fmt.Sprintf("soulbox-test-%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	p, err := cgroup.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ids, err := p.Sandboxes()
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			g, err := p.Group(id)
			if err == nil {
				err = g.Remove()
			}
			if err != nil {
				t.Error(err)
			}
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
		if left := folders(t, name); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return p, name
}

// folders returns what exists under name in any hierarchy.
func folders(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	return found
}

func create(t *testing.T, p *cgroup.Parent, id soulbox.SandboxID, size soulbox.Size) *cgroup.Group {
	t.Helper()
	g, err := p.Create(id, size)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// A program waits until it may run, so that it can be put somewhere before.
type program struct {
	*exec.Cmd
	begin func() error // lets it run
	out   bytes.Buffer
}

func prepare(t *testing.T, script string) *program {
	t.Helper()
	p := &program{Cmd: exec.CommandContext(t.Context(), "/bin/bash", "-c", "read; "+script)}
	p.Stdout, p.Stderr = &p.out, &p.out
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.WaitDelay = 5 * time.Second
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.begin = func() error {
		_, err := stdin.Write([]byte("\n"))
		return errors.Join(err, stdin.Close())
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL) // it and its children have usually ended
		_ = p.Wait()                                      // it may have been waited for
	})
	return p
}

// run runs script in g until it ends.
func run(t *testing.T, g *cgroup.Group, script string) *program {
	t.Helper()
	p := prepare(t, script)
	if err := g.Add(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := p.begin(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // how it ends is looked at by the caller
	return p
}

func usage(t *testing.T, g *cgroup.Group) cgroup.Usage {
	t.Helper()
	u, err := g.Usage()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestMemory(t *testing.T) {
	p, _ := open(t)
	g := create(t, p, "ione", small)
	if u := usage(t, g); u.OOMKills != 0 || u.PIDsMax || u.CPU < 0 || u.Memory < 0 || u.Memory > soulbox.MiB {
		t.Errorf("a new group has used %+v", u)
	}
	ran := run(t, g, "head -c 20M /dev/zero | tail -c 20M | wc -c") // tail keeps it in memory
	if got := strings.TrimSpace(ran.out.String()); got != "20971520" {
		t.Fatalf("within the limit: %q, %v", got, ran.ProcessState)
	}
	if u := usage(t, g); u.OOMKills != 0 {
		t.Errorf("within the limit: %+v", u)
	}
	ran = run(t, g, "exec tail /dev/zero")
	if status, ok := ran.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("beyond the limit: %v, want killed", ran.ProcessState)
	}
	u := usage(t, g)
	if u.OOMKills != 1 || u.PIDsMax {
		t.Errorf("beyond the limit: %+v, want one OOM kill", u)
	}
	if u.Memory > small.Memory {
		t.Errorf("%d bytes used, more than the limit %d", u.Memory, small.Memory)
	}
	// Whoever looks later, in another process, sees it too.
	later, err := p.Group("ione")
	if err != nil {
		t.Fatal(err)
	}
	if u := usage(t, later); u.OOMKills != 1 {
		t.Errorf("seen by another: %+v", u)
	}
}

// What was read from disk can be dropped and does not count as used.
func TestCache(t *testing.T) {
	p, _ := open(t)
	g := create(t, p, "ione", small)
	const written = 30 << 20
	path := filepath.Join(t.TempDir(), "file")
	if ran := run(t, g, fmt.Sprintf("head -c %d /dev/zero > %s && sync %[2]s", written, path)); !ran.ProcessState.Success() {
		t.Fatalf("%v: %s", ran.ProcessState, ran.out.String())
	}
	if u := usage(t, g); u.Cache < written/2 || u.Memory > 10*soulbox.MiB {
		t.Errorf("after writing %d bytes: %+v, want them in Cache and not in Memory", written, u)
	}
}

func TestPIDs(t *testing.T) {
	p, _ := open(t)
	size := small
	size.PIDs = 5
	g := create(t, p, "ione", size)
	run(t, g, "true")
	if u := usage(t, g); u.PIDsMax {
		t.Errorf("within the limit: %+v", u)
	}
	// Not in bash, which goes on trying for a long time.
	ran := run(t, g, "exec sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 100 >/dev/null 2>&1 & done'")
	if !strings.Contains(ran.out.String(), "fork") {
		t.Errorf("eight children with a limit of five: %q", ran.out.String())
	}
	if u := usage(t, g); !u.PIDsMax || u.OOMKills != 0 {
		t.Errorf("beyond the limit: %+v, want PIDsMax", u)
	}
}

func TestCPU(t *testing.T) {
	p, _ := open(t)
	g := create(t, p, "ione", small)
	before := usage(t, g).CPU
	ran := run(t, g, "for ((i = 0; i < 200000; i++)); do :; done")
	state := ran.ProcessState
	took := state.UserTime() + state.SystemTime()
	if got := usage(t, g).CPU - before; got < took*7/10 || got > took+200*time.Millisecond {
		t.Errorf("the group used %v, its only process %v", got, took)
	}
}

// One processor's worth of time is all that a group gets of the machine.
func TestCPULimit(t *testing.T) {
	p, _ := open(t)
	g := create(t, p, "ione", small)
	begin := time.Now()
	run(t, g, "for j in 1 2 3 4; do (for ((i = 0; i < 60000; i++)); do :; done) & done; wait")
	wall := time.Since(begin)
	if got := usage(t, g).CPU; got > wall+200*time.Millisecond {
		t.Errorf("the group used %v in %v, more than one processor", got, wall)
	}
}

func TestAdd(t *testing.T) {
	p, _ := open(t)
	g := create(t, p, "ione", small)
	dead := prepare(t, "true")
	if err := dead.begin(); err != nil {
		t.Fatal(err)
	}
	if err := dead.Wait(); err != nil {
		t.Fatal(err)
	}
	alive := prepare(t, "sleep 100")
	// A dead one in the middle does not keep the others out.
	if err := g.Add(dead.Process.Pid, alive.Process.Pid, dead.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(alive.Process.Pid); err != nil {
		t.Errorf("Add again: %v", err)
	}
	if err := g.Add(); err != nil {
		t.Errorf("Add of nobody: %v", err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", alive.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "/ione\n") {
		t.Errorf("the process is in %s", b)
	}
	if err := g.Remove(); err == nil {
		t.Error("a group with a process in it can be removed")
	}
	if err := alive.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = alive.Wait() // killed
	if err := g.Remove(); err != nil {
		t.Errorf("Remove, tried again when it is empty: %v", err)
	}
	if err := g.Add(os.Getpid()); err == nil {
		t.Error("a process can be moved into a group that does not exist")
	}
}

func TestRemove(t *testing.T) {
	p, name := open(t)
	if err := p.Remove(); err != nil {
		t.Errorf("Remove of a parent that was never made: %v", err)
	}
	g := create(t, p, "ione", small)
	if err := p.Remove(); err == nil {
		t.Error("a parent with a group in it can be removed")
	}
	never, err := p.Group("itwo")
	if err != nil {
		t.Fatal(err)
	}
	other, err := p.Group("ione")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []*cgroup.Group{g, g, other, never} {
		if err := g.Remove(); err != nil {
			t.Errorf("Remove: %v", err)
		}
		if u, err := g.Usage(); err == nil {
			t.Errorf("a removed group has used %+v", u)
		}
	}
	for range 2 {
		if err := p.Remove(); err != nil {
			t.Errorf("Remove of the parent: %v", err)
		}
	}
	if left := folders(t, name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSandboxes(t *testing.T) {
	p, name := open(t)
	want := func(want ...soulbox.SandboxID) {
		t.Helper()
		got, err := p.Sandboxes()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Sandboxes(): (-want +got)\n%s", diff)
		}
	}
	want()
	create(t, p, "ione", small)
	g := create(t, p, "itwo", small)
	// One that a crash has left in a single hierarchy, and one that is
	// somebody else's.
	half := filepath.Join(folders(t, name)[0], "ihalf")
	foreign := filepath.Join(folders(t, name)[0], "Not-Ours")
	for _, dir := range []string{half, foreign} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want("ihalf", "ione", "itwo")
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	want("ihalf", "ione")
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
}

func TestCreateTwice(t *testing.T) {
	p, _ := open(t)
	create(t, p, "ione", small)
	for _, memory := range []soulbox.Bytes{128 * soulbox.MiB, 32 * soulbox.MiB} { // up and down
		size := small
		size.Memory, size.PIDs = memory, 7
		g := create(t, p, "ione", size)
		ran := run(t, g, "head -c 48M /dev/zero | tail -c 48M >/dev/null")
		if fits := memory > 48*soulbox.MiB; ran.ProcessState.Success() != fits {
			t.Errorf("48 MiB in a group with a limit of %d: %v %s", memory, ran.ProcessState, ran.out.String())
		}
	}
}

func TestBadNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "../up", "/abs", ".hidden"} {
		if _, err := cgroup.Open(name); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("Open(%q): %v, want Invalid", name, err)
		}
	}
	p, name := open(t)
	for _, id := range []soulbox.SandboxID{"", ".", "..", "../up", "A", "a/b", "a b", soulbox.SandboxID(strings.Repeat("a", 41))} {
		if _, err := p.Group(id); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("Group(%q): %v, want Invalid", id, err)
		}
		if _, err := p.Create(id, small); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("Create(%q): %v, want Invalid", id, err)
		}
	}
	if made := folders(t, name); len(made) > 0 {
		t.Errorf("made: %v", made)
	}
}

// A limit that the kernel refuses leaves no group.
func TestRefusedLimit(t *testing.T) {
	p, _ := open(t)
	size := small
	size.CPUs = -5
	size.Memory = -5
	if _, err := p.Create("ione", size); err == nil {
		t.Fatal("a group can have a negative limit")
	}
	if ids, err := p.Sandboxes(); err != nil || len(ids) > 0 {
		t.Errorf("left behind: %v, %v", ids, err)
	}
}
