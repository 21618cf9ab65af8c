package e2b

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

const (
	nextToken    = "X-Next-Token"    // absent on the last page
	totalRunning = "X-Total-Running" // only where running ones were asked for
	maxPage      = 100
)

// shownRunning returns the states that clients, who know only two, see as
// running. One that is still starting has no one who knows its id.
func shownRunning() []soulbox.State {
	return []soulbox.State{soulbox.Running, soulbox.Pausing, soulbox.Resuming}
}

// listV1 is the old list: all that run, newest first, on one page.
func (e *room) listV1(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	filter := soulbox.SandboxFilter{
		Team:     who.Team,
		States:   shownRunning(),
		Metadata: q.metadata("metadata"),
	}
	if q.err != nil {
		return q.err
	}
	page, err := e.fleet.List(r.Context(), filter)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, listedAll(page.Sandboxes))
}

// listV2 is the list with filters and pages.
func (e *room) listV2(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	filter := soulbox.SandboxFilter{
		Team:         who.Team,
		Metadata:     q.metadata("metadata"),
		StartedAfter: q.moment("startedAfter"),
		Ascending:    q.oneOf("order", "desc", "asc") == "asc",
		Limit:        int(q.number("limit", maxPage, 1, maxPage)),
		Cursor:       q.text("nextToken"),
	}
	states := q.list("state")
	for _, s := range states {
		if s != "running" && s != "paused" {
			q.fail("state must be running or paused, not %.50q", s)
		}
	}
	if q.err != nil {
		return q.err
	}
	running := len(states) == 0 || slices.Contains(states, "running")
	if running {
		filter.States = shownRunning()
	}
	if len(states) == 0 || slices.Contains(states, "paused") {
		filter.States = append(filter.States, soulbox.Paused)
	}
	if name := q.text("template"); name != "" {
		id, err := e.templateFilter(r, who, name)
		if err != nil {
			return err
		}
		if id == "" {
			if running {
				w.Header().Set(totalRunning, "0")
			}
			return api.Answer(w, http.StatusOK, listedAll(nil))
		}
		filter.Template = id
	}
	page, err := e.fleet.List(r.Context(), filter)
	if err != nil {
		return err
	}
	if running {
		total, err := e.countRunning(r.Context(), filter, page)
		if err != nil {
			return err
		}
		w.Header().Set(totalRunning, strconv.Itoa(total))
	}
	if page.Next != "" {
		w.Header().Set(nextToken, page.Next)
	}
	return api.Answer(w, http.StatusOK, listedAll(page.Sandboxes))
}

// countRunning returns how many of those that filter selects run, on all
// pages, of which page is one.
func (e *room) countRunning(ctx context.Context, filter soulbox.SandboxFilter, page soulbox.SandboxPage) (int, error) {
	if !slices.Contains(filter.States, soulbox.Paused) {
		return page.Total, nil
	}
	if filter.Cursor == "" && page.Next == "" { // they are all here
		n := 0
		for _, s := range page.Sandboxes {
			if s.State != soulbox.Paused {
				n++
			}
		}
		return n, nil
	}
	filter.States, filter.Limit, filter.Cursor = shownRunning(), 1, ""
	page, err := e.fleet.List(ctx, filter)
	return page.Total, err
}

// templateFilter returns the id of the template that name stands for, or
// nothing if there is none to be seen: then no sandbox can be of it.
func (e *room) templateFilter(r *http.Request, who soulbox.Actor, name string) (string, error) {
	ref, err := soulbox.ParseTemplateRef(name)
	if err != nil {
		return "", err
	}
	if ref.Tag != "" {
		return "", soulbox.Errorf(soulbox.Invalid, "template: sandboxes cannot be found by the tag %q of their template", ref.Tag)
	}
	t, err := e.find(r.Context(), who.Team, ref)
	if soulbox.KindOf(err) == soulbox.NotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return string(t.ID), nil
}
