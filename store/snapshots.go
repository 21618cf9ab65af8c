package store

import (
	"context"
	"strconv"

	"github.com/soulbox/soulbox"
)

const snapshotColumns = `id, team, sandbox, parent, kind, name, node, ready, has_memory, bytes, created_at,
	template, alias, image, cpus, memory, disk, pids, secure, env, username, workdir`

// InsertSnapshot remembers a new snapshot. An id that exists is a Conflict, and
// so is a name that another one has: of kind [soulbox.ForCreate] in its team,
// of kind [soulbox.ForRollback] of its sandbox. One that is not ready yet has
// its name already.
func (s *Store) InsertSnapshot(ctx context.Context, snap *soulbox.Snapshot) error {
	env, err := pairs(snap.Env).text()
	if err != nil {
		return wrap(err, "insert snapshot", snap.ID)
	}
	// An id that exists changes no row, so a duplicate can only be a name.
	err = s.change(ctx, soulbox.Errorf(soulbox.Conflict, "snapshot %s exists already", snap.ID), `
		INSERT INTO snapshots (`+snapshotColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
		ON CONFLICT (id) DO NOTHING`,
		string(snap.ID), string(snap.Team), string(snap.Sandbox), string(snap.Parent), string(snap.Kind), snap.Name,
		string(snap.Node), snap.Ready, snap.Memory, int64(snap.Bytes), micros(snap.CreatedAt),
		string(snap.Template), snap.Alias, snap.Image,
		snap.Size.CPUs, int64(snap.Size.Memory), int64(snap.Size.Disk), snap.Size.PIDs,
		snap.Secure, env, snap.User, snap.Workdir)
	if err != nil && s.b.Duplicate(err) {
		err = nameTaken(snap)
	}
	return wrap(err, "insert snapshot", snap.ID)
}

func nameTaken(snap *soulbox.Snapshot) error {
	if snap.Kind == soulbox.ForRollback {
		return soulbox.Errorf(soulbox.Conflict,
			"sandbox %s has a checkpoint '%s' already; choose another name or remove that one", snap.Sandbox, snap.Name)
	}
	return soulbox.Errorf(soulbox.Conflict, "snapshot '%s' exists already; choose another name or remove that one", snap.Name)
}

// FinishSnapshot notes that a snapshot is written completely and how much it
// takes on disk. It is NotFound when somebody deleted the record meanwhile.
func (s *Store) FinishSnapshot(ctx context.Context, id soulbox.SnapshotID, bytes soulbox.Bytes) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.NotFound, "snapshot '%s' not found", id),
		`UPDATE snapshots SET ready = $1, bytes = $2 WHERE id = $3`, true, int64(bytes), string(id))
	return wrap(err, "finish snapshot", id)
}

// Snapshot returns the snapshot with an id, of any kind, ready or not.
func (s *Store) Snapshot(ctx context.Context, id soulbox.SnapshotID) (*soulbox.Snapshot, error) {
	snap, err := scanSnapshot(s.b.Read.QueryRowContext(ctx,
		`SELECT `+snapshotColumns+` FROM snapshots WHERE id = $1`, string(id)))
	return snap, wrap(found(err, "snapshot", id), "read snapshot", id)
}

// named is the condition of the index snapshot_names. Databases use it only for
// queries that repeat it; with a parameter in it they could not tell. It also
// keeps the empty name from finding one of many.
const named = `kind = '` + string(soulbox.ForCreate) + `' AND name <> ''`

// SnapshotByName returns the snapshot of kind [soulbox.ForCreate] with a name
// in a team. One that is not ready is NotFound.
func (s *Store) SnapshotByName(ctx context.Context, team soulbox.TeamID, name string) (*soulbox.Snapshot, error) {
	snap, err := scanSnapshot(s.b.Read.QueryRowContext(ctx,
		`SELECT `+snapshotColumns+` FROM snapshots WHERE team = $1 AND name = $2 AND ready = $3 AND `+named,
		string(team), name, true))
	return snap, wrap(found(err, "snapshot", name), "read snapshot", name)
}

// Snapshots returns one page of the ready snapshots that f selects, of every
// kind when it names none. Pages are stable as those of [Store.Sandboxes] are.
func (s *Store) Snapshots(ctx context.Context, f soulbox.SnapshotFilter) (soulbox.SnapshotPage, error) {
	page, err := s.snapshots(ctx, f)
	return page, wrap(err, "list snapshots of team", f.Team)
}

func (s *Store) snapshots(ctx context.Context, f soulbox.SnapshotFilter) (soulbox.SnapshotPage, error) {
	var page soulbox.SnapshotPage
	var q conditions
	q.and(`team = ?`, string(f.Team))
	q.and(`ready = ?`, true)
	if f.Kind != "" {
		q.and(`kind = ?`, string(f.Kind))
	}
	if f.Sandbox != "" {
		q.and(`sandbox = ?`, string(f.Sandbox))
	}
	if f.Name != "" {
		q.and(`name = ?`, f.Name)
	}
	if f.Cursor != "" {
		at, id, err := parseCursor[soulbox.SnapshotID](f.Cursor)
		if err != nil {
			return page, err
		}
		q.and(`(created_at, id) < (?, ?)`, at, string(id))
	}
	query := `SELECT ` + snapshotColumns + ` FROM snapshots WHERE ` + q.text() + ` ORDER BY created_at DESC, id DESC`
	if f.Limit > 0 {
		// One more than asked for tells whether there is a next page.
		q.args = append(q.args, f.Limit+1)
		query += ` LIMIT $` + strconv.Itoa(len(q.args))
	}
	var err error
	if page.Snapshots, err = collect(ctx, s.b.Read, scanSnapshot, query, q.args...); err != nil {
		return page, err
	}
	if f.Limit > 0 && len(page.Snapshots) > f.Limit {
		page.Snapshots = page.Snapshots[:f.Limit]
		last := page.Snapshots[f.Limit-1]
		page.Next = cursor(micros(last.CreatedAt), last.ID)
	}
	return page, nil
}

// AllSnapshots returns the snapshots of all teams and kinds, ready or not,
// oldest first.
func (s *Store) AllSnapshots(ctx context.Context) ([]*soulbox.Snapshot, error) {
	all, err := collect(ctx, s.b.Read, scanSnapshot,
		`SELECT `+snapshotColumns+` FROM snapshots ORDER BY created_at, id`)
	return all, wrap(err, "list", "snapshots")
}

// SnapshotsOf returns the snapshots that were taken of a sandbox, of all kinds,
// ready or not, oldest first.
func (s *Store) SnapshotsOf(ctx context.Context, sandbox soulbox.SandboxID) ([]*soulbox.Snapshot, error) {
	all, err := collect(ctx, s.b.Read, scanSnapshot,
		`SELECT `+snapshotColumns+` FROM snapshots WHERE sandbox = $1 ORDER BY created_at, id`, string(sandbox))
	return all, wrap(err, "list snapshots of sandbox", sandbox)
}

// DeleteSnapshot forgets a snapshot. One that is not there is not an error.
// Sandboxes and snapshots that came of it keep its id.
func (s *Store) DeleteSnapshot(ctx context.Context, id soulbox.SnapshotID) error {
	_, err := s.exec(ctx, `DELETE FROM snapshots WHERE id = $1`, string(id))
	return wrap(err, "delete snapshot", id)
}

func scanSnapshot(r row) (*soulbox.Snapshot, error) {
	var snap soulbox.Snapshot
	var env string
	var created int64
	err := r.Scan(&snap.ID, &snap.Team, &snap.Sandbox, &snap.Parent, &snap.Kind, &snap.Name,
		&snap.Node, &snap.Ready, &snap.Memory, &snap.Bytes, &created,
		&snap.Template, &snap.Alias, &snap.Image,
		&snap.Size.CPUs, &snap.Size.Memory, &snap.Size.Disk, &snap.Size.PIDs,
		&snap.Secure, &env, &snap.User, &snap.Workdir)
	if err != nil {
		return nil, err
	}
	if snap.Env, err = parsePairs(env); err != nil {
		return nil, err
	}
	snap.CreatedAt = instant(created)
	return &snap, nil
}
