package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// cli is what every verb has: the streams, the environment and the global
// flags.
type cli struct {
	in       *os.File
	out, err io.Writer
	getenv   func(string) string

	inTTY, outTTY, errTTY bool // whether a person is at the other end
	colour                bool // of out

	data, apiURL, apiKey string // flags
	started              bool   // a verb has begun; errors before are about its usage
}

func newCLI(in, out, err *os.File, getenv func(string) string) *cli {
	c := &cli{in: in, out: out, err: err, getenv: getenv}
	c.inTTY = term.IsTerminal(int(in.Fd()))
	c.outTTY = term.IsTerminal(int(out.Fd()))
	c.errTTY = term.IsTerminal(int(err.Fd()))
	c.colour = c.outTTY && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
	return c
}

// client returns the way to the server.
func (c *cli) client() (*client.Client, error) {
	to, err := c.credentials()
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{APIURL: to.APIURL, APIKey: to.APIKey, SandboxURL: to.SandboxURL})
}

// credentials finds out which server is meant and what opens it: what the flags
// say, then what the environment says, then the data folder. --data is a flag
// like the others, so it wins over the environment.
func (c *cli) credentials() (credentials, error) {
	var to credentials
	if c.data == "" {
		to = credentials{APIURL: c.getenv("E2B_API_URL"), APIKey: c.getenv("E2B_API_KEY"), SandboxURL: c.getenv("E2B_SANDBOX_URL")}
	}
	if c.apiURL != "" {
		to.APIURL, to.SandboxURL = c.apiURL, "" // the environment's belongs to another server
	}
	if c.apiKey != "" {
		to.APIKey = c.apiKey
	}
	if to.APIURL != "" && to.APIKey != "" {
		return to, nil
	}
	kept, err := readCredentials(c.dataFolder())
	switch {
	case to.APIURL == "" && err != nil:
		return credentials{}, err
	case to.APIURL == "":
		to.APIURL, to.SandboxURL = kept.APIURL, kept.SandboxURL
	case err != nil || strings.TrimRight(to.APIURL, "/") != strings.TrimRight(kept.APIURL, "/"):
		// A key is for one server; it is not shown to another.
		return credentials{}, hint(soulbox.Errorf(soulbox.Unauthenticated, "no API key for the server at %s", to.APIURL), "set E2B_API_KEY")
	}
	if to.APIKey == "" {
		to.APIKey = kept.APIKey
	}
	return to, nil
}

// dataFolder returns the server's data folder.
func (c *cli) dataFolder() string {
	if c.data != "" {
		return c.data
	}
	return defaultData(c.getenv, os.Geteuid())
}

// asking makes a verb of what it asks the server for.
func (c *cli) asking(do func(ctx context.Context, api *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		api, err := c.client()
		if err != nil {
			return err
		}
		return do(cmd.Context(), api, args)
	}
}

// each does the same to each of several things, and prints the names of those
// to which it was done. One that fails does not spoil it for the next.
func (c *cli) each(ctx context.Context, what string, names []string, do func(name string) error) error {
	wait := c.progress(what)
	defer wait.stop()
	var failed error
	for _, name := range names {
		err := do(name)
		switch {
		case err == nil:
			if err := c.print("%s", clean(name)); err != nil {
				return err
			}
		case errors.Is(err, errSkip):
		case ctx.Err() != nil:
			return err
		default:
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// errSkip tells each that there was nothing to be done, and nothing to be said.
var errSkip = errors.New("skipped")

// skipGone forgives what is not there any more.
func skipGone(err error) error {
	if err != nil && soulbox.KindOf(err) == soulbox.NotFound {
		return errSkip
	}
	return err
}

// group makes a command that only has others below it.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: help}
	g.AddCommand(verbs...)
	return g
}

func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// noArgs refuses arguments; on a group of verbs they are an unknown verb.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		cmd.SuggestionsMinimumDistance = 2 // cobra's own, where it checks arguments itself
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef(cmd, "unknown command %q; did you mean %s?", args[0], strings.Join(near, " or "))
		}
		return usagef(cmd, "unknown command %q", args[0])
	}
	return usagef(cmd, "unexpected argument %q", args[0])
}

// wantArgs asks for between least and most arguments; most < 0 has no bound.
func wantArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef(cmd, "an argument is missing")
		case most >= 0 && len(args) > most:
			return usagef(cmd, "unexpected argument %q", args[most])
		}
		return nil
	}
}

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return hint(soulbox.Errorf(soulbox.Invalid, format, args...), "usage: "+cmd.UseLine())
}

// afterDash splits the arguments into those before and after "--". Without one,
// the command begins after the first n arguments.
func afterDash(cmd *cobra.Command, args []string, n int) (before, command []string, err error) {
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		if dash != n {
			return nil, nil, usagef(cmd, "%d arguments before --, not %d", n, dash)
		}
	}
	if len(args) < n {
		return nil, nil, usagef(cmd, "an argument is missing")
	}
	return args[:n], args[n:], nil
}

// pairs reads K=V flags.
func pairs(flag string, list []string) (map[string]string, error) {
	m := make(map[string]string, len(list))
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, soulbox.Errorf(soulbox.Invalid, "--%s %q is not of the form name=value", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}

// completeWords returns a completion for a flag or argument with few values.
func completeWords(words ...string) cobra.CompletionFunc {
	words = slices.Clone(words)
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// complete returns a completion by what the server says.
func (c *cli) complete(list func(ctx context.Context, api *client.Client, args []string) ([]cobra.Completion, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		api, err := c.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		words, err := list(cmd.Context(), api, args)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSandboxes completes the ids of live sandboxes.
func (c *cli) completeSandboxes(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return c.complete(func(ctx context.Context, api *client.Client, _ []string) ([]cobra.Completion, error) {
		var ids []cobra.Completion
		for info, err := range api.Sandboxes.List(ctx, client.ListOptions{}) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, cobra.CompletionWithDesc(info.ID, info.Template))
		}
		return ids, nil
	})(cmd, args, word)
}
