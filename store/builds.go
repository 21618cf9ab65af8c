package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

// buildColumns are those of a build without its packages.
const buildColumns = `id, template, team, state, created_at, queued_at, started_at, ended_at, failure, recipe, tags, bump,
	major, minor, patch, retired, image, snapshot, baked, cpus, memory, disk, pids, isolation, env, username, workdir, base, facts, manifest`

// InsertDraft remembers a new build that waits for its recipe, and its template
// unless the team has one of that name; it returns the one that there is. Drafts
// of it that the new one replaces, because they share a tag and are waiting for
// their recipes still, fail.
func (s *Store) InsertDraft(ctx context.Context, t *soulbox.Template, b *soulbox.Build) (have *soulbox.Template, err error) {
	insert := func() error {
		return s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
			if have, err = s.templateOr(ctx, tx, t); err != nil {
				return err
			}
			mine := b.Clone()
			mine.Template = have.ID
			if err := replaceDrafts(ctx, tx, mine); err != nil {
				return err
			}
			return insertBuild(ctx, tx, mine)
		})
	}
	if err = insert(); err != nil && s.b.Duplicate(err) {
		err = insert() // somebody has made the template since we looked
	}
	if err != nil {
		return nil, wrap(err, "insert draft", b.ID)
	}
	b.Template = have.ID
	return have, nil
}

// superseded is why a build failed to whose tags a newer one is to lead.
const superseded = "a newer build of the same template and tag took its place"

// replaceDrafts fails the drafts that share a tag with b.
func replaceDrafts(ctx context.Context, tx *sql.Tx, b *soulbox.Build) error {
	drafts, err := collect(ctx, tx, scanBuild,
		`SELECT `+buildColumns+` FROM builds WHERE template = $1 AND state = $2 AND queued_at = 0`, string(b.Template), string(soulbox.BuildWaiting))
	if err != nil {
		return err
	}
	for _, d := range drafts {
		if !d.Rivals(b) {
			continue
		}
		failure, err := failureText(&soulbox.BuildFailure{Message: superseded})
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE builds SET state = $1, failure = $2, ended_at = $3 WHERE id = $4`,
			string(soulbox.BuildFailed), failure, micros(b.CreatedAt), string(d.ID))
		if err != nil {
			return err
		}
	}
	return nil
}

func insertBuild(ctx context.Context, tx *sql.Tx, b *soulbox.Build) error {
	c, err := buildValues(b)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO builds (`+buildColumns+`, packages)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
			$21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31)`, c...)
	return err
}

// QueueBuild gives a draft its recipe, its bump and its place in the queue. It
// is a Conflict when that is no draft any more.
func (s *Store) QueueBuild(ctx context.Context, b *soulbox.Build) error {
	recipe, err := recipeText(b.Recipe)
	if err == nil {
		err = s.change(ctx, soulbox.Errorf(soulbox.Conflict, "build %s is not waiting for its recipe", b.ID),
			`UPDATE builds SET recipe = $1, bump = $2, queued_at = $3 WHERE id = $4 AND state = $5 AND queued_at = 0`,
			recipe, string(b.Bump), micros(b.QueuedAt), string(b.ID), string(soulbox.BuildWaiting))
	}
	return wrap(err, "queue build", b.ID)
}

// MoveBuild stores everything that becomes of b while it is built, provided
// that the state stored until now is from. Otherwise it is a Conflict and
// nothing changes. From may be the state that b has, which stores the rest. It
// never makes a build ready; that is [Store.FinishBuild].
func (s *Store) MoveBuild(ctx context.Context, b *soulbox.Build, from soulbox.BuildState) error {
	op := fmt.Sprintf("move to %s build", b.State)
	if b.State == soulbox.BuildReady || from.Over() {
		return fmt.Errorf("%s %s: not a move from %s that there is", op, b.ID, from)
	}
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error { return moveBuild(ctx, tx, b, from) })
	return wrap(err, op, b.ID)
}

func moveBuild(ctx context.Context, tx *sql.Tx, b *soulbox.Build, from soulbox.BuildState) error {
	c, err := buildValues(b)
	if err != nil {
		return err
	}
	// The first three say which build it is, and the fifth when it came.
	res, err := tx.ExecContext(ctx, `
		UPDATE builds SET state = $1, queued_at = $2, started_at = $3, ended_at = $4, failure = $5, recipe = $6, tags = $7, bump = $8,
			major = $9, minor = $10, patch = $11, retired = $12, image = $13, snapshot = $14, baked = $15,
			cpus = $16, memory = $17, disk = $18, pids = $19, isolation = $20, env = $21, username = $22, workdir = $23,
			base = $24, facts = $25, manifest = $26, packages = $27
		WHERE id = $28 AND state = $29`,
		append(slices.Concat(c[3:4], c[5:]), string(b.ID), string(from))...)
	if err != nil {
		return err
	}
	return oneRow(res, soulbox.Errorf(soulbox.Conflict, "build %s is not %s any more", b.ID, from))
}

// FinishBuild makes b ready, all in one step: it gets the version after the
// newest of its template, its tags lead to it, and if "default" is one of them,
// the template becomes what b makes of it. How far the version goes is b.Bump
// or, if that is empty, what bump makes of the template's default build until
// now, which is nil when there was none. bump may be called more than once.
//
// It is a Conflict when b is not being built, and NotFound when its template was
// deleted.
func (s *Store) FinishBuild(ctx context.Context, b *soulbox.Build, bump func(before *soulbox.Build) soulbox.Bump) error {
	done := b.Clone()
	err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error { return s.finish(ctx, tx, done, bump) })
	if err != nil {
		return wrap(err, "finish build", b.ID)
	}
	*b = *done
	return nil
}

// AddBuild remembers a build that is made already, as FinishBuild does, with its
// template unless the team has one of that name, and returns the template. Of
// is the template of which a new one is a copy; empty: none.
func (s *Store) AddBuild(ctx context.Context, t *soulbox.Template, b *soulbox.Build, of soulbox.TemplateID, bump func(before *soulbox.Build) soulbox.Bump) (have *soulbox.Template, err error) {
	var done *soulbox.Build
	add := func() error {
		return s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
			if of == "" {
				have, err = s.templateOr(ctx, tx, t)
			} else {
				have, err = t, s.insertTemplate(ctx, tx, t)
			}
			if err != nil {
				return err
			}
			done = b.Clone()
			done.Template, done.State = have.ID, soulbox.BuildRunning
			if err := insertBuild(ctx, tx, done); err != nil {
				return err
			}
			if err := noteOrigin(ctx, tx, have.ID, of); err != nil {
				return err
			}
			if err := s.finish(ctx, tx, done, bump); err != nil {
				return err
			}
			have, err = scanTemplate(tx.QueryRowContext(ctx, `SELECT `+templateColumns+` FROM templates WHERE id = $1`, string(have.ID)))
			return err
		})
	}
	err = add()
	if err != nil && s.b.Duplicate(err) {
		if of != "" {
			err = soulbox.Errorf(soulbox.Conflict, "template '%s' exists already", t.Name)
		} else {
			err = add() // somebody has made the template since we looked
		}
	}
	if err != nil {
		return nil, wrap(err, "add build", b.ID)
	}
	*b = *done
	return have, nil
}

func (s *Store) finish(ctx context.Context, tx *sql.Tx, b *soulbox.Build, bump func(*soulbox.Build) soulbox.Bump) error {
	// First the lock of the row: of two that finish, the second sees what the
	// first has done.
	res, err := tx.ExecContext(ctx, `UPDATE templates SET updated_at = $1 WHERE id = $2`, micros(b.EndedAt), string(b.Template))
	if err != nil {
		return err
	}
	if err := oneRow(res, noTemplate(b.Template)); err != nil {
		return err
	}
	before, newest, err := standing(ctx, tx, b.Template)
	if err != nil {
		return err
	}
	c := b.Bump
	if c == "" {
		c = bump(before)
	}
	if err := b.Move(soulbox.BuildReady); err != nil {
		return err
	}
	b.Version = newest.Next(c)
	if len(b.Tags) == 0 {
		b.Tags = []string{soulbox.DefaultTag}
	}
	if err := moveBuild(ctx, tx, b, soulbox.BuildRunning); err != nil {
		return err
	}
	return s.setTags(ctx, tx, b.Template, b.ID, b.Tags, b.EndedAt)
}

// standing returns the build that a template stands for, or the newest that is
// ready when that is none, and its newest version.
func standing(ctx context.Context, tx *sql.Tx, id soulbox.TemplateID) (before *soulbox.Build, newest soulbox.Version, err error) {
	latest, err := collect(ctx, tx, scanWhole,
		`SELECT `+buildColumns+`, packages FROM builds WHERE template = $1 AND state = $2 ORDER BY major DESC, minor DESC, patch DESC LIMIT 1`,
		string(id), string(soulbox.BuildReady))
	if err != nil || len(latest) == 0 {
		return nil, newest, err
	}
	usual, err := collect(ctx, tx, scanWhole,
		`SELECT `+buildColumns+`, packages FROM builds WHERE id = (SELECT build FROM templates WHERE id = $1)`, string(id))
	if err != nil {
		return nil, newest, err
	}
	return append(usual, latest...)[0], latest[0].Version, nil
}

// Build returns the build with an id, whole.
func (s *Store) Build(ctx context.Context, id soulbox.BuildID) (*soulbox.Build, error) {
	b, err := scanWhole(s.b.Read.QueryRowContext(ctx, `SELECT `+buildColumns+`, packages FROM builds WHERE id = $1`, string(id)))
	return b, wrap(found(err, "build", id), "read build", id)
}

// BuildAt returns the ready build of a template that ref's tag, which may be the
// id of a build, or ref's versions mean, without its packages. Of several
// versions that will do it is the newest that is not retired, or else the newest.
func (s *Store) BuildAt(ctx context.Context, id soulbox.TemplateID, ref soulbox.TemplateRef) (*soulbox.Build, error) {
	b, err := s.buildAt(ctx, id, ref)
	return b, wrap(found(err, "build", ref), "read build of template", id)
}

func (s *Store) buildAt(ctx context.Context, id soulbox.TemplateID, ref soulbox.TemplateRef) (*soulbox.Build, error) {
	const ready = `SELECT ` + buildColumns + ` FROM builds WHERE template = $1 AND state = '` + string(soulbox.BuildReady) + `' AND id = `
	if ref.Tag == "" && ref.Versions != (soulbox.VersionRange{}) {
		build, err := s.newest(ctx, id, ref.Versions)
		if err != nil {
			return nil, err
		}
		return scanBuild(s.b.Read.QueryRowContext(ctx, ready+`$2`, string(id), string(build)))
	}
	tag := ref.Tag
	if tag == "" {
		tag = soulbox.DefaultTag
	}
	if soulbox.BuildID(tag).Valid() {
		return scanBuild(s.b.Read.QueryRowContext(ctx, ready+`$2`, string(id), tag))
	}
	return scanBuild(s.b.Read.QueryRowContext(ctx,
		ready+`(SELECT tt.build FROM template_tags tt WHERE tt.template = $1 AND tt.name = $2)`, string(id), tag))
}

// newest returns the newest build in a range, which is one that is not retired
// if there is one.
func (s *Store) newest(ctx context.Context, id soulbox.TemplateID, r soulbox.VersionRange) (soulbox.BuildID, error) {
	type line struct {
		id      soulbox.BuildID
		version soulbox.Version
		retired string
	}
	scan := func(r row) (l line, err error) {
		return l, r.Scan(&l.id, &l.version.Major, &l.version.Minor, &l.version.Patch, &l.retired)
	}
	all, err := collect(ctx, s.b.Read, scan, `
		SELECT id, major, minor, patch, retired FROM builds WHERE template = $1 AND state = $2 ORDER BY major DESC, minor DESC, patch DESC`,
		string(id), string(soulbox.BuildReady))
	if err != nil {
		return "", err
	}
	all = slices.DeleteFunc(all, func(l line) bool { return !r.Holds(l.version) })
	if i := slices.IndexFunc(all, func(l line) bool { return l.retired == "" }); i >= 0 {
		return all[i].id, nil
	}
	if len(all) > 0 {
		return all[0].id, nil
	}
	return "", sql.ErrNoRows
}

// Builds returns one page of the builds that f selects, without their packages.
// Pages are stable as those of [Store.Sandboxes] are.
func (s *Store) Builds(ctx context.Context, f soulbox.BuildFilter) (soulbox.BuildPage, error) {
	page, err := s.builds(ctx, f)
	return page, wrap(err, "list builds of template", f.Template)
}

func (s *Store) builds(ctx context.Context, f soulbox.BuildFilter) (soulbox.BuildPage, error) {
	var page soulbox.BuildPage
	var q conditions
	q.and(`template = ?`, string(f.Template))
	if len(f.States) > 0 {
		in, marks := make([]any, len(f.States)), ""
		for i, st := range f.States {
			in[i], marks = string(st), marks+", ?"
		}
		q.and(`state IN (`+marks[2:]+`)`, in...)
	}
	err := s.b.Read.QueryRowContext(ctx, `SELECT COUNT(*) FROM builds WHERE `+q.text(), q.args...).Scan(&page.Total)
	if err != nil {
		return page, err
	}
	if f.Cursor != "" {
		at, id, err := parseCursor[soulbox.BuildID](f.Cursor)
		if err != nil {
			return page, err
		}
		q.and(`(created_at, id) < (?, ?)`, at, string(id))
	}
	query := `SELECT ` + buildColumns + ` FROM builds WHERE ` + q.text() + ` ORDER BY created_at DESC, id DESC`
	if f.Limit > 0 {
		// One more than asked for tells whether there is a next page.
		q.args = append(q.args, f.Limit+1)
		query += ` LIMIT $` + strconv.Itoa(len(q.args))
	}
	if page.Builds, err = collect(ctx, s.b.Read, scanBuild, query, q.args...); err != nil {
		return page, err
	}
	if f.Limit > 0 && len(page.Builds) > f.Limit {
		page.Builds = page.Builds[:f.Limit]
		last := page.Builds[f.Limit-1]
		page.Next = cursor(micros(last.CreatedAt), last.ID)
	}
	return page, nil
}

// Versions returns the ready builds of a template, the newest version first and
// without their packages.
func (s *Store) Versions(ctx context.Context, id soulbox.TemplateID) ([]*soulbox.Build, error) {
	all, err := collect(ctx, s.b.Read, scanBuild, `
		SELECT `+buildColumns+` FROM builds WHERE template = $1 AND state = $2 ORDER BY major DESC, minor DESC, patch DESC`,
		string(id), string(soulbox.BuildReady))
	return all, wrap(err, "list versions of template", id)
}

// UnendedBuilds returns the builds of all templates that are not over, without
// their packages: those that wait in the queue in their order, and drafts before
// them.
func (s *Store) UnendedBuilds(ctx context.Context) ([]*soulbox.Build, error) {
	all, err := collect(ctx, s.b.Read, scanBuild, `
		SELECT `+buildColumns+` FROM builds WHERE state = $1 OR state = $2 ORDER BY queued_at, created_at, id`,
		string(soulbox.BuildWaiting), string(soulbox.BuildRunning))
	return all, wrap(err, "list", "unended builds")
}

// CountUnended returns how many builds of a team are not over.
func (s *Store) CountUnended(ctx context.Context, team soulbox.TeamID) (n int, err error) {
	err = s.b.Read.QueryRowContext(ctx, `SELECT COUNT(*) FROM builds WHERE team = $1 AND (state = $2 OR state = $3)`,
		string(team), string(soulbox.BuildWaiting), string(soulbox.BuildRunning)).Scan(&n)
	return n, wrap(err, "count builds of team", team)
}

// UntidyBuilds returns the builds that failed and have a snapshot, without their
// packages: it is to be removed, and then [Store.TidyBuild] says so.
func (s *Store) UntidyBuilds(ctx context.Context) ([]*soulbox.Build, error) {
	all, err := collect(ctx, s.b.Read, scanBuild,
		`SELECT `+buildColumns+` FROM builds WHERE state = $1 AND snapshot <> '' ORDER BY ended_at, id`, string(soulbox.BuildFailed))
	return all, wrap(err, "list", "untidy builds")
}

// TidyBuild notes that the snapshot of a build that failed is gone. One that is
// not there is not an error.
func (s *Store) TidyBuild(ctx context.Context, id soulbox.BuildID) error {
	_, err := s.exec(ctx, `UPDATE builds SET snapshot = '', baked = '' WHERE id = $1 AND state = $2`, string(id), string(soulbox.BuildFailed))
	return wrap(err, "tidy build", id)
}

// ReadyBuilds returns the ready builds of all templates, without their packages:
// those that templates stand for first, the house's before others.
func (s *Store) ReadyBuilds(ctx context.Context) ([]*soulbox.Build, error) {
	all, err := collect(ctx, s.b.Read, scanBuild, `
		SELECT `+buildColumns+` FROM builds WHERE state = $1
		ORDER BY CASE WHEN id IN (SELECT build FROM templates) THEN 0 ELSE 1 END, team, ended_at DESC, id`, string(soulbox.BuildReady))
	return all, wrap(err, "list", "ready builds")
}

// RetireBuild says why nobody should start with a ready build any more; an
// empty reason takes that back.
func (s *Store) RetireBuild(ctx context.Context, id soulbox.BuildID, why string) error {
	err := s.change(ctx, soulbox.Errorf(soulbox.NotFound, "build '%s' not found", id),
		`UPDATE builds SET retired = $1 WHERE id = $2 AND state = $3`, why, string(id), string(soulbox.BuildReady))
	return wrap(err, "retire build", id)
}

// RenewBuilds gives every ready build that has the image and the snapshot of
// was those of now instead, with the user and whose the snapshot is, and the
// templates that stand for such a build. It returns how many builds those are.
func (s *Store) RenewBuilds(ctx context.Context, was, now *soulbox.Build) (n int64, err error) {
	err = s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		const (
			set       = ` SET image = $1, snapshot = $2, baked = $3, username = $4 WHERE image = $5 AND snapshot = $6 AND `
			templates = `UPDATE templates` + set + `build <> ''`
			builds    = `UPDATE builds` + set + `state = '` + string(soulbox.BuildReady) + `'`
		)
		args := []any{now.Image, string(now.Snapshot), string(now.Baked), now.User, was.Image, string(was.Snapshot)}
		if _, err := tx.ExecContext(ctx, templates, args...); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, builds, args...)
		if err == nil {
			n, err = res.RowsAffected()
		}
		return err
	})
	return n, wrap(err, "renew builds with image", was.Image)
}

// BuildsFailedBefore returns some of the builds that failed before a time, the
// longest ago first.
func (s *Store) BuildsFailedBefore(ctx context.Context, t time.Time, limit int) ([]soulbox.BuildID, error) {
	scan := func(r row) (id soulbox.BuildID, err error) { return id, r.Scan(&id) }
	ids, err := collect(ctx, s.b.Read, scan,
		`SELECT id FROM builds WHERE state = $1 AND ended_at < $2 ORDER BY ended_at, id LIMIT $3`,
		string(soulbox.BuildFailed), micros(t), limit)
	return ids, wrap(err, "list", "failed builds")
}

// DeleteBuild forgets a build that failed. One that is not there or did not is
// not an error.
func (s *Store) DeleteBuild(ctx context.Context, id soulbox.BuildID) error {
	_, err := s.exec(ctx, `DELETE FROM builds WHERE id = $1 AND state = $2`, string(id), string(soulbox.BuildFailed))
	return wrap(err, "delete build", id)
}

// Images returns the root images that templates and builds have, those of
// builds that are not over included.
func (s *Store) Images(ctx context.Context) ([]string, error) {
	scan := func(r row) (id string, err error) { return id, r.Scan(&id) }
	all, err := collect(ctx, s.b.Read, scan, `
		SELECT image FROM templates WHERE image <> ''
		UNION SELECT image FROM builds WHERE image <> '' AND state <> $1 ORDER BY image`, string(soulbox.BuildFailed))
	return all, wrap(err, "list", "images")
}

// TemplateSnapshots returns the snapshots that belong to builds: those that
// sandboxes are made of, those that are being written, and of builds that
// failed, those that are still to be removed.
func (s *Store) TemplateSnapshots(ctx context.Context) ([]soulbox.SnapshotID, error) {
	scan := func(r row) (id soulbox.SnapshotID, err error) { return id, r.Scan(&id) }
	all, err := collect(ctx, s.b.Read, scan, `SELECT DISTINCT snapshot FROM builds WHERE snapshot <> '' ORDER BY snapshot`)
	return all, wrap(err, "list", "snapshots of templates")
}

// adoptTemplates gives every template that has an image and no build, because it
// is older than builds are, one that is ready.
func (s *Store) adoptTemplates(ctx context.Context) error {
	all, err := collect(ctx, s.b.Read, scanTemplate, `SELECT `+templateColumns+` FROM templates WHERE image <> '' AND build = ''`)
	if err != nil {
		return fmt.Errorf("list templates without a build: %w", err)
	}
	for _, t := range all {
		b := &soulbox.Build{
			ID: soulbox.NewBuildID(), Template: t.ID, Team: t.Team, State: soulbox.BuildRunning,
			CreatedAt: t.UpdatedAt, QueuedAt: t.UpdatedAt, StartedAt: t.UpdatedAt, EndedAt: t.UpdatedAt,
			Image: t.Image, Size: t.Size, Isolation: t.Isolation, Env: t.Env, User: t.User, Workdir: t.Workdir, Facts: soulbox.BuildFacts{Base: t.Source},
		}
		err := s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
			// Of two servers that start at the same moment, one does it.
			res, err := tx.ExecContext(ctx, `UPDATE templates SET build = $1 WHERE id = $2 AND build = ''`, string(b.ID), string(t.ID))
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				return err
			}
			mine := b.Clone()
			if err := insertBuild(ctx, tx, mine); err != nil {
				return err
			}
			return s.finish(ctx, tx, mine, func(*soulbox.Build) soulbox.Bump { return "" })
		})
		if err != nil {
			return wrap(err, "make a build of template", t.ID)
		}
	}
	return nil
}
