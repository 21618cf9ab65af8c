package environment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/soulbox/soulbox/internal/jsonfile"
)

// state is how far a change has come.
type state string

const (
	making   state = "making"   // a named environment: it goes as a whole
	staging  state = "staging"  // nothing but the stage has changed
	moving   state = "moving"   // files may have been moved
	done     state = "done"     // only the stage has to go
	removing state = "removing" // an environment that is to go
)

// record is what is written down about a change.
type record struct {
	State       state    `json:"state"`
	Stage       string   `json:"stage,omitempty"`
	Moves       []move   `json:"moves,omitempty"`
	Made        []string `json:"made,omitempty"`        // folders that were not there
	Environment string   `json:"environment,omitempty"` // that is being made or removed
	Spec        string   `json:"spec,omitempty"`
}

// move is a file that changes its place.
type move struct {
	From string `json:"from"`
	To   string `json:"to"`
	Out  bool   `json:"out,omitempty"` // out of the environment
}

// journal is the record of a change, kept in a file.
type journal struct {
	path string
	record
}

func (j *journal) write() error {
	if err := MakeDir(filepath.Dir(j.path)); err != nil {
		return err
	}
	return jsonfile.Replace(j.path, j.record)
}

// advance writes the next state down.
func (j *journal) advance(to state) error {
	j.State = to
	return j.write()
}

// settle ends a change: what it has done is undone, unless it is done. It may be
// called again after it was interrupted.
func (j *journal) settle() error {
	switch j.State {
	case making, removing:
		if err := errors.Join(os.RemoveAll(j.Spec), os.RemoveAll(j.Environment)); err != nil {
			return err
		}
	case moving:
		if err := j.back(); err != nil {
			return err
		}
	case staging, done:
	default:
		return fmt.Errorf("%s: no such state %q", j.path, j.State)
	}
	if j.Stage != "" {
		if err := os.RemoveAll(j.Stage); err != nil {
			return err
		}
	}
	return os.Remove(j.path)
}

// forward moves all files, and tells how many are moved now and then.
func (j *journal) forward(tell func(done, total int)) error {
	const times, few = 20, 100
	often := max(few, len(j.Moves)/times)
	for i, m := range j.Moves {
		if i%often == 0 {
			tell(i, len(j.Moves))
		}
		if err := os.MkdirAll(filepath.Dir(m.To), 0o755); err != nil { //nolint:gosec // every program may read it
			return err
		}
		if err := os.Rename(m.From, m.To); err != nil {
			return err
		}
	}
	tell(len(j.Moves), len(j.Moves))
	return nil
}

// back moves the files back that were moved, the last one first.
func (j *journal) back() error {
	for _, m := range slices.Backward(j.Moves) {
		if !there(m.To) || !m.Out && there(m.From) {
			continue // it was not moved
		}
		if err := os.MkdirAll(filepath.Dir(m.From), 0o755); err != nil { //nolint:gosec // every program may read it
			return err
		}
		if err := os.Rename(m.To, m.From); err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(j.Made) {
		prune(dir)
	}
	return nil
}

// tidy removes the folders that have become empty, neither these nor any above
// them.
func (j *journal) tidy(roots []string) {
	for _, m := range j.Moves {
		for dir := filepath.Dir(m.From); m.Out && below(dir, roots) && !slices.Contains(roots, dir) && prune(dir); {
			dir = filepath.Dir(dir)
		}
	}
}

func below(dir string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return strings.HasPrefix(dir, r+string(filepath.Separator)) })
}

// prune removes a folder in which nothing is but what Python made of files that
// were there.
func prune(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "__pycache__" {
		return false
	}
	return os.RemoveAll(dir) == nil
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// recoverAll settles what was interrupted.
func (s *Set) recoverAll() error {
	entries, err := os.ReadDir(s.journals())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(s.journals(), e.Name())
		if strings.HasSuffix(path, jsonfile.Next) { // the old one still holds
			errs = append(errs, os.Remove(path))
			continue
		}
		rec, err := jsonfile.Load[record](path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		j := &journal{path: path, record: rec}
		if err := j.settle(); err != nil {
			errs = append(errs, fmt.Errorf("undo a change of environments: %w", err))
		}
	}
	return errors.Join(errs...)
}

// MakeDir makes a folder and those above it, for whom the first one above it that
// is there belongs to: in somebody's home they are his.
func MakeDir(dir string) error {
	_, err := os.Stat(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := MakeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // every program may read it
		return err
	}
	fi, err := os.Stat(filepath.Dir(dir))
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && os.Getuid() == 0 {
		return os.Lchown(dir, int(st.Uid), int(st.Gid))
	}
	return nil
}
