package interpreter

import (
	"net/http"

	"github.com/soulbox/soulbox/kit/interpreter/notebook"
)

// interrupt serves POST /notebooks/{notebook}/interrupt: what runs ends, and
// what waits does not begin.
func (n *notebooks) interrupt(w http.ResponseWriter, r *http.Request) error {
	f, err := n.store.Read(r.PathValue("notebook"))
	if err != nil {
		return err
	}
	if err := decode(w, r, &struct{}{}); err != nil {
		return err
	}
	if !n.find(f.Path).stop(errInterrupted) {
		if c := n.in.bound(f.Path); c != nil && c.busy() {
			c.interrupt() // of JupyterLab, or what has not heard the first one
		}
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// restart serves POST /notebooks/{notebook}/restart: its runs end, and it has a
// new kernel, of the language that it is in by now. A notebook that never ran
// gets one when it does.
func (n *notebooks) restart(w http.ResponseWriter, r *http.Request) error {
	f, err := n.store.Read(r.PathValue("notebook"))
	if err != nil {
		return err
	}
	if err := decode(w, r, &struct{}{}); err != nil {
		return err
	}
	language, spec, err := n.language(f.Document.Kernel())
	if err != nil {
		return err
	}
	s := n.session(f.Path)
	if err := s.block(); err != nil {
		return err
	}
	defer s.unblock()
	s.stop(errRestarted)
	// It goes on when the client does not wait for it.
	switch c := n.in.bound(f.Path); {
	case c == nil:
	case c.spec.Name == spec.Name:
		err = c.restart(n.in.life)
	default:
		if c := n.in.part(f.Path); c != nil {
			c.remove()
		}
		_, err = n.in.open(n.in.life, f.Path, language)
	}
	if err != nil {
		return &notebook.Error{Status: http.StatusInternalServerError, Message: "The notebook's kernel did not start: " + err.Error()}
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// block keeps runs from beginning.
func (s *session) block() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restarting {
		return conflict("The notebook's kernel is restarting already")
	}
	s.restarting = true
	return nil
}

func (s *session) unblock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarting = false
}

// runs serves GET /notebooks/{notebook}/runs.
func (n *notebooks) runs(w http.ResponseWriter, r *http.Request) error {
	path, err := notebook.Clean(r.PathValue("notebook"))
	if err != nil {
		return err
	}
	live := n.find(path).lives()
	all, err := n.store.Runs(path)
	if err != nil {
		return err
	}
	for i := range all {
		if all[i].Status == cellRunning && all[i].ID != live {
			all[i].Status = cellDied // this program did, before it was over
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"runs": all})
	return nil
}

func (s *session) lives() string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}
