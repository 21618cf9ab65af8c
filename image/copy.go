package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/soulbox/soulbox"
)

// A copier copies one directory tree into another. Both sides are roots that
// cannot be left, even when somebody swaps folders for links meanwhile.
type copier struct {
	src, dst *os.Root
	dev      uint64            // file system of the source; others are not entered
	links    map[uint64]string // inode → where its first name was copied to
	u        *unpacker
}

// copyTree copies a directory of this machine, as far as it lies on one file
// system: mount points become empty folders, so that a running system can be
// imported from its root.
func copyTree(ctx context.Context, source string, u *unpacker) (Image, error) {
	source, err := filepath.Abs(source)
	if err != nil {
		return Image{}, err
	}
	if err := apart(source, u.dir); err != nil {
		return Image{}, err
	}
	src, err := os.OpenRoot(source)
	if err != nil {
		return Image{}, err
	}
	defer src.Close()
	dst, err := os.OpenRoot(u.dir)
	if err != nil {
		return Image{}, err
	}
	defer dst.Close()
	c := &copier{src: src, dst: dst, links: map[uint64]string{}, u: u}
	fi, err := src.Stat(".")
	if err != nil {
		return Image{}, err
	}
	c.dev = stat(fi).Dev
	if err := c.content(ctx, "."); err != nil {
		return Image{}, err
	}
	u.progress(Progress{Step: "directory", Done: u.bytes})
	img := u.count(Image{})
	img.Reference = source
	return img, nil
}

// apart refuses to copy a folder into itself, which would never end.
func apart(source, dir string) error {
	a, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	b, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(a, b); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return soulbox.Errorf(soulbox.Invalid, "%s contains the place that it would be imported to", source)
	}
	return nil
}

// content copies what is in folder name.
func (c *copier) content(ctx context.Context, name string) error {
	d, err := c.src.Open(name)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	slices.Sort(names) // so that the first of two hard links is always the same
	for _, n := range names {
		if err := c.entry(ctx, path.Join(name, n)); err != nil {
			return fmt.Errorf("copy %q: %w", path.Join(name, n), err)
		}
	}
	return nil
}

func (c *copier) entry(ctx context.Context, name string) error {
	fi, err := c.src.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone since the folder was read
	}
	if err != nil {
		return err
	}
	switch fi.Mode().Type() {
	case 0, fs.ModeDir, fs.ModeSymlink:
	default: // devices, pipes and sockets
		c.u.skipped++
		return nil
	}
	st := stat(fi)
	if err := c.u.admit(name, 0); err != nil {
		return err
	}
	switch {
	case fi.IsDir():
		if err := c.dst.Mkdir(name, 0o700); err != nil {
			return err
		}
		if st.Dev == c.dev {
			if err := c.content(ctx, name); err != nil {
				return err
			}
		}
	case fi.Mode()&fs.ModeSymlink != 0:
		to, err := c.src.Readlink(name)
		if err != nil {
			return err
		}
		if err := c.dst.Symlink(to, name); err != nil {
			return err
		}
		return c.dst.Lchown(name, int(st.Uid), int(st.Gid))
	default:
		if first, ok := c.links[st.Ino]; ok && st.Nlink > 1 && st.Dev == c.dev {
			return c.dst.Link(first, name)
		}
		if err := c.file(ctx, name); err != nil {
			return err
		}
		if st.Nlink > 1 && st.Dev == c.dev {
			c.links[st.Ino] = name
		}
	}
	// A change of owner clears setuid bits, so the mode follows it; times
	// come last, because all else changes them.
	if err := c.dst.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := c.dst.Chmod(name, fi.Mode()); err != nil {
		return err
	}
	return c.dst.Chtimes(name, fi.ModTime(), fi.ModTime())
}

// file copies the content of a regular file.
func (c *copier) file(ctx context.Context, name string) error {
	const chunk = 32 << 20 // between two looks at ctx
	in, err := c.src.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return soulbox.Errorf(soulbox.Conflict, "%q changed while it was copied", name)
	}
	out, err := c.dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	for {
		n, err := io.CopyN(out, in, chunk) // the kernel copies, or shares blocks
		if c.u.bytes += n; c.u.bytes > c.u.limits.Bytes {
			return soulbox.Errorf(soulbox.TooLarge, "the directory has more than %d bytes of files", c.u.limits.Bytes)
		}
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		c.u.progress(Progress{Step: "directory", Done: c.u.bytes})
	}
}

func stat(fi fs.FileInfo) *syscall.Stat_t {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok { // not on Linux
		return &syscall.Stat_t{}
	}
	return st
}
