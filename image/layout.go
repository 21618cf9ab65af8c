package image

import (
	"bytes"
	"context"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/soulbox/soulbox"
)

// maxNesting bounds indexes within indexes; real ones nest twice.
const maxNesting = 5

// layout unpacks an archive that is an OCI image layout:
// index.json, then blobs under their digests.
func (a *archiveFile) layout(ctx context.Context, u *unpacker) (Image, error) {
	b, err := a.json("index.json")
	if err != nil {
		return Image{}, err
	}
	for range maxNesting {
		index, err := v1.ParseIndexManifest(bytes.NewReader(b))
		if err != nil {
			return Image{}, err
		}
		desc, err := choose(index.Manifests, u.arch)
		if err != nil {
			return Image{}, err
		}
		if b, err = a.blob(desc.Digest.Hex, blobName(desc.Digest)); err != nil {
			return Image{}, err
		}
		if !desc.MediaType.IsImage() {
			continue
		}
		return a.manifest(ctx, u, desc, b)
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
		return v1.Descriptor{}, soulbox.Errorf(soulbox.NotFound, "the archive has no image for linux/%s", arch)
	case 1:
		return fit[0], nil
	}
	for _, d := range fit[1:] {
		if d.Digest != fit[0].Digest { // one image may have several names
			return v1.Descriptor{}, soulbox.Errorf(soulbox.Invalid, "the archive holds %d images; save only one", len(fit))
		}
	}
	return fit[0], nil
}

func (a *archiveFile) manifest(ctx context.Context, u *unpacker, desc v1.Descriptor, raw []byte) (Image, error) {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return Image{}, err
	}
	config, err := a.blob(m.Config.Digest.Hex, blobName(m.Config.Digest))
	if err != nil {
		return Image{}, err
	}
	img, err := partial.CompressedToImage(&layoutImage{archive: a, desc: desc, manifest: raw, config: config})
	if err != nil {
		return Image{}, err
	}
	got, err := u.image(ctx, img)
	got.Digest = desc.Digest.String()
	return got, err
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// A layoutImage is what the library needs to make an image of.
type layoutImage struct {
	archive          *archiveFile
	desc             v1.Descriptor
	manifest, config []byte
}

func (l *layoutImage) RawManifest() ([]byte, error)        { return l.manifest, nil }
func (l *layoutImage) RawConfigFile() ([]byte, error)      { return l.config, nil }
func (l *layoutImage) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }

func (l *layoutImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	return &layoutLayer{archive: l.archive, digest: h}, nil
}

type layoutLayer struct {
	archive *archiveFile
	digest  v1.Hash
}

func (l *layoutLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layoutLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *layoutLayer) Size() (int64, error)                { return l.archive.sizes[blobName(l.digest)], nil }

func (l *layoutLayer) Compressed() (io.ReadCloser, error) { return l.archive.find(blobName(l.digest)) }
