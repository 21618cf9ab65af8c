package template

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

const (
	recordTimeout = 10 * time.Second // for one record, whoever waits for it
	retryFirst    = 100 * time.Millisecond
	retryMost     = 10 * time.Second
)

// build takes one build from the queue to its end. When the registry closes
// before that, the record says that it is under work, and the next Start begins
// again.
func (r *Registry) build(ctx context.Context, id soulbox.BuildID) {
	var b *soulbox.Build
	err := r.insist(ctx, "read build", id, func(ctx context.Context) (err error) {
		b, err = r.Store.Build(ctx, id)
		return err
	})
	if err != nil || b.State.Over() {
		return // it was removed or cancelled; or we are closing
	}
	started := time.Now()
	err = r.make(ctx, b)
	switch cause := context.Cause(ctx); {
	case err == nil:
		r.Log.InfoContext(ctx, "build ready", "template", b.Template, "build", b.ID, "version", b.Version.String(), "image", b.Image, "snapshot", b.Snapshot, "took", time.Since(started))
		r.over(ctx, b)
		return
	case r.life.Err() != nil && !errors.Is(cause, errCancelled) && !errors.Is(cause, errSuperseded):
		return
	case cause != nil:
		err = cause // whatever else it says, that is why
	}
	r.fail(ctx, b, err)
}

// make takes a build through its stages. It changes b as the record changes.
func (r *Registry) make(ctx context.Context, b *soulbox.Build) error {
	from := b.State
	if err := b.Move(soulbox.BuildRunning); err != nil {
		return err
	}
	left := b.Snapshot // of an attempt that was cut off
	b.StartedAt, b.Image, b.Snapshot, b.Baked = now(), "", "", ""
	if left != "" {
		if err := r.removeSnapshot(ctx, left); err != nil {
			return err
		}
	}
	if err := r.record(ctx, b, from); err != nil {
		return err
	}
	r.Faults.Reach("build/recorded")
	r.supersede(ctx, b)
	r.say(b.ID, soulbox.BuildLine{Message: "building"})

	if err := r.solve(ctx, b); err != nil {
		return err
	}
	if bakes(b.Recipe) {
		if err := r.bake(ctx, b); err != nil {
			return err
		}
	}
	// Before the record: of a build that is over, all lines are there.
	r.say(b.ID, soulbox.BuildLine{Step: "finalize", Message: "ready"})
	b.EndedAt = now()
	err := r.insist(ctx, "finish build", b.ID, func(ctx context.Context) error { return r.Store.FinishBuild(ctx, b, bump(b)) })
	if err != nil {
		return err
	}
	r.Faults.Reach("build/finished")
	return nil
}

// solve has the engine make the image. Until that is on record no sweep runs.
func (r *Registry) solve(ctx context.Context, b *soulbox.Build) error {
	job, err := r.job(ctx, b)
	if err != nil {
		return err
	}
	release, err := r.take(ctx)
	if err != nil {
		return err
	}
	r.packing++
	release()
	defer r.packed(ctx, true)

	res, err := r.Engine.Build(ctx, job, func(l soulbox.BuildLine) { r.say(b.ID, l) })
	if err != nil {
		return err
	}
	r.Faults.Reach("build/solved")
	b.Image, b.User, b.Workdir, b.Env, b.Facts = res.Image, res.User, res.Workdir, res.Env, res.Facts
	b.Facts.Meant = meant(b, res.Config)
	if err := checkSettings(b.Env, b.Workdir); err != nil {
		return err
	}
	if err := r.record(ctx, b, soulbox.BuildRunning); err != nil {
		return err
	}
	r.Faults.Reach("build/packed")
	return nil
}

// sweepNow waits for the turn and sweeps.
func (r *Registry) sweepNow(ctx context.Context) {
	release, err := r.take(ctx)
	if err == nil {
		defer release()
		err = r.sweep(ctx)
	}
	if err != nil {
		r.Log.WarnContext(ctx, "images not swept", "err", err)
	}
}

// packed notes that a record names an image, or never will, and sweeps if that
// is wanted.
func (r *Registry) packed(ctx context.Context, sweep bool) {
	ctx = context.WithoutCancel(ctx)
	release, err := r.take(ctx)
	if err != nil {
		return // cannot be: ctx never ends
	}
	r.packing--
	release()
	if sweep {
		r.sweepNow(ctx)
	}
}

// bake runs the start command and has the sandbox written down in which it runs.
func (r *Registry) bake(ctx context.Context, b *soulbox.Build) error {
	if r.Baker == nil {
		return soulbox.Errorf(soulbox.Unavailable, "this server cannot run start commands")
	}
	t, err := r.Store.Template(ctx, b.Template)
	if err != nil {
		return err
	}
	b.Snapshot = soulbox.NewSnapshotID()
	if err := r.record(ctx, b, soulbox.BuildRunning); err != nil {
		return err
	}
	baked, err := r.Baker.Bake(ctx, t.At(b), soulbox.Baking{Snapshot: b.Snapshot, Start: b.Recipe.Start, Ready: b.Recipe.Ready},
		func(l soulbox.BuildLine) {
			if l.Step == "" {
				l.Step = "finalize"
			}
			r.say(b.ID, l)
		})
	if err != nil {
		return finishing(ctx, err)
	}
	b.Baked, b.Facts.Written = baked.Sandbox, baked.Bytes
	r.Faults.Reach("build/baked")
	return nil
}

// finishing says that a build failed after its last step, because of what its
// recipe says, if that is so.
func finishing(ctx context.Context, err error) error {
	if ctx.Err() != nil || soulbox.KindOf(err) == soulbox.Internal {
		return err
	}
	return errors.Join(&buildkit.StepError{BuildFailure: soulbox.BuildFailure{Message: soulbox.MessageOf(err), Finish: true}}, err)
}

// failure says to whoever wrote the recipe why a build came to nothing.
func failure(err error) *soulbox.BuildFailure {
	if e, ok := errors.AsType[*buildkit.StepError](err); ok {
		return &e.BuildFailure
	}
	return &soulbox.BuildFailure{Message: soulbox.MessageOf(err)}
}

// fail ends a build that came to nothing, as soon as that can be written down.
func (r *Registry) fail(ctx context.Context, b *soulbox.Build, why error) {
	if err := r.failed(ctx, b, why); err != nil && soulbox.KindOf(err) == soulbox.Internal {
		r.Log.ErrorContext(ctx, "the end of a build is not on record", "build", b.ID, "err", err)
	}
}

// failed is fail that tells. What is left of the build goes first, as far as
// that is possible now; the record says what is not.
func (r *Registry) failed(ctx context.Context, b *soulbox.Build, why error) error {
	ctx = context.WithoutCancel(ctx)
	b = b.Clone()
	from, image := b.State, b.Image
	if err := b.Move(soulbox.BuildFailed); err != nil {
		return err
	}
	b.EndedAt, b.Image, b.Failure = now(), "", failure(why)
	if b.Snapshot != "" {
		if err := r.removeSnapshot(ctx, b.Snapshot); err != nil {
			r.Log.WarnContext(ctx, "snapshot of a build that failed is left", "build", b.ID, "snapshot", b.Snapshot, "err", err)
		} else {
			b.Snapshot, b.Baked = "", ""
		}
	}
	r.say(b.ID, soulbox.BuildLine{Level: "error", Step: stepOf(b.Failure), Message: b.Failure.Message}) // before the record, as above
	if err := r.record(ctx, b, from); err != nil {
		return err
	}
	r.Log.InfoContext(ctx, "build failed", "template", b.Template, "build", b.ID, "step", b.Failure.Step, "reason", b.Failure.Message, "err", why)
	r.over(ctx, b)
	if image != "" {
		r.sweepNow(ctx)
	}
	return nil
}

// stepOf returns to which step the last line of a build belongs; what befell the
// build as a whole belongs to none.
func stepOf(f *soulbox.BuildFailure) string {
	switch {
	case f.Finish:
		return "finalize"
	case f.Step > 0:
		return fmt.Sprint(f.Step)
	default:
		return ""
	}
}

// over puts away what a build needed until it was over.
func (r *Registry) over(ctx context.Context, b *soulbox.Build) {
	if err := errors.Join(r.forget(b.ID), r.dropContext(b), r.logs.finish(b.ID)); err != nil {
		r.Log.WarnContext(ctx, "a build is over and not all is put away", "build", b.ID, "err", err)
	}
	r.news.tell(b.ID)
}

// record writes down what became of a build, for as long as it takes.
func (r *Registry) record(ctx context.Context, b *soulbox.Build, from soulbox.BuildState) error {
	return r.insist(ctx, "record build", b.ID, func(ctx context.Context) error { return r.Store.MoveBuild(ctx, b, from) })
}

// insist does f until it succeeds, fails in a way that repeating does not mend,
// or the registry closes.
func (r *Registry) insist(ctx context.Context, what string, id soulbox.BuildID, f func(context.Context) error) error {
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		err := f(limited)
		cancel()
		if err == nil || soulbox.KindOf(err) != soulbox.Internal {
			return err
		}
		if r.life.Err() != nil {
			return err
		}
		r.Log.WarnContext(ctx, "tried in vain, and will be again", "what", what, "build", id, "err", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-r.life.Done():
			timer.Stop()
			return err
		}
	}
}

// tidy removes the snapshots of builds that failed.
func (r *Registry) tidy(ctx context.Context) {
	all, err := r.Store.UntidyBuilds(ctx)
	for _, b := range all {
		if err = r.removeSnapshot(ctx, b.Snapshot); err == nil {
			err = r.Store.TidyBuild(ctx, b.ID)
		}
		if err != nil {
			break
		}
	}
	if err != nil && ctx.Err() == nil {
		r.Log.WarnContext(ctx, "snapshots of builds that failed are left", "err", err)
	}
}

// sweepFolders removes the folders of builds that there is no record of, and
// the secrets of those that are over.
func (r *Registry) sweepFolders(ctx context.Context) error {
	all, err := os.ReadDir(r.BuildDir)
	if err != nil {
		return err
	}
	for _, e := range all {
		id := soulbox.BuildID(e.Name())
		if !id.Valid() {
			continue
		}
		b, err := r.Store.Build(ctx, id)
		switch {
		case soulbox.KindOf(err) == soulbox.NotFound:
			err = r.removeFolder(id)
		case err == nil && b.State.Over():
			err = r.forget(id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeFolder removes everything that belongs to a build on disk.
func (r *Registry) removeFolder(id soulbox.BuildID) error {
	return errors.Join(r.logs.finish(id), os.RemoveAll(filepath.Join(r.BuildDir, string(id))))
}

// Remove takes a team's template out of the register, with everything that
// belongs to it; what is being built of it is given up. It is Invalid while
// sandboxes made of it live. Its images go with the next sweep.
func (r *Registry) Remove(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) error {
	if _, err := r.find(ctx, team, id, toRemove); err != nil {
		return err
	}
	builds, err := r.unregister(ctx, id)
	if err != nil {
		return err
	}
	r.Log.InfoContext(ctx, "template removed", "template", id, "builds", len(builds))
	if r.Baker != nil {
		r.Baker.ForgetTemplate(id)
	}
	if r.Removed != nil {
		defer r.Removed()
	}
	ctx = context.WithoutCancel(ctx) // the records are gone, and all else follows
	if err := r.halt(ctx, id); err != nil {
		return err
	}
	if err := r.discard(ctx, builds); err != nil {
		// The next start finds them without a record.
		r.Log.WarnContext(ctx, "a template was removed and something of it is left", "template", id, "err", err)
	}
	return nil
}

// unregister deletes the records of a template and returns what builds it had.
// It has the turn, so that nobody copies a reference of one meanwhile.
func (r *Registry) unregister(ctx context.Context, id soulbox.TemplateID) ([]*soulbox.Build, error) {
	release, err := r.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	page, err := r.Store.Builds(ctx, soulbox.BuildFilter{Template: id})
	if err != nil {
		return nil, err
	}
	return page.Builds, r.Store.DeleteTemplate(ctx, id)
}

// discard removes what builds left that are on no record any more. A snapshot
// that a copy of the template has stays.
func (r *Registry) discard(ctx context.Context, builds []*soulbox.Build) error {
	var errs []error
	for _, b := range builds {
		errs = append(errs, r.removeFolder(b.ID))
		if b.Snapshot != "" {
			errs = append(errs, r.dropSnapshot(ctx, b.Snapshot))
		}
	}
	return errors.Join(errs...)
}

// removeSnapshot removes the files of a snapshot. Without a baker there are none.
func (r *Registry) removeSnapshot(ctx context.Context, id soulbox.SnapshotID) error {
	if r.Baker == nil {
		return nil
	}
	return r.Baker.RemoveSnapshot(ctx, id)
}

// missing reports whether err says that a file is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
