// Package postgres opens a [store.Store] in a PostgreSQL database, for
// installations that have one or that grow beyond one machine.
package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// conns bounds the connections of one server: PostgreSQL starts a process for
// each, and allows 100 unless told otherwise.
const conns = 16

// Open opens the database at a postgres:// URL, which must exist.
func Open(ctx context.Context, url string) (*store.Store, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		// The error repeats the URL, which may hold a password.
		return nil, soulbox.Hide(soulbox.Invalid, err, "the database URL is not one that PostgreSQL understands")
	}
	// Two servers that start at the same moment migrate one after the other.
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	s, err := store.New(ctx, store.Backend{
		Write: db, Read: db,
		Dialect:   goose.DialectPostgres,
		Migrate:   []goose.ProviderOption{goose.WithSessionLocker(locker)},
		Text:      text,
		Duplicate: duplicate,
		Full:      full,
	})
	if err != nil {
		return nil, fmt.Errorf("open database %s at %s: %w", config.Database, config.Host, err)
	}
	return s, nil
}

// Of the errors in PostgreSQL's appendix A.
const (
	uniqueViolation = "23505"
	diskFull        = "53100"
)

func duplicate(err error) bool { return says(err, uniqueViolation) }

func full(err error) bool { return says(err, diskFull) }

func says(err error, code string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == code
}
