package interpreter

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

// run executes code in c and tells out about it. It returns when the client
// knows all, or has gone; what is to be done afterwards is done behind it.
func (c *codeContext) run(ctx context.Context, req *executeRequest, token string, out *stream) error {
	if err := c.enter(ctx, out); err != nil {
		return c.explain(err, out)
	}
	k, note, err := c.ready(ctx, out)
	if err != nil {
		c.leave()
		return c.explain(err, out)
	}
	restore, err := c.setEnvs(ctx, k, req.EnvVars, token)
	var told *cellError
	switch {
	case errors.As(err, &told):
		err = out.add(told)
	case err == nil:
		if note != "" {
			err = out.add(&textLine{Type: "stderr", Text: note, Timestamp: timestamp("")})
		}
		if err == nil {
			err = c.cell(ctx, k, req.Code, out)
		}
	case errors.Is(err, jupyter.ErrEnded):
		err = c.explain(c.died(k), out)
	}
	rest := func() {
		c.afterwards(k, restore)
		c.leave()
	}
	var left *leftError
	if errors.As(err, &left) {
		rest = func() {
			c.abandon(k, left.run)
			left.run.Close()
			c.afterwards(k, restore)
			c.leave()
		}
	}
	if restore == "" && left == nil {
		c.leave()
	} else if !c.in.background(rest) {
		c.leave()
	}
	return err
}

// leftError says that the client has gone while its code runs.
type leftError struct {
	run *jupyter.Run
	err error
}

func (l *leftError) Error() string { return "the client has gone: " + l.err.Error() }
func (l *leftError) Unwrap() error { return l.err }

// cell runs the client's code.
func (c *codeContext) cell(ctx context.Context, k *jupyter.Kernel, code string, out *stream) error {
	run, err := k.Start(jupyter.Request{Code: code, StoreHistory: true})
	if errors.Is(err, jupyter.ErrEnded) {
		return c.explain(c.died(k), out)
	}
	if err != nil {
		return err
	}
	failed := false
	for {
		m, err := run.Next()
		switch {
		case errors.Is(err, jupyter.ErrEnded):
			run.Close()
			return c.explain(c.died(k), out)
		case err != nil:
			run.Close()
			if f := failure(run.Reply()); f != nil && !failed {
				return out.add(f)
			}
			return nil
		}
		if m != nil {
			l := line(m)
			if _, isError := l.(*cellError); isError {
				if failed {
					continue // the first one is what the client hears
				}
				failed = true
			}
			if l != nil {
				err = out.add(l)
			}
		} else if err = out.flush(); err == nil {
			err = c.listen(ctx, k, run, out)
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return &leftError{run, err}
		}
	}
}

// listen waits until there is something to say.
func (c *codeContext) listen(ctx context.Context, k *jupyter.Kernel, run *jupyter.Run, out *stream) error {
	look := time.NewTimer(time.Second) // for a run that has no end
	defer look.Stop()
	select {
	case <-run.Changed():
	case <-k.Done():
	case <-look.C:
	case <-out.quiet.C:
		return out.alive()
	case <-ctx.Done():
	}
	return nil
}

// died replaces a kernel that ended while it was in use, and says what the
// client should hear.
func (c *codeContext) died(k *jupyter.Kernel) error {
	<-k.Done()
	if c.replaced(k) {
		return unexpectedEnd()
	}
	c.lost(k, "")
	return newError("ContextRestarting", "Context was restarted", "The kernel ended ("+k.Ended()+") and was started again; its variables are gone.")
}

// explain tells the client why there is no more.
func (c *codeContext) explain(err error, out *stream) error {
	var told *cellError
	switch {
	case errors.As(err, &told):
	case errors.Is(err, errRemoved), errors.Is(err, errClosed):
		told = unexpectedEnd()
	case errors.Is(err, errQueueFull):
		told = newError("QueueFull", "Too many executions wait for this context", "")
	case errors.Is(err, context.Canceled):
		return err // nobody is there
	default:
		c.in.options.Log.Warn("kernel not started", "context", c.id, "language", c.language, "err", err)
		told = newError("KernelNotStarted", err.Error(), "")
	}
	return out.add(told)
}

// afterwards leaves the kernel's environment as it was.
func (c *codeContext) afterwards(k *jupyter.Kernel, restore string) {
	if restore == "" {
		return
	}
	err := c.quiet(c.in.life, k, restore, true)
	if err == nil || errors.Is(err, jupyter.ErrEnded) || c.in.life.Err() != nil {
		return
	}
	// It has what it should not have, and nobody knows what else is wrong.
	c.in.options.Log.Warn("environment not restored", "context", c.id, "err", err)
	if errors.Is(err, context.DeadlineExceeded) {
		k.Kill()
	}
}

// finish ends a stream.
func finish(out *stream, err error) {
	if err != nil {
		panic(http.ErrAbortHandler) // the client, if there is one, must not take it for whole
	}
	if out.add(&plainLine{Type: "end_of_execution"}) == nil {
		_ = out.flush() // whoever has gone does not miss it
	}
}
