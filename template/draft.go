package template

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

const (
	// maxUnended bounds the builds of one team that are not over.
	maxUnended = 100
	// maxTags bounds the tags of one build. People have two or three.
	maxTags = 32

	leastMemory = 128 * soulbox.MiB // with less, nothing starts
	maxDisk     = soulbox.TiB       // of a sandbox; it is only what it may write
)

// Draft registers a build that has no recipe yet, and the template if it does
// not exist. name may have the team's namespace and a tag, tags may have more of
// them; none stands for "default". What is 0 in size is as before, or as usual.
// Earlier drafts under one of the tags fail.
func (r *Registry) Draft(ctx context.Context, team soulbox.TeamID, name string, tags []string, size soulbox.Size) (*soulbox.Template, *soulbox.Build, error) {
	if err := r.canBuild(); err != nil {
		return nil, nil, err
	}
	req := soulbox.BuildRequest{Team: team, Name: name, Tags: tags, Size: size}
	owner, err := r.ownerOf(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	return r.draft(ctx, owner, req)
}

// ownerOf returns the team that asks for a build.
func (r *Registry) ownerOf(ctx context.Context, req soulbox.BuildRequest) (*soulbox.Team, error) {
	owner, err := r.Store.Team(ctx, req.Team)
	if err != nil {
		return nil, fmt.Errorf("draft build of %.200q: %w", req.Name, err)
	}
	return owner, nil
}

func (r *Registry) draft(ctx context.Context, owner *soulbox.Team, req soulbox.BuildRequest) (*soulbox.Template, *soulbox.Build, error) {
	plain, tags, err := nameAndTags(req.Name, owner, req.Tags)
	if err != nil {
		return nil, nil, err
	}
	if err := r.free(ctx, req.Team, plain); err != nil {
		return nil, nil, err
	}
	size, class := r.Defaults, soulbox.GVisor
	if have, err := r.Store.TemplateByName(ctx, req.Team, plain); err == nil && have.Build != "" {
		size, class = have.Size, have.Isolation
	} else if err != nil && soulbox.KindOf(err) != soulbox.NotFound {
		return nil, nil, fmt.Errorf("draft build of %s: %w", plain, err)
	}
	if req.Isolation != nil {
		class = *req.Isolation
		if err := class.Allowed(r.Allowed); err != nil {
			return nil, nil, err
		}
	}
	if err := startable(class, req.Recipe); err != nil {
		return nil, nil, err
	}
	if size, err = sized(size, req.Size, owner.Limits); err != nil {
		return nil, nil, err
	}
	switch n, err := r.Store.CountUnended(ctx, req.Team); {
	case err != nil:
		return nil, nil, fmt.Errorf("draft build of %s: %w", plain, err)
	case n >= maxUnended:
		return nil, nil, soulbox.Errorf(soulbox.Exhausted, "your team has %d builds that are not over, and may have %d; wait for some, or cancel them", n, maxUnended)
	}
	at := now()
	t := &soulbox.Template{ID: newID(), Team: req.Team, Name: plain, Public: req.Team == house, Size: size, CreatedAt: at, UpdatedAt: at}
	b := &soulbox.Build{ID: soulbox.NewBuildID(), Team: req.Team, State: soulbox.BuildWaiting, CreatedAt: at, Tags: tags, Bump: req.Bump, Size: size, Isolation: class}
	if t, err = r.Store.InsertDraft(ctx, t, b); err != nil {
		return nil, nil, err
	}
	r.Log.InfoContext(ctx, "build drafted", "template", t.ID, "name", plain, "build", b.ID, "tags", b.Tags)
	return t, b, nil
}

// free refuses a name that a snapshot of the team has, of which sandboxes are
// made by it.
func (r *Registry) free(ctx context.Context, team soulbox.TeamID, name string) error {
	_, err := r.Store.SnapshotByName(ctx, team, name)
	switch {
	case err == nil:
		return soulbox.Errorf(soulbox.Conflict, "your team has a snapshot '%s'; choose another name for the template", name)
	case soulbox.KindOf(err) == soulbox.NotFound:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return err
	}
}

// startable says why what a recipe starts cannot run ahead in a class.
func startable(class soulbox.Isolation, recipe soulbox.Recipe) error {
	if class != soulbox.GVisor && bakes(recipe) {
		return noMemory(class)
	}
	return nil
}

// bakes reports whether sandboxes of what a recipe builds are restored from one
// in which something runs.
func bakes(recipe soulbox.Recipe) bool { return recipe.Start != "" || recipe.Ready != "" }

// canBuild says why nothing can be built here.
func (r *Registry) canBuild() error {
	if r.Engine == nil {
		return soulbox.Errorf(soulbox.Unavailable, "building templates needs a server built with BuildKit; this one can import images")
	}
	return nil
}

// nameAndTags reads what a build is to be called: a name of the team's own, as it
// is written in references, and the tags in it and beside it.
func nameAndTags(name string, owner *soulbox.Team, more []string) (plain string, tags []string, err error) {
	ref, err := soulbox.ParseTemplateRef(name)
	switch {
	case err != nil:
		return "", nil, err
	case ref.Versions != soulbox.VersionRange{}:
		return "", nil, soulbox.Errorf(soulbox.Invalid, "template %.200q: a build gets its version when it is ready; leave it out", name)
	case ref.Namespace != "" && ref.Namespace != owner.Slug:
		return "", nil, soulbox.Errorf(soulbox.Invalid, "template %.200q: the namespace of your team is '%s', not '%s'", name, owner.Slug, ref.Namespace)
	}
	if ref.Tag != "" {
		more = append([]string{ref.Tag}, more...)
	}
	tags, err = parseTags(more)
	if len(tags) == 0 {
		tags = []string{soulbox.DefaultTag}
	}
	return ref.Name, tags, err
}

// parseTags reads tags, each once and in their order.
func parseTags(all []string) ([]string, error) {
	if len(all) > maxTags {
		return nil, soulbox.Errorf(soulbox.Invalid, "a build may have %d tags, not %d", maxTags, len(all))
	}
	var tags []string
	for _, s := range all {
		tag, err := soulbox.ParseTag(s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	return tags, nil
}

// sized returns the size that is asked for, with what is 0 in it as in usual.
func sized(usual, want soulbox.Size, most soulbox.Limits) (soulbox.Size, error) {
	size := usual
	if want.CPUs != 0 {
		size.CPUs = want.CPUs
	}
	if want.Memory != 0 {
		size.Memory = want.Memory
	}
	if want.Disk != 0 {
		size.Disk = want.Disk
	}
	switch {
	case size.CPUs < 1 || size.CPUs > most.CPUs:
		return size, soulbox.Errorf(soulbox.Invalid, "a sandbox of your team can have 1 to %d CPUs, not %d", most.CPUs, size.CPUs)
	case size.Memory < leastMemory || size.Memory > most.Memory:
		return size, soulbox.Errorf(soulbox.Invalid, "a sandbox of your team can have %d to %d MiB of memory, not %d",
			leastMemory/soulbox.MiB, most.Memory/soulbox.MiB, size.Memory/soulbox.MiB)
	case size.Disk < 0 || size.Disk > maxDisk:
		return size, soulbox.Errorf(soulbox.Invalid, "a sandbox can have up to %d MiB of disk, not %d", maxDisk/soulbox.MiB, size.Disk/soulbox.MiB)
	}
	return size, nil
}

// Trigger gives a draft its recipe and lines it up. It is Invalid when the build
// has one already or is over. Earlier builds under one of its tags are
// cancelled.
func (r *Registry) Trigger(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, recipe soulbox.Recipe, logins map[string]soulbox.Login) error {
	if err := r.canBuild(); err != nil {
		return err
	}
	b, err := r.own(ctx, team, id, build)
	if err != nil {
		return err
	}
	s := secrets{Logins: logins}
	if err := r.check(ctx, team, recipe, s); err != nil {
		return err
	}
	if b.State.Over() || !b.QueuedAt.IsZero() {
		return notWaiting(b)
	}
	if err := startable(b.Isolation, recipe); err != nil {
		return err
	}
	b.Recipe = recipe
	return r.line(ctx, b, s)
}

// Fail ends a draft of which nothing can come, and says why. With anything but
// a draft it is Invalid.
func (r *Registry) Fail(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, why soulbox.BuildFailure) error {
	if err := checkText("reason", why.Message, maxReason); err != nil {
		return err
	}
	b, err := r.own(ctx, team, id, build)
	if err != nil {
		return err
	}
	if b.State.Over() || !b.QueuedAt.IsZero() {
		return notWaiting(b)
	}
	err = r.failed(ctx, b, &buildkit.StepError{BuildFailure: why})
	if soulbox.KindOf(err) == soulbox.Conflict {
		err = soulbox.Errorf(soulbox.Invalid, "build %s is not waiting for its recipe any more", b.ID)
	}
	return err
}

func notWaiting(b *soulbox.Build) error {
	why := "it is " + string(b.State)
	if b.State == soulbox.BuildWaiting {
		why = "it waits for its turn"
	}
	return soulbox.Errorf(soulbox.Invalid, "build %s is not waiting for its recipe: %s", b.ID, why)
}

// Request is Draft and Trigger in one step. What is wrong with the request
// changes nothing.
func (r *Registry) Request(ctx context.Context, req soulbox.BuildRequest) (*soulbox.Template, *soulbox.Build, error) {
	if err := r.canBuild(); err != nil {
		return nil, nil, err
	}
	owner, err := r.ownerOf(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	return r.request(ctx, owner, req)
}

func (r *Registry) request(ctx context.Context, owner *soulbox.Team, req soulbox.BuildRequest) (*soulbox.Template, *soulbox.Build, error) {
	s := secrets{Logins: req.Logins, Values: req.Secrets}
	if err := r.check(ctx, req.Team, req.Recipe, s); err != nil {
		return nil, nil, err
	}
	if _, err := soulbox.ParseBump(string(req.Bump)); err != nil {
		return nil, nil, err
	}
	t, b, err := r.draft(ctx, owner, req)
	if err != nil {
		return nil, nil, err
	}
	if req.Public != nil && *req.Public != t.Public {
		if err := r.Store.SetTemplatePublic(ctx, t.ID, *req.Public, now()); err != nil {
			return nil, nil, err
		}
		t.Public = *req.Public
	}
	b.Recipe = req.Recipe
	if err := r.line(ctx, b, s); err != nil {
		return nil, nil, err
	}
	return t, b, nil
}

// line puts a draft that has a recipe now into the queue. Its secrets come
// first: a build that is on record as waiting has them.
func (r *Registry) line(ctx context.Context, b *soulbox.Build, s secrets) error {
	select { // of two who trigger one draft, the secrets of the first are kept
	case r.lining <- struct{}{}:
		defer func() { <-r.lining }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	have, err := r.Store.Build(ctx, b.ID)
	switch {
	case err != nil:
		return err
	case have.State != soulbox.BuildWaiting || !have.QueuedAt.IsZero():
		return notWaiting(have)
	}
	b.QueuedAt = now()
	if err := r.seal(b.ID, s); err != nil {
		return fmt.Errorf("queue build %s: %w", b.ID, err)
	}
	err = r.Store.QueueBuild(ctx, b)
	if soulbox.KindOf(err) == soulbox.Conflict { // it failed meanwhile
		return errors.Join(soulbox.Errorf(soulbox.Invalid, "build %s is not waiting for its recipe any more", b.ID), r.forget(b.ID))
	}
	if err != nil {
		return err
	}
	r.Log.InfoContext(ctx, "build queued", "template", b.Template, "build", b.ID)
	r.supersede(ctx, b)
	r.enqueue(b)
	return nil
}

// own returns a build of a template that the team may change.
func (r *Registry) own(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error) {
	if _, err := r.find(ctx, team, id, toChange); err != nil {
		return nil, err
	}
	return r.buildOf(ctx, id, build)
}

// buildOf returns a build of a template.
func (r *Registry) buildOf(ctx context.Context, id soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error) {
	b, err := r.Store.Build(ctx, build)
	if soulbox.KindOf(err) == soulbox.NotFound || err == nil && b.Template != id {
		return nil, soulbox.Errorf(soulbox.NotFound, "build '%s' not found", build)
	}
	return b, err
}

// Build returns a build of a template. Others than its team see the ready ones
// of a public template, without their recipes.
func (r *Registry) Build(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error) {
	t, err := r.find(ctx, team, id, toSee)
	if err != nil {
		return nil, err
	}
	b, err := r.buildOf(ctx, id, build)
	if err != nil {
		return nil, err
	}
	seen, ok := shown(t, b, team)
	if !ok {
		return nil, soulbox.Errorf(soulbox.NotFound, "build '%s' not found", build)
	}
	seen.Position = r.position(b.ID)
	return seen, nil
}

// shown returns what a team sees of a build of a template that it sees.
func shown(t *soulbox.Template, b *soulbox.Build, team soulbox.TeamID) (*soulbox.Build, bool) {
	c := b.Clone()
	if _, ok := may(t, team, toChange); ok {
		return c, true
	}
	c.Recipe, c.Failure = soulbox.Recipe{}, nil
	return c, b.State == soulbox.BuildReady
}

// Builds returns a page of the builds of a template, newest first and without
// their packages.
func (r *Registry) Builds(ctx context.Context, team soulbox.TeamID, f soulbox.BuildFilter) (soulbox.BuildPage, error) {
	t, err := r.find(ctx, team, f.Template, toSee)
	if err != nil {
		return soulbox.BuildPage{}, err
	}
	if _, ok := may(t, team, toChange); !ok {
		if len(f.States) > 0 && !slices.Contains(f.States, soulbox.BuildReady) {
			return soulbox.BuildPage{}, nil
		}
		f.States = []soulbox.BuildState{soulbox.BuildReady}
	}
	page, err := r.Store.Builds(ctx, f)
	for i, b := range page.Builds {
		page.Builds[i], _ = shown(t, b, team)
		page.Builds[i].Position = r.position(b.ID)
	}
	return page, err
}
