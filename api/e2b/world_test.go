package e2b_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
	"github.com/soulbox/soulbox/api/e2b"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

const (
	ourKey   = "e2b_1111111111111111111111111111111111111111"
	theirKey = "e2b_2222222222222222222222222222222222222222"

	ourBox   = "i0our0000000000000000"
	plainBox = "i0plain00000000000000" // not secured, offline, without metadata
	coldBox  = "i0cold000000000000000" // paused
	shutBox  = "i0shut000000000000000" // private
	snapID   = "s0snapshot00000000000"
	namedID  = "s0named00000000000000"
	keyID    = "0b9f7c0e-6d5b-4a0e-9f55-0d6f3a1c2b3d"
)

// inside lets cmp look into nouns.
var inside = cmp.AllowUnexported(soulbox.VersionRange{})

var epoch = time.Date(2026, 3, 4, 5, 6, 7, 891234567, time.FixedZone("here", 2*60*60))

// world stands for the rooms behind the API: one team with two sandboxes that
// run and one that is paused, two snapshots, templates and their builds. It
// remembers what it was asked.
type world struct {
	asked any
	fail  error // what every call of the fleet returns, if set
	lists int   // how often it was asked for a list

	shadow  bool // the team's snapshot has the name of the house's template
	quicker bool // somebody else resumes what is paused before we do
	removed map[soulbox.SnapshotID]bool

	talks    bool       // what is not to be known is Forbidden instead of NotFound
	uploaded chan error // gets what reading an upload ended with
}

func (w *world) Authenticate(_ context.Context, plain string) (soulbox.Actor, error) {
	switch plain {
	case ourKey:
		return soulbox.Actor{Team: "ours", Key: keyID}, nil
	case theirKey:
		return soulbox.Actor{Team: "theirs", Key: "k2"}, nil
	}
	return soulbox.Actor{}, soulbox.Errorf(soulbox.Unauthenticated, "the API key is not valid")
}

func (w *world) boxes() []*soulbox.Sandbox {
	size := soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB, PIDs: 1000}
	return []*soulbox.Sandbox{
		{
			ID: ourBox, Team: "ours", Template: "tpl1", Alias: "base", State: soulbox.Running, CreatedAt: epoch,
			StartedAt: epoch.Add(time.Second), ExpiresAt: epoch.Add(time.Hour), Size: size,
			Network: soulbox.Network{Internet: true}, Secure: true, Token: "secret-token",
			Metadata: map[string]string{"user": "ada", "app": "<b>&"},
		},
		{
			ID: plainBox, Team: "ours", Template: "tpl1", Alias: "tpl1", State: soulbox.Starting, CreatedAt: epoch,
			ExpiresAt: epoch.Add(time.Minute), Size: size, Token: "must not show",
		},
	}
}

// paused is the sandbox that does not run.
func (w *world) paused() *soulbox.Sandbox {
	s := w.boxes()[0]
	s.ID, s.State = coldBox, soulbox.Paused
	s.Pause = &soulbox.Pause{Snapshot: "s0pause00000000000000", Memory: true, At: epoch.Add(time.Minute)}
	s.Lifecycle = soulbox.Lifecycle{Pause: true, Wake: true}
	return s
}

// shut is the sandbox whose ports are private.
func (w *world) shut() *soulbox.Sandbox {
	s := w.boxes()[0]
	s.ID, s.Network.Private, s.Traffic = shutBox, true, "traffic-token"
	return s
}

func (w *world) find(team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	if w.fail != nil {
		return nil, w.fail
	}
	for _, s := range append(w.boxes(), w.paused(), w.shut()) {
		if s.Team == team && s.ID == id {
			return s, nil
		}
	}
	return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s does not exist", id)
}

func (w *world) Create(_ context.Context, req soulbox.CreateRequest) (*soulbox.Sandbox, error) {
	w.asked = req
	if w.fail != nil {
		return nil, w.fail
	}
	s := w.boxes()[0]
	s.Secure = req.Secure
	return s, nil
}

func (w *world) Live(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	return w.find(team, id)
}

func (w *world) List(_ context.Context, f soulbox.SandboxFilter) (soulbox.SandboxPage, error) {
	w.asked = f
	if w.fail != nil {
		return soulbox.SandboxPage{}, w.fail
	}
	if f.Team != "ours" {
		return soulbox.SandboxPage{}, nil
	}
	w.lists++
	page := soulbox.SandboxPage{Total: 7}
	if slices.Contains(f.States, soulbox.Running) {
		page.Sandboxes = w.boxes()
	}
	if slices.Contains(f.States, soulbox.Paused) {
		page.Sandboxes = append(page.Sandboxes, w.paused())
		page.Total = 9
	}
	if f.Limit == 2 {
		page.Next = "more"
	}
	return page, nil
}

func (w *world) Pause(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, memory bool) error {
	s, err := w.find(team, id)
	if err == nil && s.State == soulbox.Paused {
		err = soulbox.Errorf(soulbox.Conflict, "sandbox %s is paused already", id)
	}
	w.asked = memory
	return err
}

// A connection is what Connect was asked for.
type connection struct {
	D    time.Duration
	Cold bool
}

func (w *world) Connect(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration, cold bool) (*soulbox.Sandbox, bool, error) {
	s, err := w.find(team, id)
	if err != nil {
		return nil, false, err
	}
	w.asked = connection{d, cold}
	resumed := s.State == soulbox.Paused && !w.quicker
	s.State, s.Pause = soulbox.Running, nil
	return s, resumed, nil
}

// A forking is what Fork was asked for.
type forking struct {
	N int
	D time.Duration
}

func (w *world) Fork(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, n int, d time.Duration) ([]soulbox.Fork, error) {
	s, err := w.find(team, id)
	if err != nil {
		return nil, err
	}
	if s.State == soulbox.Paused {
		return nil, soulbox.Errorf(soulbox.Conflict, "sandbox %s is paused", id)
	}
	w.asked = forking{n, d}
	all := make([]soulbox.Fork, n)
	for i := range all {
		all[i].Sandbox = s
	}
	if n > 1 {
		all[1] = soulbox.Fork{Err: soulbox.Errorf(soulbox.Exhausted, "20 sandboxes run already")}
	}
	if n > 2 {
		all[2] = soulbox.Fork{Err: errors.New("secret detail")}
	}
	return all, nil
}

func snapshots() []*soulbox.Snapshot {
	size := soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB}
	return []*soulbox.Snapshot{
		{
			ID: namedID, Team: "ours", Sandbox: ourBox, Kind: soulbox.ForCreate, Name: "my-snap", Ready: true, Memory: true,
			CreatedAt: epoch, Template: "tpl1", Alias: "base", Image: strings.Repeat("ab", 32), Size: size,
		},
		{ID: snapID, Team: "ours", Sandbox: "igone", Kind: soulbox.ForCreate, Ready: true, Memory: true, CreatedAt: epoch, Template: "tpl1", Size: size},
	}
}

func (w *world) Snapshot(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, name string) (*soulbox.Snapshot, error) {
	if _, err := w.find(team, id); err != nil {
		return nil, err
	}
	w.asked = name
	if name == "my-snap" {
		return nil, soulbox.Errorf(soulbox.Conflict, "there is a snapshot 'my-snap' already")
	}
	return &soulbox.Snapshot{ID: snapID, Team: team, Sandbox: id, Name: name}, nil
}

func (w *world) Snapshots(_ context.Context, f soulbox.SnapshotFilter) (soulbox.SnapshotPage, error) {
	w.asked = f
	if f.Team != "ours" {
		return soulbox.SnapshotPage{}, nil
	}
	page := soulbox.SnapshotPage{Snapshots: snapshots()}
	if f.Limit == 2 {
		page.Next = "more"
	}
	return page, w.fail
}

func (w *world) FindSnapshot(_ context.Context, team soulbox.TeamID, idOrName string) (*soulbox.Snapshot, error) {
	if w.fail != nil {
		return nil, w.fail
	}
	for _, s := range snapshots() {
		if w.shadow {
			s.Name = "base"
		}
		if s.Team == team && (string(s.ID) == idOrName || s.Name == idOrName) && !w.removed[s.ID] {
			return s, nil
		}
	}
	return nil, soulbox.Errorf(soulbox.NotFound, "snapshot '%s' not found", idOrName)
}

func (w *world) RemoveSnapshot(ctx context.Context, team soulbox.TeamID, id soulbox.SnapshotID) error {
	_, err := w.FindSnapshot(ctx, team, string(id))
	w.asked = id
	if err == nil {
		w.removed = map[soulbox.SnapshotID]bool{id: true}
	}
	return err
}

func (w *world) Kill(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, by soulbox.Ender, _ string) error {
	_, err := w.find(team, id)
	w.asked = by
	return err
}

func (w *world) SetTimeout(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) error {
	_, err := w.find(team, id)
	w.asked = d
	return err
}

func (w *world) Extend(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) (*soulbox.Sandbox, error) {
	w.asked = d
	return w.find(team, id)
}

func (w *world) SetNetwork(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, n soulbox.Network) error {
	_, err := w.find(team, id)
	w.asked = n
	return err
}

func usage(at time.Time) soulbox.Usage {
	return soulbox.Usage{At: at, CPUPercent: 150, CPUCount: 2, MemUsed: 1000, MemTotal: 2000, MemCache: 300, DiskUsed: 40, DiskTotal: 50}
}

func (w *world) Usage(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, from, to time.Time) ([]soulbox.Usage, error) {
	w.asked = [2]time.Time{from, to}
	if _, err := w.find(team, id); err != nil {
		return nil, err
	}
	if !to.IsZero() && to.Before(epoch) {
		return nil, nil
	}
	return []soulbox.Usage{usage(epoch), usage(epoch.Add(5 * time.Second))}, nil
}

func (w *world) LatestUsage(_ context.Context, team soulbox.TeamID, ids []soulbox.SandboxID) (map[soulbox.SandboxID]soulbox.Usage, error) {
	w.asked = ids
	out := map[soulbox.SandboxID]soulbox.Usage{}
	for _, id := range ids {
		if _, err := w.find(team, id); err == nil {
			out[id] = usage(epoch)
		}
	}
	return out, w.fail
}

func (w *world) Logs(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID, q soulbox.LogQuery) ([]soulbox.LogEntry, error) {
	w.asked = q
	if _, err := w.find(team, id); err != nil {
		return nil, err
	}
	return []soulbox.LogEntry{
		{At: epoch, Level: "info", Message: "process started", Fields: map[string]string{"pid": "7", "logger": "process", "level": "forged", "message": "forged"}},
		{At: epoch.Add(time.Second), Level: "verbose", Message: "\xffodd \"text\"\n"},
	}, nil
}

func (w *world) Team(_ context.Context, id soulbox.TeamID) (*soulbox.Team, error) {
	limits := soulbox.Limits{CPUs: 4, Memory: 2 * soulbox.GiB}
	if id != "ours" {
		return &soulbox.Team{ID: id, Name: "Their team", Slug: "their-team", Limits: limits}, nil
	}
	return &soulbox.Team{ID: id, Name: "Our team", Slug: "our-team", Limits: limits}, nil
}

func (w *world) Keys(context.Context, soulbox.TeamID) ([]*soulbox.Key, error) {
	return []*soulbox.Key{
		{ID: keyID, Team: "ours", Name: "first", Hash: "must not show", Suffix: "1111", CreatedAt: epoch, LastUsed: epoch.Add(time.Hour)},
		{ID: "8f2a4c1b-1111-4222-8333-444455556666", Team: "ours", Name: "unused", Suffix: "abcd", CreatedAt: epoch},
	}, nil
}

func (w *world) CreateKey(_ context.Context, team soulbox.TeamID, name string) (string, *soulbox.Key, error) {
	w.asked = name
	return "e2b_3333333333333333333333333333333333333333", &soulbox.Key{ID: keyID, Team: team, Name: name, Hash: "must not show", Suffix: "3333", CreatedAt: epoch}, nil
}

func (w *world) RenameKey(_ context.Context, team soulbox.TeamID, id soulbox.KeyID, name string) error {
	w.asked = name
	return w.key(team, id)
}

func (w *world) RevokeKey(_ context.Context, team soulbox.TeamID, id soulbox.KeyID) error {
	return w.key(team, id)
}

func (w *world) key(team soulbox.TeamID, id soulbox.KeyID) error {
	if team != "ours" || id != keyID {
		return soulbox.Errorf(soulbox.NotFound, "there is no key %s", id)
	}
	return nil
}

func newAPI(t testing.TB, w *world, domain string) http.Handler {
	t.Helper()
	return apiOf(t, w, e2b.Options{Domain: domain, Seed: seed, Disk: 10 * soulbox.GiB, AWS: amazon(t)})
}

func apiOf(t testing.TB, w *world, o e2b.Options) http.Handler {
	t.Helper()
	a, err := api.New(slog.New(slog.DiscardHandler), w, e2b.Routes(w, w, w, o), api.Options{})
	if err != nil {
		t.Fatalf("the route table is wrong: %v", err)
	}
	return a
}

// ask makes a request with our key. Pairs of header replace what it has.
func ask(h http.Handler, verb, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(verb, path, strings.NewReader(body))
	r.Header.Set("X-API-KEY", ourKey)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// golden compares an answer with testdata/name.json.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, got, "", "  "); err != nil {
		t.Fatalf("%s: %q is not JSON: %v", name, got, err)
	}
	goldenText(t, name+".json", pretty.String())
}

// goldenText compares text with testdata/name.
func goldenText(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("answer differs from %s (-want +got):\n%s", file, diff)
	}
}

// wantFailure checks an answer that is an error.
func wantFailure(t *testing.T, w *httptest.ResponseRecorder, code int, msg string) {
	t.Helper()
	var f api.Failure
	if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
		t.Fatalf("status %d, body %q: not an error body: %v", w.Code, w.Body, err)
	}
	if w.Code != code || f.Code != code || !strings.Contains(f.Message, msg) {
		t.Errorf("answered %d with %+v, want %d in both and a message with %q", w.Code, f, code, msg)
	}
}
