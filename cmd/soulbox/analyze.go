package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// whereData says how data is named, for both verbs that take some.
const whereData = "Data is a file here of at most 8 MiB, a file of a sandbox (ID:PATH), a URL, or an\n" +
	"object s3://BUCKET/KEY, which AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION\n" +
	"open. CSV, Parquet, JSON, lines of JSON and Excel are read."

func analyzeCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "analyze [flags] SANDBOX FILE.py",
		Short: "Run Python on data in a sandbox, and show what came of it",
		Long: "Run a file of Python here, or standard input for -, in a sandbox of a template such as\n" +
			"data-science. Each --data name=… is a pandas data frame of that name. " + whereData,
		Example:           "  soulbox analyze i6k2… top.py --data sales=sales.csv --data rain=https://example.com/rain.parquet -o charts",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeSandboxThenFile,
	}
	data := cmd.Flags().StringArray("data", nil, "a data frame: name=FILE, name=ID:PATH, name=URL or name=s3://BUCKET/KEY")
	format := cmd.Flags().String("format", "", "csv, parquet, json, jsonl or excel (default as the data looks)")
	in := cmd.Flags().String("context", "", "run with the variables of this context (default one of its own)")
	timeout := cmd.Flags().Duration("timeout", 0, "how long it may take (default 5m)")
	to := cmd.Flags().StringP("output", "o", "", "a folder here for the pictures (default they are not kept)")
	asJSON := jsonFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("format", completeWords(dataFormats...)) // the flag is there
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		code, err := c.read(args[1])
		if err != nil {
			return err
		}
		o := client.AnalyzeOptions{Code: string(code), ContextID: *in, Timeout: *timeout}
		for _, spec := range *data {
			name, where, ok := strings.Cut(spec, "=")
			if !ok || name == "" || where == "" {
				return soulbox.Errorf(soulbox.Invalid, "--data %q is not of the form name=data; the data folder of the server is in SOULBOX_DATA", spec)
			}
			d, err := c.dataset(args[0], where)
			if err != nil {
				return err
			}
			d.Name, d.Format = name, *format
			o.Datasets = append(o.Datasets, d)
		}
		wait := c.progress("analyzing")
		defer wait.stop()
		a, err := api.Sandboxes.Analyze(ctx, args[0], o)
		if err != nil {
			return err
		}
		wait.stop()
		return c.analysis(a, *to, *asJSON)
	})
	return cmd
}

var (
	dataFormats = []string{"csv", "parquet", "json", "jsonl", "excel"}
	chartKinds  = []string{"line", "bar", "scatter", "histogram", "box", "heatmap", "pie", "pair"}
)

// completeSandboxThenFile completes a sandbox, then files here.
func (c *cli) completeSandboxThenFile(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeSandboxes(cmd, args, word)
	}
	return nil, cobra.ShellCompDirectiveDefault
}

// maxContent is what the server takes of a file that is sent along.
const maxContent = 8 << 20

// dataset reads where data is.
func (c *cli) dataset(sandbox, where string) (client.Dataset, error) {
	switch at := parsePlace(where); {
	case strings.HasPrefix(where, "s3://"):
		return c.bucket(where)
	case strings.HasPrefix(where, "http://") || strings.HasPrefix(where, "https://"):
		return client.Dataset{URL: where}, nil
	case at.id == sandbox:
		return client.Dataset{Path: at.path}, nil
	case at.id != "":
		return client.Dataset{Sandbox: at.id, File: at.path}, nil
	}
	info, err := os.Stat(where)
	switch {
	case err != nil:
		return client.Dataset{}, soulbox.Errorf(soulbox.Invalid, "%w", err)
	case info.Size() > maxContent:
		return client.Dataset{}, hint(soulbox.Errorf(soulbox.Invalid, "%s has more than %d MiB", where, maxContent>>20),
			fmt.Sprintf("copy it first: soulbox sandbox cp %s %s: and say %s:%s", where, sandbox, sandbox, filepath.Base(where)))
	}
	b, err := c.read(where)
	if err != nil {
		return client.Dataset{}, err
	}
	return client.Dataset{Content: b}, nil
}

// bucket reads s3://BUCKET/KEY, and what opens it from the environment.
func (c *cli) bucket(where string) (client.Dataset, error) {
	name, key, _ := strings.Cut(strings.TrimPrefix(where, "s3://"), "/")
	first := func(names ...string) string {
		for _, n := range names {
			if v := c.getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	o := &client.S3Object{
		Bucket: name, Key: key, Region: first("AWS_REGION", "AWS_DEFAULT_REGION"), Endpoint: first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
		AccessKeyID: c.getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: c.getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: c.getenv("AWS_SESSION_TOKEN"),
	}
	if name == "" || key == "" {
		return client.Dataset{}, soulbox.Errorf(soulbox.Invalid, "%q: write s3://BUCKET/KEY", where)
	}
	if o.Region == "" || o.AccessKeyID == "" || o.SecretAccessKey == "" {
		return client.Dataset{}, soulbox.Errorf(soulbox.Invalid, "%s needs AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION in the environment", where)
	}
	return client.Dataset{S3: o}, nil
}

// analysis shows what came of an analysis.
func (c *cli) analysis(a *client.Analysis, to string, asJSON bool) error {
	var files []string
	if to != "" {
		if err := os.MkdirAll(to, 0o755); err != nil { //nolint:gosec // as any folder that a person makes
			return soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
		for i, v := range a.Visualizations {
			name := filepath.Join(to, strconv.Itoa(i+1))
			if err := keepPicture(name, &v, &files); err != nil {
				return err
			}
		}
	}
	if asJSON {
		if err := c.json(a); err != nil {
			return err
		}
	} else if err := c.analysisText(a, files); err != nil {
		return err
	}
	if a.Error != nil {
		return codeError(exitError)
	}
	return nil
}

// keepPicture writes a picture into files.
func keepPicture(name string, v *client.Visualization, files *[]string) error {
	for _, part := range []struct {
		ext string
		b   []byte
	}{{".png", v.PNG}, {".svg", []byte(v.SVG)}} {
		if len(part.b) == 0 {
			continue
		}
		if err := os.WriteFile(name+part.ext, part.b, 0o644); err != nil { //nolint:gosec // as any file that a person makes
			return soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
		*files = append(*files, name+part.ext)
	}
	return nil
}

// analysisText shows an analysis to people.
func (c *cli) analysisText(a *client.Analysis, files []string) error {
	if err := c.text(a.Logs.Stdout); err != nil {
		return err
	}
	if a.Logs.Stderr != "" {
		if _, err := fmt.Fprint(c.err, ended(harmless(a.Logs.Stderr))); err != nil {
			return err
		}
	}
	var result struct {
		Text client.Text `json:"text"`
	}
	if len(a.Result) > 0 && json.Unmarshal(a.Result, &result) == nil {
		if err := c.text(string(result.Text)); err != nil {
			return err
		}
	}
	if a.Error != nil {
		var lines client.Text
		if json.Unmarshal(a.Error.Traceback, &lines) != nil || lines == "" {
			lines = client.Text(a.Error.Error())
		}
		if _, err := fmt.Fprint(c.err, ended(harmless(string(lines)))); err != nil {
			return err
		}
	}
	for _, name := range files {
		if err := c.print("%s", clean(name)); err != nil {
			return err
		}
	}
	m := a.Metrics
	_, err := fmt.Fprintf(c.err, "soulbox: %d rows in %s, %s of it for loading, and %s of memory\n",
		m.Rows, took(m.Seconds), took(m.LoadSeconds), rounded(soulbox.Bytes(m.PeakMemory)))
	return err
}

func visualizeCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "visualize [flags] SANDBOX DATA",
		Short: "Draw data in a sandbox, as a PNG or an SVG",
		Long: "Draw data in a sandbox of a template such as data-science, and write the picture: a PNG,\n" +
			"or an SVG if that is how the name ends. " + whereData,
		Example:           "  soulbox visualize i6k2… sales.csv --kind bar --x month --y total -o sales.png",
		Args:              wantArgs(2, 2),
		ValidArgsFunction: c.completeSandboxThenFile,
	}
	flags := cmd.Flags()
	kind := flags.StringP("kind", "k", "", strings.Join(chartKinds, ", "))
	x := flags.String("x", "", "the column along the bottom")
	y := flags.StringArray("y", nil, "the column that is drawn; several make several")
	hue := flags.String("hue", "", "the column that gives colours")
	title := flags.String("title", "", "above the picture")
	format := flags.String("format", "", "csv, parquet, json, jsonl or excel (default as the data looks)")
	more := flags.StringArray("set", nil, "a further option, such as bins=20 or log_y=true")
	timeout := flags.Duration("timeout", 0, "how long it may take (default 2m)")
	to := flags.StringP("output", "o", "", "the file here to write; - is standard output")
	code := flags.Bool("code", false, "print the Python that draws it")
	asJSON := jsonFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("kind", completeWords(chartKinds...))    // the flag is there
	_ = cmd.RegisterFlagCompletionFunc("format", completeWords(dataFormats...)) // as above
	cmd.RunE = c.asking(func(ctx context.Context, api *client.Client, args []string) error {
		if *kind == "" {
			return usagef(cmd, "--kind is needed: %s", strings.Join(chartKinds, ", "))
		}
		if *to == "" && !*code && !*asJSON {
			return usagef(cmd, "-o is needed: the file to write")
		}
		o := client.VisualizeOptions{Kind: *kind, Options: map[string]any{}, Timeout: *timeout}
		for name, value := range map[string]string{"x": *x, "hue": *hue, "title": *title} {
			if value != "" {
				o.Options[name] = value
			}
		}
		switch len(*y) {
		case 0:
		case 1:
			o.Options["y"] = (*y)[0]
		default:
			o.Options["y"] = *y
		}
		further, err := pairs("set", *more)
		if err != nil {
			return err
		}
		for name, value := range further {
			o.Options[name] = valueOf(value)
		}
		d, err := c.dataset(args[0], args[1])
		if err != nil {
			return err
		}
		d.Format = *format
		o.Dataset = &d
		wait := c.progress("drawing")
		defer wait.stop()
		v, err := api.Sandboxes.Visualize(ctx, args[0], o)
		if err != nil {
			return err
		}
		wait.stop()
		return c.picture(v, *to, *code, *asJSON)
	})
	return cmd
}

// valueOf reads a number, true, false, or else text.
func valueOf(s string) any {
	var v any
	if json.Unmarshal([]byte(s), &v) == nil {
		switch v.(type) {
		case float64, bool:
			return v
		}
	}
	return s
}

// picture writes what was drawn.
func (c *cli) picture(v *client.Visualization, to string, code, asJSON bool) error {
	b := v.PNG
	if strings.EqualFold(path.Ext(to), ".svg") {
		b = []byte(v.SVG)
	}
	switch {
	case to == "-":
		if _, err := c.out.Write(b); err != nil {
			return err
		}
	case to != "":
		if err := os.WriteFile(to, b, 0o644); err != nil { //nolint:gosec // as any file that a person makes
			return soulbox.Errorf(soulbox.Invalid, "%w", err)
		}
	}
	if asJSON {
		return c.json(v)
	}
	if code {
		return c.text(v.Code)
	}
	return nil
}
