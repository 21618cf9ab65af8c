package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// What runs in every sandbox of the templates that are built here, and how to
// see that it does.
const (
	servedPort = 8000
	startIt    = "exec python3 -m http.server 8000"
	seeIt      = "curl -sf -o /dev/null localhost:8000/late"
	servedFile = "http://sandbox/late"
	servedMost = 1 << 20
)

// building is for what needs a server that builds templates. That one does not
// is no failure of the rows.
func building(measure func(context.Context, *runner, []*Row) error) func(context.Context, *runner, []*Row) error {
	return func(ctx context.Context, r *runner, rows []*Row) error {
		_, err := r.api.Templates.Validate(ctx, "FROM base\n")
		if kind := soulbox.KindOf(err); kind != soulbox.Unavailable && kind != soulbox.NotFound || ctx.Err() != nil {
			return measure(ctx, r, rows)
		}
		for _, row := range rows {
			row.Note = "not measured: " + err.Error()
		}
		return nil
	}
}

// aside calls do with a folder that is there until it returns.
func aside(do func(dir string) error) error {
	dir, err := os.MkdirTemp("", "soulbox-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return do(dir)
}

// options say to a server what to build.
func (c *recipe) options() client.BuildOptions {
	return client.BuildOptions{Dir: c.dir, Args: c.args(), Start: startIt, Ready: seeIt}
}

// builds measures from the request for a build to the news that it is ready.
// Nothing of one is there when the next begins, but what its steps have made.
func builds(ctx context.Context, r *runner, rows []*Row) error {
	return aside(func(dir string) error {
		c, err := newRecipe(filepath.Join(dir, "context"), r.Template)
		if err != nil {
			return err
		}
		plain, written := rows[3], rows[4]
		build := func(o client.BuildOptions, weigh bool) (time.Duration, error) {
			took, err := r.keep.build(ctx, r.id, o)
			if err != nil {
				return 0, err
			}
			if weigh {
				if err := r.weighTemplate(ctx, written); err != nil {
					return 0, err
				}
			}
			return took, r.keep.removeTemplate(ctx, r.id)
		}
		if err := c.measure(ctx, r, rows[:3], func() (time.Duration, error) { return build(c.options(), true) }); err != nil {
			return err
		}
		return r.times(ctx, plain, 0, r.fewer(), func() (time.Duration, error) {
			c.late = rand.Text()
			o := c.options()
			o.Start, o.Ready = "", ""
			return build(o, false)
		})
	})
}

// weighTemplate adds what the snapshot takes that was made of the newest build.
func (r *runner) weighTemplate(ctx context.Context, row *Row) error {
	const mega = 1e6
	found, err := r.api.Templates.Facts(ctx, r.id, "")
	if err != nil {
		return err
	}
	row.Note = fmt.Sprintf("with a Python HTTP server; the files of the image are %.0f MB", float64(found.Facts.Bytes)/mega)
	if found.Facts.Written == 0 {
		row.Note = "the server does not tell"
		return nil
	}
	row.Add(float64(found.Facts.Written) / mega)
	return nil
}

// baked measures with a template whose sandboxes are restored with a server
// running in them what measure does with the one that was asked for.
func baked(measure func(context.Context, *runner, []*Row) error) func(context.Context, *runner, []*Row) error {
	return building(func(ctx context.Context, r *runner, rows []*Row) error {
		return aside(func(dir string) error {
			c, err := newRecipe(filepath.Join(dir, "context"), r.Template)
			if err != nil {
				return err
			}
			c.first, c.late = r.id, r.id // it is built for several parts
			if _, err := r.keep.build(ctx, r.id, c.options()); err != nil {
				return fmt.Errorf("build a template: %w", err)
			}
			other := *r
			other.Template = r.id
			return measure(ctx, &other, rows)
		})
	})
}

// expected lets the pool know before that somebody wants n at once.
func expected(n int, measure func(context.Context, *runner, []*Row) error) func(context.Context, *runner, []*Row) error {
	return func(ctx context.Context, r *runner, rows []*Row) error {
		if _, _, err := r.together(ctx, n); err != nil {
			return err
		}
		if _, err := r.settle(ctx); err != nil {
			return err
		}
		return measure(ctx, r, rows)
	}
}

// request asks the server that a template has started in a sandbox.
func request(ctx context.Context, sb *client.Sandbox) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, servedFile, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: sb.Transport(servedPort)}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, servedMost)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return soulbox.Errorf(soulbox.Unavailable, "the server in the sandbox answers %s", resp.Status)
	}
	return nil
}

// refill takes all that wait at once, and measures until as many wait again.
func refill(ctx context.Context, r *runner, rows []*Row) error {
	row := rows[0]
	ready, err := r.settle(ctx)
	if err != nil {
		return err
	}
	if ready == 0 {
		row.Note = "nothing waits on this server"
		return nil
	}
	row.Note = fmt.Sprintf("%d at once", ready)
	return r.times(ctx, row, 1, r.fewer(), func() (time.Duration, error) {
		ids := make([]string, ready)
		err := inParallel(ready, ready, func(i int) error {
			sb, _, err := r.create(ctx)
			if err == nil {
				ids[i] = sb.ID
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		began := time.Now()
		again, err := r.filled(ctx, closely)
		took := time.Since(began)
		if err != nil {
			return 0, err
		}
		if again < ready {
			return 0, soulbox.Errorf(soulbox.Unavailable, "%d waited, and after these were taken only %d wait again", ready, again)
		}
		return took / time.Duration(ready), inParallel(hands, ready, func(i int) error { return r.keep.kill(ctx, ids[i]) })
	})
}
