package interpreter

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/soulbox/soulbox/kit/interpreter/gateway"
	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
	"github.com/soulbox/soulbox/kit/interpreter/jupyterlab"
	packages "github.com/soulbox/soulbox/kit/interpreter/python"
)

// gatewayPath is where the gateway for JupyterLab answers.
const gatewayPath = "/gateway"

// lab is JupyterLab and what it reaches contexts through.
type lab struct {
	gateway *gateway.Gateway
	server  *jupyterlab.Server
}

// newLab returns a JupyterLab that does not run yet.
func newLab(in *Interpreter) lab {
	g := gateway.New(in.options.Log, gate{in})
	program := in.options.JupyterLab
	if program == "" {
		program = "jupyter-lab"
	}
	return lab{g, jupyterlab.New(jupyterlab.Options{
		Log: in.options.Log, Program: program, Dir: in.options.Dir, Env: in.options.Env, User: in.options.User, Python: packages.FS,
		Gateway: strings.TrimSuffix(in.options.URL, "/") + gatewayPath, Admit: g.Admit, Identity: in.identity, Port: in.options.LabPort,
	})}
}

// close ends JupyterLab, and then whoever is connected to kernels.
func (l lab) close() {
	l.server.Close()
	l.gateway.Close()
}

// startLab serves POST /jupyterlab.
func (in *Interpreter) startLab(w http.ResponseWriter, r *http.Request) {
	in.mu.Lock()
	in.token = r.Header.Get(tokenHeader)
	in.mu.Unlock()
	access, err := in.lab.server.Start(r.Context())
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, access)
	case errors.Is(err, jupyterlab.ErrNotInstalled):
		labError(w, http.StatusConflict, err.Error())
	default:
		if r.Context().Err() == nil {
			in.options.Log.WarnContext(r.Context(), "jupyterlab not started", "err", err)
		}
		labError(w, http.StatusInternalServerError, err.Error())
	}
}

// showLab serves GET /jupyterlab.
func (in *Interpreter) showLab(w http.ResponseWriter, _ *http.Request) {
	if access := in.lab.server.Access(); access != nil {
		writeJSON(w, http.StatusOK, access)
		return
	}
	labError(w, http.StatusNotFound, "JupyterLab is not running")
}

// stopLab serves DELETE /jupyterlab.
func (in *Interpreter) stopLab(w http.ResponseWriter, _ *http.Request) {
	in.lab.server.Stop()
	writeJSON(w, http.StatusOK, struct{}{})
}

func labError(w http.ResponseWriter, status int, sentence string) {
	writeJSON(w, status, map[string]any{"code": status, "message": sentence})
}

// followLab gives a notebook the context that JupyterLab runs it with, if it does:
// whoever renames a notebook there, or chooses another kernel, means both.
func (in *Interpreter) followLab(ctx context.Context, notebook string) {
	if id := in.lab.server.Kernel(ctx, notebook); id != "" && id != in.NotebookContext(notebook) {
		in.BindNotebook(notebook, id)
	}
}

// gate shows the interpreter's contexts to the gateway.
type gate struct{ in *Interpreter }

// Specs returns all kernels, Python's first.
func (g gate) Specs() []*jupyter.Spec {
	all := jupyter.List(g.in.options.Specs)
	if i := slices.IndexFunc(all, func(s *jupyter.Spec) bool { return s.Name == kernels["python"] }); i > 0 {
		first := all[i]
		all = slices.Insert(slices.Delete(all, i, i+1), 0, first)
	}
	return all
}

// Contexts returns those that are there.
func (g gate) Contexts() []gateway.Context {
	g.in.mu.Lock()
	defer g.in.mu.Unlock()
	all := make([]gateway.Context, 0, len(g.in.contexts))
	for _, c := range g.in.contexts {
		all = append(all, gateContext{c})
	}
	return all
}

// Context returns the one with this id.
func (g gate) Context(id string) (gateway.Context, bool) {
	c := g.in.byID(id)
	return gateContext{c}, c != nil
}

// Notebook returns the context of the notebook with this absolute path.
func (g gate) Notebook(path string) (gateway.Context, bool) {
	notebook := g.in.notebookAt(path)
	if notebook == "" {
		return nil, false
	}
	c := g.in.bound(notebook)
	return gateContext{c}, c != nil
}

// Start makes a context.
func (g gate) Start(ctx context.Context, spec, dir, notebook string) (gateway.Context, error) {
	if dir == "" {
		dir = g.in.options.Dir
	}
	language := normalize(spec)
	for name, kernel := range kernels {
		if kernel == spec {
			language = name
		}
	}
	c, err := g.in.add(ctx, language, dir)
	if errors.Is(err, errNoDir) {
		return nil, gateway.ErrNoDir
	}
	if err != nil {
		return nil, err
	}
	if path := g.in.notebookAt(notebook); path != "" {
		g.in.BindNotebook(path, c.id)
	}
	g.in.mu.Lock()
	token := g.in.token
	g.in.mu.Unlock()
	return gateContext{c}, c.prepare(ctx, token)
}

// notebookAt returns the path below Dir of the notebook with this absolute path;
// empty when it is none.
func (in *Interpreter) notebookAt(path string) string {
	rel, err := filepath.Rel(in.options.Dir, path)
	if err != nil || !filepath.IsLocal(rel) || filepath.Ext(rel) != ".ipynb" {
		return ""
	}
	return filepath.ToSlash(rel)
}

// prepare gives a new context's kernel the sandbox's default environment.
func (c *codeContext) prepare(ctx context.Context, token string) error {
	if err := c.enter(ctx, nil); err != nil {
		return err
	}
	defer c.leave()
	k, _, err := c.ready(ctx, nil)
	if err != nil {
		return err
	}
	if dialect, ok := dialects[c.language]; ok {
		return c.inherit(ctx, k, dialect, token)
	}
	return nil
}

// gateContext is a context as the gateway knows it.
type gateContext struct{ c *codeContext }

// ID returns the context's id.
func (g gateContext) ID() string { return g.c.id }

// Spec returns its kernel's.
func (g gateContext) Spec() *jupyter.Spec { return g.c.spec }

// Running returns the kernel, or nil.
func (g gateContext) Running() *jupyter.Kernel {
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	return g.c.kernel
}

// Ready returns the kernel when there is one. What the next execution should know
// is left to that.
func (g gateContext) Ready(ctx context.Context) (*jupyter.Kernel, error) {
	k, note, err := g.c.ready(ctx, nil)
	if note != "" {
		g.c.mu.Lock()
		if g.c.kernel == k && g.c.note == "" {
			g.c.note = note
		}
		g.c.mu.Unlock()
	}
	return k, err
}

// Restart replaces the kernel.
func (g gateContext) Restart(ctx context.Context) error { return g.c.restart(ctx) }

// Remove ends the context.
func (g gateContext) Remove() {
	if g.c.in.forget(g.c) {
		g.c.remove()
	}
}
