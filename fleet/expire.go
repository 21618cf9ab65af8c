package fleet

import (
	"container/heap"
	"context"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// queue is a heap of the running sandboxes by the time at which they expire.
type queue []*entry //nolint:recvcheck // as container/heap wants it

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for container/heap.
func (q *queue) Push(x any) {
	e := x.(*entry) //nolint:errcheck // nothing else is pushed
	e.index = len(*q)
	*q = append(*q, e)
}

// Pop is for container/heap.
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.index = -1
	return e
}

// schedule makes e due at a time, instead of any other.
func (f *Fleet) schedule(e *entry, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.at = at
	if e.index >= 0 {
		heap.Fix(&f.queue, e.index)
	} else {
		heap.Push(&f.queue, e)
	}
	if f.queue[0] == e {
		select {
		case f.wake <- struct{}{}:
		default: // a wake-up is under way already
		}
	}
}

func (f *Fleet) unschedule(e *entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.index >= 0 {
		heap.Remove(&f.queue, e.index)
	}
}

// due takes everything out of the queue that is due, and tells how long it is
// until the next.
func (f *Fleet) due() (ready []*entry, wait time.Duration) {
	// Timers do not run while a machine sleeps, and do not know that its
	// clock was set. Looking once a minute bounds what that costs.
	const most = time.Minute
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.queue) > 0 {
		if wait := time.Until(f.queue[0].at); wait > 0 {
			return ready, min(wait, most)
		}
		ready = append(ready, heap.Pop(&f.queue).(*entry)) //nolint:errcheck // nothing else is pushed
	}
	return ready, most
}

// watchQueue ends what is due.
func (f *Fleet) watchQueue(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-timer.C:
		}
		ready, wait := f.due()
		for _, e := range ready {
			f.wg.Go(func() { f.expire(ctx, e) })
		}
		timer.Reset(wait)
	}
}

// expire ends or pauses a sandbox whose time is up, unless it was given more
// meanwhile.
func (f *Fleet) expire(ctx context.Context, e *entry) {
	var why string
	if sb := e.sb.Load(); sb.Lifecycle.Pause && sb.State == soulbox.Running {
		err := f.pauseDue(ctx, e, !sb.Lifecycle.FilesOnly)
		if err == nil || f.life.Err() != nil { // the next fleet tries again
			return
		}
		reason := soulbox.MessageOf(err)
		if _, after, ok := strings.Cut(reason, "could not be paused: "); ok { // who it was is known here
			reason = after
		}
		why = ", and it could not be paused: " + reason
		f.log.ErrorContext(ctx, "sandbox could not be paused when its time was up", "sandbox", sb.ID, "err", err)
	}
	f.end(ctx, e, expired, func(sb *soulbox.Sandbox) (soulbox.End, bool) {
		lived := sb.ExpiresAt.Sub(sb.StartedAt).Round(time.Millisecond)
		end := soulbox.End{At: now(), By: soulbox.ByTimeout, Reason: "its timeout was reached " + lived.String() + " after it started" + why}
		// After a pause that failed it may still wait to be let go.
		here := sb.State == soulbox.Running || why != "" && sb.State == soulbox.Pausing
		return end, here && due(sb)
	})
}

func due(sb *soulbox.Sandbox) bool { return !time.Now().Before(sb.ExpiresAt) }

// pauseDue pauses a sandbox whose time is up, and tries a second time when the
// first fails. It returns nil when there is nothing left to do about it.
func (f *Fleet) pauseDue(ctx context.Context, e *entry, memory bool) error {
	var err error
	for range 2 {
		err = f.carry(ctx, e, func(ctx context.Context, tell func(error)) {
			if sb := e.sb.Load(); sb.State != soulbox.Running || !due(sb) {
				tell(nil) // somebody was faster
				return
			}
			f.pause(ctx, e, memory, true, tell)
		})
		if err == nil || e.sb.Load().State != soulbox.Running {
			break
		}
	}
	if !e.sb.Load().State.Active() {
		return nil
	}
	return err
}
