package interpreter_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/soulbox/soulbox/kit/interpreter"
	"github.com/soulbox/soulbox/kit/interpreter/kerneltest"
)

// books is an interpreter whose notebooks are in dir.
type books struct {
	*server
	dir string
}

func startBooks(t *testing.T, change func(*interpreter.Options)) *books {
	t.Helper()
	b := &books{}
	b.server = start(t, func(o *interpreter.Options) {
		if change != nil {
			change(o)
		}
		b.dir = o.Dir
	})
	t.Cleanup(func() { b.validate(t) })
	return b
}

// validate has Jupyter's own package check every notebook that is there.
func (b *books) validate(t *testing.T) {
	t.Helper()
	const check = `
import json, pathlib, sys, nbformat
for path in pathlib.Path(sys.argv[1]).rglob("*.ipynb"):
    if path.name.startswith("bad"):
        continue
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5), path
    nbformat.validate(nbformat.from_dict(raw), relax_add_props=False)
`
	python := filepath.Join(kerneltest.Specs(t), "../../../bin/python")
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), python, "-W", "error", "-c", check, b.dir).CombinedOutput()
	if err != nil {
		t.Errorf("nbformat refuses what was made: %v\n%s", err, out)
	}
}

// ask sends a request and reads the answer into v, unless that is nil.
func (b *books) ask(t *testing.T, method, path string, body any, want int, v any) []byte {
	t.Helper()
	text, ok := body.(string)
	if !ok && body != nil {
		j, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		text = string(j)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if resp.StatusCode != want {
		t.Fatalf("%s %s %.200s: status %d, want %d: %.500s", method, path, text, resp.StatusCode, want, got)
	}
	if v != nil {
		if err := json.Unmarshal(got, v); err != nil {
			t.Fatalf("%s %s: %v: %.500s", method, path, err, got)
		}
	}
	return got
}

// bookObject is a notebook as clients see it.
type bookObject struct {
	Path, Revision, Language, State string
	Context                         string `json:"context_id"`
	Content                         struct {
		Metadata map[string]any
		Cells    []bookCell
	}
}

type bookCell struct {
	ID      string
	Type    string `json:"cell_type"`
	Source  string
	Count   *int `json:"execution_count"`
	Outputs []map[string]any
}

// make makes a notebook of these cells of code, and returns their ids.
func (b *books) make(t *testing.T, path, language string, cells ...string) []string {
	t.Helper()
	b.ask(t, "POST", "/notebooks", request{"path": path, "language": language}, 201, nil)
	var ids []string
	for _, source := range cells {
		var made struct{ Cell bookCell }
		b.ask(t, "POST", "/notebooks/"+url.PathEscape(path)+"/cells", request{"type": "code", "source": source}, 201, &made)
		ids = append(ids, made.Cell.ID)
	}
	return ids
}

func (b *books) read(t *testing.T, path string) *bookObject {
	t.Helper()
	o := &bookObject{}
	b.ask(t, "GET", "/notebooks/"+url.PathEscape(path), nil, 200, o)
	return o
}

// bookLine is any line of a run.
type bookLine struct {
	Type, Cell, Status, Revision, Message string
	Count                                 *int `json:"execution_count"`
	Index                                 *int
	Output                                map[string]any
	Gone                                  bool
}

// ran is what a run told.
type ran []bookLine

func (r ran) of(kind string) []bookLine {
	return slices.DeleteFunc(slices.Clone(r), func(l bookLine) bool { return l.Type != kind })
}

// statuses of the cells, and of all.
func (r ran) statuses() string {
	var all []string
	for _, l := range r {
		if l.Type == "done" || l.Type == "end" {
			all = append(all, l.Status)
		}
	}
	return strings.Join(all, " ")
}

// begin starts a run, and returns when at is among its lines. What is returned
// reads the rest.
func (b *books) begin(ctx context.Context, t *testing.T, path string, body any, at string) (rest func() ran) {
	t.Helper()
	resp, err := b.post(ctx, path, body)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 64<<20)
	var all ran
	next := func() bool {
		if !lines.Scan() {
			return false
		}
		if bytes.ContainsFunc(lines.Bytes(), func(r rune) bool { return r > 127 }) {
			t.Errorf("a line is not ASCII: %s", lines.Bytes())
		}
		var l bookLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Errorf("a line: %v: %s", err, lines.Bytes())
		}
		all = append(all, l)
		return true
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		text, err := io.ReadAll(resp.Body)
		t.Fatalf("POST %s: %s, %s, %v", path, resp.Status, text, err)
	}
	for at != "" && next() {
		if strings.Contains(lines.Text(), at) {
			break
		}
	}
	return func() ran {
		defer resp.Body.Close()
		for next() {
		}
		if err := lines.Err(); err != nil && ctx.Err() == nil {
			t.Errorf("POST %s: %v", path, err)
		}
		return all
	}
}

func (b *books) run(t *testing.T, path string, body any) ran {
	t.Helper()
	return b.begin(t.Context(), t, path, body, "")()
}

func text(outputs []map[string]any) string {
	var all strings.Builder
	for _, o := range outputs {
		switch o["output_type"] {
		case "stream":
			fmt.Fprintf(&all, "%v:%v|", o["name"], o["text"])
		case "error":
			fmt.Fprintf(&all, "error:%v|", o["ename"])
		default:
			data, _ := o["data"].(map[string]any)
			fmt.Fprintf(&all, "%v:%v|", o["output_type"], data["text/plain"])
		}
	}
	return all.String()
}

// TestNotebookRuns: what cells show is told, and kept as Jupyter keeps it.
func TestNotebookRuns(t *testing.T) {
	b := startBooks(t, nil)
	ids := b.make(t, "sub/first", "python",
		"import sys\nprint('a')\nprint('é')\nprint('e', file=sys.stderr)\nx = 41\nx + 1",
		"from IPython.display import *\nh = display('old', display_id=True)\nprint(1); clear_output(); print(2); clear_output(wait=True); display('shown', display_id='d'); None",
		"update_display('new', display_id='d'); update_display('none', display_id='other')",
		"1/0", "  \n", "print('after')")
	if o := b.read(t, "sub/first.ipynb"); o.State != "none" || o.Context != "" || o.Language != "python" || len(o.Content.Cells) != 6 {
		t.Errorf("before its first run the notebook is %+v", o)
	}
	got := b.run(t, "/notebooks/sub%2Ffirst.ipynb/run", "")
	if s := got.statuses(); s != "ok ok ok error error" {
		t.Errorf("run all = %s: %v", s, got)
	}
	if l := got.of("clear"); len(l) != 2 {
		t.Errorf("clear_output is told %d times, want 2", len(l))
	}
	if l := got.of("update"); len(l) != 1 || l[0].Cell != ids[1] || *l[0].Index != 0 {
		t.Errorf("updates = %+v, want one of the first output of cell %s", l, ids[1])
	}
	o := b.read(t, "sub/first.ipynb")
	if last := got[len(got)-1]; last.Type != "end" || last.Revision != o.Revision {
		t.Errorf("the last line is %+v, the revision %s", last, o.Revision)
	}
	if o.State != "idle" || o.Context == "" || o.Context != b.NotebookContext("sub/first.ipynb") {
		t.Errorf("after a run the notebook is %s, with the context %q", o.State, o.Context)
	}
	for i, want := range []string{
		"stdout:a\né\n|stderr:e\n|execute_result:42|", "display_data:'new'|", "", "error:ZeroDivisionError|", "", "",
	} {
		if got := text(o.Content.Cells[i].Outputs); got != want {
			t.Errorf("cell %d has %q, want %q", i, got, want)
		}
	}
	if c := o.Content.Cells; c[0].Count == nil || *c[0].Count != 1 || *c[3].Count != 4 || c[5].Count != nil {
		t.Errorf("counts are %v, %v, %v, want 1, 4 and none", c[0].Count, c[3].Count, c[5].Count)
	}
	if s := b.run(t, "/notebooks/sub%2Ffirst/run", request{"stop_on_error": false}).statuses(); s != "ok ok ok error ok ok error" {
		t.Errorf("run all, on after errors = %s", s)
	}
	if got := b.run(t, "/notebooks/sub%2Ffirst/cells/"+ids[5]+"/run", request{}); got.statuses() != "ok ok" || len(got.of("cell")) != 1 {
		t.Errorf("run one = %v", got)
	}
	var h struct {
		Runs []struct {
			Run, Cell, Status, Started string
			Seconds                    float64
			Count                      *int   `json:"execution_count"`
			Source                     string `json:"source_sha256"`
		}
	}
	b.ask(t, "GET", "/notebooks/sub%2Ffirst/runs", nil, 200, &h)
	if len(h.Runs) != 10 || h.Runs[0].Cell != ids[5] || h.Runs[9].Cell != ids[0] || h.Runs[6].Status != "error" || len(h.Runs[0].Source) != 64 || h.Runs[0].Count == nil {
		t.Errorf("runs = %+v", h.Runs)
	}
	fi, err := os.Stat(filepath.Join(b.dir, "sub/first.ipynb"))
	if err != nil || fi.Mode().Perm() != 0o644 {
		t.Errorf("the file has the mode %v, %v", fi.Mode(), err)
	}
	var list struct{ Notebooks []map[string]any }
	b.ask(t, "GET", "/notebooks", nil, 200, &list)
	if len(list.Notebooks) != 1 || list.Notebooks[0]["path"] != "sub/first.ipynb" || list.Notebooks[0]["cells"] != 6.0 {
		t.Errorf("list = %v", list)
	}
}

// TestNotebookMerge: what others save while a cell runs stays.
func TestNotebookMerge(t *testing.T) {
	b := startBooks(t, nil)
	const wait = "print('begun', flush=True)\nimport os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nos.remove('go')\nprint('done')"
	release := func() {
		if err := os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ids := b.make(t, "m", "python", wait, "2")
	rest := b.begin(t.Context(), t, "/notebooks/m/cells/"+ids[0]+"/run", "", "begun")
	if o := b.read(t, "m"); o.State != "busy" {
		t.Errorf("while a cell runs the notebook is %s", o.State)
	}
	b.ask(t, "PATCH", "/notebooks/m/cells/"+ids[1], request{"source": "3", "index": 0}, 200, nil)
	b.ask(t, "POST", "/notebooks/m/rename", request{"path": "n"}, 200, nil)
	release()
	if got := rest(); got.statuses() != "ok ok" {
		t.Errorf("the run ended as %v", got)
	}
	o := b.read(t, "n")
	if o.Content.Cells[0].Source != "3" || text(o.Content.Cells[1].Outputs) != "stdout:begun\ndone\n|" {
		t.Errorf("after an edit, a new name and the run the cells are %+v", o.Content.Cells)
	}
	rest = b.begin(t.Context(), t, "/notebooks/n/cells/"+ids[0]+"/run", "", "begun")
	second := b.begin(t.Context(), t, "/notebooks/n/cells/"+ids[1]+"/run", "", "")
	b.ask(t, "DELETE", "/notebooks/n/cells/"+ids[0], nil, 200, nil)
	release()
	if got := rest().of("done"); len(got) != 1 || !got[0].Gone || got[0].Message == "" {
		t.Errorf("the run of a cell that was removed ended as %+v", got)
	}
	if got := second(); got.statuses() != "ok ok" {
		t.Errorf("the run behind it ended as %v", got)
	}
}

// TestNotebookTrouble: interrupts, restarts and kernels that die leave what was
// printed.
func TestNotebookTrouble(t *testing.T) {
	b := startBooks(t, nil)
	const forever = "print('begun', flush=True)\nwhile True: pass"
	ids := b.make(t, "t", "python", "kept = 1", forever, "import os; print('last', flush=True)\nimport time; time.sleep(0.3); os._exit(3)", "print('kept' in dir())")
	one := func(i int) string { return "/notebooks/t/cells/" + ids[i] + "/run" }
	kept := func(i int) string { return text(b.read(t, "t").Content.Cells[i].Outputs) }
	b.run(t, one(0), "")

	rest := b.begin(t.Context(), t, "/notebooks/t/run", "", "begun")
	behind := b.begin(t.Context(), t, one(3), "", "")
	b.ask(t, "POST", "/notebooks/t/interrupt", nil, 200, nil)
	if got := rest(); got.statuses() != "ok interrupted interrupted" {
		t.Errorf("after an interrupt the run is %v", got)
	}
	if got := behind(); got.statuses() != "interrupted" {
		t.Errorf("after an interrupt the run behind it is %v", got)
	}
	if got := kept(1); got != "stdout:begun\n|error:KeyboardInterrupt|" {
		t.Errorf("the interrupted cell has %q", got)
	}
	if b.run(t, one(3), ""); kept(3) != "stdout:True\n|" {
		t.Errorf("after an interrupt the variables are gone: %q", kept(3))
	}
	if got := b.run(t, one(1), request{"timeout_seconds": 0.5}); got.statuses() != "interrupted interrupted" {
		t.Errorf("after its time the run is %v", got)
	}
	ctx, leave := context.WithCancel(t.Context())
	rest = b.begin(ctx, t, one(1), "", "begun")
	leave()
	rest()
	if b.run(t, one(3), ""); kept(1) != "stdout:begun\n|error:KeyboardInterrupt|" || kept(3) != "stdout:True\n|" {
		t.Errorf("after its client has gone the cell has %q; the next one %q", kept(1), kept(3))
	}

	if got := b.run(t, one(2), ""); got.statuses() != "died died" {
		t.Errorf("when the kernel dies the run is %v", got)
	}
	if got := kept(2); got != "stdout:last\n|error:DeadKernel|" {
		t.Errorf("the cell in which the kernel died has %q", got)
	}
	if b.run(t, one(3), ""); !strings.HasSuffix(kept(3), "stdout:False\n|") {
		t.Errorf("after the kernel died the next cell has %q", kept(3))
	}

	rest = b.begin(t.Context(), t, one(1), "", "begun")
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		resp, err := b.post(t.Context(), "/notebooks/t/restart", "")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("restart: %v, %v", resp, err)
			return
		}
		resp.Body.Close()
	}()
	if got := rest(); got.statuses() != "interrupted interrupted" {
		t.Errorf("after a restart the run is %v", got)
	}
	// The run has ended because the old kernel has; the new one is not there yet.
	select {
	case <-restarted:
		t.Error("the restart was over when the run ended, so nothing was tried while it went on")
	default:
		b.ask(t, "POST", one(0), "", 409, nil)
	}
	<-restarted
	if got := b.run(t, one(0), ""); got.statuses() != "ok ok" {
		t.Errorf("after a restart a run is %v", got)
	}
}

// TestNotebookFlood: a cell's outputs have an end, and the notebook opens.
func TestNotebookFlood(t *testing.T) {
	b := startBooks(t, nil)
	ids := b.make(t, "f", "python", "for i in range(40): print('x' * (1 << 20))", "for i in range(20000): display(i)", "print('\\ud800' 'é\\x00')")
	if got := b.run(t, "/notebooks/f/run", request{"stop_on_error": false}).statuses(); !strings.HasPrefix(got, "ok ok ") {
		t.Errorf("run = %s", got)
	}
	o := b.read(t, "f")
	for i := range ids[:2] {
		outputs := o.Content.Cells[i].Outputs
		last, _ := outputs[len(outputs)-1]["text"].(string)
		if !strings.Contains(last, "left out") || len(outputs) > 10_001 {
			t.Errorf("cell %d has %d outputs, and the last one says %q", i, len(outputs), last)
		}
	}
}

func TestNotebookBadRequests(t *testing.T) {
	b := startBooks(t, nil)
	ids := b.make(t, "a", "", "1")
	var made struct{ Cell bookCell }
	b.ask(t, "POST", "/notebooks/a/cells", request{"type": "markdown", "source": "x"}, 201, &made)
	outside := t.TempDir()
	for path, content := range map[string]string{
		filepath.Join(b.dir, "bad.ipynb"): "{}", filepath.Join(outside, "o.ipynb"): "{}",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"out": outside, "badlink.ipynb": filepath.Join(outside, "o.ipynb"), "badin.ipynb": "a.ipynb"} {
		if err := os.Symlink(to, filepath.Join(b.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "mkfifo", filepath.Join(b.dir, "badpipe.ipynb")).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v, %s", err, out)
	}
	before := b.read(t, "a")
	cell := "/notebooks/a/cells/" + ids[0]
	for _, test := range []struct {
		method, path string
		body         any
		want         int
	}{
		{"POST", "/notebooks", request{"path": "a"}, 409},
		{"POST", "/notebooks", request{"path": "../b"}, 400},
		{"POST", "/notebooks", request{"path": "out/b"}, 400},
		{"POST", "/notebooks", request{"path": "bad.ipynb/b"}, 404},
		{"POST", "/notebooks", request{}, 400},
		{"POST", "/notebooks", request{"path": "b", "language": "cobol"}, 400},
		{"POST", "/notebooks", request{"path": "b", "content": request{}}, 400},
		{"POST", "/notebooks", request{"path": "b", "more": 1}, 400},
		{"POST", "/notebooks", `{"path": "b"`, 400},
		{"POST", "/notebooks", `[]`, 400},
		{"GET", "/notebooks/none", nil, 404},
		{"GET", "/notebooks/..%2Fa", nil, 400},
		{"GET", "/notebooks/%2Fetc%2Fpasswd", nil, 400},
		{"GET", "/notebooks/bad", nil, 409},
		{"GET", "/notebooks/badlink", nil, 400},
		{"GET", "/notebooks/badin", nil, 400},
		{"GET", "/notebooks/badpipe", nil, 400},
		{"GET", "/notebooks/out%2Fo", nil, 400},
		{"DELETE", "/notebooks/out%2Fo", nil, 400},
		{"PUT", "/notebooks/a", request{}, 400},
		{"PUT", "/notebooks/a", request{"content": "x"}, 400},
		{"PUT", "/notebooks/none", `{"content": {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}}`, 404},
		{"PUT", "/notebooks/a", `{"revision": "x", "content": {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}}`, 409},
		{"DELETE", "/notebooks/a?revision=x", nil, 409},
		{"DELETE", "/notebooks/none", nil, 404},
		{"POST", "/notebooks/a/rename", request{"path": "bad"}, 409},
		{"POST", "/notebooks/a/rename", request{"path": "out/x"}, 400},
		{"POST", "/notebooks/a/rename", request{}, 400},
		{"POST", "/notebooks/a/cells", request{"type": "sql"}, 400},
		{"POST", "/notebooks/a/cells", request{"type": "code", "index": 3}, 400},
		{"POST", "/notebooks/a/cells", request{"type": "code", "index": -1}, 400},
		{"POST", "/notebooks/a/cells", request{"type": "code", "source": 1}, 400},
		{"POST", "/notebooks/a/cells", request{"type": "code", "revision": "x"}, 409},
		{"PATCH", cell, request{"revision": "x", "source": ""}, 409},
		{"PATCH", cell, request{"index": 2}, 400},
		{"PATCH", cell, request{"type": "x"}, 400},
		{"PATCH", "/notebooks/a/cells/none", request{"source": ""}, 404},
		{"DELETE", "/notebooks/a/cells/none", nil, 404},
		{"DELETE", cell + "?revision=x", nil, 409},
		{"POST", "/notebooks/a/cells/none/run", nil, 404},
		{"POST", "/notebooks/a/cells/" + made.Cell.ID + "/run", nil, 400},
		{"POST", cell + "/run", request{"timeout_seconds": 0}, 400},
		{"POST", cell + "/run", request{"timeout_seconds": 1e99}, 400},
		{"POST", cell + "/run", request{"stop_on_error": true}, 400},
		{"POST", "/notebooks/none/run", nil, 404},
		{"POST", "/notebooks/none/interrupt", nil, 404},
		{"POST", "/notebooks/none/restart", nil, 404},
		{"GET", "/notebooks/none/runs", nil, 404},
		{"GET", "/notebooks/a/export?format=pdf", nil, 400},
	} {
		var e struct {
			Code              int
			Message, Revision string
		}
		b.ask(t, test.method, test.path, test.body, test.want, &e)
		if e.Code != test.want || e.Message == "" {
			t.Errorf("%s %s: the body is %+v", test.method, test.path, e)
		}
		if after := b.read(t, "a"); after.Revision != before.Revision {
			t.Fatalf("%s %s changed the notebook", test.method, test.path)
		}
	}
	var e struct{ Revision string }
	if b.ask(t, "PATCH", cell, request{"revision": "x", "source": ""}, 409, &e); e.Revision != before.Revision {
		t.Errorf("a conflict names the revision %q, want %q", e.Revision, before.Revision)
	}
	b.ask(t, "PATCH", cell, request{"revision": before.Revision, "source": "2"}, 200, nil)
	b.ask(t, "POST", "/notebooks", `{"path": "far", "content": {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "far", "display_name": "Far"}}, "cells": []}}`, 201, nil)
	b.ask(t, "POST", "/notebooks/far/run", "", 409, nil)
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside of the folder there is %v, %v", left, err)
	}
}

// TestNotebookExport: pages, scripts and files.
func TestNotebookExport(t *testing.T) {
	b := startBooks(t, nil)
	b.make(t, "ex ä", "python", "%matplotlib inline\nprint(6 * 7)")
	get := func(format string, want int) (string, string) {
		resp, err := http.Get(b.url + "/notebooks/ex%20%C3%A4/export?format=" + format)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("export as %s: %s, %v, %s", format, resp.Status, err, text)
		}
		return string(text), resp.Header.Get("Content-Type") + " " + resp.Header.Get("Content-Disposition")
	}
	if text, head := get("script", 200); !strings.Contains(text, "\nprint(6 * 7)\n") || head != "text/x-python; charset=utf-8 attachment; filename*=utf-8''ex%20%C3%A4.py" {
		t.Errorf("script: %s\n%s", head, text)
	}
	if text, head := get("ipynb", 200); !strings.Contains(text, `"nbformat_minor": 5`) || !strings.HasPrefix(head, "application/x-ipynb+json ") {
		t.Errorf("ipynb: %s\n%s", head, text)
	}
	if text, head := get("html", 200); !strings.Contains(text, "</html>") || !strings.HasPrefix(head, "text/html") {
		t.Errorf("html: %s\n%.300s", head, text)
	}

	without := t.TempDir() // a Python that has nothing
	if err := os.Mkdir(filepath.Join(without, "python3"), 0o700); err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(without, "python")
	if err := os.WriteFile(python, []byte("#!/bin/sh\nexec python3 -S -I \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	spec := `{"argv": ["` + python + `"], "display_name": "", "language": "python"}`
	if err := os.WriteFile(filepath.Join(without, "python3/kernel.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	b = startBooks(t, func(o *interpreter.Options) { o.Specs = []string{without} })
	b.make(t, "ex ä", "python")
	if text, _ := get("html", 409); !strings.Contains(text, "nbconvert") {
		t.Errorf("without nbconvert: %s", text)
	}
}
