package client

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// Notebooks are files of sandboxes with a code interpreter, such as those of the
// templates code-interpreter-v1 and data-science. They are named by their path
// below /home/user; the ending .ipynb may be left out. Reading and running them
// resumes a sandbox that is paused if traffic does.
//
// Whoever changes a notebook may say which revision they have seen. If somebody
// else has changed it since, nothing is done and the error is a
// *[soulbox.OutdatedError] with the newer revision.
type Notebooks struct{ c *Client }

// A Notebook is Jupyter's, in one sandbox.
type Notebook struct {
	Path     string `json:"path"`
	Revision string `json:"revision"` // of the file's content
	Language string `json:"language"`

	Modified time.Time     `json:"modified"`
	Size     soulbox.Bytes `json:"size"`  // in lists
	Cells    *int          `json:"cells"` // in lists: how many; nil: it cannot be read
	Error    string        `json:"error"` // in lists: why it cannot be read

	ContextID string          `json:"context_id"` // of the kernel that runs it; empty: none yet
	State     string          `json:"state"`      // of that: none, idle, busy or restarting
	Content   json.RawMessage `json:"content"`    // nbformat 4.5; nil in lists
}

// A Cell is one of a notebook's.
type Cell struct {
	ID      string            `json:"id"`
	Type    string            `json:"cell_type"` // code, markdown or raw
	Source  Text              `json:"source"`
	Count   *int              `json:"execution_count"`
	Outputs []json.RawMessage `json:"outputs"` // nbformat's
}

// Text is what nbformat keeps as one string or a list of lines.
type Text string

// UnmarshalJSON reads both.
func (t *Text) UnmarshalJSON(b []byte) error {
	var parts []string
	if json.Unmarshal(b, &parts) == nil {
		*t = Text(strings.Join(parts, ""))
		return nil
	}
	var s string
	err := json.Unmarshal(b, &s)
	*t = Text(s)
	return err
}

// List returns the cells of the notebook's content.
func (n *Notebook) List() ([]Cell, error) {
	var content struct {
		Cells []Cell `json:"cells"`
	}
	if err := json.Unmarshal(n.Content, &content); err != nil {
		return nil, soulbox.Errorf(soulbox.Invalid, "notebook %s is not what Jupyter writes: %w", n.Path, err)
	}
	return content.Cells, nil
}

// NotebookOptions say what a new notebook is.
type NotebookOptions struct {
	Language string          // empty: python
	Content  json.RawMessage // a notebook of nbformat; nil: without cells
}

// A CellChange says what a cell is to be. Where it is nil, an old cell stays as
// it is; a new one is code, empty, and comes last.
type CellChange struct {
	Type     *string `json:"type,omitempty"` // code, markdown or raw
	Source   *string `json:"source,omitempty"`
	Index    *int    `json:"index,omitempty"`
	Revision string  `json:"revision,omitempty"` // of the notebook that is to be changed; empty: whichever
}

// A RunEvent is something that happens while cells run.
type RunEvent struct {
	// Type is cell when one begins, output, clear when what a cell has shown
	// goes, update when an output of a cell becomes another, done when a cell
	// is, and end after the last of all.
	Type   string          `json:"type"`
	Cell   string          `json:"cell"`
	Count  *int            `json:"execution_count"`
	Output json.RawMessage `json:"output"` // nbformat's
	Index  *int            `json:"index"`  // of the output that is updated

	Status   string  `json:"status"`   // of done and end: ok, error, interrupted or died
	Revision string  `json:"revision"` // of done and end: of the notebook with the outputs
	Seconds  float64 `json:"seconds"`
}

// RunCellsOptions say how cells are run.
type RunCellsOptions struct {
	Timeout time.Duration // of each cell; 0: none
	GoOn    bool          // behind a cell that fails
}

// A NotebookRun is what became of a cell when it was run.
type NotebookRun struct {
	ID      string    `json:"run"`
	Cell    string    `json:"cell"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Status  string    `json:"status"` // running, ok, error, interrupted or died
	Count   *int      `json:"execution_count"`
	SHA256  string    `json:"source_sha256"`
}

// path returns the path of a request about a notebook.
func (n *Notebooks) path(sandbox, notebook, rest string) (string, error) {
	if notebook == "" {
		return "", soulbox.Errorf(soulbox.Invalid, "the path of a notebook is needed")
	}
	return sandboxPath("/v1/sandboxes/", sandbox, "/notebooks/"+segment(notebook)+rest)
}

// segment escapes s as one segment of a path, which may not look like a step to
// somewhere else.
func segment(s string) string {
	if strings.Trim(s, ".") == "" {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// List returns the notebooks of a sandbox, by path.
func (n *Notebooks) List(ctx context.Context, sandbox string) ([]*Notebook, error) {
	path, err := sandboxPath("/v1/sandboxes/", sandbox, "/notebooks")
	if err != nil {
		return nil, err
	}
	var out struct {
		Notebooks []*Notebook `json:"notebooks"`
	}
	err = n.c.call(ctx, http.MethodGet, path, nil, nil, &out)
	return out.Notebooks, err
}

// Create makes a notebook. One that is there is a Conflict.
func (n *Notebooks) Create(ctx context.Context, sandbox, notebook string, o NotebookOptions) (*Notebook, error) {
	path, err := sandboxPath("/v1/sandboxes/", sandbox, "/notebooks")
	if err != nil {
		return nil, err
	}
	in := struct {
		Path     string          `json:"path"`
		Language string          `json:"language,omitempty"`
		Content  json.RawMessage `json:"content,omitempty"`
	}{notebook, o.Language, o.Content}
	var out Notebook
	if err := n.c.call(ctx, http.MethodPost, path, nil, in, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Get returns a notebook with its content.
func (n *Notebooks) Get(ctx context.Context, sandbox, notebook string) (*Notebook, error) {
	return n.ask(ctx, http.MethodGet, sandbox, notebook, "", nil)
}

// Put replaces all of a notebook.
func (n *Notebooks) Put(ctx context.Context, sandbox, notebook string, content json.RawMessage, revision string) (*Notebook, error) {
	return n.ask(ctx, http.MethodPut, sandbox, notebook, "", struct {
		Content  json.RawMessage `json:"content"`
		Revision string          `json:"revision,omitempty"`
	}{content, revision})
}

// Rename moves a notebook; its kernel stays with it.
func (n *Notebooks) Rename(ctx context.Context, sandbox, notebook, to string) (*Notebook, error) {
	return n.ask(ctx, http.MethodPost, sandbox, notebook, "/rename", struct {
		Path string `json:"path"`
	}{to})
}

func (n *Notebooks) ask(ctx context.Context, method, sandbox, notebook, rest string, in any) (*Notebook, error) {
	path, err := n.path(sandbox, notebook, rest)
	if err != nil {
		return nil, err
	}
	var out Notebook
	if err := n.c.call(ctx, method, path, nil, in, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Remove removes a notebook and ends its kernel.
func (n *Notebooks) Remove(ctx context.Context, sandbox, notebook, revision string) error {
	path, err := n.path(sandbox, notebook, "")
	if err != nil {
		return err
	}
	return n.c.call(ctx, http.MethodDelete, path, atRevision(revision), nil, nil)
}

func atRevision(s string) url.Values {
	if s == "" {
		return nil
	}
	return url.Values{"revision": {s}}
}

// cellAnswer is what the server says about a change of cells.
type cellAnswer struct {
	Revision string `json:"revision"`
	Cell     Cell   `json:"cell"`
}

// AddCell puts a cell into a notebook, and returns it and the notebook's new
// revision.
func (n *Notebooks) AddCell(ctx context.Context, sandbox, notebook string, change CellChange) (*Cell, string, error) {
	code, empty := "code", ""
	if change.Type == nil {
		change.Type = &code
	}
	if change.Source == nil {
		change.Source = &empty
	}
	return n.cell(ctx, http.MethodPost, sandbox, notebook, "/cells", change)
}

// EditCell changes a cell of a notebook, and returns it and the notebook's new
// revision.
func (n *Notebooks) EditCell(ctx context.Context, sandbox, notebook, cell string, change CellChange) (*Cell, string, error) {
	return n.cell(ctx, http.MethodPatch, sandbox, notebook, "/cells/"+segment(cell), change)
}

func (n *Notebooks) cell(ctx context.Context, method, sandbox, notebook, rest string, change CellChange) (*Cell, string, error) {
	path, err := n.path(sandbox, notebook, rest)
	if err != nil {
		return nil, "", err
	}
	var out cellAnswer
	if err := n.c.call(ctx, method, path, nil, change, &out); err != nil {
		return nil, "", err
	}
	return &out.Cell, out.Revision, nil
}

// RemoveCell takes a cell out of a notebook, and returns the notebook's new
// revision.
func (n *Notebooks) RemoveCell(ctx context.Context, sandbox, notebook, cell, revision string) (string, error) {
	path, err := n.path(sandbox, notebook, "/cells/"+segment(cell))
	if err != nil {
		return "", err
	}
	var out struct {
		Revision string `json:"revision"`
	}
	err = n.c.call(ctx, http.MethodDelete, path, atRevision(revision), nil, &out)
	return out.Revision, err
}

// RunCell runs a cell and returns what happens, as it happens. What it shows is
// kept in the notebook. Leaving the loop early interrupts the cell.
func (n *Notebooks) RunCell(ctx context.Context, sandbox, notebook, cell string, o RunCellsOptions) iter.Seq2[RunEvent, error] {
	return n.run(ctx, sandbox, notebook, "/cells/"+segment(cell)+"/run", o)
}

// Run runs all code of a notebook in its order, as [Notebooks.RunCell] does. It
// ends behind a cell that fails, unless it is to go on.
func (n *Notebooks) Run(ctx context.Context, sandbox, notebook string, o RunCellsOptions) iter.Seq2[RunEvent, error] {
	return n.run(ctx, sandbox, notebook, "/run", o)
}

func (n *Notebooks) run(ctx context.Context, sandbox, notebook, rest string, o RunCellsOptions) iter.Seq2[RunEvent, error] {
	path, err := n.path(sandbox, notebook, rest)
	if err != nil {
		return func(yield func(RunEvent, error) bool) { yield(RunEvent{}, err) }
	}
	in := map[string]any{}
	if o.Timeout > 0 {
		in["timeout_seconds"] = o.Timeout.Seconds()
	}
	if rest == "/run" {
		in["stop_on_error"] = !o.GoOn
	}
	return lines[RunEvent](ctx, n.c, http.MethodPost, path, in, "end")
}

// Interrupt ends the cell that runs, as Ctrl-C does.
func (n *Notebooks) Interrupt(ctx context.Context, sandbox, notebook string) error {
	return n.order(ctx, sandbox, notebook, "/interrupt")
}

// Restart gives a notebook a kernel without variables.
func (n *Notebooks) Restart(ctx context.Context, sandbox, notebook string) error {
	return n.order(ctx, sandbox, notebook, "/restart")
}

func (n *Notebooks) order(ctx context.Context, sandbox, notebook, rest string) error {
	path, err := n.path(sandbox, notebook, rest)
	if err != nil {
		return err
	}
	_, err = n.c.work(ctx, path, nil, nil)
	return err
}

// Runs returns what was run, the newest first.
func (n *Notebooks) Runs(ctx context.Context, sandbox, notebook string) ([]NotebookRun, error) {
	path, err := n.path(sandbox, notebook, "/runs")
	if err != nil {
		return nil, err
	}
	var out struct {
		Runs []NotebookRun `json:"runs"`
	}
	err = n.c.call(ctx, http.MethodGet, path, nil, nil, &out)
	return out.Runs, err
}

// Export writes a notebook as a file to w: in the format ipynb, html or script.
func (n *Notebooks) Export(ctx context.Context, sandbox, notebook, format string, w io.Writer) error {
	path, err := n.path(sandbox, notebook, "/export")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	return n.c.fetch(ctx, path, url.Values{"format": {format}}, w)
}

// fetch copies an answer that is a file to w.
func (c *Client) fetch(ctx context.Context, path string, query url.Values, w io.Writer) error {
	req, err := c.request(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answerError(resp)
	}
	_, err = io.Copy(w, resp.Body)
	if ctx.Err() != nil {
		return contextError(ctx, c.api)
	}
	return err
}
