package interpreter

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// maxQueue is how many may wait for their turn.
const maxQueue = 1000

var errQueueFull = errors.New("too many executions wait for this context")

// turns are given one at a time, first come first served. The zero value is
// ready.
type turns struct {
	order sync.Mutex
	taken bool            // +checklocks:order — somebody has the turn
	queue []chan struct{} // +checklocks:order — closed when it is their turn
}

// enter waits for the turn, and keeps the client of out informed.
func (t *turns) enter(ctx context.Context, out *stream) error {
	t.order.Lock()
	if !t.taken {
		t.taken = true
		t.order.Unlock()
		return nil
	}
	if len(t.queue) >= maxQueue {
		t.order.Unlock()
		return errQueueFull
	}
	turn := make(chan struct{})
	t.queue = append(t.queue, turn)
	t.order.Unlock()
	err := out.wait(ctx, turn)
	if err == nil {
		return nil
	}
	t.order.Lock()
	i := slices.Index(t.queue, turn)
	if i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
	}
	t.order.Unlock()
	if i < 0 { // it came all the same
		t.leave()
	}
	return err
}

// leave passes the turn on.
func (t *turns) leave() {
	t.order.Lock()
	defer t.order.Unlock()
	if len(t.queue) == 0 {
		t.taken = false
		return
	}
	close(t.queue[0])
	t.queue = slices.Delete(t.queue, 0, 1)
}

// busy reports whether somebody has the turn.
func (t *turns) busy() bool {
	t.order.Lock()
	defer t.order.Unlock()
	return t.taken
}

// wanted reports whether somebody waits for it.
func (t *turns) wanted() bool {
	t.order.Lock()
	defer t.order.Unlock()
	return len(t.queue) > 0
}
