package e2b

import (
	"net/http"
	"slices"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// A build goes through here in four steps: draftBuild names it, uploadLink and
// upload bring the files of its COPY steps, triggerBuild gives it its recipe,
// and buildStatus is asked every 200 ms until it is over.

// draftBuild registers a build under a name and tags.
func (e *room) draftBuild(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body draftRequest
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	team, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return err
	}
	d, err := body.toNoun(team, e.disk)
	if err != nil {
		return err
	}
	t, b, err := e.templates.Draft(r.Context(), who.Team, d.name, d.tags, d.size)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusAccepted, draftOf(t, b, team))
}

// triggerBuild gives a build its recipe. What was written wrongly in that is
// found by the build, which tells at which step, so that the SDK can point at
// the line; only what no SDK sends is refused here.
func (e *room) triggerBuild(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	id, build, err := buildInPath(r)
	if err != nil {
		return err
	}
	var body triggerRequest
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	recipe, err := body.toNoun()
	if err != nil {
		return err
	}
	access, err := body.access()
	if err != nil {
		return err
	}
	logins, err := e.logIn(r, who, id, build, access)
	if why, ok := isFailure(err); ok {
		err = e.templates.Fail(r.Context(), who.Team, id, build, why)
	} else if err == nil {
		err = e.templates.Trigger(r.Context(), who.Team, id, build, recipe, logins)
	}
	if soulbox.KindOf(err) == soulbox.Conflict {
		err = soulbox.Hide(soulbox.Invalid, err, soulbox.MessageOf(err)) // which is how E2B says that it was triggered before
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

const maxBuildLines = 100 // in one answer, and as many if the client does not say

// buildStatus tells how a build is doing and what it told from an offset on.
func (e *room) buildStatus(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	query := soulbox.BuildLogQuery{Offset: int(q.number("logsOffset", 0, 0, 1<<31-1)), Level: q.level()}
	limit := int(q.number("limit", maxBuildLines, 0, maxBuildLines))
	if q.err != nil {
		return q.err
	}
	id, build, err := buildInPath(r)
	if err != nil {
		return err
	}
	// The state comes first: what is over by then has told everything.
	b, err := e.templates.Build(r.Context(), who.Team, id, build)
	if err != nil {
		return err
	}
	query.Limit = max(1, limit) // 0 would be no limit
	lines, err := e.linesOf(r, who, b, query)
	if err != nil {
		return err
	}
	a := buildInfoOf(b, lines[:min(limit, len(lines))])
	if b.Failure != nil {
		if a.Reason.LogEntries, err = e.complaints(r, who, b); err != nil {
			return err
		}
	}
	return api.Answer(w, http.StatusOK, a)
}

// linesOf returns what a build told. A draft has told nothing.
func (e *room) linesOf(r *http.Request, who soulbox.Actor, b *soulbox.Build, query soulbox.BuildLogQuery) ([]soulbox.BuildLine, error) {
	if isDraft(b) {
		return nil, nil
	}
	return e.templates.BuildLog(r.Context(), who.Team, b.Template, b.ID, query)
}

// maxComplaints bounds how many warnings and errors of a build are looked
// through for those of one step.
const maxComplaints = 1000

// complaints returns the last warnings and errors of the step at which a build
// failed.
func (e *room) complaints(r *http.Request, who soulbox.Actor, b *soulbox.Build) ([]buildLine, error) {
	lines, err := e.linesOf(r, who, b, soulbox.BuildLogQuery{Level: "warn", Limit: maxComplaints})
	if err != nil {
		return nil, err
	}
	step := stepOf(b.Failure)
	lines = slices.DeleteFunc(lines, func(l soulbox.BuildLine) bool { return l.Step != step })
	return linesAnswer(lines[max(0, len(lines)-maxBuildLines):]), nil
}

// buildLogs returns what a build told around a moment.
func (e *room) buildLogs(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	level, cursor := q.level(), q.unix("cursor", time.Millisecond)
	backward := q.oneOf("direction", "forward", "backward") == "backward"
	limit := int(q.number("limit", maxBuildLines, 0, maxBuildLines))
	_ = q.oneOf("source", "temporary", "persistent") // ours are in one place
	if q.err != nil {
		return q.err
	}
	id, build, err := buildInPath(r)
	if err != nil {
		return err
	}
	b, err := e.templates.Build(r.Context(), who.Team, id, build)
	if err != nil {
		return err
	}
	lines, err := e.linesOf(r, who, b, soulbox.BuildLogQuery{Level: level})
	if err != nil {
		return err
	}
	if backward {
		slices.Reverse(lines)
	}
	if !cursor.IsZero() {
		lines = slices.DeleteFunc(lines, func(l soulbox.BuildLine) bool {
			return backward && l.At.After(cursor) || !backward && l.At.Before(cursor)
		})
	}
	return api.Answer(w, http.StatusOK, struct {
		Logs []buildLine `json:"logs"`
	}{linesAnswer(lines[:min(limit, len(lines))])})
}

// isDraft reports whether a build has no recipe yet.
func isDraft(b *soulbox.Build) bool { return b.State == soulbox.BuildWaiting && b.QueuedAt.IsZero() }

// level is a parameter that many share.
func (q *query) level() string { return q.oneOf("level", "", "debug", "info", "warn", "error") }

// buildInPath reads the ids of a template and one of its builds.
func buildInPath(r *http.Request) (soulbox.TemplateID, soulbox.BuildID, error) {
	id, err := templateInPath(r)
	if err != nil {
		return "", "", err
	}
	b := soulbox.BuildID(r.PathValue("buildID"))
	if !b.Valid() {
		return "", "", soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a build: those are UUIDs", r.PathValue("buildID"))
	}
	return id, b, nil
}

// templateInPath reads the id of a template. Names do not go here: SDKs have
// the id when they come here, and names can change their meaning under a build.
func templateInPath(r *http.Request) (soulbox.TemplateID, error) {
	s := r.PathValue("templateID")
	ref, err := soulbox.ParseTemplateRef(s)
	if err != nil || ref != (soulbox.TemplateRef{Name: s}) {
		return "", soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a template", s)
	}
	return soulbox.TemplateID(s), nil
}
