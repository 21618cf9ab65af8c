package template_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestListing(t *testing.T) {
	w := open(t)
	w.some(t)
	l, err := w.SetListing(t.Context(), ours, "our-app", soulbox.ListingChange{
		Description: new("An app"), Readme: new("# App"), Licence: new("MIT"),
		Categories: &[]string{"web"}, Keywords: &[]string{"c++", "http-2"},
	})
	if err != nil || l.Description != "An app" || l.Readme != "# App" || !slices.Equal(l.Keywords, []string{"c++", "http-2"}) {
		t.Fatalf("SetListing: %+v, %v", l, err)
	}
	l, err = w.SetListing(t.Context(), ours, "our-app", soulbox.ListingChange{Readme: new("# New")})
	if err != nil || l.Description != "An app" || l.Readme != "# New" {
		t.Errorf("SetListing: %+v, %v", l, err)
	}
	for name, c := range map[string]soulbox.ListingChange{
		"a long description": {Description: new(strings.Repeat("x", 501))},
		"a long readme":      {Readme: new(strings.Repeat("x", 256<<10+1))},
		"a long licence":     {Licence: new(strings.Repeat("x", 201))},
	} {
		_, err := w.SetListing(t.Context(), ours, "our-app", c)
		wantError(t, name, err, soulbox.TooLarge, "bytes, and may have")
	}
	for name, c := range map[string]soulbox.ListingChange{
		"NUL in a readme":       {Readme: new("a\x00")},
		"a licence of no text":  {Licence: new("\xff")},
		"many keywords":         {Keywords: new(slices.Repeat([]string{"a"}, 21))},
		"a category with space": {Categories: &[]string{"a b"}},
		"a category in quotes":  {Categories: &[]string{`"a"`}},
		"an empty category":     {Categories: &[]string{""}},
		"a long keyword":        {Keywords: &[]string{strings.Repeat("x", 41)}},
		"a keyword in capitals": {Keywords: &[]string{"HTTP"}},
	} {
		_, err := w.SetListing(t.Context(), ours, "our-app", c)
		wantError(t, name, err, soulbox.Invalid, "")
	}
	_, err = w.SetListing(t.Context(), ours, "their-gift", soulbox.ListingChange{})
	wantError(t, "SetListing of another team's", err, soulbox.Forbidden, "template 'gift' belongs to another team")
	_, err = w.SetListing(t.Context(), ours, "house-node", soulbox.ListingChange{})
	wantError(t, "SetListing of the house's", err, soulbox.Forbidden, "template 'node' belongs to the house and cannot be changed")
	again, err := w.Listing(t.Context(), ours, ref(t, "app"))
	if diff := cmp.Diff(l, again); diff != "" || err != nil {
		t.Errorf("Listing after what was refused: %v\n%s", err, diff)
	}
}

func TestPublishAndSearch(t *testing.T) {
	w := open(t)
	w.some(t)
	find := func(team soulbox.TeamID, f soulbox.ListingFilter) []string {
		t.Helper()
		f.Team = team
		page, err := w.Search(t.Context(), f)
		if err != nil {
			t.Fatalf("Search: %v", err)
		}
		var names []string
		for _, l := range page.Listings {
			names = append(names, l.Namespace+"/"+l.Template.Name)
		}
		return names
	}
	if got := find(theirs, soulbox.ListingFilter{Query: "app"}); !slices.Equal(got, []string{"theirs/app"}) {
		t.Errorf("before it is public: %v", got)
	}
	tpl, err := w.Publish(t.Context(), ours, "our-app", true)
	if err != nil || !tpl.Public || !w.row(t, "our-app").Public {
		t.Fatalf("Publish: %+v, %v", tpl, err)
	}
	if got := find(theirs, soulbox.ListingFilter{Query: "app", Sort: soulbox.ByName}); !slices.Equal(got, []string{"ours/app", "theirs/app"}) {
		t.Errorf("while it is public: %v", got)
	}
	if got, err := w.Template(t.Context(), theirs, ref(t, "ours/app")); err != nil || got.ID != "our-app" {
		t.Errorf("Template: %+v, %v", got, err)
	}
	if _, err := w.Publish(t.Context(), ours, "our-app", false); err != nil {
		t.Fatal(err)
	}
	if got := find(theirs, soulbox.ListingFilter{Query: "app"}); !slices.Equal(got, []string{"theirs/app"}) {
		t.Errorf("after it was taken back: %v", got)
	}
	_, err = w.Publish(t.Context(), ours, "their-gift", false)
	wantError(t, "Publish of another team's", err, soulbox.Forbidden, "belongs to another team")
	for what, f := range map[string]soulbox.ListingFilter{"order": {Sort: "worst"}, "cursor": {Cursor: "x"}, "text": {Query: "a\x00"}, "category": {Category: "\xff"}} {
		_, err := w.Search(t.Context(), f)
		wantError(t, "Search with a bad "+what, err, soulbox.Invalid, "")
	}
	_, err = w.Search(t.Context(), soulbox.ListingFilter{Query: strings.Repeat("x", 1001)})
	wantError(t, "Search for much", err, soulbox.TooLarge, "")
}

func TestRate(t *testing.T) {
	w := open(t)
	w.some(t)
	for _, stars := range []int{1, 5, 3} {
		if err := w.Rate(t.Context(), ours, "their-gift", stars); err != nil {
			t.Fatalf("Rate: %v", err)
		}
		l, err := w.Listing(t.Context(), ours, ref(t, "theirs/gift"))
		if err != nil || l.Mine != stars || l.Ratings != 1 || l.Stars != float64(stars) {
			t.Errorf("after %d stars: %+v, %v", stars, l, err)
		}
	}
	if err := w.Rate(t.Context(), ours, "their-gift", 0); err != nil {
		t.Fatalf("Rate: %v", err)
	}
	for _, stars := range []int{-1, 6, 1 << 40} {
		wantError(t, "Rate with strange stars", w.Rate(t.Context(), ours, "their-gift", stars), soulbox.Invalid, "1 to 5 stars")
	}
	wantError(t, "Rate one's own", w.Rate(t.Context(), theirs, "their-gift", 5), soulbox.Forbidden, "is your team's own and cannot be rated by it")
	if err := w.Rate(t.Context(), "nobody", "their-gift", 5); err == nil {
		t.Error("Rate by a team that does not exist succeeds")
	}
	l, err := w.Listing(t.Context(), ours, ref(t, "theirs/gift"))
	if err != nil || l.Ratings != 0 || l.Stars != 0 {
		t.Errorf("after all were taken back or refused: %+v, %v", l, err)
	}

	if err := w.Report(t.Context(), ours, "their-gift", "it mines coins"); err != nil {
		t.Fatalf("Report: %v", err)
	}
	reports, err := w.Reports(t.Context())
	if err != nil || len(reports) != 1 || reports[0].Reason != "it mines coins" || reports[0].Team != ours || !strings.Contains(w.log.String(), "template reported") {
		t.Errorf("Reports: %+v, %v", reports, err)
	}
	wantError(t, "Report one's own", w.Report(t.Context(), theirs, "their-gift", "x"), soulbox.Forbidden, "cannot be reported by it")
	wantError(t, "Report nothing", w.Report(t.Context(), ours, "their-gift", ""), soulbox.Invalid, "say what is wrong")
	wantError(t, "Report much", w.Report(t.Context(), ours, "their-gift", strings.Repeat("x", 2001)), soulbox.TooLarge, "")
}

// A copy is made of the same files, and shows nothing of how they were made.
func TestFork(t *testing.T) {
	w := open(t)
	w.start(t)
	recipe := run("write token hunter2", "install curl 1")
	recipe.Start = "serve"
	_, b, err := w.Request(t.Context(), soulbox.BuildRequest{
		Team: ours, Name: "app", Recipe: recipe, Public: new(true), Secrets: map[string][]byte{"s": []byte("hunter3")},
	})
	if err != nil {
		t.Fatal(err)
	}
	b = w.await(t, b.ID, soulbox.BuildReady)
	fork, err := w.Fork(t.Context(), theirs, ref(t, "ours/app@1"), "")
	if err != nil {
		t.Fatalf("Fork: %v", err)
	}
	if fork.Name != "app" || fork.Team != theirs || fork.Public || fork.Image != b.Image || fork.Snapshot != b.Snapshot || fork.Baked != b.Baked ||
		fork.Version != (soulbox.Version{Major: 1}) || fork.Size != b.Size || !cmp.Equal(fork.Env, b.Env) || fork.Workdir != b.Workdir {
		t.Errorf("the copy is %+v", fork)
	}
	c, err := w.Build(t.Context(), theirs, fork.ID, fork.Build)
	if err != nil || len(c.Recipe.Steps) != 0 || c.Recipe.Image != "" || !cmp.Equal(c.Facts.Packages, b.Facts.Packages) {
		t.Errorf("its build is %+v, %v", c, err)
	}
	lines, err := w.BuildLog(t.Context(), theirs, fork.ID, fork.Build, soulbox.BuildLogQuery{})
	if err != nil || len(lines) != 1 || lines[0].Message != "copied from ours/app@1, version 1.0.0" {
		t.Errorf("its log is %+v, %v", lines, err)
	}
	l, err := w.Listing(t.Context(), theirs, ref(t, "app"))
	if err != nil || l.ForkOf != b.Template {
		t.Errorf("its listing is %+v, %v", l, err)
	}
	for what, tt := range map[string]struct {
		team      soulbox.TeamID
		ref, name string
		kind      soulbox.Kind
		says      string
	}{
		"the same name":   {theirs, "ours/app", "", soulbox.Conflict, "template 'app' exists already"},
		"a bad name":      {theirs, "ours/app", "a b", soulbox.Invalid, "1 to 128 of"},
		"their namespace": {theirs, "ours/app", "ours/app", soulbox.Invalid, "the namespace of your team is 'theirs'"},
		"no such version": {theirs, "ours/app@9", "x", soulbox.NotFound, "has no version 9"},
		"nothing":         {theirs, "ours/ghost", "x", soulbox.NotFound, "template 'ours/ghost' not found"},
		"nobody":          {"nobody", "ours/app", "x", soulbox.NotFound, "team 'nobody' not found"},
	} {
		_, err := w.Fork(t.Context(), tt.team, ref(t, tt.ref), tt.name)
		wantError(t, what, err, tt.kind, tt.says)
	}

	// The copy stays what it is when the original goes.
	if err := w.Remove(t.Context(), ours, b.Template); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	w.ensure(t, "sweeps", "1")
	if _, err := w.images.Get(fork.Image); err != nil {
		t.Errorf("the copy's image: %v", err)
	}
	if got := w.baker.snapshots(t); !slices.Equal(got, []soulbox.SnapshotID{fork.Snapshot}) {
		t.Errorf("snapshots %v, want that of the copy", got)
	}
	if err := w.Remove(t.Context(), theirs, fork.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.baker.snapshots(t); len(got) != 0 {
		t.Errorf("snapshots %v of nobody", got)
	}
	if left, err := os.ReadDir(filepath.Join(w.dir, "builds")); err != nil || len(left) != 1 {
		t.Errorf("folders of builds: %v, %v; want that of uploads alone", left, err)
	}
}

func TestValidate(t *testing.T) {
	w := open(t)
	got, err := w.Validate(t.Context(), "FROM debian\nRUNN true\n")
	want := []soulbox.Problem{{Line: 2, Rule: "Rule", Message: "what is RUNN?", Remedy: "write RUN", URL: "url", Fatal: true}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Validate: %v (-want +got):\n%s", err, diff)
	}
	if got, err := w.Validate(t.Context(), "FROM debian\n"); len(got) != 0 || err != nil {
		t.Errorf("Validate of what is fine: %+v, %v", got, err)
	}
	_, err = w.Validate(t.Context(), "FROM a\x00")
	wantError(t, "Validate of NUL", err, soulbox.Invalid, "is not text")
	_, err = w.Validate(t.Context(), strings.Repeat("#", 2<<20))
	wantError(t, "Validate of much", err, soulbox.TooLarge, "")
}
