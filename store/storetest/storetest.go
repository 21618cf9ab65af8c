// Package storetest is the suite that every database under a [store.Store]
// passes.
package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/store"
)

// Run runs the suite. Open returns an empty store, which the suite does not
// close; open may be called several times for one test.
func Run(t *testing.T, open func(t *testing.T) *store.Store) {
	for name, test := range map[string]func(*testing.T, *store.Store){
		"Teams":               testTeams,
		"Keys":                testKeys,
		"Templates":           testTemplates,
		"TemplateStarts":      testTemplateStarts,
		"TemplateDeletion":    testTemplateDeletion,
		"BuildRoundTrip":      testBuildRoundTrip,
		"BuildDrafts":         testBuildDrafts,
		"BuildMoves":          testBuildMoves,
		"BuildVersions":       testBuildVersions,
		"BuildsFinishAtOnce":  testBuildsFinishAtOnce,
		"BuildAdditions":      testBuildAdditions,
		"BuildReferences":     testBuildReferences,
		"BuildLists":          testBuildLists,
		"BuildRenewal":        testBuildRenewal,
		"BuildTags":           testBuildTags,
		"BuildInvariants":     testBuildInvariants,
		"Claims":              testClaims,
		"Manifests":           testManifests,
		"Listings":            testListings,
		"ListingSearch":       testListingSearch,
		"ListingPages":        testListingPages,
		"ListingVisibility":   testListingVisibility,
		"Ratings":             testRatings,
		"Reports":             testReports,
		"SandboxRoundTrip":    testSandboxRoundTrip,
		"SandboxMoves":        testSandboxMoves,
		"SandboxMovesOnce":    testSandboxMovesOnce,
		"SandboxPauses":       testSandboxPauses,
		"SandboxChanges":      testSandboxChanges,
		"UnendedSandboxes":    testUnended,
		"DeleteSandbox":       testDeleteSandbox,
		"ListFilters":         testListFilters,
		"ListPages":           testListPages,
		"ListPagesStayStable": testListStable,
		"ListBadCursor":       testListBadCursor,
		"SnapshotRoundTrip":   testSnapshotRoundTrip,
		"SnapshotFinish":      testSnapshotFinish,
		"SnapshotNames":       testSnapshotNames,
		"SnapshotNamesOnce":   testSnapshotNamesOnce,
		"SnapshotLists":       testSnapshotLists,
		"SnapshotPages":       testSnapshotPages,
		"SnapshotPagesStable": testSnapshotPagesStable,
		"SnapshotBadCursor":   testSnapshotBadCursor,
		"SessionRoundTrip":    testSessionRoundTrip,
		"SessionMembers":      testSessionMembers,
		"SessionMembersOnce":  testSessionMembersOnce,
		"SessionLists":        testSessionLists,
		"SessionSaves":        testSessionSaves,
		"HardText":            testHardText,
		"Usage":               testUsage,
		"ManyWriters":         testManyWriters,
		"WritersApart":        testWritersApart,
		"CancelledContext":    testCancelled,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// epoch is where the suite's time begins; it has microseconds on purpose.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

func at(minutes int) time.Time { return epoch.Add(time.Duration(minutes) * time.Minute) }

func makeTeam(t *testing.T, s *store.Store, slug string) *soulbox.Team {
	t.Helper()
	team := &soulbox.Team{
		ID: soulbox.TeamID("team-" + slug), Name: "Team " + slug, Slug: slug,
		Limits:    soulbox.Limits{Sandboxes: 10, Timeout: 90 * time.Minute, Memory: 3 * soulbox.GiB, CPUs: 4},
		CreatedAt: epoch,
	}
	must(t, s.InsertTeam(t.Context(), team))
	return team
}

// sandbox returns one that started n minutes after epoch.
func sandbox(team *soulbox.Team, n int) *soulbox.Sandbox {
	return &soulbox.Sandbox{
		ID: soulbox.SandboxID(fmt.Sprintf("isandbox%04d", n)), Team: team.ID, Template: "tpl1", Alias: "base", Node: "node1",
		State: soulbox.Running, CreatedAt: at(n), StartedAt: at(n).Add(time.Second), ExpiresAt: at(n + 5), Timeout: 5 * time.Minute,
		Size: soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB, PIDs: 4096},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, what string, err error, want soulbox.Kind) {
	t.Helper()
	if err == nil || soulbox.KindOf(err) != want {
		t.Errorf("%s: error %v of kind %d, want kind %d", what, err, soulbox.KindOf(err), want)
	}
}

func wantSame(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func testTeams(t *testing.T, s *store.Store) {
	ctx := t.Context()
	_, err := s.Team(ctx, "nobody")
	wantKind(t, "Team of an unknown id", err, soulbox.NotFound)

	team := makeTeam(t, s, "default")
	got, err := s.Team(ctx, team.ID)
	must(t, err)
	wantSame(t, "Team", got, team)
	got, err = s.TeamBySlug(ctx, "default")
	must(t, err)
	wantSame(t, "TeamBySlug", got, team)

	twin := *team
	twin.ID = "another"
	wantKind(t, "InsertTeam with a taken slug", s.InsertTeam(ctx, &twin), soulbox.Conflict)

	team.Limits = soulbox.Limits{Sandboxes: 1, Timeout: time.Second, Memory: 1, CPUs: 1}
	must(t, s.SetTeamLimits(ctx, team.ID, team.Limits))
	got, err = s.Team(ctx, team.ID)
	must(t, err)
	wantSame(t, "Team after SetTeamLimits", got, team)
	wantKind(t, "SetTeamLimits of nobody", s.SetTeamLimits(ctx, "nobody", team.Limits), soulbox.NotFound)
}

func testKeys(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team, other := makeTeam(t, s, "one"), makeTeam(t, s, "two")
	key := func(id string, n int) *soulbox.Key {
		sum := sha256.Sum256([]byte(id))
		return &soulbox.Key{
			ID: soulbox.KeyID(id), Team: team.ID, Name: "key " + id, Hash: hex.EncodeToString(sum[:]),
			Suffix: "abcd", CreatedAt: at(n),
		}
	}
	b, a := key("b", 2), key("a", 1)
	must(t, s.InsertKey(ctx, b))
	must(t, s.InsertKey(ctx, a))

	keys, err := s.Keys(ctx, team.ID)
	must(t, err)
	wantSame(t, "Keys", keys, []*soulbox.Key{a, b})
	keys, err = s.Keys(ctx, other.ID)
	must(t, err)
	if len(keys) != 0 {
		t.Errorf("Keys of the other team = %v, want none", keys)
	}
	got, err := s.KeyByHash(ctx, a.Hash)
	must(t, err)
	wantSame(t, "KeyByHash", got, a)
	_, err = s.KeyByHash(ctx, "no such hash")
	wantKind(t, "KeyByHash of an unknown hash", err, soulbox.NotFound)

	c := key("c", 3)
	c.Hash = a.Hash
	wantKind(t, "InsertKey with a taken hash", s.InsertKey(ctx, c), soulbox.Conflict)

	wantKind(t, "RenameKey of another team", s.RenameKey(ctx, other.ID, a.ID, "mine"), soulbox.NotFound)
	must(t, s.RenameKey(ctx, team.ID, a.ID, "renamed"))
	must(t, s.TouchKey(ctx, a.ID, at(9)))
	must(t, s.TouchKey(ctx, a.ID, at(8))) // late news
	must(t, s.TouchKey(ctx, "gone", at(8)))
	a.Name, a.LastUsed = "renamed", at(9)
	got, err = s.KeyByHash(ctx, a.Hash)
	must(t, err)
	wantSame(t, "KeyByHash after changes", got, a)

	wantKind(t, "DeleteKey of another team", s.DeleteKey(ctx, other.ID, a.ID), soulbox.NotFound)
	must(t, s.DeleteKey(ctx, team.ID, a.ID))
	wantKind(t, "DeleteKey again", s.DeleteKey(ctx, team.ID, a.ID), soulbox.NotFound)
	_, err = s.KeyByHash(ctx, a.Hash)
	wantKind(t, "KeyByHash of a deleted key", err, soulbox.NotFound)
}

func template(id string, team soulbox.TeamID, name string) *soulbox.Template {
	return &soulbox.Template{
		ID: soulbox.TemplateID(id), Team: team, Name: name, Public: true, Image: strings.Repeat("ab", 32),
		Size: soulbox.Size{CPUs: 2, Memory: soulbox.GiB, Disk: 5 * soulbox.GiB, PIDs: 100},
		Env:  map[string]string{"PATH": "/bin"}, User: "user", Workdir: "/home/user", Source: "debian:bookworm",
		CreatedAt: at(0), UpdatedAt: at(1),
	}
}

func testTemplates(t *testing.T, s *store.Store) {
	ctx := t.Context()
	house := template("t1", "", "base")
	own := template("t2", "team1", "base")
	own.Public, own.Env, own.Isolation = false, nil, soulbox.Runc
	foreign := template("t3", "team2", "other")
	for _, tpl := range []*soulbox.Template{house, own, foreign} {
		must(t, s.InsertTemplate(ctx, tpl))
	}
	got, err := s.Template(ctx, "t1")
	must(t, err)
	wantSame(t, "Template", got, house)
	got, err = s.TemplateByName(ctx, "", "base")
	must(t, err)
	wantSame(t, "TemplateByName of the house", got, house)
	got, err = s.TemplateByName(ctx, "team1", "base")
	must(t, err)
	wantSame(t, "TemplateByName of a team", got, own)
	_, err = s.TemplateByName(ctx, "team1", "other")
	wantKind(t, "TemplateByName of another team's", err, soulbox.NotFound)
	_, err = s.Template(ctx, "t9")
	wantKind(t, "Template of an unknown id", err, soulbox.NotFound)

	all, err := s.Templates(ctx, "team1")
	must(t, err)
	wantSame(t, "Templates", all, []*soulbox.Template{house, own})
	all, err = s.AllTemplates(ctx)
	must(t, err)
	wantSame(t, "AllTemplates", all, []*soulbox.Template{house, own, foreign})

	wantKind(t, "InsertTemplate with a taken name", s.InsertTemplate(ctx, template("t4", "team1", "base")), soulbox.Conflict)
	wantKind(t, "InsertTemplate with a taken id", s.InsertTemplate(ctx, template("t2", "team1", "else")), soulbox.Conflict)

	must(t, s.SetTemplatePublic(ctx, "t2", true, at(8)))
	own.Public, own.UpdatedAt = true, at(8)
	got, err = s.Template(ctx, "t2")
	must(t, err)
	wantSame(t, "Template that is public", got, own)
	wantKind(t, "SetTemplatePublic of an unknown id", s.SetTemplatePublic(ctx, "t9", true, at(8)), soulbox.NotFound)

	must(t, s.SetTemplateIsolation(ctx, "t2", soulbox.GVisor, at(9)))
	own.Isolation, own.UpdatedAt = soulbox.GVisor, at(9)
	got, err = s.Template(ctx, "t2")
	must(t, err)
	wantSame(t, "Template of another isolation", got, own)

	must(t, s.DeleteTemplate(ctx, "t2"))
	wantKind(t, "SetTemplateIsolation of a deleted one", s.SetTemplateIsolation(ctx, "t2", soulbox.Runc, at(10)), soulbox.NotFound)
	wantKind(t, "DeleteTemplate again", s.DeleteTemplate(ctx, "t2"), soulbox.NotFound)
}

func testTemplateStarts(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	must(t, s.InsertTemplate(ctx, template("tpl1", "", "base")))
	must(t, s.InsertTemplate(ctx, template("tpl2", team.ID, "own")))
	for i := range 3 {
		sb := sandbox(team, i)
		sb.State = soulbox.Starting
		must(t, s.InsertSandbox(ctx, sb))
		sb.State = soulbox.Running
		must(t, s.MoveSandbox(ctx, sb, soulbox.Starting))
	}
	again := sandbox(team, 0)
	for _, to := range []soulbox.State{soulbox.Running, soulbox.Pausing, soulbox.Running, soulbox.Pausing, soulbox.Paused, soulbox.Resuming, soulbox.Running} {
		from := again.State
		again.State = to
		must(t, s.MoveSandbox(ctx, again, from))
	}
	mine := sandbox(team, 9)
	mine.Template, mine.State = "tpl2", soulbox.Starting
	must(t, s.InsertSandbox(ctx, mine))
	mine.State = soulbox.Running
	must(t, s.MoveSandbox(ctx, mine, soulbox.Starting))

	for id, want := range map[soulbox.TemplateID][2]int64{"tpl1": {3, 3}, "tpl2": {1, 0}} {
		l, err := s.Listing(ctx, id, team.ID)
		must(t, err)
		if got := [2]int64{l.Template.Starts, l.Downloads}; got != want {
			t.Errorf("starts and downloads of %s after 3 and 1 starts and several resumes: %d, want %d", id, got, want)
		}
	}
}

// testHardText puts text through every column that takes a customer's.
func testHardText(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	sb := sandbox(team, 1)
	long := strings.Repeat("long ", 4000)
	sb.Metadata = map[string]string{
		"quote": `'"; DROP TABLE teams; --`, "": "empty name", "empty": "", "$1": "?", "line\n": "\t\\ \u2028",
		"雪": "❄️", "percent": "%_", "long": long, long: "long name",
	}
	sb.Env = map[string]string{"A": "x=y", "B": `{"json": "\u0000"}`}
	must(t, s.InsertSandbox(ctx, sb))
	got, err := s.Sandbox(ctx, sb.ID)
	must(t, err)
	wantSame(t, "Sandbox", got, sb)
	for name, value := range sb.Metadata {
		page, err := s.Sandboxes(ctx, soulbox.SandboxFilter{Team: team.ID, Metadata: map[string]string{name: value}})
		must(t, err)
		if page.Total != 1 {
			t.Errorf("metadata %.20q=%.20q selects %d sandboxes, want 1", name, value, page.Total)
		}
	}
}

func testUsage(t *testing.T, s *store.Store) {
	ctx := t.Context()
	use := func(n int) soulbox.Usage {
		return soulbox.Usage{
			At: at(n), CPUPercent: 12.345 + float64(n), CPUCount: 2, MemUsed: soulbox.Bytes(n) * soulbox.MiB,
			MemTotal: soulbox.GiB, MemCache: 7, DiskUsed: 8 * soulbox.GiB, DiskTotal: 10 * soulbox.GiB,
		}
	}
	must(t, s.InsertUsage(ctx, nil))
	for n := range 10 {
		must(t, s.InsertUsage(ctx, map[soulbox.SandboxID]soulbox.Usage{"ia": use(n), "ib": use(n)}))
	}
	must(t, s.InsertUsage(ctx, map[soulbox.SandboxID]soulbox.Usage{"ia": use(3), "ic": use(3)})) // ia is there

	got, err := s.Usage(ctx, "ia", at(2), at(4), 100)
	must(t, err)
	wantSame(t, "Usage", got, []soulbox.Usage{use(2), use(3), use(4)})
	got, err = s.Usage(ctx, "ia", at(2), at(9), 2)
	must(t, err)
	wantSame(t, "Usage with a limit", got, []soulbox.Usage{use(2), use(3)})
	got, err = s.Usage(ctx, "ia", at(20), at(30), 100)
	must(t, err)
	if len(got) != 0 {
		t.Errorf("Usage out of range = %v, want none", got)
	}

	for _, want := range []int{7, 4, 0} { // ia and ib of at(0) to at(4), ic of at(3)
		n, err := s.PruneUsage(ctx, at(5), 7)
		must(t, err)
		if n != want {
			t.Errorf("PruneUsage = %d, want %d", n, want)
		}
	}
	got, err = s.Usage(ctx, "ib", at(0), at(9), 100)
	must(t, err)
	if len(got) != 5 || !got[0].At.Equal(at(5)) {
		t.Errorf("Usage after pruning = %v, want that of at(5) to at(9)", got)
	}
}

// testManyWriters has many write at once: nobody may see "database is locked".
func testManyWriters(t *testing.T, s *store.Store) {
	ctx := t.Context()
	team := makeTeam(t, s, "one")
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			sb := sandbox(team, i)
			sb.State = soulbox.Starting
			sb.Metadata = map[string]string{"n": fmt.Sprint(i)}
			if err := s.InsertSandbox(ctx, sb); err != nil {
				t.Error(err)
			}
			sb.State = soulbox.Running
			if err := s.MoveSandbox(ctx, sb, soulbox.Starting); err != nil {
				t.Error(err)
			}
			if _, err := s.Sandboxes(ctx, soulbox.SandboxFilter{Team: team.ID, Limit: 10}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	page, err := s.Sandboxes(ctx, soulbox.SandboxFilter{Team: team.ID, States: []soulbox.State{soulbox.Running}})
	must(t, err)
	if page.Total != 60 {
		t.Errorf("%d sandboxes run, want 60", page.Total)
	}
}

// testWritersApart has changes that fail and changes that are given up come
// among others, whichever way the store puts them together: each has its own
// answer, and what succeeds is there.
func testWritersApart(t *testing.T, s *store.Store) {
	team := makeTeam(t, s, "one")
	const each = 40
	taken := sandbox(team, 0)
	must(t, s.InsertSandbox(t.Context(), taken))
	var wg sync.WaitGroup
	given := make([]error, each)
	for i := range each {
		wg.Go(func() { // succeeds
			sb := sandbox(team, i+1)
			sb.Metadata = map[string]string{"n": fmt.Sprint(i)}
			if err := s.InsertSandbox(t.Context(), sb); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { // fails after its first statement
			sb := sandbox(team, 0)
			sb.Metadata = map[string]string{"n": "not " + fmt.Sprint(i)}
			wantKind(t, "InsertSandbox of what exists", s.InsertSandbox(t.Context(), sb), soulbox.Conflict)
		})
		wg.Go(func() { // changes no row
			sb := sandbox(team, 0)
			sb.State = soulbox.Ended
			wantKind(t, "MoveSandbox from where it is not", s.MoveSandbox(t.Context(), sb, soulbox.Pausing), soulbox.Conflict)
		})
		wg.Go(func() { // is given up at some moment
			ctx, cancel := context.WithCancel(t.Context())
			wg.Go(cancel)
			given[i] = s.InsertSandbox(ctx, sandbox(team, 1000+i))
		})
	}
	wg.Wait()
	for i := range each {
		got, err := s.Sandbox(t.Context(), sandbox(team, i+1).ID)
		must(t, err)
		wantSame(t, "metadata", got.Metadata, map[string]string{"n": fmt.Sprint(i)})
		switch _, err := s.Sandbox(t.Context(), sandbox(team, 1000+i).ID); {
		case err == nil: // a commit may be through before it is given up
		case given[i] == nil:
			t.Errorf("an insertion succeeded, and the sandbox is not there: %v", err)
		default:
			wantKind(t, "Sandbox that was given up", err, soulbox.NotFound)
		}
	}
	got, err := s.Sandbox(t.Context(), taken.ID)
	must(t, err)
	wantSame(t, "metadata of what was there", got.Metadata, taken.Metadata)
}

// testCancelled looks for transactions that a cancelled context leaves open:
// with one writer, the next one would wait for ever.
func testCancelled(t *testing.T, s *store.Store) {
	team := makeTeam(t, s, "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.InsertSandbox(ctx, sandbox(team, 1)); err == nil {
		t.Error("InsertSandbox succeeds with a cancelled context")
	}
	_, err := s.Sandbox(t.Context(), sandbox(team, 1).ID)
	wantKind(t, "Sandbox that was not inserted", err, soulbox.NotFound)
	must(t, s.InsertSandbox(t.Context(), sandbox(team, 1)))
}
