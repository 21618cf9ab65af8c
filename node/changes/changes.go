// Package changes finds out which files differ between two moments of a
// sandbox.
//
// A moment is a root image, the same for both, with an upper layer over it that
// a driver has written as a tar; see the contract of driver.Instance. [Read]
// reads such a layer, and [Compare] looks through both of them at the image, as
// the sandbox did: what is in the layer covers the image, a whiteout hides what
// is below it, and so does a folder that is opaque. A path in a layer is
// therefore not yet a difference, and one that is in neither may be.
//
// A layer comes out of a sandbox and is hostile: [Limits] bound how much of it
// is read, and of what is in a file only a hash is kept. Times are not
// compared, nor are extended attributes.
package changes

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/soulbox/soulbox"
)

// most is how many changes an answer has.
const most = 10_000

// An entry is what is at one path. Two that are equal are no difference.
type entry struct {
	kind     soulbox.FileType
	mode     uint32 // permissions, setuid, setgid and sticky
	uid, gid int
	size     int64
	link     string   // where a symbolic link leads
	node     node     // what a special file is
	hash     [32]byte // SHA-256 of what is in a regular file
}

// A node tells special files apart.
type node struct {
	format       byte // as in a tar
	major, minor int64
}

// A mark is an entry of a layer.
type mark struct {
	entry

	gone   bool // a whiteout: nothing is there
	covers bool // the image is not seen below it
}

// A Layer is what a sandbox has written over its image. It is not safe for
// concurrent use.
type Layer struct {
	marks map[string]mark // by path, without a slash at either end; "" is the root
	below map[string]bool // what covers said of paths without a mark
}

// covers reports whether the image is not seen below path.
func (l *Layer) covers(path string) bool {
	if m, ok := l.marks[path]; ok {
		return m.covers
	}
	if path == "" {
		return false
	}
	known, ok := l.below[path]
	if !ok {
		known = l.covers(parent(path))
		l.below[path] = known
	}
	return known
}

// at returns what the sandbox saw at path. What it saw of the image has no
// hash.
func (l *Layer) at(path string, img *Image) (e entry, ok, ofImage bool, err error) {
	if m, ok := l.marks[path]; ok {
		return m.entry, !m.gone, false, nil
	}
	if l.covers(parent(path)) {
		return entry{}, false, false, nil
	}
	e, ok, err = img.at(path)
	return e, ok, true, err
}

func parent(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

// Compare tells what is different in b, as against a, sorted by path. A folder
// that came or went is told of only when nothing in it is. When there are too
// many changes, the first of them are told. It fails when the image is damaged.
func Compare(a, b *Layer, img *Image) (soulbox.Changes, error) {
	paths := map[string]struct{}{}
	for _, l := range []*Layer{a, b} {
		for path := range l.marks {
			paths[path] = struct{}{}
		}
	}
	differ := func(path string) bool { return a.covers(path) != b.covers(path) }
	var all soulbox.Changes
	for _, path := range slices.Collect(maps.Keys(paths)) {
		if !differ(path) || path != "" && differ(parent(path)) { // which looks further
			continue
		}
		whole, err := img.below(path, paths)
		if err != nil {
			return soulbox.Changes{}, err
		}
		all.Truncated = all.Truncated || !whole
	}
	full := map[string]bool{} // folders in which something is told of
	for path := range paths {
		c, err := compare(path, a, b, img)
		if err != nil {
			return soulbox.Changes{}, err
		}
		if c == nil {
			continue
		}
		all.List = append(all.List, *c)
		for path != "" {
			if path = parent(path); full[path] {
				break
			}
			full[path] = true
		}
	}
	all.List = slices.DeleteFunc(all.List, func(c soulbox.Change) bool {
		return c.Kind != soulbox.Changed && c.Type == soulbox.Folder && full[c.Path[1:]]
	})
	slices.SortFunc(all.List, func(x, y soulbox.Change) int { return cmp.Compare(x.Path, y.Path) })
	if len(all.List) > most {
		all.List, all.Truncated = all.List[:most:most], true
	}
	return all, nil
}

// compare returns what became of one path, nil if nothing did.
func compare(path string, a, b *Layer, img *Image) (*soulbox.Change, error) {
	was, before, old, err := a.at(path, img)
	if err != nil {
		return nil, err
	}
	is, after, same, err := b.at(path, img)
	if err != nil {
		return nil, err
	}
	c := &soulbox.Change{Path: "/" + path, Kind: soulbox.Changed, Type: is.kind, Size: soulbox.Bytes(is.size)}
	switch {
	case !before && !after, old && same:
		return nil, nil //nolint:nilnil // nothing and no error
	case !after:
		c.Kind, c.Type, c.Size = soulbox.Removed, was.kind, 0
		return c, nil
	case !before:
		c.Kind = soulbox.Created
		return c, nil
	}
	if old != same && was.kind == soulbox.File && is.kind == soulbox.File && was.size == is.size {
		// Only now is what is in the file worth reading.
		sum, err := img.hash(path)
		if err != nil {
			return nil, err
		}
		if old {
			was.hash = sum
		} else {
			is.hash = sum
		}
	}
	if was == is {
		return nil, nil //nolint:nilnil // as above
	}
	return c, nil
}
