package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func metricsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "metrics [flags] ID",
		Short:             "Print what a sandbox uses",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeSandboxes,
	}
	follow := cmd.Flags().BoolP("follow", "f", false, "wait for more until the sandbox ends")
	since := cmd.Flags().Duration("since", 0, "only measurements not older than this")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		api, err := c.client()
		if err != nil {
			return err
		}
		o := client.MetricsOptions{Follow: *follow}
		if *since > 0 {
			o.Since = time.Now().Add(-*since)
		}
		for u, err := range api.Sandboxes.Metrics(cmd.Context(), args[0], o) {
			if err != nil {
				return err
			}
			if err := c.usageLine(u, *asJSON); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func (c *cli) usageLine(u soulbox.Usage, asJSON bool) error {
	percent := strconv.FormatFloat(u.CPUPercent, 'f', 1, 64)
	switch {
	case asJSON:
		return c.jsonLine(struct {
			At         time.Time     `json:"time"`
			CPUPercent float64       `json:"cpu_percent"`
			CPUs       int           `json:"cpus"`
			MemUsed    soulbox.Bytes `json:"memory_used_bytes"`
			MemTotal   soulbox.Bytes `json:"memory_total_bytes"`
			MemCache   soulbox.Bytes `json:"memory_cache_bytes"`
			DiskUsed   soulbox.Bytes `json:"disk_used_bytes"`
			DiskTotal  soulbox.Bytes `json:"disk_total_bytes"`
		}{u.At, u.CPUPercent, u.CPUCount, u.MemUsed, u.MemTotal, u.MemCache, u.DiskUsed, u.DiskTotal})
	case c.outTTY:
		return c.print("%s  cpu %5s %% of %d  memory %9s / %-9s  disk %9s / %s", u.At.Local().Format(time.TimeOnly),
			percent, u.CPUCount, rounded(u.MemUsed), rounded(u.MemTotal), rounded(u.DiskUsed), rounded(u.DiskTotal))
	default:
		return c.tabbed(u.At.UTC().Format(time.RFC3339), percent, strconv.Itoa(u.CPUCount),
			c.size(u.MemUsed), c.size(u.MemTotal), c.size(u.DiskUsed), c.size(u.DiskTotal))
	}
}
