package fleet_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/fleet"
	"github.com/soulbox/soulbox/store/sqlite"
)

var (
	historyFor  = flag.Duration("history", 3*time.Second, "how long TestHistory makes and checks histories")
	historySeed = flag.Uint64("history.seed", 0, "what TestHistory begins with; 0 is another one each time")
)

const (
	historyClients = 6
	historyDeeds   = 10 // of each client, then everything is looked at
	historyParts   = 8  // of one round, then there is a new house
)

// TestHistory lets clients do random things to the same sandboxes at the same
// time, while servers die and rise and, in some rounds, the store and the node
// fail now and then. Afterwards explain says whether there is an order of all
// that overlapped in which every answer is right, and check whether records,
// memory and node agree and nothing is left over.
//
// A server dies at a call of the store or of the node, before or after it is
// done: these are all the moments that make a difference, the named steps among
// them.
//
// A seed decides who does what and what fails when. How the goroutines overlap
// is the machine's business, so that a seed may have to be tried more than once.
func TestHistory(t *testing.T) {
	seed := *historySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1e9
	}
	end := time.Now().Add(*historyFor)
	var sum tally
	said := time.Now()
	t.Logf("seed %d", seed)
	for first := seed; !t.Failed() && (seed == first || time.Now().Before(end)); seed++ {
		h := newHistory(t, seed)
		h.run()
		sum.add(&h.tally)
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			fmt.Printf("history: seed %d, %v left: %v\n", seed, time.Until(end).Round(time.Second), &sum)
		}
	}
	t.Logf("up to seed %d: %v", seed-1, &sum)
}

// A tally counts what was tried.
type tally struct{ deeds, made, deaths, parts, checked, unsure int }

func (t *tally) add(o *tally) {
	t.deeds += o.deeds
	t.made += o.made
	t.deaths += o.deaths
	t.parts += o.parts
	t.checked += o.checked
	t.unsure += o.unsure
}

func (t *tally) String() string {
	return fmt.Sprintf("%d deeds, %d sandboxes, %d deaths of a server, %d looks at everything; %d histories of a sandbox explained, %d too long for it",
		t.deeds, t.made, t.deaths, t.parts, t.checked, t.unsure)
}

// A history is one round.
type history struct {
	*house
	t    *testing.T
	seed uint64

	faulty bool // store and node fail now and then
	old    sync.WaitGroup
	now    atomic.Pointer[server]

	mu      sync.Mutex
	rng     *rand.Rand // for what depends on the goroutines
	clock   int
	boxes   []*box
	named   []*named
	servers []*server // of this part
	line    int
	tally   tally
}

// A server is a fleet until it dies.
type server struct {
	*fleet.Fleet
	*gate

	closing, died int // when; 0: not
}

// A box is a sandbox and what was done to it since everything was looked at.
type box struct {
	id     soulbox.SandboxID
	start  situation
	deeds  []*deed
	by     map[*deed]*server // who answered
	ids    []soulbox.SnapshotID
	points []content
	unsure uint64 // checkpoints of which nobody knows whether they are removed
}

// named is a snapshot that sandboxes are made of.
type named struct {
	id      soulbox.SnapshotID
	has     content
	asked   int // when its removal was first asked for; 0: not
	asks    int // how often
	removed int // when it was done; 0: not
}

func newHistory(t *testing.T, seed uint64) *history {
	t.Helper()
	dir := folder(t)
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, "soulbox.db"))
	if err == nil {
		err = s.InsertTeam(t.Context(), &soulbox.Team{ID: "us", Slug: "us-slug", Limits: soulbox.Limits{
			Sandboxes: 7, Timeout: time.Hour, Memory: soulbox.GiB, CPUs: 2,
		}})
		s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	h := &history{house: build(t.Context(), t, dir), t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), clock: 1}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.faulty = seed%3 == 2
	return h
}

func (h *history) run() {
	defer h.store.Close()
	h.serve()
	for part := range historyParts {
		h.part(part)
		if h.t.Failed() {
			break
		}
	}
	if !h.t.Failed() {
		h.clear()
	}
	if err := h.now.Load().Close(); err != nil {
		h.t.Error(err)
	}
	h.old.Wait()
	if h.t.Failed() {
		h.t.Errorf("repeat with -run TestHistory -history.seed %d", h.seed)
	}
}

// part lets clients work, and looks at what became of it.
func (h *history) part(n int) {
	h.servers = []*server{h.now.Load()}
	h.now.Load().faulty.Store(h.faulty)
	ctx, over := context.WithCancel(context.Background())
	var clients, fate sync.WaitGroup
	for i := range historyClients {
		rng := rand.New(rand.NewPCG(h.seed, uint64(n*historyClients+i+1)))
		clients.Go(func() {
			for range historyDeeds {
				h.act(rng)
			}
		})
	}
	fate.Go(func() { h.fate(ctx, rand.New(rand.NewPCG(h.seed, uint64(1e6+n)))) })
	clients.Wait()
	over()
	fate.Wait()
	if s := h.now.Load(); !s.spare() { // it died when nobody was there to see it
		h.old.Go(func() { _ = s.Close() })
		h.serve()
		h.now.Load().spare()
	}
	h.settle()
	if !h.t.Failed() {
		h.check()
	}
	h.tally.parts++
}

// fate ends servers and starts the next ones.
func (h *history) fate(ctx context.Context, rng *rand.Rand) {
	for range rng.IntN(3) {
		s := h.now.Load()
		if rng.IntN(4) == 0 { // it is told to stop
			select {
			case <-time.After(time.Duration(rng.IntN(30)) * time.Millisecond):
			case <-ctx.Done():
				return
			}
			h.mu.Lock()
			s.closing = h.tick()
			h.mu.Unlock()
			if err := s.Close(); err != nil {
				h.t.Error(err)
			}
			s.die(nil)
		} else {
			s.condemn(1 + rng.IntN(120))
			select {
			case <-s.dead:
			case <-ctx.Done():
				return
			}
			h.old.Go(func() { _ = s.Close() }) // what it is doing comes to nothing
		}
		h.serve()
	}
}

// serve starts a server.
func (h *history) serve() {
	s := &server{}
	s.gate = &gate{h: h, s: s, dead: make(chan struct{})}
	opts := h.opts
	opts.Store, opts.Node = &shelf{h.store, s.gate}, &door{h.node, s.gate}
	s.Fleet = fleet.New(opts)
	if err := s.Start(context.Background()); err != nil {
		h.t.Errorf("start a server: %v", err)
	}
	h.mu.Lock()
	h.servers = append(h.servers, s)
	h.mu.Unlock()
	s.faulty.Store(h.faulty)
	h.house.Fleet = s.Fleet
	h.now.Store(s)
}

// tick returns the next moment, with h.mu held.
func (h *history) tick() int {
	h.clock++
	return h.clock
}

func (h *history) chance(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rng.IntN(n) == 0
}

// dawdle makes others overtake.
func (h *history) dawdle() {
	h.mu.Lock()
	d := h.rng.IntN(8)
	us := h.rng.IntN(1500)
	h.mu.Unlock()
	if d < 3 {
		time.Sleep(time.Duration(us) * time.Microsecond)
	}
}
