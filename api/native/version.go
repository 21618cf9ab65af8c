package native

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// versions lists the versions of a template, the newest first, with the tags
// that lead to each.
func (n *templateRoom) versions(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	all, err := n.registry.Versions(r.Context(), who.Team, t.ID)
	if err != nil {
		return err
	}
	tags, err := n.registry.Tags(r.Context(), who.Team, t.ID)
	if err != nil {
		return err
	}
	out := versionList{Versions: make([]templateVersion, len(all))}
	for i, b := range all {
		out.Versions[i] = templateVersionOf(b, tags)
	}
	return api.Answer(w, http.StatusOK, out)
}

// diff tells what two versions do not have in common.
func (n *templateRoom) diff(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, before, err := n.findAt(r, who, r.PathValue("a"))
	if err != nil {
		return err
	}
	after, err := within(t, r.PathValue("b"))
	if err != nil {
		return err
	}
	d, err := n.registry.Diff(r.Context(), who.Team, before, after)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, buildDiffOf(d))
}

// deprecate says why nobody should start a version any more. It can be started
// all the same.
func (n *templateRoom) deprecate(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	reason, err := sentence("reason", body.Reason, maxReason)
	if err != nil {
		return err
	}
	if reason == "" {
		return soulbox.Errorf(soulbox.Invalid, "reason is needed: what people should know, such as what to use instead")
	}
	return n.setDeprecation(w, r, who, reason)
}

func (n *templateRoom) undeprecate(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return n.setDeprecation(w, r, who, "")
}

func (n *templateRoom) setDeprecation(w http.ResponseWriter, r *http.Request, who soulbox.Actor, reason string) error {
	t, at, err := n.findAt(r, who, r.PathValue("version"))
	if err != nil {
		return err
	}
	b, err := n.registry.Deprecate(r.Context(), who.Team, at, reason)
	if err != nil {
		return err
	}
	return n.answerVersion(w, r, who, t, b)
}

// answerVersion answers with a version of a template.
func (n *templateRoom) answerVersion(w http.ResponseWriter, r *http.Request, who soulbox.Actor, t *soulbox.Template, b *soulbox.Build) error {
	tags, err := n.registry.Tags(r.Context(), who.Team, t.ID)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, templateVersionOf(b, tags))
}

// promote lets a tag, the default one unless another is named, lead to a
// version.
func (n *templateRoom) promote(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		To  string `json:"to"`
		Tag string `json:"tag"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	if body.To == "" {
		return soulbox.Errorf(soulbox.Invalid, "to is needed: a version, a tag or the id of a build")
	}
	t, to, err := n.findAt(r, who, body.To)
	if err != nil {
		return err
	}
	tag, err := soulbox.ParseTag(cmp.Or(body.Tag, soulbox.DefaultTag))
	if err != nil {
		return err
	}
	b, err := n.registry.Promote(r.Context(), who.Team, to, tag)
	if err != nil {
		return err
	}
	return n.answerVersion(w, r, who, t, b)
}

// rollback lets the default tag lead to an earlier version: the one before, or
// the one that is named.
func (n *templateRoom) rollback(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		To string `json:"to"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	t, to, err := n.findAt(r, who, body.To)
	if err != nil {
		return err
	}
	b, err := n.registry.Rollback(r.Context(), who.Team, to)
	if err != nil {
		return err
	}
	return n.answerVersion(w, r, who, t, b)
}

func (n *templateRoom) tags(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	tags, err := n.registry.Tags(r.Context(), who.Team, t.ID)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, tagList{Tags: tagsOf(tags)})
}

// removeTag takes a tag away. One that there is not is told, so that whoever
// has mistyped it notices.
func (n *templateRoom) removeTag(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	tag, err := soulbox.ParseTag(r.PathValue("tag"))
	if err != nil {
		return err
	}
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	tags, err := n.registry.Tags(r.Context(), who.Team, t.ID)
	if err != nil {
		return err
	}
	if err := n.registry.RemoveTags(r.Context(), who.Team, whole(t), []string{tag}); err != nil {
		return err
	}
	if !slices.ContainsFunc(tags, func(have soulbox.Tag) bool { return have.Name == tag }) {
		return soulbox.TemplateRef{Name: t.Name, Tag: tag}.NoBuild()
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// facts tells what was found out about a version.
func (n *templateRoom) facts(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	_, at, err := n.findAt(r, who, r.URL.Query().Get("at"))
	if err != nil {
		return err
	}
	t, err := n.registry.Template(r.Context(), who.Team, at)
	if err != nil {
		return err
	}
	if t.Build == "" {
		return soulbox.TemplateRef{Name: t.Name}.NoBuild()
	}
	b, err := n.registry.Build(r.Context(), who.Team, t.ID, t.Build)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, factsOf(t, b))
}

// sbom tells what software is in a version, as an SPDX document.
func (n *templateRoom) sbom(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	_, at, err := n.findAt(r, who, r.URL.Query().Get("at"))
	if err != nil {
		return err
	}
	doc, err := n.registry.SBOM(r.Context(), who.Team, at)
	if err != nil {
		return err
	}
	api.Send(w, http.StatusOK, "application/spdx+json", doc)
	return nil
}

const (
	maxReason      = 2000 // bytes
	maxDescription = 300  // bytes; a line
)

// sentence reads text that people will read: one line or, in what may have more
// than maxDescription bytes, several.
func sentence(name, s string, most int) (string, error) {
	s = strings.TrimSpace(s)
	bad := func(r rune) bool {
		return !unicode.IsPrint(r) && (most <= maxDescription || r != '\n' && r != '\t')
	}
	if len(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, bad) {
		return "", soulbox.Errorf(soulbox.Invalid, "%s must be text of at most %d bytes, all of them printable", name, most)
	}
	return s, nil
}
