package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/soulbox/soulbox"
)

// offer adds to err, why a sandbox could not be resumed, the newest checkpoint
// that it can go back to instead, when that is so because the snapshot that it
// is paused at is of no use any more. Memory and files of a snapshot are one
// image, so there is no half of it to boot from.
func (f *Fleet) offer(ctx context.Context, sb *soulbox.Sandbox, err error) error {
	kind := soulbox.KindOf(err)
	if kind != soulbox.Unavailable && kind != soulbox.Conflict || f.life.Err() != nil {
		return err
	}
	work, giveUp := f.until(ctx)
	defer giveUp(nil)
	if f.opts.Node.Verify(work, sb.Pause.Snapshot) == nil {
		return err // something else is the matter, which may pass
	}
	all, lost := f.opts.Store.SnapshotsOf(work, sb.ID)
	if lost != nil {
		return errors.Join(err, fmt.Errorf("look for a checkpoint of sandbox %s: %w", sb.ID, lost))
	}
	for _, snap := range slices.Backward(all) {
		if snap.Kind != soulbox.ForRollback || !snap.Ready || f.opts.Node.Verify(work, snap.ID) != nil {
			continue
		}
		return soulbox.Hide(kind, err, fmt.Sprintf("%s; roll it back to its checkpoint %s of %s, which is whole",
			soulbox.MessageOf(err), snap.ID, snap.CreatedAt.UTC().Format("2006-01-02 15:04:05 UTC")))
	}
	return err
}
