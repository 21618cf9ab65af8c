package template

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
)

// Refresh gives every build whose image carries another agent than the packer's
// an image with that one, those that templates stand for first, and sweeps.
// Trees are not kept, so each image is unpacked, made fit again and packed, which
// takes some seconds. progress is called with lines for people, unless it is nil.
//
// What people see of a build stays as it is, and so do sandboxes that run. A
// build that cannot be refreshed is logged and keeps its image, whose agent still
// works, and Refresh goes on. It returns an error when ctx ends, or when the
// store or the packer does not answer.
func (r *Registry) Refresh(ctx context.Context, progress func(string)) error {
	progress = orQuiet(progress)
	all, err := r.Store.ReadyBuilds(ctx)
	if err != nil {
		return fmt.Errorf("refresh templates: %w", err)
	}
	images := make([]string, len(all))
	for i, b := range all {
		images[i] = b.Image
	}
	stale, err := r.Packer.Stale(ctx, images)
	if err != nil {
		return fmt.Errorf("refresh templates: %w", err)
	}
	done := map[string]bool{} // several builds may have one image
	for _, b := range all {
		if !slices.Contains(stale, b.Image) || done[b.Image] {
			continue
		}
		done[b.Image] = true
		name := r.nameOf(ctx, b)
		progress(fmt.Sprintf("template %s: putting in this version's agent, which takes some seconds", name))
		if err := r.refresh(ctx, b); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			progress(fmt.Sprintf("template %s: keeps its older agent: %s", name, soulbox.MessageOf(err)))
			r.Log.WarnContext(ctx, "template not refreshed", "template", b.Template, "build", b.ID, "err", err)
		}
	}
	release, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := r.sweep(ctx); err != nil {
		return fmt.Errorf("refresh templates: sweep images: %w", err)
	}
	return nil
}

// nameOf returns what people call the template of a build.
func (r *Registry) nameOf(ctx context.Context, b *soulbox.Build) string {
	t, err := r.Store.Template(ctx, b.Template)
	switch {
	case err != nil:
		return string(b.Template)
	case t.Build == b.ID:
		return t.Name
	default:
		return t.Name + "@" + b.Version.String()
	}
}

// refresh makes the image of a build again, and so that of all that have the
// same one. The records come last.
func (r *Registry) refresh(ctx context.Context, b *soulbox.Build) error {
	started := time.Now()
	work, err := os.MkdirTemp(r.Dir, "refresh-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	tree := filepath.Join(work, "tree")
	if err := r.Packer.Unpack(ctx, b.Image, tree); err != nil {
		return err
	}
	release, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	now := b.Clone()
	if now.Image, now.User, err = r.Packer.Pack(ctx, tree, b.Facts.Base, started); err != nil {
		return err
	}
	n, err := r.Store.RenewBuilds(ctx, b, now)
	if err != nil || n == 0 { // they are gone meanwhile; the sweep takes ours
		return err
	}
	r.Log.InfoContext(ctx, "template refreshed", "template", b.Template, "build", b.ID, "builds", n, "image", now.Image, "before", b.Image, "took", time.Since(started))
	return nil
}
