// Package templates holds the templates that SoulBox brings along, as recipes.
//
// It builds one of them: base, a Debian made of Debian's own packages, for
// machines that reach no container registry. Its recipe is plain text in the
// folder base:
//
//	packages   what is installed
//	dpkg.cfg   what is left out of each package
//	remove     what is removed afterwards
//	files/     what is put on top
//
// The others are built on that, by the builder that everybody's templates are
// built by, where an operator wants them. Each has a folder with its name:
//
//	Dockerfile      how it is made; COPY takes a file from beside it
//	template.yaml   what is said about it, and what is left running in it
//	README.md       what people read about it
//
// What every SoulBox root file system gets, whatever it is made of (the user,
// the agent, sudo, profiles), is no part of a recipe.
package templates

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// Without all:, files that begin with a dot would be missing.
//
//go:embed all:base
var recipes embed.FS

// A Progress is a step of a build, for people, and how many packages have been
// installed.
type Progress struct {
	Step string
	Done int
}

// A Built template is a directory tree.
type Built struct {
	Packages int       // that are installed
	Started  time.Time // files that are newer carry no time worth keeping
	Took     time.Duration
}

// Base builds the base template at dir, which must not exist, and which is
// gone again when anything fails. It takes a minute or two, needs root and the
// program mmdebstrap, and asks the Debian mirror that this machine's apt is
// configured for, else Debian's own. progress, if not nil, is called from one
// goroutine, and never after Base has returned.
func Base(ctx context.Context, dir string, progress func(Progress)) (Built, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	built := Built{Started: time.Now()}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Built{}, fmt.Errorf("build template base: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Built{}, fmt.Errorf("build template base: %w", err)
	}
	built.Packages, err = base(ctx, dir, progress)
	if err != nil {
		return Built{}, fmt.Errorf("build template base: %w", errors.Join(err, discard(dir)))
	}
	built.Took = time.Since(built.Started)
	return built, nil
}

func base(ctx context.Context, dir string, progress func(Progress)) (int, error) {
	packages, err := lines("base/packages")
	if err != nil {
		return 0, err
	}
	leaveOut, err := lines("base/dpkg.cfg")
	if err != nil {
		return 0, err
	}
	m, err := hostMirror(os.DirFS("/etc/apt"))
	if err != nil {
		return 0, err
	}
	if err := debootstrap(ctx, dir, m, packages, leaveOut, progress); err != nil {
		return 0, err
	}
	host := os.DirFS("/")
	added, err := addedCertificates(host)
	if err != nil {
		return 0, err
	}
	index, err := hostIndex(host)
	if err != nil {
		return 0, err
	}
	progress(Progress{Step: "cleaning up"})
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	if err := errors.Join(finish(root, m), trust(root, added), ask(root, index)); err != nil {
		return 0, err
	}
	return installed(root)
}

// finish removes what the recipe removes, puts on top what it puts on top, and
// keeps the mirror's key where its sources.list expects it.
func finish(root *os.Root, m mirror) error {
	patterns, err := lines("base/remove")
	if err != nil {
		return err
	}
	for _, p := range patterns {
		names, err := fs.Glob(root.FS(), p)
		if err != nil {
			return fmt.Errorf("remove %s: %w", p, err)
		}
		for _, name := range names {
			if err := root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	if key := m.keyring; key != "" {
		b, err := os.ReadFile(key)
		if err != nil {
			return err
		}
		if err := put(root, strings.TrimPrefix(key, "/"), b); err != nil {
			return err
		}
	}
	const from = "base/files"
	return fs.WalkDir(recipes, from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := recipes.ReadFile(name)
		if err != nil {
			return err
		}
		return put(root, strings.TrimPrefix(name, from+"/"), b)
	})
}

// put writes a file that everybody may read, in place of what is there.
func put(root *os.Root, name string, content []byte) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	if err := root.WriteFile(name, content, 0o644); err != nil {
		return err
	}
	return root.Chmod(name, 0o644)
}

// installed counts the packages in dpkg's status file.
func installed(root *os.Root) (int, error) {
	f, err := root.Open("var/lib/dpkg/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := 0
	s := bufio.NewScanner(f)
	for s.Scan() {
		if s.Text() == "Status: install ok installed" {
			n++
		}
	}
	return n, s.Err()
}

// discard removes a tree that was not finished, unless file systems are still
// mounted in it: those are the machine's own.
func discard(dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	mounts, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), " "+dir+"/") {
		return soulbox.Errorf(soulbox.Internal, "%s still has file systems mounted in it and was left", dir)
	}
	return os.RemoveAll(dir)
}

// lines returns the lines of a recipe's file that say something.
func lines(name string) ([]string, error) {
	b, err := recipes.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all, nil
}
