package upload_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/upload"
)

// Whatever an archive says, nothing is made out of its folder, nothing in it
// leads out, and no more is taken in than there may be.
func FuzzUnpack(f *testing.F) {
	add := func(heads ...tar.Header) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range heads {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	add(tar.Header{Name: "a/b", Mode: 0o6777}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a"}, tar.Header{Name: "l/c", Mode: 0o644})
	add(tar.Header{Name: "../x"})
	add(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a/../.."}, tar.Header{Name: "l/x"})
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
