package main

import (
	"context"
	"fmt"
	"iter"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox/client"
)

func packagesCommand(c *cli) *cobra.Command {
	return group("packages", "Install packages of Python in sandboxes",
		packagesInstallCommand(c),
		packagesLsCommand(c),
		packagesFreezeCommand(c),
		packagesRmCommand(c),
		packagesEnvironmentsCommand(c),
	)
}

// environmentFlag adds the flag that names an environment.
func environmentFlag(c *cli, cmd *cobra.Command) *string {
	name := cmd.Flags().StringP("environment", "e", client.DefaultEnvironment, "the environment; default is that of the code interpreter")
	_ = cmd.RegisterFlagCompletionFunc("environment", c.complete(func(ctx context.Context, api *client.Client, args []string) ([]cobra.Completion, error) { // the flag is there
		if len(args) == 0 {
			return nil, nil
		}
		list, err := api.Packages.Environments(ctx, args[0])
		var names []cobra.Completion
		for _, e := range list {
			names = append(names, cobra.CompletionWithDesc(e.Name, "Python "+e.Python))
		}
		return names, err
	}))
	return name
}

// completeFirstSandbox completes a sandbox, and nothing after it.
func (c *cli) completeFirstSandbox(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeSandboxes(cmd, args, word)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func packagesInstallCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install [flags] SANDBOX [PACKAGE…]",
		Short: "Install packages, and print each with its version",
		Long: "Install packages of Python, and print each with its version. An environment that is\n" +
			"not there yet is made, and is a language for notebooks and contexts from then on. When\n" +
			"one cannot be installed, or they do not go together, nothing is changed.",
		Example: "  soulbox packages install i6k2… 'numpy==2.3' tabulate\n" +
			"  soulbox packages install i6k2… -e web -r requirements.txt",
		Args:              wantArgs(1, -1),
		ValidArgsFunction: c.completeFirstSandbox,
	}
	environment := environmentFlag(c, cmd)
	requirements := cmd.Flags().StringP("requirements", "r", "", "a requirements file here, or - for standard input")
	index := cmd.Flags().String("index-url", "", "where packages come from (default what the sandbox's pip says)")
	upgrade := cmd.Flags().BoolP("upgrade", "U", false, "also those that are installed already")
	timeout := cmd.Flags().Duration("timeout", 0, "how long it may take (default what the sandbox allows)")
	asJSON := cmd.Flags().Bool("json", false, "print what happens as lines of JSON")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		o := client.InstallOptions{Packages: args[1:], IndexURL: *index, Upgrade: *upgrade, Timeout: *timeout}
		if *requirements != "" {
			b, err := c.read(*requirements)
			if err != nil {
				return err
			}
			o.Requirements = string(b)
		}
		if len(o.Packages) == 0 && o.Requirements == "" {
			return usagef(cmd, "no package is named")
		}
		return c.installing(api.Packages.Install(ctx, args[0], *environment, o), *asJSON)
	})
	return cmd
}

func packagesRmCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rm [flags] SANDBOX PACKAGE…",
		Aliases:           []string{"delete", "uninstall"},
		Short:             "Remove packages",
		Args:              wantArgs(2, -1),
		ValidArgsFunction: c.completeFirstSandbox,
	}
	environment := environmentFlag(c, cmd)
	asJSON := cmd.Flags().Bool("json", false, "print what happens as lines of JSON")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		return c.installing(api.Packages.Remove(ctx, args[0], *environment, args[1:]...), *asJSON)
	})
	return cmd
}

// packageEventJSON is a line of soulbox packages install --json.
type packageEventJSON struct {
	Type      string        `json:"type"`
	Step      string        `json:"step,omitempty"`
	Package   string        `json:"package,omitempty"`
	Done      int           `json:"done"`
	Total     int           `json:"total"`
	Text      string        `json:"text,omitempty"`
	Installed []packageJSON `json:"installed,omitempty"`
	Removed   []packageJSON `json:"removed,omitempty"`
	Seconds   float64       `json:"seconds,omitempty"`
}

type packageJSON struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Was     string `json:"was,omitempty"`
}

func packagesJSON(list []client.Package) []packageJSON {
	var out []packageJSON
	for _, p := range list {
		out = append(out, packageJSON(p))
	}
	return out
}

// installing shows how packages come or go.
func (c *cli) installing(events iter.Seq2[client.PackageEvent, error], asJSON bool) error {
	wait := c.progress("starting")
	defer wait.stop()
	for e, err := range events {
		if err != nil {
			return err
		}
		if asJSON {
			err := c.jsonLine(packageEventJSON{e.Type, e.Step, e.Package, e.Done, e.Total, e.Text, packagesJSON(e.Installed), packagesJSON(e.Removed), e.Seconds})
			if err != nil {
				return err
			}
			continue
		}
		switch e.Type {
		case "progress":
			wait.say(stepText(e))
		case "done":
			wait.stop()
			rows := [][]string{}
			for _, p := range e.Installed {
				rows = append(rows, []string{p.Name, p.Version, p.Was})
			}
			for _, p := range e.Removed {
				rows = append(rows, []string{p.Name, "", p.Version})
			}
			if len(rows) > 0 {
				if err := c.table([]string{"PACKAGE", "VERSION", "WAS"}, rows); err != nil {
					return err
				}
			}
			if _, err := fmt.Fprintf(c.err, "soulbox: %d packages in %s\n", len(rows), took(e.Seconds)); err != nil {
				return err
			}
		}
	}
	return nil
}

// stepText says how far it is.
func stepText(e client.PackageEvent) string {
	s := e.Step
	if e.Total > 0 {
		s += " " + strconv.Itoa(e.Done) + "/" + strconv.Itoa(e.Total)
	}
	if e.Package != "" {
		s += " " + e.Package
	}
	return s
}

func packagesLsCommand(c *cli) *cobra.Command {
	var environment *string
	cmd := lsVerb(c, listing[client.Package, packageJSON]{
		short: "List the packages of an environment",
		head:  []string{"PACKAGE", "VERSION"},
		ask: func(ctx context.Context, api *client.Client, args []string) ([]client.Package, error) {
			return api.Packages.List(ctx, args[0], *environment)
		},
		rows: rowsOf(func(p client.Package) []string { return []string{p.Name, p.Version} }),
		json: func(p client.Package) packageJSON { return packageJSON(p) },
	})
	environment = environmentFlag(c, cmd)
	cmd.Use, cmd.Args, cmd.ValidArgsFunction = "ls [flags] SANDBOX", wantArgs(1, 1), c.completeFirstSandbox
	return cmd
}

func packagesFreezeCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "freeze [flags] SANDBOX",
		Short:             "Print the packages of an environment as a requirements file",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeFirstSandbox,
	}
	environment := environmentFlag(c, cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		text, err := api.Packages.Freeze(ctx, args[0], *environment)
		if err != nil {
			return err
		}
		return c.text(text)
	})
	return cmd
}

type environmentJSON struct {
	Name     string `json:"name"`
	Python   string `json:"python"`
	Path     string `json:"path"`
	Packages int    `json:"packages"`
}

func packagesEnvironmentsCommand(c *cli) *cobra.Command {
	var remove *string
	cmd := lsVerb(c, listing[client.Environment, environmentJSON]{
		short: "List the environments of a sandbox, or remove one",
		head:  []string{"ENVIRONMENT", "PYTHON", "PACKAGES", "PATH"},
		ask: func(ctx context.Context, api *client.Client, args []string) ([]client.Environment, error) {
			if *remove != "" {
				if err := api.Packages.RemoveEnvironment(ctx, args[0], *remove); err != nil {
					return nil, err
				}
			}
			return api.Packages.Environments(ctx, args[0])
		},
		rows: rowsOf(func(e client.Environment) []string {
			return []string{e.Name, e.Python, strconv.Itoa(e.Packages), e.Path}
		}),
		json: func(e client.Environment) environmentJSON { return environmentJSON(e) },
	})
	remove = cmd.Flags().String("rm", "", "remove this environment first, with all that is in it")
	cmd.Use, cmd.Aliases, cmd.Args, cmd.ValidArgsFunction = "environments [flags] SANDBOX", []string{"envs"}, wantArgs(1, 1), c.completeFirstSandbox
	return cmd
}
