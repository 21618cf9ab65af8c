package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
)

// Bounds of what a client may attach to a sandbox. The environment reaches
// every program through the kernel, which takes 2 MiB in all; metadata is
// matched in every list.
const (
	maxEnv      = 512 << 10
	maxMetadata = 64 << 10
)

// An origin is what a sandbox is made of.
type origin struct {
	tpl  *soulbox.Template // also of a snapshot: what it is like
	snap *soulbox.Snapshot // nil: of the template
}

// Create starts a sandbox of a template or of a snapshot and returns it once it
// answers. When it fails, or ctx ends first, nothing is left but a record that
// says why.
func (f *Fleet) Create(ctx context.Context, req soulbox.CreateRequest) (*soulbox.Sandbox, error) {
	if err := f.begin(); err != nil {
		return nil, err
	}
	defer f.wg.Done()

	team, err := f.opts.Store.Team(ctx, req.Team)
	if err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	o, err := f.resolve(ctx, team, req.Template)
	if err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	class := o.tpl.Isolation
	if req.Isolation != nil {
		class = *req.Isolation
	}
	if err := errors.Join(validate(team, o.tpl, req), f.admissible(o, class, req.Lifecycle)); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	f.opts.Faults.Reach("create/validated")

	if err := f.reserve(team); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	created := now()
	sb := &soulbox.Sandbox{
		Team:      team.ID,
		Template:  o.tpl.ID,
		Build:     o.tpl.Build,
		Alias:     o.tpl.Name,
		Node:      f.opts.Node.ID(),
		State:     soulbox.Starting,
		CreatedAt: created,
		ExpiresAt: created.Add(req.Timeout),
		Timeout:   req.Timeout,
		Lifecycle: req.Lifecycle,
		Size:      o.tpl.Size,
		Network:   req.Network,
		Isolation: class,
		Secure:    req.Secure,
		Env:       maps.Clone(req.Env),
		Metadata:  maps.Clone(req.Metadata),
	}
	ready := false
	if o.snap != nil {
		sb.Alias, sb.From = o.snap.Alias, o.snap.ID
		// The snapshot may be removed before the sandbox is written down.
		sb.Env = merged(o.snap.Env, req.Env)
	} else if class == soulbox.GVisor { // only those are made ahead
		sb.ID, ready = f.opts.Node.Reserve(o.tpl)
	}
	if !ready {
		sb.ID = soulbox.NewSandboxID()
	}
	running, err := f.launch(ctx, f.lend(sb), o, creating)
	if err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	return running, nil
}

// launchSteps are those of a way to a new sandbox, for tests that kill us on it.
type launchSteps struct{ recorded, started, running string }

var (
	creating = launchSteps{"create/recorded", "create/started", "create/running"}
	forking  = launchSteps{started: "fork/restored"}
)

// launch brings up a sandbox for which a place is reserved and of which nobody
// knows yet.
func (f *Fleet) launch(ctx context.Context, sb *soulbox.Sandbox, o origin, s launchSteps) (*soulbox.Sandbox, error) {
	work, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	e := newEntry(sb)
	if err := f.recordStarting(ctx, e, giveUp); err != nil {
		f.wg.Go(func() { f.withdraw(ctx, e) })
		return nil, err
	}
	f.opts.Faults.Reach(s.recorded)

	running, err := f.bringUp(ctx, work, e, o, s)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", sb.ID, err)
	}
	f.log.InfoContext(ctx, "sandbox started", "sandbox", running.ID, "team", running.Team, "template", running.Template, "from", running.From,
		"took", running.StartedAt.Sub(running.CreatedAt))
	return running, nil
}

// recordStarting writes the first record of a sandbox. It is in the table
// before, so that whoever sees the record can end it; giveUp is how.
func (f *Fleet) recordStarting(ctx context.Context, e *entry, giveUp context.CancelCauseFunc) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load()
	e.giveUp = giveUp
	f.table.Store(sb.ID, e)
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := f.opts.Store.InsertSandbox(ctx, sb); err != nil {
		e.giveUp = nil
		return err
	}
	select {
	case <-f.stop: // Close may have looked for us before we were in the table
		giveUp(errStopping())
	default:
	}
	return nil
}

// withdraw takes back a sandbox whose first record failed. The record may be
// there all the same, if only the answer was lost; then the sandbox ends as any
// other. Its place in the quota is free when that is known.
func (f *Fleet) withdraw(ctx context.Context, e *entry) {
	sb := e.sb.Load()
	there := false
	looked := f.retry(ctx, "look for the record of sandbox", sb.ID, func() error {
		read, cancel := detached(ctx)
		defer cancel()
		_, err := f.opts.Store.Sandbox(read, sb.ID)
		there = err == nil
		if soulbox.KindOf(err) == soulbox.NotFound {
			return nil
		}
		return err
	})
	switch {
	case there:
		f.end(ctx, e, undone, because(soulbox.End{By: soulbox.ByServer, Reason: "the server could not write down that it starts"}))
	case looked:
		f.table.CompareAndDelete(sb.ID, e)
		f.release(sb.Team)
		f.destroyStray(ctx, sb.ID) // it may wait there ready made, and nobody else knows of it
	}
}

// bringUp takes a recorded sandbox from starting to running, or ends it. The
// node works under work, which is ctx that others may end too.
func (f *Fleet) bringUp(ctx, work context.Context, e *entry, o origin, s launchSteps) (*soulbox.Sandbox, error) {
	var err error
	if o.snap != nil {
		err = f.opts.Node.Restore(work, e.sb.Load(), o.snap)
	} else {
		err = f.opts.Node.Create(work, e.sb.Load(), o.tpl)
	}
	f.opts.Faults.Reach(s.started)

	e.mu.Lock()
	e.giveUp = nil
	if over := e.sb.Load(); over.State != soulbox.Starting {
		e.mu.Unlock()
		// Whoever ended it left the destroying to us, because the node was
		// still busy creating.
		f.wg.Go(func() { f.teardown(ctx, e, undone) })
		return nil, soulbox.Errorf(soulbox.Unavailable, "the sandbox was %v", *over.End)
	}
	if work.Err() != nil {
		err = errors.Join(context.Cause(work), err)
	}
	if err != nil {
		e.mu.Unlock()
		f.end(ctx, e, undone, because(failure(work, err)))
		return nil, err
	}
	running, err := f.recordRunning(ctx, e)
	e.mu.Unlock()
	if err != nil {
		f.end(ctx, e, undone, because(soulbox.End{By: soulbox.ByServer, Reason: "the server could not write down that it runs"}))
		return nil, err
	}
	f.opts.Faults.Reach(s.running)
	return running, nil
}

// recordRunning moves the sandbox on, with e.mu held.
func (f *Fleet) recordRunning(ctx context.Context, e *entry) (*soulbox.Sandbox, error) {
	sb := e.sb.Load().Clone()
	sb.StartedAt = now()
	sb.ExpiresAt = sb.StartedAt.Add(sb.Timeout)
	if err := f.move(ctx, sb, soulbox.Running); err != nil {
		return nil, err
	}
	e.sb.Store(sb)
	f.schedule(e, sb.ExpiresAt)
	return sb, nil
}

// failure says who ended a creation that came to nothing, and why.
func failure(work context.Context, err error) soulbox.End {
	switch {
	case work.Err() == nil:
		return soulbox.End{By: soulbox.ByServer, Reason: "it could not be started: " + soulbox.MessageOf(err)}
	case soulbox.KindOf(context.Cause(work)) == soulbox.Unavailable:
		return soulbox.End{By: soulbox.ByServer, Reason: "the server stopped while it was starting"}
	default:
		return soulbox.End{By: soulbox.ByClient, Reason: "whoever asked for it did not wait until it had started"}
	}
}

// validate says what is wrong with a request, with the numbers.
func validate(team *soulbox.Team, tpl *soulbox.Template, req soulbox.CreateRequest) error {
	if req.Timeout <= 0 {
		return soulbox.Errorf(soulbox.Invalid, "the timeout must be more than 0, not %v", req.Timeout)
	}
	if err := allowed(team, req.Timeout); err != nil {
		return err
	}
	if tpl.Size.CPUs > team.Limits.CPUs {
		return soulbox.Errorf(soulbox.Invalid, "template '%s' wants %d CPUs, and a sandbox of your team may have %d", tpl.Name, tpl.Size.CPUs, team.Limits.CPUs)
	}
	if tpl.Size.Memory > team.Limits.Memory {
		return soulbox.Errorf(soulbox.Invalid, "template '%s' wants %d MiB of memory, and a sandbox of your team may have %d",
			tpl.Name, tpl.Size.Memory/soulbox.MiB, team.Limits.Memory/soulbox.MiB)
	}
	switch l := req.Lifecycle; {
	case l.FilesOnly && !l.Pause:
		return soulbox.Errorf(soulbox.Invalid, "a sandbox that ends when its time is up keeps no files; let it pause, or leave out that its pause keeps files only")
	case l.Wake && !l.Pause:
		return soulbox.Errorf(soulbox.Invalid, "a sandbox that ends when its time is up cannot be resumed by traffic; let it pause, or leave out that traffic resumes it")
	case l.FilesOnly && l.Wake:
		return soulbox.Errorf(soulbox.Invalid, "a sandbox whose pause keeps files only boots again and cannot be resumed by traffic; let it keep its memory, or leave out that traffic resumes it")
	}
	if req.Network.Private && !req.Secure {
		return soulbox.Errorf(soulbox.Invalid, "a sandbox whose ports are private must be secure as well, or anybody could run programs in it; ask for that, or leave its ports public")
	}
	if err := plain("environment", req.Env, maxEnv); err != nil {
		return err
	}
	for name := range req.Env {
		if name == "" || strings.Contains(name, "=") {
			return soulbox.Errorf(soulbox.Invalid, "%.100q cannot be the name of an environment variable", name)
		}
	}
	return plain("metadata", req.Metadata, maxMetadata)
}

// admissible says why a sandbox of o cannot have an isolation, which whoever
// asked for it or its template wants.
func (f *Fleet) admissible(o origin, class soulbox.Isolation, cycle soulbox.Lifecycle) error {
	if err := class.Allowed(f.opts.Allowed); err != nil {
		return err
	}
	switch {
	case class == soulbox.GVisor:
		return nil
	case o.snap != nil:
		return soulbox.Errorf(soulbox.Invalid, "a snapshot has the isolation of the sandbox that it was taken of; leave out the isolation, or name a template")
	case o.tpl.Snapshot != "":
		return soulbox.Errorf(soulbox.Invalid, "sandboxes of template '%s' begin with its start command running, and one of isolation %s cannot; leave out the isolation, or name a template without a start command", o.tpl.Name, class)
	case cycle.Pause && !cycle.FilesOnly:
		return soulbox.Errorf(soulbox.Invalid, "a sandbox of isolation %s cannot be paused with its memory when its time is up; let the pause keep files only", class)
	}
	return nil
}

// savable refuses to write down what cannot be.
func savable(sb *soulbox.Sandbox, memory bool) error {
	if memory && sb.Isolation == soulbox.Runc {
		return soulbox.Errorf(soulbox.Invalid, "sandbox %s has isolation %s: it shares the machine's kernel, and its memory cannot be written down; only a pause that keeps files only is possible", sb.ID, sb.Isolation)
	}
	return nil
}

// allowed checks a timeout against what a team may ask for.
func allowed(team *soulbox.Team, d time.Duration) error {
	if d > team.Limits.Timeout {
		return soulbox.Errorf(soulbox.Invalid, "a timeout of %v is more than the %v that your team may ask for", d, team.Limits.Timeout)
	}
	return nil
}

// plain refuses what cannot be handed on as text: to a kernel, or to a
// database.
func plain(what string, m map[string]string, most int) error {
	size := 0
	for k, v := range m {
		size += len(k) + len(v)
		if strings.ContainsRune(k, 0) || strings.ContainsRune(v, 0) || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return soulbox.Errorf(soulbox.Invalid, "the %s entry %.100q is not text: it holds a NUL byte or is not UTF-8", what, k)
		}
	}
	if size > most {
		return soulbox.Errorf(soulbox.TooLarge, "the %s has %d bytes, and may have %d", what, size, most)
	}
	return nil
}

// merged returns both maps as one, in which above wins.
func merged(below, above map[string]string) map[string]string {
	if len(below)+len(above) == 0 {
		return nil
	}
	m := make(map[string]string, len(below)+len(above))
	maps.Copy(m, below)
	maps.Copy(m, above)
	return m
}

// reserve takes one sandbox out of a team's quota.
func (f *Fleet) reserve(team *soulbox.Team) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.live[team.ID]; n >= team.Limits.Sandboxes {
		return soulbox.Errorf(soulbox.Exhausted, "your team has %d sandboxes running, and may have %d at the same time", n, team.Limits.Sandboxes)
	}
	f.live[team.ID]++
	return nil
}

// release puts it back.
func (f *Fleet) release(team soulbox.TeamID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live[team]--; f.live[team] <= 0 {
		delete(f.live, team)
	}
}
