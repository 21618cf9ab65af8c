package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// write and read are of a file in a sandbox.
func write(t *testing.T, box *client.Sandbox, path, text string) {
	t.Helper()
	if err := box.WriteFile(t.Context(), path, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, box *client.Sandbox, path string) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := box.ReadFile(t.Context(), path, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func stateOf(t *testing.T, c *client.Client, id string) soulbox.State {
	t.Helper()
	info, err := c.Sandboxes.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return info.State
}

func TestPause(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if box.Resumed {
		t.Error("a new sandbox says that it was resumed")
	}
	write(t, box, "note", "kept")
	if err := c.Sandboxes.Pause(ctx, box.ID, client.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := stateOf(t, c, box.ID); got != soulbox.Paused {
		t.Errorf("state after Pause: %s", got)
	}
	if err := c.Sandboxes.Pause(ctx, box.ID, client.PauseOptions{}); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Pause again: %v, want Conflict", err)
	}
	// Nothing but Resume and Connect with a timeout makes it run.
	if err := c.Sandboxes.Extend(ctx, box.ID, time.Minute); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Extend of a paused one: %v, want Conflict", err)
	}
	if _, err := c.Sandboxes.Fork(ctx, box.ID, 1, 0); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Fork of a paused one: %v, want Conflict", err)
	}
	same, err := c.Sandboxes.Connect(ctx, box.ID, 0)
	if err != nil || same.Resumed {
		t.Fatalf("Connect without a timeout: %+v, %v", same, err)
	}
	_, err = same.Run(ctx, "true", client.RunOptions{})
	if want := "sandbox " + box.ID + " is paused; resume it first"; soulbox.KindOf(err) != soulbox.Conflict || err.Error() != want {
		t.Errorf("Run in a paused one: %v, want %s", err, want)
	}
	if same, err = c.Sandboxes.Connect(ctx, box.ID, time.Minute); err != nil || !same.Resumed {
		t.Fatalf("Connect: %+v, %v, want a resumed one", same, err)
	}
	if same, err = c.Sandboxes.Resume(ctx, box.ID, client.ResumeOptions{}); err != nil || same.Resumed {
		t.Fatalf("Resume of what runs: %+v, %v", same, err)
	}
	if got := read(t, box, "note"); got != "kept" {
		t.Errorf("the file after a pause, through the old handle: %q", got)
	}
	if err := c.Sandboxes.Pause(ctx, box.ID, client.PauseOptions{FilesOnly: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.Sandboxes.Kill(ctx, box.ID); err != nil {
		t.Errorf("Kill of a paused one: %v", err)
	}
}

func TestLifecycle(t *testing.T) {
	c, server := newClient(t)
	ctx := t.Context()
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{Lifecycle: soulbox.Lifecycle{Pause: true, Wake: true}})
	if err != nil {
		t.Fatal(err)
	}
	server.Expire(box.ID)
	if got := stateOf(t, c, box.ID); got != soulbox.Paused {
		t.Errorf("state after its time was up: %s", got)
	}
	if _, err := box.Run(ctx, "true", client.RunOptions{}); err != nil {
		t.Errorf("Run does not wake it: %v", err)
	}
	other, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.Expire(other.ID)
	if got := stateOf(t, c, other.ID); got != soulbox.Ended {
		t.Errorf("state of one that ends when its time was up: %s", got)
	}
	if _, err := c.Sandboxes.Create(ctx, client.CreateOptions{Lifecycle: soulbox.Lifecycle{FilesOnly: true}}); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Create with a pause that never comes: %v, want Invalid", err)
	}
}

func TestFork(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, box, "note", "before")
	forks, err := c.Sandboxes.Fork(ctx, box.ID, 2, time.Hour)
	if err != nil || len(forks) != 2 {
		t.Fatalf("Fork: %v, %v, want two", forks, err)
	}
	write(t, box, "note", "after")
	for _, f := range forks {
		if f.Err != nil || f.Sandbox.ID == box.ID {
			t.Fatalf("Fork: %+v", f)
		}
		if got := read(t, f.Sandbox, "note"); got != "before" {
			t.Errorf("the file in a fork: %q, want what was there before", got)
		}
		info, err := c.Sandboxes.Get(ctx, f.Sandbox.ID)
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(info.ExpiresAt); left < 59*time.Minute {
			t.Errorf("a fork made for an hour has %v left", left)
		}
	}
	if _, err := c.Sandboxes.Fork(ctx, box.ID, 101, 0); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Fork of too many: %v, want Invalid", err)
	}
}

// Of several copies, some may fail.
func TestForkPartly(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`[{"sandbox":{"sandboxID":"i1"}},{"error":{"code":429,"message":"too many"}},{}]`))
	}))
	defer server.Close()
	forks, err := clientOf(t, server.URL).Sandboxes.Fork(t.Context(), "i0", 3, 0)
	if err != nil || len(forks) != 3 {
		t.Fatalf("Fork: %v, %v, want three", forks, err)
	}
	if forks[0].Err != nil || forks[0].Sandbox.ID != "i1" {
		t.Errorf("the first: %+v", forks[0])
	}
	if err := forks[1].Err; soulbox.KindOf(err) != soulbox.Exhausted || err.Error() != "too many" {
		t.Errorf("the second: %v, want Exhausted", err)
	}
	if err := forks[2].Err; soulbox.KindOf(err) != soulbox.Unavailable {
		t.Errorf("the third: %v, want Unavailable", err)
	}
}

func TestSnapshots(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, box, "note", "12345")
	id, err := c.Sandboxes.Snapshot(ctx, box.ID, "ready")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sandboxes.Snapshot(ctx, box.ID, "ready"); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Snapshot with a name that is taken: %v, want Conflict", err)
	}
	second, err := c.Sandboxes.Snapshot(ctx, box.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sandboxes.Checkpoint(ctx, box.ID, "ready"); err != nil {
		t.Errorf("Checkpoint with the name of a snapshot: %v", err)
	}
	if err := box.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for snap, err := range c.Sandboxes.Snapshots(ctx, soulbox.ForCreate) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, snap.ID)
		if snap.ID != id {
			continue
		}
		want := &client.Snapshot{ID: id, Kind: soulbox.ForCreate, Name: "ready", Sandbox: box.ID, Bytes: 5, CreatedAt: snap.CreatedAt}
		if d := cmp.Diff(want, snap); d != "" || time.Since(snap.CreatedAt) > time.Minute {
			t.Errorf("the snapshot (-want +got):\n%s", d)
		}
	}
	if want := []string{second, id}; !cmp.Equal(ids, want) {
		t.Errorf("Snapshots: %v, want %v", ids, want)
	}
	for _, ref := range []string{id, "ready"} {
		made, err := c.Sandboxes.Create(ctx, client.CreateOptions{Template: ref})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, made, "note"); got != "12345" {
			t.Errorf("the file in a sandbox of snapshot %s: %q", ref, got)
		}
	}
	if err := c.Sandboxes.RemoveSnapshot(ctx, id); err != nil {
		t.Error(err)
	}
	if err := c.Sandboxes.RemoveSnapshot(ctx, id); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("RemoveSnapshot again: %v, want NotFound", err)
	}
	for _, bad := range []string{"", "ready", "../keys/1", "s/../../keys/0123456789"} {
		if err := c.Sandboxes.RemoveSnapshot(ctx, bad); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("RemoveSnapshot(%q): %v, want Invalid", bad, err)
		}
		if err := c.Sandboxes.RemoveCheckpoint(ctx, box.ID, bad); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("RemoveCheckpoint(%q): %v, want Invalid", bad, err)
		}
	}
}

func TestCheckpoints(t *testing.T) {
	c, _ := newClient(t)
	ctx := t.Context()
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	keep := func(name string) *client.Snapshot {
		t.Helper()
		write(t, box, "note", name)
		cp, err := c.Sandboxes.Checkpoint(ctx, box.ID, name)
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	first, second := keep("one"), keep("two")
	if first.Parent != "" || second.Parent != first.ID || !second.Current || second.Kind != soulbox.ForRollback || second.Sandbox != box.ID {
		t.Errorf("Checkpoint: %+v, then %+v", first, second)
	}
	if _, err := c.Sandboxes.Checkpoint(ctx, box.ID, "one"); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Checkpoint with a name that is taken: %v, want Conflict", err)
	}
	info, err := c.Sandboxes.Rollback(ctx, box.ID, "one")
	if err != nil || info.ID != box.ID || info.State != soulbox.Running {
		t.Fatalf("Rollback: %+v, %v", info, err)
	}
	if got := read(t, box, "note"); got != "one" {
		t.Errorf("the file after Rollback: %q", got)
	}
	third := keep("three")
	if third.Parent != first.ID {
		t.Errorf("the parent after Rollback: %s, want %s", third.Parent, first.ID)
	}
	if _, err := c.Sandboxes.Rollback(ctx, box.ID, second.ID); err != nil {
		t.Fatal(err)
	}
	all, err := c.Sandboxes.Checkpoints(ctx, box.ID)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, cp := range all {
		name := cp.Name
		if cp.Current {
			name += "*"
		}
		got = append(got, name)
	}
	if want := []string{"one", "two*", "three"}; !cmp.Equal(got, want) {
		t.Errorf("Checkpoints: %v, want %v", got, want)
	}
	if err := c.Sandboxes.RemoveCheckpoint(ctx, box.ID, third.ID); err != nil {
		t.Error(err)
	}
	if _, err := c.Sandboxes.Rollback(ctx, box.ID, "three"); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Rollback to one that is gone: %v, want NotFound", err)
	}
}

// What is sent is what E2B's protocol and the native one say.
func TestLifeWire(t *testing.T) {
	const box, snap = "i0", "s00000000000000000000"
	tests := []struct {
		name, want string
		call       func(context.Context, *client.Sandboxes) error
	}{
		{"create plain", `POST /v1/sandboxes {"template":"base"}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Create(ctx, client.CreateOptions{})
			return err
		}},
		{"create with a lifecycle", `POST /v1/sandboxes {"template":"base","lifecycle":{"on_timeout":"pause","files_only":true,"wake":true}}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Create(ctx, client.CreateOptions{Lifecycle: soulbox.Lifecycle{Pause: true, FilesOnly: true, Wake: true}})
			return err
		}},
		{"create with everything", `POST /v1/sandboxes {"template":"t","timeout":2,"isolation":"gvisor","envs":{"A":"1"},"metadata":{"b":"2"},"internet":false,"private_ports":true}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Create(ctx, client.CreateOptions{
				Template: "t", Timeout: 1500 * time.Millisecond, Isolation: new(soulbox.GVisor),
				Env: map[string]string{"A": "1"}, Metadata: map[string]string{"b": "2"}, NoInternet: true, PrivatePorts: true,
			})
			return err
		}},
		{"pause", `POST /sandboxes/i0/pause {"memory":true}`, func(ctx context.Context, s *client.Sandboxes) error {
			return s.Pause(ctx, box, client.PauseOptions{})
		}},
		{"pause files", `POST /sandboxes/i0/pause {"memory":false}`, func(ctx context.Context, s *client.Sandboxes) error {
			return s.Pause(ctx, box, client.PauseOptions{FilesOnly: true})
		}},
		{"resume", `POST /v2/sandboxes/i0/connect {}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Resume(ctx, box, client.ResumeOptions{})
			return err
		}},
		{"resume cold", `POST /v2/sandboxes/i0/connect {"timeout":2,"memory":false}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Resume(ctx, box, client.ResumeOptions{Timeout: 1500 * time.Millisecond, Cold: true})
			return err
		}},
		{"extend", `POST /sandboxes/i0/refreshes {"duration":120}`, func(ctx context.Context, s *client.Sandboxes) error {
			return s.Extend(ctx, box, 2*time.Minute)
		}},
		{"fork", `POST /sandboxes/i0/fork {"count":3,"timeout":300}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Fork(ctx, box, 3, 0)
			return err
		}},
		{"snapshot", `POST /sandboxes/i0/snapshots {"name":"x"}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Snapshot(ctx, box, "x")
			return err
		}},
		{"snapshots", `GET /v1/snapshots?kind=checkpoint `, func(ctx context.Context, s *client.Sandboxes) error {
			for _, err := range s.Snapshots(ctx, soulbox.ForRollback) {
				return err
			}
			return nil
		}},
		{"remove snapshot", `DELETE /v1/snapshots/` + snap + ` `, func(ctx context.Context, s *client.Sandboxes) error {
			return s.RemoveSnapshot(ctx, snap)
		}},
		{"checkpoint", `POST /v1/sandboxes/i0/checkpoints {}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Checkpoint(ctx, box, "")
			return err
		}},
		{"checkpoints", `GET /v1/sandboxes/i0/checkpoints `, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Checkpoints(ctx, box)
			return err
		}},
		{"remove checkpoint", `DELETE /v1/sandboxes/i0/checkpoints/` + snap + ` `, func(ctx context.Context, s *client.Sandboxes) error {
			return s.RemoveCheckpoint(ctx, box, snap)
		}},
		{"diff", `GET /v1/sandboxes/i0/checkpoints/a%2Fb/diff/` + snap + ` `, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Diff(ctx, box, "a/b", snap)
			return err
		}},
		{"diff with now", `GET /v1/sandboxes/i0/checkpoints/a/diff/now `, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Diff(ctx, box, "a", "")
			return err
		}},
		{"rollback", `POST /v1/sandboxes/i0/rollback {"checkpoint":"a/b"}`, func(ctx context.Context, s *client.Sandboxes) error {
			_, err := s.Rollback(ctx, box, "a/b")
			return err
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = r.Method + " " + r.URL.String() + " " + string(body)
				var out any = map[string]any{}
				if strings.HasSuffix(r.URL.Path, "/fork") {
					out = []any{}
				}
				_ = json.NewEncoder(w).Encode(out)
			}))
			defer server.Close()
			if err := tt.call(t.Context(), clientOf(t, server.URL).Sandboxes); err != nil {
				t.Error(err)
			}
			if got != tt.want {
				t.Errorf("the request:\n%s, want\n%s", got, tt.want)
			}
		})
	}
}

// What the server writes, word for word, is understood.
func TestSnapshotsOfTheServer(t *testing.T) {
	answer, err := os.ReadFile("../api/native/testdata/snapshots.json")
	if err != nil {
		t.Fatal(err)
	}
	var wire map[string]any
	if err := json.Unmarshal(answer, &wire); err != nil {
		t.Fatal(err)
	}
	delete(wire, "next") // one page will do
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(wire); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	c, err := client.New(client.Options{APIURL: server.URL, APIKey: "e2b_" + strings.Repeat("0", 40)})
	if err != nil {
		t.Fatal(err)
	}
	for snap, err := range c.Sandboxes.Snapshots(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if snap.Sandbox != "ilive" || snap.Kind != soulbox.ForRollback || snap.Bytes == 0 || !snap.Memory || snap.CreatedAt.IsZero() {
			t.Errorf("of %s the client reads %+v", answer, snap)
		}
	}
}

func TestDiff(t *testing.T) {
	ctx := t.Context()
	c, _ := newClient(t)
	box, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	run := func(script string) {
		t.Helper()
		if _, err := box.Run(ctx, script, client.RunOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	run("echo one >note; echo x >old")
	first, err := c.Sandboxes.Checkpoint(ctx, box.ID, "first")
	if err != nil {
		t.Fatal(err)
	}
	run("echo other >note; rm old")
	if _, err := c.Sandboxes.Checkpoint(ctx, box.ID, "second"); err != nil {
		t.Fatal(err)
	}
	run("mkdir d; echo y >d/new")
	gone := []soulbox.Change{
		{Path: "/note", Kind: soulbox.Changed, Type: soulbox.File, Size: 6},
		{Path: "/old", Kind: soulbox.Removed, Type: soulbox.File},
	}
	for b, want := range map[string][]soulbox.Change{
		"second": gone,
		"first":  nil,
		"":       append([]soulbox.Change{{Path: "/d/new", Kind: soulbox.Created, Type: soulbox.File, Size: 2}}, gone...),
	} {
		got, err := c.Sandboxes.Diff(ctx, box.ID, first.ID, b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&soulbox.Changes{List: want}, got); diff != "" {
			t.Errorf("Diff with %q: (-want +got)\n%s", b, diff)
		}
	}
	for what, tt := range map[string]struct {
		a, b string
		want soulbox.Kind
	}{"no name": {"", "", soulbox.Invalid}, "a dot": {"first", "..", soulbox.Invalid}, "none": {"none", "", soulbox.NotFound}, "none after": {"first", "none", soulbox.NotFound}} {
		if _, err := c.Sandboxes.Diff(ctx, box.ID, tt.a, tt.b); soulbox.KindOf(err) != tt.want {
			t.Errorf("%s: %v, want kind %d", what, err, tt.want)
		}
	}
}
