package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// offer makes a ready public template with what it tells.
func offer(t *testing.T, s *store.Store, team soulbox.TeamID, name string, n int, c soulbox.ListingChange, packages ...soulbox.Package) *soulbox.Template {
	t.Helper()
	ctx := t.Context()
	b := made(build(team, n))
	b.Facts.Packages, b.EndedAt = packages, at(n)
	tpl, err := s.AddBuild(ctx, plainTemplate("tpl"+name, team, name), b, "", as(""))
	must(t, err)
	must(t, s.SetTemplatePublic(ctx, tpl.ID, true, at(n)))
	must(t, s.SetListing(ctx, tpl.ID, c, at(n)))
	tpl, err = s.Template(ctx, tpl.ID)
	must(t, err)
	return tpl
}

func testListings(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team, reader := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	tpl := plainTemplate("t1", team.ID, "app")
	b := ready(t, s, tpl, 1, "")
	got, err := s.Listing(ctx, "t1", reader.ID)
	must(t, err)
	want := &soulbox.Listing{Template: tpl.At(b), Namespace: "one"}
	want.Template.UpdatedAt = b.EndedAt
	wantSame(t, "Listing of a template that tells nothing", got, want)

	must(t, s.SetListing(ctx, "t1", soulbox.ListingChange{
		Description: new("does things"), Readme: new("# App\n"), Licence: new("MIT"),
		Categories: &[]string{"ai", "web"}, Keywords: &[]string{`odd "word"`, "snow"},
	}, at(2)))
	must(t, s.SetListing(ctx, "t1", soulbox.ListingChange{Readme: new("# New\n"), Keywords: &[]string{}}, at(3)))
	must(t, s.SetListing(ctx, "t1", soulbox.ListingChange{}, at(4)))
	must(t, s.SetTemplatePublic(ctx, "t1", true, at(5)))
	must(t, s.SetTemplatePublic(ctx, "t1", true, at(6))) // it is already
	must(t, s.RetireBuild(ctx, b.ID, "use another"))
	want.Description, want.Readme, want.Licence, want.Categories = "does things", "# New\n", "MIT", []string{"ai", "web"}
	want.Template.Public, want.PublishedAt, want.Template.UpdatedAt, want.Retired = true, at(5), at(6), "use another"
	got, err = s.Listing(ctx, "t1", reader.ID)
	must(t, err)
	wantSame(t, "Listing", got, want)
	page, err := s.Listings(ctx, soulbox.ListingFilter{Team: reader.ID})
	must(t, err)
	want.Readme = ""
	wantSame(t, "Listings", page, soulbox.ListingPage{Listings: []*soulbox.Listing{want}, Total: 1})

	must(t, s.SetTemplatePublic(ctx, "t1", false, at(7)))
	got, err = s.Listing(ctx, "t1", reader.ID)
	must(t, err)
	if !got.PublishedAt.IsZero() || got.Readme != "# New\n" {
		t.Errorf("a template that is private again tells %+v", got)
	}
	wantKind(t, "SetListing of an unknown id", s.SetListing(ctx, "t9", soulbox.ListingChange{}, at(9)), soulbox.NotFound)
	_, err = s.Listing(ctx, "t9", reader.ID)
	wantKind(t, "Listing of an unknown id", err, soulbox.NotFound)

	// Where it was copied from shows to those who may see that.
	fork := made(build(reader.ID, 8))
	_, err = s.AddBuild(ctx, plainTemplate("t2", reader.ID, "copy"), fork, "t1", as(""))
	must(t, err)
	for who, want := range map[soulbox.TeamID]soulbox.TemplateID{team.ID: "t1", reader.ID: ""} {
		got, err := s.Listing(ctx, "t2", who)
		must(t, err)
		if got.ForkOf != want {
			t.Errorf("to %s the copy is one of %q, want %q", who, got.ForkOf, want)
		}
	}
}

// catalogue is some templates to look for.
func catalogue(t *testing.T, s *store.Store) (reader *soulbox.Team) {
	t.Helper()
	team, reader := makeTeam(t, s, "acme"), makeTeam(t, s, "reader")
	pip := func(name string) soulbox.Package { return soulbox.Package{Manager: "pip", Name: name, Version: "1.0"} }
	deb := func(name string) soulbox.Package {
		return soulbox.Package{Manager: "dpkg", Name: name, Version: "1.0"}
	}
	offer(t, s, "", "python", 1, soulbox.ListingChange{Description: new("Python for everything"), Categories: &[]string{"language"}}, deb("python3"), deb("curl"))
	offer(t, s, team.ID, "python-science", 2, soulbox.ListingChange{
		Description: new("Notebooks with the usual things"), Keywords: &[]string{"jupyter", "Data"}, Categories: &[]string{"language", "data"},
	}, pip("numpy"), pip("pandas"), deb("curl"))
	offer(t, s, team.ID, "charts", 3, soulbox.ListingChange{
		Description: new("Charts"), Readme: new("Draws charts with Python. 数据图表。"), Categories: &[]string{"data"},
	}, pip("matplotlib"), pip("numpy"))
	offer(t, s, team.ID, "shell", 4, soulbox.ListingChange{Description: new("It's \"a\" shell: -- * AND OR NEAR( ^x {y} :z '"), Licence: new("GPL-3.0-only")}, deb("bash"), pip("python"))
	offer(t, s, team.ID, "retired", 5, soulbox.ListingChange{Keywords: &[]string{"python"}})
	ready(t, s, plainTemplate("tplmine", reader.ID, "mine"), 6, "")
	ready(t, s, plainTemplate("tplhidden", team.ID, "hidden-python"), 7, "")
	_, err := s.InsertDraft(t.Context(), plainTemplate("tpldraft", reader.ID, "draft-python"), build(reader.ID, 8))
	must(t, err)
	return reader
}

func names(page soulbox.ListingPage) []string {
	all := []string{}
	for _, l := range page.Listings {
		all = append(all, l.Template.Name)
	}
	return all
}

func testListingSearch(t *testing.T, s *store.Store) {
	ctx := t.Context()
	reader := catalogue(t, s)
	for _, test := range []struct {
		name   string
		filter soulbox.ListingFilter
		want   []string // in order
	}{
		{"all", soulbox.ListingFilter{Sort: soulbox.ByName}, []string{"charts", "mine", "python", "python-science", "retired", "shell"}},
		{"the same by default", soulbox.ListingFilter{}, []string{"charts", "mine", "python", "python-science", "retired", "shell"}},
		{"newest", soulbox.ListingFilter{Sort: soulbox.ByUpdate}, []string{"mine", "retired", "shell", "charts", "python-science", "python"}},
		{"own", soulbox.ListingFilter{Mine: true}, []string{"mine"}},
		// The name itself, a name, a keyword, a package, a text.
		{"ranked", soulbox.ListingFilter{Query: "python"}, []string{"python", "python-science", "retired", "shell", "charts"}},
		{"case", soulbox.ListingFilter{Query: "  PYTHON "}, []string{"python", "python-science", "retired", "shell", "charts"}},
		{"sorted otherwise", soulbox.ListingFilter{Query: "python", Sort: soulbox.ByName}, []string{"charts", "python", "python-science", "retired", "shell"}},
		{"begin of a word", soulbox.ListingFilter{Query: "jup"}, []string{"python-science"}},
		{"not its end", soulbox.ListingFilter{Query: "yter"}, nil},
		{"all of the words", soulbox.ListingFilter{Query: "python numpy"}, []string{"python-science", "charts"}},
		{"one of them nowhere", soulbox.ListingFilter{Query: "python rocket"}, nil},
		{"keyword", soulbox.ListingFilter{Query: "data"}, []string{"charts", "python-science"}},
		{"namespace", soulbox.ListingFilter{Query: "acme", Sort: soulbox.ByName}, []string{"charts", "python-science", "retired", "shell"}},
		{"licence", soulbox.ListingFilter{Query: "gpl 3.0"}, []string{"shell"}},
		{"base", soulbox.ListingFilter{Query: "bookworm", Sort: soulbox.ByName}, []string{"charts", "mine", "python", "python-science", "retired", "shell"}},
		{"without spaces", soulbox.ListingFilter{Query: "图表"}, []string{"charts"}},
		{"its own signs", soulbox.ListingFilter{Query: `"shell" AND (it's NEAR x) - * ^ : {y}`}, []string{"shell"}},
		{"signs only", soulbox.ListingFilter{Query: `"*' & | ! :* <->`}, nil},
		{"many words", soulbox.ListingFilter{Query: strings.Repeat("python ", 5000)}, []string{"python", "python-science", "retired", "shell", "charts"}},
		{"category", soulbox.ListingFilter{Category: "data"}, []string{"charts", "python-science"}},
		{"no category", soulbox.ListingFilter{Category: "dat"}, nil},
		{"category and words", soulbox.ListingFilter{Category: "data", Query: "jupyter"}, []string{"python-science"}},
		{"package", soulbox.ListingFilter{Package: "numpy"}, []string{"charts", "python-science"}},
		{"package of a manager", soulbox.ListingFilter{Package: "pip:python"}, []string{"shell"}},
		{"package of another manager", soulbox.ListingFilter{Package: "dpkg:numpy"}, nil},
		{"begin of a package", soulbox.ListingFilter{Package: "python"}, []string{"shell"}}, // and not python3
		{"package with a sign", soulbox.ListingFilter{Package: `nu"mpy`}, nil},
		{"package of signs", soulbox.ListingFilter{Package: `",`}, nil},
		{"package of a template that says nothing", soulbox.ListingFilter{Package: `odd "name", <b>`}, []string{"mine"}},
		{"no such order", soulbox.ListingFilter{Query: "jupyter", Sort: "stars'"}, []string{"python-science"}},
	} {
		test.filter.Team = reader.ID
		page, err := s.Listings(ctx, test.filter)
		must(t, err)
		if diff := cmp.Diff(test.want, names(page), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		if page.Total != len(test.want) || page.Next != "" {
			t.Errorf("%s: %d in all, next page %q; want %d and none", test.name, page.Total, page.Next, len(test.want))
		}
	}

	// What changes is found as it is now.
	must(t, s.SetListing(ctx, "tplcharts", soulbox.ListingChange{Readme: new("Draws nothing."), Keywords: &[]string{"easel"}}, at(20)))
	must(t, s.PutTags(ctx, "tplcharts", buildID(3), []string{"brush"}, at(21)))
	for query, want := range map[string][]string{"easel": {"charts"}, "draws": {"charts"}, "brush": {"charts"}, "图表": nil} {
		page, err := s.Listings(ctx, soulbox.ListingFilter{Team: reader.ID, Query: query})
		must(t, err)
		if diff := cmp.Diff(want, names(page), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s after a change (-want +got):\n%s", query, diff)
		}
	}
	must(t, s.DeleteTags(ctx, "tplcharts", []string{"brush"}))
	page, err := s.Listings(ctx, soulbox.ListingFilter{Team: reader.ID, Query: "brush"})
	must(t, err)
	if page.Total != 0 {
		t.Errorf("a tag that was removed is found at %v", names(page))
	}

	count, err := s.Categories(ctx, reader.ID)
	must(t, err)
	wantSame(t, "Categories", count, map[string]int{"language": 2, "data": 2})
}

func testListingPages(t *testing.T, s *store.Store) {
	ctx := t.Context()
	var want []string
	for n := range 23 {
		name := fmt.Sprintf("app-%02d", n)
		offer(t, s, "", name, n, soulbox.ListingChange{})
		want = append(want, name)
	}
	for _, f := range []soulbox.ListingFilter{{Limit: 5}, {Limit: 5, Query: "app"}, {Limit: 23}, {Limit: 1, Sort: soulbox.ByName}, {}} {
		var got []string
		for {
			page, err := s.Listings(ctx, f)
			must(t, err)
			got = append(got, names(page)...)
			if page.Total != len(want) || len(got) > len(want) {
				t.Fatalf("%+v: %d in all, %d seen", f, page.Total, len(got))
			}
			if f.Cursor = page.Next; f.Cursor == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: pages show %v, want %v", f, got, want)
		}
	}
	page, err := s.Listings(ctx, soulbox.ListingFilter{Limit: 20})
	must(t, err)
	page, err = s.Listings(ctx, soulbox.ListingFilter{Cursor: page.Next})
	must(t, err)
	wantSame(t, "the rest", names(page), want[20:])
	for _, bad := range []string{"x", "KzA", "Ky0x", "Kys1", "NQ", "KzU=", strings.Repeat("Kz", 99)} {
		_, err := s.Listings(ctx, soulbox.ListingFilter{Cursor: bad})
		wantKind(t, "Listings behind cursor "+bad, err, soulbox.Invalid)
	}
}

// testListingVisibility looks at every template with the eyes of everybody.
func testListingVisibility(t *testing.T, s *store.Store) {
	ctx := t.Context()
	one, two := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	for n, tpl := range []struct {
		team   soulbox.TeamID
		name   string
		public bool
	}{{"", "house", false}, {one.ID, "one-public", true}, {one.ID, "one-private", false}, {two.ID, "two-public", true}, {two.ID, "two-private", false}} {
		made := offer(t, s, tpl.team, tpl.name, n, soulbox.ListingChange{Readme: new("word"), Categories: &[]string{"cat"}}, soulbox.Package{Manager: "npm", Name: "pack", Version: "1"})
		must(t, s.SetTemplatePublic(ctx, made.ID, tpl.public, at(n)))
	}
	for team, want := range map[soulbox.TeamID][]string{
		one.ID:   {"house", "one-private", "one-public", "two-public"},
		two.ID:   {"house", "one-public", "two-private", "two-public"},
		"nobody": {"house", "one-public", "two-public"},
	} {
		for _, f := range []soulbox.ListingFilter{{}, {Query: "word"}, {Category: "cat"}, {Package: "pack"}, {Query: "word", Package: "npm:pack", Category: "cat", Limit: 10}} {
			f.Team, f.Sort = team, soulbox.ByName
			page, err := s.Listings(ctx, f)
			must(t, err)
			if !slices.Equal(names(page), want) || page.Total != len(want) {
				t.Errorf("%s finds %v of %d with %+v, want %v", team, names(page), page.Total, f, want)
			}
		}
		count, err := s.Categories(ctx, team)
		must(t, err)
		wantSame(t, "Categories", count, map[string]int{"cat": len(want)})
	}
}

func testRatings(t *testing.T, s *store.Store) {
	ctx := t.Context()
	owner, one, two := makeTeam(t, s, "owner"), makeTeam(t, s, "one"), makeTeam(t, s, "two")
	offer(t, s, owner.ID, "a", 1, soulbox.ListingChange{})
	offer(t, s, owner.ID, "b", 2, soulbox.ListingChange{})
	look := func(stars float64, ratings, mine int) {
		t.Helper()
		l, err := s.Listing(ctx, "tplb", one.ID)
		must(t, err)
		if l.Stars != stars || l.Ratings != ratings || l.Mine != mine {
			t.Errorf("%v stars of %d, %d by the reader; want %v, %d, %d", l.Stars, l.Ratings, l.Mine, stars, ratings, mine)
		}
	}
	look(0, 0, 0)
	must(t, s.Rate(ctx, "tplb", one.ID, 2, at(1)))
	look(2, 1, 2)
	must(t, s.Rate(ctx, "tplb", two.ID, 5, at(2)))
	look(3.5, 2, 2)
	must(t, s.Rate(ctx, "tplb", one.ID, 4, at(3)))
	look(4.5, 2, 4)
	page, err := s.Listings(ctx, soulbox.ListingFilter{Team: one.ID, Sort: soulbox.ByStars})
	must(t, err)
	wantSame(t, "Listings by stars", names(page), []string{"b", "a"})
	must(t, s.Rate(ctx, "tplb", one.ID, 0, at(4)))
	look(5, 1, 0)
	wantKind(t, "Rate of an unknown template", s.Rate(ctx, "ghost", one.ID, 3, at(5)), soulbox.NotFound)
	must(t, s.Rate(ctx, "ghost", one.ID, 0, at(5)))

	// Of two with the same stars, the one that more teams gave them.
	must(t, s.Rate(ctx, "tpla", one.ID, 5, at(6)))
	must(t, s.Rate(ctx, "tpla", two.ID, 5, at(6)))
	page, err = s.Listings(ctx, soulbox.ListingFilter{Team: one.ID, Sort: soulbox.ByStars})
	must(t, err)
	wantSame(t, "Listings by stars", names(page), []string{"a", "b"})
}

func testReports(t *testing.T, s *store.Store) {
	ctx := t.Context()
	one, two := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	offer(t, s, one.ID, "a", 1, soulbox.ListingChange{})
	report := func(team soulbox.TeamID, why string, n int) soulbox.Report {
		return soulbox.Report{Template: "tpla", Team: team, Reason: why, At: at(n)}
	}
	must(t, s.Report(ctx, report(two.ID, "first thought", 1)))
	must(t, s.Report(ctx, report(one.ID, "mine", 2)))
	must(t, s.Report(ctx, report(two.ID, "it mines coins", 3)))
	got, err := s.Reports(ctx)
	must(t, err)
	wantSame(t, "Reports", got, []soulbox.Report{report(two.ID, "it mines coins", 3), report(one.ID, "mine", 2)})
	wantKind(t, "Report of an unknown template", s.Report(ctx, soulbox.Report{Template: "ghost", Team: one.ID}), soulbox.NotFound)
}
