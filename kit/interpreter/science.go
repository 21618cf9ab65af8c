package interpreter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/download"
	"github.com/soulbox/soulbox/kit/interpreter/environment"
	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	// What a request may take, in seconds, if it does not say; and at most.
	installTime = 600
	analyzeTime = 300
	drawTime    = 120
	maxTime     = 3600

	// maxDataset is how much of a dataset is downloaded; soulbox_data reads no
	// more either.
	maxDataset = 1 << 30
)

// science is what data science asks for beside kernels: environments and their
// packages, analyses of datasets, pictures of them.
type science struct {
	in           *Interpreter
	environments *environment.Set
	client       *download.Client
}

func newScience(in *Interpreter) *science {
	kernelDir := filepath.Join(in.options.Dir, ".local/share/jupyter/kernels")
	if !slices.Contains(in.options.Specs, kernelDir) {
		in.options.Specs = append(slices.Clone(in.options.Specs), kernelDir)
	}
	s := &science{in: in, client: &download.Client{Most: maxDataset, Roots: in.options.Roots}}
	set, err := environment.Open(environment.Options{
		Dir:    filepath.Join(in.options.Dir, ".local/share/soulbox/environments"),
		Specs:  kernelDir,
		Python: s.python,
		Env:    in.options.Env,
		Taken:  s.taken,
	})
	if err != nil { // code runs without it
		in.options.Log.Warn("change of an environment not undone", "err", err)
	}
	s.environments = set
	return s
}

// python returns the program of the default context of Python.
func (s *science) python() (string, error) {
	spec, err := s.in.find("python")
	if err != nil {
		return "", err
	}
	return spec.Program()
}

// taken reports whether a language or a kernel has a name.
func (s *science) taken(name string) bool {
	if _, ok := kernels[name]; ok || normalize(name) != name || slices.Contains([]string{"python", "javascript", "typescript", "java", "bash"}, name) {
		return true
	}
	_, err := jupyter.Find(s.in.options.Specs, name)
	return !errors.Is(err, jupyter.ErrNoKernel)
}

// routes adds what is answered here.
func (s *science) routes(mux *http.ServeMux) {
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /environments":                           s.listEnvironments,
		"DELETE /environments/{environment}":          s.removeEnvironment,
		"GET /environments/{environment}/packages":    s.listPackages,
		"GET /environments/{environment}/freeze":      s.freeze,
		"POST /environments/{environment}/packages":   s.install,
		"DELETE /environments/{environment}/packages": s.uninstall,
		"POST /analyze":                               s.analyze,
		"POST /visualize":                             s.visualize,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				s.fail(w, r, err)
			}
		})
	}
}

// requestError is what a client is told, with a status of HTTP.
type requestError struct {
	status int
	text   string
}

func (e *requestError) Error() string { return e.text }

func refused(status int, format string, args ...any) error {
	return &requestError{status, fmt.Sprintf(format, args...)}
}

// fail answers with an error.
func (s *science) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, msg := http.StatusInternalServerError, "internal error"
	var (
		told *requestError
		no   *environment.RefusalError
		file *download.RefusalError
		big  *http.MaxBytesError
	)
	switch {
	case errors.As(err, &told):
		status, msg = told.status, told.text
	case errors.As(err, &no):
		status = map[environment.Kind]int{
			environment.Invalid: http.StatusBadRequest, environment.NotFound: http.StatusNotFound, environment.Conflict: http.StatusConflict,
		}[no.Kind]
		msg = no.Text
	case errors.As(err, &file):
		status, msg = http.StatusBadRequest, file.Text
		if file.TooLarge {
			status = http.StatusRequestEntityTooLarge
		}
	case errors.As(err, &big):
		status, msg = http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is larger than %d bytes", maxBody)
	case r.Context().Err() == nil:
		s.in.options.Log.WarnContext(r.Context(), "request failed", "path", r.URL.Path, "err", err)
	}
	writeJSON(w, status, map[string]any{"code": status, "message": msg})
}

// read reads the body of a request: an object, with these members and no others.
func (s *science) read(w http.ResponseWriter, r *http.Request, v any) error {
	if !isJSON(r.Header.Get("Content-Type")) {
		return refused(http.StatusBadRequest, "the body must be application/json")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(bytes.ToValidUTF8(b, []byte("\ufffd"))))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return refused(http.StatusBadRequest, "the body is not the JSON object that is expected: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return refused(http.StatusBadRequest, "something follows the JSON object in the body")
	}
	return nil
}

// seconds returns how long a request may take.
func seconds(asked *float64, usual float64) (time.Duration, error) {
	if asked == nil {
		asked = &usual
	}
	if !(*asked > 0 && *asked <= maxTime) {
		return 0, refused(http.StatusBadRequest, "timeout_seconds must be more than 0 and at most %d", maxTime)
	}
	return time.Duration(*asked * float64(time.Second)), nil
}
