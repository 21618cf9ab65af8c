package e2b

import (
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
	return api.Answer(w, http.StatusOK, templatesOf(all, team))
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
	return api.Answer(w, http.StatusOK, templatesOf(all, team))
}

// listDefaultTemplates lists the house's own.
func (e *room) listDefaultTemplates(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	all, team, err := e.visible(r, who)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(t *soulbox.Template) bool { return t.Team != "" })
	return api.Answer(w, http.StatusOK, templatesOf(all, team))
}

func templatesOf(all []*soulbox.Template, team *soulbox.Team) []templateAnswer {
	out := make([]templateAnswer, len(all))
	for i, t := range all {
		out[i] = templateOf(t, team)
	}
	return out
}

func (e *room) template(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, snap, err := e.lookUp(r, who, r.PathValue("templateID"))
	if err != nil {
		return err
	}
	if snap != nil {
		t = templateOfSnapshot(snap)
	}
	team, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, templateDetailOf(t, team))
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
		return soulbox.Errorf(soulbox.Forbidden, "template %q is not your team's", t.Name)
	default:
		err = e.templates.Remove(r.Context(), who.Team, t.ID)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// alias tells whether a name is taken: 200 or 403 if it is, 404 if not.
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
	t, err := e.templates.Template(r.Context(), who.Team, ref)
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

// templateOfSnapshot shows a snapshot to those who ask for a template.
func templateOfSnapshot(s *soulbox.Snapshot) *soulbox.Template {
	t := s.AsTemplate()
	t.ID = soulbox.TemplateID(s.ID)
	if s.Name != "" {
		t.Name = s.Name
	}
	return t
}
