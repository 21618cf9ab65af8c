package runc_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/testbin"
	"github.com/soulbox/soulbox/node/cgroup"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/driver/drivertest"
	"github.com/soulbox/soulbox/node/driver/runc"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/netns"
	"github.com/soulbox/soulbox/node/rootfs"
)

// TestDriver runs the suite on real containers with the real agent in them, and
// then looks for what they left on the machine.
func TestDriver(t *testing.T) {
	w := newWorld(t)
	drivertest.Run(t, drivertest.Harness{Open: w.open, Spec: w.spec, Crash: crash})
}

// A world is what sandboxes are made of.
type world struct {
	program, disks string
	images         *rootfs.Store
	image          string
	network        *netns.Network
	groups         *cgroup.Parent
}

const instance = "rctest"

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes namespaces: run it as root")
	}
	w := &world{program: testbin.Build(t, "soulbox-runc"), disks: t.TempDir()}
	before := kernelThings(t)
	t.Cleanup(func() {
		for thing := range kernelThings(t) {
			if !before[thing] {
				t.Errorf("left on the machine: %s", thing)
			}
		}
	})
	w.images, w.image = agentImage(t)
	opts := netns.Options{Instance: instance, Ready: 2}
	log := slog.New(slog.DiscardHandler)
	var err error
	if w.network, err = netns.Open(t.Context(), log, opts, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.network.Close(); err != nil {
			t.Error(err)
		}
		if err := netns.Purge(context.WithoutCancel(t.Context()), log, opts); err != nil {
			t.Error(err)
		}
	})
	if w.groups, err = cgroup.Open("soulbox-" + instance); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ids, err := w.groups.Sandboxes()
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if g, err := w.groups.Group(id); err != nil {
				t.Error(err)
			} else if err := g.Remove(); err != nil {
				t.Error(err)
			}
		}
		if err := w.groups.Remove(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) open(t *testing.T) driver.Driver {
	d, err := runc.New(w.program, w.disks, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (w *world) spec(t *testing.T, id soulbox.SandboxID) driver.Spec {
	t.Helper()
	lease, err := w.network.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.network.Release(lease.Slot) })
	root, err := w.images.Hold(w.image)
	if err != nil {
		t.Fatal(err)
	}
	size := soulbox.Size{CPUs: 1, Memory: 256 * soulbox.MiB, Disk: 64 * soulbox.MiB, PIDs: 256}
	group, err := w.groups.Create(id, size)
	if err != nil {
		t.Fatal(err)
	}
	return driver.Spec{
		ID: id, Dir: t.TempDir(), Image: root, Hostname: "sandbox", Size: size,
		Netns: lease.Path, Addr: lease.Addr.String(), Cgroup: group,
	}
}

// A frozen sandbox can be ended, also by a process that did not freeze it, and
// after its own process was killed.
func TestFrozen(t *testing.T) {
	w := newWorld(t)
	for _, id := range []soulbox.SandboxID{"ifrozen", "ifrozenkilled"} {
		spec := w.spec(t, id)
		inst, err := w.open(t).Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := inst.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		if id == "ifrozenkilled" {
			crash(t, spec)
		}
		later := w.open(t)
		again, err := later.Adopt(t.Context(), id, spec.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if id == "ifrozen" { // one Thaw is enough for whoever found it frozen
			if err := again.Thaw(t.Context()); err != nil {
				t.Fatal(err)
			}
			conn, err := again.Dial(t.Context(), guest.Port)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if err := again.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := later.Destroy(t.Context(), id, spec.Dir); err != nil {
			t.Fatal(err)
		}
		<-inst.Done()
		<-again.Done()
	}
}

// Whoever saves a sandbox may die before it can let it go on.
func TestDiedSaving(t *testing.T) {
	w := newWorld(t)
	spec := w.spec(t, "isaving")
	inst, err := w.open(t).Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := inst.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(spec.Dir, "runc.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), "{", `{"saving":true,`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	later := w.open(t)
	again, err := later.Adopt(t.Context(), "isaving", spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := files(t, again, http.MethodPost, "/root/note", strings.NewReader("it goes on")); status != http.StatusOK {
		t.Errorf("writing a file: %d", status)
	}
	if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), "saving") {
		t.Errorf("its record is %s, %v; it is not being saved any more", b, err)
	}
	if err := later.Destroy(t.Context(), "isaving", spec.Dir); err != nil {
		t.Error(err)
	}
}

// What the agent's end leaves, and what it says.
func TestAgentEnds(t *testing.T) {
	w := newWorld(t)
	spec := w.spec(t, "iagent")
	d := w.open(t)
	inst, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	holder := strconv.Itoa(pid(t, spec.Dir))
	b, err := os.ReadFile("/proc/" + holder + "/task/" + holder + "/children")
	if err != nil {
		t.Fatal(err)
	}
	agent, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatalf("its children are %q, want only the agent", b)
	}
	if err := unix.Kill(agent, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-inst.Done()
	if got, want := inst.Exit(), (driver.Exit{Code: 128 + int(unix.SIGKILL)}); got != want {
		t.Errorf("Exit() = %+v, want %+v", got, want)
	}
	if err := d.Destroy(t.Context(), "iagent", spec.Dir); err != nil {
		t.Error(err)
	}
}

// What needs memory is refused with the reason, and a disk of another size.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	d := w.open(t)
	spec := w.spec(t, "irefused")
	spec.Saved = &driver.Saved{Dir: t.TempDir(), Memory: true}
	if _, err := d.Start(t.Context(), spec); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Start with memory: %v, want Invalid", err)
	}
	live := w.spec(t, "isaved")
	inst, err := d.Start(t.Context(), live)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Destroy(context.WithoutCancel(t.Context()), "isaved", live.Dir); err != nil {
			t.Error(err)
		}
	})
	saved := t.TempDir()
	if err := inst.Save(t.Context(), saved, true); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Save with memory: %v, want Invalid", err)
	}
	if err := inst.Save(t.Context(), saved, false); err != nil {
		t.Fatal(err)
	}
	spec = w.spec(t, "iother")
	spec.Size.Disk *= 2
	spec.Saved = &driver.Saved{Dir: saved, Check: func() error { return nil }}
	if _, err := d.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "134217728") {
		t.Errorf("Start with another size: %v, want an error that names it", err)
	}
}

// A torn record is not taken for a sandbox that runs, does not keep the server
// from starting, nor anybody from removing what is left.
func TestTornRecord(t *testing.T) {
	d, err := runc.New("/bin/true", t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	whole := `{"pid":1,"started":1,"addr":"10.0.0.2"}`
	for _, text := range []string{"", "\x00\x00", whole[:1], whole[:len(whole)/2], whole + "}", "[]", `{"pid":"7"}`, `{"addr":"10.0.0.2"}`, whole} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "runc.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Adopt(t.Context(), "itorn", dir); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("Adopt with %q: %v, want NotFound", text, err)
		}
		for range 2 {
			if err := d.Destroy(t.Context(), "itorn", dir); err != nil {
				t.Errorf("Destroy with %q: %v", text, err)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("Destroy with %q leaves %v, %v", text, left, err)
		}
	}
}

func crash(t *testing.T, spec driver.Spec) {
	t.Helper()
	if err := unix.Kill(pid(t, spec.Dir), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// pid returns the process that holds the sandbox of folder dir.
func pid(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "runc.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ PID int }
	if err := json.Unmarshal(b, &state); err != nil || state.PID == 0 {
		t.Fatalf("record %q: %v", b, err)
	}
	return state.PID
}

// kernelThings lists what a sandbox has of the kernel: processes, mounts, loop
// devices and cgroups.
func kernelThings(t *testing.T) map[string]bool {
	t.Helper()
	things := map[string]bool{}
	glob := func(pattern string) []string {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return paths
	}
	for _, path := range glob("/proc/[0-9]*/cmdline") {
		if b, err := os.ReadFile(path); err == nil && (strings.HasPrefix(string(b), "soulbox-runc\x00") || strings.HasPrefix(string(b), "/.soulbox/agent\x00-ready-fd\x003")) {
			things["process "+strings.ReplaceAll(string(b), "\x00", " ")+filepath.Base(filepath.Dir(path))] = true
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if !strings.Contains(line, "/run/soulbox/netns/") {
			things["mount "+strings.Join(strings.Fields(line)[2:], " ")] = true
		}
	}
	for _, path := range glob("/sys/block/loop*/loop/backing_file") {
		if b, err := os.ReadFile(path); err == nil {
			things["loop device of "+string(b)] = true
		}
	}
	for _, path := range append(glob("/sys/fs/cgroup/*/soulbox-runc-*"), glob("/sys/fs/cgroup/*/soulbox-"+instance+"*")...) {
		things["cgroup "+path] = true
	}
	return things
}

// agentImage builds an image that holds nothing but the agent and what every
// image is given.
func agentImage(t *testing.T) (*rootfs.Store, string) {
	t.Helper()
	agent, err := os.Open(testbin.Build(t, "soulbox-agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	tree := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Prepare(tree, agent); err != nil {
		t.Fatal(err)
	}
	images, err := rootfs.Open(slog.New(slog.DiscardHandler), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img, err := images.Build(t.Context(), tree, rootfs.BuildOptions{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return images, img.ID
}

// What a sandbox has written is in what it is saved to, for a sandbox with other
// users on the host, and it cannot write more than its disk holds.
func TestFiles(t *testing.T) {
	w := newWorld(t)
	d := w.open(t)
	start := func(id soulbox.SandboxID, saved *driver.Saved) (driver.Spec, driver.Instance) {
		spec := w.spec(t, id)
		spec.Saved = saved
		inst, err := d.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Destroy(context.WithoutCancel(t.Context()), id, spec.Dir); err != nil {
				t.Error(err)
			}
		})
		return spec, inst
	}
	spec, inst := start("ifiles", nil)
	if status, _ := files(t, inst, http.MethodPost, "/root/note", strings.NewReader("first")); status != http.StatusOK {
		t.Fatalf("writing a file: %d", status)
	}
	before, err := inst.DiskUsed()
	if err != nil {
		t.Fatal(err)
	}
	if status, text := files(t, inst, http.MethodPost, "/root/large", io.LimitReader(zeroes{}, int64(2*spec.Size.Disk))); status != http.StatusInsufficientStorage {
		t.Errorf("writing more than the disk holds: %d %.200s, want 507", status, text)
	}
	if used, err := inst.DiskUsed(); err != nil || used < before || used > spec.Size.Disk {
		t.Errorf("DiskUsed() = %d, %v; want %d to %d", used, err, before, spec.Size.Disk)
	}
	saved := &driver.Saved{Dir: t.TempDir(), Check: func() error { return nil }}
	if err := inst.Save(t.Context(), saved.Dir, false); err != nil {
		t.Fatal(err)
	}
	if status, _ := files(t, inst, http.MethodPost, "/root/note", strings.NewReader("second")); status != http.StatusOK {
		t.Errorf("writing a file after the disk was full: %d", status)
	}
	other, copied := start("icopy", saved)
	if other.Addr == spec.Addr {
		t.Errorf("both are at %s", spec.Addr)
	}
	for inst, want := range map[driver.Instance]string{inst: "second", copied: "first"} {
		if status, text := files(t, inst, http.MethodGet, "/root/note", nil); status != http.StatusOK || text != want {
			t.Errorf("the file holds %q (%d), want %q", text, status, want)
		}
	}
	if status, text := files(t, copied, http.MethodPost, "/root/note", strings.NewReader("third")); status != http.StatusOK {
		t.Errorf("writing a file of the copy: %d %s", status, text)
	}
}

// files has the agent read or write a file, and returns what it answers.
func files(t *testing.T, inst driver.Instance, verb, path string, content io.Reader) (int, string) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return inst.Dial(ctx, guest.Port) }}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), verb, "http://agent/files?username=root&path="+path, content)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Errorf("%s %s: %v", verb, path, err)
		return 0, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, string(b)
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
