package main

import (
	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func killCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "kill ID…",
		Aliases:           []string{"rm"},
		Short:             "End sandboxes and print their ids",
		Example:           "  soulbox sandbox kill --all --metadata job=nightly",
		ValidArgsFunction: c.completeSandboxes,
	}
	all := cmd.Flags().Bool("all", false, "all that are running; paused ones stay")
	paused := cmd.Flags().Bool("paused", false, "with --all, paused ones as well")
	notes := cmd.Flags().StringArrayP("metadata", "m", nil, "with --all, only those with this note, `NAME=VALUE`; may be repeated")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case *all && len(args) > 0:
			return usagef(cmd, "either ids or --all")
		case !*all && len(*notes) > 0:
			return usagef(cmd, "--metadata goes with --all")
		case !*all && *paused:
			return usagef(cmd, "--paused goes with --all")
		case !*all && len(args) == 0:
			return usagef(cmd, "an id is missing")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		ctx := cmd.Context()
		filter, err := pairs("metadata", *notes)
		if err != nil {
			return err
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		if !*all {
			return c.each(ctx, "ending sandboxes", ids, func(id string) error { return api.Sandboxes.Kill(ctx, id) })
		}
		for i, err := range api.Sandboxes.List(ctx, client.ListOptions{Metadata: filter}) {
			if err != nil {
				return err
			}
			kept := i.State == soulbox.Paused || i.State == soulbox.Pausing
			if !kept || *paused {
				ids = append(ids, i.ID)
			}
		}
		return c.each(ctx, "ending sandboxes", ids, func(id string) error {
			return skipGone(api.Sandboxes.Kill(ctx, id)) // it has ended by itself since it was listed
		})
	}
	return cmd
}
