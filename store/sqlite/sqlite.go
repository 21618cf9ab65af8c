// Package sqlite opens a [store.Store] in one file, without a server beside
// ours. It is the default, and right for one machine.
//
// # What survives
//
// The log is written ahead (WAL) and flushed at every commit (synchronous
// FULL): a record survives the death of the process and of the power alike. On
// a virtual SSD this made a commit take 0.9 ms instead of the 0.05 ms of
// synchronous NORMAL, which survives only the former. A creation commits twice;
// commits that come while another is flushed share the next flush.
//
// # Who may open it
//
// One process at a time. A lock file beside the database says so, held for as
// long as the process lives, so that even kill -9 frees it. Two servers on one
// data folder would end each other's sandboxes.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// readers is how many reads may run at once. Reads take microseconds; more
// would only hold memory.
const readers = 8

// Open opens the database in the file called path and creates it when it is
// not there; its folder must exist. It is a Conflict when another process has
// it open.
func Open(ctx context.Context, path string) (*store.Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	lock, err := acquire(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	// SQLite allows one writer. A pool of one queues writers here, in order,
	// instead of letting them poll for the file's lock.
	write, err := pool(path, 1, url.Values{"_txlock": {"immediate"}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), lock.Close())
	}
	read, err := pool(path, readers, url.Values{"_pragma": {"query_only(1)"}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), write.Close(), lock.Close())
	}
	s, err := store.New(ctx, store.Backend{
		Write: write, Read: read, Gather: true,
		Dialect:   goose.DialectSQLite3,
		Text:      text,
		Duplicate: duplicate,
		Full:      full,
		Release:   lock.Close,
	})
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return s, nil
}

// pool returns up to n connections with the pragmas that all of ours need.
func pool(path string, n int, params url.Values) (*sql.DB, error) {
	params["_pragma"] = append([]string{
		"busy_timeout(5000)",
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"foreign_keys(1)",
	}, params["_pragma"]...)
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: params.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// acquire takes the lock file, or returns a Conflict when another process has
// it. Closing the file releases it. The file stays: removing it would let two
// processes lock two files of one name.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = soulbox.Errorf(soulbox.Conflict, "another soulbox server is running on the data folder %s; stop it, or use another folder", filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func duplicate(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// full knows both of the ways in which SQLite takes it: it cannot write, or, the
// first time that a file is opened, not make room for what its processes share.
func full(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE)
}
