package templates_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// A bench is a sandbox of the template data-science, with the ways to it that
// people have.
type bench struct {
	s  *servertest.Server
	c  *client.Client
	sb *client.Sandbox
}

func newBench(t *testing.T, s *servertest.Server, c *client.Client) *bench {
	t.Helper()
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: "data-science", Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Sandboxes.Kill(context.WithoutCancel(t.Context()), sb.ID); err != nil {
			t.Error(err)
		}
	})
	return &bench{s, c, sb}
}

// cli runs the command line and returns what it prints.
func (b *bench) cli(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.s.Binary, args...)
	url, key := b.s.Credentials(t)
	cmd.Env = append(os.Environ(), "E2B_API_URL="+url, "E2B_API_KEY="+key, "SOULBOX_DATA="+b.s.Data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("soulbox %q: %v\n%s%s", args, err, out, &stderr)
	}
	return string(out)
}

// irises are three kinds of flowers that can be told apart by their petals.
func irises() (csv []byte, mean map[string]float64) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	b.WriteString("species,petal_length,petal_width\n")
	mean = map[string]float64{}
	for i, species := range []string{"setosa", "versicolor", "virginica"} {
		for range 50 {
			length := math.Round((1.5+2*float64(i)+rnd.NormFloat64()*0.2)*10) / 10
			fmt.Fprintf(&b, "%s,%.1f,%.1f\n", species, length, length/3)
			mean[species] += length / 50
		}
	}
	return b.Bytes(), mean
}

// weather is a year of days, as lines of JSON, some without rain.
func weather() (lines []byte, wet int) {
	var b bytes.Buffer
	for day := range 365 {
		date := time.Date(2025, 1, 1+day, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
		rain := "null"
		if day%7 != 3 {
			rain = strconv.Itoa(day % 5)
			if day%5 > 0 {
				wet++
			}
		}
		fmt.Fprintf(&b, `{"date":%q,"temperature":%.2f,"rain":%s}`+"\n", date, 10-12*math.Cos(float64(day)*2*math.Pi/365), rain)
	}
	return b.Bytes(), wet
}

// sales are made in another sandbox, as Parquet.
const sales = `import pandas as pd
rows = 100_000
df = pd.DataFrame({"month": [1 + i % 12 for i in range(rows)], "region": ["north" if i % 3 else "south" for i in range(rows)], "total": [i % 100 for i in range(rows)]})
df.to_parquet("sales.parquet")
print(df[df.region == "south"].total.sum())
`

// testLab uses notebooks, packages, analyses and charts, by the client and by
// the command line.
func testLab(t *testing.T, s *servertest.Server, c *client.Client) {
	b := newBench(t, s, c)
	t.Run("notebook", func(t *testing.T) { testNotebook(t, b) })
	t.Run("packages", func(t *testing.T) { testPackages(t, b) })
	t.Run("analyze", func(t *testing.T) { testAnalyze(t, b) })
	t.Run("visualize", func(t *testing.T) { testVisualize(t, b) })
}

func testNotebook(t *testing.T, b *bench) {
	id, ctx := b.sb.ID, t.Context()
	n, err := b.c.Notebooks.Create(ctx, id, "sub/weather", client.NotebookOptions{})
	if err != nil || n.Path != "sub/weather.ipynb" || n.Revision == "" {
		t.Fatalf("create: %+v, %v", n, err)
	}
	if _, err := b.c.Notebooks.Create(ctx, id, "sub/weather", client.NotebookOptions{}); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("create again: %v", err)
	}
	add := func(source string) string {
		t.Helper()
		cell, _, err := b.c.Notebooks.AddCell(ctx, id, n.Path, client.CellChange{Source: &source})
		if err != nil || cell.ID == "" || string(cell.Source) != source {
			t.Fatalf("add: %+v, %v", cell, err)
		}
		return cell.ID
	}
	first := add("import pandas as pd\ndf = pd.DataFrame({'a': range(10)})\nprint(len(df))")
	add("import matplotlib.pyplot as plt\nplt.plot(df.a); plt.show()\ndf.a.sum()")
	var said []string
	for e, err := range b.c.Notebooks.Run(ctx, id, n.Path, client.RunCellsOptions{}) {
		if err != nil {
			t.Fatalf("run, after %q: %v", said, err)
		}
		said = append(said, e.Type)
		if e.Type == "end" && (e.Status != "ok" || e.Revision == n.Revision) {
			t.Errorf("run ends with %+v", e)
		}
	}
	if got := strings.Join(said, " "); !strings.HasPrefix(got, "cell output done cell output ") || !strings.HasSuffix(got, " done end") {
		t.Errorf("what happened: %s", got)
	}
	got, err := b.c.Notebooks.Get(ctx, id, n.Path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(got.Content)
	if got.State != "idle" || got.ContextID == "" || !strings.Contains(text, "image/png") || !strings.Contains(text, "45") {
		t.Errorf("after the run: %s %s %.2000s", got.State, got.ContextID, text)
	}
	// An editor that has not seen this loses, and is told what to look at.
	source := "late"
	_, _, err = b.c.Notebooks.EditCell(ctx, id, n.Path, first, client.CellChange{Source: &source, Revision: n.Revision})
	if old, ok := errors.AsType[*soulbox.OutdatedError](err); !ok || old.Revision != got.Revision {
		t.Errorf("an outdated edit: %v, want the revision %s", err, got.Revision)
	}
	if out := b.cli(t, "notebook", "run", id, "sub/weather", first); out != "10\n" {
		t.Errorf("soulbox notebook run: %q", out)
	}
	if out := b.cli(t, "notebook", "ls", id); !strings.HasPrefix(out, "sub/weather.ipynb\tpython\t2\t") {
		t.Errorf("soulbox notebook ls: %q", out)
	}
	if runs, err := b.c.Notebooks.Runs(ctx, id, n.Path); err != nil || len(runs) != 3 || runs[0].Cell != first || runs[0].Status != "ok" {
		t.Errorf("runs: %+v, %v", runs, err)
	}
	file := filepath.Join(t.TempDir(), "weather")
	for format, want := range map[string]string{"ipynb": `"nbformat": 4`, "html": "<html", "script": "pd.DataFrame({'a': range(10)})"} {
		b.cli(t, "notebook", "export", id, n.Path, "--format", format, "-o", file)
		if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("as %s: %.300s, %v; want %s", format, text, err, want)
		}
	}
	// A client that goes interrupts what runs, and the variables stay.
	long, interrupted := add("import time; print('begun', flush=True); time.sleep(600)"), false
	for e, err := range b.c.Notebooks.RunCell(ctx, id, n.Path, long, client.RunCellsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "output" {
			break
		}
	}
	for deadline := time.Now().Add(time.Minute); !interrupted && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		runs, err := b.c.Notebooks.Runs(ctx, id, n.Path)
		if err != nil {
			t.Fatal(err)
		}
		interrupted = runs[0].Cell == long && runs[0].Status == "interrupted"
	}
	if !interrupted {
		t.Error("the cell whose client went was not interrupted")
	}
	check := add("print(df.a.sum())")
	if out := b.cli(t, "notebook", "run", id, n.Path, check); out != "45\n" {
		t.Errorf("after an interrupt: %q", out)
	}
	if err := b.c.Notebooks.Remove(ctx, id, n.Path, ""); err != nil {
		t.Fatal(err)
	}
	if list, err := b.c.Notebooks.List(ctx, id); err != nil || len(list) != 0 {
		t.Errorf("after the removal: %+v, %v", list, err)
	}
}

func testPackages(t *testing.T, b *bench) {
	id, ctx := b.sb.ID, t.Context()
	list, err := b.c.Packages.List(ctx, id, "")
	has := map[string]string{}
	for _, p := range list {
		has[strings.ToLower(p.Name)] = p.Version
	}
	if err != nil || has["pandas"] == "" || has["numpy"] == "" {
		t.Fatalf("packages: %+v, %v", list, err)
	}
	if text, err := b.c.Packages.Freeze(ctx, id, ""); err != nil || !strings.Contains(text, "pandas=="+has["pandas"]) {
		t.Errorf("freeze: %.300s, %v", text, err)
	}
	// The sandbox has no way to an index here, so a batch must leave all as it was.
	before := b.cli(t, "packages", "freeze", id)
	var failed error
	for _, err := range b.c.Packages.Install(ctx, id, "", client.InstallOptions{Packages: []string{"no-such-package-of-anybody"}, IndexURL: "http://127.0.0.1:9/simple", Timeout: time.Minute}) {
		failed = err
	}
	if failed == nil {
		t.Error("a package that does not exist was installed")
	}
	t.Logf("installing what does not exist: %v", failed)
	if after := b.cli(t, "packages", "freeze", id); after != before {
		t.Errorf("a batch that failed changed the environment: %s", after)
	}
	if out := b.cli(t, "packages", "environments", id); !strings.HasPrefix(out, "default\t") {
		t.Errorf("environments: %q", out)
	}
}

func testAnalyze(t *testing.T, b *bench) {
	id, ctx := b.sb.ID, t.Context()
	flowers, mean := irises()
	days, wet := weather()
	shop := newBench(t, b.s, b.c)
	res, err := shop.sb.Run(ctx, "python - <<'PYTHON'\n"+sales+"PYTHON\n", client.RunOptions{})
	if err != nil {
		t.Fatalf("%v: %s", err, res.Stderr)
	}
	a, err := b.c.Sandboxes.Analyze(ctx, id, client.AnalyzeOptions{
		Code: "import matplotlib.pyplot as plt\n" +
			"print({k: round(v, 4) for k, v in irises.groupby('species').petal_length.mean().items()})\n" +
			"print(int((weather.rain > 0).sum()), int(weather.rain.isna().sum()))\n" +
			"print(sales[sales.region == 'south'].total.sum())\n" +
			"irises.plot.scatter(x='petal_length', y='petal_width'); plt.show()\n" +
			"len(sales)",
		Datasets: []client.Dataset{
			{Name: "irises", Content: flowers, Format: "csv"},
			{Name: "weather", Content: days, Format: "jsonl"},
			{Name: "sales", Sandbox: shop.sb.ID, File: "sales.parquet"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("{'setosa': %v, 'versicolor': %v, 'virginica': %v}\n%d %d\n%s",
		round(mean["setosa"]), round(mean["versicolor"]), round(mean["virginica"]), wet, 52, res.Stdout)
	if a.Error != nil || a.Logs.Stdout != want {
		t.Errorf("the code says %q, want %q; %+v %s", a.Logs.Stdout, want, a.Error, a.Logs.Stderr)
	}
	if len(a.Visualizations) != 1 || !strings.Contains(string(a.Result), "100000") {
		t.Errorf("%d pictures and the result %s", len(a.Visualizations), a.Result)
	} else if _, err := png.Decode(bytes.NewReader(a.Visualizations[0].PNG)); err != nil {
		t.Errorf("the picture: %v", err)
	}
	rows := map[string]int64{}
	for _, d := range a.Data {
		rows[d.Name] = d.Rows
	}
	if rows["irises"] != 150 || rows["weather"] != 365 || rows["sales"] != 100_000 || a.Metrics.Rows != 100_515 || a.Metrics.Seconds <= 0 || a.Metrics.PeakMemory <= 0 {
		t.Errorf("%v rows, %+v", rows, a.Metrics)
	}
	left, err := b.sb.Run(ctx, "ls ~/.cache/soulbox/datasets", client.RunOptions{})
	if err != nil || left.Stdout != "" {
		t.Errorf("of the data is left: %q, %v", left.Stdout, err)
	}
	dir := t.TempDir()
	code, data := filepath.Join(dir, "top.py"), filepath.Join(dir, "irises.csv")
	for name, text := range map[string]string{code: "irises.petal_length.idxmax()\nprint(len(irises), len(sales))", data: string(flowers)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out := b.cli(t, "analyze", id, code, "--data", "irises="+data, "--data", "sales="+shop.sb.ID+":sales.parquet"); !strings.HasPrefix(out, "150 100000\n") {
		t.Errorf("soulbox analyze: %q", out)
	}
	wrong, err := b.c.Sandboxes.Analyze(ctx, id, client.AnalyzeOptions{Code: "1/0"})
	if err != nil || wrong.Error == nil || wrong.Error.Name != "ZeroDivisionError" {
		t.Errorf("1/0: %+v, %v", wrong, err)
	}
	if _, err := b.c.Sandboxes.Analyze(ctx, id, client.AnalyzeOptions{Code: "1", Datasets: []client.Dataset{{Name: "bad", Content: []byte("PAR1nonsensePAR1"), Format: "parquet"}}}); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("malformed Parquet: %v", err)
	}
}

func round(f float64) string { return strconv.FormatFloat(math.Round(f*1e4)/1e4, 'f', -1, 64) }

func testVisualize(t *testing.T, b *bench) {
	id, ctx := b.sb.ID, t.Context()
	flowers, _ := irises()
	days, _ := weather()
	sold, err := b.sb.Run(ctx, "python - <<'PYTHON'\n"+sales+"PYTHON\n", client.RunOptions{})
	if err != nil {
		t.Fatalf("%v: %s", err, sold.Stderr)
	}
	for _, tt := range []struct {
		kind    string
		data    client.Dataset
		options map[string]any
		rows    int64
	}{
		{"scatter", client.Dataset{Content: flowers, Format: "csv"}, map[string]any{"x": "petal_length", "y": "petal_width", "hue": "species", "title": "Irises"}, 150},
		{"line", client.Dataset{Content: days, Format: "jsonl"}, map[string]any{"x": "date", "y": "temperature"}, 365},
		{"bar", client.Dataset{Path: "sales.parquet"}, map[string]any{"x": "region", "y": "total"}, 100_000},
	} {
		v, err := b.c.Sandboxes.Visualize(ctx, id, client.VisualizeOptions{Kind: tt.kind, Dataset: &tt.data, Options: tt.options})
		if err != nil {
			t.Errorf("%s: %v", tt.kind, err)
			continue
		}
		picture, err := png.Decode(bytes.NewReader(v.PNG))
		if err != nil || picture.Bounds().Dx() < 100 || !strings.Contains(v.SVG, "<svg") || v.Rows != tt.rows || v.Code == "" {
			t.Errorf("%s: %v, %d bytes of SVG, %d rows, %q", tt.kind, err, len(v.SVG), v.Rows, v.Code)
		}
	}
	dir := t.TempDir()
	data, to := filepath.Join(dir, "irises.csv"), filepath.Join(dir, "out.svg")
	if err := os.WriteFile(data, flowers, 0o600); err != nil {
		t.Fatal(err)
	}
	b.cli(t, "visualize", id, data, "--kind", "histogram", "--x", "petal_length", "--set", "bins=12", "-o", to)
	if text, err := os.ReadFile(to); err != nil || !strings.Contains(string(text), "<svg") {
		t.Errorf("soulbox visualize: %.200s, %v", text, err)
	}
}

// testTravel fills a data frame, forks the sandbox five ways, changes each, and
// takes one back.
func testTravel(t *testing.T, s *servertest.Server, c *client.Client) {
	b := newBench(t, s, c)
	ctx := t.Context()
	if _, err := c.Notebooks.Create(ctx, b.sb.ID, "state", client.NotebookOptions{}); err != nil {
		t.Fatal(err)
	}
	// run adds a cell to the notebook in a sandbox, runs it and returns its text.
	run := func(id, source string) string {
		t.Helper()
		cell, _, err := c.Notebooks.AddCell(ctx, id, "state", client.CellChange{Source: &source})
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		var said strings.Builder
		for e, err := range c.Notebooks.RunCell(ctx, id, "state", cell.ID, client.RunCellsOptions{}) {
			if err != nil {
				t.Fatalf("%s: %v", id, err)
			}
			if e.Type == "output" {
				var out struct {
					Text   client.Text `json:"text"`
					EValue string      `json:"evalue"`
				}
				if err := json.Unmarshal(e.Output, &out); err != nil {
					t.Fatal(err)
				}
				said.WriteString(string(out.Text) + out.EValue)
			}
		}
		return said.String()
	}
	const look = "print(len(df), int(df.n.sum()), int(df.loc[7, 'n']), label, sorted(seen))"
	run(b.sb.ID, "import pandas as pd\ndf = pd.DataFrame({'n': range(1000)})\nlabel = 'first'\nseen = {1, 2}")
	const before = "1000 499500 7 first [1, 2]\n"
	if got := run(b.sb.ID, look); got != before {
		t.Fatalf("at first: %q", got)
	}
	forks, err := c.Sandboxes.Fork(ctx, b.sb.ID, 5, time.Hour)
	if err != nil || len(forks) != 5 {
		t.Fatalf("fork: %+v, %v", forks, err)
	}
	t.Cleanup(func() {
		for _, f := range forks {
			if f.Sandbox != nil {
				_ = f.Sandbox.Kill(context.WithoutCancel(ctx))
			}
		}
	})
	after := func(i int) string {
		return fmt.Sprintf("%d %d %d fork %d [1, 2, %d]\n", 1000+i, 499500-7+70*i+i*(i-1)/2, 70*i, i, 10+i)
	}
	for i, f := range forks {
		if f.Err != nil {
			t.Fatal(f.Err)
		}
		n := i + 1
		if got := run(f.Sandbox.ID, look); got != before {
			t.Errorf("fork %d begins with %q, want %q", n, got, before)
		}
		if n == 3 {
			if _, err := c.Sandboxes.Checkpoint(ctx, f.Sandbox.ID, "clean"); err != nil {
				t.Fatal(err)
			}
		}
		run(f.Sandbox.ID, fmt.Sprintf("df.loc[7, 'n'] = %d\ndf = pd.concat([df, pd.DataFrame({'n': range(%d)})])\ndf = df.reset_index(drop=True)\nlabel = 'fork %d'\nseen.add(%d)", 70*n, n, n, 10+n))
	}
	for i, f := range forks {
		if got := run(f.Sandbox.ID, look); got != after(i+1) {
			t.Errorf("fork %d has %q, want %q", i+1, got, after(i+1))
		}
	}
	third := forks[2].Sandbox.ID
	if _, err := c.Sandboxes.Rollback(ctx, third, "clean"); err != nil {
		t.Fatal(err)
	}
	for i, f := range forks {
		want := after(i + 1)
		if i == 2 {
			want = before
		}
		if got := run(f.Sandbox.ID, look); got != want {
			t.Errorf("after the rollback fork %d has %q, want %q", i+1, got, want)
		}
	}
	if got := run(b.sb.ID, look); got != before {
		t.Errorf("the first sandbox has %q, want %q", got, before)
	}
	if err := c.Sandboxes.Pause(ctx, third, client.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sandboxes.Resume(ctx, third, client.ResumeOptions{Timeout: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if got := run(third, look); got != before {
		t.Errorf("after a pause it has %q, want %q", got, before)
	}
}
