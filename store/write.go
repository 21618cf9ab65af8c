package store

import (
	"context"
	"database/sql"
	"errors"
	"sync"
)

// A writer carries out changes. Those that come while one is being flushed to
// disk are put into one transaction, so that many at once cost one flush and
// not one each; the order in which they came is kept.
//
// There is no goroutine of its own: whoever finds nobody writing writes for
// all that wait at that moment, and then passes the pen on.
type writer struct {
	db     *sql.DB
	gather bool // otherwise each goes alone, at once

	mu      sync.Mutex
	busy    bool     // somebody has the pen; +checklocks:mu
	waiting []*entry // +checklocks:mu
}

// An entry is a change that waits for its turn.
type entry struct {
	ctx  context.Context //nolint:containedctx // of the caller who waits
	do   func(context.Context, *sql.Tx) error
	err  error         // of do, or of the commit
	turn chan struct{} // closed when err is final; or takes a value: you have the pen
}

// most bounds the changes of one transaction, so that the first of them does
// not wait for all.
const most = 64

// atomically runs f in a transaction, maybe together with those of others, of
// which each succeeds or fails on its own. f must do its work under the context
// that it is given: a query that is interrupted would take the others with it.
// f may run more than once, and only the last run counts.
func (w *writer) atomically(ctx context.Context, f func(context.Context, *sql.Tx) error) error {
	e := &entry{ctx: ctx, do: f, turn: make(chan struct{}, 1)}
	if !w.gather {
		return w.alone(e)
	}
	w.mu.Lock()
	w.waiting = append(w.waiting, e)
	mine := !w.busy
	w.busy = true
	w.mu.Unlock()
	if !mine {
		if _, mine = <-e.turn; !mine {
			return e.err
		}
	}
	w.mu.Lock()
	n := min(most, len(w.waiting))
	batch := w.waiting[:n:n]
	w.waiting = w.waiting[n:]
	w.mu.Unlock()

	defer w.pass(batch) // also when one of them panics
	w.write(batch)      // ours is the first of it
	return e.err
}

// pass gives the pen to who waits longest, and tells the changes of a batch
// that they are through.
func (w *writer) pass(batch []*entry) {
	w.mu.Lock()
	if w.busy = len(w.waiting) > 0; w.busy {
		w.waiting[0].turn <- struct{}{}
	} else {
		w.waiting = nil
	}
	w.mu.Unlock()
	for _, e := range batch {
		close(e.turn)
	}
}

// write carries out the changes of a batch.
func (w *writer) write(batch []*entry) {
	for _, e := range batch {
		e.err = errBrokenOff
	}
	if len(batch) > 1 {
		if errs, err := w.together(batch); err == nil {
			for i, e := range batch {
				e.err = errs[i]
			}
			return
		}
		// What went wrong with the transaction as a whole, such as a full disk,
		// is found out for each.
	}
	for _, e := range batch {
		e.err = w.alone(e)
	}
}

// errBrokenOff is what becomes of changes that were to be written together with
// one that panicked.
var errBrokenOff = errors.New("the transaction was broken off by another change")

// together writes a batch in one transaction, and returns what became of each
// change. Its own error means that nothing has been written.
func (w *writer) together(batch []*entry) ([]error, error) {
	ctx := context.Background()
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	errs := make([]error, len(batch))
	for i, e := range batch {
		if errs[i] = e.ctx.Err(); errs[i] != nil {
			continue
		}
		if _, err := tx.ExecContext(ctx, `SAVEPOINT change`); err != nil {
			return nil, err
		}
		if errs[i] = e.do(ctx, tx); errs[i] != nil {
			if _, err := tx.ExecContext(ctx, `ROLLBACK TO change`); err != nil {
				return nil, err
			}
		}
		if _, err := tx.ExecContext(ctx, `RELEASE change`); err != nil {
			return nil, err
		}
	}
	return errs, tx.Commit()
}

// alone writes one change in a transaction of its own.
func (w *writer) alone(e *entry) error {
	tx, err := w.db.BeginTx(e.ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if err := e.do(e.ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}
