package pool_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/pool"
)

// A maker makes sandboxes of nothing and remembers those that exist.
type maker struct {
	mu    sync.Mutex
	made  int
	alive map[soulbox.SandboxID]string // and the image of each
	free  soulbox.Bytes
	fail  error
	heavy map[string]soulbox.Bytes // what those of an image take instead of each
}

const each = 10 * soulbox.MiB

func open(t *testing.T, budget int) (*maker, *pool.Pool) {
	t.Helper()
	m := &maker{alive: map[soulbox.SandboxID]string{}, free: soulbox.GiB}
	p := pool.New(pool.Options{
		Log: slog.New(slog.DiscardHandler), Each: m.weigh, Budget: soulbox.Bytes(budget) * each, Floor: 100 * soulbox.MiB,
		Make: func(ctx context.Context, t *soulbox.Template) (soulbox.SandboxID, error) {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return "", ctx.Err()
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.fail != nil {
				return "", m.fail
			}
			m.made++
			id := soulbox.SandboxID(fmt.Sprintf("i%d", m.made))
			m.alive[id] = t.Image
			return id, nil
		},
		Drop: func(id soulbox.SandboxID) { m.take(id) },
		Free: func() (soulbox.Bytes, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.free, nil
		},
	})
	return m, p
}

func (m *maker) weigh(t *soulbox.Template) soulbox.Bytes {
	m.mu.Lock()
	defer m.mu.Unlock()
	return cmp.Or(m.heavy[t.Image], each)
}

func (m *maker) take(id soulbox.SandboxID) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	image := m.alive[id]
	delete(m.alive, id)
	return image
}

func (m *maker) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.alive)
}

func (m *maker) set(change func(*maker)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func template(id, image string) *soulbox.Template {
	return &soulbox.Template{ID: soulbox.TemplateID(id), Name: id, Image: image, Size: soulbox.Size{CPUs: 1}}
}

// close ends the pool and looks whether it has left anything.
func finish(t *testing.T, m *maker, p *pool.Pool) {
	t.Helper()
	p.Close()
	if n := m.count(); n != 0 {
		t.Errorf("%d sandboxes are left after Close", n)
	}
	if _, ok := p.Take(template("a", "1")); ok {
		t.Error("Take after Close finds a sandbox")
	}
}

func settle() {
	time.Sleep(20 * time.Second)
	synctest.Wait()
}

func TestExpect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		p.Expect(template("a", "1"), 3)
		settle()
		if n := m.count(); n != 3 {
			t.Errorf("%d are ready, want 3", n)
		}
		id, ok := p.Take(template("a", "1"))
		if !ok || m.take(id) != "1" {
			t.Errorf("Take() = %q, %v; want one that exists", id, ok)
		}
		settle()
		if n := m.count(); n != 3 {
			t.Errorf("%d are ready after one was taken, want 3", n)
		}
		want := []soulbox.Pool{{Template: "a", Name: "a", Each: each, Ready: 3, Want: 3, Hits: 1}}
		if got := p.Stats(); !slices.Equal(got, want) {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
		finish(t, m, p)
	})
}

func TestFollowsDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 50)
		for range 20 {
			if _, ok := p.Take(template("a", "1")); ok {
				t.Fatal("Take finds one in an empty pool")
			}
		}
		settle()
		seen := map[soulbox.SandboxID]bool{}
		for range 20 {
			id, ok := p.Take(template("a", "1"))
			if !ok || seen[id] {
				t.Fatalf("Take() = %q, %v after a burst of 20; want 20 different ones", id, ok)
			}
			seen[id] = true
			m.take(id)
		}
		settle()
		if n := m.count(); n != 20 {
			t.Errorf("%d are ready after the burst, want 20", n)
		}
		time.Sleep(15 * time.Minute)
		if n := m.count(); n < 4 || n > 6 {
			t.Errorf("%d are ready three half-lives later, want about 5", n)
		}
		time.Sleep(time.Hour)
		if n := m.count(); n != 0 || len(p.Stats()) != 0 {
			t.Errorf("%d are ready and %+v known of a template that nobody uses, want none", n, p.Stats())
		}
		finish(t, m, p)
	})
}

func TestBudgetIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		for range 40 {
			p.Take(template("a", "1"))
		}
		for range 10 {
			p.Take(template("b", "2"))
		}
		settle()
		if n := m.count(); n > 10 || n < 9 {
			t.Errorf("%d are ready, want the 10 that the budget allows", n)
		}
		if s := p.Stats(); len(s) != 2 || s[0].Ready < 3*s[1].Ready || s[1].Ready == 0 {
			t.Errorf("Stats() = %+v, want four times as many of a as of b", s)
		}
		finish(t, m, p)
	})
}

// Of what takes more there are fewer, and of what takes more than there is none.
func TestBudgetIsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		m.set(func(m *maker) { m.heavy = map[string]soulbox.Bytes{"2": 4 * each, "3": 11 * each} })
		p.Expect(template("a", "1"), 4)
		p.Expect(template("b", "2"), 4)
		settle()
		want := []soulbox.Pool{{Template: "a", Name: "a", Each: each, Ready: 2, Want: 2}, {Template: "b", Name: "b", Each: 4 * each, Ready: 2, Want: 2}}
		if got := p.Stats(); !slices.Equal(got, want) {
			t.Errorf("Stats() = %+v, want %+v", got, want)
		}
		p.Expect(template("a", "1"), 0)
		p.Expect(template("b", "2"), 0)
		made := m.made
		for range 5 {
			p.Take(template("c", "3"))
		}
		settle()
		if m.made != made || m.count() != 0 {
			t.Errorf("%d were made of what is too big, and %d are ready", m.made-made, m.count())
		}
		finish(t, m, p)
	})
}

func TestTemplateChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		p.Expect(template("a", "1"), 3)
		settle()
		changed := template("a", "2")
		changed.UpdatedAt = time.Now()
		if id, ok := p.Take(changed); ok {
			t.Errorf("Take() = %q of a template that has changed", id)
		}
		settle()
		id, ok := p.Take(changed)
		if image := m.take(id); !ok || image != "2" {
			t.Errorf("Take() = %q, %v of image %q; want one of the new image", id, ok, image)
		}
		if id, ok := p.Take(template("a", "1")); ok {
			t.Errorf("Take() = %q for who has the old template in mind", id)
		}
		for _, image := range m.alive {
			if image != "2" {
				t.Error("a sandbox of the old image is left")
			}
		}
		finish(t, m, p)
	})
}

// A template that was built again may have the image of before.
func TestSnapshotChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		p.Expect(template("a", "1"), 1)
		settle()
		changed := template("a", "1")
		changed.Snapshot, changed.UpdatedAt = "s1", time.Now()
		if id, ok := p.Take(changed); ok {
			t.Errorf("Take() = %q, which does not run what the template has running", id)
		}
		settle()
		id, ok := p.Take(changed)
		if m.take(id); !ok || m.made != 2 {
			t.Errorf("Take() = %q, %v after %d were made, want one of the new snapshot", id, ok, m.made)
		}
		finish(t, m, p)
	})
}

// What waits for a template that is removed goes at once, also what is just made.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		p.Expect(template("a", "1"), 3)
		p.Expect(template("b", "1"), 2)
		settle()
		p.Forget("a")
		p.Forget("nosuch")
		settle()
		want := []soulbox.Pool{{Template: "b", Name: "b", Each: each, Ready: 2, Want: 2}}
		if got := p.Stats(); !slices.Equal(got, want) || m.count() != 2 {
			t.Errorf("Stats() = %+v and %d are there, want %+v", got, m.count(), want)
		}
		p.Expect(template("a", "1"), 1)
		time.Sleep(time.Millisecond) // it is being made
		p.Forget("a")
		settle()
		if got := p.Stats(); !slices.Equal(got, want) || m.made != 6 || m.count() != 2 {
			t.Errorf("Stats() = %+v, %d were made and %d are there, want %+v and that the sixth is gone", got, m.made, m.count(), want)
		}
		finish(t, m, p)
	})
}

func TestMemoryPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		p.Expect(template("a", "1"), 5)
		settle()
		m.set(func(m *maker) { m.free = 50 * soulbox.MiB })
		settle()
		if n := m.count(); n != 0 {
			t.Errorf("%d are ready while memory is short, want none", n)
		}
		m.set(func(m *maker) { m.free = 110 * soulbox.MiB })
		settle()
		if n := m.count(); n != 0 {
			t.Errorf("%d are ready just above the floor, want none yet", n)
		}
		m.set(func(m *maker) { m.free = soulbox.GiB })
		settle()
		if n := m.count(); n != 5 {
			t.Errorf("%d are ready afterwards, want 5", n)
		}
		finish(t, m, p)
	})
}

func TestMakeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		m.set(func(m *maker) { m.fail = errors.New("no") })
		p.Expect(template("a", "1"), 2)
		settle()
		if id, ok := p.Take(template("a", "1")); ok {
			t.Errorf("Take() = %q of what cannot be made", id)
		}
		m.set(func(m *maker) { m.fail = nil })
		settle()
		if n := m.count(); n != 2 {
			t.Errorf("%d are ready once they can be made, want 2", n)
		}
		finish(t, m, p)
	})
}

func TestNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 0)
		p.Expect(template("a", "1"), 2)
		p.Take(template("a", "1"))
		settle()
		if m.made != 0 {
			t.Errorf("%d were made without a budget", m.made)
		}
		finish(t, m, p)
	})
}

func TestCloseWhileMaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := open(t, 10)
		p.Expect(template("a", "1"), 5)
		time.Sleep(80 * time.Millisecond)
		finish(t, m, p)
	})
}
