package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func snapshotCommand(c *cli) *cobra.Command {
	return group("snapshot", "Keep sandboxes as they are, to make others of them",
		snapshotCreateCommand(c),
		snapshotLsCommand(c),
		snapshotRmCommand(c),
		snapshotPruneCommand(c),
	)
}

func snapshotCreateCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "create SANDBOX [NAME]",
		Short: "Write a running sandbox down and print the snapshot's id",
		Long: "Write a running sandbox down, files and programs, while it runs on. Sandboxes are\n" +
			"made of the snapshot by its id or name, as of a template.",
		Example:           "  soulbox snapshot create i6k2… ready && soulbox sandbox create -t ready",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeSandboxes,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			wait := c.progress("writing the sandbox down")
			defer wait.stop()
			id, err := api.Sandboxes.Snapshot(ctx, args[0], second(args))
			if err != nil {
				return err
			}
			wait.stop()
			return c.print("%s", clean(id))
		}),
	}
}

// second returns the argument that may be left out.
func second(args []string) string {
	if len(args) > 1 {
		return args[1]
	}
	return ""
}

func snapshotLsCommand(c *cli) *cobra.Command {
	all := false
	cmd := lsVerb(c, listing[*client.Snapshot, snapshotJSON]{
		short: "List snapshots, what they take on disk, and how much that is together",
		head:  []string{"ID", "NAME", "KIND", "SANDBOX", "SIZE", "MEMORY", "CREATED"},
		ask: func(ctx context.Context, api *client.Client, _ []string) ([]*client.Snapshot, error) {
			kind := soulbox.ForCreate
			if all {
				kind = ""
			}
			return collect(api.Sandboxes.Snapshots(ctx, kind))
		},
		rows: rowsOf(func(s *client.Snapshot) []string {
			return []string{s.ID, s.Name, string(s.Kind), s.Sandbox, c.size(s.Bytes), yesNo(s.Memory), c.when(s.CreatedAt)}
		}),
		json: newSnapshotJSON,
		foot: total,
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "include what paused sandboxes and checkpoints take")
	return cmd
}

// total says how much snapshots take together.
func total(list []*client.Snapshot) string {
	var sum soulbox.Bytes
	for _, s := range list {
		sum += s.Bytes
	}
	what := " snapshots, "
	if len(list) == 1 {
		what = " snapshot, "
	}
	return strconv.Itoa(len(list)) + what + rounded(sum)
}

func snapshotRmCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm SNAPSHOT…",
		Aliases: []string{"delete"},
		Short:   "Remove snapshots, by id or name; sandboxes made of them go on",
		Args:    wantArgs(1, -1),
		ValidArgsFunction: c.complete(func(ctx context.Context, api *client.Client, _ []string) ([]cobra.Completion, error) {
			return completeSnapshots(collect(api.Sandboxes.Snapshots(ctx, soulbox.ForCreate)))
		}),
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			all := sync.OnceValues(func() ([]*client.Snapshot, error) { return collect(api.Sandboxes.Snapshots(ctx, soulbox.ForCreate)) })
			return c.each(ctx, "removing snapshots", args, func(ref string) error {
				id, err := snapshotID(ref, all)
				if err != nil {
					return err
				}
				return api.Sandboxes.RemoveSnapshot(ctx, id)
			})
		}),
	}
}

func snapshotPruneCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune --older-than AGE [flags]",
		Short: "Remove all snapshots that are older than an age, and print their ids",
		Long: "Remove all snapshots that are older than an age. What paused sandboxes and\n" +
			"checkpoints take is not touched. It asks before it does, unless --yes is given.",
		Example: "  soulbox snapshot prune --older-than 720h",
	}
	f := cmd.Flags()
	age := f.Duration("older-than", 0, "the `AGE`, such as 720h")
	yes := f.Bool("yes", false, "do not ask")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("older-than"):
			return usagef(cmd, "--older-than is missing")
		case *age < 0:
			return usagef(cmd, "--older-than %v is in the future", *age)
		}
		return noArgs(cmd, args)
	}
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, _ []string) error {
		limit := time.Now().Add(-*age)
		var old []*client.Snapshot
		var ids []string
		for s, err := range api.Sandboxes.Snapshots(ctx, soulbox.ForCreate) {
			if err != nil {
				return err
			}
			if s.CreatedAt.Before(limit) {
				old = append(old, s)
				ids = append(ids, s.ID)
			}
		}
		if len(old) == 0 {
			return nil
		}
		if !*yes {
			if ok, err := c.confirm(ctx, "this removes "+total(old)); !ok {
				return err
			}
		}
		return c.each(ctx, "removing snapshots", ids, func(id string) error {
			return skipGone(api.Sandboxes.RemoveSnapshot(ctx, id)) // somebody else was faster
		})
	})
	return cmd
}

// confirm asks a person whether to go on; a program has to say --yes.
func (c *cli) confirm(ctx context.Context, what string) (bool, error) {
	if !c.inTTY || !c.errTTY {
		return false, hint(soulbox.Errorf(soulbox.Invalid, "%s", what), "say --yes if you mean it")
	}
	if _, err := fmt.Fprintf(c.err, "%s. Go on? [y/N] ", what); err != nil {
		return false, err
	}
	// Reading a terminal cannot be called off, so this goroutine ends with the
	// next line or with the program.
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(c.in).ReadString('\n') // no line is no
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case a := <-answer:
		return a == "y" || a == "yes", nil
	}
}

// snapshotID returns the id of the snapshot that is meant by ref, an id or the
// name of one among all.
func snapshotID(ref string, all func() ([]*client.Snapshot, error)) (string, error) {
	if soulbox.SnapshotID(ref).Valid() {
		return ref, nil
	}
	list, err := all()
	if err != nil {
		return "", err
	}
	for _, s := range list {
		if s.Name == ref && ref != "" {
			return s.ID, nil
		}
	}
	return "", soulbox.Errorf(soulbox.NotFound, "there is none with the name or id %.80q", ref)
}

// completeSnapshots completes the names of those that have one, and the ids of
// the others.
func completeSnapshots(list []*client.Snapshot, err error) ([]cobra.Completion, error) {
	var words []cobra.Completion
	for _, s := range list {
		word := s.Name
		if word == "" {
			word = s.ID
		}
		words = append(words, cobra.CompletionWithDesc(clean(word), rounded(s.Bytes)))
	}
	return words, err
}

// snapshotJSON is a snapshot or checkpoint as --json prints it, with the fields
// of [client.Snapshot].
type snapshotJSON struct {
	ID        string               `json:"id"`
	Kind      soulbox.SnapshotKind `json:"kind"`
	Name      string               `json:"name,omitempty"`
	Sandbox   string               `json:"sandbox_id"`
	Parent    string               `json:"parent,omitempty"`
	Bytes     soulbox.Bytes        `json:"bytes"`
	Memory    bool                 `json:"memory"`
	Current   bool                 `json:"current,omitempty"` // of a checkpoint
	CreatedAt time.Time            `json:"created_at"`
}

func newSnapshotJSON(s *client.Snapshot) snapshotJSON { return snapshotJSON(*s) }
