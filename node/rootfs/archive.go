package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/erofs"

	"github.com/soulbox/soulbox"
)

// Archive writes the tree that image id was built of as a tar, as a layer of an
// OCI image has it: owners, modes, times, hard links, symbolic links and pipes
// are as they were. The same image gives the same archive. It is read where it
// is, and nobody can remove it meanwhile.
//
// What [Prepare] has put in is left out where it can be told apart: the agent
// and its folder, the rule for sudo, and files about names that are ours to the
// letter. The user and the profiles stay, since a recipe may count on them. Left
// out are also sockets, which archives cannot hold, device nodes, and names that
// begin with .wh., which mean in a layer that something was removed.
func (s *Store) Archive(ctx context.Context, id string, w io.Writer) error {
	err := s.whole(ctx, id, func(img *erofs.Image, f *os.File) error { return archive(ctx, img, f, w) })
	if err != nil {
		return fmt.Errorf("archive image %s: %w", id, err)
	}
	return nil
}

// An archiver writes one image as a tar.
type archiver struct {
	img   *erofs.Image
	file  *os.File // of img
	left  int64    // bytes of file: no two files of an image share one
	more  int64    // entries that it can have
	out   *tar.Writer
	names map[uint64]name // of files that have more names to come, by their number
	buf   []byte
}

// A name is the first of a file with several.
type name struct {
	full string
	left int // how many are to come
}

// ours is what Prepare writes to files whose names say nothing.
var ours = map[string]string{
	"etc/hosts":             hosts,
	"etc/hostname":          hostName + "\n",
	"etc/resolv.conf":       "",
	"etc/sudoers.d/soulbox": sudoers,
}

func archive(ctx context.Context, img *erofs.Image, file *os.File, w io.Writer) error {
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	top, err := img.Inode(img.RootNid())
	if err != nil {
		return err
	}
	a := &archiver{img: img, file: file, left: fi.Size(), more: fi.Size() / erofs.DirentSize, out: tar.NewWriter(w), names: map[uint64]name{}, buf: make([]byte, 256<<10)}
	if err := a.header(&top, tar.TypeDir, "./", "", 0); err != nil {
		return err
	}
	if err := a.children(ctx, &top, ""); err != nil {
		return err
	}
	return a.out.Close()
}

// children writes what directory at holds.
func (a *archiver) children(ctx context.Context, at *erofs.Inode, where string) error {
	return at.IterDirents(func(base string, _ uint8, nid uint64) error {
		if base == "." || base == ".." {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		full := path.Join(where, base)
		// As for Unpack. A directory that holds itself twice would take for ever
		// to get as deep as that.
		if a.more--; a.more < 0 || strings.ContainsAny(base, "/\x00") || len(full) >= unix.PathMax {
			return soulbox.Errorf(soulbox.Unavailable, "the image is damaged: it has a file %.200q", full)
		}
		if strings.HasPrefix(base, ".wh.") {
			return nil
		}
		if err := a.entry(ctx, nid, full); err != nil {
			return fmt.Errorf("%.200q: %w", full, err)
		}
		return nil
	})
}

func (a *archiver) entry(ctx context.Context, nid uint64, full string) error {
	ino, err := a.img.Inode(nid)
	if err != nil {
		return err
	}
	if own, err := a.isOurs(&ino, full); own || err != nil {
		return err
	}
	if first, ok := a.names[nid]; ok {
		if first.left--; first.left == 0 {
			delete(a.names, nid)
		} else {
			a.names[nid] = first
		}
		return a.header(&ino, tar.TypeLink, full, first.full, 0)
	}
	switch uint32(ino.Mode()) & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := a.header(&ino, tar.TypeDir, full+"/", "", 0); err != nil {
			return err
		}
		return a.children(ctx, &ino, full)
	case unix.S_IFREG:
		err = a.regular(ctx, &ino, full)
	case unix.S_IFLNK:
		var target string
		if target, err = ino.Readlink(); err == nil {
			err = a.header(&ino, tar.TypeSymlink, full, target, 0)
		}
	case unix.S_IFIFO:
		err = a.header(&ino, tar.TypeFifo, full, "", 0)
	default:
		return nil
	}
	if n := ino.Nlink(); n > 1 {
		a.names[nid] = name{full, int(n) - 1}
	}
	return err
}

// isOurs reports whether Prepare has put the file in.
func (a *archiver) isOurs(ino *erofs.Inode, full string) (bool, error) {
	switch full {
	case path.Dir(AgentPath)[1:]:
		return true, nil
	case "run/e2b":
		if !ino.IsDir() {
			return false, nil
		}
		empty := true
		err := ino.IterDirents(func(base string, _ uint8, _ uint64) error {
			empty = empty && (base == "." || base == "..")
			return nil
		})
		return empty, err
	}
	text, ok := ours[full]
	if !ok || !ino.IsRegular() || ino.Size() != uint64(len(text)) {
		return false, nil
	}
	var have bytes.Buffer
	err := a.content(ino, func(r io.Reader) error {
		_, err := io.Copy(&have, r)
		return err
	})
	return have.String() == text, err
}

func (a *archiver) regular(ctx context.Context, ino *erofs.Inode, full string) error {
	size := int64(ino.Size())
	if a.left -= size; size < 0 || a.left < 0 {
		return soulbox.Errorf(soulbox.Unavailable, "the image is damaged: its files have more bytes than it has")
	}
	if err := a.header(ino, tar.TypeReg, full, "", size); err != nil {
		return err
	}
	return a.content(ino, func(r io.Reader) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{a.out}, contextReader{ctx, r}, a.buf)
		return err
	})
}

// content hands the parts of a regular file to each. They are read, and not
// taken from where the library has the image in memory: a disk that fails is an
// error then, and not the end of the process.
func (a *archiver) content(ino *erofs.Inode, each func(io.Reader) error) error {
	ranges, err := ino.DataRanges()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if r.Size == 0 {
			continue
		}
		if err := each(io.NewSectionReader(a.file, int64(r.Off), int64(r.Size))); err != nil {
			return err
		}
	}
	return nil
}

// header begins an entry. Names of users are left out: they would be this
// machine's.
func (a *archiver) header(ino *erofs.Inode, kind byte, full, link string, size int64) error {
	err := a.out.WriteHeader(&tar.Header{
		Typeflag: kind, Name: full, Linkname: link, Size: size,
		Mode: int64(uint32(ino.Mode()) &^ unix.S_IFMT), Uid: int(ino.UID()), Gid: int(ino.GID()),
		ModTime: time.Unix(int64(ino.Mtime()), int64(ino.MtimeNsec())), Format: tar.FormatPAX,
	})
	if errors.Is(err, tar.ErrHeader) { // such as a name with NUL, which no file system makes
		return soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("the image is damaged: its file %.200q cannot be archived", full))
	}
	return err
}
