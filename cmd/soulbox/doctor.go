package main

import (
	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox/server"
)

// doctorCommand is `soulbox doctor`.
func doctorCommand(c *cli) *cobra.Command {
	var flags server.Config
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look whether this machine can run the server, and say how to mend it",
		Args:  noArgs,
	}
	asJSON := jsonFlag(cmd)
	cmd.Flags().StringVar(&flags.Listen, "listen", server.DefaultListen, "`address` for clients")
	cmd.Flags().StringVar(&flags.Metrics, "metrics", "", "`address` for Prometheus, or off")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		flags.Data = c.dataFolder()
		checks, err := server.Doctor(cmd.Context(), flags)
		if err != nil {
			return err
		}
		if err := c.printChecks(checks, *asJSON); err != nil {
			return err
		}
		for _, k := range checks {
			if !k.OK {
				return codeError(1)
			}
		}
		return nil
	}
	return cmd
}

func (c *cli) printChecks(checks []server.Check, asJSON bool) error {
	if asJSON {
		type check struct {
			Name   string `json:"name"`
			OK     bool   `json:"ok"`
			Found  string `json:"found"`
			Remedy string `json:"remedy,omitempty"`
		}
		out := make([]check, 0, len(checks))
		for _, k := range checks {
			if k.OK {
				k.Remedy = ""
			}
			out = append(out, check(k))
		}
		return c.json(out)
	}
	rows := make([][]string, 0, len(checks))
	for _, k := range checks {
		verdict, remedy := "ok", ""
		if !k.OK {
			verdict, remedy = "MISSING", k.Remedy
		}
		rows = append(rows, []string{k.Name, verdict, k.Found, remedy})
	}
	return c.table([]string{"Check", "", "Found", "What to do"}, rows)
}
