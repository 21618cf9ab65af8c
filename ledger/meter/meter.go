// Package meter measures what sandboxes use, remembers it for a week, and
// knows the latest of each without asking anybody.
//
// All sandboxes of a node are measured in one go and written in one
// transaction. A measurement that cannot be taken or written is a gap, not a
// reason to stop.
package meter

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soulbox/soulbox"
)

// records is the part of the store that the meter needs.
type records interface {
	InsertUsage(ctx context.Context, samples map[soulbox.SandboxID]soulbox.Usage) error
	Usage(ctx context.Context, id soulbox.SandboxID, from, to time.Time, limit int) ([]soulbox.Usage, error)
	PruneUsage(ctx context.Context, before time.Time, limit int) (int, error)
}

// sampler measures everything that runs.
type sampler interface {
	Sample(ctx context.Context) (map[soulbox.SandboxID]soulbox.Usage, error)
}

// Options is what a meter is made of.
type Options struct {
	Log      *slog.Logger
	Store    records
	Node     sampler
	Interval time.Duration // between measurements; zero is 5 seconds
	Keep     time.Duration // how long they are remembered; zero is 7 days
}

const (
	defaultInterval = 5 * time.Second
	defaultKeep     = 7 * 24 * time.Hour

	pruneEvery = time.Minute // often, so that each time there is little to do
	pruneBatch = 1000        // measurements per statement; others write in between

	// maxAnswer bounds one answer: more than a week of one sandbox at the
	// default interval.
	maxAnswer = 150_000
)

// A Meter takes measurements from Start to Close, in one goroutine that Close
// waits for. Its methods are safe for concurrent use.
type Meter struct {
	opts   Options
	latest atomic.Pointer[map[soulbox.SandboxID]soulbox.Usage] // never changed, only replaced

	mu     sync.Mutex
	cancel context.CancelFunc // +checklocks:mu
	done   chan struct{}      // +checklocks:mu
}

// New returns a meter that stands still until Start.
func New(opts Options) *Meter {
	if opts.Interval <= 0 {
		opts.Interval = defaultInterval
	}
	if opts.Keep <= 0 {
		opts.Keep = defaultKeep
	}
	m := &Meter{opts: opts}
	m.latest.Store(&map[soulbox.SandboxID]soulbox.Usage{})
	return m
}

// Start begins to measure. Starting twice changes nothing.
func (m *Meter) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		return nil
	}
	ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	m.done = done
	go func() {
		defer close(done)
		m.run(ctx)
	}()
	return nil
}

// Close stops measuring and waits for the measurement under way.
func (m *Meter) Close() error {
	m.mu.Lock()
	cancel, done := m.cancel, m.done
	m.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
	return nil
}

// Latest returns the last measurement of a sandbox that runs.
func (m *Meter) Latest(id soulbox.SandboxID) (soulbox.Usage, bool) {
	u, ok := (*m.latest.Load())[id]
	return u, ok
}

// Usage returns the measurements of a sandbox from a time up to and including
// another, oldest first. A zero time is no bound.
func (m *Meter) Usage(ctx context.Context, id soulbox.SandboxID, from, to time.Time) ([]soulbox.Usage, error) {
	if to.IsZero() {
		to = time.Now()
	}
	return m.opts.Store.Usage(ctx, id, from, to, maxAnswer)
}

func (m *Meter) run(ctx context.Context) {
	measure := time.NewTicker(m.opts.Interval)
	defer measure.Stop()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	measuring := trouble{log: m.opts.Log, what: "measuring"}
	pruning := trouble{log: m.opts.Log, what: "pruning"}
	for {
		select {
		case <-ctx.Done():
			return
		case <-measure.C:
			measuring.note(ctx, m.measure(ctx))
		case <-prune.C:
			pruning.note(ctx, m.prune(ctx))
		}
	}
}

// measure takes and writes one measurement of everything. It has until the
// next one is due.
func (m *Meter) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.Interval)
	defer cancel()
	samples, err := m.opts.Node.Sample(ctx)
	if err != nil {
		return fmt.Errorf("measure sandboxes: %w", err)
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	taken := make(map[soulbox.SandboxID]soulbox.Usage, len(samples))
	for id, u := range samples {
		if u.At.IsZero() {
			u.At = at
		}
		taken[id] = u
	}
	m.latest.Store(&taken)
	return m.opts.Store.InsertUsage(ctx, taken)
}

// prune forgets what was remembered long enough.
func (m *Meter) prune(ctx context.Context) error {
	before := time.Now().Add(-m.opts.Keep)
	for {
		n, err := m.opts.Store.PruneUsage(ctx, before, pruneBatch)
		if n < pruneBatch || err != nil {
			return err
		}
	}
}

// trouble logs when something begins to fail and when it works again, and is
// silent in between.
type trouble struct {
	log  *slog.Logger
	what string
	on   bool
}

func (t *trouble) note(ctx context.Context, err error) {
	switch {
	case err != nil && !t.on && ctx.Err() == nil:
		t.on = true
		t.log.ErrorContext(ctx, "meter is in trouble", "operation", t.what, "err", err)
	case err == nil && t.on:
		t.on = false
		t.log.InfoContext(ctx, "meter works again", "operation", t.what)
	}
}
