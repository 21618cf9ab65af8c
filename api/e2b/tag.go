package e2b

import (
	"net/http"
	"slices"
	"strings"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

const maxTags = 32 // in one request; people have two or three

// assignTags lets tags lead to what another name of a build leads to.
func (e *room) assignTags(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Target string    `json:"target"`
		Tags   []*string `json:"tags"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	target, err := e.ownName(r, who, "target", body.Target)
	if err != nil {
		return err
	}
	tags, err := someTags(body.Tags)
	if err != nil {
		return err
	}
	b, err := e.templates.AssignTags(r.Context(), who.Team, target, tags)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, struct {
		BuildID string   `json:"buildID"`
		Tags    []string `json:"tags"`
	}{string(b.ID), tags})
}

// removeTags takes tags away. Those that there are not count as removed.
func (e *room) removeTags(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Name string    `json:"name"`
		Tags []*string `json:"tags"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	ref, err := e.ownName(r, who, "name", body.Name)
	if err != nil {
		return err
	}
	if ref.Tag != "" || ref.Versions != (soulbox.VersionRange{}) {
		return soulbox.Errorf(soulbox.Invalid, "name: %.200q names one build of a template; the tags to remove belong in tags", body.Name)
	}
	tags, err := someTags(body.Tags)
	if err != nil {
		return err
	}
	if slices.Contains(tags, soulbox.DefaultTag) {
		return soulbox.Errorf(soulbox.Invalid, "tags: %q cannot be removed; it can be assigned to another build", soulbox.DefaultTag)
	}
	if err := e.templates.RemoveTags(r.Context(), who.Team, ref, tags); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// templatePart answers for what is below a template, of which there is one.
func (e *room) templatePart(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	if r.PathValue("part") != "tags" {
		return noSuchPath(r)
	}
	tags, err := e.tagsInPath(r, who)
	if err != nil {
		return err
	}
	out := make([]tagAnswer, len(tags)) // never null: clients iterate
	for i, t := range tags {
		out[i] = tagAnswer{Tag: t.Name, BuildID: string(t.Build), CreatedAt: moment(t.At)}
	}
	return api.Answer(w, http.StatusOK, out)
}

// tagsPart answers what E2B's dashboard asks about tags.
func (e *room) tagsPart(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	switch r.PathValue("part") {
	case "count":
		tags, err := e.tagsInPath(r, who)
		if err != nil {
			return err
		}
		return api.Answer(w, http.StatusOK, struct {
			Total int `json:"total"`
		}{len(tags)})
	case "exists":
		q := queryOf(r)
		if q.err != nil {
			return q.err
		}
		tag, err := parseTag(q.text("tag"))
		if err != nil {
			return err
		}
		tags, err := e.tagsInPath(r, who)
		if err != nil {
			return err
		}
		return api.Answer(w, http.StatusOK, struct {
			Exists bool `json:"exists"`
		}{slices.ContainsFunc(tags, func(t soulbox.Tag) bool { return t.Name == tag })})
	case "groups":
		return notYet("the history of a template's tags")
	default:
		return noSuchPath(r)
	}
}

func noSuchPath(r *http.Request) error {
	return soulbox.Errorf(soulbox.NotFound, "there is no %.200q here", r.URL.Path)
}

// tagsInPath returns the tags of the template in the path, by name. Whoever may
// start a template may know by which tags.
func (e *room) tagsInPath(r *http.Request, who soulbox.Actor) ([]soulbox.Tag, error) {
	ref, err := soulbox.ParseTemplateRef(r.PathValue("templateID"))
	if err != nil {
		return nil, err
	}
	t, err := e.find(r.Context(), who.Team, soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name})
	if err != nil {
		return nil, err
	}
	return e.templates.Tags(r.Context(), who.Team, t.ID)
}

// ownName reads the name of something that only its owner may change. A
// namespace must be the team's.
func (e *room) ownName(r *http.Request, who soulbox.Actor, field, name string) (soulbox.TemplateRef, error) {
	team, err := e.teams.Team(r.Context(), who.Team)
	if err != nil {
		return soulbox.TemplateRef{}, err
	}
	return nameIn(team, field, name)
}

// nameIn reads [namespace/]name[:tag], where the namespace is the team's.
func nameIn(team *soulbox.Team, field, name string) (soulbox.TemplateRef, error) {
	if name == "" {
		return soulbox.TemplateRef{}, soulbox.Errorf(soulbox.Invalid, "%s is needed: the name of a template", field)
	}
	ref, err := soulbox.ParseTemplateRef(strings.TrimSpace(name))
	if err != nil {
		return soulbox.TemplateRef{}, soulbox.Errorf(soulbox.Invalid, "%s: %w", field, err)
	}
	if ref.Namespace != "" && ref.Namespace != team.Slug {
		return soulbox.TemplateRef{}, soulbox.Errorf(soulbox.Invalid, "%s: namespace '%s' must match your team '%s'", field, ref.Namespace, team.Slug)
	}
	return ref, nil
}

// someTags reads at least one tag.
func someTags(in []*string) ([]string, error) {
	tags, err := tagList(in)
	if err == nil && len(tags) == 0 {
		err = soulbox.Errorf(soulbox.Invalid, "tags: at least one is needed")
	}
	return tags, err
}

// tagList reads tags and leaves out those that are there twice.
func tagList(in []*string) ([]string, error) {
	if len(in) > maxTags {
		return nil, soulbox.Errorf(soulbox.Invalid, "tags: there must not be more than %d", maxTags)
	}
	var tags []string
	for _, s := range in {
		if s == nil {
			return nil, soulbox.Errorf(soulbox.Invalid, "tags must be strings, not null")
		}
		tag, err := parseTag(*s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	return tags, nil
}

func parseTag(s string) (string, error) { return soulbox.ParseTag(strings.TrimSpace(s)) }
