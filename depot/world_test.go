package depot_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/blob/dir"
	"github.com/soulbox/soulbox/depot"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/sqlite"
	"github.com/soulbox/soulbox/template"
)

const (
	ours   = soulbox.TeamID("team-1")
	theirs = soulbox.TeamID("team-2")
)

var app = soulbox.Repository{Namespace: "ours", Name: "app"}

// A world is a depot on the real store, the real blobs and the real templates.
type world struct {
	*depot.Depot

	store     *store.Store
	blobs     *dir.Store
	templates *template.Registry
	images    *rootfs.Store
	dir       string
}

func open(t *testing.T, change func(*depot.Options)) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	var err error
	if w.store, err = sqlite.Open(t.Context(), filepath.Join(w.dir, "db")); err != nil {
		t.Fatal(err)
	}
	for id, slug := range map[soulbox.TeamID]string{ours: "ours", theirs: "theirs"} {
		if err := w.store.InsertTeam(t.Context(), &soulbox.Team{ID: id, Slug: slug, Limits: soulbox.Limits{Sandboxes: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	if w.images, err = rootfs.Open(log, filepath.Join(w.dir, "images")); err != nil {
		t.Fatal(err)
	}
	w.templates, err = template.Open(template.Options{
		Log: log, Store: w.store, Packer: packer{w.images}, Dir: filepath.Join(w.dir, "work"), BuildDir: filepath.Join(w.dir, "builds"),
		Defaults: soulbox.Size{CPUs: 1, Memory: soulbox.GiB, Disk: soulbox.GiB, PIDs: 100},
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.blobs, err = dir.Open(filepath.Join(w.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	o := depot.Options{Log: log, Store: w.store, Templates: w.templates, Blobs: w.blobs, Dir: filepath.Join(w.dir, "uploads")}
	if change != nil {
		change(&o)
	}
	if w.Depot, err = depot.Open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(w.Close(), w.templates.Close(), w.store.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// packer makes root images as the server does, with an agent of no use.
type packer struct{ *rootfs.Store }

func (p packer) Pack(ctx context.Context, dir, source string, started time.Time) (string, string, error) {
	u, err := rootfs.Prepare(dir, bytes.NewReader([]byte("agent")))
	if err != nil {
		return "", "", err
	}
	img, err := p.Build(ctx, dir, rootfs.BuildOptions{Source: source, Started: started})
	return img.ID, u.Name, err
}

func (p packer) Stale(context.Context, []string) ([]string, error) { return nil, nil }

// layer is a tar with one file.
func layer(t *testing.T, name, text string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// imageOf is an image for a machine of an architecture; empty: this one.
func imageOf(t *testing.T, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	if arch == "" {
		arch = runtime.GOARCH
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// raw returns the manifest of an image or an index.
func raw(t *testing.T, m interface{ RawManifest() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// upload pushes a blob.
func (w *world) upload(t *testing.T, team soulbox.TeamID, repo soulbox.Repository, b []byte) soulbox.Digest {
	t.Helper()
	d := soulbox.DigestOf(b)
	id, err := w.BeginUpload(t.Context(), team, repo)
	if err == nil {
		err = w.FinishUpload(t.Context(), team, repo, id, -1, d, bytes.NewReader(b))
	}
	if err != nil {
		t.Fatalf("upload of %d bytes to %s: %v", len(b), repo, err)
	}
	return d
}

// blobsOf returns the configuration and the layers of an image.
func blobsOf(t *testing.T, img v1.Image) [][]byte {
	t.Helper()
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	all := [][]byte{config}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// parts uploads what an image consists of, without its manifest.
func (w *world) parts(t *testing.T, team soulbox.TeamID, repo soulbox.Repository, img v1.Image) (all []soulbox.Digest) {
	t.Helper()
	for _, b := range blobsOf(t, img) {
		all = append(all, w.upload(t, team, repo, b))
	}
	return all
}

// push pushes an image whole and returns the digest of its manifest, with those
// of its parts.
func (w *world) push(t *testing.T, team soulbox.TeamID, repo soulbox.Repository, ref string, img v1.Image) (soulbox.Digest, []soulbox.Digest) {
	t.Helper()
	parts := w.parts(t, team, repo, img)
	d, err := w.PutManifest(t.Context(), team, repo, ref, "", raw(t, img))
	if err != nil {
		t.Fatalf("PutManifest of %s:%s: %v", repo, ref, err)
	}
	return d, append(parts, d)
}

// kept lists the blobs that there are.
func (w *world) kept(t *testing.T) map[soulbox.Digest]bool {
	t.Helper()
	all := map[soulbox.Digest]bool{}
	for info, err := range w.blobs.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all[info.Digest] = true
	}
	return all
}

func wantKind(t *testing.T, what string, err error, want soulbox.Kind) {
	t.Helper()
	if err == nil || soulbox.KindOf(err) != want {
		t.Errorf("%s: error %v of kind %d, want kind %d", what, err, soulbox.KindOf(err), want)
	}
}
