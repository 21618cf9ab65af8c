package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func execCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec [flags] ID -- COMMAND [ARG…]",
		Short: "Run a command in a sandbox",
		Long: "Run a command in a sandbox that is there, stream what it prints, and end with its\n" +
			"exit code. What is piped in is its input. Ctrl-C kills the command, not the sandbox.",
		Example:           "  soulbox sandbox exec i6k2… -- pip install requests",
		Args:              wantArgs(2, -1),
		ValidArgsFunction: c.completeSandboxes,
	}
	start := startFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, command, err := afterDash(cmd, args, 1)
		if err != nil {
			return err
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		box, err := api.Sandboxes.Connect(cmd.Context(), id[0], 0)
		if err != nil {
			return err
		}
		return c.exec(cmd.Context(), box, command, start)
	}
	return cmd
}

// start is how a program is started in a sandbox.
type start struct {
	env       []string
	dir, user string
	timeout   time.Duration // 0: none
}

func startFlags(cmd *cobra.Command) *start {
	s := &start{}
	f := cmd.Flags()
	f.StringArrayVarP(&s.env, "env", "e", nil, "set a variable, `NAME=VALUE`; may be repeated")
	f.StringVar(&s.dir, "cwd", "", "working folder (default the template's)")
	f.StringVarP(&s.user, "user", "u", "", "user to run as (default the template's)")
	f.DurationVar(&s.timeout, "timeout", 0, "kill the command after this time and end with 124 (default never)")
	return s
}

// as returns box in the eyes of the user that is asked for.
func (s *start) as(box *client.Sandbox) *client.Sandbox {
	if s.user == "" {
		return box
	}
	return box.As(s.user)
}

// exec runs a program between our own streams. Its exit code is ours.
func (c *cli) exec(ctx context.Context, box *client.Sandbox, command []string, s *start) error {
	env, err := pairs("env", s.env)
	if err != nil {
		return err
	}
	o := client.RunOptions{Env: env, Dir: s.dir, Stdout: c.out, Stderr: c.err}
	if !c.inTTY {
		o.Stdin = c.in
	}
	if s.timeout < 0 {
		return soulbox.Errorf(soulbox.Invalid, "--timeout %v is in the past", s.timeout)
	}
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	_, err = s.as(box).Exec(ctx, command, o)
	if s.timeout > 0 && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s took longer than %v: %w", command[0], s.timeout, err)
	}
	return exitOf(err)
}

// exitOf turns a program's end into our exit code, as a shell would.
func exitOf(err error) error {
	exit, ok := errors.AsType[*client.ExitError](err)
	if !ok {
		return err
	}
	if sig := exit.Signal(); sig != 0 {
		return codeError(exitSignal + int(sig))
	}
	if exit.Code <= 0 {
		return err // ended in a way that has no code; the status is the message
	}
	return codeError(exit.Code & 0xff)
}
