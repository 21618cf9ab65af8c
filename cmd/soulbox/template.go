package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func templateCommand(c *cli) *cobra.Command {
	return group("template", "Import and list what sandboxes are made of",
		importCommand(c),
		templateLsCommand(c),
		templateRmCommand(c),
	)
}

func templateLsCommand(c *cli) *cobra.Command {
	return lsVerb(c, listing[*client.Template, templateJSON]{
		short: "List templates",
		head:  []string{"NAME", "ID", "CPUS", "MEMORY", "DISK", "STARTS", "UPDATED", "SOURCE"},
		ask: func(ctx context.Context, api *client.Client, _ []string) ([]*client.Template, error) {
			return api.Templates.List(ctx)
		},
		rows: rowsOf(func(t *client.Template) []string {
			return []string{t.Name, t.ID, strconv.Itoa(t.CPUs), c.size(t.Memory), c.size(t.Disk), strconv.FormatInt(t.Starts, 10), c.when(t.UpdatedAt), t.Source}
		}),
		json: newTemplateJSON,
	})
}

func templateRmCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"delete"},
		Short:   "Remove a template, by name or id",
		Args:    wantArgs(1, 1),
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			return api.Templates.Delete(ctx, args[0])
		}),
	}
}

// templateJSON is a template as --json prints it.
type templateJSON struct {
	ID        string        `json:"id"`
	Name      string        `json:"name"`
	Public    bool          `json:"public"`
	CPUs      int           `json:"cpus"`
	Memory    soulbox.Bytes `json:"memory_bytes"`
	Disk      soulbox.Bytes `json:"disk_bytes"`
	Source    string        `json:"source"`
	Starts    int64         `json:"starts"`
	CreatedAt time.Time     `json:"created_at,omitzero"`
	UpdatedAt time.Time     `json:"updated_at,omitzero"`
}

func newTemplateJSON(t *client.Template) templateJSON {
	return templateJSON{
		ID:        t.ID,
		Name:      t.Name,
		Public:    t.Public,
		CPUs:      t.CPUs,
		Memory:    t.Memory,
		Disk:      t.Disk,
		Source:    t.Source,
		Starts:    t.Starts,
		CreatedAt: t.CreatedAt,
		UpdatedAt: t.UpdatedAt,
	}
}
