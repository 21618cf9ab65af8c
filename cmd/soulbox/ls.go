package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func lsCommand(c *cli) *cobra.Command {
	var all bool
	var notes []string
	cmd := lsVerb(c, listing[*client.Info, sandboxJSON]{
		short: "List sandboxes",
		head:  []string{"ID", "TEMPLATE", "STATE", "STARTED", "ENDS", "METADATA"},
		ask: func(ctx context.Context, api *client.Client, _ []string) ([]*client.Info, error) {
			filter, err := pairs("metadata", notes)
			if err != nil {
				return nil, err
			}
			return collect(api.Sandboxes.List(ctx, client.ListOptions{Ended: all, Metadata: filter}))
		},
		rows: rowsOf(func(i *client.Info) []string {
			return []string{i.ID, templateOf(i), string(i.State), c.when(i.StartedAt), c.when(endOf(i)), metadata(i.Metadata)}
		}),
		json: newSandboxJSON,
	})
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "include sandboxes that have ended")
	f.StringArrayVarP(&notes, "metadata", "m", nil, "only sandboxes with this note, `NAME=VALUE`; may be repeated")
	return cmd
}

// templateOf names a sandbox's template as its user did.
func templateOf(i *client.Info) string {
	if i.Template != "" {
		return i.Template
	}
	return i.TemplateID
}

// endOf returns when a sandbox has ended or its time is up; zero for one that
// is paused, for which no time goes by.
func endOf(i *client.Info) time.Time {
	switch {
	case i.End != nil:
		return i.End.At
	case i.State == soulbox.Paused:
		return time.Time{}
	default:
		return i.ExpiresAt
	}
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
	Isolation  string            `json:"isolation"`
	Internet   bool              `json:"internet"`
	Metadata   map[string]string `json:"metadata"`

	PrivatePorts bool   `json:"private_ports"`
	TrafficToken string `json:"traffic_token,omitempty"` // not in a list
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
		Isolation:  i.Isolation.String(),
		Internet:   i.Internet,
		Metadata:   i.Metadata,

		PrivatePorts: i.PrivatePorts,
		TrafficToken: i.TrafficToken,
	}
	if j.Metadata == nil {
		j.Metadata = map[string]string{}
	}
	if i.State == soulbox.Paused {
		j.ExpiresAt = time.Time{}
	}
	if i.End != nil {
		j.EndedAt, j.EndedBy, j.Reason = i.End.At, i.End.By, i.End.Reason
	}
	return j
}
