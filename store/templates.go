package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	templateColumns = `id, team, name, public, build, major, minor, patch, image, snapshot, baked,
	cpus, memory, disk, pids, isolation, env, username, workdir, source, starts, created_at, updated_at`

	// ofBuild are those columns of a template that repeat what its default
	// build has, and inBuild what they are called there.
	ofBuild = `build, major, minor, patch, image, snapshot, baked, cpus, memory, disk, pids, isolation, env, username, workdir, source`
	inBuild = `id, major, minor, patch, image, snapshot, baked, cpus, memory, disk, pids, isolation, env, username, workdir, base`
)

// InsertTemplate remembers a new template. A name that another template of the
// team has is a Conflict.
func (s *Store) InsertTemplate(ctx context.Context, t *soulbox.Template) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error { return s.insertTemplate(ctx, tx, t) })
	if err != nil && s.b.Duplicate(err) {
		err = soulbox.Errorf(soulbox.Conflict, "template '%s' exists already", t.Name)
	}
	return wrap(err, "insert template", t.ID)
}

func (s *Store) insertTemplate(ctx context.Context, tx *sql.Tx, t *soulbox.Template) error {
	env, err := pairs(t.Env).text()
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO templates (`+templateColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)`,
		string(t.ID), string(t.Team), t.Name, t.Public, string(t.Build), t.Version.Major, t.Version.Minor, t.Version.Patch,
		t.Image, string(t.Snapshot), string(t.Baked), t.Size.CPUs, int64(t.Size.Memory), int64(t.Size.Disk), t.Size.PIDs,
		string(t.Isolation), env, t.User, t.Workdir, t.Source, t.Starts, micros(t.CreatedAt), micros(t.UpdatedAt))
	if err != nil {
		return err
	}
	return s.index(ctx, tx, t.ID)
}

// templateOr returns the team's template with t's name, or remembers t.
func (s *Store) templateOr(ctx context.Context, tx *sql.Tx, t *soulbox.Template) (*soulbox.Template, error) {
	have, err := scanTemplate(tx.QueryRowContext(ctx,
		`SELECT `+templateColumns+` FROM templates WHERE team = $1 AND name = $2`, string(t.Team), t.Name))
	if soulbox.KindOf(found(err, "template", t.Name)) != soulbox.NotFound {
		return have, err
	}
	have = new(*t)
	return have, s.insertTemplate(ctx, tx, t)
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

// SetTemplatePublic lets every team start a template, or its own only, and
// changes nothing else but the times of its last change and its publication.
func (s *Store) SetTemplatePublic(ctx context.Context, id soulbox.TemplateID, public bool, at time.Time) error {
	published := at
	if !public {
		published = time.Time{}
	}
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE templates SET public = $1, updated_at = $2 WHERE id = $3`, public, micros(at), string(id))
		if err != nil {
			return err
		}
		if err := oneRow(res, noTemplate(id)); err != nil {
			return err
		}
		if err := ensureListing(ctx, tx, id); err != nil {
			return err
		}
		// Who publishes what is public changes nothing.
		_, err = tx.ExecContext(ctx, `UPDATE listings SET published_at = $1 WHERE template = $2 AND (published_at = 0 OR NOT $3)`,
			micros(published), string(id), public)
		return err
	})
	return wrap(err, "publish template", id)
}

// SetTemplateIsolation changes what sandboxes made of a template have, of all
// its ready builds but those with a snapshot, which no other class can restore.
// It changes nothing else but the time of the last change.
func (s *Store) SetTemplateIsolation(ctx context.Context, id soulbox.TemplateID, class soulbox.Isolation, at time.Time) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx,
			`UPDATE templates SET isolation = CASE WHEN snapshot = '' THEN $1 ELSE isolation END, updated_at = $2 WHERE id = $3`,
			string(class), micros(at), string(id))
		if err != nil {
			return err
		}
		if err := oneRow(res, noTemplate(id)); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE builds SET isolation = $1 WHERE template = $2 AND state = $3 AND snapshot = ''`,
			string(class), string(id), string(soulbox.BuildReady))
		return err
	})
	return wrap(err, "set isolation of template", id)
}

// liveStates are those of [soulbox.State.Live], for queries.
const liveStates = `'` + string(soulbox.Starting) + `', '` + string(soulbox.Running) + `', '` + string(soulbox.Pausing) +
	`', '` + string(soulbox.Paused) + `', '` + string(soulbox.Resuming) + `'`

// DeleteTemplate forgets a template and all that belongs to it. It is Invalid
// while sandboxes made of it live; those that have ended keep its id.
func (s *Store) DeleteTemplate(ctx context.Context, id soulbox.TemplateID) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// First the lock of what is to go: nobody finishes a build of it now.
		res, err := tx.ExecContext(ctx, `UPDATE templates SET updated_at = updated_at WHERE id = $1`, string(id))
		if err != nil {
			return err
		}
		if err := oneRow(res, noTemplate(id)); err != nil {
			return err
		}
		var live int
		err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM sandboxes WHERE state IN (`+liveStates+`) AND template = $1`, string(id)).Scan(&live)
		if err != nil {
			return err
		}
		if live > 0 {
			return soulbox.Errorf(soulbox.Invalid, "template '%s' cannot be removed: %d sandboxes that run or are paused were made of it; end them first", id, live)
		}
		for _, query := range []string{
			s.b.Text.Forget,
			`DELETE FROM template_reports WHERE template = $1`,
			`DELETE FROM template_ratings WHERE template = $1`,
			`DELETE FROM listings WHERE template = $1`,
			`DELETE FROM template_tags WHERE template = $1`,
			`DELETE FROM builds WHERE template = $1`,
			`DELETE FROM templates WHERE id = $1`,
		} {
			if _, err := tx.ExecContext(ctx, query, string(id)); err != nil {
				return err
			}
		}
		return nil
	})
	return wrap(err, "delete template", id)
}

func noTemplate(id soulbox.TemplateID) error {
	return soulbox.Errorf(soulbox.NotFound, "template '%s' not found", id)
}

func scanTemplate(r row) (*soulbox.Template, error) {
	t := &soulbox.Template{}
	fields := templateFields(t)
	if err := r.Scan(fields.dest...); err != nil {
		return nil, err
	}
	return t, fields.finish()
}

// scanned is where a row goes whose columns need to be read.
type scanned struct {
	dest   []any
	finish func() error
}

func templateFields(t *soulbox.Template) scanned {
	var env string
	var created, updated int64
	return scanned{
		[]any{
			&t.ID, &t.Team, &t.Name, &t.Public, &t.Build, &t.Version.Major, &t.Version.Minor, &t.Version.Patch, &t.Image, &t.Snapshot, &t.Baked,
			&t.Size.CPUs, &t.Size.Memory, &t.Size.Disk, &t.Size.PIDs,
			&t.Isolation, &env, &t.User, &t.Workdir, &t.Source, &t.Starts, &created, &updated,
		},
		func() (err error) {
			t.Env, err = parsePairs(env)
			t.CreatedAt, t.UpdatedAt = instant(created), instant(updated)
			return err
		},
	}
}

// setDefault makes a template's row repeat what one of its builds has.
func setDefault(ctx context.Context, tx *sql.Tx, id soulbox.TemplateID, build soulbox.BuildID, at time.Time) error {
	_, err := tx.ExecContext(ctx, `
		UPDATE templates SET (`+ofBuild+`) = (SELECT `+inBuild+` FROM builds WHERE id = $1), updated_at = $2 WHERE id = $3`,
		string(build), micros(at), string(id))
	if err != nil {
		return fmt.Errorf("make build %s the default one: %w", build, err)
	}
	return nil
}
