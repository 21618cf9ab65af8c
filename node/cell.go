package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/cgroup"
	"github.com/soulbox/soulbox/node/netns"
)

// closeTimeout bounds how long the programs of a cell may take to end once they
// are killed: one that the disk holds up takes as long as the disk does.
const closeTimeout = 30 * time.Second

// A Cell is a place for programs that are not a sandbox, such as the steps of a
// build: a network with the rules of the sandboxes' networks, and limits. What
// runs in it is somebody else's to start. A cell has no record and does not
// outlive the server: the next Open ends and removes what it finds.
//
// All methods are safe for concurrent use.
type Cell struct {
	node  *Node
	lease *netns.Lease
	group *cgroup.Group
	size  soulbox.Size

	mu     sync.Mutex // also: nobody is added while it closes
	closed bool       // +checklocks:mu
}

// OpenCell makes a cell with the limits of size, of which the disk is not
// looked after. Without internet, programs in it reach nothing at all.
func (n *Node) OpenCell(ctx context.Context, size soulbox.Size, internet bool) (_ *Cell, err error) {
	if size.CPUs <= 0 || size.Memory <= 0 || size.PIDs <= 0 {
		return nil, soulbox.Errorf(soulbox.Invalid, "a cell needs limits: %d CPUs, %d bytes of memory and %d processes are none", size.CPUs, size.Memory, size.PIDs)
	}
	lease, err := n.net.Take(ctx)
	if err != nil {
		return nil, fmt.Errorf("open cell: %w", err)
	}
	defer func() {
		if err != nil {
			n.net.Release(lease.Slot)
		}
	}()
	n.Faults.Reach("cell/leased")
	if !internet {
		if err := n.net.SetInternet(ctx, lease.Slot, false); err != nil {
			return nil, fmt.Errorf("open cell: %w", err)
		}
	}
	group, err := n.cgroups.Create(soulbox.NewSandboxID(), size) // the name of no sandbox
	if err != nil {
		return nil, fmt.Errorf("open cell: %w", err)
	}
	n.Faults.Reach("cell/grouped")
	c := &Cell{node: n, lease: lease, group: group, size: size}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil { // nobody would close it
		return nil, errors.Join(soulbox.Errorf(soulbox.Unavailable, "this machine is shut down"), group.Remove())
	}
	n.cells[c] = struct{}{}
	return c, nil
}

// Netns is the path of its network namespace, which has lo and eth0.
func (c *Cell) Netns() string { return c.lease.Path }

// Addr is its address, on eth0. Only this machine can connect to it.
func (c *Cell) Addr() netip.Addr { return c.lease.Addr }

// Gateway is its default route, and also its nameserver.
func (c *Cell) Gateway() netip.Addr { return c.lease.Gateway }

// Add puts processes under the limits, and with them those that they start from
// then on. One that has ended is skipped.
func (c *Cell) Add(pids ...int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return soulbox.Errorf(soulbox.Conflict, "the cell is closed")
	}
	return c.group.Add(pids...)
}

// Usage tells how much processor time was used in it, and how much memory is.
func (c *Cell) Usage() (cpu time.Duration, memory soulbox.Bytes, err error) {
	used, err := c.group.Usage()
	return used.CPU, used.Memory, err
}

// Blame tells which of its limits ended something in it, as the rest of a
// sentence about that.
func (c *Cell) Blame() (reason string, ok bool) {
	end, ok := blame(c.group, c.size)
	return end.Reason, ok
}

// Close ends every program that is still in the cell, and removes it. What fails
// can be tried again; once it is removed, Close does nothing.
func (c *Cell) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	n := c.node
	n.mu.Lock()
	_, there := n.cells[c]
	n.mu.Unlock()
	if !there {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := errors.Join(wipe(ctx, c.group), n.net.Evict(c.lease.Slot)); err != nil {
		return fmt.Errorf("close cell: %w", err)
	}
	n.net.Release(c.lease.Slot)
	n.mu.Lock()
	delete(n.cells, c)
	n.mu.Unlock()
	return nil
}

// closeCells closes those that nobody has closed.
func (n *Node) closeCells() error {
	n.mu.Lock()
	cells := slices.Collect(maps.Keys(n.cells))
	n.mu.Unlock()
	var errs []error
	for _, c := range cells {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// wipe removes a cgroup and whatever runs in it.
func wipe(ctx context.Context, g *cgroup.Group) error {
	if err := g.Kill(ctx); err != nil {
		return err
	}
	return g.Remove()
}
