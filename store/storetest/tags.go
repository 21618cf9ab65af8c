package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

func testBuildTags(t *testing.T, s *store.Store) {
	ctx := t.Context()
	tpl := plainTemplate("t1", "team1", "app")
	one := ready(t, s, tpl, 1, "")
	two := ready(t, s, tpl, 2, soulbox.Minor, "next", "v2")
	foreign := ready(t, s, plainTemplate("t2", "team1", "other"), 3, "")
	waiting := build("team1", 4, "waiting")
	_, err := s.InsertDraft(ctx, tpl, waiting)
	must(t, err)

	look := func(want map[string]soulbox.BuildID) {
		t.Helper()
		tags, err := s.Tags(ctx, "t1")
		must(t, err)
		got := map[string]soulbox.BuildID{}
		for _, tag := range tags {
			got[tag.Name] = tag.Build
		}
		wantSame(t, "Tags", got, want)
		wantConsistent(t, s)
	}
	look(map[string]soulbox.BuildID{"default": one.ID, "next": two.ID, "v2": two.ID})
	for what, err := range map[string]error{
		"one that waits":      s.PutTags(ctx, "t1", waiting.ID, []string{"x"}, at(5)),
		"another template's":  s.PutTags(ctx, "t1", foreign.ID, []string{"x"}, at(5)),
		"nobody":              s.PutTags(ctx, "t1", buildID(99), []string{"x"}, at(5)),
		"an unknown template": s.PutTags(ctx, "t9", one.ID, []string{"x"}, at(5)),
	} {
		wantKind(t, "PutTags to "+what, err, soulbox.NotFound)
	}
	look(map[string]soulbox.BuildID{"default": one.ID, "next": two.ID, "v2": two.ID})

	must(t, s.PutTags(ctx, "t1", two.ID, []string{"default", "stable"}, at(6)))
	look(map[string]soulbox.BuildID{"default": two.ID, "next": two.ID, "v2": two.ID, "stable": two.ID})
	must(t, s.PutTags(ctx, "t1", one.ID, []string{"stable"}, at(7)))
	must(t, s.DeleteTags(ctx, "t1", []string{"v2", "default", "ghost"}))
	look(map[string]soulbox.BuildID{"default": two.ID, "next": two.ID, "stable": one.ID})
	tags, err := s.Tags(ctx, "t1")
	must(t, err)
	wantSame(t, "Tags", tags, []soulbox.Tag{
		{Name: "default", Build: two.ID, At: at(6)}, {Name: "next", Build: two.ID, At: two.EndedAt}, {Name: "stable", Build: one.ID, At: at(7)},
	})
}

// testTemplateDeletion deletes one with everything that can belong to it.
func testTemplateDeletion(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team, reader := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	ready(t, s, plainTemplate("tpl1", team.ID, "app"), 1, "")
	other := ready(t, s, plainTemplate("tpl2", team.ID, "other"), 2, "")
	must(t, s.SetListing(ctx, "tpl1", soulbox.ListingChange{Readme: new("read me")}, at(3)))
	must(t, s.Rate(ctx, "tpl1", reader.ID, 4, at(3)))
	must(t, s.Report(ctx, soulbox.Report{Template: "tpl1", Team: reader.ID, Reason: "odd", At: at(3)}))
	running := build(team.ID, 4, "new")
	_, err := s.InsertDraft(ctx, plainTemplate("tpl1", team.ID, "app"), running)
	must(t, err)
	running.State = soulbox.BuildRunning
	must(t, s.MoveBuild(ctx, made(running), soulbox.BuildWaiting))

	for n, state := range []soulbox.State{soulbox.Starting, soulbox.Running, soulbox.Pausing, soulbox.Paused, soulbox.Resuming, soulbox.Ending, soulbox.Ended} {
		sb := sandbox(reader, n)
		sb.State = state
		must(t, s.InsertSandbox(ctx, sb))
		if !state.Live() {
			continue
		}
		err := s.DeleteTemplate(ctx, "tpl1")
		wantKind(t, fmt.Sprintf("DeleteTemplate with a %s sandbox", state), err, soulbox.Invalid)
		if !strings.Contains(soulbox.MessageOf(err), "1 sandboxes that run or are paused") {
			t.Errorf("message %q does not say what is in the way", soulbox.MessageOf(err))
		}
		sb.State = soulbox.Ended
		must(t, s.MoveSandbox(ctx, sb, state))
	}
	must(t, s.DeleteTemplate(ctx, "tpl1"))
	wantKind(t, "DeleteTemplate again", s.DeleteTemplate(ctx, "tpl1"), soulbox.NotFound)
	for _, n := range []int{1, 4} {
		_, err := s.Build(ctx, buildID(n))
		wantKind(t, "Build of a deleted template", err, soulbox.NotFound)
	}
	running.EndedAt = at(5)
	wantKind(t, "FinishBuild for a deleted template", s.FinishBuild(ctx, running, as("")), soulbox.NotFound)
	if running.State != soulbox.BuildRunning || !running.Version.IsZero() {
		t.Errorf("a build that could not be finished is %s with version %s", running.State, running.Version)
	}
	page, err := s.Listings(ctx, soulbox.ListingFilter{Team: team.ID, Query: "app"})
	must(t, err)
	if page.Total != 0 {
		t.Errorf("a deleted template is found")
	}
	wantBuild(t, s, other)

	// Its name is free, for a template that has nothing of the old one.
	ready(t, s, plainTemplate("tpl3", team.ID, "app"), 6, "")
	l, err := s.Listing(ctx, "tpl3", reader.ID)
	must(t, err)
	if l.Ratings != 0 || l.Readme != "" || l.Template.Version != (soulbox.Version{Major: 1}) {
		t.Errorf("the new template has %+v", l)
	}
}
