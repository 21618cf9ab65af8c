package native

import (
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// list lists all templates that the team can start, or searches among them when
// the query says for what.
func (n *templateRoom) list(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	if r.URL.RawQuery != "" {
		return n.search(w, r, who)
	}
	all, err := n.registry.Templates(r.Context(), who.Team)
	if err != nil {
		return err
	}
	out := templateList{Templates: make([]templateAnswer, len(all))}
	for i, t := range all {
		out.Templates[i] = templateOf(t)
	}
	return api.Answer(w, http.StatusOK, out)
}

func (n *templateRoom) search(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	f, err := listingFilter(r)
	if err != nil {
		return err
	}
	f.Team = who.Team
	page, err := n.registry.Search(r.Context(), f)
	if err != nil {
		return err
	}
	out := templateList{Templates: make([]templateAnswer, len(page.Listings)), Next: page.Next, Total: &page.Total}
	for i, l := range page.Listings {
		out.Templates[i] = listedTemplate(l)
	}
	return api.Answer(w, http.StatusOK, out)
}

const (
	maxQuery   = 200 // bytes
	maxPackage = 200 // bytes
	maxWords   = 20  // categories or keywords of one template
)

// listingFilter reads what is searched for. A parameter that it does not know
// would search for something else than is meant, so it is a mistake.
func listingFilter(r *http.Request) (soulbox.ListingFilter, error) {
	query := r.URL.Query()
	for name, values := range query {
		switch name {
		case "q", "category", "package", "mine", "sort", "limit", "cursor":
		default:
			return soulbox.ListingFilter{}, soulbox.Errorf(soulbox.Invalid, "a search has no %.50q", name)
		}
		if len(values) > 1 {
			return soulbox.ListingFilter{}, soulbox.Errorf(soulbox.Invalid, "%q is in the query twice", name)
		}
	}
	f := soulbox.ListingFilter{Sort: soulbox.ListingSort(query.Get("sort")), Cursor: query.Get("cursor")}
	var err error
	if f.Query, err = sentence("q", query.Get("q"), maxQuery); err != nil {
		return f, err
	}
	if f.Package, err = sentence("package", query.Get("package"), maxPackage); err != nil {
		return f, err
	}
	if s := query.Get("category"); s != "" {
		if f.Category, err = word("category", s); err != nil {
			return f, err
		}
	}
	switch f.Sort {
	case "":
		if f.Sort = soulbox.ByRelevance; f.Query == "" {
			f.Sort = soulbox.ByStarts
		}
	case soulbox.ByRelevance, soulbox.ByStars, soulbox.ByStarts, soulbox.ByUpdate, soulbox.ByName:
	default:
		return f, soulbox.Errorf(soulbox.Invalid, "sort must be relevance, stars, starts, updated or name, not %.50q", string(f.Sort))
	}
	if f.Mine, err = boolean(r, "mine", false); err != nil {
		return f, err
	}
	f.Limit, err = limit(query.Get("limit"))
	return f, err
}

// categories tells which there are, by name.
func (n *templateRoom) categories(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	counts, err := n.registry.Categories(r.Context(), who.Team)
	if err != nil {
		return err
	}
	out := categoryList{Categories: []categoryAnswer{}}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		out.Categories = append(out.Categories, categoryAnswer{name, counts[name]})
	}
	return api.Answer(w, http.StatusOK, out)
}

// whole is the reference to a template that names no build of it.
func whole(t *soulbox.Template) soulbox.TemplateRef { return soulbox.TemplateRef{Name: string(t.ID)} }

// get tells about one template: its default version, what it tells those who
// look for one, and its tags.
func (n *templateRoom) get(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	l, err := n.registry.Listing(r.Context(), who.Team, whole(t))
	if err != nil {
		return err
	}
	tags, err := n.registry.Tags(r.Context(), who.Team, t.ID)
	if err != nil {
		return err
	}
	out := listedTemplate(l)
	out.Tags = tagsOf(tags)
	return api.Answer(w, http.StatusOK, out)
}

// change changes what a template tells those who look for one, or what its
// sandboxes are like.
func (n *templateRoom) change(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Isolation   *string   `json:"isolation"`
		Description *string   `json:"description"`
		Licence     *string   `json:"licence"`
		Categories  *[]string `json:"categories"`
		Keywords    *[]string `json:"keywords"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	c := soulbox.ListingChange{Description: body.Description, Licence: body.Licence, Categories: body.Categories, Keywords: body.Keywords}
	listing := c != (soulbox.ListingChange{})
	if !listing && body.Isolation == nil {
		return soulbox.Errorf(soulbox.Invalid, "there is nothing to change: give isolation, description, licence, categories or keywords")
	}
	if err := checkListing(c); err != nil {
		return err
	}
	class, err := isolationOf(body.Isolation)
	if err != nil {
		return err
	}
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	if class != nil { // first, because the operator may forbid it
		if _, err := n.registry.SetIsolation(r.Context(), who.Team, t.ID, *class); err != nil {
			return err
		}
	}
	if listing {
		if _, err := n.registry.SetListing(r.Context(), who.Team, t.ID, c); err != nil {
			return err
		}
	}
	return n.answerListing(w, r, who, t)
}

// isolationOf reads one that may be left out.
func isolationOf(s *string) (*soulbox.Isolation, error) {
	if s == nil {
		return nil, nil
	}
	class, err := soulbox.ParseIsolation(*s)
	return &class, err
}

// checkListing says what is wrong with c, and tidies what is not.
func checkListing(c soulbox.ListingChange) error {
	var err error
	if c.Description != nil {
		if *c.Description, err = sentence("description", *c.Description, maxDescription); err != nil {
			return err
		}
	}
	if c.Licence != nil {
		if *c.Licence = strings.TrimSpace(*c.Licence); !licence.MatchString(*c.Licence) {
			return soulbox.Errorf(soulbox.Invalid, "licence must be an SPDX expression, such as MIT or Apache-2.0 OR MIT, not %.100q", *c.Licence)
		}
	}
	for name, list := range map[string]*[]string{"categories": c.Categories, "keywords": c.Keywords} {
		if list == nil {
			continue
		}
		if len(*list) > maxWords {
			return soulbox.Errorf(soulbox.Invalid, "a template can have at most %d %s", maxWords, name)
		}
		tidy := []string{}
		for _, s := range *list {
			if s, err = word(name, s); err != nil {
				return err
			}
			if !slices.Contains(tidy, s) {
				tidy = append(tidy, s)
			}
		}
		*list = tidy
	}
	return nil
}

var (
	// A keyword is what search engines and addresses can do with.
	keyword = regexp.MustCompile(`^[a-z0-9][a-z0-9+._-]{0,39}$`)
	// An SPDX expression, as far as its letters go; empty is none.
	licence = regexp.MustCompile(`^[A-Za-z0-9.+() -]{0,100}$`)
)

// word reads a category or keyword. Letters are lowered.
func word(name, s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if !keyword.MatchString(s) {
		return "", soulbox.Errorf(soulbox.Invalid, "%s: a word has 1 to 40 of a-z, 0-9, +, ., _ and -, not %.100q", name, s)
	}
	return s, nil
}

func (n *templateRoom) readme(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	l, err := n.registry.Listing(r.Context(), who.Team, whole(t))
	if err != nil {
		return err
	}
	if l.Readme == "" {
		return soulbox.Errorf(soulbox.NotFound, "template '%s' has no readme", t.Name)
	}
	// Somebody else wrote it: no browser may take it for a page of ours.
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	api.Send(w, http.StatusOK, "text/markdown; charset=utf-8", []byte(l.Readme))
	return nil
}

const maxReadme = 256 << 10 // bytes

// setReadme takes Markdown; an empty body takes the readme away.
func (n *templateRoom) setReadme(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	text := string(b)
	switch {
	case len(text) > maxReadme:
		return soulbox.Errorf(soulbox.TooLarge, "the readme is larger than %d KiB", maxReadme>>10)
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return soulbox.Errorf(soulbox.Invalid, "the readme is not text in UTF-8")
	}
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	if _, err := n.registry.SetListing(r.Context(), who.Team, t.ID, soulbox.ListingChange{Readme: &text}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (n *templateRoom) publish(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return n.setPublic(w, r, who, true)
}

func (n *templateRoom) unpublish(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return n.setPublic(w, r, who, false)
}

func (n *templateRoom) setPublic(w http.ResponseWriter, r *http.Request, who soulbox.Actor, public bool) error {
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	if _, err := n.registry.Publish(r.Context(), who.Team, t.ID, public); err != nil {
		return err
	}
	return n.answerListing(w, r, who, t)
}

func (n *templateRoom) answerListing(w http.ResponseWriter, r *http.Request, who soulbox.Actor, t *soulbox.Template) error {
	l, err := n.registry.Listing(r.Context(), who.Team, whole(t))
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusOK, listedTemplate(l))
}

func (n *templateRoom) rate(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Stars int `json:"stars"`
	}
	if err := api.Decode(r, &body); err != nil {
		return err
	}
	if body.Stars < 1 || body.Stars > 5 {
		return soulbox.Errorf(soulbox.Invalid, "stars must be from 1 to 5, not %d", body.Stars)
	}
	return n.setRating(w, r, who, body.Stars)
}

func (n *templateRoom) unrate(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	return n.setRating(w, r, who, 0)
}

func (n *templateRoom) setRating(w http.ResponseWriter, r *http.Request, who soulbox.Actor, stars int) error {
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	if err := n.registry.Rate(r.Context(), who.Team, t.ID, stars); err != nil {
		return err
	}
	return n.answerListing(w, r, who, t)
}

func (n *templateRoom) report(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
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
		return soulbox.Errorf(soulbox.Invalid, "reason is needed: what is wrong with the template")
	}
	t, err := n.find(r, who)
	if err != nil {
		return err
	}
	if err := n.registry.Report(r.Context(), who.Team, t.ID, reason); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// fork makes a template of the team's own of a version of another.
func (n *templateRoom) fork(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	var body struct {
		Name string `json:"name"`
		At   string `json:"at"`
	}
	if err := api.DecodeOptional(r, &body); err != nil {
		return err
	}
	_, from, err := n.findAt(r, who, body.At)
	if err != nil {
		return err
	}
	name := ""
	if body.Name != "" {
		ref, err := soulbox.ParseTemplateRef(body.Name)
		if err != nil {
			return err
		}
		if ref != (soulbox.TemplateRef{Name: ref.Name}) {
			return soulbox.Errorf(soulbox.Invalid, "name: a fork has a plain name, without namespace, tag and version")
		}
		name = ref.Name
	}
	made, err := n.registry.Fork(r.Context(), who.Team, from, name)
	if err != nil {
		return err
	}
	return api.Answer(w, http.StatusCreated, templateOf(made))
}

// export sends a version as an OCI archive.
func (n *templateRoom) export(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	t, at, err := n.findAt(r, who, r.URL.Query().Get("at"))
	if err != nil {
		return err
	}
	if n.exporter == nil {
		return soulbox.Errorf(soulbox.Unavailable, "this server cannot export templates")
	}
	out := &archive{w: w, conn: http.NewResponseController(w), name: t.Name + ".tar"}
	err = n.exporter.Export(r.Context(), who.Team, at, out)
	if err == nil || !out.begun {
		return err
	}
	// The status has been sent. Only an answer that breaks off tells the client
	// that this is not all of it.
	_ = out.conn.SetWriteDeadline(time.Unix(1, 0))
	return err
}

// archive is an answer that is a file, sent as it is made.
type archive struct {
	w     http.ResponseWriter
	conn  *http.ResponseController
	name  string
	begun bool
}

// Write sends p. A client that does not fetch it loses the connection.
func (a *archive) Write(p []byte) (int, error) {
	if !a.begun {
		a.begun = true
		h := a.w.Header()
		h.Set("Content-Type", "application/x-tar")
		h.Set("Content-Disposition", "attachment; filename="+strconv.Quote(a.name))
	}
	_ = a.conn.SetWriteDeadline(time.Now().Add(lineTime)) // writers in memory know no deadlines
	n, err := a.w.Write(p)
	_ = a.conn.SetWriteDeadline(time.Time{})
	return n, err
}
