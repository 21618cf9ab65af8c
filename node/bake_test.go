package node_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/driver/fake"
)

// Messages of the agent's process service, as far as these tests need them.
type (
	startMessage struct {
		Process struct {
			Args []string `json:"args"`
		} `json:"process"`
	}
	eventMessage struct {
		Event map[string]any `json:"event"`
	}
)

// program is what the agents' shell does: commands are "serve", which runs on
// and remembers, "true", "third", which is true from the third time on, and what
// fails.
func (a *agent) program(w http.ResponseWriter, r *http.Request) {
	guest := fake.GuestOf(r)
	connectjson.ServerStream(func(ctx context.Context, _ http.Header, m *startMessage, out *connectjson.Sender[eventMessage]) error {
		command := m.Process.Args[len(m.Process.Args)-1]
		if command == "refuse" {
			return connectjson.Errorf(connectjson.Unauthenticated, "no such user")
		}
		send := func(kind string, body map[string]any) {
			_ = out.Send(&eventMessage{map[string]any{kind: body}}) // whoever asked may have gone
		}
		if command == "serve" { // before anybody who waits for its start asks what is remembered
			token, _ := guest.Recall()
			guest.Remember(token, "it serves")
		}
		send("start", map[string]any{"pid": 1})
		if command == "third" {
			a.mu.Lock()
			if a.asked++; a.asked >= 3 {
				command = "true"
			}
			a.mu.Unlock()
		}
		switch command {
		case "serve":
			send("data", map[string]any{"stdout": connectjson.Bytes("it serves\n")})
			<-ctx.Done()
			return ctx.Err()
		case "true":
			send("end", map[string]any{"exitCode": 0, "exited": true})
		default:
			send("data", map[string]any{"stderr": connectjson.Bytes("no " + command + "\n")})
			send("end", map[string]any{"exitCode": 1, "exited": true})
		}
		return nil
	}).ServeHTTP(w, r)
}

func (w *world) toBake() *soulbox.Template {
	tpl := w.template()
	tpl.Size = size
	return tpl
}

// bake bakes a template.
func (w *world) bake(t *testing.T, n *node.Node) *soulbox.Template {
	t.Helper()
	tpl := w.toBake()
	b := soulbox.Baking{Snapshot: soulbox.NewSnapshotID(), Start: "serve", Ready: "true"}
	baked, err := n.Bake(t.Context(), tpl, b, func(soulbox.BuildLine) {})
	if err != nil || baked.Bytes <= 0 || !baked.Sandbox.Valid() {
		t.Fatalf("Bake = %+v, %v", baked, err)
	}
	tpl.Snapshot, tpl.Baked = b.Snapshot, baked.Sandbox
	return tpl
}

func TestBake(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	tpl := w.bake(t, n)
	w.wantLeft(t, left{})
	if ids := n.Sandboxes(); len(ids) > 0 {
		t.Errorf("Sandboxes() = %v", ids)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "journals", string(tpl.Baked))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the journal of the sandbox: %v", err)
	}
	if all, err := n.Snapshots(t.Context()); err != nil || len(all) != 1 || all[tpl.Snapshot] <= 0 {
		t.Errorf("Snapshots() = %v, %v", all, err)
	}
	if err := n.Verify(t.Context(), tpl.Snapshot); err != nil {
		t.Error(err)
	}

	sb := w.sandbox("ione")
	if err := n.Create(t.Context(), sb, tpl); err != nil {
		t.Fatal(err)
	}
	body, was := w.agent.last()
	if was != token(tpl.Baked) {
		t.Error("the agent was not told with the token that it asks for")
	}
	for _, part := range []string{`"sandboxId":"ione"`, `"accessToken":"` + token("ione") + `"`, `"A":"sandbox"`, `"B":"template"`, `"seed":"`, `"hostname":"sandbox"`} {
		if !strings.Contains(body, part) {
			t.Errorf("the agent was told %s, want %s", body, part)
		}
	}
	wantSays(t, n, "ione", token("ione"), "it serves")
	if diff := cmp.Diff([]string{"boot", "memory"}, w.started()); diff != "" {
		t.Errorf("sandboxes started (-want +got):\n%s", diff)
	}
	if err := n.Create(t.Context(), sb, tpl); err == nil {
		t.Error("there are two sandboxes of one id")
	}

	// It is written down and made again as any other.
	snap := w.write(t, n, "ione", true, false)
	snap.Secure = true
	w.restore(t, n, w.sandbox("itwo"), snap)
	wantSays(t, n, "itwo", token("itwo"), "it serves")
	snap.Memory = false
	w.restore(t, n, w.sandbox("ithree"), snap)
	wantSays(t, n, "ithree", token("ithree"), "it serves")

	// What goes with the template is not needed by them.
	if err := n.RemoveSnapshot(t.Context(), tpl.Snapshot); err != nil {
		t.Error(err)
	}
	if err := n.Create(t.Context(), w.sandbox("ifour"), tpl); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Create without the snapshot: %v, want NotFound", err)
	}
	closeNode(t, n)
	n = w.open(t)
	for _, id := range []soulbox.SandboxID{"ione", "itwo", "ithree"} {
		wantSays(t, n, id, token(id), "it serves")
		destroy(t, n, id)
	}
	w.wantLeft(t, left{})
}

// Sandboxes of a baked template wait as others do, and know nothing of it once
// it is baked again.
func TestBakedWarm(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, func(o *node.Options) { o.WarmMemory = 100 * soulbox.MiB })
	tpl := w.bake(t, n)
	n.Expect(tpl, 2)
	reserve := func() soulbox.SandboxID {
		t.Helper()
		eventually(t, func() bool { p := n.Pools().Pools; return len(p) == 1 && p[0].Ready == 2 }, func() string { return "none is made ahead" })
		id, ok := n.Reserve(tpl)
		if !ok {
			t.Fatal("none waits")
		}
		return id
	}
	id := reserve()
	sb := w.sandbox(id)
	sb.Env = nil
	before := len(w.agent.inits(id))
	if err := n.Create(t.Context(), sb, tpl); err != nil {
		t.Fatal(err)
	}
	if after := len(w.agent.inits(id)); before != 1 || after != before {
		t.Errorf("the agent was told who it is %d times, and woken %d times", before, after-before)
	}
	wantSays(t, n, id, token(id), "it serves")
	destroy(t, n, id)

	id = reserve()
	again := w.bake(t, n)
	starts := len(w.started())
	if err := n.Create(t.Context(), w.sandbox(id), again); err != nil {
		t.Fatal(err)
	}
	if got := w.started()[starts:]; len(got) == 0 || got[0] != "memory" {
		t.Errorf("a sandbox of a template that was baked again started as %v, want from its own snapshot", got)
	}
	destroy(t, n, id)
	closeNode(t, n)
	w.wantLeft(t, left{})
	w.open(t)
}

// What fails leaves nothing, and says why.
func TestBakeFails(t *testing.T) {
	broken := errors.New("broken")
	good := soulbox.Baking{Snapshot: soulbox.NewSnapshotID(), Start: "serve", Ready: "true"}
	with := func(change func(*soulbox.Baking)) soulbox.Baking {
		b := good
		change(&b)
		return b
	}
	tests := []struct {
		name   string
		baking soulbox.Baking
		fails  *failure
		agent  int // status of /init
		kind   soulbox.Kind
		want   error
		text   string
	}{
		{name: "no snapshot", baking: with(func(b *soulbox.Baking) { b.Snapshot = "" }), kind: soulbox.Invalid},
		{name: "no snapshot's id", baking: with(func(b *soulbox.Baking) { b.Snapshot = "../up" }), kind: soulbox.Invalid},
		{name: "too patient", baking: with(func(b *soulbox.Baking) { b.Within = soulbox.MaxBake + 1 }), kind: soulbox.Invalid},
		{name: "no patience", baking: with(func(b *soulbox.Baking) { b.Within = -1 }), kind: soulbox.Invalid},
		{name: "start", baking: good, fails: &failure{start: broken}, want: broken},
		{name: "agent", baking: good, agent: http.StatusTeapot, text: "418"},
		{name: "freeze", baking: good, fails: &failure{freeze: broken}, want: broken},
		{name: "save", baking: good, fails: &failure{save: broken}, want: broken},
		{name: "start command", baking: with(func(b *soulbox.Baking) { b.Start, b.Ready = "false", "false" }), kind: soulbox.Invalid, text: "the start command ended before the template was ready, with exit status 1: no false"},
		{name: "refused", baking: with(func(b *soulbox.Baking) { b.Start = "refuse" }), kind: soulbox.Invalid, text: "the start command could not be run: unauthenticated: no such user"},
		{name: "ready refused", baking: with(func(b *soulbox.Baking) { b.Ready = "refuse" }), kind: soulbox.Invalid, text: "the ready command could not be run: unauthenticated: no such user"},
		{name: "ready command", baking: with(func(b *soulbox.Baking) { b.Ready, b.Within = "false", time.Second }), kind: soulbox.Invalid, text: "within 1s; when it was last run, it ended with exit status 1: no false"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.open(t)
			w.driver.fails.Store(tt.fails)
			w.agent.set(tt.agent, false)
			_, err := n.Bake(t.Context(), w.toBake(), tt.baking, func(soulbox.BuildLine) {})
			if err == nil || soulbox.KindOf(err) != tt.kind || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Bake: %v, want %v %q", err, tt.want, tt.text)
			}
			w.driver.fails.Store(nil)
			w.wantLeft(t, left{})
			if all, err := n.Snapshots(t.Context()); err != nil || len(all) > 0 {
				t.Errorf("Snapshots() = %v, %v", all, err)
			}
			if left := glob(t, filepath.Join(w.dir, "journals", "*"), filepath.Join(w.dir, "snapshots", ".*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A server that listens after a moment is not waited for longer than that.
func TestBakeReadySoon(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	began := time.Now()
	_, err := n.Bake(t.Context(), w.toBake(), soulbox.Baking{Snapshot: soulbox.NewSnapshotID(), Start: "serve", Ready: "third"}, func(soulbox.BuildLine) {})
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	if took := time.Since(began); err != nil || w.agent.asked != 3 || took > 4*time.Second {
		t.Errorf("Bake: %v after %v, and the ready command was run %d times, want 3", err, took, w.agent.asked)
	}
}

// One that is called off, or whose sandbox ends, does not wait for its time.
func TestBakeEnds(t *testing.T) {
	for _, baking := range []soulbox.Baking{{Start: "serve"}, {Start: "serve", Ready: "serve"}, {Start: "serve", Ready: "false"}} {
		for _, crash := range []bool{false, true} {
			t.Run(map[bool]string{false: "called off", true: "crash"}[crash]+" "+baking.Ready, func(t *testing.T) {
				w := newWorld(t)
				n := w.open(t)
				off := errors.New("off")
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				b := baking
				b.Snapshot = soulbox.NewSnapshotID()
				var once sync.Once
				began := time.Now()
				_, err := n.Bake(ctx, w.toBake(), b, func(l soulbox.BuildLine) {
					if !strings.HasSuffix(l.Message, "it serves") {
						return
					}
					once.Do(func() {
						if !crash {
							cancel(off)
							return
						}
						for _, dir := range glob(t, filepath.Join(w.dir, "sandboxes", "*")) {
							w.driver.Crash(dir)
						}
					})
				})
				if took := time.Since(began); took > 15*time.Second {
					t.Errorf("it took %v", took)
				}
				if !crash && !errors.Is(err, off) {
					t.Errorf("Bake: %v, want %v", err, off)
				}
				if crash && (soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(err.Error(), "the sandbox ended before the template was ready")) {
					t.Errorf("Bake: %v, want that the sandbox has ended", err)
				}
				w.wantLeft(t, left{})
				wantNoExit(t, n)
			})
		}
	}
}

// A snapshot that is there is not replaced, and one that is another's is not
// used.
func TestBakedConflicts(t *testing.T) {
	w := newWorld(t)
	second := &testDriver{Driver: fake.New(w.agent), fails: &atomic.Pointer[failure]{}, seen: &seen{}, format: "other", bare: true, class: soulbox.Runc}
	n := w.open(t, func(o *node.Options) { o.Others = []driver.Driver{second} })
	tpl := w.bake(t, n)
	starts := len(w.started())
	if _, err := n.Bake(t.Context(), tpl, soulbox.Baking{Snapshot: tpl.Snapshot}, func(soulbox.BuildLine) {}); soulbox.KindOf(err) != soulbox.Conflict || len(w.started()) != starts {
		t.Errorf("Bake onto a snapshot: %v, want Conflict before anything is started", err)
	}
	sb := w.sandbox("ione")
	sb.Isolation = soulbox.Runc
	if err := n.Create(t.Context(), sb, tpl); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Create of another isolation: %v, want Invalid", err)
	}
	other := *tpl
	other.Image = strings.Repeat("ab", 32)
	if err := n.Create(t.Context(), w.sandbox("ione"), &other); err == nil || soulbox.KindOf(err) != soulbox.Internal {
		t.Errorf("Create from a snapshot of another image: %v", err)
	}
	w.create(t, n, "itwo")
	files := w.write(t, n, "itwo", false, false)
	other = *tpl
	other.Snapshot = files.ID
	if err := n.Create(t.Context(), w.sandbox("ione"), &other); err == nil || soulbox.KindOf(err) != soulbox.Internal {
		t.Errorf("Create from a snapshot without memory: %v", err)
	}
	destroy(t, n, "itwo")
	w.wantLeft(t, left{})

	bare := w.toBake()
	bare.Isolation = soulbox.Runc
	if _, err := n.Bake(t.Context(), bare, soulbox.Baking{Snapshot: soulbox.NewSnapshotID()}, func(soulbox.BuildLine) {}); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Bake of an isolation that saves no memory: %v, want Invalid", err)
	}
}
