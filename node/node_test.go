package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/guest"
)

func TestLife(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	if n.ID() != "n1" || n.Capabilities().Isolation != "fake" {
		t.Errorf("ID %q, %+v", n.ID(), n.Capabilities())
	}
	w.create(t, n, "ione")
	w.wantLeft(t, of("ione"))
	if diff := cmp.Diff([]soulbox.SandboxID{"ione"}, n.Sandboxes()); diff != "" {
		t.Errorf("Sandboxes(): (-want +got)\n%s", diff)
	}
	var got struct {
		EnvVars                                  map[string]string
		AccessToken, DefaultUser, DefaultWorkdir string
		SandboxID, TemplateID, Hostname          string
		Nameservers                              []string
		Seed                                     []byte
	}
	body, _ := w.agent.last()
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	token := soulbox.TokenSeed{}.AgentToken("ione")
	if got.AccessToken != token || got.SandboxID != "ione" || got.TemplateID != "tone" || got.DefaultUser != "user" || got.DefaultWorkdir != "/home/user" ||
		len(got.Nameservers) != 1 || !strings.HasPrefix(got.Nameservers[0], "10.217.") || len(got.Seed) != 32 {
		t.Errorf("the agent was told %+v", got)
	}
	if diff := cmp.Diff(map[string]string{"A": "sandbox", "B": "template"}, got.EnvVars); diff != "" {
		t.Errorf("environment: (-want +got)\n%s", diff)
	}

	conn, err := n.Dial(t.Context(), "ione", guest.Port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	// The stand-in for the agent knows no tunnels, so it says neither yes nor no.
	if conn, err := n.Dial(t.Context(), "ione", 80); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial of another port: %v, %v", conn, err)
	}

	if err := n.Create(t.Context(), w.sandbox("ione"), w.template()); err == nil {
		t.Error("Create succeeds twice")
	}
	w.wantLeft(t, of("ione"))
	if err := n.Forget(t.Context(), "ione"); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Forget of one that runs: %v, want Conflict", err)
	}
	wantNoExit(t, n)
	w.wantGone(t)
	destroy(t, n, "ione")
	w.wantGone(t, "ione")
	w.wantLeft(t, left{})
	if conn, err := n.Dial(t.Context(), "ione", guest.Port); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Dial after Destroy: %v, %v; want NotFound", conn, err)
	}
	if err := n.SetNetwork(t.Context(), "ione", soulbox.Network{}); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("SetNetwork after Destroy: %v, want NotFound", err)
	}
	destroy(t, n, "ione")
	destroy(t, n, "inever")
	w.wantGone(t)
	wantNoExit(t, n)
}

func TestInsecure(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	sb := w.sandbox("ione")
	sb.Secure = false
	if err := n.Create(t.Context(), sb, w.template()); err != nil {
		t.Fatal(err)
	}
	if body, token := w.agent.last(); strings.Contains(body, "accessToken") || token != "" {
		t.Errorf("token %q, told %s", token, body)
	}
	destroy(t, n, "ione")
}

func TestBadIDs(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	outside := filepath.Join(w.dir, "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, id := range []soulbox.SandboxID{"", "../outside", "A", "a/b", "."} {
		_, logs := n.Logs(t.Context(), id, soulbox.LogQuery{})
		for what, err := range map[string]error{
			"Create": n.Create(t.Context(), w.sandbox(id), w.template()), "Destroy": n.Destroy(t.Context(), id), "Forget": n.Forget(t.Context(), id), "Logs": logs,
		} {
			if soulbox.KindOf(err) != soulbox.Invalid {
				t.Errorf("%s(%q): %v, want Invalid", what, id, err)
			}
		}
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	w.wantLeft(t, left{})
}

// When Create fails at any step, nothing is left, nobody is told of an end,
// and the same id can be created then.
func TestCreateFails(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	broken := errors.New("broken")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name  string
		spoil func(context.Context, *soulbox.Sandbox, *soulbox.Template) context.Context
		want  error
		kind  soulbox.Kind
	}{
		{"no_image", func(ctx context.Context, _ *soulbox.Sandbox, tp *soulbox.Template) context.Context {
			tp.Image = strings.Repeat("0", 64)
			return ctx
		}, nil, soulbox.NotFound},
		{"limit_refused", func(ctx context.Context, sb *soulbox.Sandbox, _ *soulbox.Template) context.Context {
			sb.Size.Memory = -5
			return ctx
		}, nil, soulbox.Internal},
		{"driver", func(ctx context.Context, _ *soulbox.Sandbox, _ *soulbox.Template) context.Context {
			w.driver.fails.Store(&failure{start: broken})
			return ctx
		}, broken, soulbox.Internal},
		{"init_refused", func(ctx context.Context, _ *soulbox.Sandbox, _ *soulbox.Template) context.Context {
			w.agent.set(500, false)
			return ctx
		}, nil, soulbox.Internal},
		{"init_hangs", func(ctx context.Context, _ *soulbox.Sandbox, _ *soulbox.Template) context.Context {
			w.agent.set(0, true)
			ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}, context.DeadlineExceeded, soulbox.Internal},
		{"cancelled", func(context.Context, *soulbox.Sandbox, *soulbox.Template) context.Context { return ended }, context.Canceled, soulbox.Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sb, tp := w.sandbox("ione"), w.template()
			sb.Network.Internet = false
			err := n.Create(tt.spoil(t.Context(), sb, tp), sb, tp)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || soulbox.KindOf(err) != tt.kind {
				t.Errorf("Create: %v, want %v of kind %d", err, tt.want, tt.kind)
			}
			w.driver.fails.Store(nil)
			w.agent.set(0, false)
			w.wantLeft(t, left{})
			if ids := n.Sandboxes(); len(ids) > 0 {
				t.Errorf("there is %v", ids)
			}
			w.wantGone(t)
			wantNoExit(t, n)
			if err := w.images.Remove(t.Context(), strings.Repeat("0", 64)); err != nil {
				t.Error(err)
			}
		})
	}
	w.create(t, n, "ione")
	destroy(t, n, "ione")
	// Nobody holds the image any more.
	eventually(t, func() bool { return w.images.Remove(t.Context(), w.image) == nil }, func() string { return "the image is still held" })
}

func TestMinFree(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, func(o *node.Options) { o.MinFree = 1 << 60 })
	err := n.Create(t.Context(), w.sandbox("ione"), w.template())
	if soulbox.KindOf(err) != soulbox.Unavailable || !strings.Contains(err.Error(), "free disk") {
		t.Errorf("Create on a full disk: %v, want Unavailable", err)
	}
	w.wantLeft(t, left{})
}

// Two who destroy the same sandbox both hear when it is gone, and its network
// is given back once.
func TestDestroyAtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	w.create(t, n, "itwo")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			destroy(t, n, "ione")
			if conn, err := n.Dial(t.Context(), "ione", guest.Port); err == nil {
				conn.Close()
				t.Error("after Destroy the sandbox answers")
			}
		})
	}
	wg.Wait()
	if len(w.gone) == 0 {
		t.Error("Gone was not called before Destroy returned")
	}
	w.wantLeft(t, of("itwo"))
	wantNoExit(t, n)
	destroy(t, n, "itwo")
}

// A sandbox that could not be destroyed can be destroyed later, and nobody
// hears meanwhile that it is gone.
func TestDestroyFails(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	broken := errors.New("broken")
	w.driver.fails.Store(&failure{destroy: broken})
	for range 2 {
		if err := n.Destroy(t.Context(), "ione"); !errors.Is(err, broken) {
			t.Errorf("Destroy: %v, want %v", err, broken)
		}
	}
	w.wantGone(t)
	w.wantLeft(t, of("ione"))
	w.driver.fails.Store(nil)
	destroy(t, n, "ione")
	w.wantGone(t, "ione")
	w.wantLeft(t, left{})
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, func(o *node.Options) { o.Ready = 2 })
	var wg sync.WaitGroup
	for i := range 8 {
		id := soulbox.SandboxID(fmt.Sprintf("i%d", i))
		wg.Go(func() {
			if err := n.Create(t.Context(), w.sandbox(id), w.template()); err != nil {
				t.Error(err)
				return
			}
			if err := n.SetNetwork(t.Context(), id, soulbox.Network{}); err != nil {
				t.Error(err)
			}
			if _, err := n.Sample(t.Context()); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				destroy(t, n, id)
			} else {
				w.driver.Crash(w.home(id))
			}
		})
	}
	wg.Wait()
	for range 4 {
		exit(t, n)
	}
	wantNoExit(t, n)
	eventually(t, func() bool { return len(w.look(t).Folders) == 0 && len(w.look(t).Cgroups) == 0 }, func() string { return "there are sandboxes left" })
	if got := len(w.gone); got != 8 {
		t.Errorf("Gone was called %d times, want 8", got)
	}
}

func TestSample(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	if u, err := n.Sample(t.Context()); err != nil || len(u) > 0 {
		t.Errorf("Sample of nothing: %v, %v", u, err)
	}
	w.create(t, n, "ione")
	w.create(t, n, "itwo")
	first, err := n.Sample(t.Context())
	if err != nil || len(first) != 2 {
		t.Fatalf("Sample: %v, %v; want two", first, err)
	}
	if u := first["ione"]; u.CPUPercent != 0 || u.CPUCount != 2 || u.MemTotal != size.Memory || u.DiskTotal != size.Disk || u.MemUsed < 0 || u.MemUsed > size.Memory || u.MemCache < 0 {
		t.Errorf("first sample: %+v", u)
	}
	in(t, "ione", "head -c 20M /dev/zero | (tail -c 20M; for ((i = 0; i < 30000; i++)); do :; done) >/dev/null")
	in(t, "itwo", "true")
	second, err := n.Sample(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	busy, idle := second["ione"], second["itwo"]
	if busy.CPUPercent <= idle.CPUPercent || busy.CPUPercent > 100*float64(size.CPUs)*1.5 || !busy.At.After(first["ione"].At) {
		t.Errorf("busy for a while: %+v; idle: %+v", busy, idle)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				all, err := n.Sample(t.Context())
				if err != nil || all["ione"].CPUPercent < 0 {
					t.Errorf("many at once: %+v, %v", all, err)
				}
				if err := n.SetNetwork(t.Context(), "ione", soulbox.Network{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Sample(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Sample with a context that is over: %v", err)
	}
	destroy(t, n, "ione")
	if u, err := n.Sample(t.Context()); err != nil || len(u) != 1 {
		t.Errorf("Sample after Destroy: %v, %v; want one", u, err)
	}
	destroy(t, n, "itwo")
}

// in runs script in the cgroup of a sandbox until it ends.
func in(t *testing.T, id soulbox.SandboxID, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/bash", "-c", "read; "+script)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, path := range glob(t, "/sys/fs/cgroup/*/soulbox-"+instance+"/"+string(id)+"/cgroup.procs", "/sys/fs/cgroup/soulbox-"+instance+"/"+string(id)+"/cgroup.procs") {
		if err := os.WriteFile(path, fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
			t.Error(err)
		}
	}
	stdin.Write([]byte("\n"))
	stdin.Close()
	_ = cmd.Wait() // how it ends is the test's business
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	want := func(messages ...string) {
		t.Helper()
		var diff string
		eventually(t, func() bool {
			entries, err := n.Logs(t.Context(), "ione", soulbox.LogQuery{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Message)
			}
			diff = cmp.Diff(messages, got)
			return diff == ""
		}, func() string { return "log: (-want +got)\n" + diff })
	}
	want()
	w.agent.entries <- "one"
	w.agent.entries <- "two"
	want("one", "two")
	// The next server goes on behind them.
	closeNode(t, n)
	n = w.open(t)
	want("one", "two")
	w.agent.entries <- "three"
	want("one", "two", "three")
	destroy(t, n, "ione")
	want("one", "two", "three")
	w.wantLeft(t, left{})
	if err := n.Forget(t.Context(), "ione"); err != nil {
		t.Error(err)
	}
	want()
	if err := n.Forget(t.Context(), "ione"); err != nil {
		t.Errorf("Forget again: %v", err)
	}
	if left := glob(t, filepath.Join(w.dir, "journals", "*")); len(left) > 0 {
		t.Errorf("after Forget: %v", left)
	}
}
