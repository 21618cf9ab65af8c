package interpreter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	// answerType is what soulbox_data publishes under.
	answerType = "application/vnd.soulbox.data+json"

	maxLog      = 4 << 20  // bytes of stdout, and of stderr
	maxPictures = 100      // of one analysis
	maxResults  = 32 << 20 // bytes of all that an analysis shows
)

// analysis is the answer to POST /analyze.
type analysis struct {
	Data           json.RawMessage `json:"data"`
	Result         *resultLine     `json:"result,omitempty"`
	Visualizations []picture       `json:"visualizations"`
	Metrics        json.RawMessage `json:"metrics"`
	Logs           struct {
		Stdout string `json:"stdout"`
		Stderr string `json:"stderr"`
	} `json:"logs"`
	Error *analysisError `json:"error,omitempty"`
}

type picture struct {
	PNG   json.RawMessage `json:"png,omitempty"`
	SVG   json.RawMessage `json:"svg,omitempty"`
	JPEG  json.RawMessage `json:"jpeg,omitempty"`
	Chart json.RawMessage `json:"chart,omitempty"`
	Title string          `json:"title,omitempty"`
}

type analysisError struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	Traceback string `json:"traceback"`
}

// sessionLesson is what a kernel does for an analysis beside the client's code.
const sessionLesson = `
import json, sys
sys.path.insert(0, folder)
try:
    from soulbox_data import session
finally:
    sys.path.remove(folder)
if request is None:
    session.end(shell)
else:
    session.begin(shell, json.loads(request))
`

// analyze serves POST /analyze.
func (s *science) analyze(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Code      string    `json:"code"`
		Datasets  []dataset `json:"datasets"`
		ContextID string    `json:"context_id"`
		Timeout   *float64  `json:"timeout_seconds"`
	}
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	limit, err := seconds(req.Timeout, analyzeTime)
	if err != nil {
		return err
	}
	if err := names(req.Datasets); err != nil {
		return err
	}
	var c *codeContext
	if req.ContextID != "" {
		if c = s.in.byID(req.ContextID); c == nil {
			return refused(http.StatusNotFound, "there is no context %s", shown(req.ContextID))
		}
		if c.spec.Language != "python" {
			return refused(http.StatusBadRequest, "context %s runs %s; datasets are analyzed in Python", c.id, shown(c.language))
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	files, forget, err := s.local(ctx, req.Datasets)
	if err != nil {
		return err
	}
	defer forget()
	if c == nil {
		if c, err = s.in.add(ctx, "python", s.in.options.Dir); err != nil {
			return s.notAdded(ctx, err)
		}
		defer func() {
			if s.in.forget(c) {
				c.remove()
			}
		}()
	}
	a, err := c.analyze(ctx, r.Header.Get(tokenHeader), files, req.Code, limit)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, a)
	return nil
}

// notAdded says why there is no context.
func (s *science) notAdded(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, jupyter.ErrNoKernel):
		return refused(http.StatusConflict, "there is no kernel of Python in this sandbox")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return refused(http.StatusBadRequest, "no context was ready in the time that there was")
	}
	return fmt.Errorf("a context for an analysis: %w", err)
}

// analyze loads datasets, runs code and describes what became of them, in a turn
// of its own.
func (c *codeContext) analyze(ctx context.Context, token string, files []dataset, code string, limit time.Duration) (*analysis, error) {
	if err := c.enter(ctx, nil); err != nil {
		return nil, c.notAnalyzed(ctx, err)
	}
	a := &analysis{Data: json.RawMessage("[]"), Metrics: json.RawMessage("{}"), Visualizations: []picture{}}
	k, err := c.analyzeIn(ctx, token, files, code, a, limit)
	var left *leftError
	if !errors.As(err, &left) {
		c.leave()
		return a, c.notAnalyzed(ctx, err)
	}
	if a.Error != nil { // which says so
		err = nil
	}
	rest := func() {
		c.abandon(k, left.run)
		left.run.Close()
		c.leave()
	}
	if !c.in.background(rest) {
		c.leave()
	}
	return a, c.notAnalyzed(ctx, err)
}

// notAnalyzed is what a client is told about an analysis that did not come to its
// code.
func (c *codeContext) notAnalyzed(ctx context.Context, err error) error {
	var cell *cellError
	var request *requestError
	switch {
	case err == nil, errors.As(err, &request):
		return err
	case errors.As(err, &cell):
		return refused(http.StatusBadRequest, "%s: %s", cell.Name, cell.Value)
	case errors.Is(err, errQueueFull):
		return refused(http.StatusConflict, "too many executions wait for this context")
	case errors.Is(err, errRemoved):
		return refused(http.StatusNotFound, "the context was removed")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return refused(http.StatusBadRequest, "the datasets could not be loaded in the time that there was")
	}
	return fmt.Errorf("analysis: %w", err)
}

func (c *codeContext) analyzeIn(ctx context.Context, token string, files []dataset, code string, a *analysis, limit time.Duration) (*jupyter.Kernel, error) {
	k, _, err := c.ready(ctx, nil)
	if err != nil {
		return nil, err
	}
	if _, err := c.setEnvs(ctx, k, nil, token); err != nil {
		return k, err
	}
	if files == nil {
		files = []dataset{}
	}
	request, err := json.Marshal(map[string]any{"datasets": files})
	if err != nil {
		return k, err
	}
	var begun struct {
		Refused string `json:"refused"`
		Status  int    `json:"status"`
	}
	if err := c.session(ctx, k, quote(string(request)), &begun); err != nil {
		return k, err
	}
	if begun.Refused != "" {
		return k, told(begun.Status, begun.Refused)
	}
	out := &collector{a: a}
	err = c.gather(ctx, k, jupyter.Request{Code: code, StoreHistory: true}, out.take)
	out.finish()
	var cell *cellError
	var left *leftError
	switch {
	case errors.As(err, &cell):
		a.Error = &analysisError{cell.Name, cell.Value, cell.Traceback}
	case errors.As(err, &left) && errors.Is(ctx.Err(), context.DeadlineExceeded):
		a.Error = &analysisError{"TimeoutError", fmt.Sprintf("the analysis took longer than %v and was interrupted", limit), ""}
		return k, err
	case err != nil:
		return k, err
	}
	select {
	case <-k.Done(): // there is nothing to describe
		return k, nil
	default:
	}
	var ended struct {
		Data    json.RawMessage `json:"data"`
		Metrics json.RawMessage `json:"metrics"`
	}
	err = c.session(ctx, k, "None", &ended)
	if errors.As(err, &cell) && a.Error == nil {
		a.Error = &analysisError{cell.Name, cell.Value, cell.Traceback}
	}
	if err == nil && ended.Data != nil && ended.Metrics != nil {
		a.Data, a.Metrics = ended.Data, ended.Metrics
	}
	if errors.As(err, &cell) {
		err = nil
	}
	return k, err
}

// session runs soulbox_data's part and reads its answer.
func (c *codeContext) session(ctx context.Context, k *jupyter.Kernel, request string, answer any) error {
	code := `exec(` + quote(sessionLesson) + `, {"shell": get_ipython(), "folder": ` + quote(c.in.options.Python) + `, "request": ` + request + `})`
	var found json.RawMessage
	err := c.gather(ctx, k, jupyter.Request{Code: code}, func(m *jupyter.Message) {
		var s struct{ Data map[string]json.RawMessage }
		if m.Type == "display_data" && json.Unmarshal(m.Content, &s) == nil && s.Data[answerType] != nil {
			found = s.Data[answerType]
		}
	})
	if err != nil {
		return err
	}
	if found == nil {
		return errors.New("the kernel did not answer")
	}
	return json.Unmarshal(found, answer)
}

// gather runs code and hands over all messages. Its error is a *cellError when the
// code has failed or its kernel has ended, and a *leftError when time is up.
func (c *codeContext) gather(ctx context.Context, k *jupyter.Kernel, req jupyter.Request, take func(*jupyter.Message)) error {
	run, err := k.Start(req)
	if errors.Is(err, jupyter.ErrEnded) {
		return c.died(k)
	}
	if err != nil {
		return err
	}
	look := time.NewTicker(time.Second) // for a run that has no end
	defer look.Stop()
	for {
		m, err := run.Next()
		switch {
		case errors.Is(err, jupyter.ErrEnded):
			run.Close()
			return c.died(k)
		case err != nil:
			run.Close()
			return failure(run.Reply())
		case m != nil:
			take(m)
		default:
			select {
			case <-run.Changed():
			case <-look.C:
			case <-k.Done():
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return &leftError{run, context.Cause(ctx)}
		}
	}
}

// collector sorts what code shows into an analysis.
type collector struct {
	a              *analysis
	stdout, stderr log
	size           int // of results
	left           int // results that were left out
}

// log is text up to a limit.
type log struct {
	strings.Builder
	left int
}

func (l *log) add(s string) {
	if fits := maxLog - l.Len(); len(s) > fits {
		l.left += len(s) - fits
		s = s[:fits]
	}
	l.WriteString(s)
}

func (l *log) text() string {
	s := strings.ToValidUTF8(l.String(), "\ufffd")
	if l.left > 0 {
		s += fmt.Sprintf("\n[%d bytes were left out]\n", l.left)
	}
	return s
}

func (o *collector) take(m *jupyter.Message) {
	switch l := line(m).(type) {
	case *textLine:
		if l.Type == "stdout" {
			o.stdout.add(l.Text)
		} else {
			o.stderr.add(l.Text)
		}
	case *resultLine:
		size := len(m.Content)
		shown := l.PNG != nil || l.SVG != nil || l.JPEG != nil
		if o.size+size > maxResults || shown && len(o.a.Visualizations) >= maxPictures {
			o.left++
			return
		}
		o.size += size
		if shown {
			o.a.Visualizations = append(o.a.Visualizations, picture{l.PNG, l.SVG, l.JPEG, l.Chart, title(l.Chart)})
		}
		if l.Main {
			o.a.Result = l
		}
	}
}

// title returns a chart's.
func title(chart json.RawMessage) string {
	var c struct {
		Title string `json:"title"`
	}
	if json.Unmarshal(chart, &c) != nil {
		return ""
	}
	return c.Title
}

func (o *collector) finish() {
	if o.left > 0 {
		o.stderr.add(fmt.Sprintf("[%d results were left out: %d pictures and %d MiB are passed on]\n", o.left, maxPictures, maxResults>>20))
	}
	o.a.Logs.Stdout, o.a.Logs.Stderr = o.stdout.text(), o.stderr.text()
}
