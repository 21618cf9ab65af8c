package rootfs

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/erofs"
)

// FuzzArchive archives images that are damaged behind their head. Their name
// would tell; who made one that fits is not believed either.
func FuzzArchive(f *testing.F) {
	dir := f.TempDir()
	for name, text := range map[string]string{"a": "a", "big": string(bytes.Repeat([]byte("0123456789"), 2000))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "d/e"), 0o700); err != nil {
		f.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "d/twin")); err != nil {
		f.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		f.Fatal(err)
	}
	good := filepath.Join(f.TempDir(), "image")
	if err := mkfs(f.Context(), good, dir, time.Unix(0, 0)); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		f.Fatal(err)
	}
	const head = erofs.SuperBlockOffset + 128
	f.Add(uint32(0), []byte{})
	for at := uint32(0); at < 1024; at += 32 {
		f.Add(at, []byte{0xff, 0, 1, 0x80})
	}
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		b := bytes.Clone(whole)
		for i, c := range change {
			b[head+(int(at)+i)%(len(b)-head)] ^= c
		}
		file := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		open, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		img, err := erofs.OpenImage(open)
		if err != nil {
			return
		}
		defer img.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err = archive(ctx, img, open, io.Discard)
		if ctx.Err() != nil {
			t.Fatalf("it does not end: %v", err)
		}
		if bytes.Equal(b, whole) && err != nil {
			t.Errorf("a whole image: %v", err)
		}
	})
}
