// Package environment keeps environments of Python: which packages are in them,
// and how that changes.
//
// "default" is the Python that code runs in unless it says otherwise. The others
// have names, and are virtual environments; each is made when something is
// installed in it for the first time, and has a kernel of the same name.
//
// # How an environment changes
//
// uv, or pip where there is no uv, says what is to be done and unpacks it in a
// folder of its own, a stage beside the environment. All that may fail for
// reasons of the package's (it does not exist, it conflicts, it cannot be built)
// fails there. Then the new files are moved into the environment and those that
// they replace out of it, by renaming; and it is asked whether all that was whole
// before is whole now. When anything goes wrong, the files are moved back. So a
// batch of packages is installed, or nothing has happened.
//
// What is to be moved is written down before. Whoever opens the set again after a
// process was killed finds the record, and moves back what was moved.
//
// A program that imports a package in the moment in which it is replaced may see
// some of both; so it is with every installer.
package environment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Default is the name of the environment that is always there.
const Default = "default"

const (
	maxName   = 32
	maxNamed  = 100 // environments
	askTime   = time.Minute
	pyvenvCfg = "pyvenv.cfg"
)

// Kind says what is wrong with a request.
type Kind int

// What may be wrong.
const (
	Invalid  Kind = iota + 1 // what was asked makes no sense
	NotFound                 // there is no such environment or package
	Conflict                 // it cannot be done now, or not to this one
)

// RefusalError says why nothing was begun, in a sentence for whoever asked.
type RefusalError struct {
	Kind Kind
	Text string
}

// Error returns the sentence.
func (r *RefusalError) Error() string { return r.Text }

func refuse(kind Kind, format string, args ...any) error {
	return &RefusalError{kind, fmt.Sprintf(format, args...)}
}

// FailureError says why something that was begun did not succeed, in sentences for
// whoever asked. Some of them may be the installer's.
type FailureError struct {
	Text string
	// RolledBack says that the environment is as it was.
	RolledBack bool
}

// Error returns the sentences.
func (f *FailureError) Error() string { return f.Text }

// Options says where a set finds things.
type Options struct {
	// Dir is the folder of named environments. It is made when it is needed.
	Dir string
	// Specs is the folder of their kernels' specs.
	Specs string
	// Python returns the program that runs the default environment.
	Python func() (string, error)
	// Env is the environment of installers. Its PATH may have uv in it.
	Env []string
	// Taken reports whether a name belongs to a kernel of somebody else.
	Taken func(name string) bool
}

// Set is the environments of a sandbox. It is safe for concurrent use; what
// changes one of them waits for nobody and is refused while another one does.
type Set struct {
	options Options

	mu   sync.Mutex
	busy map[string]bool // +checklocks:mu — environments that change
}

// Open returns the set after it has undone what was interrupted.
func Open(o Options) (*Set, error) {
	s := &Set{options: o, busy: map[string]bool{}}
	return s, s.recoverAll()
}

// Environment is what is said about one.
type Environment struct {
	Name     string
	Python   string // its version
	Path     string
	Packages int
}

// Package is one that is installed.
type Package struct {
	Name, Version string
}

// env is where an environment is.
type env struct {
	name, dir, python string
}

func (s *Set) journals() string          { return filepath.Join(s.options.Dir, ".changes") }
func (s *Set) dir(name string) string    { return filepath.Join(s.options.Dir, name) }
func (s *Set) spec(name string) string   { return filepath.Join(s.options.Specs, name) }
func (s *Set) record(name string) string { return filepath.Join(s.journals(), name+".json") }

// exists reports whether an environment is whole: its kernel comes last and goes
// first.
func (s *Set) exists(name string) bool {
	return isFile(filepath.Join(s.dir(name), pyvenvCfg)) && isFile(filepath.Join(s.spec(name), "kernel.json"))
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// CheckName says why an environment cannot have a name.
func CheckName(name string) error {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return refuse(Invalid, "an environment's name has lower-case letters, digits and hyphens only")
		}
	}
	if name == "" || len(name) > maxName || name[0] == '-' {
		return refuse(Invalid, "an environment's name has 1 to %d characters and does not begin with a hyphen", maxName)
	}
	return nil
}

// find returns an environment that is there.
func (s *Set) find(name string) (*env, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if name == Default {
		python, err := s.options.Python()
		if err != nil {
			return nil, refuse(Conflict, "there is no Python in this sandbox: %v", err)
		}
		return &env{name: name, python: python}, nil
	}
	if !s.exists(name) {
		return nil, refuse(NotFound, "environment %s does not exist; it is made when something is installed in it", name)
	}
	return s.at(name), nil
}

// at returns where a named environment is.
func (s *Set) at(name string) *env {
	dir := s.dir(name)
	return &env{name: name, dir: dir, python: filepath.Join(dir, "bin", "python")}
}

// take reserves an environment for a change.
func (s *Set) take(name string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[name] {
		return nil, refuse(Conflict, "environment %s is being changed by another request; try again when that has ended", name)
	}
	s.busy[name] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, name)
	}, nil
}

// List returns all environments, the default one first.
func (s *Set) List(ctx context.Context) ([]Environment, error) {
	all := []Environment{}
	names, err := s.named()
	if err != nil {
		return nil, err
	}
	for _, name := range append([]string{Default}, names...) {
		e, err := s.find(name)
		if err != nil {
			if name == Default {
				return nil, err
			}
			continue // removed meanwhile
		}
		about, err := s.ask(ctx, e)
		if err != nil {
			return nil, err
		}
		path := e.dir
		if path == "" {
			path = about.Paths.Data
		}
		all = append(all, Environment{Name: name, Python: about.Version, Path: path, Packages: len(about.Packages)})
	}
	return all, nil
}

// named returns the names of environments that are whole, sorted.
func (s *Set) named() ([]string, error) {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if CheckName(name) == nil && name != Default && s.exists(name) && len(names) < maxNamed {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Packages returns what is installed in an environment, sorted by name.
func (s *Set) Packages(ctx context.Context, name string) ([]Package, error) {
	e, err := s.find(name)
	if err != nil {
		return nil, err
	}
	about, err := s.ask(ctx, e)
	if err != nil {
		return nil, err
	}
	all := make([]Package, len(about.Packages))
	for i, p := range about.Packages {
		all[i] = Package{p.Name, p.Version}
	}
	return all, nil
}

// Freeze returns what is installed in an environment, as a text that Install
// understands.
func (s *Set) Freeze(ctx context.Context, name string) (string, error) {
	all, err := s.Packages(ctx, name)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, p := range all {
		fmt.Fprintf(&b, "%s==%s\n", p.Name, p.Version)
	}
	return b.String(), nil
}

// Remove deletes a named environment and its kernel.
func (s *Set) Remove(_ context.Context, name string) error {
	if name == Default {
		return refuse(Conflict, "the environment %s cannot be removed", name)
	}
	release, err := s.take(name)
	if err != nil {
		return err
	}
	defer release()
	if _, err := s.find(name); err != nil {
		return err
	}
	j := &journal{path: s.record(name), record: record{State: removing, Environment: s.dir(name), Spec: s.spec(name)}}
	if err := j.write(); err != nil {
		return err
	}
	return j.settle()
}
