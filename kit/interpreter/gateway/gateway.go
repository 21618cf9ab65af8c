// Package gateway lets a Jupyter server use kernels that it has not started, as
// Jupyter's kernel gateway does: JupyterLab runs beside the interpreter, and its
// notebooks run in the interpreter's contexts.
//
//   - GET /api/kernelspecs, /api/kernelspecs/{name}, /kernelspecs/{name}/{file}
//     say which kernels there may be;
//   - GET and POST /api/kernels, GET and DELETE /api/kernels/{id}, POST
//     /api/kernels/{id}/interrupt and /restart;
//   - GET /api/kernels/{id}/channels is a WebSocket between a client and a kernel,
//     with Jupyter's messages in JSON, or in binary when there are bytes beside it.
//
// Each WebSocket has connections of its own to the kernel (jupyter.Channels), so
// that two clients hear each other's output and neither gets the other's answers.
// When the kernel ends, its clients are told, and connected to the next one.
//
// # What may go wrong
//
// What kernels say is bounded: a message of more than 8 MiB is left out, printed
// text comes in pieces, and output that comes faster than a browser can show it is
// dropped until it is slower. Each time the client reads that there was more. A
// client that does not read at all is disconnected; the kernel never waits for it.
//
// Only requests with the token of the moment are answered (see Admit).
package gateway

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	maxRequest  = 4 << 20 // bytes; a server sends its environment
	maxResource = 1 << 20 // bytes of a logo
	// jupyterTime is how Jupyter writes times, and reads them.
	jupyterTime = "2006-01-02T15:04:05.000000Z"
)

// ErrNoDir says that a kernel cannot be started in a folder that is not there.
var ErrNoDir = errors.New("the working directory is not there")

// Kernels are what the gateway stands in front of.
type Kernels interface {
	// Specs returns the kernels that may be started; the first is the default.
	Specs() []*jupyter.Spec
	// Contexts returns what was started, here or elsewhere.
	Contexts() []Context
	// Context returns the one with this id, if there is one.
	Context(id string) (Context, bool)
	// Notebook returns what the notebook at an absolute path runs in, if anything.
	Notebook(path string) (Context, bool)
	// Start starts a kernel for a notebook, which may be empty, in a folder; both
	// are absolute paths. The error is jupyter.ErrNoKernel when there is no spec of
	// that name, and ErrNoDir when there is no such folder.
	Start(ctx context.Context, spec, dir, notebook string) (Context, error)
}

// Context is a kernel that may be replaced by another one of the same kind.
type Context interface {
	ID() string
	Spec() *jupyter.Spec
	// Running returns the kernel, or nil while there is none.
	Running() *jupyter.Kernel
	// Ready returns the kernel, as soon as there is one that lives.
	Ready(ctx context.Context) (*jupyter.Kernel, error)
	// Restart replaces the kernel, and returns when there is another one.
	Restart(ctx context.Context) error
	// Remove ends it all.
	Remove()
}

// Gateway answers a Jupyter server. It is safe for concurrent use.
type Gateway struct {
	log     *slog.Logger
	kernels Kernels
	routes  *http.ServeMux
	life    context.Context //nolint:containedctx // of WebSockets, which the HTTP server does not wait for
	end     context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.Mutex
	closed   bool           // +checklocks:mu
	token    string         // +checklocks:mu
	sessions map[string]int // +checklocks:mu — WebSockets, by their contexts
	asked    map[string]int // +checklocks:mu — restarts that clients of ours have asked for
}

// New returns a gateway that answers nobody until Admit is called. The caller
// closes it.
func New(log *slog.Logger, kernels Kernels) *Gateway {
	g := &Gateway{log: log, kernels: kernels, routes: http.NewServeMux(), sessions: map[string]int{}, asked: map[string]int{}}
	g.life, g.end = context.WithCancel(context.Background())
	for pattern, handle := range map[string]http.HandlerFunc{
		"GET /api/kernelspecs":             g.specs,
		"GET /api/kernelspecs/{name}":      g.spec,
		"GET /kernelspecs/{name}/{file}":   g.resource,
		"GET /api/kernels":                 g.list,
		"POST /api/kernels":                g.start,
		"GET /api/kernels/{id}":            g.get,
		"DELETE /api/kernels/{id}":         g.remove,
		"POST /api/kernels/{id}/interrupt": g.interrupt,
		"POST /api/kernels/{id}/restart":   g.restart,
		"GET /api/kernels/{id}/channels":   g.channels,
		"/":                                func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "no such route") },
	} {
		g.routes.HandleFunc(pattern, handle)
	}
	return g
}

// Admit makes the gateway answer whoever has this token, and nobody else; with an
// empty one, nobody. WebSockets that are open stay.
func (g *Gateway) Admit(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.token = token
}

// Close ends the WebSockets and waits until they are gone.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.end()
	g.wg.Wait()
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	token := g.token
	g.mu.Unlock()
	given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "token ")
	if token == "" || subtle.ConstantTimeCompare([]byte(given), []byte(token)) == 0 {
		refuse(w, http.StatusUnauthorized, "the token is not right")
		return
	}
	g.routes.ServeHTTP(w, r)
}

// specModel is a kernel spec as Jupyter's servers say it.
type specModel struct {
	Name      string            `json:"name"`
	Spec      specText          `json:"spec"`
	Resources map[string]string `json:"resources"`
}

type specText struct {
	Argv      []string          `json:"argv"`
	Env       map[string]string `json:"env"`
	Display   string            `json:"display_name"`
	Language  string            `json:"language"`
	Interrupt string            `json:"interrupt_mode"`
	Metadata  json.RawMessage   `json:"metadata"`
}

// isResource reports whether clients may read a file of a spec: its logos, and
// what it adds to notebooks.
func isResource(name string) bool {
	return name == "kernel.js" || name == "kernel.css" || strings.HasPrefix(name, "logo-") && !strings.ContainsAny(name, "/\\")
}

func describe(s *jupyter.Spec) specModel {
	m := specModel{
		Name: s.Name, Resources: map[string]string{},
		Spec: specText{
			Argv: s.Argv, Env: s.Env, Display: s.DisplayName, Language: s.Language, Interrupt: s.Interrupt, Metadata: s.Metadata,
		},
	}
	if m.Spec.Env == nil {
		m.Spec.Env = map[string]string{}
	}
	if m.Spec.Metadata == nil {
		m.Spec.Metadata = json.RawMessage("{}")
	}
	if m.Spec.Interrupt == "" {
		m.Spec.Interrupt = "signal"
	}
	files, _ := os.ReadDir(s.Dir) // one that cannot be listed has no logo
	for _, f := range files {
		if isResource(f.Name()) {
			name, _, _ := strings.Cut(f.Name(), ".")
			m.Resources[name] = "/kernelspecs/" + s.Name + "/" + f.Name()
		}
	}
	return m
}

func (g *Gateway) specs(w http.ResponseWriter, _ *http.Request) {
	all := g.kernels.Specs()
	models := make(map[string]specModel, len(all))
	standard := ""
	for i, s := range all {
		if i == 0 {
			standard = s.Name
		}
		models[s.Name] = describe(s)
	}
	answer(w, http.StatusOK, map[string]any{"default": standard, "kernelspecs": models})
}

// find returns the spec that a request names, or refuses it.
func (g *Gateway) find(w http.ResponseWriter, r *http.Request) *jupyter.Spec {
	all := g.kernels.Specs()
	i := slices.IndexFunc(all, func(s *jupyter.Spec) bool { return s.Name == r.PathValue("name") })
	if i < 0 {
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no kernel spec %.100q", r.PathValue("name")))
		return nil
	}
	return all[i]
}

func (g *Gateway) spec(w http.ResponseWriter, r *http.Request) {
	if s := g.find(w, r); s != nil {
		answer(w, http.StatusOK, describe(s))
	}
}

func (g *Gateway) resource(w http.ResponseWriter, r *http.Request) {
	s := g.find(w, r)
	if s == nil {
		return
	}
	name := r.PathValue("file")
	if !isResource(name) {
		refuse(w, http.StatusNotFound, "there is no such file")
		return
	}
	f, err := os.Open(filepath.Join(s.Dir, name)) //nolint:gosec // its name has been looked at
	if err != nil {
		refuse(w, http.StatusNotFound, "there is no such file")
		return
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxResource {
		refuse(w, http.StatusNotFound, "there is no such file")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream") // the Jupyter server says what it is
	_, _ = io.Copy(w, io.LimitReader(f, maxResource))          // whoever has gone does not miss it
}

// kernelModel is a kernel as Jupyter's servers say it.
type kernelModel struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Last        string `json:"last_activity"`
	State       string `json:"execution_state"`
	Connections int    `json:"connections"`
}

func (g *Gateway) model(c Context) kernelModel {
	g.mu.Lock()
	n := g.sessions[c.ID()]
	g.mu.Unlock()
	m := kernelModel{ID: c.ID(), Name: c.Spec().Name, State: "restarting", Connections: n}
	last := time.Now()
	if k := c.Running(); k != nil {
		var busy bool
		busy, last = k.Activity()
		if m.State = "idle"; busy {
			m.State = "busy"
		}
	}
	m.Last = last.UTC().Format(jupyterTime)
	return m
}

func (g *Gateway) list(w http.ResponseWriter, _ *http.Request) {
	all := g.kernels.Contexts()
	models := make([]kernelModel, 0, len(all))
	for _, c := range all {
		models = append(models, g.model(c))
	}
	answer(w, http.StatusOK, models)
}

// start starts a kernel. The server says in which folder, and for what.
func (g *Gateway) start(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Name string
		Env  struct {
			Dir      string `json:"KERNEL_WORKING_DIR"`
			Notebook string `json:"JPY_SESSION_NAME"`
		}
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&req); err != nil {
		refuse(w, http.StatusBadRequest, "the request is not what it should be: "+err.Error())
		return
	}
	// Whoever opens a notebook that has been run without a server gets its kernel;
	// who has it already wants another one.
	if c, ok := g.kernels.Notebook(req.Env.Notebook); ok && c.Spec().Name == req.Name && g.model(c).Connections == 0 {
		answer(w, http.StatusCreated, g.model(c))
		return
	}
	c, err := g.kernels.Start(r.Context(), req.Name, req.Env.Dir, req.Env.Notebook)
	switch {
	case err == nil:
		answer(w, http.StatusCreated, g.model(c))
	case errors.Is(err, jupyter.ErrNoKernel):
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no kernel %.100q", req.Name))
	case errors.Is(err, ErrNoDir):
		refuse(w, http.StatusBadRequest, err.Error())
	default:
		if r.Context().Err() == nil {
			g.log.WarnContext(r.Context(), "kernel not started", "spec", req.Name, "err", err)
		}
		refuse(w, http.StatusInternalServerError, err.Error())
	}
}

// context returns the context that a request names, or refuses it.
func (g *Gateway) context(w http.ResponseWriter, r *http.Request) (Context, bool) {
	c, ok := g.kernels.Context(r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no kernel %.100q", r.PathValue("id")))
	}
	return c, ok
}

func (g *Gateway) get(w http.ResponseWriter, r *http.Request) {
	if c, ok := g.context(w, r); ok {
		answer(w, http.StatusOK, g.model(c))
	}
}

func (g *Gateway) remove(w http.ResponseWriter, r *http.Request) {
	if c, ok := g.context(w, r); ok {
		c.Remove()
		w.WriteHeader(http.StatusNoContent)
	}
}

func (g *Gateway) interrupt(w http.ResponseWriter, r *http.Request) {
	if c, ok := g.context(w, r); ok {
		if k := c.Running(); k != nil {
			k.Interrupt()
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// count counts something of a context until done is called.
func (g *Gateway) count(what map[string]int, id string) (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	what[id]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if what[id]--; what[id] == 0 {
			delete(what, id)
		}
	}
}

// after is the state that clients are told when a kernel has ended: JupyterLab
// takes "restarting" for an accident, so whoever asked for it hears "starting".
func (g *Gateway) after(id string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asked[id] > 0 {
		return "starting"
	}
	return "restarting"
}

func (g *Gateway) restart(w http.ResponseWriter, r *http.Request) {
	c, ok := g.context(w, r)
	if !ok {
		return
	}
	done := g.count(g.asked, c.ID())
	err := c.Restart(r.Context())
	done()
	if err != nil {
		g.log.WarnContext(r.Context(), "kernel not restarted", "context", c.ID(), "err", err)
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	answer(w, http.StatusOK, g.model(c))
}

// refuse says why not, in the words that a Jupyter server looks for.
func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, status, map[string]string{"reason": http.StatusText(status), "message": why})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"reason":"Internal Server Error"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(b) // whoever has gone does not miss it
}
