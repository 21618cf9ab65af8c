package changes

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/soulbox/soulbox"
)

const (
	maxEntries = 200_000  // of one layer
	maxName    = 4096     // bytes of a path or of where a link leads, as on Linux
	maxNames   = 64 << 20 // bytes of all of them
	maxHeader  = 8 << 10  // bytes that an entry takes beside what is in it, on the average
)

// Limits bound what is read of a layer.
type Limits struct {
	Content soulbox.Bytes // of all files together; a hole counts
}

// Read reads a layer to its end. What is beyond the limits is Invalid, and what is
// no layer is Unavailable: each folder, the root among them, comes once and
// before what is in it.
func Read(r io.Reader, lim Limits) (*Layer, error) {
	l := &Layer{marks: map[string]mark{}, below: map[string]bool{}}
	// Headers without an entry have no other bound.
	tr := tar.NewReader(&io.LimitedReader{R: r, N: int64(lim.Content) + maxEntries*maxHeader})
	left, names := int64(lim.Content), 0
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) && n > 0 {
			return l, nil
		}
		if err != nil {
			return nil, soulbox.Hide(soulbox.Unavailable, err, "what the sandbox has written cannot be read")
		}
		if names += len(h.Name) + len(h.Linkname); n == maxEntries || names > maxNames {
			return nil, soulbox.Errorf(soulbox.Invalid, "the sandbox has written more than %d files, or %d MiB of names: too many to compare", maxEntries, maxNames>>20)
		}
		if len(h.Name) > maxName || len(h.Linkname) > maxName {
			return nil, soulbox.Errorf(soulbox.Invalid, "the sandbox has a file whose name is longer than %d bytes", maxName)
		}
		if left -= h.Size; h.Size < 0 || left < 0 {
			return nil, soulbox.Errorf(soulbox.Invalid, "the sandbox has written more than the %d MiB that can be compared; files with holes count as if they had none", lim.Content/soulbox.MiB)
		}
		m, err := l.mark(h, tr)
		if err != nil {
			return nil, err
		}
		name := clean(h.Name)
		above, ok := l.marks[parent(name)]
		if _, twice := l.marks[name]; twice || name != "" && (!ok || above.gone || above.kind != soulbox.Folder) {
			return nil, soulbox.Errorf(soulbox.Unavailable, "what the sandbox has written cannot be read: %.200q is out of place", h.Name)
		}
		m.covers = m.covers || m.gone || m.kind != soulbox.Folder || above.covers
		l.marks[name] = m
	}
}

// clean makes a path of the name of an entry. Nothing leads out of the root.
func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// xattr is the prefix of an extended attribute's record in a tar.
const xattr = "SCHILY.xattr."

// mark reads one entry.
func (l *Layer) mark(h *tar.Header, content io.Reader) (mark, error) {
	m := mark{entry: entry{mode: uint32(h.Mode) & 0o7777, uid: h.Uid, gid: h.Gid}}
	switch h.Typeflag {
	case tar.TypeDir:
		m.kind = soulbox.Folder
		m.covers = h.PAXRecords[xattr+"trusted.overlay.opaque"] == "y" || h.PAXRecords[xattr+"user.overlay.opaque"] == "y"
	case tar.TypeReg:
		m.kind = soulbox.File
		sum := sha256.New()
		var err error
		if m.size, err = io.Copy(sum, content); err != nil {
			return mark{}, soulbox.Hide(soulbox.Unavailable, err, "what the sandbox has written cannot be read")
		}
		sum.Sum(m.hash[:0])
	case tar.TypeSymlink:
		m.kind, m.link, m.mode = soulbox.Link, h.Linkname, 0 // a link has no mode
	case tar.TypeLink:
		first, ok := l.marks[clean(h.Linkname)]
		if !ok || !first.gone && first.kind == soulbox.Folder { // all whiteouts may be one
			return mark{}, soulbox.Errorf(soulbox.Unavailable, "what the sandbox has written cannot be read: %.200q is another name of nothing", h.Name)
		}
		return first, nil
	default:
		m.kind, m.node = soulbox.Special, node{format: h.Typeflag, major: h.Devmajor, minor: h.Devminor}
		if m.gone = h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0; m.gone {
			return mark{gone: true}, nil
		}
	}
	return m, nil
}
