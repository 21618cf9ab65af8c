package e2b

import (
	"net/http"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

func (e *room) metrics(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	q := queryOf(r)
	from, to := q.unix("start", time.Second), q.unix("end", time.Second)
	if !to.IsZero() && from.After(to) {
		q.fail("start must not be after end")
	}
	if q.err != nil {
		return q.err
	}
	usage, err := e.fleet.Usage(r.Context(), who.Team, id, from, to)
	if err != nil {
		return err
	}
	out := make([]metric, len(usage))
	for i, u := range usage {
		out[i] = metricOf(u)
	}
	return api.Answer(w, http.StatusOK, out)
}

const maxMetrics = 100 // sandboxes in one request

func (e *room) latestMetrics(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	names := q.list("sandbox_ids")
	switch {
	case len(names) == 0:
		q.fail("sandbox_ids is needed: ids joined by commas")
	case len(names) > maxMetrics:
		q.fail("sandbox_ids must not be more than %d", maxMetrics)
	}
	if q.err != nil {
		return q.err
	}
	ids := make([]soulbox.SandboxID, len(names))
	for i, s := range names {
		id, err := parseSandboxID(s)
		if err != nil {
			return err
		}
		ids[i] = id
	}
	usage, err := e.fleet.LatestUsage(r.Context(), who.Team, ids)
	if err != nil {
		return err
	}
	out := struct {
		Sandboxes map[string]metric `json:"sandboxes"`
	}{make(map[string]metric, len(usage))}
	for id, u := range usage {
		out.Sandboxes[string(id)] = metricOf(u)
	}
	return api.Answer(w, http.StatusOK, out)
}

const (
	maxLogs   = 1000 // entries in one answer, and as many if the client does not say
	maxSearch = 256  // bytes
)

// logsV1 answers oldest first, in both forms of an entry.
func (e *room) logsV1(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	limit := int(min(maxLogs, q.number("limit", maxLogs, 0, 1<<31-1)))
	entries, err := e.logs(r, who, q, limit, soulbox.LogQuery{From: q.unix("start", time.Millisecond)})
	if err != nil {
		return err
	}
	out := struct {
		Logs    []logLine  `json:"logs"`
		Entries []logEntry `json:"logEntries"`
	}{make([]logLine, len(entries)), make([]logEntry, len(entries))}
	for i, l := range entries {
		out.Logs[i], out.Entries[i] = lineOf(l), entryOf(l)
	}
	return api.Answer(w, http.StatusOK, out)
}

// logsV2 answers newest first unless asked otherwise.
func (e *room) logsV2(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	query := soulbox.LogQuery{
		Backward: q.oneOf("direction", "backward", "forward") == "backward",
		Level:    q.oneOf("level", "", "debug", "info", "warn", "error"),
		Search:   q.text("search"),
	}
	if len(query.Search) > maxSearch {
		q.fail("search must not be longer than %d bytes", maxSearch)
	}
	if cursor := q.unix("cursor", time.Millisecond); query.Backward {
		query.Until = cursor
	} else {
		query.From = cursor
	}
	entries, err := e.logs(r, who, q, int(q.number("limit", maxLogs, 0, maxLogs)), query)
	if err != nil {
		return err
	}
	out := struct {
		Logs []logEntry `json:"logs"`
	}{make([]logEntry, len(entries))}
	for i, l := range entries {
		out.Logs[i] = entryOf(l)
	}
	return api.Answer(w, http.StatusOK, out)
}

// logs asks for at most limit entries, of which none may be wanted.
func (e *room) logs(r *http.Request, who soulbox.Actor, q *query, limit int, query soulbox.LogQuery) ([]soulbox.LogEntry, error) {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return nil, err
	}
	if q.err != nil {
		return nil, q.err
	}
	query.Limit = max(1, limit) // 0 would stand for the default
	entries, err := e.fleet.Logs(r.Context(), who.Team, id, query)
	if err != nil {
		return nil, err
	}
	return entries[:min(limit, len(entries))], nil
}
