package buildkit_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

var updateCorpus = flag.Bool("update-corpus", false, "rewrite what the files in testdata/corpus say that plain BuildKit makes")

// A sample is one Dockerfile of the corpus. Its context is the folder
// testdata/corpus/NAME. Beside that lies NAME.txt: what it is about, how to
// build it, and what comes of it.
type sample struct {
	name    string
	context string // a copy of the folder, with what context.sh did to it
	target  string
	args    map[string]string
	secrets map[string][]byte
	prepare string   // a shell script that makes in the context what Git cannot keep
	fails   bool     // it cannot be built
	sums    []string // folders of which want has only a sum
	want    string   // what plain BuildKit makes of it
	ignore  string   // Dockerfile.dockerignore

	file *txtar.Archive
}

const (
	corpusDir  = "testdata/corpus"
	wantPart   = "want"
	scriptPart = "context.sh"
)

// readSample reads the sample called name and makes its context in dir.
func readSample(t *testing.T, name, dir string) *sample {
	t.Helper()
	s := &sample{name: name, context: dir, args: map[string]string{}, secrets: map[string][]byte{}}
	var err error
	if s.file, err = txtar.ParseFile(filepath.Join(corpusDir, name+".txt")); err != nil {
		t.Fatal(err)
	}
	_, options, _ := strings.Cut(string(s.file.Comment), "\n\n")
	for line := range strings.Lines(options) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		left, right, _ := strings.Cut(value, "=")
		switch key {
		case "":
		case "target":
			s.target = value
		case "fails":
			s.fails = true
		case "sum":
			s.sums = append(s.sums, value)
		case "arg":
			s.args[left] = right
		case "secret":
			s.secrets[left] = []byte(right)
		default:
			t.Fatalf("%s.txt: unknown option %q", name, key)
		}
	}
	for _, f := range s.file.Files {
		switch f.Name {
		case wantPart:
			s.want = string(f.Data)
		case scriptPart:
			s.prepare = string(f.Data)
		default:
			t.Fatalf("%s.txt: unknown part %q", name, f.Name)
		}
	}
	if err := s.makeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// makeContext copies the context, so that nothing depends on how the repository
// was checked out.
func (s *sample) makeContext(ctx context.Context) error {
	from := filepath.Join(corpusDir, s.name)
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		to := filepath.Join(s.context, rel)
		switch d.Type() { //nolint:exhaustive // the corpus has no other kinds
		case fs.ModeDir:
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			return os.Chmod(to, 0o755)
		case fs.ModeSymlink:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			return err
		}
		if fi.Mode()&0o100 != 0 {
			return os.Chmod(to, 0o755)
		}
		return os.Chmod(to, 0o644)
	})
	if err != nil {
		return err
	}
	if s.prepare != "" {
		cmd := exec.CommandContext(ctx, "sh", "-euc", "umask 022\n"+s.prepare)
		cmd.Dir = s.context
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", scriptPart, err, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(s.context, "Dockerfile.dockerignore")); err == nil {
		s.ignore = string(b)
	}
	return agePath(s.context)
}

// agePath makes everything at path and below old.
func agePath(path string) error {
	return filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil || st.Mtim.Sec < buildEra {
			return err
		}
		at := unix.NsecToTimeval(longAgo.UnixNano())
		return unix.Lutimes(name, []unix.Timeval{at, at})
	})
}

func (s *sample) dockerfile() (string, error) {
	b, err := os.ReadFile(filepath.Join(s.context, "Dockerfile"))
	return string(b), err
}

// exceptions lists where engine and plain BuildKit differ and are right to.
// Times of last change are not among them: see buildEra.
var exceptions = []struct {
	sample string
	path   string // in the tree, of what is not compared; empty: it is no file
	reason string
}{
	{"attributes", "/copied", "gVisor lets no step write an attribute of the kind security.*, so setcap fails, and cp leaves out what a program may; those in base images, from ADD and from COPY stay"},
	{"hardlinks-run", "/h/soft2", "BuildKit exports the second name of a symbolic link as another link"},
	{"heredoc-run", "/dev", "a script is mounted below /dev, where runc has mounted something before; gVisor makes the place in the image, and BuildKit removes it: the folder has another time of last change"},
	{"special-files", "/pipe", "a named pipe that a step makes is in gVisor's memory, and ends with the step; so is a socket"},
	{"special-files", "/node", "gVisor lets no step make a device"},
	{"syntax", "", "# syntax=docker/dockerfile names an image, which plain BuildKit would pull; the engine takes the frontend in BuildKit, which is of the same release, and so does plain BuildKit without that line"},
	{"surroundings", "", "BuildKit tells steps by variables OTEL_… where it collects traces; a step in gVisor cannot reach that, and has none of them. Samples that look at their environment look past these"},
}

// except takes what is excepted out of a tree of the sample called name.
func (m manifest) except(name string) manifest {
	m = maps.Clone(m)
	for _, e := range exceptions {
		if e.sample == name {
			delete(m, e.path)
		}
	}
	return m
}

const (
	syntaxLine = "# syntax=docker/dockerfile"
	noSyntax   = "# no syntax"
)

// plainDockerfile returns the Dockerfile for plain BuildKit.
func (s *sample) plainDockerfile() (string, error) {
	text, err := s.dockerfile()
	if after, ok := strings.CutPrefix(text, syntaxLine); ok {
		text = noSyntax + after
	}
	return text, err
}

// check compares what plain BuildKit makes with what is written down.
func (s *sample) check(t *testing.T, got *outcome, bases map[string]manifest) {
	t.Helper()
	meaning, _, err := configLines(got.config)
	if err != nil {
		t.Fatal(err)
	}
	var base manifest
	if len(got.layers) > 0 {
		base = bases[got.layers[0]] // nil: it is built on nothing
	}
	tree := got.tree.sum(s.sums).since(base)
	text := known(bases).Replace(strings.Join(append(append(tree, ""), meaning...), "\n") + "\n")
	if *updateCorpus {
		s.file.Files = slices.DeleteFunc(s.file.Files, func(f txtar.File) bool { return f.Name == wantPart })
		s.file.Files = append(s.file.Files, txtar.File{Name: wantPart, Data: []byte(text)})
		if err := os.WriteFile(filepath.Join(corpusDir, s.name+".txt"), txtar.Format(s.file), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := gocmp.Diff(strings.Split(s.want, "\n"), strings.Split(text, "\n")); d != "" {
		t.Errorf("plain BuildKit made something else than %s.txt says (-want +got):\n%s", s.name, d)
	}
}

// known replaces what differs from machine to machine: the programs in base
// images. Of a program's names in several the first by the alphabet is taken.
func known(bases map[string]manifest) *strings.Replacer {
	names := map[string]string{}
	for _, m := range bases {
		for path, line := range m {
			if at := strings.Index(line, sumMark); at > 0 {
				if name, ok := names[line[at:]]; !ok || path < name {
					names[line[at:]] = path
				}
			}
		}
	}
	var pairs []string
	for sum, path := range names {
		pairs = append(pairs, sum, "as "+path)
	}
	return strings.NewReplacer(pairs...)
}

// An ownBuildKit is the engine. Where the server would make an image of a tree,
// it reads the tree.
type ownBuildKit struct {
	*bench

	mu    sync.Mutex
	trees map[string]manifest // by what takes the place of an image's name
}

func startOwn(t *testing.T, registry string) *ownBuildKit {
	t.Helper()
	o := &ownBuildKit{trees: map[string]manifest{}}
	o.bench = newBench(t, func(opt *buildkit.Options) {
		opt.Mirrors = map[string][]string{"docker.io": {"http://" + registry}}
		opt.Pack = o.pack
	})
	return o
}

// packUser is who runs programs in an image that does not say it.
const packUser = "packed"

func (o *ownBuildKit) pack(_ context.Context, dir, _ string) (buildkit.Packed, error) {
	m, err := manifestOf(dir)
	if err != nil {
		return buildkit.Packed{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	id := fmt.Sprintf("tree %d", len(o.trees))
	o.trees[id] = m
	return buildkit.Packed{Image: id, User: packUser}, nil
}

func (o *ownBuildKit) build(ctx context.Context, s *sample) (*outcome, *buildkit.Result, error) {
	text, err := s.dockerfile()
	if err != nil {
		return nil, nil, err
	}
	j := job(soulbox.Recipe{Dockerfile: text, Context: "context of " + s.name, Target: s.target, Args: s.args})
	j.Secrets = s.secrets
	j.Uploads = func(_ context.Context, hash string) (string, error) {
		if hash != "context of "+s.name {
			return "", fmt.Errorf("there is no upload %q", hash)
		}
		return s.context, nil
	}
	var said strings.Builder
	r, err := o.engine.Build(ctx, j, func(l soulbox.BuildLine) { fmt.Fprintln(&said, l.Step, l.Message) })
	if err != nil {
		return nil, nil, fmt.Errorf("%w\n%s", err, said.String())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return &outcome{tree: o.trees[r.Image], config: r.Config}, &r, nil
}

// wantRefusal wants the engine to say that s itself is at fault.
func (o *ownBuildKit) wantRefusal(t *testing.T, s *sample) {
	t.Helper()
	_, _, err := o.build(t.Context(), s)
	if err == nil {
		t.Fatal("the engine builds what cannot be built")
	}
	if _, ok := errors.AsType[*buildkit.StepError](err); !ok && soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("the engine ends with %v, want it to blame the Dockerfile", err)
	}
}

// compare compares two builds of s.
func (s *sample) compare(t *testing.T, plain, ours *outcome) {
	t.Helper()
	if len(ours.tree) == 0 {
		t.Fatal("the engine packed nothing")
	}
	if d := differences(plain.tree.except(s.name), ours.tree.except(s.name)); d != "" {
		t.Errorf("the trees differ:\n%s", d)
	}
	want, wantHistory, err := configLines(plain.config)
	if err != nil {
		t.Fatal(err)
	}
	got, gotHistory, err := configLines(ours.config)
	if err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("the configurations differ (-BuildKit +engine):\n%s", d)
	}
	if d := gocmp.Diff(wantHistory, gotHistory); d != "" {
		t.Errorf("the histories differ (-BuildKit +engine):\n%s", d)
	}
}

// checkResult wants r to say what the image's configuration says.
func checkResult(t *testing.T, config []byte, r *buildkit.Result) {
	t.Helper()
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(config, &img); err != nil {
		t.Fatal(err)
	}
	c := img.Config
	env := map[string]string{}
	for _, v := range c.Env {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	user, _, _ := strings.Cut(c.User, ":")
	want := buildkit.Result{
		User: cmp.Or(user, packUser), Workdir: strings.TrimSuffix(c.WorkingDir, "/"), Env: env,
		Facts: soulbox.BuildFacts{
			Ports: slices.Sorted(maps.Keys(c.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(c.Volumes)),
			Entrypoint: c.Entrypoint, Command: c.Cmd, Labels: c.Labels, Author: img.Author,
		},
	}
	got := *r
	got.Image, got.Config, got.Facts.Base, got.Facts.Layers = "", nil, "", 0
	if d := gocmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("the result is not what the configuration says (-want +got):\n%s", d)
	}
}

const corpusSize = 45 // samples at least

// TestCorpus builds each Dockerfile of the corpus by plain BuildKit, where steps
// run in runc, and by the engine, where they run in gVisor.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(corpusDir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < corpusSize {
		t.Errorf("the corpus has %d samples, want %d", len(files), corpusSize)
	}
	registry, bases := serveImages(t)
	own := startOwn(t, registry)
	plain := startPlain(t, programs.daemon, registry)
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := readSample(t, name, t.TempDir())
			began := time.Now()
			theirs, err := plain.build(t.Context(), t, s)
			if s.fails {
				if err == nil {
					t.Error("plain BuildKit builds what cannot be built")
				}
				own.wantRefusal(t, s)
				return
			}
			if err != nil {
				t.Fatalf("plain BuildKit: %v", err)
			}
			s.check(t, theirs, bases)
			between := time.Now()
			ours, result, err := own.build(t.Context(), s)
			if err != nil {
				t.Fatalf("engine: %v", err)
			}
			t.Logf("plain BuildKit took %v, the engine %v", between.Sub(began), time.Since(between))
			s.compare(t, theirs, ours)
			checkResult(t, theirs.config, result)
		})
	}
}
