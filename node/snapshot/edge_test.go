package snapshot_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/snapshot"
)

// Of many who write the same snapshot one succeeds, and the others hear why.
func TestSameAtOnce(t *testing.T) {
	for range 20 {
		r := newRoom(t)
		s := r.open(t, format)
		id := soulbox.NewSnapshotID()
		var wrote atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := s.Write(t.Context(), r.draft(id), fill, nothing)
				if err == nil {
					wrote.Add(1)
				} else {
					wantKind(t, "Write", err, soulbox.Conflict)
				}
				if all, err := s.List(t.Context()); err != nil || len(all) > 1 {
					t.Errorf("List() = %v, %v", all, err)
				}
			})
		}
		wg.Wait()
		if err := s.Verify(t.Context(), id); err != nil || wrote.Load() != 1 {
			t.Errorf("%d wrote it; Verify: %v", wrote.Load(), err)
		}
		if left := r.entries(t); len(left) != 1 {
			t.Errorf("left: %v", left)
		}
	}
}

// One that appears while another of the same name is written stays as it is.
func TestOvertaken(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	id := soulbox.NewSnapshotID()
	path := filepath.Join(r.dir, string(id))
	_, err := s.Write(t.Context(), r.draft(id), fill, func(step string) {
		if step == "snapshot/synced" {
			if err := errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "mine"), nil, 0o600)); err != nil {
				t.Error(err)
			}
		}
	})
	wantKind(t, "Write", err, soulbox.Conflict)
	if left := r.entries(t); !slices.Equal(left, []string{string(id)}) {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(path, "mine")); err != nil {
		t.Error(err)
	}
}

func TestReach(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	id := soulbox.NewSnapshotID()
	var steps []string
	size, err := s.Write(t.Context(), r.draft(id), fill, func(step string) {
		if all, err := s.List(t.Context()); err != nil || len(all) > 0 {
			t.Errorf("at %s: List() = %v, %v; want none yet", step, all, err)
		}
		wantKind(t, "Hold at "+step, second(s.Hold(id)), soulbox.NotFound)
		wantKind(t, "another Write at "+step, second(s.Write(t.Context(), r.draft(id), fill, nothing)), soulbox.Conflict)
		steps = append(steps, step)
	})
	if err != nil || !slices.Equal(steps, []string{"snapshot/saved", "snapshot/synced"}) {
		t.Errorf("Write: %v, through %v", err, steps)
	}
	if all, err := s.List(t.Context()); err != nil || !maps.Equal(all, map[soulbox.SnapshotID]soulbox.Bytes{id: size}) {
		t.Errorf("List() = %v, %v", all, err)
	}
}

// A context that ends while the files are read leaves nothing behind.
func TestCancelledBetween(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the caller has gone")
	_, err := s.Write(ctx, r.draft(soulbox.NewSnapshotID()), fill, func(string) { cancel(why) })
	if !errors.Is(err, why) {
		t.Errorf("Write: %v, want %v", err, why)
	}
	if left := r.entries(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	id := soulbox.NewSnapshotID()
	write(t, s, r.draft(id))
	if err := s.Verify(ctx, id); !errors.Is(err, why) || soulbox.KindOf(err) != soulbox.Internal {
		t.Errorf("Verify: %v, want %v and no damage", err, why)
	}
}

// What a driver saves is files with names that a snapshot has not taken.
func TestStrangeFiles(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	for name, save := range map[string]func(dir string) error{
		"a folder":     func(dir string) error { return os.Mkdir(filepath.Join(dir, "folder"), 0o700) },
		"a link":       func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "link")) },
		"a pipe":       func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600) },
		"the image":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "image.erofs"), nil, 0o600) },
		"the manifest": func(dir string) error { return os.WriteFile(filepath.Join(dir, "manifest.json"), nil, 0o600) },
	} {
		if n, err := s.Write(t.Context(), r.draft(soulbox.NewSnapshotID()), save, nothing); err == nil {
			t.Errorf("%s: written, %d bytes", name, n)
		}
		if left := r.entries(t); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	id := soulbox.NewSnapshotID()
	if _, err := s.Write(t.Context(), r.draft(id), func(string) error { return nil }, nothing); err != nil {
		t.Errorf("no files at all: %v", err)
	}
	if err := s.Verify(t.Context(), id); err != nil {
		t.Errorf("no files at all: %v", err)
	}
}

// Most is about what lies on the disk: holes are free.
func TestMost(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	save := func(write int) func(dir string) error {
		return func(dir string) error {
			f, err := os.Create(filepath.Join(dir, "pages"))
			if err != nil {
				return err
			}
			_, err = f.Write(make([]byte, write))
			return errors.Join(err, f.Truncate(64<<20), f.Close())
		}
	}
	id := soulbox.NewSnapshotID()
	if n, err := s.Write(t.Context(), r.draft(id), save(512<<10), nothing); err != nil || n < 512<<10 || n > soulbox.MiB {
		t.Errorf("Write of 64 MiB with holes: %d, %v", n, err)
	}
	if err := s.Verify(t.Context(), id); err != nil {
		t.Error(err)
	}
	_, err := s.Write(t.Context(), r.draft(soulbox.NewSnapshotID()), save(2<<20), nothing)
	wantKind(t, "Write of 2 MiB", err, soulbox.Invalid)
	if said := soulbox.MessageOf(err); !strings.Contains(said, "2 MiB, and may take 1") {
		t.Errorf("the customer reads %q", said)
	}
}

// What another version wrote, or what is damaged, is listed and can be removed.
func TestListBesideDamage(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	good, bare, torn := soulbox.NewSnapshotID(), soulbox.NewSnapshotID(), soulbox.NewSnapshotID()
	size := write(t, s, r.draft(good))
	write(t, s, r.draft(torn))
	if err := errors.Join(
		os.Mkdir(filepath.Join(r.dir, string(bare)), 0o700),
		os.Truncate(filepath.Join(r.dir, string(torn), "manifest.json"), 10),
		os.WriteFile(filepath.Join(r.dir, "README"), nil, 0o600), // somebody's own
	); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*snapshot.Store{s, r.open(t, "another")} {
		if all, err := s.List(t.Context()); err != nil || !maps.Equal(all, map[soulbox.SnapshotID]soulbox.Bytes{good: size, bare: 0, torn: 0}) {
			t.Errorf("List() = %v, %v; want %s with its size and the others with 0", all, err, good)
		}
		for _, id := range []soulbox.SnapshotID{bare, torn} {
			wantDamage(t, "Verify", s, id)
			wantKind(t, "Write over it", second(s.Write(t.Context(), r.draft(id), fill, nothing)), soulbox.Conflict)
		}
	}
	for _, id := range []soulbox.SnapshotID{good, bare, torn} {
		if err := r.open(t, "another").Remove(id, nothing); err != nil {
			t.Error(err)
		}
	}
	if left := r.entries(t); !slices.Equal(left, []string{"README"}) {
		t.Errorf("left: %v", left)
	}
}

func TestBadIDs(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	outside := filepath.Join(r.dir, "..", "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, id := range []soulbox.SnapshotID{"", ".", "..", "../outside", "s/../../outside", "S", soulbox.NewSnapshotID() + "x"} {
		wantKind(t, "Write", second(s.Write(t.Context(), r.draft(id), fill, nothing)), soulbox.Invalid)
		wantKind(t, "Hold", second(s.Hold(id)), soulbox.Invalid)
		wantKind(t, "Verify", s.Verify(t.Context(), id), soulbox.Invalid)
		wantKind(t, "Remove", s.Remove(id, nothing), soulbox.Invalid)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

// A removal that came to a halt in the middle is done by the next call.
func TestRemoveAgain(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	id := soulbox.NewSnapshotID()
	write(t, s, r.draft(id))
	if err := os.Rename(filepath.Join(r.dir, string(id)), filepath.Join(r.dir, ".removed-"+string(id))); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "Write while it is being removed", second(s.Write(t.Context(), r.draft(id), fill, nothing)), soulbox.Conflict)
	if err := s.Remove(id, nothing); err != nil {
		t.Error(err)
	}
	if left := r.entries(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Whoever closes twice does not take the files from another.
func TestCloseTwice(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	id := soulbox.NewSnapshotID()
	write(t, s, r.draft(id))
	one, err := s.Hold(id)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Hold(id)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := errors.Join(s.Remove(id, nothing), one.Close()); err != nil {
			t.Error(err)
		}
	}
	if err := two.Check(t.Context()); err != nil {
		t.Errorf("what is held is gone: %v", err)
	}
	if err := two.Close(); err != nil {
		t.Error(err)
	}
	if left := r.entries(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The image store locks an image while it removes its own name of it. That
// is no damage to a snapshot, which has another.
func TestImageBeingRemoved(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	id := soulbox.NewSnapshotID()
	write(t, s, r.draft(id))
	f, err := os.Open(r.image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), id); err != nil {
		t.Errorf("while the image is being removed: %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	h, err := s.Hold(id)
	if err != nil {
		t.Fatal(err)
	}
	image := h.TakeImage()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("an image in use is not locked: %v", err)
	}
	image.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("an image that nobody uses is locked: %v", err)
	}
}

// What all snapshots may take together holds for those of an earlier process,
// and removing one makes room.
func TestBound(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	first := soulbox.NewSnapshotID()
	size, err := s.Write(t.Context(), r.draft(first), fill, nothing)
	if err != nil {
		t.Fatal(err)
	}
	d := r.draft(soulbox.NewSnapshotID())
	for _, d.Bound = range []soulbox.Bytes{size - 1, size, 2*size - 1} {
		for name, s := range map[string]*snapshot.Store{"same": s, "reopened": r.open(t, format)} {
			if _, err := s.Write(t.Context(), d, fill, nothing); soulbox.KindOf(err) != soulbox.Exhausted {
				t.Errorf("%s, bound %d of %d: %v, want Exhausted", name, d.Bound, size, err)
			}
		}
	}
	d.Bound = 2 * size
	if _, err := s.Write(t.Context(), d, fill, nothing); err != nil {
		t.Errorf("it just fits, and Write says %v", err)
	}
	third := r.draft(soulbox.NewSnapshotID())
	third.Bound = 2 * size
	held, err := s.Hold(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(first, nothing); err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(t.Context(), third, fill, nothing)
	wantKind(t, "Write while what was removed is held", err, soulbox.Exhausted)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(t.Context(), third, fill, nothing); err != nil {
		t.Errorf("after removal: %v", err)
	}
	if got := len(r.entries(t)); got != 2 {
		t.Errorf("%d snapshots are left, want 2", got)
	}
}
