package fleet_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/store"
)

func TestSnapshotAndCreate(t *testing.T) {
	h := open(t)
	h.build(&soulbox.Template{
		ID: "tenv", Team: "us", Name: "env", Image: "ff", User: "me", Workdir: "/w", Env: map[string]string{"A": "tpl", "T": "1"},
		Size: soulbox.Size{CPUs: 1, Memory: soulbox.MiB},
	})
	req := request()
	req.Template.Name, req.Env, req.Secure = "env", map[string]string{"A": "req"}, true
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	h.write(sb.ID, "a")
	snap, err := h.Snapshot(t.Context(), "us", sb.ID, "us-slug/Mine:default")
	if err != nil {
		t.Fatal(err)
	}
	want := &soulbox.Snapshot{
		ID: snap.ID, Team: "us", Sandbox: sb.ID, Kind: soulbox.ForCreate, Name: "mine", Node: "node1", Ready: true, Memory: true, Bytes: 4096,
		CreatedAt: snap.CreatedAt, Template: "tenv", Alias: "env", Image: "ff", Size: sb.Size, Secure: true,
		Env: map[string]string{"A": "req", "T": "1"}, User: "me", Workdir: "/w",
	}
	for how, got := range map[string]func() (*soulbox.Snapshot, error){
		"Snapshot":     func() (*soulbox.Snapshot, error) { return snap, nil },
		"by name":      func() (*soulbox.Snapshot, error) { return h.FindSnapshot(t.Context(), "us", "mine") },
		"by full name": func() (*soulbox.Snapshot, error) { return h.FindSnapshot(t.Context(), "us", "us-slug/mine:default") },
		"by id":        func() (*soulbox.Snapshot, error) { return h.FindSnapshot(t.Context(), "us", string(snap.ID)) },
		"in the list": func() (*soulbox.Snapshot, error) {
			page, err := h.Snapshots(t.Context(), soulbox.SnapshotFilter{Team: "us"})
			if err != nil || len(page.Snapshots) != 1 {
				return nil, errors.Join(err, errors.New("not one"))
			}
			return page.Snapshots[0], nil
		},
	} {
		found, err := got()
		if diff := cmp.Diff(want, found); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", how, err, diff)
		}
	}
	if err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, ""); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"mine", "us-slug/mine", "mine:default", string(snap.ID)} {
		req := request()
		if req.Template, err = soulbox.ParseTemplateRef(ref); err != nil {
			t.Fatal(err)
		}
		req.Env = map[string]string{"T": "2"}
		made, err := h.Create(t.Context(), req)
		if err != nil {
			t.Fatalf("Create of %s: %v", ref, err)
		}
		if made.From != snap.ID || made.Template != "tenv" || made.Alias != "env" || made.Secure || !cmp.Equal(made.Env, map[string]string{"A": "req", "T": "2"}) {
			t.Errorf("Create of %s = %+v", ref, made)
		}
		h.wantInside(made.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
	}
	req = request()
	req.Team, req.Template = "them", soulbox.TemplateRef{Name: string(snap.ID)}
	_, err = h.Create(t.Context(), req)
	wantKind(t, "Create by another team", err, soulbox.NotFound)
	_, err = h.FindSnapshot(t.Context(), "them", string(snap.ID))
	wantKind(t, "FindSnapshot by another team", err, soulbox.NotFound)
	wantKind(t, "RemoveSnapshot by another team", h.RemoveSnapshot(t.Context(), "them", snap.ID), soulbox.NotFound)
	if err := h.RemoveSnapshot(t.Context(), "us", snap.ID); err != nil {
		t.Error(err)
	}
	wantKind(t, "RemoveSnapshot again", h.RemoveSnapshot(t.Context(), "us", snap.ID), soulbox.NotFound)
	h.wantSnapshots()
}

func TestSnapshotRefused(t *testing.T) {
	h := open(t)
	h.template("tours", "us", "ours", false)
	sb := h.create()
	if _, err := h.Snapshot(t.Context(), "us", sb.ID, "taken"); err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]soulbox.Kind{
		"taken": soulbox.Conflict, "ours": soulbox.Conflict,
		"white space": soulbox.Invalid, "them-slug/x": soulbox.Invalid, "x:v2": soulbox.Invalid, "../x": soulbox.Invalid,
		strings.Repeat("x", 129): soulbox.Invalid,
	} {
		_, err := h.Snapshot(t.Context(), "us", sb.ID, name)
		wantKind(t, "Snapshot "+name, err, kind)
	}
	_, err := h.Snapshot(t.Context(), "them", sb.ID, "x")
	wantKind(t, "Snapshot by another team", err, soulbox.NotFound)
	h.node.onSnapshot = func(context.Context, soulbox.SandboxID, *soulbox.Snapshot) error {
		return soulbox.Errorf(soulbox.Unavailable, "the disk is full")
	}
	_, err = h.Snapshot(t.Context(), "us", sb.ID, "full")
	wantKind(t, "Snapshot onto a full disk", err, soulbox.Unavailable)
	h.wantState(sb.ID, soulbox.Running)
	h.wantSnapshots(h.node.snapshots()...)
	h.node.onSnapshot = nil
	if _, err = h.Snapshot(t.Context(), "us", sb.ID, "full"); err != nil { // the name is free again
		t.Error(err)
	}
}

func TestCheckpointsAndRollback(t *testing.T) {
	h := open(t)
	h.opts.Node = h.node
	req := request()
	req.Secure = true
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	h.write(sb.ID, "a")
	one := h.checkpoint(sb.ID, "one")
	h.write(sb.ID, "b")
	two := h.checkpoint(sb.ID, "two")
	h.write(sb.ID, "c")
	_, err = h.Checkpoint(t.Context(), "us", sb.ID, "one")
	wantKind(t, "Checkpoint of a name that exists", err, soulbox.Conflict)

	back, err := h.Rollback(t.Context(), "us", sb.ID, one.ID)
	if err != nil {
		t.Fatal(err)
	}
	if back.ID != sb.ID || back.Token != sb.Token || !back.ExpiresAt.Equal(sb.ExpiresAt) || back.From != one.ID || back.State != soulbox.Running {
		t.Errorf("Rollback = %+v", back)
	}
	h.wantInside(sb.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
	named, err := h.Snapshot(t.Context(), "us", sb.ID, "named") // is none of the tree
	if err == nil {
		err = h.RemoveSnapshot(t.Context(), "us", named.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	three := h.checkpoint(sb.ID, "")
	if now := h.connect(sb.ID); now.From != three.ID || three.Parent != one.ID {
		t.Errorf("it comes from %s, and that from %s; want %s and %s", now.From, three.Parent, three.ID, one.ID)
	}
	list, err := h.Checkpoints(t.Context(), "us", sb.ID)
	if err != nil || len(list) != 3 {
		t.Fatalf("Checkpoints = %v, %v", list, err)
	}
	for i, want := range []struct{ id, parent soulbox.SnapshotID }{{one.ID, ""}, {two.ID, one.ID}, {three.ID, one.ID}} {
		if list[i].ID != want.id || list[i].Parent != want.parent {
			t.Errorf("checkpoint %d is %s of %s, want %+v", i, list[i].ID, list[i].Parent, want)
		}
	}

	h.pause(sb.ID, true)
	if back, err = h.Rollback(t.Context(), "us", sb.ID, two.ID); err != nil || back.State != soulbox.Running {
		t.Fatalf("Rollback of a paused one = %+v, %v", back, err)
	}
	h.wantInside(sb.ID, mind{Files: []string{"a", "b"}, Memory: "boot 1"})
	h.wantSnapshots(one.ID, two.ID, three.ID)

	other := h.create()
	_, err = h.Rollback(t.Context(), "us", other.ID, one.ID)
	wantKind(t, "Rollback to another sandbox's checkpoint", err, soulbox.NotFound)
	_, err = h.Rollback(t.Context(), "them", sb.ID, one.ID)
	wantKind(t, "Rollback by another team", err, soulbox.NotFound)
	wantKind(t, "RemoveCheckpoint of another sandbox", h.RemoveCheckpoint(t.Context(), "us", other.ID, one.ID), soulbox.NotFound)
	if err := h.RemoveCheckpoint(t.Context(), "us", sb.ID, three.ID); err != nil {
		t.Error(err)
	}
	wantKind(t, "RemoveCheckpoint again", h.RemoveCheckpoint(t.Context(), "us", sb.ID, three.ID), soulbox.NotFound)
	wantKind(t, "RemoveSnapshot of a checkpoint", h.RemoveSnapshot(t.Context(), "us", two.ID), soulbox.NotFound)
	if err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, "killed"); err != nil {
		t.Fatal(err)
	}
	h.wantEnded(sb.ID, soulbox.ByClient, "killed")
	h.wantSnapshots()
}

func TestRollbackFails(t *testing.T) {
	h := open(t)
	sb := h.create()
	h.write(sb.ID, "a")
	snap := h.checkpoint(sb.ID, "c")
	h.write(sb.ID, "b")
	damaged := soulbox.Errorf(soulbox.Unavailable, "it is damaged")
	h.node.onVerify = func(soulbox.SnapshotID) error { return damaged }
	_, err := h.Rollback(t.Context(), "us", sb.ID, snap.ID)
	wantKind(t, "Rollback to a damaged one", err, soulbox.Unavailable)
	h.wantState(sb.ID, soulbox.Running)
	h.wantInside(sb.ID, mind{Files: []string{"a", "b"}, Memory: "boot 1"})

	h.node.onVerify = nil
	h.node.onRestore = func(context.Context, *soulbox.Sandbox, *soulbox.Snapshot) error { return damaged }
	h.pause(sb.ID, true)
	pause := h.record(sb.ID).Pause.Snapshot
	_, err = h.Rollback(t.Context(), "us", sb.ID, snap.ID)
	wantKind(t, "Rollback of a paused one", err, soulbox.Unavailable)
	h.wantState(sb.ID, soulbox.Paused)
	if got := h.record(sb.ID).Pause.Snapshot; got != pause {
		t.Errorf("it is paused at %s, want %s as before", got, pause)
	}
	h.node.onRestore = nil
	h.connect(sb.ID)
	h.wantInside(sb.ID, mind{Files: []string{"a", "b"}, Memory: "boot 1"})

	h.node.onRestore = func(context.Context, *soulbox.Sandbox, *soulbox.Snapshot) error { return damaged }
	_, err = h.Rollback(t.Context(), "us", sb.ID, snap.ID)
	wantKind(t, "Rollback of a running one", err, soulbox.Unavailable)
	h.wantState(sb.ID, soulbox.Paused)
	wantKind(t, "RemoveCheckpoint where it is paused", h.RemoveCheckpoint(t.Context(), "us", sb.ID, snap.ID), soulbox.Conflict)
	h.node.onRestore = nil
	h.connect(sb.ID)
	h.wantInside(sb.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
	h.wantSnapshots(snap.ID) // a resume from a checkpoint leaves it
	if n := fleet.Reserved(h.Fleet, "us"); n != 1 {
		t.Errorf("%d places taken, want 1", n)
	}
}

func TestFork(t *testing.T) {
	h := open(t)
	req := request()
	req.Secure, req.Env, req.Metadata = true, map[string]string{"A": "1"}, map[string]string{"user": "7"}
	req.Lifecycle = soulbox.Lifecycle{Pause: true}
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	h.write(sb.ID, "a")
	from := h.checkpoint(sb.ID, "")
	var atOnce, most atomic.Int32
	h.node.onRestore = func(context.Context, *soulbox.Sandbox, *soulbox.Snapshot) error {
		if n := atOnce.Add(1); n > most.Load() {
			most.Store(n)
		}
		time.Sleep(5 * time.Millisecond)
		atOnce.Add(-1)
		return nil
	}
	forks, err := h.Fork(t.Context(), "us", sb.ID, 6, time.Minute) // the team may have 5 in all
	if err != nil || len(forks) != 6 {
		t.Fatalf("Fork = %v, %v", forks, err)
	}
	failed := 0
	for _, fork := range forks {
		if fork.Err != nil {
			failed++
			wantKind(t, "a fork", fork.Err, soulbox.Exhausted)
			continue
		}
		got := fork.Sandbox
		if got.ID == sb.ID || got.Token != seed.AgentToken(got.ID) || got.From != from.ID || got.Timeout != time.Minute || got.Lifecycle != req.Lifecycle ||
			!got.ExpiresAt.Equal(got.StartedAt.Add(time.Minute)) || !cmp.Equal(got.Env, req.Env) || !cmp.Equal(got.Metadata, req.Metadata) {
			t.Errorf("a fork: %+v", got)
		}
		h.wantInside(got.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
	}
	if failed != 2 || most.Load() > 4 {
		t.Errorf("%d forks failed, want 2; %d at once, want 4 at most", failed, most.Load())
	}
	h.wantState(sb.ID, soulbox.Running)
	h.wantSnapshots(from.ID)

	for _, n := range []int{0, -1, 101} {
		_, err = h.Fork(t.Context(), "us", sb.ID, n, time.Minute)
		wantKind(t, "Fork", err, soulbox.Invalid)
	}
	_, err = h.Fork(t.Context(), "us", sb.ID, 1, 0)
	wantKind(t, "Fork for no time", err, soulbox.Invalid)
	_, err = h.Fork(t.Context(), "us", sb.ID, 1, 2*time.Hour)
	wantKind(t, "Fork beyond the limit", err, soulbox.Invalid)
	_, err = h.Fork(t.Context(), "them", sb.ID, 1, time.Minute)
	wantKind(t, "Fork by another team", err, soulbox.NotFound)
}

// TestForkOfKilled kills the source while its forks are made: they live on.
func TestForkOfKilled(t *testing.T) {
	h := open(t)
	req := request()
	req.Env = map[string]string{"A": "1"}
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	h.node.onWritten = func(soulbox.SandboxID, *soulbox.Snapshot) {
		if err := h.Kill(context.Background(), "us", sb.ID, soulbox.ByClient, ""); err != nil {
			t.Error(err)
		}
	}
	forks, err := h.Fork(t.Context(), "us", sb.ID, 3, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, fork := range forks {
		if fork.Err != nil || fork.Sandbox.Env["A"] != "1" {
			t.Errorf("a fork: %+v", fork)
		}
	}
	h.wantSnapshots()
}

// TestReconcileSnapshots starts a fleet on what a crash or a reboot can leave.
func TestReconcileSnapshots(t *testing.T) {
	h := build(t.Context(), t, folder(t))
	t.Cleanup(func() { h.store.Close() })
	t.Cleanup(func() { h.Close() })
	at := time.Now().UTC().Truncate(time.Microsecond).Add(-time.Hour)
	snap := func(name string, sandbox soulbox.SandboxID, kind soulbox.SnapshotKind, ready, whole bool) soulbox.SnapshotID {
		id := soulbox.SnapshotID(("s" + name + strings.Repeat("0", 21))[:21])
		at = at.Add(time.Second)
		if err := h.store.InsertSnapshot(t.Context(), &soulbox.Snapshot{
			ID: id, Team: "us", Sandbox: sandbox, Kind: kind, Node: "node1", Ready: ready, Memory: true, CreatedAt: at,
		}); err != nil {
			t.Fatal(err)
		}
		if whole {
			h.node.snaps[id] = mind{Files: []string{string(id)}, Memory: "old"}
		}
		return id
	}
	row := func(id soulbox.SandboxID, state soulbox.State, pause soulbox.SnapshotID, there bool) {
		sb := &soulbox.Sandbox{ID: id, Team: "us", Template: "t0base", State: state, CreatedAt: at, StartedAt: at, ExpiresAt: time.Now().Add(time.Hour), Timeout: time.Hour}
		if pause != "" {
			sb.Pause = &soulbox.Pause{Snapshot: pause, Memory: true, At: at}
		}
		if err := h.store.InsertSandbox(t.Context(), sb); err != nil {
			t.Fatal(err)
		}
		if there {
			h.node.make(sb, mind{Files: []string{"live"}, Memory: "live"})
		}
	}
	keep := []soulbox.SnapshotID{}
	stays := func(id soulbox.SnapshotID) soulbox.SnapshotID { keep = append(keep, id); return id }

	row("ipausingwhole", soulbox.Pausing, stays(snap("a", "ipausingwhole", soulbox.ForPause, false, true)), true)
	h.node.held["ipausingwhole"] = true
	row("ipausinghalf", soulbox.Pausing, snap("b", "ipausinghalf", soulbox.ForPause, false, false), true)
	h.node.held["ipausinghalf"] = true
	row("ipausinggone", soulbox.Pausing, snap("c", "ipausinggone", soulbox.ForPause, false, false), false)
	row("iresuming", soulbox.Resuming, stays(snap("d", "iresuming", soulbox.ForPause, true, true)), true)
	row("ipaused", soulbox.Paused, stays(snap("e", "ipaused", soulbox.ForPause, true, true)), true)
	row("ipausedgone", soulbox.Paused, snap("f", "ipausedgone", soulbox.ForPause, true, false), false)
	stays(snap("g1", "ilost", soulbox.ForRollback, true, true))
	newest := stays(snap("g2", "ilost", soulbox.ForRollback, true, true))
	snap("g3", "ilost", soulbox.ForRollback, true, false)
	row("ilost", soulbox.Running, "", false)
	h.node.exits <- soulbox.Exit{ID: "ilost", End: soulbox.End{At: time.Now(), By: soulbox.ByServer, Reason: "the machine was restarted"}}
	row("irunning", soulbox.Running, "", true)
	snap("h", "irunning", soulbox.ForPause, true, true)     // of a pause that is over
	snap("i", "irunning", soulbox.ForFork, true, true)      // of a fork under way
	snap("j", "irunning", soulbox.ForRollback, false, true) // nobody got its id
	stays(snap("k", "irunning", soulbox.ForRollback, true, true))
	stays(snap("l", "iforgotten", soulbox.ForCreate, true, true))
	snap("m", "iforgotten", soulbox.ForCreate, false, true)
	snap("n", "iforgotten", soulbox.ForRollback, true, true)
	snap("o", "iforgotten", soulbox.ForCreate, true, false)
	h.node.snaps["sstray000000000000000"] = mind{}

	h.start()
	for id, want := range map[soulbox.SandboxID]soulbox.State{
		"ipausingwhole": soulbox.Paused, "ipausinghalf": soulbox.Running, "iresuming": soulbox.Paused,
		"ipaused": soulbox.Paused, "ilost": soulbox.Paused, "irunning": soulbox.Running,
	} {
		eventually(t, string(id)+" is "+string(want), func() bool { return h.record(id).State == want })
	}
	h.wantEnded("ipausinggone", soulbox.ByServer, "it did not survive while the server was down")
	h.wantEnded("ipausedgone", soulbox.ByServer, "it was paused, and what was written down of it is gone")
	h.wantSnapshots(keep...)
	eventually(t, "only two run", func() bool { return len(h.node.Sandboxes()) == 2 })
	h.wantInside("ipausinghalf", mind{Files: []string{"live"}, Memory: "live"})
	if n := fleet.Reserved(h.Fleet, "us"); n != 2 {
		t.Errorf("%d places taken, want 2", n)
	}
	for _, id := range []soulbox.SandboxID{"ipausingwhole", "iresuming"} {
		pause := h.record(id).Pause.Snapshot
		h.connect(id)
		h.wantInside(id, mind{Files: []string{string(pause)}, Memory: "old"})
	}
	if lost := h.connect("ilost"); lost.From != newest {
		t.Errorf("it comes from %s, want %s", lost.From, newest)
	}
	h.wantInside("ilost", mind{Files: []string{string(newest)}, Memory: "old"})
	if wrongs := h.node.complaints(); len(wrongs) > 0 {
		t.Error(wrongs)
	}
}

// keeper is a store that does not forget snapshots for a while.
type keeper struct {
	*store.Store
	refuses *atomic.Bool
}

func (s keeper) DeleteSnapshot(ctx context.Context, id soulbox.SnapshotID) error {
	if s.refuses.Load() {
		return soulbox.Errorf(soulbox.Unavailable, "the disk is full")
	}
	return s.Store.DeleteSnapshot(ctx, id)
}

// TestRemovalGoesOn has the records of snapshots stay when the files are gone:
// they go as soon as they can, and nobody is offered what is not there.
func TestRemovalGoesOn(t *testing.T) {
	h := open(t)
	var refuses atomic.Bool
	h.opts.Store = keeper{h.store, &refuses}
	h.restart()
	t.Cleanup(func() { h.Close() })
	sb := h.create()
	snap, err := h.Snapshot(t.Context(), "us", sb.ID, "named")
	if err != nil {
		t.Fatal(err)
	}
	point := h.checkpoint(sb.ID, "")
	refuses.Store(true)
	wantKind(t, "RemoveSnapshot", h.RemoveSnapshot(t.Context(), "us", snap.ID), soulbox.Unavailable)
	wantKind(t, "RemoveSnapshot meanwhile", h.RemoveSnapshot(t.Context(), "us", snap.ID), soulbox.NotFound)
	wantKind(t, "RemoveCheckpoint", h.RemoveCheckpoint(t.Context(), "us", sb.ID, point.ID), soulbox.Unavailable)
	refuses.Store(false)
	h.wantSnapshots()
	_, err = h.Rollback(t.Context(), "us", sb.ID, point.ID)
	wantKind(t, "Rollback", err, soulbox.NotFound)
	h.wantState(sb.ID, soulbox.Running)
}
