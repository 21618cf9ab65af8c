package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func sessionCommand(c *cli) *cobra.Command {
	return group("session", "Work in sandboxes, go away and come back",
		sessionCreateCommand(c),
		sessionLsCommand(c),
		sessionInfoCommand(c),
		sessionAddCommand(c),
		sessionRemoveCommand(c),
		sessionRunCommand(c),
		sessionAttachCommand(c),
		sessionEventsCommand(c),
		sessionHeartbeatCommand(c),
		sessionCheckpointCommand(c),
		sessionResumeCommand(c),
		sessionEndCommand(c),
	)
}

func sessionCreateCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [flags] [SANDBOX…]",
		Short: "Open a session with sandboxes, and print its id",
		Example: "  box=$(soulbox sandbox create --timeout 1h)\n" +
			"  id=$(soulbox session create $box)\n" +
			"  soulbox session run $id -- make test",
		ValidArgsFunction: c.completeSandboxes,
	}
	f := cmd.Flags()
	lifetime := f.Duration("lifetime", 0, "when it ends by itself (default the server's, 24h; at most 30 days)")
	interval := f.Duration("heartbeat", 0, "how often its client means to be heard of (default the server's, 30s)")
	timeout := f.Duration("heartbeat-timeout", 0, "after what silence its client counts as absent (default three heartbeats)")
	then := f.String("absent", "", "what then happens to its sandboxes once they are idle: pause, kill or nothing (default pause)")
	notes := f.StringArrayP("metadata", "m", nil, "note for finding it again, `NAME=VALUE`; may be repeated")
	watch := f.StringArray("watch", nil, "absolute `FOLDER` in its sandboxes of which changes are told; may be repeated")
	asJSON := jsonFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("absent", completeWords("pause", "kill", "nothing")) // the flag exists
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		metadata, err := pairs("metadata", *notes)
		if err != nil {
			return err
		}
		s, err := api.Sessions.Create(ctx, client.SessionOptions{
			Lifetime: *lifetime, Heartbeat: soulbox.Heartbeat{Interval: *interval, Timeout: *timeout, Then: soulbox.Absence(*then)},
			Metadata: metadata, Watch: *watch, Sandboxes: args,
		})
		if err != nil {
			return err
		}
		if *asJSON {
			return c.json(newSessionJSON(s))
		}
		return c.print("%s", clean(string(s.ID)))
	})
	return cmd
}

func sessionLsCommand(c *cli) *cobra.Command {
	var ended bool
	cmd := lsVerb(c, listing[*soulbox.Session, sessionJSON]{
		short: "List sessions, the newest first",
		head:  []string{"ID", "STATE", "SANDBOXES", "CREATED", "EXPIRES", "HEARD OF", "METADATA"},
		ask: func(ctx context.Context, api *client.Client, _ []string) ([]*soulbox.Session, error) {
			return collect(api.Sessions.List(ctx, ended))
		},
		rows: rowsOf(func(s *soulbox.Session) []string {
			return []string{
				string(s.ID), sessionState(s), strconv.Itoa(len(s.Present())), c.when(s.CreatedAt), c.when(s.ExpiresAt), c.when(s.BeatAt), metadata(s.Metadata),
			}
		}),
		json: newSessionJSON,
	})
	cmd.Flags().BoolVar(&ended, "ended", false, "also those that have ended")
	return cmd
}

func sessionState(s *soulbox.Session) string {
	if s.End != nil {
		return "ended"
	}
	return "open"
}

func sessionInfoCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "info [flags] SESSION",
		Short:             "Tell about one session; with --state, also what runs in its sandboxes, in JSON",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeSessions,
	}
	asJSON := jsonFlag(cmd)
	state := cmd.Flags().Bool("state", false, "print its state: variables, processes, ports, open files")
	since := cmd.Flags().String("since", "", "with --state, also what has changed since the state with this `TOKEN`")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		if *state || *since != "" {
			doc, err := api.Sessions.State(ctx, args[0], *since)
			if err != nil {
				return err
			}
			return c.json(doc)
		}
		s, err := api.Sessions.Get(ctx, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return c.json(newSessionJSON(s))
		}
		list := [][2]string{
			{"id", string(s.ID)},
			{"state", sessionState(s)},
			{"created", c.when(s.CreatedAt)},
			{"expires", c.when(s.ExpiresAt)},
			{"heard of", c.when(s.BeatAt)},
			{"heartbeat", fmt.Sprintf("every %v; absent after %v: %s", s.Heartbeat.Interval, s.Heartbeat.Timeout, s.Heartbeat.Then)},
			{"metadata", metadata(s.Metadata)},
		}
		for _, m := range s.Members {
			what := string(m.Sandbox)
			if !m.LeftAt.IsZero() {
				what += " (left)"
			}
			list = append(list, [2]string{"sandbox", what})
		}
		if s.End != nil {
			list = append(list, [2]string{"end", s.End.String()})
		}
		return c.fields(list)
	})
	return cmd
}

func sessionAddCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "add SESSION SANDBOX…",
		Short:             "Let sandboxes join a session",
		Args:              wantArgs(2, -1),
		ValidArgsFunction: c.completeSessions,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			return c.each(ctx, "adding sandboxes", args[1:], func(id string) error {
				_, err := api.Sessions.Add(ctx, args[0], id)
				return err
			})
		}),
	}
}

func sessionRemoveCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "remove SESSION SANDBOX…",
		Short:             "Take sandboxes out of a session; they go on",
		Args:              wantArgs(2, -1),
		ValidArgsFunction: c.completeSessions,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			return c.each(ctx, "removing sandboxes", args[1:], func(id string) error {
				_, err := api.Sessions.Remove(ctx, args[0], id)
				return err
			})
		}),
	}
}

func sessionHeartbeatCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "heartbeat [flags] SESSION",
		Short:             "Tell that the client of a session is there",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeSessions,
	}
	resume := cmd.Flags().Bool("resume", false, "also resume its sandboxes that are paused")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		_, results, err := api.Sessions.Heartbeat(ctx, args[0], *resume)
		if err != nil {
			return err
		}
		return c.results(results)
	})
	return cmd
}

func sessionCheckpointCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "checkpoint [flags] SESSION [NAME]",
		Short:             "Write all sandboxes of a session down, and print the checkpoint's name; with --list, print those there are",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeSessions,
	}
	list := cmd.Flags().Bool("list", false, "list the checkpoints instead, oldest first")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		if *list {
			all, err := api.Sessions.Checkpoints(ctx, args[0])
			if err != nil {
				return err
			}
			return c.table([]string{"NAME", "ID", "SANDBOXES", "CREATED"}, rowsOf(func(s *soulbox.SessionSave) []string {
				return []string{s.Name, string(s.ID), strconv.Itoa(len(s.Members)), c.when(s.CreatedAt)}
			})(all))
		}
		wait := c.progress("writing the sandboxes down")
		defer wait.stop()
		s, err := api.Sessions.Checkpoint(ctx, args[0], second(args))
		if err != nil {
			return err
		}
		wait.stop()
		return c.print("%s", clean(s.Name))
	})
	return cmd
}

func sessionResumeCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "resume SESSION [CHECKPOINT]",
		Short: "Resume the sandboxes of a session that are paused, or take all of them back to a checkpoint",
		Long: "Resume the sandboxes of a session that are paused. With a checkpoint, by name or id,\n" +
			"all of its sandboxes return to that moment; what they have done since is lost.",
		Args:              wantArgs(1, 2),
		ValidArgsFunction: c.completeSessions,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			wait := c.progress("resuming the session")
			defer wait.stop()
			results, err := api.Sessions.Resume(ctx, args[0], second(args))
			if err != nil {
				return err
			}
			wait.stop()
			return c.results(results)
		}),
	}
}

func sessionEndCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "end [flags] SESSION…",
		Short:             "End sessions; their sandboxes go on with their own timeouts",
		Args:              wantArgs(1, -1),
		ValidArgsFunction: c.completeSessions,
	}
	then := cmd.Flags().String("sandboxes", "", "also do this to their sandboxes: pause or kill")
	_ = cmd.RegisterFlagCompletionFunc("sandboxes", completeWords("pause", "kill")) // the flag exists
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		return c.each(ctx, "ending sessions", args, func(id string) error {
			results, err := api.Sessions.End(ctx, id, soulbox.Absence(*then))
			return errors.Join(err, failures(results))
		})
	})
	return cmd
}

// results prints the sandboxes to which something was done, and returns why it
// was not done to the others.
func (c *cli) results(results []soulbox.MemberResult) error {
	for _, r := range results {
		if r.Err == nil {
			if err := c.print("%s", clean(string(r.Sandbox))); err != nil {
				return err
			}
		}
	}
	return failures(results)
}

func failures(results []soulbox.MemberResult) error {
	var errs []error
	for _, r := range results {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s: %w", r.Sandbox, r.Err))
		}
	}
	return errors.Join(errs...)
}

// completeSessions completes the ids of open sessions, then sandboxes.
func (c *cli) completeSessions(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return c.completeSandboxes(cmd, args, word)
	}
	return c.complete(func(ctx context.Context, api *client.Client, _ []string) ([]cobra.Completion, error) {
		var ids []cobra.Completion
		for s, err := range api.Sessions.List(ctx, false) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, cobra.CompletionWithDesc(string(s.ID), metadata(s.Metadata)))
		}
		return ids, nil
	})(cmd, args, word)
}

type sessionJSON struct {
	ID        soulbox.SessionID          `json:"id"`
	State     string                     `json:"state"`
	CreatedAt time.Time                  `json:"created_at"`
	ExpiresAt time.Time                  `json:"expires_at"`
	HeardOf   time.Time                  `json:"heard_of_at"`
	Absent    soulbox.Absence            `json:"absent"`
	Metadata  map[string]string          `json:"metadata,omitempty"`
	Variables map[string]json.RawMessage `json:"variables,omitempty"`
	Sandboxes []soulbox.SandboxID        `json:"sandboxes"`
	End       string                     `json:"end,omitempty"`
}

func newSessionJSON(s *soulbox.Session) sessionJSON {
	j := sessionJSON{
		ID: s.ID, State: sessionState(s), CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt, HeardOf: s.BeatAt, Absent: s.Heartbeat.Then,
		Metadata: s.Metadata, Variables: s.Variables, Sandboxes: append([]soulbox.SandboxID{}, s.Present()...),
	}
	if s.End != nil {
		j.End = s.End.String()
	}
	return j
}
