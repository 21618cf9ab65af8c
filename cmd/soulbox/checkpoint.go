package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func checkpointCommand(c *cli) *cobra.Command {
	return group("checkpoint", "Return a sandbox to an earlier moment",
		checkpointCreateCommand(c),
		checkpointLsCommand(c),
		checkpointDiffCommand(c),
		checkpointRollbackCommand(c),
		checkpointRmCommand(c),
	)
}

func checkpointCreateCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [flags] SANDBOX [NAME]",
		Short: "Write a running sandbox down, to return to this moment, and print the checkpoint's id",
		Example: "  soulbox checkpoint create i6k2… before\n" +
			"  soulbox checkpoint rollback i6k2… before",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeSandboxes,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		wait := c.progress("writing the sandbox down")
		defer wait.stop()
		cp, err := api.Sandboxes.Checkpoint(ctx, args[0], second(args))
		if err != nil {
			return err
		}
		wait.stop()
		if *asJSON {
			return c.json(newSnapshotJSON(cp))
		}
		return c.print("%s", clean(cp.ID))
	})
	return cmd
}

func checkpointLsCommand(c *cli) *cobra.Command {
	l := listing[*client.Snapshot, snapshotJSON]{
		short: "List a sandbox's checkpoints, each below the one that it came after; * is where the sandbox is",
		ask: func(ctx context.Context, api *client.Client, args []string) ([]*client.Snapshot, error) {
			return api.Sandboxes.Checkpoints(ctx, args[0])
		},
		json: newSnapshotJSON,
	}
	if c.outTTY {
		l.head = []string{"", "CHECKPOINT", "ID", "SIZE", "MEMORY", "CREATED"}
		l.rows = func(list []*client.Snapshot) [][]string {
			return rowsOf(func(t twig) []string {
				name := t.Name
				if name == "" {
					name = "(no name)"
				}
				return []string{mark(t.Snapshot), t.branch + name, t.ID, c.size(t.Bytes), yesNo(t.Memory), c.when(t.CreatedAt)}
			})(asTree(list))
		}
	} else {
		l.rows = rowsOf(func(s *client.Snapshot) []string {
			return []string{s.ID, s.Name, s.Parent, c.size(s.Bytes), yesNo(s.Memory), c.when(s.CreatedAt), mark(s)}
		})
	}
	cmd := lsVerb(c, l)
	cmd.Use = "ls [flags] SANDBOX"
	cmd.Args = wantArgs(1, 1)
	cmd.ValidArgsFunction = c.completeSandboxes
	return cmd
}

// mark marks the checkpoint that the sandbox comes from now.
func mark(s *client.Snapshot) string {
	if s.Current {
		return "*"
	}
	return ""
}

type changeJSON struct {
	Path string             `json:"path"`
	Kind soulbox.ChangeKind `json:"kind"`
	Type soulbox.FileType   `json:"type"`
	Size soulbox.Bytes      `json:"bytes"`
}

func checkpointDiffCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [flags] SANDBOX CHECKPOINT [CHECKPOINT]",
		Short: "Show which files differ between two checkpoints, or between one and now",
		Long: "Show which files of a sandbox differ at the second checkpoint, as against the first;\n" +
			"without the second, or with the word now, in the sandbox as it is, which has to run.\n" +
			"Each line has what became of the file, its size after that, and its path. A folder\n" +
			"that came or went with something in it is not shown, but what was in it.",
		Example: "  soulbox checkpoint diff i6k2… before\n" +
			"  soulbox checkpoint diff i6k2… before after",
		Args:              wantArgs(2, 3),
		ValidArgsFunction: c.completeCheckpoints,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		wait := c.progress("comparing")
		defer wait.stop()
		found, err := api.Sandboxes.Diff(ctx, args[0], args[1], second(args[1:]))
		if err != nil {
			return err
		}
		wait.stop()
		if *asJSON {
			list := []changeJSON{}
			for _, f := range found.List {
				list = append(list, changeJSON(f))
			}
			return c.json(struct {
				Changes   []changeJSON `json:"changes"`
				Truncated bool         `json:"truncated"`
			}{list, found.Truncated})
		}
		rows := [][]string{}
		for _, f := range found.List {
			size := ""
			if f.Type == soulbox.File && f.Kind != soulbox.Removed {
				size = c.size(f.Size)
			}
			path := f.Path
			if f.Type == soulbox.Folder {
				path += "/"
			}
			rows = append(rows, []string{string(f.Kind), size, path})
		}
		if err := c.table([]string{"CHANGE", "SIZE", "PATH"}, rows); err != nil {
			return err
		}
		if found.Truncated {
			_, err := fmt.Fprintf(c.err, "soulbox: there are more changes than these %d\n", len(rows))
			return err
		}
		return nil
	})
	return cmd
}

func checkpointRollbackCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback SANDBOX CHECKPOINT",
		Short: "Return a sandbox to the moment of a checkpoint, by the checkpoint's id or name",
		Long: "Return a sandbox to the moment of a checkpoint. It keeps its id; connections into it\n" +
			"are cut. What it has done since is lost, unless another checkpoint has it.",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeCheckpoints,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			defer c.progress("rolling the sandbox back").stop()
			_, err := api.Sandboxes.Rollback(ctx, args[0], args[1])
			return err
		}),
	}
}

func checkpointRmCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "rm SANDBOX CHECKPOINT…",
		Aliases:           []string{"delete"},
		Short:             "Remove checkpoints of a sandbox, by id or name; what came after them stays",
		Args:              wantArgs(2, -1),
		ValidArgsFunction: c.completeCheckpoints,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			sandbox := args[0]
			all := sync.OnceValues(func() ([]*client.Snapshot, error) { return api.Sandboxes.Checkpoints(ctx, sandbox) })
			return c.each(ctx, "removing checkpoints", args[1:], func(ref string) error {
				id, err := snapshotID(ref, all)
				if err != nil {
					return err
				}
				return api.Sandboxes.RemoveCheckpoint(ctx, sandbox, id)
			})
		}),
	}
}

// completeCheckpoints completes a sandbox, then its checkpoints.
func (c *cli) completeCheckpoints(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeSandboxes(cmd, args, word)
	}
	return c.complete(func(ctx context.Context, api *client.Client, args []string) ([]cobra.Completion, error) {
		return completeSnapshots(api.Sandboxes.Checkpoints(ctx, args[0]))
	})(cmd, args, word)
}
