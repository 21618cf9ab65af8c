package bench

import (
	"context"
	"errors"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func pauseResume(ctx context.Context, r *runner, rows []*Row) error {
	sb, _, err := r.create(ctx)
	if err != nil {
		return err
	}
	pause, resume := rows[0], rows[1]
	resume.WarmUp = 1
	first := true
	return r.times(ctx, pause, 1, r.Samples, func() (time.Duration, error) {
		began := time.Now()
		if err := r.pause(ctx, sb.ID); err != nil {
			return 0, err
		}
		took := time.Since(began)
		began = time.Now()
		if _, err := r.api.Sandboxes.Resume(ctx, sb.ID, client.ResumeOptions{Timeout: lifetime}); err != nil {
			return 0, err
		}
		if !first {
			resume.Took(time.Since(began))
		}
		first = false
		return took, nil
	})
}

// pause keeps all that can be kept: of a container, its files.
func (r *runner) pause(ctx context.Context, id string) error {
	return r.api.Sandboxes.Pause(ctx, id, client.PauseOptions{FilesOnly: r.class == soulbox.Runc})
}

func checkpoint(ctx context.Context, r *runner, rows []*Row) error {
	sb, _, err := r.create(ctx)
	if err != nil {
		return err
	}
	return r.times(ctx, rows[0], 1, r.Samples, func() (time.Duration, error) {
		began := time.Now()
		made, err := r.api.Sandboxes.Checkpoint(ctx, sb.ID, "")
		took := time.Since(began)
		if err != nil {
			return 0, err
		}
		return took, r.api.Sandboxes.RemoveCheckpoint(ctx, sb.ID, made.ID)
	})
}

// fork divides the time of one call that makes ten by those that it made.
func fork(ctx context.Context, r *runner, rows []*Row) error {
	const copies = 10
	row := rows[0]
	sb, _, err := r.create(ctx)
	if err != nil {
		return err
	}
	return r.times(ctx, row, 1, r.fewer(), func() (time.Duration, error) {
		began := time.Now()
		forks, err := r.api.Sandboxes.Fork(context.WithoutCancel(ctx), sb.ID, copies, lifetime)
		took := time.Since(began)
		if err != nil {
			return 0, err
		}
		var ids []string
		var failed error
		for _, f := range forks {
			if f.Err != nil {
				row.Failed++
				failed = errors.Join(failed, f.Err)
				continue
			}
			r.keep.hold(f.Sandbox.ID)
			ids = append(ids, f.Sandbox.ID)
		}
		if len(ids) == 0 {
			return 0, failed
		}
		return took / time.Duration(len(ids)), inParallel(hands, len(ids), func(i int) error { return r.keep.kill(ctx, ids[i]) })
	})
}
