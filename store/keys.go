package store

import (
	"context"
	"time"

	"github.com/soulbox/soulbox"
)

const keyColumns = `id, team, name, hash, suffix, created_at, last_used`

// InsertKey remembers a new key.
func (s *Store) InsertKey(ctx context.Context, k *soulbox.Key) error {
	_, err := s.exec(ctx,
		`INSERT INTO api_keys (`+keyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		string(k.ID), string(k.Team), k.Name, k.Hash, k.Suffix, micros(k.CreatedAt), micros(k.LastUsed))
	if err != nil && s.b.Duplicate(err) {
		err = soulbox.Errorf(soulbox.Conflict, "this key exists already")
	}
	return wrap(err, "insert key", k.ID)
}

// KeyByHash returns the key with a hash.
func (s *Store) KeyByHash(ctx context.Context, hash string) (*soulbox.Key, error) {
	k, err := scanKey(s.b.Read.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_keys WHERE hash = $1`, hash))
	return k, wrap(found(err, "key", ""), "read", "key")
}

// Keys returns the keys of a team, oldest first.
func (s *Store) Keys(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Key, error) {
	keys, err := collect(ctx, s.b.Read, scanKey,
		`SELECT `+keyColumns+` FROM api_keys WHERE team = $1 ORDER BY created_at, id`, string(team))
	return keys, wrap(err, "list keys of team", team)
}

// RenameKey changes the name of a team's key.
func (s *Store) RenameKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID, name string) error {
	err := s.change(ctx, noKey(id), `UPDATE api_keys SET name = $1 WHERE team = $2 AND id = $3`, name, string(team), string(id))
	return wrap(err, "rename key", id)
}

// TouchKey notes that a key was used. A key that is gone is not an error.
func (s *Store) TouchKey(ctx context.Context, id soulbox.KeyID, at time.Time) error {
	_, err := s.exec(ctx,
		`UPDATE api_keys SET last_used = $1 WHERE id = $2 AND last_used < $3`, micros(at), string(id), micros(at))
	return wrap(err, "touch key", id)
}

// DeleteKey forgets a team's key.
func (s *Store) DeleteKey(ctx context.Context, team soulbox.TeamID, id soulbox.KeyID) error {
	err := s.change(ctx, noKey(id), `DELETE FROM api_keys WHERE team = $1 AND id = $2`, string(team), string(id))
	return wrap(err, "delete key", id)
}

func noKey(id soulbox.KeyID) error {
	return soulbox.Errorf(soulbox.NotFound, "API key '%s' not found", id)
}

func scanKey(r row) (*soulbox.Key, error) {
	var k soulbox.Key
	var created, used int64
	if err := r.Scan(&k.ID, &k.Team, &k.Name, &k.Hash, &k.Suffix, &created, &used); err != nil {
		return nil, err
	}
	k.CreatedAt, k.LastUsed = instant(created), instant(used)
	return &k, nil
}
