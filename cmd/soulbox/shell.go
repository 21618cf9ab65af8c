package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func shellCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shell [flags] ID [-- COMMAND [ARG…]]",
		Short: "Open a terminal in a sandbox",
		Long: "Open a terminal in a sandbox and keep the sandbox alive while it is open. The\n" +
			"command is a login shell unless one says otherwise.",
		Args:              wantArgs(1, -1),
		ValidArgsFunction: c.completeSandboxes,
	}
	start := startFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, command, err := afterDash(cmd, args, 1)
		if err != nil {
			return err
		}
		if !c.inTTY || !c.outTTY {
			return hint(soulbox.Errorf(soulbox.Invalid, "shell needs a terminal on both sides"), "`soulbox sandbox exec` does without")
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if start.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, start.timeout)
			defer cancel()
		}
		// The lease makes its time longer. A paused sandbox is not resumed for
		// the short time of a lease, at whose end it may be gone.
		box, err := api.Sandboxes.Connect(ctx, id[0], 0)
		if err != nil {
			return err
		}
		defer lease(ctx, api, box.ID)()
		return c.shell(ctx, start.as(box), command, start)
	}
	return cmd
}

// shell connects our terminal with one in the sandbox until the program there
// ends. Our terminal is as before when it returns.
func (c *cli) shell(ctx context.Context, box *client.Sandbox, command []string, s *start) error {
	env, err := pairs("env", s.env)
	if err != nil {
		return err
	}
	if name := c.getenv("TERM"); name != "" && env["TERM"] == "" {
		env["TERM"] = name
	}
	fd := int(c.in.Fd())
	// Before the size is read for the first time, so that no change is missed.
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	defer signal.Stop(changes)
	p, err := box.PTY(ctx, command, window(fd), client.RunOptions{Env: env, Dir: s.dir, Stdout: c.out})
	if err != nil {
		return err
	}
	defer p.Close()
	old, err := term.MakeRaw(fd)
	if err != nil {
		return soulbox.Errorf(soulbox.Internal, "switch the terminal to raw mode: %w", err)
	}
	defer func() { _ = term.Restore(fd, old) }() // there is nothing else to try

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resized := make(chan struct{})
	defer func() { <-resized }()
	defer cancel(nil) // before the wait above
	go func() {
		defer close(resized)
		followSize(ctx, changes, fd, p)
	}()
	// Reading a terminal cannot be called off, so this goroutine ends with the
	// next key or with the program.
	go func() {
		if err := p.Feed(ctx, c.in); err != nil {
			cancel(err)
		}
	}()
	err = p.Wait(ctx)
	if ctx.Err() != nil {
		killCtx, stop := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer stop()
		_ = p.Kill(killCtx) // nobody sits at that terminal any more
	}
	return exitOf(err)
}

// followSize tells p about each change of our window, until ctx ends.
func followSize(ctx context.Context, changes <-chan os.Signal, fd int, p *client.Process) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
			_ = p.Resize(ctx, window(fd)) // the program is gone, or the next change finds it
		}
	}
}

// window returns the size of a terminal.
func window(fd int) client.Window {
	cols, rows, err := term.GetSize(fd)
	if err != nil || cols <= 0 || rows <= 0 {
		return client.Window{Cols: 80, Rows: 24} // what terminals were for decades
	}
	return client.Window{Cols: cols, Rows: rows}
}
