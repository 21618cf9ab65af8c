package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func notebookRunCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags] SANDBOX NOTEBOOK [CELL]",
		Short: "Run a notebook, or one cell of it, and show what it shows",
		Long: "Run all code of a notebook in its order, or one cell, and show what it shows as it\n" +
			"comes. The notebook keeps it, pictures too. Ctrl-C interrupts the cell. The exit code\n" +
			"is 1 if a cell fails; those behind it are not run unless --keep-going is given.",
		Args:              wantArgs(2, 3),
		ValidArgsFunction: c.completeCells,
	}
	timeout := cmd.Flags().Duration("timeout", 0, "interrupt a cell that takes longer (default never)")
	goOn := cmd.Flags().Bool("keep-going", false, "run the cells behind one that fails, too")
	asJSON := cmd.Flags().Bool("json", false, "print what happens as lines of JSON")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		o := client.RunCellsOptions{Timeout: *timeout, GoOn: *goOn}
		events := api.Notebooks.Run(ctx, args[0], args[1], o)
		if len(args) == 3 {
			events = api.Notebooks.RunCell(ctx, args[0], args[1], args[2], o)
		}
		wait := c.progress("starting")
		defer wait.stop()
		status, ran := "", false
		for e, err := range events {
			if err != nil {
				return err
			}
			wait.stop()
			if err := c.runEvent(e, *asJSON); err != nil {
				return err
			}
			switch e.Type {
			case "done":
				ran = true
				if e.Status != "ok" && !*asJSON {
					if _, err := fmt.Fprintf(c.err, "soulbox: cell %s: %s\n", clean(e.Cell), clean(e.Status)); err != nil {
						return err
					}
				}
			case "end":
				status = e.Status
			}
		}
		switch {
		case status == "ok" && !ran && !*asJSON:
			_, err := fmt.Fprintln(c.err, "soulbox: there is no code in it")
			return err
		case status != "ok":
			return codeError(exitError)
		}
		return nil
	})
	return cmd
}

// runEventJSON is a line of soulbox notebook run --json.
type runEventJSON struct {
	Type     string          `json:"type"`
	Cell     string          `json:"cell,omitempty"`
	Count    *int            `json:"execution_count,omitempty"`
	Index    *int            `json:"index,omitempty"`
	Output   json.RawMessage `json:"output,omitempty"`
	Status   string          `json:"status,omitempty"`
	Revision string          `json:"revision,omitempty"`
	Seconds  float64         `json:"seconds,omitempty"`
}

// runEvent shows what happens while cells run.
func (c *cli) runEvent(e client.RunEvent, asJSON bool) error {
	if asJSON {
		return c.jsonLine(runEventJSON{e.Type, e.Cell, e.Count, e.Index, e.Output, e.Status, e.Revision, e.Seconds})
	}
	if e.Type != "output" {
		return nil
	}
	return c.showOutput(e.Output)
}

// nbOutput is an output of nbformat, in as far as a terminal can show it.
type nbOutput struct {
	Type      string                     `json:"output_type"`
	Name      string                     `json:"name"`
	Text      client.Text                `json:"text"`
	Data      map[string]json.RawMessage `json:"data"`
	Error     string                     `json:"ename"`
	Value     string                     `json:"evalue"`
	Traceback []string                   `json:"traceback"`
}

// showOutput shows one output of a cell.
func (c *cli) showOutput(raw json.RawMessage) error {
	var o nbOutput
	if err := json.Unmarshal(raw, &o); err != nil {
		return soulbox.Errorf(soulbox.Unavailable, "an output is not what Jupyter writes: %w", err)
	}
	switch o.Type {
	case "stream":
		w := c.out
		if o.Name == "stderr" {
			w = c.err
		}
		_, err := io.WriteString(w, harmless(string(o.Text)))
		return err
	case "error":
		if len(o.Traceback) == 0 {
			o.Traceback = []string{o.Error + ": " + o.Value}
		}
		_, err := io.WriteString(c.err, ended(harmless(strings.Join(o.Traceback, "\n"))))
		return err
	}
	var kinds []string
	for kind, b := range o.Data {
		if kind == "text/plain" {
			continue
		}
		kinds = append(kinds, fmt.Sprintf("%s, %s", kind, rounded(soulbox.Bytes(len(b)))))
	}
	slices.Sort(kinds)
	var plain client.Text
	if b, ok := o.Data["text/plain"]; ok {
		if err := json.Unmarshal(b, &plain); err != nil {
			return soulbox.Errorf(soulbox.Unavailable, "an output is not what Jupyter writes: %w", err)
		}
	}
	if err := c.text(string(plain)); err != nil || len(kinds) == 0 {
		return err
	}
	return c.print("(%s)", clean(strings.Join(kinds, "; ")))
}

// text prints lines that come out of a sandbox.
func (c *cli) text(s string) error {
	if s == "" {
		return nil
	}
	_, err := io.WriteString(c.out, ended(harmless(s)))
	return err
}

func ended(s string) string {
	if strings.HasSuffix(s, "\n") {
		return s
	}
	return s + "\n"
}

// escapes are what sets colours and moves cursors.
var escapes = regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|[@-Z\\\\-_])")

// harmless leaves of s what cannot speak to the terminal.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r) || r == utf8.RuneError:
			return -1
		default:
			return r
		}
	}, escapes.ReplaceAllString(s, ""))
}

// took words how long something took.
func took(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}
