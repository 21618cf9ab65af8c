package storetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

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
