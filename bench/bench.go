// Package bench measures a SoulBox server by package client, from where the
// program runs: `soulbox bench`. docs/benchmarks.md says how each row is
// measured; bench/alone measures a server of its own, and the published
// JavaScript SDK too.
//
// # Rows
//
// A row is one figure with its samples. Rows that come out of the same
// measuring make a part. Parts are measured one after the other, each after the
// server's pool has filled up again, so that nothing is measured beside
// something else. One that fails has an error where its figures would be, and
// the others go on.
//
// # What it leaves
//
// Nothing. Everything that is made on the server is known to a keeper before
// anything is done with it, and is removed when its part is over, failed or
// interrupted. Should the program be killed, the sandboxes end by their own
// timeout; a snapshot or a template whose name begins with "soulbox-bench-" may
// stay.
package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

const (
	// DefaultSamples is how many samples a row of creates has.
	DefaultSamples = 20
	// DefaultFileSize is what is sent up and down.
	DefaultFileSize = 256 * soulbox.MiB
	maxSamples      = 10_000
)

// Options say what is measured. The zero value measures everything.
type Options struct {
	Rows     []string      // names of [Rows]; none: all
	Samples  int           // 0: [DefaultSamples]; rows of fast things have more, of slow ones fewer
	Template string        // empty: the client's default
	FileSize soulbox.Bytes // 0: [DefaultFileSize]
	Server   string        // its URL, for the report
	Version  string        // of this program, for the report

	// Progress is told what is being measured; nil: nobody is. It is called
	// from one goroutine at a time.
	Progress func(text string)
}

// filled returns o with its defaults, or what is wrong with it.
func (o Options) filled() (Options, error) {
	if o.Samples == 0 {
		o.Samples = DefaultSamples
	}
	if o.FileSize == 0 {
		o.FileSize = DefaultFileSize
	}
	if o.Template == "" {
		o.Template = client.DefaultTemplate
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Samples < 1 || o.Samples > maxSamples {
		return o, soulbox.Errorf(soulbox.Invalid, "the number of samples is between 1 and %d, not %d", maxSamples, o.Samples)
	}
	if o.FileSize < soulbox.MiB || o.FileSize > soulbox.GiB {
		return o, soulbox.Errorf(soulbox.Invalid, "the file has between 1 MiB and 1 GiB")
	}
	known := names()
	for _, name := range o.Rows {
		if !slices.Contains(known, name) {
			return o, soulbox.Errorf(soulbox.Invalid, "there is no row %.50q; the rows are %s", name, strings.Join(known, ", "))
		}
	}
	return o, nil
}

// A runner is one run.
type runner struct {
	Options
	api  *client.Client
	keep *keeper
	id   string // of the run; part of every name that it gives

	class soulbox.Isolation // of the sandboxes that are measured
}

// create makes a sandbox of the template, see [keeper.create].
func (r *runner) create(ctx context.Context) (*client.Sandbox, time.Duration, error) {
	return r.keep.create(ctx, r.Template, r.class)
}

// Run measures the server that api talks to. Rows that failed say so in the
// report; the error is of what kept all of them from being measured, or the
// cause of ctx.
func Run(ctx context.Context, api *client.Client, o Options) (*Report, error) {
	o, err := o.filled()
	if err != nil {
		return nil, err
	}
	r := &runner{Options: o, api: api, id: "soulbox-bench-" + strings.ToLower(rand.Text()[:10])}
	r.keep = newKeeper(api, r.id)
	report := &Report{At: time.Now().UTC().Truncate(time.Second), Server: o.Server, Template: o.Template, Machine: ThisMachine(), Versions: Versions{Client: o.Version}}
	report.Versions.Go = goVersion()
	if report.Versions.Server, err = api.Version(ctx); err != nil {
		return nil, fmt.Errorf("ask the server for its version: %w", err)
	}
	err = r.measure(ctx, report)
	r.Progress("removing what was made")
	if left := r.keep.clear(ctx); left != nil && err == nil {
		err = fmt.Errorf("remove what was made: %w", left)
	}
	if err != nil {
		return nil, err
	}
	return report, nil
}

// measure adds the rows that are wanted.
func (r *runner) measure(ctx context.Context, report *Report) error {
	for _, p := range parts {
		rows := make([]*Row, 0, len(p.rows))
		var wanted []*Row
		for _, head := range p.rows {
			row := &Row{Name: head.name, What: head.what, Unit: head.unit}
			rows = append(rows, row)
			if len(r.Rows) == 0 || slices.Contains(r.Rows, head.name) {
				wanted = append(wanted, row)
			}
		}
		if len(wanted) == 0 {
			continue
		}
		r.Progress("letting the server come to rest")
		if _, err := r.settle(ctx); err != nil {
			return err
		}
		r.Progress("measuring " + p.rows[0].what)
		err := p.measure(ctx, r, rows)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if left := r.keep.clear(ctx); err == nil && left != nil {
			err = fmt.Errorf("remove what was made: %w", left)
		}
		for _, row := range wanted {
			if err != nil {
				row.Error = err.Error()
			}
			row.Summarize()
			report.Rows = append(report.Rows, row)
		}
	}
	return nil
}

const (
	restTime = 5 * time.Second // without one more in the pool, there will be none
	glance   = 50 * time.Millisecond
	closely  = 5 * time.Millisecond
)

// pool asks what waits of the template. None, if nothing is made ahead of it.
func (r *runner) pool(ctx context.Context) (p soulbox.Pool, ok bool, err error) {
	all, err := r.api.Sandboxes.Pools(ctx)
	if err != nil {
		if soulbox.KindOf(err) == soulbox.NotFound {
			return p, false, nil // an older server
		}
		return p, false, fmt.Errorf("ask for the pools: %w", err)
	}
	if all.Budget == 0 {
		return p, false, nil
	}
	for _, p := range all.Pools {
		if p.Name == r.Template || string(p.Template) == r.Template {
			return p, true, nil
		}
	}
	return p, false, nil
}

// settle waits until as many sandboxes wait as should, and returns how many do.
// A pool that does not fill up, for want of memory for instance, is what it is.
func (r *runner) settle(ctx context.Context) (ready int, err error) { return r.filled(ctx, glance) }

// filled is settle that looks again after every pause.
func (r *runner) filled(ctx context.Context, pause time.Duration) (ready int, err error) {
	changed := time.Now()
	for {
		p, ok, err := r.pool(ctx)
		if p.Ready != ready {
			ready, changed = p.Ready, time.Now()
		}
		if err != nil || !ok || ready >= p.Want || time.Since(changed) > restTime {
			return ready, err
		}
		if err := wait(ctx, pause); err != nil {
			return 0, err
		}
	}
}

// wait is a sleep that ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// times takes n samples of one, after some that do not count.
func (r *runner) times(ctx context.Context, row *Row, warmUp, n int, one func() (time.Duration, error)) error {
	row.WarmUp = warmUp
	for i := range warmUp + n {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		took, err := one()
		if err != nil {
			return err
		}
		if i >= warmUp {
			row.Took(took)
		}
		r.Progress(fmt.Sprintf("measuring %s: %d of %d", row.What, max(0, i+1-warmUp), n))
	}
	return nil
}

// fewer is the number of samples of what takes long.
func (r *runner) fewer() int { return max(1, r.Samples/4) }
