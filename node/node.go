// Package node runs sandboxes on one machine, and lends places to programs that
// are not sandboxes (see [Cell]).
//
// It composes the rooms below it: a root image (rootfs), a network namespace
// (netns), limits (cgroup), a runtime (driver), the agent inside (guest), what
// the agent tells (journal), and sandboxes that were written down (snapshot). Who owns a sandbox, until when it runs and
// what it is for is decided above; the node only knows ids.
//
// # Folders
//
//	sandboxes/<id>/record.json   what is needed to find or remove the sandbox
//	sandboxes/<id>/frozen        there while it certainly is
//	sandboxes/<id>/…             the driver's files
//	journals/<id>/               what the agent told; stays until Forget
//	snapshots/<id>/              sandboxes at one moment; see snapshot
//
// # Crashes
//
// A sandbox's record is written before anything else of it exists and removed
// after everything else is gone. [Open] reads the records: what still runs is
// adopted, and for the rest [Node.Exits] reports an honest end and the
// leftovers are removed. Namespaces, cgroups and folders without a record are
// removed as well, with the programs in them. The steps at which tests kill the
// server are node/leased, node/recorded, node/grouped, node/started, node/initialised,
// and node/destroyed; of a snapshot node/held, node/frozen, snapshot/saved,
// snapshot/synced, node/written and node/thawed, and of its removal
// snapshot/hidden; of a warm sandbox node/warm and node/claimed; of one that is
// made to be compared node/opened; of one that a template is baked in
// bake/booted, bake/started, bake/ready, bake/frozen, snapshot/saved,
// snapshot/synced and bake/written; of a cell cell/leased and cell/grouped.
//
// # Baked templates
//
// [Node.Bake] runs a template's start command in a sandbox that belongs to
// nobody, and writes that down with its memory. A template that has such a
// snapshot does not boot: its sandboxes are restored, those that are made ahead
// as well. Whose the snapshot is, and when it goes, is decided above.
//
// # Held sandboxes
//
// A sandbox that is written down to be paused is frozen first and stays so
// until Destroy: what it did after that moment would be lost. The record says
// so before. An adopted sandbox with such a record may be frozen or not, and
// unfreezing one that is not would end it. A file beside the record says that it
// certainly is; without one, [Node.Thaw] asks its agent, which takes some seconds
// if it is after all.
//
// # Goroutines
//
// Per sandbox: follow reads the agent's log, watch waits for the runtime to
// end. Both end with the sandbox or with [Node.Close]. Besides, one goroutine
// per teardown under way, and one per end that was found by Open and that
// nobody has heard of yet. Close waits for all.
//
// # Locks
//
// Node.mu guards the tables and is never held over I/O. Each sandbox's own
// fields are written once, before it enters the table, except for what its
// small mutex guards.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/node/cgroup"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/journal"
	"github.com/soulbox/soulbox/node/netns"
	"github.com/soulbox/soulbox/node/pool"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/node/snapshot"
)

// Options say what a node is made of.
type Options struct {
	Log           *slog.Logger
	ID            soulbox.NodeID
	Dir           string          // the node's part of the data folder
	Instance      string          // a short name that keeps two installations on one machine apart
	Driver        driver.Driver   // of sandboxes that ask for no isolation
	Others        []driver.Driver // of those that ask for another
	Images        *rootfs.Store
	Seed          soulbox.TokenSeed
	Prefix        netip.Prefix            // of the sandboxes' addresses; the zero value chooses
	Resolver      netip.Addr              // for the sandboxes; the zero value is the host's
	Ready         int                     // network namespaces prepared ahead
	MinFree       soulbox.Bytes           // below this much free disk no sandbox is made
	SnapshotBound soulbox.Bytes           // what snapshots may take of the disk, pauses not refused; 0: no bound
	Gone          func(soulbox.SandboxID) // called once a sandbox cannot answer any more; nil: nobody asks
	Faults        *fault.Points           // nil: none

	WarmMemory soulbox.Bytes // what sandboxes that wait for somebody may take of the machine's memory; 0: none wait
	WarmFloor  soulbox.Bytes // with less than this free, none wait
}

// A Node is this machine. All methods are safe for concurrent use.
type Node struct {
	Options

	bootID    string
	net       *netns.Network
	cgroups   *cgroup.Parent
	moves     io.Closer // nil when the kernel takes its time over them
	snapshots *snapshot.Store
	pool      *pool.Pool
	diffs     chan struct{} // full while as many comparisons go on as may
	exits     chan soulbox.Exit
	stop      context.CancelFunc
	ctx       context.Context //nolint:containedctx // the life of the node, which its goroutines share
	work      sync.WaitGroup

	mu      sync.Mutex
	table   map[soulbox.SandboxID]*sandbox
	slots   map[soulbox.SandboxID]netns.Slot    // of those in the table and those that leave
	warm    map[soulbox.SandboxID]*fresh        // made ahead, nobody's yet
	leaving map[soulbox.SandboxID]chan struct{} // closed when nothing is left of it
	cells   map[*Cell]struct{}                  // those that are open
}

// ID returns the node's name.
func (n *Node) ID() soulbox.NodeID { return n.Options.ID }

// Capabilities tells what sandboxes of the usual driver can do.
func (n *Node) Capabilities() driver.Capabilities { return n.Driver.Capabilities() }

// drivers returns all of them, the usual one first.
func (o *Options) drivers() []driver.Driver { return append([]driver.Driver{o.Driver}, o.Others...) }

// driver returns the one for an isolation; empty stands for the usual one.
func (n *Node) driver(class soulbox.Isolation) (driver.Driver, error) {
	for _, d := range n.drivers() {
		if class == "" || d.Capabilities().Isolation == string(class) {
			return d, nil
		}
	}
	return nil, soulbox.Errorf(soulbox.Unavailable, "this machine has no sandboxes of isolation %q", class)
}

// end ends a sandbox, whichever driver it belongs to: its record may be torn.
func (n *Node) end(ctx context.Context, id soulbox.SandboxID, dir string) error {
	return destroyWith(ctx, n.drivers(), id, dir)
}

func destroyWith(ctx context.Context, all []driver.Driver, id soulbox.SandboxID, dir string) error {
	for _, d := range all {
		if err := d.Destroy(ctx, id, dir); err != nil {
			return err
		}
	}
	return nil
}

// Exits reports sandboxes that ended without Destroy. Somebody must read it.
func (n *Node) Exits() <-chan soulbox.Exit { return n.exits }

// Sandboxes returns the ids of those that run.
func (n *Node) Sandboxes() []soulbox.SandboxID {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := make([]soulbox.SandboxID, 0, len(n.table))
	for id := range n.table {
		ids = append(ids, id)
	}
	return ids
}

func (n *Node) find(id soulbox.SandboxID) (*sandbox, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, ok := n.table[id]
	if !ok {
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s does not run on this node", id)
	}
	return s, nil
}

// Dial opens a connection to a port of a sandbox. It is
// syscall.ECONNREFUSED when no program listens there, neither on the sandbox's
// address nor on its loopback.
func (n *Node) Dial(ctx context.Context, id soulbox.SandboxID, port uint16) (net.Conn, error) {
	s, err := n.find(id)
	if err != nil {
		return nil, err
	}
	conn, err := s.instance.Dial(ctx, port)
	if port != guest.Port && errors.Is(err, syscall.ECONNREFUSED) {
		conn, err = s.agent.Tunnel(ctx, port)
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", id, err)
	}
	return conn, nil
}

// SetNetwork changes what a sandbox may reach, at once and also for
// connections that are open.
func (n *Node) SetNetwork(ctx context.Context, id soulbox.SandboxID, want soulbox.Network) error {
	s, err := n.find(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stays(); err != nil {
		return err
	}
	r := s.record
	r.Internet = want.Internet
	if err := r.save(s.dir); err != nil {
		return fmt.Errorf("record the network of %s: %w", id, err)
	}
	s.record.Internet = want.Internet
	if err := n.net.SetInternet(ctx, s.record.Slot, want.Internet); err != nil {
		return fmt.Errorf("change the network of %s: %w", id, err)
	}
	return nil
}

// Sample measures every sandbox.
func (n *Node) Sample(ctx context.Context) (map[soulbox.SandboxID]soulbox.Usage, error) {
	n.mu.Lock()
	all := make([]*sandbox, 0, len(n.table))
	for _, s := range n.table {
		all = append(all, s)
	}
	n.mu.Unlock()
	samples := make(map[soulbox.SandboxID]soulbox.Usage, len(all))
	var errs []error
	for _, s := range all {
		u, err := s.sample(time.Now())
		if err != nil {
			select {
			case <-s.instance.Done(): // its numbers went with it
			default:
				errs = append(errs, err)
			}
			continue
		}
		samples[s.record.ID] = u
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return samples, errors.Join(errs...)
}

// Logs returns what a sandbox's agent told, also after the sandbox has ended.
func (n *Node) Logs(_ context.Context, id soulbox.SandboxID, q soulbox.LogQuery) ([]soulbox.LogEntry, error) {
	if !id.Valid() {
		return nil, soulbox.Errorf(soulbox.Invalid, "%q is not the id of a sandbox", id)
	}
	if s, err := n.find(id); err == nil {
		return s.journal.Query(q)
	}
	j, err := journal.Open(n.journalDir(id))
	if err != nil {
		return nil, err
	}
	return j.Query(q)
}

// Forget removes what is kept of a sandbox that has ended.
func (n *Node) Forget(_ context.Context, id soulbox.SandboxID) error {
	if !id.Valid() {
		return soulbox.Errorf(soulbox.Invalid, "%q is not the id of a sandbox", id)
	}
	if _, err := n.find(id); err == nil {
		return soulbox.Errorf(soulbox.Conflict, "sandbox %s runs", id)
	}
	return os.RemoveAll(n.journalDir(id))
}

// Close lets go of the sandboxes without ending them, except for those that
// nobody has. What is left of cells ends.
func (n *Node) Close() error {
	n.pool.Close()
	n.stop()
	n.work.Wait()
	n.slowMoves()
	errs := []error{n.closeCells()}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.table {
		errs = append(errs, s.close())
	}
	return errors.Join(append(errs, n.net.Close())...)
}

// slowMoves lets the kernel be as it was.
func (n *Node) slowMoves() {
	if n.moves != nil {
		n.moves.Close() // there is nothing to write
	}
}

func (n *Node) sandboxDir(id soulbox.SandboxID) string {
	return filepath.Join(n.Dir, "sandboxes", string(id))
}

func (n *Node) journalDir(id soulbox.SandboxID) string {
	return filepath.Join(n.Dir, "journals", string(id))
}
