package netns

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// A Slot is the number of one sandbox network on this machine, from 1 up. Zero
// is no slot. A record of it is enough to find the network again.
type Slot uint16

const (
	guestDevice = "eth0"
	slotBits    = 30 // four addresses a slot: network, gateway, guest, broadcast
	slotSize    = 1 << (32 - slotBits)
)

// instanceName keeps host device names within the 15 bytes that Linux allows:
// "sb", the instance, "-" and a slot of up to five digits. It begins with a letter
// so that the folder of an instance cannot look like a slot.
var instanceName = regexp.MustCompile(`^([a-z][a-z0-9]{0,6})?$`)

// A plan derives every name and address from a slot number.
type plan struct {
	instance string
	dir      string
	prefix   netip.Prefix
}

// last returns the highest slot that fits the prefix.
func (p plan) last() Slot {
	n := 1 << (slotBits - p.prefix.Bits())
	return Slot(min(n, 1<<14) - 1) // at most 5 digits, and more than any machine holds
}

func (p plan) table() string {
	if p.instance == "" {
		return "soulbox"
	}
	return "soulbox-" + p.instance
}

// stem begins the name of every host device of this instance and of no other:
// an instance name holds no dash.
func (p plan) stem() string { return "sb" + p.instance + "-" }

func (p plan) device(s Slot) string { return p.stem() + strconv.Itoa(int(s)) }

func (p plan) path(s Slot) string { return filepath.Join(p.dir, strconv.Itoa(int(s))) }

// slotOf is the inverse of device.
func (p plan) slotOf(device string) (Slot, bool) {
	digits, ok := strings.CutPrefix(device, p.stem())
	if !ok {
		return 0, false
	}
	return parseSlot(digits)
}

// parseSlot accepts exactly what device and path write.
func parseSlot(digits string) (Slot, bool) {
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
		return 0, false
	}
	return Slot(n), true
}

func (p plan) gateway(s Slot) netip.Addr { return p.addr(s, 1) }

func (p plan) guest(s Slot) netip.Addr { return p.addr(s, 2) }

func (p plan) addr(s Slot, host uint32) netip.Addr {
	base := p.prefix.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+uint32(s)*slotSize+host)
	return netip.AddrFrom4(a)
}

// hardware returns the Ethernet address of the end that has address a. It is
// set rather than left to chance because both ends hold each other as permanent
// neighbours, and because udev leaves an address alone that somebody chose.
func hardware(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return append(net.HardwareAddr{0x02, 0x5b}, b[:]...) // 02: locally administered
}

func (p plan) lease(s Slot) *Lease {
	return &Lease{
		Slot:      s,
		Path:      p.path(s),
		Addr:      p.guest(s),
		Gateway:   p.gateway(s),
		Interface: guestDevice,
	}
}

func (p plan) String() string { return fmt.Sprintf("%s in %s", p.table(), p.prefix) }

// slotAt returns the slot that an address of the prefix belongs to.
func (p plan) slotAt(a netip.Addr) Slot {
	base, addr := p.prefix.Addr().As4(), a.As4()
	return Slot((binary.BigEndian.Uint32(addr[:]) - binary.BigEndian.Uint32(base[:])) / slotSize)
}
