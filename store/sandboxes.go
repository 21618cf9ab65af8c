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
	ended_at, ended_by, end_reason, cpus, memory, disk, pids, network, secure, env, metadata,
	timeout_us, lifecycle, pause_snapshot, pause_memory, paused_at, from_snapshot, isolation, build`

// network is how a soulbox.Network is stored. A new field must mean the old
// behaviour when it is absent.
type network struct {
	Internet bool `json:"internet"`
	Private  bool `json:"private,omitempty"`
}

// lifecycle is how a soulbox.Lifecycle is stored. The rule for network holds
// here, too: rows from before there was one say "{}".
type lifecycle struct {
	Pause     bool `json:"pause,omitempty"`
	FilesOnly bool `json:"filesOnly,omitempty"`
	Wake      bool `json:"wake,omitempty"`
}

// InsertSandbox remembers a new sandbox. A Pause without a snapshot is none.
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
	cycle, err := json.Marshal(lifecycle(sb.Lifecycle))
	if err != nil {
		return wrap(err, "insert sandbox", sb.ID)
	}
	end, pause := orZero(sb.End), orZero(sb.Pause)
	err = s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO sandboxes (`+sandboxColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
				$22, $23, $24, $25, $26, $27, $28, $29)`,
			string(sb.ID), string(sb.Team), string(sb.Template), sb.Alias, string(sb.Node), string(sb.State),
			micros(sb.CreatedAt), micros(sb.StartedAt), micros(sb.ExpiresAt), listedAt(sb),
			micros(end.At), string(end.By), end.Reason,
			sb.Size.CPUs, int64(sb.Size.Memory), int64(sb.Size.Disk), sb.Size.PIDs,
			string(net), sb.Secure, env, metadata,
			sb.Timeout.Microseconds(), string(cycle), string(pause.Snapshot), pause.Memory, micros(pause.At), string(sb.From), string(sb.Isolation), string(sb.Build))
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

// orZero returns what p points to, or the zero value when that is nothing.
func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// MoveSandbox stores sb's state, its times, its timeout and lifecycle, what it
// comes back from, its last snapshot and its end, provided that the state
// stored until now is from. Otherwise it is a Conflict and nothing changes.
// From may be the state that sb has, which stores the rest. A sandbox that
// becomes running for the first time counts as a start of its template, and as
// a download if that is another team's.
func (s *Store) MoveSandbox(ctx context.Context, sb *soulbox.Sandbox, from soulbox.State) error {
	op := fmt.Sprintf("move to %s sandbox", sb.State)
	cycle, err := json.Marshal(lifecycle(sb.Lifecycle))
	if err != nil {
		return wrap(err, op, sb.ID)
	}
	end, pause := orZero(sb.End), orZero(sb.Pause)
	miss := soulbox.Errorf(soulbox.Conflict, "sandbox %s is not %s any more", sb.ID, from)
	err = s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `
			UPDATE sandboxes SET state = $1, started_at = $2, expires_at = $3, listed_at = $4,
				ended_at = $5, ended_by = $6, end_reason = $7, timeout_us = $8, lifecycle = $9,
				pause_snapshot = $10, pause_memory = $11, paused_at = $12, from_snapshot = $13
			WHERE id = $14 AND state = $15`,
			string(sb.State), micros(sb.StartedAt), micros(sb.ExpiresAt), listedAt(sb),
			micros(end.At), string(end.By), end.Reason, sb.Timeout.Microseconds(), string(cycle),
			string(pause.Snapshot), pause.Memory, micros(pause.At), string(sb.From),
			string(sb.ID), string(from))
		if err != nil {
			return err
		}
		if err := oneRow(res, miss); err != nil {
			return err
		}
		if from != soulbox.Starting || sb.State != soulbox.Running {
			return nil
		}
		_, err = tx.ExecContext(ctx, `
			UPDATE templates SET starts = starts + 1, downloads = downloads + CASE WHEN team = $1 THEN 0 ELSE 1 END WHERE id = $2`,
			string(sb.Team), string(sb.Template))
		return err
	})
	return wrap(err, op, sb.ID)
}

// SetSandboxExpiry changes until when a running sandbox runs, and the timeout
// that led to it. It is a Conflict when the sandbox does not run.
func (s *Store) SetSandboxExpiry(ctx context.Context, id soulbox.SandboxID, at time.Time, timeout time.Duration) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.Conflict, "sandbox %s does not run", id),
		`UPDATE sandboxes SET expires_at = $1, timeout_us = $2 WHERE id = $3 AND state = $4`,
		micros(at), timeout.Microseconds(), string(id), string(soulbox.Running))
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
	// Less or greater, and not just unequal, because an index by state serves
	// only the former: most sandboxes have ended.
	ended := string(soulbox.Ended)
	all, err := collect(ctx, s.b.Read, scanSandbox, `
		SELECT `+sandboxColumns+` FROM sandboxes
		WHERE state < $1 OR state > $2 OR (state = $3 AND ended_at >= $4)
		ORDER BY created_at, id`,
		ended, ended, ended, micros(since))
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

// DeleteSandbox forgets an ended sandbox. Its snapshots stay. It is a Conflict
// when the sandbox is not ended or not there.
func (s *Store) DeleteSandbox(ctx context.Context, id soulbox.SandboxID) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.Conflict, "sandbox %s is not ended", id),
		`DELETE FROM sandboxes WHERE id = $1 AND state = $2`, string(id), string(soulbox.Ended))
	return wrap(err, "delete sandbox", id)
}

func scanSandbox(r row) (*soulbox.Sandbox, error) {
	var sb soulbox.Sandbox
	var end soulbox.End
	var pause soulbox.Pause
	var created, started, expires, listed, ended, timeout, paused int64
	var net, env, metadata, cycle string
	err := r.Scan(&sb.ID, &sb.Team, &sb.Template, &sb.Alias, &sb.Node, &sb.State,
		&created, &started, &expires, &listed, &ended, &end.By, &end.Reason,
		&sb.Size.CPUs, &sb.Size.Memory, &sb.Size.Disk, &sb.Size.PIDs,
		&net, &sb.Secure, &env, &metadata,
		&timeout, &cycle, &pause.Snapshot, &pause.Memory, &paused, &sb.From, &sb.Isolation, &sb.Build)
	if err != nil {
		return nil, err
	}
	var n network
	if err := json.Unmarshal([]byte(net), &n); err != nil {
		return nil, err
	}
	sb.Network = soulbox.Network(n)
	var l lifecycle
	if err := json.Unmarshal([]byte(cycle), &l); err != nil {
		return nil, err
	}
	sb.Lifecycle = soulbox.Lifecycle(l)
	if sb.Env, err = parsePairs(env); err != nil {
		return nil, err
	}
	if sb.Metadata, err = parsePairs(metadata); err != nil {
		return nil, err
	}
	sb.CreatedAt, sb.StartedAt, sb.ExpiresAt = instant(created), instant(started), instant(expires)
	sb.Timeout = time.Duration(timeout) * time.Microsecond
	if pause.Snapshot != "" {
		pause.At = instant(paused)
		sb.Pause = &pause
	}
	if ended != 0 {
		end.At = instant(ended)
		sb.End = &end
	}
	return &sb, nil
}
