package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/server"
)

// purgeCommand is `soulbox purge`.
func purgeCommand(c *cli) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "End every sandbox and remove what the server has in the kernel",
		Long: "Ends every sandbox of a server that does not run, and removes its namespaces,\n" +
			"devices, rules and cgroups. Templates, keys and records stay. To uninstall,\n" +
			"remove the data folder after it.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return hint(soulbox.Errorf(soulbox.Forbidden, "only root may remove namespaces and cgroups"), "run `sudo soulbox purge`")
			}
			data := c.dataFolder()
			if _, err := os.Stat(data); err != nil {
				return soulbox.Errorf(soulbox.NotFound, "there is no data folder %s", data)
			}
			if !yes {
				return hint(soulbox.Errorf(soulbox.Invalid, "this ends every sandbox of %s", data), "say --yes if you mean it")
			}
			out := c.out // the driver replaces the standard files
			if err := server.Purge(cmd.Context(), slog.New(slog.DiscardHandler), server.Config{Data: data}); err != nil {
				return err
			}
			_, err := fmt.Fprintln(out, "Purged.")
			return err
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "really do it")
	return cmd
}
