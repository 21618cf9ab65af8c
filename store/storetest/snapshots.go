package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// snapshot returns one of a sandbox that was taken n minutes after epoch, is
// ready and has no name.
func snapshot(team *soulbox.Team, sandbox soulbox.SandboxID, n int) *soulbox.Snapshot {
	return &soulbox.Snapshot{
		ID: soulbox.SnapshotID(fmt.Sprintf("s%020d", n)), Team: team.ID, Sandbox: sandbox, Kind: soulbox.ForCreate, Node: "node1",
		Ready: true, Memory: true, Bytes: 30 * soulbox.MiB, CreatedAt: at(n),
		Template: "tpl1", Alias: "base", Image: strings.Repeat("ab", 32),
		Size: soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB, PIDs: 4096},
	}
}

func testSnapshotRoundTrip(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	full := snapshot(team, "ia", 1)
	full.Parent, full.Name, full.Secure = "s0", "monday", true
	full.Env, full.User, full.Workdir = map[string]string{"A": "1", "雪": `'"\`}, "user", "/home/user"
	bare := &soulbox.Snapshot{ID: "sbare", Team: team.ID, Sandbox: "ia", Kind: soulbox.ForPause, CreatedAt: at(2)}
	for _, snap := range []*soulbox.Snapshot{full, bare} {
		must(t, s.InsertSnapshot(ctx, snap))
		got, err := s.Snapshot(ctx, snap.ID)
		must(t, err)
		wantSame(t, "Snapshot", got, snap)
	}
	twin := snapshot(team, "ib", 1)
	err := s.InsertSnapshot(ctx, twin)
	wantKind(t, "InsertSnapshot again", err, soulbox.Conflict)
	if got := soulbox.MessageOf(err); !strings.Contains(got, string(twin.ID)) {
		t.Errorf("message %q does not name the snapshot", got)
	}
	got, err := s.Snapshot(ctx, full.ID)
	must(t, err)
	wantSame(t, "Snapshot after a refused one", got, full)

	_, err = s.Snapshot(ctx, "snobody")
	wantKind(t, "Snapshot of an unknown id", err, soulbox.NotFound)
	orphan := snapshot(team, "ia", 3)
	orphan.Team = "nobody"
	if err := s.InsertSnapshot(ctx, orphan); err == nil {
		t.Error("InsertSnapshot of a team that does not exist succeeds")
	}

	must(t, s.DeleteSnapshot(ctx, full.ID))
	must(t, s.DeleteSnapshot(ctx, full.ID))
	_, err = s.Snapshot(ctx, full.ID)
	wantKind(t, "Snapshot after DeleteSnapshot", err, soulbox.NotFound)
}

// testSnapshotFinish looks at a snapshot that is being written from every side.
func testSnapshotFinish(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	snap := snapshot(team, "ia", 1)
	snap.Name, snap.Ready, snap.Bytes = "monday", false, 0
	must(t, s.InsertSnapshot(ctx, snap))

	look := func(visible bool) {
		t.Helper()
		page, err := s.Snapshots(ctx, soulbox.SnapshotFilter{Team: team.ID, Kind: soulbox.ForCreate})
		must(t, err)
		byName, err := s.SnapshotByName(ctx, team.ID, "monday")
		if visible {
			must(t, err)
			wantSame(t, "SnapshotByName", byName, snap)
			wantSame(t, "Snapshots", page.Snapshots, []*soulbox.Snapshot{snap})
		} else {
			wantKind(t, "SnapshotByName of one that is not ready", err, soulbox.NotFound)
			if len(page.Snapshots) != 0 {
				t.Errorf("Snapshots shows %d that are not ready", len(page.Snapshots))
			}
		}
		got, err := s.Snapshot(ctx, snap.ID)
		must(t, err)
		wantSame(t, "Snapshot", got, snap)
		all, err := s.AllSnapshots(ctx)
		must(t, err)
		wantSame(t, "AllSnapshots", all, []*soulbox.Snapshot{snap})
		all, err = s.SnapshotsOf(ctx, "ia")
		must(t, err)
		wantSame(t, "SnapshotsOf", all, []*soulbox.Snapshot{snap})
	}
	look(false)
	must(t, s.FinishSnapshot(ctx, snap.ID, 5*soulbox.GiB))
	snap.Ready, snap.Bytes = true, 5*soulbox.GiB
	look(true)
	must(t, s.FinishSnapshot(ctx, snap.ID, 5*soulbox.GiB)) // asked again after a lost answer
	look(true)

	must(t, s.DeleteSnapshot(ctx, snap.ID))
	wantKind(t, "FinishSnapshot of a deleted one", s.FinishSnapshot(ctx, snap.ID, 1), soulbox.NotFound)
	_, err := s.SnapshotByName(ctx, team.ID, "monday")
	wantKind(t, "SnapshotByName of a deleted one", err, soulbox.NotFound)
}

func testSnapshotNames(t *testing.T, s *store.Store) {
	ctx := t.Context()
	one, two := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	n := 0
	insert := func(team *soulbox.Team, sandbox soulbox.SandboxID, kind soulbox.SnapshotKind, name string) (*soulbox.Snapshot, error) {
		n++
		snap := snapshot(team, sandbox, n)
		snap.Kind, snap.Name = kind, name
		return snap, s.InsertSnapshot(ctx, snap)
	}
	for _, test := range []struct {
		team    *soulbox.Team
		sandbox soulbox.SandboxID
		kind    soulbox.SnapshotKind
		name    string
		want    string // part of the Conflict; empty: it succeeds
	}{
		{one, "ia", soulbox.ForCreate, "monday", ""},
		{one, "ia", soulbox.ForCreate, "monday", "snapshot 'monday'"},
		{one, "ib", soulbox.ForCreate, "monday", "snapshot 'monday'"},
		{two, "ic", soulbox.ForCreate, "monday", ""},
		{one, "ia", soulbox.ForCreate, "Monday", ""},
		{one, "ia", soulbox.ForRollback, "monday", ""},
		{one, "ia", soulbox.ForRollback, "monday", "sandbox ia has a checkpoint 'monday'"},
		{one, "ib", soulbox.ForRollback, "monday", ""},
		{one, "ia", soulbox.ForPause, "monday", ""},
		{one, "ia", soulbox.ForPause, "monday", ""},
		{one, "ia", soulbox.ForFork, "monday", ""},
		{one, "ia", soulbox.ForFork, "monday", ""},
		{one, "ia", soulbox.ForCreate, "", ""},
		{one, "ia", soulbox.ForCreate, "", ""},
		{one, "ia", soulbox.ForRollback, "", ""},
		{one, "ia", soulbox.ForRollback, "", ""},
		{one, "ia", soulbox.ForCreate, `'"; DROP TABLE snapshots; -- $1 ? % 雪`, ""},
	} {
		snap, err := insert(test.team, test.sandbox, test.kind, test.name)
		what := fmt.Sprintf("InsertSnapshot of %s %q of %s and %s", test.kind, test.name, test.team.ID, test.sandbox)
		switch {
		case test.want != "":
			wantKind(t, what, err, soulbox.Conflict)
			if got := soulbox.MessageOf(err); !strings.Contains(got, test.want) {
				t.Errorf("%s: message %q, want it to say %q", what, got, test.want)
			}
		case err != nil:
			t.Errorf("%s: %v", what, err)
		case test.kind == soulbox.ForCreate && test.name != "":
			got, err := s.SnapshotByName(ctx, test.team.ID, test.name)
			must(t, err)
			wantSame(t, "SnapshotByName", got, snap)
		}
	}
	_, err := s.SnapshotByName(ctx, one.ID, "")
	wantKind(t, "SnapshotByName without a name", err, soulbox.NotFound)
	_, err = s.SnapshotByName(ctx, one.ID, "tuesday")
	wantKind(t, "SnapshotByName of an unknown name", err, soulbox.NotFound)

	// Who is not ready has the name, and who is gone has not.
	writing := snapshot(one, "ia", 100)
	writing.Name, writing.Ready = "friday", false
	must(t, s.InsertSnapshot(ctx, writing))
	_, err = insert(one, "ia", soulbox.ForCreate, "friday")
	wantKind(t, "InsertSnapshot with the name of one that is being written", err, soulbox.Conflict)
	must(t, s.DeleteSnapshot(ctx, writing.ID))
	_, err = insert(one, "ia", soulbox.ForCreate, "friday")
	must(t, err)
}

// testSnapshotNamesOnce lets many take one name: exactly one may have it.
func testSnapshotNamesOnce(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			snap := snapshot(team, "ia", i)
			snap.Kind, snap.Name = soulbox.ForRollback, "monday"
			err := s.InsertSnapshot(ctx, snap)
			if err == nil {
				won.Add(1)
			} else {
				wantKind(t, "InsertSnapshot of a loser", err, soulbox.Conflict)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d snapshots have the name, want 1", n)
	}
}

// testSnapshotLists has two teams, two sandboxes and all kinds: number n is
// newer than n-1.
func testSnapshotLists(t *testing.T, s *store.Store) {
	ctx := t.Context()
	one, two := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	var snaps []*soulbox.Snapshot
	for n, row := range []struct {
		team    *soulbox.Team
		sandbox soulbox.SandboxID
		kind    soulbox.SnapshotKind
		name    string
		ready   bool
	}{
		{one, "ia", soulbox.ForCreate, "monday", true},
		{one, "ib", soulbox.ForCreate, "", true},
		{one, "ia", soulbox.ForRollback, "monday", true},
		{one, "ia", soulbox.ForCreate, "tuesday", false},
		{one, "ia", soulbox.ForPause, "", true},
		{two, "ic", soulbox.ForCreate, "monday", true},
		{one, "ia", soulbox.ForRollback, "", false},
		{one, "ib", soulbox.ForRollback, "", true},
		{one, "ia", soulbox.ForCreate, "", true},
	} {
		snap := snapshot(row.team, row.sandbox, n)
		snap.Kind, snap.Name, snap.Ready = row.kind, row.name, row.ready
		must(t, s.InsertSnapshot(ctx, snap))
		snaps = append(snaps, snap)
	}
	pick := func(numbers ...int) (want []*soulbox.Snapshot) {
		for _, n := range numbers {
			want = append(want, snaps[n])
		}
		return want
	}
	for _, test := range []struct {
		name   string
		filter soulbox.SnapshotFilter
		want   []int // newest first
	}{
		{"named and unnamed", soulbox.SnapshotFilter{Kind: soulbox.ForCreate}, []int{8, 1, 0}},
		{"checkpoints", soulbox.SnapshotFilter{Kind: soulbox.ForRollback}, []int{7, 2}},
		{"any kind", soulbox.SnapshotFilter{}, []int{8, 7, 4, 2, 1, 0}},
		{"of a sandbox", soulbox.SnapshotFilter{Kind: soulbox.ForCreate, Sandbox: "ia"}, []int{8, 0}},
		{"of a sandbox of another team", soulbox.SnapshotFilter{Kind: soulbox.ForCreate, Sandbox: "ic"}, nil},
		{"by name", soulbox.SnapshotFilter{Kind: soulbox.ForCreate, Name: "monday"}, []int{0}},
		{"by a name of one that is not ready", soulbox.SnapshotFilter{Kind: soulbox.ForCreate, Name: "tuesday"}, nil},
		{"forks", soulbox.SnapshotFilter{Kind: soulbox.ForFork}, nil},
		{"another team", soulbox.SnapshotFilter{Team: two.ID}, []int{5}},
		{"team unknown", soulbox.SnapshotFilter{Team: "nobody"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.filter.Team == "" {
				test.filter.Team = one.ID
			}
			page, err := s.Snapshots(ctx, test.filter)
			must(t, err)
			wantSame(t, "Snapshots", page.Snapshots, pick(test.want...))
			if page.Next != "" {
				t.Errorf("Next = %q without a limit", page.Next)
			}
		})
	}
	got, err := s.SnapshotsOf(ctx, "ia")
	must(t, err)
	wantSame(t, "SnapshotsOf", got, pick(0, 2, 3, 4, 6, 8))
	got, err = s.SnapshotsOf(ctx, "inobody")
	must(t, err)
	wantSame(t, "SnapshotsOf an unknown one", got, pick())
	got, err = s.AllSnapshots(ctx)
	must(t, err)
	wantSame(t, "AllSnapshots", got, snaps)
}

// turnSnapshotPages returns the ids on all pages, and calls between after each.
func turnSnapshotPages(t *testing.T, s *store.Store, f soulbox.SnapshotFilter, between func()) (got []soulbox.SnapshotID) {
	t.Helper()
	for range 100 {
		page, err := s.Snapshots(t.Context(), f)
		must(t, err)
		if len(page.Snapshots) > f.Limit || len(page.Snapshots) < f.Limit && page.Next != "" {
			t.Errorf("page of %d with a next one %q, want %d", len(page.Snapshots), page.Next, f.Limit)
		}
		for _, snap := range page.Snapshots {
			got = append(got, snap.ID)
		}
		if page.Next == "" {
			return got
		}
		f.Cursor = page.Next
		between()
	}
	t.Fatal("the pages do not end")
	return nil
}

// testSnapshotPages turns pages of every size over snapshots of which many were
// taken at the same moment, and some are not ready.
func testSnapshotPages(t *testing.T, s *store.Store) {
	team := makeTeam(t, s, "one")
	var want []soulbox.SnapshotID
	for n := range 11 {
		snap := snapshot(team, "ia", n)
		snap.CreatedAt, snap.Ready = at(n/4), n%3 != 0
		must(t, s.InsertSnapshot(t.Context(), snap))
		if snap.Ready {
			want = append(want, snap.ID)
		}
	}
	slices.Reverse(want)
	for limit := 1; limit <= len(want)+1; limit++ {
		f := soulbox.SnapshotFilter{Team: team.ID, Kind: soulbox.ForCreate, Limit: limit}
		wantSame(t, fmt.Sprintf("pages of %d", limit), turnSnapshotPages(t, s, f, func() {}), want)
	}
}

// testSnapshotPagesStable takes and deletes snapshots while pages are turned:
// what stays shows exactly once.
func testSnapshotPagesStable(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	var want []soulbox.SnapshotID
	for n := 10; n < 20; n++ {
		snap := snapshot(team, "ia", n)
		must(t, s.InsertSnapshot(ctx, snap))
		want = append(want, snap.ID)
	}
	next := 20
	got := turnSnapshotPages(t, s, soulbox.SnapshotFilter{Team: team.ID, Limit: 3}, func() {
		must(t, s.InsertSnapshot(ctx, snapshot(team, "ia", next)))       // newer than all: on no later page
		must(t, s.DeleteSnapshot(ctx, snapshot(team, "ia", 39-next).ID)) // was on a page before
		next++
	})
	slices.Reverse(want)
	wantSame(t, "ids on all pages", got, want)
}

func testSnapshotBadCursor(t *testing.T, s *store.Store) {
	team := makeTeam(t, s, "one")
	// The last is a sandbox's: its id could be no snapshot's.
	for _, cursor := range []string{"x", "!!", "MTIz", "MTIzOg", "OmlhYmM", "MTIzOidPUiAx", "\x00", "MTIzOmlhYmM"} {
		_, err := s.Snapshots(t.Context(), soulbox.SnapshotFilter{Team: team.ID, Cursor: cursor})
		wantKind(t, fmt.Sprintf("Snapshots with cursor %q", cursor), err, soulbox.Invalid)
	}
}
