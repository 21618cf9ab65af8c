package notebook_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soulbox/soulbox/kit/interpreter/kerneltest"
	"github.com/soulbox/soulbox/kit/interpreter/notebook"
)

// validate has Jupyter's own package check notebooks.
func validate(t testing.TB, files ...string) {
	t.Helper()
	const check = `
import json, sys, nbformat
for path in sys.argv[1:]:
    raw = json.load(open(path, encoding="utf-8"))
    assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5), path
    nbformat.validate(nbformat.from_dict(raw), relax_add_props=False)
    assert len({c["id"] for c in raw["cells"]}) == len(raw["cells"]), path
    text = nbformat.writes(nbformat.read(path, as_version=4))
    assert nbformat.reads(text, as_version=4) == nbformat.read(path, as_version=4), path
`
	python := filepath.Join(kerneltest.Specs(t), "../../../bin/python")
	out, err := exec.CommandContext(t.Context(), python, append([]string{"-W", "error", "-c", check}, files...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("nbformat refuses %v: %v\n%s", files, err, out)
	}
}

// write puts a text into a file for validate.
func write(t testing.TB, text []byte) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.ipynb")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(text); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func parse(t testing.TB, text string) *notebook.Document {
	t.Helper()
	d, err := notebook.Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%s): %v", text, err)
	}
	return d
}

func encode(t testing.TB, d *notebook.Document) []byte {
	t.Helper()
	text, err := d.Print()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// document returns a notebook with these cells.
func document(cells string) string {
	return `{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [` + cells + `]}`
}

// code returns a code cell with these outputs.
func code(outputs string) string {
	return document(`{"id": "a", "cell_type": "code", "metadata": {}, "source": "", "execution_count": null, "outputs": [` + outputs + `]}`)
}

// whole has everything that nbformat has, and what it leaves to others.
const whole = `{
 "nbformat": 4, "nbformat_minor": 5,
 "metadata": {
  "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python", "env": {"A": "1"}},
  "language_info": {"name": "python", "version": "3.11", "codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py"},
  "title": "All", "authors": [{"name": "Ä"}], "widgets": {"state": {"x": [1, 2.50, 1e3, 12345678901234567890]}}, "<&>": null
 },
 "cells": [
  {"id": "text-1", "cell_type": "markdown", "metadata": {"tags": ["a", "b"], "anything": {"deep": [true]}}, "source": ["# Title\n", "text\r\n", "end"],
   "attachments": {"p.png": {"image/png": "aGk=", "text/plain": ["a\n", "b"]}}},
  {"id": "raw_2", "cell_type": "raw", "metadata": {"format": "text/x-rst", "name": "n"}, "source": ""},
  {"id": "C", "cell_type": "code", "source": "1 < 2 & 3", "execution_count": 7,
   "metadata": {"collapsed": false, "scrolled": "auto", "jupyter": {"source_hidden": true}, "execution": {"iopub.status.busy": "2026-01-01"}, "vendor": {"k": 1}},
   "outputs": [
    {"output_type": "stream", "name": "stdout", "text": ["a\n", "b"]},
    {"output_type": "display_data", "metadata": {"image/png": {"width": 3}}, "data": {"image/png": ["aGk=\n"], "application/json": {"a": [1]}, "application/vnd.x+json": 3, "text/html": "<b>\n\u2028</b>"}},
    {"output_type": "execute_result", "metadata": {}, "execution_count": 7, "data": {"text/plain": "True"}},
    {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["a", "b\n"]}
   ]}
 ]
}`

func TestParseAndPrint(t *testing.T) {
	d := parse(t, whole)
	if len(d.Cells) != 3 || d.Cells[0].Source != "# Title\ntext\r\nend" || *d.Cells[2].Count != 7 || len(d.Cells[2].Outputs) != 4 {
		t.Fatalf("Parse = %+v", d)
	}
	if k := d.Kernel(); k != (notebook.Kernel{Name: "python3", Display: "Python 3", Language: "python"}) || k.Context() != "python" {
		t.Errorf("Kernel = %+v", k)
	}
	text := encode(t, d)
	for _, want := range []string{
		`12345678901234567890`, `2.50`, `"<&>": null`, `"vendor"`, `"env"`, "     \"# Title\\n\",\n", `"application/vnd.x+json": 3`, `"1 < 2 & 3"`,
	} {
		if !strings.Contains(strings.ReplaceAll(string(text), "    \"#", "     \"#"), want) {
			t.Errorf("Print has no %s:\n%s", want, text)
		}
	}
	same(t, whole, string(text))
	validate(t, write(t, text))
}

// same fails unless two documents say the same, texts in lines or not.
func same(t testing.TB, a, b string) {
	t.Helper()
	canonical := func(text string) string {
		d := parse(t, text)
		var v any
		one, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(one, &v); err != nil {
			t.Fatal(err)
		}
		sorted, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(sorted)
	}
	if x, y := canonical(a), canonical(b); x != y {
		t.Errorf("documents differ:\n%s\n%s", x, y)
	}
}

// TestUpgrade: cells of older documents get ids, the same each time.
func TestUpgrade(t *testing.T) {
	const old = `{"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": [
		{"cell_type": "markdown", "metadata": {}, "source": "x"}, {"cell_type": "markdown", "metadata": {}, "source": "x"},
		{"cell_type": "raw", "metadata": {}, "source": "x", "id": "kept"}, {"cell_type": "raw", "metadata": {}, "source": "y", "id": "not one"},
		{"cell_type": "raw", "metadata": {}, "source": "z", "id": "kept"}]}`
	d, again := parse(t, old), parse(t, old)
	seen := map[string]bool{}
	for i, c := range d.Cells {
		if c.ID == "" || seen[c.ID] || c.ID != again.Cells[i].ID {
			t.Errorf("cell %d has the id %q, and %q when it is read again; others have %v", i, c.ID, again.Cells[i].ID, seen)
		}
		seen[c.ID] = true
	}
	if d.Cells[2].ID != "kept" {
		t.Errorf("an id that was there became %q", d.Cells[2].ID)
	}
	validate(t, write(t, encode(t, d)))
}

func TestNew(t *testing.T) {
	var files []string
	for _, k := range []notebook.Kernel{
		{Name: "python3", Display: "Python 3", Language: "python"},
		{Name: "ir", Display: "R", Language: "R"},
		{Name: "bash", Display: "Bash", Language: "bash"},
		{Name: "x", Display: "X", Language: "x"},
		{},
	} {
		d := notebook.New(k)
		if got := d.Kernel(); got != k {
			t.Errorf("New(%+v).Kernel() = %+v", k, got)
		}
		files = append(files, write(t, encode(t, d)))
	}
	validate(t, files...)
}

func TestBadDocuments(t *testing.T) {
	cell := func(members string) string {
		return document(`{"id": "a", "cell_type": "markdown", "metadata": {}, "source": ""` + members + `}`)
	}
	for name, test := range map[string]struct{ text, want string }{
		"nothing":             {``, "not JSON"},
		"no JSON":             {`{"nbformat": 4,`, "not JSON"},
		"more than one":       {document("") + "{}", "not JSON"},
		"a list":              {`[]`, "not a JSON object"},
		"null":                {`null`, "not a JSON object"},
		"no notebook":         {`{"a": 1}`, "no nbformat"},
		"nbformat 3":          {`{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}`, "nbconvert"},
		"nbformat 5":          {`{"nbformat": 5, "nbformat_minor": 0, "metadata": {}, "cells": []}`, "nbformat 5"},
		"a newer minor":       {`{"nbformat": 4, "nbformat_minor": 6, "metadata": {}, "cells": []}`, "4.6"},
		"no minor":            {`{"nbformat": 4, "metadata": {}, "cells": []}`, "nbformat_minor"},
		"nbformat in quotes":  {`{"nbformat": "4", "nbformat_minor": 5, "metadata": {}, "cells": []}`, "not a number"},
		"one more member":     {`{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [], "x": 1}`, `no "x"`},
		"no metadata":         {`{"nbformat": 4, "nbformat_minor": 5, "cells": []}`, "metadata is not an object"},
		"no cells":            {`{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}`, "cells are not a list"},
		"cells null":          {`{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": null}`, "cells are not a list"},
		"kernel without name": {`{"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"display_name": ""}}, "cells": []}`, "no name"},
		"language a number":   {`{"nbformat": 4, "nbformat_minor": 5, "metadata": {"language_info": {"name": 3}}, "cells": []}`, "name cannot be 3"},
		"no UTF-8":            {document(`{"id": "` + "\xff" + `"}`), "UTF-8"},
		"deep":                {`{"nbformat": 4, "nbformat_minor": 5, "cells": [], "metadata": {"a": ` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}}`, "nested"},
		"cell a string":       {document(`"x"`), "cell 0 is not an object"},
		"cell of a new type":  {document(`{"id": "a", "cell_type": "sql", "metadata": {}, "source": ""}`), `"sql"`},
		"cell without id":     {document(`{"cell_type": "raw", "metadata": {}, "source": ""}`), "its id is missing"},
		"cell with a long id": {document(`{"id": "` + strings.Repeat("a", 65) + `", "cell_type": "raw", "metadata": {}, "source": ""}`), "its id"},
		"id with a space":     {document(`{"id": "a b", "cell_type": "raw", "metadata": {}, "source": ""}`), "its id"},
		"ids twice":           {document(`{"id": "a", "cell_type": "raw", "metadata": {}, "source": ""}, {"id": "a", "cell_type": "raw", "metadata": {}, "source": ""}`), "cell 1: its id a"},
		"source missing":      {document(`{"id": "a", "cell_type": "raw", "metadata": {}}`), "its source"},
		"source of numbers":   {document(`{"id": "a", "cell_type": "raw", "metadata": {}, "source": [1]}`), "its source"},
		"metadata a list":     {document(`{"id": "a", "cell_type": "raw", "metadata": [], "source": ""}`), "metadata is not an object"},
		"outputs of a text":   {cell(`, "outputs": []`), `no "outputs"`},
		"attachments a list":  {cell(`, "attachments": []`), "attachments"},
		"attachment a string": {cell(`, "attachments": {"a": "b"}`), "attachment"},
		"tags twice":          {document(`{"id": "a", "cell_type": "raw", "metadata": {"tags": ["a", "a"]}, "source": ""}`), "tags"},
		"empty name":          {document(`{"id": "a", "cell_type": "raw", "metadata": {"name": ""}, "source": ""}`), "name"},
		"attachments of code": {document(`{"id": "a", "cell_type": "code", "metadata": {}, "source": "", "outputs": [], "execution_count": null, "attachments": {}}`), `no "attachments"`},
		"no outputs":          {document(`{"id": "a", "cell_type": "code", "metadata": {}, "source": "", "execution_count": null}`), "outputs"},
		"no count":            {document(`{"id": "a", "cell_type": "code", "metadata": {}, "source": "", "outputs": []}`), "no execution_count"},
		"count negative":      {document(`{"id": "a", "cell_type": "code", "metadata": {}, "source": "", "outputs": [], "execution_count": -1}`), "-1"},
		"output a string":     {code(`"x"`), "output 0 is not an object"},
		"output of new type":  {code(`{"output_type": "sound"}`), `"sound"`},
		"stream without name": {code(`{"output_type": "stream", "text": ""}`), "a stream has"},
		"stream with more":    {code(`{"output_type": "stream", "name": "stdout", "text": "", "x": 1}`), `no "x"`},
		"error without value": {code(`{"output_type": "error", "ename": "", "traceback": []}`), "an error has"},
		"traceback a string":  {code(`{"output_type": "error", "ename": "", "evalue": "", "traceback": "x"}`), "an error has"},
		"no data":             {code(`{"output_type": "display_data", "metadata": {}}`), "data"},
		"no output metadata":  {code(`{"output_type": "display_data", "data": {}}`), "metadata"},
		"result, no count":    {code(`{"output_type": "execute_result", "data": {}, "metadata": {}}`), "no execution_count"},
		"display with count":  {code(`{"output_type": "display_data", "data": {}, "metadata": {}, "execution_count": 1}`), `no "execution_count"`},
		"text an object":      {code(`{"output_type": "display_data", "data": {"text/plain": {}}, "metadata": {}}`), "text/plain"},
		"chart of no type":    {code(`{"output_type": "display_data", "data": {"e2b/chart": {}}, "metadata": {}}`), "e2b/chart"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := notebook.Parse([]byte(test.text))
			var told *notebook.Error
			if !errors.As(err, &told) || told.Status != http.StatusBadRequest || !strings.Contains(told.Message, test.want) {
				t.Errorf("Parse: %v, want a bad request that says %q", err, test.want)
			}
		})
	}
	t.Run("large", func(t *testing.T) {
		_, err := notebook.Parse(make([]byte, notebook.MaxSize+1))
		var told *notebook.Error
		if !errors.As(err, &told) || told.Status != http.StatusRequestEntityTooLarge {
			t.Errorf("Parse: %v, want that it is too large", err)
		}
	})
	t.Run("many cells", func(t *testing.T) {
		cells := strings.Repeat(`{"cell_type": "raw", "metadata": {}, "source": ""},`, 10_001)
		_, err := notebook.Parse([]byte(`{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [` + strings.TrimSuffix(cells, ",") + `]}`))
		if err == nil || !strings.Contains(err.Error(), "10001 cells") {
			t.Errorf("Parse: %v, want that there are too many cells", err)
		}
	})
}

func TestClean(t *testing.T) {
	for name, want := range map[string]string{
		"a": "a.ipynb", "a.ipynb": "a.ipynb", "x/y z/ä": "x/y z/ä.ipynb", "a.IPYNB": "a.IPYNB.ipynb", ".x/a": ".x/a.ipynb", "..a": "..a.ipynb",
	} {
		if got, err := notebook.Clean(name); got != want || err != nil {
			t.Errorf("Clean(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{
		"", "/a", "a/", "../a", "a/../b", "a/./b", "./a", "a//b", ".ipynb", "a/.ipynb", "a\x00b", "a\nb", "\xff",
		strings.Repeat("a", 256), strings.Repeat("a/", 600) + "b",
	} {
		if got, err := notebook.Clean(name); err == nil {
			t.Errorf("Clean(%.40q) = %.40q, want an error", name, got)
		}
	}
}

func TestScript(t *testing.T) {
	d := parse(t, `{"nbformat": 4, "nbformat_minor": 4, "metadata": {"language_info": {"name": "python"}}, "cells": [
		{"cell_type": "markdown", "metadata": {}, "source": "# Title\n\ntext"},
		{"cell_type": "code", "metadata": {}, "source": "%matplotlib inline\nx = 17 % 5\nif x:\n    !ls\nprint(x)\n\n", "outputs": [], "execution_count": null},
		{"cell_type": "code", "metadata": {}, "source": "%%bash\nls", "outputs": [], "execution_count": null},
		{"cell_type": "raw", "metadata": {}, "source": "raw"}]}`)
	want := "# # Title\n#\n# text\n\npass  # %matplotlib inline\nx = 17 % 5\nif x:\n    pass  # !ls\nprint(x)\n\n# %%bash\n# ls\n"
	text, extension, media := d.Script()
	if text != want || extension != ".py" || media != "text/x-python" {
		t.Errorf("Script = %q, %s, %s, want %q", text, extension, media, want)
	}
	out, err := exec.CommandContext(t.Context(), "python3", "-c", text).CombinedOutput()
	if err != nil || string(out) != "2\n" {
		t.Errorf("the script prints %q, %v, want 2", out, err)
	}
	bad := parse(t, `{"nbformat": 4, "nbformat_minor": 4, "metadata": {"language_info": {"name": "x", "file_extension": "/../../x", "mimetype": "text/html\r\nX: y"}}, "cells": []}`)
	if _, extension, media := bad.Script(); extension != ".txt" || media != "text/plain" {
		t.Errorf("Script of a notebook with bad metadata is a %s, %s", extension, media)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(document("")))
	f.Add([]byte(code(`{"output_type": "stream", "name": "x", "text": ["a", "\ud800"]}`)))
	f.Add([]byte(`{"nbformat":4,"nbformat_minor":0,"metadata":{},"cells":[{"cell_type":"raw","metadata":{},"source":"\u0000"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := notebook.Parse(text)
		var told *notebook.Error
		if err != nil {
			if !errors.As(err, &told) || told.Status == 0 || told.Message == "" {
				t.Fatalf("Parse: %v, which nobody can be told", err)
			}
			return
		}
		once := encode(t, d)
		again, err := notebook.Parse(once)
		if err != nil {
			t.Fatalf("what was printed is not read: %v\n%s", err, once)
		}
		if twice := encode(t, again); string(once) != string(twice) {
			t.Fatalf("printed twice it is another one:\n%s\n%s", once, twice)
		}
		whole, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		same(t, string(once), string(whole))
		d.Script()
	})
}
