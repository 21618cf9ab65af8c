package agent

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// logs serves GET /soulbox/logs?after=SEQ: the journal's entries after that
// one, a line of JSON each, and the coming ones until the client leaves.
func (a *Agent) logs(w http.ResponseWriter, r *http.Request) {
	var after uint64
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			writeError(w, http.StatusBadRequest, "after must be a sequence number")
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w).Flush
	enc := json.NewEncoder(w)
	for flush() == nil {
		entries, err := a.journal.Next(r.Context(), after)
		if err != nil {
			return
		}
		for i := range entries {
			if enc.Encode(&entries[i]) != nil {
				return
			}
			after = entries[i].Seq
		}
	}
}
