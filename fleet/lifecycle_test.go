package fleet_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/soulbox/soulbox"
)

// life is what the model knows of one sandbox.
type life struct {
	expires time.Time
	by      soulbox.Ender // empty while it is live
	settled bool          // its end was looked at and was right
}

// model is what should be true: a map and arithmetic, where the fleet has
// records, goroutines and crashes.
type model struct {
	*house
	lives  map[soulbox.SandboxID]*life
	before int // records of earlier runs
}

func (m *model) live() []soulbox.SandboxID {
	var ids []soulbox.SandboxID
	for _, id := range slices.Sorted(maps.Keys(m.lives)) {
		if m.lives[id].by == "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// pick draws a live sandbox, or skips the step.
func (m *model) pick(t *rapid.T) soulbox.SandboxID {
	ids := m.live()
	if len(ids) == 0 {
		t.Skip("nothing is live")
	}
	return rapid.SampledFrom(ids).Draw(t, "sandbox")
}

func seconds(t *rapid.T, most int) time.Duration {
	return time.Duration(rapid.IntRange(1, most).Draw(t, "seconds")) * time.Second
}

// bubbled keeps rapid from asking for a deadline, which has no meaning where
// time is fake.
type bubbled struct{ *testing.T }

// TestLifecycle does random things to a fleet, restarts it at random moments,
// and compares with the model after each.
func TestLifecycle(t *testing.T) {
	inBubble(t, func(t *testing.T, h *house) {
		rapid.Check(bubbled{t}, func(t *rapid.T) {
			m := &model{house: h, lives: map[soulbox.SandboxID]*life{}, before: h.count()}
			defer m.clear()
			t.Repeat(map[string]func(*rapid.T){
				"create":         m.create,
				"create failing": m.createFailing,
				"kill":           m.kill,
				"set timeout":    m.setTimeout,
				"extend":         m.extend,
				"die":            m.die,
				"wait":           m.wait,
				"restart":        m.restartSometime,
				"":               m.check,
			})
		})
	})
}

// count returns how many records there are.
func (h *house) count() int {
	h.t.Helper()
	page, err := h.store.Sandboxes(context.Background(), soulbox.SandboxFilter{
		Team: "us", Limit: 1,
		States: everyState,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return page.Total
}

// clear leaves nothing alive for the next run.
func (m *model) clear() {
	for _, id := range m.live() {
		_ = m.Kill(context.Background(), "us", id, soulbox.ByClient, "cleared") // may fail if the run did
	}
	synctest.Wait()
}

func (m *model) create(t *rapid.T) {
	req := request()
	req.Timeout = seconds(t, 100)
	sb, err := m.Create(context.Background(), req)
	if len(m.live()) >= 5 {
		wantKind(t, "Create beyond the quota", err, soulbox.Exhausted)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.lives[sb.ID] = &life{expires: time.Now().Add(req.Timeout)}
}

func (m *model) createFailing(t *rapid.T) {
	if len(m.live()) >= 5 {
		t.Skip("no quota")
	}
	m.node.onCreate = func(_ context.Context, sb *soulbox.Sandbox) error {
		m.lives[sb.ID] = &life{by: soulbox.ByServer}
		return errors.New("no")
	}
	defer func() { m.node.onCreate = nil }()
	if _, err := m.Create(context.Background(), request()); err == nil {
		t.Fatal("Create succeeds on a node that fails")
	}
}

func (m *model) kill(t *rapid.T) {
	id := m.pick(t)
	if err := m.Kill(context.Background(), "us", id, soulbox.ByClient, "killed"); err != nil {
		t.Fatal(err)
	}
	m.lives[id].by = soulbox.ByClient
}

func (m *model) setTimeout(t *rapid.T) {
	id, d := m.pick(t), seconds(t, 100)
	if err := m.SetTimeout(context.Background(), "us", id, d); err != nil {
		t.Fatal(err)
	}
	m.lives[id].expires = time.Now().Add(d)
}

func (m *model) extend(t *rapid.T) {
	id, d := m.pick(t), seconds(t, 100)
	if _, _, err := m.Connect(context.Background(), "us", id, d, false); err != nil {
		t.Fatal(err)
	}
	if at := time.Now().Add(d); at.After(m.lives[id].expires) {
		m.lives[id].expires = at
	}
}

func (m *model) die(t *rapid.T) {
	id := m.pick(t)
	m.house.node.die(id, soulbox.ByCrash, "died")
	m.lives[id].by = soulbox.ByCrash
}

func (m *model) wait(t *rapid.T) { m.pass(seconds(t, 60)) }

// restartSometime restarts the fleet after a while, in which a sandbox may die.
func (m *model) restartSometime(t *rapid.T) {
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if live := m.live(); len(live) > 0 && rapid.Bool().Draw(t, "one dies") {
		id := rapid.SampledFrom(live).Draw(t, "who")
		m.node.mu.Lock()
		m.node.drop(id) // and nobody saw it
		m.node.mu.Unlock()
		m.lives[id].by = soulbox.ByServer
	}
	m.pass(seconds(t, 60))
	m.restart()
}

// pass lets time pass; a millisecond more lets what is due happen, because the
// store knows microseconds only.
func (m *model) pass(d time.Duration) {
	time.Sleep(d + time.Millisecond)
	for _, l := range m.lives {
		if l.by == "" && !time.Now().Before(l.expires) {
			l.by = soulbox.ByTimeout
		}
	}
}

func (m *model) check(t *rapid.T) {
	synctest.Wait()
	for id, l := range m.lives {
		if l.settled {
			continue
		}
		record := m.record(id)
		want := soulbox.Running
		if l.by != "" {
			want = soulbox.Ended
		}
		if record.State != want {
			t.Errorf("sandbox %s is %s, want %s", id, record.State, want)
			continue
		}
		if l.by != "" && record.End.By != l.by {
			t.Errorf("sandbox %s was ended by %s, want %s", id, record.End.By, l.by)
		}
		if found, ok := m.Find(id); !ok || found.State != want {
			t.Errorf("sandbox %s is %s in the table, want %s", id, found.State, want)
		}
		l.settled = l.by != ""
	}
	if got, want := m.node.Sandboxes(), m.live(); !slices.Equal(got, want) {
		t.Errorf("on the node: %v, want %v", got, want)
	}
	if got := m.count() - m.before; got != len(m.lives) {
		t.Errorf("%d records, want %d", got, len(m.lives))
	}
	page, err := m.List(context.Background(), soulbox.SandboxFilter{Team: "us"})
	if err != nil || page.Total != len(m.live()) {
		t.Errorf("List says %d, %v; want %d", page.Total, err, len(m.live()))
	}
}
