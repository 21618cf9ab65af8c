package rootfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
	"github.com/soulbox/soulbox/node/rootfs"
)

// archived writes an image as a tar into a file.
func archived(t *testing.T, s *rootfs.Store, id string) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.Archive(t.Context(), id, &b); err != nil {
		t.Fatalf("Archive: %v", err)
	}
	file := filepath.Join(t.TempDir(), "tree.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// imported is what becomes of a tar when it is brought in.
func imported(t *testing.T, file string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if _, err := image.Import(t.Context(), file, dir, image.Options{}); err != nil {
		t.Fatalf("Import: %v", err)
	}
	// The root itself is not brought in: it is there before.
	at := headers(t, file)["./"].ModTime
	if err := os.Chtimes(dir, at, at); err != nil {
		t.Fatal(err)
	}
	return dir
}

// headers are those of a tar, by name.
func headers(t *testing.T, file string) map[string]*tar.Header {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]*tar.Header{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name] != nil {
			t.Errorf("%q is there twice", h.Name)
		}
		all[h.Name] = h
	}
}

func TestArchive(t *testing.T) {
	tree := odd(t)
	big := filepath.Join(tree, "home/holes")
	if err := errors.Join(os.WriteFile(big, []byte("begins"), 0o600), os.Truncate(big, 40<<20)); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	img := build(t, s, tree)
	file := archived(t, s, img.ID)
	if again := archived(t, s, img.ID); read(t, "/", again) != read(t, "/", file) {
		t.Error("the same image gives another archive")
	}
	if err := os.Remove(filepath.Join(tree, "tmp/socket")); err != nil { // an archive holds none
		t.Fatal(err)
	}
	// That was a change of the folder, whose time the image has still.
	if err := os.Chtimes(filepath.Join(tree, "tmp"), time.Time{}, headers(t, file)["tmp/"].ModTime); err != nil {
		t.Fatal(err)
	}
	dir := imported(t, file)
	if diff := cmp.Diff(listing(t, tree), listing(t, dir)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	want, err := s.Build(t.Context(), tree, rootfs.BuildOptions{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Build(t.Context(), dir, rootfs.BuildOptions{Source: "test"})
	if err != nil || want.ID != again.ID {
		t.Errorf("built again it is %s, want %s; %v", again.ID, want.ID, err)
	}
}

// What Prepare puts in is not in the archive, unless it could be somebody
// else's; and putting it in again gives the same image.
func TestArchiveOfPrepared(t *testing.T) {
	plain := map[string]file{
		"usr/bin/sudo": {fs.ModeSetuid | 0o755, "sudo"}, "etc/sudoers.d/mine": {0o440, "mine"}, "bin/bash": {0o755, "bash"},
		"etc/.wh.file": {0o644, "no whiteout here"}, "etc/passwd": {0o644, "root:x:0:0:root:/root:/bin/bash\n"}, "etc/group": {0o644, "root:x:0:\n"},
		"run/keep": {0o644, ""}, "etc/old": {0o644, "old"},
	}
	tree := plant(t, plain)
	if err := unix.Mknod(filepath.Join(tree, "etc/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	prepare(t, tree)
	s := open(t, t.TempDir())
	img, err := s.Build(t.Context(), tree, rootfs.BuildOptions{Source: "test", Started: started})
	if err != nil {
		t.Fatal(err)
	}
	file := archived(t, s, img.ID)
	all := headers(t, file)
	for _, name := range []string{".soulbox/", ".soulbox/agent", "run/e2b/", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/sudoers.d/soulbox", "etc/.wh.file", "etc/null"} {
		if all[name] != nil {
			t.Errorf("%s is in the archive", name)
		}
	}
	for _, name := range []string{"./", "etc/sudoers.d/mine", "etc/old", "run/keep", "usr/bin/sudo", "proc/", "dev/", "tmp/", "home/user/", "home/user/.profile", "etc/passwd"} {
		if all[name] == nil {
			t.Errorf("%s is not in the archive", name)
		}
	}
	dir := imported(t, file)
	prepare(t, dir)
	// What no archive holds goes from the first tree, too.
	if err := errors.Join(os.Remove(filepath.Join(tree, "etc/null")), os.Remove(filepath.Join(tree, "etc/.wh.file"))); err != nil {
		t.Fatal(err)
	}
	want, err := s.Build(t.Context(), tree, rootfs.BuildOptions{Source: "test", Started: started})
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Build(t.Context(), dir, rootfs.BuildOptions{Source: "test", Started: started})
	if err != nil || again.ID != want.ID {
		t.Errorf("prepared again it is %+v, want %+v; %v\n%s", again, want, err, cmp.Diff(listing(t, tree), listing(t, dir)))
	}
}

// Files that only look like ours are somebody's.
func TestArchiveKeepsWhatIsNotOurs(t *testing.T) {
	s := open(t, t.TempDir())
	all := headers(t, archived(t, s, build(t, s, plant(t, map[string]file{
		"etc/hosts": {0o644, "10.0.0.1 db\n"}, "etc/hostname": link("hosts"), "etc/resolv.conf": {0o644, "nameserver 10.0.0.2\n"},
		"etc/sudoers.d/soulbox": {fs.ModeDir | 0o755, ""}, "run/e2b/socket": {0o600, ""}, "soulbox": {0o644, ""}, "usr/.soulbox/agent": {0o644, ""},
	})).ID))
	for _, name := range []string{"etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/sudoers.d/soulbox/", "run/e2b/socket", "soulbox", "usr/.soulbox/agent"} {
		if all[name] == nil {
			t.Errorf("%s is not in the archive", name)
		}
	}
}

// Whatever a tree is like, it comes back as it was.
func TestArchiveAndBack(t *testing.T) {
	s := open(t, t.TempDir())
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "tree-") //nolint:usetesting // one for each round
		if err != nil {
			rt.Fatal(err)
		}
		grow(rt, dir)
		img, err := s.Build(t.Context(), dir, rootfs.BuildOptions{Source: "test"})
		if err != nil {
			rt.Fatal(err)
		}
		want := listing(t, dir)
		if diff := cmp.Diff(want, listing(t, imported(t, archived(t, s, img.ID)))); diff != "" {
			rt.Fatalf("tree (-want +got):\n%s", diff)
		}
	})
}

// grow makes a tree.
func grow(rt *rapid.T, dir string) {
	must := func(err error) {
		if err != nil {
			rt.Fatal(err)
		}
	}
	base := rapid.StringMatching(`[a-zA-Z0-9._ é-]{1,12}|[a-z]{90,120}`)
	folders, files, all := []string{"."}, []string{}, []string{}
	for range rapid.IntRange(0, 12).Draw(rt, "entries") {
		where := rapid.SampledFrom(folders).Draw(rt, "folder")
		name := path.Join(where, base.Draw(rt, "name"))
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil || strings.HasPrefix(path.Base(name), ".wh.") {
			continue
		}
		full := filepath.Join(dir, name)
		kind := rapid.SampledFrom([]string{"file", "folder", "link", "hard", "pipe"}).Draw(rt, "kind")
		switch {
		case kind == "folder":
			must(os.Mkdir(full, 0o700))
			folders = append(folders, name)
		case kind == "link":
			must(os.Symlink(rapid.StringMatching(`(\.\./|/)?[a-z/é]{1,150}`).Draw(rt, "target"), full))
		case kind == "hard" && len(files) > 0:
			must(os.Link(filepath.Join(dir, rapid.SampledFrom(files).Draw(rt, "to")), full))
		case kind == "pipe":
			must(unix.Mkfifo(full, 0o600))
		default:
			must(os.WriteFile(full, bytes.Repeat([]byte(rapid.StringN(0, 20, 40).Draw(rt, "text")), rapid.SampledFrom([]int{0, 1, 7, 800}).Draw(rt, "times")), 0o600))
			files = append(files, name)
		}
		all = append(all, name)
	}
	for _, name := range slices.Backward(append([]string{"."}, all...)) {
		full := filepath.Join(dir, name)
		if name != "." { // whose mode and owner are always the same
			id := rapid.SampledFrom([]int{0, 1000, 65534, 1<<21 + 1})
			must(os.Lchown(full, id.Draw(rt, "uid"), id.Draw(rt, "gid")))
		}
		if fi, err := os.Lstat(full); err == nil && fi.Mode()&fs.ModeSymlink == 0 && name != "." {
			must(unix.Fchmodat(unix.AT_FDCWD, full, rapid.SampledFrom([]uint32{0o644, 0, 0o4755, 0o2711, 0o1777, 0o640}).Draw(rt, "mode"), 0))
		}
		at := unix.NsecToTimespec(rapid.Int64Range(0, 1<<60).Draw(rt, "time")) // until 2006: no image is newer than its making
		must(unix.UtimesNanoAt(unix.AT_FDCWD, full, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
	}
	must(os.Chmod(dir, 0o755))
}

// A breaker fails after so many bytes, and does something before.
type breaker struct {
	left int
	once func()
}

var errBroken = errors.New("the reader has gone")

func (b *breaker) Write(p []byte) (int, error) {
	if b.once != nil {
		b.once()
		b.once = nil
	}
	if b.left -= len(p); b.left < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func TestArchiveFails(t *testing.T) {
	s := open(t, t.TempDir())
	id := build(t, s, plant(t, map[string]file{"a/b": {0o644, strings.Repeat("b", 1<<20)}, "c": {0o644, "c"}})).ID
	spoilt := build(t, s, plant(t, map[string]file{"x": {0o644, strings.Repeat("x", 9000)}})).ID
	b, err := os.ReadFile(s.Path(spoilt))
	if err == nil {
		b[len(b)-1] ^= 1
		err = os.WriteFile(s.Path(spoilt), b, 0o444)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	for name, tt := range map[string]struct {
		ctx  context.Context
		id   string
		w    *breaker
		kind soulbox.Kind
		is   error
	}{
		"canceled on the way": {ctx, id, &breaker{1 << 30, func() { cancel(errBroken) }}, soulbox.Internal, errBroken},
		"nobody reads on":     {t.Context(), id, &breaker{1000, nil}, soulbox.Internal, errBroken},
		"unknown":             {t.Context(), strings.Repeat("0", 64), &breaker{}, soulbox.NotFound, nil},
		"strange":             {t.Context(), "../../etc", &breaker{}, soulbox.Invalid, nil},
		"damaged":             {t.Context(), spoilt, &breaker{}, soulbox.Unavailable, nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Archive(tt.ctx, tt.id, tt.w)
			if err == nil || soulbox.KindOf(err) != tt.kind || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("Archive: %v, want kind %v, %v", err, tt.kind, tt.is)
			}
		})
	}
	// Nobody takes it away meanwhile, and afterwards everybody may.
	var during error
	err = s.Archive(t.Context(), id, &breaker{1 << 30, func() { during = s.Remove(t.Context(), id) }})
	if err != nil || soulbox.KindOf(during) != soulbox.Conflict {
		t.Errorf("Archive: %v; Remove meanwhile: %v, want Conflict", err, during)
	}
	if err := s.Remove(t.Context(), id); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if mounts := read(t, "/proc/self", "mounts"); strings.Contains(mounts, filepath.Dir(s.Path(id))) {
		t.Errorf("something is mounted:\n%s", mounts)
	}
}
