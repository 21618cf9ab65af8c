package main

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func exportCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export NAME[:TAG|@VERSION] FILE|REGISTRY/NAME[:TAG]",
		Short: "Write a version of a template to a file as an OCI image in a tar, or push it to a registry",
		Long: "Make an OCI image of a version of a template. It goes to a file (- is standard output)\n" +
			"that docker load, podman, skopeo and soulbox template import take, or to a registry,\n" +
			"which begins with a host, as the user that docker login has kept for it. What is\n" +
			"pushed is printed with its digest.",
		Example: "  soulbox template export hello@1 hello.tar\n" +
			"  soulbox template export hello - | docker load\n" +
			"  soulbox template export hello ghcr.io/acme/hello:1",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeTemplates,
	}
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		e := &exporting{c: c, api: api, what: args[0]}
		var err error
		if e.template, e.at, err = parseAt(args[0]); err != nil {
			return err
		}
		to, err := registryRef(args[1])
		switch {
		case err != nil:
			return err
		case to != nil:
			return e.push(ctx, to)
		case args[1] != "-":
			return e.toFile(ctx, args[1])
		case c.outTTY:
			return soulbox.Errorf(soulbox.Invalid, "an archive is not for a terminal; name a file")
		default:
			return api.Templates.Export(ctx, e.template, e.at, c.out)
		}
	})
	return cmd
}

// registryRef reads where an image is to go. It is nil for a file, which is all
// that does not begin with a host, as docker tells one.
func registryRef(s string) (*name.Tag, error) {
	host, _, slash := strings.Cut(s, "/")
	if !slash || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "/") || strings.HasSuffix(s, ".tar") || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return nil, nil
	}
	tag, err := name.NewTag(s)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "%.200q is not the name of an image, such as ghcr.io/acme/hello:1; if it is a file, write ./ before it", s)
	}
	return &tag, nil
}

// exporting is one export.
type exporting struct {
	c            *cli
	api          *client.Client
	what         string // as the user says it
	template, at string
}

// fetch writes the archive, and says how far it has come.
func (e *exporting) fetch(ctx context.Context, wait *progress, w io.Writer) error {
	return e.api.Templates.Export(ctx, e.template, e.at, &tally{w: w, say: func(n int64) {
		wait.say(fmt.Sprintf("receiving %s: %d MiB", e.what, n>>20))
	}})
}

// A tally tells each MiB that goes through it.
type tally struct {
	w   io.Writer
	n   int64
	say func(n int64)
}

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	if before := t.n; (before+int64(n))>>20 > before>>20 {
		t.say(before + int64(n))
	}
	t.n += int64(n)
	return n, err
}

func (e *exporting) toFile(ctx context.Context, to string) error {
	wait := e.c.progress("packing " + e.what)
	defer wait.stop()
	// Under another name until it is whole: half of an archive looks like one.
	part := filepath.Join(filepath.Dir(to), "."+filepath.Base(to)+"-"+rand.Text())
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // G302: as docker save does
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer os.Remove(part) // it is not there any more if all went well
	if err := errors.Join(e.fetch(ctx, wait, f), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, to); err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	return nil
}

// push fetches the image into a folder, all of it, before a registry hears of
// it.
func (e *exporting) push(ctx context.Context, to *name.Tag) error {
	wait := e.c.progress("packing " + e.what)
	defer wait.stop()
	dir, err := os.MkdirTemp("", "soulbox-export-")
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	defer os.RemoveAll(dir)
	r, w := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := e.fetch(ctx, wait, w)
		w.CloseWithError(err)
		fetched <- err
	}()
	err = unpackLayout(r, dir)
	_ = r.CloseWithError(err) // never fails
	if why := <-fetched; why != nil && (err == nil || errors.Is(err, why)) {
		return why
	}
	if err != nil {
		return err
	}
	img, err := onlyImage(dir)
	if err != nil {
		return err
	}
	digest, err := pushImage(ctx, img, to, func(done, total int64) {
		wait.say(fmt.Sprintf("pushing %s: %d of %d MiB", to, done>>20, total>>20))
	})
	if err != nil {
		return err
	}
	wait.stop()
	return e.c.print("%s@%s", clean(to.Context().Name()), digest)
}

var layoutFile = regexp.MustCompile(`^(?:oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

// unpackLayout writes the files of an OCI layout in a tar into a folder, and
// leaves others out.
func unpackLayout(r io.Reader, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // an answer that breaks off says so at its end
			return err
		}
		if err != nil {
			return soulbox.Errorf(soulbox.Unavailable, "what the server sends is no archive: %w", err)
		}
		if h.Typeflag != tar.TypeReg || !layoutFile.MatchString(h.Name) {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, filepath.FromSlash(h.Name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return soulbox.Errorf(soulbox.Unavailable, "%w", err)
		}
		_, err = io.Copy(f, in) //nolint:gosec // not compressed: as much as the server sends, which the user asked for
		if err := errors.Join(err, f.Close()); err != nil {
			return soulbox.Errorf(soulbox.Unavailable, "%w", err)
		}
	}
}

// onlyImage opens the image of a layout that has one.
func onlyImage(dir string) (v1.Image, error) {
	strange := func(err error) error {
		return soulbox.Errorf(soulbox.Unavailable, "what the server sends is not one image: %w", err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, strange(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, strange(err)
	}
	if len(m.Manifests) != 1 {
		return nil, strange(fmt.Errorf("there are %d", len(m.Manifests)))
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		return nil, strange(err)
	}
	return img, nil
}

// pushImage pushes as whoever docker is at the registry. It calls say until it
// returns.
func pushImage(ctx context.Context, img v1.Image, to *name.Tag, say func(done, total int64)) (v1.Hash, error) {
	digest, err := img.Digest()
	if err != nil {
		return v1.Hash{}, soulbox.Errorf(soulbox.Unavailable, "what the server sends is not one image: %w", err)
	}
	updates := make(chan v1.Update, 16)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for u := range updates {
			if u.Error == nil {
				say(u.Complete, u.Total)
			}
		}
	}()
	err = remote.Write(to, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("soulbox"), remote.WithProgress(updates))
	<-told // Write has closed it
	if err == nil {
		return digest, nil
	}
	host, status := to.RegistryStr(), 0
	if te, ok := errors.AsType[*transport.Error](err); ok {
		status = te.StatusCode
	}
	switch {
	case ctx.Err() != nil:
		return v1.Hash{}, context.Cause(ctx)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return v1.Hash{}, soulbox.Errorf(soulbox.Forbidden, "%s does not let you push %s; log in with docker login %s", host, to, host)
	default:
		return v1.Hash{}, soulbox.Errorf(soulbox.Unavailable, "the registry %s did not take %s: %w", host, to, err)
	}
}
