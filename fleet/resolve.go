package fleet

import (
	"context"

	"github.com/soulbox/soulbox"
)

// resolve finds the template or snapshot that a team means by ref. A bare name
// is the team's own template, else its own snapshot, else the house's template,
// else an id of one of these or of a public template. Names of other teams need
// their namespace, so that nobody can slip a template under a name that others
// use. Of a template it is the build that the tag or the versions in ref mean.
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
	return f.pick(ctx, o, ref)
}

// pick returns o as the build makes it that ref means. Snapshots have neither
// tags nor versions.
func (f *Fleet) pick(ctx context.Context, o origin, ref soulbox.TemplateRef) (origin, error) {
	usual := ref.Versions == soulbox.VersionRange{} && (ref.Tag == "" || ref.Tag == soulbox.DefaultTag)
	switch {
	case usual && (o.snap != nil || o.tpl.Image != ""):
		return o, nil // without another look into the store
	case usual, o.snap != nil:
		return origin{}, ref.NoBuild()
	}
	b, err := f.opts.Store.BuildAt(ctx, o.tpl.ID, ref)
	if soulbox.KindOf(err) == soulbox.NotFound {
		return origin{}, ref.NoBuild()
	}
	if err != nil {
		return origin{}, err
	}
	return origin{tpl: o.tpl.At(b)}, nil
}

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
