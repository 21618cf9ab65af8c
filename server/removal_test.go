package server_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// What can be removed while the server is killed.
const (
	named  = "a snapshot"         // of which a sandbox was made
	atWork = "a snapshot at work" // of which one is being made
	point  = "a checkpoint"       // that a sandbox could go back to
)

// removals are the steps of a removal at which the server is killed, each with
// what is removed, whether that is whole afterwards, and what becomes of the
// sandbox that was made of it, or else of the one that it was taken of.
var removals = []struct {
	at, of     string
	whole      bool
	alone, all outcome
}{
	{"remove/begun", named, true, runs, asleep},
	{"snapshot/hidden", named, false, runs, asleep},
	{"remove/deleted", named, false, runs, asleep},
	{"remove/forgotten", named, false, runs, asleep},

	{"remove/begun", atWork, true, runs, gone},
	{"snapshot/hidden", atWork, false, runs, gone},
	{"remove/deleted", atWork, false, runs, gone},
	{"remove/forgotten", atWork, false, runs, gone},

	{"remove/begun", point, true, runs, back},
	{"snapshot/hidden", point, false, runs, gone},
	{"remove/deleted", point, false, runs, gone},
	{"remove/forgotten", point, false, runs, gone},
}

// removal kills the server at a step of removing something. From the first
// moment of the next server on, that must be whole and of use, or gone without a
// trace; and the sandbox lives, unless nothing else was written down of it.
func (o *outage) removal(t *testing.T, at, of string, whole bool, want outcome) {
	const name = "mine" // in every round: it is free as soon as the record is gone
	was := o.populate(t)
	origin := was
	var id, half string
	var err error
	switch of {
	case named, atWork:
		id, err = o.c.Sandboxes.Snapshot(t.Context(), was.id, name)
	case point:
		var cp *client.Snapshot
		if cp, err = o.c.Sandboxes.Checkpoint(t.Context(), was.id, name); err == nil {
			id = cp.ID
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if of == named {
		was = look(t, o.make(t, id))
		if want == asleep {
			o.pause(t, was.id, false)
		}
		if err := o.c.Sandboxes.Kill(t.Context(), origin.id); err != nil {
			t.Fatal(err)
		}
	}
	if of == point && want != back {
		was.note = "after the checkpoint"
		run(t, reach(t, o.c, was.id), "echo -n '"+was.note+"' > note")
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	made := make(chan error, 1)
	if of == atWork {
		before := o.s.Folders(t)
		go func() {
			_, err := o.c.Sandboxes.Create(ctx, client.CreateOptions{Template: id, Timeout: time.Hour})
			made <- err
		}()
		half = o.s.Halt(t, before)
	}
	o.s.Arm(t, at)
	if of == point {
		err = o.c.Sandboxes.RemoveCheckpoint(ctx, was.id, id)
	} else {
		err = o.c.Sandboxes.RemoveSnapshot(ctx, id)
	}
	if err == nil {
		t.Error("the client was told that it is done, by a dead server")
	}
	o.wantKilled(t)
	if of == atWork && <-made == nil {
		t.Error("the client was told that the sandbox exists, by a dead server")
	}
	_, lost := os.Lstat(filepath.Join(o.s.Data, "snapshots", ".removed-"+id))
	if hidden := at == "snapshot/hidden" || of == atWork && !whole; hidden != (lost == nil) {
		t.Errorf("what is half removed when the server dies: %v, want it there: %v", lost, hidden)
	}
	o.again(t)

	switch {
	case !whole:
		o.wantRemoved(t, was.id, of, id, name)
	case of != point:
		o.wantOfUse(t, origin, id)
	}
	if half != "" {
		wantEnd(t, o.c, half)
	}
	o.want(t, was, want)
	if whole && of == point {
		if _, err := o.c.Sandboxes.Rollback(t.Context(), was.id, id); err != nil {
			t.Errorf("rollback to a checkpoint that was not removed: %v", err)
		}
		is := look(t, reach(t, o.c, was.id))
		origin.wantFiles(t, is)
		origin.wantPrograms(t, is)
	}
	if want != gone {
		o.wantFree(t, was.id, of, name, whole)
	}
	o.settle(t, was, want)
}

// make creates a sandbox of a snapshot.
func (o *outage) make(t *testing.T, id string) *client.Sandbox {
	t.Helper()
	sb, err := o.c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: id, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// wantOfUse checks that a snapshot is whole, and removes it for good.
func (o *outage) wantOfUse(t *testing.T, origin sighting, id string) {
	t.Helper()
	sb := o.make(t, id)
	is := look(t, sb)
	origin.wantFiles(t, is)
	origin.wantPrograms(t, is)
	if err := o.c.Sandboxes.RemoveSnapshot(t.Context(), id); err != nil {
		t.Errorf("remove what was not removed: %v", err)
	}
	origin.wantPrograms(t, look(t, sb))
	if err := o.c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
		t.Error(err)
	}
}

// wantRemoved checks that nothing at all is left of a snapshot.
func (o *outage) wantRemoved(t *testing.T, sandbox, of, id, name string) {
	t.Helper()
	for what, err := range map[string]error{
		"create by its id":   second(o.c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: id, Timeout: time.Hour})),
		"create by its name": second(o.c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: name, Timeout: time.Hour})),
		"remove":             o.c.Sandboxes.RemoveSnapshot(t.Context(), id),
		"remove checkpoint":  o.c.Sandboxes.RemoveCheckpoint(t.Context(), sandbox, id),
		"rollback":           second(o.c.Sandboxes.Rollback(t.Context(), sandbox, id)),
	} {
		if soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("%s of what is removed: %v, want NotFound", what, err)
		}
	}
	for snap, err := range o.c.Sandboxes.Snapshots(t.Context(), "") {
		if err != nil || snap.ID == id {
			t.Errorf("on record is %+v, %v", snap, err)
		}
	}
	for _, folder := range []string{id, ".removed-" + id} {
		if _, err := os.Lstat(filepath.Join(o.s.Data, "snapshots", folder)); !os.IsNotExist(err) {
			t.Errorf("%s of %s: %v, want it gone", folder, of, err)
		}
	}
}

// wantFree checks that a name can be given again. It is that of a checkpoint for
// as long as there is one.
func (o *outage) wantFree(t *testing.T, sandbox, of, name string, taken bool) {
	t.Helper()
	if of != point {
		id, err := o.c.Sandboxes.Snapshot(t.Context(), sandbox, name)
		if err == nil {
			err = o.c.Sandboxes.RemoveSnapshot(t.Context(), id)
		}
		if err != nil {
			t.Errorf("the name of a snapshot that is gone: %v", err)
		}
		return
	}
	_, err := o.c.Sandboxes.Checkpoint(t.Context(), sandbox, name)
	if !taken && err != nil || taken && soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("the name of the checkpoint, which there is: %v: %v", taken, err)
	}
}
