package netns_test

import (
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

func TestReach(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, options(t))
	a, b := take(t, n), take(t, n)
	w.host.do(t, func() { w.serve(t, "tcp4", "0.0.0.0:8080") })
	inside(t, b, func() { w.serve(t, "tcp4", "0.0.0.0:8080") })
	sandbox := openNS(t, a.Path)

	for _, tt := range []struct {
		name, addr string
		want       bool
	}{
		{"internet", public + ":80", true},
		{"private range", private + ":80", false},
		{"cloud metadata", metadata + ":80", false},
		{"resolver by its own address", resolver + ":53", false},
		{"resolver on another port", resolver + ":80", false},
		{"host, uplink address", hostAddr + ":8080", false},
		{"host, gateway", a.Gateway.String() + ":8080", false},
		{"host, gateway of another sandbox", b.Gateway.String() + ":8080", false},
		{"another sandbox", b.Addr.String() + ":8080", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			err := sandbox.reach(t, "tcp4", tt.addr)
			if (err == nil) != tt.want {
				t.Errorf("reach %s = %v, want success %v", tt.addr, err, tt.want)
			}
			if took := time.Since(start); !tt.want && took > time.Second {
				t.Errorf("reach %s was refused after %v, want at once", tt.addr, took)
			}
		})
	}
	// The refusals prove something only if the host itself gets there.
	for _, addr := range []string{private + ":80", metadata + ":80", resolver + ":53", hostAddr + ":8080", b.Addr.String() + ":8080"} {
		if err := w.host.reach(t, "tcp4", addr); err != nil {
			t.Errorf("the host does not reach %s: %v", addr, err)
		}
	}
}

func TestMasquerade(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, options(t))
	if err := openNS(t, take(t, n).Path).reach(t, "tcp4", public+":80"); err != nil {
		t.Fatal(err)
	}
	if got := <-w.seen; got != hostAddr {
		t.Errorf("the internet sees %s, want the host's %s", got, hostAddr)
	}
}

func TestResolver(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, options(t))
	l := take(t, n)
	sandbox := openNS(t, l.Path)
	at := l.Gateway.String() + ":53"
	for _, network := range []string{"udp4", "tcp4"} {
		if err := sandbox.reach(t, network, at); err != nil {
			t.Errorf("ask the resolver over %s: %v", network, err)
		}
	}
	must(t, n.SetInternet(t.Context(), l.Slot, false))
	for _, network := range []string{"udp4", "tcp4"} {
		if err := sandbox.reach(t, network, at); err == nil {
			t.Errorf("an offline sandbox gets an answer over %s", network)
		}
	}
}

// A resolver that runs on the host itself is opened as narrowly.
func TestResolverOnHost(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	opts.Resolver = netip.MustParseAddr(hostAddr)
	n := w.open(t, opts)
	l := take(t, n)
	w.host.do(t, func() { w.serve(t, "tcp4", hostAddr+":53") })
	sandbox := openNS(t, l.Path)
	if err := sandbox.reach(t, "tcp4", l.Gateway.String()+":53"); err != nil {
		t.Errorf("ask the resolver on the host: %v", err)
	}
	if err := sandbox.reach(t, "tcp4", hostAddr+":53"); err == nil {
		t.Error("a sandbox reaches a port of the host by the host's address")
	}
	must(t, n.SetInternet(t.Context(), l.Slot, false))
	if err := sandbox.reach(t, "tcp4", l.Gateway.String()+":53"); err == nil {
		t.Error("an offline sandbox reaches the resolver on the host")
	}
}

func TestOffline(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, options(t))
	l := take(t, n)
	sandbox := openNS(t, l.Path)
	inside(t, l, func() { w.serve(t, "tcp4", "0.0.0.0:8080") })
	old, err := sandbox.dial(t, "tcp4", public+":80")
	if err != nil {
		t.Fatal(err)
	}
	must(t, echo(old, 2*time.Second))
	into, err := w.host.dial(t, "tcp4", l.Addr.String()+":8080")
	if err != nil {
		t.Fatal(err)
	}
	must(t, echo(into, 2*time.Second)) // its server has noted who called

	must(t, n.SetInternet(t.Context(), l.Slot, false))
	must(t, n.SetInternet(t.Context(), l.Slot, false)) // it repeats
	if err := echo(old, 2*time.Second); err == nil {
		t.Error("an existing connection goes on after the sandbox went offline")
	}
	if err := sandbox.reach(t, "tcp4", public+":80"); err == nil {
		t.Error("an offline sandbox reaches the internet")
	}
	w.quiet(t, "of an offline sandbox", func() {
		if c, err := sandbox.dial(t, "udp4", public+":53"); err == nil { // it must not get out either
			c.Write([]byte("secret"))
		}
	})
	if err := echo(into, 2*time.Second); err != nil {
		t.Errorf("the host's own connection to an offline sandbox: %v", err)
	}

	must(t, n.SetInternet(t.Context(), l.Slot, true))
	if err := sandbox.reach(t, "tcp4", public+":80"); err != nil {
		t.Errorf("back online: %v", err)
	}
}

func TestSpoofedSource(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, options(t))
	l, other := take(t, n), take(t, n)
	sandbox := openNS(t, l.Path)
	send := func(from string) {
		sandbox.do(t, func() {
			c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}).Dial("udp4", public+":53")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
		})
	}
	w.quiet(t, "with a spoofed source", func() {
		for _, from := range []string{"203.0.113.77", other.Addr.String()} {
			sandbox.do(t, func() { addAddr(t, "eth0", from+"/32") })
			send(from)
		}
	})
	send(l.Addr.String())
	select {
	case <-w.seen:
	case <-time.After(2 * time.Second):
		t.Error("a packet with the right source did not arrive")
	}
}

func TestInbound(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, options(t))
	l := take(t, n)
	inside(t, l, func() { w.serve(t, "tcp4", "0.0.0.0:8080") })
	at := l.Addr.String() + ":8080"
	if err := w.host.reach(t, "tcp4", at); err != nil {
		t.Errorf("the host connects to a sandbox: %v", err)
	}
	w.internet.do(t, func() {
		_, to, _ := net.ParseCIDR("10.214.0.0/16")
		must(t, netlink.RouteAdd(&netlink.Route{Dst: to, Gw: net.ParseIP(hostAddr)}))
	})
	if err := w.internet.reach(t, "tcp4", at); err == nil {
		t.Error("the internet connects to a sandbox")
	}
}

func TestIPv6(t *testing.T) {
	w := newWorld(t)
	opts := options(t)
	n := w.open(t, opts)
	l := take(t, n)
	device := deviceOf(opts, l)
	enable := func(device, cidr string) {
		a, err := netlink.ParseAddr(cidr)
		must(t, err)
		a.Flags = 0x02 // IFA_F_NODAD: usable at once
		link, err := netlink.LinkByName(device)
		if err != nil {
			t.Error(err)
			return
		}
		must(t, writeSysctl("ipv6", device, "disable_ipv6", "0"))
		must(t, netlink.AddrAdd(link, a))
	}
	// Neighbours are set because asking for them is refused already.
	know := func(device, addr, hardware string) {
		mac, err := net.ParseMAC(hardware)
		must(t, err)
		link, err := netlink.LinkByName(device)
		if err != nil {
			t.Error(err)
			return
		}
		must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(addr), HardwareAddr: mac}))
	}
	w.host.do(t, func() {
		enable(device, "fd00:214::1/64")
		know(device, "fd00:214::2", "02:5b:0a:d6:00:06")
		enable(uplink, "fd00:99::1/64")
		must(t, writeSysctl("ipv6", "all", "forwarding", "1"))
		w.serve(t, "tcp6", "[fd00:214::1]:8080")
	})
	w.internet.do(t, func() {
		enable("eth0", "fd00:99::2/64")
		must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fd00:99::1")}))
		w.serve(t, "tcp6", "[fd00:99::2]:80")
	})
	sandbox := openNS(t, l.Path)
	sandbox.do(t, func() {
		enable("eth0", "fd00:214::2/64")
		know("eth0", "fd00:214::1", "02:5b:0a:d6:00:05")
		must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fd00:214::1")}))
	})
	eventually(t, "the host reaches the internet over IPv6", func() bool {
		return w.host.reach(t, "tcp6", "[fd00:99::2]:80") == nil
	})
	for _, addr := range []string{"[fd00:214::1]:8080", "[fd00:99::2]:80"} {
		if err := sandbox.reach(t, "tcp6", addr); err == nil {
			t.Errorf("a sandbox that gave itself an IPv6 address reaches %s", addr)
		}
	}
}

// Docker and ufw drop what is forwarded unless their table lets it pass.
func TestForeignForwardPolicy(t *testing.T) {
	for _, tt := range []struct{ name, chain, ruleset string }{
		{"docker", "DOCKER-USER", `table ip filter {
			chain DOCKER-USER { counter return; }
			chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; }
		}`},
		{"ufw", "FORWARD", `table ip filter {
			chain FORWARD { type filter hook forward priority filter; policy drop; }
		}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			nft(t, tt.ruleset)
			t.Cleanup(func() { nft(t, "delete table ip filter") })
			opts := options(t)
			n := w.open(t, opts)
			if err := openNS(t, take(t, n).Path).reach(t, "tcp4", public+":80"); err != nil {
				t.Errorf("reach the internet: %v", err)
			}
			must(t, n.Close())
			w.open(t, opts) // must not add them twice
			if got := strings.Count(nft(t, "list chain ip filter "+tt.chain), `comment "soulbox-t"`); got != 2 {
				t.Errorf("%s has %d rules of ours, want 2", tt.chain, got)
			}
			purge(t, opts)
			if left := nft(t, "list table ip filter"); strings.Contains(left, "soulbox-t") {
				t.Errorf("rules left in:\n%s", left)
			}
		})
	}
}

// A flushed ruleset must not leave sandboxes unguarded for long.
func TestRulesComeBack(t *testing.T) {
	w := newWorld(t)
	n := w.open(t, options(t))
	l, off := take(t, n), take(t, n)
	must(t, n.SetInternet(t.Context(), off.Slot, false))
	nft(t, "flush ruleset")
	eventually(t, "the table is back", func() bool {
		tables, err := (&nftables.Conn{}).ListTables()
		must(t, err)
		return len(tables) > 0
	})
	if err := openNS(t, l.Path).reach(t, "tcp4", public+":80"); err != nil {
		t.Errorf("reach the internet: %v", err)
	}
	if err := openNS(t, off.Path).reach(t, "tcp4", public+":80"); err == nil {
		t.Error("an offline sandbox is online after the rules came back")
	}
}

// nft runs the nft program, which is what an administrator would see.
func nft(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	if t.Context().Err() != nil {
		cmd = exec.Command("nft", "-f", "-") // in a cleanup
	}
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("nft %s: %v\n%s", script, err, out)
	}
	return string(out)
}
