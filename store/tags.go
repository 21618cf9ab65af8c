package store

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
)

// Tags returns the tags of a template, by name.
func (s *Store) Tags(ctx context.Context, id soulbox.TemplateID) ([]soulbox.Tag, error) {
	scan := func(r row) (t soulbox.Tag, err error) {
		var at int64
		err = r.Scan(&t.Name, &t.Build, &at)
		t.At = instant(at)
		return t, err
	}
	all, err := collect(ctx, s.b.Read, scan, `SELECT name, build, at FROM template_tags WHERE template = $1 ORDER BY name`, string(id))
	return all, wrap(err, "list tags of template", id)
}

// PutTags makes tags of a template lead to one of its ready builds. When
// "default" is one of them, the template becomes what that build makes of it.
// A build that is not there, not ready or of another template is NotFound.
func (s *Store) PutTags(ctx context.Context, id soulbox.TemplateID, build soulbox.BuildID, tags []string, at time.Time) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// First the lock, as everywhere where tags move.
		res, err := tx.ExecContext(ctx, `UPDATE templates SET updated_at = updated_at WHERE id = $1`, string(id))
		if err != nil {
			return err
		}
		if err := oneRow(res, noTemplate(id)); err != nil {
			return err
		}
		var ready int
		err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM builds WHERE id = $1 AND template = $2 AND state = $3`,
			string(build), string(id), string(soulbox.BuildReady)).Scan(&ready)
		if err != nil {
			return err
		}
		if ready == 0 {
			return soulbox.Errorf(soulbox.NotFound, "build '%s' not found", build)
		}
		return s.setTags(ctx, tx, id, build, tags, at)
	})
	return wrap(err, "tag build", build)
}

// setTags makes tags lead to a build that is ready.
func (s *Store) setTags(ctx context.Context, tx *sql.Tx, id soulbox.TemplateID, build soulbox.BuildID, tags []string, at time.Time) error {
	for _, tag := range tags {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO template_tags (template, name, build, at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (template, name) DO UPDATE SET build = excluded.build, at = excluded.at`,
			string(id), tag, string(build), micros(at))
		if err != nil {
			return err
		}
	}
	if slices.Contains(tags, soulbox.DefaultTag) {
		if err := setDefault(ctx, tx, id, build, at); err != nil {
			return err
		}
	}
	return s.index(ctx, tx, id)
}

// DeleteTags removes tags of a template. Those that it does not have are not an
// error, and "default" stays.
func (s *Store) DeleteTags(ctx context.Context, id soulbox.TemplateID, tags []string) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, tag := range tags {
			_, err := tx.ExecContext(ctx, `DELETE FROM template_tags WHERE template = $1 AND name = $2 AND name <> $3`,
				string(id), tag, soulbox.DefaultTag)
			if err != nil {
				return err
			}
		}
		return s.index(ctx, tx, id)
	})
	return wrap(err, "remove tags of template", id)
}
