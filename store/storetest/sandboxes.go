package storetest

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

func testSandboxRoundTrip(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	full := sandbox(team, 1)
	full.Network, full.Secure = soulbox.Network{Internet: true, Private: true}, true
	full.Env, full.Metadata = map[string]string{"A": "1"}, map[string]string{"user": "7"}
	full.State, full.End = soulbox.Ended, &soulbox.End{At: at(9), By: soulbox.ByOOM, Reason: "it used more memory than it had"}
	full.Timeout = 90*time.Minute + time.Microsecond
	full.Lifecycle = soulbox.Lifecycle{Pause: true, FilesOnly: true, Wake: true}
	full.Pause, full.From = &soulbox.Pause{Snapshot: "s1", Memory: true, At: at(7)}, "s0"
	full.Isolation, full.Build = soulbox.Runc, "b0"
	bare := &soulbox.Sandbox{ID: "ibare", Team: team.ID, State: soulbox.Starting, CreatedAt: at(1), ExpiresAt: at(2)}
	for _, sb := range []*soulbox.Sandbox{full, bare} {
		must(t, s.InsertSandbox(ctx, sb))
		got, err := s.Sandbox(ctx, sb.ID)
		must(t, err)
		wantSame(t, "Sandbox", got, sb)
	}
	secret := sandbox(team, 2)
	secret.Token, secret.Traffic = "never stored", "nor this"
	must(t, s.InsertSandbox(ctx, secret))
	got, err := s.Sandbox(ctx, secret.ID)
	must(t, err)
	if got.Token+got.Traffic != "" {
		t.Errorf("Token = %q, Traffic = %q, want them not stored", got.Token, got.Traffic)
	}
	wantKind(t, "InsertSandbox again", s.InsertSandbox(ctx, bare), soulbox.Conflict)
	_, err = s.Sandbox(ctx, "inobody")
	wantKind(t, "Sandbox of an unknown id", err, soulbox.NotFound)
	orphan := sandbox(team, 3)
	orphan.Team = "nobody"
	if err := s.InsertSandbox(ctx, orphan); err == nil {
		t.Error("InsertSandbox of a team that does not exist succeeds")
	}
}

func testSandboxMoves(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	sb := &soulbox.Sandbox{ID: "imover", Team: team.ID, Template: "tpl1", State: soulbox.Starting, CreatedAt: at(1), ExpiresAt: at(2)}
	must(t, s.InsertSandbox(ctx, sb))

	step := func(to soulbox.State) {
		t.Helper()
		from := sb.State
		sb.State = to
		must(t, s.MoveSandbox(ctx, sb, from))
		got, err := s.Sandbox(ctx, sb.ID)
		must(t, err)
		wantSame(t, "Sandbox after moving to "+string(to), got, sb)
	}
	sb.StartedAt, sb.ExpiresAt = at(2), at(7)
	step(soulbox.Running)
	sb.End = &soulbox.End{At: at(3), By: soulbox.ByClient, Reason: "killed"}
	step(soulbox.Ending)

	late := sb.Clone()
	late.State, late.End.Reason = soulbox.Ended, "somebody else's reason"
	wantKind(t, "MoveSandbox from a state it is not in", s.MoveSandbox(ctx, late, soulbox.Running), soulbox.Conflict)
	got, err := s.Sandbox(ctx, sb.ID)
	must(t, err)
	wantSame(t, "Sandbox after a refused move", got, sb)
	step(soulbox.Ended)

	ghost := sandbox(team, 9)
	wantKind(t, "MoveSandbox of an unknown one", s.MoveSandbox(ctx, ghost, soulbox.Starting), soulbox.Conflict)
}

// testSandboxPauses takes a sandbox through everything that sets and clears
// its Pause, and lets each move change what else it may.
func testSandboxPauses(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	sb := sandbox(team, 1)
	must(t, s.InsertSandbox(ctx, sb))
	for _, step := range []struct {
		what   string
		to     soulbox.State
		change func()
	}{
		{"a checkpoint while it runs", soulbox.Running, func() { sb.From = "s1" }},
		{"a pause begins", soulbox.Pausing, func() { sb.Pause = &soulbox.Pause{Snapshot: "s2", Memory: true} }},
		{"it fails", soulbox.Running, func() { sb.Pause = nil }},
		{"another begins", soulbox.Pausing, func() { sb.Pause = &soulbox.Pause{Snapshot: "s3", Memory: true, At: at(2)} }},
		{"it is paused", soulbox.Paused, func() { sb.From, sb.Pause.At = "s3", at(3) }},
		{"a resume without memory", soulbox.Resuming, func() { sb.Pause.Memory = false }},
		{"it fails", soulbox.Paused, func() { sb.Pause.Memory = true }},
		{"another", soulbox.Resuming, func() {
			sb.Timeout, sb.Lifecycle = 7*time.Minute, soulbox.Lifecycle{Pause: true}
		}},
		{"it runs", soulbox.Running, func() { sb.Pause, sb.StartedAt, sb.ExpiresAt = nil, at(4), at(11) }},
		{"a rollback", soulbox.Resuming, func() { sb.Pause = &soulbox.Pause{Snapshot: "s1", Memory: true, At: at(1)} }},
		{"it runs again", soulbox.Running, func() {
			sb.Pause, sb.From, sb.Lifecycle = nil, "s1", soulbox.Lifecycle{Wake: true, FilesOnly: true}
		}},
	} {
		from := sb.State
		sb.State = step.to
		step.change()
		must(t, s.MoveSandbox(ctx, sb, from))
		got, err := s.Sandbox(ctx, sb.ID)
		must(t, err)
		wantSame(t, "Sandbox after: "+step.what, got, sb)
	}
}

// testSandboxMovesOnce lets many end one sandbox: exactly one may do it.
func testSandboxMovesOnce(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	must(t, s.InsertSandbox(ctx, sandbox(team, 1)))
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			sb := sandbox(team, 1)
			sb.State, sb.End = soulbox.Ending, &soulbox.End{At: at(i + 1), By: soulbox.ByClient}
			err := s.MoveSandbox(ctx, sb, soulbox.Running)
			if err == nil {
				won.Add(1)
			} else {
				wantKind(t, "MoveSandbox of a loser", err, soulbox.Conflict)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d moves succeeded, want 1", n)
	}
}

func testSandboxChanges(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	sb := sandbox(team, 1)
	must(t, s.InsertSandbox(ctx, sb))
	must(t, s.SetSandboxExpiry(ctx, sb.ID, at(99), 3*time.Hour))
	must(t, s.SetSandboxNetwork(ctx, sb.ID, soulbox.Network{Internet: true, Private: true}))
	sb.ExpiresAt, sb.Timeout, sb.Network = at(99), 3*time.Hour, soulbox.Network{Internet: true, Private: true}
	got, err := s.Sandbox(ctx, sb.ID)
	must(t, err)
	wantSame(t, "Sandbox after changes", got, sb)

	sb.State = soulbox.Paused
	must(t, s.MoveSandbox(ctx, sb, soulbox.Running))
	wantKind(t, "SetSandboxExpiry of a paused one", s.SetSandboxExpiry(ctx, sb.ID, at(100), time.Hour), soulbox.Conflict)
	sb.State, sb.End = soulbox.Ending, &soulbox.End{At: at(2), By: soulbox.ByClient}
	must(t, s.MoveSandbox(ctx, sb, soulbox.Paused))
	wantKind(t, "SetSandboxExpiry of an ending one", s.SetSandboxExpiry(ctx, sb.ID, at(100), time.Hour), soulbox.Conflict)
	wantKind(t, "SetSandboxNetwork of an ending one", s.SetSandboxNetwork(ctx, sb.ID, soulbox.Network{}), soulbox.Conflict)
	wantKind(t, "SetSandboxExpiry of an unknown one", s.SetSandboxExpiry(ctx, "inobody", at(100), time.Hour), soulbox.Conflict)
}

// inState inserts a sandbox that was created at minute n and is in a state.
func inState(t *testing.T, s *store.Store, team *soulbox.Team, n int, state soulbox.State) *soulbox.Sandbox {
	t.Helper()
	sb := sandbox(team, n)
	sb.State = state
	if state == soulbox.Ending || state == soulbox.Ended {
		sb.End = &soulbox.End{At: at(n + 1), By: soulbox.ByTimeout, Reason: "over"}
	}
	must(t, s.InsertSandbox(t.Context(), sb))
	return sb
}

func ids(sandboxes []*soulbox.Sandbox) []soulbox.SandboxID {
	names := []soulbox.SandboxID{}
	for _, sb := range sandboxes {
		names = append(names, sb.ID)
	}
	return names
}

func testUnended(t *testing.T, s *store.Store) {
	ctx := t.Context()
	one, two := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	want := []*soulbox.Sandbox{
		inState(t, s, one, 1, soulbox.Starting),
		inState(t, s, two, 2, soulbox.Running),
		inState(t, s, one, 3, soulbox.Ending),
		inState(t, s, one, 5, soulbox.Pausing),
		inState(t, s, two, 6, soulbox.Paused),
		inState(t, s, one, 7, soulbox.Resuming),
		inState(t, s, one, 8, soulbox.Ended),
	}
	inState(t, s, one, 4, soulbox.Ended)
	got, err := s.UnendedSandboxes(ctx, at(9))
	must(t, err)
	wantSame(t, "UnendedSandboxes", got, want)
}

func testDeleteSandbox(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	running := inState(t, s, team, 1, soulbox.Running)
	first, second := inState(t, s, team, 2, soulbox.Ended), inState(t, s, team, 3, soulbox.Ended)
	inState(t, s, team, 50, soulbox.Ended)
	old, err := s.SandboxesEndedBefore(ctx, at(10), 5)
	must(t, err)
	wantSame(t, "SandboxesEndedBefore", old, []soulbox.SandboxID{first.ID, second.ID})
	old, err = s.SandboxesEndedBefore(ctx, at(10), 1)
	must(t, err)
	wantSame(t, "SandboxesEndedBefore with a limit", old, []soulbox.SandboxID{first.ID})

	must(t, s.DeleteSandbox(ctx, first.ID))
	wantKind(t, "DeleteSandbox again", s.DeleteSandbox(ctx, first.ID), soulbox.Conflict)
	wantKind(t, "DeleteSandbox of a running one", s.DeleteSandbox(ctx, running.ID), soulbox.Conflict)
	_, err = s.Sandbox(ctx, first.ID)
	wantKind(t, "Sandbox after DeleteSandbox", err, soulbox.NotFound)

	must(t, s.InsertSnapshot(ctx, snapshot(team, second.ID, 1)))
	must(t, s.DeleteSandbox(ctx, second.ID))
	left, err := s.SnapshotsOf(ctx, second.ID)
	must(t, err)
	if len(left) != 1 {
		t.Errorf("%d snapshots of a deleted sandbox, want it to keep its 1", len(left))
	}
}

func testListFilters(t *testing.T, s *store.Store) {
	ctx := t.Context()
	one, two := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	must(t, s.InsertTemplate(ctx, template("tpl7", "", "seven")))
	for n, state := range []soulbox.State{soulbox.Starting, soulbox.Running, soulbox.Running, soulbox.Ending, soulbox.Ended} {
		sb := sandbox(one, n)
		sb.State = state
		sb.Metadata = map[string]string{"n": fmt.Sprint(n), "even": fmt.Sprint(n%2 == 0)}
		if n == 2 {
			sb.Template, sb.Alias = "tpl7", ""
		}
		must(t, s.InsertSandbox(ctx, sb))
	}
	foreign := sandbox(two, 10)
	foreign.Metadata = map[string]string{"n": "1"}
	must(t, s.InsertSandbox(ctx, foreign))
	for n, state := range []soulbox.State{soulbox.Pausing, soulbox.Paused, soulbox.Resuming} {
		inState(t, s, one, 5+n, state)
	}

	every := []soulbox.State{soulbox.Starting, soulbox.Running, soulbox.Ending, soulbox.Ended}
	for _, test := range []struct {
		name   string
		filter soulbox.SandboxFilter
		want   []int // newest first
	}{
		{"live by default", soulbox.SandboxFilter{}, []int{7, 6, 5, 2, 1, 0}},
		{"ascending", soulbox.SandboxFilter{Ascending: true}, []int{0, 1, 2, 5, 6, 7}},
		{"paused ones", soulbox.SandboxFilter{States: []soulbox.State{soulbox.Paused}}, []int{6}},
		{"one state", soulbox.SandboxFilter{States: []soulbox.State{soulbox.Ended}}, []int{4}},
		{"all states", soulbox.SandboxFilter{States: every}, []int{4, 3, 2, 1, 0}},
		{"metadata", soulbox.SandboxFilter{Metadata: map[string]string{"n": "1"}}, []int{1}},
		{"metadata, two pairs", soulbox.SandboxFilter{States: every, Metadata: map[string]string{"n": "4", "even": "true"}}, []int{4}},
		{"metadata, one pair wrong", soulbox.SandboxFilter{States: every, Metadata: map[string]string{"n": "4", "even": "false"}}, nil},
		{"metadata, pairs crossed", soulbox.SandboxFilter{States: every, Metadata: map[string]string{"n": "true"}}, nil},
		{"template by id", soulbox.SandboxFilter{Template: "tpl7"}, []int{2}},
		{"template by name", soulbox.SandboxFilter{Template: "seven"}, []int{2}},
		{"template by alias", soulbox.SandboxFilter{Template: "base"}, []int{7, 6, 5, 1, 0}},
		{"template unknown", soulbox.SandboxFilter{Template: "none"}, nil},
		{"started after", soulbox.SandboxFilter{StartedAfter: sandbox(one, 1).StartedAt.Add(time.Microsecond)}, []int{7, 6, 5, 2}},
		{"started at that moment", soulbox.SandboxFilter{StartedAfter: sandbox(one, 1).StartedAt}, []int{7, 6, 5, 2, 1}},
		{"team unknown", soulbox.SandboxFilter{Team: "nobody"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.filter.Team == "" {
				test.filter.Team = one.ID
			}
			want := []soulbox.SandboxID{}
			for _, n := range test.want {
				want = append(want, sandbox(one, n).ID)
			}
			page, err := s.Sandboxes(ctx, test.filter)
			must(t, err)
			wantSame(t, "ids", ids(page.Sandboxes), want)
			if page.Total != len(want) || page.Next != "" {
				t.Errorf("Total = %d and Next = %q, want %d and none", page.Total, page.Next, len(want))
			}
			test.filter.Limit = 1
			page, err = s.Sandboxes(ctx, test.filter)
			must(t, err)
			if page.Total != len(want) || len(page.Sandboxes) != min(1, len(want)) {
				t.Errorf("with limit 1: %d of %d, want %d of %d", len(page.Sandboxes), page.Total, min(1, len(want)), len(want))
			}
		})
	}
}

// testListPages turns pages of every size both ways over sandboxes of which
// many started at the same moment.
func testListPages(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	var want []soulbox.SandboxID
	for n := range 11 {
		sb := sandbox(team, n)
		sb.StartedAt = at(n / 4)
		sb.Metadata = map[string]string{"odd": fmt.Sprint(n%2 == 1)}
		must(t, s.InsertSandbox(ctx, sb))
		if n%2 == 1 {
			want = append(want, sb.ID)
		}
	}
	for _, ascending := range []bool{true, false} {
		for limit := 1; limit <= 6; limit++ {
			f := soulbox.SandboxFilter{Team: team.ID, Metadata: map[string]string{"odd": "true"}, Ascending: ascending, Limit: limit}
			got := turnPages(t, s, f, len(want), func() {})
			if !ascending {
				slices.Reverse(got)
			}
			wantSame(t, fmt.Sprintf("pages of %d, ascending %v", limit, ascending), got, want)
		}
	}
}

// turnPages returns the ids on all pages, and calls between after each.
func turnPages(t *testing.T, s *store.Store, f soulbox.SandboxFilter, total int, between func()) (got []soulbox.SandboxID) {
	t.Helper()
	for range 100 {
		page, err := s.Sandboxes(t.Context(), f)
		must(t, err)
		if len(page.Sandboxes) > f.Limit || total >= 0 && page.Total != total {
			t.Errorf("page of %d, total %d; want at most %d, total %d", len(page.Sandboxes), page.Total, f.Limit, total)
		}
		got = append(got, ids(page.Sandboxes)...)
		if page.Next == "" {
			return got
		}
		f.Cursor = page.Next
		between()
	}
	t.Fatal("the pages do not end")
	return nil
}

// testListStable starts and ends sandboxes while pages are turned: what stays
// shows exactly once.
func testListStable(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	var want []soulbox.SandboxID
	for n := 10; n < 20; n++ {
		want = append(want, inState(t, s, team, n, soulbox.Running).ID)
	}
	next := 20
	got := turnPages(t, s, soulbox.SandboxFilter{Team: team.ID, Limit: 3}, -1, func() {
		inState(t, s, team, next, soulbox.Running) // newer than all: on no later page
		newest := sandbox(team, next-1)
		newest.State, newest.End = soulbox.Ended, &soulbox.End{At: at(next), By: soulbox.ByClient}
		must(t, s.MoveSandbox(ctx, newest, soulbox.Running)) // was on a page before
		next++
	})
	slices.Reverse(want)
	wantSame(t, "ids on all pages", got, want)
}

func testListBadCursor(t *testing.T, s *store.Store) {
	team := makeTeam(t, s, "one")
	for _, cursor := range []string{"x", "!!", "MTIz", "MTIzOg", "OmlhYmM", "MTIzOidPUiAx", "\x00"} {
		_, err := s.Sandboxes(t.Context(), soulbox.SandboxFilter{Team: team.ID, Cursor: cursor})
		wantKind(t, fmt.Sprintf("Sandboxes with cursor %q", cursor), err, soulbox.Invalid)
	}
}
