// Package template turns an image into something that sandboxes can be made
// of, and keeps the register of what there is.
//
// An import has four steps: bring the image in as a tree (image), make the
// tree fit for sandboxes and pack it (a packer, which is the node's), and
// write the row. The row comes last, so a crash at any point leaves only files
// that nobody refers to: trees go when the next [Open] empties the work
// folder, and packed images when the next import or [Registry.Refresh] sweeps.
//
// # Turns
//
// What packs an image, writes a row or sweeps takes the turn, of which there
// is one. So no sweep takes an image away whose row is about to be written, two
// imports under one name do not overwrite each other half way, and the disk
// writes one image at a time. Bringing images in, which is what takes long,
// needs no turn.
package template

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/soulbox/soulbox"
)

// A Registry imports, lists and removes templates. Safe for concurrent use.
type Registry struct {
	Options

	turn chan struct{} // holds one value while somebody has the turn
}

// Options say what a registry is made of.
type Options struct {
	Log      *slog.Logger
	Store    register
	Packer   packer
	Dir      string       // for trees under work; emptied by Open
	Defaults soulbox.Size // of templates made from now on

	// Allowed are the classes of isolation that templates may have besides
	// gVisor.
	Allowed []soulbox.Isolation

	MaxArchive soulbox.Bytes // that a client may send as one image; 0: 20 GiB
}

const defaultMaxArchive = 20 * soulbox.GiB

// register is the part of the store that templates need.
type register interface {
	AddBuild(ctx context.Context, t *soulbox.Template, b *soulbox.Build, of soulbox.TemplateID, bump func(before *soulbox.Build) soulbox.Bump) (*soulbox.Template, error)
	ReadyBuilds(ctx context.Context) ([]*soulbox.Build, error)
	RenewBuilds(ctx context.Context, was, now *soulbox.Build) (int64, error)
	Images(ctx context.Context) ([]string, error)
	Template(ctx context.Context, id soulbox.TemplateID) (*soulbox.Template, error)
	SetTemplateIsolation(ctx context.Context, id soulbox.TemplateID, class soulbox.Isolation, at time.Time) error
	TemplateByName(ctx context.Context, team soulbox.TeamID, name string) (*soulbox.Template, error)
	Templates(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Template, error)
	AllTemplates(ctx context.Context) ([]*soulbox.Template, error)
	DeleteTemplate(ctx context.Context, id soulbox.TemplateID) error
	TeamBySlug(ctx context.Context, slug string) (*soulbox.Team, error)
}

// packer makes root images of trees, and the reverse.
type packer interface {
	// Pack makes the tree at dir fit for sandboxes, makes an image of it and
	// returns the image's name and the user that programs run as. Files that
	// changed after started carry no time worth keeping.
	Pack(ctx context.Context, dir, source string, started time.Time) (image, user string, err error)

	// Stale returns those of images that Pack would make with another agent,
	// and those that it knows nothing of.
	Stale(ctx context.Context, images []string) ([]string, error)

	// Unpack makes the tree of image at dir, which does not exist.
	Unpack(ctx context.Context, image, dir string) error

	// Retain removes all images but these and those that sandboxes use.
	Retain(ctx context.Context, images []string) error
}

// house owns the templates that every team may start.
const house = soulbox.TeamID("")

// Open returns the registry and removes what unfinished imports left.
func Open(o Options) (*Registry, error) {
	if o.MaxArchive == 0 {
		o.MaxArchive = defaultMaxArchive
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		return nil, fmt.Errorf("open templates: %w", err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open templates: %w", err)
	}
	return &Registry{Options: o, turn: make(chan struct{}, 1)}, nil
}

// Templates returns those that a team can start, by name.
func (r *Registry) Templates(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Template, error) {
	return r.Store.Templates(ctx, team)
}

// Template returns the one that a reference means to a team. A bare name is the
// team's own, else the house's, else an id of one of these; with a namespace,
// which is a team's slug, it is that team's and nothing else. What another team
// keeps to itself is NotFound, like what does not exist. Only the tag
// "default" exists.
func (r *Registry) Template(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	t, err := r.lookUp(ctx, team, ref)
	named := soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}
	if soulbox.KindOf(err) == soulbox.NotFound || err == nil && !visible(t, team) {
		return nil, soulbox.Errorf(soulbox.NotFound, "template '%s' not found", named)
	}
	if err != nil {
		return nil, err
	}
	if ref.Tag != "" && ref.Tag != "default" {
		return nil, soulbox.Errorf(soulbox.NotFound, "tag '%s' does not exist for template '%s'", ref.Tag, named)
	}
	return t, nil
}

func (r *Registry) lookUp(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	if ref.Namespace != "" {
		owner, err := r.Store.TeamBySlug(ctx, ref.Namespace)
		if err != nil {
			return nil, err
		}
		return r.Store.TemplateByName(ctx, owner.ID, ref.Name)
	}
	for _, owner := range []soulbox.TeamID{team, house} {
		t, err := r.Store.TemplateByName(ctx, owner, ref.Name)
		if err == nil || soulbox.KindOf(err) != soulbox.NotFound {
			return t, err
		}
	}
	return r.Store.Template(ctx, soulbox.TemplateID(ref.Name))
}

func visible(t *soulbox.Template, team soulbox.TeamID) bool {
	return t.Public || t.Team == team || t.Team == house
}

// Remove takes a team's template out of the register. Sandboxes made of it go
// on. Its image goes with the next sweep, when no sandbox uses it any more.
func (r *Registry) Remove(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) error {
	if err := r.owned(ctx, team, id, "removed"); err != nil {
		return err
	}
	return r.Store.DeleteTemplate(ctx, id)
}

// SetIsolation changes what sandboxes made of a team's template have unless
// they ask otherwise. Those that are there keep theirs. It waits for its turn,
// so an import that packs an image delays it.
func (r *Registry) SetIsolation(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, class soulbox.Isolation) (*soulbox.Template, error) {
	if err := class.Allowed(r.Allowed); err != nil {
		return nil, err
	}
	if err := r.owned(ctx, team, id, "changed"); err != nil {
		return nil, err
	}
	release, err := r.take(ctx) // else an import could put back what its row was
	if err != nil {
		return nil, err
	}
	defer release()
	if err := r.Store.SetTemplateIsolation(ctx, id, class, time.Now()); err != nil {
		return nil, err
	}
	t, err := r.Store.Template(ctx, id)
	if err != nil {
		return nil, err
	}
	r.Log.InfoContext(ctx, "template changed", "template", id, "name", t.Name, "isolation", class.String())
	return t, nil
}

// owned says why a template cannot become what a team wants, unless it is the
// team's own.
func (r *Registry) owned(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, what string) error {
	t, err := r.Store.Template(ctx, id)
	if soulbox.KindOf(err) == soulbox.NotFound || err == nil && !visible(t, team) {
		return soulbox.Errorf(soulbox.NotFound, "template '%s' not found", id)
	}
	if err != nil {
		return err
	}
	switch t.Team {
	case team:
		return nil
	case house:
		return soulbox.Errorf(soulbox.Forbidden, "template '%s' belongs to the house and cannot be %s", t.Name, what)
	default:
		return soulbox.Errorf(soulbox.Forbidden, "template '%s' belongs to another team", t.Name)
	}
}

// take waits for the turn and returns what gives it back.
func (r *Registry) take(ctx context.Context) (release func(), err error) {
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// sweep removes the images that no build has and no sandbox uses. The caller
// has the turn.
//
// It comes before the rows of an import change, not after: whoever makes a
// sandbox reads the row first and opens the image then, and the image that the
// row named a moment ago should still be there.
func (r *Registry) sweep(ctx context.Context) error {
	images, err := r.Store.Images(ctx)
	if err != nil {
		return err
	}
	return r.Packer.Retain(ctx, images)
}
