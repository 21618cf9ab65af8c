package main

import (
	"context"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// foundJSON is a template that was searched for.
type foundJSON struct {
	templateJSON

	Namespace   string   `json:"namespace,omitempty"`
	Description string   `json:"description,omitempty"`
	Licence     string   `json:"licence,omitempty"`
	Categories  []string `json:"categories"`
	Keywords    []string `json:"keywords"`
	Stars       float64  `json:"stars"`
	Ratings     int      `json:"ratings"`
	Downloads   int64    `json:"downloads"`
	Deprecated  string   `json:"deprecated,omitempty"`
}

func searchCommand(c *cli) *cobra.Command {
	var o client.SearchOptions
	var sort string
	cmd := lsVerb(c, listing[*client.Template, foundJSON]{
		short: "Find templates that are public, the house's or your team's, the best first",
		head:  []string{"NAME", "VERSION", "STARS", "STARTS", "UPDATED", "CATEGORIES", "DESCRIPTION"},
		ask: func(ctx context.Context, api *client.Client, args []string) ([]*client.Template, error) {
			o.Query, o.Sort = strings.Join(args, " "), soulbox.ListingSort(sort)
			return collect(api.Templates.Search(ctx, o))
		},
		rows: rowsOf(func(t *client.Template) []string {
			l := listingOf(t)
			stars := ""
			if l.Ratings > 0 {
				stars = strconv.FormatFloat(l.Stars, 'f', 1, 64)
			}
			return []string{
				fullName(t), versionText(t.Version), stars, strconv.FormatInt(l.Downloads, 10), c.when(t.UpdatedAt), words(l.Categories), l.Description,
			}
		}),
		json: func(t *client.Template) foundJSON {
			l := listingOf(t)
			return foundJSON{
				newTemplateJSON(t), l.Namespace, l.Description, l.Licence, append([]string{}, l.Categories...), append([]string{}, l.Keywords...), l.Stars, l.Ratings, l.Downloads, l.Deprecated,
			}
		},
	})
	cmd.Use, cmd.Aliases = "search [flags] [WORDS…]", nil
	cmd.Example = "  soulbox template search web server --category python\n  soulbox template search --package pip:numpy --sort stars"
	cmd.Args = wantArgs(0, -1)
	f := cmd.Flags()
	f.StringVar(&o.Category, "category", "", "only those of this category")
	f.StringVar(&o.Package, "package", "", "only those with this package in them: `NAME` or MANAGER:NAME")
	f.BoolVar(&o.Mine, "mine", false, "only your team's own")
	f.StringVar(&sort, "sort", "", "relevance, stars, starts, updated or name (default relevance; without words, starts)")
	_ = cmd.RegisterFlagCompletionFunc("sort", completeWords("relevance", "stars", "starts", "updated", "name")) // the flag exists
	return cmd
}

// listingOf returns what a template tells; a server that is older tells nothing.
func listingOf(t *client.Template) *client.Listing {
	if t.Listing == nil {
		return &client.Listing{}
	}
	return t.Listing
}

// fullName is what everybody can call a template.
func fullName(t *client.Template) string {
	if l := listingOf(t); l.Namespace != "" {
		return l.Namespace + "/" + t.Name
	}
	return t.Name
}

func publishCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "publish [flags] NAME",
		Short: "Let every team find and start a template, and say what they should know of it",
		Long: "Let every team find and start a template. What the flags say of it is shown to whoever\n" +
			"looks for one. Others see what is in it, and never its Dockerfile, logs and secrets.",
		Example:           "  soulbox template publish hello --description 'A small web server' --category web --licence MIT --readme README.md",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeTemplates,
	}
	f := cmd.Flags()
	description := f.String("description", "", "a line")
	licence := f.String("licence", "", "as SPDX names it, such as MIT")
	categories := f.StringArray("category", nil, "one that it belongs to; may be repeated")
	keywords := f.StringArray("keyword", nil, "one that it is to be found by; may be repeated")
	readme := f.String("readme", "", "`FILE` with Markdown")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		change := soulbox.ListingChange{}
		for flag, set := range map[string]func(){
			"description": func() { change.Description = description }, "licence": func() { change.Licence = licence },
			"category": func() { change.Categories = categories }, "keyword": func() { change.Keywords = keywords },
		} {
			if f.Changed(flag) {
				set()
			}
		}
		if *readme != "" {
			text, err := os.ReadFile(*readme)
			if err != nil {
				return soulbox.Errorf(soulbox.Invalid, "%w", err)
			}
			change.Readme = new(string(text))
		}
		// What it says of itself first: nobody should find it without.
		if change != (soulbox.ListingChange{}) {
			if _, err := api.Templates.SetListing(ctx, args[0], change); err != nil {
				return err
			}
		}
		t, err := api.Templates.Publish(ctx, args[0])
		if err != nil {
			return err
		}
		return c.print("%s", clean(fullName(t)))
	})
	return cmd
}

func unpublishCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "unpublish NAME",
		Short:             "Let only your own team find and start a template; sandboxes of others go on",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeTemplates,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			_, err := api.Templates.Unpublish(ctx, args[0])
			return err
		}),
	}
}

func forkTemplateCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "fork NAME[:TAG|@VERSION] [NEW]",
		Short:             "Make a template of your team's own of a version of another, and print its name",
		Example:           "  soulbox template fork acme/hello@1 hello",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeTemplates,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			template, at, err := parseAt(args[0])
			if err != nil {
				return err
			}
			t, err := api.Templates.Fork(ctx, template, at, second(args))
			if err != nil {
				return err
			}
			return c.print("%s", clean(t.Name))
		}),
	}
}

func rateCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "rate NAME STARS",
		Short: "Give another team's template 1 to 5 stars; 0 takes them back",
		Args:  wantArgs(2, 2),
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			stars, err := strconv.Atoi(args[1])
			if err != nil {
				return soulbox.Errorf(soulbox.Invalid, "stars are a number from 0 to 5, not %.80q", args[1])
			}
			_, err = api.Templates.Rate(ctx, args[0], stars)
			return err
		}),
	}
}

func reportCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "report NAME REASON",
		Short: "Tell the server's operator what is wrong with a template",
		Args:  wantArgs(2, 2),
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			return api.Templates.Report(ctx, args[0], args[1])
		}),
	}
}
