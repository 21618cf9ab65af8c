package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

// What is different on a machine with cgroup v2 is tested piece by piece,
// because a machine has either.

func TestLacks(t *testing.T) {
	for list, want := range map[string]string{
		"cpuset cpu io memory hugetlb pids rdma misc\n": "",
		"memory cpu pids":   "",
		"cpuset io pids\n":  "memory",
		"cpuset memory\n":   "cpu",
		"cpu memory\n":      "pids",
		"":                  "memory",
		"memory2 cpu pids ": "memory",
		"memory cpuset pid": "cpu",
	} {
		if got := lacks(list); got != want {
			t.Errorf("lacks(%q) = %q, want %q", list, got, want)
		}
	}
}

func TestResources(t *testing.T) {
	size := soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, PIDs: 300}
	r := (&Parent{unified: true}).resources(size)
	if r.Memory != 512<<20 || r.MemorySwap != r.Memory || r.CpuQuota != 200_000 || r.CpuPeriod != 100_000 || r.PidsLimit == nil || *r.PidsLimit != 300 {
		t.Errorf("resources(%+v) = %+v", size, r)
	}
}

// Without controllers there is nothing to limit or to count with, but groups
// are made, found, entered and removed in the same way.
func TestUnifiedFolders(t *testing.T) {
	root := filepath.Join(mountPoint, "unified") // where a machine with v1 has v2
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		root = mountPoint
	}
	p := &Parent{unified: true, paths: map[string]string{"": filepath.Join(root, "soulbox-test-unified")}}
	g, err := p.Group("ione")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{p.paths[""] + "/ione"}, g.folders); diff != "" {
		t.Errorf("folders: (-want +got)\n%s", diff)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	if ids, err := p.Sandboxes(); err != nil || len(ids) > 0 {
		t.Errorf("Sandboxes() = %v, %v", ids, err)
	}
	if err := os.MkdirAll(g.folders[0], 0o755); err != nil {
		t.Fatal(err)
	}
	if ids, err := p.Sandboxes(); err != nil || len(ids) != 1 || ids[0] != "ione" {
		t.Errorf("Sandboxes() = %v, %v; want ione", ids, err)
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(g.folders[0], "cgroup.procs")); err != nil || len(b) == 0 {
		t.Errorf("the group has %q, %v", b, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Errorf("Add of a process that has ended: %v", err)
	}
	for range 2 {
		if err := g.Remove(); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
}

func TestPIDsMax(t *testing.T) {
	for text, want := range map[string]bool{"max 0\n": false, "max 1\n": true, "max 10\n": true, "max 0\nmax.imposed 3\n": false} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "pids.events"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g := &Group{folders: []string{filepath.Join(dir, "none"), dir}}
		if got := g.pidsMax(); got != want {
			t.Errorf("pidsMax with %q = %v, want %v", text, got, want)
		}
	}
	if (&Group{folders: []string{t.TempDir()}}).pidsMax() {
		t.Error("pidsMax without the file = true")
	}
}
