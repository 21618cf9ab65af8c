package upload_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/upload"
)

// Links may lead anywhere, and nothing comes of it: not of what an archive puts
// through them, nor of what it names by them.
func TestUnpackFollowsNoLinkOut(t *testing.T) {
	link := func(to string) tar.Header { return tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: to} }
	for what, second := range map[string]tar.Header{
		"a file":                  {Name: "l/new", Mode: 0o644},
		"a file that is there":    {Name: "l/secret", Mode: 0o644},
		"a folder":                {Name: "l/new/", Typeflag: tar.TypeDir, Mode: 0o755},
		"the link as a folder":    {Name: "l/", Typeflag: tar.TypeDir, Mode: 0o777},
		"a link":                  {Name: "l/new", Typeflag: tar.TypeSymlink, Linkname: "secret"},
		"a hard link":             {Name: "l/new", Typeflag: tar.TypeLink, Linkname: "l"},
		"a hard link to the file": {Name: "new", Typeflag: tar.TypeLink, Linkname: "l/secret"},
	} {
		for _, relative := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, relative %v", what, relative), func(t *testing.T) {
				dir := t.TempDir()
				outside := filepath.Join(dir, "outside")
				if err := errors.Join(os.Mkdir(outside, 0o700), os.WriteFile(filepath.Join(outside, "secret"), []byte("kept"), 0o600)); err != nil {
					t.Fatal(err)
				}
				to := outside
				if relative {
					to = "../outside"
				}
				_, err := upload.Unpack(bytes.NewReader(archive(t, link(to), second)), filepath.Join(dir, "files"), upload.Size{Bytes: 1 << 16, Entries: 100})
				if soulbox.KindOf(err) != soulbox.Invalid {
					t.Errorf("Unpack: %v, want that it is refused", err)
				}
				all, err := os.ReadDir(outside)
				if err != nil || len(all) != 1 {
					t.Errorf("outside there are %v, %v", all, err)
				}
				if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "kept" {
					t.Errorf("the file outside is %q, %v", b, err)
				}
				if fi, err := os.Stat(outside); err != nil || fi.Mode().Perm() != 0o700 {
					t.Errorf("the folder outside is %v, %v", fi, err)
				}
				if fi, err := os.Lstat(filepath.Join(dir, "files", "new")); err == nil {
					t.Errorf("there is a hard link: %v", fi)
				}
			})
		}
	}
}

// archive returns a tar of empty files, folders and links.
func archive(t testing.TB, heads ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range heads {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Whatever an archive says, nothing is made out of its folder, and no more is
// taken in than there may be.
func FuzzUnpack(f *testing.F) {
	add := func(heads ...tar.Header) { f.Add(archive(f, heads...)) }
	add(tar.Header{Name: "a/b", Mode: 0o6777}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a"}, tar.Header{Name: "l/c", Mode: 0o644})
	add(tar.Header{Name: "../x"})
	add(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a/../.."}, tar.Header{Name: "l/x"})
	add(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "l/x"}, tar.Header{Name: "l/y", Typeflag: tar.TypeDir})
	add(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, tar.Header{Name: "m", Typeflag: tar.TypeLink, Linkname: "l"})
	add(tar.Header{Name: "a"}, tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a"})
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		most := upload.Size{Bytes: 1 << 16, Entries: 100}
		got, err := upload.Unpack(bytes.NewReader(archive), filepath.Join(dir, "files"), most)
		if err != nil && soulbox.KindOf(err) == soulbox.Internal {
			t.Errorf("unpack: %v", err)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) > 1 {
			t.Errorf("beside the files: %v, %v", all, err)
		}
		if got.Bytes > most.Bytes || got.Entries > most.Entries+1 {
			t.Errorf("%d bytes, %d entries", got.Bytes, got.Entries)
		}
		err = filepath.WalkDir(filepath.Join(dir, "files"), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			if m := fi.Mode(); !m.IsRegular() && !m.IsDir() && m.Type() != fs.ModeSymlink || m&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
				t.Errorf("%s has mode %v", path, m)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
