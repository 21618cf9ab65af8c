package native_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
	"github.com/soulbox/soulbox/api/native"
)

const (
	buildID  = "6f1c2c1e-3f5a-4a59-8c3e-0f5a1c2b3d4e"
	olderID  = "11111111-3f5a-4a59-8c3e-0f5a1c2b3d4e"
	brokenID = "99999999-3f5a-4a59-8c3e-0f5a1c2b3d4e"
)

// shelf stands for the register of templates. It has two of the team "ours": "mine",
// which nobody else may see, and "open", which is public. It remembers what it
// was asked.
type shelf struct {
	asked    any
	imports  func(source soulbox.ImageSource, progress func(string)) error
	uploaded string
	problems []soulbox.Problem
	exported func(io.Writer) error
	watch    func(idle func() error, each func(int, soulbox.BuildLine) error) (*soulbox.Build, error)
	fails    error
}

func (s *shelf) all() []*soulbox.Template {
	size := soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB}
	mine := &soulbox.Template{
		ID: "tpl1", Team: "ours", Name: "mine", Build: buildID, Version: soulbox.Version{Major: 1, Minor: 4}, Image: strings.Repeat("ab", 32),
		Source: "docker.io/library/debian@sha256:12", User: "user", Workdir: "/home/user", Size: size, Starts: 12, CreatedAt: epoch, UpdatedAt: epoch,
	}
	open := *mine
	open.ID, open.Name, open.Public = "tpl2", "open", true
	return []*soulbox.Template{mine, &open}
}

// see returns a template that a team may start.
func (s *shelf) see(team soulbox.TeamID, name string) (*soulbox.Template, error) {
	for _, t := range s.all() {
		if (t.Name == name || string(t.ID) == name) && (t.Team == team || t.Public) {
			return t, s.fails
		}
	}
	return nil, soulbox.Errorf(soulbox.NotFound, "template '%s' not found", name)
}

// own returns a template that is a team's.
func (s *shelf) own(team soulbox.TeamID, id soulbox.TemplateID) (*soulbox.Template, error) {
	t, err := s.see(team, string(id))
	if err == nil && t.Team != team {
		return nil, soulbox.Errorf(soulbox.Forbidden, "template '%s' belongs to another team", t.Name)
	}
	return t, err
}

func (s *shelf) Templates(_ context.Context, team soulbox.TeamID) ([]*soulbox.Template, error) {
	var list []*soulbox.Template
	for _, t := range s.all() {
		if t.Team == team || t.Public {
			list = append(list, t)
		}
	}
	return list, nil
}

func (s *shelf) Template(_ context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	t, err := s.see(team, ref.Name)
	if err == nil && ref.Tag == "none" {
		return nil, soulbox.TemplateRef{Name: t.Name, Tag: ref.Tag}.NoBuild()
	}
	if soulbox.TemplateID(ref.Name) == "tpl1" && team == "ours" {
		s.asked = ref
	}
	return t, err
}

func (s *shelf) SetIsolation(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID, class soulbox.Isolation) (*soulbox.Template, error) {
	t, err := s.own(team, id)
	s.asked = class
	return t, err
}

func (s *shelf) Import(_ context.Context, req soulbox.ImportRequest, progress func(string)) (*soulbox.Template, error) {
	source := req.Source
	req.Source = soulbox.ImageSource{}
	s.asked = req
	if s.imports == nil {
		return s.all()[0], nil
	}
	if err := s.imports(source, progress); err != nil {
		return nil, err
	}
	return s.all()[0], nil
}

func (s *shelf) Remove(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID) error {
	_, err := s.own(team, id)
	s.asked = id
	return err
}

func (s *shelf) Validate(_ context.Context, dockerfile string) ([]soulbox.Problem, error) {
	s.asked = dockerfile
	return s.problems, nil
}

func (s *shelf) TakeContext(_ context.Context, team soulbox.TeamID, tar io.Reader) (string, error) {
	b, err := io.ReadAll(tar)
	if err != nil {
		return "", err
	}
	s.uploaded = string(b)
	return "context of " + string(team), nil
}

func (s *shelf) Request(_ context.Context, req soulbox.BuildRequest) (*soulbox.Template, *soulbox.Build, error) {
	if s.fails != nil {
		return nil, nil, s.fails
	}
	s.asked = req
	t := s.all()[0]
	b := &soulbox.Build{ID: buildID, Template: t.ID, Team: req.Team, State: soulbox.BuildWaiting, CreatedAt: epoch, QueuedAt: epoch, Recipe: req.Recipe, Tags: req.Tags, Bump: req.Bump}
	return t, b, nil
}

// made are the builds of a template, newest first.
func made(t *soulbox.Template) []*soulbox.Build {
	facts := soulbox.BuildFacts{
		Base: "docker.io/library/debian@sha256:12", Distribution: "Debian GNU/Linux 12 (bookworm)",
		Packages: []soulbox.Package{
			{Manager: "dpkg", Name: "libstdc++6", Version: "12.2.0-14+deb12u1"},
			{Manager: "pip", Name: "Typing_Extensions", Version: "4.12.2"},
			{Manager: "npm", Name: "@types/node", Version: "22.1.0"},
			{Manager: "dpkg", Name: "adduser", Version: "3.134"},
		},
		Ports: []string{"8080/tcp"}, Volumes: []string{"/data"}, Entrypoint: []string{"/entry"}, Command: []string{"serve"},
		Labels: map[string]string{"a": "b"}, Author: "Ada", Bytes: 120 * soulbox.MiB, Layers: 5, Written: 12 * soulbox.MiB,
	}
	size := soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB}
	return []*soulbox.Build{
		{
			ID: brokenID, Template: t.ID, Team: t.Team, State: soulbox.BuildFailed, CreatedAt: epoch, QueuedAt: epoch, StartedAt: epoch, EndedAt: epoch.Add(time.Minute),
			Failure: &soulbox.BuildFailure{Message: "the command ended with exit code 1", Step: 3}, Tags: []string{"default", "next"},
		},
		{
			ID: buildID, Template: t.ID, Team: t.Team, State: soulbox.BuildReady, CreatedAt: epoch, QueuedAt: epoch, StartedAt: epoch.Add(time.Second),
			EndedAt: epoch.Add(time.Minute), Version: soulbox.Version{Major: 1, Minor: 4}, Bump: soulbox.Minor, Snapshot: firstID, Image: strings.Repeat("ab", 32),
			Recipe: soulbox.Recipe{
				Dockerfile: "FROM debian\nRUN true\n", Context: "must not show", Target: "last", Args: map[string]string{"A": "1"}, Start: "serve", Ready: "curl localhost",
			},
			Env: map[string]string{"PATH": "/bin"}, User: "user", Workdir: "/home/user", Size: size, Facts: facts,
		},
		{
			ID: olderID, Template: t.ID, Team: t.Team, State: soulbox.BuildReady, CreatedAt: epoch, EndedAt: epoch, Version: soulbox.Version{Major: 1},
			Recipe:  soulbox.Recipe{Image: "debian", Steps: []soulbox.Step{{Kind: soulbox.StepRun, Args: []string{"true"}}, {Kind: soulbox.StepUser}}},
			Retired: "it has a bug; use 1.4", Size: size,
		},
	}
}

func (s *shelf) Builds(_ context.Context, team soulbox.TeamID, f soulbox.BuildFilter) (soulbox.BuildPage, error) {
	t, err := s.see(team, string(f.Template))
	if err != nil {
		return soulbox.BuildPage{}, err
	}
	s.asked = f
	if t.Team != team {
		return soulbox.BuildPage{Builds: made(t)[1:]}, nil
	}
	return soulbox.BuildPage{Builds: made(t), Next: "more"}, nil
}

func (s *shelf) Build(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error) {
	t, err := s.see(team, string(id))
	if err != nil {
		return nil, err
	}
	for _, b := range made(t) {
		switch {
		case b.ID != build:
		case t.Team == team:
			return b, nil
		case b.State == soulbox.BuildReady:
			b.Recipe = soulbox.Recipe{}
			return b, nil
		}
	}
	return nil, soulbox.Errorf(soulbox.NotFound, "template '%s' has no build %s", t.Name, build)
}

// said is the log of a build.
func said() []soulbox.BuildLine {
	return []soulbox.BuildLine{
		{At: epoch, Level: "info", Message: "it is its turn"},
		{At: epoch, Level: "info", Step: "base", Message: "[base] FROM debian"},
		{At: epoch.Add(time.Second), Level: "warn", Step: "1", Message: "[builder 1/1] [stderr]: \x1b[31m\"hot\"\nid: 7"},
	}
}

func (s *shelf) BuildLog(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, q soulbox.BuildLogQuery) ([]soulbox.BuildLine, error) {
	if _, err := s.own(team, id); err != nil {
		return nil, err
	}
	if _, err := s.Build(ctx, team, id, build); err != nil {
		return nil, err
	}
	s.asked = q
	return said(), nil
}

func (s *shelf) Watch(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, after int,
	idle func() error, each func(int, soulbox.BuildLine) error,
) (*soulbox.Build, error) {
	if _, err := s.own(team, id); err != nil {
		return nil, err
	}
	b, err := s.Build(ctx, team, id, build)
	if err != nil {
		return nil, err
	}
	if after > len(said()) {
		return nil, soulbox.Errorf(soulbox.Invalid, "there is no line %d yet", after)
	}
	if s.watch != nil && idle != nil {
		return s.watch(idle, each)
	}
	for i, l := range said()[after:] {
		if idle != nil {
			if err := idle(); err != nil {
				return nil, err
			}
		}
		if err := each(after+i+1, l); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (s *shelf) Cancel(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) error {
	if _, err := s.own(team, id); err != nil {
		return err
	}
	b, err := s.Build(ctx, team, id, build)
	if err == nil && build == buildID {
		return soulbox.Errorf(soulbox.Conflict, "build %s is %s already", b.ID, b.State)
	}
	s.asked = build
	return err
}

func (s *shelf) Versions(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]*soulbox.Build, error) {
	t, err := s.see(team, string(id))
	if err != nil {
		return nil, err
	}
	return made(t)[1:], nil
}

func (s *shelf) SBOM(_ context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) ([]byte, error) {
	if _, err := s.see(team, ref.Name); err != nil {
		return nil, err
	}
	s.asked = ref
	return []byte(`{"spdxVersion":"SPDX-2.3"}`), nil
}

func (s *shelf) Diff(_ context.Context, team soulbox.TeamID, before, after soulbox.TemplateRef) (soulbox.BuildDiff, error) {
	t, err := s.see(team, before.Name)
	if err != nil {
		return soulbox.BuildDiff{}, err
	}
	s.asked = []soulbox.TemplateRef{before, after}
	if t.Team != team {
		return soulbox.BuildDiff{Before: made(t)[2], After: made(t)[1], Bump: soulbox.Major}, nil
	}
	return soulbox.BuildDiff{
		Before: made(t)[2], After: made(t)[1], Bump: soulbox.Major, Recipe: "-RUN false\n+RUN true\n",
		Packages: []soulbox.PackageChange{
			{Kind: soulbox.Created, Manager: "pip", Name: "numpy", After: "2.1"},
			{Kind: soulbox.Changed, Manager: "pip", Name: "pip", Before: "1", After: "2"},
			{Kind: soulbox.Removed, Manager: "dpkg", Name: "curl", Before: "8"},
		},
		Env:    []soulbox.ValueChange{{Kind: soulbox.Changed, Name: "PATH", Before: "/bin", After: ""}},
		Values: []soulbox.ValueChange{{Kind: soulbox.Changed, Name: "base", Before: "debian", After: "ubuntu"}},
	}, nil
}

func (s *shelf) Tags(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID) ([]soulbox.Tag, error) {
	_, err := s.see(team, string(id))
	return []soulbox.Tag{{Name: "default", Build: buildID, At: epoch}, {Name: "old", Build: olderID, At: epoch}}, err
}

func (s *shelf) RemoveTags(_ context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tags []string) error {
	_, err := s.own(team, soulbox.TemplateID(ref.Name))
	if err == nil && tags[0] == "default" {
		return soulbox.Errorf(soulbox.Invalid, "the tag default cannot be removed")
	}
	s.asked = tags
	return err
}

// moved returns the build that something was done with.
func (s *shelf) moved(team soulbox.TeamID, id string, asked any) (*soulbox.Build, error) {
	t, err := s.own(team, soulbox.TemplateID(id))
	if err != nil {
		return nil, err
	}
	s.asked = asked
	return made(t)[1], nil
}

func (s *shelf) Promote(_ context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tag string) (*soulbox.Build, error) {
	return s.moved(team, ref.Name, []any{ref, tag})
}

func (s *shelf) Rollback(_ context.Context, team soulbox.TeamID, to soulbox.TemplateRef) (*soulbox.Build, error) {
	return s.moved(team, to.Name, to)
}

func (s *shelf) Deprecate(_ context.Context, team soulbox.TeamID, at soulbox.TemplateRef, reason string) (*soulbox.Build, error) {
	b, err := s.moved(team, at.Name, []any{at, reason})
	if err == nil {
		b.Retired = reason
	}
	return b, err
}

func listingOf(t *soulbox.Template) *soulbox.Listing {
	return &soulbox.Listing{
		Template: t, Namespace: "ours", Description: "Python and <more>", Readme: "# Mine\n<script>", Licence: "MIT", Categories: []string{"data"}, Keywords: []string{"python", "c++"},
		Stars: 4.5, Ratings: 2, Mine: 4, Downloads: 7, ForkOf: "tpl0", PublishedAt: epoch,
	}
}

func (s *shelf) Search(_ context.Context, f soulbox.ListingFilter) (soulbox.ListingPage, error) {
	s.asked = f
	page := soulbox.ListingPage{Next: "more", Total: 12}
	list, _ := s.Templates(context.Background(), f.Team)
	for _, t := range list {
		page.Listings = append(page.Listings, &soulbox.Listing{Template: t, Namespace: "ours"})
	}
	return page, nil
}

func (s *shelf) Categories(_ context.Context, team soulbox.TeamID) (map[string]int, error) {
	s.asked = team
	return map[string]int{"web": 2, "data": 1}, nil
}

func (s *shelf) Listing(_ context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Listing, error) {
	t, err := s.see(team, ref.Name)
	if err != nil {
		return nil, err
	}
	l := listingOf(t)
	if t.Public {
		l.Readme = ""
	}
	return l, nil
}

func (s *shelf) SetListing(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID, c soulbox.ListingChange) (*soulbox.Listing, error) {
	t, err := s.own(team, id)
	if err != nil {
		return nil, err
	}
	s.asked = c
	return listingOf(t), nil
}

func (s *shelf) Publish(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID, public bool) (*soulbox.Template, error) {
	t, err := s.own(team, id)
	s.asked = public
	return t, err
}

func (s *shelf) Rate(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID, stars int) error {
	_, err := s.see(team, string(id))
	s.asked = stars
	return err
}

func (s *shelf) Report(_ context.Context, team soulbox.TeamID, id soulbox.TemplateID, reason string) error {
	_, err := s.see(team, string(id))
	s.asked = reason
	return err
}

func (s *shelf) Fork(_ context.Context, team soulbox.TeamID, from soulbox.TemplateRef, name string) (*soulbox.Template, error) {
	t, err := s.see(team, from.Name)
	if err != nil {
		return nil, err
	}
	s.asked = []any{from, name}
	made := *t
	if name != "" {
		made.Name = name
	}
	made.ID, made.Team, made.Public = "tpl9", team, false
	return &made, nil
}

func (s *shelf) Export(_ context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, w io.Writer) error {
	if _, err := s.see(team, ref.Name); err != nil {
		return err
	}
	s.asked = ref
	return s.exported(w)
}

// newTemplateAPI returns the rows for templates with s behind them; it exports only
// if s has something to export.
func newTemplateAPI(t testing.TB, s *shelf) http.Handler {
	t.Helper()
	routes := native.TemplateRoutes(s, nil)
	if s.exported != nil {
		routes = native.TemplateRoutes(s, s)
	}
	a, err := api.New(slog.New(slog.DiscardHandler), &world{}, routes, api.Options{})
	if err != nil {
		t.Fatalf("the route table is wrong: %v", err)
	}
	return a
}
