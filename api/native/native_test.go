package native_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
	"github.com/soulbox/soulbox/api/native"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

const (
	firstID = "s0first00000000000000"
	laterID = "s0later00000000000000"
)

const keyID = "0b9f7c0e-6d5b-4a0e-9f55-0d6f3a1c2b3d"

var epoch = time.Date(2026, 3, 4, 5, 6, 7, 891234567, time.FixedZone("here", 2*60*60))

// world stands for the rooms behind the API and remembers what it was asked.
type world struct {
	asked any
}

func (w *world) Authenticate(_ context.Context, plain string) (soulbox.Actor, error) {
	switch plain {
	case "ours", "theirs":
		return soulbox.Actor{Team: soulbox.TeamID(plain), Key: keyID}, nil
	}
	return soulbox.Actor{}, soulbox.Errorf(soulbox.Unauthenticated, "the API key is not valid")
}

func boxes() []*soulbox.Sandbox {
	size := soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 10 * soulbox.GiB, PIDs: 1000}
	return []*soulbox.Sandbox{
		{
			ID: "ilive", Team: "ours", Template: "tpl1", Alias: "base", Node: "n1", State: soulbox.Running, CreatedAt: epoch,
			StartedAt: epoch.Add(time.Second), ExpiresAt: epoch.Add(time.Hour), Size: size, Network: soulbox.Network{Internet: true},
			Secure: true, Token: "must not show", Env: map[string]string{"SECRET": "must not show"}, Metadata: map[string]string{"user": "ada"},
			Lifecycle: soulbox.Lifecycle{Pause: true, Wake: true}, From: laterID,
		},
		{
			ID: "icold", Team: "ours", Template: "tpl1", State: soulbox.Paused, CreatedAt: epoch, StartedAt: epoch, ExpiresAt: epoch, Size: size,
			Network: soulbox.Network{Private: true}, Secure: true, Token: "must not show", Traffic: "traffic-token",
			Lifecycle: soulbox.Lifecycle{Pause: true, FilesOnly: true}, From: laterID,
			Pause: &soulbox.Pause{Snapshot: laterID, At: epoch.Add(time.Hour)},
		},
		{
			ID: "idead", Team: "ours", Template: "tpl1", State: soulbox.Ended, CreatedAt: epoch, Size: size,
			End: &soulbox.End{At: epoch.Add(time.Minute), By: soulbox.ByOOM, Reason: "It used more than its 512 MiB of memory."},
		},
	}
}

func (w *world) Get(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	for _, s := range boxes() {
		if s.Team == team && s.ID == id {
			return s, nil
		}
	}
	return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s does not exist", id)
}

func (w *world) List(_ context.Context, f soulbox.SandboxFilter) (soulbox.SandboxPage, error) {
	w.asked = f
	return soulbox.SandboxPage{Sandboxes: boxes(), Next: "more", Total: 12}, nil
}

func (w *world) Create(_ context.Context, req soulbox.CreateRequest) (*soulbox.Sandbox, error) {
	w.asked = req
	s := boxes()[0]
	if s.Token = "its token"; req.Isolation != nil {
		s.Isolation = *req.Isolation
	}
	return s, nil
}

// checkpoints are those of ilive.
func checkpoints() []*soulbox.Snapshot {
	return []*soulbox.Snapshot{
		{ID: firstID, Team: "ours", Sandbox: "ilive", Kind: soulbox.ForRollback, Name: "Before the test/1", Memory: true, Bytes: 7 << 20, CreatedAt: epoch, Template: "tpl1", Node: "n1"},
		{ID: laterID, Team: "ours", Sandbox: "ilive", Parent: firstID, Kind: soulbox.ForRollback, Memory: true, Bytes: 9 << 20, CreatedAt: epoch.Add(time.Minute), Template: "tpl1"},
	}
}

func (w *world) Checkpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, name string) (*soulbox.Snapshot, error) {
	if _, err := w.Get(ctx, team, id); err != nil {
		return nil, err
	}
	w.asked = name
	return &soulbox.Snapshot{ID: laterID, Sandbox: id, Parent: firstID, Name: name, Bytes: 7 << 20, CreatedAt: epoch}, nil
}

func (w *world) Checkpoints(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) ([]*soulbox.Snapshot, error) {
	if _, err := w.Get(ctx, team, id); err != nil || id != "ilive" {
		return nil, err
	}
	return checkpoints(), nil
}

func (w *world) RemoveCheckpoint(_ context.Context, _ soulbox.TeamID, _ soulbox.SandboxID, c soulbox.SnapshotID) error {
	w.asked = c
	return nil
}

func (w *world) Diff(_ context.Context, _ soulbox.TeamID, id soulbox.SandboxID, a, b soulbox.SnapshotID) (soulbox.Changes, error) {
	w.asked = []soulbox.SnapshotID{a, b}
	return soulbox.Changes{Truncated: b == "", List: []soulbox.Change{
		{Path: "/home/user/" + string(id), Kind: soulbox.Changed, Type: soulbox.File, Size: 7},
		{Path: "/home/user/\xff", Kind: soulbox.Removed, Type: soulbox.Folder},
	}}, nil
}

func (w *world) Rollback(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, c soulbox.SnapshotID) (*soulbox.Sandbox, error) {
	w.asked = c
	s, err := w.Get(ctx, team, id)
	if err == nil {
		s.From = c
	}
	return s, err
}

func (w *world) Snapshots(_ context.Context, f soulbox.SnapshotFilter) (soulbox.SnapshotPage, error) {
	w.asked = f
	return soulbox.SnapshotPage{Snapshots: checkpoints(), Next: "more"}, nil
}

func (w *world) FindSnapshot(_ context.Context, team soulbox.TeamID, idOrName string) (*soulbox.Snapshot, error) {
	if team != "ours" || idOrName != "mine" {
		return nil, soulbox.Errorf(soulbox.NotFound, "snapshot '%s' not found", idOrName)
	}
	return &soulbox.Snapshot{ID: firstID}, nil
}

func (w *world) RemoveSnapshot(_ context.Context, team soulbox.TeamID, id soulbox.SnapshotID) error {
	if team != "ours" {
		return soulbox.Errorf(soulbox.NotFound, "snapshot '%s' not found", id)
	}
	w.asked = id
	return nil
}

func (w *world) Keys(context.Context, soulbox.TeamID) ([]*soulbox.Key, error) {
	return []*soulbox.Key{
		{ID: keyID, Name: "first", Hash: "must not show", Suffix: "1111", CreatedAt: epoch, LastUsed: epoch.Add(time.Hour)},
		{ID: "k2", Name: "unused", Suffix: "abcd", CreatedAt: epoch},
	}, nil
}

func (w *world) CreateKey(_ context.Context, team soulbox.TeamID, name string) (string, *soulbox.Key, error) {
	w.asked = name
	return "e2b_3333", &soulbox.Key{ID: keyID, Team: team, Name: name, Hash: "must not show", Suffix: "3333", CreatedAt: epoch}, nil
}

func (w *world) RevokeKey(_ context.Context, team soulbox.TeamID, id soulbox.KeyID) error {
	if team != "ours" || id != keyID {
		return soulbox.Errorf(soulbox.NotFound, "there is no key %s", id)
	}
	w.asked = id
	return nil
}

func (w *world) Pools() soulbox.Pools {
	return soulbox.Pools{Budget: 512 * soulbox.MiB, Each: 12 * soulbox.MiB, Pools: []soulbox.Pool{
		{Template: "tpl1", Name: "base", Public: true, Each: 12 * soulbox.MiB, Ready: 3, Want: 4, Hits: 20, Misses: 2},
		{Template: "tpl2", Name: "mine", Team: "ours", Each: 90 * soulbox.MiB, Want: 1, Misses: 1},
		{Template: "tpl3", Name: "must not show", Team: "theirs", Ready: 1, Want: 1, Hits: 7},
	}}
}

func newAPI(t testing.TB, w *world) http.Handler {
	t.Helper()
	a, err := api.New(slog.New(slog.DiscardHandler), w, native.Routes(w, w, native.Options{Version: "v0.1.0", Domain: "sandbox.example.com", Pools: w}), api.Options{})
	if err != nil {
		t.Fatalf("the route table is wrong: %v", err)
	}
	return a
}

func ask(h http.Handler, verb, path, body, key string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(verb, path, strings.NewReader(body))
	r.Header.Set("X-API-KEY", key)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, got, "", "  "); err != nil {
		t.Fatalf("%s: %q is not JSON: %v", name, got, err)
	}
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), pretty.String()); diff != "" {
		t.Errorf("answer differs from %s (-want +got):\n%s", file, diff)
	}
}

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

func TestAnswers(t *testing.T) {
	all := []soulbox.State{
		soulbox.Starting, soulbox.Running, soulbox.Pausing, soulbox.Paused, soulbox.Resuming, soulbox.Ending, soulbox.Ended,
	}
	for _, tt := range []struct {
		name, verb, path, body string
		code                   int
		asked                  any
	}{
		{"sandboxes", "GET", "/v1/sandboxes", "", 200, soulbox.SandboxFilter{Team: "ours", Limit: 100}},
		{"sandboxes", "GET", "/v1/sandboxes?ended=false", "", 200, soulbox.SandboxFilter{Team: "ours", Limit: 100}},
		{"sandboxes", "GET", "/v1/sandboxes?ended=true&limit=5&cursor=c", "", 200, soulbox.SandboxFilter{Team: "ours", Limit: 5, Cursor: "c", States: all}},
		{"sandbox-created", "POST", "/v1/sandboxes", `{"template":"base","isolation":"runc","timeout":60,"envs":{"A":"1"},"metadata":{"b":"2"},"internet":false,"secure":false,"lifecycle":{"on_timeout":"pause","files_only":true}}`, 201, soulbox.CreateRequest{
			Team: "ours", Template: soulbox.TemplateRef{Name: "base"}, Timeout: time.Minute, Env: map[string]string{"A": "1"}, Metadata: map[string]string{"b": "2"},
			Isolation: new(soulbox.Runc), Lifecycle: soulbox.Lifecycle{Pause: true, FilesOnly: true},
		}},
		{"", "POST", "/v1/sandboxes", `{"template":"base","isolation":"gvisor"}`, 201, soulbox.CreateRequest{
			Team: "ours", Template: soulbox.TemplateRef{Name: "base"}, Timeout: 5 * time.Minute, Network: soulbox.Network{Internet: true}, Secure: true,
			Isolation: new(soulbox.GVisor),
		}},
		{"", "POST", "/v1/sandboxes", `{"template":"base"}`, 201, soulbox.CreateRequest{
			Team: "ours", Template: soulbox.TemplateRef{Name: "base"}, Timeout: 5 * time.Minute, Network: soulbox.Network{Internet: true}, Secure: true,
		}},
		{"", "POST", "/v1/sandboxes", `{"template":"base","private_ports":true}`, 201, soulbox.CreateRequest{
			Team: "ours", Template: soulbox.TemplateRef{Name: "base"}, Timeout: 5 * time.Minute, Network: soulbox.Network{Internet: true, Private: true}, Secure: true,
		}},
		{"sandbox", "GET", "/v1/sandboxes/ilive", "", 200, nil},
		{"sandbox-paused", "GET", "/v1/sandboxes/icold", "", 200, nil},
		{"sandbox-ended", "GET", "/v1/sandboxes/idead", "", 200, nil},
		{"checkpoint", "POST", "/v1/sandboxes/ilive/checkpoints", `{"name":" Vor dem Test é "}`, 201, "Vor dem Test é"},
		{"", "POST", "/v1/sandboxes/ilive/checkpoints", "", 201, ""},
		{"checkpoints", "GET", "/v1/sandboxes/ilive/checkpoints", "", 200, nil},
		{"", "DELETE", "/v1/sandboxes/ilive/checkpoints/" + laterID, "", 204, soulbox.SnapshotID(laterID)},
		{"", "DELETE", "/v1/sandboxes/ilive/checkpoints/Before%20the%20test%2F1", "", 204, soulbox.SnapshotID(firstID)},
		{"diff", "GET", "/v1/sandboxes/ilive/checkpoints/Before%20the%20test%2F1/diff/" + laterID, "", 200, []soulbox.SnapshotID{firstID, laterID}},
		{"diff-now", "GET", "/v1/sandboxes/ilive/checkpoints/" + laterID + "/diff/now", "", 200, []soulbox.SnapshotID{laterID, ""}},
		{"rolled-back", "POST", "/v1/sandboxes/ilive/rollback", `{"checkpoint":"Before the test/1"}`, 200, soulbox.SnapshotID(firstID)},
		{"", "POST", "/v1/sandboxes/ilive/rollback", `{"checkpoint":"` + laterID + `"}`, 200, soulbox.SnapshotID(laterID)},
		{"snapshots", "GET", "/v1/snapshots", "", 200, soulbox.SnapshotFilter{Team: "ours", Limit: 100}},
		{"snapshots", "GET", "/v1/snapshots?kind=checkpoint&sandbox=ilive&limit=5&cursor=c", "", 200, soulbox.SnapshotFilter{
			Team: "ours", Kind: soulbox.ForRollback, Sandbox: "ilive", Limit: 5, Cursor: "c",
		}},
		{"", "DELETE", "/v1/snapshots/" + laterID, "", 204, soulbox.SnapshotID(laterID)},
		{"", "DELETE", "/v1/snapshots/mine", "", 204, soulbox.SnapshotID(firstID)},
		{"keys", "GET", "/v1/keys", "", 200, nil},
		{"key-created", "POST", "/v1/keys", `{"name":" laptop"}`, 201, "laptop"},
		{"", "DELETE", "/v1/keys/" + keyID, "", 204, soulbox.KeyID(keyID)},
		{"pools", "GET", "/v1/pools", "", 200, nil},
		{"version", "GET", "/v1/version", "", 200, nil},
	} {
		t.Run(tt.verb+" "+tt.path, func(t *testing.T) {
			w := &world{}
			res := ask(newAPI(t, w), tt.verb, tt.path, tt.body, "ours")
			if res.Code != tt.code {
				t.Fatalf("%d %s, want %d", res.Code, res.Body, tt.code)
			}
			if diff := cmp.Diff(tt.asked, w.asked); diff != "" {
				t.Errorf("the rooms behind were asked (-want +got):\n%s", diff)
			}
			if tt.name != "" {
				golden(t, tt.name, res.Body.Bytes())
			}
		})
	}
}

func TestRefused(t *testing.T) {
	h := newAPI(t, &world{})
	for _, tt := range []struct {
		verb, path, body, key string
		code                  int
		msg                   string
	}{
		{"POST", "/v1/sandboxes", "", "ours", 400, "needs a body"},
		{"POST", "/v1/sandboxes", `{}`, "ours", 400, "template is needed"},
		{"POST", "/v1/sandboxes", `{"template":"base","isolation":"docker"}`, "ours", 400, `the isolation is gvisor or runc, not "docker"`},
		{"POST", "/v1/sandboxes", `{"template":"base","isolation":""}`, "ours", 400, `the isolation is gvisor or runc, not ""`},
		{"POST", "/v1/sandboxes", `{"template":"base","timeout":0}`, "ours", 400, "at least 1 second"},
		{"POST", "/v1/sandboxes", `{"template":"base","lifecycle":{"on_timeout":"sleep"}}`, "ours", 400, "kill or pause"},
		{"GET", "/v1/sandboxes/ilive", "", "theirs", 404, "does not exist"},
		{"GET", "/v1/sandboxes/UPPER", "", "ours", 400, "is not the id of a sandbox"},
		{"GET", "/v1/sandboxes/%00", "", "ours", 400, "is not the id of a sandbox"},
		{"GET", "/v1/sandboxes?ended=maybe", "", "ours", 400, "ended must be true or false"},
		{"GET", "/v1/sandboxes?limit=0", "", "ours", 400, "limit must be"},
		{"GET", "/v1/sandboxes?limit=1001", "", "ours", 400, "limit must be"},
		{"GET", "/v1/sandboxes/ilive/checkpoints", "", "theirs", 404, "does not exist"},
		{"GET", "/v1/sandboxes/UPPER/checkpoints", "", "ours", 400, "is not the id of a sandbox"},
		{"POST", "/v1/sandboxes/ilive/checkpoints", "", "theirs", 404, "does not exist"},
		{"POST", "/v1/sandboxes/ilive/checkpoints", `{"name":7}`, "ours", 400, "name must be a string"},
		{"POST", "/v1/sandboxes/ilive/checkpoints", `{"name":"a\nb"}`, "ours", 400, "all of them printable"},
		{"POST", "/v1/sandboxes/ilive/checkpoints", `{"name":"` + strings.Repeat("x", 129) + `"}`, "ours", 400, "at most 128 bytes"},
		{"POST", "/v1/sandboxes/ilive/checkpoints", `{"name":"` + laterID + `"}`, "ours", 400, "looks like the id"},
		{"POST", "/v1/sandboxes/UPPER/checkpoints", "", "ours", 400, "is not the id of a sandbox"},
		{"DELETE", "/v1/sandboxes/ilive/checkpoints/" + laterID, "", "theirs", 404, "does not exist"},
		{"DELETE", "/v1/sandboxes/ilive/checkpoints/none", "", "ours", 404, `sandbox ilive has no checkpoint "none"`},
		{"DELETE", "/v1/sandboxes/UPPER/checkpoints/none", "", "ours", 400, "is not the id of a sandbox"},
		{"POST", "/v1/sandboxes/ilive/checkpoints", `{"name":" now"}`, "ours", 400, "stands for the sandbox as it is"},
		{"GET", "/v1/sandboxes/ilive/checkpoints/" + laterID + "/diff/now", "", "theirs", 404, "does not exist"},
		{"GET", "/v1/sandboxes/ilive/checkpoints/none/diff/now", "", "ours", 404, `sandbox ilive has no checkpoint "none"`},
		{"GET", "/v1/sandboxes/ilive/checkpoints/now/diff/now", "", "ours", 404, `sandbox ilive has no checkpoint "now"`},
		{"GET", "/v1/sandboxes/ilive/checkpoints/" + laterID + "/diff/none", "", "ours", 404, `sandbox ilive has no checkpoint "none"`},
		{"GET", "/v1/sandboxes/UPPER/checkpoints/" + laterID + "/diff/now", "", "ours", 400, "is not the id of a sandbox"},
		{"POST", "/v1/sandboxes/ilive/rollback", `{"checkpoint":"` + laterID + `"}`, "theirs", 404, "does not exist"},
		{"POST", "/v1/sandboxes/ilive/rollback", ``, "ours", 400, "needs a body"},
		{"POST", "/v1/sandboxes/ilive/rollback", `{}`, "ours", 400, "checkpoint is needed"},
		{"POST", "/v1/sandboxes/ilive/rollback", `{"checkpoint":"none"}`, "ours", 404, "has no checkpoint"},
		{"POST", "/v1/sandboxes/icold/rollback", `{"checkpoint":"` + laterID + `"}`, "ours", 404, "has no checkpoint"},
		{"POST", "/v1/sandboxes/UPPER/rollback", `{"checkpoint":"x"}`, "ours", 400, "is not the id of a sandbox"},
		{"GET", "/v1/snapshots?kind=all", "", "ours", 400, "kind must be pause, checkpoint, snapshot or fork"},
		{"GET", "/v1/snapshots?sandbox=UPPER", "", "ours", 400, "is not the id of a sandbox"},
		{"GET", "/v1/snapshots?limit=x", "", "ours", 400, "limit must be"},
		{"DELETE", "/v1/snapshots/" + laterID, "", "theirs", 404, "not found"},
		{"DELETE", "/v1/snapshots/none", "", "ours", 404, "not found"},
		{"POST", "/v1/keys", "", "ours", 400, "needs a body"},
		{"POST", "/v1/keys", "{}", "ours", 400, "name must have"},
		{"POST", "/v1/keys", `{"name":3}`, "ours", 400, "name must be a string"},
		{"POST", "/v1/keys", `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, "ours", 413, "too large"},
		{"DELETE", "/v1/keys/1", "", "ours", 400, "is not the id of a key"},
		{"DELETE", "/v1/keys/" + keyID, "", "theirs", 404, "there is no key"},
		{"PUT", "/v1/sandboxes", "", "ours", 405, "PUT is not possible here"},
		{"GET", "/v1/nothing", "", "ours", 404, "there is no"},
	} {
		t.Run(tt.verb+" "+tt.path[:min(len(tt.path), 60)], func(t *testing.T) {
			wantFailure(t, ask(h, tt.verb, tt.path, tt.body, tt.key), tt.code, tt.msg)
		})
	}
	for _, r := range native.Routes(nil, nil, native.Options{}) {
		path := strings.NewReplacer("{", "", "}", "").Replace(r.Path)
		wantFailure(t, ask(h, r.Verb, path, "", "wrong"), 401, "not valid")
		wantFailure(t, ask(h, r.Verb, path, "", ""), 401, "is needed")
	}
}

// FuzzCheckpointName names checkpoints as people might. What is taken must be
// fit to be shown, and to be found by the same name.
func FuzzCheckpointName(f *testing.F) {
	for _, s := range []string{"", "  a  ", "before/after", laterID, "a\x00", "\u202e", "\xff", strings.Repeat("é", 65)} {
		f.Add(s)
	}
	w := &world{}
	h := newAPI(f, w)
	f.Fuzz(func(t *testing.T, name string) {
		w.asked = nil
		body, err := json.Marshal(map[string]string{"name": name})
		if err != nil {
			t.Fatal(err)
		}
		res := ask(h, "POST", "/v1/sandboxes/ilive/checkpoints", string(body), "ours")
		if res.Code != 201 {
			if res.Code != 400 && res.Code != 413 || w.asked != nil {
				t.Errorf("%q: %d %s after asking for %v", name, res.Code, res.Body, w.asked)
			}
			return
		}
		got := w.asked.(string)
		if len(got) > 128 || got != strings.TrimSpace(got) || strings.ContainsAny(got, "\x00\n\r\x1b") || soulbox.SnapshotID(got).Valid() {
			t.Errorf("%q became %q", name, got)
		}
	})
}
