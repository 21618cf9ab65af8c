package native

import (
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
)

// registry is what this room needs of whoever keeps templates and their builds.
//
// A template that a team may not start does not exist for it: every method
// answers as if there were none, with the same NotFound error. What only its
// owner may do is Forbidden to those who may start it.
type registry interface {
	builder
	versions
	market

	Templates(ctx context.Context, team soulbox.TeamID) ([]*soulbox.Template, error)
	// Template returns the one that ref means, as the build that ref leads to
	// makes it. Without a tag and a version, that one need not be ready.
	Template(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error)
	SetIsolation(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, class soulbox.Isolation) (*soulbox.Template, error)
	// Import makes a template of an image. It calls progress, possibly from
	// several goroutines, and no more once it has returned.
	Import(ctx context.Context, req soulbox.ImportRequest, progress func(line string)) (*soulbox.Template, error)
	Remove(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID) error
}

// builder is what builds are made and followed with.
type builder interface {
	// Validate returns what is the matter with a Dockerfile, by line.
	Validate(ctx context.Context, dockerfile string) ([]soulbox.Problem, error)
	// TakeContext keeps a tar, compressed or not, for one build of a team, and
	// returns what its recipe calls it.
	TakeContext(ctx context.Context, team soulbox.TeamID, tar io.Reader) (hash string, err error)
	// Request makes a build, with its template if there is none of that name,
	// and returns while it waits for its turn.
	Request(ctx context.Context, req soulbox.BuildRequest) (*soulbox.Template, *soulbox.Build, error)
	// Builds and Build show other teams those that are ready, without their
	// recipes.
	Builds(ctx context.Context, team soulbox.TeamID, f soulbox.BuildFilter) (soulbox.BuildPage, error)
	Build(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error)
	BuildLog(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, build soulbox.BuildID, q soulbox.BuildLogQuery) ([]soulbox.BuildLine, error)
	// Watch calls each with the lines behind the one numbered after, the first
	// of all being 1, until the build is over, and idle when there is nothing to
	// tell for a while; with idle nil it does not wait for more. It returns the
	// build as it is then. An after that has not come is Invalid.
	Watch(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, build soulbox.BuildID, after int,
		idle func() error, each func(number int, line soulbox.BuildLine) error) (*soulbox.Build, error)
	// Cancel ends a build; one that is over is a Conflict.
	Cancel(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, build soulbox.BuildID) error
}

// versions are what a template was and is. Where a method takes a TemplateRef,
// its name is the id of a template.
type versions interface {
	// Versions returns builds that are ready, the newest version first.
	Versions(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID) ([]*soulbox.Build, error)
	// Diff shows what differs in recipes to their owner only.
	Diff(ctx context.Context, team soulbox.TeamID, before, after soulbox.TemplateRef) (soulbox.BuildDiff, error)
	// SBOM returns an SPDX document in JSON.
	SBOM(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) ([]byte, error)
	Tags(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID) ([]soulbox.Tag, error)
	RemoveTags(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tags []string) error
	// Promote lets a tag lead to the build that ref leads to, and returns that.
	Promote(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tag string) (*soulbox.Build, error)
	// Rollback lets the default tag lead to what ref leads to; if ref has neither
	// tag nor version, to the version before the one it leads to.
	Rollback(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Build, error)
	// Deprecate says why nobody should start what ref leads to; with an empty
	// reason, that it is fine.
	Deprecate(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, reason string) (*soulbox.Build, error)
}

// market is where templates are found and shared.
type market interface {
	Search(ctx context.Context, f soulbox.ListingFilter) (soulbox.ListingPage, error)
	// Categories returns how many templates that a team may start are in each.
	Categories(ctx context.Context, team soulbox.TeamID) (map[string]int, error)
	Listing(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Listing, error)
	SetListing(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, c soulbox.ListingChange) (*soulbox.Listing, error)
	Publish(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, public bool) (*soulbox.Template, error)
	// Rate gives 1 to 5 stars in the team's name, in place of those it gave
	// before; 0 takes them back.
	Rate(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, stars int) error
	// Report tells the operator that something is wrong with a template.
	Report(ctx context.Context, team soulbox.TeamID, template soulbox.TemplateID, reason string) error
	// Fork makes a template of the team's own of what ref leads to. An empty
	// name is that of the original.
	Fork(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, name string) (*soulbox.Template, error)
}

// exporter is what this room needs of whoever makes OCI images of templates.
type exporter interface {
	// Export writes an OCI archive of what ref leads to. An error before the
	// first byte has a kind.
	Export(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, w io.Writer) error
}

// templateRoom answers requests about templates.
type templateRoom struct {
	registry registry
	exporter exporter
}

// TemplateRoutes returns the rows for templates. With x nil nothing can be
// exported.
func TemplateRoutes(t registry, x exporter) []api.Route {
	n := &templateRoom{t, x}
	const (
		get    = http.MethodGet
		post   = http.MethodPost
		put    = http.MethodPut
		patch  = http.MethodPatch
		remove = http.MethodDelete
		all    = "/v1/templates"
		one    = all + "/{template}"
		build  = one + "/builds/{build}"
		at     = one + "/versions/{version}"
		read   = api.ReadTemplates
		write  = api.WriteTemplates
	)
	return []api.Route{
		{Verb: get, Path: all, Permission: read, Handle: n.list},
		{Verb: get, Path: "/v1/categories", Permission: read, Handle: n.categories},
		{Verb: post, Path: all + "/validate", Permission: read, Handle: n.validate},
		{Verb: post, Path: all + "/import", Permission: write, Handle: n.importImage, Upload: true},
		{Verb: get, Path: one, Permission: read, Handle: n.get},
		{Verb: patch, Path: one, Permission: write, Handle: n.change},
		{Verb: remove, Path: one, Permission: write, Handle: n.remove},

		{Verb: post, Path: one + "/builds", Permission: write, Handle: n.build, Upload: true},
		{Verb: get, Path: one + "/builds", Permission: read, Handle: n.builds},
		{Verb: get, Path: build, Permission: read, Handle: n.getBuild},
		{Verb: get, Path: build + "/log", Permission: read, Handle: n.buildLog},
		{Verb: get, Path: build + "/events", Permission: read, Handle: n.buildEvents},
		{Verb: post, Path: build + "/cancel", Permission: write, Handle: n.cancel},

		{Verb: get, Path: one + "/versions", Permission: read, Handle: n.versions},
		{Verb: get, Path: one + "/versions/{a}/diff/{b}", Permission: read, Handle: n.diff},
		{Verb: put, Path: at + "/deprecation", Permission: write, Handle: n.deprecate},
		{Verb: remove, Path: at + "/deprecation", Permission: write, Handle: n.undeprecate},
		{Verb: post, Path: one + "/promote", Permission: write, Handle: n.promote},
		{Verb: post, Path: one + "/rollback", Permission: write, Handle: n.rollback},
		{Verb: get, Path: one + "/tags", Permission: read, Handle: n.tags},
		{Verb: remove, Path: one + "/tags/{tag}", Permission: write, Handle: n.removeTag},
		{Verb: get, Path: one + "/facts", Permission: read, Handle: n.facts},
		{Verb: get, Path: one + "/sbom", Permission: read, Handle: n.sbom},
		{Verb: get, Path: one + "/export", Permission: read, Handle: n.export},

		{Verb: get, Path: one + "/readme", Permission: read, Handle: n.readme},
		{Verb: put, Path: one + "/readme", Permission: write, Handle: n.setReadme},
		{Verb: post, Path: one + "/publish", Permission: write, Handle: n.publish},
		{Verb: post, Path: one + "/unpublish", Permission: write, Handle: n.unpublish},
		{Verb: put, Path: one + "/rating", Permission: write, Handle: n.rate},
		{Verb: remove, Path: one + "/rating", Permission: write, Handle: n.unrate},
		{Verb: post, Path: one + "/report", Permission: write, Handle: n.report},
		{Verb: post, Path: one + "/fork", Permission: write, Handle: n.fork},
	}
}

// find returns the template in the path, which names no build of it.
func (n *templateRoom) find(r *http.Request, who soulbox.Actor) (*soulbox.Template, error) {
	ref, err := soulbox.ParseTemplateRef(r.PathValue("template"))
	if err != nil {
		return nil, err
	}
	if ref.Tag != "" || ref.Versions.String() != "" {
		return nil, soulbox.Errorf(soulbox.Invalid, "template %.200q: this is about the template as a whole; leave the tag or version out", r.PathValue("template"))
	}
	return n.registry.Template(r.Context(), who.Team, ref)
}

// findAt returns the template in the path and the reference by its id to the
// build of it that s means: a version, a range of them, a tag or a build id. An
// empty s means none.
func (n *templateRoom) findAt(r *http.Request, who soulbox.Actor, s string) (*soulbox.Template, soulbox.TemplateRef, error) {
	t, err := n.find(r, who)
	if err != nil {
		return nil, soulbox.TemplateRef{}, err
	}
	ref, err := within(t, s)
	return t, ref, err
}

// within reads what stands for a build of a template: 1.4 and ^1 are versions,
// everything else is a tag or a build id, and so is what a colon stands before.
func within(t *soulbox.Template, s string) (soulbox.TemplateRef, error) {
	ref := soulbox.TemplateRef{Name: string(t.ID)}
	if s == "" {
		return ref, nil
	}
	if versions, err := soulbox.ParseVersionRange(s); err == nil {
		ref.Versions = versions
		return ref, nil
	}
	tagged, err := soulbox.ParseTemplateRef("x:" + strings.TrimPrefix(s, ":"))
	if err != nil || tagged.Tag == "" {
		return ref, soulbox.Errorf(soulbox.Invalid, "%.100q is not a tag, a version or the id of a build", s)
	}
	ref.Tag = tagged.Tag
	return ref, nil
}
