package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/erofs"

	"github.com/soulbox/soulbox"
)

// Unpack makes the tree that image id was built of at dir, which must not
// exist: owners, modes, times, hard links, symbolic links, pipes and sockets
// are as they were, so that building the tree again gives the same image.
// Device nodes are left out, as they are when an image is brought in. When it
// fails, dir is gone.
//
// The image is read whole first and compared with its name, so that damage
// never gets a new name. It is not fsck.erofs that extracts: as of version 1.5
// it changes the owner after the mode, which takes setuid bits away, and makes
// hard links separate files.
func (s *Store) Unpack(ctx context.Context, id, dir string) error {
	err := s.whole(ctx, id, func(img *erofs.Image, f *os.File) error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := unpack(ctx, img, f, dir); err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("unpack image %s: %w", id, err)
	}
	return nil
}

// whole has image id read while it is held, once all of it was compared with its
// name.
func (s *Store) whole(ctx context.Context, id string, read func(img *erofs.Image, f *os.File) error) error {
	f, err := s.Hold(id)
	if err != nil {
		return err
	}
	defer f.Close() // a second time, where the library has closed it
	if err := verify(ctx, f, id); err != nil {
		return err
	}
	img, err := erofs.OpenImage(f)
	if err != nil {
		return err
	}
	defer img.Close()
	return read(img, f)
}

// An unpacker writes one image into a tree that nobody else can see. It makes
// every name itself, and only where nothing is, so no name that it goes through
// can be a link.
type unpacker struct {
	img   *erofs.Image
	file  *os.File          // of img
	root  int               // of the tree
	links map[uint64]string // where the files with several names are, by their number
}

func unpack(ctx context.Context, img *erofs.Image, file *os.File, dir string) error {
	root, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	top, err := img.Inode(img.RootNid())
	if err != nil {
		return err
	}
	u := &unpacker{img: img, file: file, root: root, links: map[uint64]string{}}
	if err := u.children(ctx, &top, root, ""); err != nil {
		return err
	}
	return attributes(root, ".", &top)
}

// children makes what directory at holds in fd.
func (u *unpacker) children(ctx context.Context, at *erofs.Inode, fd int, where string) error {
	return at.IterDirents(func(name string, _ uint8, nid uint64) error {
		if name == "." || name == ".." {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		full := path.Join(where, name)
		// No directory that an image is built of has such names. The bound
		// also ends the walk of a directory that holds itself.
		if strings.ContainsAny(name, "/\x00") || len(full) >= unix.PathMax {
			return soulbox.Errorf(soulbox.Unavailable, "the image is damaged: it has a file %.200q", full)
		}
		if err := u.entry(ctx, nid, fd, name, full); err != nil {
			return fmt.Errorf("%.200q: %w", full, err)
		}
		return nil
	})
}

// entry makes name in directory fd.
func (u *unpacker) entry(ctx context.Context, nid uint64, fd int, name, full string) error {
	ino, err := u.img.Inode(nid)
	if err != nil {
		return err
	}
	if first, ok := u.links[nid]; ok {
		return unix.Linkat(u.root, first, fd, name, 0)
	}
	switch kind := uint32(ino.Mode()) & unix.S_IFMT; kind {
	case unix.S_IFDIR:
		err = u.dir(ctx, &ino, fd, name, full)
	case unix.S_IFREG:
		err = u.regular(&ino, fd, name)
	case unix.S_IFLNK:
		var target string
		if target, err = ino.Readlink(); err == nil {
			err = unix.Symlinkat(target, fd, name)
		}
	case unix.S_IFIFO, unix.S_IFSOCK:
		err = unix.Mknodat(fd, name, kind|0o600, 0)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if ino.Nlink() > 1 && !ino.IsDir() {
		u.links[nid] = full
	}
	return attributes(fd, name, &ino)
}

func (u *unpacker) dir(ctx context.Context, ino *erofs.Inode, fd int, name, full string) error {
	if err := unix.Mkdirat(fd, name, 0o700); err != nil {
		return err
	}
	sub, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	return u.children(ctx, ino, sub, full)
}

func (u *unpacker) regular(ino *erofs.Inode, fd int, name string) error {
	ranges, err := ino.DataRanges()
	if err != nil {
		return err
	}
	sub, err := unix.Openat(fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(sub), name)
	defer out.Close()
	for _, r := range ranges {
		if r.Size == 0 {
			continue
		}
		// From file to file, which the kernel does without us.
		if _, err := u.file.Seek(int64(r.Off), io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, u.file, int64(r.Size)); err != nil {
			return err
		}
	}
	return out.Close()
}

// attributes gives name in directory fd the owner, the mode and the time of
// ino. The mode follows the owner, because chown clears setuid bits.
func attributes(fd int, name string, ino *erofs.Inode) error {
	if err := unix.Fchownat(fd, name, int(ino.UID()), int(ino.GID()), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if !ino.IsSymlink() { // a link has no mode
		if err := unix.Fchmodat(fd, name, uint32(ino.Mode())&^unix.S_IFMT, 0); err != nil {
			return err
		}
	}
	at := unix.Timespec{Sec: int64(ino.Mtime()), Nsec: int64(ino.MtimeNsec())}
	return unix.UtimesNanoAt(fd, name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}
