package fleet_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/store"
)

// inBubble runs test in a house in which time is fake.
func inBubble(t *testing.T, test func(t *testing.T, h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := build(context.Background(), t, folder(t))
		defer h.store.Close()
		defer func() { h.Close() }()
		h.start()
		test(t, h)
	})
}

func TestKill(t *testing.T) {
	h := open(t)
	sb := h.create()
	wantKind(t, "Kill by another team", h.Kill(t.Context(), "them", sb.ID, soulbox.ByClient, ""), soulbox.NotFound)
	if err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, "killed through the API"); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(h.node.Sandboxes(), sb.ID) {
		t.Error("Kill returned while the sandbox could still run")
	}
	h.wantEnded(sb.ID, soulbox.ByClient, "killed through the API")

	const sentence = `Sandbox "ID" doesn't exist or you don't have access to it`
	gone := strings.ReplaceAll(sentence, "ID", string(sb.ID))
	why := gone + ": it was " + h.record(sb.ID).End.String()
	err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, "")
	wantKind(t, "Kill again", err, soulbox.NotFound)
	wantMessage(t, "Kill again", err, why)
	_, err = h.Live(t.Context(), "us", sb.ID)
	wantMessage(t, "Live", err, why)
	_, err = h.Live(t.Context(), "them", sb.ID)
	wantMessage(t, "Live of another team", err, gone)
	_, _, err = h.Connect(t.Context(), "us", sb.ID, time.Minute, false)
	wantMessage(t, "Connect", err, why)
	wantMessage(t, "SetTimeout", h.SetTimeout(t.Context(), "us", sb.ID, time.Minute), why)
	wantMessage(t, "SetNetwork", h.SetNetwork(t.Context(), "us", sb.ID, soulbox.Network{}), why)

	got, err := h.Get(t.Context(), "us", sb.ID)
	if err != nil || got.State != soulbox.Ended || got.End == nil {
		t.Errorf("Get = %+v, %v; want it ended", got, err)
	}
	if found, ok := h.Find(sb.ID); !ok || found.State != soulbox.Ended || found.End.By != soulbox.ByClient {
		t.Errorf("Find = %+v, %v; want it ended by client", found, ok)
	}
}

func TestUnknownSandbox(t *testing.T) {
	h := open(t)
	for _, id := range []soulbox.SandboxID{"iunknown", "", "../../etc", "i\x00", soulbox.SandboxID(strings.Repeat("x", 10_000))} {
		_, err := h.Get(t.Context(), "us", id)
		wantKind(t, "Get", err, soulbox.NotFound)
		if len(err.Error()) > 500 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
		wantKind(t, "Kill", h.Kill(t.Context(), "us", id, soulbox.ByClient, ""), soulbox.NotFound)
		_, err = h.Logs(t.Context(), "us", id, soulbox.LogQuery{})
		wantKind(t, "Logs", err, soulbox.NotFound)
		_, err = h.Usage(t.Context(), "us", id, time.Time{}, time.Now())
		wantKind(t, "Usage", err, soulbox.NotFound)
		if _, ok := h.Find(id); ok {
			t.Errorf("Find(%.20q) finds something", id)
		}
	}
}

func TestKillByManyHappensOnce(t *testing.T) {
	h := open(t)
	id := h.create().ID
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := h.Kill(context.Background(), "us", id, soulbox.ByClient, ""); err == nil {
				won.Add(1)
			} else {
				wantKind(t, "Kill", err, soulbox.NotFound)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d kills succeeded, want 1", n)
	}
}

func TestKillWaitsForNode(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		id := h.create().ID
		h.node.onDestroy = func(context.Context, soulbox.SandboxID) error { time.Sleep(3 * time.Second); return nil }
		start := time.Now()
		if err := h.Kill(context.Background(), "us", id, soulbox.ByClient, ""); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("Kill took %v, want the 3 s of Destroy", took)
		}
	})
}

func TestDestroyIsTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		id := h.create().ID
		stuck := errors.New("it does not die")
		left := 5
		h.node.onDestroy = func(context.Context, soulbox.SandboxID) error {
			if left--; left >= 0 {
				return stuck
			}
			return nil
		}
		if err := h.Kill(context.Background(), "us", id, soulbox.ByClient, "killed"); !errors.Is(err, stuck) {
			t.Errorf("Kill: %v, want %v", err, stuck)
		}
		synctest.Wait()
		if got := h.record(id).State; got != soulbox.Ending {
			t.Errorf("state %s while it resists, want ending", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		h.wantEnded(id, soulbox.ByClient, "killed")
	})
}

func TestExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		ctx := context.Background()
		start := time.Now()
		plain, longer, shorter, never, now := h.create().ID, h.create().ID, h.create().ID, h.create().ID, h.create().ID
		sb, _, err := h.Connect(ctx, "us", longer, 7*time.Minute, false)
		if err != nil || sb.ExpiresAt.Sub(start).Round(time.Second) != 7*time.Minute {
			t.Errorf("Connect = %v, %v", sb, err)
		}
		sb, _, err = h.Connect(ctx, "us", never, time.Minute, false) // less than it has
		if err != nil || sb.ExpiresAt.Sub(start).Round(time.Second) != 5*time.Minute {
			t.Errorf("Connect by less = %v, %v", sb, err)
		}
		if err := h.SetTimeout(ctx, "us", shorter, time.Minute); err != nil {
			t.Error(err)
		}
		if err := h.SetTimeout(ctx, "us", now, 0); err != nil {
			t.Error(err)
		}
		if err := h.SetTimeout(ctx, "us", never, time.Hour); err != nil {
			t.Error(err)
		}
		wantKind(t, "SetTimeout beyond the limit", h.SetTimeout(ctx, "us", never, time.Hour+1), soulbox.Invalid)
		wantKind(t, "SetTimeout below zero", h.SetTimeout(ctx, "us", never, -1), soulbox.Invalid)
		wantKind(t, "SetTimeout by another team", h.SetTimeout(ctx, "them", never, 0), soulbox.NotFound)

		alive := func() (n int) {
			synctest.Wait()
			h.All(func(*soulbox.Sandbox) bool { n++; return true })
			return n
		}
		for _, step := range []struct {
			at   time.Duration
			want int
		}{
			{10 * time.Millisecond, 4},
			{time.Minute - time.Second, 4},
			{time.Minute + time.Second, 3},
			{5*time.Minute - time.Second, 3},
			{5*time.Minute + time.Second, 2},
			{7*time.Minute - time.Second, 2},
			{7*time.Minute + time.Second, 1},
		} {
			time.Sleep(time.Until(start.Add(step.at)))
			if got := alive(); got != step.want {
				t.Errorf("%d alive after %v, want %d", got, step.at, step.want)
			}
		}
		h.wantEnded(plain, soulbox.ByTimeout, "its timeout was reached 5m0s after it started")
		if got := h.record(plain); got.End.At.Before(got.ExpiresAt) || got.End.At.Sub(got.ExpiresAt) > 100*time.Millisecond {
			t.Errorf("it expired at %v and was ended at %v", got.ExpiresAt, got.End.At)
		}
	})
}

func TestExpiryOfMany(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		if err := h.store.SetTeamLimits(context.Background(), "us", soulbox.Limits{Sandboxes: 300, Timeout: time.Hour, Memory: soulbox.GiB, CPUs: 2}); err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			req := request()
			req.Timeout = time.Duration(200-i) * 10 * time.Second
			if _, err := h.Create(context.Background(), req); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(1000*time.Second + time.Second)
		synctest.Wait()
		n := 0
		h.All(func(*soulbox.Sandbox) bool { n++; return true })
		if n != 100 || len(h.node.Sandboxes()) != 100 {
			t.Errorf("%d alive and %d on the node after half the time, want 100", n, len(h.node.Sandboxes()))
		}
	})
}

func TestExit(t *testing.T) {
	h := open(t)
	id, other := h.create().ID, h.create().ID
	h.node.die(id, soulbox.ByOOM, "it used more memory than the 512 MiB it has")
	h.node.die("istranger", soulbox.ByCrash, "never ours")
	h.wantEnded(id, soulbox.ByOOM, "it used more memory than the 512 MiB it has")
	if _, err := h.Live(t.Context(), "us", other); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

func TestExitWhileStarting(t *testing.T) {
	h := open(t)
	h.node.onCreate = func(ctx context.Context, sb *soulbox.Sandbox) error {
		h.node.die(sb.ID, soulbox.ByCrash, "its agent died")
		<-ctx.Done()
		return nil
	}
	_, err := h.Create(t.Context(), request())
	wantKind(t, "Create", err, soulbox.Unavailable)
	h.wantEnded(h.records("us")[0].ID, soulbox.ByCrash, "its agent died")
}

func TestSetNetwork(t *testing.T) {
	h := open(t)
	id := h.create().ID
	on := soulbox.Network{Internet: true}
	if err := h.SetNetwork(t.Context(), "us", id, on); err != nil {
		t.Fatal(err)
	}
	if found, _ := h.Find(id); found.Network != on || h.record(id).Network != on || h.node.networks[id] != on {
		t.Errorf("after SetNetwork: memory %v, record %v, node %v", found.Network, h.record(id).Network, h.node.networks[id])
	}
	broken := errors.New("nftables says no")
	h.node.onNetwork = func(soulbox.SandboxID) error { return broken }
	if err := h.SetNetwork(t.Context(), "us", id, soulbox.Network{}); !errors.Is(err, broken) {
		t.Errorf("SetNetwork: %v, want %v", err, broken)
	}
	if found, _ := h.Find(id); found.Network != on || h.record(id).Network != on {
		t.Errorf("after a SetNetwork that failed: memory %v, record %v; want no change", found.Network, h.record(id).Network)
	}
	wantKind(t, "SetNetwork by another team", h.SetNetwork(t.Context(), "them", id, on), soulbox.NotFound)
}

// meterStub knows one measurement of every sandbox.
type meterStub struct{}

func (meterStub) Latest(soulbox.SandboxID) (soulbox.Usage, bool) {
	return soulbox.Usage{CPUCount: 7}, true
}

func (meterStub) Usage(_ context.Context, _ soulbox.SandboxID, from, _ time.Time) ([]soulbox.Usage, error) {
	return []soulbox.Usage{{At: from}}, nil
}

func TestUsageAndLogs(t *testing.T) {
	h := open(t)
	h.opts.Meter = meterStub{}
	h.restart()
	t.Cleanup(func() { h.Close() })
	mine, ended := h.create().ID, h.create().ID
	if err := h.Kill(t.Context(), "us", ended, soulbox.ByClient, ""); err != nil {
		t.Fatal(err)
	}
	req := request()
	req.Team = "them"
	theirs, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	latest, err := h.LatestUsage(t.Context(), "us", []soulbox.SandboxID{mine, ended, theirs.ID, "iunknown"})
	if err != nil || len(latest) != 1 || latest[mine].CPUCount != 7 {
		t.Errorf("LatestUsage = %v, %v; want that of %s only", latest, err, mine)
	}
	for _, id := range []soulbox.SandboxID{mine, ended} {
		if u, err := h.Usage(t.Context(), "us", id, time.Unix(1, 0), time.Unix(2, 0)); err != nil || len(u) != 1 {
			t.Errorf("Usage = %v, %v", u, err)
		}
		if l, err := h.Logs(t.Context(), "us", id, soulbox.LogQuery{}); err != nil || len(l) != 1 {
			t.Errorf("Logs = %v, %v", l, err)
		}
	}
	_, err = h.Usage(t.Context(), "us", theirs.ID, time.Time{}, time.Now())
	wantKind(t, "Usage of another team's", err, soulbox.NotFound)
	_, err = h.Logs(t.Context(), "us", theirs.ID, soulbox.LogQuery{})
	wantKind(t, "Logs of another team's", err, soulbox.NotFound)
}

// TestExpiryLooksAgain has an expiry come late, after the sandbox was given
// more time: it must look at the clock again.
func TestExpiryLooksAgain(t *testing.T) {
	h := open(t)
	sb := h.create()
	fleet.Expire(h.Fleet, sb.ID)
	if _, err := h.Live(t.Context(), "us", sb.ID); err != nil {
		t.Errorf("after an expiry that is not due: %v", err)
	}
}

// mumbler is a store that once does what it is told and loses its answer.
type mumbler struct {
	*store.Store
	to   soulbox.State
	once *atomic.Bool
}

func (s mumbler) MoveSandbox(ctx context.Context, sb *soulbox.Sandbox, from soulbox.State) error {
	err := s.Store.MoveSandbox(ctx, sb, from)
	if sb.State == s.to && s.once.CompareAndSwap(false, true) {
		err = errors.Join(err, errors.New("the connection is reset"))
	}
	return err
}

// TestKillRecordedAfterAll has the record of a kill fail, and be there all the
// same: the sandbox cannot live any more, and does not.
func TestKillRecordedAfterAll(t *testing.T) {
	h := open(t)
	h.opts.Store = mumbler{h.store, soulbox.Ending, new(atomic.Bool)}
	h.restart()
	t.Cleanup(func() { h.Close() })
	sb := h.create()
	if err := h.Kill(t.Context(), "us", sb.ID, soulbox.ByClient, "killed"); err == nil {
		t.Fatal("Kill succeeds without a record")
	}
	h.wantEnded(sb.ID, soulbox.ByClient, "killed")
	if n := fleet.Reserved(h.Fleet, "us"); n != 0 {
		t.Errorf("%d places taken, want none", n)
	}
}
