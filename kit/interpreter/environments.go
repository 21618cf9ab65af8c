package interpreter

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/environment"
)

// Lines of the stream of a change of packages.
type (
	stepLine struct {
		Type    string `json:"type"`
		Step    string `json:"step"`
		Package string `json:"package,omitempty"`
		Done    int    `json:"done"`
		Total   int    `json:"total"`
		Text    string `json:"text,omitempty"`
	}
	changedLine struct {
		Type      string          `json:"type"`
		Installed []changedObject `json:"installed,omitzero"`
		Removed   []changedObject `json:"removed,omitzero"`
		Seconds   float64         `json:"seconds"`
	}
	changedObject struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Was     string `json:"was,omitempty"`
	}
	failedLine struct {
		Type       string `json:"type"`
		Message    string `json:"message"`
		RolledBack bool   `json:"rolled_back"`
	}
)

// listEnvironments serves GET /environments.
func (s *science) listEnvironments(w http.ResponseWriter, r *http.Request) error {
	all, err := s.environments.List(r.Context())
	if err != nil {
		return err
	}
	type object struct {
		Name     string `json:"name"`
		Python   string `json:"python"`
		Path     string `json:"path"`
		Packages int    `json:"packages"`
	}
	objects := make([]object, len(all))
	for i, e := range all {
		objects[i] = object(e)
	}
	writeJSON(w, http.StatusOK, map[string]any{"environments": objects})
	return nil
}

// removeEnvironment serves DELETE /environments/{environment}.
func (s *science) removeEnvironment(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("environment")
	s.in.mu.Lock()
	used := ""
	for _, c := range s.in.contexts {
		if c.language == name {
			used = c.id
		}
	}
	s.in.mu.Unlock()
	if used != "" && environment.CheckName(name) == nil {
		return refused(http.StatusConflict, "context %s runs in environment %s; remove it first", used, name)
	}
	if err := s.environments.Remove(r.Context(), name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// listPackages serves GET /environments/{environment}/packages.
func (s *science) listPackages(w http.ResponseWriter, r *http.Request) error {
	all, err := s.environments.Packages(r.Context(), r.PathValue("environment"))
	if err != nil {
		return err
	}
	type object struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	objects := make([]object, len(all))
	for i, p := range all {
		objects[i] = object(p)
	}
	writeJSON(w, http.StatusOK, map[string]any{"packages": objects})
	return nil
}

// freeze serves GET /environments/{environment}/freeze.
func (s *science) freeze(w http.ResponseWriter, r *http.Request) error {
	all, err := s.environments.Freeze(r.Context(), r.PathValue("environment"))
	if err == nil {
		text(w, http.StatusOK, all)
	}
	return err
}

// install serves POST /environments/{environment}/packages.
func (s *science) install(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Packages     []string `json:"packages"`
		Requirements string   `json:"requirements"`
		IndexURL     string   `json:"index_url"`
		Upgrade      bool     `json:"upgrade"`
		Timeout      *float64 `json:"timeout_seconds"`
	}
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	limit, err := seconds(req.Timeout, installTime)
	if err != nil {
		return err
	}
	batch := environment.Batch{Packages: req.Packages, Requirements: req.Requirements, Index: req.IndexURL, Upgrade: req.Upgrade}
	return s.change(w, r, limit, func(ctx context.Context, tell func(environment.Step)) (*changedLine, error) {
		all, err := s.environments.Install(ctx, r.PathValue("environment"), batch, tell)
		return &changedLine{Type: "done", Installed: changed(all)}, err
	})
}

// uninstall serves DELETE /environments/{environment}/packages.
func (s *science) uninstall(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Packages []string `json:"packages"`
		Timeout  *float64 `json:"timeout_seconds"`
	}
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	limit, err := seconds(req.Timeout, installTime)
	if err != nil {
		return err
	}
	return s.change(w, r, limit, func(ctx context.Context, tell func(environment.Step)) (*changedLine, error) {
		all, err := s.environments.Uninstall(ctx, r.PathValue("environment"), req.Packages, tell)
		for i := range all { // what is gone has the version that it had
			all[i].Version, all[i].Was = all[i].Was, ""
		}
		return &changedLine{Type: "done", Removed: changed(all)}, err
	})
}

func changed(all []environment.Change) []changedObject {
	objects := make([]changedObject, len(all))
	for i, c := range all {
		objects[i] = changedObject(c)
	}
	return objects
}

// change makes a change and streams what becomes of it. What is refused before it
// has begun is an answer with a status. When the client goes away, the change is
// undone.
func (s *science) change(w http.ResponseWriter, r *http.Request, limit time.Duration,
	do func(context.Context, func(environment.Step)) (*changedLine, error),
) error {
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	defer context.AfterFunc(s.in.life, cancel)()
	type outcome struct {
		line *changedLine
		err  error
	}
	steps, end := make(chan environment.Step), make(chan outcome, 1)
	began := time.Now()
	go func() { // ends with do; the loop below waits for it
		line, err := do(ctx, func(st environment.Step) { steps <- st })
		end <- outcome{line, err}
	}()
	var out *stream
	defer func() {
		if out != nil {
			out.quiet.Stop()
		}
	}()
	late := time.NewTimer(keepalive) // when an answer must have begun
	defer late.Stop()
	gone := false
	say := func(line any) {
		if out == nil {
			out = newStream(w)
		}
		if !gone && (out.add(line) != nil || out.flush() != nil) {
			gone = true
			cancel()
		}
	}
	for {
		var quiet <-chan time.Time
		if out != nil && !gone {
			quiet = out.quiet.C
		}
		select {
		case st := <-steps:
			say(&stepLine{"progress", st.Name, st.Package, st.Done, st.Total, st.Text})
		case <-quiet:
			say(&plainLine{Type: "keepalive"})
		case <-late.C:
			if out == nil {
				say(&plainLine{Type: "keepalive"})
			}
		case o := <-end:
			if o.err == nil {
				o.line.Seconds = time.Since(began).Seconds()
				say(o.line)
				return nil
			}
			var f *environment.FailureError
			var no *environment.RefusalError
			switch {
			case errors.As(o.err, &f):
			case out == nil:
				return o.err
			case errors.As(o.err, &no):
				f = &environment.FailureError{Text: no.Text, RolledBack: true}
			default:
				s.in.options.Log.WarnContext(r.Context(), "packages not changed", "err", o.err)
				f = &environment.FailureError{Text: "internal error", RolledBack: true}
			}
			say(&failedLine{"error", f.Text, f.RolledBack})
			return nil
		}
	}
}
