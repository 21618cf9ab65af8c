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

// Refresh gives every template whose image carries another agent than the
// packer's an image with that one, one after the other, and sweeps. Trees are
// not kept, so each image is unpacked, made fit again and packed, which takes
// some seconds. progress is called with lines for people, unless it is nil.
//
// What people see of a template stays as it is, and so do sandboxes that run.
// A template that cannot be refreshed is logged and keeps its image, whose agent
// still works, and Refresh goes on. It returns an error when ctx ends, or when
// the store or the packer does not answer.
func (r *Registry) Refresh(ctx context.Context, progress func(string)) error {
	progress = orQuiet(progress)
	all, err := r.Store.AllTemplates(ctx)
	if err != nil {
		return fmt.Errorf("refresh templates: %w", err)
	}
	images := make([]string, len(all))
	for i, t := range all {
		images[i] = t.Image
	}
	stale, err := r.Packer.Stale(ctx, images)
	if err != nil {
		return fmt.Errorf("refresh templates: %w", err)
	}
	for _, t := range all {
		if !slices.Contains(stale, t.Image) {
			continue
		}
		progress(fmt.Sprintf("template %s: putting in this version's agent, which takes some seconds", t.Name))
		if err := r.refresh(ctx, t); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			progress(fmt.Sprintf("template %s: keeps its older agent: %s", t.Name, soulbox.MessageOf(err)))
			r.Log.WarnContext(ctx, "template not refreshed", "template", t.ID, "name", t.Name, "err", err)
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

// refresh makes one template's image again. The row comes last.
func (r *Registry) refresh(ctx context.Context, t *soulbox.Template) error {
	started := time.Now()
	work, err := os.MkdirTemp(r.Dir, "refresh-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	tree := filepath.Join(work, "tree")
	if err := r.Packer.Unpack(ctx, t.Image, tree); err != nil {
		return err
	}
	release, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	packed, user, err := r.Packer.Pack(ctx, tree, t.Source, started)
	if err != nil {
		return err
	}
	now, err := r.Store.Template(ctx, t.ID)
	switch {
	case soulbox.KindOf(err) == soulbox.NotFound, err == nil && now.Image != t.Image:
		return nil // removed or imported anew meanwhile; the sweep takes ours
	case err != nil:
		return err
	}
	now.Image, now.User = packed, user
	if err := r.Store.PutTemplate(ctx, now); err != nil {
		return err
	}
	r.Log.InfoContext(ctx, "template refreshed", "template", t.ID, "name", t.Name, "image", packed, "before", t.Image, "took", time.Since(started))
	return nil
}
