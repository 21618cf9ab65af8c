package template

import (
	"context"
	"fmt"
	"regexp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/facts"
)

// Bounds of what a template tells.
const (
	maxDescription = 500
	maxReadme      = 256 << 10
	maxLicence     = 200
	maxQuery       = 1000
	maxWords       = 20 // categories or keywords of one template
	maxPage        = 100
)

// category is what a category or a keyword is.
var category = regexp.MustCompile(`^[a-z0-9][a-z0-9.+_-]{0,39}$`)

// Search returns a page of the listings of templates that a team may start, at
// most 100.
func (r *Registry) Search(ctx context.Context, f soulbox.ListingFilter) (soulbox.ListingPage, error) {
	for _, s := range []string{f.Query, f.Package, f.Category} {
		if err := checkText("query", s, maxQuery); err != nil {
			return soulbox.ListingPage{}, err
		}
	}
	switch f.Sort {
	case "", soulbox.ByRelevance, soulbox.ByStars, soulbox.ByStarts, soulbox.ByUpdate, soulbox.ByName:
	default:
		return soulbox.ListingPage{}, soulbox.Errorf(soulbox.Invalid, "listings are sorted by %s, %s, %s, %s or %s, not %.50q",
			soulbox.ByRelevance, soulbox.ByStars, soulbox.ByStarts, soulbox.ByUpdate, soulbox.ByName, f.Sort)
	}
	if f.Limit <= 0 || f.Limit > maxPage {
		f.Limit = maxPage
	}
	return r.Store.Listings(ctx, f)
}

// Categories returns how many listings that a team may see are in each.
func (r *Registry) Categories(ctx context.Context, team soulbox.TeamID) (map[string]int, error) {
	return r.Store.Categories(ctx, team)
}

// Listing returns what a template tells those who look for one, with its
// readme.
func (r *Registry) Listing(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Listing, error) {
	t, err := r.lookUp(ctx, team, ref)
	if err != nil {
		return nil, err
	}
	return r.Store.Listing(ctx, t.ID, team)
}

// SetListing changes what a team's template tells.
func (r *Registry) SetListing(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, c soulbox.ListingChange) (*soulbox.Listing, error) {
	if _, err := r.find(ctx, team, id, toChange); err != nil {
		return nil, err
	}
	if err := checkListing(c); err != nil {
		return nil, err
	}
	if err := r.Store.SetListing(ctx, id, c, now()); err != nil {
		return nil, err
	}
	return r.Store.Listing(ctx, id, team)
}

// checkListing says what a template must not tell.
func checkListing(c soulbox.ListingChange) error {
	for _, text := range []struct {
		what string
		s    *string
		most int
	}{{"description", c.Description, maxDescription}, {"readme", c.Readme, maxReadme}, {"licence", c.Licence, maxLicence}} {
		if text.s == nil {
			continue
		}
		if err := checkText(text.what, *text.s, text.most); err != nil {
			return err
		}
	}
	for what, list := range map[string]*[]string{"categories": c.Categories, "keywords": c.Keywords} {
		if list == nil {
			continue
		}
		if len(*list) > maxWords {
			return soulbox.Errorf(soulbox.Invalid, "a template may have %d %s, not %d", maxWords, what, len(*list))
		}
		for _, s := range *list {
			if !category.MatchString(s) {
				return soulbox.Errorf(soulbox.Invalid, "%.100q cannot be among the %s: they have 1 to 40 of a-z, 0-9, '-', '_', '.' and '+'", s, what)
			}
		}
	}
	return nil
}

// somebodyElses returns a template that a team sees and does not have. What
// becomes of it is said about its own.
func (r *Registry) somebodyElses(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, done string) error {
	t, err := r.find(ctx, team, id, toSee)
	if err != nil {
		return err
	}
	if t.Team == team {
		return soulbox.Errorf(soulbox.Forbidden, "template '%s' is your team's own and cannot be %s by it", t.Name, done)
	}
	return nil
}

// Rate gives a template of somebody else's 1 to 5 stars; 0 takes them back.
func (r *Registry) Rate(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, stars int) error {
	if err := r.somebodyElses(ctx, team, id, "rated"); err != nil {
		return err
	}
	if stars < 0 || stars > 5 {
		return soulbox.Errorf(soulbox.Invalid, "a template gets 1 to 5 stars, not %d; 0 takes them back", stars)
	}
	return r.Store.Rate(ctx, id, team, stars, now())
}

// Report tells the operator what is wrong with somebody else's template.
func (r *Registry) Report(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, reason string) error {
	if err := r.somebodyElses(ctx, team, id, "reported"); err != nil {
		return err
	}
	if reason == "" {
		return soulbox.Errorf(soulbox.Invalid, "say what is wrong with the template")
	}
	if err := checkText("reason", reason, maxReason); err != nil {
		return err
	}
	r.Log.WarnContext(ctx, "template reported", "template", id, "by", team)
	return r.Store.Report(ctx, soulbox.Report{Template: id, Team: team, Reason: reason, At: now()})
}

// Reports returns what teams told the operator, newest first.
func (r *Registry) Reports(ctx context.Context) ([]soulbox.Report, error) {
	return r.Store.Reports(ctx)
}

// Fork copies the build that ref means into a new private template of the
// team. An empty name is that of the original. What the copy is made of is that
// of the original, down to the files; nobody sees by it how that was built.
func (r *Registry) Fork(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, name string) (*soulbox.Template, error) {
	owner, err := r.Store.Team(ctx, team)
	if err != nil {
		return nil, fmt.Errorf("fork template %s: %w", ref, err)
	}
	// Nobody may remove the snapshot while another record of it is made.
	release, err := r.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	from, b, err := r.pick(ctx, team, ref, toSee)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = from.Name
	}
	plain, tags, err := nameAndTags(name, owner, nil)
	if err != nil {
		return nil, err
	}
	if err := r.free(ctx, team, plain); err != nil {
		return nil, err
	}
	if _, err := sized(b.Size, soulbox.Size{}, owner.Limits); err != nil {
		return nil, err
	}
	at := now()
	t := &soulbox.Template{ID: newID(), Team: team, Name: plain, CreatedAt: at, UpdatedAt: at}
	c := &soulbox.Build{
		ID: soulbox.NewBuildID(), Team: team, CreatedAt: at, QueuedAt: at, StartedAt: at, EndedAt: at, Tags: tags,
		Image: b.Image, Manifest: b.Manifest, Snapshot: b.Snapshot, Baked: b.Baked, Size: b.Size, Isolation: b.Isolation,
		Recipe: soulbox.Recipe{Start: b.Recipe.Start, Ready: b.Recipe.Ready}, // to be run again some day; they show in every sandbox
		Env:    b.Env, User: b.User, Workdir: b.Workdir, Facts: b.Facts,
	}
	if t, err = r.Store.AddBuild(ctx, t, c, from.ID, bump(c)); err != nil {
		return nil, err
	}
	r.say(c.ID, soulbox.BuildLine{Message: fmt.Sprintf("copied from %s, version %s", ref, b.Version)})
	r.over(ctx, c)
	r.Log.InfoContext(ctx, "template forked", "template", t.ID, "from", from.ID, "build", b.ID)
	return t, nil
}

// SBOM returns what is in the build that ref means, as SPDX 2.3 in JSON.
func (r *Registry) SBOM(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) ([]byte, error) {
	t, b, err := r.pick(ctx, team, ref, toSee)
	if err != nil {
		return nil, err
	}
	return facts.SBOM(t.Name, b)
}
