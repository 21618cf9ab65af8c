package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// TestReboot takes everything away that a restart of the machine takes, twice.
// What slept can be woken, and of what ran either a checkpoint is offered or it
// is said what became of it.
func TestReboot(t *testing.T) {
	t.Parallel()
	s := servertest.New(t)
	o := &outage{s: s}
	start := func() {
		t.Helper()
		s.Start(t)
		o.c = connect(t, s)
	}
	start()
	sleeper, files := o.populate(t), o.populate(t)
	o.pause(t, sleeper.id, false)
	o.pause(t, files.id, true)
	runner, torn, anchored := o.populate(t), o.populate(t), o.populate(t)
	if _, err := o.c.Sandboxes.Snapshot(t.Context(), runner.id, "kept"); err != nil {
		t.Fatal(err)
	}
	cp, err := o.c.Sandboxes.Checkpoint(t.Context(), anchored.id, "anchor")
	if err != nil {
		t.Fatal(err)
	}
	run(t, reach(t, o.c, anchored.id), "echo -n written late > note")

	s.Reboot(t)
	// The records of what ran are not worth a sync; a power cut may empty them.
	if err := os.Truncate(filepath.Join(s.Data, "sandboxes", torn.id, "record.json"), 0); err != nil {
		t.Fatal(err)
	}
	start()
	for _, was := range []sighting{runner, torn} {
		wantEnd(t, o.c, was.id)
		info, err := o.c.Sandboxes.Get(t.Context(), was.id)
		if err != nil {
			t.Fatal(err)
		}
		if was.id == runner.id && (info.End.By != soulbox.ByServer || !strings.Contains(info.End.Reason, "restarted")) {
			t.Errorf("what ran when the machine was restarted was %v", *info.End)
		}
		if _, err := o.c.Sandboxes.Connect(t.Context(), was.id, time.Hour); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("connect to what has ended: %v, want NotFound", err)
		}
	}
	o.want(t, sleeper, asleep)
	o.want(t, files, cold)
	all, err := o.c.Sandboxes.Checkpoints(t.Context(), anchored.id)
	if err != nil || len(all) != 1 || all[0].ID != cp.ID {
		t.Errorf("checkpoints %+v, %v; want %s", all, err, cp.ID)
	}
	o.want(t, anchored, back)
	copied, err := o.c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: "kept", Timeout: time.Hour})
	if err != nil {
		t.Fatalf("create of a snapshot: %v", err)
	}
	is := look(t, copied)
	runner.wantFiles(t, is)
	runner.wantPrograms(t, is)

	// It has run in between, and sleeps again.
	o.pause(t, sleeper.id, false)
	s.Reboot(t)
	start()
	o.want(t, sleeper, asleep)
	wantEnd(t, o.c, files.id)
	wantEnd(t, o.c, copied.ID)

	for _, id := range []string{sleeper.id, anchored.id} {
		if err := o.c.Sandboxes.Kill(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	for snap, err := range o.c.Sandboxes.Snapshots(t.Context(), soulbox.ForCreate) {
		if err != nil {
			t.Fatal(err)
		}
		if err := o.c.Sandboxes.RemoveSnapshot(t.Context(), snap.ID); err != nil {
			t.Error(err)
		}
	}
	s.Stop(t)
	s.WantNothingLeft(t)
	wantNoSnapshots(t, s)
}
