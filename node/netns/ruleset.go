package netns

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// forbidden returns what no sandbox reaches although it is routed: private,
// shared, link-local and reserved space. The documentation ranges are left out;
// nothing lives there.
func forbidden() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("198.18.0.0/15"),
		netip.MustParsePrefix("224.0.0.0/3"), // multicast, class E and broadcast
	}
}

// A ruleset is the table of one instance, as nftables wants it said:
//
//	set guests      ifname . ipv4_addr   who may send from where
//	set offline     ifname               who has no internet
//	set forwarding  ifname               devices whose forwarding we switched on
//	set forbidden   ipv4_addr, interval
//
//	chain source      prerouting, raw: from a sandbox only IPv4, only its own address
//	chain resolve     prerouting, dstnat: port 53 of the gateway goes to the resolver
//	chain to_host     input: replies, the resolver if it is this host; nothing else
//	chain forward     → outgoing or incoming
//	chain outgoing    online, valid, the resolver, then no other sandbox, nothing forbidden
//	chain incoming    replies, if online; nothing else
//	chain refuse      a reset for TCP, an ICMP answer for the rest
//	chain masquerade  postrouting: sandboxes leave the host under the host's address
type ruleset struct {
	table                                  *nftables.Table
	guests, offline, forwarding, forbidden *nftables.Set
	stem                                   []byte // how our devices' names begin
	prefix                                 netip.Prefix
	resolver                               netip.Addr
}

// The keys of sets are padded to whole registers of four bytes; a name takes
// sixteen and the address behind it lies in the fifth register.
const (
	nameBytes   = unix.IFNAMSIZ
	nameReg     = unix.NFT_REG_1
	addrReg     = unix.NFT_REG32_04
	statusDNAT  = 1 << 5 // IPS_DST_NAT
	replyDir    = 1      // IP_CT_DIR_REPLY
	offsetSaddr = 12
	offsetDaddr = 16
	offsetDport = 2
)

func newRuleset(p plan, resolver netip.Addr) ruleset {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: p.table()}
	// Set numbers are ours to choose within a transaction. The library would
	// count them in a variable shared by all connections, without a lock.
	names := func(id uint32, name string) *nftables.Set {
		return &nftables.Set{Table: t, ID: id, Name: name, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	}
	return ruleset{
		table: t,
		guests: &nftables.Set{
			Table: t, ID: 1, Name: "guests", Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr),
		},
		offline:    names(2, "offline"),
		forwarding: names(3, "forwarding"),
		forbidden:  &nftables.Set{Table: t, ID: 4, Name: "forbidden", Interval: true, KeyType: nftables.TypeIPAddr},
		stem:       []byte(p.stem()),
		prefix:     p.prefix,
		resolver:   resolver,
	}
}

// nameKey returns a device name as a set holds it.
func nameKey(device string) []byte {
	key := make([]byte, nameBytes)
	copy(key, device)
	return key
}

func nameElement(device string) nftables.SetElement {
	return nftables.SetElement{Key: nameKey(device)}
}

func guestElement(device string, addr netip.Addr) nftables.SetElement {
	return nftables.SetElement{Key: append(nameKey(device), addr.AsSlice()...)}
}

// replace queues the whole table, with the given elements, in place of whatever
// has its name. The kernel takes it all at once or not at all.
func (r ruleset) replace(c *nftables.Conn, guests, offline, forwarding []nftables.SetElement) error {
	c.AddTable(r.table) // so that there is something to delete
	c.DelTable(r.table)
	c.AddTable(r.table)
	for _, s := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{
		{r.guests, guests},
		{r.offline, offline},
		{r.forwarding, forwarding},
		{r.forbidden, intervals(append(forbidden(), r.prefix))},
	} {
		if err := c.AddSet(s.set, nil); err != nil {
			return err
		}
		if err := addElements(c, s.set, s.elements); err != nil {
			return err
		}
	}
	r.chains(c)
	return nil
}

// addElements queues elements in portions: the list's length has to fit the 16
// bits of a netlink attribute.
func addElements(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	const portion = 500
	for len(elements) > 0 {
		n := min(portion, len(elements))
		if err := c.SetAddElements(s, elements[:n]); err != nil {
			return err
		}
		elements = elements[n:]
	}
	return nil
}

// intervals turns prefixes into the pairs of start and end that a set wants.
// Those that lie within another one are left out, as the kernel refuses them.
func intervals(prefixes []netip.Prefix) []nftables.SetElement {
	var out []nftables.SetElement
	for i, p := range prefixes {
		inside := false
		for j, q := range prefixes {
			inside = inside || i != j && q.Contains(p.Addr()) && (q.Bits() < p.Bits() || q == p && j < i)
		}
		if inside {
			continue
		}
		start := p.Addr().As4()
		end := uint64(binary.BigEndian.Uint32(start[:])) + 1<<(32-p.Bits())
		out = append(out, nftables.SetElement{Key: start[:]})
		if end < 1<<32 { // an interval without an end reaches to the last address
			out = append(out, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(end)), IntervalEnd: true})
		}
	}
	return out
}

func (r ruleset) chains(c *nftables.Conn) {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: r.table, Name: name, Type: kind, Hooknum: hook, Priority: priority})
	}
	refuse := c.AddChain(&nftables.Chain{Table: r.table, Name: "refuse"})
	outgoing := c.AddChain(&nftables.Chain{Table: r.table, Name: "outgoing"})
	incoming := c.AddChain(&nftables.Chain{Table: r.table, Name: "incoming"})
	source := base("source", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	resolve := base("resolve", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	toHost := base("to_host", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	masquerade := base("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)

	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: all})
	}
	fromGuest, notFromGuest := r.device(expr.MetaKeyIIFNAME, expr.CmpOpEq), r.device(expr.MetaKeyIIFNAME, expr.CmpOpNeq)
	toGuest, notToGuest := r.device(expr.MetaKeyOIFNAME, expr.CmpOpEq), r.device(expr.MetaKeyOIFNAME, expr.CmpOpNeq)

	rule(source, notFromGuest, verdict(expr.VerdictAccept))
	rule(source, ipv4(expr.CmpOpNeq), verdict(expr.VerdictDrop))
	rule(source, r.spoofed(), verdict(expr.VerdictDrop))

	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rule(resolve, fromGuest, r.toAnyGateway(), toPort53(proto), r.sendToResolver())
		rule(toHost, fromGuest, member(expr.MetaKeyIIFNAME, r.offline, true), r.toResolver(), toPort53(proto), verdict(expr.VerdictAccept))
		rule(outgoing, member(expr.MetaKeyIIFNAME, r.offline, true), r.toResolver(), toPort53(proto), verdict(expr.VerdictAccept))
	}

	rule(toHost, notFromGuest, verdict(expr.VerdictAccept))
	rule(toHost, ctState(expr.CtStateBitESTABLISHED), ctEquals(expr.CtKeyDIRECTION, []byte{replyDir}), verdict(expr.VerdictAccept))
	rule(toHost, jump(refuse))

	rule(forward, fromGuest, jump(outgoing))
	rule(forward, toGuest, jump(incoming))

	rule(outgoing, member(expr.MetaKeyIIFNAME, r.offline, false), jump(refuse))
	rule(outgoing, ctState(expr.CtStateBitINVALID), verdict(expr.VerdictDrop)) // it would leave without masquerade
	rule(outgoing, toGuest, jump(refuse))
	rule(outgoing, inSet(offsetDaddr, r.forbidden), jump(refuse))
	rule(outgoing, verdict(expr.VerdictAccept))

	rule(incoming, member(expr.MetaKeyOIFNAME, r.offline, false), verdict(expr.VerdictDrop))
	rule(incoming, ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	rule(incoming, verdict(expr.VerdictDrop))

	rule(refuse, l4proto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	rule(refuse, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})

	rule(masquerade, r.fromPrefix(), notToGuest, notLoopback(), []expr.Any{&expr.Masq{FullyRandom: true}})
}

// The rest are the words that the rules above are written with. Those that look
// at an address first make sure that it is an IPv4 one.

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// jump ends the walk through a chain: the target never returns.
func jump(to *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: to.Name}}
}

// device compares the beginning of a device name with ours.
func (r ruleset) device(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: nameReg}, &expr.Cmp{Op: op, Register: nameReg, Data: r.stem}}
}

func notLoopback() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: nameReg},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: nameReg, Data: nameKey("lo")},
	}
}

func member(key expr.MetaKey, s *nftables.Set, invert bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: nameReg},
		&expr.Lookup{SourceRegister: nameReg, SetName: s.Name, SetID: s.ID, Invert: invert},
	}
}

func ipv4(op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: nameReg},
		&expr.Cmp{Op: op, Register: nameReg, Data: []byte{unix.NFPROTO_IPV4}},
	}
}

func l4proto(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nameReg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: nameReg, Data: []byte{proto}},
	}
}

func toPort53(proto byte) []expr.Any {
	return append(l4proto(proto),
		&expr.Payload{DestRegister: nameReg, Base: expr.PayloadBaseTransportHeader, Offset: offsetDport, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: nameReg, Data: []byte{0, 53}},
	)
}

func address(reg, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
}

func inSet(offset uint32, s *nftables.Set) []expr.Any {
	return append(ipv4(expr.CmpOpEq),
		address(nameReg, offset),
		&expr.Lookup{SourceRegister: nameReg, SetName: s.Name, SetID: s.ID},
	)
}

// spoofed matches a packet whose device and source do not belong together.
func (r ruleset) spoofed() []expr.Any {
	return append(ipv4(expr.CmpOpEq),
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: nameReg},
		address(addrReg, offsetSaddr),
		&expr.Lookup{SourceRegister: nameReg, SetName: r.guests.Name, SetID: r.guests.ID, Invert: true},
	)
}

// masked compares an address, all but the bits outside mask, with want.
func masked(offset, mask, want uint32) []expr.Any {
	return append(ipv4(expr.CmpOpEq),
		address(nameReg, offset),
		&expr.Bitwise{SourceRegister: nameReg, DestRegister: nameReg, Len: 4, Mask: binary.BigEndian.AppendUint32(nil, mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: nameReg, Data: binary.BigEndian.AppendUint32(nil, want)},
	)
}

func (r ruleset) bits() (base, mask uint32) {
	a := r.prefix.Addr().As4()
	return binary.BigEndian.Uint32(a[:]), ^uint32(0) << (32 - r.prefix.Bits())
}

func (r ruleset) fromPrefix() []expr.Any {
	base, mask := r.bits()
	return masked(offsetSaddr, mask, base)
}

// toAnyGateway matches the gateways of all slots: in the prefix and the first
// of their four addresses. It spares a set; the gateway of another slot answers
// a sandbox no differently from its own.
func (r ruleset) toAnyGateway() []expr.Any {
	base, mask := r.bits()
	return masked(offsetDaddr, mask|(slotSize-1), base|1)
}

func (r ruleset) sendToResolver() []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: nameReg, Data: r.resolver.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: nameReg},
	}
}

// toResolver matches only packets that were sent to a gateway. One that names
// the resolver itself is judged by its address like any other.
func (r ruleset) toResolver() []expr.Any {
	return append(append(ctBits(expr.CtKeySTATUS, statusDNAT), ipv4(expr.CmpOpEq)...),
		address(nameReg, offsetDaddr),
		&expr.Cmp{Op: expr.CmpOpEq, Register: nameReg, Data: r.resolver.AsSlice()},
	)
}

func ctState(bits uint32) []expr.Any { return ctBits(expr.CtKeySTATE, bits) }

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: nameReg},
		&expr.Bitwise{SourceRegister: nameReg, DestRegister: nameReg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: nameReg, Data: make([]byte, 4)},
	}
}

func ctEquals(key expr.CtKey, value []byte) []expr.Any {
	return []expr.Any{&expr.Ct{Key: key, Register: nameReg}, &expr.Cmp{Op: expr.CmpOpEq, Register: nameReg, Data: value}}
}
