package template_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/sqlite"
	"github.com/soulbox/soulbox/template"
)

const (
	ours   = soulbox.TeamID("team-1")
	theirs = soulbox.TeamID("team-2")
	house  = soulbox.TeamID("")
)

// A world is a registry on the real store and the real images, with stand-ins
// for what builds and bakes.
type world struct {
	*template.Registry

	dir    string
	store  *store.Store
	images *rootfs.Store
	packer *packer
	engine *engine
	baker  *baker
	log    *log

	allowed []soulbox.Isolation
	faults  *fault.Points
	change  func(*template.Options)
}

// tester is what a test and a process that is to die have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Context() context.Context
}

// log is what the registry tells its operator.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func open(t *testing.T) *world {
	t.Helper()
	w := raise(t, t.TempDir())
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// raise makes the world in a folder, in which there may be one already.
func raise(t tester, dir string) *world {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	limits := soulbox.Limits{Sandboxes: 10, Timeout: time.Hour, Memory: 4 * soulbox.GiB, CPUs: 8}
	for _, team := range []*soulbox.Team{{ID: ours, Name: "Ours", Slug: "ours", Limits: limits}, {ID: theirs, Name: "Theirs", Slug: "theirs", Limits: limits}} {
		if _, err := db.Team(t.Context(), team.ID); err == nil {
			continue
		}
		if err := db.InsertTeam(t.Context(), team); err != nil {
			t.Fatal(err)
		}
	}
	images, err := rootfs.Open(slog.New(slog.DiscardHandler), filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{dir: dir, store: db, images: images, packer: &packer{Store: images, agent: "agent 1"}, log: &log{}}
	w.engine = &engine{packer: w.packer, dir: filepath.Join(dir, "engine")}
	w.baker = &baker{dir: filepath.Join(dir, "snapshots"), unreadable: map[soulbox.SnapshotID]bool{}}
	if err := errors.Join(os.MkdirAll(w.engine.dir, 0o755), os.MkdirAll(w.baker.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	return w
}

// reopen makes the registry anew, as a restart of the server does.
func (w *world) reopen(t tester) {
	t.Helper()
	if w.Registry != nil {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	o := template.Options{
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Store: w.store, Packer: w.packer, Engine: w.engine, Baker: w.baker,
		Dir: filepath.Join(w.dir, "work"), BuildDir: filepath.Join(w.dir, "builds"), Faults: w.faults,
		Defaults:   soulbox.Size{CPUs: 2, Memory: soulbox.GiB, Disk: soulbox.GiB, PIDs: 100},
		MaxArchive: 16 * soulbox.MiB, MaxUpload: soulbox.MiB, MaxUploads: 3 * soulbox.MiB, Allowed: w.allowed,
	}
	if w.change != nil {
		w.change(&o)
	}
	r, err := template.Open(o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	w.Registry = r
}

// start begins to build.
func (w *world) start(t tester) {
	t.Helper()
	if err := w.Start(t.Context()); err != nil {
		t.Fatalf("Start: %v", err)
	}
}

// A packer is the server's, with an agent of its own and hooks.
type packer struct {
	*rootfs.Store

	agent   string
	packing func() error // before Pack does anything
	packed  func()       // when the image is there

	archiving func(image string) // before Archive does anything

	mu       sync.Mutex
	unpacked []string
}

func (p *packer) Pack(ctx context.Context, dir, source string, started time.Time) (image, user string, err error) {
	if p.packing != nil {
		if err := p.packing(); err != nil {
			return "", "", err
		}
	}
	u, err := rootfs.Prepare(dir, strings.NewReader(p.agent))
	if err != nil {
		return "", "", err
	}
	img, err := p.Build(ctx, dir, rootfs.BuildOptions{Source: source, Started: started})
	if p.packed != nil {
		p.packed()
	}
	return img.ID, u.Name, err
}

func (p *packer) Stale(_ context.Context, images []string) ([]string, error) {
	sum := sha256.Sum256([]byte(p.agent))
	return slices.DeleteFunc(slices.Clone(images), func(id string) bool {
		img, err := p.Get(id)
		return err == nil && img.Agent == hex.EncodeToString(sum[:])
	}), nil
}

func (p *packer) Unpack(ctx context.Context, image, dir string) error {
	p.mu.Lock()
	p.unpacked = append(p.unpacked, image)
	p.mu.Unlock()
	return p.Store.Unpack(ctx, image, dir)
}

func (p *packer) Archive(ctx context.Context, image string, w io.Writer) error {
	if p.archiving != nil {
		p.archiving(image)
	}
	return p.Store.Archive(ctx, image, w)
}

// have compares the images that are there.
func (w *world) have(t *testing.T, want ...string) {
	t.Helper()
	all, err := w.images.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, got := slices.Clone(want), []string{}
	for _, img := range all {
		got = append(got, img.ID)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(slices.Compact(want), got); diff != "" && len(want)+len(got) > 0 {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}

// idle makes sure that nothing is under work.
func (w *world) idle(t *testing.T) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(w.dir, "work")); len(left) != 0 || err != nil {
		t.Errorf("left in the work folder: %v, %v", left, err)
	}
}

// row reads a template from the store.
func (w *world) row(t *testing.T, id soulbox.TemplateID) *soulbox.Template {
	t.Helper()
	tpl, err := w.store.Template(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return tpl
}

// tree unpacks a template's image.
func (w *world) tree(t *testing.T, image string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if err := w.images.Unpack(t.Context(), image, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func content(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// plain is a builder of a tree with one file.
func plain(text string) template.Builder {
	return func(_ context.Context, dir string, progress func(string)) (image.Image, error) {
		progress("making a tree")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return image.Image{}, err
		}
		return image.Image{Reference: "a test"}, os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600)
	}
}

// ensure makes a template of the house.
func (w *world) ensure(t *testing.T, name, text string) *soulbox.Template {
	t.Helper()
	tpl, err := w.Ensure(t.Context(), name, plain(text), nil)
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	return tpl
}
