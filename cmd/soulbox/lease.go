package main

import (
	"context"
	"time"

	"github.com/soulbox/soulbox/client"
)

const (
	// leaseTime is how long a sandbox lives on after the command that uses it
	// has vanished without a chance to say so.
	leaseTime = 2 * time.Minute
	// leasePeriod leaves room for a few renewals that fail.
	leasePeriod = 30 * time.Second
)

// lease keeps a sandbox alive until stop is called, which waits.
func lease(ctx context.Context, api *client.Client, id string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(leasePeriod)
		defer tick.Stop()
		for {
			// Extend only ever makes a life longer, and does not resume a sandbox
			// that somebody has paused. If it fails, the next one may not; and
			// if the sandbox has ended, its user is told by the stream that
			// broke.
			_ = api.Sandboxes.Extend(ctx, id, leaseTime)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
