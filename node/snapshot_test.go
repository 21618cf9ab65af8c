package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/guest"
)

// snapshotOf returns what fleet would write down of a sandbox.
func (w *world) snapshotOf(id soulbox.SandboxID, memory bool) *soulbox.Snapshot {
	return &soulbox.Snapshot{
		ID: soulbox.NewSnapshotID(), Sandbox: id, Memory: memory, Template: "tone", Image: w.image, Size: size, Secure: true,
		User: "user", Workdir: "/home/user", Env: map[string]string{"A": "snapshot"},
	}
}

// write writes a sandbox down.
func (w *world) write(t *testing.T, n *node.Node, id soulbox.SandboxID, memory, hold bool) *soulbox.Snapshot {
	t.Helper()
	snap := w.snapshotOf(id, memory)
	if got, err := n.Snapshot(t.Context(), id, snap, hold); err != nil || got <= 0 {
		t.Fatalf("Snapshot(%s): %d, %v", id, got, err)
	}
	return snap
}

func (w *world) restore(t *testing.T, n *node.Node, sb *soulbox.Sandbox, snap *soulbox.Snapshot) {
	t.Helper()
	if err := n.Restore(t.Context(), sb, snap); err != nil {
		t.Fatalf("Restore(%s): %v", sb.ID, err)
	}
}

// ask asks the agent of a sandbox who it is, and returns the status and what it
// says.
func ask(t *testing.T, n *node.Node, id soulbox.SandboxID, token string, d time.Duration) (int, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.Dial(ctx, id, guest.Port)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/whoami", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Access-Token", token)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// wantSays wants the sandbox to answer who asks with a token.
func wantSays(t *testing.T, n *node.Node, id soulbox.SandboxID, token, want string) {
	t.Helper()
	if status, got, err := ask(t, n, id, token, patience); err != nil || status != http.StatusOK || got != want {
		t.Errorf("%s says %d %q, %v; want %q", id, status, got, err, want)
	}
}

// wantStill wants the sandbox not to answer.
func wantStill(t *testing.T, n *node.Node, id soulbox.SandboxID) {
	t.Helper()
	if status, got, err := ask(t, n, id, "", 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s, which is held, says %d %q, %v", id, status, got, err)
	}
}

// token is what the node's sandboxes ask for.
func token(id soulbox.SandboxID) string { return soulbox.TokenSeed{}.AgentToken(id) }

// held returns what the record says, and what it is.
func (w *world) held(t *testing.T, id soulbox.SandboxID) (held bool, all string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.home(id), "record.json"))
	var r struct{ Held bool }
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.Held, string(b)
}

func (w *world) wantHeld(t *testing.T, id soulbox.SandboxID, want bool) {
	t.Helper()
	if got, all := w.held(t, id); got != want {
		t.Errorf("the record says %s, want held: %v", all, want)
	}
}

func (w *world) started() []string {
	w.driver.seen.mu.Lock()
	defer w.driver.seen.mu.Unlock()
	return append([]string(nil), w.driver.seen.starts...)
}

// wantSnapshots wants exactly these to be whole.
func wantSnapshots(t *testing.T, n *node.Node, snaps ...*soulbox.Snapshot) {
	t.Helper()
	got, err := n.Snapshots(t.Context())
	if err != nil || len(got) != len(snaps) {
		t.Errorf("Snapshots() = %v, %v; want %d", got, err, len(snaps))
	}
	for _, snap := range snaps {
		if got[snap.ID] <= 0 {
			t.Errorf("snapshot %s takes %d bytes", snap.ID, got[snap.ID])
		}
		if err := n.Verify(t.Context(), snap.ID); err != nil {
			t.Errorf("Verify: %v", err)
		}
	}
}

func TestHoldAndThaw(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	one := w.write(t, n, "ione", true, false)
	w.wantHeld(t, "ione", false)
	wantSays(t, n, "ione", token("ione"), "written by ione")
	two := w.write(t, n, "ione", true, true)
	w.wantHeld(t, "ione", true)
	wantStill(t, n, "ione")
	three := w.write(t, n, "ione", false, true) // it is held already
	for range 2 {
		if err := n.Thaw(t.Context(), "ione"); err != nil {
			t.Fatal(err)
		}
		w.wantHeld(t, "ione", false)
		wantSays(t, n, "ione", token("ione"), "written by ione")
	}
	wantSnapshots(t, n, one, two, three)
	if err := n.RemoveSnapshot(t.Context(), two.ID); err != nil {
		t.Error(err)
	}
	if err := n.RemoveSnapshot(t.Context(), two.ID); err != nil {
		t.Errorf("RemoveSnapshot again: %v", err)
	}
	wantSnapshots(t, n, one, three)
	wantKind(t, "Thaw of an unknown one", n.Thaw(t.Context(), "iunknown"), soulbox.NotFound)
	_, err := n.Snapshot(t.Context(), "iunknown", w.snapshotOf("iunknown", true), false)
	wantKind(t, "Snapshot of an unknown one", err, soulbox.NotFound)
	destroy(t, n, "ione")
	wantSnapshots(t, n, one, three)
}

func wantKind(t *testing.T, what string, err error, want soulbox.Kind) {
	t.Helper()
	if err == nil || soulbox.KindOf(err) != want {
		t.Errorf("%s: %v of kind %d, want kind %d", what, err, soulbox.KindOf(err), want)
	}
}

// Whatever fails, the sandbox runs on and nothing is written.
func TestSnapshotFails(t *testing.T) {
	broken := errors.New("broken")
	for name, f := range map[string]failure{
		"freeze":       {freeze: broken},
		"freeze, done": {freeze: broken, freezes: true},
		"save":         {save: broken},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := w.open(t)
			w.create(t, n, "ione")
			w.driver.fails.Store(&f)
			if _, err := n.Snapshot(t.Context(), "ione", w.snapshotOf("ione", true), true); !errors.Is(err, broken) {
				t.Errorf("Snapshot: %v", err)
			}
			w.wantHeld(t, "ione", false)
			wantSays(t, n, "ione", token("ione"), "written by ione")
			wantSnapshots(t, n)
			w.driver.fails.Store(nil)
			snap := w.write(t, n, "ione", true, true)
			wantSnapshots(t, n, snap)
			destroy(t, n, "ione")
		})
	}
}

// A sandbox that an earlier process was about to hold or to let go may be frozen
// or not. Thaw finds out, whatever the agent answers.
func TestHeldByAnEarlierProcess(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(*world, *testing.T, *node.Node)
		status  int  // of the agent
		asks    bool // and waits until it is certain that nobody answers
	}{
		{"held", (*world).sayHeld, 0, false},
		{"held, and the agent complains", (*world).sayHeld, http.StatusInternalServerError, false},
		{"frozen, and perhaps thawed", func(w *world, t *testing.T, n *node.Node) {
			w.driver.fails.Store(&failure{save: errors.New("no"), thaw: errors.New("no")})
			if _, err := n.Snapshot(t.Context(), "ione", w.snapshotOf("ione", true), true); err == nil {
				t.Error("Snapshot succeeds")
			}
			w.driver.fails.Store(nil)
		}, 0, true},
		{"written", func(w *world, t *testing.T, n *node.Node) { w.write(t, n, "ione", true, true) }, 0, false},
		{"thawed", func(w *world, t *testing.T, n *node.Node) {
			w.write(t, n, "ione", true, true)
			_, record := w.held(t, "ione")
			if err := n.Thaw(t.Context(), "ione"); err != nil {
				t.Fatal(err)
			}
			w.setRecord(t, "ione", record)
		}, 0, false},
	} {
		for then, do := range map[string]func(*testing.T, *world, *node.Node){
			"thaw": func(t *testing.T, w *world, n *node.Node) {
				for range 2 {
					if err := n.Thaw(t.Context(), "ione"); err != nil {
						t.Fatal(err)
					}
				}
			},
			"snapshot": func(t *testing.T, w *world, n *node.Node) { w.write(t, n, "ione", true, false) },
		} {
			t.Run(test.name+", then "+then, func(t *testing.T) {
				w := newWorld(t)
				n := w.open(t)
				w.create(t, n, "ione")
				test.prepare(w, t, n)
				closeNode(t, n)
				w.wantHeld(t, "ione", true)
				w.agent.set(test.status, false)
				n = w.open(t)
				began := time.Now()
				do(t, w, n)
				if took := time.Since(began); took > 3*time.Second != test.asks {
					t.Errorf("it took %v; want some seconds: %v", took, test.asks)
				}
				w.agent.set(0, false)
				w.wantHeld(t, "ione", false)
				wantSays(t, n, "ione", token("ione"), "written by ione")
				wantNoExit(t, n)
				destroy(t, n, "ione")
			})
		}
	}
}

// sayHeld leaves what a process leaves that dies between the record and the
// freeze.
func (w *world) sayHeld(t *testing.T, _ *node.Node) {
	_, record := w.held(t, "ione")
	w.setRecord(t, "ione", strings.Replace(record, `"boot_id"`, `"held":true,"boot_id"`, 1))
}

func (w *world) setRecord(t *testing.T, id soulbox.SandboxID, record string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.home(id), "record.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTwoSnapshotsAtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	slow := make(chan struct{})
	w.driver.fails.Store(&failure{saving: slow})
	snaps := []*soulbox.Snapshot{w.snapshotOf("ione", true), w.snapshotOf("ione", true), w.snapshotOf("ione", false)}
	errs := make(chan error, len(snaps))
	for i, snap := range snaps {
		go func() {
			_, err := n.Snapshot(t.Context(), "ione", snap, i == 0)
			errs <- err
		}()
	}
	w.wantSaves(t, 1)
	eventually(t, func() bool { return waiting() == 2 }, func() string { return "nobody waits" })
	close(slow)
	for range snaps {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	wantSnapshots(t, n, snaps...)
	if err := n.Thaw(t.Context(), "ione"); err != nil {
		t.Error(err)
	}
	wantSays(t, n, "ione", token("ione"), "written by ione")
	destroy(t, n, "ione")
}

func (w *world) wantSaves(t *testing.T, want int) {
	t.Helper()
	eventually(t, func() bool {
		w.driver.seen.mu.Lock()
		defer w.driver.seen.mu.Unlock()
		return w.driver.seen.saves == want
	}, func() string { return "nothing is saved" })
}

// waiting returns how many calls of Snapshot and Thaw wait for another one of
// the same sandbox.
func waiting() (n int) {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	for g := range bytes.SplitSeq(all, []byte("\n\n")) {
		head, rest, _ := bytes.Cut(g, []byte("\n"))
		if bytes.Contains(head, []byte("sync.Mutex.Lock")) && (bytes.Contains(rest, []byte(".(*Node).Snapshot(")) || bytes.Contains(rest, []byte(".(*Node).Thaw("))) {
			n++
		}
	}
	return n
}

// A sandbox is destroyed while it is written down, and another one of the same
// id is made. Who waited to write down the first has no business with the
// second.
func TestDestroyWhileSaving(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	before := w.write(t, n, "ione", true, false)
	w.create(t, n, "iother") // so that the next one has another network
	slow := make(chan struct{})
	w.driver.fails.Store(&failure{saving: slow})
	snap, late := w.snapshotOf("ione", true), w.snapshotOf("ione", true)
	errs := make(chan error, 3)
	go func() { _, err := n.Snapshot(t.Context(), "ione", snap, false); errs <- err }()
	w.wantSaves(t, 2)
	go func() { _, err := n.Snapshot(t.Context(), "ione", late, true); errs <- err }()
	go func() { errs <- n.Thaw(t.Context(), "ione") }()
	eventually(t, func() bool { return waiting() == 2 }, func() string { return "nobody waits" })

	destroy(t, n, "ione")
	w.restore(t, n, w.sandbox("ione"), before)
	_, record := w.held(t, "ione")
	close(slow)
	for range 3 {
		if err := <-errs; err == nil {
			t.Error("a sandbox that is destroyed is written down or thawed")
		}
	}
	if _, now := w.held(t, "ione"); now != record {
		t.Errorf("the record of the second was %s and is %s", record, now)
	}
	wantSays(t, n, "ione", token("ione"), "written by ione")
	wantSnapshots(t, n, before)
	w.driver.fails.Store(nil)
	closeNode(t, n)
	n = w.open(t)
	wantSays(t, n, "ione", token("ione"), "written by ione")
	destroy(t, n, "ione")
	destroy(t, n, "iother")
}

// What is made of a snapshot asks for its own token, or for none, whatever the
// sandbox asked for that was written down.
func TestRestoreTokens(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "isecure")
	open := w.sandbox("iopen")
	open.Secure = false
	if err := n.Create(t.Context(), open, w.template()); err != nil {
		t.Fatal(err)
	}
	secure := w.write(t, n, "isecure", true, false)
	free := w.write(t, n, "iopen", true, false)
	free.Secure = false
	for i, from := range []*soulbox.Snapshot{secure, free} {
		for j, wants := range []bool{true, false} {
			sb := w.sandbox(soulbox.SandboxID([]string{"ia", "ib", "ic", "id"}[2*i+j]))
			sb.Secure = wants
			w.restore(t, n, sb, from)
			own := ""
			if wants {
				own = token(sb.ID)
			}
			wantSays(t, n, sb.ID, own, "written by "+string(from.Sandbox))
			for who, other := range map[string]string{"a stranger": "", "the first": token(from.Sandbox)} {
				status, _, err := ask(t, n, sb.ID, other, patience)
				if want := map[bool]int{true: http.StatusUnauthorized, false: http.StatusOK}[wants]; err != nil || status != want {
					t.Errorf("%s, secure: %v, answers %s with %d, %v; want %d", sb.ID, wants, who, status, err, want)
				}
			}
			destroy(t, n, sb.ID)
		}
	}
	destroy(t, n, "isecure")
	destroy(t, n, "iopen")
}

// A sandbox comes back with its id, and others are made of the same snapshot.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	memory := w.write(t, n, "ione", true, true)
	destroy(t, n, "ione")
	w.restore(t, n, w.sandbox("ione"), memory) // a moment later
	wantSays(t, n, "ione", token("ione"), "written by ione")
	files := w.write(t, n, "ione", false, false)
	cold := *memory
	cold.Memory = false
	w.restore(t, n, w.sandbox("itwo"), &cold)
	w.restore(t, n, w.sandbox("ithree"), files)
	for _, id := range []soulbox.SandboxID{"itwo", "ithree"} {
		wantSays(t, n, id, token(id), "written by ione")
		if left := glob(t, filepath.Join(w.home(id), "files")); len(left) > 0 {
			t.Errorf("%s still has %v", id, left)
		}
	}
	// The memory is there only to get at the files.
	if diff := cmp.Diff([]string{"boot", "memory", "memory", "files", "files"}, w.started()); diff != "" {
		t.Errorf("starts: (-want +got)\n%s", diff)
	}
	w.wantLeft(t, of("ione", "ithree", "itwo"))
	wantSnapshots(t, n, memory, files)
	for _, id := range []soulbox.SandboxID{"ione", "itwo", "ithree"} {
		destroy(t, n, id)
	}
}

// A restore that fails leaves nothing but the snapshot.
func TestRestoreFails(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		fails  failure
		status int
		cold   bool
	}{
		"start":                    {fails: failure{start: broken}},
		"agent":                    {status: http.StatusInternalServerError},
		"files only, start":        {fails: failure{start: broken}, cold: true},
		"files only, freeze":       {fails: failure{freeze: broken}, cold: true},
		"files only, save":         {fails: failure{save: broken}, cold: true},
		"files only, second start": {fails: failure{restart: broken}, cold: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := w.open(t)
			w.create(t, n, "ione")
			snap := w.write(t, n, "ione", true, true)
			destroy(t, n, "ione")
			w.driver.fails.Store(&test.fails)
			w.agent.set(test.status, false)
			want := *snap
			want.Memory = !test.cold
			if err := n.Restore(t.Context(), w.sandbox("ione"), &want); err == nil {
				t.Error("Restore succeeds")
			}
			w.wantLeft(t, left{})
			w.driver.fails.Store(nil)
			w.agent.set(0, false)
			wantSnapshots(t, n, snap)
			w.restore(t, n, w.sandbox("ione"), &want)
			wantSays(t, n, "ione", token("ione"), "written by ione")
			destroy(t, n, "ione")
		})
	}
}

func TestRestoreRefused(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	snap := w.write(t, n, "ione", true, true)
	destroy(t, n, "ione")
	wantKind(t, "Restore of an unknown one", n.Restore(t.Context(), w.sandbox("ione"), w.snapshotOf("ione", true)), soulbox.NotFound)
	bad := *snap
	bad.ID = "../../etc"
	wantKind(t, "Restore of no id", n.Restore(t.Context(), w.sandbox("ione"), &bad), soulbox.Invalid)
	wantKind(t, "Restore as no id", n.Restore(t.Context(), w.sandbox("../x"), snap), soulbox.Invalid)
	closeNode(t, n)

	n = w.openAs(t, "another runtime", false)
	err := n.Restore(t.Context(), w.sandbox("ione"), snap)
	wantKind(t, "Restore of another version's", err, soulbox.Conflict)
	if text := soulbox.MessageOf(err); !strings.Contains(text, "another runtime") || !strings.Contains(text, "fake") {
		t.Errorf("%q, want both versions in it", text)
	}
	w.wantLeft(t, left{})
	closeNode(t, n)
	n = w.openAs(t, "", true)
	w.create(t, n, "itwo")
	_, err = n.Snapshot(t.Context(), "itwo", w.snapshotOf("itwo", true), false)
	wantKind(t, "Snapshot with memory, which the driver cannot", err, soulbox.Invalid)
	w.write(t, n, "itwo", false, false)
	destroy(t, n, "itwo")
}

// openAs opens the node with a driver that writes a format, or can only files.
func (w *world) openAs(t *testing.T, format string, bare bool) *node.Node {
	t.Helper()
	return w.open(t, func(o *node.Options) { w.driver.format, w.driver.bare = format, bare })
}

// A snapshot keeps the root image that lies below its files.
func TestSnapshotKeepsImage(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	if err := os.Remove(w.images.Path(w.image)); err != nil { // the template is gone
		t.Fatal(err)
	}
	snap := w.write(t, n, "ione", true, true)
	destroy(t, n, "ione")
	w.wantLeft(t, left{})
	w.restore(t, n, w.sandbox("ione"), snap)
	again := w.write(t, n, "ione", true, true) // and what is made of it has it, too
	destroy(t, n, "ione")
	if err := n.RemoveSnapshot(t.Context(), snap.ID); err != nil {
		t.Error(err)
	}
	w.restore(t, n, w.sandbox("itwo"), again)
	wantSays(t, n, "itwo", token("itwo"), "written by ione")
	destroy(t, n, "itwo")
}
