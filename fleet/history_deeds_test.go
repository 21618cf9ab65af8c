package fleet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
)

// do does something to a sandbox through the server that lives now, and notes
// what came of it.
func (h *history) do(b *box, d *deed, act func(*server, *deed) error) {
	s := h.living()
	h.mu.Lock()
	d.call = h.tick()
	h.mu.Unlock()
	d.err = act(s, d)
	d.outcome = outcomeOf(d.err)
	h.mu.Lock()
	defer h.mu.Unlock()
	d.ret = h.tick()
	b.deeds = append(b.deeds, d)
	b.by[d] = s
	h.tally.deeds++
}

// living waits for a server.
func (h *history) living() *server {
	for {
		s := h.now.Load()
		select {
		case <-s.dead:
			time.Sleep(100 * time.Microsecond)
		default:
			return s
		}
	}
}

// program does something in a sandbox, past every server.
func (h *history) program(b *box, d *deed) {
	h.mu.Lock()
	d.call = h.tick()
	h.line++
	line := fmt.Sprint(h.line)
	h.mu.Unlock()
	var ok bool
	if d.verb == write {
		d.line = line
		ok = h.node.note(b.id, line)
	} else {
		var in mind
		in, _, ok = h.node.inside(b.id)
		d.seen = contentOf(in)
	}
	d.outcome = done
	if !ok {
		d.outcome = failed
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d.ret = h.tick()
	b.deeds = append(b.deeds, d)
	h.tally.deeds++
}

// born takes a new sandbox into the history, with h.mu held.
func (h *history) born(id soulbox.SandboxID, has content) *box {
	b := &box{id: id, by: map[*deed]*server{}, start: situation{row: soulbox.Running, runs: true, has: has, at: -1}}
	h.boxes = append(h.boxes, b)
	h.tally.made++
	return b
}

// create makes a sandbox, of a snapshot if there is one.
func (h *history) create(of *named) {
	req := request()
	req.Timeout = time.Hour
	req.Lifecycle = soulbox.Lifecycle{Pause: true, Wake: true}
	var want content
	if of != nil {
		req.Template, want = soulbox.TemplateRef{Name: string(of.id)}, of.has
	}
	s := h.living()
	h.mu.Lock()
	call := h.tick()
	h.mu.Unlock()
	sb, err := s.Create(context.Background(), req)
	var in mind
	var ok bool
	if err == nil {
		in, _, ok = h.node.inside(sb.ID)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tally.deeds++
	switch got := outcomeOf(err); {
	case s.died > 0 || s.closing > 0 && err != nil: // nobody knows
	case err == nil && (!ok || contentOf(in) != want):
		h.t.Errorf("a new sandbox has %q, running %v, and should have %q", contentOf(in), ok, want)
	case err == nil && of != nil && of.removed > 0 && of.removed < call:
		h.t.Errorf("a sandbox was made of snapshot %s after that was removed", of.id)
	case err == nil:
		h.born(sb.ID, want)
	case got == exhausted, got == failed && h.faulty:
	case got == notFound && of != nil && of.asked > 0:
	default:
		h.t.Errorf("create of %v: %v", of, err)
	}
}

// note takes a snapshot into the history.
func (h *history) note(s *server, snap *soulbox.Snapshot, d *deed) {
	in, ok := h.node.written(snap.ID)
	d.seen, d.blind = contentOf(in), !ok
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.died > 0 {
		return
	}
	if !ok {
		h.t.Errorf("snapshot %s is not there when it is done", snap.ID)
	}
	h.named = append(h.named, &named{id: snap.ID, has: d.seen})
}

// unname removes a snapshot.
func (h *history) unname(n *named) {
	s := h.living()
	h.mu.Lock()
	call := h.tick()
	if n.asked == 0 {
		n.asked = call
	}
	n.asks++
	h.mu.Unlock()
	err := s.RemoveSnapshot(context.Background(), "us", n.id)
	h.mu.Lock()
	defer h.mu.Unlock()
	ret := h.tick()
	h.tally.deeds++
	switch got := outcomeOf(err); {
	case s.died > 0 || s.closing > 0 && err != nil:
	case err == nil && n.removed > 0:
		h.t.Errorf("snapshot %s is removed twice", n.id)
	case err == nil:
		n.removed = ret
	case got == notFound && n.asks > 1: // another one was first, or is
	case got == failed && h.faulty:
	default:
		h.t.Errorf("remove snapshot: %v", err)
	}
}

// fork makes copies of a sandbox.
func (h *history) fork(b *box, n int) {
	h.do(b, &deed{verb: take}, func(s *server, d *deed) error {
		forks, err := s.Fork(context.Background(), "us", b.id, n, time.Hour)
		d.blind = true
		for _, f := range forks {
			if f.Err != nil {
				continue
			}
			in, _, ok := h.node.inside(f.Sandbox.ID)
			has := contentOf(in)
			h.mu.Lock()
			if s.died == 0 {
				if !ok {
					h.t.Errorf("fork %s does not run", f.Sandbox.ID)
				}
				if !d.blind && d.seen != has {
					h.t.Errorf("one fork has %q, another one %q", d.seen, has)
				}
				d.seen, d.blind = has, false
				h.born(f.Sandbox.ID, has)
			}
			h.mu.Unlock()
		}
		for _, f := range forks {
			got := outcomeOf(f.Err)
			h.mu.Lock()
			if f.Err != nil && got != exhausted && s.died == 0 && s.closing == 0 && !(got == failed && h.faulty) {
				h.t.Errorf("fork: %v", f.Err)
			}
			h.mu.Unlock()
		}
		return err
	})
}

// pick returns one of a list, or the zero value.
func pick[T any](rng *rand.Rand, list []T) (v T) {
	if len(list) > 0 {
		v = list[rng.IntN(len(list))]
	}
	return v
}

// act does one random thing.
func (h *history) act(rng *rand.Rand) {
	ctx := context.Background()
	h.mu.Lock()
	live := slices.DeleteFunc(slices.Clone(h.boxes), func(b *box) bool { return b.start.row == soulbox.Ending })
	b := pick(rng, live)
	of := pick(rng, h.named)
	h.mu.Unlock()
	what := rng.IntN(100)
	if b == nil || what < 5 && len(live) < 12 {
		h.create(nil)
		return
	}
	name := ""
	if rng.IntN(3) == 0 {
		name = fmt.Sprintf("n%d", rng.IntN(3))
	}
	memory, cold := rng.IntN(4) > 0, rng.IntN(4) == 0
	h.mu.Lock()
	count := len(b.ids)
	which := -1
	if count > 0 {
		which = rng.IntN(count)
	}
	if which >= 0 && b.unsure&(1<<which) != 0 {
		which = -1
	}
	var at soulbox.SnapshotID
	if which >= 0 {
		at = b.ids[which]
	}
	h.mu.Unlock()
	reconnect := func(cold bool) {
		h.do(b, &deed{verb: connect, cold: cold}, func(s *server, d *deed) (err error) {
			_, d.resumed, err = s.Connect(ctx, "us", b.id, time.Hour, cold)
			return err
		})
	}
	switch {
	case what < 25:
		h.program(b, &deed{verb: write})
	case what < 35:
		h.program(b, &deed{verb: read})
	case what < 40:
		h.do(b, &deed{verb: get}, func(s *server, d *deed) error {
			sb, err := s.Get(ctx, "us", b.id)
			if err == nil {
				d.state = sb.State
			}
			return err
		})
	case what < 52:
		h.do(b, &deed{verb: pause, memory: memory}, func(s *server, _ *deed) error { return s.Pause(ctx, "us", b.id, memory) })
	case what < 58:
		reconnect(cold)
	case what < 63: // two clients at once
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { reconnect(false) })
		}
		both.Wait()
	case what < 69:
		h.do(b, &deed{verb: wake}, func(s *server, _ *deed) error { return s.Wake(ctx, b.id) })
	case what < 74:
		h.fork(b, 1+rng.IntN(2))
	case what < 78 && len(live) < 12:
		h.do(b, &deed{verb: take, named: name != ""}, func(s *server, d *deed) error {
			snap, err := s.Snapshot(ctx, "us", b.id, name)
			if err == nil {
				h.note(s, snap, d)
			}
			return err
		})
	case what < 82 && of != nil:
		h.create(of)
	case what < 84 && of != nil:
		h.unname(of)
	case what < 89 && count < 20:
		h.checkpointed(b, name)
	case what < 93 && which >= 0:
		h.do(b, &deed{verb: back, point: which}, func(s *server, _ *deed) error {
			_, err := s.Rollback(ctx, "us", b.id, at)
			return err
		})
	case what < 95 && which >= 0:
		h.do(b, &deed{verb: forget, point: which}, func(s *server, _ *deed) error {
			err := s.RemoveCheckpoint(ctx, "us", b.id, at)
			if err != nil && outcomeOf(err) == failed { // its files may be gone, and its record not
				h.mu.Lock()
				b.unsure |= 1 << which
				h.mu.Unlock()
			}
			return err
		})
	case what < 97:
		h.do(b, &deed{verb: extend}, func(s *server, _ *deed) error {
			_, err := s.Extend(ctx, "us", b.id, time.Hour)
			return err
		})
	case what < 98:
		h.do(b, &deed{verb: kill}, func(s *server, _ *deed) error { return s.Kill(ctx, "us", b.id, soulbox.ByClient, "killed") })
	case what < 99: // two clients at once
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				h.do(b, &deed{verb: kill}, func(s *server, _ *deed) error { return s.Kill(ctx, "us", b.id, soulbox.ByClient, "killed") })
			})
		}
		both.Wait()
	default:
		h.program(b, &deed{verb: write})
	}
}

func (h *history) checkpointed(b *box, name string) {
	h.do(b, &deed{verb: point, named: name != ""}, func(s *server, d *deed) error {
		snap, err := s.Checkpoint(context.Background(), "us", b.id, name)
		if err != nil {
			return err
		}
		in, ok := h.node.written(snap.ID)
		h.mu.Lock()
		defer h.mu.Unlock()
		d.seen, d.blind, d.point = contentOf(in), !ok, len(b.ids) // not there: the sandbox is killed
		if s.died == 0 {
			b.ids, b.points, d.heard = append(b.ids, snap.ID), append(b.points, d.seen), true
		}
		return nil
	})
}
