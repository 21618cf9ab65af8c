package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/soulbox/soulbox"
)

const usageColumns = `sandbox, at, cpu_percent, cpu_count, mem_used, mem_total, mem_cache, disk_used, disk_total`

// InsertUsage remembers one measurement of each sandbox in one transaction. A
// measurement of a sandbox at a time that is remembered already is ignored.
func (s *Store) InsertUsage(ctx context.Context, samples map[soulbox.SandboxID]soulbox.Usage) error {
	if len(samples) == 0 {
		return nil
	}
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		insert, err := tx.PrepareContext(ctx, `
			INSERT INTO usage_samples (`+usageColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (sandbox, at) DO NOTHING`)
		if err != nil {
			return err
		}
		defer func() { _ = insert.Close() }() // ends with the transaction in any case
		for id, u := range samples {
			_, err := insert.ExecContext(ctx, string(id), micros(u.At), u.CPUPercent, u.CPUCount,
				int64(u.MemUsed), int64(u.MemTotal), int64(u.MemCache), int64(u.DiskUsed), int64(u.DiskTotal))
			if err != nil {
				return err
			}
		}
		return nil
	})
	return wrap(err, "insert", "usage")
}

// Usage returns up to limit of a sandbox's measurements from a time up to and
// including another, oldest first.
func (s *Store) Usage(ctx context.Context, id soulbox.SandboxID, from, to time.Time, limit int) ([]soulbox.Usage, error) {
	all, err := collect(ctx, s.b.Read, scanUsage, `
		SELECT `+usageColumns+` FROM usage_samples
		WHERE sandbox = $1 AND at >= $2 AND at <= $3 ORDER BY at LIMIT $4`,
		string(id), micros(from), micros(to), limit)
	return all, wrap(err, "read usage of sandbox", id)
}

// PruneUsage forgets up to limit measurements from before a time, the oldest
// first, and returns how many those were. Callers repeat it until it returns
// less than limit, so that others can write in between.
func (s *Store) PruneUsage(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := s.exec(ctx, `
		DELETE FROM usage_samples WHERE (sandbox, at) IN
			(SELECT u.sandbox, u.at FROM usage_samples u WHERE u.at < $1 ORDER BY u.at LIMIT $2)`,
		micros(before), limit)
	return int(n), wrap(err, "prune", "usage")
}

func scanUsage(r row) (soulbox.Usage, error) {
	var u soulbox.Usage
	var id soulbox.SandboxID
	var at int64
	err := r.Scan(&id, &at, &u.CPUPercent, &u.CPUCount, &u.MemUsed, &u.MemTotal, &u.MemCache, &u.DiskUsed, &u.DiskTotal)
	u.At = instant(at)
	return u, err
}
