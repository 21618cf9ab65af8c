package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox/client"
)

func pauseCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pause [flags] ID…",
		Short: "Write sandboxes down, take them off the machine and print their ids",
		Long: "Write sandboxes down with their files and running programs, and take them off the\n" +
			"machine. They cost disk space and nothing else until they are resumed or killed.\n" +
			"Connections into them are cut.",
		Args:              wantArgs(1, -1),
		ValidArgsFunction: c.completeSandboxes,
	}
	filesOnly := cmd.Flags().Bool("files-only", false, "keep the files and end the programs")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, ids []string) error {
		return c.each(ctx, "pausing sandboxes", ids, func(id string) error {
			return api.Sandboxes.Pause(ctx, id, client.PauseOptions{FilesOnly: *filesOnly})
		})
	})
	return cmd
}
