package servertest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Leftovers lists what sandboxes of this server have on the machine:
// processes, network namespaces, devices, cgroups, sockets, mounts, loop devices
// and folders.
// A server without sandboxes has none, apart from the networks that it keeps
// ready while it runs.
func (s *Server) Leftovers(t testing.TB) []string {
	t.Helper()
	var left []string
	add := func(kind string, names ...string) {
		for _, n := range names {
			left = append(left, kind+" "+n)
		}
	}
	instance := s.Instance(t)
	add("process", s.processes(t)...)
	add("namespace", list(t, filepath.Join("/run/soulbox/netns", instance))...)
	add("socket", list(t, filepath.Join("/run/soulbox", instance))...)
	add("folder", list(t, filepath.Join(s.Data, "sandboxes"))...)
	for _, controller := range []string{"", "memory", "cpu", "cpuacct", "pids"} {
		dir := filepath.Join("/sys/fs/cgroup", controller, "soulbox-"+instance)
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				add("cgroup", filepath.Join(dir, e.Name()))
			}
		}
	}
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // others make and remove devices
		links, err = netlink.LinkList()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "sb"+instance+"-") {
			add("device", l.Attrs().Name)
		}
	}
	shown, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range shown {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(s.Data)) {
			add("loop device of", strings.TrimSpace(string(b)))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(mounts) {
		if bytes.Contains(line, []byte(s.Data)) {
			add("mount", strings.TrimSpace(string(line)))
		}
	}
	return left
}

// Folders lists the sandboxes that have a folder, whoever they belong to.
func (s *Server) Folders(t testing.TB) []string {
	t.Helper()
	return list(t, filepath.Join(s.Data, "sandboxes"))
}

// WantNothingLeft fails the test unless everything is gone soon; teardown goes
// on behind the answers.
func (s *Server) WantNothingLeft(t testing.TB) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if left = s.Leftovers(t); len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}

// Instance is the short name in the server's kernel objects.
func (s *Server) Instance(t testing.TB) string {
	t.Helper()
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if s.log.instance == "" {
		t.Fatal("the server's log does not tell its instance")
	}
	return s.log.instance
}

// processes returns those whose command line names the data folder's
// sandboxes.
func (s *Server) processes(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(b, []byte(filepath.Join(s.Data, "sandboxes"))) {
			found = append(found, fmt.Sprintf("%s %.60q", e.Name(), b))
		}
	}
	return found
}

// list returns the names in a folder, none if it does not exist.
func list(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, filepath.Join(dir, e.Name()))
	}
	return names
}
