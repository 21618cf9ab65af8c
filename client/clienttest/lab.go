package clienttest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A notebook is one of a sandbox here. Its kernel knows print only.
type notebook struct {
	cells []map[string]any
	runs  []map[string]any
	count int
	at    int // how often it was changed
}

func (n *notebook) revision() string { return "r" + strconv.Itoa(n.at) }

func (n *notebook) content() map[string]any {
	cells := n.cells
	if cells == nil {
		cells = []map[string]any{}
	}
	return map[string]any{"nbformat": 4, "nbformat_minor": 5, "metadata": map[string]any{}, "cells": cells}
}

func (n *notebook) find(id string) int {
	return slices.IndexFunc(n.cells, func(c map[string]any) bool { return c["id"] == id })
}

// bench is what the code interpreter of a sandbox has.
type bench struct {
	notebooks map[string]*notebook
	packages  map[string]map[string]string // by environment
}

// labRoutes are those of code interpreters. One lock is held over each request.
func (s *Server) labRoutes(mux *http.ServeMux) {
	const at = "/v1/sandboxes/{id}"
	one := at + "/notebooks/{notebook}"
	for pattern, do := range map[string]func(http.ResponseWriter, *http.Request, *bench){
		"GET " + at + "/notebooks":                       listNotebooks,
		"POST " + at + "/notebooks":                      createNotebook,
		"GET " + one:                                     withNotebook(showNotebook),
		"DELETE " + one:                                  removeNotebook,
		"POST " + one + "/cells":                         withNotebook(addCell),
		"PATCH " + one + "/cells/{cell}":                 withNotebook(editCell),
		"DELETE " + one + "/cells/{cell}":                withNotebook(removeCell),
		"POST " + one + "/run":                           withNotebook(runCells),
		"POST " + one + "/cells/{cell}/run":              withNotebook(runCells),
		"POST " + one + "/interrupt":                     withNotebook(nothing),
		"POST " + one + "/restart":                       withNotebook(nothing),
		"GET " + one + "/runs":                           withNotebook(listRuns),
		"GET " + one + "/export":                         withNotebook(exportNotebook),
		"GET " + at + "/environments":                    listEnvironments,
		"DELETE " + at + "/environments/{name}":          removeEnvironment,
		"GET " + at + "/environments/{name}/freeze":      freezePackages,
		"GET " + at + "/environments/{name}/packages":    listPackages,
		"POST " + at + "/environments/{name}/packages":   installPackages,
		"DELETE " + at + "/environments/{name}/packages": removePackages,
		"POST " + at + "/analyze":                        s.analyze,
		"POST " + at + "/visualize":                      s.visualize,
		"POST " + at + "/jupyterlab":                     startLab,
		"DELETE " + at + "/jupyterlab":                   stopLab,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			b := s.boxes[r.PathValue("id")]
			if b == nil {
				sandboxMissing(w, r.PathValue("id"))
				return
			}
			if s.benches[b.id] == nil {
				s.benches[b.id] = &bench{notebooks: map[string]*notebook{}, packages: map[string]map[string]string{"default": {"pip": "25.0"}}}
			}
			do(w, r, s.benches[b.id])
		})
	}
}

// startLab says where JupyterLab would be. Whoever needs more listens there.
func startLab(w http.ResponseWriter, _ *http.Request, _ *bench) {
	answer(w, http.StatusOK, map[string]any{"port": 8888, "token": "lab-token", "path": "/lab"})
}

func stopLab(w http.ResponseWriter, _ *http.Request, _ *bench) {
	answer(w, http.StatusOK, struct{}{})
}

func notebookName(s string) string { return strings.TrimSuffix(s, ".ipynb") + ".ipynb" }

// withNotebook finds the notebook of a request, and refuses one that says a
// revision which is not the notebook's.
func withNotebook(do func(http.ResponseWriter, *http.Request, *notebook)) func(http.ResponseWriter, *http.Request, *bench) {
	return func(w http.ResponseWriter, r *http.Request, b *bench) {
		n := b.notebooks[notebookName(r.PathValue("notebook"))]
		if n == nil {
			refuse(w, http.StatusNotFound, fmt.Sprintf("there is no notebook %q", r.PathValue("notebook")))
			return
		}
		if id := r.PathValue("cell"); id != "" && n.find(id) < 0 {
			refuse(w, http.StatusNotFound, fmt.Sprintf("the notebook has no cell %q", id))
			return
		}
		do(w, r, n)
	}
}

func listNotebooks(w http.ResponseWriter, _ *http.Request, b *bench) {
	list := []map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(b.notebooks)) {
		n := b.notebooks[name]
		list = append(list, map[string]any{"path": name, "revision": n.revision(), "modified": time.Now(), "size": 100, "cells": len(n.cells), "language": "python"})
	}
	answer(w, http.StatusOK, map[string]any{"notebooks": list})
}

func createNotebook(w http.ResponseWriter, r *http.Request, b *bench) {
	var in struct {
		Path    string
		Content *struct{ Cells []map[string]any }
	}
	if !decode(w, r, &in) {
		return
	}
	name := notebookName(in.Path)
	if b.notebooks[name] != nil {
		refuse(w, http.StatusConflict, name+" exists")
		return
	}
	n := &notebook{}
	if in.Content != nil {
		n.cells = in.Content.Cells
	}
	b.notebooks[name] = n
	answer(w, http.StatusCreated, map[string]any{"path": name, "revision": n.revision(), "state": "none", "content": n.content()})
}

func showNotebook(w http.ResponseWriter, r *http.Request, n *notebook) {
	answer(w, http.StatusOK, map[string]any{"path": notebookName(r.PathValue("notebook")), "revision": n.revision(), "state": "idle", "language": "python", "content": n.content()})
}

func removeNotebook(w http.ResponseWriter, r *http.Request, b *bench) {
	delete(b.notebooks, notebookName(r.PathValue("notebook")))
	w.WriteHeader(http.StatusNoContent)
}

// cellWire is how a cell is said to be.
type cellWire struct {
	Type, Source *string
	Index        *int
	Revision     string
}

// current reports whether a revision is the notebook's, or none.
func (n *notebook) current(w http.ResponseWriter, revision string) bool {
	if revision == "" || revision == n.revision() {
		n.at++
		return true
	}
	answer(w, http.StatusConflict, map[string]any{"code": http.StatusConflict, "message": "somebody else has changed the notebook", "revision": n.revision()})
	return false
}

// set does to cell i what in says.
func (n *notebook) set(i int, in cellWire) {
	c := n.cells[i]
	if in.Type != nil {
		c["cell_type"] = *in.Type
	}
	if in.Source != nil {
		c["source"] = *in.Source
	}
	if in.Index != nil {
		n.cells = slices.Insert(slices.Delete(n.cells, i, i+1), min(*in.Index, len(n.cells)-1), c)
	}
}

func addCell(w http.ResponseWriter, r *http.Request, n *notebook) {
	var in cellWire
	if !decode(w, r, &in) || !n.current(w, in.Revision) {
		return
	}
	c := map[string]any{"id": "c" + strconv.Itoa(n.at)}
	n.cells = append(n.cells, c)
	n.set(len(n.cells)-1, in)
	answer(w, http.StatusCreated, map[string]any{"revision": n.revision(), "cell": c})
}

func editCell(w http.ResponseWriter, r *http.Request, n *notebook) {
	var in cellWire
	if !decode(w, r, &in) || !n.current(w, in.Revision) {
		return
	}
	i := n.find(r.PathValue("cell"))
	c := n.cells[i]
	n.set(i, in)
	answer(w, http.StatusOK, map[string]any{"revision": n.revision(), "cell": c})
}

func removeCell(w http.ResponseWriter, r *http.Request, n *notebook) {
	if !n.current(w, r.URL.Query().Get("revision")) {
		return
	}
	i := n.find(r.PathValue("cell"))
	n.cells = slices.Delete(n.cells, i, i+1)
	answer(w, http.StatusOK, map[string]any{"revision": n.revision()})
}

// runCells prints what stands between print(' and '), and fails at all other
// code.
func runCells(w http.ResponseWriter, r *http.Request, n *notebook) {
	var in struct {
		Stop *bool `json:"stop_on_error"`
	}
	if !decode(w, r, &in) {
		return
	}
	line := json.NewEncoder(w)
	say := func(v map[string]any) { _ = line.Encode(v) } // who has gone does not miss it
	end := "ok"
	for _, c := range n.cells {
		id := r.PathValue("cell")
		if id != "" && c["id"] != id || c["cell_type"] != "code" {
			continue
		}
		n.count++
		n.at++
		c["execution_count"] = n.count
		say(map[string]any{"type": "cell", "cell": c["id"], "execution_count": n.count})
		source, _ := c["source"].(string)
		status := "ok"
		text, ok := strings.CutPrefix(source, "print('")
		text = strings.TrimSuffix(strings.TrimSpace(text), "')") + "\n"
		out := map[string]any{"output_type": "stream", "name": "stdout", "text": text}
		if !ok {
			status, end = "error", "error"
			out = map[string]any{"output_type": "error", "ename": "NameError", "evalue": source, "traceback": []string{"\x1b[31mNameError\x1b[0m: " + source}}
		}
		if source == "" { // a picture
			status, end = "ok", "ok"
			out = map[string]any{"output_type": "display_data", "metadata": map[string]any{}, "data": map[string]any{"text/plain": "<Figure>", "image/png": "AAAA"}}
		}
		c["outputs"] = []any{out}
		say(map[string]any{"type": "keepalive"})
		say(map[string]any{"type": "output", "cell": c["id"], "output": out})
		say(map[string]any{"type": "done", "cell": c["id"], "status": status, "execution_count": n.count, "revision": n.revision(), "seconds": 0.25})
		sum := sha256.Sum256([]byte(source))
		n.runs = slices.Insert(n.runs, 0, map[string]any{
			"run": "x" + strconv.Itoa(n.count), "cell": c["id"], "started": time.Now(), "seconds": 0.25, "status": status, "execution_count": n.count, "source_sha256": hex.EncodeToString(sum[:]),
		})
		if status != "ok" && (in.Stop == nil || *in.Stop) {
			break
		}
	}
	say(map[string]any{"type": "end", "status": end, "revision": n.revision()})
}

func nothing(w http.ResponseWriter, _ *http.Request, _ *notebook) {
	answer(w, http.StatusOK, struct{}{})
}

func listRuns(w http.ResponseWriter, _ *http.Request, n *notebook) {
	answer(w, http.StatusOK, map[string]any{"runs": slices.Concat([]map[string]any{}, n.runs)})
}

func exportNotebook(w http.ResponseWriter, r *http.Request, n *notebook) {
	switch r.URL.Query().Get("format") {
	case "ipynb":
		answer(w, http.StatusOK, n.content())
	case "script":
		for _, c := range n.cells {
			_, _ = fmt.Fprintln(w, c["source"]) // who has gone does not miss it
		}
	default:
		refuse(w, http.StatusBadRequest, "format must be ipynb, html or script")
	}
}

func listEnvironments(w http.ResponseWriter, _ *http.Request, b *bench) {
	list := []map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(b.packages)) {
		list = append(list, map[string]any{"name": name, "python": "3.13", "path": "/env/" + name, "packages": len(b.packages[name])})
	}
	answer(w, http.StatusOK, map[string]any{"environments": list})
}

func removeEnvironment(w http.ResponseWriter, r *http.Request, b *bench) {
	name := r.PathValue("name")
	if name == "default" {
		refuse(w, http.StatusBadRequest, "the environment default cannot be removed")
		return
	}
	delete(b.packages, name)
	w.WriteHeader(http.StatusNoContent)
}

func listPackages(w http.ResponseWriter, r *http.Request, b *bench) {
	list := []map[string]any{}
	has := b.packages[r.PathValue("name")]
	for _, name := range slices.Sorted(maps.Keys(has)) {
		list = append(list, map[string]any{"name": name, "version": has[name]})
	}
	answer(w, http.StatusOK, map[string]any{"packages": list})
}

func freezePackages(w http.ResponseWriter, r *http.Request, b *bench) {
	has := b.packages[r.PathValue("name")]
	for _, name := range slices.Sorted(maps.Keys(has)) {
		_, _ = fmt.Fprintf(w, "%s==%s\n", name, has[name]) // who has gone does not miss it
	}
}

// installPackages has all of them in version 1.0, but one that is called none.
func installPackages(w http.ResponseWriter, r *http.Request, b *bench) {
	var in struct {
		Packages     []string
		Requirements string
	}
	if !decode(w, r, &in) {
		return
	}
	line := json.NewEncoder(w)
	names := slices.Concat(in.Packages, strings.Fields(in.Requirements))
	_ = line.Encode(map[string]any{"type": "progress", "step": "resolve", "done": 0, "total": len(names)}) // who has gone does not miss it
	if slices.Contains(names, "none") {
		_ = line.Encode(map[string]any{"type": "error", "message": "there is no package none", "rolled_back": true}) // as above
		return
	}
	env := r.PathValue("name")
	if b.packages[env] == nil {
		b.packages[env] = map[string]string{}
	}
	installed := []map[string]any{}
	for _, name := range names {
		name, version, ok := strings.Cut(name, "==")
		if !ok {
			version = "1.0"
		}
		installed = append(installed, map[string]any{"name": name, "version": version, "was": b.packages[env][name]})
		b.packages[env][name] = version
	}
	_ = line.Encode(map[string]any{"type": "done", "installed": installed, "seconds": 1.5}) // as above
}

func removePackages(w http.ResponseWriter, r *http.Request, b *bench) {
	var in struct{ Packages []string }
	if !decode(w, r, &in) {
		return
	}
	for _, name := range in.Packages {
		delete(b.packages[r.PathValue("name")], name)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "done", "installed": []any{}, "seconds": 0.5}) // who has gone does not miss it
}

// dataWire is data that a request brings.
type dataWire struct {
	Name, Path, URL, Sandbox, File string
	Content                        []byte
	S3                             *struct{ Bucket, Key string }
}

// where says where data is, with how many lines it has if it is here.
func (s *Server) where(d *dataWire) (string, int) {
	switch {
	case d.Content != nil:
		return "sent", strings.Count(string(d.Content), "\n") - 1
	case d.Path != "":
		b, err := os.ReadFile(filepath.Join(s.home, d.Path))
		if err != nil {
			return "missing", 0
		}
		return "path", strings.Count(string(b), "\n") - 1
	case d.Sandbox != "":
		return d.Sandbox + ":" + d.File, 0
	case d.S3 != nil:
		return d.S3.Bucket + "/" + d.S3.Key, 0
	}
	return d.URL, 0
}

// analyze says what it was sent. Code that says fail fails.
func (s *Server) analyze(w http.ResponseWriter, r *http.Request, _ *bench) {
	var in struct {
		Code     string
		Datasets []*dataWire
	}
	if !decode(w, r, &in) {
		return
	}
	var said strings.Builder
	rows, data := 0, []any{}
	for _, d := range in.Datasets {
		where, n := s.where(d)
		rows += n
		fmt.Fprintf(&said, "%s %s %d\n", d.Name, where, n)
		data = append(data, map[string]any{"name": d.Name, "columns": []string{"a"}, "dtypes": map[string]string{"a": "int64"}, "rows": n, "preview": []any{}})
	}
	out := map[string]any{
		"data": data, "logs": map[string]string{"stdout": said.String(), "stderr": ""}, "visualizations": []any{map[string]any{"png": []byte("PNG"), "svg": "<svg/>"}},
		"metrics": map[string]any{"seconds": 0.5, "load_seconds": 0.25, "rows": rows, "peak_memory_bytes": 1 << 20, "cpu_seconds": 0.25}, "result": map[string]any{"text": "42"},
	}
	if strings.Contains(in.Code, "fail") {
		out["error"] = map[string]any{"name": "ValueError", "value": "no", "traceback": "ValueError: no"}
	}
	answer(w, http.StatusOK, out)
}

func (s *Server) visualize(w http.ResponseWriter, r *http.Request, _ *bench) {
	b, err := io.ReadAll(r.Body)
	var in struct {
		Kind    string
		Dataset *dataWire
		Options map[string]any
	}
	if err != nil || json.Unmarshal(b, &in) != nil {
		refuse(w, http.StatusBadRequest, "the body is not valid JSON")
		return
	}
	rows := 0
	if in.Dataset != nil {
		_, rows = s.where(in.Dataset)
	}
	options, err := json.Marshal(in.Options)
	if err != nil {
		refuse(w, http.StatusBadRequest, "the options are not valid JSON")
		return
	}
	answer(w, http.StatusOK, map[string]any{"png": []byte("PNG"), "svg": "<svg/>", "code": "draw(" + in.Kind + ", " + string(options) + ")", "rows": rows})
}
