package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func forkCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fork [flags] ID",
		Short: "Copy a running sandbox and print the ids of the copies",
		Long: "Copy a running sandbox as it is now, files and programs. It runs on. If some of the\n" +
			"copies cannot be made, the ids of the others are printed and the exit code is 1.",
		Example:           "  for id in $(soulbox sandbox fork -n 3 i6k2…); do soulbox sandbox exec $id -- ./try; done",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeSandboxes,
	}
	f := cmd.Flags()
	n := f.IntP("count", "n", 1, "how many copies")
	timeout := f.Duration("timeout", client.DefaultTimeout, "how long each lives")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		if *n < 1 || *timeout <= 0 {
			return usagef(cmd, "--count and --timeout must be more than 0")
		}
		forks, err := c.fork(ctx, api, args[0], *n, *timeout)
		if err != nil {
			return err
		}
		var failed error
		for _, f := range forks {
			if f.Err != nil {
				failed = errors.Join(failed, f.Err)
				continue
			}
			if err := c.print("%s", f.Sandbox.ID); err != nil {
				return err
			}
		}
		if failed == nil {
			return nil
		}
		return soulbox.Errorf(soulbox.KindOf(failed), "some of %d copies were not made: %w", len(forks), failed)
	})
	return cmd
}

// fork is create for copies: a signal leaves none that nobody knows of.
func (c *cli) fork(ctx context.Context, api *client.Client, id string, n int, timeout time.Duration) ([]client.Fork, error) {
	wait := c.progress("copying the sandbox")
	defer wait.stop()
	forks, err := api.Sandboxes.Fork(context.WithoutCancel(ctx), id, n, timeout)
	if err != nil || ctx.Err() == nil {
		return forks, err
	}
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	for _, f := range forks {
		if f.Sandbox != nil {
			_ = f.Sandbox.Kill(killCtx) // the signal is what ended this
		}
	}
	return nil, context.Cause(ctx)
}
