// Package facts finds out what is in a finished root file system: which
// distribution it is, which packages are installed in it and how large it is.
// Nobody has to type that, and nobody can get it wrong.
//
// # What is read
//
//	os-release                   the distribution
//	dpkg, also Distroless'       every installed package
//	apk                          every installed package
//	rpm                          every installed package, if its database is SQLite,
//	                             as in Fedora since 33 and RHEL since 9; the older
//	                             formats (Berkeley DB, and SUSE's ndb) are not read
//	pip                          *.dist-info in site-packages and dist-packages
//	npm                          what lies in a node_modules itself, and not what
//	                             a module there has in its own
//
// # The tree is hostile
//
// Whoever built it wrote every byte of it. Files are opened below the tree by
// [os.Root], which follows no link out of it; only regular ones are; and there
// are bounds to the size of each, to the length of what is in them and to how
// many of everything are looked at. What breaks a bound or cannot be read is
// left out, because a strange file is no reason to refuse a build.
package facts

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// Bounds. The largest real ones are about a tenth of each.
const (
	maxDatabase = 64 << 20  // bytes of a package manager's database
	maxSmall    = 256 << 10 // bytes of a file about one package
	maxText     = 256       // bytes of a name or a version
	maxPackages = 50_000
	maxEntries  = 3_000_000 // files and folders that are counted
	maxDepth    = 200       // folders in each other; the kernel's own bound of a path is not far
	batch       = 1024      // entries that are read of a folder at once
)

// Read returns what can be seen in the tree at dir: Distribution, Packages and
// Bytes. The tree must not change meanwhile.
func Read(ctx context.Context, dir string) (soulbox.BuildFacts, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return soulbox.BuildFacts{}, fmt.Errorf("read facts: %w", err)
	}
	defer root.Close()
	t := &tree{root: root, seen: map[soulbox.Package]bool{}, inodes: map[inode]bool{}}
	t.facts.Distribution = t.distribution()
	t.dpkg()
	t.apk()
	t.rpm(ctx)
	if err := t.walk(ctx); err != nil {
		return soulbox.BuildFacts{}, fmt.Errorf("read facts: %w", err)
	}
	slices.SortFunc(t.facts.Packages, func(a, b soulbox.Package) int {
		return strings.Compare(a.Manager+"\x00"+a.Name+"\x00"+a.Version, b.Manager+"\x00"+b.Name+"\x00"+b.Version)
	})
	return t.facts, nil
}

// A tree is a root file system and what was found in it.
type tree struct {
	root    *os.Root
	facts   soulbox.BuildFacts
	seen    map[soulbox.Package]bool
	inodes  map[inode]bool // of files with several names
	entries int
}

type inode struct{ dev, ino uint64 }

// add notes a package, unless it is none or there are too many.
func (t *tree) add(manager, name, version string) {
	p := soulbox.Package{Manager: manager, Name: strings.TrimSpace(name), Version: strings.TrimSpace(version)}
	if p.Name == "" || !decent(p.Name) || !decent(p.Version) || t.seen[p] || len(t.facts.Packages) >= maxPackages {
		return
	}
	t.seen[p] = true
	t.facts.Packages = append(t.facts.Packages, p)
}

// decent reports whether s can be shown.
func decent(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// open opens a regular file of at most so many bytes.
func (t *tree) open(name string, most int64) (*os.File, bool) {
	// Looked at first, because opening a device can do something.
	if fi, err := t.root.Stat(name); err != nil || !fi.Mode().IsRegular() || fi.Size() > most {
		return nil, false
	}
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, false
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, false
	}
	return f, true
}

// read returns what is in a regular file of at most so many bytes.
func (t *tree) read(name string, most int64) ([]byte, bool) {
	f, ok := t.open(name, most)
	if !ok {
		return nil, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most))
	return b, err == nil
}

// distribution returns what the tree calls itself.
func (t *tree) distribution() string {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		text, ok := t.read(name, maxSmall)
		if !ok {
			continue
		}
		values := map[string]string{}
		for line := range strings.Lines(string(text)) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				values[k] = strings.Trim(v, `"'`)
			}
		}
		for _, s := range []string{values["PRETTY_NAME"], strings.TrimSpace(values["NAME"] + " " + values["VERSION"])} {
			if s != "" && decent(s) {
				return s
			}
		}
	}
	return ""
}

// walk looks at everything in the tree: it adds up sizes, and finds the packages
// that lie anywhere.
func (t *tree) walk(ctx context.Context) error {
	type folder struct {
		name  string
		depth int
	}
	for left := []folder{{".", 0}}; len(left) > 0; {
		at := left[len(left)-1]
		left = left[:len(left)-1]
		err := t.each(ctx, at.name, func(e fs.DirEntry) {
			name := path.Join(at.name, e.Name())
			if e.IsDir() {
				if at.depth < maxDepth {
					left = append(left, folder{name, at.depth + 1})
				}
				t.found(name)
				return
			}
			if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
				t.weigh(fi)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// each calls f for what is in a folder, as long as not too much was looked at.
// A folder that cannot be read has nothing in it.
func (t *tree) each(ctx context.Context, name string, f func(fs.DirEntry)) error {
	if t.entries >= maxEntries {
		return nil
	}
	d, err := t.root.Open(name)
	if err != nil {
		return nil // as it says
	}
	defer d.Close()
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		some, err := d.ReadDir(batch)
		for _, e := range some {
			if t.entries++; t.entries > maxEntries {
				return nil
			}
			f(e)
		}
		if err != nil {
			return nil // usually its end
		}
	}
}

// weigh adds the size of a file, once if it has several names.
func (t *tree) weigh(fi fs.FileInfo) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // narrower on other machines
		if t.inodes[id] {
			return
		}
		t.inodes[id] = true
	}
	t.facts.Bytes += soulbox.Bytes(fi.Size())
}

// found looks at a folder that may be a package.
func (t *tree) found(name string) {
	parent, base := path.Split(name)
	parent = path.Base(parent)
	switch {
	case strings.HasSuffix(base, ".dist-info") && (parent == "site-packages" || parent == "dist-packages"):
		t.pip(path.Join(name, "METADATA"))
	case isModule(name):
		t.npm(path.Join(name, "package.json"))
	}
}

// isModule reports whether name is a module in a node_modules that is in no
// other one.
func isModule(name string) bool {
	before, module, ok := strings.Cut("/"+name, "/node_modules/")
	if !ok || strings.Contains(before, "/node_modules") || strings.HasPrefix(module, ".") {
		return false
	}
	scoped := strings.HasPrefix(module, "@")
	return strings.Count(module, "/") == map[bool]int{true: 1, false: 0}[scoped]
}
