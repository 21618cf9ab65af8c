package template

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// houseFirst is after what time a template of the house is tried again that
	// failed; then twice that, and so on.
	houseFirst = time.Minute
	houseMost  = time.Hour
)

// keepHouse has the house's templates built, one after the other, so that at
// most one of them stands in the way of what people ask for. It tries again
// those that come to nothing, until ctx ends: mostly it was the network.
func (r *Registry) keepHouse(ctx context.Context) {
	if err := r.canBuild(); err != nil {
		r.Log.WarnContext(ctx, "templates of the house not built", "err", err)
		return
	}
	left := r.House
	for pause := r.again; ; pause = min(2*pause, houseMost) {
		var failed []soulbox.HouseTemplate
		for _, h := range left {
			err := r.keep(ctx, h)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				r.Log.WarnContext(ctx, "template of the house not built, and will be tried again", "name", h.Name, "in", pause, "err", err)
				failed = append(failed, h)
			}
		}
		if left = failed; len(left) == 0 {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// keep returns once the house's template h is what its recipe says and tells
// what it should.
func (r *Registry) keep(ctx context.Context, h soulbox.HouseTemplate) error {
	if err := checkListing(h.Listing); err != nil {
		return err
	}
	b, err := r.houseBuild(ctx, h)
	if err != nil {
		return err
	}
	if b, err = r.ended(ctx, b.ID); err != nil {
		return err
	}
	if b.State == soulbox.BuildFailed {
		return b.Failure
	}
	have, err := r.Store.Listing(ctx, b.Template, house)
	if err != nil || tells(have, h.Listing) {
		return err
	}
	return r.Store.SetListing(ctx, b.Template, h.Listing, now())
}

// houseBuild returns the build of a house's template that its recipe asks for.
// It is a new one unless there is one that is ready or on its way, from before
// a restart perhaps. Recipes are compared themselves, so no other record says
// what was built. The name has no other tag than "default": what is ready is
// what the template is.
func (r *Registry) houseBuild(ctx context.Context, h soulbox.HouseTemplate) (*soulbox.Build, error) {
	t, err := r.Store.TemplateByName(ctx, house, h.Name)
	if err == nil {
		page, err := r.Store.Builds(ctx, soulbox.BuildFilter{
			Template: t.ID, States: []soulbox.BuildState{soulbox.BuildWaiting, soulbox.BuildRunning, soulbox.BuildReady}, Limit: 1,
		})
		if err != nil {
			return nil, err
		}
		// One without a recipe is a draft that a crash has cut off; what is asked
		// for now takes its place.
		if len(page.Builds) > 0 && sameRecipe(page.Builds[0].Recipe, h.Recipe) {
			return page.Builds[0], nil
		}
	} else if soulbox.KindOf(err) != soulbox.NotFound {
		return nil, err
	}
	_, b, err := r.request(ctx, houseTeam(), soulbox.BuildRequest{Team: house, Name: h.Name, Recipe: h.Recipe})
	return b, err
}

// houseTeam stands for the house where a team is asked for: nothing bounds it.
func houseTeam() *soulbox.Team {
	return &soulbox.Team{ID: house, Limits: soulbox.Limits{CPUs: math.MaxInt, Memory: math.MaxInt64}}
}

// sameRecipe compares what a recipe of the house can have.
func sameRecipe(a, b soulbox.Recipe) bool {
	return a.Dockerfile == b.Dockerfile && a.Start == b.Start && a.Ready == b.Ready
}

// tells reports whether a listing says what c would make it say.
func tells(l *soulbox.Listing, c soulbox.ListingChange) bool {
	text := func(have string, want *string) bool { return want == nil || have == *want }
	list := func(have []string, want *[]string) bool { return want == nil || slices.Equal(have, *want) }
	return text(l.Description, c.Description) && text(l.Readme, c.Readme) && text(l.Licence, c.Licence) &&
		list(l.Categories, c.Categories) && list(l.Keywords, c.Keywords)
}

// ended returns a build once it is over.
func (r *Registry) ended(ctx context.Context, id soulbox.BuildID) (*soulbox.Build, error) {
	for {
		next := r.news.of(id) // before looking, so that nothing is missed
		b, err := r.Store.Build(ctx, id)
		if err != nil || b.State.Over() {
			return b, err
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		select {
		case <-time.After(watchPause): // it may tell much
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
