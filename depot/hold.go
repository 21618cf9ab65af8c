package depot

import (
	"context"
	"sync"

	"github.com/soulbox/soulbox"
)

// holds keep sweeps away from blobs that somebody uses at this moment: who
// looks whether one is there, in order to rely on it, holds it until that is on
// record. The zero value is usable.
type holds struct {
	mu sync.Mutex
	// +checklocks:mu
	held map[soulbox.Digest]int // by how many
	// +checklocks:mu
	dying map[soulbox.Digest]chan struct{} // being deleted; closed when that is over
}

// take holds blobs, or those that might be put, until release is called. It
// waits for deletions of them that are under way.
func (h *holds) take(ctx context.Context, digests ...soulbox.Digest) (release func(), err error) {
	for i, d := range digests {
		if err := h.one(ctx, d); err != nil {
			h.release(digests[:i])
			return nil, err
		}
	}
	return func() { h.release(digests) }, nil
}

func (h *holds) one(ctx context.Context, d soulbox.Digest) error {
	for {
		h.mu.Lock()
		over, dying := h.dying[d]
		if !dying {
			if h.held == nil {
				h.held = map[soulbox.Digest]int{}
			}
			h.held[d]++
			h.mu.Unlock()
			return nil
		}
		h.mu.Unlock()
		select {
		case <-over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (h *holds) release(digests []soulbox.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range digests {
		if h.held[d]--; h.held[d] == 0 {
			delete(h.held, d)
		}
	}
}

// condemn keeps everybody from taking a blob until done is called. It is false
// when somebody holds it.
func (h *holds) condemn(d soulbox.Digest) (done func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held[d] > 0 || h.dying[d] != nil {
		return nil, false
	}
	if h.dying == nil {
		h.dying = map[soulbox.Digest]chan struct{}{}
	}
	over := make(chan struct{})
	h.dying[d] = over
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.dying, d)
		close(over)
	}, true
}
