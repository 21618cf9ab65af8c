package notebook

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxListed = 1000
	// maxVisited is how many names are looked at to find notebooks.
	maxVisited = 200_000
)

// Entry is a notebook in a list.
type Entry struct {
	Path     string    `json:"path"`
	Revision string    `json:"revision,omitempty"`
	Modified time.Time `json:"modified"`
	Size     int64     `json:"size"`
	Cells    *int      `json:"cells,omitempty"`
	Language string    `json:"language,omitempty"`
	Error    string    `json:"error,omitempty"` // why it cannot be read
}

// cache keeps what was found out about files, until they change.
type cache struct {
	mu  sync.Mutex
	all map[string]*seen // +checklocks:mu — by path
}

type seen struct {
	info  fs.FileInfo
	entry Entry
}

// List returns the notebooks below the folder by their paths, but for those in
// hidden folders.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var found []string
	visited := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		visited++
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case visited > maxVisited || len(found) >= maxListed:
			return fs.SkipAll
		case err != nil: // it has gone, or is closed
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case name != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.Type().IsRegular() && strings.HasSuffix(d.Name(), extension):
			if clean, err := Clean(name); err == nil && clean == name {
				found = append(found, name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(found)
	s.seen.keep(found)
	list := make([]Entry, 0, len(found))
	for _, name := range found {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if e, ok := s.entry(root, name); ok {
			list = append(list, e)
		}
	}
	return list, nil
}

// entry returns what is known of a file, or finds it out.
func (s *Store) entry(root *os.Root, name string) (Entry, bool) {
	fi, err := root.Lstat(name)
	if err != nil {
		return Entry{}, false // it has gone
	}
	if e, ok := s.seen.get(name, fi); ok {
		return e, true
	}
	e := Entry{Path: name, Modified: fi.ModTime().UTC(), Size: fi.Size()}
	f, err := s.Read(name)
	var told *Error
	switch {
	case err == nil:
		n := len(f.Document.Cells)
		e.Revision, e.Cells, e.Language = f.Revision, &n, f.Document.Kernel().Context()
	case errors.As(err, &told):
		e.Error = told.Message
	default:
		e.Error = "The file " + echo(mustJSON(path.Base(name))) + " cannot be read"
	}
	s.seen.put(name, fi, e)
	return e, true
}

func (c *cache) get(name string, fi fs.FileInfo) (Entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.all[name]
	if one == nil || !os.SameFile(one.info, fi) || !one.info.ModTime().Equal(fi.ModTime()) || one.info.Size() != fi.Size() {
		return Entry{}, false
	}
	return one.entry, true
}

func (c *cache) put(name string, fi fs.FileInfo, e Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[name] = &seen{info: fi, entry: e}
}

// keep forgets all others.
func (c *cache) keep(names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]*seen, len(names))
	for _, name := range names {
		if one := c.all[name]; one != nil {
			all[name] = one
		}
	}
	c.all = all
}
