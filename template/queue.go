package template

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

// queued is a build that waits for its turn.
type queued struct {
	id       soulbox.BuildID
	template soulbox.TemplateID
}

// going is a build under work.
type going struct {
	template soulbox.TemplateID
	giveUp   context.CancelCauseFunc
	over     chan struct{} // closed when nothing of it runs any more, and the record says how it ended
}

// Reasons for which a build came to nothing.
var (
	errSuperseded = soulbox.Errorf(soulbox.Conflict, "a newer build of the same template and tag took its place")
	errCancelled  = soulbox.Errorf(soulbox.Conflict, "the build was cancelled")
	errRemoved    = soulbox.Errorf(soulbox.Conflict, "the template was removed")
	errAbandoned  = soulbox.Errorf(soulbox.Conflict, "nobody has said within %v what is to be built", draftLife)
	errClosing    = soulbox.Errorf(soulbox.Unavailable, "the server is stopping")
)

// Start lines up the builds that an earlier process left, those that were under
// work first, removes what is left of others, and begins to build. It is called
// once.
func (r *Registry) Start(ctx context.Context) error {
	if err := r.recover(ctx); err != nil {
		return fmt.Errorf("start building templates: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.life.Err() != nil {
		return errors.New("start building templates: it was started or closed before")
	}
	r.started = true
	for range r.Workers {
		r.wg.Go(func() { r.work(r.life) })
	}
	r.wg.Go(func() { r.prune(r.life) })
	if r.Baker != nil {
		r.wg.Go(func() {
			if err := r.rebake(r.life); err != nil && r.life.Err() == nil {
				r.Log.ErrorContext(r.life, "templates with start commands not refreshed", "err", err)
			}
		})
	}
	if len(r.House) > 0 {
		r.wg.Go(func() { r.keepHouse(r.life) })
	}
	r.hint()
	return nil
}

// Close ends what is under work and waits for it. Builds that are not over go on
// after the next Start.
func (r *Registry) Close() error {
	r.mu.Lock()
	r.end()
	for _, g := range r.going {
		g.giveUp(errClosing)
	}
	r.mu.Unlock()
	r.wg.Wait()
	return r.logs.close()
}

// recover fills the queue from the records.
func (r *Registry) recover(ctx context.Context) error {
	all, err := r.Store.UnendedBuilds(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(b *soulbox.Build) bool { return b.QueuedAt.IsZero() }) // drafts
	var live []*soulbox.Build
	for _, b := range all {
		if slices.ContainsFunc(all, func(c *soulbox.Build) bool { return c.Rivals(b) && newer(c, b) }) {
			r.fail(ctx, b, errSuperseded)
		} else {
			live = append(live, b)
		}
	}
	r.mu.Lock()
	r.queue = nil // what was asked for before Start is on record, too
	r.mu.Unlock()
	// Those under work came before those that waited.
	slices.SortStableFunc(live, func(a, b *soulbox.Build) int { return runningFirst(a) - runningFirst(b) })
	for _, b := range live {
		r.Log.InfoContext(ctx, "build found again", "template", b.Template, "build", b.ID, "state", string(b.State))
		r.mu.Lock()
		r.queue = append(r.queue, queued{b.ID, b.Template})
		r.mu.Unlock()
	}
	r.tidy(ctx)
	return errors.Join(r.sweepFolders(ctx), r.sweepUploads(live))
}

// newer reports whether a was drafted after b.
func newer(a, b *soulbox.Build) bool {
	return a.CreatedAt.After(b.CreatedAt) || a.CreatedAt.Equal(b.CreatedAt) && a.ID > b.ID
}

func runningFirst(b *soulbox.Build) int {
	if b.State == soulbox.BuildRunning {
		return 0
	}
	return 1
}

// enqueue puts a build at the end of the queue and tells it so.
func (r *Registry) enqueue(b *soulbox.Build) {
	r.mu.Lock()
	r.queue = append(r.queue, queued{b.ID, b.Template})
	ahead := len(r.queue) - 1 + len(r.going)
	r.mu.Unlock()
	if ahead >= r.Workers {
		r.say(b.ID, soulbox.BuildLine{Message: placeText(ahead - r.Workers + 1)})
	}
	r.hint()
}

func placeText(n int) string { return "waiting: number " + strconv.Itoa(n) + " in the queue" }

// hint lets a worker look into the queue.
func (r *Registry) hint() {
	select {
	case r.wake <- struct{}{}:
	default: // one will look anyway
	}
}

// position returns at which place in the queue a build is, from 1; 0 is none.
func (r *Registry) position(id soulbox.BuildID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return 1 + slices.IndexFunc(r.queue, func(q queued) bool { return q.id == id })
}

// next takes the head of the queue under work. The others move up, and are told.
func (r *Registry) next() (id soulbox.BuildID, g *going, ctx context.Context, ok bool) {
	r.mu.Lock()
	if r.life.Err() != nil || len(r.queue) == 0 {
		r.mu.Unlock()
		return "", nil, nil, false
	}
	head := r.queue[0]
	r.queue = r.queue[1:]
	rest := slices.Clone(r.queue)
	ctx, giveUp := context.WithCancelCause(r.life)
	g = &going{template: head.template, giveUp: giveUp, over: make(chan struct{})}
	r.going[head.id] = g
	r.mu.Unlock()
	for i, q := range rest {
		if r.position(q.id) > 0 { // it was not cancelled meanwhile
			r.say(q.id, soulbox.BuildLine{Message: placeText(i + 1)})
		}
	}
	if len(rest) > 0 {
		r.hint()
	}
	return head.id, g, ctx, true
}

// work builds what is in the queue until ctx ends.
func (r *Registry) work(ctx context.Context) {
	for {
		id, g, work, ok := r.next()
		if !ok {
			select {
			case <-r.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		r.build(work, id)
		r.mu.Lock()
		delete(r.going, id)
		r.mu.Unlock()
		g.giveUp(nil)
		close(g.over)
	}
}

// supersede gives up the builds of which b takes the place. When one cannot be
// ended now, it is when b is under work and looks again.
func (r *Registry) supersede(ctx context.Context, b *soulbox.Build) {
	all, err := r.Store.UnendedBuilds(ctx)
	if err != nil {
		r.Log.WarnContext(ctx, "earlier builds not looked for", "build", b.ID, "err", err)
		return
	}
	for _, c := range all {
		if !c.Rivals(b) || !newer(b, c) {
			continue
		}
		if err := r.stop(ctx, c, errSuperseded, false); err != nil && soulbox.KindOf(err) != soulbox.Conflict {
			r.Log.WarnContext(ctx, "earlier build not given up", "build", c.ID, "for", b.ID, "err", err)
		}
	}
}

// Cancel ends a build and returns when nothing of it runs any more. It is a
// Conflict when the build is over.
func (r *Registry) Cancel(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) error {
	b, err := r.own(ctx, team, id, build)
	if err != nil {
		return err
	}
	if b.State.Over() {
		return soulbox.Errorf(soulbox.Conflict, "build %s is over: it is %s", b.ID, b.State)
	}
	return r.stop(ctx, b, errCancelled, true)
}

// stop gives a build up that is not over. With wait it returns when that has
// happened, and a Conflict when the build was faster.
func (r *Registry) stop(ctx context.Context, b *soulbox.Build, why error, wait bool) error {
	r.mu.Lock()
	g := r.going[b.ID]
	if g != nil {
		g.giveUp(why)
	}
	r.queue = slices.DeleteFunc(r.queue, func(q queued) bool { return q.id == b.ID })
	r.mu.Unlock()
	if g == nil {
		return r.failed(ctx, b, why)
	}
	if !wait {
		return nil
	}
	select {
	case <-g.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	after, err := r.Store.Build(ctx, b.ID)
	if err == nil && after.State == soulbox.BuildReady {
		err = soulbox.Errorf(soulbox.Conflict, "build %s was ready before it could be cancelled", b.ID)
	}
	return err
}

// halt gives up everything that is under work or in the queue for a template
// that is no more, and waits for it.
func (r *Registry) halt(ctx context.Context, id soulbox.TemplateID) error {
	r.mu.Lock()
	r.queue = slices.DeleteFunc(r.queue, func(q queued) bool { return q.template == id })
	var wait []*going
	for _, g := range r.going {
		if g.template == id {
			g.giveUp(errRemoved)
			wait = append(wait, g)
		}
	}
	r.mu.Unlock()
	for _, g := range wait {
		select {
		case <-g.over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

const (
	draftLife  = 24 * time.Hour      // of a draft that never gets a recipe
	failedLife = 30 * 24 * time.Hour // of the record and the log of a build that failed
	pruneEvery = time.Hour
	pruneBatch = 100
)

// prune forgets, at start and then every hour, what is old: drafts without a
// recipe, builds that failed, uploads that nobody uses, and what is obsolete.
func (r *Registry) prune(ctx context.Context) {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		if err := r.pruneOnce(ctx, now()); err != nil && ctx.Err() == nil {
			r.Log.ErrorContext(ctx, "old builds could not be forgotten", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (r *Registry) pruneOnce(ctx context.Context, at time.Time) error {
	unended, err := r.Store.UnendedBuilds(ctx)
	if err != nil {
		return err
	}
	for _, b := range unended {
		if b.QueuedAt.IsZero() && b.CreatedAt.Before(at.Add(-draftLife)) {
			r.fail(ctx, b, errAbandoned)
		}
	}
	r.tidy(ctx)
	for {
		ids, err := r.Store.BuildsFailedBefore(ctx, at.Add(-failedLife), pruneBatch)
		if err != nil {
			return err
		}
		for _, id := range ids {
			// The record goes last: while it is there, the folder has an owner.
			if err := r.removeFolder(id); err != nil {
				return err
			}
			if err := r.Store.DeleteBuild(ctx, id); err != nil {
				return err
			}
		}
		if len(ids) < pruneBatch {
			break
		}
	}
	return errors.Join(r.pruneUploads(at), r.dropObsolete(ctx))
}
