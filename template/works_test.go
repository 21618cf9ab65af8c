package template_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
	"github.com/soulbox/soulbox/template/facts"
)

// An engine makes real images of recipes in a language of its own. Its steps, in
// a Dockerfile the lines of such, are RUN with one of:
//
//	write NAME TEXT    a file
//	install NAME VER   a package of dpkg
//	expose PORT
//	fail TEXT          the step fails
//	break              the engine does
//	block              until the build is given up
//	wait               until the test calls proceed
type engine struct {
	packer *packer
	dir    string
	config []byte // what BuildKit says of images of Dockerfiles

	mu      sync.Mutex
	jobs    []buildkit.Job
	waiting map[soulbox.BuildID]chan struct{}
}

// Lint knows one mistake.
func (e *engine) Lint(_ context.Context, dockerfile string) ([]buildkit.Problem, error) {
	var all []buildkit.Problem
	for i, line := range strings.Split(dockerfile, "\n") {
		if strings.HasPrefix(line, "RUNN ") {
			all = append(all, buildkit.Problem{Line: i + 1, Rule: "Rule", Message: "what is RUNN?", Remedy: "write RUN", URL: "url", Fatal: true})
		}
	}
	return all, nil
}

func (e *engine) Build(ctx context.Context, job buildkit.Job, say func(soulbox.BuildLine)) (buildkit.Result, error) {
	e.mu.Lock()
	e.jobs = append(e.jobs, job)
	e.mu.Unlock()
	started := time.Now()
	dir, err := os.MkdirTemp(e.dir, "tree-")
	if err != nil {
		return buildkit.Result{}, err
	}
	defer os.RemoveAll(dir)
	res := buildkit.Result{Env: map[string]string{"PATH": "/bin"}, Workdir: "/srv"}
	status, base := "", job.Recipe.Image
	if job.Base != nil {
		base = job.Base.Name + "@" + job.Base.Version.String()
	}
	if job.Recipe.Dockerfile != "" {
		base, res.Config = "a Dockerfile", e.config
	}
	say(soulbox.BuildLine{Step: "base", Message: "FROM " + base})
	steps := job.Recipe.Steps
	for line := range strings.Lines(job.Recipe.Dockerfile) {
		if command, ok := strings.CutPrefix(line, "RUN "); ok {
			steps = append(steps, soulbox.Step{Kind: soulbox.StepRun, Args: []string{strings.TrimSpace(command)}})
		}
	}
	for i, s := range steps {
		step := fmt.Sprint(i + 1)
		say(soulbox.BuildLine{Step: step, Message: string(s.Kind) + " " + strings.Join(s.Args, " ")})
		if s.Files != "" {
			if _, err := job.Uploads(ctx, s.Files); err != nil {
				return res, err
			}
		}
		words := append(strings.SplitN(s.Args[0], " ", 3), "", "")
		switch words[0] {
		case "write":
			err = os.WriteFile(filepath.Join(dir, words[1]), []byte(words[2]), 0o644)
		case "install":
			status += fmt.Sprintf("Package: %s\nStatus: install ok installed\nVersion: %s\n\n", words[1], words[2])
		case "expose":
			res.Facts.Ports = append(res.Facts.Ports, words[1])
		case "fail":
			return res, soulbox.Errorf(soulbox.Invalid, "%w", &buildkit.StepError{BuildFailure: soulbox.BuildFailure{Message: strings.TrimSpace(s.Args[0]), Step: i + 1}})
		case "break":
			return res, fmt.Errorf("the engine %s", "is broken at /secret/path")
		case "block":
			<-ctx.Done()
			return res, context.Cause(ctx)
		case "wait":
			select {
			case <-e.door(job.ID):
			case <-ctx.Done():
				return res, context.Cause(ctx)
			}
		}
		if err != nil {
			return res, err
		}
	}
	path := filepath.Join(dir, "var/lib/dpkg/status")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return res, err
	}
	if err := os.WriteFile(path, []byte(status), 0o644); err != nil {
		return res, err
	}
	found, err := facts.Read(ctx, dir)
	if err != nil {
		return res, err
	}
	found.Base, found.Ports = base, res.Facts.Ports
	res.Facts = found
	res.Image, res.User, err = e.packer.Pack(ctx, dir, base, started)
	return res, err
}

// door is closed by proceed.
func (e *engine) door(id soulbox.BuildID) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting == nil {
		e.waiting = map[soulbox.BuildID]chan struct{}{}
	}
	if e.waiting[id] == nil {
		e.waiting[id] = make(chan struct{})
	}
	return e.waiting[id]
}

func (e *engine) proceed(id soulbox.BuildID) { close(e.door(id)) }

// built returns the jobs that the engine got.
func (e *engine) built() []buildkit.Job {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.jobs)
}

// A baker writes snapshots that are files. Start commands are "exit", which
// fails, "block", and anything else.
type baker struct {
	dir string

	mu         sync.Mutex
	unreadable map[soulbox.SnapshotID]bool
	bakes      int
	forgotten  []soulbox.TemplateID
	broken     error // what RemoveSnapshot returns
}

// cake is what is in the file of a snapshot.
type cake struct{ Image, Start, Ready string }

func (b *baker) Bake(ctx context.Context, t *soulbox.Template, o soulbox.Baking, say func(soulbox.BuildLine)) (soulbox.Baked, error) {
	b.mu.Lock()
	b.bakes++
	b.mu.Unlock()
	say(soulbox.BuildLine{Message: "Running start command"})
	switch o.Start {
	case "exit":
		return soulbox.Baked{}, fmt.Errorf("bake: %w", soulbox.Errorf(soulbox.Invalid, "the start command ended"))
	case "block":
		<-ctx.Done()
		return soulbox.Baked{}, context.Cause(ctx)
	}
	text, err := json.Marshal(cake{t.Image, o.Start, o.Ready})
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, string(o.Snapshot)), text, 0o644)
	}
	return soulbox.Baked{Sandbox: soulbox.NewSandboxID(), Bytes: 1}, err
}

func (b *baker) Restorable(_ context.Context, id soulbox.SnapshotID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := os.Stat(filepath.Join(b.dir, string(id)))
	return err == nil && !b.unreadable[id]
}

func (b *baker) RemoveSnapshot(_ context.Context, id soulbox.SnapshotID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return b.broken
	}
	if err := os.Remove(filepath.Join(b.dir, string(id))); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (b *baker) ForgetTemplate(id soulbox.TemplateID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgotten = append(b.forgotten, id)
}

func (b *baker) forgot() []soulbox.TemplateID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.forgotten)
}

func (b *baker) set(broken error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = broken
}

// snapshots returns the ids of what was baked and is there.
func (b *baker) snapshots(t *testing.T) []soulbox.SnapshotID {
	t.Helper()
	all, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	ids := []soulbox.SnapshotID{}
	for _, e := range all {
		ids = append(ids, soulbox.SnapshotID(e.Name()))
	}
	return ids
}

// run makes a recipe of RUN steps.
func run(steps ...string) soulbox.Recipe {
	r := soulbox.Recipe{Image: "debian:bookworm"}
	for _, s := range steps {
		r.Steps = append(r.Steps, soulbox.Step{Kind: soulbox.StepRun, Args: []string{s}})
	}
	return r
}

// ask requests a build of ours.
func (w *world) ask(t tester, name string, recipe soulbox.Recipe) *soulbox.Build {
	t.Helper()
	_, b, err := w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: name, Recipe: recipe})
	if err != nil {
		t.Fatalf("Request: %v", err)
	}
	return b
}

// await returns a build once it is in a state, or over.
func (w *world) await(t tester, id soulbox.BuildID, state soulbox.BuildState) *soulbox.Build {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		b, err := w.store.Build(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if b.State == state {
			return b
		}
		if b.State.Over() || time.Now().After(deadline) {
			t.Fatalf("build %s is %s, want %s; its failure: %+v", id, b.State, state, b.Failure)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// make builds a recipe to its end.
func (w *world) make(t tester, name string, recipe soulbox.Recipe) *soulbox.Build {
	t.Helper()
	return w.await(t, w.ask(t, name, recipe).ID, soulbox.BuildReady)
}

// lines returns what a build of ours told, as "step|message".
func (w *world) lines(t *testing.T, b *soulbox.Build) []string {
	t.Helper()
	all, err := w.BuildLog(t.Context(), ours, b.Template, b.ID, soulbox.BuildLogQuery{})
	if err != nil {
		t.Fatalf("BuildLog: %v", err)
	}
	var text []string
	for _, l := range all {
		text = append(text, l.Step+"|"+l.Message)
	}
	return text
}

// ref reads a reference that must be one.
func ref(t tester, s string) soulbox.TemplateRef {
	t.Helper()
	r, err := soulbox.ParseTemplateRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantError compares an error's kind, and looks for a text in its sentence.
func wantError(t *testing.T, what string, err error, kind soulbox.Kind, says string) {
	t.Helper()
	if err == nil || soulbox.KindOf(err) != kind || !strings.Contains(soulbox.MessageOf(err), says) {
		t.Errorf("%s: kind %v, %v; want kind %v and %q", what, soulbox.KindOf(err), err, kind, says)
	}
}
