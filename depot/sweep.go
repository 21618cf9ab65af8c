package depot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	claimLife  = 24 * time.Hour
	sweepEvery = 3 * time.Hour
)

// Hint asks for a sweep soon, because something may have become free.
func (d *Depot) Hint() {
	select {
	case d.wake <- struct{}{}:
	default: // one will come anyway
	}
}

func (d *Depot) sweepOften(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if err := d.Sweep(ctx, now()); err != nil && ctx.Err() == nil {
			d.Log.ErrorContext(ctx, "blobs not swept", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-d.wake:
		}
	}
}

// Sweep forgets uploads and claims that are old at that time, and deletes old
// blobs that nobody has a reason for.
func (d *Depot) Sweep(ctx context.Context, at time.Time) error {
	if err := d.sweep(ctx, at); err != nil {
		return fmt.Errorf("sweep blobs: %w", err)
	}
	return nil
}

func (d *Depot) sweep(ctx context.Context, at time.Time) error {
	if err := d.dropUploads(at.Add(-uploadLife)); err != nil {
		return err
	}
	old := at.Add(-claimLife)
	if err := d.Store.DropClaims(ctx, old); err != nil {
		return err
	}
	wanted, err := d.wanted(ctx)
	if err != nil {
		return err
	}
	var n int
	var bytes int64
	for info, err := range d.Blobs.List(ctx) {
		if err != nil {
			return err
		}
		if wanted[info.Digest] || info.At.After(old) {
			continue
		}
		gone, err := d.remove(ctx, info.Digest)
		if err != nil {
			return err
		}
		if gone {
			n++
			bytes += info.Size
		}
	}
	if n > 0 {
		d.Log.InfoContext(ctx, "blobs removed", "blobs", n, "bytes", bytes)
	}
	return nil
}

// wanted returns the blobs that somebody has a reason for.
func (d *Depot) wanted(ctx context.Context) (map[soulbox.Digest]bool, error) {
	all := newReach()
	claims, err := d.Store.ClaimedBlobs(ctx)
	if err != nil {
		return nil, err
	}
	for _, digest := range claims {
		all.blobs[digest] = true
	}
	roots, err := d.Store.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	for _, digest := range roots {
		if err := d.follow(ctx, digest, all); err != nil {
			return nil, fmt.Errorf("what manifest %s leads to: %w", digest, err)
		}
	}
	return all.blobs, nil
}

// remove deletes a blob that nobody had a reason for a moment ago, unless
// somebody has one now. A build that was made since has its blobs claimed.
func (d *Depot) remove(ctx context.Context, digest soulbox.Digest) (bool, error) {
	done, ok := d.holds.condemn(digest)
	if !ok {
		return false, nil
	}
	defer done()
	claimed, err := d.Store.ClaimedByAny(ctx, digest)
	if err != nil || claimed {
		return false, err
	}
	return true, d.Blobs.Delete(ctx, digest)
}

// dropUploads forgets uploads that were begun before a time. One that somebody
// sends to is left to the next sweep.
func (d *Depot) dropUploads(before time.Time) error {
	var old []*upload
	d.mu.Lock()
	for _, u := range d.uploads {
		if u.started.Before(before) {
			old = append(old, u)
		}
	}
	d.mu.Unlock()
	var errs []error
	for _, u := range old {
		if !u.mu.TryLock() {
			continue
		}
		if !u.over {
			errs = append(errs, d.drop(u))
		}
		u.mu.Unlock()
	}
	return errors.Join(errs...)
}
