package interpreter

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	// An execution that nobody waits for is interrupted, again after each
	// interruptEvery, and when it does not end in patience and another one waits,
	// its kernel is restarted. Variables are worth more than a few seconds, but
	// not than the context.
	interruptEvery = 10 * time.Second
	patience       = 30 * time.Second
	// quietTime is what a kernel has for our own code.
	quietTime = 30 * time.Second
)

var errRemoved = errors.New("the context was removed")

// codeContext is a kernel and the queue in front of it.
type codeContext struct {
	in            *Interpreter
	spec          *jupyter.Spec
	id            string
	language, dir string

	mu       sync.Mutex
	removed  bool            // +checklocks:mu
	kernel   *jupyter.Kernel // +checklocks:mu — nil while there is none
	starting chan struct{}   // +checklocks:mu — closed when that changes
	startErr error           // +checklocks:mu — why there is none
	note     string          // +checklocks:mu — what the next execution should know

	turns

	// Of whoever has the turn:
	envsOf   string          // the sandbox whose default environment was asked for last
	envsKept *jupyter.Kernel // the kernel that has it
}

func newContext(in *Interpreter, spec *jupyter.Spec, language, dir string) *codeContext {
	return &codeContext{in: in, spec: spec, id: jupyter.NewID(), language: language, dir: dir}
}

// ready returns the kernel, and starts one when there is none. The note is for
// whoever runs something next, and is given once.
func (c *codeContext) ready(ctx context.Context, out *stream) (*jupyter.Kernel, string, error) {
	started := false
	for {
		c.mu.Lock()
		if c.removed {
			c.mu.Unlock()
			return nil, "", errRemoved
		}
		if k := c.kernel; k != nil {
			select {
			case <-k.Done():
				c.kernel = nil
				c.note = "The kernel ended (" + k.Ended() + ") and was started again; its variables are gone.\n"
			default:
				note := c.note
				c.note = ""
				c.mu.Unlock()
				return k, note, nil
			}
		}
		if started && c.starting == nil {
			defer c.mu.Unlock()
			return nil, "", c.startErr
		}
		started = true
		starting := c.startLocked()
		c.mu.Unlock()
		if err := out.wait(ctx, starting); err != nil {
			return nil, "", err
		}
	}
}

// startLocked starts a kernel behind its caller's back, unless one is starting.
//
// +checklocks:c.mu
func (c *codeContext) startLocked() <-chan struct{} {
	if c.starting != nil {
		return c.starting
	}
	starting := make(chan struct{})
	c.starting = starting
	start := func() {
		k, err := c.in.startKernel(c)
		c.mu.Lock()
		c.starting, c.startErr = nil, err
		if err == nil && !c.removed {
			c.kernel, k = k, nil
		}
		c.mu.Unlock()
		close(starting)
		if k != nil {
			k.Close()
		}
	}
	if !c.in.background(start) {
		c.starting, c.startErr = nil, errClosed
		close(starting)
	}
	return starting
}

// lost replaces a kernel that has ended.
func (c *codeContext) lost(k *jupyter.Kernel, note string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kernel != k || c.removed {
		return // somebody has seen to it
	}
	c.kernel, c.note = nil, note
	c.startLocked()
}

// restart gives the context a new kernel. What runs in the old one ends.
func (c *codeContext) restart(ctx context.Context) error {
	c.mu.Lock()
	if c.removed {
		c.mu.Unlock()
		return errRemoved
	}
	k := c.kernel
	c.kernel, c.note = nil, ""
	c.mu.Unlock()
	if k != nil {
		k.Close()
	}
	_, _, err := c.ready(ctx, nil)
	return err
}

// interrupt interrupts whatever runs.
func (c *codeContext) interrupt() {
	c.mu.Lock()
	k := c.kernel
	c.mu.Unlock()
	if k != nil {
		k.Interrupt()
	}
}

// remove ends the context and waits until its kernel is gone.
func (c *codeContext) remove() {
	c.mu.Lock()
	c.removed = true
	k := c.kernel
	c.kernel = nil
	c.mu.Unlock()
	if k != nil {
		k.Close()
	}
}

// replaced reports whether the context is gone, or k is its kernel no more.
func (c *codeContext) replaced(k *jupyter.Kernel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.removed || c.kernel != k
}

// quiet runs code of our own, whose output nobody sees.
func (c *codeContext) quiet(ctx context.Context, k *jupyter.Kernel, code string, silent bool) error {
	ctx, cancel := context.WithTimeout(ctx, quietTime)
	defer cancel()
	run, err := k.Start(jupyter.Request{Code: code, Silent: silent})
	if err != nil {
		return err
	}
	defer run.Close()
	run.Drop()
	if err := follow(ctx, k, run); err != nil {
		return err
	}
	return failure(run.Reply())
}

// follow waits until a run without output is over.
func follow(ctx context.Context, k *jupyter.Kernel, run *jupyter.Run) error {
	look := time.NewTicker(time.Second) // for a run that has no end
	defer look.Stop()
	for {
		m, err := run.Next()
		switch {
		case errors.Is(err, jupyter.ErrEnded):
			return err
		case err != nil:
			return nil
		case m != nil:
			continue
		}
		select {
		case <-run.Changed():
		case <-look.C:
		case <-k.Done():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// abandon ends a run whose client has gone.
func (c *codeContext) abandon(k *jupyter.Kernel, run *jupyter.Run) {
	run.Drop()
	began := time.Now()
	limit := c.in.options.Patience
	if c.spec.ByMessage() {
		limit /= 3
	}
	for {
		k.Interrupt()
		ctx, cancel := context.WithTimeout(c.in.life, min(interruptEvery, limit))
		err := follow(ctx, k, run)
		cancel()
		if err == nil || errors.Is(err, jupyter.ErrEnded) {
			return
		}
		if (c.wanted() && time.Since(began) >= limit) || c.in.life.Err() != nil {
			k.Kill()
			<-k.Done()
			c.lost(k, "An execution that was interrupted did not end, so the kernel was restarted; its variables are gone.\n")
			return
		}
	}
}

// rehearse runs something, so that what a kernel does the first time is done.
func (c *codeContext) rehearse(ctx context.Context) error {
	k, _, err := c.ready(ctx, nil)
	if err != nil {
		return err
	}
	if err := c.enter(ctx, nil); err != nil {
		return err
	}
	defer c.leave()
	return c.quiet(ctx, k, rehearsal(c.language), false)
}
