// Package upload takes archives of files for builds in.
//
// Nothing about an archive is trusted: files are made below a folder by
// [os.Root], through no link out of it, and what is neither file nor folder nor
// link is refused. Owners are ours, and no file is one that makes who runs it
// somebody else.
//
// A link may say that it leads anywhere, for E2B's clients send what they find,
// such as links to /usr/bin/python3 or to paths of their own machine. It is the
// link that a build copies, and it leads somewhere in the sandbox. So whoever
// reads a folder made here follows no link in it, or by [os.Root].
package upload

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// Size is how much there is in an archive, or may be.
type Size struct {
	Bytes   int64 // of files
	Entries int   // files, folders and links
}

// An unpacking takes one archive in and keeps count.
type unpacking struct {
	most, size Size
}

const (
	blockSize = 512
	perEntry  = 4 << 10 // of an archive that is not the content of files: heads, and what fills blocks up
	maxPath   = 4096
)

// Unpack makes the folder dir, which does not exist, of a tar, plain or
// compressed with gzip, that may have that size at most, and returns which it
// has. What is wrong with the archive is Invalid or TooLarge; then dir is to be
// removed.
func Unpack(archive io.Reader, dir string, most Size) (Size, error) {
	u := unpacking{most: most}
	err := u.unpack(archive, dir)
	return u.size, err
}

func (u *unpacking) unpack(archive io.Reader, dir string) error {
	in := bufio.NewReaderSize(archive, 64<<10)
	// Whatever the archive says, it has no more than this. Compressed, it has
	// less; what it holds then is bounded the same.
	bounded := &bound{r: in, left: u.most.Bytes + int64(u.most.Entries)*perEntry}
	if head, err := in.Peek(2); err == nil && head[0] == 0x1f && head[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return damaged(err)
		}
		bounded.r = z
	}
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // its mode is that of the folder that is copied
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	end := &tail{r: bounded}
	t := tar.NewReader(end)
	var folders []*tar.Header // whose times change while files are made in them
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(err)
		}
		if err := u.entry(root, h, t); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			folders = append(folders, h)
		}
	}
	// Go's reader takes an archive for complete that ends between two files.
	if _, err := io.Copy(io.Discard, end); err != nil {
		return damaged(err)
	}
	if !end.zero() {
		return soulbox.Errorf(soulbox.Invalid, "the archive is cut off: it has no end")
	}
	for _, h := range folders {
		if err := root.Chtimes(clean(h.Name), h.ModTime, h.ModTime); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// clean returns the name of an entry from the root of the archive.
func clean(name string) string { return path.Clean("./" + strings.TrimPrefix(name, "/")) }

// escapes reports whether a cleaned name climbs out of where it starts.
func escapes(name string) bool { return name == ".." || strings.HasPrefix(name, "../") }

// entry makes one entry of the archive.
func (u *unpacking) entry(root *os.Root, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := clean(h.Name)
	switch u.size.Entries++; {
	case u.size.Entries > u.most.Entries:
		return soulbox.Errorf(soulbox.TooLarge, "the archive has more than %d files", u.most.Entries)
	case h.Size < 0 || h.Size > u.most.Bytes-u.size.Bytes:
		return soulbox.Errorf(soulbox.TooLarge, "the archive has more than %d bytes of files; %.200q is too many", u.most.Bytes, h.Name)
	case escapes(name):
		return soulbox.Errorf(soulbox.Invalid, "the archive is refused: %.200q leads out of it", h.Name)
	case len(name) > maxPath, strings.ContainsRune(h.Name, 0):
		return soulbox.Errorf(soulbox.Invalid, "the archive is refused: %.200q… is too long for the name of a file, or is none", h.Name)
	case name == "." && h.Typeflag != tar.TypeDir:
		return soulbox.Errorf(soulbox.Invalid, "the archive is refused: %.200q is no name of a file", h.Name)
	}
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return contradiction(h, err)
		}
	}
	mode := fs.FileMode(h.Mode).Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		// Ours must be able to make files in it.
		if err := root.MkdirAll(name, 0o755); err != nil {
			return contradiction(h, err)
		}
		return contradiction(h, root.Chmod(name, mode|0o700))
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.file(root, h, name, mode, content)
	case tar.TypeSymlink:
		if len(h.Linkname) > maxPath {
			return soulbox.Errorf(soulbox.Invalid, "the archive is refused: the link %.200q leads to a path that is too long", h.Name)
		}
		if err := replace(root, name); err != nil {
			return contradiction(h, err)
		}
		return contradiction(h, root.Symlink(h.Linkname, name))
	case tar.TypeLink:
		to := clean(h.Linkname)
		if escapes(to) {
			return soulbox.Errorf(soulbox.Invalid, "the archive is refused: the hard link %.200q leads out of it, to %.200q", h.Name, h.Linkname)
		}
		if err := replace(root, name); err != nil {
			return contradiction(h, err)
		}
		return contradiction(h, root.Link(to, name))
	default:
		return soulbox.Errorf(soulbox.Invalid, "the archive is refused: %.200q is a device, a pipe or something else that is no file", h.Name)
	}
}

// file makes a regular file.
func (u *unpacking) file(root *os.Root, h *tar.Header, name string, mode fs.FileMode, content io.Reader) error {
	if err := replace(root, name); err != nil {
		return contradiction(h, err)
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return contradiction(h, err)
	}
	n, err := io.Copy(f, content)
	u.size.Bytes += n
	if err != nil {
		return errors.Join(damaged(err), f.Close())
	}
	return errors.Join(f.Chmod(mode), f.Close(), root.Chtimes(name, h.ModTime, h.ModTime))
}

// replace makes room for an entry that comes a second time; a folder stays.
func replace(root *os.Root, name string) error {
	fi, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.IsDir():
		return unix.EISDIR
	default:
		return root.Remove(name)
	}
}

// contradiction says what is wrong with an entry that cannot be made, unless it
// is the machine.
func contradiction(h *tar.Header, err error) error {
	switch {
	case err == nil, errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO), errors.Is(err, unix.EMFILE):
		return err
	default:
		return soulbox.Hide(soulbox.Invalid, err, "the archive is refused: "+printable(h.Name)+" contradicts what else is in it")
	}
}

// printable returns the name of a file for a sentence.
func printable(name string) string {
	if len(name) > 200 {
		name = name[:200]
	}
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' {
			return '?'
		}
		return r
	}, name), "?")
}

// damaged turns an error of reading an archive into one that says so, unless it
// is the machine's or says something already.
func damaged(err error) error {
	_, told := errors.AsType[*soulbox.Error](err)
	_, sys := errors.AsType[unix.Errno](err)
	switch {
	case told, sys:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return soulbox.Hide(soulbox.Invalid, err, "the archive is cut off")
	default:
		return soulbox.Hide(soulbox.Invalid, err, "the archive is damaged, or is no tar, plain or compressed with gzip")
	}
}

// A bound refuses to read more than there may be.
type bound struct {
	r    io.Reader
	left int64
}

func (b *bound) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, soulbox.Errorf(soulbox.TooLarge, "the archive is larger than what may be in it")
	}
	return n, err
}

// A tail remembers the last block that was read.
type tail struct {
	r    io.Reader
	last []byte
}

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.last = append(t.last, p[max(0, n-blockSize):n]...)
	t.last = append(t.last[:0], t.last[max(0, len(t.last)-blockSize):]...)
	return n, err
}

// zero reports whether an archive ended as one does.
func (t *tail) zero() bool {
	return len(t.last) == blockSize && len(bytes.Trim(t.last, "\x00")) == 0
}
