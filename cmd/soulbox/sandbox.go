package main

import (
	"github.com/spf13/cobra"
)

func sandboxCommand(c *cli) *cobra.Command {
	g := group("sandbox", "Create, use, pause and end sandboxes",
		createCommand(c),
		lsCommand(c),
		infoCommand(c),
		execCommand(c),
		shellCommand(c),
		cpCommand(c),
		logsCommand(c),
		metricsCommand(c),
		pauseCommand(c),
		resumeCommand(c),
		forkCommand(c),
		killCommand(c),
	)
	g.Aliases = []string{"sbx"}
	return g
}
