package netns

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/soulbox/soulbox"
)

// Options say where the networks of one server live. The zero value fits the
// only server on a machine.
type Options struct {
	// Instance keeps servers on one machine apart: at most seven of a-z and
	// 0-9, a letter first. The names of the nftables table and of the host
	// devices contain it.
	Instance string

	// Dir is where namespaces are bound so that they outlive the server.
	// Empty is /run/soulbox/netns, followed by the instance if there is one.
	Dir string

	// Prefix is the IPv4 range that sandboxes get their addresses from; each
	// takes four. It must not be routed by the host otherwise. The zero value
	// takes the first free one of a list, which begins elsewhere for each instance.
	Prefix netip.Prefix

	// Resolver answers the names of all sandboxes on port 53. The zero value
	// is the host's first resolver that is not on a loopback address, or a
	// public one when it has none.
	Resolver netip.Addr

	// Ready is how many networks wait ahead of time. Zero prepares none.
	Ready int
}

const (
	defaultDir = "/run/soulbox/netns"
	defaultMTU = 1500 // Ethernet's, for a host without a default route
)

// prefixes returns the ranges that the instance tries in turn when none is
// configured. Private space with an odd second byte is what no common tool hands
// out: Docker takes 172.17–172.31 and 192.168, Kubernetes distributions 10.42,
// 10.43, 10.96 and 10.244, Podman 10.88, libvirt 192.168.122, the clouds start
// from 10.0, and Google's networks have even bytes from 10.128. Each instance
// begins elsewhere, so that two which start at the same moment hardly ever choose
// the same. The last two are for a host that routes all of 10.
func prefixes(instance string) []netip.Prefix {
	var all []netip.Prefix
	for second := 161; second < 243; second += 2 {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(second), 0, 0}), 16))
	}
	h := fnv.New32a()
	h.Write([]byte(instance))
	at := int(h.Sum32() % uint32(len(all)))
	return slices.Concat(all[at:], all[:at], []netip.Prefix{
		netip.MustParsePrefix("172.30.0.0/16"),
		netip.MustParsePrefix("198.18.0.0/16"), // for benchmarks: nobody routes it
	})
}

// plan checks the options that name things; the prefix stays as configured.
func (o Options) plan() (plan, error) {
	if !instanceName.MatchString(o.Instance) {
		return plan{}, soulbox.Errorf(soulbox.Invalid, "network instance %q: use at most 7 of a-z and 0-9, a letter first", o.Instance)
	}
	dir := o.Dir
	if dir == "" {
		dir = filepath.Join(defaultDir, o.Instance)
	}
	if !filepath.IsAbs(dir) {
		return plan{}, soulbox.Errorf(soulbox.Invalid, "network folder %q: use an absolute path", o.Dir)
	}
	p := o.Prefix
	if p.IsValid() && (!p.Addr().Is4() || p != p.Masked() || p.Bits() < 8 || p.Bits() > slotBits-2) {
		return plan{}, soulbox.Errorf(soulbox.Invalid, "network prefix %s: use an IPv4 range from /8 to /%d, written with its first address", p, slotBits-2)
	}
	if o.Resolver.IsValid() && (!o.Resolver.Is4() || o.Resolver.IsLoopback() || o.Resolver.IsUnspecified()) {
		return plan{}, soulbox.Errorf(soulbox.Invalid, "resolver %s: use an IPv4 address that is not a loopback address", o.Resolver)
	}
	if o.Ready < 0 {
		return plan{}, soulbox.Errorf(soulbox.Invalid, "%d networks ready: use zero or more", o.Ready)
	}
	return plan{instance: o.Instance, dir: filepath.Clean(dir), prefix: p}, nil
}

// choosePrefix settles p.prefix. Networks that an earlier life left running
// decide, because their addresses cannot change; otherwise the configured range
// or the first free candidate.
func (p plan) choosePrefix(kept map[Slot]netip.Addr) (netip.Prefix, error) {
	routes, err := p.foreignRoutes()
	if err != nil {
		return netip.Prefix{}, err
	}
	if p.prefix.IsValid() {
		for slot, gateway := range kept {
			if p.gateway(slot) != gateway {
				return netip.Prefix{}, soulbox.Errorf(soulbox.Conflict,
					"network prefix %s: slot %d is in use with gateway %s; end its sandbox or go back to the former prefix", p.prefix, slot, gateway)
			}
		}
		if r, taken := overlap(routes, p.prefix); taken && len(kept) == 0 {
			return netip.Prefix{}, soulbox.Errorf(soulbox.Conflict, "network prefix %s: this host already routes %s; configure another prefix", p.prefix, r)
		}
		return p.prefix, nil
	}
	candidates := prefixes(p.instance)
	for _, c := range candidates {
		p.prefix = c
		fits := len(kept) > 0
		for slot, gateway := range kept {
			fits = fits && p.gateway(slot) == gateway
		}
		if fits {
			return c, nil
		}
	}
	if len(kept) > 0 {
		return netip.Prefix{}, soulbox.Errorf(soulbox.Conflict, "%d networks in use lie in no known prefix; configure the one they were made with", len(kept))
	}
	for _, c := range candidates {
		if _, taken := overlap(routes, c); !taken {
			return c, nil
		}
	}
	return netip.Prefix{}, soulbox.Errorf(soulbox.Conflict, "this host routes all of %v; configure a network prefix", candidates)
}

func overlap(routes []netip.Prefix, p netip.Prefix) (netip.Prefix, bool) {
	for _, r := range routes {
		if r.Overlaps(p) {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

// foreignRoutes returns what the host routes, in any table, without default
// routes and without our own.
func (p plan) foreignRoutes() ([]netip.Prefix, error) {
	links, err := devices()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	own := make(map[int]bool)
	for _, l := range links {
		if _, ok := p.slotOf(l.Attrs().Name); ok {
			own[l.Attrs().Index] = true
		}
	}
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var foreign []netip.Prefix
	for _, r := range routes {
		if own[r.LinkIndex] || r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if ones, _ := r.Dst.Mask.Size(); ok && ones > 0 {
			foreign = append(foreign, netip.PrefixFrom(addr, ones).Masked())
		}
	}
	return foreign, nil
}

// defaultRoutes returns the routes by which the host itself reaches the internet.
func defaultRoutes() ([]netlink.Route, error) {
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []netlink.Route
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// uplinkMTU returns the MTU of the device of the host's default route, so that
// a full packet of a sandbox never has to be cut up.
func uplinkMTU() (int, error) {
	routes, err := defaultRoutes()
	if err != nil {
		return 0, err
	}
	for _, r := range routes {
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().MTU, nil
		}
	}
	return defaultMTU, nil
}
