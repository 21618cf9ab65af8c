package snapshot_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/snapshot"
)

const (
	format    = "test 1"
	imageHash = "5070f8efdc1d2d14e43b6a025b993fdbd567032edc3633e1a89e56db31f03d92"
)

// A room is a folder with a root image and a store beside it.
type room struct {
	dir   string
	image string
}

func newRoom(t *testing.T) *room {
	t.Helper()
	dir := t.TempDir()
	r := &room{dir: filepath.Join(dir, "snapshots"), image: filepath.Join(dir, "image")}
	if err := os.WriteFile(r.image, []byte("the root image"), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *room) open(t *testing.T, format string) *snapshot.Store {
	t.Helper()
	s, err := snapshot.Open(slog.New(slog.DiscardHandler), r.dir, format)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *room) draft(id soulbox.SnapshotID) snapshot.Draft {
	return snapshot.Draft{ID: id, Memory: true, Image: imageHash, Path: r.image, Most: soulbox.MiB}
}

func nothing(string) {}

// fill writes what a driver might.
func fill(dir string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "pages"), []byte(strings.Repeat("page ", 1000)), 0o600),
		os.WriteFile(filepath.Join(dir, "state"), []byte("state"), 0o600),
	)
}

func write(t *testing.T, s *snapshot.Store, d snapshot.Draft) soulbox.Bytes {
	t.Helper()
	n, err := s.Write(t.Context(), d, fill, nothing)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (r *room) entries(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func wantKind(t *testing.T, what string, err error, want soulbox.Kind) {
	t.Helper()
	if err == nil || soulbox.KindOf(err) != want {
		t.Errorf("%s: %v, want kind %d", what, err, want)
	}
}

func TestWriteAndRead(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	id := soulbox.NewSnapshotID()
	size := write(t, s, r.draft(id))
	if err := os.Remove(r.image); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*snapshot.Store{s, r.open(t, format)} {
		all, err := s.List(t.Context())
		if err != nil || len(all) != 1 || all[id] != size || size < 5000 {
			t.Errorf("List() = %v, %v; want %s with %d bytes", all, err, id, size)
		}
		if err := s.Verify(t.Context(), id); err != nil {
			t.Errorf("Verify: %v", err)
		}
		h, err := s.Hold(id)
		if err != nil {
			t.Fatal(err)
		}
		image := h.TakeImage()
		b := make([]byte, 100)
		n, _ := image.Read(b)
		if string(b[:n]) != "the root image" || !h.Memory || h.Image != imageHash {
			t.Errorf("held: %+v, image %q", h, b[:n])
		}
		if b, err := os.ReadFile(filepath.Join(h.Dir, "state")); err != nil || string(b) != "state" {
			t.Errorf("state: %q, %v", b, err)
		}
		if err := errors.Join(image.Close(), h.Close()); err != nil {
			t.Error(err)
		}
	}
	wantKind(t, "Write of an id that exists", second(s.Write(t.Context(), r.draft(id), fill, nothing)), soulbox.Conflict)
	if err := s.Remove(id, nothing); err != nil {
		t.Error(err)
	}
	if err := s.Remove(id, nothing); err != nil {
		t.Errorf("second Remove: %v", err)
	}
	wantKind(t, "Verify of one that was removed", s.Verify(t.Context(), id), soulbox.NotFound)
	if left := r.entries(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func second[T any](_ T, err error) error { return err }

// Whatever goes wrong while it is written, nothing is there afterwards.
func TestWriteFails(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	boom := errors.New("boom")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx   context.Context
		draft func(*snapshot.Draft)
		save  func(string) error
		want  soulbox.Kind
	}{
		"saving fails":  {save: func(dir string) error { return errors.Join(fill(dir), boom) }, want: soulbox.Internal},
		"disk full":     {save: func(string) error { return &os.PathError{Err: syscall.ENOSPC} }, want: soulbox.Unavailable},
		"disk full, in": {save: func(string) error { return errors.New("sentry: write: no space left on device") }, want: soulbox.Unavailable},
		"too large":     {draft: func(d *snapshot.Draft) { d.Most = 100 }, want: soulbox.Invalid},
		"no image":      {draft: func(d *snapshot.Draft) { d.Path += "x" }, want: soulbox.Internal},
		"bad id":        {draft: func(d *snapshot.Draft) { d.ID = "s/../../x" }, want: soulbox.Invalid},
		"cancelled":     {ctx: cancelled, want: soulbox.Internal},
	} {
		d, save, ctx := r.draft(soulbox.NewSnapshotID()), fill, t.Context()
		if tt.draft != nil {
			tt.draft(&d)
		}
		if tt.save != nil {
			save = tt.save
		}
		if tt.ctx != nil {
			ctx = tt.ctx
		}
		wantKind(t, name, second(s.Write(ctx, d, save, nothing)), tt.want)
		if left := r.entries(t); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// A process that dies at any step leaves either a whole snapshot or one that
// Open removes.
func TestCrash(t *testing.T) {
	for step, whole := range map[string]bool{"snapshot/saved": false, "snapshot/synced": false, "": true} {
		r := newRoom(t)
		s := r.open(t, format)
		id := soulbox.NewSnapshotID()
		func() {
			defer func() { _ = recover() }()
			// The panic stands for the death: deferred cleanups must not run,
			// so the folder is put aside and back.
			_, _ = s.Write(t.Context(), r.draft(id), fill, func(at string) {
				if at == step {
					if err := os.CopyFS(r.dir+".dead", os.DirFS(r.dir)); err != nil {
						t.Error(err)
					}
					panic(at)
				}
			})
		}()
		if step != "" {
			if err := errors.Join(os.RemoveAll(r.dir), os.Rename(r.dir+".dead", r.dir)); err != nil {
				t.Fatal(err)
			}
			if len(r.entries(t)) == 0 {
				t.Fatalf("%s: nothing was written yet", step)
			}
		}
		all, err := r.open(t, format).List(t.Context())
		if _, there := all[id]; err != nil || there != whole {
			t.Errorf("after a death at %q: %v, %v; want whole %v", step, all, err, whole)
		}
		if left := r.entries(t); len(left) > 1 || !whole && len(left) > 0 {
			t.Errorf("after a death at %q: left %v", step, left)
		}
	}
}

// wantDamage wants Verify to say which snapshot is damaged, to anybody.
func wantDamage(t *testing.T, what string, s *snapshot.Store, id soulbox.SnapshotID) {
	t.Helper()
	err := s.Verify(t.Context(), id)
	wantKind(t, what, err, soulbox.Unavailable)
	if said := soulbox.MessageOf(err); !strings.HasPrefix(said, "snapshot "+string(id)+" is damaged on this machine: ") {
		t.Errorf("%s: the customer reads %q", what, said)
	}
}

// One flipped bit anywhere is noticed.
func TestDamage(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	for _, name := range []string{"pages", "state", "manifest.json", "image.erofs"} {
		id := soulbox.NewSnapshotID()
		write(t, s, r.draft(id))
		// The image is one file under two names; that of the others must stay.
		r.image = filepath.Join(r.dir, "..", "image-"+string(id))
		if err := os.WriteFile(r.image, []byte("the root image"), 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(r.dir, string(id), name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(b) / 2, len(b) - 2} {
			bad := append([]byte(nil), b...)
			bad[at] ^= 4
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			wantDamage(t, name, s, id)
		}
		for what, change := range map[string]func() error{
			"cut off": func() error { return os.WriteFile(path, b[:len(b)-1], 0o600) },
			"empty":   func() error { return os.WriteFile(path, nil, 0o600) },
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
			wantDamage(t, name+" "+what, s, id)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		wantDamage(t, name+" missing", s, id)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		wantDamage(t, name+" a folder", s, id)
		if err := s.Remove(id, nothing); err != nil {
			t.Error(err)
		}
	}
}

func TestForeignFormat(t *testing.T) {
	r := newRoom(t)
	id := soulbox.NewSnapshotID()
	write(t, r.open(t, format), r.draft(id))
	err := r.open(t, "test 2").Verify(t.Context(), id)
	wantKind(t, "Verify", err, soulbox.Conflict)
	if err == nil || !strings.Contains(err.Error(), "test 1") || !strings.Contains(err.Error(), "test 2") {
		t.Errorf("%v names not both versions", err)
	}
}

// A snapshot under another one's name is not taken for it.
func TestWrongName(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	a, b := soulbox.NewSnapshotID(), soulbox.NewSnapshotID()
	write(t, s, r.draft(a))
	if err := os.Rename(filepath.Join(r.dir, string(a)), filepath.Join(r.dir, string(b))); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "Hold", second(s.Hold(b)), soulbox.Unavailable)
	if all, err := s.List(t.Context()); err != nil || !maps.Equal(all, map[soulbox.SnapshotID]soulbox.Bytes{b: 0}) {
		t.Errorf("List() = %v, %v; want one that is damaged", all, err)
	}
}

// What is being read stays until the last reader has closed it.
func TestRemoveWhileHeld(t *testing.T) {
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
	if err := s.Remove(id, nothing); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "Hold after Remove", second(s.Hold(id)), soulbox.NotFound)
	for _, h := range []*snapshot.Held{one, two} {
		if err := h.Check(t.Context()); err != nil {
			t.Errorf("what is held cannot be read after Remove: %v", err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if left := r.entries(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestManyAtOnce(t *testing.T) {
	r := newRoom(t)
	s := r.open(t, format)
	shared := soulbox.NewSnapshotID()
	write(t, s, r.draft(shared))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			id := soulbox.NewSnapshotID()
			write(t, s, r.draft(id))
			if err := s.Verify(t.Context(), id); err != nil {
				t.Error(err)
			}
			if h, err := s.Hold(shared); err == nil {
				if err := errors.Join(h.Check(t.Context()), h.Close()); err != nil {
					t.Error(err)
				}
			}
			if i == 8 {
				if err := s.Remove(shared, nothing); err != nil {
					t.Error(err)
				}
			}
			if err := s.Remove(id, nothing); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left := r.entries(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
