package blobdir_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/soulbox/soulbox/internal/blobdir"
)

func TestStore(t *testing.T) {
	dir := t.TempDir()
	store := blobdir.Store(dir)
	const text = "content"
	d := digest.FromString(text)
	if _, err := store.Info(t.Context(), d); !errdefs.IsNotFound(err) {
		t.Errorf("Info before there is a file: %v, want NotFound", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, blobdir.Folder), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, blobdir.Folder, d.Encoded()), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := store.Info(t.Context(), d); err != nil || info.Size != int64(len(text)) || info.Digest != d {
		t.Errorf("Info = %+v, %v", info, err)
	}
	r, err := store.ReaderAt(t.Context(), ocispecs.Descriptor{Digest: d})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size())); err != nil || string(got) != text {
		t.Errorf("read %q, %v", got, err)
	}
	// A digest is no path.
	for _, bad := range []digest.Digest{"", "sha256:../../../etc/passwd", "sha256:" + digest.Digest(filepath.Join("..", d.Encoded()))} {
		if _, err := store.Info(t.Context(), bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Info of %q: %v, want InvalidArgument", bad, err)
		}
		if _, err := store.ReaderAt(t.Context(), ocispecs.Descriptor{Digest: bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("ReaderAt of %q: %v, want InvalidArgument", bad, err)
		}
	}
}
