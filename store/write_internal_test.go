package store

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"
)

// A change that panics takes nobody with it: those that were to be written
// together with it hear so, none of them is there, and the next ones are written.
func TestPanicPassesThePen(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE rows (n INTEGER)`); err != nil {
		t.Fatal(err)
	}
	w := &writer{db: db, gather: true}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	insert := func(n int) error {
		return w.atomically(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO rows VALUES ($1)`, n)
			return err
		})
	}
	waiting := func(n int) {
		for ctx.Err() == nil {
			w.mu.Lock()
			there := len(w.waiting)
			w.mu.Unlock()
			if there == n {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("not %d changes wait", n)
	}

	// One has the pen until three wait, of which the second panics.
	var all sync.WaitGroup
	release, held := make(chan struct{}), make(chan struct{})
	all.Go(func() {
		err := w.atomically(ctx, func(context.Context, *sql.Tx) error { close(held); <-release; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	<-held
	var first, third error
	panicked := make(chan any, 2)
	all.Go(func() {
		defer func() { panicked <- recover() }() // whoever has the pen hears of it
		first = insert(1)
	})
	waiting(1)
	all.Go(func() {
		defer func() { panicked <- recover() }()
		_ = w.atomically(ctx, func(context.Context, *sql.Tx) error { panic("a bug") })
	})
	waiting(2)
	all.Go(func() { third = insert(3) })
	waiting(3)
	close(release)
	all.Wait()
	if a, b := <-panicked, <-panicked; (a == nil) == (b == nil) {
		t.Errorf("panicked %v and %v, want one of them", a, b)
	}
	if first != nil || !errors.Is(third, errBrokenOff) {
		t.Errorf("beside it: %v and %v; want none, because it panicked instead, and %v", first, third, errBrokenOff)
	}
	if err := insert(4); err != nil {
		t.Errorf("after it: %v", err)
	}
	var rows, n int
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*), MAX(n) FROM rows`).Scan(&rows, &n); err != nil || rows != 1 || n != 4 {
		t.Errorf("%d rows, the last %d, %v; want 4 only", rows, n, err)
	}
}
