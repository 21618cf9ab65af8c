package storetest

import (
	"database/sql"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// RunUpgrade takes one database from the schema that had no snapshots to the
// newest, back, and there again, with rows in it. The migrations are those in
// the folder dir. Raw opens the bare database and open the store on it; they
// are never open at the same time.
func RunUpgrade(t *testing.T, dir string, dialect goose.Dialect, raw func() (*sql.DB, error), open func() (*store.Store, error)) {
	const before = 2 // the last version without snapshots
	withSchema(t, dir, dialect, raw, func(p *goose.Provider, db *sql.DB) error {
		_, err := p.UpTo(t.Context(), before)
		return errors.Join(err, insertOld(t, db))
	})

	team := &soulbox.Team{ID: "t", Slug: "old"}
	old := func(id soulbox.SandboxID, state soulbox.State) *soulbox.Sandbox {
		return &soulbox.Sandbox{
			ID: id, Team: team.ID, Template: "tpl1", State: state,
			CreatedAt: at(0), StartedAt: at(1), ExpiresAt: at(31), Metadata: map[string]string{"user": "7"},
		}
	}
	running, ended := old("irunning", soulbox.Running), old("iended", soulbox.Ended)
	running.Timeout = 30 * time.Minute // what it had been given in all
	ended.End = &soulbox.End{At: at(2), By: soulbox.ByClient, Reason: "killed"}

	withStore(t, open, func(s *store.Store) {
		ctx := t.Context()
		wantSandboxes(t, s, running, ended)

		running.State, running.From = soulbox.Pausing, "s1"
		running.Pause = &soulbox.Pause{Snapshot: "s1", Memory: true, At: at(3)}
		running.Lifecycle.Wake = true
		must(t, s.MoveSandbox(ctx, running, soulbox.Running))
		running.State = soulbox.Paused
		must(t, s.MoveSandbox(ctx, running, soulbox.Pausing))
		must(t, s.InsertSnapshot(ctx, snapshot(team, running.ID, 1)))
		wantSandboxes(t, s, running, ended)

		wantOldTemplate(t, s)
		must(t, s.SetTemplateIsolation(ctx, "tpl1", soulbox.Runc, at(3)))
		ready(t, s, &soulbox.Template{ID: "tpl1", Team: team.ID, Name: "mine"}, 1, soulbox.Minor)
		_, err := s.InsertDraft(ctx, plainTemplate("tpl2", team.ID, "unbuilt"), build(team.ID, 2))
		must(t, err)
		must(t, s.SetListing(ctx, "tpl1", soulbox.ListingChange{Readme: new("text")}, at(3)))
	})

	withSchema(t, dir, dialect, raw, func(p *goose.Provider, _ *sql.DB) error {
		_, err := p.DownTo(t.Context(), before)
		return err
	})

	withStore(t, open, func(s *store.Store) {
		back := old("irunning", soulbox.Ending)
		back.End = &soulbox.End{At: at(3), By: soulbox.ByServer, Reason: "it was paused, and the server went back to a version that cannot pause"}
		wantSandboxes(t, s, back, ended)
		left, err := s.AllSnapshots(t.Context())
		must(t, err)
		if len(left) != 0 {
			t.Errorf("%d snapshots after going back, want none", len(left))
		}
		// The image that it has now is all that is left of its builds, and the
		// old version knew but one isolation.
		tpl, err := s.Template(t.Context(), "tpl1")
		must(t, err)
		if tpl.Version != (soulbox.Version{Major: 1}) || tpl.Isolation != soulbox.GVisor || tpl.Image != made(&soulbox.Build{}).Image {
			t.Errorf("the template is %+v", tpl)
		}
		_, err = s.Template(t.Context(), "tpl2")
		wantKind(t, "Template without an image, after going back", err, soulbox.NotFound)
		page, err := s.Listings(t.Context(), soulbox.ListingFilter{Team: team.ID, Query: "mine"})
		must(t, err)
		if len(page.Listings) != 1 {
			t.Errorf("%d templates are found, want 1", len(page.Listings))
		}
		wantConsistent(t, s)
	})
}

// wantOldTemplate looks for the build that was made of a template from before
// there were builds.
func wantOldTemplate(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	tpl, err := s.Template(ctx, "tpl1")
	must(t, err)
	wantSame(t, "Template", tpl, &soulbox.Template{
		ID: "tpl1", Team: "t", Name: "mine", Build: tpl.Build, Version: soulbox.Version{Major: 1}, Image: "ab",
		Size: soulbox.Size{CPUs: 1, Memory: 1, Disk: 1, PIDs: 1}, Source: "debian", CreatedAt: at(0), UpdatedAt: at(1),
	})
	wantBuild(t, s, &soulbox.Build{
		ID: tpl.Build, Template: tpl.ID, Team: "t", State: soulbox.BuildReady,
		CreatedAt: at(1), QueuedAt: at(1), StartedAt: at(1), EndedAt: at(1),
		Tags: []string{"default"}, Version: soulbox.Version{Major: 1}, Image: "ab", Size: tpl.Size, Facts: soulbox.BuildFacts{Base: "debian"},
	})
	if !tpl.Build.Valid() {
		t.Errorf("the build has id %q", tpl.Build)
	}
	page, err := s.Listings(ctx, soulbox.ListingFilter{Team: "t", Query: "mine"})
	must(t, err)
	if len(page.Listings) != 1 {
		t.Errorf("%d templates are found, want 1", len(page.Listings))
	}
	wantConsistent(t, s)
}

// insertOld inserts a team, a template, a running and an ended sandbox as the
// version before snapshots did.
func insertOld(t *testing.T, db *sql.DB) error {
	_, err := db.ExecContext(t.Context(), `
		INSERT INTO teams (id, name, slug, max_sandboxes, max_timeout_us, max_memory, max_cpus, created_at)
		VALUES ('t', 'Old', 'old', 1, 1, 1, 1, 1)`)
	_, tplErr := db.ExecContext(t.Context(), `
		INSERT INTO templates (id, team, name, public, image, cpus, memory, disk, pids, env, username, workdir, source, starts, created_at, updated_at)
		VALUES ('tpl1', 't', 'mine', $1, 'ab', 1, 1, 1, 1, '{}', '', '', 'debian', 0, $2, $3)`, false, at(0).UnixMicro(), at(1).UnixMicro())
	err = errors.Join(err, tplErr)
	for _, row := range []struct {
		id, state    string
		ended        int64
		endedBy, why string
	}{
		{"irunning", "running", 0, "", ""},
		{"iended", "ended", at(2).UnixMicro(), "client", "killed"},
	} {
		_, rowErr := db.ExecContext(t.Context(), `
			INSERT INTO sandboxes (id, team, template, alias, node, state, created_at, started_at, expires_at, listed_at,
				ended_at, ended_by, end_reason, cpus, memory, disk, pids, network, secure, env, metadata)
			VALUES ($1, 't', 'tpl1', '', '', $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, 0, 0, '{}', $10, '{}', '{"user":"7"}')`,
			row.id, row.state, at(0).UnixMicro(), at(1).UnixMicro(), at(31).UnixMicro(), at(1).UnixMicro(),
			row.ended, row.endedBy, row.why, false)
		err = errors.Join(err, rowErr)
	}
	return err
}

func wantSandboxes(t *testing.T, s *store.Store, want ...*soulbox.Sandbox) {
	t.Helper()
	for _, sb := range want {
		got, err := s.Sandbox(t.Context(), sb.ID)
		must(t, err)
		wantSame(t, "Sandbox "+string(sb.ID), got, sb)
	}
}

func withSchema(t *testing.T, dir string, dialect goose.Dialect, raw func() (*sql.DB, error), do func(*goose.Provider, *sql.DB) error) {
	t.Helper()
	db, err := raw()
	must(t, err)
	p, err := goose.NewProvider(dialect, db, os.DirFS(dir), goose.WithDisableGlobalRegistry(true))
	if err == nil {
		err = do(p, db)
	}
	must(t, errors.Join(err, db.Close()))
}

func withStore(t *testing.T, open func() (*store.Store, error), do func(*store.Store)) {
	t.Helper()
	s, err := open()
	must(t, err)
	defer func() { must(t, s.Close()) }()
	do(s)
}
