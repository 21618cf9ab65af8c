package e2b

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// createSnapshot keeps a moment of a running sandbox for sandboxes to come.
func (e *room) createSnapshot(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	var body struct {
		Name string `json:"name"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	team, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return err
	}
	name, err := newSnapshotName(body.Name, team)
	if err != nil {
		return err
	}
	snap, err := e.fleet.Snapshot(r.Context(), who.Team, id, name)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, snapshotOf(snap, team))
}

// newSnapshotName reads [team/]name[:default], the name of a new snapshot. It
// may be empty.
func newSnapshotName(s string, team *soulbox.Team) (string, error) {
	if s == "" {
		return "", nil
	}
	ref, err := soulbox.ParseTemplateRef(s)
	switch {
	case err != nil:
		return "", soulbox.Errorf(soulbox.Invalid, "name: %w", err)
	case ref.Namespace != "" && ref.Namespace != team.Slug:
		return "", soulbox.Errorf(soulbox.Invalid, "name: the namespace %q is not your team's, which is %q", ref.Namespace, team.Slug)
	case !defaultTag(ref):
		return "", notYet("name: a snapshot with the tag " + ref.Tag)
	case soulbox.SnapshotID(ref.Name).Valid():
		return "", soulbox.Errorf(soulbox.Invalid, "name: %q looks like the id of a snapshot; choose another", ref.Name)
	}
	return ref.Name, nil
}

func defaultTag(ref soulbox.TemplateRef) bool { return ref.Tag == "" || ref.Tag == "default" }

// listSnapshots lists the snapshots that sandboxes can be made of, newest
// first.
func (e *room) listSnapshots(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	filter := soulbox.SnapshotFilter{
		Team:   who.Team,
		Kind:   soulbox.ForCreate,
		Limit:  int(q.number("limit", maxPage, 1, maxPage)),
		Cursor: q.text("nextToken"),
	}
	if q.err != nil {
		return q.err
	}
	if s := q.text("sandboxID"); s != "" {
		var err error
		if filter.Sandbox, err = parseSandboxID(s); err != nil {
			return err
		}
	}
	page, err := e.selectSnapshots(r.Context(), filter, q.text("name"))
	if err != nil {
		return err
	}
	team, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return err
	}
	if page.Next != "" {
		w.Header().Set(nextToken, page.Next)
	}
	out := make([]snapshotAnswer, len(page.Snapshots)) // never null: clients iterate
	for i, s := range page.Snapshots {
		out[i] = snapshotOf(s, team)
	}
	return api.Answer(w, http.StatusOK, out)
}

// selectSnapshots returns the page that filter selects, or the one snapshot
// with a name or id if it is among them.
func (e *room) selectSnapshots(ctx context.Context, filter soulbox.SnapshotFilter, name string) (soulbox.SnapshotPage, error) {
	if name == "" {
		return e.fleet.Snapshots(ctx, filter)
	}
	ref, err := soulbox.ParseTemplateRef(name)
	if err != nil {
		return soulbox.SnapshotPage{}, soulbox.Errorf(soulbox.Invalid, "name: %w", err)
	}
	snap, err := e.findSnapshot(ctx, filter.Team, ref)
	switch {
	case soulbox.KindOf(err) == soulbox.NotFound:
		return soulbox.SnapshotPage{}, nil
	case err != nil:
		return soulbox.SnapshotPage{}, err
	case filter.Sandbox != "" && filter.Sandbox != snap.Sandbox:
		return soulbox.SnapshotPage{}, nil
	}
	return soulbox.SnapshotPage{Snapshots: []*soulbox.Snapshot{snap}}, nil
}

// findSnapshot returns the snapshot that a team means by ref, which may hold
// an id or a name.
func (e *room) findSnapshot(ctx context.Context, id soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Snapshot, error) {
	missing := soulbox.Errorf(soulbox.NotFound, "snapshot '%s' not found", ref)
	if !defaultTag(ref) {
		return nil, missing
	}
	if ref.Namespace != "" {
		team, err := e.teams.Team(ctx, id)
		if err != nil {
			return nil, err
		}
		if ref.Namespace != team.Slug {
			return nil, missing
		}
	}
	return e.fleet.FindSnapshot(ctx, id, ref.Name)
}

// pause writes a sandbox down and stops it.
func (e *room) pause(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	var body struct {
		Memory *bool `json:"memory"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	if err := e.fleet.Pause(r.Context(), who.Team, id, body.Memory == nil || *body.Memory); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// resume is how clients of old resume: unlike connect it minds when the
// sandbox runs.
func (e *room) resume(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	var body struct {
		connectRequest

		AutoPause *bool `json:"autoPause"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	d, err := body.toNoun(defaultTimeoutV1)
	if err != nil {
		return err
	}
	s, err := e.fleet.Live(r.Context(), who.Team, id)
	if err != nil {
		return err
	}
	switch {
	case s.State == soulbox.Running:
		return alreadyRunning(id)
	case body.AutoPause != nil && *body.AutoPause && !s.Lifecycle.Pause:
		// The other way round is what these clients send when nobody said
		// anything, and loses nothing: the sandbox pauses as it did before.
		return notYet("autoPause: changing what becomes of a sandbox when its time is up")
	}
	s, resumed, err := e.fleet.Connect(r.Context(), who.Team, id, d, body.cold())
	if err != nil {
		return err
	}
	if !resumed { // somebody else was quicker
		return alreadyRunning(id)
	}
	return api.Answer(w, http.StatusCreated, e.answerOf(s))
}

func alreadyRunning(id soulbox.SandboxID) error {
	return soulbox.Errorf(soulbox.Conflict, "sandbox %s is running already", id)
}

const maxForks = 100

// fork makes copies of a running sandbox, each of which may fail by itself.
func (e *room) fork(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, err := parseSandboxID(r.PathValue("sandboxID"))
	if err != nil {
		return err
	}
	var body struct {
		Timeout *int32 `json:"timeout"`
		Count   *int32 `json:"count"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	d, err := lifetime(body.Timeout, defaultTimeoutV1)
	if err != nil {
		return err
	}
	n := 1
	if body.Count != nil {
		n = int(*body.Count)
	}
	if n < 1 || n > maxForks {
		return soulbox.Errorf(soulbox.Invalid, "count must be from 1 to %d, not %d", maxForks, n)
	}
	forks, err := e.fleet.Fork(r.Context(), who.Team, id, n, d)
	if err != nil {
		return err
	}
	out := make([]forkAnswer, len(forks))
	var broken error
	for i, f := range forks {
		if f.Err != nil {
			out[i].Error = &api.Failure{Code: api.Status(f.Err), Message: soulbox.MessageOf(f.Err)}
			if soulbox.KindOf(f.Err) == soulbox.Internal {
				broken = errors.Join(broken, fmt.Errorf("fork %d of sandbox %s: %w", i+1, id, f.Err))
			}
			continue
		}
		a := e.answerOf(f.Sandbox)
		out[i].Sandbox = &a
	}
	return errors.Join(api.Answer(w, http.StatusCreated, out), broken) // for the log; the client has its answer
}
