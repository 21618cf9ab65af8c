package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// parseAt splits NAME[:TAG|@VERSION] into the template and what stands for one of
// its builds; that is empty for the default one.
func parseAt(s string) (template, at string, err error) {
	ref, err := soulbox.ParseTemplateRef(s)
	if err != nil {
		return "", "", err
	}
	if at = ref.Versions.String(); ref.Tag != "" {
		at = ":" + ref.Tag
	}
	return soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}.String(), at, nil
}

// words prints a list in one cell.
func words(list []string) string { return strings.Join(list, ",") }

func templateInfoCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "info [flags] NAME[:TAG|@VERSION]",
		Short:             "Show a template: what is in it, its versions and tags, who may start it",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeTemplates,
	}
	f := cmd.Flags()
	packages := f.Bool("packages", false, "list the packages in it instead")
	sbom := f.Bool("sbom", false, "print what software is in it as an SPDX document instead")
	readme := f.Bool("readme", false, "print its readme instead")
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		template, at, err := parseAt(args[0])
		if err != nil {
			return err
		}
		switch {
		case *sbom:
			doc, err := api.Templates.SBOM(ctx, template, at)
			if err != nil {
				return err
			}
			return c.json(doc)
		case *readme:
			text, err := api.Templates.Readme(ctx, template)
			if err != nil {
				return err
			}
			for line := range strings.Lines(text) {
				if err := c.print("%s", clean(strings.TrimRight(line, "\r\n"))); err != nil {
					return err
				}
			}
			return nil
		case *packages:
			b, err := api.Templates.Facts(ctx, template, at)
			if err != nil {
				return err
			}
			return c.table([]string{"MANAGER", "PACKAGE", "VERSION"}, rowsOf(func(p soulbox.Package) []string {
				return []string{p.Manager, p.Name, p.Version}
			})(b.Facts.Packages))
		}
		return c.templateInfo(ctx, api, template, at, *asJSON)
	})
	return cmd
}

// factsJSON is a version of a template, with all that is known of it.
type factsJSON struct {
	Template     templateJSON      `json:"template"`
	Namespace    string            `json:"namespace,omitempty"`
	Description  string            `json:"description,omitempty"`
	Licence      string            `json:"licence,omitempty"`
	Categories   []string          `json:"categories"`
	Keywords     []string          `json:"keywords"`
	Stars        float64           `json:"stars"`
	Ratings      int               `json:"ratings"`
	Downloads    int64             `json:"downloads"`
	Tags         map[string]string `json:"tags"`
	Build        string            `json:"build,omitempty"`
	Version      string            `json:"version,omitempty"`
	Base         string            `json:"base,omitempty"`
	Distribution string            `json:"distribution,omitempty"`
	Packages     int               `json:"packages"`
	Env          map[string]string `json:"env"`
	Ports        []string          `json:"ports"`
	Volumes      []string          `json:"volumes"`
	Entrypoint   []string          `json:"entrypoint"`
	Command      []string          `json:"command"`
	User         string            `json:"user,omitempty"`
	Workdir      string            `json:"workdir,omitempty"`
	Author       string            `json:"author,omitempty"`
	Bytes        soulbox.Bytes     `json:"bytes"`
	Snapshot     soulbox.Bytes     `json:"snapshot_bytes,omitempty"`
	Layers       int               `json:"layers"`
	Versions     []versionJSON     `json:"versions"`
}

func (c *cli) templateInfo(ctx context.Context, api *client.Client, template, at string, asJSON bool) error {
	t, err := api.Templates.Get(ctx, template)
	if err != nil {
		return err
	}
	versions, err := api.Templates.Versions(ctx, template)
	if err != nil {
		return err
	}
	b := &soulbox.Build{}
	if t.Build != "" || at != "" { // else nothing is ready yet, which is worth showing, too
		if b, err = api.Templates.Facts(ctx, template, at); err != nil {
			return err
		}
	}
	if asJSON {
		return c.json(newFactsJSON(t, b, versions))
	}
	l := t.Listing
	if l == nil {
		l = &client.Listing{}
	}
	written := ""
	if b.Facts.Written > 0 {
		written = c.size(b.Facts.Written)
	}
	list := [][2]string{
		{"name", t.Name},
		{"id", t.ID},
		{"namespace", l.Namespace},
		{"description", l.Description},
		{"public", yesNo(t.Public)},
		{"licence", l.Licence},
		{"categories", words(l.Categories)},
		{"keywords", words(l.Keywords)},
		{"rating", rating(l)},
		{"starts", strconv.FormatInt(t.Starts, 10)},
		{"version", versionText(b.Version)},
		{"build", string(b.ID)},
		{"deprecated", deprecation(versions, b)},
		{"base", b.Facts.Base},
		{"distribution", b.Facts.Distribution},
		{"packages", strconv.Itoa(len(b.Facts.Packages))},
		{"environment", metadata(b.Env)},
		{"ports", words(b.Facts.Ports)},
		{"volumes", words(b.Facts.Volumes)},
		{"entrypoint", shellWords(b.Facts.Entrypoint)},
		{"command", shellWords(b.Facts.Command)},
		{"user", b.User},
		{"workdir", b.Workdir},
		{"author", b.Facts.Author},
		{"size", c.size(b.Facts.Bytes)},
		{"snapshot", written},
		{"layers", strconv.Itoa(b.Facts.Layers)},
		{"cpus", strconv.Itoa(t.CPUs)},
		{"memory", c.size(t.Memory)},
		{"disk", c.size(t.Disk)},
		{"isolation", t.Isolation.String()},
		{"created", c.moment(t.CreatedAt)},
		{"updated", c.moment(t.UpdatedAt)},
	}
	for _, v := range versions {
		list = append(list, [2]string{"version " + v.Version.String(), strings.TrimSpace(c.when(v.CreatedAt) + "  " + words(v.Tags))})
	}
	return c.fields(list)
}

// deprecation is why nobody should start a build any more.
func deprecation(versions []*client.TemplateVersion, b *soulbox.Build) string {
	for _, v := range versions {
		if v.Build == string(b.ID) {
			return v.Deprecated
		}
	}
	return ""
}

func rating(l *client.Listing) string {
	if l.Ratings == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f of 5, by %d", l.Stars, l.Ratings)
}

func versionText(v soulbox.Version) string {
	if v.IsZero() {
		return ""
	}
	return v.String()
}

// shellWords prints a command as a shell would read it.
func shellWords(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = quote(a)
	}
	return strings.Join(quoted, " ")
}

func newFactsJSON(t *client.Template, b *soulbox.Build, versions []*client.TemplateVersion) factsJSON {
	j := factsJSON{
		Template: newTemplateJSON(t), Tags: map[string]string{}, Build: string(b.ID), Version: versionText(b.Version), Base: b.Facts.Base, Distribution: b.Facts.Distribution,
		Packages: len(b.Facts.Packages), Env: b.Env, Ports: b.Facts.Ports, Volumes: b.Facts.Volumes, Entrypoint: b.Facts.Entrypoint, Command: b.Facts.Command,
		User: b.User, Workdir: b.Workdir, Author: b.Facts.Author, Bytes: b.Facts.Bytes, Snapshot: b.Facts.Written, Layers: b.Facts.Layers, Versions: []versionJSON{},
	}
	if l := t.Listing; l != nil {
		j.Namespace, j.Description, j.Licence, j.Categories, j.Keywords = l.Namespace, l.Description, l.Licence, l.Categories, l.Keywords
		j.Stars, j.Ratings, j.Downloads = l.Stars, l.Ratings, l.Downloads
	}
	for _, tag := range t.Tags {
		j.Tags[tag.Name] = string(tag.Build)
	}
	for _, v := range versions {
		j.Versions = append(j.Versions, newVersionJSON(v))
	}
	return j
}

// versionJSON is a version as --json prints it.
type versionJSON struct {
	Version    string        `json:"version"`
	Build      string        `json:"build"`
	CreatedAt  time.Time     `json:"created_at"`
	Tags       []string      `json:"tags"`
	Deprecated string        `json:"deprecated,omitempty"`
	Base       string        `json:"base,omitempty"`
	Bytes      soulbox.Bytes `json:"bytes"`
}

func newVersionJSON(v *client.TemplateVersion) versionJSON {
	return versionJSON{v.Version.String(), v.Build, v.CreatedAt, v.Tags, v.Deprecated, v.Base, v.Bytes}
}

func versionsCommand(c *cli) *cobra.Command {
	cmd := lsVerb(c, listing[*client.TemplateVersion, versionJSON]{
		short: "List the versions of a template, the newest first",
		head:  []string{"VERSION", "BUILD", "CREATED", "SIZE", "TAGS", "BASE", "DEPRECATED"},
		ask: func(ctx context.Context, api *client.Client, args []string) ([]*client.TemplateVersion, error) {
			return api.Templates.Versions(ctx, args[0])
		},
		rows: rowsOf(func(v *client.TemplateVersion) []string {
			return []string{v.Version.String(), v.Build, c.when(v.CreatedAt), c.size(v.Bytes), words(v.Tags), v.Base, v.Deprecated}
		}),
		json: newVersionJSON,
	})
	cmd.Use, cmd.Aliases = "versions [flags] NAME", nil
	cmd.Args = wantArgs(1, 1)
	cmd.ValidArgsFunction = c.completeTemplates
	return cmd
}

// diffJSON is what differs between two versions.
type diffJSON struct {
	Before   string              `json:"before"`
	After    string              `json:"after"`
	Bump     soulbox.Bump        `json:"bump,omitempty"`
	Recipe   string              `json:"recipe,omitempty"`
	Packages []packageChangeJSON `json:"packages"`
	Env      []valueChangeJSON   `json:"env"`
	Ports    []valueChangeJSON   `json:"ports"`
	Values   []valueChangeJSON   `json:"values"`
}

type packageChangeJSON struct {
	Kind    soulbox.ChangeKind `json:"kind"`
	Manager string             `json:"manager"`
	Name    string             `json:"name"`
	Before  string             `json:"before,omitempty"`
	After   string             `json:"after,omitempty"`
}

type valueChangeJSON struct {
	Kind   soulbox.ChangeKind `json:"kind"`
	Name   string             `json:"name"`
	Before string             `json:"before,omitempty"`
	After  string             `json:"after,omitempty"`
}

func newDiffJSON(d *soulbox.BuildDiff) diffJSON {
	j := diffJSON{Before: d.Before.Version.String(), After: d.After.Version.String(), Bump: d.Bump, Recipe: d.Recipe, Packages: []packageChangeJSON{}}
	for _, p := range d.Packages {
		j.Packages = append(j.Packages, packageChangeJSON(p))
	}
	values := func(list []soulbox.ValueChange) []valueChangeJSON {
		out := []valueChangeJSON{}
		for _, v := range list {
			out = append(out, valueChangeJSON(v))
		}
		return out
	}
	j.Env, j.Ports, j.Values = values(d.Env), values(d.Ports), values(d.Values)
	return j
}

func templateDiffCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [flags] NAME VERSION [VERSION]",
		Short: "Show what two versions do not have in common",
		Long: "Show what the second version does not have in common with the first; without the\n" +
			"second, it is the one that the tag \"default\" leads to. A version is written as 1.4.2,\n" +
			"1.4 or ^1, or as a tag or the id of a build; :1.4 is the tag with that name.",
		Example:           "  soulbox template diff hello 1.0.0\n  soulbox template diff hello stable next",
		Args:              wantArgs(2, 3),
		ValidArgsFunction: c.completeTemplates,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		after := soulbox.DefaultTag
		if len(args) > 2 {
			after = args[2]
		}
		d, err := api.Templates.Diff(ctx, args[0], args[1], after)
		if err != nil {
			return err
		}
		if *asJSON {
			return c.json(newDiffJSON(d))
		}
		return c.templateDiff(d)
	})
	return cmd
}

// templateDiff prints what differs: values, packages, and last the recipes.
func (c *cli) templateDiff(d *soulbox.BuildDiff) error {
	rows := [][]string{}
	add := func(what string, list []soulbox.ValueChange) {
		for _, v := range list {
			name := v.Name
			if what != "" {
				name = what + " " + name
			}
			rows = append(rows, []string{string(v.Kind), name, c.amount(v.Name, v.Before), c.amount(v.Name, v.After)})
		}
	}
	add("", d.Values)
	add("port", d.Ports)
	add("env", d.Env)
	for _, p := range d.Packages {
		rows = append(rows, []string{string(p.Kind), p.Manager + " " + p.Name, p.Before, p.After})
	}
	if len(rows) > 0 {
		if err := c.table([]string{"CHANGE", "WHAT", d.Before.Version.String(), d.After.Version.String()}, rows); err != nil {
			return err
		}
	}
	if d.Recipe != "" && len(rows) > 0 && c.outTTY {
		if err := c.print(""); err != nil {
			return err
		}
	}
	for line := range strings.Lines(d.Recipe) {
		line = strings.TrimRight(line, "\r\n")
		colour := ""
		switch {
		case strings.HasPrefix(line, "+"):
			colour = green
		case strings.HasPrefix(line, "-"):
			colour = red
		case strings.HasPrefix(line, "@"):
			colour = cyan
		}
		// Tabs stay: they are how Dockerfiles indent here-documents.
		parts := strings.Split(line, "\t")
		for i := range parts {
			parts[i] = clean(parts[i])
		}
		if err := c.print("%s", c.paint(strings.Join(parts, "\t"), colour)); err != nil {
			return err
		}
	}
	return nil
}

// amount prints a value of a template, which may be a number of bytes.
func (c *cli) amount(name, value string) string {
	switch name {
	case "memory", "disk", "bytes":
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			return c.size(soulbox.Bytes(n))
		}
	}
	return value
}

func promoteCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "promote [flags] NAME VERSION",
		Short: "Let the tag \"default\", or another one, lead to a version",
		Long: "Let a tag lead to a version, which is written as in `template diff`. New sandboxes of\n" +
			"the tag are of that version; those that run stay as they are.",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeVersions,
	}
	tag := cmd.Flags().String("tag", soulbox.DefaultTag, "the tag")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		v, err := api.Templates.Promote(ctx, args[0], args[1], *tag)
		if err != nil {
			return err
		}
		return c.print("%s@%s", clean(args[0]), v.Version)
	})
	return cmd
}

func untagCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "untag NAME TAG",
		Short: "Remove a tag; the version that it leads to stays",
		Long: "Remove a tag. The version that it leads to stays, and so do sandboxes that were made by\n" +
			"it. The tag \"default\" cannot be removed, but be led elsewhere by `template promote`.",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeTags,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			return api.Templates.RemoveTag(ctx, args[0], args[1])
		}),
	}
}

func templateRollbackCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback NAME [VERSION]",
		Short: "Let the tag \"default\" lead to the version before, or to an earlier one, in one step",
		Long: "Let the tag \"default\" lead to the version before the one it leads to, or to another\n" +
			"one, which is written as in `template diff`. Sandboxes that run stay as they are.",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeVersions,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			v, err := api.Templates.Rollback(ctx, args[0], second(args))
			if err != nil {
				return err
			}
			return c.print("%s@%s", clean(args[0]), v.Version)
		}),
	}
}

func deprecateCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deprecate [flags] NAME VERSION [REASON]",
		Short: "Say why nobody should start a version any more",
		Long: "Say why nobody should start a version any more, which is written as in `template diff`.\n" +
			"It can be started all the same, and is shown with the reason. --undo takes that back.",
		Example:           "  soulbox template deprecate hello 1.0.0 'loses data; use 1.0.1'",
		Args:              wantArgs(2, 3),
		ValidArgsFunction: c.completeVersions,
	}
	undo := cmd.Flags().Bool("undo", false, "say that it is fine")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		reason := second(args[1:])
		if *undo != (reason == "") {
			return usagef(cmd, "either a reason or --undo is needed")
		}
		_, err := api.Templates.Deprecate(ctx, args[0], args[1], reason)
		return err
	})
	return cmd
}

// completeTemplates completes the names of templates.
func (c *cli) completeTemplates(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return c.completeVersions(cmd, args, word)
	}
	return c.complete(func(ctx context.Context, api *client.Client, _ []string) ([]cobra.Completion, error) {
		all, err := api.Templates.List(ctx)
		var names []cobra.Completion
		for _, t := range all {
			names = append(names, cobra.CompletionWithDesc(t.Name, t.Source))
		}
		return names, err
	})(cmd, args, word)
}

// completeVersions completes the names of templates, then versions and tags.
func (c *cli) completeVersions(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeTemplates(cmd, args, word)
	}
	return c.complete(func(ctx context.Context, api *client.Client, args []string) ([]cobra.Completion, error) {
		versions, err := api.Templates.Versions(ctx, args[0])
		var list []cobra.Completion
		for _, v := range versions {
			list = append(list, cobra.CompletionWithDesc(v.Version.String(), words(v.Tags)))
			for _, tag := range v.Tags {
				list = append(list, cobra.CompletionWithDesc(tag, v.Version.String()))
			}
		}
		slices.Sort(list)
		return list, err
	})(cmd, args, word)
}

// completeTags completes the names of templates, then the tags that can be removed.
func (c *cli) completeTags(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeTemplates(cmd, args, word)
	}
	return c.complete(func(ctx context.Context, api *client.Client, args []string) ([]cobra.Completion, error) {
		tags, err := api.Templates.Tags(ctx, args[0])
		var list []cobra.Completion
		for _, t := range tags {
			if t.Name != soulbox.DefaultTag {
				list = append(list, cobra.CompletionWithDesc(t.Name, string(t.Build)))
			}
		}
		return list, err
	})(cmd, args, word)
}

// completeBuilds completes the names of templates, then their builds.
func (c *cli) completeBuilds(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeTemplates(cmd, args, word)
	}
	return c.complete(func(ctx context.Context, api *client.Client, args []string) ([]cobra.Completion, error) {
		builds, err := collect(api.Templates.Builds(ctx, args[0]))
		var list []cobra.Completion
		for _, b := range builds {
			list = append(list, cobra.CompletionWithDesc(string(b.ID), string(b.State)))
		}
		return list, err
	})(cmd, args, word)
}
