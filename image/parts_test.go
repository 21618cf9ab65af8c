package image_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
)

// A shelf holds the blobs of images.
type shelf map[soulbox.Digest][]byte

func (s shelf) put(t *testing.T, b []byte, err error) soulbox.Digest {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	d := soulbox.DigestOf(b)
	s[d] = b
	return d
}

// add puts all of an image onto the shelf and returns its manifest.
func (s shelf) add(t *testing.T, img v1.Image) soulbox.Manifest {
	t.Helper()
	config, err := img.RawConfigFile()
	s.put(t, config, err)
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
		s.put(t, b, errors.Join(err, rc.Close()))
	}
	raw, err := img.RawManifest()
	d := s.put(t, raw, err)
	kind, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	return soulbox.Manifest{Digest: d, Type: string(kind), Content: raw}
}

func (s shelf) parts(m soulbox.Manifest) soulbox.ImageParts {
	return soulbox.ImageParts{Name: "team/app", Manifest: m, Open: func(d soulbox.Digest) (io.ReadCloser, error) {
		b, ok := s[d]
		if !ok {
			return nil, soulbox.Errorf(soulbox.NotFound, "there is no blob %s", d)
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}}
}

// indexOf is an index of images by their architectures, as a manifest.
func (s shelf) indexOf(t *testing.T, images map[string]v1.Image) soulbox.Manifest {
	t.Helper()
	var index v1.ImageIndex = empty.Index
	for arch, img := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	raw, err := index.RawManifest()
	return soulbox.Manifest{Digest: s.put(t, raw, err), Type: "application/vnd.oci.image.index.v1+json", Content: raw}
}

func TestAssemble(t *testing.T) {
	s := shelf{}
	img := imageOf(t, twoLayers(t)...)
	other := configured(t, imageOf(t, archive(t, file("wrong", ""))), "riscv64")
	m := s.add(t, img)
	s.add(t, other)
	for name, m := range map[string]soulbox.Manifest{
		"an image": m, "an index": s.indexOf(t, map[string]v1.Image{runtime.GOARCH: img, "riscv64": other}),
	} {
		dir := filepath.Join(t.TempDir(), "tree")
		got, err := image.Assemble(t.Context(), s.parts(m), dir, image.Options{})
		if err != nil {
			t.Errorf("Assemble of %s: %v", name, err)
			continue
		}
		want := meant()
		digest, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		want.Reference, want.Digest, want.Entries, want.Bytes, want.Skipped = "team/app", digest.String(), 16, 27, 1
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(wantTree, tree(t, dir)); diff != "" {
			t.Errorf("tree of %s (-want +got):\n%s", name, diff)
		}
	}
}

// What is wrong with blobs is found, whoever has said that they are right, and
// nothing is left.
func TestAssembleRefuses(t *testing.T) {
	img := imageOf(t, archive(t, file("a", strings.Repeat("hard to compress? no. ", 1000))))
	other := configured(t, imageOf(t, archive(t, file("a", ""))), "riscv64")
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	layer := soulbox.Digest(hash.String())
	for name, tt := range map[string]struct {
		change func(s shelf, m *soulbox.Manifest)
		limits image.Limits
		want   soulbox.Kind
	}{
		"no layer":              {change: func(s shelf, _ *soulbox.Manifest) { delete(s, layer) }, want: soulbox.NotFound},
		"no configuration":      {change: func(s shelf, _ *soulbox.Manifest) { delete(s, soulbox.DigestOf(config)) }, want: soulbox.NotFound},
		"another configuration": {change: func(s shelf, _ *soulbox.Manifest) { s[soulbox.DigestOf(config)] = []byte("{}") }, want: soulbox.Invalid},
		"a large configuration": {change: func(s shelf, _ *soulbox.Manifest) { s[soulbox.DigestOf(config)] = make([]byte, 5<<20) }, want: soulbox.TooLarge},
		"another layer":         {change: func(s shelf, _ *soulbox.Manifest) { s[layer] = compress(t, archive(t, file("b", ""))) }, want: soulbox.Invalid},
		"a layer that is cut":   {change: func(s shelf, _ *soulbox.Manifest) { s[layer] = s[layer][:len(s[layer])/2] }, want: soulbox.Invalid},
		"too many bytes":        {limits: image.Limits{Bytes: 100}, want: soulbox.TooLarge},
		"no digest":             {change: func(_ shelf, m *soulbox.Manifest) { m.Digest = "sha256:12" }, want: soulbox.Invalid},
		"no JSON":               {change: func(_ shelf, m *soulbox.Manifest) { m.Content = []byte("<html>") }, want: soulbox.Invalid},
		"no image for us": {change: func(s shelf, m *soulbox.Manifest) {
			s.add(t, other)
			*m = s.indexOf(t, map[string]v1.Image{"riscv64": other})
		}, want: soulbox.NotFound},
		"an index of nothing": {change: func(s shelf, m *soulbox.Manifest) { *m = s.indexOf(t, nil) }, want: soulbox.NotFound},
		"for another machine": {change: func(s shelf, m *soulbox.Manifest) { *m = s.add(t, other) }, want: soulbox.Invalid},
	} {
		s := shelf{}
		m := s.add(t, img)
		if tt.change != nil {
			tt.change(s, &m)
		}
		dir := filepath.Join(t.TempDir(), "tree")
		_, err := image.Assemble(t.Context(), s.parts(m), dir, image.Options{Limits: tt.limits})
		if err == nil || soulbox.KindOf(err) != tt.want {
			t.Errorf("%s: kind %v, %v; want kind %v", name, soulbox.KindOf(err), err, tt.want)
		}
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*")); len(left) != 0 || err != nil {
			t.Errorf("%s: left over: %v, %v", name, left, err)
		}
	}
}
