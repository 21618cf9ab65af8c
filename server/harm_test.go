package server_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// TestHarm does to sandboxes that sleep, wake and are copied what clients and
// disks do to them at the worst moment.
func TestHarm(t *testing.T) {
	o := &outage{s: servertest.New(t)}
	o.s.Start(t)
	o.c = connect(t, o.s)
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *outage)
	}{
		{"damaged pause", damagedPause},
		{"damaged checkpoint", damagedCheckpoint},
		{"damaged snapshot", damagedSnapshot},
		{"rollback under a command", rollbackUnderCommand},
		{"resumed by many", resumedByMany},
		{"paused by many", pausedByMany},
		{"forked while it is paused", forkedWhilePaused},
		{"removed while it is restored", removedWhileRestored},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.do(t, o) })
	}
	for info, err := range o.c.Sandboxes.List(t.Context(), client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := o.c.Sandboxes.Kill(t.Context(), info.ID); err != nil {
			t.Error(err)
		}
	}
	o.s.Stop(t)
	o.s.WantNothingLeft(t)
	wantNoSnapshots(t, o.s)
}

// damages calls check once for each file of a snapshot, while one bit of it is
// wrong. The root image is left in peace: it is that of every sandbox.
func damages(t *testing.T, s *servertest.Server, id string, check func(file string)) {
	t.Helper()
	dir := filepath.Join(s.Data, "snapshots", id)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, e := range entries {
		if e.Name() == "image.erofs" {
			continue
		}
		checked++
		path := filepath.Join(dir, e.Name())
		flip(t, path)
		check(e.Name())
		flip(t, path)
	}
	if checked < 4 {
		t.Errorf("a snapshot of %d files: %v", checked, entries)
	}
}

// flip turns one bit in the middle of a file over.
func flip(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, info.Size()/2); err != nil {
		t.Fatal(err)
	}
}

// wantDamaged checks that an error tells somebody who cannot read logs what
// is the matter.
func wantDamaged(t *testing.T, what string, err error) {
	t.Helper()
	if soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%s: %v; want Unavailable, because it is damaged", what, err)
	}
}

func damagedPause(t *testing.T, o *outage) {
	for _, filesOnly := range []bool{false, true} {
		was := o.populate(t)
		cp, err := o.c.Sandboxes.Checkpoint(t.Context(), was.id, "")
		if err != nil {
			t.Fatal(err)
		}
		o.pause(t, was.id, filesOnly)
		damages(t, o.s, o.snapshotOf(t, was.id, soulbox.ForPause), func(file string) {
			_, err := o.c.Sandboxes.Resume(t.Context(), was.id, client.ResumeOptions{Timeout: time.Hour})
			wantDamaged(t, "resume with another bit in "+file, err)
			if !strings.Contains(err.Error(), "checkpoint "+cp.ID) {
				t.Errorf("%v; want the offer of checkpoint %s", err, cp.ID)
			}
			_, err = o.c.Sandboxes.Resume(t.Context(), was.id, client.ResumeOptions{Timeout: time.Hour, Cold: true})
			wantDamaged(t, "resume of the files with another bit in "+file, err)
			o.wantState(t, was.id, asleep)
			if file == "manifest.json" { // what a start finds damaged may be mended
				o.s.Stop(t)
				o.s.Start(t)
				o.c = connect(t, o.s)
				o.wantState(t, was.id, asleep)
			}
		})
		want := asleep // nothing was hurt by trying
		if filesOnly {
			want = cold
		}
		o.want(t, was, want)
	}
}

func damagedCheckpoint(t *testing.T, o *outage) {
	was := o.populate(t)
	cp, err := o.c.Sandboxes.Checkpoint(t.Context(), was.id, "")
	if err != nil {
		t.Fatal(err)
	}
	damages(t, o.s, cp.ID, func(file string) {
		_, err := o.c.Sandboxes.Rollback(t.Context(), was.id, cp.ID)
		wantDamaged(t, "rollback with another bit in "+file, err)
		o.wantState(t, was.id, runs)
	})
	o.want(t, was, runs)
	if _, err := o.c.Sandboxes.Rollback(t.Context(), was.id, cp.ID); err != nil {
		t.Errorf("rollback to what is whole again: %v", err)
	}
	o.want(t, was, runs)
}

func damagedSnapshot(t *testing.T, o *outage) {
	was := o.populate(t)
	id, err := o.c.Sandboxes.Snapshot(t.Context(), was.id, "")
	if err != nil {
		t.Fatal(err)
	}
	damages(t, o.s, id, func(file string) {
		_, err := o.c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: id, Timeout: time.Hour})
		wantDamaged(t, "create with another bit in "+file, err)
	})
	if err := o.c.Sandboxes.RemoveSnapshot(t.Context(), id); err != nil {
		t.Error(err)
	}
	o.want(t, was, runs)
}

func rollbackUnderCommand(t *testing.T, o *outage) {
	was := o.populate(t)
	cp, err := o.c.Sandboxes.Checkpoint(t.Context(), was.id, "")
	if err != nil {
		t.Fatal(err)
	}
	var output atomic.Int64
	sb := reach(t, o.c, was.id)
	stream, err := sb.Start(t.Context(), "while echo chatter; do sleep 0.01; done", client.RunOptions{Stdout: writer(func(b []byte) { output.Add(int64(len(b))) })})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stream.Wait(t.Context()) }()
	for deadline := time.Now().Add(20 * time.Second); output.Load() < 100; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the command says nothing")
		}
	}
	if _, err := o.c.Sandboxes.Rollback(t.Context(), was.id, cp.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the command that was rolled back ended well")
		}
	case <-time.After(20 * time.Second):
		t.Error("who follows the command never hears that it is gone")
	}
	if got := run(t, sb, "pgrep -c sleep || true"); got != "0\n" {
		t.Errorf("the command goes on after the rollback: %q", got)
	}
	o.want(t, was, runs)
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

// atOnce calls do from n goroutines at the same time and returns the errors.
func atOnce(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = do(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

func resumedByMany(t *testing.T, o *outage) {
	was := o.populate(t)
	o.pause(t, was.id, false)
	seen := make([]sighting, 6)
	for i, err := range atOnce(len(seen), func(i int) error {
		sb, err := o.c.Sandboxes.Resume(t.Context(), was.id, client.ResumeOptions{Timeout: time.Hour})
		if err == nil {
			seen[i] = look(t, sb)
		}
		return err
	}) {
		if err != nil {
			t.Errorf("one of many who resume: %v", err)
			continue
		}
		was.wantFiles(t, seen[i])
		was.wantPrograms(t, seen[i])
	}
	// Of one that runs it is no news.
	if sb := reach(t, o.c, was.id); sb.Resumed {
		t.Error("what runs was resumed")
	}
	if left := len(o.s.Folders(t)); left != o.running(t) {
		t.Errorf("%d folders of %d sandboxes", left, o.running(t))
	}
	o.want(t, was, runs)
}

func pausedByMany(t *testing.T, o *outage) {
	was := o.populate(t)
	paused := 0
	for _, err := range atOnce(6, func(i int) error {
		return o.c.Sandboxes.Pause(t.Context(), was.id, client.PauseOptions{FilesOnly: false})
	}) {
		if err == nil {
			paused++
		} else if soulbox.KindOf(err) != soulbox.Conflict {
			t.Errorf("one of many who pause: %v, want Conflict", err)
		}
	}
	if paused != 1 {
		t.Errorf("%d of many who paused were told that they did, want 1", paused)
	}
	o.want(t, was, asleep)
}

func forkedWhilePaused(t *testing.T, o *outage) {
	was := o.populate(t)
	var forks []client.Fork
	errs := atOnce(2, func(i int) (err error) {
		if i == 0 {
			return o.c.Sandboxes.Pause(t.Context(), was.id, client.PauseOptions{})
		}
		forks, err = o.c.Sandboxes.Fork(t.Context(), was.id, 2, time.Hour)
		return err
	})
	for i, err := range errs {
		if err != nil && soulbox.KindOf(err) != soulbox.Conflict {
			t.Errorf("%s: %v, want Conflict", []string{"pause", "fork"}[i], err)
		}
	}
	t.Logf("pause: %v; fork: %v", errs[0], errs[1])
	for _, f := range forks {
		if f.Err != nil {
			t.Errorf("a copy: %v", f.Err)
			continue
		}
		is := look(t, f.Sandbox)
		was.wantFiles(t, is)
		was.wantPrograms(t, is)
	}
	if errs[0] != nil {
		o.want(t, was, runs)
		return
	}
	o.want(t, was, asleep)
}

func removedWhileRestored(t *testing.T, o *outage) {
	was := o.populate(t)
	id, err := o.c.Sandboxes.Snapshot(t.Context(), was.id, "")
	if err != nil {
		t.Fatal(err)
	}
	before := len(o.s.Folders(t))
	boxes := make([]*client.Sandbox, 4)
	errs := atOnce(len(boxes)+1, func(i int) (err error) {
		if i < len(boxes) {
			boxes[i], err = o.c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: id, Timeout: time.Hour})
			return err
		}
		for deadline := time.Now().Add(20 * time.Second); len(o.s.Folders(t)) == before && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		return o.c.Sandboxes.RemoveSnapshot(t.Context(), id)
	})
	t.Logf("errors: %v", errs)
	for i, sb := range boxes {
		if errs[i] != nil {
			if soulbox.KindOf(errs[i]) != soulbox.NotFound {
				t.Errorf("create of what is being removed: %v, want NotFound", errs[i])
			}
			continue
		}
		is := look(t, sb)
		was.wantFiles(t, is)
		was.wantPrograms(t, is)
	}
	if err := errs[len(boxes)]; err != nil {
		t.Errorf("remove: %v", err)
	}
	if _, err := os.Stat(filepath.Join(o.s.Data, "snapshots", id)); !os.IsNotExist(err) {
		t.Errorf("the removed snapshot's folder: %v", err)
	}
}

// snapshotOf returns the only snapshot of a kind that a sandbox has.
func (o *outage) snapshotOf(t *testing.T, id string, kind soulbox.SnapshotKind) string {
	t.Helper()
	for snap, err := range o.c.Sandboxes.Snapshots(t.Context(), kind) {
		if err != nil {
			t.Fatal(err)
		}
		if snap.Sandbox == id {
			return snap.ID
		}
	}
	t.Fatalf("sandbox %s has no snapshot of kind %s", id, kind)
	return ""
}

func (o *outage) running(t *testing.T) int {
	t.Helper()
	n := 0
	for info, err := range o.c.Sandboxes.List(t.Context(), client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if info.State == soulbox.Running {
			n++
		}
	}
	return n
}

// A disk is one that the test decides about how big it is.
type disk struct{ dir string }

func newDisk(t *testing.T) disk {
	t.Helper()
	d := disk{t.TempDir()}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, "size=4g"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d disk) used(t *testing.T) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

func (d disk) resize(t *testing.T, size int64) {
	t.Helper()
	if err := syscall.Mount("", d.dir, "", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
}

// fillUnder fills the disk while do writes to it.
func (d disk) fillUnder(t *testing.T, do func() error) error {
	t.Helper()
	const some = 16 << 20
	before := d.used(t)
	done := make(chan error, 1)
	go func() { done <- do() }()
	for d.used(t) < before+some {
		select {
		case err := <-done:
			return err // before it wrote much
		default:
			time.Sleep(time.Millisecond)
		}
	}
	d.resize(t, d.used(t)+some) // it is still growing
	return <-done
}

// TestFullDisk fills the disk in the middle of writing a sandbox down.
func TestFullDisk(t *testing.T) {
	const plenty = 4 << 30
	d := newDisk(t)
	o := &outage{s: servertest.New(t)}
	data := filepath.Join(d.dir, "data")
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", o.s.Data, data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o.s.Data = data
	o.s.Start(t)
	o.c = connect(t, o.s)
	was := o.populate(t)
	sb := reach(t, o.c, was.id)
	run(t, sb, `nohup python3 -c '
import os, time
b = os.urandom(1 << 20) * 400
open("big", "w").write("yes")
time.sleep(1e6)
' >/dev/null 2>&1 &
until [ -s big ]; do sleep 0.1; done`)

	for _, tt := range []struct {
		what string
		do   func(ctx context.Context) error
	}{
		{"checkpoint", func(ctx context.Context) error {
			_, err := o.c.Sandboxes.Checkpoint(ctx, was.id, "")
			return err
		}},
		{"pause", func(ctx context.Context) error { return o.c.Sandboxes.Pause(ctx, was.id, client.PauseOptions{}) }},
		{"fork", func(ctx context.Context) error {
			_, err := o.c.Sandboxes.Fork(ctx, was.id, 2, time.Hour)
			return err
		}},
	} {
		err := d.fillUnder(t, func() error { return tt.do(t.Context()) })
		t.Logf("%s: %v", tt.what, err)
		if soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(err.Error(), "not enough free disk") {
			t.Errorf("%s while the disk gets full: %v; want Unavailable, because there is no room", tt.what, err)
		}
		// The sandbox lives on, also on the full disk, but it can write no file
		// there until there is room again.
		d.resize(t, d.used(t)+64<<20)
		is := look(t, sb)
		was.wantFiles(t, is)
		was.wantPrograms(t, is)
		o.wantState(t, was.id, runs)
		// What is too full to begin with is not begun.
		err = tt.do(t.Context())
		if soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(err.Error(), "free disk") {
			t.Errorf("%s on a full disk: %v; want Unavailable, because there is no room", tt.what, err)
		}
		wantNoSnapshots(t, o.s)
		d.resize(t, plenty)
	}
	for snap, err := range o.c.Sandboxes.Snapshots(t.Context(), "") {
		t.Errorf("on record is %+v, %v", snap, err)
	}

	o.pause(t, was.id, false)
	d.resize(t, d.used(t)+64<<20)
	_, err := o.c.Sandboxes.Resume(t.Context(), was.id, client.ResumeOptions{Timeout: time.Hour})
	if soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(err.Error(), "free disk") {
		t.Errorf("resume on a full disk: %v; want Unavailable, because there is no room", err)
	}
	d.resize(t, plenty)

	// When not even a record can be written, that is said as well.
	idle := create(t, o.c, time.Hour)
	d.resize(t, d.used(t))
	for what, do := range map[string]func() error{
		"connect": func() error { _, err := o.c.Sandboxes.Connect(t.Context(), idle.ID, time.Hour); return err },
		"resume": func() error {
			_, err := o.c.Sandboxes.Resume(t.Context(), was.id, client.ResumeOptions{Timeout: time.Hour})
			return err
		},
		"create": func() error {
			_, err := o.c.Sandboxes.Create(t.Context(), client.CreateOptions{Timeout: time.Hour})
			return err
		},
		"kill": func() error { return o.c.Sandboxes.Kill(t.Context(), idle.ID) },
	} {
		if err := do(); soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(err.Error(), "disk") {
			t.Errorf("%s on a disk without any room: %v; want Unavailable, because it is full", what, err)
		}
	}
	d.resize(t, plenty)
	wantEnd(t, o.c, idle.ID) // it was asked for
	o.wantState(t, was.id, asleep)
	o.want(t, was, asleep)
	if err := o.c.Sandboxes.Kill(t.Context(), was.id); err != nil {
		t.Error(err)
	}
	o.s.Stop(t)
	o.s.WantNothingLeft(t)
	wantNoSnapshots(t, o.s)
}
