package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"maps"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

// BuildOptions say what a template is built of, and how. The zero value builds
// nothing: Dir, Dockerfile or Context is needed.
type BuildOptions struct {
	// Dir is the folder that COPY and ADD read from, without what its
	// .dockerignore names. Empty: they have nothing to read.
	Dir string
	// Dockerfile is the path of the Dockerfile. Empty: the one in Dir.
	Dockerfile string
	// Context is a tar, compressed with gzip or not, with the Dockerfile in it,
	// at the path Dockerfile; instead of Dir.
	Context io.Reader

	// Tags lead to the version once it is ready. None: "default" does, unless
	// the name has one.
	Tags []string
	// Bump says how far it is from the version before. Empty: that follows from
	// what has changed.
	Bump soulbox.Bump
	// Target is the stage to build. Empty: the last.
	Target string
	// Args are values of ARG.
	Args map[string]string
	// Start is a command that is left running in every sandbox, and Ready one
	// that succeeds once what it starts can be used. Both may be empty.
	Start, Ready string
	// NoCache builds every step, whatever is known from earlier builds.
	NoCache bool

	// CPUs, Memory and Disk are those of its sandboxes. 0: as before, or as
	// usual. The latter two are sent in whole MiB.
	CPUs         int
	Memory, Disk soulbox.Bytes
	// Isolation is what its sandboxes have unless they ask otherwise. Nil: as
	// before, else gVisor.
	Isolation *soulbox.Isolation
	// Public says whether every team may start the template from now on. Nil: as
	// before.
	Public *bool

	// Secrets are for RUN --mount=type=secret, by id.
	Secrets map[string][]byte
	// Logins are for registries that want to know who asks, by host.
	Logins map[string]soulbox.Login
}

// A StartedBuild is a build that waits for its turn.
type StartedBuild struct {
	Template *Template
	Build    *soulbox.Build
	Problems []soulbox.Problem // of its Dockerfile, that do not keep it from being built
}

// Build starts a build of a template, called NAME or NAME:TAG, of the team's own.
// One that does not exist is made. It returns once the server has everything;
// [Templates.Watch] tells what becomes of it.
func (t *Templates) Build(ctx context.Context, name string, o BuildOptions) (*StartedBuild, error) {
	path, err := templatePath(name, "/builds")
	if err != nil {
		return nil, err
	}
	if o.Context == nil && o.Dir == "" && o.Dockerfile == "" || o.Context != nil && o.Dir != "" {
		return nil, soulbox.Errorf(soulbox.Invalid, "a template is built of either a folder, a Dockerfile or a context")
	}
	order := newOrderWire(o)
	text, pack := "", func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, o.Context)
		return err
	}
	if o.Context != nil {
		order.Dockerfile = o.Dockerfile
	} else {
		var folder *buildContext
		if text, folder, err = openContext(o.Dir, o.Dockerfile); err != nil {
			return nil, err
		}
		if pack = nil; folder != nil {
			pack = folder.pack
		}
	}
	var out startedWire
	if err := t.send(ctx, path, order, text, pack, &out); err != nil {
		return nil, err
	}
	started := &StartedBuild{Template: out.Template.template(), Build: out.Build.build()}
	for _, p := range out.Problems {
		started.Problems = append(started.Problems, p.problem())
	}
	return started, nil
}

// send sends the parts of a build's request, of which pack writes the last.
func (t *Templates) send(ctx context.Context, path string, order orderWire, dockerfile string, pack func(context.Context, io.Writer) error, out any) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	parts := multipart.NewWriter(w)
	done := make(chan error, 1)
	go func() {
		err := writeParts(ctx, parts, order, dockerfile, pack)
		_ = w.CloseWithError(err) // never fails
		done <- err
	}()
	err := t.post(ctx, path, parts.FormDataContentType(), r, out)
	cancel()
	_ = r.Close() // ends writeParts if the server has not read everything
	if packErr := <-done; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) && !errors.Is(packErr, context.Canceled) {
		return packErr // post only saw what became of it
	}
	return err
}

// post sends a body of any length and reads the answer. It takes as long as it
// takes.
func (t *Templates) post(ctx context.Context, path, kind string, body io.Reader, out any) error {
	req, err := t.c.request(ctx, http.MethodPost, path, nil, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := t.c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return answerError(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return soulbox.Errorf(soulbox.Unavailable, "POST %s: the server's answer is not what a SoulBox server says: %w", path, err)
	}
	return nil
}

func writeParts(ctx context.Context, parts *multipart.Writer, order orderWire, dockerfile string, pack func(context.Context, io.Writer) error) error {
	create := func(name, kind string) (io.Writer, error) {
		return parts.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {`form-data; name="` + name + `"`}, "Content-Type": {kind},
		})
	}
	w, err := create("request", "application/json")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(order); err != nil {
		return err
	}
	if dockerfile != "" {
		if w, err = create("dockerfile", "text/plain"); err != nil {
			return err
		}
		if _, err := io.WriteString(w, dockerfile); err != nil {
			return err
		}
	}
	if pack != nil {
		if w, err = create("context", "application/x-tar"); err != nil {
			return err
		}
		if err := pack(ctx, w); err != nil {
			return err
		}
	}
	return parts.Close()
}

// Validate tells what is the matter with a Dockerfile, by line.
func (t *Templates) Validate(ctx context.Context, dockerfile string) ([]soulbox.Problem, error) {
	in := struct {
		Dockerfile string `json:"dockerfile"`
	}{dockerfile}
	var out struct {
		Problems []problemWire `json:"problems"`
	}
	if err := t.c.call(ctx, http.MethodPost, "/v1/templates/validate", nil, in, &out); err != nil {
		return nil, err
	}
	var list []soulbox.Problem
	for _, p := range out.Problems {
		list = append(list, p.problem())
	}
	return list, nil
}

// Builds returns the builds of a template in these states, or in any if there
// are none, the newest first. The first error ends the loop.
func (t *Templates) Builds(ctx context.Context, template string, states ...soulbox.BuildState) iter.Seq2[*soulbox.Build, error] {
	return func(yield func(*soulbox.Build, error) bool) {
		path, err := templatePath(template, "/builds")
		if err != nil {
			yield(nil, err)
			return
		}
		query := url.Values{}
		for _, s := range states {
			query.Add("state", string(s))
		}
		for w, err := range pages[buildWire, buildsWire](ctx, t.c, path, query) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(w.build(), nil) {
				return
			}
		}
	}
}

// GetBuild tells about one build, with its recipe.
func (t *Templates) GetBuild(ctx context.Context, template, build string) (*soulbox.Build, error) {
	return t.oneBuild(ctx, http.MethodGet, template, build, "")
}

// CancelBuild ends a build. One that is over is a Conflict.
func (t *Templates) CancelBuild(ctx context.Context, template, build string) (*soulbox.Build, error) {
	return t.oneBuild(ctx, http.MethodPost, template, build, "/cancel")
}

func (t *Templates) oneBuild(ctx context.Context, method, template, build, rest string) (*soulbox.Build, error) {
	path, err := buildPath(template, build, rest)
	if err != nil {
		return nil, err
	}
	var out buildWire
	if err := t.c.call(ctx, method, path, nil, nil, &out); err != nil {
		return nil, err
	}
	return out.build(), nil
}

// BuildLog returns lines of a build's log, the oldest first and at most a
// thousand. Offset and Limit count the lines that Level lets through.
func (t *Templates) BuildLog(ctx context.Context, template, build string, q soulbox.BuildLogQuery) ([]soulbox.BuildLine, error) {
	path, err := buildPath(template, build, "/log")
	if err != nil {
		return nil, err
	}
	query := url.Values{"offset": {strconv.Itoa(q.Offset)}}
	if q.Limit > 0 {
		query.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Level != "" {
		query.Set("level", q.Level)
	}
	var out struct {
		Lines []lineWire `json:"lines"`
	}
	if err := t.c.call(ctx, http.MethodGet, path, query, nil, &out); err != nil {
		return nil, err
	}
	var lines []soulbox.BuildLine
	for _, l := range out.Lines {
		lines = append(lines, l.line())
	}
	return lines, nil
}

// A BuildEvent is a line that a build told, or last of all the build.
type BuildEvent struct {
	Number uint64 // of the line, from 1
	Line   soulbox.BuildLine
	Build  *soulbox.Build // set in the last event only
}

// Watch returns what a build tells, in order: lines, and last the build, whose
// state says what became of it. None is missing and none comes twice. The first
// error ends the loop; that the build fails is none.
func (t *Templates) Watch(ctx context.Context, template, build string, o EventsOptions) iter.Seq2[BuildEvent, error] {
	return func(yield func(BuildEvent, error) bool) {
		path, err := buildPath(template, build, "/events")
		if err != nil {
			yield(BuildEvent{}, err)
			return
		}
		for w, err := range told[buildEventWire](ctx, t.c, path, o) {
			if err != nil {
				yield(BuildEvent{}, err)
				return
			}
			if !yield(w.event(), nil) {
				return
			}
		}
	}
}

// Wait calls line, unless it is nil, with each line that a build tells, until it
// is over, and returns it. Of one that failed, the error is a
// *[soulbox.BuildFailure].
func (t *Templates) Wait(ctx context.Context, template, build string, line func(soulbox.BuildLine)) (*soulbox.Build, error) {
	for e, err := range t.Watch(ctx, template, build, EventsOptions{Follow: true}) {
		switch {
		case err != nil:
			return nil, err
		case e.Build != nil && e.Build.Failure != nil:
			return e.Build, e.Build.Failure
		case e.Build != nil:
			return e.Build, nil
		case line != nil:
			line(e.Line)
		}
	}
	return nil, soulbox.Errorf(soulbox.Unavailable, "build %s: the server stopped telling before it was over", build)
}

// templatePath is the path of what belongs to a template, by its id, its name, or
// NAMESPACE/NAME.
func templatePath(template, rest string) (string, error) {
	if template == "" || template == "." || template == ".." {
		return "", soulbox.Errorf(soulbox.Invalid, "%q is not the name or the id of a template", template)
	}
	return "/v1/templates/" + url.PathEscape(template) + rest, nil
}

func buildPath(template, build, rest string) (string, error) {
	if !soulbox.BuildID(build).Valid() {
		return "", soulbox.Errorf(soulbox.Invalid, "%.80q is not the id of a build: those are UUIDs", build)
	}
	return templatePath(template, "/builds/"+build+rest)
}

// orderWire says what to build.
type orderWire struct {
	Tags       []string             `json:"tags,omitempty"`
	Bump       soulbox.Bump         `json:"bump,omitempty"`
	Dockerfile string               `json:"dockerfile,omitempty"`
	Target     string               `json:"target,omitempty"`
	Args       map[string]string    `json:"args,omitempty"`
	Start      string               `json:"start,omitempty"`
	Ready      string               `json:"ready,omitempty"`
	NoCache    bool                 `json:"no_cache,omitempty"`
	CPUs       int                  `json:"cpus,omitempty"`
	MemoryMiB  int64                `json:"memory_mib,omitempty"`
	DiskMiB    int64                `json:"disk_mib,omitempty"`
	Isolation  string               `json:"isolation,omitempty"`
	Visibility string               `json:"visibility,omitempty"`
	Secrets    map[string][]byte    `json:"secrets,omitempty"`
	Registries map[string]loginWire `json:"registries,omitempty"`
}

type loginWire struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

func newOrderWire(o BuildOptions) orderWire {
	w := orderWire{
		Tags: o.Tags, Bump: o.Bump, Target: o.Target, Args: o.Args, Start: o.Start, Ready: o.Ready, NoCache: o.NoCache,
		CPUs: o.CPUs, MemoryMiB: int64(o.Memory / soulbox.MiB), DiskMiB: int64(o.Disk / soulbox.MiB), Secrets: o.Secrets,
	}
	if o.Isolation != nil {
		w.Isolation = o.Isolation.String()
	}
	if o.Public != nil {
		w.Visibility = "private"
		if *o.Public {
			w.Visibility = "public"
		}
	}
	for host, l := range o.Logins {
		if w.Registries == nil {
			w.Registries = map[string]loginWire{}
		}
		w.Registries[host] = loginWire{Username: l.User, Password: l.Password}
	}
	return w
}

type startedWire struct {
	Template templateWire  `json:"template"`
	Build    buildWire     `json:"build"`
	Problems []problemWire `json:"problems"`
}

type problemWire struct {
	Line     int    `json:"line"`
	Severity string `json:"severity"`
	Rule     string `json:"rule"`
	Message  string `json:"message"`
	Remedy   string `json:"remedy"`
	URL      string `json:"url"`
}

func (w problemWire) problem() soulbox.Problem {
	return soulbox.Problem{Line: w.Line, Rule: w.Rule, Message: w.Message, Remedy: w.Remedy, URL: w.URL, Fatal: w.Severity == "error"}
}

type buildsWire struct {
	Builds []buildWire `json:"builds"`
	Next   string      `json:"next"`
}

func (w buildsWire) page() (items []buildWire, next string) { return w.Builds, w.Next }

type buildWire struct {
	ID        soulbox.BuildID    `json:"id"`
	Template  soulbox.TemplateID `json:"template"`
	State     soulbox.BuildState `json:"state"`
	Tags      []string           `json:"tags"`
	Bump      soulbox.Bump       `json:"bump"`
	Version   string             `json:"version"`
	Position  int                `json:"position"`
	CreatedAt time.Time          `json:"created_at"`
	QueuedAt  time.Time          `json:"queued_at"`
	StartedAt time.Time          `json:"started_at"`
	EndedAt   time.Time          `json:"ended_at"`
	Failure   *struct {
		Message string `json:"message"`
		Step    string `json:"step"`
	} `json:"failure"`
	Recipe *struct {
		Image    string `json:"image"`
		Template string `json:"template"`
		Steps    []struct {
			Kind soulbox.StepKind `json:"kind"`
			Args []string         `json:"args"`
		} `json:"steps"`
		Dockerfile string            `json:"dockerfile"`
		Target     string            `json:"target"`
		Args       map[string]string `json:"args"`
		Start      string            `json:"start"`
		Ready      string            `json:"ready"`
		NoCache    bool              `json:"no_cache"`
	} `json:"recipe"`
}

func (w buildWire) build() *soulbox.Build {
	b := &soulbox.Build{
		ID: w.ID, Template: w.Template, State: w.State, Tags: w.Tags, Bump: w.Bump, Version: versionOf(w.Version), Position: w.Position,
		CreatedAt: w.CreatedAt, QueuedAt: w.QueuedAt, StartedAt: w.StartedAt, EndedAt: w.EndedAt,
	}
	if f := w.Failure; f != nil {
		b.Failure = &soulbox.BuildFailure{Message: f.Message, Finish: f.Step == "finalize"}
		b.Failure.Step, _ = strconv.Atoi(f.Step) // "base" and "finalize" are no number, and 0
	}
	if r := w.Recipe; r != nil {
		b.Recipe = soulbox.Recipe{
			Image: r.Image, Template: r.Template, Dockerfile: r.Dockerfile, Target: r.Target, Args: maps.Clone(r.Args), Start: r.Start, Ready: r.Ready, Force: r.NoCache,
		}
		for _, s := range r.Steps {
			b.Recipe.Steps = append(b.Recipe.Steps, soulbox.Step{Kind: s.Kind, Args: s.Args})
		}
	}
	return b
}

// versionOf reads MAJOR.MINOR.PATCH; everything else is none.
func versionOf(s string) soulbox.Version {
	v, err := soulbox.ParseVersion(s)
	if err != nil {
		return soulbox.Version{}
	}
	return v
}

type lineWire struct {
	ID      uint64    `json:"id"`
	At      time.Time `json:"at"`
	Level   string    `json:"level"`
	Step    string    `json:"step"`
	Message string    `json:"message"`
}

func (w lineWire) line() soulbox.BuildLine {
	return soulbox.BuildLine{At: w.At, Level: w.Level, Step: w.Step, Message: w.Message}
}

// buildEventWire is one event of the stream about a build.
type buildEventWire struct {
	Line  *lineWire  `json:"line"`
	Build *buildWire `json:"build"`
}

func (w buildEventWire) number() uint64 {
	if w.Line == nil {
		return 0
	}
	return w.Line.ID
}

func (w buildEventWire) last() bool { return w.Build != nil }

func (w buildEventWire) event() BuildEvent {
	var e BuildEvent
	if w.Line != nil {
		e.Number, e.Line = w.Line.ID, w.Line.line()
	}
	if w.Build != nil {
		e.Build = w.Build.build()
	}
	return e
}
