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

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/store"
)

// write lets a program in a sandbox write something.
func (h *house) write(id soulbox.SandboxID, line string) {
	h.t.Helper()
	if _, ok := h.node.write(id, line); !ok {
		h.t.Fatalf("sandbox %s does not run", id)
	}
}

// wantInside compares what a running sandbox has with what it should.
func (h *house) wantInside(id soulbox.SandboxID, want mind) {
	h.t.Helper()
	got, _, ok := h.node.inside(id)
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		h.t.Errorf("inside of %s, running: %v (-want +got):\n%s", id, ok, diff)
	}
}

func (h *house) pause(id soulbox.SandboxID, memory bool) {
	h.t.Helper()
	if err := h.Pause(context.Background(), "us", id, memory); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) connect(id soulbox.SandboxID) *soulbox.Sandbox {
	h.t.Helper()
	sb, _, err := h.Connect(context.Background(), "us", id, 5*time.Minute, false)
	if err != nil {
		h.t.Fatal(err)
	}
	return sb
}

func (h *house) checkpoint(id soulbox.SandboxID, name string) *soulbox.Snapshot {
	h.t.Helper()
	snap, err := h.Checkpoint(context.Background(), "us", id, name)
	if err != nil {
		h.t.Fatal(err)
	}
	return snap
}

// wantSnapshots waits until records and node have these and no others.
func (h *house) wantSnapshots(want ...soulbox.SnapshotID) {
	h.t.Helper()
	slices.Sort(want)
	eventually(h.t, "the right snapshots are there", func() bool {
		rows, err := h.store.AllSnapshots(context.Background())
		if err != nil {
			h.t.Fatal(err)
		}
		var ids []soulbox.SnapshotID
		for _, row := range rows {
			if row.Ready {
				ids = append(ids, row.ID)
			}
		}
		slices.Sort(ids)
		return len(rows) == len(ids) && slices.Equal(ids, want) && slices.Equal(h.node.snapshots(), want)
	})
}

// wantState compares memory and record.
func (h *house) wantState(id soulbox.SandboxID, want soulbox.State) {
	h.t.Helper()
	found, ok := h.Find(id)
	if !ok || found.State != want || h.record(id).State != want {
		h.t.Errorf("sandbox %s is %s in memory and %s on record, want %s", id, found.State, h.record(id).State, want)
	}
}

func TestPauseAndConnect(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		ctx := context.Background()
		req := request()
		req.Secure = true
		first, err := h.Create(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		h.write(first.ID, "a")
		wantKind(t, "Pause by another team", h.Pause(ctx, "them", first.ID, true), soulbox.NotFound)
		h.pause(first.ID, true)
		h.wantState(first.ID, soulbox.Paused)
		record := h.record(first.ID)
		if record.Pause == nil || !record.Pause.Memory || record.Pause.At.IsZero() {
			t.Fatalf("pause on record: %+v", record.Pause)
		}
		h.wantSnapshots(record.Pause.Snapshot)
		if there := h.node.Sandboxes(); len(there) != 0 {
			t.Errorf("on the node: %v", there)
		}
		wantKind(t, "Pause again", h.Pause(ctx, "us", first.ID, true), soulbox.Conflict)
		wantKind(t, "SetTimeout", h.SetTimeout(ctx, "us", first.ID, time.Minute), soulbox.Conflict)
		_, err = h.Fork(ctx, "us", first.ID, 1, time.Minute)
		wantKind(t, "Fork", err, soulbox.Conflict)
		_, err = h.Snapshot(ctx, "us", first.ID, "")
		wantKind(t, "Snapshot", err, soulbox.Conflict)
		_, err = h.Checkpoint(ctx, "us", first.ID, "")
		wantKind(t, "Checkpoint", err, soulbox.Conflict)
		wantKind(t, "Wake of one that traffic does not wake", h.Wake(ctx, first.ID), soulbox.Conflict)

		time.Sleep(time.Hour) // a paused one does not expire
		sb, resumed, err := h.Connect(ctx, "us", first.ID, 7*time.Minute, false)
		if err != nil || !resumed || sb.State != soulbox.Running || sb.Pause != nil {
			t.Fatalf("Connect = %+v, %v, %v", sb, resumed, err)
		}
		if left := time.Until(sb.ExpiresAt).Round(time.Second); left != 7*time.Minute || sb.Timeout != 7*time.Minute || sb.Token != first.Token {
			t.Errorf("it lives for %v, timeout %v, token %q", left, sb.Timeout, sb.Token)
		}
		h.wantInside(first.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
		h.wantSnapshots()
		if _, resumed, err = h.Connect(ctx, "us", first.ID, time.Minute, true); err != nil || resumed {
			t.Errorf("Connect to a running one: resumed %v, %v", resumed, err)
		}
		h.wantInside(first.ID, mind{Files: []string{"a"}, Memory: "boot 1"})

		h.pause(first.ID, true)
		if _, _, err := h.Connect(ctx, "us", first.ID, time.Minute, true); err != nil {
			t.Fatal(err)
		}
		h.wantInside(first.ID, mind{Files: []string{"a"}, Memory: "boot 2"})
		h.pause(first.ID, false)
		h.connect(first.ID)
		h.wantInside(first.ID, mind{Files: []string{"a"}, Memory: "boot 3"})
		_, _, err = h.Connect(ctx, "us", first.ID, 2*time.Hour, false)
		wantKind(t, "Connect beyond the limit", err, soulbox.Invalid)
	})
}

func TestPausedCountsNot(t *testing.T) {
	h := open(t)
	ids := make([]soulbox.SandboxID, 0, 5)
	for range 5 {
		ids = append(ids, h.create().ID)
	}
	h.pause(ids[0], true)
	h.create()
	_, _, err := h.Connect(t.Context(), "us", ids[0], time.Minute, false)
	wantKind(t, "Connect beyond the quota", err, soulbox.Exhausted)
	h.wantState(ids[0], soulbox.Paused)
	h.restart()
	t.Cleanup(func() { h.Close() })
	_, _, err = h.Connect(t.Context(), "us", ids[0], time.Minute, false)
	wantKind(t, "Connect beyond the quota, after a restart", err, soulbox.Exhausted)
	if err := h.Kill(t.Context(), "us", ids[1], soulbox.ByClient, ""); err != nil {
		t.Fatal(err)
	}
	h.connect(ids[0])
	h.pause(ids[0], true)
	if err := h.Kill(t.Context(), "us", ids[0], soulbox.ByClient, "killed"); err != nil {
		t.Fatal(err)
	}
	h.wantEnded(ids[0], soulbox.ByClient, "killed")
	if p := h.record(ids[0]).Pause; p != nil {
		t.Errorf("it has ended and is paused at %+v", *p)
	}
	h.wantSnapshots()
	if n := fleet.Reserved(h.Fleet, "us"); n != 4 {
		t.Errorf("%d places taken, want 4", n)
	}
}

func TestPauseFails(t *testing.T) {
	full := soulbox.Errorf(soulbox.Unavailable, "the disk is full")
	for name, breaks := range map[string]func(*house){
		"when writing": func(h *house) {
			h.node.onSnapshot = func(context.Context, soulbox.SandboxID, *soulbox.Snapshot) error { return full }
		},
		"when writing, and when it is let go": func(h *house) {
			h.node.onSnapshot = func(context.Context, soulbox.SandboxID, *soulbox.Snapshot) error { return full }
			left := 3
			h.node.onThaw = func(soulbox.SandboxID) error {
				if left--; left >= 0 {
					return errors.New("frozen stiff")
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *house) {
				sb := h.create()
				h.write(sb.ID, "a")
				breaks(h)
				err := h.Pause(context.Background(), "us", sb.ID, true)
				wantKind(t, "Pause", err, soulbox.Unavailable)
				wantMessage(t, "Pause", err, "sandbox "+string(sb.ID)+" could not be paused: the disk is full")
				time.Sleep(10 * time.Second)
				synctest.Wait()
				h.wantState(sb.ID, soulbox.Running)
				h.wantInside(sb.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
				h.wantSnapshots()
				if got := h.record(sb.ID); got.Pause != nil {
					t.Errorf("on record: %+v", got.Pause)
				}
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				h.wantEnded(sb.ID, soulbox.ByTimeout, "its timeout was reached 5m0s after it started")
			})
		})
	}
}

func TestResumeFails(t *testing.T) {
	for _, test := range []struct {
		err  error
		kind soulbox.Kind
	}{
		{errors.New("secret path"), soulbox.Internal},
		{soulbox.Errorf(soulbox.Conflict, "written by another version"), soulbox.Conflict},
		{soulbox.Errorf(soulbox.NotFound, "no snapshot"), soulbox.Conflict},
		{soulbox.Errorf(soulbox.Unavailable, "the machine is full"), soulbox.Unavailable},
	} {
		t.Run(test.err.Error(), func(t *testing.T) {
			h := open(t)
			sb := h.create()
			h.write(sb.ID, "a")
			h.pause(sb.ID, true)
			snap := h.record(sb.ID).Pause.Snapshot
			h.node.onRestore = func(context.Context, *soulbox.Sandbox, *soulbox.Snapshot) error { return test.err }
			_, _, err := h.Connect(t.Context(), "us", sb.ID, time.Minute, false)
			wantKind(t, "Connect", err, test.kind)
			h.wantState(sb.ID, soulbox.Paused)
			h.wantSnapshots(snap)
			if n, there := fleet.Reserved(h.Fleet, "us"), h.node.Sandboxes(); n != 0 || len(there) != 0 {
				t.Errorf("%d places are taken, and on the node is %v", n, there)
			}
			h.node.onRestore = nil
			h.connect(sb.ID)
			h.wantInside(sb.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
		})
	}
}

func TestConnectByManyResumesOnce(t *testing.T) {
	h := open(t)
	req := request()
	req.Lifecycle = soulbox.Lifecycle{Pause: true, Wake: true}
	sb, err := h.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		h.pause(sb.ID, true)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if i%2 == 0 {
					if err := h.Wake(context.Background(), sb.ID); err != nil {
						t.Errorf("Wake: %v", err)
					}
					return
				}
				got, _, err := h.Connect(context.Background(), "us", sb.ID, time.Duration(i)*time.Minute, false)
				if err != nil || time.Until(got.ExpiresAt) < time.Duration(i)*time.Minute-10*time.Second {
					t.Errorf("Connect: %v, %v", got, err)
				}
			})
		}
		wg.Wait()
	}
	if n := h.node.lives[sb.ID]; n != 11 {
		t.Errorf("made %d times, want 11", n)
	}
	if wrongs := h.node.complaints(); len(wrongs) > 0 {
		t.Error(wrongs)
	}
}

func TestWake(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		ctx := context.Background()
		req := request()
		req.Timeout, req.Lifecycle = time.Minute, soulbox.Lifecycle{Pause: true, Wake: true}
		sb, err := h.Create(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		h.wantState(sb.ID, soulbox.Paused)
		start := time.Now()
		if err := h.Wake(ctx, sb.ID); err != nil {
			t.Fatal(err)
		}
		if got := h.record(sb.ID).ExpiresAt.Sub(start).Round(time.Second); got != time.Minute {
			t.Errorf("it lives for %v, want the minute it had", got)
		}
		if err := h.Wake(ctx, sb.ID); err != nil {
			t.Errorf("Wake of a running one: %v", err)
		}
		if err := h.SetTimeout(ctx, "us", sb.ID, 0); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.wantState(sb.ID, soulbox.Paused)
		if err := h.Wake(ctx, sb.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.wantState(sb.ID, soulbox.Running) // and not for no time at all
		h.pause(sb.ID, false)
		wantKind(t, "Wake without memory", h.Wake(ctx, sb.ID), soulbox.Conflict)
		wantKind(t, "Wake of an unknown one", h.Wake(ctx, "iunknown"), soulbox.NotFound)

		// Nor when it is found out late: what was being written down with its
		// memory when the request came may have failed, and another pause not.
		if resumed, err := fleet.ResumeForTraffic(h.Fleet, sb.ID); resumed || err != nil {
			t.Errorf("resumed for traffic: %v, %v; want neither", resumed, err)
		}
		synctest.Wait()
		h.wantState(sb.ID, soulbox.Paused)
		if back := h.connect(sb.ID); back.State != soulbox.Running {
			t.Errorf("Connect leaves it %s", back.State)
		}
	})
}

// TestWakeDuringPause has traffic come while the sandbox is written down: it
// waits, and is served.
func TestWakeDuringPause(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		req := request()
		req.Lifecycle = soulbox.Lifecycle{Pause: true, Wake: true}
		sb, err := h.Create(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		h.node.onSnapshot = func(context.Context, soulbox.SandboxID, *soulbox.Snapshot) error {
			time.Sleep(time.Second)
			return nil
		}
		paused := make(chan error, 1)
		go func() { paused <- h.Pause(context.Background(), "us", sb.ID, true) }()
		synctest.Wait()
		h.wantState(sb.ID, soulbox.Pausing)
		wantKind(t, "Pause meanwhile", h.Pause(context.Background(), "us", sb.ID, true), soulbox.Conflict)
		_, err = h.Fork(context.Background(), "us", sb.ID, 1, time.Minute)
		wantKind(t, "Fork meanwhile", err, soulbox.Conflict)
		if err := h.Wake(context.Background(), sb.ID); err != nil {
			t.Errorf("Wake: %v", err)
		}
		if err := <-paused; err != nil {
			t.Errorf("Pause: %v", err)
		}
		h.wantState(sb.ID, soulbox.Running)
	})
}

func TestAutoPause(t *testing.T) {
	for _, test := range []struct {
		name   string
		cycle  soulbox.Lifecycle
		fails  int // how many pauses
		memory bool
		ends   bool
	}{
		{"with memory", soulbox.Lifecycle{Pause: true}, 0, true, false},
		{"files only", soulbox.Lifecycle{Pause: true, FilesOnly: true}, 0, false, false},
		{"at the second attempt", soulbox.Lifecycle{Pause: true}, 1, true, false},
		{"not even then", soulbox.Lifecycle{Pause: true}, 2, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *house) {
				fails := test.fails
				h.node.onSnapshot = func(context.Context, soulbox.SandboxID, *soulbox.Snapshot) error {
					if fails--; fails >= 0 {
						return soulbox.Errorf(soulbox.Unavailable, "the disk is full")
					}
					return nil
				}
				req := request()
				req.Lifecycle = test.cycle
				sb, err := h.Create(context.Background(), req)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(5*time.Minute + time.Second)
				synctest.Wait()
				if test.ends {
					h.wantEnded(sb.ID, soulbox.ByTimeout, "its timeout was reached 5m0s after it started, and it could not be paused: the disk is full")
					h.wantSnapshots()
					return
				}
				h.wantState(sb.ID, soulbox.Paused)
				if got := h.record(sb.ID).Pause.Memory; got != test.memory {
					t.Errorf("memory %v, want %v", got, test.memory)
				}
			})
		})
	}
}

func TestLifecycleRefused(t *testing.T) {
	h := open(t)
	for _, cycle := range []soulbox.Lifecycle{{FilesOnly: true}, {Wake: true}, {Pause: true, FilesOnly: true, Wake: true}} {
		req := request()
		req.Lifecycle = cycle
		_, err := h.Create(t.Context(), req)
		wantKind(t, "Create", err, soulbox.Invalid)
	}
}

// TestKillInBetween kills a sandbox while the node is busy with it.
func TestKillInBetween(t *testing.T) {
	wait := func(ctx context.Context, busy chan<- struct{}) error {
		close(busy)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for name, start := range map[string]func(h *house, id soulbox.SandboxID, busy chan<- struct{}) error{
		"pausing": func(h *house, id soulbox.SandboxID, busy chan<- struct{}) error {
			h.node.onSnapshot = func(ctx context.Context, _ soulbox.SandboxID, _ *soulbox.Snapshot) error { return wait(ctx, busy) }
			return h.Pause(context.Background(), "us", id, true)
		},
		"written": func(h *house, id soulbox.SandboxID, busy chan<- struct{}) error {
			killed := make(chan struct{})
			h.node.onDestroy = func(context.Context, soulbox.SandboxID) error { return nil }
			h.node.onWritten = func(soulbox.SandboxID, *soulbox.Snapshot) {
				close(busy)
				eventually(h.t, "it is killed", func() bool { return h.record(id).State == soulbox.Ending })
				close(killed)
			}
			defer func() { <-killed }()
			return h.Pause(context.Background(), "us", id, true)
		},
		"resuming": func(h *house, id soulbox.SandboxID, busy chan<- struct{}) error {
			h.pause(id, true)
			h.node.onRestore = func(ctx context.Context, _ *soulbox.Sandbox, _ *soulbox.Snapshot) error { return wait(ctx, busy) }
			_, _, err := h.Connect(context.Background(), "us", id, time.Minute, false)
			return err
		},
		"rolling back": func(h *house, id soulbox.SandboxID, busy chan<- struct{}) error {
			snap := h.checkpoint(id, "c")
			h.node.onRestore = func(ctx context.Context, _ *soulbox.Sandbox, _ *soulbox.Snapshot) error { return wait(ctx, busy) }
			_, err := h.Rollback(context.Background(), "us", id, snap.ID)
			return err
		},
		"before rolling back": func(h *house, id soulbox.SandboxID, busy chan<- struct{}) error {
			snap := h.checkpoint(id, "c")
			h.node.onVerify = func(soulbox.SnapshotID) error {
				close(busy)
				eventually(h.t, "it is killed", func() bool { return h.record(id).State == soulbox.Ended })
				return nil // and the checkpoint went with it
			}
			_, err := h.Rollback(context.Background(), "us", id, snap.ID)
			return err
		},
		"checkpoint": func(h *house, id soulbox.SandboxID, busy chan<- struct{}) error {
			h.node.onSnapshot = func(context.Context, soulbox.SandboxID, *soulbox.Snapshot) error {
				close(busy)
				eventually(h.t, "it is killed", func() bool { return h.record(id).State == soulbox.Ended })
				return nil
			}
			_, err := h.Checkpoint(context.Background(), "us", id, "c")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			id := h.create().ID
			busy := make(chan struct{})
			done := make(chan error, 1)
			go func() { done <- start(h, id, busy) }()
			<-busy
			if err := h.Kill(t.Context(), "us", id, soulbox.ByClient, "changed my mind"); err != nil {
				t.Errorf("Kill: %v", err)
			}
			err := <-done
			wantKind(t, name, err, soulbox.NotFound)
			if !strings.Contains(soulbox.MessageOf(err), "changed my mind") {
				t.Errorf("%v, want the reason in it", err)
			}
			h.wantEnded(id, soulbox.ByClient, "changed my mind")
			h.wantSnapshots()
			if n := fleet.Reserved(h.Fleet, "us"); n != 0 {
				t.Errorf("%d places taken, want none", n)
			}
		})
	}
}

// TestDiesInBetween has the node tell of a sandbox's death while it is paused
// or resumed: what is written down is not lost.
func TestDiesInBetween(t *testing.T) {
	h := open(t)
	sb := h.create()
	h.write(sb.ID, "a")
	h.node.onWritten = func(id soulbox.SandboxID, _ *soulbox.Snapshot) {
		h.node.die(id, soulbox.ByCrash, "killed by the kernel")
	}
	h.pause(sb.ID, true)
	eventually(t, "the fleet has heard", func() bool { return len(h.node.exits) == 0 })
	h.wantState(sb.ID, soulbox.Paused)

	h.node.onWritten = nil
	h.node.onRestore = func(_ context.Context, sb *soulbox.Sandbox, _ *soulbox.Snapshot) error {
		h.node.die(sb.ID, soulbox.ByOOM, "too big")
		eventually(t, "the fleet has heard", func() bool { return len(h.node.exits) == 0 })
		time.Sleep(10 * time.Millisecond)
		return nil
	}
	_, _, err := h.Connect(t.Context(), "us", sb.ID, time.Minute, false)
	wantKind(t, "Connect", err, soulbox.Unavailable)
	h.wantState(sb.ID, soulbox.Paused)
	h.node.onRestore = nil
	h.connect(sb.ID)
	h.wantInside(sb.ID, mind{Files: []string{"a"}, Memory: "boot 1"})

	h.node.onSnapshot = func(_ context.Context, id soulbox.SandboxID, _ *soulbox.Snapshot) error {
		h.node.die(id, soulbox.ByOOM, "too big")
		eventually(t, "the fleet has heard", func() bool { return len(h.node.exits) == 0 })
		time.Sleep(10 * time.Millisecond)
		return errors.New("nothing to write down")
	}
	if err := h.Pause(t.Context(), "us", sb.ID, true); err == nil {
		t.Error("Pause of a dead one succeeds")
	}
	h.wantEnded(sb.ID, soulbox.ByOOM, "too big")
	h.wantSnapshots()
}

// TestPauseOutlivesItsRequest gives up a request: the pause happens.
func TestPauseOutlivesItsRequest(t *testing.T) {
	h := open(t)
	sb := h.create()
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	h.node.onSnapshot = func(context.Context, soulbox.SandboxID, *soulbox.Snapshot) error {
		cancel()
		<-release
		return nil
	}
	if err := h.Pause(ctx, "us", sb.ID, true); !errors.Is(err, context.Canceled) {
		t.Errorf("Pause: %v", err)
	}
	close(release)
	eventually(t, "it is paused", func() bool { return h.record(sb.ID).State == soulbox.Paused })
}

// TestCloseUndoes closes the fleet in the middle of things.
func TestCloseUndoes(t *testing.T) {
	h := open(t)
	paused, pausing := h.create().ID, h.create().ID
	h.write(paused, "p")
	h.write(pausing, "q")
	h.pause(paused, true)
	var busy sync.WaitGroup
	busy.Add(2)
	h.node.onSnapshot = func(ctx context.Context, _ soulbox.SandboxID, _ *soulbox.Snapshot) error {
		busy.Done()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	h.node.onRestore = func(ctx context.Context, _ *soulbox.Sandbox, _ *soulbox.Snapshot) error {
		busy.Done()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	errs := make(chan error, 2)
	go func() { errs <- h.Pause(context.Background(), "us", pausing, true) }()
	go func() { _, _, err := h.Connect(context.Background(), "us", paused, time.Minute, false); errs <- err }()
	busy.Wait()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wantKind(t, "what was under way", <-errs, soulbox.Unavailable)
	}
	h.wantState(paused, soulbox.Paused)
	h.wantState(pausing, soulbox.Running)
	h.node.onSnapshot, h.node.onRestore = nil, nil
	h.restart()
	t.Cleanup(func() { h.Close() })
	h.connect(paused)
	h.wantInside(paused, mind{Files: []string{"p"}, Memory: "boot 1"})
	h.wantInside(pausing, mind{Files: []string{"q"}, Memory: "boot 2"})
	h.wantSnapshots()
}

// deaf is a store that does what it is told and loses the answer, as long as
// lost says so, when a sandbox becomes running.
type deaf struct {
	*store.Store
	lost *atomic.Bool
}

func (s deaf) MoveSandbox(ctx context.Context, sb *soulbox.Sandbox, from soulbox.State) error {
	err := s.Store.MoveSandbox(ctx, sb, from)
	if sb.State == soulbox.Running && from != soulbox.Starting && s.lost.Load() {
		err = errors.Join(err, errors.New("the connection is reset"))
	}
	return err
}

// TestResumeRecordedAfterAll has the record of a resume fail, and be there all
// the same, until the server stops: the sandbox is not undone, because whoever
// starts next would take it for one that is lost.
func TestResumeRecordedAfterAll(t *testing.T) {
	h := open(t)
	var lost atomic.Bool
	h.opts.Store = deaf{h.store, &lost}
	h.restart()
	t.Cleanup(func() { h.Close() })
	sb := h.create()
	h.write(sb.ID, "a")
	h.pause(sb.ID, true)
	lost.Store(true)
	failed := make(chan error, 1)
	go func() {
		_, _, err := h.Connect(context.Background(), "us", sb.ID, time.Minute, false)
		failed <- err
	}()
	eventually(t, "the record says that it runs", func() bool { return h.record(sb.ID).State == soulbox.Running })
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "Connect", <-failed, soulbox.Unavailable)
	lost.Store(false)
	h.restart()
	h.connect(sb.ID)
	h.wantInside(sb.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
	h.wantSnapshots()
}

// TestDiesWhileRecorded has a sandbox die while nobody knows what the record of
// its resume says: it is paused again.
func TestDiesWhileRecorded(t *testing.T) {
	h := open(t)
	var lost atomic.Bool
	h.opts.Store = deaf{h.store, &lost}
	h.restart()
	t.Cleanup(func() { h.Close() })
	sb := h.create()
	h.write(sb.ID, "a")
	h.pause(sb.ID, true)
	lost.Store(true)
	failed := make(chan error, 1)
	go func() {
		_, _, err := h.Connect(context.Background(), "us", sb.ID, time.Minute, false)
		failed <- err
	}()
	eventually(t, "the record says that it runs", func() bool { return h.record(sb.ID).State == soulbox.Running })
	h.node.die(sb.ID, soulbox.ByOOM, "too big")
	wantKind(t, "Connect", <-failed, soulbox.Unavailable)
	lost.Store(false)
	h.wantState(sb.ID, soulbox.Paused)
	h.connect(sb.ID)
	h.wantInside(sb.ID, mind{Files: []string{"a"}, Memory: "boot 1"})
}
