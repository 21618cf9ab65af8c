package store

import (
	"context"
	"time"

	"github.com/soulbox/soulbox"
)

const teamColumns = `id, name, slug, max_sandboxes, max_timeout_us, max_memory, max_cpus, created_at`

// InsertTeam remembers a new team. A slug that is taken is a Conflict.
func (s *Store) InsertTeam(ctx context.Context, t *soulbox.Team) error {
	_, err := s.exec(ctx,
		`INSERT INTO teams (`+teamColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		string(t.ID), t.Name, t.Slug, t.Limits.Sandboxes, t.Limits.Timeout.Microseconds(), int64(t.Limits.Memory), t.Limits.CPUs, micros(t.CreatedAt))
	if err != nil && s.b.Duplicate(err) {
		err = soulbox.Errorf(soulbox.Conflict, "team '%s' exists already", t.Slug)
	}
	return wrap(err, "insert team", t.ID)
}

// SetTeamLimits changes what a team may use.
func (s *Store) SetTeamLimits(ctx context.Context, id soulbox.TeamID, l soulbox.Limits) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.NotFound, "team '%s' not found", id),
		`UPDATE teams SET max_sandboxes = $1, max_timeout_us = $2, max_memory = $3, max_cpus = $4 WHERE id = $5`,
		l.Sandboxes, l.Timeout.Microseconds(), int64(l.Memory), l.CPUs, string(id))
	return wrap(err, "set limits of team", id)
}

// Team returns the team with an id.
func (s *Store) Team(ctx context.Context, id soulbox.TeamID) (*soulbox.Team, error) {
	t, err := scanTeam(s.b.Read.QueryRowContext(ctx, `SELECT `+teamColumns+` FROM teams WHERE id = $1`, string(id)))
	return t, wrap(found(err, "team", id), "read team", id)
}

// TeamBySlug returns the team with a slug.
func (s *Store) TeamBySlug(ctx context.Context, slug string) (*soulbox.Team, error) {
	t, err := scanTeam(s.b.Read.QueryRowContext(ctx, `SELECT `+teamColumns+` FROM teams WHERE slug = $1`, slug))
	return t, wrap(found(err, "team", slug), "read team", slug)
}

func scanTeam(r row) (*soulbox.Team, error) {
	var t soulbox.Team
	var timeout, created int64
	err := r.Scan(&t.ID, &t.Name, &t.Slug, &t.Limits.Sandboxes, &timeout, &t.Limits.Memory, &t.Limits.CPUs, &created)
	if err != nil {
		return nil, err
	}
	t.Limits.Timeout = time.Duration(timeout) * time.Microsecond
	t.CreatedAt = instant(created)
	return &t, nil
}
