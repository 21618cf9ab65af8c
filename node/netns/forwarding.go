package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Linux forwards a packet when the device that it came in by says so. Replies
// come in by the devices that lead out, so those have to forward as well as our
// own. The global switch is left alone: it would turn every other device of the
// host into a router, too.

// setSysctl writes one IPv4 or IPv6 setting of a device.
func setSysctl(family, device, name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net", family, "conf", device, name), []byte(value), 0)
}

func forwards(device string) (bool, error) {
	text, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", device, "forwarding"))
	return string(bytes.TrimSpace(text)) == "1", err
}

// ensureForwarding makes the devices that lead to the internet and to the
// resolver forward, and returns those that it changed. What it changes is
// recorded in the kernel first, so that it can be taken back.
func ensureForwarding(f *firewall, resolver netip.Addr) ([]string, error) {
	devices, err := uplinks(resolver)
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, device := range devices {
		if _, own := f.plan.slotOf(device); own {
			continue
		}
		on, err := forwards(device)
		if err != nil {
			return changed, err
		}
		if on {
			// Another instance may have switched it on and end before us.
			shared, err := recordedElsewhere(f.plan, device)
			if err != nil {
				return changed, err
			}
			if shared {
				if err := f.recordForwarding(device); err != nil {
					return changed, err
				}
			}
			continue
		}
		if err := f.recordForwarding(device); err != nil {
			return changed, err
		}
		if err := setSysctl("ipv4", device, "forwarding", "1"); err != nil {
			return changed, err
		}
		changed = append(changed, device)
	}
	return changed, nil
}

// uplinks returns the devices of the default routes and of the way to resolver.
func uplinks(resolver netip.Addr) ([]string, error) {
	routes, err := defaultRoutes()
	if err != nil {
		return nil, err
	}
	if way, err := netlink.RouteGet(net.IP(resolver.AsSlice())); err == nil { // no way to it is no reason to fail
		routes = append(routes, way...)
	}
	var out []string
	for _, r := range routes {
		indices := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			indices = append(indices, hop.LinkIndex)
		}
		for _, i := range indices {
			link, err := netlink.LinkByIndex(i)
			if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 || slices.Contains(out, link.Attrs().Name) {
				continue
			}
			out = append(out, link.Attrs().Name)
		}
	}
	return out, nil
}

// recordedElsewhere says whether another instance made the device forward.
func recordedElsewhere(p plan, device string) (bool, error) {
	c := &nftables.Conn{}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == p.table() || t.Name != "soulbox" && !strings.HasPrefix(t.Name, "soulbox-") {
			continue
		}
		devices, err := names(c, &nftables.Set{Table: t, Name: "forwarding", KeyType: nftables.TypeIFName})
		if err != nil {
			return false, err
		}
		if slices.Contains(devices, device) {
			return true, nil
		}
	}
	return false, nil
}

// undoForwarding switches off what ensureForwarding switched on, unless another
// instance needs it.
func undoForwarding(p plan, devices []string) error {
	var errs []error
	for _, device := range devices {
		shared, err := recordedElsewhere(p, device)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if shared {
			continue
		}
		if err := setSysctl("ipv4", device, "forwarding", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Accepting a packet in our table does not keep another table from dropping
// it. Docker and ufw set the policy of iptables' FORWARD chain to DROP, so our
// devices are accepted there: in DOCKER-USER, which Docker leaves to others, or
// else in FORWARD itself. Our own table has judged the packet all the same.

// gates returns the foreign chains in which our packets need to be accepted.
func gates(c *nftables.Conn) ([]*nftables.Chain, error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var forward, user *nftables.Chain
	for _, ch := range chains {
		switch {
		case ch.Table.Name != "filter":
		case ch.Name == "DOCKER-USER":
			user = ch
		case ch.Name == "FORWARD" && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop:
			forward = ch
		}
	}
	switch {
	case user != nil:
		return []*nftables.Chain{user}, nil
	case forward != nil:
		return []*nftables.Chain{forward}, nil
	}
	return nil, nil
}

// passRules returns the two rules of an instance, in the form that iptables
// itself gives to "-i sb-+ -j ACCEPT", so that it can still list its table.
func passRules(p plan, ch *nftables.Chain) []*nftables.Rule {
	var out []*nftables.Rule
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		out = append(out, &nftables.Rule{
			Table: ch.Table,
			Chain: ch,
			Exprs: []expr.Any{
				&expr.Meta{Key: key, Register: unix.NFT_REG_1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte(p.stem())},
				&expr.Counter{},
				&expr.Verdict{Kind: expr.VerdictAccept},
			},
			UserData: userdata.AppendString(nil, userdata.TypeComment, p.table()),
		})
	}
	return out
}

// ownRules returns the rules in ch that passRules made.
func ownRules(c *nftables.Conn, p plan, ch *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return nil, fmt.Errorf("list nftables rules of %s: %w", ch.Name, err)
	}
	return slices.DeleteFunc(rules, func(r *nftables.Rule) bool {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		return comment != p.table()
	}), nil
}

// ensurePass makes sure that foreign chains let our packets through.
func ensurePass(p plan) error {
	c := &nftables.Conn{}
	chains, err := gates(c)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		own, err := ownRules(c, p, ch)
		if err != nil {
			return err
		}
		wanted := passRules(p, ch)
		if len(own) == len(wanted) {
			continue
		}
		for _, r := range own {
			if err := c.DelRule(r); err != nil {
				return fmt.Errorf("replace rules in %s: %w", ch.Name, err)
			}
		}
		for _, r := range wanted {
			c.InsertRule(r)
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("accept %s* in %s: %w", p.stem(), ch.Name, err)
		}
	}
	return nil
}

// undoPass removes our rules from wherever ensurePass may have put them.
func undoPass(p plan) error {
	c := &nftables.Conn{}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != "filter" || ch.Name != "DOCKER-USER" && ch.Name != "FORWARD" {
			continue
		}
		own, err := ownRules(c, p, ch)
		if err != nil {
			return err
		}
		for _, r := range own {
			if err := c.DelRule(r); err != nil {
				return fmt.Errorf("remove rules from %s: %w", ch.Name, err)
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove rules from iptables' chains: %w", err)
	}
	return nil
}
