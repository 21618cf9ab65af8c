package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

// SetTimeout makes a running sandbox end, or pause, at d from now, be it later
// or sooner than before; zero is at once. More than the team may ask for, or
// less than zero, is Invalid.
func (f *Fleet) SetTimeout(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) error {
	if err := f.mayLive(ctx, team, d); err != nil {
		return fmt.Errorf("set timeout of sandbox %s: %w", id, err)
	}
	return f.change(ctx, team, id, func(sb *soulbox.Sandbox) error { return f.setExpiry(ctx, sb, d) })
}

// mayLive checks a timeout for a sandbox that exists.
func (f *Fleet) mayLive(ctx context.Context, team soulbox.TeamID, d time.Duration) error {
	if d < 0 {
		return soulbox.Errorf(soulbox.Invalid, "the timeout must not be negative, as %v is", d)
	}
	owner, err := f.opts.Store.Team(ctx, team)
	if err != nil {
		return err
	}
	return allowed(owner, d)
}

// setExpiry records that sb, which nobody else sees yet, lives until d from now.
func (f *Fleet) setExpiry(ctx context.Context, sb *soulbox.Sandbox, d time.Duration) error {
	at, timeout := now().Add(d), d
	if d == 0 {
		timeout = sb.Timeout // nobody wants to be woken for no time at all
	}
	record, cancel := detached(ctx)
	defer cancel()
	if err := f.opts.Store.SetSandboxExpiry(record, sb.ID, at, timeout); err != nil {
		return fmt.Errorf("set timeout of sandbox %s: %w", sb.ID, err)
	}
	sb.ExpiresAt, sb.Timeout = at, timeout
	return nil
}

// SetNetwork changes what a running sandbox may reach, for connections that
// are open as well; who reaches it stays. When the node cannot do it, the record
// stays as it was.
func (f *Fleet) SetNetwork(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, n soulbox.Network) error {
	return f.change(ctx, team, id, func(sb *soulbox.Sandbox) error {
		n.Private = sb.Network.Private
		record, cancel := detached(ctx)
		defer cancel()
		if err := f.opts.Store.SetSandboxNetwork(record, id, n); err != nil {
			return fmt.Errorf("set network of sandbox %s: %w", id, err)
		}
		work, stop := context.WithTimeout(context.WithoutCancel(ctx), networkTimeout)
		defer stop()
		if err := f.opts.Node.SetNetwork(work, id, n); err != nil {
			undo, done := detached(ctx)
			defer done()
			err = errors.Join(err, f.opts.Store.SetSandboxNetwork(undo, id, sb.Network))
			return fmt.Errorf("set network of sandbox %s: %w", id, err)
		}
		sb.Network = n
		return nil
	})
}

// change lets do change a copy of a running sandbox, and shows the result when
// do returns nil. do writes the record.
func (f *Fleet) change(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, do func(*soulbox.Sandbox) error) error {
	if err := f.begin(); err != nil {
		return err
	}
	defer f.wg.Done()
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_, err = f.changeRunning(e, do)
	return err
}

// changeRunning is change with e.mu held.
func (f *Fleet) changeRunning(e *entry, do func(*soulbox.Sandbox) error) (*soulbox.Sandbox, error) {
	sb := e.sb.Load().Clone()
	if err := wantRunning(sb); err != nil {
		return nil, err
	}
	if err := do(sb); err != nil {
		return nil, err
	}
	e.sb.Store(sb)
	f.schedule(e, sb.ExpiresAt)
	return sb, nil
}
