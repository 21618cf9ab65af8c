package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
)

// SetTimeout makes a running sandbox end at d from now, be it later or sooner
// than before; zero ends it at once. More than the team may ask for, or less
// than zero, is Invalid.
func (f *Fleet) SetTimeout(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) error {
	_, err := f.setExpiry(ctx, team, id, d, false)
	return err
}

// Extend makes a running sandbox live until d from now at least, and returns
// it. One that lives longer anyway stays as it is.
func (f *Fleet) Extend(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) (*soulbox.Sandbox, error) {
	return f.setExpiry(ctx, team, id, d, true)
}

func (f *Fleet) setExpiry(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration, onlyLater bool) (*soulbox.Sandbox, error) {
	if d < 0 {
		return nil, soulbox.Errorf(soulbox.Invalid, "the timeout must not be negative, as %v is", d)
	}
	owner, err := f.opts.Store.Team(ctx, team)
	if err != nil {
		return nil, fmt.Errorf("set timeout of sandbox %s: %w", id, err)
	}
	if err := allowed(owner, d); err != nil {
		return nil, err
	}
	return f.change(ctx, team, id, func(sb *soulbox.Sandbox) error {
		at := now().Add(d)
		if onlyLater && !at.After(sb.ExpiresAt) {
			return nil
		}
		record, cancel := detached(ctx)
		defer cancel()
		if err := f.opts.Store.SetSandboxExpiry(record, id, at, d); err != nil {
			return fmt.Errorf("set timeout of sandbox %s: %w", id, err)
		}
		sb.ExpiresAt, sb.Timeout = at, d
		return nil
	})
}

// SetNetwork changes what a running sandbox may reach, for connections that
// are open as well. When the node cannot do it, the record stays as it was.
func (f *Fleet) SetNetwork(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, n soulbox.Network) error {
	_, err := f.change(ctx, team, id, func(sb *soulbox.Sandbox) error {
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
	return err
}

// change lets do change a copy of a running sandbox, and shows the result when
// do returns nil. do writes the record.
func (f *Fleet) change(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, do func(*soulbox.Sandbox) error) (*soulbox.Sandbox, error) {
	if err := f.begin(); err != nil {
		return nil, err
	}
	defer f.wg.Done()
	e, err := f.liveEntry(ctx, team, id)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	sb := e.sb.Load().Clone()
	switch sb.State {
	case soulbox.Running:
	case soulbox.Starting:
		return nil, soulbox.Errorf(soulbox.Conflict, "sandbox %s is still starting", id)
	default:
		return nil, missing(id, sb)
	}
	if err := do(sb); err != nil {
		return nil, err
	}
	e.sb.Store(sb)
	f.schedule(e, sb.ExpiresAt)
	return sb, nil
}
