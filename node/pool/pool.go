// Package pool keeps sandboxes ready that nobody has asked for yet, so that
// whoever asks next does not wait for one to start.
//
// # How many
//
// For each template the pool wants as many as were lately taken within
// [window], because that is what comes at once; a take that found none counts
// as well. If nobody takes as many for a [halfLife], what it wants halves, and
// again with each that follows, so a template that is not used any more costs
// nothing after a while. What they take is bounded by a budget of memory, which
// the templates share in proportion, and everything is dropped when the machine
// runs short of memory.
//
// # When
//
// Sandboxes are made one after the other by the pool's one goroutine, and only
// when nobody has taken one for a moment: those who create sandboxes now go
// before those who may. A template whose image, snapshot or size has changed
// loses what was made of the old one with the next take.
//
// # Locks
//
// Pool.mu guards the shelves and is never held while a sandbox is made or
// dropped, so takers never wait.
package pool

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	window   = time.Second            // what is taken within it counts as asked for at once
	halfLife = 5 * time.Minute        // of what is wanted
	lull     = 100 * time.Millisecond // without a take before the next one is made
	check    = 5 * time.Second        // between two looks at the machine's memory
	setback  = 10 * time.Second       // after one could not be made
	most     = 100                    // of one template, whatever the demand
)

// Options say what a pool is made of.
type Options struct {
	Log  *slog.Logger
	Make func(ctx context.Context, t *soulbox.Template) (soulbox.SandboxID, error)
	Drop func(id soulbox.SandboxID)    // destroys one that nobody took
	Free func() (soulbox.Bytes, error) // the machine's free memory

	Each   func(t *soulbox.Template) soulbox.Bytes // what one of t takes, at most
	Budget soulbox.Bytes                           // what all may take; 0: the pool stays empty
	Floor  soulbox.Bytes                           // with less than this free, the pool is emptied
}

// A Pool keeps sandboxes ready. All methods are safe for concurrent use.
type Pool struct {
	opts Options
	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	shelves map[soulbox.TemplateID]*shelf // +checklocks:mu
	stale   []soulbox.SandboxID           // of templates that have changed; +checklocks:mu
	last    time.Time                     // of the last take; +checklocks:mu
	pressed bool                          // memory is short; +checklocks:mu
	closed  bool                          // +checklocks:mu
}

// A shelf is what is ready of one template.
type shelf struct {
	template *soulbox.Template
	each     soulbox.Bytes // what one takes; 0: nobody knows yet, and none is made
	ready    []soulbox.SandboxID
	expect   int         // at least so many
	peak     float64     // the most that was taken at once
	at       time.Time   // when that was
	recent   []time.Time // takes within the window
	retry    time.Time   // not before; after one could not be made
	hits     int64
	misses   int64
}

// New returns a pool that works until Close.
func New(o Options) *Pool {
	ctx, stop := context.WithCancel(context.Background())
	p := &Pool{
		opts: o, wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{}),
		shelves: map[soulbox.TemplateID]*shelf{},
	}
	go p.work(ctx)
	return p
}

// Take returns a sandbox of t that is ready, or false. It does no I/O. The
// pool forgets the sandbox and learns that one was wanted.
func (p *Pool) Take(t *soulbox.Template) (soulbox.SandboxID, bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.opts.Budget == 0 {
		return "", false
	}
	p.last = now
	s := p.shelfLocked(t, now)
	s.recent = append(s.expire(now), now)
	if n := float64(len(s.recent)); n >= s.demand(now) {
		s.peak, s.at = n, now
	}
	p.nudge()
	if len(s.ready) == 0 || !same(s.template, t) {
		s.misses++
		return "", false
	}
	id := s.ready[0] // the oldest: what it waits for is done
	s.ready = slices.Delete(s.ready, 0, 1)
	s.hits++
	return id, true
}

// Expect keeps at least count sandboxes of t ready, as far as the budget goes.
func (p *Pool) Expect(t *soulbox.Template, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shelfLocked(t, time.Now()).expect = count
	p.nudge()
}

// Forget drops what is ready of a template that is no more.
func (p *Pool) Forget(id soulbox.TemplateID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.shelves[id]; s != nil {
		p.stale = append(p.stale, s.ready...)
		delete(p.shelves, id) // one that is being made finds no shelf
		p.nudge()
	}
}

// shelfLocked returns the shelf of t, whose template becomes t.
func (p *Pool) shelfLocked(t *soulbox.Template, now time.Time) *shelf {
	s := p.shelves[t.ID]
	if s == nil {
		s = &shelf{template: t, at: now}
		p.shelves[t.ID] = s
	}
	if !same(s.template, t) {
		if t.UpdatedAt.Before(s.template.UpdatedAt) {
			return s // somebody still has the old one in mind
		}
		p.stale = append(p.stale, s.ready...)
		s.ready, s.each = nil, 0
	}
	s.template = t
	return s
}

// same reports whether a sandbox of a is as good as one of b.
func same(a, b *soulbox.Template) bool {
	return a.Image == b.Image && a.Snapshot == b.Snapshot && a.Size == b.Size
}

func (s *shelf) expire(now time.Time) []time.Time {
	i := 0
	for i < len(s.recent) && now.Sub(s.recent[i]) > window {
		i++
	}
	return slices.Delete(s.recent, 0, i)
}

// demand is the peak, and less and less of it once it is past.
func (s *shelf) demand(now time.Time) float64 {
	past := now.Sub(s.at) - halfLife
	return s.peak * math.Exp2(-max(0, past.Seconds()/halfLife.Seconds()))
}

// Stats returns what is ready of each template, in the order of their names.
func (p *Pool) Stats() []soulbox.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	wants := p.wantsLocked(time.Now())
	all := make([]soulbox.Pool, 0, len(p.shelves))
	for id, s := range p.shelves {
		all = append(all, soulbox.Pool{
			Template: id, Name: s.template.Name, Team: s.template.Team, Public: s.template.Public, Each: s.each,
			Ready: len(s.ready), Want: wants[id], Hits: s.hits, Misses: s.misses,
		})
	}
	slices.SortFunc(all, func(a, b soulbox.Pool) int {
		return strings.Compare(a.Name+"\x00"+string(a.Template), b.Name+"\x00"+string(b.Template))
	})
	return all
}

// Close destroys what nobody took, and waits for what is being made.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	<-p.done
}

// nudge has the pool look at once what is to be done.
func (p *Pool) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// wantsLocked returns how many of each template there should be.
func (p *Pool) wantsLocked(now time.Time) map[soulbox.TemplateID]int {
	wants := make(map[soulbox.TemplateID]int, len(p.shelves))
	if p.pressed {
		return wants
	}
	var sum soulbox.Bytes
	for id, s := range p.shelves {
		if s.each <= 0 {
			continue
		}
		// Less than half a sandbox is none.
		n := min(most, max(s.expect, int(math.Ceil(s.demand(now)-0.5))))
		wants[id] = n
		sum += soulbox.Bytes(n) * s.each
	}
	if sum > p.opts.Budget {
		for id, n := range wants {
			wants[id] = int(float64(n) * float64(p.opts.Budget) / float64(sum))
		}
	}
	return wants
}
