package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// maxConfig bounds what is read of a file in a tree: /etc/passwd and its like
// are a few kilobytes.
const maxConfig = 1 << 20

// A tree is a directory whose content is not trusted. Paths in it are resolved
// as if it were the root of the machine: links, absolute ones too, stay inside.
type tree struct {
	fd int // O_PATH
}

// An owner is who a new file belongs to.
type owner struct{ uid, gid int }

func openTree(dir string) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &tree{fd: fd}, nil
}

func (t *tree) close() { _ = unix.Close(t.fd) } // an O_PATH descriptor has nothing to lose

// open opens name inside the tree, following links as the sandbox would.
func (t *tree) open(name string, flags int) (int, error) {
	how := &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC),
		// A tree has no business with other file systems mounted in it,
		// nor with the links of a proc file system.
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	// EAGAIN means that something was renamed on this machine just now.
	for range 100 {
		fd, err := unix.Openat2(t.fd, rel(name), how)
		if err == nil {
			return fd, nil
		}
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENAMETOOLONG):
			return -1, soulbox.Errorf(soulbox.Invalid, "the image's /%s cannot be opened: %w", rel(name), err)
		default:
			return -1, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
	return -1, &os.PathError{Op: "open", Path: name, Err: unix.EAGAIN}
}

// stat describes name, after following links.
func (t *tree) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := t.open(name, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	return st, unix.Fstat(fd, &st)
}

// isProgram reports whether name is a file that somebody may execute.
func (t *tree) isProgram(name string) bool {
	st, err := t.stat(name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0
}

// file opens the regular file name for reading.
func (t *tree) file(name string) (*os.File, error) {
	st, err := t.stat(name)
	if err != nil {
		return nil, err
	}
	// Checked before opening, for a pipe would keep us waiting.
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, soulbox.Errorf(soulbox.Invalid, "the image's /%s is not a regular file", rel(name))
	}
	fd, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// read returns the content of the regular file name.
func (t *tree) read(name string) ([]byte, error) {
	f, err := t.file(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, soulbox.Errorf(soulbox.Invalid, "the image's /%s is larger than %d bytes", rel(name), maxConfig)
	}
	return b, nil
}

// dir opens directory name, creating what is missing of it, owned by root.
func (t *tree) dir(name string) (int, error) {
	done := "."
	fd, err := t.open(done, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	for part := range strings.SplitSeq(rel(name), "/") {
		done = path.Join(done, part)
		next, err := t.open(done, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, unix.ENOENT) {
			// Fails for a link that leads nowhere, which is left alone.
			if err = unix.Mkdirat(fd, part, 0o755); err == nil {
				next, err = t.open(done, unix.O_PATH|unix.O_DIRECTORY)
			}
		}
		_ = unix.Close(fd)
		if errors.Is(err, unix.EEXIST) {
			return -1, soulbox.Errorf(soulbox.Invalid, "the image's /%s is a link that leads nowhere", done)
		}
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// mkdir makes sure that name is a directory with this mode and owner. A link
// to a directory will do; its target gets them.
func (t *tree) mkdir(name string, mode uint32, who owner) error {
	fd, err := t.dir(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Neither fchmod nor fchown takes an O_PATH descriptor.
	if err := unix.Fchownat(fd, "", who.uid, who.gid, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "chown", Path: name, Err: err}
	}
	if err := unix.Fchmodat(fd, ".", mode, 0); err != nil {
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return nil
}

// replace makes name, whatever it was, a regular file with this content.
// Links are not followed at the last step: the name itself is replaced.
func (t *tree) replace(name string, content io.Reader, mode uint32, who owner) error {
	base := path.Base(rel(name))
	fd, err := t.dir(path.Dir(rel(name)))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := removeAll(fd, base); err != nil {
		return err
	}
	out, err := unix.Openat(fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(out), name)
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Chown(who.uid, who.gid); err != nil {
		return err
	}
	// fchmod, unlike open, obeys no umask; and it comes last, because chown
	// clears setuid bits.
	if err := unix.Fchmod(out, mode); err != nil {
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return f.Close()
}

// empty makes top, a name directly below the root, an empty directory.
func (t *tree) empty(top string, mode uint32) error {
	fd, err := t.dir(".")
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := removeAll(fd, top); err != nil {
		return err
	}
	return t.mkdir(top, mode, owner{})
}

// keepDir makes top, a name directly below the root, a directory of its own:
// a link or a file in its place is removed.
func (t *tree) keepDir(top string, mode uint32) error {
	var st unix.Stat_t
	err := unix.Fstatat(t.fd, top, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return t.mkdir(top, mode, owner{})
	}
	return t.empty(top, mode)
}

// removeAll removes name, which has no slash, from directory fd with all that
// is in it. It follows no link.
func removeAll(fd int, name string) error {
	err := unix.Unlinkat(fd, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	// os.Root removes a directory without leaving it; it can only be opened
	// by a path, and this one names our descriptor.
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// rel turns a path of the image into one that starts at its root.
func rel(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}
