package netns_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/netns"
)

func deviceOf(opts netns.Options, l *netns.Lease) string {
	return fmt.Sprintf("sb%s-%d", opts.Instance, l.Slot)
}

func writeSysctl(family, device, name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net", family, "conf", device, name), []byte(value), 0)
}

func purge(t *testing.T, opts netns.Options) {
	t.Helper()
	must(t, netns.Purge(context.WithoutCancel(t.Context()), logger(t), opts))
}

func TestLease(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	n := w.open(t, opts)
	got := take(t, n)
	want := &netns.Lease{
		Slot: 1, Path: filepath.Join(opts.Dir, "1"), Interface: "eth0",
		Gateway: netip.MustParseAddr("10.214.0.5"), Addr: netip.MustParseAddr("10.214.0.6"),
	}
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("first lease (-want +got):\n%s", diff)
	}
	again, err := n.Lease(1)
	must(t, err)
	if diff := cmp.Diff(want, again, same); diff != "" {
		t.Errorf("Lease(1) (-want +got):\n%s", diff)
	}
	if _, err := n.Lease(2); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Lease of a free slot = %v, want not found", err)
	}
	if err := n.SetInternet(t.Context(), 2, false); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("SetInternet of a free slot = %v, want not found", err)
	}
}

// gVisor copies what it finds on eth0 and refuses a second default route, a
// route without a gateway, and devices that are down.
func TestInsideAsGVisorReadsIt(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, options(t))
	l := take(t, n)
	inside(t, l, func() {
		devices, err := net.Interfaces()
		must(t, err)
		var got []string
		for _, d := range devices {
			if d.Flags&net.FlagUp == 0 {
				continue // tunnels that every new namespace has
			}
			addrs, err := d.Addrs()
			must(t, err)
			got = append(got, fmt.Sprint(d.Name, " ", d.MTU, " ", addrs))
		}
		want := []string{"lo 65536 [127.0.0.1/8 ::1/128]", fmt.Sprintf("eth0 %d [%s/30]", uplinkMTU, l.Addr)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("devices (-want +got):\n%s", diff)
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		must(t, err)
		got = nil
		for _, r := range routes {
			got = append(got, fmt.Sprint(r.Dst, " ", r.Gw))
		}
		want = []string{"0.0.0.0/0 " + l.Gateway.String(), "10.214.0.4/30 <nil>"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("routes (-want +got):\n%s", diff)
		}
	})
}

func TestReadyAreTakenAtOnce(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	opts.Ready = 3
	n := w.open(t, opts)
	full := func() bool {
		files, err := os.ReadDir(opts.Dir)
		must(t, err)
		return len(files) == 3
	}
	eventually(t, "3 networks are ready", full)
	start := time.Now()
	l := take(t, n)
	t.Logf("Take of a ready network: %v", time.Since(start))
	if l.Slot != 1 { // the third may not be finished yet, the first is
		t.Errorf("Take = slot %d, want the first that was made ahead of time", l.Slot)
	}
	eventually(t, "one more is made", func() bool {
		files, err := os.ReadDir(opts.Dir)
		must(t, err)
		return len(files) == 4
	})
	must(t, n.Close())
	got := slices.DeleteFunc(leftovers(t, opts), func(s string) bool { return strings.HasPrefix(s, "table ") })
	want := []string{"device " + deviceOf(opts, l), "file 1", "mount " + l.Path}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after Close (-want +got):\n%s", diff)
	}
	if err := openNS(t, l.Path).reach(t, "tcp4", public+":80"); err != nil {
		t.Errorf("a taken network after Close: %v", err)
	}
	if _, err := n.Take(t.Context()); soulbox.KindOf(err) != soulbox.Unavailable {
		t.Errorf("Take after Close = %v, want unavailable", err)
	}
}

func TestConcurrentTakes(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	opts.Ready = 8
	n := w.open(t, opts)
	var mu sync.Mutex
	taken := make(map[netns.Slot]*netns.Lease)
	var all sync.WaitGroup
	start := time.Now()
	for range 50 {
		all.Go(func() {
			l, err := n.Take(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			taken[l.Slot] = l
		})
	}
	all.Wait()
	t.Logf("50 takes at once: %v", time.Since(start))
	if len(taken) != 50 {
		t.Fatalf("50 takes gave %d different slots", len(taken))
	}
	for _, l := range taken {
		if err := openNS(t, l.Path).reach(t, "tcp4", public+":80"); err != nil {
			t.Errorf("slot %d: %v", l.Slot, err)
		}
	}
	start = time.Now()
	for s := range taken {
		n.Release(s)
		n.Release(s)
	}
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("100 releases took %v, want them off the caller's path", took)
	}
	eventually(t, "only ready networks are left", func() bool {
		files, err := os.ReadDir(opts.Dir)
		must(t, err)
		return len(files) == opts.Ready
	})
	t.Logf("50 released and removed: %v", time.Since(start))
}

func TestEveryNetworkInUse(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	opts.Prefix = netip.MustParsePrefix("10.214.3.0/28")
	n := w.open(t, opts)
	first := take(t, n)
	take(t, n)
	take(t, n)
	if _, err := n.Take(t.Context()); soulbox.KindOf(err) != soulbox.Exhausted {
		t.Fatalf("Take of a fourth of three networks = %v, want exhausted", err)
	}
	if err := openNS(t, first.Path).reach(t, "tcp4", public+":80"); err != nil {
		t.Fatal(err)
	}
	if tracked(t, first.Addr) == 0 {
		t.Fatal("the kernel tracks no connection of the sandbox: the check below proves nothing")
	}
	must(t, n.SetInternet(t.Context(), first.Slot, false))
	n.Release(first.Slot)
	var again *netns.Lease
	eventually(t, "a released network can be taken", func() bool {
		l, err := n.Take(t.Context())
		again = l
		return err == nil
	})
	if again.Slot != first.Slot {
		t.Fatalf("Take = slot %d, want the free %d", again.Slot, first.Slot)
	}
	if got := tracked(t, first.Addr); got != 0 {
		t.Errorf("the new sandbox inherits %d tracked connections", got)
	}
	if err := openNS(t, again.Path).reach(t, "tcp4", public+":80"); err != nil {
		t.Errorf("a reused slot does not start online: %v", err)
	}
}

func tracked(t *testing.T, from netip.Addr) int {
	t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
	must(t, err)
	n := 0
	for _, f := range flows {
		if f.Forward.SrcIP.String() == from.String() {
			n++
		}
	}
	return n
}

const crashVar = "SOULBOX_NETNS_TEST_CRASH"

// crash opens a network, takes three, puts the second offline, says which they
// are and dies without a chance to clean up.
func crash(dir string) {
	opts := netns.Options{Instance: "t", Dir: dir, Prefix: netip.MustParsePrefix("10.214.0.0/16"), Resolver: netip.MustParseAddr(resolver), Ready: 4}
	n, err := netns.Open(context.Background(), slog.New(slog.DiscardHandler), opts, nil)
	if err != nil {
		panic(err)
	}
	var slots []netns.Slot
	for range 3 {
		l, err := n.Take(context.Background())
		if err != nil {
			panic(err)
		}
		slots = append(slots, l.Slot)
	}
	if err := n.SetInternet(context.Background(), slots[1], false); err != nil {
		panic(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(slots); err != nil {
		panic(err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func TestAfterKill(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), crashVar+"="+opts.Dir)
	cmd.Stderr = t.Output()
	out, _ := cmd.Output() // it was killed
	var slots []netns.Slot
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&slots); err != nil || len(slots) != 3 {
		t.Fatalf("the killed server took %v: %v", slots, err)
	}
	if len(leftovers(t, opts)) < 10 {
		t.Fatalf("the killed server left only %q: the check below proves nothing", leftovers(t, opts))
	}

	const gone = 777 // in a record, but lost in a reboot
	n := w.open(t, opts, slots[0], slots[1], gone)
	var names []string
	for _, s := range slots[:2] {
		names = append(names, fmt.Sprintf("device sbt-%d", s))
	}
	names = append(names, "table soulbox-t")
	for _, kind := range []string{"file %d", "mount " + opts.Dir + "/%d"} {
		for _, s := range slots[:2] {
			names = append(names, fmt.Sprintf(kind, s))
		}
	}
	if diff := cmp.Diff(names, leftovers(t, opts), cmp.Transformer("sort", func(in []string) []string { return slices.Sorted(slices.Values(in)) })); diff != "" {
		t.Errorf("after Open (-want +got):\n%s", diff)
	}
	on, err := n.Lease(slots[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := openNS(t, on.Path).reach(t, "tcp4", public+":80"); err != nil {
		t.Errorf("a kept network: %v", err)
	}
	off, err := n.Lease(slots[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := openNS(t, off.Path).reach(t, "tcp4", public+":80"); err == nil {
		t.Error("a network that was kept offline is online")
	}
	if _, err := n.Lease(gone); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Lease of a slot that is gone = %v, want not found", err)
	}
	if l := take(t, n); l.Slot == slots[0] || l.Slot == slots[1] {
		t.Errorf("slot %d was given out twice", l.Slot)
	}
	must(t, n.Close())

	w.open(t, opts)
	if got := leftovers(t, opts); !slices.Equal(got, []string{"table soulbox-t"}) {
		t.Errorf("after Open with nothing to keep: %q", got)
	}
}

// A server can die between any two steps of making a network.
func TestHalfMadeIsRemoved(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	must(t, os.MkdirAll(opts.Dir, 0o700))
	must(t, os.WriteFile(filepath.Join(opts.Dir, "3"), nil, 0o400)) // named, not bound
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName = "sbt-4", "peer4" // no namespace, no address
	must(t, netlink.LinkAdd(veth))
	n := w.open(t, opts, 3, 4) // that they are in a record does not make them whole
	if got := leftovers(t, opts); !slices.Equal(got, []string{"table soulbox-t"}) {
		t.Errorf("after Open: %q", got)
	}
	for _, s := range []netns.Slot{3, 4} {
		if _, err := n.Lease(s); soulbox.KindOf(err) != soulbox.NotFound {
			t.Errorf("Lease(%d) = %v, want not found", s, err)
		}
	}
}

func TestPurge(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	opts.Ready = 2
	if got := forwarding(t, uplink); got != "0" {
		t.Fatalf("the uplink forwards already: %s", got)
	}
	n := w.open(t, opts)
	take(t, n)
	if got := forwarding(t, uplink); got != "1" {
		t.Errorf("forwarding of the uplink is %s after Open", got)
	}
	if all, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); strings.TrimSpace(string(all)) != "0" {
		t.Errorf("the global forwarding switch was touched")
	}
	other := opts
	other.Instance, other.Prefix, other.Dir = "u", netip.MustParsePrefix("10.215.0.0/16"), filepath.Join(t.TempDir(), "netns")
	m := w.open(t, other)
	second := take(t, m)

	must(t, n.Close())
	purge(t, opts)
	if got := leftovers(t, opts); len(got) != 0 {
		t.Errorf("left after Purge: %q", got)
	}
	if _, err := os.Stat(opts.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder is left after Purge: %v", err)
	}
	if err := openNS(t, second.Path).reach(t, "tcp4", public+":80"); err != nil {
		t.Errorf("another instance after Purge: %v", err)
	}
	must(t, m.Close())
	purge(t, other)
	if got := forwarding(t, uplink); got != "0" {
		t.Errorf("forwarding of the uplink is %s after the last Purge, want what it was", got)
	}
	purge(t, opts) // it repeats
}

func TestPrefixIsTaken(t *testing.T) {
	newWorld(t)
	_, dst, err := net.ParseCIDR("10.213.128.0/20")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(public)}))
	opts := options(t)
	opts.Prefix = netip.MustParsePrefix("10.213.0.0/16")
	_, err = netns.Open(t.Context(), logger(t), opts, nil)
	if soulbox.KindOf(err) != soulbox.Conflict || !strings.Contains(err.Error(), "10.213.128.0/20") {
		t.Errorf("Open with a routed prefix = %v, want a conflict that names the route", err)
	}
	if got := leftovers(t, opts); len(got) != 0 {
		t.Errorf("left after a refused Open: %q", got)
	}
	opts.Prefix = netip.Prefix{}
	route := func(prefix string) {
		t.Helper()
		_, dst, err := net.ParseCIDR(prefix)
		must(t, err)
		must(t, netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(public)}))
	}
	chosen := func(opts netns.Options) netip.Prefix {
		t.Helper()
		n, err := netns.Open(t.Context(), logger(t), opts, nil)
		must(t, err)
		addr := take(t, n).Addr
		must(t, n.Close())
		purge(t, opts)
		return netip.PrefixFrom(addr, 16).Masked()
	}
	first := chosen(opts)
	if again := chosen(opts); again != first {
		t.Errorf("the same instance chose %s, then %s", first, again)
	}
	other := opts
	other.Instance = "u"
	if got := chosen(other); got == first {
		t.Errorf("two instances chose %s, one as the other", got)
	}
	route(first.String())
	if got := chosen(opts); got.Overlaps(first) {
		t.Errorf("chose %s, which is routed", got)
	}
	route("10.0.0.0/8")
	if got, want := chosen(opts), netip.MustParsePrefix("172.30.0.0/16"); got != want {
		t.Errorf("chose %s where all of 10 is routed, want %s", got, want)
	}
	route("172.16.0.0/12")
	route("198.18.0.0/15")
	if _, err = netns.Open(t.Context(), logger(t), opts, nil); soulbox.KindOf(err) != soulbox.Conflict || !strings.Contains(err.Error(), "configure a network prefix") {
		t.Errorf("Open where everything is routed = %v, want a conflict that says what to do", err)
	}
}

// The prefix of running networks cannot change under them.
func TestPrefixOfKeptNetworks(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	opts.Prefix = netip.Prefix{}
	n := w.open(t, opts)
	l := take(t, n)
	must(t, n.Close())
	other := opts
	other.Prefix = netip.MustParsePrefix("10.216.0.0/16")
	if _, err := netns.Open(t.Context(), logger(t), other, []netns.Slot{l.Slot}); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Open with another prefix = %v, want a conflict", err)
	}
	n = w.open(t, opts, l.Slot)
	again, err := n.Lease(l.Slot)
	if err != nil || again.Addr != l.Addr {
		t.Errorf("Lease = %v, %v, want address %s", again, err, l.Addr)
	}
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts netns.Options
	}{
		{"instance with a dash", netns.Options{Instance: "a-b"}},
		{"instance like a slot", netns.Options{Instance: "7"}},
		{"long instance", netns.Options{Instance: "abcdefgh"}},
		{"relative folder", netns.Options{Dir: "netns"}},
		{"IPv6 prefix", netns.Options{Prefix: netip.MustParsePrefix("fd00::/64")}},
		{"prefix with host bits", netns.Options{Prefix: netip.MustParsePrefix("10.214.0.1/16")}},
		{"prefix without room", netns.Options{Prefix: netip.MustParsePrefix("10.214.0.0/29")}},
		{"loopback resolver", netns.Options{Resolver: netip.MustParseAddr("127.0.0.53")}},
		{"IPv6 resolver", netns.Options{Resolver: netip.MustParseAddr("fd00::53")}},
		{"negative ready", netns.Options{Ready: -1}},
		{"more ready than fit", netns.Options{Ready: 4, Prefix: netip.MustParsePrefix("10.214.0.0/28")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.opts.Dir == "" {
				tt.opts.Dir = t.TempDir()
			}
			_, err := netns.Open(t.Context(), logger(t), tt.opts, nil)
			if soulbox.KindOf(err) != soulbox.Invalid {
				t.Errorf("Open = %v, want invalid", err)
			}
		})
	}
}

// A program in a network that nobody keeps ends with it; one in a network that
// is kept, and one on the host, live on.
func TestEvict(t *testing.T) {
	newWorld(t)
	opts := options(t)
	n, err := netns.Open(t.Context(), logger(t), opts, nil)
	must(t, err)
	asked, kept, left := take(t, n), take(t, n), take(t, n)
	inAsked, inKept, inLeft, outside := program(t, asked), program(t, kept), program(t, left), program(t, nil)
	if err := n.Evict(asked.Slot); err != nil {
		t.Error(err)
	}
	wantKilled(t, inAsked)
	if err := n.Evict(asked.Slot); err != nil { // it repeats
		t.Error(err)
	}
	if err := n.Evict(999); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Evict of a slot that is not in use: %v, want NotFound", err)
	}
	must(t, n.Close())
	n, err = netns.Open(t.Context(), logger(t), opts, []netns.Slot{kept.Slot})
	must(t, err)
	wantKilled(t, inLeft)
	for what, p := range map[string]*exec.Cmd{"the kept network": inKept, "the host's": outside} {
		if err := p.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("the program in %s: %v", what, err)
		}
	}
	must(t, n.Close())
	purge(t, opts)
	wantKilled(t, inKept)
}

// program starts one that sleeps in the network of l, or of the host.
func program(t *testing.T, l *netns.Lease) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "1h")
	start := func() { must(t, cmd.Start()) }
	if l == nil {
		start()
	} else {
		inside(t, l, start)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // as above
	})
	return cmd
}

func wantKilled(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the program ended with %v, want killed", err)
	}
}
