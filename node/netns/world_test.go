package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/node/netns"
)

// The whole test runs in a network and mount namespace of its own, which plays
// the host. Nothing it does can reach the machine or outlive the process.
const insideVar = "SOULBOX_NETNS_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		if dir := os.Getenv(crashVar); dir != "" {
			crash(dir)
		}
		os.Exit(m.Run())
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(context.Background(), self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Addresses of the test's internet. One machine has all of them.
const (
	uplink    = "up0"
	hostAddr  = "203.0.113.1"
	public    = "203.0.113.2"
	private   = "10.99.7.2"
	metadata  = "169.254.169.254"
	resolver  = "10.99.7.53" // private, and so reachable only as the resolver
	uplinkMTU = 1400
)

// A world is a host with an uplink, and the internet behind it.
type world struct {
	host, internet netnsFile
	seen           chan string // whom the internet heard from
}

// A netnsFile is an open network namespace.
type netnsFile struct{ *os.File }

func newWorld(t *testing.T) *world {
	t.Helper()
	// Not /proc/self: the main thread may have been left in another namespace.
	w := &world{host: openNS(t, "/proc/thread-self/ns/net"), seen: make(chan string, 1000)}
	made := make(chan netnsFile)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		made <- openNS(t, "/proc/thread-self/ns/net")
	}()
	w.internet = <-made

	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace, veth.MTU = uplink, "eth0", netlink.NsFd(int(w.internet.Fd())), uplinkMTU
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { must(t, netlink.LinkDel(veth)) })
	addAddr(t, uplink, hostAddr+"/24")
	up(t, "lo")
	up(t, uplink)
	w.internet.do(t, func() {
		up(t, "lo")
		for _, a := range []string{public + "/24", private + "/32", metadata + "/32", resolver + "/32"} {
			addAddr(t, "eth0", a)
		}
		up(t, "eth0")
		w.serve(t, "tcp4", "0.0.0.0:80")
		w.serve(t, "tcp4", "0.0.0.0:53")
		w.serveUDP(t, public+":53") // a socket on 0.0.0.0 would answer from another address
		w.serveUDP(t, resolver+":53")
	})
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(public)}))
	for ns, device := range map[netnsFile]string{w.host: uplink, w.internet: "eth0"} {
		ns.do(t, func() {
			_, err := netlink.LinkByName(device) // asking makes it ready to send
			must(t, err)
		})
	}
	return w
}

// open opens a network on the world, which is purged when the test ends.
func (w *world) open(t *testing.T, opts netns.Options, keep ...netns.Slot) *netns.Network {
	t.Helper()
	n, err := netns.Open(t.Context(), logger(t), opts, keep)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		must(t, n.Close())
		must(t, netns.Purge(context.WithoutCancel(t.Context()), logger(t), opts))
	})
	return n
}

func options(t *testing.T) netns.Options {
	t.Helper()
	return netns.Options{Instance: "t", Dir: filepath.Join(t.TempDir(), "netns"), Prefix: netip.MustParsePrefix("10.214.0.0/16"), Resolver: netip.MustParseAddr(resolver)}
}

func take(t *testing.T, n *netns.Network) *netns.Lease {
	t.Helper()
	l, err := n.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve accepts TCP connections in the current namespace and echoes.
func (w *world) serve(t *testing.T, network, addr string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, addr)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			w.seen <- host
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
}

func (w *world) serveUDP(t *testing.T, addr string) {
	t.Helper()
	c, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", addr)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			w.seen <- from.String()
			c.WriteTo(buf[:n], from)
		}
	}()
}

// quiet reports whatever reaches the internet during f and shortly after.
func (w *world) quiet(t *testing.T, what string, f func()) {
	t.Helper()
	for len(w.seen) > 0 {
		<-w.seen
	}
	f()
	select {
	case from := <-w.seen:
		t.Errorf("a packet %s arrived, seen as from %s", what, from)
	case <-time.After(300 * time.Millisecond):
	}
}

func openNS(t *testing.T, path string) netnsFile {
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
	}
	t.Cleanup(func() { f.Close() })
	return netnsFile{f}
}

// do runs f on a thread inside the namespace and waits for it. f must not end
// the test.
func (ns netnsFile) do(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// inside runs f inside a sandbox's namespace.
func inside(t *testing.T, l *netns.Lease, f func()) {
	t.Helper()
	openNS(t, l.Path).do(t, f)
}

// dial connects from inside a namespace. It waits long enough for a machine
// under load; whatever is refused fails at once.
func (ns netnsFile) dial(t *testing.T, network, addr string) (c net.Conn, err error) {
	t.Helper()
	ns.do(t, func() { c, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, addr) })
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// echo says whether what is sent over c comes back.
func echo(c net.Conn, timeout time.Duration) error {
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}

// reach connects and echoes.
func (ns netnsFile) reach(t *testing.T, network, addr string) error {
	t.Helper()
	c, err := ns.dial(t, network, addr)
	if err != nil {
		return err
	}
	return echo(c, 2*time.Second)
}

func up(t *testing.T, device string) {
	t.Helper()
	l, err := netlink.LinkByName(device)
	if err != nil {
		t.Error(err)
		return
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Error(err)
	}
}

func addAddr(t *testing.T, device, cidr string) {
	t.Helper()
	l, err := netlink.LinkByName(device)
	if err != nil {
		t.Error(err)
		return
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Error(err)
		return
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func logger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// leftovers lists every kernel object that carries the instance's names.
func leftovers(t *testing.T, opts netns.Options) []string {
	t.Helper()
	var out []string
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // others make and remove devices
		links, err = netlink.LinkList()
	}
	must(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "sb"+opts.Instance+"-") {
			out = append(out, "device "+l.Attrs().Name)
		}
	}
	tables, err := (&nftables.Conn{}).ListTables()
	must(t, err)
	for _, table := range tables {
		if table.Name == "soulbox-"+opts.Instance {
			out = append(out, "table "+table.Name)
		}
	}
	files, err := os.ReadDir(opts.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, f := range files {
		out = append(out, "file "+f.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.HasPrefix(f[1], opts.Dir+"/") {
			out = append(out, "mount "+f[1])
		}
	}
	return out
}

func forwarding(t *testing.T, device string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + device + "/forwarding")
	must(t, err)
	return strings.TrimSpace(string(b))
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 15 s still not: %s", what)
		}
	}
}
