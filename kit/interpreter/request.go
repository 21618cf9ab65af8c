package interpreter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	tokenHeader = "X-Access-Token"
	// maxBody is of a request. E2B's server has no limit, but whoever sends more
	// means to send a file.
	maxBody = 32 << 20
	// maxEcho is how much of a bad value is shown to whoever sent it.
	maxEcho = 4 << 10
)

type executeRequest struct {
	Code      string
	ContextID string
	Language  string
	EnvVars   map[string]string
}

// fault is one thing wrong with a request, in the words of the library that
// E2B's server checks requests with.
type fault struct {
	Type  string          `json:"type"`
	Loc   []any           `json:"loc"`
	Msg   string          `json:"msg"`
	Input json.RawMessage `json:"input"`
	Ctx   any             `json:"ctx,omitempty"`
}

// faults are all that is wrong with a request.
type faults []fault //nolint:recvcheck // an error that is a list, and grows

// Error lists what is wrong.
func (f faults) Error() string {
	var all []string
	for _, one := range f {
		all = append(all, fmt.Sprintf("%v: %s", one.Loc, one.Msg))
	}
	return strings.Join(all, "; ")
}

func (f *faults) add(kind, msg string, input json.RawMessage, loc ...any) {
	if len(input) > maxEcho {
		input = json.RawMessage(`"too long to be shown"`)
	}
	if input == nil {
		input = json.RawMessage("null")
	}
	*f = append(*f, fault{Type: kind, Loc: append([]any{"body"}, loc...), Msg: msg, Input: input})
}

// object reads the members of a JSON object.
func object(kind string, body []byte) (map[string]json.RawMessage, error) {
	var f faults
	if len(body) == 0 {
		f.add("missing", "Field required", nil)
		return nil, f
	}
	quoted := func() json.RawMessage { // how bytes that are no JSON are shown
		text, err := json.Marshal(string(body[:min(len(body), maxEcho)]))
		if err != nil {
			return nil
		}
		return text
	}
	if !isJSON(kind) {
		f.add("model_attributes_type", "Input should be a valid dictionary or object to extract fields from", quoted())
		return nil, f
	}
	body = bytes.ToValidUTF8(body, []byte("\ufffd"))
	var members map[string]json.RawMessage
	err := json.Unmarshal(body, &members)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		f.add("json_invalid", "JSON decode error", json.RawMessage("{}"), max(0, syntax.Offset-1))
		f[0].Ctx = map[string]string{"error": syntax.Error()}
		return nil, f
	case err != nil:
		f.add("model_attributes_type", "Input should be a valid dictionary or object to extract fields from", body)
		return nil, f
	case members == nil: // null
		f.add("missing", "Field required", nil)
		return nil, f
	}
	return members, nil
}

// isJSON reports whether a content type says that the body is JSON. No type
// says so, too.
func isJSON(kind string) bool {
	if kind == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(kind)
	if err != nil {
		return false
	}
	sub, ok := strings.CutPrefix(media, "application/")
	return ok && (sub == "json" || strings.HasSuffix(sub, "+json"))
}

// text reads a string that may be null, or absent when it is not required.
func (f *faults) text(members map[string]json.RawMessage, name string, required bool) string {
	raw, ok := members[name]
	switch {
	case !ok && required:
		all, err := json.Marshal(members)
		if err != nil {
			all = nil
		}
		f.add("missing", "Field required", all, name)
		return ""
	case !ok, string(raw) == "null" && !required:
		return ""
	}
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		f.add("string_type", "Input should be a valid string", raw, name)
	}
	return s
}

// parseExecute reads the body of POST /execute.
func parseExecute(kind string, body []byte) (*executeRequest, error) {
	members, err := object(kind, body)
	if err != nil {
		return nil, err
	}
	var f faults
	req := &executeRequest{
		Code:      f.text(members, "code", true),
		ContextID: f.text(members, "context_id", false),
		Language:  f.text(members, "language", false),
	}
	if raw, ok := members["env_vars"]; ok && string(raw) != "null" {
		var vars map[string]json.RawMessage
		if json.Unmarshal(raw, &vars) != nil {
			f.add("dict_type", "Input should be a valid dictionary", raw, "env_vars")
		}
		req.EnvVars = make(map[string]string, len(vars))
		for name, value := range vars {
			var s string
			if value[0] != '"' || json.Unmarshal(value, &s) != nil {
				f.add("string_type", "Input should be a valid string", value, "env_vars", name)
			}
			req.EnvVars[name] = s
		}
	}
	if len(f) > 0 {
		return nil, f
	}
	return req, nil
}

// parseCreate reads the body of POST /contexts.
func parseCreate(kind string, body []byte) (language, dir string, err error) {
	members, err := object(kind, body)
	if err != nil {
		return "", "", err
	}
	var f faults
	language, dir = f.text(members, "language", false), f.text(members, "cwd", false)
	if len(f) > 0 {
		return "", "", f
	}
	return language, dir, nil
}

// body reads a request's body.
func body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		text(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("The request is larger than %d bytes", maxBody))
	case err != nil:
		text(w, http.StatusBadRequest, "There was an error parsing the body")
	}
	return b, err == nil
}

func health(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, "OK") }

// execute serves POST /execute.
func (in *Interpreter) execute(w http.ResponseWriter, r *http.Request) {
	b, ok := body(w, r)
	if !ok {
		return
	}
	req, err := parseExecute(r.Header.Get("Content-Type"), b)
	if err != nil {
		refuse(w, err)
		return
	}
	if req.ContextID != "" && req.Language != "" {
		text(w, http.StatusBadRequest, "Only one of context_id or language can be provided")
		return
	}
	var c *codeContext
	if req.ContextID != "" {
		if c = in.byID(req.ContextID); c == nil {
			text(w, http.StatusNotFound, "Context "+req.ContextID+" not found")
			return
		}
	} else {
		language := normalize(req.Language)
		if c, err = in.byLanguage(r.Context(), language); err != nil {
			in.notCreated(w, r, language, err)
			return
		}
	}
	for name, value := range req.EnvVars {
		if err := checkEnv(c.language, name, value); err != nil {
			text(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	if _, ok := dialects[c.language]; !ok && c.spec.Language != "python" && len(req.EnvVars) > 0 {
		text(w, http.StatusBadRequest, "Environment variables cannot be set for an execution in "+c.language)
		return
	}
	out := newStream(w)
	defer out.quiet.Stop()
	err = c.run(r.Context(), req, r.Header.Get(tokenHeader), out)
	if err != nil && r.Context().Err() == nil { // the client is there, and is told nothing
		in.options.Log.WarnContext(r.Context(), "an answer was given up", "context", c.id, "err", err)
	}
	finish(out, err)
}

// list serves GET /contexts.
func (in *Interpreter) list(w http.ResponseWriter, _ *http.Request) {
	in.mu.Lock()
	all := make([]contextObject, 0, len(in.contexts))
	for _, c := range in.contexts {
		all = append(all, c.object())
	}
	in.mu.Unlock()
	writeJSON(w, http.StatusOK, all)
}

// contextObject is a context as clients see it.
type contextObject struct {
	ID       string `json:"id"`
	Language string `json:"language"`
	Dir      string `json:"cwd"`
}

func (c *codeContext) object() contextObject {
	return contextObject{ID: c.id, Language: c.language, Dir: c.dir}
}

// create serves POST /contexts.
func (in *Interpreter) create(w http.ResponseWriter, r *http.Request) {
	b, ok := body(w, r)
	if !ok {
		return
	}
	language, dir, err := parseCreate(r.Header.Get("Content-Type"), b)
	if err != nil {
		refuse(w, err)
		return
	}
	language = normalize(language)
	if dir == "" {
		dir = in.options.Dir
	}
	c, err := in.add(r.Context(), language, dir)
	if err != nil {
		in.notCreated(w, r, language, err)
		return
	}
	writeJSON(w, http.StatusOK, c.object())
}

// notCreated says why there is no context.
func (in *Interpreter) notCreated(w http.ResponseWriter, r *http.Request, language string, err error) {
	switch {
	case errors.Is(err, jupyter.ErrNoKernel): // Jupyter's answer, in E2B's
		msg := "The '" + language + "' kernel is not available. Please pick another suitable kernel instead, or install that kernel."
		text(w, http.StatusInternalServerError, "Failed to create context: "+
			`{"message": `+quote(msg)+`, "short_message": `+quote(language+" not found")+`}`)
	case errors.Is(err, errNoDir):
		text(w, http.StatusInternalServerError, "Failed to set working directory")
	default:
		if r.Context().Err() == nil {
			in.options.Log.WarnContext(r.Context(), "context not created", "language", language, "err", err)
		}
		text(w, http.StatusInternalServerError, "Failed to create context: "+err.Error())
	}
}

// restart serves POST /contexts/{id}/restart.
func (in *Interpreter) restart(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	c := in.byID(id)
	if c == nil {
		text(w, http.StatusNotFound, "Context "+id+" not found")
		return
	}
	if err := c.restart(r.Context()); err != nil {
		in.options.Log.WarnContext(r.Context(), "context not restarted", "context", id, "err", err)
		text(w, http.StatusInternalServerError, "Failed to restart context "+id)
		return
	}
	writeJSON(w, http.StatusOK, nil)
}

// remove serves DELETE /contexts/{id}.
func (in *Interpreter) remove(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	c := in.byID(id)
	if c == nil || !in.forget(c) {
		text(w, http.StatusNotFound, "Context "+id+" not found")
		return
	}
	c.remove()
	writeJSON(w, http.StatusOK, nil)
}

func refuse(w http.ResponseWriter, err error) {
	writeJSON(w, http.StatusUnprocessableEntity, map[string]any{"detail": err})
}

func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, s) //nolint:gosec // it is plain text, and who has gone does not miss it
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"detail":"Internal Server Error"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(b) // whoever has gone does not miss it
}

// allowOrigins lets pages of any origin ask, as E2B's server does.
func allowOrigins(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Vary", "Origin")
		h.Set("Access-Control-Allow-Methods", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")
		h.Set("Access-Control-Max-Age", "600")
		if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
			h.Set("Access-Control-Allow-Headers", asked)
		}
		text(w, http.StatusOK, "OK")
	})
}

// plainErrors answers what is no route as E2B's server does.
func plainErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &statusOnly{header: w.Header()}
		mux.ServeHTTP(probe, r) // it knows whether it is the path or the method
		detail := http.StatusText(probe.status)
		w.Header().Del("X-Content-Type-Options")
		writeJSON(w, probe.status, map[string]string{"detail": detail})
	})
}

// statusOnly keeps the status and the header of an answer.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header { return s.header }

func (s *statusOnly) WriteHeader(status int) { s.status = status }

func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }
