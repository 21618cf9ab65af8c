package fleet

import (
	"context"
	"time"
)

const (
	pruneEvery = time.Hour
	pruneBatch = 100 // sandboxes per look into the store
)

// prune deletes, at start and then every hour, the records and logs of
// sandboxes that ended longer ago than the retention.
func (f *Fleet) prune(ctx context.Context) {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		if err := f.pruneOnce(ctx, time.Now().Add(-f.opts.Retention)); err != nil && ctx.Err() == nil {
			f.log.ErrorContext(ctx, "old sandboxes could not be forgotten", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (f *Fleet) pruneOnce(ctx context.Context, before time.Time) error {
	for {
		ids, err := f.opts.Store.SandboxesEndedBefore(ctx, before, pruneBatch)
		if err != nil {
			return err
		}
		for _, id := range ids {
			// The record goes last: while it is there, the logs have an owner.
			if err := f.opts.Node.Forget(ctx, id); err != nil {
				return err
			}
			if err := f.opts.Store.DeleteSandbox(ctx, id); err != nil {
				return err
			}
		}
		if len(ids) < pruneBatch {
			return nil
		}
	}
}
