package buildkit

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/stepwire"
)

// A host is a registry, or a mirror of one, that the operator named.
type host struct {
	addr  string // host:port, or a host alone for port 443
	path  string // below which a mirror's repositories are; empty, or with a leading slash
	plain bool   // without TLS
}

// parseHost reads [http[s]://]host[:port][/path].
func parseHost(s string) (host, error) {
	rest := s
	var h host
	switch scheme, after, ok := strings.Cut(s, "://"); {
	case !ok:
	case scheme == "http":
		h.plain, rest = true, after
	case scheme == "https":
		rest = after
	default:
		return host{}, soulbox.Errorf(soulbox.Invalid, "registry %.200q: the scheme is http or https", s)
	}
	u, err := url.Parse("//" + rest)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return host{}, soulbox.Errorf(soulbox.Invalid, "registry %.200q: write host, host:port or http://host:port", s)
	}
	h.addr, h.path = strings.ToLower(u.Host), strings.TrimRight(u.Path, "/")
	return h, nil
}

// dial returns where h listens.
func (h host) dial() string {
	if _, _, err := net.SplitHostPort(h.addr); err == nil {
		return h.addr
	}
	if h.plain {
		return net.JoinHostPort(h.addr, "80")
	}
	return net.JoinHostPort(h.addr, "443")
}

// loopback reports whether h is on this machine's loopback device, which no
// proxy is asked for.
func (h host) loopback() bool {
	name, _, _ := net.SplitHostPort(h.dial())
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.IsLoopback()
}

// A network is what the options say about registries.
type network struct {
	hosts   []host            // that may be reached whatever their address is, by address
	mirrors map[string][]host // by registry
}

func (o *Options) parseNetwork() (network, error) {
	n := network{mirrors: map[string][]host{}}
	for _, s := range o.Registries {
		h, err := parseHost(s)
		if err != nil {
			return network{}, err
		}
		if h.path != "" {
			return network{}, soulbox.Errorf(soulbox.Invalid, "registry %.200q: write it without a path", s)
		}
		n.hosts = append(n.hosts, h)
	}
	for registry, all := range o.Mirrors {
		for _, s := range all {
			h, err := parseHost(s)
			if err != nil {
				return network{}, err
			}
			n.mirrors[registry] = append(n.mirrors[registry], h)
			n.hosts = append(n.hosts, host{addr: h.addr, plain: h.plain})
		}
	}
	slices.SortFunc(n.hosts, func(a, b host) int { return strings.Compare(a.addr, b.addr) })
	for i := 1; i < len(n.hosts); i++ {
		if a, b := n.hosts[i-1], n.hosts[i]; a.addr == b.addr && a.plain != b.plain {
			return network{}, soulbox.Errorf(soulbox.Invalid, "registry %s cannot be with TLS and without", a.addr)
		}
	}
	n.hosts = slices.Compact(n.hosts)
	return n, nil
}

// wires returns the addresses that BuildKit reaches on its loopback device as
// if that were this machine's.
func (n *network) wires() []string {
	var addrs []string
	for _, h := range n.hosts {
		if h.loopback() {
			name, port, _ := net.SplitHostPort(h.dial())
			if name == "localhost" {
				name = "127.0.0.1"
			}
			addrs = append(addrs, net.JoinHostPort(name, port))
		}
	}
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

// Uploads, cache mounts and checkouts are easily had again. They get one part in
// scratchShare of the cache, once nobody has used them for two days.
const scratchShare = 4

// config returns buildkitd.toml.
func (e *Engine) config() string {
	n := &e.network
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("root = %s", quote(path.Join(stepwire.Dir, "cache")))
	line("[log]\nlevel = \"error\"")
	line("[grpc]\naddress = [\"fd://\"]")
	line("[otel]\nsocketPath = \"/run/otel.sock\"")
	line("[cdi]\ndisabled = true")
	line("[history]\nmaxAge = 60\nmaxEntries = 1")
	// A Dockerfile's frontend is ours, and never an image that it names.
	line("[frontend.\"gateway.v0\"]\nenabled = false")
	line("[worker.containerd]\nenabled = false")
	line("[worker.oci]\nenabled = true\nsnapshotter = \"overlayfs\"\nnetworkMode = \"host\"")
	line("binary = %s\nplatforms = [%s]\ngc = true", quote(inside(e.Step)), quote("linux/"+runtime.GOARCH))
	line("[[worker.oci.gcpolicy]]\nfilters = [\"type==source.local\", \"type==exec.cachemount\", \"type==source.git.checkout\"]")
	line("keepDuration = \"48h\"\nmaxUsedSpace = %d", e.Cache/scratchShare)
	line("[[worker.oci.gcpolicy]]\nall = true\nmaxUsedSpace = %d", e.Cache)
	plain := map[string]bool{}
	for _, h := range n.hosts {
		plain[h.addr] = h.plain
	}
	names := slices.Collect(maps.Keys(n.mirrors))
	for a, p := range plain {
		if p && n.mirrors[a] == nil {
			names = append(names, a)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		line("[registry.%s]", quote(name))
		if plain[name] {
			line("http = true")
		}
		var mirrors []string
		for _, h := range n.mirrors[name] {
			mirrors = append(mirrors, quote(h.addr+h.path))
		}
		if len(mirrors) > 0 {
			line("mirrors = [%s]", strings.Join(mirrors, ", "))
		}
	}
	return b.String()
}

// quote writes a string for TOML, which reads JSON's.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // a string always can be written
	}
	return string(b)
}
