package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/snapshot"
)

const (
	// readyFirst is after how long a ready command is tried again, and readyMost
	// how long that becomes, doubling. The latter is E2B's. Most servers listen
	// long before that, and who builds them waits for it.
	readyFirst = 50 * time.Millisecond
	readyMost  = 2 * time.Second
	// settle is what a start command gets that nobody has said more about. It
	// is E2B's.
	settle = 20 * time.Second
	// postmortem bounds how long one waits for the news that a sandbox has ended
	// whose agent does not answer any more.
	postmortem = 2 * time.Second
)

// Bake makes the snapshot that sandboxes of t are restored from: it boots one
// that belongs to nobody, starts in it what b says, waits until that can be
// used, and writes the sandbox down with its memory. What happens is told in
// say, one call after the other. When Bake fails, or ctx ends before, nothing
// is left; a snapshot of the id that is there already is a Conflict. What is
// wrong with the commands is Invalid.
//
// The sandbox's record says that it may be removed, if the server does not live
// to do so.
func (n *Node) Bake(ctx context.Context, t *soulbox.Template, b soulbox.Baking, say func(soulbox.BuildLine)) (soulbox.Baked, error) {
	baked, err := n.bake(ctx, t, b, say)
	if err != nil {
		return soulbox.Baked{}, fmt.Errorf("bake template %s: %w", t.ID, err)
	}
	return baked, nil
}

func (n *Node) bake(ctx context.Context, t *soulbox.Template, b soulbox.Baking, say func(soulbox.BuildLine)) (baked soulbox.Baked, err error) {
	if b.Within == 0 {
		b.Within = soulbox.MaxBake
	}
	if b.Within < 0 || b.Within > soulbox.MaxBake {
		return baked, soulbox.Errorf(soulbox.Invalid, "a ready command may have up to %v to succeed, not %v", soulbox.MaxBake, b.Within)
	}
	switch held, err := n.snapshots.Hold(b.Snapshot); { // sooner than Write would say so
	case err == nil:
		return baked, errors.Join(soulbox.Errorf(soulbox.Conflict, "snapshot %s exists on this machine", b.Snapshot), held.Close())
	case soulbox.KindOf(err) != soulbox.NotFound:
		return baked, err
	}
	d, err := n.driver(t.Isolation)
	if err != nil {
		return baked, err
	}
	can := d.Capabilities()
	if !can.Memory {
		return baked, soulbox.Errorf(soulbox.Invalid, "sandboxes of isolation %q cannot be written down with a start command running in them", can.Isolation)
	}
	image, err := n.Images.Hold(t.Image)
	if err != nil {
		return baked, err
	}
	baked.Sandbox = soulbox.NewSandboxID()
	f, err := n.start(ctx, record{ID: baked.Sandbox, Size: t.Size, Secure: true, Internet: true, Image: t.Image, Isolation: t.Isolation, Warm: true}, origin{image: image})
	if err != nil {
		return baked, err
	}
	defer n.undo(context.WithoutCancel(ctx), f)
	if err := n.tell(ctx, f, t, guest.Identity{Token: n.token(f.record), Env: t.Env}); err != nil {
		return baked, err
	}
	n.Faults.Reach("bake/booted")
	if err := n.bringToReady(ctx, f.sandbox, b, say); err != nil {
		return baked, err
	}
	n.Faults.Reach("bake/ready")
	f.agent.Close()
	draft := snapshot.Draft{
		ID: b.Snapshot, Format: can.Format, Memory: true, Image: t.Image, Path: filepath.Join(f.dir, imageFile),
		Most: t.Size.Memory + t.Size.Disk + overhead, Bound: n.SnapshotBound,
	}
	save := func(dir string) error {
		if err := f.instance.Freeze(ctx); err != nil { // so that nothing happens once it is written down
			return err
		}
		n.Faults.Reach("bake/frozen")
		return f.instance.Save(ctx, dir, true)
	}
	if baked.Bytes, err = n.snapshots.Write(ctx, draft, save, n.Faults.Reach); err != nil {
		select {
		case <-f.instance.Done():
			err = errors.Join(deathOf(f.sandbox), err)
		default:
		}
		return baked, err
	}
	n.Faults.Reach("bake/written")
	return baked, nil
}

// bringToReady starts what b says in a sandbox and returns once it is ready.
// What was started goes on, and nobody listens to it any more.
func (n *Node) bringToReady(ctx context.Context, s *sandbox, b soulbox.Baking, say func(soulbox.BuildLine)) error {
	ctx, fail := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer fail(nil)
	watching.Go(func() {
		select {
		case <-s.instance.Done():
			fail(deathOf(s))
		case <-ctx.Done():
		}
	})

	tell := &teller{say: say}
	leave := func() {}
	if b.Start != "" {
		tell.line("Running start command")
		var err error
		if leave, err = launch(ctx, s, b.Start, tell, fail); err != nil {
			return err
		}
		n.Faults.Reach("bake/started")
	}
	tell.line("Waiting for the template to be ready")
	err := awaitReady(ctx, s, b)
	leave()
	if err == nil {
		tell.line("Template is ready")
	}
	return err
}

// launch starts a command and listens to it behind, and calls fail if it ends
// badly. What it returns ends listening.
func launch(ctx context.Context, s *sandbox, command string, tell *teller, fail context.CancelCauseFunc) (leave func(), err error) {
	// A deadline would be the command's as well, and it is to outlive us.
	listen, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	program, err := s.agent.Start(listen, command)
	if err != nil {
		stop()
		cancel()
		return nil, unanswered(ctx, "start", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		exit, err := program.Wait(tell.output(listen))
		tell.flush()
		switch {
		case listen.Err() != nil:
		case err != nil:
			fail(unanswered(ctx, "start", err))
		case exit.Code != 0:
			fail(soulbox.Errorf(soulbox.Invalid, "the start command ended before the template was ready, with %s", ending(exit, tell.last())))
		default: // it may have left something running
		}
	}()
	return func() {
		stop()
		cancel()
		<-done
	}, nil
}

// awaitReady returns when the ready command of b has succeeded.
func awaitReady(ctx context.Context, s *sandbox, b soulbox.Baking) error {
	if b.Ready == "" {
		if b.Start != "" {
			wait(ctx, min(settle, b.Within))
		}
		return context.Cause(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, b.Within)
	defer cancel()
	last := "it did not end"
	for pause := readyFirst; ; pause = min(2*pause, readyMost) {
		heard := &teller{}
		exit, err := run(limited, s, b.Ready, heard)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case limited.Err() != nil: // the last time it was killed
			return soulbox.Errorf(soulbox.Invalid, "the ready command did not succeed within %v; when it was last run, %s", b.Within, last)
		case err != nil:
			return unanswered(ctx, "ready", err)
		case exit.Code == 0:
			return nil
		}
		last = "it ended with " + ending(exit, heard.last())
		wait(limited, pause)
	}
}

// run runs a command until it ends.
func run(ctx context.Context, s *sandbox, command string, heard *teller) (guest.Exit, error) {
	program, err := s.agent.Start(ctx, command)
	if err != nil {
		return guest.Exit{}, err
	}
	return program.Wait(heard.output(ctx))
}

// wait returns after d, or when ctx has ended.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// ending says how a command ended, as the rest of a sentence.
func ending(e guest.Exit, last string) string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Code < 0 {
		how = printable([]byte(e.Status), lastMost)
	}
	if last != "" {
		how += ": " + last
	}
	return how
}

// unanswered says why a command could not be run. If the sandbox has ended,
// that is why.
func unanswered(ctx context.Context, which string, err error) error {
	wait(ctx, postmortem)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return soulbox.Hide(soulbox.Invalid, err, fmt.Sprintf("the %s command could not be run: %s", which, printable([]byte(err.Error()), lastMost)))
}

// deathOf says why a sandbox has ended that was not told to.
func deathOf(s *sandbox) error {
	reason := "its kernel or its agent ended unexpectedly"
	if why, ok := blame(s.group, s.record.Size); ok {
		reason = why.Reason
	}
	return soulbox.Errorf(soulbox.Invalid, "the sandbox ended before the template was ready: %s", reason)
}
