package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/guest"
)

// observeTimeout bounds how long an agent may take to answer a question. It
// does not answer while its sandbox is held.
const observeTimeout = 20 * time.Second

// hushTimeout bounds how long a snapshot waits for an agent to hold its record
// back, and to show it again.
const hushTimeout = 2 * time.Second

// hush has a sandbox, which is about to be saved, show nothing new of its
// record: what its programs do from now on may also happen differently, in a
// copy. A record that goes on showing is not worth losing the snapshot. The
// caller has s.saving.
func (n *Node) hush(ctx context.Context, s *sandbox) {
	s.setQuiet(true)
	ctx, cancel := context.WithTimeout(ctx, hushTimeout)
	defer cancel()
	if err := s.agent.Hold(ctx); err != nil && !errors.Is(err, guest.ErrNoRecord) {
		n.Log.WarnContext(ctx, "record not held", "sandbox", s.record.ID, "err", err)
	}
}

// speak ends hush, unless it was ended. If it fails, whoever asks for the
// record next tries again. The caller has s.saving.
func (n *Node) speak(ctx context.Context, s *sandbox) {
	if !s.isQuiet() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hushTimeout)
	defer cancel()
	if err := s.agent.Release(ctx); err != nil && !errors.Is(err, guest.ErrNoRecord) {
		n.Log.WarnContext(ctx, "record not released", "sandbox", s.record.ID, "err", err)
		return
	}
	s.setQuiet(false)
}

// listen makes sure that a sandbox shows its record, unless it is being saved.
func (n *Node) listen(ctx context.Context, s *sandbox) {
	if s.isQuiet() && s.saving.TryLock() {
		defer s.saving.Unlock()
		if s.getStill() == no {
			n.speak(ctx, s)
		}
	}
}

func (s *sandbox) setQuiet(quiet bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = quiet
}

func (s *sandbox) isQuiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quiet
}

// Record switches the record of a sandbox on, if it is off, and has its agent
// watch the folders paths, given as absolute paths, with everything below them
// in place of earlier ones. It is Invalid if one of them cannot be watched;
// then nothing has changed. A record that is on stays on in what is restored
// from the sandbox.
func (n *Node) Record(ctx context.Context, id soulbox.SandboxID, paths []string) error {
	return n.ask(ctx, id, func(ctx context.Context, a *guest.Agent) error { return a.Record(ctx, paths) })
}

// Position tells where the record of a sandbox stands. It is the zero position
// if nothing was ever recorded.
func (n *Node) Position(ctx context.Context, id soulbox.SandboxID) (p soulbox.GuestPosition, err error) {
	err = n.ask(ctx, id, func(ctx context.Context, a *guest.Agent) error {
		p, err = a.Position(ctx)
		return err
	})
	return p, err
}

// Observe tells what goes on in a sandbox.
func (n *Node) Observe(ctx context.Context, id soulbox.SandboxID) (s soulbox.GuestState, err error) {
	err = n.ask(ctx, id, func(ctx context.Context, a *guest.Agent) error {
		s, err = a.State(ctx)
		return err
	})
	return s, err
}

// Follow calls fn for each event after number after, in order, then waits for
// more, until ctx ends, fn fails, or the connection breaks, as it does when the
// sandbox ends. It is Conflict if the record is off or has not come as far as
// after, as that of a sandbox which was rolled back. The number alone does not
// tell whether events after it are from the same epoch; ask for the Position
// before. While a snapshot is written events wait; none that was told happens
// differently in what is restored from it.
func (n *Node) Follow(ctx context.Context, id soulbox.SandboxID, after uint64, fn func(soulbox.GuestEvent) error) error {
	s, err := n.find(id)
	if err != nil {
		return err
	}
	n.listen(ctx, s)
	ctx, cancel := context.WithCancelCause(ctx)
	var leaving sync.WaitGroup
	defer leaving.Wait()
	defer cancel(nil)
	leaving.Go(func() {
		select {
		case <-s.left:
			cancel(errLeft)
		case <-ctx.Done():
		}
	})
	var failed error
	err = s.agent.Follow(ctx, after, func(e soulbox.GuestEvent) error {
		failed = fn(e)
		return failed
	})
	if failed != nil {
		return failed
	}
	return answered(ctx, id, err)
}

// errLeft is why nobody listens to a sandbox any more.
var errLeft = errors.New("the sandbox ended, or the node closes")

// ask puts a question to the agent of a sandbox.
func (n *Node) ask(ctx context.Context, id soulbox.SandboxID, question func(context.Context, *guest.Agent) error) error {
	s, err := n.find(id)
	if err != nil {
		return err
	}
	n.listen(ctx, s)
	limited, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	return answered(ctx, id, question(limited, s.agent))
}

// answered says whose fault it is that an agent gave no answer.
func answered(ctx context.Context, id soulbox.SandboxID, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errLeft):
		return ctx.Err()
	case errors.Is(err, guest.ErrNoRecord):
		return soulbox.Hide(soulbox.Conflict, err, fmt.Sprintf("sandbox %s was made before records were kept; a new one has a record", id))
	case soulbox.KindOf(err) != soulbox.Internal:
		return err
	}
	return soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("the agent of sandbox %s does not answer as it should; the sandbox may have ended, or its programs may have tampered with the agent", id))
}
