// Package snapshot keeps sandboxes that were written down: what a paused one
// comes back from, a checkpoint, what forks and named snapshots are made of.
// They are all the same thing, made and read in one way.
//
// # Folders
//
//	<dir>/<id>/manifest.json   what the others are, with their hashes
//	<dir>/<id>/image.erofs     the root image below it: a link, not a copy
//	<dir>/<id>/…               the driver's files
//	<dir>/.writing-<id>        one that is being written
//	<dir>/.removed-<id>        one that is being removed
//
// A snapshot is written beside its place, synced, and renamed, so one that can
// be seen is whole, also after a power cut. The link keeps the root image for
// as long as the snapshot needs it, whatever becomes of the template.
//
// # Damage
//
// Every byte is covered by a hash: the manifest's is in its last line, and it
// has those of the driver's files and of the image. [Held.Check] reads the
// driver's files before a sandbox is made of them, each once in an hour unless
// it changes; the image, which is big and
// shared with the template, is read by [Store.Verify] only. What was written by
// another version of the runtime is told apart from what is damaged: it may be
// of use to that version.
//
// # Removal
//
// [Store.Remove] hides a snapshot at once and deletes it when the last
// [Held] of it is closed, so a sandbox that is being made of it gets all of
// it. Who holds what is known to this process only; what a crash leaves is
// removed by the next [Open].
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

const (
	writingPrefix = ".writing-"
	removedPrefix = ".removed-"
	imageFile     = "image.erofs"
	manifestFile  = "manifest.json"
)

// A Store is a folder of snapshots. It is safe for concurrent use, by one
// process.
type Store struct {
	log     *slog.Logger
	dir     string
	formats []string
	proofs  proofs

	mu    sync.Mutex
	held  map[soulbox.SnapshotID]int           // +checklocks:mu
	sizes map[soulbox.SnapshotID]soulbox.Bytes // on disk; +checklocks:mu
}

// Open returns the store in dir, which it creates, and removes what a crash
// left half-written or half-removed. formats are those of the
// drivers.
func Open(log *slog.Logger, dir string, formats ...string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), writingPrefix) || strings.HasPrefix(e.Name(), removedPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("open snapshots: %w", err)
			}
		}
	}
	s := &Store{
		log: log, dir: dir, formats: formats, held: map[soulbox.SnapshotID]int{},
		proofs: proofs{has: map[identity]proof{}, now: time.Now},
	}
	if s.sizes, err = s.List(context.Background()); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return s, nil
}

func (s *Store) path(id soulbox.SnapshotID) string { return filepath.Join(s.dir, string(id)) }

func (s *Store) hidden(id soulbox.SnapshotID) string {
	return filepath.Join(s.dir, removedPrefix+string(id))
}

// A Draft says what is to be written.
type Draft struct {
	ID     soulbox.SnapshotID
	Format string // of what save writes; empty: the first that the store was opened with
	Memory bool
	Image  string        // SHA-256 of the root image, in hex
	Path   string        // of the root image, on the same file system
	Most   soulbox.Bytes // more than this is not kept: its writer is not to be trusted
	Bound  soulbox.Bytes // it is not kept if all snapshots together would take more; 0: none
}

// Write keeps what save writes into an empty folder as snapshot d.ID, whole or
// not at all, and returns its size on disk. Reach is called before each step
// that a crash could come between. An id that exists is a Conflict; a full
// disk is Unavailable, what exceeds d.Most Invalid, what exceeds d.Bound
// Exhausted.
func (s *Store) Write(ctx context.Context, d Draft, save func(dir string) error, reach func(step string)) (_ soulbox.Bytes, err error) {
	if !d.ID.Valid() {
		return 0, soulbox.Errorf(soulbox.Invalid, "%.80q is not the id of a snapshot", d.ID)
	}
	for _, path := range []string{s.path(d.ID), s.hidden(d.ID)} {
		if _, err := os.Lstat(path); err == nil {
			return 0, exists(d.ID)
		}
	}
	if err := s.fits(d, 0); err != nil {
		return 0, err
	}
	work := filepath.Join(s.dir, writingPrefix+string(d.ID))
	if err := os.Mkdir(work, 0o700); errors.Is(err, fs.ErrExist) {
		return 0, soulbox.Errorf(soulbox.Conflict, "snapshot %s is being written", d.ID)
	} else if err != nil {
		return 0, s.failed(d.ID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(s.failed(d.ID, err), os.RemoveAll(work))
		}
	}()
	if err := save(work); err != nil {
		return 0, err
	}
	reach("snapshot/saved")
	if d.Format == "" {
		d.Format = s.formats[0]
	}
	m := manifest{Version: manifestVersion, ID: d.ID, Format: d.Format, Memory: d.Memory, Image: d.Image}
	if m.Files, err = describe(ctx, work, d.Most); err != nil {
		return 0, err
	}
	if err := os.Link(d.Path, filepath.Join(work, imageFile)); err != nil {
		return 0, err
	}
	if err := m.write(filepath.Join(work, manifestFile)); err != nil {
		return 0, err
	}
	if err := syncDir(work); err != nil {
		return 0, err
	}
	reach("snapshot/synced")
	if err := s.fits(d, m.bytes()); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			s.forget(d.ID)
		}
	}()
	if err := os.Rename(work, s.path(d.ID)); errors.Is(err, fs.ErrExist) {
		return 0, exists(d.ID) // another was quicker
	} else if err != nil {
		return 0, err
	}
	if err := syncDir(s.dir); err != nil {
		// It is there, but nobody can promise that it stays: hide it again.
		return 0, errors.Join(err, os.Rename(s.path(d.ID), work))
	}
	return m.bytes(), nil
}

// fits makes room for size bytes of a draft, or says that there is none.
func (s *Store) fits(d Draft, size soulbox.Bytes) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.sizes[d.ID]; ok {
		return exists(d.ID)
	}
	all := size
	for _, n := range s.sizes {
		all += n
	}
	if d.Bound > 0 && (all > d.Bound || size == 0 && all == d.Bound) {
		return soulbox.Errorf(soulbox.Exhausted, "the snapshots on this machine would take %d MiB, and may take %d; remove some that nobody needs",
			all/soulbox.MiB, d.Bound/soulbox.MiB)
	}
	if size > 0 {
		s.sizes[d.ID] = size
	}
	return nil
}

func (s *Store) forget(id soulbox.SnapshotID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sizes, id)
}

func exists(id soulbox.SnapshotID) error {
	return soulbox.Errorf(soulbox.Conflict, "snapshot %s exists on this machine", id)
}

// failed says what went wrong with writing a snapshot.
func (s *Store) failed(id soulbox.SnapshotID, err error) error {
	// The runtime tells in words only what it was told.
	if errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return soulbox.Hide(soulbox.Unavailable, err, "there is not enough free disk on this machine to write the sandbox down")
	}
	return fmt.Errorf("write snapshot %s: %w", id, err)
}

// syncDir makes a folder's own entries durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Remove deletes a snapshot. Reach is called before each step that a crash could
// come between. One that does not exist is fine, so that removal can be
// repeated.
func (s *Store) Remove(id soulbox.SnapshotID, reach func(step string)) error {
	if !id.Valid() {
		return soulbox.Errorf(soulbox.Invalid, "%.80q is not the id of a snapshot", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Rename(s.path(id), s.hidden(id)); err == nil {
		reach("snapshot/hidden")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	if s.held[id] > 0 {
		return nil // release does the rest
	}
	// An earlier call may have hidden it and failed here.
	if err := os.RemoveAll(s.hidden(id)); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	delete(s.sizes, id)
	return nil
}

// List returns the snapshots that are there, with their sizes on disk. One whose
// manifest cannot be read is logged and has the size 0: whether it is of any use
// is for whoever needs it to say, and nobody removes it unasked.
func (s *Store) List(ctx context.Context) (map[soulbox.SnapshotID]soulbox.Bytes, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	all := map[soulbox.SnapshotID]soulbox.Bytes{}
	for _, e := range entries {
		id := soulbox.SnapshotID(e.Name())
		if !id.Valid() {
			continue
		}
		m, err := readManifest(filepath.Join(s.path(id), manifestFile), id)
		if _, gone := os.Lstat(s.path(id)); errors.Is(gone, fs.ErrNotExist) {
			continue // removed in the meantime
		}
		if err != nil {
			s.log.WarnContext(ctx, "snapshot is damaged", "snapshot", id, "err", err)
			all[id] = 0
			continue
		}
		all[id] = m.bytes()
	}
	return all, nil
}

// Size returns what a snapshot takes on disk, as far as that is known: 0 of one
// that is damaged or is not there.
func (s *Store) Size(id soulbox.SnapshotID) soulbox.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sizes[id]
}

// Verify reads every byte of a snapshot, the root image included, and compares
// it with its hashes. It fails as [Store.Hold] and [Held.Check] do.
func (s *Store) Verify(ctx context.Context, id soulbox.SnapshotID) error {
	h, err := s.Hold(id)
	if err != nil {
		return err
	}
	defer h.Close()
	return errors.Join(h.check(ctx, nil), h.manifest.compare(ctx, h.image, imageFile, h.Image, -1))
}

// A Held is a snapshot that stays until it is closed.
type Held struct {
	Dir    string // leads to the files for as long as it is held, in this process
	Format string // of the driver that wrote it
	Memory bool
	Image  string // SHA-256 of the root image, in hex

	store    *Store
	manifest manifest
	folder   *os.File
	image    *os.File
}

// Hold opens a snapshot for reading. It is NotFound when it is not there, a
// Conflict when another version of the runtime wrote it, and Unavailable when
// its manifest is damaged. The caller closes it.
func (s *Store) Hold(id soulbox.SnapshotID) (_ *Held, err error) {
	if !id.Valid() {
		return nil, soulbox.Errorf(soulbox.Invalid, "%.80q is not the id of a snapshot", id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := readManifest(filepath.Join(s.path(id), manifestFile), id)
	if _, gone := os.Lstat(s.path(id)); errors.Is(gone, fs.ErrNotExist) {
		return nil, soulbox.Errorf(soulbox.NotFound, "snapshot %s does not exist on this machine", id)
	}
	if err != nil {
		return nil, soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("snapshot %s is damaged on this machine: its manifest cannot be read", id))
	}
	if !slices.Contains(s.formats, m.Format) {
		return nil, soulbox.Errorf(soulbox.Conflict, "snapshot %s was written by %s, and this server runs %s: only the version that wrote it can read it", id, m.Format, strings.Join(s.formats, " and "))
	}
	// A removal renames the folder, and its descriptor goes with it.
	folder, err := os.Open(s.path(id))
	if err != nil {
		return nil, fmt.Errorf("open snapshot %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			folder.Close()
		}
	}()
	// The lock tells the image store that the file is in use; it lasts as long
	// as somebody has the file open, the sandbox included. While the store is
	// removing its own name of the file, there is nothing to tell it.
	image, err := os.Open(filepath.Join(s.path(id), imageFile))
	if err == nil {
		if err = unix.Flock(int(image.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		if err != nil {
			image.Close()
		}
	}
	if err != nil {
		return nil, soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("snapshot %s is damaged on this machine: its root image cannot be opened", id))
	}
	s.held[id]++
	dir := fmt.Sprintf("/proc/self/fd/%d", folder.Fd())
	return &Held{Dir: dir, Format: m.Format, Memory: m.Memory, Image: m.Image, store: s, manifest: m, folder: folder, image: image}, nil
}

// TakeImage returns the root image, which the caller closes.
func (h *Held) TakeImage() *os.File {
	f := h.image
	h.image = nil
	return f
}

// Check reads every byte of the driver's files and compares it with the
// hashes, except of files that were found whole within the last hour and have
// not been touched since. It is Unavailable when something has changed.
func (h *Held) Check(ctx context.Context) error { return h.check(ctx, &h.store.proofs) }

func (h *Held) check(ctx context.Context, p *proofs) error {
	if err := h.manifest.check(ctx, h.Dir, p); err != nil {
		return fmt.Errorf("check snapshot %s: %w", h.manifest.ID, err)
	}
	return nil
}

// Close lets go of the snapshot. It repeats.
func (h *Held) Close() error {
	err := h.folder.Close()
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	if h.image != nil {
		err = errors.Join(err, h.image.Close())
	}
	return errors.Join(err, h.store.release(h.manifest.ID))
}

func (s *Store) release(id soulbox.SnapshotID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[id]--; s.held[id] > 0 {
		return nil
	}
	delete(s.held, id)
	// Removed while it was held, perhaps.
	if _, err := os.Lstat(s.path(id)); errors.Is(err, fs.ErrNotExist) {
		delete(s.sizes, id)
	}
	return os.RemoveAll(s.hidden(id))
}
