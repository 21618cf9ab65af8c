package notebook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fileMode   = 0o644
	folderMode = 0o755
	// attempts is how often a change is made to a file that somebody else keeps
	// saving.
	attempts = 10
)

// errChanged says that somebody else saved meanwhile.
var errChanged = errors.New("the file changed")

// Store has the notebooks below a folder. It is safe for concurrent use.
type Store struct {
	dir  string
	turn chan struct{} // whoever has put something in may write
	seen cache
}

// NewStore returns the notebooks below dir.
func NewStore(dir string) *Store {
	return &Store{dir: dir, turn: make(chan struct{}, 1), seen: cache{all: map[string]*seen{}}}
}

// File is a notebook as it was read or written.
type File struct {
	Path     string
	Revision string
	Modified time.Time
	Document *Document
}

// revisionOf returns that of a file with these bytes.
func revisionOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// place is where a notebook is. All that is done to it is done below an open
// folder, which may be moved away meanwhile, but not changed for another.
type place struct {
	store *Store
	root  *os.Root // the folder that the notebook is in
	name  string   // in there
	path  string
}

// at opens the folder that a notebook is in. The caller closes it.
func (s *Store) at(name string, create bool) (*place, error) {
	name, err := Clean(name)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	dir := path.Dir(name)
	if dir == "." {
		return &place{s, root, path.Base(name), name}, nil
	}
	defer root.Close()
	if create {
		if err := mkdirs(root, dir); err != nil {
			return nil, cannot(err, name)
		}
	}
	sub, err := root.OpenRoot(dir)
	if err != nil {
		return nil, cannot(err, name)
	}
	return &place{s, sub, path.Base(name), name}, nil
}

func (p *place) close() { p.root.Close() }

// mkdirs makes the folders of a path that are not there. They belong to whoever
// has the topmost one.
func mkdirs(root *os.Root, dir string) error {
	if parent := path.Dir(dir); parent != "." {
		if err := mkdirs(root, parent); err != nil {
			return err
		}
	}
	switch fi, err := root.Stat(dir); {
	case err == nil && !fi.IsDir():
		return syscall.ENOTDIR
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := root.Mkdir(dir, folderMode); err != nil {
		return err
	}
	uid, gid, err := owner(root)
	if err != nil || uid == os.Geteuid() {
		return err
	}
	return root.Lchown(dir, uid, gid)
}

// owner returns whom a folder belongs to.
func owner(root *os.Root) (uid, gid int, err error) {
	fi, err := root.Stat(".")
	if err != nil {
		return 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, errors.New("a folder has no owner")
	}
	return int(st.Uid), int(st.Gid), nil
}

// cannot says why a path is of no use, when that is the reason.
func cannot(err error, name string) error {
	shown := echo(mustJSON(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errorf(http.StatusNotFound, "There is no notebook %s", shown)
	case errors.Is(err, syscall.ENOTDIR):
		return errorf(http.StatusNotFound, "There is no notebook %s: a part of its path is no folder", shown)
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL):
		return invalid("The path %s is of no use", shown)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrExist), errors.Is(err, syscall.ELOOP), escapes(err):
		return invalid("The notebook %s cannot be reached: its path leads out of the home folder, or into one that is closed", shown)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return errorf(http.StatusInternalServerError, "The notebook %s was not written: the disk is full", shown)
	}
	return err
}

// escapes reports whether os.Root refused a path. It has no error to compare with.
func escapes(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p) && p.Err.Error() == "path escapes from parent"
}

// read returns the file's bytes.
func (p *place) read() ([]byte, fs.FileInfo, error) {
	before, err := p.root.Lstat(p.name)
	if err != nil {
		return nil, nil, cannot(err, p.path)
	}
	if !before.Mode().IsRegular() {
		return nil, nil, invalid("%s is no file", echo(mustJSON(p.path)))
	}
	// It may be a pipe by now.
	f, err := p.root.OpenFile(p.name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, cannot(err, p.path)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	switch {
	case !fi.Mode().IsRegular() || !os.SameFile(before, fi):
		return nil, nil, errChanged
	case fi.Size() > MaxSize:
		return nil, nil, errorf(http.StatusRequestEntityTooLarge, "The notebook %s is larger than %d MiB", echo(mustJSON(p.path)), MaxSize>>20)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	return text, fi, err
}

func (p *place) parse(text []byte, modified time.Time) (*File, error) {
	d, err := Parse(text)
	if err != nil {
		var told *Error
		if errors.As(err, &told) && told.Status == http.StatusBadRequest {
			err = errorf(http.StatusConflict, "The file %s is not a notebook that can be used: %s", echo(mustJSON(p.path)), told.Message)
		}
		return nil, err
	}
	return &File{Path: p.path, Revision: revisionOf(text), Modified: modified, Document: d}, nil
}

// Read returns a notebook.
func (s *Store) Read(name string) (*File, error) {
	p, err := s.at(name, false)
	if err != nil {
		return nil, err
	}
	defer p.close()
	for range attempts {
		text, fi, err := p.read()
		if err == nil {
			return p.parse(text, fi.ModTime())
		}
		if !errors.Is(err, errChanged) {
			return nil, err
		}
	}
	return nil, p.busy()
}

func (p *place) busy() error {
	return errorf(http.StatusConflict, "The notebook %s is being saved by somebody else again and again", echo(mustJSON(p.path)))
}

// Create writes a notebook that is not there, and the folders of its path.
func (s *Store) Create(ctx context.Context, name string, d *Document) (*File, error) {
	text, err := written(d)
	if err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	p, err := s.at(name, true)
	if err != nil {
		return nil, err
	}
	defer p.close()
	modified, err := p.write(text, nil)
	if errors.Is(err, errChanged) {
		return nil, p.exists()
	}
	if err != nil {
		return nil, err
	}
	return &File{Path: p.path, Revision: revisionOf(text), Modified: modified, Document: d}, nil
}

func (p *place) exists() error {
	return errorf(http.StatusConflict, "There is a file %s already", echo(mustJSON(p.path)))
}

// Change has edit change a notebook and writes it. With a revision, it must be
// that; without, it is the newest, and edit may be called again, with what
// somebody else saved meanwhile. What edit returns is returned.
func (s *Store) Change(ctx context.Context, name, revision string, edit func(*Document) error) (*File, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	p, err := s.at(name, false)
	if err != nil {
		return nil, err
	}
	defer p.close()
	for range attempts {
		f, err := p.change(revision, edit)
		if !errors.Is(err, errChanged) {
			return f, err
		}
	}
	return nil, p.busy()
}

func (p *place) change(revision string, edit func(*Document) error) (*File, error) {
	text, was, err := p.read()
	if err != nil {
		return nil, err
	}
	if err := p.check(text, revision); err != nil {
		return nil, err
	}
	f, err := p.parse(text, was.ModTime())
	if err != nil {
		return nil, err
	}
	if err := edit(f.Document); err != nil {
		return nil, err
	}
	if text, err = written(f.Document); err != nil {
		return nil, err
	}
	f.Revision = revisionOf(text)
	f.Modified, err = p.write(text, was)
	return f, err
}

func (p *place) check(text []byte, revision string) error {
	now := revisionOf(text)
	if revision == "" || revision == now {
		return nil
	}
	err := errorf(http.StatusConflict, "The notebook %s was changed: its revision is %s", echo(mustJSON(p.path)), now)
	err.Revision = now
	return err
}

func written(d *Document) ([]byte, error) {
	text, err := d.Print()
	if err != nil {
		return nil, err
	}
	if len(text) > MaxSize {
		return nil, errorf(http.StatusRequestEntityTooLarge, "The notebook would be larger than %d MiB", MaxSize>>20)
	}
	return text, nil
}

// Replace writes another document in the place of a notebook, which need not be
// one that can be read.
func (s *Store) Replace(ctx context.Context, name, revision string, d *Document) (*File, error) {
	text, err := written(d)
	if err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	p, err := s.at(name, false)
	if err != nil {
		return nil, err
	}
	defer p.close()
	for range attempts {
		var old []byte
		var was fs.FileInfo
		if old, was, err = p.read(); err == nil {
			if err = p.check(old, revision); err == nil {
				var modified time.Time
				if modified, err = p.write(text, was); err == nil {
					return &File{Path: p.path, Revision: revisionOf(text), Modified: modified, Document: d}, nil
				}
			}
		}
		if !errors.Is(err, errChanged) {
			return nil, err
		}
	}
	return nil, p.busy()
}

// Remove removes a notebook and what is known of its runs.
func (s *Store) Remove(ctx context.Context, name, revision string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	p, err := s.at(name, false)
	if err != nil {
		return err
	}
	defer p.close()
	if revision != "" {
		text, _, err := p.read()
		if err != nil {
			return err
		}
		if err := p.check(text, revision); err != nil {
			return err
		}
	} else if fi, err := p.root.Lstat(p.name); err == nil && fi.IsDir() {
		return invalid("%s is no file", echo(mustJSON(p.path)))
	}
	if err := p.root.Remove(p.name); err != nil {
		return cannot(err, p.path)
	}
	_ = p.root.Remove(p.history()) // there may be none
	return nil
}

// Rename gives a notebook another path, which nothing has, and makes the folders
// of that.
func (s *Store) Rename(ctx context.Context, name, to string) (*File, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	p, err := s.at(name, false)
	if err != nil {
		return nil, err
	}
	defer p.close()
	text, fi, err := p.read()
	if err != nil {
		return nil, err
	}
	q, err := s.at(to, true)
	if err != nil {
		return nil, err
	}
	defer q.close()
	f, err := q.parse(text, fi.ModTime())
	if err != nil {
		return nil, err
	}
	if err := renameNew(p.root, p.name, q.root, q.name); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, q.exists()
		}
		return nil, cannot(err, q.path)
	}
	_ = q.moveHistory(p) // there may be none
	return f, nil
}

// enter waits until nobody else writes here.
func (s *Store) enter(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Store) leave() { <-s.turn }
