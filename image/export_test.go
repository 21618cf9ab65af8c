package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
)

// config is what BuildKit says of an image: more than its author meant.
const config = `{"architecture":"` + runtime.GOARCH + `","os":"linux","author":"Ada","variant":"v8",
 "config": {"User":"app:staff","Env":["PATH=/bin","A=<b>"],"WorkingDir":"/srv","Entrypoint":["/bin/run"],"Cmd":["-v"],
  "ExposedPorts":{"8080/tcp":{}},"Volumes":{"/data":{}},"Labels":{"who":"é"},"StopSignal":"SIGINT","Shell":["/bin/bash","-c"],"OnBuild":["RUN true"],
  "Healthcheck":{"Test":["CMD","true"],"StartInterval":1000000000}},
 "rootfs":{"type":"layers","diff_ids":["sha256:00"]},"history":[{"created_by":"RUN echo hunter2"}],"moby.buildkit.buildinfo.v1":"hunter2"}`

// exported makes an image of a layer, and returns the archive.
func exported(t *testing.T, e image.Export, layer []byte) []byte {
	t.Helper()
	e.Dir = t.TempDir()
	e.Tree = func(w io.Writer) error {
		_, err := w.Write(layer)
		return err
	}
	var b bytes.Buffer
	if err := e.Write(t.Context(), &b); err != nil {
		t.Fatalf("Write: %v", err)
	}
	if left, err := os.ReadDir(e.Dir); len(left) != 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return b.Bytes()
}

// asLayout unpacks an archive and opens the one image that its index has.
func asLayout(t *testing.T, b []byte) (v1.Image, v1.Descriptor) {
	t.Helper()
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(name, 0o700)
		} else {
			var text []byte
			if text, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(name, text, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("the index is %+v, %v; want one image", m, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img, m.Manifests[0]
}

func TestExport(t *testing.T) {
	su := entry(tar.TypeReg, "bin/su", 0o4755, "su")
	su.Uid, su.Gid = 7, 1<<21+1
	twin := entry(tar.TypeLink, "bin/twin", 0o4755, "bin/su")
	twin.Uid, twin.Gid = su.Uid, su.Gid
	packed := archive(t, entry(tar.TypeDir, "./", 0o755, ""), entry(tar.TypeDir, "bin/", 0o755, ""), su, twin, entry(tar.TypeSymlink, "sbin", 0o777, "bin"), file("big", strings.Repeat("big ", 1<<20)))
	e := image.Export{Name: "hello", Version: "1.2.3", Created: when, Meant: image.Meant([]byte(config))}
	b := exported(t, e, packed)
	if !bytes.Equal(b, exported(t, e, packed)) {
		t.Error("the same tree gives another archive")
	}
	if len(b) > len(packed)/10 {
		t.Errorf("%d bytes became %d: is the layer compressed?", len(packed), len(b))
	}
	if bytes.Contains(b, []byte("hunter2")) {
		t.Error("the archive tells how the image was made")
	}

	img, desc := asLayout(t, b)
	if err := validate.Image(img); err != nil {
		t.Errorf("the layout: %v", err)
	}
	if want := (map[string]string{"org.opencontainers.image.ref.name": "1.2.3", "io.containerd.image.name": "docker.io/library/hello:1.2.3"}); cmp.Diff(want, desc.Annotations) != "" ||
		desc.Platform == nil || desc.Platform.OS != "linux" || desc.Platform.Architecture != runtime.GOARCH {
		t.Errorf("the index says %+v", desc)
	}
	path := save(t, b)
	saved, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(saved); err != nil {
		t.Errorf("as docker save: %v", err)
	}
	names, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err != nil || len(names) != 1 || cmp.Diff([]string{"hello:1.2.3"}, names[0].RepoTags) != "" {
		t.Errorf("docker would call it %+v, %v", names, err)
	}
	for what, img := range map[string]v1.Image{"layout": img, "docker": saved} {
		raw, err := img.RawConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		var got, want struct {
			Architecture, OS, Author, Variant string
			Created                           string
			Config                            map[string]any
		}
		if err := errors.Join(json.Unmarshal(raw, &got), json.Unmarshal([]byte(config), &want)); err != nil {
			t.Fatal(err)
		}
		want.Created = "2022-03-04T05:06:07Z"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: configuration (-want +got):\n%s", what, diff)
		}
	}

	// And it comes in again as it went out.
	dir := filepath.Join(t.TempDir(), "tree")
	got, err := image.Import(t.Context(), path, dir, image.Options{})
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	if got.User != "app:staff" || got.WorkDir != "/srv" || !bytes.Equal(got.Meant, e.Meant) {
		t.Errorf("imported as %+v", got)
	}
	plain := filepath.Join(t.TempDir(), "tree")
	if _, err := image.Import(t.Context(), save(t, packed), plain, image.Options{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree(t, plain), tree(t, dir)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
}

// What nobody said anything about is a valid image, and what cannot be a name
// for docker is none.
func TestExportOfLittle(t *testing.T) {
	for name, called := range map[string]bool{"a": true, "a_b": true, "a__b-c": true, "a---b": true, "_a": false, "a_": false, "a___b": false, "-": false, "": false} {
		b := exported(t, image.Export{Name: name, Version: "1.0.0"}, archive(t, file("a", "a")))
		img, desc := asLayout(t, b)
		if err := validate.Image(img); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if _, ok := desc.Annotations["io.containerd.image.name"]; ok != called {
			t.Errorf("%q is called %+v", name, desc.Annotations)
		}
		cfg, err := img.ConfigFile()
		if err != nil || cfg.Architecture != runtime.GOARCH || cfg.OS != "linux" || !cfg.Created.IsZero() {
			t.Errorf("%q: %+v, %v", name, cfg, err)
		}
	}
}

func TestExportFails(t *testing.T) {
	broken := errors.New("broken")
	ctx, cancel := context.WithCancelCause(t.Context())
	for name, tt := range map[string]struct {
		ctx  context.Context
		tree func(w io.Writer) error
		dir  string
		is   error
		kind soulbox.Kind
	}{
		"the tree":   {t.Context(), func(io.Writer) error { return soulbox.Hide(soulbox.NotFound, broken, "gone") }, t.TempDir(), broken, soulbox.NotFound},
		"the folder": {t.Context(), nil, filepath.Join(t.TempDir(), "none"), os.ErrNotExist, soulbox.Internal},
		"canceled": {ctx, func(w io.Writer) error {
			cancel(broken)
			_, err := w.Write([]byte("x"))
			return err
		}, t.TempDir(), broken, soulbox.Internal},
	} {
		var b bytes.Buffer
		e := image.Export{Tree: tt.tree, Dir: tt.dir}
		if err := e.Write(tt.ctx, &b); !errors.Is(err, tt.is) || soulbox.KindOf(err) != tt.kind {
			t.Errorf("%s: %v, want %v of kind %v", name, err, tt.is, tt.kind)
		}
		if left, _ := os.ReadDir(tt.dir); len(left) != 0 || b.Len() != 0 {
			t.Errorf("%s: %d bytes are written and %v is left", name, b.Len(), left)
		}
	}
}

// FuzzMeant reads configurations. What is kept of one is kept of itself, and
// makes an image that can be read.
func FuzzMeant(f *testing.F) {
	for _, s := range []string{config, "", "{}", "null", "[]", `{"config":null}`, `{"config":7}`, `{"config":{"Env":["\u0000"]}}`, "{\"config\":{\"a\":\"\xff\"}}", `{"config":{"a":1,"a":2}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := image.Meant(b)
		if kept == nil {
			return
		}
		if again := image.Meant(kept); !bytes.Equal(again, kept) {
			t.Fatalf("of %q is kept %q, and of that %q", b, kept, again)
		}
		asLayout(t, exported(t, image.Export{Meant: kept}, nil))
	})
}
