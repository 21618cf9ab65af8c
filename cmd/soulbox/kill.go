package main

import (
	"errors"

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
	all := cmd.Flags().Bool("all", false, "all that are running")
	notes := cmd.Flags().StringArrayP("metadata", "m", nil, "with --all, only those with this note, `NAME=VALUE`; may be repeated")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case *all && len(args) > 0:
			return usagef(cmd, "either ids or --all")
		case !*all && len(*notes) > 0:
			return usagef(cmd, "--metadata goes with --all")
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
		wait := c.progress("ending sandboxes")
		defer wait.stop()
		if *all {
			for i, err := range api.Sandboxes.List(ctx, client.ListOptions{Metadata: filter}) {
				if err != nil {
					return err
				}
				ids = append(ids, i.ID)
			}
		}
		var failed error
		for _, id := range ids {
			err := api.Sandboxes.Kill(ctx, id)
			switch {
			case err == nil:
				if err := c.print("%s", id); err != nil {
					return err
				}
			case *all && soulbox.KindOf(err) == soulbox.NotFound:
				// It has ended by itself since it was listed.
			case ctx.Err() != nil:
				return err
			default:
				failed = errors.Join(failed, err)
			}
		}
		return failed
	}
	return cmd
}
