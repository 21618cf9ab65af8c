package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// stageName is the folder beside an environment's files in which a change is
// prepared, so that moving files is renaming them.
const stageName = ".soulbox-change"

// Step tells how a change goes on.
type Step struct {
	Name    string // "resolve", "download", "install", "verify" or "rollback"
	Package string // which it is about, if it is about one
	// Done of Total are packages; in steps "install" and "rollback" files. Total
	// is 0 while nobody knows it.
	Done, Total int
	Text        string // what the installer says
}

// Change is a package that is there, or gone, or has another version now.
type Change struct {
	Name, Version, Was string // Version is empty when it is gone, Was when it is new
}

// base is what every named environment has, so that code runs in it and people
// find the pip that they know.
var base = Batch{Packages: []string{"ipykernel", "pip"}}

// Install installs a batch of packages in an environment, and makes a named one
// that is not there. It tells what it does while it does it. When it fails, the
// error says whether all is as before.
func (s *Set) Install(ctx context.Context, name string, b Batch, tell func(Step)) (_ []Change, err error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if _, err := b.check(); err != nil {
		return nil, err
	}
	release, err := s.take(name)
	if err != nil {
		return nil, err
	}
	defer release()
	defer func() { err = timely(ctx, err) }()
	t, err := s.tool(ctx)
	if err != nil {
		return nil, err
	}
	e, err := s.find(name)
	var told *RefusalError
	switch {
	case err == nil:
		return s.install(ctx, t, e, &b, tell, s.record(name))
	case !errors.As(err, &told) || told.Kind != NotFound:
		return nil, err
	}
	return s.create(ctx, t, name, &b, tell)
}

// create makes a named environment and installs the first batch in it.
func (s *Set) create(ctx context.Context, t tool, name string, b *Batch, tell func(Step)) (_ []Change, err error) {
	if s.options.Taken(name) {
		return nil, refuse(Conflict, "an environment cannot be called %s: a kernel is", name)
	}
	names, err := s.named()
	if err != nil {
		return nil, err
	}
	if len(names) >= maxNamed {
		return nil, refuse(Conflict, "there are %d environments, which is the most there may be", maxNamed)
	}
	python, err := s.options.Python()
	if err != nil {
		return nil, err
	}
	j := &journal{path: s.record(name), record: record{State: making, Environment: s.dir(name), Spec: s.spec(name)}}
	if err := j.write(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = s.undo(j, err, tell)
		}
	}()
	if _, err := work(ctx, s.command(ctx, python, "-m", "venv", "--without-pip", "--clear", s.dir(name)), func(string) {}); err != nil {
		return nil, err
	}
	e := s.at(name)
	inner := s.record(name + ".first")
	first, err := s.install(ctx, t, e, &base, tell, inner)
	if err != nil {
		return nil, fmt.Errorf("prepare environment %s: %w", name, err)
	}
	then, err := s.install(ctx, t, e, b, tell, inner)
	if err != nil {
		return nil, err
	}
	if err := s.writeSpec(e); err != nil {
		return nil, err
	}
	if err := os.Remove(j.path); err != nil {
		return nil, err
	}
	return merge(first, then), nil
}

// merge returns two changes as one: what the second has brought again is as the
// second says.
func merge(first, then []Change) []Change {
	for _, f := range first {
		i := slices.IndexFunc(then, func(c Change) bool { return normal(c.Name) == normal(f.Name) })
		if i < 0 {
			then = append(then, f)
		} else {
			then[i].Was = ""
		}
	}
	return then
}

// writeSpec makes the kernel of an environment known.
func (s *Set) writeSpec(e *env) error {
	dir := s.spec(e.name)
	if err := MakeDir(dir); err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{
		"argv":         []string{e.python, "-m", "ipykernel_launcher", "-f", "{connection_file}"},
		"display_name": "Python (" + e.name + ")", "language": "python",
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "kernel.json"), text, 0o644) //nolint:gosec // every program may read it
}

const (
	tooLong     = "it took longer than it may"
	interrupted = "it was interrupted"
)

// timely returns what is to be said of an error that came before anything had
// begun: when time is up, that.
func timely(ctx context.Context, err error) error {
	var f *FailureError
	switch {
	case err == nil || errors.As(err, &f) || ctx.Err() == nil:
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &FailureError{Text: tooLong, RolledBack: true}
	}
	return &FailureError{Text: interrupted, RolledBack: true}
}

// undo settles a change that failed and returns what is to be said about it.
func (s *Set) undo(j *journal, err error, tell func(Step)) error {
	var f *FailureError
	switch {
	case errors.As(err, &f):
	case errors.Is(err, context.DeadlineExceeded):
		f = &FailureError{Text: tooLong}
	case errors.Is(err, context.Canceled):
		f = &FailureError{Text: interrupted}
	default:
		f = &FailureError{Text: err.Error()}
	}
	tell(Step{Name: "rollback", Total: len(j.Moves)})
	bad := j.settle()
	f = &FailureError{Text: f.Text, RolledBack: bad == nil}
	if bad != nil {
		f.Text += "; and the environment could not be brought back to what it was: " + bad.Error()
	} else {
		tell(Step{Name: "rollback", Done: len(j.Moves), Total: len(j.Moves)})
	}
	return f
}

// install installs a batch in an environment that is there.
func (s *Set) install(ctx context.Context, t tool, e *env, b *Batch, tell func(Step), path string) (_ []Change, err error) {
	lines, err := b.check()
	if err != nil {
		return nil, err
	}
	before, err := s.ask(ctx, e)
	if err != nil {
		return nil, err
	}
	j, err := begin(path, before)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = s.undo(j, err, tell)
		}
	}()
	ill, err := t.check(ctx, e)
	if err != nil {
		return nil, err
	}
	r := &request{env: e, file: filepath.Join(j.Stage, "wanted.txt"), index: b.Index}
	hashes := map[string][]string{}
	var text strings.Builder
	for _, l := range lines {
		text.WriteString(l.line() + "\n")
		hashes[l.name] = append(hashes[l.name], l.hashes...)
		r.hashes = r.hashes || len(l.hashes) > 0
	}
	if b.Upgrade {
		r.more = []string{"--upgrade"}
	}
	plan, err := s.resolve(ctx, t, r, text.String(), tell)
	if err != nil {
		return nil, err
	}
	if len(plan) == 0 { // all is there
		return nil, j.settle()
	}
	if err := s.fill(ctx, t, r, plan, hashes, filepath.Join(j.Stage, "new"), tell); err != nil {
		return nil, err
	}
	was := before.versions()
	var changes []Change
	for _, i := range plan {
		changes = append(changes, Change{i.name, i.version, was[normal(i.name)]})
	}
	return changes, s.commit(ctx, t, e, j, before, changes, ill, tell)
}

// begin writes down that a change begins, and makes its stage.
func begin(path string, a *about) (*journal, error) {
	j := &journal{path: path, record: record{State: staging, Stage: filepath.Join(a.Paths.Data, stageName)}}
	if err := j.write(); err != nil {
		return nil, err
	}
	// One that is there was left by somebody who is not there any more.
	if err := errors.Join(os.RemoveAll(j.Stage), os.MkdirAll(j.Stage, 0o700)); err != nil {
		return nil, errors.Join(err, j.settle())
	}
	return j, nil
}

func (s *Set) resolve(ctx context.Context, t tool, r *request, text string, tell func(Step)) ([]item, error) {
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	found := map[string]bool{}
	r.hear = func(text string, h heard) {
		if h.what == "found" && !found[h.name] {
			found[h.name] = true
			tell(Step{Name: "resolve", Package: h.name, Done: len(found), Text: text})
		}
	}
	tell(Step{Name: "resolve"})
	plan, err := t.resolve(ctx, r)
	if err == nil {
		tell(Step{Name: "resolve", Done: len(plan), Total: len(plan)})
	}
	return plan, err
}

// fill downloads what was planned, builds what has to be built, and unpacks it.
func (s *Set) fill(ctx context.Context, t tool, r *request, plan []item, hashes map[string][]string, dir string, tell func(Step)) error {
	var text strings.Builder
	for _, i := range plan {
		known := hashes[normal(i.name)]
		if r.hashes && len(known) == 0 {
			return &FailureError{Text: fmt.Sprintf("%s has no hash in requirements; when one package has, all must", i.name), RolledBack: true}
		}
		text.WriteString(strings.Join(append([]string{i.line()}, known...), " ") + "\n")
	}
	if err := os.WriteFile(r.file, []byte(text.String()), 0o600); err != nil {
		return err
	}
	begun, has := map[string]bool{}, map[string]bool{}
	r.hear = func(text string, h heard) {
		name := normal(h.name)
		switch {
		case h.what == "has" || h.what == "found" && begun[name]:
			has[name] = true
		case h.what == "":
			return
		}
		begun[name] = true
		tell(Step{Name: "download", Package: h.name, Done: min(len(has), len(plan)), Total: len(plan), Text: strings.TrimSpace(text)})
	}
	tell(Step{Name: "download", Total: len(plan)})
	if err := t.stage(ctx, r, dir); err != nil {
		return err
	}
	tell(Step{Name: "download", Done: len(plan), Total: len(plan)})
	return nil
}

// commit brings what is in the stage into the environment, and takes out of it
// what is replaced.
func (s *Set) commit(ctx context.Context, t tool, e *env, j *journal, before *about, changes []Change, ill []string, tell func(Step)) error {
	if err := s.plan(ctx, e, j, before, changes); err != nil {
		return err
	}
	if err := j.advance(moving); err != nil {
		return err
	}
	err := j.forward(func(done, total int) { tell(Step{Name: "install", Done: done, Total: total}) })
	if err != nil {
		return err
	}
	// The folder of a package that is gone looks like one that is broken.
	j.tidy([]string{before.Paths.Pure, before.Paths.Plat, before.Paths.Scripts, before.Paths.Data})
	tell(Step{Name: "verify", Total: len(changes)})
	if err := s.verify(ctx, t, e, changes, ill); err != nil {
		return err
	}
	tell(Step{Name: "verify", Done: len(changes), Total: len(changes)})
	if err := j.advance(done); err != nil {
		return err
	}
	_ = j.settle() // what is left goes with the next change, or when the set is opened again
	return nil
}

// plan writes into the journal which files will be moved.
func (s *Set) plan(ctx context.Context, e *env, j *journal, before *about, changes []Change) error {
	var names []string
	for _, c := range changes {
		if c.Was != "" {
			names = append(names, c.Name)
		}
	}
	a, err := s.ask(ctx, e, names...)
	if err != nil {
		return err
	}
	out := map[string]bool{}
	for _, p := range a.Packages {
		files, asked := a.Files[normal(p.Name)]
		if !asked {
			continue
		}
		if !p.Own {
			if i := slices.IndexFunc(changes, func(c Change) bool { return normal(c.Name) == normal(p.Name) }); changes[i].Version != "" {
				continue // the new one comes before it
			}
			return &FailureError{Text: p.Name + " cannot be taken out: it belongs to the system", RolledBack: true}
		}
		if files == nil {
			return &FailureError{Text: p.Name + " cannot be taken out: nobody has written down which files it has", RolledBack: true}
		}
		for _, f := range files {
			if !below(f, []string{a.Paths.Pure, a.Paths.Plat, a.Paths.Data, a.Paths.Scripts}) {
				return &FailureError{Text: fmt.Sprintf("%s cannot be taken out: it has files elsewhere, such as %s", p.Name, f), RolledBack: true}
			}
			out[f] = true
		}
	}
	in, made, err := arrivals(filepath.Join(j.Stage, "new"), before)
	if err != nil {
		return err
	}
	for _, m := range in {
		if fi, err := os.Lstat(m.To); err == nil {
			if fi.IsDir() {
				return &FailureError{Text: m.To + " is a folder, and would become a file", RolledBack: true}
			}
			out[m.To] = true
		}
	}
	j.Made = made
	for f := range out {
		j.Moves = append(j.Moves, move{From: f, Out: true})
	}
	slices.SortFunc(j.Moves, func(a, b move) int { return strings.Compare(a.From, b.From) })
	for i := range j.Moves {
		j.Moves[i].To = filepath.Join(j.Stage, "old", fmt.Sprint(i))
	}
	j.Moves = append(j.Moves, in...)
	return nil
}

// arrivals returns the files in a stage with where they go, and the folders that
// have to be made for them, the highest first.
func arrivals(stage string, a *about) (moves []move, made []string, err error) {
	if !there(stage) {
		return nil, nil, nil
	}
	root := stage
	if local := filepath.Join(stage, "local"); there(local) {
		root = local // Debian's Python has it so
	}
	folders := []struct{ pattern, to string }{
		{"lib/python*/site-packages", a.Paths.Pure},
		{"lib/python*/dist-packages", a.Paths.Pure},
		{"lib64/python*/site-packages", a.Paths.Plat},
		{"bin", a.Paths.Scripts},
		{".", a.Paths.Data},
	}
	seen := map[string]bool{}
	for _, f := range folders {
		all, err := filepath.Glob(filepath.Join(root, f.pattern))
		if err != nil {
			return nil, nil, err
		}
		for _, from := range all {
			err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || seen[path] {
					return err
				}
				seen[path] = true
				rel, err := filepath.Rel(from, path)
				if err == nil && rel != ".lock" && rel != ".gitignore" { // those are uv's, of the folder
					moves = append(moves, move{From: path, To: filepath.Join(f.to, rel)})
				}
				return err
			})
			if err != nil {
				return nil, nil, err
			}
		}
	}
	folder := map[string]bool{}
	for _, m := range moves {
		for dir := filepath.Dir(m.To); !folder[dir] && !there(dir); dir = filepath.Dir(dir) {
			folder[dir] = true
			made = append(made, dir)
		}
	}
	slices.Sort(made)
	return moves, made, nil
}

// verify says what is not as it should be after a change.
func (s *Set) verify(ctx context.Context, t tool, e *env, changes []Change, ill []string) error {
	a, err := s.ask(ctx, e)
	if err != nil {
		return err
	}
	has := a.versions()
	for i, c := range changes {
		got := has[normal(c.Name)]
		if (got == "") != (c.Version == "") {
			return fmt.Errorf("%s has version %q after the change, not %q", c.Name, got, c.Version)
		}
		changes[i].Version = got // installers write versions as they like
	}
	now, err := t.check(ctx, e)
	if err != nil {
		return err
	}
	now = slices.DeleteFunc(now, func(l string) bool { return slices.Contains(ill, l) })
	if len(now) > 0 {
		return &FailureError{Text: "packages would not fit together: " + strings.Join(now, "; "), RolledBack: true}
	}
	return nil
}

// Uninstall takes packages out of an environment. One that another one needs
// stays, and all stay with it.
func (s *Set) Uninstall(ctx context.Context, name string, packages []string, tell func(Step)) (_ []Change, err error) {
	if len(packages) == 0 || len(packages) > maxPackages {
		return nil, refuse(Invalid, "packages must name 1 to %d packages", maxPackages)
	}
	release, err := s.take(name)
	if err != nil {
		return nil, err
	}
	defer release()
	defer func() { err = timely(ctx, err) }()
	e, err := s.find(name)
	if err != nil {
		return nil, err
	}
	t, err := s.tool(ctx)
	if err != nil {
		return nil, err
	}
	before, err := s.ask(ctx, e)
	if err != nil {
		return nil, err
	}
	has := before.versions()
	var changes []Change
	for _, p := range packages {
		r, err := parse(p)
		if err != nil || normal(p) != r.name {
			return nil, refuse(Invalid, "%.100q is not the name of a package", p)
		}
		if has[r.name] == "" {
			return nil, refuse(NotFound, "%s is not installed in environment %s", p, name)
		}
		if e.name != Default && slices.Contains(base.Packages, r.name) {
			return nil, refuse(Conflict, "environment %s does not work without %s", name, p)
		}
		if !slices.ContainsFunc(changes, func(c Change) bool { return normal(c.Name) == r.name }) {
			changes = append(changes, Change{Name: p, Was: has[r.name]})
		}
	}
	j, err := begin(s.record(name), before)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = s.undo(j, err, tell)
		}
	}()
	ill, err := t.check(ctx, e)
	if err != nil {
		return nil, err
	}
	return changes, s.commit(ctx, t, e, j, before, changes, ill, tell)
}
