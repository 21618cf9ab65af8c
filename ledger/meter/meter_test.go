package meter_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/ledger/meter"
	"github.com/soulbox/soulbox/store/sqlite"
)

// node says what it is told to say.
type node struct {
	mu      sync.Mutex
	samples map[soulbox.SandboxID]soulbox.Usage
	err     error
	times   int
}

func (n *node) Sample(context.Context) (map[soulbox.SandboxID]soulbox.Usage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.times++
	return n.samples, n.err
}

// say makes the node answer with samples and err from now on.
func (n *node) say(samples map[soulbox.SandboxID]soulbox.Usage, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.samples, n.err = samples, err
}

func (n *node) asked() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.times
}

// inBubble runs test with a meter that has not started, where time is fake.
func inBubble(t *testing.T, test func(t *testing.T, n *node, m *meter.Meter, log *bytes.Buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "soulbox.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		n, log := &node{}, &bytes.Buffer{}
		m := meter.New(meter.Options{Log: slog.New(slog.NewTextHandler(log, nil)), Store: s, Node: n})
		defer m.Close()
		test(t, n, m, log)
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func count(t *testing.T, m *meter.Meter, id soulbox.SandboxID) int {
	t.Helper()
	all, err := m.Usage(context.Background(), id, time.Time{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestMeter(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node, m *meter.Meter, _ *bytes.Buffer) {
		n.say(map[soulbox.SandboxID]soulbox.Usage{"ia": {CPUCount: 1}, "ib": {CPUCount: 2}}, nil)
		if _, ok := m.Latest("ia"); ok {
			t.Error("Latest knows something before Start")
		}
		for range 2 { // the second does nothing
			if err := m.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		pass(12 * time.Second)
		if n.asked() != 2 || count(t, m, "ia") != 2 || count(t, m, "ib") != 2 {
			t.Errorf("after 12 s: asked %d times, %d and %d measurements; want 2 each", n.asked(), count(t, m, "ia"), count(t, m, "ib"))
		}
		if u, ok := m.Latest("ib"); !ok || u.CPUCount != 2 || time.Since(u.At) > 5*time.Second {
			t.Errorf("Latest = %+v, %v", u, ok)
		}
		n.say(map[soulbox.SandboxID]soulbox.Usage{"ia": {CPUCount: 3}}, nil)
		pass(5 * time.Second)
		if _, ok := m.Latest("ib"); ok {
			t.Error("Latest knows a sandbox that is gone")
		}
		if count(t, m, "ib") != 2 {
			t.Error("measurements of a sandbox that is gone are lost")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		pass(time.Minute)
		if n.asked() != 3 {
			t.Errorf("asked %d times after Close, want 3", n.asked())
		}
	})
}

// TestMeterFails wants a gap, one line when it begins and one when it ends.
func TestMeterFails(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node, m *meter.Meter, log *bytes.Buffer) {
		one := map[soulbox.SandboxID]soulbox.Usage{"ia": {CPUCount: 1}}
		n.say(one, nil)
		if err := m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		pass(6 * time.Second)
		n.say(nil, errors.New("cgroup is gone"))
		pass(30 * time.Second)
		n.say(one, nil)
		pass(10 * time.Second)
		if got := count(t, m, "ia"); got != 3 {
			t.Errorf("%d measurements, want 1 before and 2 after", got)
		}
		if lines := strings.Count(log.String(), "\n"); lines != 2 {
			t.Errorf("%d lines of log, want 2:\n%s", lines, log)
		}
	})
}

// TestMeterPrunes puts more old measurements into the store than fit into one
// statement.
func TestMeterPrunes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "soulbox.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		week := 7 * 24 * time.Hour
		for i := range 30 {
			batch := map[soulbox.SandboxID]soulbox.Usage{}
			for j := range 100 {
				batch[soulbox.SandboxID("i"+strconv.Itoa(j))] = soulbox.Usage{At: time.Now().Add(-week - time.Duration(i)*time.Second)}
			}
			if err := s.InsertUsage(ctx, batch); err != nil {
				t.Fatal(err)
			}
		}
		recent := soulbox.Usage{At: time.Now().Add(-week + time.Hour)}
		if err := s.InsertUsage(ctx, map[soulbox.SandboxID]soulbox.Usage{"i0": recent}); err != nil {
			t.Fatal(err)
		}
		m := meter.New(meter.Options{Log: slog.New(slog.DiscardHandler), Store: s, Node: &node{}})
		defer m.Close()
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
		pass(61 * time.Second)
		if a, b := count(t, m, "i0"), count(t, m, "i99"); a != 1 || b != 0 {
			t.Errorf("%d and %d measurements are left, want the recent one and none", a, b)
		}
	})
}
