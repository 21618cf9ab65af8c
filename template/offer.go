package template

import (
	"context"
	"errors"
	"io"

	"github.com/soulbox/soulbox"
)

// What follows is what the room is going to offer.

// Draft registers a build that has no recipe yet, and the template if it does
// not exist. name may have the team's namespace and a tag, tags may have more of
// them; none stands for "default". What is 0 in size is as before, or as usual.
// Earlier drafts under one of the tags fail.
func (r *Registry) Draft(ctx context.Context, team soulbox.TeamID, name string, tags []string, size soulbox.Size) (*soulbox.Template, *soulbox.Build, error) {
	return nil, nil, errors.ErrUnsupported
}

// Trigger gives a draft its recipe and lines it up. It is Invalid when the build
// has one already or is over. Earlier builds under one of its tags are
// cancelled.
func (r *Registry) Trigger(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, recipe soulbox.Recipe, logins map[string]soulbox.Login) error {
	return errors.ErrUnsupported
}

// Request is Draft and Trigger in one step.
func (r *Registry) Request(ctx context.Context, req soulbox.BuildRequest) (*soulbox.Template, *soulbox.Build, error) {
	return nil, nil, errors.ErrUnsupported
}

// Build returns a build of a template. Others than its team see the ready ones
// of a public template, without their recipes.
func (r *Registry) Build(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error) {
	return nil, errors.ErrUnsupported
}

// Builds returns a page of the builds of a template, newest first and without
// their packages.
func (r *Registry) Builds(ctx context.Context, team soulbox.TeamID, f soulbox.BuildFilter) (soulbox.BuildPage, error) {
	return soulbox.BuildPage{}, errors.ErrUnsupported
}

// BuildLog returns lines that a build told, oldest first.
func (r *Registry) BuildLog(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, q soulbox.BuildLogQuery) ([]soulbox.BuildLine, error) {
	return nil, errors.ErrUnsupported
}

// Cancel ends a build and returns when nothing of it runs any more. It is a
// Conflict when the build is over.
func (r *Registry) Cancel(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) error {
	return errors.ErrUnsupported
}

// HasUpload reports whether the files with a hash are there for the builds of
// a team. It is NotFound when the team has no such template; an empty id asks
// for none.
func (r *Registry) HasUpload(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, hash string) (bool, error) {
	return false, errors.ErrUnsupported
}

// PutUpload keeps a tar, plain or compressed with gzip, for the builds of the
// team that has the template. Whoever calls it has seen to it that the sender
// may: the link is the permission.
func (r *Registry) PutUpload(ctx context.Context, id soulbox.TemplateID, hash string, archive io.Reader) error {
	return errors.ErrUnsupported
}

// Upload is PutUpload for a team that need not have a template yet.
func (r *Registry) Upload(ctx context.Context, team soulbox.TeamID, hash string, archive io.Reader) error {
	return errors.ErrUnsupported
}

// Validate tells what is the matter with a Dockerfile.
func (r *Registry) Validate(ctx context.Context, dockerfile string) ([]soulbox.Problem, error) {
	return nil, errors.ErrUnsupported
}

// Tags returns the tags of a template, by name.
func (r *Registry) Tags(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]soulbox.Tag, error) {
	return nil, errors.ErrUnsupported
}

// AssignTags makes tags lead to the build that target means, and returns it.
func (r *Registry) AssignTags(ctx context.Context, team soulbox.TeamID, target soulbox.TemplateRef, tags []string) (*soulbox.Build, error) {
	return nil, errors.ErrUnsupported
}

// RemoveTags removes tags of a template. "default" stays: that is Invalid.
func (r *Registry) RemoveTags(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tags []string) error {
	return errors.ErrUnsupported
}

// Publish lets every team start a template, or its own only.
func (r *Registry) Publish(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, public bool) (*soulbox.Template, error) {
	return nil, errors.ErrUnsupported
}

// Versions returns the ready builds of a template, newest version first and
// without their packages.
func (r *Registry) Versions(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]*soulbox.Build, error) {
	return nil, errors.ErrUnsupported
}

// Promote makes a tag, or "default" if it is empty, lead to the build that ref
// means, and returns that.
func (r *Registry) Promote(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tag string) (*soulbox.Build, error) {
	return nil, errors.ErrUnsupported
}

// Rollback makes "default" lead to the build that ref means, or if it means
// "default", to the newest version before that one which is not retired.
func (r *Registry) Rollback(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Build, error) {
	return nil, errors.ErrUnsupported
}

// Deprecate says why nobody should start with the build that ref means any
// more; an empty reason takes that back.
func (r *Registry) Deprecate(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, why string) (*soulbox.Build, error) {
	return nil, errors.ErrUnsupported
}

// Diff compares two builds.
func (r *Registry) Diff(ctx context.Context, team soulbox.TeamID, before, after soulbox.TemplateRef) (soulbox.BuildDiff, error) {
	return soulbox.BuildDiff{}, errors.ErrUnsupported
}

// SBOM returns what is in the build that ref means, as SPDX 2.3 in JSON.
func (r *Registry) SBOM(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// Search returns a page of the listings of templates that a team may start.
func (r *Registry) Search(ctx context.Context, f soulbox.ListingFilter) (soulbox.ListingPage, error) {
	return soulbox.ListingPage{}, errors.ErrUnsupported
}

// Categories returns how many listings that a team may see are in each.
func (r *Registry) Categories(ctx context.Context, team soulbox.TeamID) (map[string]int, error) {
	return nil, errors.ErrUnsupported
}

// Listing returns what a template tells those who look for one, with its
// readme.
func (r *Registry) Listing(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Listing, error) {
	return nil, errors.ErrUnsupported
}

// SetListing changes what a team's template tells.
func (r *Registry) SetListing(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, c soulbox.ListingChange) (*soulbox.Listing, error) {
	return nil, errors.ErrUnsupported
}

// Rate gives a template of somebody else's 1 to 5 stars; 0 takes them back.
func (r *Registry) Rate(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, stars int) error {
	return errors.ErrUnsupported
}

// Report tells the operator what is wrong with somebody else's template.
func (r *Registry) Report(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, reason string) error {
	return errors.ErrUnsupported
}

// Reports returns what teams told the operator, newest first.
func (r *Registry) Reports(ctx context.Context) ([]soulbox.Report, error) {
	return nil, errors.ErrUnsupported
}

// Fork copies the build that ref means into a new private template of the
// team. An empty name is that of the original.
func (r *Registry) Fork(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, name string) (*soulbox.Template, error) {
	return nil, errors.ErrUnsupported
}
