package clienttest

import (
	"net/http"
	"time"

	"github.com/soulbox/soulbox"
)

// pause ends the programs of a sandbox; its files stay where they are. It
// reports false if the sandbox is paused already.
func (b *box) pause() bool {
	b.mu.Lock()
	was := b.paused
	b.paused = true
	b.mu.Unlock()
	if !was {
		b.agent.killAll()
	}
	return !was
}

// resume lets a sandbox live for at least d from now, and reports whether it
// was paused.
func (b *box) resume(d time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.paused
	b.paused = false
	if until := time.Now().Add(d); was || until.After(b.expires) {
		b.expires = until
	}
	return was
}

func (b *box) isPaused() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.paused
}

// reach reports whether traffic gets to a sandbox, and resumes it if its
// lifecycle says so.
func (b *box) reach() bool {
	if b == nil || b.ended() != nil {
		return false
	}
	if !b.isPaused() {
		return true
	}
	if !b.lifecycle.Wake {
		return false
	}
	b.resume(b.timeout)
	return true
}

// Expire is what happens to a sandbox when its time is up: it is paused if that
// was asked for when it was made, and ends otherwise.
func (s *Server) Expire(id string) {
	s.mu.Lock()
	b := s.boxes[id]
	s.mu.Unlock()
	switch {
	case b == nil:
	case b.lifecycle.Pause:
		b.pause()
	default:
		b.end(soulbox.ByTimeout, "its time was up")
	}
}

// running is find for what needs a sandbox that is not paused.
//
// +checklocks:s.mu
func (s *Server) running(w http.ResponseWriter, r *http.Request) *box {
	b := s.boxes[r.PathValue("id")]
	switch {
	case b == nil || b.ended() != nil:
		sandboxMissing(w, r.PathValue("id"))
		return nil
	case b.isPaused():
		refuse(w, http.StatusConflict, "sandbox "+b.id+" is paused")
		return nil
	}
	return b
}

func (s *Server) pause(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Memory *bool `json:"memory"`
	}
	b := s.find(w, r)
	if b == nil || !decode(w, r, &in) {
		return
	}
	if !b.pause() {
		refuse(w, http.StatusConflict, "sandbox "+b.id+" is paused already")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Timeout *int  `json:"timeout"`
		Memory  *bool `json:"memory"`
	}
	b := s.find(w, r)
	if b == nil || !decode(w, r, &in) {
		return
	}
	status := http.StatusOK
	if b.resume(lifetime(in.Timeout)) {
		status = http.StatusCreated
	}
	answer(w, status, handleOf(b))
}

func (s *Server) fork(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Count   *int `json:"count"`
		Timeout *int `json:"timeout"`
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.running(w, r)
	if b == nil || !decode(w, r, &in) {
		return
	}
	n := 1
	if in.Count != nil {
		n = *in.Count
	}
	if n < 1 || n > 100 {
		refuse(w, http.StatusBadRequest, "count must be between 1 and 100")
		return
	}
	forks := []map[string]any{}
	for range n {
		home, err := s.folder(b.agent.home)
		if err != nil {
			forks = append(forks, map[string]any{"error": map[string]any{"code": http.StatusInternalServerError, "message": err.Error()}})
			continue
		}
		other := s.add(&box{
			template: b.template, env: b.env, metadata: b.metadata, internet: b.internet, isolation: b.isolation,
			lifecycle: b.lifecycle, timeout: lifetime(in.Timeout),
		}, home)
		forks = append(forks, map[string]any{"sandbox": handleOf(other)})
	}
	answer(w, http.StatusCreated, forks)
}

func (s *Server) refresh(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Duration int `json:"duration"`
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.running(w, r)
	if b == nil || !decode(w, r, &in) {
		return
	}
	b.resume(time.Duration(in.Duration) * time.Second)
	w.WriteHeader(http.StatusNoContent)
}

// lifetime is what a request's timeout means; nil is five minutes.
func lifetime(seconds *int) time.Duration {
	if seconds == nil {
		return 5 * time.Minute
	}
	return time.Duration(*seconds) * time.Second
}
