package fleet_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/sqlite"
)

// tester is what a *testing.T and a *rapid.T have in common and we need.
type tester interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// house is a fleet with everything that it needs.
type house struct {
	t     tester
	store *store.Store
	node  *machine
	opts  fleet.Options
	*fleet.Fleet
}

// everyState is for lists of all there is.
var everyState = []soulbox.State{
	soulbox.Starting, soulbox.Running, soulbox.Pausing, soulbox.Paused, soulbox.Resuming, soulbox.Ending, soulbox.Ended,
}

var (
	seed = soulbox.TokenSeed{1, 2, 3}
	base = soulbox.TemplateRef{Name: "base"}
)

// build returns a house with two teams, "us" and "them", and the template
// "base". Its fleet has not started.
func build(ctx context.Context, t tester, dir string) *house {
	t.Helper()
	s, err := sqlite.Open(ctx, filepath.Join(dir, "soulbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, store: s, node: newMachine()}
	for _, id := range []soulbox.TeamID{"us", "them"} {
		err := s.InsertTeam(ctx, &soulbox.Team{ID: id, Slug: string(id) + "-slug", Limits: soulbox.Limits{
			Sandboxes: 5, Timeout: time.Hour, Memory: soulbox.GiB, CPUs: 2,
		}})
		if err != nil && soulbox.KindOf(err) != soulbox.Conflict {
			t.Fatal(err)
		}
	}
	h.template("t0base", "", "base", false)
	h.opts = fleet.Options{Log: slog.New(slog.DiscardHandler), Store: s, Node: h.node, Seed: seed}
	h.Fleet = fleet.New(h.opts)
	return h
}

// folder returns an empty folder in memory: what is flushed to a disk here is
// of no use to anybody, and takes most of the time.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "soulbox-fleet-") //nolint:usetesting // see above
	if errors.Is(err, fs.ErrNotExist) {
		return t.TempDir()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// open returns a house whose fleet runs until the test ends.
func open(t *testing.T) *house {
	t.Helper()
	h := build(t.Context(), t, folder(t))
	t.Cleanup(func() { h.store.Close() })
	t.Cleanup(func() { h.Close() })
	h.start()
	return h
}

func (h *house) start() {
	h.t.Helper()
	if err := h.Start(context.Background()); err != nil {
		h.t.Fatal(err)
	}
}

// restart ends the fleet and starts another one on the same store and node.
func (h *house) restart() {
	h.t.Helper()
	if err := h.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.Fleet = fleet.New(h.opts)
	h.start()
}

func (h *house) template(id, team, name string, public bool) {
	h.t.Helper()
	h.build(&soulbox.Template{
		ID: soulbox.TemplateID(id), Team: soulbox.TeamID(team), Name: name, Public: public, Image: "00",
		Size: soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: soulbox.GiB, PIDs: 100},
	})
}

// build makes tpl what a build of it is, unless an earlier process has.
func (h *house) build(tpl *soulbox.Template, tags ...string) *soulbox.Build {
	h.t.Helper()
	if have, err := h.store.TemplateByName(context.Background(), tpl.Team, tpl.Name); err == nil && len(tags) == 0 {
		return &soulbox.Build{ID: have.Build}
	}
	b := &soulbox.Build{
		ID: soulbox.NewBuildID(), Team: tpl.Team, Tags: tags, Image: tpl.Image, Snapshot: tpl.Snapshot, Baked: tpl.Baked,
		Size: tpl.Size, Env: tpl.Env, User: tpl.User, Workdir: tpl.Workdir,
	}
	bare := &soulbox.Template{ID: tpl.ID, Team: tpl.Team, Name: tpl.Name, Public: tpl.Public}
	if _, err := h.store.AddBuild(context.Background(), bare, b, "", func(*soulbox.Build) soulbox.Bump { return soulbox.Minor }); err != nil {
		h.t.Fatal(err)
	}
	return b
}

func request() soulbox.CreateRequest {
	return soulbox.CreateRequest{Team: "us", Template: base, Timeout: 5 * time.Minute}
}

// create makes a sandbox that must come up.
func (h *house) create() *soulbox.Sandbox {
	h.t.Helper()
	sb, err := h.Create(context.Background(), request())
	if err != nil {
		h.t.Fatal(err)
	}
	return sb
}

// record returns what the store knows.
func (h *house) record(id soulbox.SandboxID) *soulbox.Sandbox {
	h.t.Helper()
	sb, err := h.store.Sandbox(context.Background(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return sb
}

// records returns all of a team's sandboxes, oldest first.
func (h *house) records(team soulbox.TeamID) []*soulbox.Sandbox {
	h.t.Helper()
	page, err := h.store.Sandboxes(context.Background(), soulbox.SandboxFilter{
		Team: team, Ascending: true,
		States: everyState,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return page.Sandboxes
}

// eventually waits until ok; what says for what.
func eventually(t tester, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s still not: %s", what)
		}
	}
}

// wantEnded waits until a sandbox is ended and gone, by whom and why it should.
func (h *house) wantEnded(id soulbox.SandboxID, by soulbox.Ender, reason string) {
	h.t.Helper()
	eventually(h.t, "sandbox is ended", func() bool { return h.record(id).State == soulbox.Ended })
	end := h.record(id).End
	if end.By != by || end.Reason != reason || end.At.IsZero() {
		h.t.Errorf("end is %+v, want by %s: %s", *end, by, reason)
	}
	if slices.Contains(h.node.Sandboxes(), id) {
		h.t.Error("the node still has the sandbox")
	}
}

func wantKind(t tester, what string, err error, want soulbox.Kind) {
	t.Helper()
	if err == nil || soulbox.KindOf(err) != want {
		t.Errorf("%s: error %v of kind %d, want kind %d", what, err, soulbox.KindOf(err), want)
	}
}

func wantMessage(t tester, what string, err error, want string) {
	t.Helper()
	if got := soulbox.MessageOf(err); got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}
