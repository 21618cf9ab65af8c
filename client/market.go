package client

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// A Listing is what a template tells those who look for one.
type Listing struct {
	Namespace   string // of its team, for NAMESPACE/NAME; empty for the house's own
	Description string // a line
	Licence     string // as SPDX names it
	Categories  []string
	Keywords    []string
	Deprecated  string  // why nobody should start its default version any more; empty: it is fine
	Stars       float64 // what those who rated it gave, from 1 to 5 on average; 0: nobody did
	Ratings     int     // how many did
	Mine        int     // what the caller's team gave; 0: nothing
	Downloads   int64   // how many sandboxes other teams made of it
	ForkOf      string  // the template that it began as a copy of; may be gone, or empty
	PublishedAt time.Time
}

// SearchOptions say what is looked for. The zero value finds every template that
// the team may start.
type SearchOptions struct {
	// Query is words that are looked for in names, descriptions, keywords,
	// packages and readmes.
	Query string
	// Category is one that it has.
	Category string
	// Package is one that is in it: NAME, or MANAGER:NAME with dpkg, apk, rpm,
	// pip or npm.
	Package string
	// Mine finds the team's own only.
	Mine bool
	// Sort says in which order they come. Empty: the best fit for words, else
	// what is used most.
	Sort soulbox.ListingSort
}

// Search returns templates that are public, the house's or the team's own, the
// best first. The first error ends the loop.
func (t *Templates) Search(ctx context.Context, o SearchOptions) iter.Seq2[*Template, error] {
	query := url.Values{"limit": {"100"}} // without any parameter it would be a plain list
	for name, value := range map[string]string{"q": o.Query, "category": o.Category, "package": o.Package, "sort": string(o.Sort)} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if o.Mine {
		query.Set("mine", "true")
	}
	return func(yield func(*Template, error) bool) {
		for w, err := range pages[templateWire, templatesWire](ctx, t.c, "/v1/templates", query) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(w.template(), nil) {
				return
			}
		}
	}
}

// Categories returns how many templates that the team may start are in each
// category.
func (t *Templates) Categories(ctx context.Context) (map[string]int, error) {
	var out struct {
		Categories []struct {
			Category  string `json:"category"`
			Templates int    `json:"templates"`
		} `json:"categories"`
	}
	if err := t.c.call(ctx, http.MethodGet, "/v1/categories", nil, nil, &out); err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, c := range out.Categories {
		counts[c.Category] = c.Templates
	}
	return counts, nil
}

// Get tells about a template, with its listing and its tags.
func (t *Templates) Get(ctx context.Context, template string) (*Template, error) {
	return t.one(ctx, http.MethodGet, template, "", nil)
}

// one makes a call that is answered with a template.
func (t *Templates) one(ctx context.Context, method, template, rest string, in any) (*Template, error) {
	path, err := templatePath(template, rest)
	if err != nil {
		return nil, err
	}
	var out templateWire
	if err := t.c.call(ctx, method, path, nil, in, &out); err != nil {
		return nil, err
	}
	return out.template(), nil
}

// SetListing changes what a template tells, and its readme if the change has
// one.
func (t *Templates) SetListing(ctx context.Context, template string, c soulbox.ListingChange) (*Template, error) {
	in := map[string]any{}
	if c.Description != nil {
		in["description"] = *c.Description
	}
	if c.Licence != nil {
		in["licence"] = *c.Licence
	}
	if c.Categories != nil {
		in["categories"] = *c.Categories
	}
	if c.Keywords != nil {
		in["keywords"] = *c.Keywords
	}
	if c.Readme != nil {
		path, err := templatePath(template, "/readme")
		if err != nil {
			return nil, err
		}
		if err := t.c.text(ctx, http.MethodPut, path, *c.Readme, nil); err != nil {
			return nil, err
		}
		if len(in) == 0 {
			return t.Get(ctx, template)
		}
	}
	return t.one(ctx, http.MethodPatch, template, "", in)
}

// Readme returns a template's readme, which is Markdown. One that it does not
// have is NotFound.
func (t *Templates) Readme(ctx context.Context, template string) (string, error) {
	path, err := templatePath(template, "/readme")
	if err != nil {
		return "", err
	}
	var out string
	err = t.c.text(ctx, http.MethodGet, path, "", &out)
	return out, err
}

// Publish lets every team start a template, and find it.
func (t *Templates) Publish(ctx context.Context, template string) (*Template, error) {
	return t.one(ctx, http.MethodPost, template, "/publish", nil)
}

// Unpublish lets only its own team start a template. Sandboxes that others have
// made of it go on.
func (t *Templates) Unpublish(ctx context.Context, template string) (*Template, error) {
	return t.one(ctx, http.MethodPost, template, "/unpublish", nil)
}

// Rate gives another team's template 1 to 5 stars, in place of those that the
// team gave before; 0 takes them back.
func (t *Templates) Rate(ctx context.Context, template string, stars int) (*Template, error) {
	if stars == 0 {
		return t.one(ctx, http.MethodDelete, template, "/rating", nil)
	}
	return t.one(ctx, http.MethodPut, template, "/rating", map[string]int{"stars": stars})
}

// Report tells the server's operator what is wrong with a template.
func (t *Templates) Report(ctx context.Context, template, reason string) error {
	path, err := templatePath(template, "/report")
	if err != nil {
		return err
	}
	err = t.c.call(ctx, http.MethodPost, path, nil, map[string]string{"reason": reason}, nil)
	return err
}

// Fork makes a template of the team's own of another's version, which is named as
// in [Templates.Facts]. An empty name is that of the other.
func (t *Templates) Fork(ctx context.Context, template, at, name string) (*Template, error) {
	in := map[string]string{}
	if at != "" {
		in["at"] = at
	}
	if name != "" {
		in["name"] = name
	}
	return t.one(ctx, http.MethodPost, template, "/fork", in)
}

// SBOM returns what software is in a version, as an SPDX 2.3 document. The
// version is named as in [Templates.Facts].
func (t *Templates) SBOM(ctx context.Context, template, at string) (json.RawMessage, error) {
	path, err := templatePath(template, "/sbom")
	if err != nil {
		return nil, err
	}
	var out json.RawMessage
	err = t.c.call(ctx, http.MethodGet, path, atQuery(at), nil, &out)
	return out, err
}

// Export writes a version as a tar with an OCI image. The version is named as in
// [Templates.Facts]. It takes as long as it takes.
func (t *Templates) Export(ctx context.Context, template, at string, w io.Writer) error {
	path, err := templatePath(template, "/export")
	if err != nil {
		return err
	}
	req, err := t.c.request(ctx, http.MethodGet, path, atQuery(at), nil)
	if err != nil {
		return err
	}
	resp, err := t.c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answerError(resp)
	}
	to := &output{w: w}
	_, err = io.Copy(to, resp.Body)
	switch {
	case err == nil, to.err != nil:
		return err
	case ctx.Err() != nil:
		return contextError(ctx, t.c.api)
	default:
		return soulbox.Errorf(soulbox.Unavailable, "export of template %s: the server hung up before it was done: %w", template, err)
	}
}

// output remembers that it was the writer that failed, and not who sends.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (n int, err error) {
	n, o.err = o.w.Write(p)
	return n, o.err
}

func atQuery(at string) url.Values {
	if at == "" {
		return nil
	}
	return url.Values{"at": {at}}
}

// text sends or fetches what is not JSON.
func (c *Client) text(ctx context.Context, method, path, in string, out *string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := c.request(ctx, method, path, nil, strings.NewReader(in))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/markdown; charset=utf-8")
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer discard(resp)
	if resp.StatusCode >= http.StatusBadRequest {
		return answerError(resp)
	}
	if out == nil {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && ctx.Err() != nil {
		return contextError(ctx, c.api)
	}
	*out = string(b)
	return err
}

// templatesWire is a page of templates.
type templatesWire struct {
	Templates []templateWire `json:"templates"`
	Next      string         `json:"next"`
}

func (w templatesWire) page() (items []templateWire, next string) { return w.Templates, w.Next }

// listingWire is a listing of the native API, with the fields of [Listing].
type listingWire struct {
	Namespace   string    `json:"namespace"`
	Description string    `json:"description"`
	Licence     string    `json:"licence"`
	Categories  []string  `json:"categories"`
	Keywords    []string  `json:"keywords"`
	Deprecated  string    `json:"deprecated"`
	Stars       float64   `json:"stars"`
	Ratings     int       `json:"ratings"`
	Mine        int       `json:"mine"`
	Downloads   int64     `json:"downloads"`
	ForkOf      string    `json:"fork_of"`
	PublishedAt time.Time `json:"published_at"`
}

type tagWire struct {
	Tag   string          `json:"tag"`
	Build soulbox.BuildID `json:"build"`
	Since time.Time       `json:"since"`
}

func tagsOf(list []tagWire) []soulbox.Tag {
	var tags []soulbox.Tag
	for _, t := range list {
		tags = append(tags, soulbox.Tag{Name: t.Tag, Build: t.Build, At: t.Since})
	}
	return tags
}
