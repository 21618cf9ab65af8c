package template

import (
	"context"

	"github.com/soulbox/soulbox"
)

// Publish lets every team start a template, or its own only.
func (r *Registry) Publish(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, public bool) (*soulbox.Template, error) {
	t, err := r.find(ctx, team, id, toChange)
	if err != nil {
		return nil, err
	}
	at := now()
	if err := r.Store.SetTemplatePublic(ctx, id, public, at); err != nil {
		return nil, err
	}
	r.Log.InfoContext(ctx, "template published", "template", id, "public", public)
	t.Public, t.UpdatedAt = public, at
	return t, nil
}

// SetIsolation changes what sandboxes made of a team's template have unless
// they ask otherwise. Those that are there keep theirs. It waits for its turn,
// so an import that packs an image delays it.
func (r *Registry) SetIsolation(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, class soulbox.Isolation) (*soulbox.Template, error) {
	if err := class.Allowed(r.Allowed); err != nil {
		return nil, err
	}
	if _, err := r.find(ctx, team, id, toChange); err != nil {
		return nil, err
	}
	release, err := r.take(ctx) // else an import could put back what its row was
	if err != nil {
		return nil, err
	}
	defer release()
	t, err := r.Store.Template(ctx, id)
	if err != nil {
		return nil, err
	}
	if t.Snapshot != "" && class != soulbox.GVisor {
		return nil, noMemory(class)
	}
	if err := r.Store.SetTemplateIsolation(ctx, id, class, now()); err != nil {
		return nil, err
	}
	if t, err = r.Store.Template(ctx, id); err != nil {
		return nil, err
	}
	r.Log.InfoContext(ctx, "template changed", "template", id, "name", t.Name, "isolation", class.String())
	return t, nil
}

// noMemory says why what begins with programs that run cannot have a class.
func noMemory(class soulbox.Isolation) error {
	return soulbox.Errorf(soulbox.Invalid, "sandboxes of a template with a start command begin with programs that run, and those of isolation %s cannot; leave out the start command, or let it have isolation %s", class, soulbox.GVisor)
}
