package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/soulbox/soulbox"
)

// pull unpacks an image of a registry while it comes in; nothing is stored
// compressed. The library compares each manifest, configuration and layer with
// its digest.
func pull(ctx context.Context, reference string, u *unpacker, opts Options) (Image, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return Image{}, soulbox.Hide(soulbox.Invalid, err, fmt.Sprintf("%.200q is not the name of an image, such as python:3.12 or ghcr.io/org/name:tag", reference))
	}
	keys := opts.Keychain
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	options := []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuthFromKeychain(keys),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: u.arch}),
		remote.WithUserAgent("soulbox"),
	}
	if opts.Transport != nil {
		options = append(options, remote.WithTransport(opts.Transport))
	}
	u.progress(Progress{Step: "asking " + ref.Context().RegistryStr()})
	desc, err := remote.Get(ref, options...)
	if err != nil {
		return Image{}, refused(ref, err)
	}
	img, err := desc.Image()
	if err != nil {
		return Image{}, u.noPlatform(ref, desc, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return Image{}, refused(ref, err)
	}
	m, err := img.Manifest()
	if err != nil {
		return Image{}, refused(ref, err)
	}
	if m.Config.Size > maxJSON {
		return Image{}, soulbox.Errorf(soulbox.TooLarge, "the image's configuration has %d bytes, more than %d", m.Config.Size, maxJSON)
	}
	u.pulling = true
	got, err := u.image(ctx, &pulledImage{Image: img, u: u})
	if err != nil {
		return Image{}, refused(ref, err)
	}
	got.Reference, got.Digest = ref.Name(), digest.String()
	return got, nil
}

// noPlatform explains why an index gave no image.
func (u *unpacker) noPlatform(ref name.Reference, desc *remote.Descriptor, err error) error {
	if _, answered := errors.AsType[*transport.Error](err); answered || !desc.MediaType.IsIndex() {
		return refused(ref, err)
	}
	return soulbox.Hide(soulbox.NotFound, err, fmt.Sprintf("%s has no image for linux/%s", ref.Name(), u.arch))
}

// refused says in a sentence what went wrong at a registry.
func refused(ref name.Reference, err error) error {
	host := ref.Context().RegistryStr()
	_, told := errors.AsType[*soulbox.Error](err)
	status := 0
	if te, ok := errors.AsType[*transport.Error](err); ok {
		status = te.StatusCode
	}
	switch {
	case told, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case status == http.StatusNotFound:
		return soulbox.Hide(soulbox.NotFound, err, fmt.Sprintf("%s does not exist at %s", ref.Name(), host))
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return soulbox.Hide(soulbox.Forbidden, err, fmt.Sprintf("%s does not show %s to this server; check the name, or log in with `docker login %s`", host, ref.Name(), host))
	default:
		return soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("the registry %s did not deliver %s: %v", host, ref.Name(), err))
	}
}

// A pulledImage reports progress in the bytes that come over the network.
type pulledImage struct {
	v1.Image

	u *unpacker
}

func (p *pulledImage) Layers() ([]v1.Layer, error) {
	layers, err := p.Image.Layers()
	if err != nil {
		return nil, err
	}
	for i, l := range layers {
		// Adds what a layer can do with its compressed bytes alone.
		layers[i], err = partial.CompressedToLayer(&pulledLayer{l, fmt.Sprintf("layer %d of %d", i+1, len(layers)), p.u})
		if err != nil {
			return nil, err
		}
	}
	return layers, nil
}

type pulledLayer struct {
	partial.CompressedLayer

	step string
	u    *unpacker
}

func (p *pulledLayer) Compressed() (io.ReadCloser, error) {
	size, err := p.Size()
	if err != nil {
		return nil, err
	}
	rc, err := p.CompressedLayer.Compressed()
	if err != nil {
		return nil, err
	}
	return &pulledBytes{ReadCloser: rc, total: size, layer: p}, nil
}

// pulledBytes tells an interrupted transfer, which may go better next time,
// from a layer that was wrong from the start.
type pulledBytes struct {
	io.ReadCloser

	layer       *pulledLayer
	done, total int64
}

func (p *pulledBytes) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	p.done += int64(n)
	p.layer.u.progress(Progress{Step: p.layer.step, Done: p.done, Total: p.total})
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return n, err
	}
	if p.done < p.total {
		return n, soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("the registry stopped after %d of %d bytes of a layer", p.done, p.total))
	}
	if !errors.Is(err, io.EOF) {
		return n, soulbox.Hide(soulbox.Invalid, err, "the image is damaged: the registry sent a layer that does not have its digest")
	}
	return n, err
}
