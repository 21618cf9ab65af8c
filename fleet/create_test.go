package fleet_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/store"
)

func TestCreate(t *testing.T) {
	h := open(t)
	req := request()
	req.Secure = true
	req.Env, req.Metadata = map[string]string{"A": "1"}, map[string]string{"user": "7"}
	req.Network.Internet = true
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	base, err := h.store.Template(t.Context(), "t0base")
	if err != nil {
		t.Fatal(err)
	}
	want := &soulbox.Sandbox{
		ID: sb.ID, Team: "us", Template: "t0base", Build: base.Build, Alias: "base", Node: "node1", State: soulbox.Running,
		CreatedAt: sb.CreatedAt, StartedAt: sb.StartedAt, ExpiresAt: sb.StartedAt.Add(5 * time.Minute), Timeout: req.Timeout,
		Size:    soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: soulbox.GiB, PIDs: 100},
		Network: soulbox.Network{Internet: true}, Secure: true, Token: seed.AgentToken(sb.ID),
		Env: map[string]string{"A": "1"}, Metadata: map[string]string{"user": "7"},
	}
	if diff := cmp.Diff(want, sb); diff != "" {
		t.Errorf("Create (-want +got):\n%s", diff)
	}
	if sb.StartedAt.Before(sb.CreatedAt) || time.Since(sb.CreatedAt) > time.Minute {
		t.Errorf("created at %v and started at %v", sb.CreatedAt, sb.StartedAt)
	}
	if diff := cmp.Diff(want, h.record(sb.ID), cmpopts.IgnoreFields(soulbox.Sandbox{}, "Token")); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if got := h.node.has[sb.ID].Token; got != want.Token {
		t.Errorf("the node got token %q, want %q", got, want.Token)
	}
	req.Env["A"] = "changed by the caller"
	got, err := h.Get(t.Context(), "us", sb.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Get (-want +got):\n%s", diff)
	}
	page, err := h.List(t.Context(), soulbox.SandboxFilter{Team: "us"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*soulbox.Sandbox{want}, page.Sandboxes); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func TestCreateInsecureHasNoToken(t *testing.T) {
	if sb := open(t).create(); sb.Token != "" {
		t.Errorf("token %q", sb.Token)
	}
}

// TestPrivate follows the token that opens the ports of a private sandbox, and
// who has none.
func TestPrivate(t *testing.T) {
	h := open(t)
	req := request()
	req.Secure = true
	public, err := h.Create(t.Context(), req)
	if err != nil || public.Traffic != "" {
		t.Fatalf("a public one: token %q, %v", public.Traffic, err)
	}
	req.Network = soulbox.Network{Internet: true, Private: true}
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	want := seed.TrafficToken(sb.ID)
	if sb.Traffic != want || want == sb.Token {
		t.Fatalf("token %q beside the agent's %q, want %q", sb.Traffic, sb.Token, want)
	}
	// Who reaches it stays, whatever it may reach.
	if err := h.SetNetwork(t.Context(), "us", sb.ID, soulbox.Network{}); err != nil {
		t.Fatal(err)
	}
	private := soulbox.Network{Private: true}
	if got := h.record(sb.ID).Network; got != private {
		t.Errorf("record %+v, want %+v", got, private)
	}
	forks, err := h.Fork(t.Context(), "us", sb.ID, 1, time.Minute)
	if err != nil || forks[0].Err != nil {
		t.Fatal(forks, err)
	}
	if fork := forks[0].Sandbox; fork.Network != private || fork.Traffic != seed.TrafficToken(fork.ID) {
		t.Errorf("a fork has network %+v and token %q", fork.Network, fork.Traffic)
	}
	if err := h.Pause(t.Context(), "us", sb.ID, true); err != nil {
		t.Fatal(err)
	}
	h.restart()
	found, _ := h.Find(sb.ID)
	if found.Network != private || found.Traffic != want {
		t.Errorf("after a restart: network %+v, token %q", found.Network, found.Traffic)
	}
	if back, _, err := h.Connect(t.Context(), "us", sb.ID, time.Minute, false); err != nil || back.Traffic != want {
		t.Errorf("after a resume: token %q, %v", back.Traffic, err)
	}
	if err := h.Kill(t.Context(), "us", public.ID, soulbox.ByClient, ""); err != nil { // the team may have 5
		t.Fatal(err)
	}
	// Of a snapshot comes what its request says.
	snap, err := h.Snapshot(t.Context(), "us", sb.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	req.Template, req.Network = soulbox.TemplateRef{Name: string(snap.ID)}, soulbox.Network{}
	if got, err := h.Create(t.Context(), req); err != nil || got.Network.Private || got.Traffic != "" {
		t.Errorf("of a snapshot: network %+v, token %q, %v", got.Network, got.Traffic, err)
	}
}

func TestCreateRefused(t *testing.T) {
	h := open(t)
	h.template("tforeign", "them", "private", false)
	h.build(&soulbox.Template{ID: "tbig", Name: "big", Size: soulbox.Size{CPUs: 1, Memory: 2 * soulbox.GiB}, Image: "00"})
	h.build(&soulbox.Template{ID: "twide", Name: "wide", Size: soulbox.Size{CPUs: 3, Memory: soulbox.MiB}, Image: "00"})
	for _, test := range []struct {
		name   string
		change func(*soulbox.CreateRequest)
		kind   soulbox.Kind
		msg    string
	}{
		{"template unknown", func(r *soulbox.CreateRequest) { r.Template.Name = "none" }, soulbox.NotFound, "template 'none' not found"},
		{"tag unknown", func(r *soulbox.CreateRequest) { r.Template.Tag = "v2" }, soulbox.NotFound, "tag 'v2' does not exist for template 'base'"},
		{"template and tag unknown", func(r *soulbox.CreateRequest) { r.Template = soulbox.TemplateRef{Name: "none", Tag: "v2"} }, soulbox.NotFound, "template 'none' not found"},
		{"namespace unknown", func(r *soulbox.CreateRequest) { r.Template.Namespace = "nobody" }, soulbox.NotFound, "template 'nobody/base' not found"},
		{"template of the house in a namespace", func(r *soulbox.CreateRequest) { r.Template.Namespace = "us-slug" }, soulbox.NotFound, "template 'us-slug/base' not found"},
		{"private template by id", func(r *soulbox.CreateRequest) { r.Template.Name = "tforeign" }, soulbox.NotFound, "template 'tforeign' not found"},
		{"private template by name", func(r *soulbox.CreateRequest) {
			r.Template = soulbox.TemplateRef{Namespace: "them-slug", Name: "private"}
		}, soulbox.NotFound, "template 'them-slug/private' not found"},
		{"no timeout", func(r *soulbox.CreateRequest) { r.Timeout = 0 }, soulbox.Invalid, "the timeout must be more than 0, not 0s"},
		{"timeout too long", func(r *soulbox.CreateRequest) { r.Timeout = time.Hour + 1 }, soulbox.Invalid, "a timeout of 1h0m0.000000001s is more than the 1h0m0s that your team may ask for"},
		{"too much memory", func(r *soulbox.CreateRequest) { r.Template.Name = "big" }, soulbox.Invalid, "template 'big' wants 2048 MiB of memory, and a sandbox of your team may have 1024"},
		{"too many CPUs", func(r *soulbox.CreateRequest) { r.Template.Name = "wide" }, soulbox.Invalid, "template 'wide' wants 3 CPUs, and a sandbox of your team may have 2"},
		{"private ports without a token", func(r *soulbox.CreateRequest) { r.Network.Private = true }, soulbox.Invalid, "a sandbox whose ports are private must be secure as well, or anybody could run programs in it; ask for that, or leave its ports public"},
		{"variable without a name", func(r *soulbox.CreateRequest) { r.Env = map[string]string{"": "x"} }, soulbox.Invalid, `"" cannot be the name of an environment variable`},
		{"variable with =", func(r *soulbox.CreateRequest) { r.Env = map[string]string{"A=B": "x"} }, soulbox.Invalid, `"A=B" cannot be the name of an environment variable`},
		{"NUL in a variable", func(r *soulbox.CreateRequest) { r.Env = map[string]string{"A": "x\x00"} }, soulbox.Invalid, `the environment entry "A" is not text: it holds a NUL byte or is not UTF-8`},
		{"metadata not UTF-8", func(r *soulbox.CreateRequest) { r.Metadata = map[string]string{"A": "\xff"} }, soulbox.Invalid, `the metadata entry "A" is not text: it holds a NUL byte or is not UTF-8`},
		{"metadata too big", func(r *soulbox.CreateRequest) { r.Metadata = map[string]string{"A": strings.Repeat("x", 64<<10)} }, soulbox.TooLarge, "the metadata has 65537 bytes, and may have 65536"},
		{"environment too big", func(r *soulbox.CreateRequest) { r.Env = map[string]string{"A": strings.Repeat("x", 512<<10)} }, soulbox.TooLarge, "the environment has 524289 bytes, and may have 524288"},
		{"team unknown", func(r *soulbox.CreateRequest) { r.Team = "nobody" }, soulbox.NotFound, "team 'nobody' not found"},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := request()
			test.change(&req)
			_, err := h.Create(t.Context(), req)
			wantKind(t, "Create", err, test.kind)
			wantMessage(t, "Create", err, test.msg)
		})
	}
	if n := len(h.records("us")); n != 0 {
		t.Errorf("%d records after nothing but refusals", n)
	}
	if h.node.creates != 0 {
		t.Errorf("the node was asked %d times", h.node.creates)
	}
	for range 5 { // and the quota is whole
		h.create()
	}
}

func TestCreateResolves(t *testing.T) {
	h := open(t)
	h.template("town", "us", "mine", false)
	h.template("tpublic", "them", "theirs", true)
	h.template("tshadow", "us", "shadow", false)
	h.template("thouse", "", "shadow", false)
	h.template("tlure", "them", "base", true) // must not be taken for the house's
	for ref, want := range map[string]soulbox.TemplateID{
		"base":             "t0base",
		"base:default":     "t0base",
		"t0base":           "t0base",
		"mine":             "town",
		"town":             "town",
		"us-slug/mine":     "town",
		"shadow":           "tshadow",
		"thouse":           "thouse",
		"tpublic":          "tpublic",
		"them-slug/theirs": "tpublic",
		"them-slug/base":   "tlure",
	} {
		t.Run(ref, func(t *testing.T) {
			req := request()
			var err error
			if req.Template, err = soulbox.ParseTemplateRef(ref); err != nil {
				t.Fatal(err)
			}
			sb, err := h.Create(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if sb.Template != want {
				t.Errorf("template %s, want %s", sb.Template, want)
			}
			if err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCreateFailsOnNode(t *testing.T) {
	h := open(t)
	for name, test := range map[string]struct {
		err    error
		kind   soulbox.Kind
		reason string
	}{
		"a reason for customers": {soulbox.Errorf(soulbox.Unavailable, "the disk is full"), soulbox.Unavailable, "it could not be started: the disk is full"},
		"a reason for the log":   {errors.New("secret path"), soulbox.Internal, "it could not be started: internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			var id soulbox.SandboxID
			h.node.onCreate = func(_ context.Context, sb *soulbox.Sandbox) error { id = sb.ID; return test.err }
			_, err := h.Create(t.Context(), request())
			if !errors.Is(err, test.err) || soulbox.KindOf(err) != test.kind {
				t.Errorf("Create: %v, want %v", err, test.err)
			}
			h.wantEnded(id, soulbox.ByServer, test.reason)
			h.node.onCreate = nil
			for range 5 { // the quota is whole
				if err := h.Kill(t.Context(), "us", h.create().ID, soulbox.ByClient, ""); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestCreateGivenUp ends the request while the node is busy, and after the
// node is done but before it is told.
func TestCreateGivenUp(t *testing.T) {
	for name, wait := range map[string]func(context.Context, context.CancelFunc) error{
		"while the node is busy": func(ctx context.Context, cancel context.CancelFunc) error {
			cancel()
			<-ctx.Done()
			return context.Cause(ctx)
		},
		"when the node is done": func(_ context.Context, cancel context.CancelFunc) error {
			cancel()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			ctx, cancel := context.WithCancel(t.Context())
			h.node.onCreate = func(ctx context.Context, _ *soulbox.Sandbox) error { return wait(ctx, cancel) }
			if _, err := h.Create(ctx, request()); !errors.Is(err, context.Canceled) {
				t.Errorf("Create: %v, want context.Canceled", err)
			}
			h.wantEnded(h.records("us")[0].ID, soulbox.ByClient, "whoever asked for it did not wait until it had started")
		})
	}
}

func TestCreateSlowDoesNotHinderOthers(t *testing.T) {
	h := open(t)
	slow, release := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	h.node.onCreate = func(context.Context, *soulbox.Sandbox) error {
		if first.CompareAndSwap(false, true) {
			close(slow)
			<-release
		}
		return nil
	}
	done := make(chan error)
	go func() { _, err := h.Create(context.Background(), request()); done <- err }()
	<-slow
	for range 3 {
		sb := h.create()
		if _, _, err := h.Connect(t.Context(), "us", sb.ID, time.Minute, false); err != nil {
			t.Error(err)
		}
		if err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, ""); err != nil {
			t.Error(err)
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestKillWhileStarting(t *testing.T) {
	h := open(t)
	busy := make(chan soulbox.SandboxID)
	h.node.onCreate = func(ctx context.Context, sb *soulbox.Sandbox) error {
		busy <- sb.ID
		<-ctx.Done()
		return context.Cause(ctx)
	}
	h.node.onDestroy = func(_ context.Context, id soulbox.SandboxID) error { return nil }
	created := make(chan error)
	go func() { _, err := h.Create(context.Background(), request()); created <- err }()
	id := <-busy

	if err := h.SetTimeout(t.Context(), "us", id, time.Minute); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("SetTimeout while starting: %v, want a Conflict", err)
	}
	if err := h.Kill(t.Context(), "us", id, soulbox.ByClient, "changed my mind"); err != nil {
		t.Errorf("Kill: %v", err)
	}
	err := <-created
	wantKind(t, "Create", err, soulbox.Unavailable)
	if !strings.Contains(soulbox.MessageOf(err), "changed my mind") {
		t.Errorf("Create: %v, want the reason in it", err)
	}
	h.wantEnded(id, soulbox.ByClient, "changed my mind")
}

func TestQuotaRace(t *testing.T) {
	h := open(t)
	h.node.onCreate = func(context.Context, *soulbox.Sandbox) error { time.Sleep(time.Millisecond); return nil }
	for round := range 3 {
		var mu sync.Mutex
		var up []soulbox.SandboxID
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				sb, err := h.Create(context.Background(), request())
				if err != nil {
					wantKind(t, "Create", err, soulbox.Exhausted)
					wantMessage(t, "Create", err, "your team has 5 sandboxes running, and may have 5 at the same time")
					return
				}
				mu.Lock()
				defer mu.Unlock()
				up = append(up, sb.ID)
			})
		}
		wg.Wait()
		if len(up) != 5 {
			t.Fatalf("round %d: %d of 40 creations succeeded, want 5", round, len(up))
		}
		other := request()
		other.Team = "them"
		if sb, err := h.Create(t.Context(), other); err != nil {
			t.Errorf("another team's Create: %v", err)
		} else if err := h.Kill(t.Context(), "them", sb.ID, soulbox.ByClient, ""); err != nil {
			t.Error(err)
		}
		for _, id := range up {
			if err := h.Kill(t.Context(), "us", id, soulbox.ByClient, ""); err != nil {
				t.Error(err)
			}
		}
	}
}

// forgetful is a store that does what it is told and loses its answer.
type forgetful struct{ *store.Store }

func (s forgetful) InsertSandbox(ctx context.Context, sb *soulbox.Sandbox) error {
	return errors.Join(s.Store.InsertSandbox(ctx, sb), errors.New("the connection is reset"))
}

// TestCreateRecordedAfterAll has the first record fail, and be there all the
// same: the sandbox ends as any other.
func TestCreateRecordedAfterAll(t *testing.T) {
	h := open(t)
	h.opts.Store = forgetful{h.store}
	h.restart()
	t.Cleanup(func() { h.Close() })
	if _, err := h.Create(t.Context(), request()); err == nil {
		t.Fatal("Create succeeds without a record")
	}
	eventually(t, "its place is free again", func() bool { return fleet.Reserved(h.Fleet, "us") == 0 })
	rows := h.records("us")
	if len(rows) != 1 {
		t.Fatalf("%d records", len(rows))
	}
	h.wantEnded(rows[0].ID, soulbox.ByServer, "the server could not write down that it starts")
	if h.node.creates > 0 {
		t.Error("the node has made it")
	}
}
