package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/soulbox/soulbox"
)

// PutClaims remembers that a team has pushed blobs to its repository called
// name, or once more has.
func (s *Store) PutClaims(ctx context.Context, team soulbox.TeamID, name string, claims []soulbox.Claim, at time.Time) error {
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, c := range claims {
			_, err := tx.ExecContext(ctx, `
				INSERT INTO claims (team, name, digest, size, at) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (team, name, digest) DO UPDATE SET size = excluded.size, at = excluded.at`,
				string(team), name, string(c.Digest), c.Size, micros(at))
			if err != nil {
				return err
			}
		}
		return nil
	})
	return wrap(err, "claim blobs for repository", name)
}

// Claimed returns when a team has pushed a blob to its repository called name
// last, or NotFound.
func (s *Store) Claimed(ctx context.Context, team soulbox.TeamID, name string, d soulbox.Digest) (time.Time, error) {
	var at int64
	err := s.b.Read.QueryRowContext(ctx, `SELECT at FROM claims WHERE team = $1 AND name = $2 AND digest = $3`, string(team), name, string(d)).Scan(&at)
	return instant(at), wrap(found(err, "blob", d), "read claim of", d)
}

// ClaimedBytes returns how large the blobs are that a team has pushed and that
// are claimed, each as often as there are repositories that have it.
func (s *Store) ClaimedBytes(ctx context.Context, team soulbox.TeamID) (n int64, err error) {
	err = s.b.Read.QueryRowContext(ctx, `SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM claims WHERE team = $1`, string(team)).Scan(&n)
	return n, wrap(err, "measure claims of team", team)
}

// ClaimedBlobs returns what is claimed by anybody.
func (s *Store) ClaimedBlobs(ctx context.Context) ([]soulbox.Digest, error) {
	all, err := collect(ctx, s.b.Read, scanDigest, `SELECT DISTINCT digest FROM claims`)
	return all, wrap(err, "list", "claims")
}

// ClaimedByAny reports whether anybody claims a blob.
func (s *Store) ClaimedByAny(ctx context.Context, d soulbox.Digest) (bool, error) {
	var n int
	err := s.b.Read.QueryRowContext(ctx, `SELECT COUNT(*) FROM claims WHERE digest = $1`, string(d)).Scan(&n)
	return n > 0, wrap(err, "look for claims of", d)
}

// DropClaims forgets claims that were made before a time.
func (s *Store) DropClaims(ctx context.Context, before time.Time) error {
	_, err := s.exec(ctx, `DELETE FROM claims WHERE at < $1`, micros(before))
	return wrap(err, "drop claims before", before)
}

// Manifests returns those of which builds were made.
func (s *Store) Manifests(ctx context.Context) ([]soulbox.Digest, error) {
	all, err := collect(ctx, s.b.Read, scanDigest, `SELECT DISTINCT manifest FROM builds WHERE manifest <> ''`)
	return all, wrap(err, "list", "manifests")
}

func scanDigest(r row) (d soulbox.Digest, err error) { return d, r.Scan(&d) }
