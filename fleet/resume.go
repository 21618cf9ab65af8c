package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

// leastSpell is what a sandbox gets that traffic resumes and of which nobody
// wrote down a timeout.
const leastSpell = time.Minute

// Connect makes a sandbox run for d from now at least, and returns it. One that
// runs is given more time, never less. One that is paused, or about to be, is
// resumed; cold leaves its memory aside, so that it boots with its files.
// resumed tells whether it was. Any number may connect at the same time: the
// sandbox is resumed once, and all of them are served. A team that has as many
// running as it may is Exhausted; when it cannot be resumed for another reason,
// the sandbox stays paused.
func (f *Fleet) Connect(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration, cold bool) (sb *soulbox.Sandbox, resumed bool, err error) {
	if err := f.begin(); err != nil {
		return nil, false, err
	}
	defer f.wg.Done()
	if err := f.mayLive(ctx, team, d); err != nil {
		return nil, false, fmt.Errorf("connect to sandbox %s: %w", id, err)
	}
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return nil, false, err
	}
	for {
		sb, asleep, err := f.extend(ctx, e, d)
		if err != nil || !asleep {
			return sb, resumed, err
		}
		ran, err := f.resume(ctx, e, d, cold, false)
		if err != nil {
			return nil, false, err
		}
		resumed = resumed || ran
	}
}

// extend makes a running sandbox live until d from now at least. asleep says
// that it does not run, but may after a resume.
func (f *Fleet) extend(ctx context.Context, e *entry, d time.Duration) (sb *soulbox.Sandbox, asleep bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch e.sb.Load().State {
	case soulbox.Pausing, soulbox.Paused, soulbox.Resuming:
		return nil, true, nil
	default:
	}
	sb, err = f.changeRunning(e, func(sb *soulbox.Sandbox) error {
		if !now().Add(d).After(sb.ExpiresAt) {
			return nil
		}
		return f.setExpiry(ctx, sb, d)
	})
	return sb, false, err
}

// Wake resumes a paused sandbox whose [soulbox.Lifecycle] says that traffic
// does, for as long as was last asked for, and returns when it runs. All who
// ask at the same time are served by one resume. It is a Conflict when the
// sandbox is not to be woken, and for one that was paused without its memory:
// nobody listens in it after it boots.
func (f *Fleet) Wake(ctx context.Context, id soulbox.SandboxID) error {
	if err := f.begin(); err != nil {
		return err
	}
	defer f.wg.Done()
	e, ok := f.entry(id)
	if !ok {
		return missing(id, nil)
	}
	for {
		sb := e.sb.Load()
		switch {
		case sb.State == soulbox.Running || sb.State == soulbox.Starting || !sb.State.Live():
			return wantRunning(sb)
		case !sb.Lifecycle.Wake:
			return soulbox.Errorf(soulbox.Conflict, "sandbox %s is paused and is not resumed by traffic; connect to it first", id)
		case sb.Pause != nil && !sb.Pause.Memory:
			return soulbox.Errorf(soulbox.Conflict, "sandbox %s was paused without its memory and is not resumed by traffic; connect to it first", id)
		}
		if _, err := f.resume(ctx, e, 0, false, true); err != nil {
			return err
		}
	}
}

// A resumption is a resume that any number of callers wait for.
type resumption struct {
	done    chan struct{}
	resumed bool // read after done
	err     error
}

// resume makes a sandbox run that is paused, or will be when whoever has seized
// it is done, and returns whether it was necessary. It goes on when ctx ends,
// because others may have joined. With traffic it leaves a sandbox alone that
// turns out to be paused without its memory once it is seized; whoever waits
// looks again, and may do more.
func (f *Fleet) resume(ctx context.Context, e *entry, d time.Duration, cold, traffic bool) (bool, error) {
	e.mu.Lock()
	r := e.resuming
	if r == nil {
		r = &resumption{done: make(chan struct{})}
		e.resuming = r
		f.wg.Go(func() { f.runResumption(context.WithoutCancel(ctx), e, r, d, cold, traffic) })
	}
	e.mu.Unlock()
	select {
	case <-r.done:
		return r.resumed, r.err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

func (f *Fleet) runResumption(ctx context.Context, e *entry, r *resumption, d time.Duration, cold, traffic bool) {
	tell := func(resumed bool, err error) {
		e.mu.Lock()
		e.resuming = nil
		e.mu.Unlock()
		r.resumed, r.err = resumed, err
		close(r.done)
	}
	if err := f.seize(ctx, e); err != nil {
		tell(false, err)
		return
	}
	defer e.leave()
	sb := e.sb.Load()
	if sb.State != soulbox.Paused {
		tell(false, wantRunning(sb)) // somebody was faster
		return
	}
	if traffic && !sb.Pause.Memory {
		tell(false, nil)
		return
	}
	read, cancel := detached(ctx)
	snap, err := f.opts.Store.Snapshot(read, sb.Pause.Snapshot)
	cancel()
	if err != nil {
		tell(false, orMissing(e, unable("resumed", sb.ID, err)))
		return
	}
	c := comeback{
		verb: "resumed", from: soulbox.Paused, snap: snap, pause: *sb.Pause, back: *sb.Pause,
		steps: comebackSteps{"resume/recorded", "", "resume/restored", "resume/running"},
		run: func(sb *soulbox.Sandbox, most time.Duration) {
			if d > 0 {
				sb.Timeout = d
			}
			sb.ExpiresAt = now().Add(spell(sb, most))
			if snap.Kind == soulbox.ForRollback { // it was lost and goes on from there
				sb.From = snap.ID
			}
		},
	}
	if snap.Kind == soulbox.ForPause {
		c.obsolete = snap.ID
	}
	if cold {
		files := *snap
		files.Memory = false
		c.snap = &files
	}
	f.comeBack(ctx, e, c, func(err error) {
		if err != nil {
			err = f.offer(ctx, sb, err)
		}
		tell(err == nil, err)
	})
}

// spell is how long a sandbox may live when nobody says, at most.
func spell(sb *soulbox.Sandbox, most time.Duration) time.Duration {
	d := sb.Timeout
	if d <= 0 { // its record is from before there were timeouts in it
		d = max(sb.ExpiresAt.Sub(sb.StartedAt), leastSpell)
	}
	return min(d, most)
}

// comebackSteps are those of a way back to life, for tests that kill us on it.
type comebackSteps struct{ recorded, destroyed, restored, running string }

// A comeback is how a sandbox runs again from a snapshot.
type comeback struct {
	verb     string             // what is done to it, as in "resumed"
	from     soulbox.State      // Paused or Running
	snap     *soulbox.Snapshot  // Memory says whether it is wanted
	pause    soulbox.Pause      // on record meanwhile, so that a crash leads there
	back     soulbox.Pause      // on record when it fails
	obsolete soulbox.SnapshotID // removed when it runs; empty: none
	steps    comebackSteps

	// run sets what is different when it runs; most is the longest timeout of
	// its team.
	run func(sb *soulbox.Sandbox, most time.Duration)
}

// comeBack makes a sandbox run that the caller has seized. It tells when it
// does, or why it does not, and then tidies up.
func (f *Fleet) comeBack(ctx context.Context, e *entry, c comeback, tell func(error)) {
	id := e.sb.Load().ID
	start := time.Now()
	read, cancel := detached(ctx)
	team, err := f.opts.Store.Team(read, e.sb.Load().Team)
	cancel()
	if err != nil {
		tell(unable(c.verb, id, err))
		return
	}
	work, giveUp := f.until(ctx)
	defer giveUp(nil)
	changed, err := f.recordResuming(ctx, e, c, team, giveUp)
	if !changed {
		tell(err)
		return
	}
	recorded := err == nil
	if recorded {
		f.opts.Faults.Reach(c.steps.recorded)
		err = f.remake(ctx, work, e, c)
	}
	if f.over(ctx, e) {
		tell(missing(id, e.sb.Load()))
		return
	}
	if err == nil {
		var told bool
		if told, err = f.recordBackToLife(ctx, e, c, team); !told {
			// The record may say that it runs. To undo it would end it for good;
			// the next fleet adopts it, or makes it again.
			tell(errStopping())
			return
		}
	}
	tell = once(tell)
	if err != nil {
		way := back{
			what: "undo", from: soulbox.Resuming, to: soulbox.Paused, pause: &c.back,
			do:   func() error { return f.destroy(ctx, e) },
			tell: func() { tell(unable(c.verb, id, err)) },
		}
		if !recorded && c.from == soulbox.Running { // and nothing happened to it
			way.to, way.pause, way.do = soulbox.Running, nil, nil
		}
		f.goBack(ctx, e, way)
		return
	}
	if sb := e.sb.Load(); !sb.State.Live() {
		tell(missing(id, sb))
		return
	}
	f.opts.Faults.Reach(c.steps.running)
	f.log.InfoContext(ctx, "sandbox is back", "how", c.verb, "sandbox", id, "snapshot", c.snap.ID, "memory", c.snap.Memory, "took", time.Since(start))
	if c.obsolete != "" {
		f.wg.Go(func() { f.discard(ctx, c.obsolete) })
	}
	tell(nil)
}

// recordResuming takes the sandbox out of the state that c names. It reports
// whether that is so; with an error, it is unsure what is on record.
func (f *Fleet) recordResuming(ctx context.Context, e *entry, c comeback, team *soulbox.Team, giveUp context.CancelCauseFunc) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load().Clone()
	if sb.State != c.from {
		return false, wantRunning(sb)
	}
	if !sb.State.Active() {
		if err := f.reserve(team); err != nil {
			return false, fmt.Errorf("resume sandbox %s: %w", sb.ID, err)
		}
	}
	pause := c.pause
	sb.Pause = &pause
	err := f.move(ctx, sb, soulbox.Resuming)
	f.unschedule(e)
	f.show(e, sb)
	e.giveUp, e.died = giveUp, nil
	return true, err
}

// remake lets the node replace what it has of a sandbox.
func (f *Fleet) remake(ctx, work context.Context, e *entry, c comeback) error {
	sb := e.sb.Load()
	if c.steps.destroyed != "" {
		if err := f.destroy(ctx, e); err != nil {
			return err
		}
		f.opts.Faults.Reach(c.steps.destroyed)
	}
	e.mu.Lock()
	e.died, e.since = nil, now()
	e.mu.Unlock()
	if err := f.opts.Node.Restore(work, sb, c.snap); err != nil {
		if work.Err() != nil && f.life.Err() != nil {
			return errStopping()
		}
		return err
	}
	f.opts.Faults.Reach(c.steps.restored)
	return nil
}

// recordBackToLife records that the sandbox runs. It does so for as long as it
// takes, because the record may be ahead of us, unless the sandbox dies, which is
// the error, or is ended. It reports false when the fleet closed before.
func (f *Fleet) recordBackToLife(ctx context.Context, e *entry, c comeback, team *soulbox.Team) (told bool, died error) {
	told = f.retry(ctx, "record that it runs", e.sb.Load().ID, func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		sb := e.sb.Load().Clone()
		if sb.State != soulbox.Resuming {
			return nil
		}
		if e.died != nil {
			died = soulbox.Errorf(soulbox.Unavailable, "it was %v", *e.died)
			return nil
		}
		sb.Pause = nil
		c.run(sb, team.Limits.Timeout)
		if err := f.move(ctx, sb, soulbox.Running); err != nil {
			return err
		}
		f.show(e, sb)
		f.schedule(e, sb.ExpiresAt)
		return nil
	})
	return told, died
}
