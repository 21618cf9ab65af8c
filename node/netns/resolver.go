package netns

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"strings"
)

// chooseResolver returns the resolver that sandboxes use when none is
// configured: the host's own first one that is not on a loopback address. A
// loopback one is the stub of systemd-resolved, whose real resolvers stand in
// the second file.
func chooseResolver() netip.Addr {
	for _, file := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a host without the file simply has no resolver there
		}
		if addr, ok := firstResolver(text); ok {
			return addr
		}
	}
	return netip.AddrFrom4([4]byte{1, 1, 1, 1})
}

// firstResolver returns the first nameserver of a resolv.conf(5) that packets of
// a sandbox can be sent on to.
func firstResolver(text []byte) (netip.Addr, bool) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(words[1])
		if err == nil && addr.Is4() && !addr.IsLoopback() && !addr.IsUnspecified() && !addr.IsMulticast() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}
