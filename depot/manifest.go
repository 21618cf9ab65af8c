package depot

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/soulbox/soulbox"
)

const (
	maxManifest = 4 << 20 // bytes; what other registries accept
	maxParts    = 1000    // of one manifest
	maxReached  = 10_000  // blobs of one image, all that its index names included
	maxNesting  = 5       // indexes within indexes; real ones nest twice
)

// A manifest is one that was read.
type manifest struct {
	soulbox.Manifest

	index bool   // its parts are manifests
	parts []part // configuration and layers, or manifests
}

// A part is a blob that a manifest names.
type part struct {
	digest soulbox.Digest
	size   int64
}

// parse reads a manifest. Declared is the media type that came with it; empty:
// none did. Which one it has follows from its bytes alone: from the field for
// it, or from its fields if it is OCI's and leaves that out.
func parse(content []byte, declared string) (manifest, error) {
	m := manifest{Manifest: soulbox.Manifest{Digest: soulbox.DigestOf(content), Content: content}}
	if len(content) > maxManifest {
		return m, soulbox.Errorf(soulbox.TooLarge, "the manifest has %d bytes, more than %d", len(content), maxManifest)
	}
	var file struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Config        *v1.Descriptor  `json:"config"`
		Layers        []v1.Descriptor `json:"layers"`
		Manifests     []v1.Descriptor `json:"manifests"`
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	if err := dec.Decode(&file); err != nil {
		return m, soulbox.Hide(soulbox.Invalid, err, "the manifest is not what a manifest looks like in JSON")
	}
	if _, err := dec.Token(); err != io.EOF { // a decoder returns io.EOF itself
		return m, soulbox.Errorf(soulbox.Invalid, "something follows the manifest")
	}
	kind := file.MediaType
	switch {
	case file.SchemaVersion != 2:
		return m, soulbox.Errorf(soulbox.Invalid, "the manifest is of schema version %d; only 2 is known", file.SchemaVersion)
	case kind != "":
	case file.Config != nil:
		kind = types.OCIManifestSchema1
	default:
		kind = types.OCIImageIndex
	}
	switch kind {
	case types.OCIManifestSchema1, types.DockerManifestSchema2:
	case types.OCIImageIndex, types.DockerManifestList:
		m.index = true
	default:
		return m, soulbox.Errorf(soulbox.Invalid, "the media type %.100q is not that of a manifest or an index by OCI or Docker", kind)
	}
	if declared != "" && declared != string(kind) {
		return m, soulbox.Errorf(soulbox.Invalid, "the manifest was sent as %.100q, and is %s", declared, kind)
	}
	m.Type = string(kind)
	// A document must not be the one and the other, depending on who reads it.
	all := file.Manifests
	if !m.index {
		if file.Config == nil {
			return m, soulbox.Errorf(soulbox.Invalid, "the manifest has no configuration")
		}
		all = append([]v1.Descriptor{*file.Config}, file.Layers...)
	}
	if m.index == (file.Config != nil || file.Layers != nil) || !m.index && file.Manifests != nil {
		return m, soulbox.Errorf(soulbox.Invalid, "the manifest has the fields of an image and of an index")
	}
	if len(all) > maxParts {
		return m, soulbox.Errorf(soulbox.TooLarge, "the manifest has %d parts, more than %d", len(all), maxParts)
	}
	for _, desc := range all {
		digest, err := soulbox.ParseDigest(desc.Digest.String())
		if err != nil {
			return m, err
		}
		if desc.Size < 0 {
			return m, soulbox.Errorf(soulbox.Invalid, "the manifest says that %s has %d bytes", digest, desc.Size)
		}
		m.parts = append(m.parts, part{digest, desc.Size})
	}
	return m, nil
}

// parsed are the parts of manifests that were read before: they never change.
type parsed struct {
	mu sync.Mutex
	// +checklocks:mu
	byDigest map[soulbox.Digest]manifest // without their bytes
}

// maxParsed bounds the memory of parsed, with maxParts.
const maxParsed = 100

func (p *parsed) get(digest soulbox.Digest) (manifest, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.byDigest[digest]
	return m, ok
}

func (p *parsed) put(m manifest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byDigest == nil || len(p.byDigest) >= maxParsed {
		p.byDigest = map[soulbox.Digest]manifest{} // all afresh; better than growing
	}
	m.Content = nil
	p.byDigest[m.Digest] = m
}

// load reads a manifest from the blobs. A blob that is none is Invalid.
func (d *Depot) load(ctx context.Context, digest soulbox.Digest) (manifest, error) {
	info, err := d.Blobs.Stat(ctx, digest)
	if err != nil {
		return manifest{}, err
	}
	if info.Size > maxManifest {
		return manifest{}, soulbox.Errorf(soulbox.Invalid, "blob %s is too large for a manifest", digest)
	}
	rc, err := d.Blobs.Open(ctx, digest, 0, -1)
	if err != nil {
		return manifest{}, err
	}
	defer rc.Close()
	content, err := io.ReadAll(io.LimitReader(rc, maxManifest))
	if err != nil {
		return manifest{}, err
	}
	m, err := parse(content, "")
	if err == nil {
		d.parsed.put(m)
	}
	return m, err
}

// A reach is what manifests lead to.
type reach struct {
	blobs map[soulbox.Digest]bool // the manifests among them
	seen  map[soulbox.Digest]bool // manifests that were looked into
}

func newReach() *reach {
	return &reach{blobs: map[soulbox.Digest]bool{}, seen: map[soulbox.Digest]bool{}}
}

// follow adds to r a manifest and what it leads to. Each is looked into once:
// an index may name one as often as it likes.
func (d *Depot) follow(ctx context.Context, digest soulbox.Digest, r *reach) error {
	if r.seen[digest] {
		return nil
	}
	r.seen[digest], r.blobs[digest] = true, true
	m, ok := d.parsed.get(digest)
	if !ok {
		var err error
		if m, err = d.load(ctx, digest); err != nil {
			return err
		}
	}
	for _, p := range m.parts {
		r.blobs[p.digest] = true
		if !m.index {
			continue
		}
		// How deep this goes was bounded when it was put.
		if err := d.follow(ctx, p.digest, r); err != nil {
			return err
		}
	}
	return nil
}
