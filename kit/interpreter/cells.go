package interpreter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
	"github.com/soulbox/soulbox/kit/interpreter/notebook"
	"github.com/soulbox/soulbox/kit/interpreter/zmtp"
)

// maxTimeout is of a cell.
const maxTimeout = 7 * 24 * time.Hour

// What became of a cell.
const (
	cellOK          = "ok"
	cellFailed      = "error"
	cellInterrupted = "interrupted"
	cellDied        = "died"
	cellRunning     = "running"
)

// Lines of the stream of a run, beside notebook.Event.
type (
	cellLine struct {
		Type  string `json:"type"`
		Cell  string `json:"cell"`
		Count *int64 `json:"execution_count,omitempty"`
	}
	doneLine struct {
		Type     string  `json:"type"`
		Cell     string  `json:"cell"`
		Status   string  `json:"status"`
		Count    *int64  `json:"execution_count"`
		Revision string  `json:"revision,omitempty"`
		Seconds  float64 `json:"seconds"`
		Gone     bool    `json:"gone,omitempty"`    // its outputs are kept nowhere
		Message  string  `json:"message,omitempty"` // why
	}
	endLine struct {
		Type     string `json:"type"`
		Status   string `json:"status"`
		Revision string `json:"revision,omitempty"`
	}
)

type runRequest struct {
	StopOnError *bool    `json:"stop_on_error"`
	Timeout     *float64 `json:"timeout_seconds"`
}

func (r *runRequest) timeout() (time.Duration, error) {
	switch {
	case r.Timeout == nil:
		return maxTimeout, nil
	case *r.Timeout <= 0 || *r.Timeout > maxTimeout.Seconds():
		return 0, bad(fmt.Sprintf("The timeout must be more than 0 and at most %.0f seconds", maxTimeout.Seconds()))
	}
	return time.Duration(*r.Timeout * float64(time.Second)), nil
}

// runCell serves POST /notebooks/{notebook}/cells/{cell}/run.
func (n *notebooks) runCell(w http.ResponseWriter, r *http.Request) error {
	var req runRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if req.StopOnError != nil {
		return bad("stop_on_error is for all cells of a notebook, not for one")
	}
	id := r.PathValue("cell")
	return n.run(w, r, &req, func(d *notebook.Document) ([]string, error) {
		switch c, _ := d.Find(id); {
		case c == nil:
			return nil, &notebook.Error{Status: http.StatusNotFound, Message: "The notebook has no cell " + shorten(id)}
		case c.Type != notebook.Code:
			return nil, bad("The cell is " + c.Type + "; only code runs")
		}
		return []string{id}, nil
	})
}

// runAll serves POST /notebooks/{notebook}/run.
func (n *notebooks) runAll(w http.ResponseWriter, r *http.Request) error {
	var req runRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	return n.run(w, r, &req, func(d *notebook.Document) ([]string, error) {
		var ids []string
		for _, c := range d.Cells {
			if c.Type == notebook.Code {
				ids = append(ids, c.ID)
			}
		}
		return ids, nil
	})
}

// run runs cells and tells about it. The notebook keeps what they show, whether
// or not the client is there to hear it.
func (n *notebooks) run(w http.ResponseWriter, r *http.Request, req *runRequest, which func(*notebook.Document) ([]string, error)) error {
	timeout, err := req.timeout()
	if err != nil {
		return err
	}
	f, err := n.store.Read(r.PathValue("notebook"))
	if err != nil {
		return err
	}
	if _, err := which(f.Document); err != nil {
		return err
	}
	s := n.session(f.Path)
	ctx, done, err := s.begin(r.Context())
	if err != nil {
		return err
	}
	defer done()
	c, err := n.open(ctx, f)
	if err != nil {
		return err
	}
	out := newStream(w)
	defer out.quiet.Stop()
	run := &cellsRun{n: n, s: s, c: c, out: out, timeout: timeout, token: r.Header.Get(tokenHeader), revision: f.Revision}
	run.stopOnError = req.StopOnError == nil || *req.StopOnError
	status := cellInterrupted
	if err = s.enter(ctx, out); err == nil {
		status = run.all(ctx, which)
		s.leave()
	}
	run.tell(&endLine{Type: "end", Status: status, Revision: run.revision})
	if run.lost != nil || out.flush() != nil {
		panic(http.ErrAbortHandler) // the client, if there is one, must not take it for whole
	}
	return nil
}

// open returns the notebook's context.
func (n *notebooks) open(ctx context.Context, f *notebook.File) (*codeContext, error) {
	language, spec, err := n.language(f.Document.Kernel())
	if err != nil {
		return nil, err
	}
	c, err := n.in.open(ctx, f.Path, language)
	switch {
	case errors.Is(err, errNoDir):
		return nil, conflict("The notebook's folder is not there")
	case errors.Is(err, context.Canceled), errors.Is(err, errClosed):
		return nil, err
	case err != nil:
		n.in.options.Log.WarnContext(ctx, "kernel of a notebook not started", "path", f.Path, "err", err)
		return nil, &notebook.Error{Status: http.StatusInternalServerError, Message: "The notebook's kernel did not start: " + err.Error()}
	case c.spec.Name != spec.Name:
		return nil, conflict("The notebook is for the kernel " + shorten(spec.Name) + ", but has one of " + shorten(c.spec.Name) + "; restart it")
	}
	return c, nil
}

// language returns that of a notebook's context, and its kernel. A kernel that
// somebody else's machine has under a name of its own is replaced by the usual
// one for the language.
func (n *notebooks) language(k notebook.Kernel) (string, *jupyter.Spec, error) {
	names := []string{k.Context()}
	if k.Language != "" {
		names = append(names, normalize(k.Language))
	}
	for _, name := range names {
		spec, err := n.in.find(name)
		if err == nil {
			return name, spec, nil
		}
		if !errors.Is(err, jupyter.ErrNoKernel) {
			return "", nil, err
		}
	}
	return "", nil, conflict("There is no kernel " + shorten(k.Context()) + " for this notebook")
}

// cellsRun is one request to run cells.
type cellsRun struct {
	n           *notebooks
	s           *session
	c           *codeContext
	out         *stream
	timeout     time.Duration // of a cell
	stopOnError bool
	token       string
	revision    string // the newest
	lost        error  // why the client hears nothing any more
}

// tell tells the client, if there is one.
func (r *cellsRun) tell(line any) {
	if r.lost == nil {
		r.lost = r.out.add(line)
	}
}

// all runs the cells that there are by now.
func (r *cellsRun) all(ctx context.Context, which func(*notebook.Document) ([]string, error)) string {
	f, err := r.n.store.Read(r.s.where())
	if err != nil {
		return cellFailed
	}
	ids, err := which(f.Document)
	if err != nil { // the cell was removed while this waited
		return cellFailed
	}
	status := cellOK
	for _, id := range ids {
		if context.Cause(ctx) != nil {
			return cellInterrupted
		}
		one := &cellRun{cellsRun: r, id: id}
		switch now := one.run(ctx); {
		case now == cellInterrupted, now == cellDied, now == cellFailed && r.stopOnError:
			return now
		case now == cellFailed:
			status = now
		}
	}
	return status
}

// cellRun is one cell of it.
type cellRun struct {
	*cellsRun
	id        string
	outputs   notebook.Outputs
	updates   []update // of other cells
	count     *int64
	announced bool
	kernel    *jupyter.Kernel
}

// update is a new form of what another cell displays.
type update struct {
	display string
	output  json.RawMessage
}

// display is where a display is, and what it is when nobody has touched it.
type display struct {
	cell  string
	index int
	sum   [sha256.Size]byte
}

// maxDisplays is how many displays of a notebook can be changed by later cells.
const maxDisplays = 1000

// announce tells that the cell runs.
func (r *cellRun) announce() {
	if !r.announced {
		r.announced = true
		r.tell(&cellLine{Type: "cell", Cell: r.id, Count: r.count})
	}
}

// show tells what the cell shows.
func (r *cellRun) show(events []notebook.Event) {
	for _, e := range events {
		if e.Display != "" {
			r.elsewhere(e)
			continue
		}
		r.announce()
		e.Cell = r.id
		r.tell(e)
	}
}

// elsewhere changes what other cells display.
func (r *cellRun) elsewhere(e notebook.Event) {
	r.s.mu.Lock()
	var found []display
	if r.s.kernel == r.kernel {
		found = slices.DeleteFunc(slices.Clone(r.s.displays[e.Display]), func(d display) bool { return d.cell == r.id })
	}
	r.s.mu.Unlock()
	if len(found) == 0 {
		return
	}
	r.updates = slices.DeleteFunc(r.updates, func(u update) bool { return u.display == e.Display })
	size := len(e.Output)
	for _, u := range r.updates {
		size += len(u.output)
	}
	if size > notebook.MaxOutputs {
		return // as a cell's own outputs
	}
	r.updates = append(r.updates, update{e.Display, e.Output})
	r.announce()
	for _, d := range found {
		r.tell(notebook.Event{Type: "update", Cell: d.cell, Index: &d.index, Output: e.Output})
	}
}

// run runs the cell, keeps what it showed, and says what became of it.
func (r *cellRun) run(ctx context.Context) string {
	f, err := r.n.store.Read(r.s.where())
	if err != nil {
		return cellFailed
	}
	cell, _ := f.Document.Find(r.id)
	if cell == nil || cell.Type != notebook.Code {
		return cellOK // somebody removed it before its turn
	}
	sum := sha256.Sum256([]byte(cell.Source))
	record := notebook.Run{
		ID: jupyter.NewID(), Cell: r.id, Started: time.Now().UTC(), Status: cellRunning, Source: hex.EncodeToString(sum[:]),
	}
	status := cellOK
	began := time.Now()
	if !isBlank(cell.Source) { // Jupyter does not run these, either
		r.s.nowRuns(record.ID)
		r.record(record)
		status, began = r.execute(ctx, cell.Source)
	}
	done := &doneLine{Type: "done", Cell: r.id, Status: status, Count: r.count, Seconds: since(began)}
	r.keep(done)
	if !isBlank(cell.Source) {
		record.Status, record.Count, record.Seconds = status, r.count, done.Seconds
		r.record(record)
		r.s.nowRuns("")
	}
	r.announce()
	r.tell(done)
	if r.lost == nil {
		r.lost = r.out.flush()
	}
	return status
}

func isBlank(source string) bool {
	for _, c := range []byte(source) {
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return false
		}
	}
	return true
}

// since returns seconds, with three digits behind the point.
func since(t time.Time) float64 { return math.Round(time.Since(t).Seconds()*1000) / 1000 }

func (s *session) nowRuns(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = id
}

func (r *cellRun) record(run notebook.Run) {
	if err := r.n.store.Record(r.n.in.life, r.s.where(), run); err != nil {
		if _, ok := errors.AsType[*notebook.Error](err); !ok {
			r.n.in.options.Log.Warn("run of a cell not recorded", "cell", r.id, "err", err)
		}
	}
}

// execute runs the cell's code in its turn, and returns when it began.
func (r *cellRun) execute(ctx context.Context, code string) (status string, began time.Time) {
	if err := r.c.enter(ctx, r.live()); err != nil {
		return r.explain(ctx, err), time.Now()
	}
	began = time.Now()
	k, note, err := r.c.ready(ctx, r.live())
	if err == nil {
		r.kernel = k
		_, err = r.c.setEnvs(ctx, k, nil, r.token)
	}
	if err != nil {
		r.c.leave()
		return r.explain(ctx, err), began
	}
	r.show(r.outputs.Print("stderr", note))
	run, err := k.Start(jupyter.Request{Code: code, StoreHistory: true})
	if err != nil {
		r.c.leave()
		return r.explain(ctx, err), began
	}
	status, left := r.follow(ctx, run)
	rest := func() {
		if left {
			r.c.abandon(k, run)
		}
		run.Close()
		r.c.leave()
	}
	if !left || !r.n.in.background(rest) {
		run.Close()
		r.c.leave()
	}
	return status, began
}

// live returns the stream while somebody listens.
func (r *cellRun) live() *stream {
	if r.lost != nil {
		return nil
	}
	return r.out
}

// explain returns what an error means for a cell, and shows it.
func (r *cellRun) explain(ctx context.Context, err error) string {
	switch {
	case context.Cause(ctx) != nil:
		return cellInterrupted
	case errors.Is(err, errQueueFull):
		r.show(r.outputs.Fail("QueueFull", err.Error(), nil))
		return cellFailed
	case errors.Is(err, jupyter.ErrEnded):
		return r.died(ctx)
	}
	r.show(r.outputs.Fail("DeadKernel", err.Error(), nil))
	return cellDied
}

// died replaces a kernel that ended while it was in use, unless somebody else
// did.
func (r *cellRun) died(ctx context.Context) string {
	<-r.kernel.Done()
	if context.Cause(ctx) != nil {
		r.c.lost(r.kernel, "")
		return cellInterrupted
	}
	why := "The kernel was restarted or removed."
	if !r.c.replaced(r.kernel) {
		r.c.lost(r.kernel, "")
		why = "The kernel ended (" + r.kernel.Ended() + ") and was started again; its variables are gone."
	}
	r.show(r.outputs.Fail("DeadKernel", why, nil))
	return cellDied
}

// follow takes what a run says until it is over. It reports whether it left
// before, because whoever waits for it would do so for ever.
func (r *cellRun) follow(ctx context.Context, run *jupyter.Run) (status string, left bool) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, errTimeout)
	defer cancel()
	look := time.NewTicker(time.Second) // for a run that has no end
	defer look.Stop()
	var again <-chan time.Time // when to interrupt once more
	var patience <-chan time.Time
	ended := ctx.Done()
	for {
		m, err := run.Next()
		switch {
		case errors.Is(err, jupyter.ErrEnded):
			return r.died(ctx), false
		case err != nil:
			return r.over(ctx, run), false
		case m != nil:
			r.take(m)
		case r.lost == nil:
			r.lost = r.out.flush()
		}
		if ended != nil && (ctx.Err() != nil || r.lost != nil) {
			ended = nil
			if !errors.Is(context.Cause(ctx), errRestarted) { // who restarts it ends it
				r.kernel.Interrupt()
			}
			again, patience = r.patience(ctx)
		}
		if m != nil {
			continue
		}
		var quiet <-chan time.Time
		if r.lost == nil {
			quiet = r.out.quiet.C
		}
		select {
		case <-run.Changed():
		case <-r.kernel.Done():
		case <-look.C:
		case <-ended:
		case <-quiet:
			r.lost = r.out.alive()
		case <-again:
			r.kernel.Interrupt()
			again = time.After(interruptEvery)
		case <-patience:
			return cellInterrupted, true
		}
	}
}

// patience returns when to interrupt again, and how long to wait altogether: who
// asks for an interrupt waits himself.
func (r *cellRun) patience(ctx context.Context) (again, end <-chan time.Time) {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errRestarted):
		return nil, nil
	case errors.Is(cause, errInterrupted):
		return time.After(interruptEvery), nil
	}
	limit := r.n.in.options.Patience
	if r.c.spec.ByMessage() {
		limit /= 3
	}
	return time.After(interruptEvery), time.After(limit)
}

// over says what became of a run that ended.
func (r *cellRun) over(ctx context.Context, run *jupyter.Run) string {
	var reply struct {
		Status string `json:"status"`
		Count  *int64 `json:"execution_count"`
	}
	_ = json.Unmarshal(run.Reply(), &reply) // what cannot be read says nothing
	if reply.Count != nil && *reply.Count >= 0 {
		r.count = reply.Count
	}
	switch {
	case ctx.Err() != nil || r.lost != nil:
		return cellInterrupted
	case reply.Status == "ok":
		return cellOK
	case reply.Status == "abort", reply.Status == "aborted":
		return cellInterrupted
	}
	return cellFailed
}

// take takes a message.
func (r *cellRun) take(m *jupyter.Message) {
	switch {
	case m.Skipped > 0:
		text := fmt.Sprintf("[%s of %d bytes was left out: more than %d MiB are not passed on]\n", m.Type, m.Skipped, zmtp.MaxMessage>>20)
		r.show(r.outputs.Print("stderr", text))
	case m.Stream != "":
		r.show(r.outputs.Print(m.Stream, m.Text))
	case m.Type == "execute_input":
		var s struct {
			Count *int64 `json:"execution_count"`
		}
		if json.Unmarshal(m.Content, &s) == nil && s.Count != nil && *s.Count >= 0 {
			r.count = s.Count
		}
		r.announce()
	default:
		r.show(r.outputs.Take(m.Type, m.Content))
	}
}

// keep puts what the cell showed into the newest file, which may have been
// changed meanwhile, and says in done when that cannot be.
func (r *cellRun) keep(done *doneLine) {
	outputs := r.outputs.List()
	f, err := r.write(outputs, done)
	var told *notebook.Error
	if errors.As(err, &told) && told.Status == http.StatusRequestEntityTooLarge {
		r.outputs = notebook.Outputs{}
		r.outputs.Print("stderr", "[the output was left out: the notebook would be too large]\n")
		outputs = r.outputs.List()
		f, err = r.write(outputs, done)
	}
	switch {
	case err == nil:
		r.revision = f.Revision
		r.remember(outputs, done.Gone)
	case errors.As(err, &told):
		done.Gone, done.Message = true, told.Message
	default:
		r.n.in.options.Log.Warn("output of a cell not kept", "cell", r.id, "err", err)
		done.Gone, done.Message = true, "The notebook could not be written"
	}
	done.Revision = r.revision
}

// write changes the file. A notebook that was renamed meanwhile is found.
func (r *cellRun) write(outputs []json.RawMessage, done *doneLine) (*notebook.File, error) {
	for {
		path := r.s.where()
		f, err := r.n.store.Change(r.n.in.life, path, "", func(d *notebook.Document) error {
			cell, _ := d.Find(r.id)
			if done.Gone = cell == nil || cell.Type != notebook.Code; done.Gone {
				done.Message = "The cell was removed while it ran; what it showed was not kept"
			} else {
				cell.Outputs, cell.Count, done.Message = outputs, r.count, ""
			}
			for _, u := range r.updates {
				r.s.refresh(d, r.id, u)
			}
			return nil
		})
		if err == nil || r.s.where() == path {
			return f, err
		}
	}
}

// refresh changes what other cells display, where it is what it was.
func (s *session) refresh(d *notebook.Document, but string, u update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.displays[u.display] {
		cell, _ := d.Find(at.cell)
		if at.cell == but || cell == nil || at.index >= len(cell.Outputs) || cell.Sum(cell.Outputs[at.index]) != at.sum {
			continue
		}
		cell.Update(at.index, u.output)
	}
}

// remember notes what of the cell can be changed by later ones, and what it has
// changed of others.
func (r *cellRun) remember(outputs []json.RawMessage, gone bool) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.kernel == nil || r.s.kernel != r.kernel {
		r.s.kernel, r.s.displays = r.kernel, map[string][]display{}
	}
	total := 0
	for id, all := range r.s.displays {
		all = slices.DeleteFunc(all, func(d display) bool { return d.cell == r.id })
		if r.s.displays[id] = all; len(all) == 0 {
			delete(r.s.displays, id)
		}
		total += len(all)
	}
	for _, u := range r.updates {
		for i := range r.s.displays[u.display] {
			r.s.displays[u.display][i].sum = (*notebook.Cell)(nil).Sum(u.output)
		}
	}
	for i, id := range r.outputs.Displays() {
		if total++; total > maxDisplays || gone {
			return
		}
		r.s.displays[id] = append(r.s.displays[id], display{r.id, i, (*notebook.Cell)(nil).Sum(outputs[i])})
	}
}
