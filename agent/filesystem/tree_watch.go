package filesystem

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// maxTree is how many folders a tree may have to be watched. The kernel keeps
// something for each.
const maxTree = 8192

var errTooMany = fmt.Errorf("there are more than %d folders", maxTree)

// bounds keep a watch that is not a client's from places and sizes that would
// not do it good.
type bounds struct {
	skip []string
}

func (b *bounds) skips(dir string) bool {
	return b != nil && slices.Contains(b.skip, dir)
}

func (b *bounds) reached(folders int) bool {
	return b != nil && folders >= maxTree
}

// A TreeWatch tells what happens below a folder.
type TreeWatch struct{ w *watch }

// WatchTree starts to watch a folder, given by its absolute path, and all below
// it except the folders skip and the kernel's own. The caller calls Run, also
// to be rid of it. A tree too large is an error; what of it grows too large
// later is left out.
func (s *Service) WatchTree(dir string, skip ...string) (*TreeWatch, error) {
	// Only links in the way are followed, not those found below.
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	b := &bounds{[]string{"/proc", "/sys", "/dev"}}
	for _, dir := range skip {
		b.skip = append(b.skip, resolved(dir))
	}
	for dir := root; dir != "/"; dir = filepath.Dir(dir) {
		if b.skips(dir) {
			return nil, fmt.Errorf("%s is no place to watch", root)
		}
	}
	w, err := s.watchPath(root, &watchRequest{Recursive: true}, b)
	if err != nil {
		return nil, err
	}
	return &TreeWatch{w}, nil
}

// resolved returns where a path leads that need not exist yet.
func resolved(path string) string {
	if path == "/" || path == "." {
		return path
	}
	if found, err := filepath.EvalSymlinks(path); err == nil {
		return found
	}
	return filepath.Join(resolved(filepath.Dir(path)), filepath.Base(path))
}

// Run calls tell with each change: create, write, remove, rename (of what has
// the path no more) or chmod. It returns when ctx ends or the watch breaks, as
// it does when more happens than the kernel keeps.
func (t *TreeWatch) Run(ctx context.Context, tell func(path, op string)) error {
	defer t.w.notify.Close()
	return t.w.run(ctx, func(e *fileEvent) error {
		tell(filepath.Join(t.w.root, e.Name), strings.ToLower(strings.TrimPrefix(string(e.Type), "EVENT_TYPE_")))
		return nil
	})
}
