package store

import (
	"context"
	"time"

	"github.com/soulbox/soulbox"
)

const templateColumns = `id, team, name, public, image, cpus, memory, disk, pids, env, username, workdir, source, starts, created_at, updated_at, isolation`

// PutTemplate remembers a template, new or changed. Its team, its starts and
// the time of its creation never change after the first time. A name that
// another template of the team has is a Conflict.
func (s *Store) PutTemplate(ctx context.Context, t *soulbox.Template) error {
	env, err := pairs(t.Env).text()
	if err != nil {
		return wrap(err, "put template", t.ID)
	}
	_, err = s.exec(ctx, `
		INSERT INTO templates (`+templateColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
		ON CONFLICT (id) DO UPDATE SET
			name = excluded.name, public = excluded.public, image = excluded.image,
			cpus = excluded.cpus, memory = excluded.memory, disk = excluded.disk, pids = excluded.pids,
			env = excluded.env, username = excluded.username, workdir = excluded.workdir,
			source = excluded.source, updated_at = excluded.updated_at, isolation = excluded.isolation`,
		string(t.ID), string(t.Team), t.Name, t.Public, t.Image,
		t.Size.CPUs, int64(t.Size.Memory), int64(t.Size.Disk), t.Size.PIDs,
		env, t.User, t.Workdir, t.Source, t.Starts, micros(t.CreatedAt), micros(t.UpdatedAt), string(t.Isolation))
	if err != nil && s.b.Duplicate(err) {
		err = soulbox.Errorf(soulbox.Conflict, "template '%s' exists already", t.Name)
	}
	return wrap(err, "put template", t.ID)
}

// Template returns the template with an id.
func (s *Store) Template(ctx context.Context, id soulbox.TemplateID) (*soulbox.Template, error) {
	t, err := scanTemplate(s.b.Read.QueryRowContext(ctx,
		`SELECT `+templateColumns+` FROM templates WHERE id = $1`, string(id)))
	return t, wrap(found(err, "template", id), "read template", id)
}

// TemplateByName returns the template of a team, or of the house when team is
// empty, with a name.
func (s *Store) TemplateByName(ctx context.Context, team soulbox.TeamID, name string) (*soulbox.Template, error) {
	t, err := scanTemplate(s.b.Read.QueryRowContext(ctx,
		`SELECT `+templateColumns+` FROM templates WHERE team = $1 AND name = $2`, string(team), name))
	return t, wrap(found(err, "template", name), "read template", name)
}

// Templates returns the templates of a team and the house's, by name.
func (s *Store) Templates(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Template, error) {
	all, err := collect(ctx, s.b.Read, scanTemplate,
		`SELECT `+templateColumns+` FROM templates WHERE team = $1 OR team = '' ORDER BY name, team`, string(team))
	return all, wrap(err, "list templates of team", team)
}

// AllTemplates returns every template, by team and name.
func (s *Store) AllTemplates(ctx context.Context) ([]*soulbox.Template, error) {
	all, err := collect(ctx, s.b.Read, scanTemplate,
		`SELECT `+templateColumns+` FROM templates ORDER BY team, name`)
	return all, wrap(err, "list", "templates")
}

// SetTemplateIsolation changes what sandboxes made of a template have, and
// nothing else but the time of its last change. Unlike PutTemplate it never
// brings back a template that was deleted meanwhile: that is NotFound.
func (s *Store) SetTemplateIsolation(ctx context.Context, id soulbox.TemplateID, class soulbox.Isolation, at time.Time) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.NotFound, "template '%s' not found", id),
		`UPDATE templates SET isolation = $1, updated_at = $2 WHERE id = $3`, string(class), micros(at), string(id))
	return wrap(err, "set isolation of template", id)
}

// DeleteTemplate forgets a template. Sandboxes made of it keep its id.
func (s *Store) DeleteTemplate(ctx context.Context, id soulbox.TemplateID) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.NotFound, "template '%s' not found", id),
		`DELETE FROM templates WHERE id = $1`, string(id))
	return wrap(err, "delete template", id)
}

func scanTemplate(r row) (*soulbox.Template, error) {
	var t soulbox.Template
	var env string
	var created, updated int64
	err := r.Scan(&t.ID, &t.Team, &t.Name, &t.Public, &t.Image,
		&t.Size.CPUs, &t.Size.Memory, &t.Size.Disk, &t.Size.PIDs,
		&env, &t.User, &t.Workdir, &t.Source, &t.Starts, &created, &updated, &t.Isolation)
	if err != nil {
		return nil, err
	}
	if t.Env, err = parsePairs(env); err != nil {
		return nil, err
	}
	t.CreatedAt, t.UpdatedAt = instant(created), instant(updated)
	return &t, nil
}
