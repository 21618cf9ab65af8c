// Package dir keeps blobs in a folder: each in a file that is named by its
// digest. A blob is written beside its place, flushed, and moved there, so that
// there is all of it or nothing.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/blob"
)

// A Store keeps blobs in a folder. Safe for concurrent use.
type Store struct{ dir string }

const (
	half   = "half"   // where blobs are written
	sha256 = "sha256" // where they are, by the first two letters of their digests
)

// Open returns the store in the folder dir, which is made if it is not there.
// What an earlier process has left half written is removed.
func Open(dir string) (*Store, error) {
	err := os.RemoveAll(filepath.Join(dir, half))
	for _, sub := range []string{half, sha256} {
		if err == nil {
			err = os.MkdirAll(filepath.Join(dir, sub), 0o700)
		}
	}
	if err == nil {
		err = flush(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open blobs: %w", err)
	}
	return &Store{dir}, nil
}

func (s *Store) path(d soulbox.Digest) string {
	return filepath.Join(s.dir, sha256, d.Hex()[:2], d.Hex())
}

// Put implements [blob.Store].
func (s *Store) Put(ctx context.Context, d soulbox.Digest, size int64, r io.Reader) error {
	if err := s.put(ctx, d, size, r); err != nil {
		return fmt.Errorf("put blob %s: %w", d, full(err))
	}
	return nil
}

func (s *Store) put(ctx context.Context, d soulbox.Digest, size int64, r io.Reader) error {
	f, err := os.CreateTemp(filepath.Join(s.dir, half), d.Hex()+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // moved away on success
	_, err = io.Copy(f, blob.Check(&reader{ctx, r}, d, size))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	folder := filepath.Dir(s.path(d))
	switch err := os.Mkdir(folder, 0o700); {
	case err == nil:
		if err := flush(filepath.Dir(folder)); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	if err := os.Rename(f.Name(), s.path(d)); err != nil {
		return err
	}
	return flush(folder)
}

// Open implements [blob.Store].
func (s *Store) Open(_ context.Context, d soulbox.Digest, offset, length int64) (io.ReadCloser, error) {
	f, err := os.Open(s.path(d))
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, none(d, err))
	}
	if length < 0 {
		fi, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("open blob %s: %w", d, errors.Join(err, f.Close()))
		}
		length = max(0, fi.Size()-offset)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, length), f}, nil
}

// Stat implements [blob.Store].
func (s *Store) Stat(_ context.Context, d soulbox.Digest) (blob.Info, error) {
	fi, err := os.Stat(s.path(d))
	if err != nil {
		return blob.Info{}, fmt.Errorf("look at blob %s: %w", d, none(d, err))
	}
	return blob.Info{Digest: d, Size: fi.Size(), At: fi.ModTime()}, nil
}

// Delete implements [blob.Store].
func (s *Store) Delete(_ context.Context, d soulbox.Digest) error {
	if err := os.Remove(s.path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete blob %s: %w", d, err)
	}
	return nil
}

// List implements [blob.Store].
func (s *Store) List(ctx context.Context) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		folders, err := os.ReadDir(filepath.Join(s.dir, sha256))
		for _, folder := range folders {
			var files []fs.DirEntry
			if err = context.Cause(ctx); err == nil {
				files, err = os.ReadDir(filepath.Join(s.dir, sha256, folder.Name()))
			}
			if err != nil {
				break
			}
			for _, f := range files {
				d, bad := soulbox.ParseDigest("sha256:" + f.Name())
				if bad != nil {
					continue // not ours
				}
				info, err := s.Stat(ctx, d)
				if soulbox.KindOf(err) == soulbox.NotFound {
					continue // gone since
				}
				if !yield(info, err) || err != nil {
					return
				}
			}
		}
		if err != nil {
			yield(blob.Info{}, fmt.Errorf("list blobs: %w", err))
		}
	}
}

// reader ends with its context.
type reader struct {
	ctx context.Context //nolint:containedctx // lives no longer than the one call it is made for
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// flush makes the names in a folder survive a power cut.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func none(d soulbox.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return blob.None(d)
	}
	return err
}

func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return soulbox.Hide(soulbox.Unavailable, err, "the disk that keeps images that are pushed is full")
	}
	return err
}
