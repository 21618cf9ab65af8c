package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func logsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "logs [flags] ID",
		Short:             "Print a sandbox's log",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeSandboxes,
	}
	f := cmd.Flags()
	follow := f.BoolP("follow", "f", false, "wait for more until the sandbox ends")
	level := f.String("level", "", "only lines at least as important: debug, info, warn or error")
	search := f.String("search", "", "only lines that contain this")
	since := f.Duration("since", 0, "only lines not older than this")
	asJSON := jsonFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("level", completeWords("debug", "info", "warn", "error")) // the flag exists
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		api, err := c.client()
		if err != nil {
			return err
		}
		o := client.LogsOptions{Level: *level, Search: *search, Follow: *follow}
		if *since > 0 {
			o.Since = time.Now().Add(-*since)
		}
		for e, err := range api.Sandboxes.Logs(cmd.Context(), args[0], o) {
			if err != nil {
				return err
			}
			if err := c.logLine(e, *asJSON); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func (c *cli) logLine(e soulbox.LogEntry, asJSON bool) error {
	switch {
	case asJSON:
		return c.jsonLine(struct {
			At      time.Time         `json:"time"`
			Level   string            `json:"level"`
			Message string            `json:"message"`
			Fields  map[string]string `json:"fields,omitempty"`
		}{e.At, e.Level, e.Message, e.Fields})
	case c.outTTY:
		level := clean(e.Level)
		return c.print("%s  %-5s  %s", e.At.Local().Format("15:04:05.000"), c.paint(level, colours[level]), clean(e.Message))
	default:
		return c.tabbed(e.At.UTC().Format(time.RFC3339Nano), e.Level, e.Message)
	}
}
