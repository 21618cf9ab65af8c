package clienttest

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// A build reads its Dockerfile as if every line were one instruction, and says
// what it would do. These do something:
//
//	RUN echo WORDS  says them
//	RUN fail        fails
//	RUN hold        goes on for ever, until it is cancelled
type build struct {
	ID        soulbox.BuildID    `json:"id"`
	Template  string             `json:"template"`
	State     soulbox.BuildState `json:"state"`
	Tags      []string           `json:"tags"`
	Bump      soulbox.Bump       `json:"bump,omitempty"`
	Version   string             `json:"version,omitempty"`
	CreatedAt time.Time          `json:"created_at"`
	QueuedAt  time.Time          `json:"queued_at"`
	StartedAt time.Time          `json:"started_at"`
	EndedAt   *time.Time         `json:"ended_at,omitempty"`
	Failure   *buildFailure      `json:"failure,omitempty"`
	Recipe    buildRecipe        `json:"recipe"`

	version    soulbox.Version
	deprecated string
	lines      []buildLine
	changed    chan struct{} // closed and replaced with every line and change
	cancel     context.CancelFunc
}

type buildFailure struct {
	Message string `json:"message"`
	Step    string `json:"step"`
}

type buildRecipe struct {
	Dockerfile string            `json:"dockerfile"`
	Target     string            `json:"target,omitempty"`
	Args       map[string]string `json:"args,omitempty"`
	Start      string            `json:"start,omitempty"`
	Ready      string            `json:"ready,omitempty"`
	NoCache    bool              `json:"no_cache,omitempty"`
}

type buildLine struct {
	ID      int       `json:"id,omitempty"`
	At      time.Time `json:"at"`
	Level   string    `json:"level"`
	Step    string    `json:"step,omitempty"`
	Message string    `json:"message"`
}

// A shelf is what a template has beside what its list shows.
type shelf struct {
	builds  []*build // in the order in which they were made
	tags    map[string]soulbox.BuildID
	readme  string
	listing map[string]any
	built   map[string]bool // the steps that were built before
}

func (s *Server) buildRoutes(mux *http.ServeMux) {
	const one = "/v1/templates/{id}"
	mux.HandleFunc("POST /v1/templates/validate", s.validate)
	mux.HandleFunc("POST "+one+"/builds", s.startBuild)
	mux.HandleFunc("GET "+one+"/builds", s.withShelf(s.listBuilds))
	mux.HandleFunc("GET "+one+"/builds/{build}", s.withBuild(s.getBuild))
	mux.HandleFunc("GET "+one+"/builds/{build}/log", s.withBuild(s.buildLog))
	mux.HandleFunc("GET "+one+"/builds/{build}/events", s.buildEvents)
	mux.HandleFunc("POST "+one+"/builds/{build}/cancel", s.withBuild(s.cancelBuild))
}

// order is what a request for a build says.
type order struct {
	buildRecipe
	Tags       []string                     `json:"tags"`
	Bump       soulbox.Bump                 `json:"bump"`
	Dockerfile string                       `json:"dockerfile"`
	CPUs       int                          `json:"cpus"`
	MemoryMiB  int                          `json:"memory_mib"`
	DiskMiB    int                          `json:"disk_mib"`
	Isolation  string                       `json:"isolation"`
	Visibility string                       `json:"visibility"`
	Secrets    map[string][]byte            `json:"secrets"`
	Registries map[string]map[string]string `json:"registries"`
}

// readOrder reads the parts of a request; told are the names in the context, each
// with its mode.
func readOrder(r *http.Request) (o order, dockerfile string, told []string, err error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return o, "", nil, err
	}
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return o, dockerfile, told, nil
		}
		if err != nil {
			return o, "", nil, err
		}
		switch part.FormName() {
		case "request":
			err = json.NewDecoder(part).Decode(&o)
		case "dockerfile":
			var b []byte
			b, err = io.ReadAll(part)
			dockerfile = string(b)
		case "context":
			var text string
			told, text, err = readContext(part, o.Dockerfile)
			if dockerfile == "" {
				dockerfile = text
			}
		}
		if err != nil {
			return o, "", nil, err
		}
	}
}

func readContext(r io.Reader, dockerfile string) (told []string, text string, err error) {
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return told, text, nil
		}
		if err != nil {
			return nil, "", err
		}
		told = append(told, fmt.Sprintf("%s %c %d:%d %o", h.Name, h.Typeflag, h.Uid, h.Gid, h.Mode))
		if h.Name == dockerfile {
			b, err := io.ReadAll(files)
			if err != nil {
				return nil, "", err
			}
			text = string(b)
		}
	}
}

// problems finds lines that begin with no instruction, and RUN without a space.
func problems(dockerfile string) []map[string]any {
	known := strings.Fields("FROM RUN COPY ADD ENV ARG WORKDIR USER EXPOSE CMD ENTRYPOINT LABEL VOLUME")
	found := []map[string]any{}
	for i, line := range strings.Split(dockerfile, "\n") {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case word == "" || word[0] == '#' || slices.Contains(known, word):
		case slices.Contains(known, strings.ToUpper(word)):
			found = append(found, map[string]any{
				"line": i + 1, "severity": "warning", "rule": "ConsistentInstructionCasing", "message": "the instruction " + word + " is not in capitals", "remedy": "write " + strings.ToUpper(word),
			})
		default:
			found = append(found, map[string]any{"line": i + 1, "severity": "error", "message": "unknown instruction: " + word})
		}
	}
	return found
}

func (s *Server) validate(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Dockerfile string `json:"dockerfile"`
	}
	if decode(w, r, &in) {
		answer(w, http.StatusOK, map[string]any{"problems": problems(in.Dockerfile)})
	}
}

func (s *Server) startBuild(w http.ResponseWriter, r *http.Request) {
	ref, err := soulbox.ParseTemplateRef(r.PathValue("id"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	o, dockerfile, told, err := readOrder(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "the body is not what it should be: "+err.Error())
		return
	}
	found := problems(dockerfile)
	for _, p := range found {
		if p["severity"] == "error" {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("Dockerfile line %d: %s", p["line"], p["message"]))
			return
		}
	}
	if ref.Tag != "" {
		o.Tags = append(o.Tags, ref.Tag)
	}
	if len(o.Tags) == 0 {
		o.Tags = []string{soulbox.DefaultTag}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, sh := s.shelfOf(ref.Name)
	if o.CPUs > 0 {
		t.CPUs = o.CPUs
	}
	if o.MemoryMiB > 0 {
		t.MemoryMiB = o.MemoryMiB
	}
	if o.DiskMiB > 0 {
		t.DiskMiB = o.DiskMiB
	}
	if o.Isolation != "" {
		t.Isolation = o.Isolation
	}
	if o.Visibility != "" {
		t.Public = o.Visibility == "public"
	}
	s.templates[t.Name] = t
	ctx, cancel := context.WithCancel(context.Background())
	now := time.Now()
	b := &build{
		ID: soulbox.NewBuildID(), Template: t.ID, State: soulbox.BuildRunning, Tags: o.Tags, Bump: o.Bump, CreatedAt: now, QueuedAt: now, StartedAt: now,
		Recipe: o.buildRecipe, changed: make(chan struct{}), cancel: cancel,
	}
	b.Recipe.Dockerfile = dockerfile
	sh.builds = append(sh.builds, b)
	waiting := *b
	waiting.State = soulbox.BuildWaiting
	for id := range o.Secrets {
		b.tell("debug", "", "a secret "+id+" of "+strconv.Itoa(len(o.Secrets[id]))+" bytes")
	}
	for host, login := range o.Registries {
		b.tell("debug", "", "a login "+login["username"]+" at "+host)
	}
	for _, name := range told {
		b.tell("debug", "", "context "+name)
	}
	s.programs.Go(func() { s.run(ctx, t.Name, b) })
	answer(w, http.StatusAccepted, map[string]any{"template": t, "build": waiting, "problems": found})
}

// shelfOf returns a template with its shelf, and makes both if they are not there.
//
// +checklocks:s.mu
func (s *Server) shelfOf(name string) (template, *shelf) {
	t, ok := s.templates[name]
	if !ok {
		now := time.Now()
		t = template{ID: "t" + name, Name: name, CPUs: 2, MemoryMiB: 512, DiskMiB: 1024, Isolation: soulbox.GVisor.String(), CreatedAt: now, UpdatedAt: now}
		s.templates[name] = t
	}
	sh := s.shelves[t.ID]
	if sh == nil {
		sh = &shelf{tags: map[string]soulbox.BuildID{}, listing: map[string]any{"categories": []string{}, "keywords": []string{}}, built: map[string]bool{}}
		s.shelves[t.ID] = sh
	}
	return t, sh
}

// tell adds a line to a build's log.
func (b *build) tell(level, step, message string) {
	b.lines = append(b.lines, buildLine{ID: len(b.lines) + 1, At: time.Now(), Level: level, Step: step, Message: message})
	b.wake()
}

func (b *build) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// run builds: it says what it would do.
func (s *Server) run(ctx context.Context, name string, b *build) {
	var steps []string
	for line := range strings.Lines(b.Recipe.Dockerfile) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			steps = append(steps, line)
		}
	}
	for i, step := range steps {
		number, head := strconv.Itoa(i), fmt.Sprintf("[builder %d/%d]", i, len(steps)-1)
		if i == 0 {
			number, head = "base", "[base]"
		}
		if !s.runStep(ctx, name, b, number, head, step) {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, sh := s.shelfOf(name)
	b.tell("info", "finalize", "[finalize] packing")
	var newest soulbox.Version
	for _, other := range sh.builds {
		if other.version.Compare(newest) > 0 {
			newest = other.version
		}
	}
	b.version = newest.Next(b.Bump)
	b.State, b.Version = soulbox.BuildReady, b.version.String()
	b.EndedAt = new(time.Now())
	for _, tag := range b.Tags {
		sh.tags[tag] = b.ID
	}
	if sh.tags[soulbox.DefaultTag] == b.ID {
		t.Build, t.Version, t.Source, t.UpdatedAt = string(b.ID), b.Version, strings.TrimPrefix(steps[0], "FROM "), time.Now()
		s.templates[name] = t
	}
	b.wake()
}

// runStep says what one step would do, and reports whether the next one may.
func (s *Server) runStep(ctx context.Context, name string, b *build, number, head, step string) bool {
	if step == "RUN hold" {
		s.mu.Lock()
		b.tell("info", number, head+" "+step)
		s.mu.Unlock()
		<-ctx.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, sh := s.shelfOf(name)
	words, says := strings.CutPrefix(step, "RUN echo ")
	switch {
	case ctx.Err() != nil:
		b.fail(number, "the build was cancelled")
		return false
	case step == "RUN fail":
		b.tell("info", number, head+" "+step)
		b.tell("error", number, head+" [stderr]: it fails")
		b.fail(number, "the command ended with exit code 1")
		return false
	case sh.built[step] && !b.Recipe.NoCache:
		b.tell("info", number, "CACHED "+head+" "+step)
	default:
		b.tell("info", number, head+" "+step)
		if says {
			b.tell("info", number, head+" [stdout]: "+words)
		}
	}
	sh.built[step] = true
	return true
}

func (b *build) fail(step, message string) {
	b.State, b.Failure = soulbox.BuildFailed, &buildFailure{Message: message, Step: step}
	b.EndedAt = new(time.Now())
	b.wake()
}

// withShelf finds the template in the path.
func (s *Server) withShelf(do func(http.ResponseWriter, *http.Request, template, *shelf)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t, sh := s.findShelf(w, r); sh != nil {
			do(w, r, t, sh)
		}
	}
}

// findShelf returns no shelf if it has refused the request.
//
// +checklocks:s.mu
func (s *Server) findShelf(w http.ResponseWriter, r *http.Request) (template, *shelf) {
	id := r.PathValue("id")
	for _, t := range s.templates {
		if t.Name == id || t.ID == id {
			return s.shelfOf(t.Name)
		}
	}
	refuse(w, http.StatusNotFound, "template '"+id+"' not found")
	return template{}, nil
}

// withBuild finds the build in the path.
func (s *Server) withBuild(do func(http.ResponseWriter, *http.Request, *build)) http.HandlerFunc {
	return s.withShelf(func(w http.ResponseWriter, r *http.Request, _ template, sh *shelf) {
		if b := sh.find(w, r.PathValue("build")); b != nil {
			do(w, r, b)
		}
	})
}

func (sh *shelf) find(w http.ResponseWriter, id string) *build {
	i := slices.IndexFunc(sh.builds, func(b *build) bool { return string(b.ID) == id })
	if i < 0 {
		refuse(w, http.StatusNotFound, "there is no build "+id)
		return nil
	}
	return sh.builds[i]
}

func (s *Server) listBuilds(w http.ResponseWriter, r *http.Request, _ template, sh *shelf) {
	all := []*build{}
	for _, b := range slices.Backward(sh.builds) {
		if states := r.URL.Query()["state"]; len(states) == 0 || slices.Contains(states, string(b.State)) {
			all = append(all, b)
		}
	}
	all, next := page(r, all)
	answer(w, http.StatusOK, map[string]any{"builds": all, "next": next})
}

func (s *Server) getBuild(w http.ResponseWriter, _ *http.Request, b *build) {
	answer(w, http.StatusOK, b)
}

func (s *Server) buildLog(w http.ResponseWriter, r *http.Request, b *build) {
	levels := []string{"debug", "info", "warn", "error"}
	least := slices.Index(levels, r.URL.Query().Get("level"))
	lines := []buildLine{}
	for _, l := range b.lines {
		if slices.Index(levels, l.Level) >= least {
			l.ID = 0
			lines = append(lines, l)
		}
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("offset"))
	most, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		most = 100
	}
	lines = lines[min(from, len(lines)):]
	lines = lines[:min(most, len(lines))]
	answer(w, http.StatusOK, map[string]any{"lines": lines, "next": from + len(lines)})
}

func (s *Server) cancelBuild(w http.ResponseWriter, _ *http.Request, b *build) {
	if b.State.Over() {
		refuse(w, http.StatusConflict, fmt.Sprintf("build %s is over: %s", b.ID, b.State))
		return
	}
	b.cancel()
	b.fail("base", "the build was cancelled")
	answer(w, http.StatusOK, b)
}

// buildEvents streams the lines of a build. It cuts the connection after a few of
// them, in the middle of one.
func (s *Server) buildEvents(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.Atoi(r.URL.Query().Get("last_event_id"))
	follow := r.URL.Query().Get("follow") != "false"
	var b *build
	s.withBuild(func(_ http.ResponseWriter, _ *http.Request, found *build) { b = found })(w, r)
	if b == nil {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	for n := 0; ; {
		s.mu.Lock()
		changed, over := b.changed, b.State.Over()
		var data []byte
		if after < len(b.lines) {
			data, _ = json.Marshal(map[string]any{"line": b.lines[after]}) // it was made of JSON
		} else if over || !follow {
			data, _ = json.Marshal(map[string]any{"build": b}) // as above
			after = -1
		}
		s.mu.Unlock()
		if data == nil {
			_ = http.NewResponseController(w).Flush() // the client has gone if this fails
			select {
			case <-changed:
				continue
			case <-r.Context().Done():
				return
			}
		}
		if n++; follow && n > streamed {
			fmt.Fprintf(w, "data: %s", data[:len(data)/2])
			_ = http.NewResponseController(w).Flush() // as above
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "data: %s\n\n", data)
		if after++; after == 0 {
			return
		}
	}
}
