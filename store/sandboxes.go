package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
)

const sandboxColumns = `id, team, template, alias, node, state, created_at, started_at, expires_at, listed_at,
	ended_at, ended_by, end_reason, cpus, memory, disk, pids, network, secure, env, metadata`

// network is how a soulbox.Network is stored. A new field must mean the old
// behaviour when it is absent.
type network struct {
	Internet bool `json:"internet"`
}

// InsertSandbox remembers a new sandbox.
func (s *Store) InsertSandbox(ctx context.Context, sb *soulbox.Sandbox) error {
	env, err := pairs(sb.Env).text()
	if err != nil {
		return wrap(err, "insert sandbox", sb.ID)
	}
	metadata, err := pairs(sb.Metadata).text()
	if err != nil {
		return wrap(err, "insert sandbox", sb.ID)
	}
	net, err := json.Marshal(network(sb.Network))
	if err != nil {
		return wrap(err, "insert sandbox", sb.ID)
	}
	var end soulbox.End
	if sb.End != nil {
		end = *sb.End
	}
	err = s.atomically(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO sandboxes (`+sandboxColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)`,
			string(sb.ID), string(sb.Team), string(sb.Template), sb.Alias, string(sb.Node), string(sb.State),
			micros(sb.CreatedAt), micros(sb.StartedAt), micros(sb.ExpiresAt), listedAt(sb),
			micros(end.At), string(end.By), end.Reason,
			sb.Size.CPUs, int64(sb.Size.Memory), int64(sb.Size.Disk), sb.Size.PIDs,
			string(net), sb.Secure, env, metadata)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(sb.Metadata)) {
			_, err := tx.ExecContext(ctx, `INSERT INTO sandbox_metadata (sandbox, name, value) VALUES ($1, $2, $3)`,
				string(sb.ID), name, sb.Metadata[name])
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && s.b.Duplicate(err) {
		err = soulbox.Errorf(soulbox.Conflict, "sandbox %s exists already", sb.ID)
	}
	return wrap(err, "insert sandbox", sb.ID)
}

func listedAt(sb *soulbox.Sandbox) int64 {
	if sb.StartedAt.IsZero() {
		return micros(sb.CreatedAt)
	}
	return micros(sb.StartedAt)
}

// MoveSandbox stores sb's state, its times and its end, provided that the
// state stored until now is from. Otherwise it is a Conflict and nothing
// changes. A sandbox that becomes running counts as a start of its template.
func (s *Store) MoveSandbox(ctx context.Context, sb *soulbox.Sandbox, from soulbox.State) error {
	var end soulbox.End
	if sb.End != nil {
		end = *sb.End
	}
	miss := soulbox.Errorf(soulbox.Conflict, "sandbox %s is not %s any more", sb.ID, from)
	err := s.atomically(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `
			UPDATE sandboxes SET state = $1, started_at = $2, expires_at = $3, listed_at = $4,
				ended_at = $5, ended_by = $6, end_reason = $7
			WHERE id = $8 AND state = $9`,
			string(sb.State), micros(sb.StartedAt), micros(sb.ExpiresAt), listedAt(sb),
			micros(end.At), string(end.By), end.Reason, string(sb.ID), string(from))
		if err != nil {
			return err
		}
		if err := oneRow(res, miss); err != nil {
			return err
		}
		if sb.State != soulbox.Running {
			return nil
		}
		_, err = tx.ExecContext(ctx, `UPDATE templates SET starts = starts + 1 WHERE id = $1`, string(sb.Template))
		return err
	})
	return wrap(err, fmt.Sprintf("move to %s sandbox", sb.State), sb.ID)
}

// SetSandboxExpiry changes until when a running sandbox runs. It is a Conflict
// when the sandbox does not run.
func (s *Store) SetSandboxExpiry(ctx context.Context, id soulbox.SandboxID, at time.Time) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.Conflict, "sandbox %s does not run", id),
		`UPDATE sandboxes SET expires_at = $1 WHERE id = $2 AND state = $3`, micros(at), string(id), string(soulbox.Running))
	return wrap(err, "set expiry of sandbox", id)
}

// SetSandboxNetwork changes what a running sandbox may reach. It is a Conflict
// when the sandbox does not run.
func (s *Store) SetSandboxNetwork(ctx context.Context, id soulbox.SandboxID, n soulbox.Network) error {
	net, err := json.Marshal(network(n))
	if err != nil {
		return wrap(err, "set network of sandbox", id)
	}
	err = s.change(ctx, soulbox.Errorf(soulbox.Conflict, "sandbox %s does not run", id),
		`UPDATE sandboxes SET network = $1 WHERE id = $2 AND state = $3`, string(net), string(id), string(soulbox.Running))
	return wrap(err, "set network of sandbox", id)
}

// Sandbox returns the sandbox with an id, live or ended.
func (s *Store) Sandbox(ctx context.Context, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	sb, err := scanSandbox(s.b.Read.QueryRowContext(ctx, `SELECT `+sandboxColumns+` FROM sandboxes WHERE id = $1`, string(id)))
	return sb, wrap(found(err, "sandbox", id), "read sandbox", id)
}

// UnendedSandboxes returns every sandbox that is not ended yet, of all teams,
// and those that ended at or after since.
func (s *Store) UnendedSandboxes(ctx context.Context, since time.Time) ([]*soulbox.Sandbox, error) {
	all, err := collect(ctx, s.b.Read, scanSandbox, `
		SELECT `+sandboxColumns+` FROM sandboxes
		WHERE state IN ($1, $2, $3) OR (state = $4 AND ended_at >= $5)
		ORDER BY created_at, id`,
		string(soulbox.Starting), string(soulbox.Running), string(soulbox.Ending), string(soulbox.Ended), micros(since))
	return all, wrap(err, "list", "unended sandboxes")
}

// SandboxesEndedBefore returns the ids of up to limit sandboxes that ended
// before t, the longest ended first.
func (s *Store) SandboxesEndedBefore(ctx context.Context, t time.Time, limit int) ([]soulbox.SandboxID, error) {
	scan := func(r row) (id soulbox.SandboxID, err error) { return id, r.Scan(&id) }
	ids, err := collect(ctx, s.b.Read, scan,
		`SELECT id FROM sandboxes WHERE state = $1 AND ended_at < $2 ORDER BY ended_at LIMIT $3`,
		string(soulbox.Ended), micros(t), limit)
	return ids, wrap(err, "list", "long-ended sandboxes")
}

// DeleteSandbox forgets an ended sandbox. It is a Conflict when the sandbox is
// not ended or not there.
func (s *Store) DeleteSandbox(ctx context.Context, id soulbox.SandboxID) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.Conflict, "sandbox %s is not ended", id),
		`DELETE FROM sandboxes WHERE id = $1 AND state = $2`, string(id), string(soulbox.Ended))
	return wrap(err, "delete sandbox", id)
}

func scanSandbox(r row) (*soulbox.Sandbox, error) {
	var sb soulbox.Sandbox
	var end soulbox.End
	var created, started, expires, listed, ended int64
	var net, env, metadata string
	err := r.Scan(&sb.ID, &sb.Team, &sb.Template, &sb.Alias, &sb.Node, &sb.State,
		&created, &started, &expires, &listed, &ended, &end.By, &end.Reason,
		&sb.Size.CPUs, &sb.Size.Memory, &sb.Size.Disk, &sb.Size.PIDs,
		&net, &sb.Secure, &env, &metadata)
	if err != nil {
		return nil, err
	}
	var n network
	if err := json.Unmarshal([]byte(net), &n); err != nil {
		return nil, err
	}
	sb.Network = soulbox.Network(n)
	if sb.Env, err = parsePairs(env); err != nil {
		return nil, err
	}
	if sb.Metadata, err = parsePairs(metadata); err != nil {
		return nil, err
	}
	sb.CreatedAt, sb.StartedAt, sb.ExpiresAt = instant(created), instant(started), instant(expires)
	if ended != 0 {
		end.At = instant(ended)
		sb.End = &end
	}
	return &sb, nil
}
