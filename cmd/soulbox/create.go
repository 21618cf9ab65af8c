package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func createCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create [flags]",
		Short: "Start a sandbox and print its id",
		Example: "  id=$(soulbox sandbox create --timeout 1h)\n" +
			"  soulbox sandbox exec $id -- python3 --version",
		Args: noArgs,
	}
	made := createFlags(cmd, true)
	env := cmd.Flags().StringArrayP("env", "e", nil, "set a variable for every program, `NAME=VALUE`; may be repeated")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := made.options()
		if err != nil {
			return err
		}
		if o.Env, err = pairs("env", *env); err != nil {
			return err
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		box, err := c.create(cmd.Context(), api, o)
		if err != nil {
			return err
		}
		if !*asJSON {
			return c.print("%s", box.ID)
		}
		info, err := api.Sandboxes.Get(cmd.Context(), box.ID)
		if err != nil {
			return err
		}
		return c.json(newSandboxJSON(info))
	}
	return cmd
}

// created are the flags of what makes a sandbox.
type created struct {
	template   string
	metadata   []string
	noInternet bool
	private    bool
	isolation  string // empty: the template's
	timeout    time.Duration
	onTimeout  string // "kill", "pause" or, where there is no such flag, empty
	filesOnly  bool
	wake       bool
}

// createFlags adds them; a sandbox that lives as long as its command has no
// timeout of its own.
func createFlags(cmd *cobra.Command, timeout bool) *created {
	m := &created{}
	f := cmd.Flags()
	f.StringVarP(&m.template, "template", "t", client.DefaultTemplate, "template or snapshot to start")
	f.StringArrayVarP(&m.metadata, "metadata", "m", nil, "note for finding the sandbox again, `NAME=VALUE`; may be repeated")
	isolationFlag(cmd, &m.isolation, "what stands between it and the machine: gvisor or runc (default the template's)")
	f.BoolVar(&m.noInternet, "no-internet", false, "close the way to the internet")
	f.BoolVar(&m.private, "private-ports", false, "its ports answer only who sends its traffic token, which info shows")
	if timeout {
		f.DurationVar(&m.timeout, "timeout", 0, "how long it lives (default the server's, five minutes)")
		f.StringVar(&m.onTimeout, "on-timeout", "kill", "what happens when its time is up: kill or pause")
		f.BoolVar(&m.filesOnly, "pause-files-only", false, "that pause keeps the files and ends the programs")
		f.BoolVar(&m.wake, "wake", false, "when it is paused, traffic to it resumes it")
		_ = cmd.RegisterFlagCompletionFunc("on-timeout", completeWords("kill", "pause")) // the flag exists
	}
	return m
}

func (m *created) options() (client.CreateOptions, error) {
	notes, err := pairs("metadata", m.metadata)
	if err != nil {
		return client.CreateOptions{}, err
	}
	if m.timeout < 0 {
		return client.CreateOptions{}, soulbox.Errorf(soulbox.Invalid, "--timeout %v is in the past", m.timeout)
	}
	life, err := m.lifecycle()
	if err != nil {
		return client.CreateOptions{}, err
	}
	class, err := isolation(m.isolation)
	if err != nil {
		return client.CreateOptions{}, err
	}
	return client.CreateOptions{
		Template: m.template, Timeout: m.timeout, Metadata: notes, NoInternet: m.noInternet, PrivatePorts: m.private,
		Lifecycle: life, Isolation: class,
	}, nil
}

// isolationFlag adds --isolation to what makes a sandbox or a template.
func isolationFlag(cmd *cobra.Command, class *string, usage string) {
	cmd.Flags().StringVar(class, "isolation", "", usage)
	_ = cmd.RegisterFlagCompletionFunc("isolation", completeWords("gvisor", "runc")) // the flag exists
}

// isolation reads what that flag says; nil: it was not given.
func isolation(s string) (*soulbox.Isolation, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // nothing was asked for
	}
	class, err := soulbox.ParseIsolation(s)
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "--isolation is gvisor or runc, not %.80q", s)
	}
	return &class, nil
}

func (m *created) lifecycle() (soulbox.Lifecycle, error) {
	life := soulbox.Lifecycle{Pause: m.onTimeout == "pause", FilesOnly: m.filesOnly, Wake: m.wake}
	switch {
	case !life.Pause && m.onTimeout != "kill" && m.onTimeout != "":
		return life, soulbox.Errorf(soulbox.Invalid, "--on-timeout is kill or pause, not %.80q", m.onTimeout)
	case !life.Pause && (life.FilesOnly || life.Wake):
		return life, soulbox.Errorf(soulbox.Invalid, "--pause-files-only and --wake go with --on-timeout pause")
	}
	return life, nil
}
