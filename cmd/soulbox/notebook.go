package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

func notebookCommand(c *cli) *cobra.Command {
	return group("notebook", "Write and run Jupyter notebooks in sandboxes",
		notebookNewCommand(c),
		notebookLsCommand(c),
		notebookCatCommand(c),
		notebookAddCommand(c),
		notebookEditCommand(c),
		notebookRmCommand(c),
		notebookRunCommand(c),
		notebookOpenCommand(c),
		notebookInterruptCommand(c),
		notebookRestartCommand(c),
		notebookRunsCommand(c),
		notebookExportCommand(c),
	)
}

// completeNotebooks completes a sandbox, then its notebooks.
func (c *cli) completeNotebooks(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeSandboxes(cmd, args, word)
	}
	return c.complete(func(ctx context.Context, api *client.Client, args []string) ([]cobra.Completion, error) {
		list, err := api.Notebooks.List(ctx, args[0])
		if err != nil {
			return nil, err
		}
		var paths []cobra.Completion
		for _, n := range list {
			paths = append(paths, n.Path)
		}
		return paths, nil
	})(cmd, args, word)
}

// completeCells completes a sandbox, its notebooks, then the cells of one.
func (c *cli) completeCells(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) < 2 {
		return c.completeNotebooks(cmd, args, word)
	}
	return c.complete(func(ctx context.Context, api *client.Client, args []string) ([]cobra.Completion, error) {
		n, err := api.Notebooks.Get(ctx, args[0], args[1])
		if err != nil {
			return nil, err
		}
		cells, err := n.List()
		if err != nil {
			return nil, err
		}
		var ids []cobra.Completion
		for _, cell := range cells {
			first, _, _ := strings.Cut(string(cell.Source), "\n")
			ids = append(ids, cobra.CompletionWithDesc(cell.ID, clean(first)))
		}
		return ids, nil
	})(cmd, args, word)
}

func notebookNewCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "new [flags] SANDBOX NOTEBOOK",
		Short: "Make a notebook and print its path",
		Long: "Make a notebook in a sandbox with a code interpreter, such as those of the templates\n" +
			"code-interpreter-v1 and data-science, and print its path below the home folder.",
		Example:           "  soulbox notebook new i6k2… weather\n  soulbox notebook add i6k2… weather 'print(6*7)'\n  soulbox notebook run i6k2… weather",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeSandboxes,
	}
	language := cmd.Flags().String("language", "", "of its code: python, r, javascript, … (default python)")
	from := cmd.Flags().String("from", "", "an .ipynb file here, or - for standard input, to begin with")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		o := client.NotebookOptions{Language: *language}
		if *from != "" {
			b, err := c.read(*from)
			if err != nil {
				return err
			}
			o.Content = b
		}
		defer c.progress("making the notebook").stop()
		n, err := api.Notebooks.Create(ctx, args[0], args[1], o)
		if err != nil {
			return err
		}
		return c.print("%s", clean(n.Path))
	})
	return cmd
}

// maxRead bounds a file that becomes a request.
const maxRead = 16 << 20

// read returns a file here, or what is on standard input for -.
func (c *cli) read(name string) ([]byte, error) {
	in := io.Reader(c.in)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxRead+1))
	if err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "read %s: %w", name, err)
	}
	if len(b) > maxRead {
		return nil, soulbox.Errorf(soulbox.Invalid, "%s has more than %d MiB", name, maxRead>>20)
	}
	return b, nil
}

type notebookJSON struct {
	Path     string        `json:"path"`
	Revision string        `json:"revision,omitempty"`
	Language string        `json:"language,omitempty"`
	Cells    *int          `json:"cells,omitempty"`
	Size     soulbox.Bytes `json:"bytes"`
	Modified time.Time     `json:"modified"`
	Error    string        `json:"error,omitempty"`
}

func notebookLsCommand(c *cli) *cobra.Command {
	cmd := lsVerb(c, listing[*client.Notebook, notebookJSON]{
		short: "List the notebooks of a sandbox",
		head:  []string{"NOTEBOOK", "LANGUAGE", "CELLS", "SIZE", "CHANGED", ""},
		ask: func(ctx context.Context, api *client.Client, args []string) ([]*client.Notebook, error) {
			return api.Notebooks.List(ctx, args[0])
		},
		rows: rowsOf(func(n *client.Notebook) []string {
			cells := ""
			if n.Cells != nil {
				cells = strconv.Itoa(*n.Cells)
			}
			return []string{n.Path, n.Language, cells, c.size(n.Size), c.when(n.Modified), n.Error}
		}),
		json: func(n *client.Notebook) notebookJSON {
			return notebookJSON{n.Path, n.Revision, n.Language, n.Cells, n.Size, n.Modified, n.Error}
		},
	})
	cmd.Use, cmd.Args, cmd.ValidArgsFunction = "ls [flags] SANDBOX", wantArgs(1, 1), c.completeSandboxes
	return cmd
}

func notebookCatCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cat [flags] SANDBOX NOTEBOOK",
		Short: "Show a notebook: its cells with their ids, and what they have shown",
		Long: "Show a notebook: its cells with their ids, and the text that they have shown. With\n" +
			"--json it is printed as Jupyter keeps it.",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeNotebooks,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		wait := c.progress("asking the server")
		defer wait.stop()
		n, err := api.Notebooks.Get(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		wait.stop()
		if *asJSON {
			return c.json(n.Content)
		}
		cells, err := n.List()
		if err != nil {
			return err
		}
		for i, cell := range cells {
			if i > 0 {
				if err := c.print(""); err != nil {
					return err
				}
			}
			head := cell.Type
			if cell.Type == "code" && cell.Count != nil {
				head += " [" + strconv.Itoa(*cell.Count) + "]"
			}
			if err := c.print("%s", c.paint("# "+clean(cell.ID+" "+head), bold)); err != nil {
				return err
			}
			if err := c.text(string(cell.Source)); err != nil {
				return err
			}
			for _, out := range cell.Outputs {
				if err := c.showOutput(out); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return cmd
}

// cellFlags are what can be said of a cell.
type cellFlags struct {
	kind, file, revision string
	index                int
}

func addCellFlags(cmd *cobra.Command) *cellFlags {
	f := &cellFlags{}
	flags := cmd.Flags()
	flags.StringVarP(&f.kind, "type", "t", "", "code, markdown or raw")
	flags.IntVar(&f.index, "index", -1, "where it stands; 0 is the first")
	flags.StringVarP(&f.file, "file", "f", "", "a file here, or - for standard input, that has the source")
	flags.StringVar(&f.revision, "revision", "", "only if the notebook still has this revision")
	_ = cmd.RegisterFlagCompletionFunc("type", completeWords("code", "markdown", "raw")) // the flag is there
	return f
}

// change is what the flags and an argument that may be there say.
func (c *cli) change(cmd *cobra.Command, f *cellFlags, args []string) (client.CellChange, error) {
	change := client.CellChange{Revision: f.revision}
	if f.kind != "" {
		change.Type = &f.kind
	}
	if f.index >= 0 {
		change.Index = &f.index
	}
	switch {
	case len(args) > 0 && f.file != "":
		return change, usagef(cmd, "the source is given twice")
	case len(args) > 0:
		change.Source = &args[0]
	case f.file != "":
		b, err := c.read(f.file)
		if err != nil {
			return change, err
		}
		s := string(b)
		change.Source = &s
	}
	return change, nil
}

func notebookAddCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add [flags] SANDBOX NOTEBOOK [SOURCE]",
		Short: "Put a cell into a notebook and print the cell's id",
		Example: "  soulbox notebook add i6k2… weather 'import pandas as pd'\n" +
			"  soulbox notebook add i6k2… weather --type markdown --index 0 '# Weather'\n" +
			"  soulbox notebook add i6k2… weather -f plot.py",
		Args:              wantArgs(2, 3),
		ValidArgsFunction: c.completeNotebooks,
	}
	f := addCellFlags(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		change, err := c.change(cmd, f, args[2:])
		if err != nil {
			return err
		}
		cell, _, err := api.Notebooks.AddCell(ctx, args[0], args[1], change)
		if err != nil {
			return err
		}
		return c.print("%s", clean(cell.ID))
	})
	return cmd
}

func notebookEditCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "edit [flags] SANDBOX NOTEBOOK CELL [SOURCE]",
		Short: "Change a cell of a notebook, or where it stands",
		Long: "Change a cell of a notebook, or where it stands. What is not said stays as it is.\n" +
			"With --revision it is done only if nobody else has changed the notebook.",
		Args:              wantArgs(3, 4),
		ValidArgsFunction: c.completeCells,
	}
	f := addCellFlags(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		change, err := c.change(cmd, f, args[3:])
		if err != nil {
			return err
		}
		_, _, err = api.Notebooks.EditCell(ctx, args[0], args[1], args[2], change)
		return err
	})
	return cmd
}

func notebookRmCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rm [flags] SANDBOX NOTEBOOK [CELL…]",
		Aliases:           []string{"delete"},
		Short:             "Remove a notebook, or cells of one",
		Args:              wantArgs(2, -1),
		ValidArgsFunction: c.completeCells,
	}
	revision := cmd.Flags().String("revision", "", "only if the notebook still has this revision")
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		if len(args) == 2 {
			return api.Notebooks.Remove(ctx, args[0], args[1], *revision)
		}
		at := *revision
		for _, cell := range args[2:] {
			next, err := api.Notebooks.RemoveCell(ctx, args[0], args[1], cell, at)
			if err != nil {
				return err
			}
			if at != "" {
				at = next
			}
		}
		return nil
	})
	return cmd
}

func notebookInterruptCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "interrupt SANDBOX NOTEBOOK",
		Short:             "End the cell that runs, as Ctrl-C does",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeNotebooks,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			defer c.progress("interrupting").stop()
			return api.Notebooks.Interrupt(ctx, args[0], args[1])
		}),
	}
}

func notebookRestartCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:               "restart SANDBOX NOTEBOOK",
		Short:             "Give a notebook a kernel without variables",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeNotebooks,
		RunE: c.asking(func(ctx context.Context, api *client.Client, args []string) error {
			defer c.progress("restarting the kernel").stop()
			return api.Notebooks.Restart(ctx, args[0], args[1])
		}),
	}
}

type runJSON struct {
	ID      string    `json:"run"`
	Cell    string    `json:"cell"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Status  string    `json:"status"`
	Count   *int      `json:"execution_count,omitempty"`
	SHA256  string    `json:"source_sha256"`
}

func notebookRunsCommand(c *cli) *cobra.Command {
	cmd := lsVerb(c, listing[client.NotebookRun, runJSON]{
		short: "List what was run in a notebook, the newest first",
		head:  []string{"CELL", "STATUS", "STARTED", "TOOK"},
		ask: func(ctx context.Context, api *client.Client, args []string) ([]client.NotebookRun, error) {
			return api.Notebooks.Runs(ctx, args[0], args[1])
		},
		rows: rowsOf(func(r client.NotebookRun) []string {
			return []string{r.Cell, r.Status, c.when(r.Started), fmt.Sprintf("%.3fs", r.Seconds)}
		}),
		json: func(r client.NotebookRun) runJSON { return runJSON(r) },
	})
	cmd.Use, cmd.Aliases, cmd.Args, cmd.ValidArgsFunction = "runs [flags] SANDBOX NOTEBOOK", nil, wantArgs(2, 2), c.completeNotebooks
	return cmd
}

func notebookExportCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "export [flags] SANDBOX NOTEBOOK",
		Short:             "Copy a notebook out of a sandbox: as it is, as a page, or as a script",
		Example:           "  soulbox notebook export i6k2… weather --format html -o weather.html",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeNotebooks,
	}
	format := cmd.Flags().String("format", "ipynb", "ipynb, html or script")
	to := cmd.Flags().StringP("output", "o", "-", "the file here to write; - is standard output")
	_ = cmd.RegisterFlagCompletionFunc("format", completeWords("ipynb", "html", "script")) // the flag is there
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		defer c.progress("exporting").stop()
		return c.writeTo(*to, func(w io.Writer) error { return api.Notebooks.Export(ctx, args[0], args[1], *format, w) })
	})
	return cmd
}

// writeTo has do write a file here, or standard output for -. A file that could
// not be written whole does not stay.
func (c *cli) writeTo(name string, do func(io.Writer) error) error {
	if name == "-" {
		return do(c.out)
	}
	f, err := os.Create(name)
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%w", err)
	}
	err = do(f)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = soulbox.Errorf(soulbox.Invalid, "%w", closeErr)
	}
	if err != nil {
		_ = os.Remove(name) // the error is what matters
	}
	return err
}
