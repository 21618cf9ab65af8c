package native

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// validate tells what is the matter with a Dockerfile before it is built.
func (n *templateRoom) validate(w http.ResponseWriter, r *http.Request, _ soulbox.Actor) error {
	var body struct {
		Dockerfile string `json:"dockerfile"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	if err := checkDockerfile(body.Dockerfile); err != nil {
		return err
	}
	found, err := n.registry.Validate(r.Context(), body.Dockerfile)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, problemList{Problems: problemsOf(found)})
}

// build starts a build of a Dockerfile. All of the request is read, and looked
// at, before anything is made.
func (n *templateRoom) build(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	ref, err := soulbox.ParseTemplateRef(r.PathValue("template"))
	if err != nil {
		return err
	}
	if ref.Namespace != "" || ref.Versions.String() != "" {
		return soulbox.Errorf(soulbox.Invalid, "a template is built under a name of your own team: NAME or NAME:TAG, without a namespace and a version")
	}
	order, err := n.readOrder(r, who)
	if err != nil {
		return err
	}
	order.Team, order.Name = who.Team, ref.Name
	if ref.Tag != "" && !slices.Contains(order.Tags, ref.Tag) {
		order.Tags = append(order.Tags, ref.Tag)
	}
	if err := checkTags(order.Tags); err != nil {
		return err
	}
	problems, err := n.registry.Validate(r.Context(), order.Recipe.Dockerfile)
	if err != nil {
		return err
	}
	for _, p := range problems {
		if p.Fatal {
			return problemError(p)
		}
	}
	t, b, err := n.registry.Request(r.Context(), *order)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusAccepted, startedBuild{Template: templateOf(t), Build: buildOf(b), Problems: problemsOf(problems)})
}

// problemError says what keeps a Dockerfile from being built.
func problemError(p soulbox.Problem) error {
	where, remedy := "Dockerfile", ""
	if p.Line > 0 {
		where += " line " + strconv.Itoa(p.Line)
	}
	if p.Remedy != "" {
		remedy = "; " + p.Remedy
	}
	return soulbox.Errorf(soulbox.Invalid, "%s: %s%s", where, p.Message, remedy)
}

// maxTags is how many names one build may get at once.
const maxTags = 32

func checkTags(tags []string) error {
	if len(tags) > maxTags {
		return soulbox.Errorf(soulbox.Invalid, "a build can have at most %d tags", maxTags)
	}
	for i, s := range tags {
		tag, err := soulbox.ParseTag(s)
		if err != nil {
			return err
		}
		tags[i] = tag
	}
	return nil
}

// builds lists the builds of a template, newest first.
func (n *templateRoom) builds(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	f, err := buildFilter(r)
	if err != nil {
		return err
	}
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	f.Template = t.ID
	page, err := n.registry.Builds(r.Context(), who.Team, f)
	if err != nil {
		return err
	}
	out := buildList{Builds: make([]buildAnswer, len(page.Builds)), Next: page.Next}
	for i, b := range page.Builds {
		out.Builds[i] = buildOf(b)
	}
	return api.Answer(w, http.StatusOK, out)
}

// buildFilter reads which page of which builds is asked for.
func buildFilter(r *http.Request) (soulbox.BuildFilter, error) {
	query := r.URL.Query()
	f := soulbox.BuildFilter{Cursor: query.Get("cursor")}
	for _, s := range query["state"] {
		state := soulbox.BuildState(s)
		switch state {
		case soulbox.BuildWaiting, soulbox.BuildRunning, soulbox.BuildReady, soulbox.BuildFailed:
			f.States = append(f.States, state)
		default:
			return f, soulbox.Errorf(soulbox.Invalid, "state must be waiting, building, ready or error, not %.50q", s)
		}
	}
	var err error
	f.Limit, err = limit(query.Get("limit"))
	return f, err
}

// getBuild tells about one build, to its owner with its recipe.
func (n *templateRoom) getBuild(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, id, err := n.findBuild(r, who)
	if err != nil {
		return err
	}
	b, err := n.registry.Build(r.Context(), who.Team, t, id)
	if err != nil {
		return err
	}
	out := buildOf(b)
	if b.Team == who.Team {
		out.Recipe = recipeOf(b.Recipe)
	}
	return api.Answer(w, http.StatusOK, out)
}

// cancel ends a build that is not over.
func (n *templateRoom) cancel(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, id, err := n.findBuild(r, who)
	if err != nil {
		return err
	}
	if err := n.registry.Cancel(r.Context(), who.Team, t, id); err != nil {
		return err
	}
	b, err := n.registry.Build(r.Context(), who.Team, t, id)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, buildOf(b))
}

// buildLog tells lines of a build's log, a page at a time.
func (n *templateRoom) buildLog(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	query := r.URL.Query()
	q := soulbox.BuildLogQuery{Level: query.Get("level")}
	switch q.Level {
	case "", "debug", "info", "warn", "error":
	default:
		return soulbox.Errorf(soulbox.Invalid, "level must be debug, info, warn or error, not %.50q", q.Level)
	}
	var err error
	if q.Limit, err = limit(query.Get("limit")); err != nil {
		return err
	}
	if s := query.Get("offset"); s != "" {
		if q.Offset, err = strconv.Atoi(s); err != nil || q.Offset < 0 {
			return soulbox.Errorf(soulbox.Invalid, "offset must be a whole number, how many lines to leave out, not %.50q", s)
		}
	}
	t, id, err := n.findBuild(r, who)
	if err != nil {
		return err
	}
	lines, err := n.registry.BuildLog(r.Context(), who.Team, t, id, q)
	if err != nil {
		return err
	}
	out := logPage{Lines: make([]logLine, len(lines)), Next: q.Offset + len(lines)}
	for i, l := range lines {
		out.Lines[i] = lineOf(l)
	}
	return api.Answer(w, http.StatusOK, out)
}

// findBuild reads which build is in the path.
func (n *templateRoom) findBuild(r *http.Request, who soulbox.Actor) (soulbox.TemplateID, soulbox.BuildID, error) {
	id := soulbox.BuildID(r.PathValue("build"))
	if !id.Valid() {
		return "", "", soulbox.Errorf(soulbox.Invalid, "%.100q is not the id of a build: those are UUIDs", string(id))
	}
	t, err := n.find(r, who)
	if err != nil {
		return "", "", err
	}
	return t.ID, id, nil
}
