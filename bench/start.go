package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// tooMany bounds how many creates a row makes that wants only some of them: so
// many for each sample.
const tooMany = 3

// createWarm counts the creates that found a sandbox waiting.
func createWarm(ctx context.Context, r *runner, rows []*Row) error {
	row := rows[0]
	row.WarmUp = 1
	for try := range tooMany * (r.Samples + 1) {
		if len(row.samples) == r.Samples {
			break
		}
		ready, err := r.settle(ctx)
		if err != nil {
			return err
		}
		if ready == 0 {
			row.Note = "nothing waits on this server"
			return nil
		}
		got, err := r.watched(ctx)
		if err != nil {
			return err
		}
		if got.waited && try > 0 {
			row.Took(got.took)
		}
		if err := r.keep.kill(ctx, got.id); err != nil {
			return err
		}
		r.Progress(fmt.Sprintf("measuring %s: %d of %d", row.What, len(row.samples), r.Samples))
	}
	if len(row.samples) == 0 {
		row.Note = "no create found one that waits"
	}
	return nil
}

// A watched create is one of which is known whether its sandbox waited ready
// made or was booted when it was asked for. With others at work on the server it
// may be that nobody can say: neither.
type watched struct {
	id             string
	took           time.Duration
	waited, booted bool
}

func (r *runner) watched(ctx context.Context) (watched, error) {
	before, _, err := r.pool(ctx)
	if err != nil {
		return watched{}, err
	}
	sb, took, err := r.create(ctx)
	if err != nil {
		return watched{}, err
	}
	after, pooled, err := r.pool(ctx)
	if err != nil {
		return watched{}, err
	}
	hits, misses := after.Hits-before.Hits, after.Misses-before.Misses
	return watched{id: sb.ID, took: took, waited: hits == 1 && misses == 0, booted: !pooled || hits == 0}, nil
}

// createBoot counts the creates that found none. Where sandboxes are made ahead
// it first takes those that wait, and goes on faster than others are made.
func createBoot(ctx context.Context, r *runner, rows []*Row) error {
	const most = 20 // that are there at a time; to kill them gives the server a moment to make others
	row := rows[0]
	row.WarmUp = 1
	p, pooled, err := r.pool(ctx)
	if err != nil {
		return err
	}
	warm := row.WarmUp
	var held []string
	for range tooMany*(r.Samples+row.WarmUp) + p.Ready {
		if len(row.samples) == r.Samples {
			break
		}
		got, err := r.watched(ctx)
		if err != nil {
			return err
		}
		switch {
		case got.booted && warm > 0:
			warm--
		case got.booted:
			row.Took(got.took)
		}
		if held = append(held, got.id); len(held) == most {
			if err := inParallel(hands, len(held), func(i int) error { return r.keep.kill(ctx, held[i]) }); err != nil {
				return err
			}
			held = held[:0]
		}
		r.Progress(fmt.Sprintf("measuring %s: %d of %d", row.What, len(row.samples), r.Samples))
	}
	if pooled {
		row.Note = "the server makes others ahead at the same time"
	}
	if len(row.samples) == 0 {
		row.Note = "the server makes sandboxes ahead faster than they were taken"
	}
	return nil
}

// createCold restores a snapshot of a sandbox in which nothing has happened.
func createCold(ctx context.Context, r *runner, rows []*Row) error {
	sb, _, err := r.create(ctx)
	if err != nil {
		return err
	}
	snap, err := r.keep.snapshot(ctx, sb.ID)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if err := r.keep.kill(ctx, sb.ID); err != nil {
		return err
	}
	from := *r
	from.Template = snap
	return createAnew(ctx, &from, rows)
}

// createAnew measures creates of what is never made ahead.
func createAnew(ctx context.Context, r *runner, rows []*Row) error {
	return r.times(ctx, rows[0], 1, r.Samples, func() (time.Duration, error) {
		sb, took, err := r.create(ctx)
		if err != nil {
			return 0, err
		}
		return took, r.keep.kill(ctx, sb.ID)
	})
}

// doNothing is the command that is measured; the client puts it into a login
// shell, as E2B's clients do.
const doNothing = "true"

func firstCommand(ctx context.Context, r *runner, rows []*Row) error {
	return first(ctx, r, rows[0], func(ctx context.Context, sb *client.Sandbox) error {
		_, err := sb.Run(ctx, doNothing, client.RunOptions{})
		return err
	})
}

// firstRequest is for templates that have a server running.
func firstRequest(ctx context.Context, r *runner, rows []*Row) error {
	return first(ctx, r, rows[0], request)
}

// first measures creates, each with what is done first with the sandbox.
func first(ctx context.Context, r *runner, row *Row, do func(context.Context, *client.Sandbox) error) error {
	found := 0
	err := r.times(ctx, row, 1, r.Samples, func() (time.Duration, error) {
		ready, err := r.settle(ctx)
		if err != nil {
			return 0, err
		}
		if ready > 0 {
			found++
		}
		began := time.Now()
		sb, _, err := r.create(ctx)
		if err != nil {
			return 0, err
		}
		err = do(ctx, sb)
		took := time.Since(began)
		if err != nil {
			return 0, err
		}
		return took, r.keep.kill(ctx, sb.ID)
	})
	if r.class == soulbox.GVisor { // others are not made ahead
		row.Note = fmt.Sprintf("one waited in %d of %d", found, row.WarmUp+r.Samples)
	}
	return err
}

// burst starts n creates at the same moment, each measured from there. One
// such burst before tells the server how many to have ready.
func burst(n int) func(context.Context, *runner, []*Row) error {
	return func(ctx context.Context, r *runner, rows []*Row) error {
		row := rows[0]
		_, pooled, err := r.pool(ctx)
		if err != nil {
			return err
		}
		if pooled {
			row.WarmUp = n
			if _, _, err := r.together(ctx, n); err != nil {
				return err
			}
			if _, err := r.settle(ctx); err != nil {
				return err
			}
		}
		before, _, err := r.pool(ctx)
		if err != nil {
			return err
		}
		took, failed, err := r.together(ctx, n)
		if err != nil {
			return err
		}
		after, _, err := r.pool(ctx)
		if err != nil {
			return err
		}
		for _, d := range took {
			row.Took(d)
		}
		row.Failed = failed
		row.Note = fmt.Sprintf("%d of %d found one waiting", after.Hits-before.Hits, n)
		return nil
	}
}

// together makes n sandboxes at once and ends them. A create that fails is
// counted; that all fail is an error.
func (r *runner) together(ctx context.Context, n int) (took []time.Duration, failed int, err error) {
	ids := make([]string, n)
	each := make([]time.Duration, n)
	went := inParallel(n, n, func(i int) error {
		sb, d, err := r.create(ctx)
		if err == nil {
			ids[i], each[i] = sb.ID, d
		}
		return err
	})
	for i, id := range ids {
		if id == "" {
			failed++
			continue
		}
		took = append(took, each[i])
	}
	if failed == n {
		return nil, failed, went
	}
	return took, failed, inParallel(hands, n, func(i int) error {
		if ids[i] == "" {
			return nil
		}
		return r.keep.kill(ctx, ids[i])
	})
}
