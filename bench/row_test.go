package bench_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/bench"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

// upTo returns 1 to n, out of order.
func upTo(n int) []float64 {
	var all []float64
	for i := range n {
		all = append(all, float64((i*7)%n+1))
	}
	return all
}

func TestSummarize(t *testing.T) {
	for _, tt := range []struct {
		name    string
		unit    string
		samples []float64
		want    [5]float64 // n, p50, p95, p99, max
	}{
		{"none", "ms", nil, [5]float64{}},
		{"one", "ms", []float64{7.5}, [5]float64{1, 7.5, 7.5, 7.5, 7.5}},
		{"two", "ms", []float64{9, 3}, [5]float64{2, 3, 9, 9, 9}},
		{"three", "ms", []float64{9, 3, 5}, [5]float64{3, 5, 9, 9, 9}},
		{"twenty", "ms", upTo(20), [5]float64{20, 10, 19, 20, 20}},
		{"a hundred", "MB", upTo(100), [5]float64{100, 50, 95, 99, 100}},
		{"more is better", "MB/s", upTo(100), [5]float64{100, 51, 6, 2, 100}},
		{"more is better, one", "per s", []float64{4}, [5]float64{1, 4, 4, 4, 4}},
		{"nothing is taken", "MB", []float64{0, 0}, [5]float64{2, 0, 0, 0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			row := bench.Row{Unit: tt.unit}
			row.Add(tt.samples...)
			row.Summarize()
			row.Summarize() // the second time changes nothing
			if got := [5]float64{float64(row.N), row.P50, row.P95, row.P99, row.Max}; got != tt.want {
				t.Errorf("n, p50, p95, p99, max = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTook(t *testing.T) {
	row := bench.Row{Unit: "ms"}
	row.Took(12_345 * time.Microsecond)
	row.Summarize()
	if row.N != 1 || row.P50 != 12.345 {
		t.Errorf("a sample of 12.345 ms became %v of %d", row.P50, row.N)
	}
}

// report has a row of every sort.
func report() *bench.Report {
	full := &bench.Row{Name: "create-warm", What: "create, one waits", Unit: "ms", WarmUp: 1}
	full.Add(upTo(20)...)
	some := &bench.Row{Name: "burst-20", What: "20 creates at once, each", Unit: "ms", WarmUp: 20, Failed: 2, Note: "7 of 20 found one waiting"}
	some.Add(80.25, 91.5)
	rate := &bench.Row{Name: "file-up", What: "file into a sandbox", Unit: "MB/s", WarmUp: 1, Note: "256 MiB of zeros"}
	rate.Add(500, 600, 550)
	rows := []*bench.Row{
		full, some, rate,
		{Name: "runc-run", What: "runc run", Unit: "ms", Note: "not installed"},
		{Name: "pause", What: "pause with memory", Unit: "ms", Error: "a | b\nc"},
	}
	for _, r := range rows {
		r.Summarize()
	}
	return &bench.Report{
		At: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Server: "http://127.0.0.1:7070", Template: "base",
		Machine:  bench.Machine{CPU: "A Processor", Cores: 2, Kernel: "Linux 6.1", Memory: 3 * soulbox.GiB / 2},
		Versions: bench.Versions{Client: "v0.1.0", Server: "v0.1.1", Go: "go1.26.8"},
		Rows:     rows,
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := report().Markdown(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.md", b.Bytes())
}

func TestJSON(t *testing.T) {
	b, err := json.MarshalIndent(report(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", append(b, '\n'))
	var back bench.Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.MarshalIndent(&back, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(b), string(again)); diff != "" {
		t.Errorf("read and written again it differs:\n%s", diff)
	}
}
