package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// packOptions say what of a folder is kept beside names, contents and modes.
type packOptions struct {
	// owners keeps owners, devices and file capabilities: what a root file
	// system needs and a copy for somebody else must not have.
	owners bool
}

// packed calls use with a tar of dir, which is made while it is read.
func packed(dir string, o packOptions, use func(io.Reader) error) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := pack(w, dir, o)
		_ = w.CloseWithError(err) // never fails
		done <- err
	}()
	err := use(r)
	_ = r.Close() // ends pack if use has not read everything
	if packErr := <-done; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return packErr // use only saw what became of it
	}
	return err
}

// pack writes a tar of what is in dir. Sockets are left out: they are nothing
// without their program.
func pack(w io.Writer, dir string, o packOptions) error {
	p := packer{tar: tar.NewWriter(w), dir: dir, o: o, links: map[inode]string{}}
	if err := filepath.WalkDir(dir, p.add); err != nil {
		return err
	}
	return p.tar.Close()
}

// inode names a file with several names.
type inode struct{ dev, ino uint64 }

type packer struct {
	tar   *tar.Writer
	dir   string
	o     packOptions
	links map[inode]string // the first name of each
}

func (p *packer) add(name string, d fs.DirEntry, err error) error {
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	info, err := d.Info()
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	special := info.Mode() & (fs.ModeDevice | fs.ModeNamedPipe)
	if info.Mode()&fs.ModeSocket != 0 || special != 0 && !p.o.owners {
		return nil
	}
	rel, err := filepath.Rel(p.dir, name)
	if err != nil {
		return err
	}
	h, err := p.header(name, filepath.ToSlash(rel), info)
	if err != nil {
		return err
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if h.Typeflag != tar.TypeReg || h.Size == 0 {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer f.Close()
	// Exactly what the header has promised, also if the file grows meanwhile.
	if _, err := io.CopyN(p.tar, f, h.Size); err != nil {
		if errors.Is(err, io.EOF) {
			return soulbox.Errorf(soulbox.Conflict, "%s became shorter while it was read", name)
		}
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

func (p *packer) header(name, rel string, info fs.FileInfo) (*tar.Header, error) {
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(name); err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "pack %s: %w", name, err)
	}
	h.Name = rel
	if info.IsDir() {
		h.Name += "/"
	}
	// Names of users mean other numbers elsewhere; and PAX has room for times
	// and long names.
	h.Uname, h.Gname, h.Format = "", "", tar.FormatPAX
	if !p.o.owners {
		h.Uid, h.Gid = 0, 0
		h.Mode &= 0o777
	} else if capability := capabilityOf(name); h.Typeflag == tar.TypeReg && capability != "" {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && h.Typeflag == tar.TypeReg && st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if first, seen := p.links[key]; seen {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			p.links[key] = h.Name
		}
	}
	return h, nil
}

// capabilityOf returns a file's capabilities as its file system keeps them;
// empty if it has none. ping has some.
func capabilityOf(name string) string {
	buf := make([]byte, 64) // they are 20 or 24 bytes
	n, err := unix.Lgetxattr(name, "security.capability", buf)
	if err != nil || n <= 0 {
		return ""
	}
	return string(buf[:n])
}

// unpack writes what is in the tar r into the folder dir, which exists. The tar
// comes out of a sandbox, so nothing in it is believed: no name leads out of
// dir, nor does any link, and there are no devices, owners or special modes.
// note is told what was left out.
func unpack(r io.Reader, dir string, note func(string)) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer root.Close()
	modes := map[string]fs.FileMode{} // of folders; set last, because they may forbid writing
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		name := path.Clean(h.Name)
		if h.Typeflag == tar.TypeDir && filepath.IsLocal(name) {
			modes[name] = fs.FileMode(h.Mode) & fs.ModePerm
		}
		if err := unpackEntry(root, name, h, t, note); err != nil {
			return err
		}
	}
	for name, mode := range modes {
		if err := root.Chmod(name, mode|0o700); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return soulbox.Errorf(soulbox.Invalid, "unpack %s: %w", name, err)
		}
	}
	return nil
}

func unpackEntry(root *os.Root, name string, h *tar.Header, content io.Reader, note func(string)) error {
	if !filepath.IsLocal(name) {
		note(fmt.Sprintf("left out %s, which leads out of the folder", h.Name))
		return nil
	}
	var err error
	if parent := path.Dir(name); parent != "." {
		err = root.MkdirAll(parent, 0o755)
	}
	switch {
	case err != nil:
	case h.Typeflag == tar.TypeDir:
		err = root.MkdirAll(name, 0o755)
	case h.Typeflag == tar.TypeReg:
		err = unpackFile(root, name, fs.FileMode(h.Mode)&fs.ModePerm, content)
	case h.Typeflag == tar.TypeSymlink:
		//nolint:gosec // G305: this is the check
		if path.IsAbs(h.Linkname) || !filepath.IsLocal(path.Join(path.Dir(name), h.Linkname)) {
			note(fmt.Sprintf("left out the link %s, which leads out of the folder", h.Name))
			return nil
		}
		if err = vacate(root, name); err == nil {
			err = root.Symlink(h.Linkname, name)
		}
	case h.Typeflag == tar.TypeLink:
		target := path.Clean(h.Linkname)
		if err = vacate(root, name); err == nil {
			err = root.Link(target, name)
		}
	default:
		note(fmt.Sprintf("left out %s, which is neither a file nor a folder", h.Name))
	}
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "unpack %s: %w", strings.TrimSuffix(h.Name, "/"), err)
	}
	return nil
}

func unpackFile(root *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	// Not written through what is there: that may be a link.
	if err := vacate(root, name); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// vacate removes what has a name already; a folder that is not empty stays, and
// is an error.
func vacate(root *os.Root, name string) error {
	err := root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
