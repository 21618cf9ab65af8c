package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

// makeTar makes a tar of headers; the content of a file is its name.
func makeTar(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// tree lists what is below dir: names, modes, and where links lead.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		line := info.Mode().String() + " " + rel
		if link, err := os.Readlink(name); err == nil {
			line += " > " + link
		}
		list = append(list, line)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// An archive out of a sandbox cannot reach outside of its folder.
func TestUnpackHostile(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "in")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(parent, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	var notes []string
	archive := makeTar(t,
		tar.Header{Name: "../victim", Typeflag: tar.TypeReg},
		tar.Header{Name: victim, Typeflag: tar.TypeReg},
		tar.Header{Name: "a/../../victim", Typeflag: tar.TypeReg},
		tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."},
		tar.Header{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: victim},
		tar.Header{Name: "deep/up", Typeflag: tar.TypeSymlink, Linkname: "../../victim"},
		tar.Header{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "pipe", Typeflag: tar.TypeFifo},
		tar.Header{Name: "suid", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 12345},
		tar.Header{Name: "ok", Typeflag: tar.TypeSymlink, Linkname: "suid"},
		tar.Header{Name: "ok", Typeflag: tar.TypeReg}, // in place of the link, not through it
	)
	if err := unpack(archive, dir, func(s string) { notes = append(notes, s) }); err != nil {
		t.Fatal(err)
	}
	want := []string{"drwxr-xr-x deep", "-rw-r--r-- ok", "-rwxr-xr-x suid"}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("unpacked (-want +got):\n%s", diff)
	}
	if len(notes) != 8 {
		t.Errorf("%d notes, want 8: %q", len(notes), notes)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "untouched" {
		t.Errorf("the victim: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "suid")); err != nil || string(b) != "suid" {
		t.Errorf("a file that was replaced through a link: %q, %v", b, err)
	}
	if got := tree(t, parent); len(got) != 2+len(want) {
		t.Errorf("beside the folder: %q", got)
	}
}

// A hard link, or a file below a link, to what is outside is an error.
func TestUnpackThroughLinks(t *testing.T) {
	for name, archive := range map[string]*bytes.Buffer{
		"hard link":    makeTar(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../victim"}),
		"absolute one": makeTar(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}),
		"through a link that was there": makeTar(t,
			tar.Header{Name: "there/x", Typeflag: tar.TypeReg}),
		"cut off": bytes.NewBuffer(makeTar(t, tar.Header{Name: strings.Repeat("x", 90), Typeflag: tar.TypeReg}).Bytes()[:520]),
	} {
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(parent, "victim"), nil, 0o600), os.Symlink("..", filepath.Join(dir, "there"))); err != nil {
			t.Fatal(err)
		}
		if err := unpack(archive, dir, func(string) {}); err == nil {
			t.Errorf("unpack of %s: no error; there is %q", name, tree(t, parent))
		}
		if _, err := os.Stat(filepath.Join(parent, "x")); err == nil {
			t.Errorf("unpack of %s wrote outside", name)
		}
	}
}

func TestPackRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(from, "sub", "empty"), 0o750))
	must(os.WriteFile(filepath.Join(from, "sub", "file"), []byte("content"), 0o600))
	must(os.WriteFile(filepath.Join(from, "tool"), nil, 0o755))
	must(os.Link(filepath.Join(from, "tool"), filepath.Join(from, "tool2")))
	must(os.Symlink("sub/file", filepath.Join(from, "link")))
	must(os.Chmod(filepath.Join(from, "sub"), 0o700))
	must(packed(from, packOptions{}, func(r io.Reader) error {
		return unpack(r, to, func(s string) { t.Error(s) })
	}))
	if diff := cmp.Diff(tree(t, from), tree(t, to)); diff != "" {
		t.Errorf("after packing and unpacking (-want +got):\n%s", diff)
	}
	if b, err := os.ReadFile(filepath.Join(to, "sub", "file")); err != nil || string(b) != "content" {
		t.Errorf("content: %q, %v", b, err)
	}
}

// Owners and special modes are kept for a root file system only.
func TestPackOwners(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "su")
	if err := errors.Join(os.WriteFile(name, nil, 0o755), os.Chown(name, 12, 34), os.Chmod(name, 0o755|fs.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	for owners, want := range map[bool][3]int64{true: {12, 34, 0o4755}, false: {0, 0, 0o755}} {
		var b bytes.Buffer
		if err := pack(&b, dir, packOptions{owners: owners}); err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(&b)
		for h, err := r.Next(); ; h, err = r.Next() {
			if err != nil {
				t.Fatalf("owners %v: no su: %v", owners, err)
			}
			if h.Name == "su" {
				if got := [3]int64{int64(h.Uid), int64(h.Gid), h.Mode}; got != want || h.Uname != "" {
					t.Errorf("owners %v: %d, want %d", owners, got, want)
				}
				break
			}
		}
	}
}

// Somebody who stops reading gets his own error, and the packer ends.
func TestPackedStops(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := soulbox.Errorf(soulbox.Exhausted, "enough")
	if err := packed(dir, packOptions{}, func(io.Reader) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("packed: %v, want the reader's error", err)
	}
	err := packed(filepath.Join(dir, "nosuch"), packOptions{}, func(r io.Reader) error {
		_, err := io.ReadAll(r)
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) || soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("packed of no folder: %v, want that it does not exist", err)
	}
}

func FuzzUnpack(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Size: 1})
	_, _ = w.Write([]byte("x"))
	_ = w.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a"})
	_ = w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = unpack(bytes.NewReader(data), dir, func(string) {})
		list, err := os.ReadDir(parent)
		if err != nil || len(list) != 1 {
			t.Errorf("beside the folder: %v, %v", list, err)
		}
		if got := tree(t, dir); slices.ContainsFunc(got, func(s string) bool { return strings.ContainsAny(s[:1], "Dcpb") || strings.Contains(s, "> /") }) {
			t.Errorf("unpacked %q", got)
		}
	})
}
