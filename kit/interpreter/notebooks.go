package interpreter

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
	"github.com/soulbox/soulbox/kit/interpreter/notebook"
)

var (
	errInterrupted = errors.New("the notebook was interrupted")
	errRestarted   = errors.New("the notebook's kernel was restarted")
	errDeleted     = errors.New("the notebook was deleted")
	errTimeout     = errors.New("the cell ran for too long")
)

// notebooks serves the routes of notebooks: files below Dir whose cells run in
// contexts.
type notebooks struct {
	in    *Interpreter
	store *notebook.Store

	mu       sync.Mutex
	sessions map[string]*session // +checklocks:mu — by path, of those that ran
}

// session is what is known of a notebook that runs or ran.
type session struct {
	turns // of runs

	mu         sync.Mutex
	path       string                          // +checklocks:mu
	restarting bool                            // +checklocks:mu
	cancel     map[int]context.CancelCauseFunc // +checklocks:mu — of runs, those that wait, too
	next       int                             // +checklocks:mu
	live       string                          // +checklocks:mu — what runs now, in the history
	displays   map[string][]display            // +checklocks:mu — by what kernels call them
	kernel     *jupyter.Kernel                 // +checklocks:mu — who does
}

func newNotebooks(in *Interpreter) *notebooks {
	return &notebooks{in: in, store: notebook.NewStore(in.options.Dir), sessions: map[string]*session{}}
}

// routes adds those of notebooks.
func (n *notebooks) routes(mux *http.ServeMux) {
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /notebooks":                            n.list,
		"POST /notebooks":                           n.create,
		"GET /notebooks/{notebook}":                 n.read,
		"PUT /notebooks/{notebook}":                 n.replace,
		"DELETE /notebooks/{notebook}":              n.remove,
		"POST /notebooks/{notebook}/rename":         n.rename,
		"POST /notebooks/{notebook}/cells":          n.addCell,
		"PATCH /notebooks/{notebook}/cells/{cell}":  n.editCell,
		"DELETE /notebooks/{notebook}/cells/{cell}": n.removeCell,

		"POST /notebooks/{notebook}/cells/{cell}/run": n.runCell,
		"POST /notebooks/{notebook}/run":              n.runAll,
		"POST /notebooks/{notebook}/interrupt":        n.interrupt,
		"POST /notebooks/{notebook}/restart":          n.restart,
		"GET /notebooks/{notebook}/runs":              n.runs,
		"GET /notebooks/{notebook}/export":            n.export,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				n.fail(w, r, err)
			}
		})
	}
}

// fail answers with what is wrong.
func (n *notebooks) fail(w http.ResponseWriter, r *http.Request, err error) {
	told := &notebook.Error{Status: http.StatusInternalServerError, Message: "The notebook could not be worked on"}
	if !errors.As(err, &told) && r.Context().Err() == nil {
		n.in.options.Log.WarnContext(r.Context(), "request of a notebook failed", "path", r.URL.Path, "err", err)
	}
	writeJSON(w, told.Status, struct {
		Code     int    `json:"code"`
		Message  string `json:"message"`
		Revision string `json:"revision,omitempty"`
	}{told.Status, told.Message, told.Revision})
}

func conflict(msg string) error {
	return &notebook.Error{Status: http.StatusConflict, Message: msg}
}

// notebookObject is a notebook as clients see it.
type notebookObject struct {
	Path     string             `json:"path"`
	Revision string             `json:"revision"`
	Modified time.Time          `json:"modified"`
	Language string             `json:"language"`
	Context  string             `json:"context_id,omitempty"`
	State    string             `json:"state"`
	Content  *notebook.Document `json:"content"`
}

func (n *notebooks) object(f *notebook.File) *notebookObject {
	o := &notebookObject{
		Path: f.Path, Revision: f.Revision, Modified: f.Modified.UTC(), Language: f.Document.Kernel().Context(),
		State: n.state(f.Path), Content: f.Document,
	}
	if c := n.in.bound(f.Path); c != nil {
		o.Context = c.id
	}
	return o
}

// state says what a notebook's kernel does.
func (n *notebooks) state(path string) string {
	c := n.in.bound(path)
	switch {
	case n.find(path).isRestarting():
		return "restarting"
	case c == nil:
		return "none"
	case c.busy():
		return "busy"
	}
	return "idle"
}

// find returns a notebook's session, or nil.
func (n *notebooks) find(path string) *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions[path]
}

// session returns a notebook's session, and makes it.
func (n *notebooks) session(path string) *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.sessions[path]
	if s == nil {
		s = &session{path: path, cancel: map[int]context.CancelCauseFunc{}}
		n.sessions[path] = s
	}
	return s
}

// isRestarting reports whether there is a session whose kernel is being replaced.
func (s *session) isRestarting() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restarting
}

func (s *session) where() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.path
}

// begin adds a run, which ends when ctx does or somebody stops the notebook's
// runs. The caller calls done.
func (s *session) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restarting {
		return nil, nil, conflict("The notebook's kernel is restarting; run it again when that is over")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	id := s.next
	s.next++
	s.cancel[id] = cancel
	return ctx, func() {
		cancel(nil)
		s.mu.Lock()
		delete(s.cancel, id)
		s.mu.Unlock()
	}, nil
}

// stop ends the notebook's runs that have not been stopped yet. It reports
// whether there were any.
func (s *session) stop(cause error) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ran := len(s.cancel) > 0
	for _, cancel := range s.cancel {
		cancel(cause)
	}
	clear(s.cancel)
	return ran
}

// decode reads a request's body, an object without members that v does not have.
// No body is an object without members.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	// A notebook may be written with more spaces than it has when it is kept.
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*notebook.MaxSize))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil && dec.More() {
		err = errors.New("there is more than one value")
	}
	var large *http.MaxBytesError
	switch {
	case err == nil, err.Error() == "EOF":
		return nil
	case errors.As(err, &large):
		return &notebook.Error{Status: http.StatusRequestEntityTooLarge, Message: "The request is too large"}
	}
	return bad("The request's body is not what it should be: " + strings.TrimPrefix(err.Error(), "json: "))
}

func bad(msg string) error {
	return &notebook.Error{Status: http.StatusBadRequest, Message: msg}
}

// list serves GET /notebooks.
func (n *notebooks) list(w http.ResponseWriter, r *http.Request) error {
	all, err := n.store.List(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"notebooks": all})
	return nil
}

// create serves POST /notebooks.
func (n *notebooks) create(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Path     string          `json:"path"`
		Language string          `json:"language"`
		Content  json.RawMessage `json:"content"`
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	var d *notebook.Document
	var err error
	if hasValue(req.Content) {
		d, err = notebook.Parse(req.Content)
	} else {
		d, err = n.empty(req.Language)
	}
	if err != nil {
		return err
	}
	f, err := n.store.Create(r.Context(), req.Path, d)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, n.object(f))
	return nil
}

func hasValue(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// empty returns a notebook of a language for which there is a kernel.
func (n *notebooks) empty(language string) (*notebook.Document, error) {
	spec, err := n.in.find(normalize(language))
	if errors.Is(err, jupyter.ErrNoKernel) {
		return nil, bad("There is no kernel for " + shorten(language))
	}
	if err != nil {
		return nil, err
	}
	return notebook.New(notebook.Kernel{Name: spec.Name, Display: spec.DisplayName, Language: spec.Language}), nil
}

// shorten shows what a client sent.
func shorten(s string) string {
	const most = 100
	if len(s) > most {
		return quote(s[:most]) + " and so on"
	}
	return quote(s)
}

// read serves GET /notebooks/{notebook}.
func (n *notebooks) read(w http.ResponseWriter, r *http.Request) error {
	f, err := n.store.Read(r.PathValue("notebook"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, n.object(f))
	return nil
}

// replace serves PUT /notebooks/{notebook}.
func (n *notebooks) replace(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Content  json.RawMessage `json:"content"`
		Revision string          `json:"revision"`
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if !hasValue(req.Content) {
		return bad("The content is missing")
	}
	d, err := notebook.Parse(req.Content)
	if err != nil {
		return err
	}
	f, err := n.store.Replace(r.Context(), r.PathValue("notebook"), req.Revision, d)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, n.object(f))
	return nil
}

// remove serves DELETE /notebooks/{notebook}. Its kernel goes, too.
func (n *notebooks) remove(w http.ResponseWriter, r *http.Request) error {
	path, err := notebook.Clean(r.PathValue("notebook"))
	if err != nil {
		return err
	}
	if err := n.store.Remove(r.Context(), path, r.URL.Query().Get("revision")); err != nil {
		return err
	}
	n.mu.Lock()
	s := n.sessions[path]
	delete(n.sessions, path)
	n.mu.Unlock()
	s.stop(errDeleted)
	if c := n.in.part(path); c != nil {
		c.remove()
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// rename serves POST /notebooks/{notebook}/rename.
func (n *notebooks) rename(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Path string `json:"path"`
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	from, err := notebook.Clean(r.PathValue("notebook"))
	if err != nil {
		return err
	}
	f, err := n.store.Rename(r.Context(), from, req.Path)
	if err != nil {
		return err
	}
	n.mu.Lock()
	if s := n.sessions[from]; s != nil {
		delete(n.sessions, from)
		n.sessions[f.Path] = s
		s.mu.Lock()
		s.path = f.Path
		s.mu.Unlock()
	}
	n.mu.Unlock()
	n.in.move(from, f.Path)
	writeJSON(w, http.StatusOK, n.object(f))
	return nil
}

// cellObject is what an edit answers.
type cellObject struct {
	Revision string         `json:"revision"`
	Cell     *notebook.Cell `json:"cell,omitempty"`
}

// addCell serves POST /notebooks/{notebook}/cells.
func (n *notebooks) addCell(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Type     string `json:"type"`
		Source   string `json:"source"`
		Index    *int   `json:"index"`
		Revision string `json:"revision"`
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if req.Type == "" {
		req.Type = notebook.Code
	}
	return n.edit(w, r, http.StatusCreated, req.Revision, func(d *notebook.Document) (*notebook.Cell, error) {
		return d.Add(req.Type, req.Source, req.Index)
	})
}

// editCell serves PATCH /notebooks/{notebook}/cells/{cell}.
func (n *notebooks) editCell(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Source   *string `json:"source"`
		Type     *string `json:"type"`
		Index    *int    `json:"index"`
		Revision string  `json:"revision"`
	}
	if err := decode(w, r, &req); err != nil {
		return err
	}
	return n.edit(w, r, http.StatusOK, req.Revision, func(d *notebook.Document) (*notebook.Cell, error) {
		return d.Edit(r.PathValue("cell"), notebook.Change{Source: req.Source, Type: req.Type, Index: req.Index})
	})
}

// removeCell serves DELETE /notebooks/{notebook}/cells/{cell}.
func (n *notebooks) removeCell(w http.ResponseWriter, r *http.Request) error {
	return n.edit(w, r, http.StatusOK, r.URL.Query().Get("revision"), func(d *notebook.Document) (*notebook.Cell, error) {
		return nil, d.Remove(r.PathValue("cell"))
	})
}

// edit changes a notebook and answers with the cell.
func (n *notebooks) edit(w http.ResponseWriter, r *http.Request, status int, revision string,
	change func(*notebook.Document) (*notebook.Cell, error),
) error {
	var cell *notebook.Cell
	f, err := n.store.Change(r.Context(), r.PathValue("notebook"), revision, func(d *notebook.Document) (err error) {
		cell, err = change(d)
		return err
	})
	if err != nil {
		return err
	}
	writeJSON(w, status, cellObject{f.Revision, cell})
	return nil
}
