package rootfs_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/rootfs"
)

func open(t *testing.T, dir string) *rootfs.Store {
	t.Helper()
	s, err := rootfs.Open(slog.New(slog.DiscardHandler), dir)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func build(t *testing.T, s *rootfs.Store, dir string) rootfs.Image {
	t.Helper()
	img, err := s.Build(t.Context(), dir, rootfs.BuildOptions{Source: "test"})
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	return img
}

func TestBuild(t *testing.T) {
	tree := plant(t, map[string]file{
		"usr/bin/sudo": {fs.ModeSetuid | 0o755, "setuid"},
		"usr/bin/big":  {0o755, strings.Repeat("soulbox ", 5000)},
		"etc/shadow":   {0o640, "secret"},
		"tmp":          {fs.ModeDir | fs.ModeSticky | 0o777, ""},
		"bin":          link("usr/bin"),
	})
	if err := os.Chown(filepath.Join(tree, "etc/shadow"), 3000, 42); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(tree, "usr/bin/big"), filepath.Join(tree, "usr/bin/twin")); err != nil {
		t.Fatal(err)
	}
	old := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(tree, "usr/bin/big"), old, old); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	img, err := s.Build(t.Context(), tree, rootfs.BuildOptions{Source: "test", Started: old.Add(time.Hour)})
	if err != nil {
		t.Fatalf("Build: %v", err)
	}

	fi, err := os.Stat(s.Path(img.ID))
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != 0o444 || fi.Size() != img.Size || img.Source != "test" {
		t.Errorf("file has mode %v and size %d, want 0444 and %d; image %+v", fi.Mode(), fi.Size(), img.Size, img)
	}
	if err := s.Verify(t.Context(), img.ID); err != nil {
		t.Errorf("Verify: %v", err)
	}

	out := filepath.Join(t.TempDir(), "out")
	if b, err := exec.CommandContext(t.Context(), "fsck.erofs", "--extract="+out, "--preserve", s.Path(img.ID)).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v: %s", err, b)
	}
	for name, want := range map[string]string{
		"etc/shadow": "-rw-r----- 30",
		"tmp":        "dtrwxrwxrwx 00",
		"bin":        "Lrwxrwxrwx 00",
	} {
		if got := describe(t, out, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := read(t, out, "usr/bin/big"); got != strings.Repeat("soulbox ", 5000) {
		t.Errorf("big has %d other bytes", len(got))
	}
	// Extracting loses setuid bits and times, so these are read in the image.
	if mode, _ := inode(t, s.Path(img.ID), "/usr/bin/sudo"); mode != syscall.S_IFREG|syscall.S_ISUID|0o755 {
		t.Errorf("sudo has mode %o, want setuid and 0755", mode)
	}
	if _, mtime := inode(t, s.Path(img.ID), "/usr/bin/big"); !mtime.Equal(old) {
		t.Errorf("big has time %v, want %v", mtime, old)
	}
	if _, mtime := inode(t, s.Path(img.ID), "/usr/bin/sudo"); !mtime.Equal(old) {
		t.Errorf("sudo, which is newer than the build, has time %v, want %v", mtime, old)
	}
}

// inode returns mode and time of a file in an image.
func inode(t *testing.T, image, name string) (mode uint16, mtime time.Time) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dump.erofs", "--path="+name, image).CombinedOutput()
	m := regexp.MustCompile(`NID: (\d+)`).FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("dump.erofs: %v: %s", err, out)
	}
	nid, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64) // an extended inode; the inodes of our images start at block 0
	if _, err := f.ReadAt(b, nid*32); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint16(b[4:]), time.Unix(int64(binary.LittleEndian.Uint64(b[32:])), 0)
}

// The same tree, made twice in different order and at different times, is the
// same image.
func TestBuildRepeats(t *testing.T) {
	s := open(t, t.TempDir())
	names := []string{"a", "b", "c/d", "c/e", "f/g/h", "i", "j", "k"}
	old := time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)
	var got []string
	for range 2 {
		slices.Reverse(names)
		dir, started := t.TempDir(), time.Now()
		for _, n := range names {
			path := filepath.Join(dir, n)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(n), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(filepath.Join(dir, "i"), old, old); err != nil {
			t.Fatal(err)
		}
		img, err := s.Build(t.Context(), dir, rootfs.BuildOptions{Started: started.Add(-time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, img.ID)
	}
	if got[0] != got[1] {
		t.Errorf("images %s and %s differ", got[0], got[1])
	}
	if imgs, err := s.List(t.Context()); len(imgs) != 1 || err != nil {
		t.Errorf("List: %v, %v; want one image", imgs, err)
	}
}

func TestHoldAndRemove(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	img := build(t, s, plant(t, map[string]file{"a": {0o644, "a"}}))
	f, err := s.Hold(img.ID)
	if err != nil {
		t.Fatal(err)
	}
	dup, err := syscall.Dup(int(f.Fd())) // what a sandbox would keep
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := open(t, dir).Remove(t.Context(), img.ID); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Remove of a held image by another store: %v, want Conflict", err)
	}
	if err := syscall.Close(dup); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Remove(t.Context(), img.ID); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	if _, err := s.Hold(img.ID); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Hold of a removed image: %v, want NotFound", err)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestDamage(t *testing.T) {
	tests := []struct {
		name        string
		spoil       func(image, manifest string) error
		get, verify soulbox.Kind
	}{
		{"cut short", func(image, _ string) error { return os.Truncate(image, 100) }, soulbox.Unavailable, soulbox.Unavailable},
		{"one byte changed", func(image, _ string) error {
			b, err := os.ReadFile(image)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(image, b, 0o444)
		}, 255, soulbox.Unavailable},
		{"another's manifest", func(_, manifest string) error {
			b, err := json.Marshal(rootfs.Image{ID: strings.Repeat("0", 64)})
			if err != nil {
				return err
			}
			return os.WriteFile(manifest, b, 0o444)
		}, soulbox.Unavailable, soulbox.Unavailable},
		{"manifest lost", func(_, manifest string) error { return os.Remove(manifest) }, soulbox.Internal, soulbox.Internal},
		{"manifest is not JSON", func(_, manifest string) error { return os.WriteFile(manifest, []byte("x"), 0o444) }, soulbox.Internal, soulbox.Internal},
		{"image lost", func(image, _ string) error { return os.Remove(image) }, soulbox.NotFound, soulbox.NotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			tree := plant(t, map[string]file{"a": {0o644, strings.Repeat("a", 20000)}})
			img := build(t, s, tree)
			if err := tt.spoil(s.Path(img.ID), filepath.Join(dir, img.ID+".json")); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(img.ID); (err == nil) != (tt.get == 255) || (err != nil && soulbox.KindOf(err) != tt.get) {
				t.Errorf("Get: %v, want kind %v", err, tt.get)
			}
			if err := s.Verify(t.Context(), img.ID); err == nil || soulbox.KindOf(err) != tt.verify {
				t.Errorf("Verify: %v, want kind %v", err, tt.verify)
			}
			if tt.get == 255 {
				return // only Verify sees this one, so building again does not mend it
			}
			if imgs, err := s.List(t.Context()); len(imgs) != 0 || err != nil {
				t.Errorf("List: %v, %v; want none", imgs, err)
			}
			build(t, s, tree)
			if err := s.Verify(t.Context(), img.ID); err != nil {
				t.Errorf("Verify after building again: %v", err)
			}
		})
	}
}

func TestStrangeIDs(t *testing.T) {
	s := open(t, t.TempDir())
	for _, id := range []string{"", "..", "../../etc/passwd", strings.Repeat("A", 64), strings.Repeat("0", 63), strings.Repeat("z", 64)} {
		_, getErr := s.Get(id)
		for _, err := range []error{getErr, s.Remove(t.Context(), id), s.Verify(t.Context(), id)} {
			if soulbox.KindOf(err) != soulbox.Invalid {
				t.Errorf("id %q: %v, want Invalid", id, err)
			}
		}
	}
	if _, err := s.Get(strings.Repeat("0", 64)); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Get of an unknown image: %v, want NotFound", err)
	}
}

// What a killed build left behind goes when the store is opened; what a running
// one works on stays.
func TestOpenSweeps(t *testing.T) {
	dir := t.TempDir()
	dead, alive := filepath.Join(dir, ".building-1"), filepath.Join(dir, ".building-2")
	for _, path := range []string{dead, alive} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(alive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	got, err := filepath.Glob(filepath.Join(dir, ".*"))
	if diff := cmp.Diff([]string{alive}, got); diff != "" || err != nil {
		t.Errorf("left (-want +got):\n%s%v", diff, err)
	}
}

func TestBuildFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Build(t.Context(), filepath.Join(dir, "missing"), rootfs.BuildOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Build of nothing: %v, want %v", err, fs.ErrNotExist)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Build(ctx, plant(t, nil), rootfs.BuildOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Build after cancel: %v, want %v", err, context.Canceled)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}
