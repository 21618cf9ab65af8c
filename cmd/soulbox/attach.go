package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func sessionRunCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags] SESSION -- COMMAND [ARG…]",
		Short: "Run a command in a sandbox of a session, and see it through",
		Long: "Run a command in a sandbox of a session, stream what it prints, and end with its exit\n" +
			"code. When the connection is lost or the server restarts, the stream goes on where it\n" +
			"was. Ctrl-C leaves the command running; attach shows the rest. It has no input.",
		Example:           "  soulbox session run e4x9… -- make test",
		Args:              wantArgs(2, -1),
		ValidArgsFunction: c.completeSessions,
	}
	f := cmd.Flags()
	in := f.String("sandbox", "", "in this sandbox; needed if the session has several")
	env := f.StringArrayP("env", "e", nil, "set a variable, `NAME=VALUE`; may be repeated")
	dir := f.String("cwd", "", "working folder (default the template's)")
	user := f.StringP("user", "u", "", "user to run as (default the template's)")
	detach := f.BoolP("detach", "d", false, "print the id of the last event before it, and leave it running")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, command, err := afterDash(cmd, args, 1)
		if err != nil {
			return err
		}
		vars, err := pairs("env", *env)
		if err != nil {
			return err
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		started, err := api.Sessions.Start(ctx, id[0], soulbox.SessionCommand{
			Sandbox: soulbox.SandboxID(*in), Args: command, Env: vars, Dir: *dir, User: *user,
		})
		if err != nil {
			return err
		}
		if *detach {
			return c.print("%d", started.After)
		}
		defer beat(ctx, api, id[0])()
		return c.seeThrough(ctx, api, id[0], started)
	}
	return cmd
}

// seeThrough streams what a program prints until it ends, and ends with its
// exit code.
func (c *cli) seeThrough(ctx context.Context, api *client.Client, id string, p *soulbox.StartedCommand) error {
	began := false // what came before may be another's that had the same number
	for e, err := range api.Sessions.Events(ctx, id, client.EventsOptions{After: p.After, Follow: true, Lost: c.lost}) {
		if err != nil {
			return err
		}
		if e.Kind == soulbox.LogGap || e.Sandbox == p.Sandbox && e.Kind == soulbox.SessionEventKind(soulbox.EventGap) {
			began = true
			c.note("some of the output is gone: %d events are not kept any more", lostOf(e))
			continue
		}
		if e.Sandbox != p.Sandbox {
			continue
		}
		switch {
		case e.Kind == soulbox.SandboxEnded || e.Kind == soulbox.SandboxRolledBack:
			return soulbox.Errorf(soulbox.Unavailable, "the command did not end by itself: %s", e.Kind)
		case e.Guest == nil || e.Guest.PID != p.PID:
			continue
		}
		began = began || e.Guest.Kind == soulbox.EventStarted
		if !began {
			continue
		}
		if err := c.output(e.Guest); err != nil {
			return err
		}
		if e.Guest.Kind == soulbox.EventEnded {
			return exitOfGuest(e.Guest)
		}
	}
	return soulbox.Errorf(soulbox.Unavailable, "the session ended before the command did")
}

func lostOf(e soulbox.SessionEvent) uint64 {
	if e.Guest != nil {
		return e.Guest.Lost
	}
	return e.Lost
}

func exitOfGuest(g *soulbox.GuestEvent) error {
	switch {
	case g.Signal != "":
		if n := unix.SignalNum(g.Signal); n != 0 {
			return codeError(exitSignal + int(n))
		}
		return soulbox.Errorf(soulbox.Unavailable, "the command was ended by a signal: %s", g.Signal)
	case g.ExitCode != 0:
		return codeError(g.ExitCode & 0xff)
	}
	return nil
}

// output prints what a program wrote where it meant it.
func (c *cli) output(g *soulbox.GuestEvent) error {
	if g.Kind != soulbox.EventOutput {
		return nil
	}
	to := c.out
	if g.Stream == "stderr" {
		to = c.err
	}
	_, err := to.Write(g.Data)
	return err
}

// lost tells a person that the connection is gone.
func (c *cli) lost(err error, wait time.Duration) {
	if c.errTTY && wait > time.Second { // a short break is nobody's concern
		c.note("%s; trying again", clean(err.Error()))
	}
}

func (c *cli) note(format string, args ...any) {
	_, _ = fmt.Fprintf(c.err, "soulbox: "+format+"\n", args...) // there is nowhere else to say it
}

// beat sends heartbeats for a session until stop is called, which waits.
func beat(ctx context.Context, api *client.Client, id string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			wait := soulbox.HeartbeatInterval
			// One that fails is noticed by the stream that broke as well.
			if s, _, err := api.Sessions.Heartbeat(ctx, id, false); err == nil && s.Heartbeat.Interval > 0 {
				wait = s.Heartbeat.Interval
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func sessionAttachCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attach [flags] SESSION",
		Short: "Be there: show what programs print and what else happens, and send heartbeats",
		Long: "Be there: show what the programs in a session print, say on stderr what else happens,\n" +
			"and send heartbeats, until Ctrl-C or the end of the session. Sandboxes that are paused\n" +
			"are resumed. When the connection is lost or the server restarts, it goes on where it was.",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeSessions,
	}
	after := cmd.Flags().Int64("after", -1, "begin behind the event with this id; 0 is the beginning (default now)")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		from, err := c.startAt(ctx, api, args[0], *after)
		if err != nil {
			return err
		}
		_, results, err := api.Sessions.Heartbeat(ctx, args[0], true)
		switch over := soulbox.KindOf(err) == soulbox.Conflict && *after >= 0; {
		case err == nil:
			defer beat(ctx, api, args[0])()
		case !over: // else there is nothing to keep alive, and still something to see
			return err
		}
		if err := failures(results); err != nil {
			c.note("%s", clean(err.Error()))
		}
		for e, err := range api.Sessions.Events(ctx, args[0], client.EventsOptions{After: from, Follow: true, Lost: c.lost}) {
			switch {
			case err != nil:
				return err
			case e.Guest != nil && e.Guest.Kind == soulbox.EventOutput:
				if err := c.output(e.Guest); err != nil {
					return err
				}
			default:
				c.note("%s", clean(eventText(e)))
			}
		}
		return nil
	})
	return cmd
}

// startAt returns behind which event to begin; less than 0 is the newest.
func (c *cli) startAt(ctx context.Context, api *client.Client, id string, after int64) (uint64, error) {
	if after >= 0 {
		return uint64(after), nil
	}
	doc, err := api.Sessions.State(ctx, id, "")
	if err != nil {
		return 0, err
	}
	var state struct {
		Last uint64 `json:"last_event_id"`
	}
	if err := json.Unmarshal(doc, &state); err != nil {
		return 0, soulbox.Errorf(soulbox.Unavailable, "the server's answer is not what a SoulBox server says: %w", err)
	}
	return state.Last, nil
}

func sessionEventsCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "events [flags] SESSION",
		Short:             "Print what happened in a session",
		Args:              wantArgs(1, 1),
		ValidArgsFunction: c.completeSessions,
	}
	after := cmd.Flags().Uint64("after", 0, "only events behind the one with this id")
	follow := cmd.Flags().BoolP("follow", "f", false, "wait for more until the session ends")
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		for e, err := range api.Sessions.Events(ctx, args[0], client.EventsOptions{After: *after, Follow: *follow, Lost: c.lost}) {
			if err != nil {
				return err
			}
			if *asJSON {
				err = c.jsonLine(newEventJSON(e))
			} else {
				err = c.tabbed(strconv.FormatUint(e.ID, 10), e.At.UTC().Format(time.RFC3339), eventText(e))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return cmd
}

// eventText is an event in one line.
func eventText(e soulbox.SessionEvent) string {
	s := string(e.Kind)
	if e.Sandbox != "" {
		s += " " + string(e.Sandbox)
	}
	if g := e.Guest; g != nil {
		switch g.Kind {
		case soulbox.EventStarted:
			return fmt.Sprintf("%s %d %s", s, g.PID, g.Command)
		case soulbox.EventOutput:
			return fmt.Sprintf("%s %d %s %q", s, g.PID, g.Stream, g.Data)
		case soulbox.EventEnded:
			if g.Signal != "" {
				return fmt.Sprintf("%s %d %s", s, g.PID, g.Signal)
			}
			return fmt.Sprintf("%s %d exit %d", s, g.PID, g.ExitCode)
		case soulbox.EventFile:
			return fmt.Sprintf("%s %s %s", s, g.Op, g.Path)
		case soulbox.EventGap:
			return fmt.Sprintf("%s: %d events are not kept any more", s, g.Lost)
		}
	}
	switch {
	case e.Kind == soulbox.LogGap:
		s += fmt.Sprintf(": %d events are not kept any more", e.Lost)
	case e.Kind == soulbox.EventsUndone:
		s += fmt.Sprintf(": %d events have not happened any more", e.Lost)
	case e.Name != "":
		s += " " + e.Name
	case e.Snapshot != "":
		s += " " + string(e.Snapshot)
	}
	if e.Reason != "" && e.Kind != soulbox.EventsUndone {
		s += ": " + e.Reason
	}
	return s
}

type eventJSON struct {
	ID         uint64                   `json:"id"`
	At         time.Time                `json:"at"`
	Kind       soulbox.SessionEventKind `json:"kind"`
	Sandbox    soulbox.SandboxID        `json:"sandbox,omitempty"`
	PID        int                      `json:"pid,omitempty"`
	Command    string                   `json:"command,omitempty"`
	Stream     string                   `json:"stream,omitempty"`
	Data       []byte                   `json:"data,omitempty"` // base64
	ExitCode   *int                     `json:"exit_code,omitempty"`
	Signal     string                   `json:"signal,omitempty"`
	Path       string                   `json:"path,omitempty"`
	Op         string                   `json:"op,omitempty"`
	Lost       uint64                   `json:"lost,omitempty"`
	Checkpoint string                   `json:"checkpoint,omitempty"`
	Reason     string                   `json:"reason,omitempty"`
}

func newEventJSON(e soulbox.SessionEvent) eventJSON {
	j := eventJSON{ID: e.ID, At: e.At, Kind: e.Kind, Sandbox: e.Sandbox, Lost: lostOf(e), Checkpoint: e.Name + string(e.Snapshot), Reason: e.Reason}
	if g := e.Guest; g != nil {
		j.PID, j.Command, j.Stream, j.Data, j.Signal, j.Path, j.Op = g.PID, g.Command, g.Stream, g.Data, g.Signal, g.Path, g.Op
		if g.Kind == soulbox.EventEnded {
			j.ExitCode = new(g.ExitCode)
		}
	}
	return j
}
