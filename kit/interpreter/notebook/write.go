package notebook

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// key is a short name for what belongs to a notebook whose own name may be as
// long as names can be.
func key(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:8])
}

// write puts a new file in the place of the one that was there; nil when there
// was none. The error is errChanged when something else is there by now.
//
// The file is made beside the notebook under a name that the next one has again,
// so a process that dies here leaves one at most, until then.
func (p *place) write(text []byte, was fs.FileInfo) (time.Time, error) {
	draft := ".soulbox-" + key(p.name) + ".tmp"
	modified, err := p.draft(draft, text, true)
	if err == nil {
		err = p.publish(draft, was)
	}
	if err != nil {
		_ = p.root.Remove(draft) // the first error says why
		if errors.Is(err, errChanged) {
			return time.Time{}, err
		}
		return time.Time{}, cannot(err, p.path)
	}
	return modified, nil
}

// draft writes a file that is the user's, and on the disk when it should be
// durable.
func (p *place) draft(name string, text []byte, durable bool) (time.Time, error) {
	if err := p.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, err
	}
	f, err := p.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	if err := p.store.give(f); err != nil {
		return time.Time{}, err
	}
	if _, err := f.Write(text); err != nil {
		return time.Time{}, err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return time.Time{}, err
		}
	}
	fi, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return fi.ModTime(), f.Close()
}

// give makes a file belong to whoever has the topmost folder.
func (s *Store) give(f *os.File) error {
	if err := f.Chmod(fileMode); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	uid, gid, err := owner(root)
	if err != nil || uid == os.Geteuid() {
		return err
	}
	return f.Chown(uid, gid)
}

// publish gives the draft the notebook's name, unless somebody else has saved
// since it was read.
func (p *place) publish(draft string, was fs.FileInfo) error {
	if was == nil {
		err := renameNew(p.root, draft, p.root, p.name)
		if errors.Is(err, fs.ErrExist) {
			return errChanged
		}
		return err
	}
	now, err := p.root.Lstat(p.name)
	if err != nil || !os.SameFile(was, now) || !was.ModTime().Equal(now.ModTime()) || was.Size() != now.Size() {
		return errChanged // who reads again sees what it is
	}
	if err := p.root.Rename(draft, p.name); err != nil {
		return err
	}
	return syncFolder(p.root)
}

func syncFolder(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// renameNew renames a file unless the new name is taken.
func renameNew(from *os.Root, old string, to *os.Root, name string) error {
	source, err := from.Open(".")
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := to.Open(".")
	if err != nil {
		return err
	}
	defer target.Close()
	err = unix.Renameat2(int(source.Fd()), old, int(target.Fd()), name, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: old, New: name, Err: err}
	}
	return errors.Join(source.Sync(), target.Sync())
}
