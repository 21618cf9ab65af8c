package main

import (
	"strings"

	"github.com/spf13/cobra"
)

func envCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "env",
		Short:   "Print what other programs need to know to use this server",
		Long:    "Print the three variables by which E2B's SDKs and command line find the server\non this machine.",
		Example: `  eval "$(soulbox env)"`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			to, err := readCredentials(c.dataFolder())
			if err != nil {
				return err
			}
			if to.SandboxURL == "" {
				to.SandboxURL = to.APIURL
			}
			for _, v := range [][2]string{
				{"E2B_API_KEY", to.APIKey},
				{"E2B_API_URL", to.APIURL},
				{"E2B_SANDBOX_URL", to.SandboxURL},
			} {
				if err := c.print("export %s=%s", v[0], quote(v[1])); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// quote makes one word of s for a shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
