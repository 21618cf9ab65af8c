package servertest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
	for _, p := range s.processes(t) {
		add("process", p.String())
	}
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

// Strays lists what there is on the machine of sandboxes of this server other
// than those named. Networks, which bear no sandbox's name, are left out.
func (s *Server) Strays(t testing.TB, running ...string) []string {
	t.Helper()
	return slices.DeleteFunc(s.Leftovers(t), func(left string) bool {
		return strings.HasPrefix(left, "namespace ") || strings.HasPrefix(left, "device ") ||
			slices.ContainsFunc(running, func(id string) bool { return strings.Contains(left, id) })
	})
}

// KillAll ends the server and every process of its sandboxes as an accident
// would. Each may have ended already.
func (s *Server) KillAll(t testing.TB) {
	t.Helper()
	s.Kill()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := s.processes(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("killed, and still there: %v", left)
		}
		for _, p := range left {
			_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// Halt stops the processes of the first sandbox that appears beside those whose
// folders are known, wherever their start has got to, and returns its id. They
// do not go on until somebody tells them to, or ends them.
func (s *Server) Halt(t testing.TB, known []string) (id string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, folder := range s.Folders(t) {
			if slices.Contains(known, folder) {
				continue
			}
			for _, p := range s.processes(t) {
				if !strings.Contains(p.line, folder) {
					continue
				}
				if err := syscall.Kill(p.pid, syscall.SIGSTOP); err != nil {
					t.Fatalf("stop %v: %v", p, err)
				}
				id = filepath.Base(folder)
			}
			if id != "" {
				return id
			}
		}
	}
	t.Fatal("no other sandbox appears")
	return ""
}

// Reboot leaves of the server and its sandboxes what a restart of the machine
// leaves: the data folder, in which records speak of a boot that is over.
func (s *Server) Reboot(t testing.TB) {
	t.Helper()
	s.KillAll(t)
	// Purge removes the folders, too, which a reboot would not.
	folders, kept := filepath.Join(s.Data, "sandboxes"), s.Data+".kept"
	if err := os.Rename(folders, kept); err != nil {
		t.Fatal(err)
	}
	s.purge(t)
	if err := errors.Join(os.RemoveAll(folders), os.Rename(kept, folders)); err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range s.Folders(t) {
		path := filepath.Join(folder, "record.json")
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was being made, or removed
		}
		if err != nil {
			t.Fatal(err)
		}
		was := bytes.ReplaceAll(b, bytes.TrimSpace(boot), []byte("00000000-0000-0000-0000-000000000000"))
		if bytes.Equal(was, b) {
			t.Fatalf("%s does not say in which boot it was written: %s", path, b)
		}
		if err := os.WriteFile(path, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, left := range s.Leftovers(t) {
		if !strings.HasPrefix(left, "folder ") {
			t.Errorf("not as after a reboot: %s", left)
		}
	}
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

// A process is one of the machine.
type process struct {
	pid  int
	line string
}

func (p process) String() string { return fmt.Sprintf("%d %.500q", p.pid, p.line) }

// processes returns those whose command line names the data folder's
// sandboxes.
func (s *Server) processes(t testing.TB) []process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []process
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !bytes.Contains(b, []byte(filepath.Join(s.Data, "sandboxes"))) {
			continue
		}
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			found = append(found, process{pid, string(b)})
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
