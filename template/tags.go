package template

import (
	"context"
	"slices"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
)

// pick returns the template and the ready build that ref means to somebody who
// may do something with it. The build has its packages.
func (r *Registry) pick(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, what act) (*soulbox.Template, *soulbox.Build, error) {
	t, err := r.named(ctx, team, ref)
	plain := soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}
	if t, err = permitted(t, err, team, what, plain.String()); err != nil {
		return nil, nil, err
	}
	at, err := r.Store.BuildAt(ctx, t.ID, ref)
	if soulbox.KindOf(err) == soulbox.NotFound {
		err = ref.NoBuild()
	}
	if err != nil {
		return nil, nil, err
	}
	b, err := r.Store.Build(ctx, at.ID)
	return t, b, err
}

// Tags returns the tags of a template, by name.
func (r *Registry) Tags(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]soulbox.Tag, error) {
	if _, err := r.find(ctx, team, id, toSee); err != nil {
		return nil, err
	}
	return r.Store.Tags(ctx, id)
}

// AssignTags makes tags lead to the build that target means, and returns it.
func (r *Registry) AssignTags(ctx context.Context, team soulbox.TeamID, target soulbox.TemplateRef, tags []string) (*soulbox.Build, error) {
	tags, err := parseTags(tags)
	if err != nil {
		return nil, err
	}
	if len(tags) == 0 {
		return nil, soulbox.Errorf(soulbox.Invalid, "name at least one tag")
	}
	t, b, err := r.pick(ctx, team, target, toChange)
	if err != nil {
		return nil, err
	}
	if err := r.Store.PutTags(ctx, t.ID, b.ID, tags, now()); err != nil {
		return nil, err
	}
	r.Log.InfoContext(ctx, "build tagged", "template", t.ID, "build", b.ID, "tags", tags)
	return b, nil
}

// RemoveTags removes tags of a template. "default" stays: that is Invalid.
func (r *Registry) RemoveTags(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tags []string) error {
	if ref.Tag != "" || ref.Versions != (soulbox.VersionRange{}) {
		return soulbox.Errorf(soulbox.Invalid, "name the template without a tag, and the tags beside it")
	}
	tags, err := parseTags(tags)
	switch {
	case err != nil:
		return err
	case len(tags) == 0:
		return soulbox.Errorf(soulbox.Invalid, "name at least one tag")
	case slices.Contains(tags, soulbox.DefaultTag):
		return soulbox.Errorf(soulbox.Invalid, "the tag '%s' cannot be removed; assign it to another build instead", soulbox.DefaultTag)
	}
	t, err := r.named(ctx, team, ref)
	if t, err = permitted(t, err, team, toChange, ref.String()); err != nil {
		return err
	}
	return r.Store.DeleteTags(ctx, t.ID, tags)
}

// Versions returns the ready builds of a template, newest version first and
// without their packages.
func (r *Registry) Versions(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]*soulbox.Build, error) {
	t, err := r.find(ctx, team, id, toSee)
	if err != nil {
		return nil, err
	}
	all, err := r.Store.Versions(ctx, id)
	for i, b := range all {
		all[i], _ = shown(t, b, team)
	}
	return all, err
}

// Promote makes a tag, or "default" if it is empty, lead to the build that ref
// means, and returns that.
func (r *Registry) Promote(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tag string) (*soulbox.Build, error) {
	if tag == "" {
		tag = soulbox.DefaultTag
	}
	return r.AssignTags(ctx, team, ref, []string{tag})
}

// Rollback makes "default" lead to the build that ref means, or if it means
// "default", to the newest version before that one which is not retired.
func (r *Registry) Rollback(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Build, error) {
	if !usual(ref) {
		return r.Promote(ctx, team, ref, soulbox.DefaultTag)
	}
	t, b, err := r.pick(ctx, team, ref, toChange)
	if err != nil {
		return nil, err
	}
	all, err := r.Store.Versions(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(c *soulbox.Build) bool { return c.Version.Compare(b.Version) < 0 && c.Retired == "" })
	if i < 0 {
		return nil, soulbox.Errorf(soulbox.Conflict, "template '%s' has no version before %s that is not retired", t.Name, b.Version)
	}
	to := soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name, Tag: string(all[i].ID)}
	return r.Promote(ctx, team, to, soulbox.DefaultTag)
}

const maxReason = 2000 // bytes of what somebody says about a template

// Deprecate says why nobody should start with the build that ref means any
// more; an empty reason takes that back.
func (r *Registry) Deprecate(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, why string) (*soulbox.Build, error) {
	if err := checkText("reason", why, maxReason); err != nil {
		return nil, err
	}
	_, b, err := r.pick(ctx, team, ref, toChange)
	if err != nil {
		return nil, err
	}
	b.Retired = why
	return b, r.Store.RetireBuild(ctx, b.ID, why)
}

// checkText refuses what is no text, or too long.
func checkText(what, s string, most int) error {
	if len(s) > most {
		return soulbox.Errorf(soulbox.TooLarge, "the %s has %d bytes, and may have %d", what, len(s), most)
	}
	if !utf8.ValidString(s) || slices.Contains([]byte(s), 0) {
		return soulbox.Errorf(soulbox.Invalid, "the %s is not text: it holds a NUL byte or is not UTF-8", what)
	}
	return nil
}
