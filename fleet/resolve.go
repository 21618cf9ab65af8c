package fleet

import (
	"context"

	"github.com/soulbox/soulbox"
)

// resolve finds the template that a team means by ref. A bare name is the
// team's own template, else the house's, else an id of one of these or of a
// public one. Names of other teams need their namespace, so that nobody can
// slip a template under a name that others use.
func (f *Fleet) resolve(ctx context.Context, team *soulbox.Team, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	tpl, err := f.lookUp(ctx, team, ref)
	named := soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}
	if err == nil && tpl.Team != "" && tpl.Team != team.ID && !tpl.Public {
		// Not a Forbidden: that would tell strangers what exists.
		err = soulbox.Errorf(soulbox.NotFound, "")
	}
	if soulbox.KindOf(err) == soulbox.NotFound {
		return nil, soulbox.Errorf(soulbox.NotFound, "template '%s' not found", named)
	}
	if err != nil {
		return nil, err
	}
	if ref.Tag != "" && ref.Tag != "default" {
		return nil, soulbox.Errorf(soulbox.NotFound, "tag '%s' does not exist for template '%s'", ref.Tag, named)
	}
	return tpl, nil
}

func (f *Fleet) lookUp(ctx context.Context, team *soulbox.Team, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	s := f.opts.Store
	if ref.Namespace != "" {
		owner := team
		if ref.Namespace != team.Slug {
			var err error
			if owner, err = s.TeamBySlug(ctx, ref.Namespace); err != nil {
				return nil, err
			}
		}
		return s.TemplateByName(ctx, owner.ID, ref.Name)
	}
	const house = soulbox.TeamID("")
	for _, owner := range []soulbox.TeamID{team.ID, house} {
		tpl, err := s.TemplateByName(ctx, owner, ref.Name)
		if soulbox.KindOf(err) != soulbox.NotFound || err == nil {
			return tpl, err
		}
	}
	return s.Template(ctx, soulbox.TemplateID(ref.Name))
}
