package template

import (
	"context"
	"errors"
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
// Builds with a snapshot are left to what [Registry.Start] does behind: their
// start commands would have to run again, which nobody should wait for.
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
	all = slices.DeleteFunc(all, func(b *soulbox.Build) bool { return b.Snapshot != "" })
	stale, err := r.stale(ctx, all)
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

// stale returns the images of builds that carry another agent.
func (r *Registry) stale(ctx context.Context, all []*soulbox.Build) ([]string, error) {
	images := make([]string, len(all))
	for i, b := range all {
		images[i] = b.Image
	}
	return r.Packer.Stale(ctx, images)
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
	now, done, err := r.repack(ctx, b)
	if err != nil {
		return err
	}
	defer done()
	n, err := r.Store.RenewBuilds(ctx, b, now)
	if err != nil || n == 0 { // they are gone meanwhile; the sweep takes ours
		return err
	}
	r.Log.InfoContext(ctx, "template refreshed", "template", b.Template, "build", b.ID, "builds", n, "image", now.Image, "before", b.Image, "took", time.Since(started))
	return nil
}

// repack makes the image of a build again, with this version's agent. It returns
// the build with the new one, which no sweep removes until done is called.
func (r *Registry) repack(ctx context.Context, b *soulbox.Build) (now *soulbox.Build, done func(), err error) {
	started := time.Now()
	work, err := os.MkdirTemp(r.Dir, "refresh-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(work)
	tree := filepath.Join(work, "tree")
	if err := r.Packer.Unpack(ctx, b.Image, tree); err != nil {
		return nil, nil, err
	}
	release, err := r.take(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	now = b.Clone()
	if now.Image, now.User, err = r.Packer.Pack(ctx, tree, b.Facts.Base, started); err != nil {
		return nil, nil, err
	}
	r.packing++
	return now, func() { r.packed(ctx, false) }, nil
}

// rebake gives the builds whose start commands run already a new image and a new
// snapshot, where those they have carry another agent or were written by a
// version of this program that this one does not understand.
func (r *Registry) rebake(ctx context.Context) error {
	all, err := r.Store.ReadyBuilds(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(b *soulbox.Build) bool { return b.Snapshot == "" })
	stale, err := r.stale(ctx, all)
	if err != nil {
		return err
	}
	done := map[soulbox.SnapshotID]bool{}
	for _, b := range all {
		if done[b.Snapshot] || !slices.Contains(stale, b.Image) && r.Baker.Restorable(ctx, b.Snapshot) {
			continue
		}
		done[b.Snapshot] = true
		if err := r.bakeAgain(ctx, b); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r.Log.WarnContext(ctx, "template not refreshed", "template", b.Template, "build", b.ID, "err", err)
		}
	}
	return nil
}

// bakeAgain makes the image and the snapshot of a build again. Until the records
// name the new snapshot, a crash leaves one that nobody knows, which goes with
// the next start.
func (r *Registry) bakeAgain(ctx context.Context, b *soulbox.Build) error {
	started := time.Now()
	t, err := r.Store.Template(ctx, b.Template)
	if err != nil {
		return err
	}
	now, done, err := r.repack(ctx, b)
	if err != nil {
		return err
	}
	defer done()
	now.Snapshot = soulbox.NewSnapshotID()
	baked, err := r.Baker.Bake(ctx, t.At(now), soulbox.Baking{Snapshot: now.Snapshot, Start: b.Recipe.Start, Ready: b.Recipe.Ready}, func(soulbox.BuildLine) {})
	if err != nil {
		return err
	}
	now.Baked = baked.Sandbox
	n, err := r.Store.RenewBuilds(ctx, b, now)
	if err != nil || n == 0 {
		return errors.Join(err, r.dropSnapshot(context.WithoutCancel(ctx), now.Snapshot))
	}
	r.mu.Lock()
	r.obsolete = append(r.obsolete, b.Snapshot)
	r.mu.Unlock()
	r.Log.InfoContext(ctx, "template refreshed", "template", b.Template, "build", b.ID, "builds", n, "image", now.Image, "before", b.Image, "took", time.Since(started))
	return nil
}

// dropObsolete removes the snapshots that others took the place of, and sweeps.
// That is not done at once: whoever makes a sandbox reads the record first and
// opens the files then, and they should still be there.
func (r *Registry) dropObsolete(ctx context.Context) error {
	r.mu.Lock()
	all := r.obsolete
	r.obsolete = nil
	r.mu.Unlock()
	for i, id := range all {
		if err := r.dropSnapshot(ctx, id); err != nil {
			r.mu.Lock()
			r.obsolete = append(r.obsolete, all[i:]...)
			r.mu.Unlock()
			return err
		}
	}
	release, err := r.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	return r.sweep(ctx)
}

// dropSnapshot removes a snapshot unless a build has it.
func (r *Registry) dropSnapshot(ctx context.Context, id soulbox.SnapshotID) error {
	release, err := r.take(ctx) // nobody copies a reference to it meanwhile
	if err != nil {
		return err
	}
	defer release()
	needed, err := r.Store.TemplateSnapshots(ctx)
	if err != nil || slices.Contains(needed, id) {
		return err
	}
	return r.removeSnapshot(ctx, id)
}
