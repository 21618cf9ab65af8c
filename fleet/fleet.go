// Package fleet decides where, and until when, each sandbox runs.
//
// # Records before side effects
//
// The store is the truth and is written first; the table in memory is a cache
// of it that the proxy may ask on every request. Every state is recorded
// before the node is told to act on it, so that after kill -9 [Fleet.Start]
// can finish or undo whatever was half done:
//
//	starting   nobody got its id yet: destroyed, and ended by server
//	running    adopted when the node has it; otherwise paused at its newest
//	           checkpoint, or ended by whatever the node tells of it
//	pausing    paused when its snapshot is whole; otherwise let go, and running
//	paused     stays; what the node has of it is destroyed
//	resuming   destroyed, and paused again: its snapshot stays until it runs
//	ending     destroyed again, and ended
//	no record  destroyed
//
// A snapshot has a record before it has files, and says in it that it is ready
// once it is whole. What nobody needs is removed, files first: one that was not
// ready when the server died, the snapshot of a pause that is over, a fork's,
// and what belongs to a sandbox that has ended. A removal that was cut off
// between the files and the record is finished before anybody can ask.
// Snapshots of templates are no affair of the fleet's.
//
// # Going to and fro
//
// Whoever pauses, resumes, rolls back or copies a sandbox has seized it, so
// they do it one after the other. Ending one needs no seizing: the record says
// "ending", the work under way is told to give up, and whoever does it destroys
// the sandbox instead of going on. A step that fails is undone, in the
// background for as long as it takes, and the sandbox is seized until then.
//
// A sandbox that is written down to be paused does nothing more until it is
// destroyed. If it has to run on after all, its snapshot goes first: otherwise
// a crash could take it back to what it was before.
//
// # Steps
//
// Tests can kill the process at these steps (see internal/fault): create/validated,
// create/recorded, create/started (on the node), create/running (recorded);
// and for each way to end, recorded and destroyed: kill/…, expire/…, exit/…
// (the node told us), undo/… (of a creation, a pause or a resume that was
// killed), recover/… (at start).
//
//	pause/recorded     the record of the snapshot, and "pausing"
//	pause/written      the snapshot is whole on the node; the sandbox is held
//	pause/finished     the record of the snapshot says so
//	pause/paused       the record of the sandbox says "paused"; not yet destroyed
//	resume/recorded    "resuming"
//	resume/restored    it runs on the node
//	resume/running     the record says so; the snapshot is not yet removed
//	snapshot/recorded, snapshot/written, snapshot/finished
//	                   of a named snapshot or a checkpoint
//	rollback/verified  nothing is changed yet
//	rollback/recorded  "resuming", from the checkpoint
//	rollback/destroyed the node has nothing of it
//	rollback/restored  it runs again; the record does not say so yet
//	fork/written       the snapshot is ready; no fork is recorded
//	fork/restored      a fork runs on the node; the record says "starting"
//	remove/begun       of any snapshot, by a client or behind: nothing is changed yet
//	remove/deleted     the node has nothing of it; the record is still there
//	remove/forgotten   the record is not
//
// # Locks
//
//	entry.busy    whoever has seized the sandbox; held over anything.
//	  entry.destroying
//	              held over an attempt to destroy it, and nothing else.
//	  entry.mu    orders the changes of one sandbox: look at its state, write
//	              the record, show the result in memory. Held over the store,
//	              and over the node only to change a network; never while a
//	              sandbox is made, written down or destroyed.
//	    Fleet.mu  quotas and the queue of what is due; nothing slow happens
//	              under it.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/fault"
)

// records is the part of the store that the fleet needs.
type records interface {
	Team(ctx context.Context, id soulbox.TeamID) (*soulbox.Team, error)
	TeamBySlug(ctx context.Context, slug string) (*soulbox.Team, error)
	Template(ctx context.Context, id soulbox.TemplateID) (*soulbox.Template, error)
	TemplateByName(ctx context.Context, team soulbox.TeamID, name string) (*soulbox.Template, error)
	BuildAt(ctx context.Context, id soulbox.TemplateID, ref soulbox.TemplateRef) (*soulbox.Build, error)

	InsertSandbox(ctx context.Context, sb *soulbox.Sandbox) error
	MoveSandbox(ctx context.Context, sb *soulbox.Sandbox, from soulbox.State) error
	SetSandboxExpiry(ctx context.Context, id soulbox.SandboxID, at time.Time, timeout time.Duration) error
	SetSandboxNetwork(ctx context.Context, id soulbox.SandboxID, n soulbox.Network) error
	Sandbox(ctx context.Context, id soulbox.SandboxID) (*soulbox.Sandbox, error)
	Sandboxes(ctx context.Context, f soulbox.SandboxFilter) (soulbox.SandboxPage, error)
	UnendedSandboxes(ctx context.Context, since time.Time) ([]*soulbox.Sandbox, error)
	SandboxesEndedBefore(ctx context.Context, t time.Time, limit int) ([]soulbox.SandboxID, error)
	DeleteSandbox(ctx context.Context, id soulbox.SandboxID) error

	InsertSnapshot(ctx context.Context, snap *soulbox.Snapshot) error
	FinishSnapshot(ctx context.Context, id soulbox.SnapshotID, bytes soulbox.Bytes) error
	Snapshot(ctx context.Context, id soulbox.SnapshotID) (*soulbox.Snapshot, error)
	SnapshotByName(ctx context.Context, team soulbox.TeamID, name string) (*soulbox.Snapshot, error)
	Snapshots(ctx context.Context, f soulbox.SnapshotFilter) (soulbox.SnapshotPage, error)
	SnapshotsOf(ctx context.Context, sandbox soulbox.SandboxID) ([]*soulbox.Snapshot, error)
	AllSnapshots(ctx context.Context) ([]*soulbox.Snapshot, error)
	DeleteSnapshot(ctx context.Context, id soulbox.SnapshotID) error

	// TemplateSnapshots returns those that belong to builds of templates, also
	// to builds that are not over. Their files are not the fleet's.
	TemplateSnapshots(ctx context.Context) ([]soulbox.SnapshotID, error)
}

// node is the part of a machine that the fleet needs. All methods are safe
// for concurrent use; sandboxes handed to it must not be changed.
type node interface {
	ID() soulbox.NodeID

	// Reserve returns the id of a sandbox of tpl that waits ready made, if
	// there is one: Create with that id takes next to no time. The caller
	// calls Create or Destroy for it. It does no I/O.
	Reserve(tpl *soulbox.Template) (id soulbox.SandboxID, ok bool)

	// Create returns when the sandbox answers. When it fails, Destroy is
	// called for what may be left.
	Create(ctx context.Context, sb *soulbox.Sandbox, tpl *soulbox.Template) error

	// Destroy returns when the sandbox can no longer run or answer. What is
	// left of it may be removed behind; until that is done, Sandboxes lists
	// it. An unknown sandbox succeeds.
	Destroy(ctx context.Context, id soulbox.SandboxID) error

	// Sandboxes lists everything that runs or left something.
	Sandboxes() []soulbox.SandboxID

	// Exits tells of sandboxes that ended without Destroy. Those that the
	// node found dead when it started wait there already.
	Exits() <-chan soulbox.Exit

	// Snapshot writes a sandbox down, whole or not at all, and returns its
	// size on disk. With hold the sandbox does nothing more when it returns
	// without an error, and waits for Destroy or Thaw; else it runs on.
	Snapshot(ctx context.Context, id soulbox.SandboxID, snap *soulbox.Snapshot, hold bool) (soulbox.Bytes, error)

	// Thaw lets a held sandbox run on. One that is not held succeeds; one that
	// is not there is NotFound.
	Thaw(ctx context.Context, id soulbox.SandboxID) error

	// Restore returns when a sandbox made of snap answers. It waits for the
	// rest of an earlier Destroy of the same id, and leaves the snapshot as it
	// is. When it fails, Destroy is called for what may be left.
	Restore(ctx context.Context, sb *soulbox.Sandbox, snap *soulbox.Snapshot) error

	// Verify reads a snapshot and compares it with its hashes.
	Verify(ctx context.Context, id soulbox.SnapshotID) error

	// Diff tells which files of a sandbox differ in its snapshot b, as against
	// those in a. A nil b is the sandbox as it is now.
	Diff(ctx context.Context, id soulbox.SandboxID, a, b *soulbox.Snapshot) (soulbox.Changes, error)

	// RemoveSnapshot deletes one; who restores it now gets all of it. An
	// unknown one succeeds.
	RemoveSnapshot(ctx context.Context, id soulbox.SnapshotID) error

	// Snapshots lists those that are there, with their sizes on disk; 0 is
	// one that is damaged.
	Snapshots(ctx context.Context) (map[soulbox.SnapshotID]soulbox.Bytes, error)

	SetNetwork(ctx context.Context, id soulbox.SandboxID, n soulbox.Network) error
	Logs(ctx context.Context, id soulbox.SandboxID, q soulbox.LogQuery) ([]soulbox.LogEntry, error)

	// Forget removes the logs of an ended sandbox. An unknown one succeeds.
	Forget(ctx context.Context, id soulbox.SandboxID) error
}

// meter knows what sandboxes used.
type meter interface {
	Latest(id soulbox.SandboxID) (soulbox.Usage, bool)
	Usage(ctx context.Context, id soulbox.SandboxID, from, to time.Time) ([]soulbox.Usage, error)
}

// Options is what a fleet is made of.
type Options struct {
	Log    *slog.Logger
	Store  records
	Node   node
	Meter  meter             // nil: nobody measures, and usage is empty
	Seed   soulbox.TokenSeed // of the access tokens of secure sandboxes
	Faults *fault.Points     // nil: none

	// Allowed are the classes of isolation that sandboxes may be made with
	// besides gVisor, which everybody may have.
	Allowed []soulbox.Isolation

	// Changed is told when a sandbox that has run is in another state, after
	// the record says so, and of one sandbox in the order in which it happens.
	// It must not wait for anything nor call the fleet; nil: nobody asks.
	Changed func(sb *soulbox.Sandbox)

	// Retention is how long ended sandboxes and their logs are remembered;
	// zero is 30 days.
	Retention time.Duration
}

// A Fleet creates, watches, pauses and ends sandboxes. All methods are safe for
// concurrent use. Sandboxes it returns are shared: nobody may change them.
//
// Its goroutines, all ended by Close, which waits for them:
//
//	queue     ends what is due
//	exits     ends what the node says is gone
//	prune     deletes what ended a month ago
//	confirm   once at start: tells the node the networks on record
//	teardown  one for each sandbox that is ending
//
// and one for each sandbox that is being paused, resumed or rolled back, and
// for each snapshot that is being removed.
type Fleet struct {
	opts Options
	log  *slog.Logger

	table sync.Map      // soulbox.SandboxID → *entry
	wake  chan struct{} // the head of the queue has changed
	stop  chan struct{} // closed by Close

	life    context.Context    //nolint:containedctx // until Close; every work of the node ends with it
	cancel  context.CancelFunc // of life
	wg      sync.WaitGroup
	retries atomic.Int64 // what is tried until it succeeds

	mu    sync.Mutex
	phase phase                           // +checklocks:mu
	live  map[soulbox.TeamID]int          // reserved, or active; +checklocks:mu
	queue queue                           // +checklocks:mu
	ended []*entry                        // still in the table, in the order of their end; +checklocks:mu
	going map[soulbox.SnapshotID]struct{} // being removed for a client; +checklocks:mu
}

// phase is where the fleet itself is in its life.
type phase uint8

const (
	unopened phase = iota
	opening
	opened
	closed
)

// An entry is a sandbox in memory: every one that is not ended, and those that
// ended within the last [remember].
type entry struct {
	sb   atomic.Pointer[soulbox.Sandbox] // never changed, only replaced
	gone chan struct{}                   // closed after the first attempt to destroy it
	fail error                           // of that attempt; read after gone

	at    time.Time // when it is due; guarded by Fleet.mu
	index int       // in Fleet.queue, or -1; guarded by Fleet.mu

	busy       chan struct{} // full while somebody has seized it
	destroying sync.Mutex    // held over an attempt of the node to destroy it

	mu       sync.Mutex
	giveUp   context.CancelCauseFunc // ends what the node does with it now, or nil; +checklocks:mu
	resuming *resumption             // under way or waiting for its turn, or nil; +checklocks:mu
	died     *soulbox.End            // what the node told while it was pausing or resuming; +checklocks:mu
	since    time.Time               // when its present life began: what the node tells of earlier is old; +checklocks:mu
}

func newEntry(sb *soulbox.Sandbox) *entry {
	e := &entry{gone: make(chan struct{}), busy: make(chan struct{}, 1), index: -1}
	e.sb.Store(sb)
	return e
}

const (
	remember       = time.Hour        // how long ended sandboxes stay in memory, so that the proxy can say what became of them
	rememberMost   = 10_000           // of them, at less than 1 KiB each
	recordTimeout  = 10 * time.Second // for one record, whoever waits for it
	destroyTimeout = 30 * time.Second // for one attempt; Close waits that long at most
	networkTimeout = 10 * time.Second
	thawTimeout    = time.Minute
	workTimeout    = 10 * time.Minute // for writing a sandbox down, reading it back or making it again
	monthOfRecords = 30 * 24 * time.Hour
)

// New returns a fleet that refuses everything until Start.
func New(opts Options) *Fleet {
	if opts.Retention <= 0 {
		opts.Retention = monthOfRecords
	}
	life, cancel := context.WithCancel(context.Background())
	return &Fleet{
		opts:   opts,
		log:    opts.Log,
		wake:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		life:   life,
		cancel: cancel,
		live:   map[soulbox.TeamID]int{},
		going:  map[soulbox.SnapshotID]struct{}{},
	}
}

// Start brings records and node into agreement and begins to watch both. It
// returns when every live sandbox is known again; what must be destroyed is
// destroyed behind. It is called once.
func (f *Fleet) Start(ctx context.Context) error {
	if !f.advance(unopened, opening) {
		return errors.New("start fleet: it was started or closed before")
	}
	adopted, err := f.reconcile(ctx)
	if err != nil {
		return fmt.Errorf("start fleet: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != opening {
		return errStopping()
	}
	f.phase = opened
	f.wg.Go(func() { f.watchQueue(f.life) })
	f.wg.Go(func() { f.watchExits(f.life) })
	f.wg.Go(func() { f.prune(f.life) })
	f.wg.Go(func() { f.confirmNetworks(f.life, adopted) })
	return nil
}

func (f *Fleet) advance(from, to phase) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != from {
		return false
	}
	f.phase = to
	return true
}

// Close stops watching and waits for what is under way: creations, pauses and
// resumes are undone, attempts to destroy are finished. Sandboxes that run live
// on.
func (f *Fleet) Close() error {
	f.mu.Lock()
	if f.phase == closed {
		f.mu.Unlock()
		return nil
	}
	f.phase = closed
	close(f.stop)
	f.cancel()
	f.mu.Unlock()

	f.table.Range(func(_, v any) bool {
		e := v.(*entry) //nolint:errcheck // the table holds nothing else
		e.mu.Lock()
		giveUp := e.giveUp
		e.mu.Unlock()
		if giveUp != nil {
			giveUp(errStopping())
		}
		return true
	})
	f.wg.Wait()
	return nil
}

func errStopping() error {
	return soulbox.Errorf(soulbox.Unavailable, "the server is stopping; try again in a moment")
}

// begin lets an operation in that Close waits for. The caller calls f.wg.Done.
func (f *Fleet) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.phase {
	case unopened, opening:
		return soulbox.Errorf(soulbox.Unavailable, "the server is starting; try again in a moment")
	case closed:
		return errStopping()
	default:
		f.wg.Add(1)
		return nil
	}
}

// Find returns a sandbox from memory: one that is not ended, or ended within
// the last hour. It takes no lock and does no I/O.
func (f *Fleet) Find(id soulbox.SandboxID) (*soulbox.Sandbox, bool) {
	e, ok := f.entry(id)
	if !ok {
		return nil, false
	}
	return e.sb.Load(), true
}

// All calls yield for every live sandbox, in no order, until it returns false.
// It takes no lock and does no I/O.
func (f *Fleet) All(yield func(*soulbox.Sandbox) bool) {
	f.table.Range(func(_, v any) bool {
		sb := v.(*entry).sb.Load() //nolint:errcheck // the table holds nothing else
		return !sb.State.Live() || yield(sb)
	})
}

func (f *Fleet) entry(id soulbox.SandboxID) (*entry, bool) {
	v, ok := f.table.Load(id)
	if !ok {
		return nil, false
	}
	return v.(*entry), true //nolint:errcheck // the table holds nothing else
}

// lend gives sb the tokens that are never stored.
func (f *Fleet) lend(sb *soulbox.Sandbox) *soulbox.Sandbox {
	if sb.Secure {
		sb.Token = f.opts.Seed.AgentToken(sb.ID)
	}
	if sb.Network.Private {
		sb.Traffic = f.opts.Seed.TrafficToken(sb.ID)
	}
	return sb
}

// seize makes the caller the only one who lets the node pause, make or copy the
// sandbox, until it calls leave.
func (f *Fleet) seize(ctx context.Context, e *entry) error {
	select {
	case e.busy <- struct{}{}:
		return nil
	case <-e.gone:
		sb := e.sb.Load()
		return missing(sb.ID, sb)
	case <-f.stop:
		return errStopping()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *entry) leave() { <-e.busy }

// carry seizes a sandbox and lets do work on it to the end, even when nobody
// waits for it any more. It returns what do tells, which may have to tidy up
// after that.
func (f *Fleet) carry(ctx context.Context, e *entry, do func(ctx context.Context, tell func(error))) error {
	if err := f.seize(ctx, e); err != nil {
		return err
	}
	told := make(chan error, 1)
	f.wg.Go(func() {
		defer e.leave()
		do(context.WithoutCancel(ctx), func(err error) { told <- err })
	})
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until returns a context for work of the node that is given up with ctx, when
// the fleet closes, or by calling giveUp, which must be called in any case.
func (f *Fleet) until(ctx context.Context) (work context.Context, giveUp context.CancelCauseFunc) {
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	work, cause := context.WithCancelCause(ctx)
	forget := context.AfterFunc(f.life, func() { cause(errStopping()) })
	return work, func(why error) {
		forget()
		cause(why)
		cancel()
	}
}

// over ends the time in which the sandbox could not be destroyed because the
// node was busy with it. It reports whether somebody ended it meanwhile, who
// then left the destroying to us.
func (f *Fleet) over(ctx context.Context, e *entry) bool {
	e.mu.Lock()
	e.giveUp = nil
	live := e.sb.Load().State.Live()
	e.mu.Unlock()
	if !live {
		f.wg.Go(func() { f.teardown(ctx, e, undone) })
	}
	return !live
}

// show lets everybody see what is on record, with e.mu held. A sandbox that is
// not active any more goes out of its team's quota.
func (f *Fleet) show(e *entry, sb *soulbox.Sandbox) {
	if e.sb.Swap(sb).State.Active() && !sb.State.Active() {
		f.release(sb.Team)
	}
	if f.opts.Changed != nil {
		f.opts.Changed(sb)
	}
}

// now is the time with the precision of the store, so that records and memory
// never differ.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// detached returns a context for a record: its writing is not given up when
// the request that caused it is.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
}
