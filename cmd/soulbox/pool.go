package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func poolCommand(c *cli) *cobra.Command {
	return group("pool", "See what the server has made ahead", poolLsCommand(c))
}

func poolLsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List how many sandboxes of each template wait ready made, and how many should",
		Args:    noArgs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, _ []string) error {
		wait := c.progress("asking the server")
		defer wait.stop()
		all, err := api.Sandboxes.Pools(ctx)
		if err != nil {
			return err
		}
		wait.stop()
		if *asJSON {
			return c.json(newPoolsJSON(all))
		}
		var rows [][]string
		var used soulbox.Bytes
		for _, p := range all.Pools {
			used += p.Each * soulbox.Bytes(p.Ready)
			rows = append(rows, []string{
				p.Name, string(p.Template), strconv.Itoa(p.Ready), strconv.Itoa(p.Want), strconv.FormatInt(p.Hits, 10), strconv.FormatInt(p.Misses, 10),
			})
		}
		if err := c.table([]string{"TEMPLATE", "ID", "READY", "WANTED", "TAKEN", "MISSED"}, rows); err != nil || !c.outTTY {
			return err
		}
		if all.Budget == 0 {
			return c.print("The server makes nothing ahead (warm_mb).")
		}
		return c.print("%s of %s MB in use", megabytes(used), megabytes(all.Budget))
	})
	return cmd
}

// megabytes is in the unit of the server's configuration, which is MiB.
func megabytes(b soulbox.Bytes) string { return strconv.FormatInt(int64(b/soulbox.MiB), 10) }

// poolsJSON is what --json prints.
type poolsJSON struct {
	Budget soulbox.Bytes `json:"budget_bytes"`
	Each   soulbox.Bytes `json:"each_bytes"`
	Pools  []poolJSON    `json:"pools"`
}

type poolJSON struct {
	Template string `json:"template"`
	ID       string `json:"template_id"`

	Each   soulbox.Bytes `json:"each_bytes"`
	Ready  int           `json:"ready"`
	Wanted int           `json:"wanted"`
	Taken  int64         `json:"taken"`
	Missed int64         `json:"missed"`
}

func newPoolsJSON(all *soulbox.Pools) poolsJSON {
	out := poolsJSON{Budget: all.Budget, Each: all.Each, Pools: []poolJSON{}}
	for _, p := range all.Pools {
		out.Pools = append(out.Pools, poolJSON{Template: p.Name, ID: string(p.Template), Each: p.Each, Ready: p.Ready, Wanted: p.Want, Taken: p.Hits, Missed: p.Misses})
	}
	return out
}
