package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func lsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List sandboxes",
		Args:    noArgs,
	}
	all := cmd.Flags().BoolP("all", "a", false, "include sandboxes that have ended")
	notes := cmd.Flags().StringArrayP("metadata", "m", nil, "only sandboxes with this note, `NAME=VALUE`; may be repeated")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o := client.ListOptions{Ended: *all}
		var err error
		if o.Metadata, err = pairs("metadata", *notes); err != nil {
			return err
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		wait := c.progress("asking the server")
		defer wait.stop()
		list := []sandboxJSON{}
		var rows [][]string
		for i, err := range api.Sandboxes.List(cmd.Context(), o) {
			if err != nil {
				return err
			}
			list = append(list, newSandboxJSON(i))
			rows = append(rows, []string{i.ID, templateOf(i), string(i.State), c.when(i.StartedAt), c.when(endOf(i)), metadata(i.Metadata)})
		}
		wait.stop()
		if *asJSON {
			return c.json(list)
		}
		return c.table([]string{"ID", "TEMPLATE", "STATE", "STARTED", "ENDS", "METADATA"}, rows)
	}
	return cmd
}

// templateOf names a sandbox's template as its user did.
func templateOf(i *client.Info) string {
	if i.Template != "" {
		return i.Template
	}
	return i.TemplateID
}

// endOf returns when a sandbox has ended, or will.
func endOf(i *client.Info) time.Time {
	if i.End != nil {
		return i.End.At
	}
	return i.ExpiresAt
}

// sandboxJSON is a sandbox as --json prints it.
type sandboxJSON struct {
	ID         string            `json:"id"`
	TemplateID string            `json:"template_id"`
	Template   string            `json:"template,omitempty"`
	State      soulbox.State     `json:"state"`
	StartedAt  time.Time         `json:"started_at,omitzero"`
	ExpiresAt  time.Time         `json:"expires_at,omitzero"`
	EndedAt    time.Time         `json:"ended_at,omitzero"`
	EndedBy    soulbox.Ender     `json:"ended_by,omitempty"`
	Reason     string            `json:"reason,omitempty"`
	CPUs       int               `json:"cpus"`
	Memory     soulbox.Bytes     `json:"memory_bytes"`
	Disk       soulbox.Bytes     `json:"disk_bytes"`
	Internet   bool              `json:"internet"`
	Metadata   map[string]string `json:"metadata"`
}

func newSandboxJSON(i *client.Info) sandboxJSON {
	j := sandboxJSON{
		ID:         i.ID,
		TemplateID: i.TemplateID,
		Template:   i.Template,
		State:      i.State,
		StartedAt:  i.StartedAt,
		ExpiresAt:  i.ExpiresAt,
		CPUs:       i.CPUs,
		Memory:     i.Memory,
		Disk:       i.Disk,
		Internet:   i.Internet,
		Metadata:   i.Metadata,
	}
	if j.Metadata == nil {
		j.Metadata = map[string]string{}
	}
	if i.End != nil {
		j.EndedAt, j.EndedBy, j.Reason = i.End.At, i.End.By, i.End.Reason
	}
	return j
}
