package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func resumeCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume [flags] ID…",
		Short: "Make paused sandboxes run again and print their ids",
		Long: "Make paused sandboxes run again, with the programs that ran in them. One that runs\n" +
			"already is left alone, but lives at least as long as is asked for.",
		Args:              wantArgs(1, -1),
		ValidArgsFunction: c.completeSandboxes,
	}
	var o client.ResumeOptions
	f := cmd.Flags()
	f.DurationVar(&o.Timeout, "timeout", 0, "how long they live from now (default the server's, five minutes)")
	f.BoolVar(&o.Cold, "cold", false, "ignore the programs that were kept, and boot with the files only")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, ids []string) error {
		if o.Timeout < 0 {
			return soulbox.Errorf(soulbox.Invalid, "--timeout %v is in the past", o.Timeout)
		}
		return c.each(ctx, "resuming sandboxes", ids, func(id string) error {
			_, err := api.Sandboxes.Resume(ctx, id, o)
			return err
		})
	})
	return cmd
}
