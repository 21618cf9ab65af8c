package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox/client"
)

// killTime is how long destroying a sandbox may take when the command is
// ending.
const killTime = 10 * time.Second

func runCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG…]",
		Short: "Run a command in a sandbox of its own",
		Long: "Run a command in a new sandbox, stream what it prints, end with its exit code,\n" +
			"and destroy the sandbox, also on Ctrl-C. What is piped in is its input.",
		Example: "  soulbox run -- python3 -c 'print(6*7)'\n" +
			"  cat data.csv | soulbox run --no-internet -- wc -l",
		Args: wantArgs(1, -1),
	}
	made := createFlags(cmd, false)
	start := startFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		_, command, err := afterDash(cmd, args, 0)
		if err != nil {
			return err
		}
		create, err := made.options()
		if err != nil {
			return err
		}
		// The variables go to the sandbox, where every program has them.
		create.Env, err = pairs("env", start.env)
		if err != nil {
			return err
		}
		start.env = nil
		api, err := c.client()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		create.Timeout = leaseTime
		box, err := c.create(ctx, api, create)
		if err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
			defer cancel()
			if killErr := box.Kill(ctx); err == nil {
				err = killErr // else it is a consequence
			}
		}()
		defer lease(ctx, api, box.ID)()
		return c.exec(ctx, box, command, start)
	}
	return cmd
}

// create starts a sandbox, and says so if it takes long.
//
// A signal that comes while the server is at work must not leave a sandbox that
// nobody knows of, so the request goes on until it is answered.
func (c *cli) create(ctx context.Context, api *client.Client, o client.CreateOptions) (*client.Sandbox, error) {
	wait := c.progress("starting a sandbox of template " + o.Template)
	defer wait.stop()
	box, err := api.Sandboxes.Create(context.WithoutCancel(ctx), o)
	if err != nil || ctx.Err() == nil {
		return box, err
	}
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	_ = box.Kill(killCtx) // the signal is what ended this
	return nil, context.Cause(ctx)
}
