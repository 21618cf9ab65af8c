package session_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
	"github.com/soulbox/soulbox/session"
	"github.com/soulbox/soulbox/store"
	"github.com/soulbox/soulbox/store/sqlite"
)

// tape is the record of a sandbox as its agent keeps it: it goes on where an
// image left it, in a new epoch.
type tape struct {
	epochs []soulbox.GuestEpoch
	events []soulbox.GuestEvent
	tail   uint64 // number of the oldest event that is kept
}

func (t tape) clone() tape {
	return tape{epochs: slices.Clone(t.epochs), events: slices.Clone(t.events), tail: t.tail}
}

func (t tape) head() uint64 { return uint64(len(t.events)) }

// box is a sandbox of the world.
type box struct {
	sb       *soulbox.Sandbox
	tape     tape
	on       bool
	paths    []string
	has      bool // the folder /missing
	changed  chan struct{}
	life     context.Context
	end      context.CancelFunc // of what runs now
	state    soulbox.GuestState
	saves    map[soulbox.SnapshotID]tape
	names    map[soulbox.SnapshotID]string
	made     map[soulbox.SnapshotID]time.Time
	order    []soulbox.SnapshotID
	kept     tape // while paused
	extended int
}

// world is a fleet with its sandboxes and their agents. It outlives the
// registries that use it, as sandboxes outlive a server.
type world struct {
	t     *testing.T
	dir   string
	store *store.Store

	mu      sync.Mutex
	boxes   map[soulbox.SandboxID]*box
	tell    func(*soulbox.Sandbox)
	usage   map[soulbox.SandboxID]soulbox.Usage
	open    map[soulbox.SandboxID]int
	epochs  int
	snaps   int
	failing map[soulbox.SandboxID]error // of Checkpoint and Rollback
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for _, id := range []soulbox.TeamID{"us", "them"} {
		team := &soulbox.Team{ID: id, Name: string(id), Slug: string(id), Limits: soulbox.Limits{Sandboxes: 10, Timeout: time.Hour}, CreatedAt: time.Now()}
		if err := s.InsertTeam(t.Context(), team); err != nil {
			t.Fatal(err)
		}
	}
	return &world{
		t: t, dir: dir, store: s, boxes: map[soulbox.SandboxID]*box{}, usage: map[soulbox.SandboxID]soulbox.Usage{},
		open: map[soulbox.SandboxID]int{}, failing: map[soulbox.SandboxID]error{}, tell: func(*soulbox.Sandbox) {},
	}
}

// registry starts one on the world. Starting another one needs the first one
// closed.
func (w *world) registry(change ...func(*session.Options)) *session.Registry {
	w.t.Helper()
	o := session.Options{
		Log: slog.New(slog.DiscardHandler), Dir: filepath.Join(w.dir, "sessions"), Store: w.store, Fleet: w, Guests: w, Meter: w, Traffic: w,
		Tick: 20 * time.Millisecond, Quiet: 60 * time.Millisecond,
	}
	for _, c := range change {
		c(&o)
	}
	r := session.New(o)
	w.mu.Lock()
	w.tell = r.Changed
	w.mu.Unlock()
	if err := r.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = r.Close() })
	return r
}

func (w *world) close(r *session.Registry) {
	w.t.Helper()
	if err := r.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// add makes a running sandbox.
func (w *world) add(id soulbox.SandboxID, team soulbox.TeamID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := &box{
		sb: &soulbox.Sandbox{
			ID: id, Team: team, State: soulbox.Running, StartedAt: time.Now(), ExpiresAt: time.Now().Add(5 * time.Minute), Timeout: 5 * time.Minute,
		},
		tape: tape{tail: 1}, changed: make(chan struct{}),
		saves: map[soulbox.SnapshotID]tape{}, names: map[soulbox.SnapshotID]string{}, made: map[soulbox.SnapshotID]time.Time{},
	}
	b.life, b.end = context.WithCancel(context.Background())
	w.boxes[id] = b
}

func (w *world) newEpoch() string { w.epochs++; return fmt.Sprintf("e%d", w.epochs) }

// happen lets something happen in a running sandbox.
func (w *world) happen(id soulbox.SandboxID, events ...soulbox.GuestEvent) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.boxes[id]
	if !b.on {
		return
	}
	for _, e := range events {
		e.Seq, e.At = b.tape.head()+1, time.Now()
		b.tape.events = append(b.tape.events, e)
	}
	b.poke()
}

func (b *box) poke() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func say(text string) soulbox.GuestEvent {
	return soulbox.GuestEvent{Kind: soulbox.EventOutput, PID: 7, Stream: "stdout", Data: []byte(text)}
}

// move puts a sandbox in a state as the fleet does: what runs ends first.
func (w *world) move(id soulbox.SandboxID, to soulbox.State, change func(*box)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.boxes[id]
	sb := b.sb.Clone()
	sb.State = to
	b.sb = sb
	if change != nil {
		change(b)
	}
	w.tell(b.sb)
}

// Get implements what a registry needs of the fleet.
func (w *world) Get(_ context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.boxes[id]
	if b == nil || b.sb.Team != team {
		return nil, soulbox.Errorf(soulbox.NotFound, "Sandbox %q doesn't exist or you don't have access to it", id)
	}
	return b.sb, nil
}

func (w *world) Extend(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) (*soulbox.Sandbox, error) {
	if d > time.Hour {
		return nil, soulbox.Errorf(soulbox.Invalid, "too long")
	}
	if _, err := w.Get(ctx, team, id); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.boxes[id]
	b.extended++
	sb := b.sb.Clone()
	sb.ExpiresAt = time.Now().Add(d)
	b.sb = sb
	return sb, nil
}

func (w *world) Pause(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, memory bool) error {
	sb, err := w.Get(ctx, team, id)
	if err != nil {
		return err
	}
	if sb.State != soulbox.Running {
		return soulbox.Errorf(soulbox.Conflict, "sandbox %s is %s", id, sb.State)
	}
	w.mu.Lock()
	w.snaps++
	snap := soulbox.SnapshotID(fmt.Sprintf("s%020d", w.snaps))
	w.mu.Unlock()
	w.move(id, soulbox.Pausing, func(b *box) {
		b.sb.Pause = &soulbox.Pause{Snapshot: snap, Memory: memory}
		b.end()
		b.kept = b.tape.clone()
	})
	w.move(id, soulbox.Paused, nil)
	return nil
}

// run makes a sandbox run again with a record.
func (w *world) run(id soulbox.SandboxID, t tape) {
	w.move(id, soulbox.Resuming, nil)
	w.mu.Lock()
	b := w.boxes[id]
	b.tape = t.clone()
	b.tape.epochs = append(b.tape.epochs, soulbox.GuestEpoch{ID: w.newEpoch(), From: b.tape.head() + 1})
	b.life, b.end = context.WithCancel(context.Background())
	w.mu.Unlock()
	w.move(id, soulbox.Running, func(b *box) { b.sb.Pause = nil })
}

func (w *world) Connect(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, _ time.Duration, _ bool) (*soulbox.Sandbox, bool, error) {
	sb, err := w.Get(ctx, team, id)
	if err != nil {
		return nil, false, err
	}
	if sb.State != soulbox.Paused {
		return sb, false, nil
	}
	w.mu.Lock()
	kept := w.boxes[id].kept
	w.mu.Unlock()
	w.run(id, kept)
	sb, err = w.Get(ctx, team, id)
	return sb, true, err
}

func (w *world) Kill(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, by soulbox.Ender, reason string) error {
	if _, err := w.Get(ctx, team, id); err != nil {
		return err
	}
	w.move(id, soulbox.Ending, func(b *box) {
		b.sb.End = &soulbox.End{At: time.Now(), By: by, Reason: reason}
		b.end()
	})
	return nil
}

func (w *world) Checkpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, name string) (*soulbox.Snapshot, error) {
	if _, err := w.Get(ctx, team, id); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.failing[id]; err != nil {
		return nil, err
	}
	b := w.boxes[id]
	w.snaps++
	snap := soulbox.SnapshotID(fmt.Sprintf("s%020d", w.snaps))
	b.saves[snap], b.names[snap], b.made[snap] = b.tape.clone(), name, time.Now()
	b.order = append(b.order, snap)
	return &soulbox.Snapshot{ID: snap, Sandbox: id, Name: name, CreatedAt: b.made[snap]}, nil
}

func (w *world) Checkpoints(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) ([]*soulbox.Snapshot, error) {
	if _, err := w.Get(ctx, team, id); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.boxes[id]
	var all []*soulbox.Snapshot
	for _, snap := range b.order {
		if _, ok := b.saves[snap]; ok {
			all = append(all, &soulbox.Snapshot{ID: snap, Sandbox: id, Name: b.names[snap], CreatedAt: b.made[snap]})
		}
	}
	return all, nil
}

func (w *world) RemoveCheckpoint(_ context.Context, _ soulbox.TeamID, id soulbox.SandboxID, snap soulbox.SnapshotID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.boxes[id].saves, snap)
	return nil
}

func (w *world) Rollback(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, snap soulbox.SnapshotID) (*soulbox.Sandbox, error) {
	if _, err := w.Get(ctx, team, id); err != nil {
		return nil, err
	}
	w.mu.Lock()
	b := w.boxes[id]
	saved, ok := b.saves[snap]
	err := w.failing[id]
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, soulbox.Errorf(soulbox.NotFound, "checkpoint '%s' not found", snap)
	}
	w.move(id, soulbox.Resuming, func(b *box) {
		b.sb.Pause = &soulbox.Pause{Snapshot: snap}
		b.sb.From = snap
		b.end()
	})
	w.run(id, saved)
	return w.Get(ctx, team, id)
}

// running returns a box that an agent answers in.
func (w *world) running(id soulbox.SandboxID) (*box, error) {
	b := w.boxes[id]
	if b == nil || b.sb.State != soulbox.Running {
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s does not run on this node", id)
	}
	return b, nil
}

func (w *world) Record(_ context.Context, id soulbox.SandboxID, paths []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.running(id)
	if err != nil {
		return err
	}
	if slices.Contains(paths, "/missing") && !b.has {
		return soulbox.Errorf(soulbox.Invalid, "/missing cannot be watched: it is not there")
	}
	if !b.on {
		b.on = true
		b.tape.epochs = append(b.tape.epochs, soulbox.GuestEpoch{ID: w.newEpoch(), From: b.tape.head() + 1})
	}
	b.paths = paths
	return nil
}

func (w *world) Position(_ context.Context, id soulbox.SandboxID) (soulbox.GuestPosition, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.running(id)
	if err != nil {
		return soulbox.GuestPosition{}, err
	}
	return soulbox.GuestPosition{Epochs: slices.Clone(b.tape.epochs), Head: b.tape.head(), Tail: b.tape.tail}, nil
}

func (w *world) Follow(ctx context.Context, id soulbox.SandboxID, after uint64, fn func(soulbox.GuestEvent) error) error {
	w.mu.Lock()
	b, err := w.running(id)
	if err != nil {
		w.mu.Unlock()
		return err
	}
	life := b.life
	w.mu.Unlock()
	for {
		w.mu.Lock()
		changed, over := b.changed, life.Err() != nil
		var fresh []soulbox.GuestEvent
		if !over && after+1 < b.tape.tail {
			lost := b.tape.tail - 1 - after
			fresh = append(fresh, soulbox.GuestEvent{Kind: soulbox.EventGap, Seq: b.tape.tail - 1, Lost: lost})
			after = b.tape.tail - 1
		}
		if !over && after < b.tape.head() {
			fresh = append(fresh, b.tape.events[after:]...)
		}
		w.mu.Unlock()
		if over {
			return io.ErrUnexpectedEOF
		}
		for _, e := range fresh {
			if err := fn(e); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(fresh) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-life.Done():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *world) Observe(_ context.Context, id soulbox.SandboxID) (soulbox.GuestState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := w.running(id)
	if err != nil {
		return soulbox.GuestState{}, err
	}
	return b.state, nil
}

// Dial connects to an agent that starts programs which say their command.
func (w *world) Dial(_ context.Context, id soulbox.SandboxID, _ uint16) (net.Conn, error) {
	ours, theirs := net.Pipe()
	lis := &once{conn: theirs, done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.Handle("POST /process.Process/Start", connectjson.ServerStream(func(_ context.Context, _ http.Header, q *startRequest, out *connectjson.Sender[startResponse]) error {
		if q.Process.Cmd == "missing" {
			return connectjson.Errorf(connectjson.InvalidArgument, "no such program")
		}
		w.happen(id, soulbox.GuestEvent{Kind: soulbox.EventStarted, PID: 42, Command: strings.Join(append([]string{q.Process.Cmd}, q.Process.Args...), " ")})
		var r startResponse
		r.Event.Start.PID = 42
		return out.Send(&r)
	}))
	go func() { _ = (&http.Server{Handler: mux}).Serve(lis) }()
	return ours, nil
}

type startRequest struct {
	Process struct {
		Cmd  string   `json:"cmd"`
		Args []string `json:"args"`
	} `json:"process"`
}

type startResponse struct {
	Event struct {
		Start struct {
			PID int `json:"pid"`
		} `json:"start"`
	} `json:"event"`
}

// once is a listener with one connection.
type once struct {
	conn net.Conn
	done chan struct{}
	mu   sync.Mutex
}

func (o *once) Accept() (net.Conn, error) {
	o.mu.Lock()
	c := o.conn
	o.conn = nil
	o.mu.Unlock()
	if c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.UnixAddr{Name: "agent"} }

// Latest tells what a sandbox uses: nothing, unless a test says otherwise.
func (w *world) Latest(id soulbox.SandboxID) (soulbox.Usage, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.usage[id]
	u.At = time.Now()
	return u, true
}

func (w *world) Traffic(id soulbox.SandboxID) (open int, last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open[id], time.Time{}
}

func (w *world) state(id soulbox.SandboxID) soulbox.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.boxes[id].sb.State
}

// eventually waits for something that has to become true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come true that %s", what)
		}
	}
}
