package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/soulbox/soulbox/image"
	"github.com/soulbox/soulbox/internal/payload"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/template"
	"github.com/soulbox/soulbox/templates"
)

// ensureBase makes the template "base", which every client asks for that asks
// for none: of the OCI image ref, or of Debian's packages when ref is empty.
// Then it puts this binary's agent into the templates that carry another, before
// anybody makes a sandbox of them.
func ensureBase(ctx context.Context, r *template.Registry, ref string, progress func(string)) error {
	build := fromPackages
	if ref != "" {
		build = template.FromImage(ref)
	}
	if _, err := r.Ensure(ctx, "base", build, func(line string) { progress("template base: " + line) }); err != nil {
		return err
	}
	if err := r.Refresh(ctx, progress); err != nil {
		if ctx.Err() != nil {
			return err
		}
		// Sandboxes work with an older agent; without a server none do.
		r.Log.WarnContext(ctx, "templates not refreshed", "err", err)
	}
	return nil
}

func fromPackages(ctx context.Context, dir string, progress func(string)) (image.Image, error) {
	var last time.Time
	built, err := templates.Base(ctx, dir, func(p templates.Progress) {
		if now := time.Now(); now.Sub(last) >= time.Second {
			last = now
			progress(fmt.Sprintf("%s (%d packages)", p.Step, p.Done))
		}
	})
	if err != nil {
		return image.Image{}, err
	}
	return image.Image{Reference: fmt.Sprintf("Debian bookworm, %d packages", built.Packages)}, nil
}

// packer makes root images with the agent that this binary carries.
type packer struct{ images *rootfs.Store }

// Pack implements the packer of [template.Options].
func (p packer) Pack(ctx context.Context, dir, source string, started time.Time) (id, user string, err error) {
	agent, err := payload.Open(payload.Agent)
	if err != nil {
		return "", "", err
	}
	defer agent.Close()
	u, err := rootfs.Prepare(dir, agent)
	if err != nil {
		return "", "", err
	}
	img, err := p.images.Build(ctx, dir, rootfs.BuildOptions{Source: source, Started: started})
	if err != nil {
		return "", "", err
	}
	return img.ID, u.Name, nil
}

// Stale implements the packer of [template.Options].
func (p packer) Stale(_ context.Context, images []string) ([]string, error) {
	agent, err := payload.Open(payload.Agent)
	if err != nil {
		return nil, err
	}
	defer agent.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, agent); err != nil {
		return nil, err
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	var stale []string
	for _, id := range images {
		if img, err := p.images.Get(id); err != nil || img.Agent != sum {
			stale = append(stale, id) // Unpack says what is wrong with one that cannot be read
		}
	}
	return stale, nil
}

// Unpack implements the packer of [template.Options].
func (p packer) Unpack(ctx context.Context, image, dir string) error {
	return p.images.Unpack(ctx, image, dir)
}

// Archive implements the packer of [template.Options].
func (p packer) Archive(ctx context.Context, image string, w io.Writer) error {
	return p.images.Archive(ctx, image, w)
}

// Retain implements the packer of [template.Options].
func (p packer) Retain(ctx context.Context, images []string) error {
	return p.images.Retain(ctx, images)
}
