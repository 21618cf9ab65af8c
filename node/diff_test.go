package node_test

import (
	"archive/tar"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/guest"
)

// Changes does what its driver is told to.
func (i *testInstance) Changes(ctx context.Context, w *os.File) error {
	if c := i.d.failure().changes; c != nil {
		return c(ctx, w)
	}
	return i.Instance.Changes(ctx, w)
}

// rewrite has a sandbox write its only file.
func rewrite(t *testing.T, n *node.Node, id soulbox.SandboxID, content string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.Dial(ctx, id, guest.Port)
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://agent/write", strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Access-Token", soulbox.TokenSeed{}.AgentToken(id))
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("write: %s", res.Status)
	}
}

// take writes a sandbox down.
func take(t *testing.T, n *node.Node, id soulbox.SandboxID, memory bool) *soulbox.Snapshot {
	t.Helper()
	snap := &soulbox.Snapshot{ID: soulbox.NewSnapshotID(), Sandbox: id, Memory: memory, Size: size, Secure: true}
	if _, err := n.Snapshot(t.Context(), id, snap, false); err != nil {
		t.Fatal(err)
	}
	return snap
}

func TestDiff(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	a := take(t, n, "ione", true)
	rewrite(t, n, "ione", "one")
	b := take(t, n, "ione", false)
	changed := []soulbox.Change{{Path: "/files", Kind: soulbox.Changed, Type: soulbox.File, Size: 3}}
	want := func(what string, a, b *soulbox.Snapshot, want []soulbox.Change) {
		t.Helper()
		got, err := n.Diff(t.Context(), "ione", a, b)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(soulbox.Changes{List: want}, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", what, diff)
		}
	}
	want("a and a", a, a, nil)
	want("a and b", a, b, changed)
	want("b and now", b, nil, nil)
	rewrite(t, n, "ione", "two")
	want("b and now, written again", b, nil, changed)
	w.wantLeft(t, of("ione"))
	if journals := glob(t, filepath.Join(w.dir, "journals", "*")); len(journals) > 1 {
		t.Errorf("journals: %v", journals)
	}
	if diff := cmp.Diff([]soulbox.SandboxID{"ione"}, n.Sandboxes()); diff != "" {
		t.Errorf("Sandboxes(): (-want +got)\n%s", diff)
	}
	if body, _ := w.agent.last(); !strings.Contains(body, `"ione"`) {
		t.Errorf("the agent of a hidden sandbox was told %s", body)
	}

	destroy(t, n, "ione")
	want("of one that has ended", a, b, changed)
	if _, err := n.Diff(t.Context(), "ione", a, nil); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("of one that has ended, now: %v, want NotFound", err)
	}
	if err := n.RemoveSnapshot(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]*soulbox.Snapshot{"from": {b, a}, "to": {a, b}} {
		if _, err := n.Diff(t.Context(), "ione", pair[0], pair[1]); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("%s one that is gone: %v, want NotFound", what, err)
		}
	}
	w.wantLeft(t, left{})
	wantNoExit(t, n)
}

// Whatever fails, nothing is left, and the next comparison succeeds.
func TestDiffFails(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	a := take(t, n, "ione", true)
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		fails failure
		now   bool
		kind  soulbox.Kind
		cause error
	}{
		"start":  {fails: failure{start: broken}, cause: broken},
		"freeze": {fails: failure{freeze: broken}, cause: broken},
		"save":   {fails: failure{save: broken}, now: true, cause: broken},
		"tar":    {fails: failure{changes: func(context.Context, *os.File) error { return broken }}, kind: soulbox.Unavailable, cause: broken},
		"no tar": {fails: failure{changes: func(_ context.Context, w *os.File) error {
			_, err := w.Write(make([]byte, 64))
			return err
		}}, kind: soulbox.Unavailable},
		"too much": {fails: failure{changes: func(_ context.Context, w *os.File) error {
			out := tar.NewWriter(w)
			err := out.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir})
			for chunk := make([]byte, 1<<20); err == nil; {
				if err = out.WriteHeader(&tar.Header{Name: "./x", Size: 1 << 40}); err == nil {
					_, err = out.Write(chunk)
				}
			}
			return err
		}}, kind: soulbox.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			w.driver.fails.Store(&tt.fails)
			to := a
			if tt.now {
				to = nil
			}
			_, err := n.Diff(t.Context(), "ione", a, to)
			if err == nil || soulbox.KindOf(err) != tt.kind || tt.cause != nil && !errors.Is(err, tt.cause) {
				t.Errorf("%v of kind %d, want kind %d and %v", err, soulbox.KindOf(err), tt.kind, tt.cause)
			}
			w.driver.fails.Store(nil)
			w.wantLeft(t, of("ione"))
		})
	}
	w.driver.bare = true
	if _, err := n.Diff(t.Context(), "ione", a, a); soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(soulbox.MessageOf(err), "cannot be compared") {
		t.Errorf("of a driver that cannot tell: %v, want Invalid", err)
	}
	w.driver.bare = false
	if got, err := n.Diff(t.Context(), "ione", a, nil); err != nil || len(got.List) > 0 {
		t.Errorf("Diff in the end: %v, %v", got, err)
	}
	destroy(t, n, "ione")
}

// Two comparisons go on at once and no more. Who waits can give up, and so can
// who is at it while the runtime says nothing.
func TestDiffTurns(t *testing.T) {
	w := newWorld(t)
	n := w.open(t)
	w.create(t, n, "ione")
	a := take(t, n, "ione", true)
	var at, most atomic.Int32
	w.driver.fails.Store(&failure{changes: func(ctx context.Context, _ *os.File) error {
		most.Store(max(most.Load(), at.Add(1)))
		defer at.Add(-1)
		<-ctx.Done()
		return context.Cause(ctx)
	}})
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan error, 4)
	for range 4 {
		go func() {
			_, err := n.Diff(ctx, "ione", a, a)
			answers <- err
		}()
	}
	eventually(t, func() bool { return at.Load() == 2 }, func() string { return "two comparisons do not begin" })
	cancel()
	for range 4 {
		if err := <-answers; !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	}
	if most.Load() != 2 {
		t.Errorf("%d at once, want 2", most.Load())
	}
	w.driver.fails.Store(nil)
	w.wantLeft(t, of("ione"))
	destroy(t, n, "ione")
}
