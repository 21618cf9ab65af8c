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
	return group("template", "Build, import, find and share what sandboxes are made of",
		initCommand(c),
		validateCommand(c),
		buildCommand(c),
		buildsCommand(c),
		buildLogsCommand(c),
		buildCancelCommand(c),
		importCommand(c),
		exportCommand(c),
		templateLsCommand(c),
		templateInfoCommand(c),
		templateIsolationCommand(c),
		versionsCommand(c),
		templateDiffCommand(c),
		promoteCommand(c),
		untagCommand(c),
		templateRollbackCommand(c),
		deprecateCommand(c),
		searchCommand(c),
		publishCommand(c),
		unpublishCommand(c),
		forkTemplateCommand(c),
		rateCommand(c),
		reportCommand(c),
		templateRmCommand(c),
	)
}

func templateLsCommand(c *cli) *cobra.Command {
	return lsVerb(c, listing[*client.Template, templateJSON]{
		short: "List templates",
		head:  []string{"NAME", "ID", "CPUS", "MEMORY", "DISK", "ISOLATION", "STARTS", "UPDATED", "SOURCE", "VERSION", "PUBLIC"},
		ask: func(ctx context.Context, api *client.Client, _ []string) ([]*client.Template, error) {
			return api.Templates.List(ctx)
		},
		rows: rowsOf(func(t *client.Template) []string {
			return []string{t.Name, t.ID, strconv.Itoa(t.CPUs), c.size(t.Memory), c.size(t.Disk), t.Isolation.String(), strconv.FormatInt(t.Starts, 10), c.when(t.UpdatedAt), t.Source, versionText(t.Version), yesNo(t.Public)}
		}),
		json: newTemplateJSON,
	})
}

func templateIsolationCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "isolation NAME gvisor|runc",
		Short: "Change what stands between new sandboxes of a template and the machine",
		Long: "Change the isolation that sandboxes made of a template have, unless they ask\n" +
			"otherwise. Those that are there keep theirs.",
		Example: "  soulbox template isolation python runc",
		Args:    wantArgs(2, 2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []cobra.Completion{"gvisor", "runc"}, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			class, err := soulbox.ParseIsolation(args[1])
			if err != nil {
				return err
			}
			api, err := c.client()
			if err != nil {
				return err
			}
			wait := c.progress("changing template " + args[0])
			defer wait.stop()
			_, err = api.Templates.SetIsolation(cmd.Context(), args[0], class)
			return err
		},
	}
}

func templateRmCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME",
		Aliases:           []string{"delete"},
		Short:             "Remove a template, by name or id",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeTemplates,
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
	Build     string        `json:"build,omitempty"`
	Version   string        `json:"version,omitempty"`
	CPUs      int           `json:"cpus"`
	Memory    soulbox.Bytes `json:"memory_bytes"`
	Disk      soulbox.Bytes `json:"disk_bytes"`
	Isolation string        `json:"isolation"`
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
		Build:     t.Build,
		Version:   versionText(t.Version),
		CPUs:      t.CPUs,
		Memory:    t.Memory,
		Disk:      t.Disk,
		Isolation: t.Isolation.String(),
		Source:    t.Source,
		Starts:    t.Starts,
		CreatedAt: t.CreatedAt,
		UpdatedAt: t.UpdatedAt,
	}
}
