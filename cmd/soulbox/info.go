package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox/client"
)

func infoCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "info ID",
		Short:             "Show a sandbox, also one that has ended: who or what ended it, when and why",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeSandboxes,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		api, err := c.client()
		if err != nil {
			return err
		}
		i, err := api.Sandboxes.Get(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return c.json(newSandboxJSON(i))
		}
		list := [][2]string{
			{"id", i.ID},
			{"state", string(i.State)},
			{"template", templateOf(i)},
			{"cpus", strconv.Itoa(i.CPUs)},
			{"memory", c.size(i.Memory)},
			{"disk", c.size(i.Disk)},
			{"isolation", i.Isolation.String()},
			{"internet", yesNo(i.Internet)},
			{"ports", ports(i)},
			{"metadata", metadata(i.Metadata)},
			{"started", c.moment(i.StartedAt)},
		}
		if i.End == nil {
			list = append(list, [2]string{"ends", c.moment(endOf(i))})
		} else {
			list = append(list,
				[2]string{"ended", c.moment(i.End.At)},
				[2]string{"ended by", string(i.End.By)},
				[2]string{"reason", i.End.Reason})
		}
		return c.fields(list)
	}
	return cmd
}

// moment prints a time for people both ways, where there is room.
func (c *cli) moment(t time.Time) string {
	if t.IsZero() || !c.outTTY {
		return c.when(t)
	}
	return t.Local().Format(time.DateTime) + " (" + c.when(t) + ")"
}

// ports says who reaches the ports of a sandbox.
func ports(i *client.Info) string {
	if !i.PrivatePorts {
		return "public"
	}
	return "private, traffic token " + i.TrafficToken
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
