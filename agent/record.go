package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/soulbox/soulbox/agent/record"
	"github.com/soulbox/soulbox/agent/state"
	"github.com/soulbox/soulbox/internal/event"
)

const (
	// recordDir is where the record of the sandbox is kept.
	recordDir = "/var/lib/soulbox/record"
	// maxRecord bounds a request to record, in bytes.
	maxRecord = 1 << 20
	// alive is how often a reader hears that nothing happens. It also lets the
	// agent notice readers that are gone, as all are after a restore.
	alive = 30 * time.Second
)

// watchTree is how the record watches a folder. Its own is left out: what it
// writes must not make it write.
func (a *Agent) watchTree(dir string) (record.Watch, error) {
	w, err := a.files.WatchTree(dir, a.options.Root+recordDir)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// startRecord serves POST /soulbox/record: it switches the record on, with the
// folders to watch.
func (a *Agent) startRecord(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Paths []string `json:"paths"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRecord)).Decode(&req); err != nil {
		writeError(w, http.StatusBadRequest, "invalid request body: "+err.Error())
		return
	}
	switch err := a.record.Start(req.Paths); {
	case errors.Is(err, record.ErrPaths):
		writeError(w, http.StatusBadRequest, err.Error())
	case err != nil:
		writeError(w, http.StatusInternalServerError, err.Error())
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// position serves GET /soulbox/record/position.
func (a *Agent) position(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, a.record.Position())
}

// done serves POST /soulbox/record/hold and /soulbox/record/release: before the
// sandbox is saved, and when it was.
func done(do func()) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		do()
		w.WriteHeader(http.StatusNoContent)
	}
}

// events serves GET /soulbox/record?after=SEQ: the frames of the events after
// that one, and of the coming ones until the client leaves.
func (a *Agent) events(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		writeError(w, http.StatusBadRequest, "after must be the number of an event, or 0")
		return
	}
	reader, err := a.record.After(after)
	if err != nil {
		writeError(w, http.StatusConflict, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w).Flush
	for flush() == nil {
		ctx, cancel := context.WithTimeout(r.Context(), alive)
		frames, err := reader.Next(ctx)
		cancel()
		switch {
		case r.Context().Err() != nil:
			return
		case errors.Is(err, context.DeadlineExceeded):
			frames = event.Append(nil, &event.Event{Kind: event.Alive})
		case err != nil:
			return
		}
		if _, err := w.Write(frames); err != nil {
			return
		}
	}
}

// state serves GET /soulbox/state.
func (a *Agent) state(w http.ResponseWriter, r *http.Request) {
	s, err := state.Look(r.Context(), "/proc", os.Getpid())
	if err != nil {
		writeError(w, http.StatusInternalServerError, "look at the processes: "+err.Error())
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, s)
}
