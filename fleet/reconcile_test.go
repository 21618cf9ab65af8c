package fleet_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soulbox/soulbox"
)

// row puts a sandbox into the store, and on the node if there.
func (h *house) row(id soulbox.SandboxID, state soulbox.State, left time.Duration, there bool) {
	h.t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	sb := &soulbox.Sandbox{
		ID: id, Team: "us", Template: "t0base", State: state, CreatedAt: now.Add(-time.Hour),
		StartedAt: now.Add(-time.Hour), ExpiresAt: now.Add(left), Network: soulbox.Network{Internet: true}, Secure: true,
	}
	switch state {
	case soulbox.Running, soulbox.Pausing, soulbox.Paused, soulbox.Resuming:
	case soulbox.Starting:
		sb.StartedAt = time.Time{}
	case soulbox.Ending, soulbox.Ended:
		sb.End = &soulbox.End{At: now.Add(-time.Minute), By: soulbox.ByClient, Reason: "killed before"}
	}
	if err := h.store.InsertSandbox(context.Background(), sb); err != nil {
		h.t.Fatal(err)
	}
	if there {
		h.node.make(sb, mind{})
	}
}

func TestReconcile(t *testing.T) {
	h := build(t.Context(), t, folder(t))
	t.Cleanup(func() { h.store.Close() })
	t.Cleanup(func() { h.Close() })
	for _, there := range []bool{true, false} {
		suffix := soulbox.SandboxID("away")
		if there {
			suffix = "here"
		}
		h.row("istarting"+suffix, soulbox.Starting, time.Minute, there)
		h.row("irunning"+suffix, soulbox.Running, time.Minute, there)
		h.row("ilate"+suffix, soulbox.Running, -time.Minute, there)
		h.row("iending"+suffix, soulbox.Ending, time.Minute, there)
		h.row("iended"+suffix, soulbox.Ended, time.Minute, there)
	}
	h.row("ioom", soulbox.Running, time.Minute, false)
	h.node.exits <- soulbox.Exit{ID: "ioom", End: soulbox.End{At: time.Now(), By: soulbox.ByOOM, Reason: "it was too big"}}
	h.row("icrashhere", soulbox.Running, time.Minute, true)
	h.node.exits <- soulbox.Exit{ID: "icrashhere", End: soulbox.End{At: time.Now(), By: soulbox.ByCrash, Reason: "its agent died"}}
	h.node.make(&soulbox.Sandbox{ID: "istray"}, mind{})
	var mu sync.Mutex
	var destroyed []soulbox.SandboxID
	h.node.onDestroy = func(_ context.Context, id soulbox.SandboxID) error {
		mu.Lock()
		defer mu.Unlock()
		destroyed = append(destroyed, id)
		return nil
	}

	_, err := h.Create(t.Context(), request())
	wantKind(t, "Create before Start", err, soulbox.Unavailable)
	h.start()
	wantKind(t, "Start again", h.Start(t.Context()), soulbox.Internal)

	const lost, halfway = "it did not survive while the server was down", "the server stopped while it was starting"
	h.wantEnded("istartinghere", soulbox.ByServer, halfway)
	h.wantEnded("istartingaway", soulbox.ByServer, halfway)
	h.wantEnded("irunningaway", soulbox.ByServer, lost)
	h.wantEnded("ilatehere", soulbox.ByTimeout, "its timeout was reached 59m0s after it started")
	h.wantEnded("ilateaway", soulbox.ByServer, lost)
	h.wantEnded("iendinghere", soulbox.ByClient, "killed before")
	h.wantEnded("iendingaway", soulbox.ByClient, "killed before")
	h.wantEnded("ioom", soulbox.ByOOM, "it was too big")
	h.wantEnded("icrashhere", soulbox.ByCrash, "its agent died")
	eventually(t, "nothing but the running one is on the node", func() bool {
		return slices.Equal(h.node.Sandboxes(), []soulbox.SandboxID{"irunninghere"})
	})
	mu.Lock()
	if !slices.Contains(destroyed, "istartingaway") || !slices.Contains(destroyed, "iendingaway") || slices.Contains(destroyed, "irunninghere") {
		t.Errorf("destroyed: %v", destroyed)
	}
	mu.Unlock()

	sb, err := h.Live(t.Context(), "us", "irunninghere")
	if err != nil || sb.State != soulbox.Running || sb.Token != seed.AgentToken("irunninghere") {
		t.Errorf("the adopted one: %+v, %v", sb, err)
	}
	eventually(t, "the node is told the network on record", func() bool {
		h.node.mu.Lock()
		defer h.node.mu.Unlock()
		return h.node.networks["irunninghere"].Internet
	})
	for range 4 { // the adopted one takes one place of five
		h.create()
	}
	_, err = h.Create(t.Context(), request())
	wantKind(t, "Create beyond the quota", err, soulbox.Exhausted)
	if found, ok := h.Find("iendedaway"); !ok || found.State != soulbox.Ended {
		t.Errorf("Find of one that ended a minute ago: %+v, %v", found, ok)
	}
}

func TestExpiryAcrossRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		before, after := h.create().ID, h.create().ID
		if err := h.SetTimeout(context.Background(), "us", after, 20*time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if n := len(h.node.Sandboxes()); n != 2 {
			t.Errorf("%d sandboxes while the server is down, want 2", n)
		}
		h.restart()
		synctest.Wait()
		h.wantEnded(before, soulbox.ByTimeout, "its timeout was reached 5m0s after it started")
		if _, err := h.Live(context.Background(), "us", after); err != nil {
			t.Error(err)
		}
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		h.wantEnded(after, soulbox.ByTimeout, "its timeout was reached 20m0s after it started")
	})
}

func TestClose(t *testing.T) {
	h := open(t)
	running := h.create()
	busy := make(chan soulbox.SandboxID)
	h.node.onCreate = func(ctx context.Context, sb *soulbox.Sandbox) error {
		busy <- sb.ID
		<-ctx.Done()
		return context.Cause(ctx)
	}
	created := make(chan error)
	go func() { _, err := h.Create(context.Background(), request()); created <- err }()
	half := <-busy
	closed := make(chan error)
	go func() { closed <- h.Close() }()
	wantKind(t, "Create", <-created, soulbox.Unavailable)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	h.wantEnded(half, soulbox.ByServer, "the server stopped while it was starting")
	if got := h.record(running.ID).State; got != soulbox.Running || !slices.Contains(h.node.Sandboxes(), running.ID) {
		t.Errorf("the running one is %s after Close", got)
	}
	_, err := h.Create(t.Context(), request())
	wantKind(t, "Create after Close", err, soulbox.Unavailable)
	wantKind(t, "Kill after Close", h.Kill(t.Context(), "us", running.ID, soulbox.ByClient, ""), soulbox.Unavailable)
	if err := h.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func TestPrune(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		ctx := context.Background()
		old := h.create().ID
		if err := h.Kill(ctx, "us", old, soulbox.ByClient, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * 24 * time.Hour)
		recent := h.create().ID
		if err := h.Kill(ctx, "us", recent, soulbox.ByClient, ""); err != nil {
			t.Fatal(err)
		}
		if forgot := h.node.forgotten(); len(forgot) != 0 {
			t.Errorf("forgot %v after 29 days", forgot)
		}
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		if forgot := h.node.forgotten(); !slices.Equal(forgot, []soulbox.SandboxID{old}) {
			t.Errorf("forgot %v, want %s", forgot, old)
		}
		_, err := h.Get(ctx, "us", old)
		wantKind(t, "Get of the old one", err, soulbox.NotFound)
		if _, err := h.Get(ctx, "us", recent); err != nil {
			t.Errorf("Get of the recent one: %v", err)
		}
	})
}
