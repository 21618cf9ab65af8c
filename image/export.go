package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"regexp"
	"runtime"
	"time"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

// An Export says what [Export.Write] makes an image of.
type Export struct {
	// Tree writes the one layer, a tar without compression.
	Tree func(w io.Writer) error
	// Meant is how its author meant it to be run, as in [Image]. Nil: nobody
	// said anything.
	Meant []byte
	// Name and Version are what it is called by those who load it, if both are
	// what they take for a name.
	Name, Version string
	Created       time.Time
	// Dir is where the layer waits until its digest is known.
	Dir string
}

// meant is what is kept of an image's configuration. What it was made by, which
// history tells, is nobody's business but its author's.
type meant struct {
	Author  string          `json:"author,omitempty"`
	Variant string          `json:"variant,omitempty"` // of the processor
	Config  json.RawMessage `json:"config,omitempty"`
}

// maxMeant bounds what is kept of a configuration: the largest real ones are
// some kilobytes.
const maxMeant = 256 << 10

// Meant returns how the author of an image meant it to be run, of the JSON of
// its configuration: for [Export]. It is nil if that is strange or very large.
func Meant(config []byte) []byte {
	var m meant
	if json.Unmarshal(config, &m) != nil {
		return nil
	}
	var small bytes.Buffer
	if len(m.Config) > 0 && json.Compact(&small, m.Config) != nil {
		return nil
	}
	m.Config = small.Bytes()
	b, err := json.Marshal(m)
	if err != nil || len(b) > maxMeant || !utf8.Valid(b) { // databases take only UTF-8
		return nil
	}
	return b
}

// Write writes the image as a tar that is an OCI layout and, for older tools,
// what `docker save` writes. Memory stays the same however large it is; the
// layer waits in a file without a name, so that nothing is left of it whatever
// happens. Nothing is written to w before the layer is there: an error from
// before that can be told in another way. The same tree and words give the same
// bytes.
func (e *Export) Write(ctx context.Context, w io.Writer) error {
	f, err := os.CreateTemp(e.Dir, "layer-")
	if err != nil {
		return fmt.Errorf("export %s: %w", e.Name, full(err))
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("export %s: %w", e.Name, err)
	}
	l, err := e.pack(ctx, f)
	if err != nil {
		return fmt.Errorf("export %s: %w", e.Name, full(err))
	}
	if err := e.send(ctx, l, w); err != nil {
		return fmt.Errorf("export %s: %w", e.Name, err)
	}
	return nil
}

// full says so when a disk is full.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return soulbox.Hide(soulbox.Unavailable, err, "the disk of this machine is full")
	}
	return err
}

// A layer is a compressed one in a file.
type layer struct {
	file *os.File
	size int64
	sum  digest.Digest // of the file
	diff digest.Digest // of what was compressed
}

// pack writes the layer into f. Everybody reads gzip.
func (e *Export) pack(ctx context.Context, f *os.File) (layer, error) {
	packed, plain := &sink{w: f, sum: sha256.New()}, &sink{ctx: ctx, sum: sha256.New()}
	z := gzip.NewWriter(packed)
	plain.w = z
	if err := e.Tree(plain); err != nil {
		return layer{}, err
	}
	if err := z.Close(); err != nil {
		return layer{}, err
	}
	return layer{f, packed.n, packed.digest(), plain.digest()}, nil
}

// A sink counts and sums what goes through it.
type sink struct {
	ctx context.Context //nolint:containedctx // lives no longer than the call it is made for; nil: never ends
	w   io.Writer
	sum hash.Hash // nil: nobody wants to know
	n   int64
}

func (s *sink) Write(p []byte) (int, error) {
	if s.ctx != nil && s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	n, err := s.w.Write(p)
	s.n += int64(n)
	if s.sum != nil {
		s.sum.Write(p[:n])
	}
	return n, err
}

func (s *sink) digest() digest.Digest { return digest.NewDigest(digest.SHA256, s.sum) }

// An outline is everything of an archive but the layer.
type outline struct {
	config, manifest, index, saved []byte
}

// outline makes the JSON around a layer.
func (e *Export) outline(l layer) (o outline, err error) {
	var m meant
	if e.Meant != nil {
		if err := json.Unmarshal(e.Meant, &m); err != nil {
			return o, err
		}
	}
	if m.Config == nil {
		m.Config = json.RawMessage("{}")
	}
	var created *time.Time
	if !e.Created.IsZero() {
		created = new(e.Created.UTC())
	}
	platform := ocispecs.Platform{OS: "linux", Architecture: runtime.GOARCH, Variant: m.Variant}
	marshal := func(v any) (b []byte) {
		if err == nil {
			b, err = json.Marshal(v)
		}
		return b
	}
	o.config = marshal(struct {
		Created *time.Time `json:"created,omitempty"`
		Author  string     `json:"author,omitempty"`
		ocispecs.Platform

		Config  json.RawMessage    `json:"config"`
		RootFS  ocispecs.RootFS    `json:"rootfs"`
		History []ocispecs.History `json:"history"`
	}{
		created, m.Author, platform, m.Config,
		ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.diff}},
		[]ocispecs.History{{Created: created, CreatedBy: "soulbox template export"}},
	})
	o.manifest = marshal(ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Config: descriptor(ocispecs.MediaTypeImageConfig, o.config),
		Layers: []ocispecs.Descriptor{{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: l.sum, Size: l.size}},
	})
	image := descriptor(ocispecs.MediaTypeImageManifest, o.manifest)
	image.Platform = &platform
	saved := tarball.Descriptor{Config: blobPath(digest.FromBytes(o.config)), Layers: []string{blobPath(l.sum)}, RepoTags: []string{}}
	if repository.MatchString(e.Name) && tag.MatchString(e.Version) {
		called := e.Name + ":" + e.Version
		saved.RepoTags = append(saved.RepoTags, called)
		image.Annotations = map[string]string{
			ocispecs.AnnotationRefName: e.Version,
			"io.containerd.image.name": "docker.io/library/" + called, // for containerd, also in docker
		}
	}
	o.index = marshal(ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: []ocispecs.Descriptor{image}})
	o.saved = marshal(tarball.Manifest{saved})
	return o, err
}

// What docker takes for the name of a repository and for a tag.
var (
	repository = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)
	tag        = regexp.MustCompile(`^\w[\w.-]{0,127}$`)
)

func descriptor(kind string, b []byte) ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: kind, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

const blobFolder = "blobs/sha256/"

func blobPath(d digest.Digest) string { return blobFolder + d.Encoded() }

// send writes the archive, small things first.
func (e *Export) send(ctx context.Context, l layer, w io.Writer) error {
	o, err := e.outline(l)
	if err != nil {
		return err
	}
	out := tar.NewWriter(&sink{ctx: ctx, w: w})
	put := func(kind byte, name string, size int64, from io.Reader) {
		if err != nil {
			return
		}
		mode := int64(0o644)
		if kind == tar.TypeDir {
			mode = 0o755
		}
		if err = out.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Size: size, Mode: mode, ModTime: time.Unix(0, 0)}); err == nil && from != nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{out}, from, make([]byte, 256<<10))
		}
	}
	for _, f := range []struct {
		name string
		text []byte
	}{
		{ocispecs.ImageLayoutFile, []byte(`{"imageLayoutVersion":"` + ocispecs.ImageLayoutVersion + `"}`)},
		{ocispecs.ImageIndexFile, o.index},
		{"manifest.json", o.saved},
		{"blobs/", nil},
		{blobFolder, nil},
		{blobPath(digest.FromBytes(o.config)), o.config},
		{blobPath(digest.FromBytes(o.manifest)), o.manifest},
	} {
		if f.text == nil {
			put(tar.TypeDir, f.name, 0, nil)
			continue
		}
		put(tar.TypeReg, f.name, int64(len(f.text)), bytes.NewReader(f.text))
	}
	put(tar.TypeReg, blobPath(l.sum), l.size, io.NewSectionReader(l.file, 0, l.size))
	if err != nil {
		return err
	}
	return out.Close()
}
