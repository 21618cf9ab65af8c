package netns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/soulbox/soulbox"
)

// A Lease is the network of one sandbox, from Take to Release.
type Lease struct {
	Slot      Slot
	Path      string     // of the network namespace, for the OCI spec
	Addr      netip.Addr // the sandbox's own; the host connects to it
	Gateway   netip.Addr // the host's end: default route and resolver of the sandbox
	Interface string     // the device inside that has Addr
}

// A Network hands out sandbox networks. Its methods are safe for concurrent
// use.
//
// Two goroutines work for it until Close. keep makes networks ahead of time and
// looks after what the host may have undone; sweep removes released ones.
type Network struct {
	log      *slog.Logger
	plan     plan
	firewall *firewall
	resolver netip.Addr
	mtu      int

	ready chan Slot     // made ahead of time; closed by nobody
	taken chan struct{} // holds one token when ready may have room
	gone  chan struct{} // holds one token when leaving may be non-empty
	stop  context.CancelFunc
	work  sync.WaitGroup // keep, sweep and every Take under way

	mu      sync.Mutex
	slots   map[Slot]state // +checklocks:mu
	worn    map[Slot]bool  // +checklocks:mu // used before: connections may still be tracked
	leaving []Slot         // +checklocks:mu // for sweep
	cursor  Slot           // +checklocks:mu // the last slot given out
	closed  bool           // +checklocks:mu
}

// Open takes over the networks of the slots in keep, removes every other one
// of this instance that an earlier life left behind, with the processes in it,
// writes the rules and starts to make networks ahead of time.
//
// A slot in keep that does not exist any more, as after a reboot, is logged and
// dropped; [Network.Lease] then does not find it. Options that are wrong or a
// prefix that is taken give [soulbox.Invalid] or [soulbox.Conflict] and change
// nothing. Only one Network of an instance may be open at a time.
func Open(ctx context.Context, log *slog.Logger, opts Options, keep []Slot) (*Network, error) {
	p, err := opts.plan()
	if err != nil {
		return nil, err
	}
	found, gateways, err := p.leftovers()
	if err != nil {
		return nil, fmt.Errorf("find networks of %s: %w", p.table(), err)
	}
	kept := make(map[Slot]netip.Addr)
	for _, s := range keep {
		if gateway, ok := gateways[s]; ok {
			kept[s] = gateway
		} else {
			log.WarnContext(ctx, "network of a kept slot is gone", "slot", s)
		}
	}
	if p.prefix, err = p.choosePrefix(kept); err != nil {
		return nil, err
	}
	if opts.Ready >= int(p.last()) {
		return nil, soulbox.Errorf(soulbox.Invalid, "%d networks ready: %s has room for %d in all", opts.Ready, p.prefix, p.last())
	}
	n := &Network{
		log: log, plan: p, resolver: opts.Resolver,
		ready: make(chan Slot, opts.Ready),
		taken: make(chan struct{}, 1),
		gone:  make(chan struct{}, 1),
		slots: make(map[Slot]state),
		worn:  make(map[Slot]bool),
	}
	if !n.resolver.IsValid() {
		n.resolver = chooseResolver()
	}
	if n.mtu, err = uplinkMTU(); err != nil {
		return nil, err
	}
	for s := range kept {
		n.slots[s], n.worn[s] = leased, true
		n.cursor = max(n.cursor, s)
	}
	if err := n.settle(ctx, found, kept); err != nil {
		return nil, fmt.Errorf("open network %s: %w", p, err)
	}
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx)) // it works on after Open's caller is done
	n.work.Go(func() { n.keep(ctx) })
	n.work.Go(func() { n.sweep(ctx) })
	log.InfoContext(ctx, "network opened", "prefix", p.prefix.String(), "resolver", n.resolver.String(), "mtu", n.mtu, "kept", len(kept), "removed", len(found)-len(kept))
	return n, nil
}

// settle makes the host what this Network says it is. The rules come first: at
// no moment does a network exist without them.
func (n *Network) settle(ctx context.Context, found []Slot, kept map[Slot]netip.Addr) error {
	var err error
	if n.firewall, err = newFirewall(n.plan); err != nil {
		return err
	}
	var slots, rest []Slot
	for _, s := range found {
		if _, ok := kept[s]; ok {
			slots = append(slots, s)
		} else {
			rest = append(rest, s)
		}
	}
	if err := n.firewall.install(newRuleset(n.plan, n.resolver), slots); err != nil {
		return err
	}
	if err := n.plan.makeDir(); err != nil {
		return err
	}
	errs := []error{n.plan.evict(rest...)}
	for _, s := range rest {
		errs = append(errs, n.plan.tearDown(s))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := forgetConnections(n.plan, func(s Slot) bool { return !slices.Contains(slots, s) }); err != nil {
		return err
	}
	return n.upkeep(ctx)
}

// Take gives a network that nobody has used: at once if one is ready, else as
// soon as it is made. The sandbox has the internet until [Network.SetInternet]
// says otherwise. The caller records the slot before it starts anything in
// the network; a slot that is in no record is removed by the next [Open].
//
// It fails with [soulbox.Exhausted] when every address of the prefix is in use.
func (n *Network) Take(ctx context.Context) (*Lease, error) {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil, soulbox.Errorf(soulbox.Unavailable, "the network of this machine is shut down")
	}
	n.work.Add(1)
	n.mu.Unlock()
	defer n.work.Done()

	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	var s Slot
	select {
	case s = <-n.ready:
		nudge(n.taken)
	default:
		var err error
		if s, err = n.prepare(); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	n.slots[s] = leased
	n.mu.Unlock()
	return n.plan.lease(s), nil
}

// Lease returns the network of a slot that was taken or kept, for whoever only
// has the number. It fails with [soulbox.NotFound] for any other.
func (n *Network) Lease(s Slot) (*Lease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.slots[s] != leased {
		return nil, soulbox.Errorf(soulbox.NotFound, "network slot %d is not in use", s)
	}
	return n.plan.lease(s), nil
}

// SetInternet gives a sandbox the internet and its resolver, or takes both
// away. When it returns, the change is in force, for connections that exist as
// well. It repeats. Calls for one slot must not overlap with its Release. The
// host still reaches an offline sandbox.
func (n *Network) SetInternet(ctx context.Context, s Slot, on bool) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if _, err := n.Lease(s); err != nil {
		return err
	}
	return n.firewall.setOffline(s, !on)
}

// Release gives a network back; its sandbox must have ended. It returns at
// once and the removal is done in the background. A slot that is not in use is
// ignored, so cleanup can be retried.
func (n *Network) Release(s Slot) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.slots[s] != leased || n.closed {
		return // after Close the next Open removes it
	}
	n.slots[s] = leaving
	n.leaving = append(n.leaving, s)
	nudge(n.gone)
}

// Close stops making networks, removes those that nobody took and those that
// were released, and waits until that is done. Networks in use stay, with
// their rules, for the next [Open]. A second call does nothing.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	n.stop()
	n.work.Wait()

	n.mu.Lock()
	var unused []Slot
	for s, st := range n.slots {
		if st != leased {
			unused = append(unused, s)
		}
	}
	n.mu.Unlock()
	return n.remove(unused)
}

// Purge removes everything of the instance that opts names, in use or not: all
// networks with the processes in them, the rules, and what was changed on the
// host for them. No [Network] of it may be open. It repeats.
func Purge(ctx context.Context, log *slog.Logger, opts Options) error {
	p, err := opts.plan()
	if err != nil {
		return err
	}
	if !p.prefix.IsValid() {
		p.prefix = prefixes(p.instance)[0] // only names matter here
	}
	found, _, err := p.leftovers()
	if err != nil {
		return fmt.Errorf("find networks of %s: %w", p.table(), err)
	}
	f, err := newFirewall(p)
	if err != nil {
		return err
	}
	errs := []error{p.evict(found...)}
	for _, s := range found {
		errs = append(errs, p.tearDown(s))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the rules stay as long as a network does
	}
	devices, err := f.remove()
	if err != nil {
		return err
	}
	if err := errors.Join(undoForwarding(p, devices), undoPass(p), p.removeDir()); err != nil {
		return err
	}
	log.InfoContext(ctx, "network purged", "instance", p.instance, "removed", len(found))
	return nil
}
