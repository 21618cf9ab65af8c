package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// maxCollected bounds each of the outputs that Run keeps in memory: what
	// comes out of a sandbox has no bound of its own.
	maxCollected = 16 << 20

	// killTimeout is how long Run takes for ending a program nobody waits for
	// any more.
	killTimeout = 5 * time.Second
)

// RunOptions say how a program is started. The zero value gives it no input
// and the sandbox's own environment and working folder.
type RunOptions struct {
	// Env is added to the sandbox's environment.
	Env map[string]string
	// Dir is the working folder. Empty: the template's.
	Dir string
	// Stdin is the program's input; nil is none. A Read of it that is under
	// way when the program ends keeps a goroutine until it returns.
	Stdin io.Reader
	// Stdout and Stderr get what the program writes, as it does. One that is
	// nil is collected by Run and Exec, up to 16 MiB, and dropped by Start.
	Stdout, Stderr io.Writer
}

// A Result is what is left of a program that has ended.
type Result struct {
	// Stdout and Stderr hold what had no writer in [RunOptions].
	Stdout, Stderr string
	// Code is what the program ended with, -1 if a signal ended it.
	Code int
}

// Run runs a command line in a login shell and waits for its end; see
// [Sandbox.Exec].
func (s *Sandbox) Run(ctx context.Context, line string, o RunOptions) (*Result, error) {
	return s.Exec(ctx, shell(line), o)
}

// Exec runs a program with arguments, without a shell, and waits for its end.
// A program that ends with anything but 0 gives both a Result and an
// [ExitError]. If ctx ends, or a writer fails, the program is killed.
func (s *Sandbox) Exec(ctx context.Context, args []string, o RunOptions) (*Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stdout, stderr := &collector{name: "stdout"}, &collector{name: "stderr"}
	p := &Process{s: s, stdout: o.Stdout, stderr: o.Stderr}
	if p.stdout == nil {
		p.stdout = stdout
	}
	if p.stderr == nil {
		p.stderr = stderr
	}
	if err := p.start(ctx, args, o, nil, new(o.Stdin != nil)); err != nil {
		return nil, err
	}
	if o.Stdin != nil {
		go func() {
			if err := p.Feed(ctx, o.Stdin); err != nil {
				cancel(err) // ends Wait, which reports it; nothing if it has ended
			}
		}()
	}
	err := p.Wait(ctx)
	exit, ended := errors.AsType[*ExitError](err)
	if err != nil && !ended {
		if soulbox.KindOf(err) != soulbox.NotFound { // else there is nothing left to kill
			p.abandon(ctx)
		}
		return nil, err
	}
	r := &Result{Stdout: stdout.String(), Stderr: stderr.String()}
	if ended {
		r.Code, exit.Stderr = exit.Code, r.Stderr
	}
	return r, err
}

// Start starts a command line in a login shell and returns as soon as it runs.
// ctx bounds only the start. The output is read by [Process.Wait]; a program
// whose output nobody reads comes to a halt when the connection is full, so
// call Wait, or Close to let it run unheard. A nil Stdin leaves the input open
// for [Process.Send].
func (s *Sandbox) Start(ctx context.Context, line string, o RunOptions) (*Process, error) {
	p := &Process{s: s, stdout: orDiscard(o.Stdout), stderr: orDiscard(o.Stderr)}
	if err := p.detached(ctx, shell(line), o, nil); err != nil {
		return nil, err
	}
	return p, nil
}

// PTY starts a program in a terminal and returns as soon as it runs; no
// program is an interactive login shell. What the terminal shows goes to
// o.Stdout; keys are sent by [Process.Send] or [Process.Feed], o.Stdin is
// ignored. ctx bounds only the start.
func (s *Sandbox) PTY(ctx context.Context, args []string, w Window, o RunOptions) (*Process, error) {
	if len(args) == 0 {
		args = []string{"/bin/bash", "-i", "-l"}
	}
	p := &Process{s: s, stdout: orDiscard(o.Stdout), stderr: io.Discard, pty: true}
	if err := p.detached(ctx, args, o, newPTY(w)); err != nil {
		return nil, err
	}
	return p, nil
}

// detached starts p so that ctx ends the start, but not what was started.
func (p *Process) detached(ctx context.Context, args []string, o RunOptions, pty *ptyConfig) error {
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	err := p.start(life, args, o, pty, nil)
	if !stop() && err == nil {
		p.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel(nil)
		return err
	}
	closed := p.cancel
	p.cancel = func() { closed(); cancel(nil) }
	if o.Stdin == nil || pty != nil {
		return nil
	}
	go func() { _ = p.Feed(life, o.Stdin) }() // a broken connection is Wait's to report
	return nil
}

// start starts p. A nil stdin leaves it to the agent, which opens one.
func (p *Process) start(ctx context.Context, args []string, o RunOptions, pty *ptyConfig, stdin *bool) error {
	if len(args) == 0 || args[0] == "" {
		return soulbox.Errorf(soulbox.Invalid, "no program to run")
	}
	req := &startRequest{
		Process: processConfig{Cmd: args[0], Args: args[1:], Envs: o.Env, Cwd: o.Dir},
		PTY:     pty,
		Stdin:   stdin,
	}
	return open(ctx, p, "/process.Process/Start", req)
}

// abandon kills a program after its caller has lost interest.
func (p *Process) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	_ = p.Kill(ctx) // the error that made it so is the one that matters
}

// shell returns the program that runs a command line: the one E2B's clients
// use, so that both see the same environment.
func shell(line string) []string { return []string{"/bin/bash", "-l", "-c", line} }

// A collector keeps what a program writes, within bounds.
type collector struct {
	bytes.Buffer
	name string
}

// Write keeps p, or ends the program that has written too much.
func (c *collector) Write(p []byte) (int, error) {
	if c.Len()+len(p) > maxCollected {
		return 0, soulbox.Errorf(soulbox.TooLarge, "the program wrote more than %d MiB to its %s, which needs a writer of its own in RunOptions", maxCollected>>20, c.name)
	}
	return c.Buffer.Write(p)
}
