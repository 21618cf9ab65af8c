package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
	}
	asJSON := jsonFlag(cmd)
	server := cmd.Flags().Bool("server", false, "ask the server for its version as well")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := struct {
			Version string `json:"version"`
			Go      string `json:"go"`
			Server  string `json:"server,omitempty"`
		}{Version: version(), Go: runtime.Version()}
		if *server {
			api, err := c.client()
			if err != nil {
				return err
			}
			if v.Server, err = api.Version(cmd.Context()); err != nil {
				return err
			}
		}
		if *asJSON {
			return c.json(v)
		}
		if err := c.print("soulbox %s (%s)", v.Version, v.Go); err != nil || v.Server == "" {
			return err
		}
		return c.print("server %s", clean(v.Server))
	}
	return cmd
}

// version returns what the Go tool has stamped into the binary: a tag, or the
// commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		const long = 12 // enough of a commit to find it
		if s.Key == "vcs.revision" && len(s.Value) >= long {
			return "devel-" + s.Value[:long]
		}
	}
	return "devel"
}
