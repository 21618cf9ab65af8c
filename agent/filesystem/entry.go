package filesystem

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/internal/connectjson"
)

// timeLayout is a protobuf Timestamp in JSON.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// errNotDir tells that a parent directory is a file.
var errNotDir = errors.New("path is a file")

// entry describes what is at path. A symbolic link has the type and mode of
// what it leads to, and nothing of it if that does not exist.
func (s *Service) entry(path string, names *account.Names) (*entryInfo, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	e := &entryInfo{
		Name:         fi.Name(),
		Path:         path,
		Size:         connectjson.Int64(fi.Size()),
		Permissions:  fi.Mode().String(),
		ModifiedTime: fi.ModTime().UTC().Format(timeLayout),
	}
	st, _ := fi.Sys().(*syscall.Stat_t)
	if st != nil {
		e.Owner, e.Group = names.User(st.Uid), names.Group(st.Gid)
	}
	mode := fi.Mode()
	if mode&fs.ModeSymlink != 0 {
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			target = path
		}
		e.SymlinkTarget = &target
		if fi, err = os.Stat(path); err != nil {
			// As E2B: a link that leads nowhere has no type.
			return e, nil //nolint:nilerr // a dangling link is an entry, not an error
		}
		mode = fi.Mode()
	}
	e.Mode = uint32(mode.Perm())
	switch {
	case mode.IsRegular():
		e.Type = typeFile
	case mode.IsDir():
		e.Type = typeDirectory
	case mode&fs.ModeSymlink != 0:
		e.Type = typeSymlink
	default:
		return e, nil // sockets and devices hold no metadata
	}
	e.Metadata = s.readMetadata(path, st)
	return e, nil
}

// makeDirs makes path and its missing parents, owned by u.
func makeDirs(path string, u *account.User) error {
	fi, err := os.Stat(path) //nolint:gosec // opening the paths that clients name is what this is for
	switch {
	case err == nil && fi.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: errNotDir}
	case errors.Is(err, syscall.ENOTDIR):
		return &fs.PathError{Op: "mkdir", Path: path, Err: errNotDir}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := makeDirs(filepath.Dir(path), u); err != nil {
		return err
	}
	const mode = 0o755
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // opening the paths that clients name is what this is for
		return err
	}
	// Also if somebody else has just made it, who may not have come to this.
	return os.Chown(path, int(u.UID), int(u.GID)) //nolint:gosec // opening the paths that clients name is what this is for
}
