package pool

import (
	"context"
	"time"

	"github.com/soulbox/soulbox"
)

// work makes and drops sandboxes until ctx ends, and then drops all.
func (p *Pool) work(ctx context.Context) {
	defer close(p.done)
	timer := time.NewTimer(check)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			p.drop(p.empty())
			return
		case <-p.wake:
		case <-timer.C:
		}
		timer.Reset(p.once(ctx))
	}
}

// once does the next thing and returns when to look again.
func (p *Pool) once(ctx context.Context) time.Duration {
	p.feel(ctx)
	p.weigh()
	p.drop(p.surplus())
	t, wait := p.next()
	if t == nil {
		return wait
	}
	id, err := p.opts.Make(ctx, t)
	if err != nil {
		if ctx.Err() == nil {
			p.opts.Log.WarnContext(ctx, "no sandbox could be made ahead", "template", t.Name, "err", err)
		}
		p.setBack(t)
		return 0
	}
	if !p.put(t, id) {
		p.opts.Drop(id)
	}
	return 0
}

// feel looks whether the machine is short of memory. A machine that does not
// tell counts as short.
func (p *Pool) feel(ctx context.Context) {
	free, err := p.opts.Free()
	p.mu.Lock()
	before := p.pressed
	// Some distance between the two, so that it does not go to and fro.
	p.pressed = err != nil || free < p.opts.Floor || before && free < p.opts.Floor+p.opts.Budget/4
	after := p.pressed
	p.mu.Unlock()
	if before != after {
		p.opts.Log.InfoContext(ctx, "pool and memory", "short", after, "free", free, "floor", p.opts.Floor, "err", err)
	}
}

// weigh finds out what sandboxes take of templates that are new. To find out
// may take a while, and takers do not wait for it.
func (p *Pool) weigh() {
	p.mu.Lock()
	var all []*soulbox.Template
	for _, s := range p.shelves {
		if s.each == 0 {
			all = append(all, s.template)
		}
	}
	p.mu.Unlock()
	for _, t := range all {
		each := p.opts.Each(t)
		p.mu.Lock()
		if s := p.shelves[t.ID]; s != nil && same(s.template, t) {
			s.each = each
		}
		p.mu.Unlock()
	}
}

// next returns the template of which one is to be made now, or nil and how
// long to wait.
func (p *Pool) next() (*soulbox.Template, time.Duration) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *shelf
	lack := 0
	for id, n := range p.wantsLocked(now) {
		s := p.shelves[id]
		if missing := n - len(s.ready); missing > lack && now.After(s.retry) {
			best, lack = s, missing
		}
	}
	if best == nil {
		return nil, check
	}
	if wait := lull - now.Sub(p.last); wait > 0 {
		return nil, wait
	}
	return best.template, 0
}

// put shelves a sandbox, unless the template has changed meanwhile.
func (p *Pool) put(t *soulbox.Template, id soulbox.SandboxID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shelves[t.ID]
	if p.closed || s == nil || !same(s.template, t) {
		return false
	}
	s.ready = append(s.ready, id)
	return true
}

func (p *Pool) setBack(t *soulbox.Template) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.shelves[t.ID]; s != nil {
		s.retry = time.Now().Add(setback)
	}
}

// surplus takes away what is not wanted any more, and shelves nobody needs.
func (p *Pool) surplus() []soulbox.SandboxID {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := p.stale
	p.stale = nil
	wants := p.wantsLocked(now)
	for id, s := range p.shelves {
		if n := wants[id]; len(s.ready) > n {
			ids = append(ids, s.ready[n:]...)
			s.ready = s.ready[:n]
		}
		if wants[id] == 0 && !p.pressed && s.each != 0 && s.expect == 0 && len(s.expire(now)) == 0 {
			delete(p.shelves, id)
		}
	}
	return ids
}

// empty takes away everything.
func (p *Pool) empty() []soulbox.SandboxID {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := p.stale
	p.stale = nil
	for _, s := range p.shelves {
		ids = append(ids, s.ready...)
		s.ready = nil
	}
	return ids
}

// drop destroys sandboxes, a few at a time.
func (p *Pool) drop(ids []soulbox.SandboxID) {
	const atOnce = 4
	turns := make(chan struct{}, atOnce)
	for _, id := range ids {
		turns <- struct{}{}
		go func() {
			defer func() { <-turns }()
			p.opts.Drop(id)
		}()
	}
	for range atOnce { // wait for the last ones
		turns <- struct{}{}
	}
}
