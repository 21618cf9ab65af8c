package e2b

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// visible returns the templates that the team's members see in lists, by name,
// and the team.
func (e *room) visible(r *http.Request, who soulbox.Actor) ([]*soulbox.Template, *soulbox.Team, error) {
	if id := queryOf(r).text("teamID"); id != "" && id != string(who.Team) {
		return nil, nil, soulbox.Errorf(soulbox.Invalid, "teamID: the key belongs to another team")
	}
	team, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return nil, nil, err
	}
	all, err := e.templates.Templates(r.Context(), who.Team)
	if err != nil {
		return nil, nil, err
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *soulbox.Template) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return all, team, nil
}

func (e *room) listTemplatesV1(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	all, team, err := e.visible(r, who)
	if err != nil {
		return err
	}
	return e.answerTemplates(w, r, all, team)
}

// listTemplatesV2 is the list in pages. The token of the next one is the last
// id of this one.
func (e *room) listTemplatesV2(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	limit := int(q.number("limit", maxPage, 1, maxPage))
	after := q.text("nextToken")
	if q.err != nil {
		return q.err
	}
	all, team, err := e.visible(r, who)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(t *soulbox.Template) bool { return string(t.ID) <= after })
	if len(all) > limit {
		all = all[:limit]
		w.Header().Set(nextToken, string(all[limit-1].ID))
	}
	return e.answerTemplates(w, r, all, team)
}

// listDefaultTemplates lists the house's own.
func (e *room) listDefaultTemplates(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	all, team, err := e.visible(r, who)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(t *soulbox.Template) bool { return t.Team != "" })
	return e.answerTemplates(w, r, all, team)
}

// answerTemplates answers with a list.
func (e *room) answerTemplates(w http.ResponseWriter, r *http.Request, all []*soulbox.Template, team *soulbox.Team) error {
	out := make([]templateAnswer, len(all)) // never null: clients iterate
	for i, t := range all {
		name, err := e.nameOf(r.Context(), t, team)
		if err != nil {
			return err
		}
		page, err := e.templates.Builds(r.Context(), team.ID, buildsOf(t, team, 1, ""))
		if err != nil {
			return err
		}
		out[i] = templateOf(t, name, page)
	}
	return api.Answer(w, http.StatusOK, out)
}

// template shows a template with a page of its builds.
func (e *room) template(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	q := queryOf(r)
	limit := int(q.number("limit", maxPage, 1, maxPage))
	if q.err != nil {
		return q.err
	}
	t, snap, err := e.lookUp(r, who, r.PathValue("templateID"))
	if err != nil {
		return err
	}
	team, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return err
	}
	if snap != nil {
		return api.Answer(w, http.StatusOK, snapshotDetail(snap, team))
	}
	name, err := e.nameOf(r.Context(), t, team)
	if err != nil {
		return err
	}
	page, err := e.templates.Builds(r.Context(), who.Team, buildsOf(t, team, limit, q.text("nextToken")))
	if err != nil {
		return err
	}
	newest := page
	if q.text("nextToken") != "" {
		if newest, err = e.templates.Builds(r.Context(), who.Team, buildsOf(t, team, 1, "")); err != nil {
			return err
		}
	}
	if page.Next != "" {
		w.Header().Set(nextToken, page.Next)
	}
	a := templateDetail{templateOf(t, name, newest), make([]buildAnswer, len(page.Builds))}
	for i, b := range page.Builds {
		a.Builds[i] = buildAnswerOf(b)
	}
	return api.Answer(w, http.StatusOK, a)
}

// buildsOf selects a page of the builds that team may see of t: of others'
// templates those that are ready.
func buildsOf(t *soulbox.Template, team *soulbox.Team, limit int, cursor string) soulbox.BuildFilter {
	f := soulbox.BuildFilter{Template: t.ID, Limit: limit, Cursor: cursor}
	if t.Team != team.ID {
		f.States = []soulbox.BuildState{soulbox.BuildReady}
	}
	return f
}

// nameOf is how everybody may call t, as far as team may know it.
func (e *room) nameOf(ctx context.Context, t *soulbox.Template, team *soulbox.Team) (string, error) {
	switch t.Team {
	case "":
		return t.Name, nil
	case team.ID:
		return qualified(t.Name, team), nil
	}
	owner, err := e.teams.Team(ctx, t.Team)
	if err != nil {
		return "", err
	}
	return qualified(t.Name, owner), nil
}

// changeTemplateV1 publishes a template, or takes that back.
func (e *room) changeTemplateV1(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	if _, err := e.change(r, who); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// changeTemplateV2 is the same, and tells under which names it is to be found.
func (e *room) changeTemplateV2(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, err := e.change(r, who)
	if err != nil {
		return err
	}
	team, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, struct {
		Names []string `json:"names"`
	}{[]string{qualified(t.Name, team)}})
}

func (e *room) change(r *http.Request, who soulbox.Actor) (*soulbox.Template, error) {
	var body struct {
		Public *bool `json:"public"`
	}
	if err := api.Decode(r, &body); err != nil {
		return nil, err
	}
	ref, err := soulbox.ParseTemplateRef(r.PathValue("templateID"))
	if err != nil {
		return nil, err
	}
	t, err := e.find(r.Context(), who.Team, soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name})
	if err != nil {
		return nil, err
	}
	if t.Team != who.Team {
		return nil, notYours(t)
	}
	if body.Public == nil {
		return t, nil
	}
	return e.templates.Publish(r.Context(), who.Team, t.ID, *body.Public)
}

// removeTemplate removes one of the team's own. SDKs delete snapshots by it,
// too, and take 404 for an answer.
func (e *room) removeTemplate(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, snap, err := e.lookUp(r, who, r.PathValue("templateID"))
	switch {
	case err != nil:
		return err
	case snap != nil:
		err = e.fleet.RemoveSnapshot(r.Context(), who.Team, snap.ID)
	case t.Team != who.Team:
		return notYours(t)
	default:
		err = e.templates.Remove(r.Context(), who.Team, t.ID)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// notYours is the error for whoever wants to change what others have.
func notYours(t *soulbox.Template) error {
	return soulbox.Errorf(soulbox.Forbidden, "template %q is not your team's", t.Name)
}

// alias tells whether a name stands for something that the team may start: its
// own, the house's, or what others have published. E2B answers 403 for what
// exists and is somebody else's; we do not, because that would tell strangers
// what there is. A name is unique within a team, so that whoever asks loses
// nothing: a foreign one is never in the way.
func (e *room) alias(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, snap, err := e.lookUp(r, who, r.PathValue("alias"))
	if err != nil {
		return err
	}
	if snap != nil {
		t = templateOfSnapshot(snap)
	}
	return api.Answer(w, http.StatusOK, struct {
		TemplateID string `json:"templateID"`
		Public     bool   `json:"public"`
	}{string(t.ID), t.Public})
}

// lookUp returns the template or the snapshot that name stands for: sandboxes
// are made of both, and clients ask for both here. As when one is made, the
// team's own template comes first, then its snapshot, then what others have.
func (e *room) lookUp(r *http.Request, who soulbox.Actor, name string) (*soulbox.Template, *soulbox.Snapshot, error) {
	ref, err := soulbox.ParseTemplateRef(name)
	if err != nil {
		return nil, nil, err
	}
	t, err := e.find(r.Context(), who.Team, ref)
	if err == nil && (t.Team == who.Team || t.Name != ref.Name) || err != nil && soulbox.KindOf(err) != soulbox.NotFound {
		return t, nil, err
	}
	snap, serr := e.findSnapshot(r.Context(), who.Team, ref)
	switch {
	case serr == nil:
		return nil, snap, nil
	case soulbox.KindOf(serr) == soulbox.NotFound:
		return t, nil, err
	default:
		return nil, nil, serr
	}
}

// find returns the template that a team means by ref. One that it must not know
// of does not exist, whatever is said about it.
func (e *room) find(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	t, err := e.templates.Template(ctx, team, ref)
	if soulbox.KindOf(err) == soulbox.Forbidden {
		return nil, soulbox.Hide(soulbox.NotFound, err, fmt.Sprintf("template '%s' not found", soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}))
	}
	return t, err
}

// templateOfSnapshot shows a snapshot to those who ask for a template.
func templateOfSnapshot(s *soulbox.Snapshot) *soulbox.Template {
	t := s.AsTemplate()
	t.ID = soulbox.TemplateID(s.ID)
	if s.Name != "" {
		t.Name = s.Name
	}
	return t
}
