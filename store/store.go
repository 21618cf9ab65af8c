// Package store remembers: nouns go in, nouns come out, and SQL stays inside.
//
// There is one text for every query, and SQLite and PostgreSQL both run it.
// The rules that make this possible: parameters are $1, $2 in order; times are
// microseconds in BIGINT, with 0 for the zero time; maps are JSON in TEXT;
// columns are listed by name; nothing is asked of a dialect that the other one
// lacks. The one exception is the search for words; see [Text]. Drivers and
// dialects live in store/sqlite and store/postgres, and the suite in
// store/storetest is what both pass.
//
// # Moves
//
// A sandbox changes its state with one UPDATE that names the state it comes
// from. When two want to move the same sandbox, one of them finds no row to
// change and gets a Conflict.
//
// # Snapshots
//
// The record of a snapshot is there before its first byte is on disk, and says
// that it is not ready. Lists and names do not show it until it is; whoever
// cleans up after a crash sees all of them.
//
// # Builds
//
// A template's row repeats what its default build has, which is what most
// sandboxes are made of; every change of that writes both in one transaction. A
// build that is finished gets its version there, too, under the lock of the
// template's row, so that versions grow and no two builds get the same.
//
// # Sessions
//
// Which sandboxes are in a session is a table of its own: a row has the time
// from joining to leaving, and an index sees to it that a sandbox is in one
// session at a time.
//
// # Errors
//
// What does not exist is [soulbox.NotFound], what exists already or has moved
// on is [soulbox.Conflict], and a change for which there is no room on the disk
// is [soulbox.Unavailable]; everything else is internal.
package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/soulbox/soulbox"
)

//go:embed migration/*.sql
var migrations embed.FS

// A Store remembers teams, keys, templates and their builds, sandboxes,
// snapshots, sessions and usage. All methods are safe for concurrent use.
type Store struct {
	b Backend
	w *writer
}

// A Backend is the database under a [Store].
type Backend struct {
	Write *sql.DB // every change goes here
	Read  *sql.DB // may be the same as Write

	// Gather has changes that come while another is flushed to disk share one
	// flush, where the database does not do so itself.
	Gather bool

	Dialect goose.Dialect
	Migrate []goose.ProviderOption // what the dialect's migrations need, such as a lock

	Text Text // how it finds words

	// Duplicate reports whether err says that a unique value exists already.
	Duplicate func(err error) bool

	// Full reports whether err says that there is no room left on the disk.
	Full func(err error) bool

	// Release is called by Close when the pools are closed; nil is nothing.
	Release func() error
}

// New brings the database to the newest schema and returns a store on it. The
// store closes the backend, also when New fails.
func New(ctx context.Context, b Backend) (*Store, error) {
	s := &Store{b: b, w: &writer{db: b.Write, gather: b.Gather}}
	for _, step := range []func(context.Context) error{s.migrate, s.openText, s.adoptTemplates} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(s.explain(err), s.Close())
		}
	}
	return s, nil
}

func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migration")
	if err != nil {
		return fmt.Errorf("open migrations: %w", err)
	}
	opts := append([]goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}, s.b.Migrate...)
	p, err := goose.NewProvider(s.b.Dialect, s.b.Write, files, opts...)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	return nil
}

// Close closes the database. Calls that are under way end with an error.
func (s *Store) Close() error {
	err := s.b.Read.Close()
	if s.b.Write != s.b.Read {
		// Last, because SQLite tidies its log when the last writer leaves.
		err = errors.Join(err, s.b.Write.Close())
	}
	if s.b.Release != nil {
		err = errors.Join(err, s.b.Release())
	}
	return err
}

// exec runs one statement and returns how many rows it changed.
func (s *Store) exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = s.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, query, args...)
		if err == nil {
			n, err = res.RowsAffected()
		}
		return err
	})
	return n, err
}

// change runs a statement that must change exactly one row and otherwise
// returns miss.
func (s *Store) change(ctx context.Context, miss error, query string, args ...any) error {
	n, err := s.exec(ctx, query, args...)
	if err == nil && n == 0 {
		err = miss
	}
	return err
}

func oneRow(res sql.Result, miss error) error {
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return miss
	}
	return nil
}

// atomically runs f in a transaction, under the context that it gives to f. f
// may run more than once, and only the last run counts; see [writer].
func (s *Store) atomically(ctx context.Context, f func(context.Context, *sql.Tx) error) error {
	return s.explain(s.w.atomically(ctx, f))
}

// explain says of an error what is no secret: that the disk is full. Reading
// needs no room.
func (s *Store) explain(err error) error {
	if err == nil || !s.b.Full(err) {
		return err
	}
	return soulbox.Hide(soulbox.Unavailable, err, "the disk of this server's database is full; nothing can be changed until there is room on it")
}

// row is what *sql.Row and *sql.Rows have in common.
type row interface{ Scan(dest ...any) error }

// querier is what databases and transactions have in common.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// collect reads all rows of a query with scan.
func collect[T any](ctx context.Context, db querier, scan func(row) (T, error), query string, args ...any) (all []T, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// found turns the absence of a row into a NotFound error about the thing
// called what.
func found(err error, what string, name any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return soulbox.Errorf(soulbox.NotFound, "%s '%v' not found", what, name)
	}
	return err
}

// wrap says which operation on what an error belongs to, and keeps its kind.
func wrap(err error, op string, name any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %v: %w", op, name, err)
}

// micros returns t as it is stored.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// instant is the reverse of micros.
func instant(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// pairs is a map that is stored as a JSON object.
type pairs map[string]string

func (p pairs) text() (string, error) {
	if len(p) == 0 {
		return "{}", nil
	}
	b, err := json.Marshal(p)
	return string(b), err
}

// parsePairs is the reverse of text. No pairs are a nil map.
func parsePairs(s string) (map[string]string, error) {
	if s == "{}" {
		return nil, nil
	}
	var p map[string]string
	err := json.Unmarshal([]byte(s), &p)
	return p, err
}
