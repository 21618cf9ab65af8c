package filesystem

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// metadataHeader begins the headers of an upload that carry metadata.
	metadataHeader = "X-Metadata-"
	// attrPrefix begins the names of the attributes that hold it. Programs in
	// the sandbox may set such attributes themselves.
	attrPrefix = "user.e2b."
	// maxKey is what Linux leaves of an attribute's name.
	maxKey = 255 - len(attrPrefix)
	// maxMetadata bounds all names and values of a file together.
	maxMetadata = 4096
	// maxAttrs bounds the list of attribute names of a file that is read: the
	// kernel's own limit.
	maxAttrs = 64 << 10
)

// metadataOf reads the metadata of an upload from its headers.
func metadataOf(h http.Header) (map[string]string, error) {
	var m map[string]string
	total := 0
	for name, values := range h {
		key, ok := strings.CutPrefix(name, metadataHeader)
		if !ok || key == "" || len(values) == 0 {
			continue
		}
		key = strings.ToLower(key)
		if len(key) > maxKey {
			return nil, fmt.Errorf("invalid metadata: metadata key %q exceeds %d bytes", key, maxKey)
		}
		for _, text := range []string{key, values[0]} {
			for i := range len(text) {
				if text[i] < ' ' || text[i] > '~' {
					return nil, fmt.Errorf("invalid metadata: key or value of %q contains non-printable-ASCII byte 0x%02x at offset %d", key, text[i], i)
				}
			}
		}
		if total += len(attrPrefix) + len(key) + len(values[0]); total > maxMetadata {
			return nil, fmt.Errorf("invalid metadata: total metadata size exceeds %d bytes", maxMetadata)
		}
		if m == nil {
			m = map[string]string{}
		}
		m[key] = values[0]
	}
	return m, nil
}

// readMetadata returns the metadata of the file at path, nil if there is none.
// Errors mean none: metadata never keeps an entry from being listed.
func (s *Service) readMetadata(path string, st *syscall.Stat_t) map[string]string {
	names, err := list(func(buf []byte) (int, error) { return unix.Listxattr(path, buf) })
	if err != nil || len(names) == 0 {
		// Not every file system that has no attributes says so here.
		return s.memory.get(st)
	}
	var m map[string]string
	for _, name := range names {
		value := make([]byte, maxMetadata)
		n, err := unix.Getxattr(path, attrPrefix+name, value)
		// A value set by a program may be anything, but only UTF-8 can be sent.
		if err != nil || !utf8.Valid(value[:n]) || !utf8.ValidString(name) {
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		m[name] = string(value[:n])
	}
	return m
}

// writeMetadata replaces the metadata of an open file by m.
func (s *Service) writeMetadata(f *os.File, m map[string]string) error {
	fd := int(f.Fd())
	names, err := list(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if err == nil {
		for _, name := range names {
			if _, keep := m[name]; keep {
				continue
			}
			if err := unix.Fremovexattr(fd, attrPrefix+name); err != nil && !errors.Is(err, unix.ENODATA) {
				return os.NewSyscallError("remove file metadata", err)
			}
		}
		for name, value := range m {
			if err = unix.Fsetxattr(fd, attrPrefix+name, []byte(value), 0); err != nil {
				break
			}
		}
	}
	if unsupported(err) || err == nil && len(m) == 0 {
		return s.memory.set(f, m)
	}
	return os.NewSyscallError("write file metadata", err)
}

// list returns the names of the attributes that are ours, without their
// prefix. Most files have no attribute at all, which costs one call.
func list(read func([]byte) (int, error)) ([]string, error) {
	var small [256]byte
	buf := small[:]
	n, err := read(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, maxAttrs)
		n, err = read(buf)
	}
	if err != nil || n == 0 {
		return nil, err
	}
	var names []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name, ok := strings.CutPrefix(name, attrPrefix); ok && name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}

func unsupported(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS)
}

// sidecar keeps metadata of files on file systems without attributes, for as
// long as the agent lives. The zero value is ready.
type sidecar struct {
	mu    sync.Mutex
	files map[inode]map[string]string // +checklocks:mu
}

// inode names a file wherever it is moved.
type inode struct{ dev, ino uint64 }

// maxSidecar bounds how many files are remembered.
const maxSidecar = 4096

func (c *sidecar) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.files) == 0
}

func (c *sidecar) get(st *syscall.Stat_t) map[string]string {
	if st == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.files[inode{st.Dev, st.Ino}]
}

func (c *sidecar) set(f *os.File, m map[string]string) error {
	if len(m) == 0 && c.empty() {
		return nil
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := inode{st.Dev, st.Ino}
	switch _, known := c.files[key]; {
	case len(m) == 0:
		delete(c.files, key)
	case !known && len(c.files) >= maxSidecar:
		return fmt.Errorf("write file metadata: more than %d files have some", maxSidecar)
	default:
		if c.files == nil {
			c.files = map[inode]map[string]string{}
		}
		c.files[key] = m
	}
	return nil
}
