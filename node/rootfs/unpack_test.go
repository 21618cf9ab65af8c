package rootfs_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/rootfs"
)

// odd is a tree with one of each thing that could get lost.
func odd(t *testing.T) string {
	t.Helper()
	dir := plant(t, map[string]file{
		"usr/bin/sudo":     {fs.ModeSetuid | 0o755, "setuid"},
		"usr/bin/wall":     {fs.ModeSetgid | 0o755, "setgid"},
		"usr/bin/big":      {0o755, strings.Repeat("soulbox ", 5000)},
		"etc/shadow":       {0o640, "secret"},
		"etc/empty":        {0o000, ""},
		"home/far":         {0o600, "an id above 65535"},
		"tmp":              {fs.ModeDir | fs.ModeSticky | 0o777, ""},
		"var/mail":         {fs.ModeDir | fs.ModeSetgid | 0o775, ""},
		"locked/in":        {0o600, "in a folder that only root enters"},
		"names/with\nline": {0o644, ""},
		"names/\xff\xfe":   {0o644, "no UTF-8"},
		"bin":              link("usr/bin"),
		"etc/outside":      link("../../../../../../etc/passwd"),
		"etc/absolute":     link("/etc/passwd"),
		"etc/loop":         link("loop"),
		"etc/dir-outside":  link("/"),
	})
	for i := range 600 { // more than one block of names
		if err := os.WriteFile(filepath.Join(dir, "names", fmt.Sprintf("number-%03d", i)), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.Chown(in("etc/shadow"), 3000, 42),
		os.Chown(in("home/far"), 70000, 80000),
		os.Chown(in("usr/bin/sudo"), 0, 7), os.Chmod(in("usr/bin/sudo"), fs.ModeSetuid|0o755),
		os.Lchown(in("etc/outside"), 1000, 1000),
		os.Chmod(in("locked"), 0),
		os.Link(in("usr/bin/big"), in("home/twin")),
		os.Link(in("etc/outside"), in("home/twin-link")),
		unix.Mkfifo(in("tmp/pipe"), 0o620),
		unix.Mknod(in("tmp/socket"), unix.S_IFSOCK|0o755, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// Times last, and of folders after what is in them.
	at := time.Date(2020, 2, 3, 4, 5, 6, 789, time.UTC)
	var all []string
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Backward(all) {
		at = at.Add(time.Hour)
		ts := unix.NsecToTimespec(at.UnixNano())
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// listing tells everything about a tree that an image keeps.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	names := map[uint64]string{}
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		content := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%x", sha256.Sum256(b))
		case unix.S_IFLNK:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		first, ok := names[st.Ino]
		if !ok {
			first, names[st.Ino] = name, name
		}
		all = append(all, fmt.Sprintf("%q %o %d:%d %v %s is %q", name, st.Mode, st.Uid, st.Gid, time.Unix(st.Mtim.Sec, 0).UTC(), content, first))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestUnpack(t *testing.T) {
	tree := odd(t)
	s := open(t, t.TempDir())
	img := build(t, s, tree)
	dir := filepath.Join(t.TempDir(), "tree")
	if err := s.Unpack(t.Context(), img.ID, dir); err != nil {
		t.Fatalf("Unpack: %v", err)
	}
	if diff := cmp.Diff(listing(t, tree), listing(t, dir)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	// The strictest comparison there is.
	again, err := s.Build(t.Context(), dir, rootfs.BuildOptions{Source: "again", Started: time.Now()})
	if diff := cmp.Diff(img, again); diff != "" || err != nil {
		t.Errorf("built again (-want +got):\n%s%v", diff, err)
	}
}

func TestUnpackLeavesDevicesOut(t *testing.T) {
	tree := plant(t, map[string]file{"a": {0o644, "a"}})
	if err := unix.Mknod(filepath.Join(tree, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "tree")
	if err := s.Unpack(t.Context(), build(t, s, tree).ID, dir); err != nil {
		t.Fatalf("Unpack: %v", err)
	}
	got, err := filepath.Glob(filepath.Join(dir, "*"))
	if diff := cmp.Diff([]string{filepath.Join(dir, "a")}, got); diff != "" || err != nil {
		t.Errorf("tree (-want +got):\n%s%v", diff, err)
	}
}

func TestUnpackFails(t *testing.T) {
	images := t.TempDir()
	s := open(t, images)
	id := build(t, s, plant(t, map[string]file{"a/b": {0o644, "b"}, "c": {0o644, "c"}})).ID
	spoilt := build(t, s, plant(t, map[string]file{"x": {0o644, strings.Repeat("x", 9000)}})).ID
	b, err := os.ReadFile(s.Path(spoilt))
	if err == nil {
		b[len(b)-1] ^= 1 // beyond the last file: only its hash can tell
		err = os.WriteFile(s.Path(spoilt), b, 0o444)
	}
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		id   string
		kind soulbox.Kind
		is   error
	}{
		{"canceled", canceled, id, soulbox.Internal, context.Canceled},
		{"unknown", t.Context(), strings.Repeat("0", 64), soulbox.NotFound, nil},
		{"strange", t.Context(), "../../etc", soulbox.Invalid, nil},
		{"damaged", t.Context(), spoilt, soulbox.Unavailable, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			err := s.Unpack(tt.ctx, tt.id, dir)
			if err == nil || soulbox.KindOf(err) != tt.kind || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("Unpack: %v, want kind %v, %v", err, tt.kind, tt.is)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the tree is there: %v", err)
			}
		})
	}
	t.Run("exists", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(dir, to); err != nil {
			t.Fatal(err)
		}
		for _, target := range []string{dir, to} {
			if err := s.Unpack(t.Context(), id, target); !errors.Is(err, fs.ErrExist) {
				t.Errorf("Unpack into what exists: %v, want %v", err, fs.ErrExist)
			}
		}
		if got, err := os.ReadDir(dir); len(got) != 1 || err != nil {
			t.Errorf("the folder holds %v, %v; want what was there", got, err)
		}
	})
}

// What an image says about its agent is what is in it, and a manifest of a
// soulbox that did not say so is mended without touching the image.
func TestAgentOfImage(t *testing.T) {
	images := t.TempDir()
	s := open(t, images)
	if img := build(t, s, plant(t, nil)); img.Agent != "" {
		t.Errorf("an image without an agent has agent %q", img.Agent)
	}
	tree := plant(t, nil)
	prepare(t, tree) // puts "agent" in
	sum := sha256.Sum256([]byte("agent"))
	want := build(t, s, tree)
	if want.Agent != hex.EncodeToString(sum[:]) {
		t.Errorf("agent is %q, want the SHA-256 of what Prepare was given", want.Agent)
	}
	if got, err := s.Get(want.ID); got != want || err != nil {
		t.Errorf("Get: %+v, %v; want %+v", got, err, want)
	}

	path := filepath.Join(images, want.ID+".json")
	old, err := json.Marshal(map[string]any{"sha256": want.ID, "size": want.Size, "source": want.Source, "created": want.Created})
	if err == nil {
		err = os.WriteFile(path, old, 0o444)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(want.ID); got.Agent != "" || err != nil {
		t.Fatalf("Get with an old manifest: %+v, %v", got, err)
	}
	held, err := s.Hold(want.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if got := build(t, s, tree); got != want {
		t.Errorf("built again: %+v, want %+v", got, want)
	}
	if got, err := s.Get(want.ID); got != want || err != nil {
		t.Errorf("Get: %+v, %v; want %+v", got, err, want)
	}
	if err := s.Remove(t.Context(), want.ID); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Remove while held: %v, want Conflict", err)
	}
}

func TestRetain(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var ids []string
	for _, content := range []string{"wanted", "held", "unwanted", "damaged"} {
		ids = append(ids, build(t, s, plant(t, map[string]file{"a": {0o644, content}})).ID)
	}
	if err := os.Truncate(s.Path(ids[3]), 10); err != nil {
		t.Fatal(err)
	}
	building := filepath.Join(dir, ".building-1") // somebody works on it
	f, err := os.Create(building)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	held, err := s.Hold(ids[1])
	if err != nil {
		t.Fatal(err)
	}
	retain := func(want ...string) {
		t.Helper()
		if err := s.Retain(t.Context(), []string{ids[0], "no image at all"}); err != nil {
			t.Errorf("Retain: %v", err)
		}
		files := []string{building}
		for _, id := range want {
			files = append(files, filepath.Join(dir, id+".erofs"), filepath.Join(dir, id+".json"))
		}
		slices.Sort(files)
		got, err := filepath.Glob(filepath.Join(dir, "*"))
		if diff := cmp.Diff(files, got); diff != "" || err != nil {
			t.Errorf("left (-want +got):\n%s%v", diff, err)
		}
	}
	retain(ids[0], ids[1])
	held.Close()
	retain(ids[0])
	if err := s.Verify(t.Context(), ids[0]); err != nil {
		t.Errorf("Verify: %v", err)
	}
}
