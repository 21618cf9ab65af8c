package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/bench"
	"github.com/soulbox/soulbox/client"
)

func benchCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench [flags]",
		Short: "Measure a server, from here",
		Long: "Measure a server, from here. It makes up to 120 sandboxes at once, builds\n" +
			"templates, and removes all that it has made, also when it is interrupted.\n" +
			"Figures mean little while something else is at work on the machine. The rows:\n\n" + benchRows(),
		Example: "  soulbox bench --rows create-warm,command\n" +
			"  soulbox bench --json > figures.json",
		Args: noArgs,
	}
	var o bench.Options
	f := cmd.Flags()
	f.StringSliceVar(&o.Rows, "rows", nil, "what to measure, by `NAMES` with commas between (default everything)")
	f.IntVar(&o.Samples, "samples", bench.DefaultSamples, "how many samples of a create; rows of commands have more, rows of files and forks fewer")
	f.StringVarP(&o.Template, "template", "t", client.DefaultTemplate, "template to measure with")
	size := f.Int64("file-mib", int64(bench.DefaultFileSize/soulbox.MiB), "size of the file that is sent, in MiB")
	asJSON := jsonFlag(cmd)
	asMarkdown := f.Bool("markdown", false, "print Markdown")
	cmd.MarkFlagsMutuallyExclusive("json", "markdown")
	var words []string
	for _, row := range bench.Rows() {
		words = append(words, row[0])
	}
	_ = cmd.RegisterFlagCompletionFunc("rows", completeWords(words...)) // the flag exists
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Samples < 1 || *size < 1 {
			return usagef(cmd, "--samples and --file-mib must be more than 0")
		}
		to, err := c.credentials()
		if err != nil {
			return err
		}
		api, err := c.client()
		if err != nil {
			return err
		}
		wait := c.progress("asking the server")
		defer wait.stop()
		o.FileSize, o.Server, o.Version, o.Progress = soulbox.Bytes(*size)*soulbox.MiB, to.APIURL, version(), wait.say
		report, err := bench.Run(cmd.Context(), api, o)
		if err != nil {
			return err
		}
		wait.stop()
		if err := c.printReport(report, *asJSON, *asMarkdown); err != nil {
			return err
		}
		for _, row := range report.Rows {
			if row.Error != "" {
				return codeError(exitError) // the row says why
			}
		}
		return nil
	}
	return cmd
}

// benchRows lists the rows for the manual.
func benchRows() string {
	const width = 24
	var b strings.Builder
	for _, row := range bench.Rows() {
		b.WriteString("  " + row[0] + strings.Repeat(" ", max(1, width-len(row[0]))) + row[1] + "\n")
	}
	return b.String()
}

func (c *cli) printReport(r *bench.Report, asJSON, asMarkdown bool) error {
	switch {
	case asJSON:
		return c.json(r)
	case asMarkdown:
		return r.Markdown(c.out)
	}
	columns := bench.Columns()
	for i := range columns {
		columns[i] = strings.ToUpper(columns[i])
	}
	rows := make([][]string, 0, len(r.Rows))
	for _, row := range r.Rows {
		cells := row.Cells()
		if !c.outTTY {
			cells = append(cells, row.Remark())
		}
		rows = append(rows, cells)
	}
	if !c.outTTY {
		return c.table(columns, rows)
	}
	// For people the remarks would make the lines too long: they follow.
	if err := c.fields(r.Head()); err != nil {
		return err
	}
	if err := c.print(""); err != nil {
		return err
	}
	if err := c.table(columns, rows); err != nil {
		return err
	}
	if err := c.print(""); err != nil {
		return err
	}
	var remarks [][2]string
	for _, row := range r.Rows {
		remarks = append(remarks, [2]string{row.Name, row.Remark()})
	}
	return c.fields(remarks)
}
