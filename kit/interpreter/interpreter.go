// Package interpreter runs code for clients, as E2B's code interpreter does: in
// contexts that remember variables, in several languages, with results that are
// more than text. It answers on port 49999 of a sandbox:
//
//   - GET /health;
//   - POST /execute runs code and streams what becomes of it, a JSON object a
//     line;
//   - GET and POST /contexts, POST /contexts/{id}/restart, DELETE /contexts/{id};
//   - /notebooks and what is below it: notebooks whose cells run in contexts of
//     their own, see notebooks.go;
//   - /environments, POST /analyze and POST /visualize: packages, analyses of
//     datasets and pictures of them, see science.go;
//   - GET, POST and DELETE /jupyterlab: whether JupyterLab runs, and how it is
//     reached. Below /gateway/ it finds the contexts as kernels (room gateway).
//
// A context is a Jupyter kernel (room jupyter) and the queue of those who want
// to run something in it. Each language has a default context; those of Python
// and JavaScript are there from the start, others are made when they are wanted.
//
// # What may go wrong
//
// Code may do what it likes: print for ever, ignore interrupts, end its kernel.
// An execution whose client goes away is interrupted, and when that does not
// help somebody else's turn restarts the kernel. A kernel that ends in the middle
// of an execution is replaced at once. Who runs the next thing is told when
// variables are gone without his doing.
//
// Who may ask is not decided here: whoever reaches the port may run code, which
// is no more than every program in the sandbox may.
package interpreter

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
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

const envsTime = 2 * time.Second // to ask for the default environment

var (
	errClosed = errors.New("the interpreter is shutting down")
	errNoDir  = errors.New("the working directory is not there")
)

// Options says where an interpreter finds things.
type Options struct {
	Log *slog.Logger
	// Specs are the folders with kernel specs, the first before the others.
	Specs []string
	// Run is a folder for sockets, with a short name, that is nobody else's.
	Run string
	// Dir is where contexts run that do not say.
	Dir string
	// Env is the environment of kernels.
	Env []string
	// Envs is the URL of the sandbox's default environment; none when empty.
	Envs string
	// Python is a folder with the packages soulbox_display, which Python kernels
	// load, and soulbox_data; none when empty.
	Python string
	// Identity is a file that says which sandbox this is. When it changes, the
	// default environment is asked for again.
	Identity string
	// Roots are the certificates that datasets are downloaded with; the system's
	// when nil.
	Roots *x509.CertPool
	// URL is where the interpreter itself answers programs in the sandbox, such as
	// JupyterLab.
	URL string
	// JupyterLab is the program of that name; jupyter-lab when empty. User is whose
	// it is when it runs; this program's own when there is no such user.
	JupyterLab, User string
	// LabPort is where JupyterLab answers; 8888 when 0.
	LabPort int
	// Patience is how long an execution whose client has gone may resist while
	// another one waits, before the kernel is restarted; 30 s when 0.
	Patience time.Duration
}

// Interpreter serves requests. It is safe for concurrent use. Beside those of
// kernels and requests, its goroutines finish what requests left behind.
type Interpreter struct {
	options Options
	routes  http.Handler
	lab     lab
	life    context.Context //nolint:containedctx // of kernels, which outlive the requests that start them
	end     context.CancelCauseFunc
	wg      sync.WaitGroup

	mu       sync.Mutex
	closed   bool                // +checklocks:mu
	contexts []*codeContext      // +checklocks:mu — the oldest first
	defaults map[string]*pending // +checklocks:mu — by language
	bonds    bonds               // +checklocks:mu — of notebooks
	token    string              // +checklocks:mu — for the sandbox's agent, of who started JupyterLab
}

// pending is a default context that is being made, or was.
type pending struct {
	done chan struct{} // closed when the others are set
	c    *codeContext
	err  error
}

// New returns an interpreter without contexts. The caller closes it.
func New(o Options) *Interpreter {
	if o.Patience == 0 {
		o.Patience = patience
	}
	in := &Interpreter{
		options:  o,
		defaults: map[string]*pending{},
		bonds:    bonds{contexts: map[string]*codeContext{}, making: map[string]*pending{}},
	}
	in.life, in.end = context.WithCancelCause(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", health)
	mux.HandleFunc("POST /execute", in.execute)
	mux.HandleFunc("GET /contexts", in.list)
	mux.HandleFunc("POST /contexts", in.create)
	mux.HandleFunc("POST /contexts/{id}/restart", in.restart)
	mux.HandleFunc("DELETE /contexts/{id}", in.remove)
	newNotebooks(in).routes(mux)
	newScience(in).routes(mux)
	mux.HandleFunc("GET /jupyterlab", in.showLab)
	mux.HandleFunc("POST /jupyterlab", in.startLab)
	mux.HandleFunc("DELETE /jupyterlab", in.stopLab)
	in.lab = newLab(in)
	mux.Handle(gatewayPath+"/", http.StripPrefix(gatewayPath, in.lab.gateway))
	in.routes = allowOrigins(plainErrors(mux))
	return in
}

// ServeHTTP answers one request.
func (in *Interpreter) ServeHTTP(w http.ResponseWriter, r *http.Request) { in.routes.ServeHTTP(w, r) }

// Warm makes the default contexts of these languages, all at once, and returns
// when they are ready. A language without a kernel is left out. It returns the
// first error; the others are there nevertheless.
func (in *Interpreter) Warm(ctx context.Context, languages ...string) error {
	errs := make([]error, len(languages))
	var wg sync.WaitGroup
	for i, l := range languages {
		wg.Go(func() {
			c, err := in.byLanguage(ctx, l)
			if errors.Is(err, jupyter.ErrNoKernel) {
				return
			}
			if err == nil {
				err = c.rehearse(ctx)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	in.mu.Lock()
	defer in.mu.Unlock()
	// However long each took, they are listed in this order.
	slices.SortStableFunc(in.contexts, func(a, b *codeContext) int {
		return rank(languages, a.language) - rank(languages, b.language)
	})
	return errors.Join(errs...)
}

func rank(all []string, one string) int {
	if i := slices.Index(all, one); i >= 0 {
		return i
	}
	return len(all)
}

// Close ends all kernels and waits until they are gone. The server in front of
// the interpreter should take no more requests by then.
func (in *Interpreter) Close() {
	in.mu.Lock()
	in.closed = true
	all := in.contexts
	in.contexts = nil
	in.mu.Unlock()
	in.end(errClosed)
	in.lab.close()
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(c.remove)
	}
	wg.Wait()
	in.wg.Wait()
}

// background runs f unless the interpreter is closed.
func (in *Interpreter) background(f func()) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	in.wg.Go(f)
	return true
}

// kernels maps what clients say to the names of kernel specs.
var kernels = map[string]string{"python": "python3", "r": "ir"}

// normalize returns the language that a client means.
func normalize(language string) string {
	language = strings.ToLower(strings.TrimSpace(language))
	switch language {
	case "":
		return "python"
	case "js":
		return "javascript"
	case "ts":
		return "typescript"
	}
	return language
}

// find returns the kernel of a language. Any installed kernel can be named.
func (in *Interpreter) find(language string) (*jupyter.Spec, error) {
	name := language
	if k, ok := kernels[language]; ok {
		name = k
	}
	spec, err := jupyter.Find(in.options.Specs, name)
	if errors.Is(err, jupyter.ErrNoKernel) && name != language {
		return jupyter.Find(in.options.Specs, language)
	}
	return spec, err
}

// add makes a context.
func (in *Interpreter) add(ctx context.Context, language, dir string) (*codeContext, error) {
	spec, err := in.find(language)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(dir) //nolint:gosec // who asks may run programs
	if err != nil || !fi.IsDir() || !filepath.IsAbs(dir) {
		return nil, errNoDir
	}
	c := newContext(in, spec, language, dir)
	if _, _, err := c.ready(ctx, nil); err != nil {
		c.remove() // it may be on its way when it is only the client who left
		return nil, err
	}
	in.mu.Lock()
	closed := in.closed
	if !closed {
		in.contexts = append(in.contexts, c)
	}
	in.mu.Unlock()
	if closed {
		c.remove()
		return nil, errClosed
	}
	return c, nil
}

// byLanguage returns the default context of a language, and makes it when it is
// not there. Whoever comes meanwhile waits for the same one.
func (in *Interpreter) byLanguage(ctx context.Context, language string) (*codeContext, error) {
	in.mu.Lock()
	p := in.defaults[language]
	if p == nil && !in.closed {
		p = &pending{done: make(chan struct{})}
		in.defaults[language] = p
		in.wg.Go(func() { in.makeDefault(language, p) })
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

func (in *Interpreter) makeDefault(language string, p *pending) {
	p.c, p.err = in.add(in.life, language, in.options.Dir)
	if p.err != nil {
		in.mu.Lock()
		delete(in.defaults, language) // the next one may have more luck
		in.mu.Unlock()
	}
	close(p.done)
}

// byID returns the context with this id, or nil.
func (in *Interpreter) byID(id string) *codeContext {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, c := range in.contexts {
		if c.id == id {
			return c
		}
	}
	return nil
}

// forget takes a context out of the lists. It reports whether it was there.
func (in *Interpreter) forget(c *codeContext) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	i := slices.Index(in.contexts, c)
	if i < 0 {
		return false
	}
	in.contexts = slices.Delete(in.contexts, i, i+1)
	in.loosenLocked(c)
	if in.isDefaultLocked(c) {
		delete(in.defaults, c.language)
	}
	return true
}

// isDefaultLocked reports whether c is its language's default context.
//
// +checklocks:in.mu
func (in *Interpreter) isDefaultLocked(c *codeContext) bool {
	p := in.defaults[c.language]
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return p.c == c
	default: // another one is being made
		return false
	}
}

// startKernel starts a kernel for c and tells it what it needs to know.
func (in *Interpreter) startKernel(c *codeContext) (*jupyter.Kernel, error) {
	k, err := jupyter.Start(in.life, c.spec, jupyter.Options{
		Dir: c.dir, Env: in.options.Env, Args: arguments(c.spec), Run: in.options.Run,
	})
	if err != nil {
		return nil, err
	}
	if err := in.teach(c, k); err != nil {
		k.Kill()
		<-k.Done()
		return nil, fmt.Errorf("prepare kernel %s: %w", c.spec.Name, err)
	}
	return k, nil
}
