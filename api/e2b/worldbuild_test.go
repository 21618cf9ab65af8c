package e2b_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
)

// seed is that of the installation.
var seed = soulbox.TokenSeed{1, 2, 3}

// The builds of our template "mine", newest first: one of each sort.
const (
	draftBuild   = "b0000000-0000-4000-8000-000000000009"
	queuedBuild  = "b0000000-0000-4000-8000-000000000008"
	runningBuild = "b0000000-0000-4000-8000-000000000007"
	stepBuild    = "b0000000-0000-4000-8000-000000000006" // failed at its second step
	baseBuild    = "b0000000-0000-4000-8000-000000000005" // failed before its first
	finishBuild  = "b0000000-0000-4000-8000-000000000004" // failed after its last
	readyBuild   = "b0000000-0000-4000-8000-000000000003"
	houseBuild   = "b0000000-0000-4000-8000-000000000002"
	theirBuild   = "b0000000-0000-4000-8000-000000000001"
	firstBuild   = "b0000000-0000-4000-8000-000000000000" // of the template "unbuilt"
)

var (
	hereHash  = strings.Repeat("a1", 32) // of files that are there
	otherHash = strings.Repeat("b2", 32)
)

func builds() []*soulbox.Build {
	size := soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB}
	failed := func(id soulbox.BuildID, f soulbox.BuildFailure) *soulbox.Build {
		return &soulbox.Build{
			ID: id, Template: "tpl2", Team: "ours", State: soulbox.BuildFailed, Size: size, Failure: &f, CreatedAt: epoch,
			QueuedAt: epoch.Add(time.Second), StartedAt: epoch.Add(2 * time.Second), EndedAt: epoch.Add(3 * time.Second),
		}
	}
	return []*soulbox.Build{
		{ID: draftBuild, Template: "tpl2", Team: "ours", State: soulbox.BuildWaiting, CreatedAt: epoch, Size: size},
		{ID: queuedBuild, Template: "tpl2", Team: "ours", State: soulbox.BuildWaiting, CreatedAt: epoch, QueuedAt: epoch.Add(time.Second), Size: size},
		{
			ID: runningBuild, Template: "tpl2", Team: "ours", State: soulbox.BuildRunning, CreatedAt: epoch,
			QueuedAt: epoch.Add(time.Second), StartedAt: epoch.Add(2 * time.Second), Size: size,
		},
		failed(stepBuild, soulbox.BuildFailure{Message: "failed to run command 'false': exit status 1", Step: 2}),
		failed(baseBuild, soulbox.BuildFailure{Message: "template 'gone' not found"}),
		failed(finishBuild, soulbox.BuildFailure{Message: "the start command ended with 1", Finish: true}),
		{
			ID: readyBuild, Template: "tpl2", Team: "ours", State: soulbox.BuildReady, CreatedAt: epoch, QueuedAt: epoch, StartedAt: epoch,
			EndedAt: epoch.Add(time.Minute), Size: size, Tags: []string{"default", "v1"},
		},
		{ID: houseBuild, Template: "tpl1", State: soulbox.BuildReady, CreatedAt: epoch, EndedAt: epoch.Add(time.Hour), Size: size},
		{ID: firstBuild, Template: "tpl5", Team: "ours", State: soulbox.BuildRunning, CreatedAt: epoch, QueuedAt: epoch, StartedAt: epoch, Size: size},
		{ID: theirBuild, Template: "tpl3", Team: "theirs", State: soulbox.BuildReady, CreatedAt: epoch, EndedAt: epoch, Size: size},
	}
}

// templates are the house's, ours, what others have published, and what they
// keep to themselves.
func templates() []*soulbox.Template {
	size := soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB}
	image := strings.Repeat("ab", 32)
	return []*soulbox.Template{
		{ID: "tpl2", Team: "ours", Name: "mine", Build: readyBuild, Image: image, Size: size, CreatedAt: epoch, UpdatedAt: epoch},
		{ID: "tpl1", Name: "base", Public: true, Build: houseBuild, Image: image, Size: size, Starts: 12, CreatedAt: epoch, UpdatedAt: epoch.Add(time.Hour)},
		{ID: "tpl3", Team: "theirs", Name: "tool", Public: true, Build: theirBuild, Image: image, Size: size, CreatedAt: epoch, UpdatedAt: epoch},
		{ID: "tpl4", Team: "theirs", Name: "private", Image: image, Size: size},
		{ID: "tpl5", Team: "ours", Name: "unbuilt", Size: size, CreatedAt: epoch, UpdatedAt: epoch},
	}
}

func (w *world) Templates(_ context.Context, team soulbox.TeamID) ([]*soulbox.Template, error) {
	return slices.DeleteFunc(templates(), func(t *soulbox.Template) bool { return t.Team != "" && t.Team != team }), w.fail
}

func (w *world) Template(_ context.Context, team soulbox.TeamID, ref soulbox.TemplateRef) (*soulbox.Template, error) {
	named := soulbox.TemplateRef{Namespace: ref.Namespace, Name: ref.Name}
	missing := soulbox.Errorf(soulbox.NotFound, "template '%s' not found", named)
	for _, t := range templates() {
		owner := map[soulbox.TeamID]string{"ours": "our-team", "theirs": "their-team"}[t.Team]
		byName := t.Name == ref.Name && (owner == ref.Namespace || ref.Namespace == "" && t.Team == team)
		if !byName && string(t.ID) != ref.Name {
			continue
		}
		if !t.Public && t.Team != team {
			if w.talks {
				return nil, soulbox.Errorf(soulbox.Forbidden, "template '%s' is another team's", named)
			}
			return nil, missing
		}
		if ref.Tag != "" && ref.Tag != "default" && ref.Tag != "v1" {
			return nil, ref.NoBuild()
		}
		return t, nil
	}
	return nil, missing
}

// own returns the team's template with an id.
func (w *world) own(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) (*soulbox.Template, error) {
	if w.fail != nil {
		return nil, w.fail
	}
	t, err := w.Template(ctx, team, soulbox.TemplateRef{Name: string(id)})
	if err == nil && t.Team != team {
		return nil, soulbox.Errorf(soulbox.Forbidden, "template '%s' is not your team's", t.Name)
	}
	return t, err
}

func (w *world) Remove(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID) error {
	_, err := w.own(ctx, team, id)
	w.asked = id
	return err
}

// A publishing is what Publish was asked for.
type publishing struct {
	ID     soulbox.TemplateID
	Public bool
}

func (w *world) Publish(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, public bool) (*soulbox.Template, error) {
	t, err := w.own(ctx, team, id)
	w.asked = publishing{id, public}
	return t, err
}

// A drafting is what Draft was asked for.
type drafting struct {
	Name string
	Tags []string
	Size soulbox.Size
}

func (w *world) Draft(_ context.Context, team soulbox.TeamID, name string, tags []string, size soulbox.Size) (*soulbox.Template, *soulbox.Build, error) {
	w.asked = drafting{name, tags, size}
	if w.fail != nil {
		return nil, nil, w.fail
	}
	t := &soulbox.Template{ID: "tpl9", Team: team, Name: name}
	return t, &soulbox.Build{ID: draftBuild, Template: t.ID, Team: team, State: soulbox.BuildWaiting, Tags: tags}, nil
}

// A triggering is what Trigger was asked for.
type triggering struct {
	ID     soulbox.TemplateID
	Build  soulbox.BuildID
	Recipe soulbox.Recipe
	Logins map[string]soulbox.Login
}

func (w *world) Trigger(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, r soulbox.Recipe, logins map[string]soulbox.Login) error {
	if _, err := w.Build(ctx, team, id, build); err != nil {
		return err
	}
	w.asked = triggering{id, build, r, logins}
	if build != draftBuild {
		return soulbox.Errorf(soulbox.Conflict, "build %s has its recipe already", build)
	}
	return nil
}

func (w *world) Fail(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, why soulbox.BuildFailure) error {
	_, err := w.Build(ctx, team, id, build)
	w.asked = why
	return err
}

func (w *world) Build(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID) (*soulbox.Build, error) {
	t, err := w.Template(ctx, team, soulbox.TemplateRef{Name: string(id)})
	if err != nil {
		return nil, err
	}
	for _, b := range builds() {
		if b.ID == build && b.Template == t.ID {
			return b, w.fail
		}
	}
	return nil, soulbox.Errorf(soulbox.NotFound, "build %s does not exist", build)
}

func (w *world) Builds(_ context.Context, _ soulbox.TeamID, f soulbox.BuildFilter) (soulbox.BuildPage, error) {
	if f.Limit > 1 || f.Cursor != "" {
		w.asked = f
	}
	all := slices.DeleteFunc(builds(), func(b *soulbox.Build) bool {
		return b.Template != f.Template || f.States != nil && !slices.Contains(f.States, b.State)
	})
	page := soulbox.BuildPage{Total: len(all)}
	if f.Cursor == "from4" {
		all = all[4:]
	}
	page.Builds = all[:min(f.Limit, len(all))]
	if len(all) > f.Limit && f.Limit == 4 {
		page.Next = "from4"
	}
	return page, w.fail
}

func (w *world) BuildLog(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, q soulbox.BuildLogQuery) ([]soulbox.BuildLine, error) {
	b, err := w.Build(ctx, team, id, build)
	if err != nil {
		return nil, err
	}
	if b.Team != team {
		return nil, soulbox.Errorf(soulbox.Forbidden, "build %s is not your team's", build)
	}
	if q.Limit != 1000 {
		w.asked = q
	}
	lines := []soulbox.BuildLine{
		{At: epoch, Level: "info", Step: "base", Message: "[base] FROM e2bdev/base"},
		{At: epoch.Add(time.Second), Level: "warn", Step: "1", Message: "[builder 1/2] [stderr]: a warning"},
		{At: epoch.Add(2 * time.Second), Level: "info", Step: "2", Message: "[builder 2/2] RUN false"},
		{At: epoch.Add(3 * time.Second), Level: "error", Step: "2", Message: "failed to run command 'false': exit status 1"},
		{At: epoch.Add(4 * time.Second), Level: "shout", Message: "the build as a whole"},
	}
	if q.Level == "warn" {
		lines = []soulbox.BuildLine{lines[1], lines[3]}
	}
	lines = lines[min(q.Offset, len(lines)):]
	if q.Limit > 0 {
		lines = lines[:min(q.Limit, len(lines))]
	}
	return lines, nil
}

func (w *world) HasUpload(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, hash string) (bool, error) {
	_, err := w.own(ctx, team, id)
	return hash == hereHash, err
}

// An uploading is what PutUpload was given.
type uploading struct {
	ID   soulbox.TemplateID
	Hash string
	Body string
}

func (w *world) PutUpload(_ context.Context, id soulbox.TemplateID, hash string, archive io.Reader) error {
	b, err := io.ReadAll(archive)
	w.asked = uploading{id, hash, string(b)}
	if w.uploaded != nil {
		w.uploaded <- err
	}
	return errors.Join(err, w.fail)
}

func (w *world) Tags(_ context.Context, _ soulbox.TeamID, id soulbox.TemplateID) ([]soulbox.Tag, error) {
	if id != "tpl2" {
		return nil, w.fail
	}
	return []soulbox.Tag{{Name: "default", Build: readyBuild, At: epoch}, {Name: "v1", Build: readyBuild, At: epoch.Add(time.Minute)}}, w.fail
}

// A tagging is what AssignTags or RemoveTags was asked for.
type tagging struct {
	Ref  string
	Tags []string
}

func (w *world) AssignTags(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tags []string) (*soulbox.Build, error) {
	w.asked = tagging{ref.String(), tags}
	t, err := w.Template(ctx, team, ref)
	if err == nil {
		_, err = w.own(ctx, team, t.ID)
	}
	return &soulbox.Build{ID: readyBuild, Template: "tpl2", Team: "ours"}, err
}

func (w *world) RemoveTags(ctx context.Context, team soulbox.TeamID, ref soulbox.TemplateRef, tags []string) error {
	_, err := w.AssignTags(ctx, team, ref, tags)
	return err
}

// amazon returns a client for which every host is a stand-in for ECR that knows
// one key.
func amazon(t testing.TB) *http.Client {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDGOOD/") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"__type":"UnrecognizedClientException","message":"The security token included in the request is invalid."}`)
			return
		}
		_, _ = io.WriteString(w, `{"authorizationData":[{"authorizationToken":"QVdTOnBhc3N3b3Jk"}]}`) // AWS:password
	}))
	t.Cleanup(srv.Close)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
		},
	}}
}
