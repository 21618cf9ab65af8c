package fleet

import (
	"context"

	"github.com/soulbox/soulbox"
)

// resolve finds the template or snapshot that a team means by ref. A bare name
// is the team's own template, else its own snapshot, else the house's template,
// else an id of one of these or of a public template. Names of other teams need
// their namespace, so that nobody can slip a template under a name that others
// use.
func (f *Fleet) resolve(ctx context.Context, team *soulbox.Team, ref soulbox.TemplateRef) (origin, error) {
	o, err := f.lookUp(ctx, team, ref)
	named := soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}
	if err == nil && o.tpl.Team != "" && o.tpl.Team != team.ID && !o.tpl.Public {
		// Not a Forbidden: that would tell strangers what exists.
		err = soulbox.Errorf(soulbox.NotFound, "")
	}
	if soulbox.KindOf(err) == soulbox.NotFound {
		return origin{}, soulbox.Errorf(soulbox.NotFound, "template '%s' not found", named)
	}
	if err != nil {
		return origin{}, err
	}
	if ref.Tag != "" && ref.Tag != defaultTag {
		return origin{}, soulbox.Errorf(soulbox.NotFound, "tag '%s' does not exist for template '%s'", ref.Tag, named)
	}
	return o, nil
}

// defaultTag is what no tag stands for.
const defaultTag = "default"

func (f *Fleet) lookUp(ctx context.Context, team *soulbox.Team, ref soulbox.TemplateRef) (origin, error) {
	const house = soulbox.TeamID("")
	s := f.opts.Store
	owner := team
	if ref.Namespace != "" && ref.Namespace != team.Slug {
		var err error
		if owner, err = s.TeamBySlug(ctx, ref.Namespace); err != nil {
			return origin{}, err
		}
	}
	tpl, err := s.TemplateByName(ctx, owner.ID, ref.Name)
	o := origin{tpl: tpl}
	if soulbox.KindOf(err) == soulbox.NotFound && owner == team {
		o, err = snapshotOrigin(s.SnapshotByName(ctx, team.ID, ref.Name))
	}
	if soulbox.KindOf(err) != soulbox.NotFound || ref.Namespace != "" {
		return o, err
	}
	if tpl, err = s.TemplateByName(ctx, house, ref.Name); soulbox.KindOf(err) == soulbox.NotFound {
		tpl, err = s.Template(ctx, soulbox.TemplateID(ref.Name))
	}
	if soulbox.KindOf(err) == soulbox.NotFound {
		return snapshotOrigin(f.snapshotByID(ctx, team.ID, soulbox.SnapshotID(ref.Name)))
	}
	return origin{tpl: tpl}, err
}

func snapshotOrigin(snap *soulbox.Snapshot, err error) (origin, error) {
	if err != nil {
		return origin{}, err
	}
	return origin{tpl: snap.AsTemplate(), snap: snap}, nil
}
