// Package blobdir lets BuildKit read an OCI image that lies in a folder, as the
// image layout of the specification has it.
package blobdir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Folder is where the files lie in the folder of an image, by their digests.
const Folder = "blobs/sha256"

// Store returns a store of which BuildKit can only read files by digest, which
// is all that it does. The folder need not be there yet.
func Store(dir string) content.Store { return blobs{dir: dir} }

type blobs struct {
	content.Store // nil

	dir string
}

func (b blobs) path(d digest.Digest) string { return filepath.Join(b.dir, Folder, d.Encoded()) }

// Info tells how large a file is.
func (b blobs) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	if err := d.Validate(); err != nil {
		return content.Info{}, fmt.Errorf("%s: %w", d, errdefs.ErrInvalidArgument)
	}
	fi, err := os.Stat(b.path(d))
	if errors.Is(err, os.ErrNotExist) {
		return content.Info{}, fmt.Errorf("%s: %w", d, errdefs.ErrNotFound)
	}
	if err != nil {
		return content.Info{}, err
	}
	return content.Info{Digest: d, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}, nil
}

// ReaderAt opens a file.
func (b blobs) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	info, err := b.Info(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(b.path(desc.Digest))
	if err != nil {
		return nil, err
	}
	return blob{f, info.Size}, nil
}

type blob struct {
	*os.File

	size int64
}

// Size returns how many bytes there are to read.
func (b blob) Size() int64 { return b.size }
