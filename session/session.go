// Package session keeps what somebody works in who comes and goes: a group of
// sandboxes, a log of what happened in them, and notes of the client's own.
//
// # The log
//
// Everything that happens in a session gets an id, 1, 2, 3…, and is kept in a
// ring on disk (see eventlog). What the sandboxes' agents recorded is copied
// there by one goroutine for each sandbox; each event is stored together with
// its place in the agent's record, so that after a crash the copy goes on
// behind the last event that was stored: none is missing and none comes twice.
// When a sandbox was taken back to an earlier moment, its record was too. The
// chain of epochs tells how far, and the log says so in an event.
//
// # Presence
//
// A client shows that it is there by heartbeats. While it is, the timeouts of
// its sandboxes are put off. When it is not heard of any more, they are paused
// or killed, if the session says so, and only once they are idle: no traffic
// for them and no work in them. The time in which the server did not run counts
// for nobody's absence.
//
// # After a crash
//
// The row of a session is written before its log, and deleted after it. A row
// that says who is in a session is written before the event; what the log lacks
// is added when it is opened: that a sandbox joined, was paused, resumed or
// ended, or that the session did. The draft of a checkpoint of all sandboxes is
// a row before the first of them is written down; [Registry.Start] removes what
// came of one that was not finished.
//
// Tests can kill the process at these steps (see internal/fault):
//
//	session/recorded    its row is there, and no log
//	session/joined      a member's row is there; the log does not know
//	session/left        the row says that it left; the log does not
//	session/stored      events of a sandbox's record were stored
//	session/drafted     a checkpoint's draft is recorded; nothing is written
//	session/saved       all sandboxes are written down; the row does not say so
//	session/rolledback  the sandboxes are back; the variables are not
//	session/ended       the row says that it ended; the log does not
//
// # Locks
//
//	live.changing  one change of members, checkpoint or resume at a time; held
//	               over anything
//	  live.mu      orders the changes of one session's row: look, write the
//	               record, show the result. Held over the store only.
//	Registry.opening  over the opening of a log
//	  Registry.mu  the tables; nothing slow happens under it
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/session/eventlog"
)

// records is the part of the store that sessions need.
type records interface {
	Team(ctx context.Context, id soulbox.TeamID) (*soulbox.Team, error)

	InsertSession(ctx context.Context, s *soulbox.Session) error
	// UpdateSession writes what a client can change, and the last heartbeat.
	UpdateSession(ctx context.Context, s *soulbox.Session) error
	BeatSession(ctx context.Context, id soulbox.SessionID, at time.Time) error
	// EndSession ends an open session and the time of all its members in it.
	EndSession(ctx context.Context, id soulbox.SessionID, end soulbox.End) error
	Session(ctx context.Context, id soulbox.SessionID) (*soulbox.Session, error)
	Sessions(ctx context.Context, f soulbox.SessionFilter) (soulbox.SessionPage, error)
	OpenSessions(ctx context.Context) ([]*soulbox.Session, error)
	SessionsEndedBefore(ctx context.Context, t time.Time, limit int) ([]soulbox.SessionID, error)
	DeleteSession(ctx context.Context, id soulbox.SessionID) error

	// JoinSession is a Conflict when the sandbox is in a session already.
	JoinSession(ctx context.Context, id soulbox.SessionID, sandbox soulbox.SandboxID, at time.Time) error
	LeaveSession(ctx context.Context, id soulbox.SessionID, sandbox soulbox.SandboxID, at time.Time) error

	InsertSessionSave(ctx context.Context, save *soulbox.SessionSave) error
	FinishSessionSave(ctx context.Context, save *soulbox.SessionSave) error
	SessionSaves(ctx context.Context, id soulbox.SessionID) ([]*soulbox.SessionSave, error)
	UnreadySessionSaves(ctx context.Context) ([]*soulbox.SessionSave, error)
	DeleteSessionSave(ctx context.Context, id soulbox.SessionCheckpointID) error
}

// fleet has the sandboxes.
type fleet interface {
	Get(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error)
	Extend(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration) (*soulbox.Sandbox, error)
	Connect(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, d time.Duration, cold bool) (sb *soulbox.Sandbox, resumed bool, err error)
	Pause(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, memory bool) error
	Kill(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, by soulbox.Ender, reason string) error

	Checkpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, name string) (*soulbox.Snapshot, error)
	Checkpoints(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) ([]*soulbox.Snapshot, error)
	RemoveCheckpoint(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, snap soulbox.SnapshotID) error
	Rollback(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, snap soulbox.SnapshotID) (*soulbox.Sandbox, error)
}

// guests are the agents in sandboxes that run. What they tell is bounded and
// not to be trusted.
type guests interface {
	// Record switches the record of a sandbox on; paths are the folders to be
	// watched, instead of those before.
	Record(ctx context.Context, id soulbox.SandboxID, paths []string) error
	Position(ctx context.Context, id soulbox.SandboxID) (soulbox.GuestPosition, error)
	// Follow calls fn with every event after one, in order, until ctx ends, fn
	// fails or the connection breaks.
	Follow(ctx context.Context, id soulbox.SandboxID, after uint64, fn func(soulbox.GuestEvent) error) error
	Observe(ctx context.Context, id soulbox.SandboxID) (soulbox.GuestState, error)
	// Dial connects to a port of a sandbox.
	Dial(ctx context.Context, id soulbox.SandboxID, port uint16) (net.Conn, error)
}

// meter knows how busy sandboxes are.
type meter interface {
	Latest(id soulbox.SandboxID) (soulbox.Usage, bool)
}

// traffic knows who calls them.
type traffic interface {
	// Traffic tells how many requests for a sandbox are under way, and when
	// the last one began or ended; zero is not since it runs.
	Traffic(id soulbox.SandboxID) (open int, last time.Time)
}

// Options is what a registry is made of.
type Options struct {
	Log     *slog.Logger
	Dir     string // where the logs are
	Store   records
	Fleet   fleet
	Guests  guests
	Meter   meter
	Traffic traffic

	Faults *fault.Points // nil: none

	LogSize   soulbox.Bytes // of one session's log on disk; zero is 64 MiB
	Tick      time.Duration // how often presence and expiry are looked at; zero is 5 seconds
	Quiet     time.Duration // how long a sandbox does nothing before it counts as idle; zero is 15 seconds
	Retention time.Duration // how long ended sessions are remembered; zero is 7 days
}

const (
	defaultTick      = 5 * time.Second
	defaultQuiet     = 15 * time.Second // three measurements
	defaultRetention = 7 * 24 * time.Hour

	recordTimeout = 10 * time.Second // for one record, whoever waits for it
	guestTimeout  = 10 * time.Second // for one question to an agent
	pruneEvery    = time.Hour
	pruneBatch    = 100
)

// A Registry has the sessions of one server. All methods are safe for
// concurrent use. Sessions that it returns are shared: nobody may change them.
//
// Its goroutines, all ended by Close, which waits for them: one that prunes,
// one for each open session, one for each sandbox in one, and those that pause
// or kill an idle sandbox.
type Registry struct {
	opts Options
	log  *slog.Logger

	life   context.Context    //nolint:containedctx // until Close; everything ends with it
	cancel context.CancelFunc // of life
	hangup chan struct{}      // closed by Disconnect
	once   sync.Once          // of Disconnect
	wg     sync.WaitGroup

	opening sync.Mutex // one log at a time is opened

	mu      sync.Mutex
	phase   phase                          // +checklocks:mu
	since   time.Time                      // when Start was called: absence before does not count; +checklocks:mu
	open    map[soulbox.SessionID]*live    // +checklocks:mu
	members map[soulbox.SandboxID]*member  // of open sessions; +checklocks:mu
	shelf   map[soulbox.SessionID]*shelved // logs of ended sessions that somebody reads; +checklocks:mu
}

type phase uint8

const (
	unopened phase = iota
	opened
	closed
)

// New returns a registry that refuses everything until Start.
func New(o Options) *Registry {
	if o.Tick <= 0 {
		o.Tick = defaultTick
	}
	if o.Quiet <= 0 {
		o.Quiet = defaultQuiet
	}
	if o.Retention <= 0 {
		o.Retention = defaultRetention
	}
	life, cancel := context.WithCancel(context.Background())
	return &Registry{
		opts: o, log: o.Log, life: life, cancel: cancel, hangup: make(chan struct{}),
		open: map[soulbox.SessionID]*live{}, members: map[soulbox.SandboxID]*member{}, shelf: map[soulbox.SessionID]*shelved{},
	}
}

// Start finds the open sessions again and goes on with them. It is called once,
// when the fleet has started.
func (r *Registry) Start(ctx context.Context) error {
	r.mu.Lock()
	if r.phase != unopened {
		r.mu.Unlock()
		return errors.New("start sessions: they were started or closed before")
	}
	r.phase, r.since = opened, now()
	r.mu.Unlock()
	if err := os.MkdirAll(r.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("start sessions: %w", err)
	}
	if err := r.undoSaves(ctx); err != nil {
		return fmt.Errorf("start sessions: %w", err)
	}
	all, err := r.opts.Store.OpenSessions(ctx)
	if err != nil {
		return fmt.Errorf("start sessions: %w", err)
	}
	for _, s := range all {
		if _, err := r.resume(s); err != nil { // the others are fine
			r.log.ErrorContext(ctx, "session not resumed", "session", s.ID, "err", err)
		}
	}
	r.wg.Go(r.prune)
	if len(all) > 0 {
		r.log.InfoContext(ctx, "sessions resumed", "sessions", len(all))
	}
	return nil
}

// Disconnect ends the streams of events that are open; clients come back to the
// next server. Everything else goes on until Close.
func (r *Registry) Disconnect() { r.once.Do(func() { close(r.hangup) }) }

// Close lets go of the sessions, which stay open. It waits for everything that
// is under way.
func (r *Registry) Close() error {
	r.Disconnect()
	r.mu.Lock()
	if r.phase == closed {
		r.mu.Unlock()
		return nil
	}
	r.phase = closed
	all := make([]*live, 0, len(r.open))
	for _, l := range r.open {
		all = append(all, l)
	}
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	var errs []error
	for _, l := range all {
		l.wg.Wait()
		errs = append(errs, l.log.Close())
	}
	return errors.Join(errs...)
}

// Changed tells that a sandbox is in another state. It takes no time and calls
// nobody; the changes of one sandbox are told in their order.
func (r *Registry) Changed(sb *soulbox.Sandbox) {
	r.mu.Lock()
	m := r.members[sb.ID]
	r.mu.Unlock()
	if m != nil {
		m.tell(sb)
	}
}

// begin lets an operation in that Close waits for. The caller calls r.wg.Done.
func (r *Registry) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.phase {
	case unopened:
		return soulbox.Errorf(soulbox.Unavailable, "the server is starting; try again in a moment")
	case closed:
		return eventlog.ErrClosed
	default:
		r.wg.Add(1)
		return nil
	}
}

// resume goes on with an open session.
func (r *Registry) resume(s *soulbox.Session) (*live, error) {
	r.opening.Lock() // a log is opened once
	defer r.opening.Unlock()
	r.mu.Lock()
	l, running := r.open[s.ID], r.phase == opened
	r.mu.Unlock()
	switch {
	case !running:
		return nil, eventlog.ErrClosed
	case l != nil: // somebody was faster
		return l, nil
	}
	log, err := eventlog.Open(r.dir(s.ID), r.opts.LogSize)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	if r.phase != opened {
		defer r.mu.Unlock()
		return nil, errors.Join(eventlog.ErrClosed, log.Close())
	}
	l = newLive(r, s, log)
	r.open[s.ID] = l
	r.mu.Unlock()
	l.dismiss()
	for _, id := range s.Present() {
		l.follow(id)
	}
	l.wg.Go(l.watch)
	return l, nil
}

func (r *Registry) dir(id soulbox.SessionID) string { return filepath.Join(r.opts.Dir, string(id)) }

// get returns an open session of a team.
func (r *Registry) get(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID) (*live, error) {
	if !id.Valid() {
		return nil, missing(id)
	}
	r.mu.Lock()
	l := r.open[id]
	r.mu.Unlock()
	if l != nil {
		if l.session().Team != team {
			return nil, missing(id)
		}
		return l, nil
	}
	s, err := r.Get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	if s.End != nil {
		return nil, soulbox.Errorf(soulbox.Conflict, "session %s was %v", id, *s.End)
	}
	return r.resume(s) // it could not be when the server started
}

func missing(id soulbox.SessionID) error {
	return soulbox.Errorf(soulbox.NotFound, "session %.64q does not exist, or you have no access to it", string(id))
}

// now is the time with the precision of the store.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// detached returns a context for a record: its writing is not given up when
// the request that caused it is.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
}
