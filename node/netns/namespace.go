package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/internal/cleanup"
)

// build makes the namespace and the wire of a slot. On error nothing of it is
// left. Safe for concurrent use with different slots.
//
// eth0 is made as gVisor wants to find it: up, with an address whose route
// stands in the main table, one default route with a gateway, and the gateway
// as a permanent neighbour, so that no first packet waits for ARP.
func (p plan) build(s Slot, mtu int) (err error) {
	var undo cleanup.Stack
	defer func() {
		if undone := undo.Run(); undone != nil {
			err = errors.Join(err, undone)
		}
		if err != nil {
			err = fmt.Errorf("make network %s: %w", p.device(s), err)
		}
	}()

	inside, err := newNamespace(p.path(s))
	if err != nil {
		return err
	}
	undo.Push(func() error { return removeNamespace(p.path(s)) })
	defer inside.close()

	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.MTU, veth.HardwareAddr = p.device(s), mtu, hardware(p.gateway(s))
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerNamespace = guestDevice, hardware(p.guest(s)), netlink.NsFd(int(inside.file.Fd()))
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add device: %w", err)
	}
	undo.Push(func() error { return p.removeDevice(s) })

	if err := p.setUpGuest(s, inside.netlink); err != nil {
		return err
	}
	if err := p.setUpHost(s, veth); err != nil {
		return err
	}
	// Linux starts to send from the guest's end some time after it has seen the
	// host's end go up, and drops what comes before. Asking for the state makes
	// it catch up now.
	if _, err := inside.netlink.LinkByName(guestDevice); err != nil {
		return fmt.Errorf("see %s go up: %w", guestDevice, err)
	}
	undo.Keep()
	return nil
}

func (p plan) setUpGuest(s Slot, inside *netlink.Handle) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := inside.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	eth, err := inside.LinkByName(guestDevice)
	if err != nil {
		return fmt.Errorf("find %s: %w", guestDevice, err)
	}
	if err := inside.AddrAdd(eth, interfaceAddr(p.guest(s))); err != nil {
		return fmt.Errorf("add address of %s: %w", guestDevice, err)
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return fmt.Errorf("set up %s: %w", guestDevice, err)
	}
	if err := inside.NeighSet(neighbour(eth, p.gateway(s))); err != nil {
		return fmt.Errorf("add neighbour of %s: %w", guestDevice, err)
	}
	if err := inside.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: p.gateway(s).AsSlice()}); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

func (p plan) setUpHost(s Slot, veth netlink.Link) error {
	device := p.device(s)
	for _, set := range []struct{ family, name, value string }{
		{"ipv4", "forwarding", "1"},
		{"ipv4", "arp_ignore", "1"}, // answer for the gateway only, not for every address of the host
		{"ipv6", "disable_ipv6", "1"},
	} {
		err := setSysctl(set.family, device, set.name, set.value)
		if err != nil && (set.family == "ipv4" || !errors.Is(err, fs.ErrNotExist)) { // the host may have no IPv6 at all
			return err
		}
	}
	if err := netlink.AddrAdd(veth, interfaceAddr(p.gateway(s))); err != nil {
		return fmt.Errorf("add address: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if err := netlink.NeighSet(neighbour(veth, p.guest(s))); err != nil {
		return fmt.Errorf("add neighbour: %w", err)
	}
	return nil
}

func interfaceAddr(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(slotBits, 32)}}
}

func neighbour(on netlink.Link, a netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: on.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: a.AsSlice(), HardwareAddr: hardware(a),
	}
}

// removeDevice removes a slot's wire, both ends. That it is gone is fine.
func (p plan) removeDevice(s Slot) error {
	link, err := netlink.LinkByName(p.device(s))
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); err == nil || gone || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("remove device %s: %w", p.device(s), err)
}

// tearDown removes all that build made, whatever of it is left.
func (p plan) tearDown(s Slot) error {
	return errors.Join(p.removeDevice(s), removeNamespace(p.path(s)))
}

// A namespace is an open door into a network namespace.
type namespace struct {
	file    *os.File
	netlink *netlink.Handle
}

func (n *namespace) close() {
	n.netlink.Close()
	_ = n.file.Close() // it was only read
}

// newNamespace makes a network namespace that lives as long as it is bound to
// path. The caller closes what it returns.
func newNamespace(path string) (*namespace, error) {
	type result struct {
		ns  *namespace
		err error
	}
	done := make(chan result)
	go func() { // the caller waits for it
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{err: err}
			return
		}
		ns, err := enterNew(path)
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		} // else the thread, which is of no use any more, ends with this goroutine
		_ = home.Close() // it was only read
		done <- result{ns, err}
	}()
	r := <-done
	return r.ns, r.err
}

// enterNew moves the calling thread into a new namespace and binds that to path.
func enterNew(path string) (_ *namespace, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare network: %w", err)
	}
	// Devices made from now on get no IPv6 address; lo exists and keeps ::1.
	// A new namespace copies the host's forwarding, which would make it send
	// back what gVisor's own stack is there to receive.
	if err := setSysctl("ipv6", "default", "disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		return nil, err
	}

	var undo cleanup.Stack
	defer func() {
		if undone := undo.Run(); undone != nil {
			err = errors.Join(err, undone)
		}
	}()
	mark, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return nil, err
	}
	undo.Push(func() error { return removeNamespace(path) })
	if err := mark.Close(); err != nil {
		return nil, err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		handle.Close()
		return nil, err
	}
	undo.Keep()
	return &namespace{file: file, netlink: handle}, nil
}

// removeNamespace lets go of the namespace bound to path. It ends when the last
// process in it has. That it is gone is fine.
func removeNamespace(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue // there may be one below it
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted; not there
			return fmt.Errorf("unmount %s: %w", path, err)
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// leftovers returns the slots of which anything exists on the host, and the
// gateway of those that have a whole wire.
func (p plan) leftovers() (slots []Slot, gateways map[Slot]netip.Addr, err error) {
	found := make(map[Slot]bool)
	gateways = make(map[Slot]netip.Addr)
	links, err := devices()
	if err != nil {
		return nil, nil, fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		s, ok := p.slotOf(l.Attrs().Name)
		if !ok {
			continue
		}
		found[s] = true
		addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
		if err != nil {
			continue // it went away in between
		}
		for _, a := range addrs {
			if gateway, ok := netip.AddrFromSlice(a.IP.To4()); ok {
				gateways[s] = gateway
			}
		}
	}
	files, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, f := range files {
		if s, ok := parseSlot(f.Name()); ok {
			found[s] = true
		}
	}
	for s := range found {
		slots = append(slots, s)
		if !bound(p.path(s)) {
			delete(gateways, s)
		}
	}
	return slots, gateways, nil
}

// bound says whether a namespace is bound to path.
func bound(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && uint32(st.Type) == unix.NSFS_MAGIC
}

// makeDir makes the folder that namespaces are bound in.
func (p plan) makeDir() error {
	return os.MkdirAll(p.dir, 0o700)
}

// removeDir removes the folder if nothing else lies in it.
func (p plan) removeDir() error {
	err := os.Remove(filepath.Clean(p.dir))
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}
