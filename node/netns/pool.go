package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/soulbox/soulbox"
)

// A state says where a slot is in its life. A free one has none.
type state uint8

const (
	_       state = iota
	making        // being built, or ready and not yet taken
	leased        // a sandbox has it
	leaving       // being removed
)

const (
	upkeepEvery = 5 * time.Second // how long a flushed ruleset can stay away
	retryAfter  = time.Second     // after a network could not be made
)

// nudge wakes the goroutine behind c; one token is enough.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// prepare makes one network and lets its packets in. Safe for concurrent use;
// nothing here waits for another call.
func (n *Network) prepare() (Slot, error) {
	s, worn, err := n.reserve()
	if err != nil {
		return 0, err
	}
	if worn {
		if err := forgetConnections(n.plan, func(other Slot) bool { return other == s }); err != nil {
			n.free(s)
			return 0, err
		}
	}
	if err := n.plan.build(s, n.mtu); err != nil {
		n.free(s)
		return 0, err
	}
	if err := n.firewall.admit(s); err != nil {
		if left := n.plan.tearDown(s); left != nil {
			return 0, errors.Join(err, left) // the slot stays reserved: something of it exists
		}
		n.free(s)
		return 0, err
	}
	return s, nil
}

// reserve picks the next free slot after the last one given out, so that a
// number, and with it an address, is used again as late as possible. A slot
// that was used before is called worn.
func (n *Network) reserve() (s Slot, worn bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := n.plan.last()
	for range last {
		n.cursor = n.cursor%last + 1
		if n.slots[n.cursor] == 0 {
			worn = n.worn[n.cursor]
			n.slots[n.cursor], n.worn[n.cursor] = making, true
			return n.cursor, worn, nil
		}
	}
	return 0, false, soulbox.Errorf(soulbox.Exhausted, "all %d sandbox networks of this machine are in use", last)
}

func (n *Network) free(s Slot) {
	n.mu.Lock()
	delete(n.slots, s)
	n.mu.Unlock()
}

// keep fills ready whenever there is room and looks after the host in between.
func (n *Network) keep(ctx context.Context) {
	upkeep := time.NewTicker(upkeepEvery)
	defer upkeep.Stop()
	troubled := make(map[string]bool)
	report := func(what string, err error) { // once per change, not once per try
		if (err != nil) == troubled[what] || ctx.Err() != nil {
			return
		}
		if troubled[what] = err != nil; err != nil {
			n.log.WarnContext(ctx, "network trouble began", "doing", what, "err", err)
		} else {
			n.log.InfoContext(ctx, "network trouble ended", "doing", what)
		}
	}
	for ctx.Err() == nil {
		var again <-chan time.Time
		for len(n.ready) < cap(n.ready) && ctx.Err() == nil {
			s, err := n.prepare()
			report("make ahead of time", err)
			if err != nil {
				again = time.After(retryAfter)
				break
			}
			n.ready <- s // has room: nobody else sends
		}
		select {
		case <-ctx.Done():
		case <-n.taken:
		case <-again:
		case <-upkeep.C:
			report("upkeep", n.upkeep(ctx))
		}
	}
}

// upkeep puts right what others on this host may have changed: a flushed
// ruleset, a new default route, a Docker that came later.
func (n *Network) upkeep(ctx context.Context) error {
	restored, err := n.firewall.restore()
	if err != nil {
		return err
	}
	if restored {
		n.log.WarnContext(ctx, "network rules were gone and are back", "table", n.plan.table())
	}
	changed, err := ensureForwarding(n.firewall, n.resolver)
	if len(changed) > 0 {
		n.log.InfoContext(ctx, "forwarding switched on", "devices", changed)
	}
	return errors.Join(err, ensurePass(n.plan))
}

// sweep removes what Release put on leaving.
func (n *Network) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return // Close removes the rest
		case <-n.gone:
		}
		n.mu.Lock()
		slots := n.leaving
		n.leaving = nil
		n.mu.Unlock()
		if err := n.remove(slots); err != nil {
			n.log.WarnContext(ctx, "released network could not be removed", "err", err)
		}
	}
}

// remove takes slots out of the kernel: first the wire, then the rules for it.
// One that cannot be removed stays out of use; the next Open tries again.
func (n *Network) remove(slots []Slot) error {
	var errs []error
	var removed []Slot
	for _, s := range slots {
		if err := n.plan.tearDown(s); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, s)
	}
	if err := n.firewall.expel(removed); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, s := range removed {
		n.free(s)
	}
	return errors.Join(errs...)
}

// forgetConnections drops the kernel's memory of connections from the slots
// that match, so that a late packet for an old sandbox cannot reach a new one
// with its address.
func forgetConnections(p plan, match func(Slot) bool) error {
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, flowFilter(func(a netip.Addr) bool {
		return p.prefix.Contains(a) && match(p.slotAt(a))
	}))
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // a busy table changes while it is read; most of it was seen
		return fmt.Errorf("forget connections in %s: %w", p.prefix, err)
	}
	return nil
}

// flowFilter matches connections by the address that opened them.
type flowFilter func(netip.Addr) bool

// MatchConntrackFlow implements [netlink.CustomConntrackFilter].
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	from, ok := netip.AddrFromSlice(flow.Forward.SrcIP.To4())
	return ok && f(from)
}
