package interpreter

import (
	"context"
	"maps"
	"path"
	"path/filepath"
)

// bonds say which notebook has which context, by the notebook's path below Dir,
// cleaned. Whoever runs cells asks them: the routes of notebooks, and JupyterLab
// through the gateway. A context that is removed has no bond any more.
//
// They have the Interpreter's lock.
type bonds struct {
	contexts map[string]*codeContext
	making   map[string]*pending
}

// NotebookContext returns the id of the context of the notebook at path; empty
// when it has none.
func (in *Interpreter) NotebookContext(notebook string) string {
	if c := in.bound(notebook); c != nil {
		return c.id
	}
	return ""
}

// NotebookContexts returns the ids of the contexts of all notebooks that have
// one, by their paths.
func (in *Interpreter) NotebookContexts() map[string]string {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := make(map[string]string, len(in.bonds.contexts))
	for notebook, c := range in.bonds.contexts {
		all[notebook] = c.id
	}
	return all
}

// OpenNotebook returns the id of the context of the notebook at path, and makes
// one for this language when it has none. Whoever asks meanwhile gets the same.
func (in *Interpreter) OpenNotebook(ctx context.Context, notebook, language string) (string, error) {
	c, err := in.open(ctx, notebook, language)
	if err != nil {
		return "", err
	}
	return c.id, nil
}

// BindNotebook gives the notebook at path the context with this id instead of
// the one that it has, which stays; with no id, none. It reports whether there is
// such a context.
func (in *Interpreter) BindNotebook(notebook, id string) bool {
	var c *codeContext
	if id != "" {
		if c = in.byID(id); c == nil {
			return false
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.bonds.contexts, path.Clean(notebook))
	if c != nil {
		in.bonds.contexts[path.Clean(notebook)] = c
	}
	return true
}

// bound returns the context of a notebook, or nil.
func (in *Interpreter) bound(notebook string) *codeContext {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.bonds.contexts[path.Clean(notebook)]
}

// move gives what the notebook at one path has to the one at another.
func (in *Interpreter) move(from, to string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	from, to = path.Clean(from), path.Clean(to)
	if c := in.bonds.contexts[from]; c != nil {
		delete(in.bonds.contexts, from)
		in.bonds.contexts[to] = c
	}
}

// part takes a notebook's context. It returns that, out of all lists, unless
// somebody else has it, too.
func (in *Interpreter) part(notebook string) *codeContext {
	notebook = path.Clean(notebook)
	in.mu.Lock()
	c := in.bonds.contexts[notebook]
	delete(in.bonds.contexts, notebook)
	shared := false
	for _, other := range in.bonds.contexts {
		shared = shared || other == c
	}
	if c != nil {
		shared = shared || in.isDefaultLocked(c)
	}
	in.mu.Unlock()
	if c == nil || shared || !in.forget(c) {
		return nil
	}
	return c
}

// open is OpenNotebook.
func (in *Interpreter) open(ctx context.Context, notebook, language string) (*codeContext, error) {
	notebook = path.Clean(notebook)
	in.followLab(ctx, notebook)
	in.mu.Lock()
	if c := in.bonds.contexts[notebook]; c != nil {
		in.mu.Unlock()
		return c, nil
	}
	p := in.bonds.making[notebook]
	if p == nil && !in.closed {
		p = &pending{done: make(chan struct{})}
		in.bonds.making[notebook] = p
		in.wg.Go(func() { in.makeBond(notebook, language, p) })
	}
	in.mu.Unlock()
	if p == nil {
		return nil, errClosed
	}
	select {
	case <-p.done:
		return p.c, p.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (in *Interpreter) makeBond(notebook, language string, p *pending) {
	dir := filepath.Join(in.options.Dir, filepath.FromSlash(path.Dir(notebook)))
	p.c, p.err = in.add(in.life, normalize(language), dir)
	in.mu.Lock()
	delete(in.bonds.making, notebook)
	if p.err == nil {
		in.bonds.contexts[notebook] = p.c
	}
	in.mu.Unlock()
	close(p.done)
}

// loosenLocked takes the bonds of a context.
//
// +checklocks:in.mu
func (in *Interpreter) loosenLocked(c *codeContext) {
	maps.DeleteFunc(in.bonds.contexts, func(_ string, other *codeContext) bool { return other == c })
}
