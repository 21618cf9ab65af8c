package buildkit

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestParseHost(t *testing.T) {
	tests := []struct {
		in       string
		want     host
		dial     string
		loopback bool
		bad      bool
	}{
		{"registry.example", host{addr: "registry.example"}, "registry.example:443", false, false},
		{"Registry.Example:5000", host{addr: "registry.example:5000"}, "registry.example:5000", false, false},
		{"http://10.0.0.1", host{addr: "10.0.0.1", plain: true}, "10.0.0.1:80", false, false},
		{"https://x/a/b/", host{addr: "x", path: "/a/b"}, "x:443", false, false},
		{"127.0.0.1:5000", host{addr: "127.0.0.1:5000"}, "127.0.0.1:5000", true, false},
		{"http://[::1]:5000", host{addr: "[::1]:5000", plain: true}, "[::1]:5000", true, false},
		{"localhost:5000", host{addr: "localhost:5000"}, "localhost:5000", true, false},
		{"ftp://x", host{}, "", false, true},
		{"", host{}, "", false, true},
		{"http://", host{}, "", false, true},
		{"u:p@x", host{}, "", false, true},
		{"x?y", host{}, "", false, true},
		{"x y", host{}, "", false, true},
	}
	for _, tt := range tests {
		got, err := parseHost(tt.in)
		if (soulbox.KindOf(err) == soulbox.Invalid) != tt.bad || !tt.bad && (err != nil || got != tt.want || got.dial() != tt.dial || got.loopback() != tt.loopback) {
			t.Errorf("parseHost(%q) = %+v, %v; dial %q", tt.in, got, err, got.dial())
		}
	}
}

// FuzzParseHost: what is accepted can be written into a configuration and
// dialled.
func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"http://10.0.0.1:5000/x", "[::1]:1", "a\"b", "a%0ab", "127.0.0.1:99999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHost(s)
		if err != nil {
			return
		}
		if h.addr == "" || strings.ContainsAny(h.addr+h.path, "\n\r\"\\") && !strings.HasPrefix(quote(h.addr+h.path), `"`) {
			t.Errorf("parseHost(%q) = %+v", s, h)
		}
		_ = h.loopback()
	})
}

func TestConfig(t *testing.T) {
	e := &Engine{Options: Options{
		Step: "/opt/soulbox-step", Cache: 4 << 30, Registries: []string{"http://10.0.0.1:5000", "127.0.0.1:5001", "tls.example"},
		Mirrors: map[string][]string{"docker.io": {"http://127.0.0.1:3128", "https://mirror.example/hub"}},
	}}
	var err error
	if e.network, err = e.parseNetwork(); err != nil {
		t.Fatal(err)
	}
	want := `root = "/build/cache"
[log]
level = "error"
[grpc]
address = ["fd://"]
[otel]
socketPath = "/run/otel.sock"
[cdi]
disabled = true
[history]
maxAge = 60
maxEntries = 1
[frontend."gateway.v0"]
enabled = false
[worker.containerd]
enabled = false
[worker.oci]
enabled = true
snapshotter = "overlayfs"
networkMode = "host"
binary = "/programs/soulbox-step"
platforms = ["linux/` + runtime.GOARCH + `"]
gc = true
[[worker.oci.gcpolicy]]
filters = ["type==source.local", "type==exec.cachemount", "type==source.git.checkout"]
keepDuration = "48h"
maxUsedSpace = 1073741824
[[worker.oci.gcpolicy]]
all = true
maxUsedSpace = 4294967296
[registry."10.0.0.1:5000"]
http = true
[registry."127.0.0.1:3128"]
http = true
[registry."docker.io"]
mirrors = ["127.0.0.1:3128", "mirror.example/hub"]
`
	if diff := cmp.Diff(want, e.config()); diff != "" {
		t.Errorf("config (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:3128", "127.0.0.1:5001"}, e.network.wires()); diff != "" {
		t.Errorf("wires (-want +got)\n%s", diff)
	}
	if got := e.network.proxyPort(); got != 3129 {
		t.Errorf("the proxy's port is %d although 3128 is a mirror's", got)
	}
	var where []string
	for _, h := range e.network.sources("index.docker.io") {
		where = append(where, h.addr+h.path)
	}
	if got := strings.Join(where, " "); got != "127.0.0.1:3128 mirror.example/hub index.docker.io" {
		t.Errorf("images of Docker's registry are looked for at %s", got)
	}
}

func TestPublic(t *testing.T) {
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1": true, "203.0.113.9": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "0.1.2.3": false, "224.0.0.1": false, "255.255.255.255": false, "240.0.0.1": false, "198.18.0.1": false, "192.0.0.1": false,
		"::1": false, "::": false, "fe80::1": false, "fd00::1": false, "ff02::1": false, "64:ff9b::a9fe:a9fe": false, "2002:a9fe:a9fe::": false, "fec0::1": false, "2001::1": false,
	} {
		if got := public(netip.MustParseAddr(addr)); got != want {
			t.Errorf("public(%s) = %v, want %v", addr, got, want)
		}
	}
	for _, addr := range []string{"[::ffff:169.254.169.254]:80", "[::ffff:10.0.0.1]:80", "[fe80::1%eth0]:80", "127.0.0.1:80", "nonsense"} {
		if err := checkPublic(addr); err == nil {
			t.Errorf("checkPublic(%s) lets it pass", addr)
		}
	}
}

func TestRegistryAddr(t *testing.T) {
	for _, s := range []string{"docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io", "registry-1.docker.io:443"} {
		if got := registryAddr(s); got != "docker.io" {
			t.Errorf("registryAddr(%q) = %q", s, got)
		}
	}
	for _, s := range []string{"ghcr.io", "GHCR.io:443", "https://ghcr.io", "ghcr.io/org"} {
		if got := registryAddr(s); got != "ghcr.io" {
			t.Errorf("registryAddr(%q) = %q", s, got)
		}
	}
	if registryAddr("x:5000") == registryAddr("x") {
		t.Error("registries of two ports are one")
	}
}
