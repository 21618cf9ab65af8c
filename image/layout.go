package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/soulbox/soulbox"
)

// maxNesting bounds indexes within indexes; real ones nest twice.
const maxNesting = 5

// blobs are what an image consists of, by their digests.
type blobs interface {
	// small returns one that may be read into memory, and has compared its
	// digest.
	small(h v1.Hash) ([]byte, error)

	// open returns one as it is.
	open(h v1.Hash) (io.ReadCloser, error)
}

// Assemble brings an image in whose parts somebody has already, as a tree at
// dir, which must not exist. Of an index it takes the image that fits. Errors
// are as those of [Import].
func Assemble(ctx context.Context, parts soulbox.ImageParts, dir string, opts Options) (Image, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Image{}, fmt.Errorf("import %s: %w", parts.Name, err)
	}
	img, err := newUnpacker(dir, opts).parts(ctx, parts)
	if err != nil {
		return Image{}, undo(ctx, dir, parts.Name, err)
	}
	img.Reference = parts.Name
	return img, nil
}

func (u *unpacker) parts(ctx context.Context, parts soulbox.ImageParts) (Image, error) {
	if err := readable(u.dir); err != nil {
		return Image{}, err
	}
	m := parts.Manifest
	hash, err := v1.NewHash(string(m.Digest))
	if err != nil {
		return Image{}, damaged("the digest of its manifest", err)
	}
	src := handed{parts}
	desc := v1.Descriptor{MediaType: types.MediaType(m.Type), Digest: hash}
	var img Image
	if desc.MediaType.IsImage() {
		img, err = u.manifest(ctx, src, desc, m.Content)
	} else {
		img, err = u.index(ctx, src, m.Content)
	}
	if err != nil {
		return Image{}, damaged("one of its parts", err)
	}
	return img, nil
}

// handed are blobs that somebody else keeps.
type handed struct{ soulbox.ImageParts }

func (h handed) open(d v1.Hash) (io.ReadCloser, error) { return h.Open(soulbox.Digest(d.String())) }

func (h handed) small(d v1.Hash) ([]byte, error) {
	rc, err := h.open(d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, maxJSON+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxJSON:
		return nil, soulbox.Errorf(soulbox.TooLarge, "the image's %s has more than %d bytes", d, maxJSON)
	case soulbox.DigestOf(b) != soulbox.Digest(d.String()):
		return nil, soulbox.Errorf(soulbox.Invalid, "the image is damaged: %s does not have its digest", d)
	}
	return b, nil
}

// layout unpacks an archive that is an OCI image layout:
// index.json, then blobs under their digests.
func (a *archiveFile) layout(ctx context.Context, u *unpacker) (Image, error) {
	b, err := a.json("index.json")
	if err != nil {
		return Image{}, err
	}
	return u.index(ctx, laidOut{a}, b)
}

// index unpacks the image that an index, given as JSON, has for this machine.
func (u *unpacker) index(ctx context.Context, src blobs, b []byte) (Image, error) {
	for range maxNesting {
		index, err := v1.ParseIndexManifest(bytes.NewReader(b))
		if err != nil {
			return Image{}, err
		}
		desc, err := choose(index.Manifests, u.arch)
		if err != nil {
			return Image{}, err
		}
		if b, err = src.small(desc.Digest); err != nil {
			return Image{}, err
		}
		if !desc.MediaType.IsImage() {
			continue
		}
		return u.manifest(ctx, src, desc, b)
	}
	return Image{}, soulbox.Errorf(soulbox.Invalid, "the image is damaged: its index leads nowhere")
}

// choose returns the one image, or index, that fits this machine.
func choose(all []v1.Descriptor, arch string) (v1.Descriptor, error) {
	var fit []v1.Descriptor
	for _, d := range all {
		p := d.Platform
		ours := p == nil || p.OS == "linux" && p.Architecture == arch
		if ours && (d.MediaType.IsImage() || d.MediaType.IsIndex()) && d.Digest.Algorithm == "sha256" {
			fit = append(fit, d)
		}
	}
	switch len(fit) {
	case 0:
		return v1.Descriptor{}, soulbox.Errorf(soulbox.NotFound, "there is no image for linux/%s in it", arch)
	case 1:
		return fit[0], nil
	}
	for _, d := range fit[1:] {
		if d.Digest != fit[0].Digest { // one image may have several names
			return v1.Descriptor{}, soulbox.Errorf(soulbox.Invalid, "it holds %d images for linux/%s; save only one", len(fit), arch)
		}
	}
	return fit[0], nil
}

func (u *unpacker) manifest(ctx context.Context, src blobs, desc v1.Descriptor, raw []byte) (Image, error) {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return Image{}, err
	}
	config, err := src.small(m.Config.Digest)
	if err != nil {
		return Image{}, err
	}
	img, err := partial.CompressedToImage(&blobImage{src: src, desc: desc, manifest: raw, config: config})
	if err != nil {
		return Image{}, err
	}
	got, err := u.image(ctx, img)
	got.Digest = desc.Digest.String()
	return got, err
}

// laidOut are the blobs of an archive.
type laidOut struct{ *archiveFile }

func (l laidOut) small(h v1.Hash) ([]byte, error)       { return l.blob(h.Hex, blobName(h)) }
func (l laidOut) open(h v1.Hash) (io.ReadCloser, error) { return l.find(blobName(h)) }

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// A blobImage is what the library needs to make an image of.
type blobImage struct {
	src              blobs
	desc             v1.Descriptor
	manifest, config []byte
}

func (b *blobImage) RawManifest() ([]byte, error)        { return b.manifest, nil }
func (b *blobImage) RawConfigFile() ([]byte, error)      { return b.config, nil }
func (b *blobImage) MediaType() (types.MediaType, error) { return b.desc.MediaType, nil }

func (b *blobImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	return &blobLayer{src: b.src, digest: h}, nil
}

type blobLayer struct {
	src    blobs
	digest v1.Hash
}

func (b *blobLayer) Digest() (v1.Hash, error)            { return b.digest, nil }
func (b *blobLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (b *blobLayer) Compressed() (io.ReadCloser, error)  { return b.src.open(b.digest) }

// Size is asked by nobody: what comes out of a layer is what counts.
func (b *blobLayer) Size() (int64, error) { return -1, nil }
