package node_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/guest"
)

func TestAdopt(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	w.create(t, n, "itwo")
	closeNode(t, n)
	closeNode(t, n) // it repeats
	w.wantLeft(t, of("ione", "itwo"))
	w.wantGone(t)
	w.driver.Crash(w.home("itwo"))

	n = w.open(t)
	if diff := cmp.Diff([]soulbox.SandboxID{"ione"}, n.Sandboxes()); diff != "" {
		t.Errorf("Sandboxes(): (-want +got)\n%s", diff)
	}
	if e := exit(t, n); e.ID != "itwo" || e.End.By != soulbox.ByCrash || !strings.Contains(e.End.Reason, "while the server was not running") {
		t.Errorf("exit %+v", e)
	}
	wantNoExit(t, n)
	w.wantLeft(t, of("ione"))
	conn, err := n.Dial(t.Context(), "ione", guest.Port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if u, err := n.Sample(t.Context()); err != nil || len(u) != 1 || u["ione"].MemTotal != size.Memory {
		t.Errorf("Sample: %+v, %v", u, err)
	}
	destroy(t, n, "ione")
	w.wantGone(t, "ione") // to itwo nobody was connected
	w.wantLeft(t, left{})
}

func TestCrash(t *testing.T) {
	tests := []struct {
		name, before string
		by           soulbox.Ender
		reason       string
	}{
		{"killed", "true", soulbox.ByCrash, "ended unexpectedly"},
		{"memory", "head -c 100M /dev/zero | tail -c 100M >/dev/null", soulbox.ByOOM, "64 MiB of memory"},
		{"processes", "exec sh -c 'i=0; while [ $i -lt 110 ]; do i=$((i+1)); sleep 0.3 >/dev/null 2>&1 & done'", soulbox.ByQuota, "100 host threads"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, open := range map[string]bool{"seen": true, "unseen": false} { // was the server there?
				t.Run(name, func(t *testing.T) {
					w := newWorld(t)
					n := w.open(t)
					w.create(t, n, "ione")
					in(t, "ione", tt.before)
					if !open {
						closeNode(t, n)
					}
					w.driver.Crash(w.home("ione"))
					reason := tt.reason
					if !open {
						n = w.open(t)
						if tt.by == soulbox.ByCrash {
							reason = "while the server was not running"
						}
					}
					e := exit(t, n)
					if e.ID != "ione" || e.End.By != tt.by || !strings.Contains(e.End.Reason, reason) {
						t.Errorf("exit %+v, want %s and %q", e, tt.by, reason)
					}
					if open {
						w.wantGone(t, "ione")
					}
					w.wantLeft(t, left{})
					if ids := n.Sandboxes(); len(ids) > 0 {
						t.Errorf("there is %v", ids)
					}
					destroy(t, n, "ione")
					wantNoExit(t, n)
				})
			}
		})
	}
}

// An end that nobody has heard of when the server stops is reported by the
// next one.
func TestCrashUnheard(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	w.create(t, n, "itwo")
	w.agent.entries <- "one" // so that a journal is open
	eventually(t, func() bool { return len(glob(t, filepath.Join(w.dir, "journals", "*", "*"))) > 0 }, func() string { return "nothing is written" })
	w.driver.Crash(w.home("ione"))
	w.driver.Crash(w.home("itwo"))
	eventually(t, func() bool { return len(n.Sandboxes()) == 0 }, func() string { return "the crash is not seen" })
	closeNode(t, n)
	n = w.open(t)
	seen := map[soulbox.SandboxID]soulbox.Ender{}
	for range 2 {
		e := exit(t, n)
		seen[e.ID] = e.End.By
	}
	if diff := cmp.Diff(map[soulbox.SandboxID]soulbox.Ender{"ione": soulbox.ByCrash, "itwo": soulbox.ByCrash}, seen); diff != "" {
		t.Errorf("exits: (-want +got)\n%s", diff)
	}
	w.wantLeft(t, left{})
}

// A sandbox that was paused may be resumed before anybody has heard how its former
// life ended: that waits until nothing is left of it.
func TestBackBeforeItsEndIsHeard(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	closeNode(t, n)
	w.driver.Crash(w.home("ione"))
	n = w.open(t)
	back := make(chan error, 1)
	go func() { back <- n.Create(t.Context(), w.sandbox("ione"), w.template()) }()
	select {
	case err := <-back:
		t.Fatalf("made again while its former life is there: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	exit(t, n)
	if err := <-back; err != nil {
		t.Fatal(err)
	}
	destroy(t, n, "ione")
	w.wantLeft(t, left{})
}

// The number of a network that a dead sandbox had goes to another at once; to
// clean up behind the dead one does not touch it.
func TestSlotOfTheDead(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	w.create(t, n, "itwo")
	slot := func(id soulbox.SandboxID) (r struct{ Slot int }) {
		b, err := os.ReadFile(filepath.Join(w.home(id), "record.json"))
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	dead := slot("ione")
	closeNode(t, n)
	w.driver.Crash(w.home("ione"))
	w.driver.Crash(w.home("itwo"))
	slow := make(chan struct{})
	w.driver.fails.Store(&failure{until: slow})
	n = w.open(t)
	w.create(t, n, "ithree")
	if got := slot("ithree"); got != dead {
		t.Fatalf("the new sandbox has %+v, want that of the dead one, %+v", got, dead)
	}
	exit(t, n)
	exit(t, n)
	close(slow)
	destroy(t, n, "ione") // before, while or after it is removed anyway
	eventually(t, func() bool { return len(w.look(t).Folders) == 1 }, func() string { return "the dead are not removed" })
	closeNode(t, n) // waits for everything under way
	if diff := cmp.Diff(of("ithree"), w.look(t)); diff != "" {
		t.Errorf("on the machine: (-want +got)\n%s", diff)
	}
	n = w.open(t)
	destroy(t, n, "ithree")
}

func TestReboot(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	closeNode(t, n)
	w.driver.Crash(w.home("ione"))
	path := filepath.Join(w.home("ione"), "record.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	older := strings.Replace(string(b), strings.TrimSpace(string(boot)), "00000000-0000-4000-8000-000000000000", 1)
	if older == string(b) {
		t.Fatalf("the record %s does not tell the boot", b)
	}
	if err := os.WriteFile(path, []byte(older), 0o600); err != nil {
		t.Fatal(err)
	}
	// A driver whose own files are torn is not asked.
	w.driver.fails.Store(&failure{adopt: errors.New("torn")})
	n = w.open(t)
	if e := exit(t, n); e.ID != "ione" || e.End.By != soulbox.ByServer || e.End.Reason != "the machine was restarted" {
		t.Errorf("exit %+v", e)
	}
	w.wantLeft(t, left{})
}

// What belongs to no record is removed: a folder in which nothing was written
// yet or that is torn, a cgroup, a network.
func TestLeftovers(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	w.create(t, n, "itwo")
	w.create(t, n, "ithree")
	closeNode(t, n)
	for id, record := range map[soulbox.SandboxID]string{"ione": "", "itwo": `{"id":"it`} {
		path := filepath.Join(w.home(id), "record.json")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if record != "" {
			if err := os.WriteFile(path, []byte(record), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Mkdir(w.home("iempty"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range glob(t, "/sys/fs/cgroup/*/soulbox-"+instance, "/sys/fs/cgroup/soulbox-"+instance) {
		if err := os.Mkdir(filepath.Join(dir, "iorphan"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n = w.open(t)
	wantNoExit(t, n)
	w.wantLeft(t, of("ithree"))
	destroy(t, n, "ithree")
	w.wantLeft(t, left{})
}

func TestSetNetwork(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	record := func() string {
		b, err := os.ReadFile(filepath.Join(w.home("ione"), "record.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	made := record()
	for _, internet := range []bool{false, false, true, false} {
		if err := n.SetNetwork(t.Context(), "ione", soulbox.Network{Internet: internet}); err != nil {
			t.Fatal(err)
		}
		if want := strings.Replace(made, `"internet":true`, `"internet":`+map[bool]string{true: "true", false: "false"}[internet], 1); record() != want {
			t.Errorf("record %s, want %s", record(), want)
		}
	}
	closeNode(t, n)
	if want := offline(t); len(want) != 1 {
		t.Errorf("offline in the kernel: %v, want one", want)
	}
	// A crash between record and rule must not leave a sandbox with more than
	// it was given.
	path := filepath.Join(w.home("ione"), "record.json")
	if err := os.WriteFile(path, []byte(made), 0o600); err != nil {
		t.Fatal(err)
	}
	n = w.open(t)
	if got := offline(t); len(got) != 0 {
		t.Errorf("offline in the kernel: %v, want what the record says", got)
	}
	closeNode(t, n)
	if err := os.WriteFile(path, []byte(strings.Replace(made, `"internet":true`, `"internet":false`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	n = w.open(t)
	if got := offline(t); len(got) != 1 {
		t.Errorf("offline in the kernel: %v, want what the record says", got)
	}
	destroy(t, n, "ione")
	if err := n.SetNetwork(t.Context(), "inever", soulbox.Network{}); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("SetNetwork of an unknown sandbox: %v, want NotFound", err)
	}
}

// A driver that cannot say what runs must not cost a sandbox its life.
func TestOpenFails(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	closeNode(t, n)
	broken := errors.New("broken")
	w.driver.fails.Store(&failure{adopt: broken})
	if n, err := node.Open(t.Context(), w.options(t)); !errors.Is(err, broken) {
		t.Errorf("Open: %v, %v; want %v", n, err, broken)
	}
	w.driver.fails.Store(nil)
	o := w.options(t)
	o.Resolver = prefix.Addr().Prev() // a good address
	o.Ready = 1 << 20
	if n, err := node.Open(t.Context(), o); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Open with too many ready: %v, %v; want Invalid", n, err)
	}
	o = w.options(t)
	o.Instance = "../up"
	if n, err := node.Open(t.Context(), o); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Open with a bad name: %v, %v; want Invalid", n, err)
	}
	w.wantLeft(t, of("ione"))
	n = w.open(t)
	destroy(t, n, "ione")
}

func TestPurge(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	w.create(t, n, "itwo")
	w.agent.entries <- "one"
	eventually(t, func() bool { return len(glob(t, filepath.Join(w.dir, "journals", "*", "*"))) > 0 }, func() string { return "nothing is written" })
	closeNode(t, n)
	log := slog.New(slog.DiscardHandler)
	broken := errors.New("broken")
	w.driver.fails.Store(&failure{destroy: broken})
	if err := node.Purge(t.Context(), log, w.dir, instance, w.driver); !errors.Is(err, broken) {
		t.Errorf("Purge: %v, want %v", err, broken)
	}
	if got := w.look(t); len(got.Folders) != 2 {
		t.Errorf("folders %v: that of a sandbox that could not be ended must stay", got.Folders)
	}
	w.driver.fails.Store(nil)
	for range 2 {
		if err := node.Purge(t.Context(), log, w.dir, instance, w.driver); err != nil {
			t.Errorf("Purge: %v", err)
		}
		if diff := cmp.Diff(left{}, w.look(t)); diff != "" {
			t.Errorf("after Purge: (-want +got)\n%s", diff)
		}
	}
	if len(glob(t, filepath.Join(w.dir, "journals", "*"))) == 0 {
		t.Error("what is known on disk is gone")
	}
	if err := node.Purge(t.Context(), log, filepath.Join(w.dir, "none"), instance, w.driver); err != nil {
		t.Errorf("Purge of a folder that does not exist: %v", err)
	}
	n = w.open(t)
	w.create(t, n, "ione") // and it works again
	destroy(t, n, "ione")
}

// Close ends everything that works for the node, also when nobody listens to
// it any more, and in bounded time.
func TestClose(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, func(o *node.Options) { o.Ready = 2 })
	for _, id := range []soulbox.SandboxID{"ione", "itwo", "ithree"} {
		w.create(t, n, id)
	}
	w.driver.Crash(w.home("ione")) // nobody reads the report
	destroy(t, n, "itwo")          // the removal may be under way
	begin := time.Now()
	closeNode(t, n) // that no goroutine stays is seen in the end
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
	n = w.open(t)
	if e := exit(t, n); e.ID != "ione" {
		t.Errorf("exit %+v", e)
	}
	if diff := cmp.Diff([]soulbox.SandboxID{"ithree"}, n.Sandboxes()); diff != "" {
		t.Errorf("Sandboxes(): (-want +got)\n%s", diff)
	}
	destroy(t, n, "ithree")
}
