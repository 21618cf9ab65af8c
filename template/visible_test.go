package template_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/soulbox/soulbox"
)

// routes are all ways on which a team can ask for a template of which it knows
// the name, the id, or a build. Each returns what it tells, as a text.
func routes(w *world, team soulbox.TeamID, name string, id soulbox.TemplateID, build soulbox.BuildID) map[string]func(context.Context) (string, error) {
	by := func(ns, suffix string) soulbox.TemplateRef {
		r, err := soulbox.ParseTemplateRef(ns + name + suffix)
		if err != nil {
			panic(err)
		}
		return r
	}
	byID := soulbox.TemplateRef{Name: string(id)}
	text := func(v any, err error) (string, error) { return fmt.Sprintf("%+v", v), err }
	all := map[string]func(context.Context) (string, error){
		"Build": func(ctx context.Context) (string, error) { return text(w.Build(ctx, team, id, build)) },
		"Builds": func(ctx context.Context) (string, error) {
			return text(w.Builds(ctx, team, soulbox.BuildFilter{Template: id}))
		},
		"BuildLog": func(ctx context.Context) (string, error) {
			return text(w.BuildLog(ctx, team, id, build, soulbox.BuildLogQuery{}))
		},
		"Trigger": func(ctx context.Context) (string, error) {
			return "", w.Trigger(ctx, team, id, build, run("write a b"), nil)
		},
		"Cancel": func(ctx context.Context) (string, error) { return "", w.Cancel(ctx, team, id, build) },
		"Fail": func(ctx context.Context) (string, error) {
			return "", w.Fail(ctx, team, id, build, soulbox.BuildFailure{})
		},
		"HasUpload": func(ctx context.Context) (string, error) { return text(w.HasUpload(ctx, team, id, aHash)) },
		"Tags":      func(ctx context.Context) (string, error) { return text(w.Tags(ctx, team, id)) },
		"Publish":   func(ctx context.Context) (string, error) { return text(w.Publish(ctx, team, id, true)) },
		"Versions":  func(ctx context.Context) (string, error) { return text(w.Versions(ctx, team, id)) },
		"SetListing": func(ctx context.Context) (string, error) {
			return text(w.SetListing(ctx, team, id, soulbox.ListingChange{}))
		},
		"SetIsolation": func(ctx context.Context) (string, error) { return text(w.SetIsolation(ctx, team, id, soulbox.GVisor)) },
		"Rate":         func(ctx context.Context) (string, error) { return "", w.Rate(ctx, team, id, 5) },
		"Report":       func(ctx context.Context) (string, error) { return "", w.Report(ctx, team, id, "bad") },
		"Remove":       func(ctx context.Context) (string, error) { return "", w.Remove(ctx, team, id) },
	}
	for how, r := range map[string]soulbox.TemplateRef{
		"by id": byID, "by id and build": {Name: string(id), Tag: string(build)}, "by name": by("", ""), "in its namespace": by("theirs/", ""),
		"by tag": by("theirs/", ":v1"), "by version": by("theirs/", "@1"), "by a wrong version": by("theirs/", "@7"), "by build": by("theirs/", ":"+string(build)),
	} {
		all["Template "+how] = func(ctx context.Context) (string, error) { return text(w.Template(ctx, team, r)) }
		all["Listing "+how] = func(ctx context.Context) (string, error) { return text(w.Listing(ctx, team, r)) }
		all["AssignTags "+how] = func(ctx context.Context) (string, error) { return text(w.AssignTags(ctx, team, r, []string{"x"})) }
		all["RemoveTags "+how] = func(ctx context.Context) (string, error) {
			return "", w.RemoveTags(ctx, team, soulbox.TemplateRef{Namespace: r.Namespace, Name: r.Name}, []string{"v1"})
		}
		all["Promote "+how] = func(ctx context.Context) (string, error) { return text(w.Promote(ctx, team, r, "")) }
		all["Rollback "+how] = func(ctx context.Context) (string, error) { return text(w.Rollback(ctx, team, r)) }
		all["Deprecate "+how] = func(ctx context.Context) (string, error) { return text(w.Deprecate(ctx, team, r, "old")) }
		all["Diff "+how] = func(ctx context.Context) (string, error) { return text(w.Diff(ctx, team, r, r)) }
		all["SBOM "+how] = func(ctx context.Context) (string, error) { return text(w.SBOM(ctx, team, r)) }
		all["Export "+how] = func(ctx context.Context) (string, error) {
			var out strings.Builder
			err := w.Export(ctx, team, r, &out)
			return out.String(), err
		}
		all["Fork "+how] = func(ctx context.Context) (string, error) { return text(w.Fork(ctx, team, r, "copy")) }
	}
	return all
}

// A stranger can never learn that a private template exists: on every route it
// hears what it would hear of one that does not, to the letter.
func TestStrangersLearnNothing(t *testing.T) {
	w := open(t)
	w.start(t)
	const secret, ghost = "secretapp", "ghostlyxx" // of one length, for texts that are cut
	recipe := run("write a b", "install pwned 1")
	recipe.Start = "serve"
	_, b, err := w.Request(t.Context(), soulbox.BuildRequest{Team: theirs, Name: secret, Tags: []string{"v1", "default"}, Recipe: recipe})
	if err != nil {
		t.Fatal(err)
	}
	b = w.await(t, b.ID, soulbox.BuildReady)
	_, draft, err := w.Draft(t.Context(), theirs, secret+":draft", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.SetListing(t.Context(), theirs, b.Template, soulbox.ListingChange{Description: new("pwned"), Categories: &[]string{"pwned"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Upload(t.Context(), theirs, aHash, bytes.NewReader(pack(t, head('0', "a", 0o644, "")))); err != nil {
		t.Fatal(err)
	}
	before := w.row(t, b.Template)
	builds := []soulbox.BuildID{b.ID, draft.ID}
	nobody := soulbox.TemplateID("00000000000000000000")
	rapid.Check(t, func(rt *rapid.T) {
		build := rapid.SampledFrom(builds).Draw(rt, "build")
		there, unreal := routes(w, ours, secret, b.Template, build), routes(w, ours, ghost, nobody, soulbox.BuildID("f81d4fae-7dec-41d0-a765-00a0c91e6bf6"))
		name := rapid.SampledFrom(sorted(there)).Draw(rt, "route")
		got, err := there[name](rt.Context())
		want, wantErr := unreal[name](rt.Context())
		if err == nil || wantErr == nil {
			rt.Fatalf("%s tells %q, %v; and of none %q, %v", name, got, err, want, wantErr)
		}
		same := strings.NewReplacer(secret, ghost, string(b.Template), string(nobody), string(build), "f81d4fae-7dec-41d0-a765-00a0c91e6bf6")
		if soulbox.KindOf(err) != soulbox.NotFound || soulbox.KindOf(wantErr) != soulbox.NotFound || same.Replace(err.Error()) != wantErr.Error() || same.Replace(got) != want {
			rt.Fatalf("%s: %v (kind %d), of none: %v (kind %d)", name, err, soulbox.KindOf(err), wantErr, soulbox.KindOf(wantErr))
		}
	})
	for _, f := range []soulbox.ListingFilter{{}, {Query: secret}, {Query: "pwned"}, {Category: "pwned"}, {Package: "pwned"}, {Package: "dpkg:pwned"}} {
		f.Team = ours
		if page, err := w.Search(t.Context(), f); err != nil || page.Total != 0 {
			t.Errorf("Search %+v finds %d, %v", f, page.Total, err)
		}
	}
	if all, err := w.Templates(t.Context(), ours); err != nil || len(all) != 0 {
		t.Errorf("Templates: %v, %v", all, err)
	}
	if all, err := w.Categories(t.Context(), ours); err != nil || len(all) != 0 {
		t.Errorf("Categories: %v, %v", all, err)
	}
	bb := w.await(t, w.ask(t, "app", soulbox.Recipe{Template: "theirs/" + secret}).ID, soulbox.BuildFailed)
	if bb.Failure.Message != "template 'theirs/"+secret+"' not found" {
		t.Errorf("building on it fails with %+v", bb.Failure)
	}
	if after := w.row(t, b.Template); fmt.Sprint(after) != fmt.Sprint(before) || w.built(t, draft).State != soulbox.BuildWaiting {
		t.Errorf("the template is %+v, it was %+v", after, before)
	}
}

func sorted[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Of a public template others see what is ready, and never how it was made; its
// own team sees all of it; nobody but that changes it.
func TestWhoMayWhat(t *testing.T) {
	w := open(t)
	w.start(t)
	recipe := run("write token hunter2")
	request := func() *soulbox.Build {
		t.Helper()
		_, b, err := w.Request(t.Context(), soulbox.BuildRequest{Team: theirs, Name: "gift", Tags: []string{"v1", "default"}, Recipe: recipe, Public: new(true)})
		if err != nil {
			t.Fatal(err)
		}
		return w.await(t, b.ID, soulbox.BuildReady)
	}
	request()
	b := request()
	_, failed, err := w.Request(t.Context(), soulbox.BuildRequest{Team: theirs, Name: "gift", Recipe: run("fail hunter2")})
	if err != nil {
		t.Fatal(err)
	}
	failed = w.await(t, failed.ID, soulbox.BuildFailed)
	_, draft, err := w.Draft(t.Context(), theirs, "gift:draft", nil, soulbox.Size{})
	if err != nil {
		t.Fatal(err)
	}

	reads := []string{"Build", "Builds", "Tags", "Versions"}
	for _, how := range []string{"by id", "by id and build", "in its namespace", "by tag", "by version", "by build"} {
		for _, what := range []string{"Template", "Listing", "Diff", "SBOM", "Export"} {
			reads = append(reads, what+" "+how)
		}
	}
	for name, route := range routes(w, ours, "gift", b.Template, b.ID) {
		got, err := route(t.Context())
		switch {
		case slices.Contains(reads, name):
			if err != nil || strings.Contains(got, "hunter2") {
				t.Errorf("%s by another team: %q, %v", name, got, err)
			}
		case strings.HasSuffix(name, "by name"), strings.HasSuffix(name, "by a wrong version") && !strings.HasPrefix(name, "RemoveTags") && !strings.HasPrefix(name, "Listing"):
			if soulbox.KindOf(err) != soulbox.NotFound && soulbox.KindOf(err) != soulbox.Forbidden {
				t.Errorf("%s by another team: %v", name, err)
			}
		case strings.HasPrefix(name, "Fork"), strings.HasPrefix(name, "Listing"), name == "Rate", name == "Report":
			if err != nil && soulbox.KindOf(err) != soulbox.Conflict { // one of the forks was first
				t.Errorf("%s by another team: %v", name, err)
			}
		default:
			if soulbox.KindOf(err) != soulbox.Forbidden || soulbox.MessageOf(err) != "template 'gift' belongs to another team" {
				t.Errorf("%s by another team: %v, want Forbidden", name, err)
			}
		}
	}
	for _, hidden := range []soulbox.BuildID{failed.ID, draft.ID} {
		_, err := w.Build(t.Context(), ours, b.Template, hidden)
		wantError(t, "Build that is not ready, by another team", err, soulbox.NotFound, "build '"+string(hidden)+"' not found")
	}
	page, err := w.Builds(t.Context(), ours, soulbox.BuildFilter{Template: b.Template})
	if err != nil || len(page.Builds) != 2 || page.Total != 2 {
		t.Errorf("another team sees %d builds of %d, %v; want the 2 ready ones", len(page.Builds), page.Total, err)
	}
	page, err = w.Builds(t.Context(), ours, soulbox.BuildFilter{Template: b.Template, States: []soulbox.BuildState{soulbox.BuildFailed}})
	if err != nil || len(page.Builds) != 0 {
		t.Errorf("another team sees %d builds that failed, %v", len(page.Builds), err)
	}

	mine, err := w.Build(t.Context(), theirs, b.Template, b.ID)
	if err != nil || mine.Recipe.Steps[0].Args[0] != "write token hunter2" {
		t.Errorf("its own team sees %+v, %v", mine, err)
	}
	page, err = w.Builds(t.Context(), theirs, soulbox.BuildFilter{Template: b.Template})
	if err != nil || len(page.Builds) != 4 {
		t.Errorf("its own team sees %d builds, %v; want all 4", len(page.Builds), err)
	}
	for name, route := range routes(w, theirs, "gift", b.Template, b.ID) {
		if name == "Remove" || name == "Rate" || name == "Report" || strings.HasPrefix(name, "Fork") || strings.HasPrefix(name, "RemoveTags") {
			continue
		}
		_, err := route(t.Context())
		if kind := soulbox.KindOf(err); err != nil && (kind == soulbox.Forbidden || kind == soulbox.NotFound && !strings.HasSuffix(name, "by a wrong version")) {
			t.Errorf("%s by its own team: %v", name, err)
		}
	}
	if after := w.row(t, b.Template); after.CreatedAt.After(time.Now()) || after.Build == "" {
		t.Errorf("the template is %+v", after)
	}
}
