package interpreter_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter"
	"github.com/soulbox/soulbox/kit/interpreter/kerneltest"
)

// laboratory runs an interpreter whose Python has what data science needs.
func laboratory(t *testing.T, change func(*interpreter.Options)) (s *server, dir string) {
	t.Helper()
	python := kerneltest.Venv(t, kerneltest.Python(t), "python/tests/data.txt")
	s = start(t, func(o *interpreter.Options) {
		o.Specs = []string{filepath.Join(filepath.Dir(python), "../share/jupyter/kernels")}
		dir = o.Dir
		if change != nil {
			change(o)
		}
	})
	return s, dir
}

// ask sends a request and decodes the answer.
func (s *server) ask(t *testing.T, method, path string, body, answer any) int {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer != nil {
		if err := json.Unmarshal(text, answer); err != nil {
			t.Fatalf("%s %s: %d, %v: %.500s", method, path, resp.StatusCode, err, text)
		}
	}
	return resp.StatusCode
}

// refuses asks for something that is not done.
func (s *server) refuses(t *testing.T, method, path string, body any, status int, says string) {
	t.Helper()
	var e struct {
		Code    int
		Message string
	}
	if got := s.ask(t, method, path, body, &e); got != status || e.Code != status || !strings.Contains(e.Message, says) {
		t.Errorf("%s %s %.200v = %d, code %d, %q; want %d and %q", method, path, body, got, e.Code, e.Message, status, says)
	}
}

// stream is what a change of packages tells.
type stream struct {
	lines []map[string]any
	last  map[string]any
}

func (s *server) change(t *testing.T, method, path string, body any) *stream {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || kind != "application/x-ndjson" {
		text, err := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %d %s %s %v", method, path, resp.StatusCode, kind, text, err)
	}
	out := &stream{}
	for in := bufio.NewScanner(resp.Body); in.Scan(); {
		line := map[string]any{}
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			t.Fatalf("%q: %v", in.Bytes(), err)
		}
		out.lines = append(out.lines, line)
		out.last = line
	}
	return out
}

const sales = "day,shop,sold\n2026-01-01,north,3\n2026-01-01,south,4\n2026-01-02,north,5\n2026-01-02,south,8\n"

type analysis struct {
	Data []struct {
		Name    string
		Columns []string
		Dtypes  []string
		Rows    int
		Preview map[string][]any
	}
	Result         *line
	Visualizations []struct {
		PNG   string
		Title string
		Chart map[string]any
	}
	Metrics struct {
		Seconds float64
		CPU     float64 `json:"cpu_seconds"`
		Peak    int     `json:"peak_memory_bytes"`
		Rows    int
		Load    float64 `json:"load_seconds"`
	}
	Logs  struct{ Stdout, Stderr string }
	Error *struct{ Name, Value, Traceback string }
}

func TestAnalyze(t *testing.T) {
	files := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/shops.json":
			_, _ = io.WriteString(w, `[{"shop": "north", "city": "Kiel"}, {"shop": "south", "city": "Ulm"}]`)
		case "/redirect":
			http.Redirect(w, r, "/shops.json?key=secret", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer files.Close()
	roots := x509.NewCertPool()
	roots.AddCert(files.Certificate())
	s, dir := laboratory(t, func(o *interpreter.Options) { o.Roots = roots })
	if err := os.WriteFile(filepath.Join(dir, "sales.csv"), []byte(sales), 0o600); err != nil {
		t.Fatal(err)
	}
	datasets := []any{
		request{"name": "sales", "path": "sales.csv", "options": request{"parse_dates": []string{"day"}}},
		request{"name": "shops", "url": files.URL + "/redirect"},
	}

	t.Run("whole", func(t *testing.T) {
		var a analysis
		status := s.ask(t, http.MethodPost, "/analyze", request{"datasets": datasets, "code": `
import matplotlib.pyplot as plt, numpy as np, sys
both = sales.merge(shops)
print("rows:", len(both)); print("careful", file=sys.stderr)
big = np.ones(30_000_000); del big
both.plot(x="day", y="sold", title="Sold by day"); plt.show()
both.groupby("city")["sold"].sum().to_dict()`}, &a)
		if status != http.StatusOK || a.Error != nil {
			t.Fatalf("status %d, error %+v", status, a.Error)
		}
		if len(a.Data) != 3 || a.Data[0].Name != "sales" || a.Data[1].Name != "shops" || a.Data[2].Name != "both" {
			t.Fatalf("data is %+v", a.Data)
		}
		if d := a.Data[0]; d.Rows != 4 || strings.Join(d.Columns, " ") != "day shop sold" || !strings.HasPrefix(d.Dtypes[0], "datetime64") || d.Preview["sold"][3] != 8.0 {
			t.Errorf("sales is %+v", d)
		}
		if d := a.Data[2]; d.Rows != 4 || d.Preview["city"][1] != "Ulm" {
			t.Errorf("both is %+v", d)
		}
		if a.Result == nil || *a.Result.Text != "{'Kiel': 8, 'Ulm': 12}" {
			t.Errorf("result is %+v", a.Result)
		}
		if len(a.Visualizations) != 1 || a.Visualizations[0].Title != "Sold by day" || a.Visualizations[0].Chart["type"] != "line" {
			t.Errorf("visualizations are %.300v", a.Visualizations)
		}
		if m := a.Metrics; m.Rows != 6 || m.Seconds <= 0 || m.CPU <= 0 || m.Load <= 0 || m.Peak < 240<<20 || m.Peak > 2<<30 {
			t.Errorf("metrics are %+v; want 6 rows, and a peak that has 240 MB in it", m)
		}
		if a.Logs.Stdout != "rows: 4\n" || a.Logs.Stderr != "careful\n" {
			t.Errorf("logs are %+v", a.Logs)
		}
	})

	t.Run("code with quotes", func(t *testing.T) {
		var a analysis
		code := "text = '''a\"b\\n\\\\''' + \"\"\"c'd\"\"\" + 'ü🙂'\ntext"
		s.ask(t, http.MethodPost, "/analyze", request{"code": code}, &a)
		if a.Result == nil || *a.Result.Text != `a"b\n\\c\'dü🙂` {
			t.Errorf("result is %+v, %+v", a.Result, a.Error)
		}
	})

	t.Run("error in code", func(t *testing.T) {
		var a analysis
		status := s.ask(t, http.MethodPost, "/analyze", request{"datasets": datasets[:1], "code": "print(1)\nsales['nope']"}, &a)
		if status != http.StatusOK || a.Error == nil || a.Error.Name != "KeyError" || a.Logs.Stdout != "1\n" || len(a.Data) != 1 {
			t.Errorf("status %d, %+v", status, a)
		}
	})

	t.Run("kernel ends", func(t *testing.T) {
		var a analysis
		status := s.ask(t, http.MethodPost, "/analyze", request{"code": "import os; os._exit(3)"}, &a)
		if status != http.StatusOK || a.Error == nil || !strings.Contains(a.Error.Value+a.Error.Traceback, "restarted") {
			t.Errorf("status %d, %+v", status, a.Error)
		}
	})

	t.Run("time is up", func(t *testing.T) {
		var a analysis
		began := time.Now()
		status := s.ask(t, http.MethodPost, "/analyze", request{"code": "print('begun')\nwhile True: pass", "timeout_seconds": 8}, &a)
		if status != http.StatusOK || a.Error == nil || a.Error.Name != "TimeoutError" || a.Logs.Stdout != "begun\n" || time.Since(began) > 60*time.Second {
			t.Errorf("status %d, %+v after %v", status, a, time.Since(began))
		}
	})

	t.Run("floods", func(t *testing.T) {
		var a analysis
		status := s.ask(t, http.MethodPost, "/analyze", request{"code": `
from IPython.display import display, SVG
for _ in range(20): print("x" * 1_000_000)
for _ in range(150): display(SVG("<svg xmlns='http://www.w3.org/2000/svg'/>"))`}, &a)
		if status != http.StatusOK || len(a.Logs.Stdout) > 5<<20 || !strings.Contains(a.Logs.Stdout, "were left out") || len(a.Visualizations) != 100 || !strings.Contains(a.Logs.Stderr, "50 results were left out") {
			t.Errorf("status %d, %d bytes, %d pictures, stderr %q", status, len(a.Logs.Stdout), len(a.Visualizations), a.Logs.Stderr)
		}
	})

	t.Run("context", func(t *testing.T) {
		var c struct{ ID string }
		s.ask(t, http.MethodPost, "/contexts", request{}, &c)
		var a analysis
		s.ask(t, http.MethodPost, "/analyze", request{"context_id": c.ID, "datasets": datasets[:1], "code": "total = int(sales.sold.sum())"}, &a)
		if a.Error != nil {
			t.Errorf("error %+v", a.Error)
		}
		if o := s.execute(t, request{"context_id": c.ID, "code": "total, len(sales)"}); o.text() != "(20, 4)" {
			t.Errorf("afterwards total and rows are %q", o.text())
		}
		// One that takes too long leaves the context to the next one.
		s.ask(t, http.MethodPost, "/analyze", request{"context_id": c.ID, "code": "import time\nwhile True: time.sleep(0.1)", "timeout_seconds": 2}, &a)
		if a.Error == nil || a.Error.Name != "TimeoutError" {
			t.Errorf("error %+v", a.Error)
		}
		if o := s.execute(t, request{"context_id": c.ID, "code": "total"}); o.text() != "20" {
			t.Errorf("afterwards total is %q", o.text())
		}
	})

	t.Run("refused", func(t *testing.T) {
		post := func(body any, status int, says string) {
			t.Helper()
			s.refuses(t, http.MethodPost, "/analyze", body, status, says)
		}
		one := func(d request) request { return request{"code": "1", "datasets": []any{d}} }
		post(request{"code": 1}, 400, "JSON object")
		post(request{"code": "1", "language": "r"}, 400, "language")
		post(request{"code": "1", "context_id": "x"}, 404, "no context")
		post(request{"code": "1", "timeout_seconds": 4000}, 400, "timeout_seconds")
		post(one(request{"path": "sales.csv"}), 400, "must have a name")
		post(one(request{"name": "a b", "path": "sales.csv"}), 400, "name of a variable")
		post(one(request{"name": "import", "path": "sales.csv"}), 400, "name of a variable")
		post(one(request{"name": "d"}), 400, "one of path and url")
		post(one(request{"name": "d", "path": "sales.csv", "url": "http://x/"}), 400, "one of path and url")
		post(one(request{"name": "d", "path": "none.csv"}), 404, "none.csv does not exist")
		post(one(request{"name": "d", "path": "sales.csv", "format": "xml"}), 400, "there are csv, parquet, json, jsonl, excel")
		post(one(request{"name": "d", "path": "sales.csv", "format": "parquet"}), 400, "it is csv")
		post(one(request{"name": "d", "path": "sales.csv", "options": request{"engine": "x"}}), 400, "there are header, names")
		post(one(request{"name": "d", "url": "ftp://example.org/x.csv"}), 400, "http:// or https://")
		post(one(request{"name": "d", "url": files.URL + "/none"}), 400, "404 Not Found")
		post(one(request{"name": "d", "url": "http://127.0.0.1:9/x.csv"}), 400, "cannot be downloaded")
		post(request{"code": "1", "datasets": []any{datasets[0], datasets[0]}}, 400, "two datasets")
		post(request{"code": strings.Repeat(" ", 33<<20)}, 413, "larger than")
		var zeros bytes.Buffer
		z := gzip.NewWriter(&zeros)
		for range 1100 {
			if _, err := z.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bomb.csv.gz"), zeros.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		post(one(request{"name": "d", "path": "bomb.csv.gz"}), 413, "unpacks to more than")
	})

	var contexts []any
	s.ask(t, http.MethodGet, "/contexts", nil, &contexts)
	if len(contexts) != 1 {
		t.Errorf("%d contexts are left, want the one that was made", len(contexts))
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".cache/soulbox/downloads/*")); err != nil || len(left) > 0 {
		t.Errorf("downloads are left: %v, %v", left, err)
	}
}

// A picture comes with the program that has drawn it, which draws it again.
func TestVisualize(t *testing.T) {
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, sales) }))
	defer files.Close()
	s, dir := laboratory(t, nil)
	// A file of the user's that is called like a module of Python's.
	for name, text := range map[string]string{"sales.parquet": sales, "random.py": "raise SystemExit(7)"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	python := kerneltest.Venv(t, kerneltest.Python(t), "python/tests/data.txt")
	for name, body := range map[string]request{
		"file": {"dataset": request{"path": "sales.parquet"}, "kind": "bar", "options": request{"x": "shop", "y": "sold", "title": "It's \"sold\""}},
		"url":  {"dataset": request{"name": "sales", "url": files.URL + "/x"}, "kind": "box", "options": request{"x": "shop", "y": "sold"}},
		"data": {"data": request{"columns": request{"a": []int{1, 2, 3}, "b": []float64{1, 4, 9.5}}}, "kind": "line", "options": request{"x": "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			var d struct {
				PNG, SVG, Code string
				Chart          map[string]any
				Rows           int
			}
			if status := s.ask(t, http.MethodPost, "/visualize", body, &d); status != http.StatusOK || d.Rows < 3 || d.Chart["type"] == nil {
				t.Fatalf("status %d, %d rows, chart %v", status, d.Rows, d.Chart)
			}
			again := t.TempDir()
			cmd := exec.CommandContext(t.Context(), python, "-c", d.Code)
			cmd.Dir = again
			cmd.Env = append(os.Environ(), "MPLBACKEND=Agg")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s\n%s", err, out, d.Code)
			}
			png, err := os.ReadFile(filepath.Join(again, "plot.png"))
			if err != nil || base64.StdEncoding.EncodeToString(png) != d.PNG {
				t.Errorf("the program draws another picture: %v, %d bytes\n%s", err, len(png), d.Code)
			}
			svg, err := os.ReadFile(filepath.Join(again, "plot.svg"))
			if err != nil || string(svg) != d.SVG {
				t.Errorf("the program draws another SVG: %v, %d bytes", err, len(svg))
			}
		})
	}
	post := func(body any, status int, says string) {
		t.Helper()
		s.refuses(t, http.MethodPost, "/visualize", body, status, says)
	}
	data := request{"columns": request{"a": []int{1, 2}}}
	post(request{"kind": "line"}, 400, "one of dataset and data")
	post(request{"kind": "violin", "data": data}, 400, "there are line, bar")
	post(request{"kind": "line", "data": data, "options": request{"y": "b"}}, 400, "there are a")
	post(request{"kind": "line", "data": data, "options": []int{1}}, 400, "options must be an object")
	post(request{"kind": "line", "data": request{"columns": request{"a": []any{1, []int{}}}}}, 400, "values are numbers")
	post(request{"kind": "line", "dataset": request{"path": "/dev/zero"}}, 400, "is not a file")
	post(request{"kind": "line", "dataset": request{"path": "/none"}}, 404, "does not exist")
	post(request{"kind": "line", "data": data, "timeout_seconds": 0.01}, 400, "in the time that there was")
}

// Packages come into environments, and code in those environments finds them.
func TestPackages(t *testing.T) {
	s, dir := laboratory(t, nil)
	out := s.change(t, http.MethodPost, "/environments/mine/packages", request{"packages": []string{"six==1.16.0"}})
	if out.last["type"] != "done" || out.last["seconds"].(float64) <= 0 {
		t.Fatalf("the last line is %v", out.last)
	}
	installed := map[string]any{}
	for _, p := range out.last["installed"].([]any) {
		installed[p.(map[string]any)["name"].(string)] = p.(map[string]any)["version"]
	}
	if installed["six"] != "1.16.0" || installed["ipykernel"] == nil {
		t.Errorf("installed: %v", installed)
	}
	steps := map[string]bool{}
	for _, l := range out.lines[:len(out.lines)-1] {
		if l["type"] == "progress" {
			steps[l["step"].(string)] = true
		}
	}
	if fmt.Sprint(steps) != "map[download:true install:true resolve:true verify:true]" {
		t.Errorf("steps: %v", steps)
	}
	var all struct {
		Environments []struct {
			Name, Python, Path string
			Packages           int
		}
	}
	s.ask(t, http.MethodGet, "/environments", nil, &all)
	if len(all.Environments) != 2 || all.Environments[1].Name != "mine" || !strings.HasPrefix(all.Environments[1].Path, dir) || all.Environments[1].Packages < 10 {
		t.Errorf("environments: %+v", all)
	}
	var c struct{ ID string }
	if status := s.ask(t, http.MethodPost, "/contexts", request{"language": "mine"}, &c); status != http.StatusOK {
		t.Fatalf("a context in mine: %d", status)
	}
	o := s.execute(t, request{"context_id": c.ID, "code": "import six, sys, os; f'{six.__version__} {sys.prefix} {os.environ[\"WORD\"]}'", "env_vars": request{"WORD": "yes"}})
	if want := fmt.Sprintf("1.16.0 %s yes", filepath.Join(dir, ".local/share/soulbox/environments/mine")); o.text() != want {
		t.Errorf("in mine: %q, %+v; want %q", o.text(), o.err, want)
	}
	// It has no pandas, and says so.
	if err := os.WriteFile(filepath.Join(dir, "sales.csv"), []byte(sales), 0o600); err != nil {
		t.Fatal(err)
	}
	s.refuses(t, http.MethodPost, "/analyze", request{"context_id": c.ID, "code": "1", "datasets": []any{request{"name": "d", "path": "sales.csv"}}}, 409, "pandas")
	s.refuses(t, http.MethodDelete, "/environments/mine", nil, 409, "remove it first")

	out = s.change(t, http.MethodPost, "/environments/mine/packages", request{"packages": []string{"soulbox-there-is-no-such-package"}})
	if out.last["type"] != "error" || out.last["rolled_back"] != true || !strings.Contains(out.last["message"].(string), "soulbox-there-is-no-such-package") {
		t.Errorf("the last line is %v", out.last)
	}
	out = s.change(t, http.MethodDelete, "/environments/mine/packages", request{"packages": []string{"six"}})
	if out.last["type"] != "error" && fmt.Sprint(out.last["removed"]) != "[map[name:six version:1.16.0]]" {
		t.Errorf("the last line is %v", out.last)
	}
	resp, err := http.Get(s.url + "/environments/mine/freeze")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(text), "\nipython==") || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("freeze: %s, %v", text, err)
	}
	for _, tt := range []struct {
		method, path string
		body         any
		status       int
		says         string
	}{
		{http.MethodPost, "/environments/Mine/packages", request{"packages": []string{"six"}}, 400, "lower-case"},
		{http.MethodPost, "/environments/javascript/packages", request{"packages": []string{"six"}}, 409, "a kernel is"},
		{http.MethodPost, "/environments/js/packages", request{"packages": []string{"six"}}, 409, "a kernel is"},
		{http.MethodPost, "/environments/python3/packages", request{"packages": []string{"six"}}, 409, "a kernel is"},
		{http.MethodPost, "/environments/mine/packages", request{}, 400, "at least one package"},
		{http.MethodPost, "/environments/mine/packages", request{"packages": []string{"--index-url=x"}}, 400, "options are not taken"},
		{http.MethodPost, "/environments/mine/packages", request{"packages": "six"}, 400, "JSON object"},
		{http.MethodPost, "/environments/mine/packages", request{"packages": []string{"six"}, "index_url": "x"}, 400, "index_url"},
		{http.MethodDelete, "/environments/mine/packages", request{"packages": []string{"pandas"}}, 404, "not installed"},
		{http.MethodDelete, "/environments/mine/packages", request{"packages": []string{"pip"}}, 409, "does not work without"},
		{http.MethodGet, "/environments/none/packages", nil, 404, "does not exist"},
		{http.MethodGet, "/environments/none/freeze", nil, 404, "does not exist"},
		{http.MethodDelete, "/environments/none", nil, 404, "does not exist"},
		{http.MethodDelete, "/environments/default", nil, 409, "cannot be removed"},
	} {
		s.refuses(t, tt.method, tt.path, tt.body, tt.status, tt.says)
	}
	s.ask(t, http.MethodDelete, "/contexts/"+c.ID, nil, nil)
	if status := s.ask(t, http.MethodDelete, "/environments/mine", nil, nil); status != http.StatusNoContent {
		t.Errorf("DELETE /environments/mine: %d", status)
	}
	if status := s.ask(t, http.MethodPost, "/contexts", request{"language": "mine"}, nil); status == http.StatusOK {
		t.Error("a context in mine after it was removed")
	}
}
