// Package rootfs keeps the read-only root file systems that sandboxes start on.
//
// # Images
//
// A root file system begins as a directory tree: an unpacked container image,
// or a fresh Debian. [Prepare] puts into it what every sandbox needs (the
// agent, the user, name resolution, login profiles that start no program) and
// [Store.Build] turns it into one immutable EROFS file. All sandboxes of a
// template read that one file through the page cache; what they write goes to
// an overlay of their own.
//
// A file is named by the SHA-256 of its content, and a manifest lies beside it:
//
//	<data>/<sha256>.erofs   mode 0444
//	<data>/<sha256>.json
//
// The manifest is written first and the image is renamed into place last, so
// an image that can be seen is whole. The same tree gives the same file, byte
// for byte: the UUID is fixed and times that the building machine left behind
// are clamped.
//
// # Who uses an image
//
// [Store.Hold] opens an image under a shared lock that belongs to the open
// file. The file is handed on to the sandbox, so the lock lives exactly as long
// as somebody has the image open, across restarts of the server and without a
// counter that could be wrong. [Store.Remove] refuses an image that is locked.
// Paused sandboxes and templates hold no file: their owner must ask before
// removing, and name them to [Store.Retain].
//
// # Upgrades
//
// The agent is part of the image, and the manifest says which one. When a newer
// soulbox brings a newer agent, [Store.Unpack] makes the tree again, Prepare
// puts the new agent in, and Build makes another image of it.
//
// # Trees are hostile
//
// An image may hold /etc as a link to / or /etc/passwd as a link to the
// machine's own. Every edit resolves paths in the kernel with the tree as root
// (openat2, RESOLVE_IN_ROOT), the way the sandbox itself will see them, and
// replaces names instead of writing through them. Nothing outside the tree is
// read or changed. Nobody else may change the tree meanwhile.
package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

const (
	imageSuffix    = ".erofs"
	manifestSuffix = ".json"
	tempPrefix     = ".building-"

	maxManifest = 64 << 10 // a manifest is a few hundred bytes; anything else is damage
)

// An Image is one root file system of a [Store].
type Image struct {
	ID      string    `json:"sha256"`  // of the file, in hex; also its name
	Size    int64     `json:"size"`    // of the file, in bytes
	Agent   string    `json:"agent"`   // SHA-256 of the agent in it, in hex; empty when it has none, or nobody looked
	Source  string    `json:"source"`  // where the tree came from, for people
	Created time.Time `json:"created"` // when it was built here
}

// A Store is a folder of images. It is safe for concurrent use, also by several
// processes.
type Store struct {
	log *slog.Logger
	dir string
}

// Open returns the store in dir, which it creates, and removes what builds that
// were cut off left behind.
func Open(log *slog.Logger, dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s := &Store{log: log, dir: dir}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	return s, nil
}

// Path returns the file of image id. It does not say whether it exists.
func (s *Store) Path(id string) string { return filepath.Join(s.dir, id+imageSuffix) }

func (s *Store) manifest(id string) string { return filepath.Join(s.dir, id+manifestSuffix) }

// Get returns image id after a cheap check: the manifest is readable and the
// file has the size that it states. [Store.Verify] reads every byte.
func (s *Store) Get(id string) (Image, error) {
	if err := checkID(id); err != nil {
		return Image{}, err
	}
	fi, err := os.Lstat(s.Path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, soulbox.Errorf(soulbox.NotFound, "image %s does not exist on this machine", id)
	}
	if err != nil {
		return Image{}, fmt.Errorf("look up image %s: %w", id, err)
	}
	f, err := os.Open(s.manifest(id))
	if err != nil {
		return Image{}, fmt.Errorf("read manifest of image %s: %w", id, err)
	}
	defer f.Close()
	var img Image
	if err := json.NewDecoder(io.LimitReader(f, maxManifest)).Decode(&img); err != nil {
		return Image{}, fmt.Errorf("read manifest of image %s: %w", id, err)
	}
	if img.ID != id || !fi.Mode().IsRegular() || fi.Size() != img.Size {
		return Image{}, soulbox.Errorf(soulbox.Unavailable, "image %s is damaged on this machine: its file does not fit its manifest", id)
	}
	return img, nil
}

// Hold opens image id for reading and marks it as in use until the file, and
// every duplicate of it in any process, is closed. The caller closes it.
func (s *Store) Hold(id string) (*os.File, error) {
	if _, err := s.Get(id); err != nil {
		return nil, err
	}
	f, err := os.Open(s.Path(id))
	if err != nil {
		return nil, fmt.Errorf("hold image %s: %w", id, err)
	}
	var st unix.Stat_t
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if errors.Is(err, unix.EWOULDBLOCK) || (err == nil && st.Nlink == 0) {
		f.Close()
		return nil, soulbox.Errorf(soulbox.NotFound, "image %s has just been removed", id)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("hold image %s: %w", id, err)
	}
	return f, nil
}

// List returns the images that [Store.Get] would return, oldest first. Damaged
// ones are logged and left out.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var imgs []Image
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), imageSuffix)
		if !ok || checkID(id) != nil {
			continue
		}
		img, err := s.Get(id)
		if err != nil {
			s.log.WarnContext(ctx, "image is damaged", "image", id, "err", err)
			continue
		}
		imgs = append(imgs, img)
	}
	slices.SortStableFunc(imgs, func(a, b Image) int { return a.Created.Compare(b.Created) })
	return imgs, nil
}

// Remove deletes image id. An image that somebody holds is refused as
// Conflict; one that does not exist is fine, so removal can be retried.
func (s *Store) Remove(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	f, err := os.Open(s.Path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return soulbox.Errorf(soulbox.Conflict, "image %s is in use by a sandbox", id)
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	// The image goes first: one without a manifest would count as damaged,
	// a manifest without an image counts as nothing.
	if err := os.Remove(s.Path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	if err := os.Remove(s.manifest(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	s.log.InfoContext(ctx, "image removed", "image", id)
	return nil
}

// Retain removes the images that are not among ids, damaged ones too. Those that
// somebody holds stay; a later call removes them. No build may be under way
// whose image the caller means to keep.
func (s *Store) Retain(ctx context.Context, ids []string) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), imageSuffix)
		if !ok || checkID(id) != nil || slices.Contains(ids, id) {
			continue
		}
		if err := s.Remove(ctx, id); soulbox.KindOf(err) != soulbox.Conflict {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Verify reads image id and compares it with its name. It takes about a second
// for each gigabyte.
func (s *Store) Verify(ctx context.Context, id string) error {
	f, err := s.Hold(id)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := verify(ctx, f, id); err != nil {
		return fmt.Errorf("verify image %s: %w", id, err)
	}
	return nil
}

func verify(ctx context.Context, f *os.File, id string) error {
	sum, _, err := hash(ctx, f)
	if err == nil && sum != id {
		err = soulbox.Errorf(soulbox.Unavailable, "image %s is damaged on this machine: its content has changed", id)
	}
	return err
}

// sweep removes files of builds that no process works on any more: a running
// build holds a lock on its file.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		path := filepath.Join(s.dir, e.Name())
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = os.Remove(path)
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// checkID keeps strange strings away from the file system.
func checkID(id string) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != sha256.Size || strings.ToLower(id) != id {
		return soulbox.Errorf(soulbox.Invalid, "image %.80q: an image is named by its SHA-256, 64 of 0-9 and a-f", id)
	}
	return nil
}

// hash returns the SHA-256 and the length of what r has left.
func hash(ctx context.Context, r io.Reader) (string, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, contextReader{ctx, r})
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// A contextReader stops reading when its context ends.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives no longer than the one call it is made for
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
