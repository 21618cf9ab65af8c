package native

import (
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// lab is what this room needs of whoever asks the code interpreters in
// sandboxes. What it gives is checked, and good until give or each returns.
type lab interface {
	Ask(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, q soulbox.Question, give func(soulbox.Reply) error) error
	Follow(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, q soulbox.Question, each func(line []byte) error) error
	Analyze(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, body []byte, give func(soulbox.Reply) error) error
	Visualize(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, body []byte, give func(soulbox.Reply) error) error
}

// labRoom answers requests about what code interpreters do.
type labRoom struct{ lab lab }

// labRow is a request that the interpreter of a sandbox answers, under the same
// path.
type labRow struct {
	verb, path string
	permission api.Permission
	status     int // of a good answer
	body       body
	query      []string // parameters that are passed on
	within     time.Duration
	last       []string // what ends a stream; nil: the answer is no stream
	types      []string // the answer is a file
}

// body is what a request has to say.
type body int

const (
	noBody body = iota
	optional
	needed
)

const (
	// labBody is the most that a request may say: a notebook, or data.
	labBody = 16 << 20

	labQuick  = time.Minute      // for what only reads and writes files
	labSlow   = 3 * time.Minute  // for what starts or ends programs
	labSilent = 30 * time.Second // streams say something every five seconds
)

// scripts are the media types of notebooks as scripts, and how the names of such
// files end.
var scripts = map[string]string{
	"text/plain; charset=utf-8":             ".txt",
	"text/x-python; charset=utf-8":          ".py",
	"text/javascript; charset=utf-8":        ".js",
	"application/typescript; charset=utf-8": ".ts",
	"text/x-r; charset=utf-8":               ".r",
	"text/x-java; charset=utf-8":            ".java",
	"text/x-sh; charset=utf-8":              ".sh",
	"application/x-ipynb+json":              ".ipynb",
	"text/html; charset=utf-8":              ".html",
}

// exports are the media types of notebooks in each format; the first stands for
// those that are not known.
var exports = map[string][]string{
	"ipynb": {"application/x-ipynb+json"},
	"html":  {"text/html; charset=utf-8"},
	"script": {
		"text/plain; charset=utf-8", "text/x-python; charset=utf-8", "text/javascript; charset=utf-8", "application/typescript; charset=utf-8",
		"text/x-r; charset=utf-8", "text/x-java; charset=utf-8", "text/x-sh; charset=utf-8",
	},
}

// LabRoutes returns the rows for notebooks, packages, analyses and charts.
func LabRoutes(l lab) []api.Route {
	n := &labRoom{l}
	const (
		get     = http.MethodGet
		post    = http.MethodPost
		put     = http.MethodPut
		patch   = http.MethodPatch
		remove  = http.MethodDelete
		ok      = http.StatusOK
		created = http.StatusCreated
		gone    = http.StatusNoContent
		read    = api.ReadSandboxes
		write   = api.WriteSandboxes

		sandbox     = "/v1/sandboxes/{sandbox}"
		notebook    = "/notebooks/{notebook}"
		cell        = notebook + "/cells/{cell}"
		environment = "/environments/{environment}"
	)
	revision := []string{"revision"}
	ran, installed := []string{"end"}, []string{"done", "error"}
	rows := []labRow{
		{verb: get, path: "/notebooks", permission: read, status: ok, within: labQuick},
		{verb: post, path: "/notebooks", permission: write, status: created, body: needed, within: labQuick},
		{verb: get, path: notebook, permission: read, status: ok, within: labQuick},
		{verb: put, path: notebook, permission: write, status: ok, body: needed, within: labQuick},
		{verb: remove, path: notebook, permission: write, status: gone, query: revision, within: labSlow},
		{verb: post, path: notebook + "/rename", permission: write, status: ok, body: needed, within: labQuick},
		{verb: post, path: notebook + "/cells", permission: write, status: created, body: needed, within: labQuick},
		{verb: patch, path: cell, permission: write, status: ok, body: needed, within: labQuick},
		{verb: remove, path: cell, permission: write, status: ok, query: revision, within: labQuick},
		{verb: post, path: cell + "/run", permission: write, status: ok, body: optional, within: labSilent, last: ran},
		{verb: post, path: notebook + "/run", permission: write, status: ok, body: optional, within: labSilent, last: ran},
		{verb: post, path: notebook + "/interrupt", permission: write, status: ok, within: labSlow},
		{verb: post, path: notebook + "/restart", permission: write, status: ok, within: labSlow},
		{verb: get, path: notebook + "/runs", permission: read, status: ok, within: labQuick},

		{verb: get, path: "/jupyterlab", permission: read, status: ok, within: labQuick},
		{verb: post, path: "/jupyterlab", permission: write, status: ok, body: optional, within: labSlow},
		{verb: remove, path: "/jupyterlab", permission: write, status: ok, within: labSlow},

		{verb: get, path: "/environments", permission: read, status: ok, within: labSlow},
		{verb: remove, path: environment, permission: write, status: gone, within: labSlow},
		{verb: get, path: environment + "/packages", permission: read, status: ok, within: labSlow},
		{verb: get, path: environment + "/freeze", permission: read, status: ok, within: labSlow, types: []string{"text/plain; charset=utf-8"}},
		{verb: post, path: environment + "/packages", permission: write, status: ok, body: needed, within: labSilent, last: installed},
		{verb: remove, path: environment + "/packages", permission: write, status: ok, body: needed, within: labSilent, last: installed},
	}
	routes := []api.Route{
		{Verb: get, Path: sandbox + notebook + "/export", Permission: read, Handle: n.export},
		{Verb: post, Path: sandbox + "/analyze", Permission: write, Handle: n.analyze},
		{Verb: post, Path: sandbox + "/visualize", Permission: write, Handle: n.visualize},
	}
	for _, row := range rows {
		routes = append(routes, api.Route{Verb: row.verb, Path: sandbox + row.path, Permission: row.permission, Handle: n.pass(row)})
	}
	for i := range routes {
		routes[i].Body, routes[i].Refuse = labBody, labRefuse
	}
	return routes
}

// pass answers a request with what the interpreter says.
func (n *labRoom) pass(row labRow) api.Handler {
	return func(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
		id, err := sandboxID(r)
		if err != nil {
			return err
		}
		q, err := row.question(r)
		if err != nil {
			return err
		}
		if row.last == nil {
			return n.lab.Ask(r.Context(), who.Team, id, q, func(a soulbox.Reply) error { return labSend(w, q.Status, a) })
		}
		out := newStream(w)
		out.kind = "application/x-ndjson"
		err = n.lab.Follow(r.Context(), who.Team, id, q, func(line []byte) error { return out.write(append(slices.Clip(line), '\n')) })
		if err == nil || !out.begun {
			return err
		}
		if out.broken == nil { // a client must be able to tell an end from a cut
			_ = out.line(labLine{Type: "error", Message: soulbox.MessageOf(err)}) // the last word, heard or not
		}
		return nil
	}
}

// labLine is a line of a stream that the server adds.
type labLine struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// line writes v as a line of its own.
func (s *stream) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(append(b, '\n'))
}

// labSend answers with a reply.
func labSend(w http.ResponseWriter, status int, a soulbox.Reply) error {
	if a.Type == "" {
		w.WriteHeader(status)
		return nil
	}
	// What a sandbox says is nobody's page, whatever a browser thinks of it.
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "sandbox")
	api.Send(w, status, a.Type, a.Body)
	return nil
}

// export answers with a notebook as a file.
func (n *labRoom) export(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	format := r.URL.Query().Get("format")
	if format == "" {
		format = "ipynb"
	}
	types, ok := exports[format]
	if !ok {
		return soulbox.Errorf(soulbox.Invalid, "format must be ipynb, html or script, not %.50q", format)
	}
	row := labRow{verb: http.MethodGet, path: "/notebooks/{notebook}/export", status: http.StatusOK, within: labSlow, types: types}
	q, err := row.question(r)
	if err != nil {
		return err
	}
	q.Path += "?format=" + format
	return n.lab.Ask(r.Context(), who.Team, id, q, func(a soulbox.Reply) error {
		name := strings.TrimSuffix(path.Base(r.PathValue("notebook")), ".ipynb") + scripts[a.Type]
		w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
		return labSend(w, q.Status, a)
	})
}

// analyze runs code on data.
func (n *labRoom) analyze(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return n.withData(w, r, func(id soulbox.SandboxID, body []byte, give func(soulbox.Reply) error) error {
		return n.lab.Analyze(r.Context(), who.Team, id, body, give)
	})
}

// visualize draws data.
func (n *labRoom) visualize(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return n.withData(w, r, func(id soulbox.SandboxID, body []byte, give func(soulbox.Reply) error) error {
		return n.lab.Visualize(r.Context(), who.Team, id, body, give)
	})
}

// withData answers a request that brings data along.
func (n *labRoom) withData(w http.ResponseWriter, r *http.Request, do func(soulbox.SandboxID, []byte, func(soulbox.Reply) error) error) error {
	id, err := sandboxID(r)
	if err != nil {
		return err
	}
	b, err := labObject(r, needed)
	if err != nil {
		return err
	}
	return do(id, b, func(a soulbox.Reply) error { return labSend(w, http.StatusOK, a) })
}

// labObject reads a body that is one object, and returns it as it is passed on.
func labObject(r *http.Request, is body) ([]byte, error) {
	var members map[string]json.RawMessage
	switch is {
	case noBody:
		return nil, nil
	case optional:
		if err := api.DecodeOptional(r, &members); err != nil {
			return nil, err
		}
		if members == nil {
			members = map[string]json.RawMessage{}
		}
	case needed:
		if err := api.Decode(r, &members); err != nil {
			return nil, err
		}
	}
	return json.Marshal(members)
}

// question makes of r what the interpreter is asked.
func (row labRow) question(r *http.Request) (soulbox.Question, error) {
	q := soulbox.Question{Verb: row.verb, Status: row.status, Within: row.within, Last: row.last, Types: row.types}
	segments := strings.Split(row.path, "/")
	for i, s := range segments {
		name, ok := strings.CutPrefix(s, "{")
		if !ok {
			continue
		}
		name = strings.TrimSuffix(name, "}")
		value := r.PathValue(name)
		if err := labNames[name](value); err != nil {
			return q, err
		}
		segments[i] = url.PathEscape(value)
	}
	q.Path = strings.Join(segments, "/")
	given := url.Values{}
	for _, name := range row.query {
		v := r.URL.Query().Get(name)
		if v == "" {
			continue
		}
		if !labRevision.MatchString(v) {
			return q, soulbox.Errorf(soulbox.Invalid, "%s: %.80q is not one", name, v)
		}
		given.Set(name, v)
	}
	if len(given) > 0 {
		q.Path += "?" + given.Encode()
	}
	var err error
	q.Body, err = labObject(r, row.body)
	return q, err
}

var (
	labRevision    = regexp.MustCompile(`^[a-z0-9]{1,64}$`)
	labCell        = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	labEnvironment = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
)

const maxNotebookPath = 1024

// labNames checks what stands in paths.
var labNames = map[string]func(string) error{
	"notebook": func(s string) error {
		bad := s == "" || len(s) > maxNotebookPath || !utf8.ValidString(s) || strings.HasPrefix(s, "/") ||
			strings.ContainsFunc(s, unicode.IsControl) || slices.Contains(strings.Split(s, "/"), "..")
		if bad {
			return soulbox.Errorf(soulbox.Invalid, "%.200q is not a notebook: write its path below the home folder, with at most %d bytes and without ..", s, maxNotebookPath)
		}
		return nil
	},
	"cell": func(s string) error {
		if !labCell.MatchString(s) {
			return soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a cell", s)
		}
		return nil
	},
	"environment": func(s string) error {
		if !labEnvironment.MatchString(s) {
			return soulbox.Errorf(soulbox.Invalid, "%.100q is not the name of an environment: those have at most 32 of a-z, 0-9 and -", s)
		}
		return nil
	},
}

// labFailure is an error that may say which revision is newer.
type labFailure struct {
	api.Failure

	Revision string `json:"revision,omitempty"`
}

// labRefuse answers an error.
func labRefuse(w http.ResponseWriter, status int, err error, msg string) {
	f := labFailure{Failure: api.Failure{Code: status, Message: msg}}
	if old, ok := errors.AsType[*soulbox.OutdatedError](err); ok {
		f.Revision = old.Revision
	}
	_ = api.Answer(w, status, f) // numbers and strings always encode
}
