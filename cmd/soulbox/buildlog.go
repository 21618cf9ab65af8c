package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func buildLogsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "logs [flags] NAME [BUILD]",
		Short:             "Print what a build said: the newest of a template, or the one with an id",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeBuilds,
	}
	f := cmd.Flags()
	follow := f.BoolP("follow", "f", false, "wait for more until the build is over")
	level := f.String("level", "", "only lines at least as important: debug, info, warn or error")
	asJSON := jsonFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("level", completeWords("debug", "info", "warn", "error")) // the flag exists
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		id, err := newestBuild(ctx, api, args[0], second(args))
		if err != nil {
			return err
		}
		levels := map[string]int{"": 0, "debug": 0, "info": 1, "warn": 2, "error": 3}
		least, known := levels[*level]
		if !known {
			return soulbox.Errorf(soulbox.Invalid, "--level is debug, info, warn or error, not %.80q", *level)
		}
		for e, err := range api.Templates.Watch(ctx, args[0], id, client.EventsOptions{Follow: *follow}) {
			if err != nil {
				return err
			}
			if e.Build != nil || levels[e.Line.Level] < least {
				continue
			}
			if err := c.buildLine(e.Number, e.Line, *asJSON); err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

// newestBuild returns the id, or that of the newest build of a template if it is
// empty.
func newestBuild(ctx context.Context, api *client.Client, template, id string) (string, error) {
	if id != "" {
		return id, nil
	}
	for b, err := range api.Templates.Builds(ctx, template) {
		if err != nil {
			return "", err
		}
		return string(b.ID), nil
	}
	return "", soulbox.Errorf(soulbox.NotFound, "template %s was not built of a Dockerfile", template)
}

func (c *cli) buildLine(number uint64, l soulbox.BuildLine, asJSON bool) error {
	switch {
	case asJSON:
		return c.jsonLine(buildLineJSON{number, l.At, l.Level, l.Step, l.Message})
	case c.outTTY:
		level := clean(l.Level)
		return c.print("%s  %-5s  %s", l.At.Local().Format("15:04:05.000"), c.paint(level, colours[level]), clean(l.Message))
	default:
		return c.tabbed(l.At.UTC().Format(time.RFC3339Nano), l.Level, l.Step, l.Message)
	}
}

func buildsCommand(c *cli) *cobra.Command {
	cmd := lsVerb(c, listing[*soulbox.Build, buildJSON]{
		short: "List the builds of a template, the newest first",
		head:  []string{"BUILD", "STATE", "VERSION", "CREATED", "TOOK", "TAGS", "FAILURE"},
		ask: func(ctx context.Context, api *client.Client, args []string) ([]*soulbox.Build, error) {
			return collect(api.Templates.Builds(ctx, args[0]))
		},
		rows: rowsOf(func(b *soulbox.Build) []string {
			j, took := newBuildJSON(b), ""
			if !b.EndedAt.IsZero() && !b.StartedAt.IsZero() {
				took = elapsed(b.EndedAt.Sub(b.StartedAt))
			}
			return []string{string(b.ID), string(b.State), j.Version, c.when(b.CreatedAt), took, words(b.Tags), j.Failure}
		}),
		json: newBuildJSON,
	})
	cmd.Use, cmd.Aliases = "builds [flags] NAME", nil
	cmd.Args = wantArgs(1, 1)
	cmd.ValidArgsFunction = c.completeTemplates
	return cmd
}

func buildCancelCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "cancel NAME [BUILD]",
		Short:             "End a build that is not over: the newest of a template, or the one with an id",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeBuilds,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			id, err := newestBuild(ctx, api, args[0], second(args))
			if err != nil {
				return err
			}
			_, err = api.Templates.CancelBuild(ctx, args[0], id)
			return err
		}),
	}
}

// problemJSON is a problem as --json prints it.
type problemJSON struct {
	Line     int    `json:"line,omitempty"`
	Severity string `json:"severity"`
	Rule     string `json:"rule,omitempty"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy,omitempty"`
	URL      string `json:"url,omitempty"`
}

func validateCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate [flags] [DIR|FILE]",
		Short: "Tell what is the matter with a Dockerfile, without building it",
		Long: "Tell what is the matter with a Dockerfile, which is the current folder's unless another\n" +
			"folder or a file is named. The exit code is 1 if it cannot be built.",
		Args: wantArgs(0, 1),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		file := "Dockerfile"
		if len(args) > 0 {
			file = args[0]
			if info, err := os.Stat(file); err == nil && info.IsDir() {
				file = filepath.Join(file, "Dockerfile")
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
		found, err := api.Templates.Validate(ctx, string(text))
		if err != nil {
			return err
		}
		var fatal error
		list := []problemJSON{}
		for _, p := range found {
			list = append(list, problemJSON{p.Line, severity(p), p.Rule, p.Message, p.Remedy, p.URL})
			if p.Fatal {
				fatal = codeError(exitError)
			}
		}
		if *asJSON {
			return errors.Join(c.json(list), fatal)
		}
		for _, p := range found {
			if err := c.print("%s", c.problem(file, p)); err != nil {
				return err
			}
		}
		return fatal
	})
	return cmd
}
