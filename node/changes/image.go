package changes

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/erofs"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"

	"github.com/soulbox/soulbox"
)

// An Image is the root image below a layer. It is not safe for concurrent use.
type Image struct {
	img  *erofs.Image
	file *os.File
}

// OpenImage takes over f, which holds an EROFS image, also when it fails.
func OpenImage(f *os.File) (*Image, error) {
	img, err := erofs.OpenImage(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open root image: %w", err), f.Close())
	}
	return &Image{img: img, file: f}, nil
}

// Close closes the file.
func (i *Image) Close() { i.img.Close() }

// inode finds a path. It follows no links, because an overlay does not.
func (i *Image) inode(path string) (erofs.Inode, bool, error) {
	ino, err := i.img.Inode(i.img.RootNid())
	for name := range strings.SplitSeq(path, "/") {
		if err != nil {
			return ino, false, fmt.Errorf("read root image: %w", err)
		}
		if name == "" { // the root
			break
		}
		var nid uint64
		nid, err = ino.Lookup(name)
		if errors.Is(err, linuxerr.ENOENT) || errors.Is(err, linuxerr.ENOTDIR) {
			return ino, false, nil
		}
		if err == nil {
			ino, err = i.img.Inode(nid)
		}
	}
	if err != nil {
		return ino, false, fmt.Errorf("read root image: %w", err)
	}
	return ino, true, nil
}

// at returns what the image has at path, without its hash.
func (i *Image) at(path string) (entry, bool, error) {
	ino, ok, err := i.inode(path)
	if !ok || err != nil {
		return entry{}, false, err
	}
	e := entry{mode: uint32(ino.Mode()) & 0o7777, uid: int(ino.UID()), gid: int(ino.GID())}
	switch uint32(ino.Mode()) & unix.S_IFMT {
	case unix.S_IFDIR:
		e.kind = soulbox.Folder
	case unix.S_IFREG:
		e.kind, e.size = soulbox.File, int64(ino.Size())
	case unix.S_IFLNK:
		e.kind, e.mode = soulbox.Link, 0
		e.link, err = ino.Readlink()
	case unix.S_IFIFO:
		e.kind, e.node.format = soulbox.Special, tar.TypeFifo
	default: // rootfs packs nothing else but sockets, which no tar has
		e.kind = soulbox.Special
	}
	if err != nil {
		return entry{}, false, fmt.Errorf("read root image: %.200q: %w", path, err)
	}
	return e, true, nil
}

// hash returns that of the regular file at path.
func (i *Image) hash(path string) (sum [32]byte, err error) {
	ino, _, err := i.inode(path)
	if err != nil {
		return sum, err
	}
	ranges, err := ino.DataRanges()
	if err != nil {
		return sum, fmt.Errorf("read root image: %.200q: %w", path, err)
	}
	h := sha256.New()
	for _, r := range ranges {
		if _, err := io.Copy(h, io.NewSectionReader(i.file, int64(r.Off), int64(r.Size))); err != nil {
			return sum, fmt.Errorf("read root image: %.200q: %w", path, err)
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}

// below adds everything that the image has in folder top to paths. It stops,
// and says so, when there are too many.
func (i *Image) below(top string, paths map[string]struct{}) (whole bool, err error) {
	ino, ok, err := i.inode(top)
	if !ok || err != nil || !ino.IsDir() {
		return true, err
	}
	var folders []string
	err = ino.IterDirents(func(name string, _ uint8, nid uint64) error {
		if name == "." || name == ".." {
			return nil
		}
		full := path.Join(top, name)
		if len(full) > maxName { // also ends the walk of a folder that holds itself
			return fmt.Errorf("it has a file %.200q", full)
		}
		if len(paths) >= 3*maxEntries {
			return errTooMany
		}
		paths[full] = struct{}{}
		sub, err := i.img.Inode(nid)
		if err == nil && sub.IsDir() {
			folders = append(folders, full)
		}
		return err
	})
	for _, f := range folders {
		if err != nil {
			break
		}
		if whole, err := i.below(f, paths); !whole || err != nil {
			return whole, err
		}
	}
	if errors.Is(err, errTooMany) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read root image: %w", err)
	}
	return true, nil
}

var errTooMany = errors.New("too many files")
