package server

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestConfigDefaults(t *testing.T) {
	got, err := Config{Data: "/var/lib/soulbox"}.filled()
	if err != nil {
		t.Fatalf("filled: %v", err)
	}
	want := Config{
		Listen: "127.0.0.1:7070", Data: "/var/lib/soulbox", Database: "sqlite", Metrics: "127.0.0.1:7071", Cache: "/var/cache/soulbox",
		MaxSandboxes: 1000, MaxHours: 24, MemoryMB: 1024, CPUs: 2, DiskMB: 10240, WarmMB: 512, SnapshotsMB: 50 << 10, ReadyNetworks: 24,
		Builds: 1, BuildMinutes: 60, BuildCacheMB: 20 << 10, BuildMemoryMB: 2048, BuildDiskMB: 10 << 10,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	size := soulbox.Size{CPUs: 2, Memory: soulbox.GiB, Disk: 10 * soulbox.GiB, PIDs: 4096}
	if diff := cmp.Diff(size, got.size()); diff != "" {
		t.Errorf("size (-want +got):\n%s", diff)
	}
	step := soulbox.Size{CPUs: 2, Memory: 2 * soulbox.GiB, Disk: 10 * soulbox.GiB, PIDs: 4096}
	if diff := cmp.Diff(step, got.step()); diff != "" {
		t.Errorf("size of a step (-want +got):\n%s", diff)
	}
	// Filling what is full changes nothing.
	if again, err := got.filled(); err != nil || !cmp.Equal(again, got) {
		t.Errorf("filled again: %+v, %v; want %+v", again, err, got)
	}
}

func TestConfigKeepsWhatIsSet(t *testing.T) {
	want := Config{
		Listen: "[::1]:80", Data: "/data", Database: "postgres://box@db/box", Metrics: "off", Domain: "box.example.com", Base: "python:3.12",
		Cache: "/cache", Network: "10.200.0.0/16", Resolver: "9.9.9.9", MaxSandboxes: 3, MaxHours: 1, MemoryMB: 128, CPUs: 1, DiskMB: 64, WarmMB: -1, SnapshotsMB: 7, ReadyNetworks: 2,
		Builds: 3, BuildMinutes: 5, BuildCacheMB: 512, BuildMemoryMB: 256, BuildDiskMB: 100,
		Registries: []string{"10.0.0.1:5000"}, RegistryMirrors: map[string][]string{"docker.io": {"http://10.0.0.1:5000"}},
		Templates: []string{"python", "go"},
		Isolation: []string{"gvisor", "runc"}, Version: "1", Fault: "create/recorded",
	}
	if got, err := want.filled(); err != nil || !cmp.Equal(got, want) {
		t.Errorf("filled: %+v, %v; want %+v", got, err, want)
	}
}

func TestConfigData(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"box", "./box", here + "/box", here + "//x/../box/"} {
		got, err := Config{Data: data}.filled()
		if want := filepath.Join(here, "box"); err != nil || got.Data != want {
			t.Errorf("data folder %q is %q, %v; want %q", data, got.Data, err, want)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	tests := []struct {
		name string
		set  func(*Config)
		says string // what would be right
	}{
		{"no data folder", func(c *Config) { c.Data = "" }, "the data folder is not set"},
		{"listen: no port", func(c *Config) { c.Listen = "localhost" }, `listen address "localhost": write HOST:PORT, such as 127.0.0.1:7070`},
		{"listen: only a port", func(c *Config) { c.Listen = "7070" }, `listen address "7070": write HOST:PORT`},
		{"listen: a URL", func(c *Config) { c.Listen = "http://localhost:7070" }, "write HOST:PORT"},
		{"listen: bare IPv6", func(c *Config) { c.Listen = "::1" }, "write HOST:PORT"},
		{"metrics: on", func(c *Config) { c.Metrics = "on" }, `metrics address "on": write HOST:PORT or off`},
		{"database: mysql", func(c *Config) { c.Database = "mysql://x" }, "sqlite or a URL that begins with postgres://"},
		{"database: a file", func(c *Config) { c.Database = "/var/lib/box.db" }, "sqlite or a URL that begins with postgres://"},
		{"database: no URL", func(c *Config) { c.Database = "postgres://%zz" }, "sqlite or a URL that begins with postgres://"},
		{"network: an address", func(c *Config) { c.Network = "10.1.2.3" }, `network "10.1.2.3": write an IPv4 prefix, such as 10.213.0.0/16`},
		{"network: IPv6", func(c *Config) { c.Network = "fd00::/8" }, "write an IPv4 prefix"},
		{"resolver: a name", func(c *Config) { c.Resolver = "dns.example.com" }, `resolver "dns.example.com": write an IPv4 address`},
		{"resolver: with a port", func(c *Config) { c.Resolver = "9.9.9.9:53" }, "write an IPv4 address"},
		{"resolver: IPv6", func(c *Config) { c.Resolver = "2620:fe::fe" }, "write an IPv4 address"},
		{"sandboxes: negative", func(c *Config) { c.MaxSandboxes = -1 }, "max_sandboxes is -1; it can be 1 to 10000"},
		{"warm: less than none", func(c *Config) { c.WarmMB = -2 }, "warm_mb is -2; it can be -1 to 1048576"},
		{"no network waits", func(c *Config) { c.ReadyNetworks = -1 }, "ready_networks is -1; it can be 1 to 1000"},
		{"sandboxes: too many", func(c *Config) { c.MaxSandboxes = 10_001 }, "max_sandboxes is 10001; it can be 1 to 10000"},
		{"hours: too many", func(c *Config) { c.MaxHours = 8761 }, "max_hours is 8761; it can be 1 to 8760"},
		{"memory: too little", func(c *Config) { c.MemoryMB = 127 }, "memory_mb is 127; it can be 128 to 1048576"},
		{"memory: bytes", func(c *Config) { c.MemoryMB = 1 << 30 }, "it can be 128 to 1048576"},
		{"CPUs: negative", func(c *Config) { c.CPUs = -2 }, "cpus is -2; it can be 1 to 1024"},
		{"isolation: unknown", func(c *Config) { c.Isolation = []string{"gvisor", "docker"} }, `isolation: "docker" is none of gvisor and runc`},
		{"isolation: empty", func(c *Config) { c.Isolation = []string{""} }, "is none of gvisor and runc"},
		{"builds: none", func(c *Config) { c.Builds = -1 }, "builds is -1; it can be 1 to 100"},
		{"builds: too long", func(c *Config) { c.BuildMinutes = 1441 }, "build_minutes is 1441; it can be 1 to 1440"},
		{"builds: no cache", func(c *Config) { c.BuildCacheMB = 255 }, "build_cache_mb is 255; it can be 256 to 1073741824"},
		{"builds: little memory", func(c *Config) { c.BuildMemoryMB = 127 }, "build_memory_mb is 127; it can be 128 to 1048576"},
		{"builds: little disk", func(c *Config) { c.BuildDiskMB = 63 }, "build_disk_mb is 63; it can be 64 to 1073741824"},
		{"templates: unknown", func(c *Config) { c.Templates = []string{"go", "cobol"} }, `templates: "cobol" is none of the templates code-interpreter-v1, data-science, go, httpbin, machine-learning, node, python, tensorflow`},
		{"templates: what is there anyway", func(c *Config) { c.Templates = []string{"base"} }, `templates: "base" is none of`},
		{"templates: a path", func(c *Config) { c.Templates = []string{"../base"} }, "is none of"},
		{"blobs: a folder", func(c *Config) { c.Blobs = "/var/blobs" }, `blobs "/var/blobs": write s3://BUCKET or s3://BUCKET/PREFIX`},
		{"blobs: no bucket", func(c *Config) { c.Blobs = "s3:///prefix" }, "write s3://BUCKET"},
		{"blobs: no URL", func(c *Config) { c.Blobs, c.BlobsEndpoint = "s3://b", "localhost:9000" }, `blobs_endpoint "localhost:9000": write a URL, such as http://localhost:9000`},
		{"blobs: an endpoint of nothing", func(c *Config) { c.BlobsEndpoint = "http://localhost:9000" }, "blobs_endpoint and blobs_region belong to blobs, which is not set"},
		{"disk: too little", func(c *Config) { c.DiskMB = 63 }, "disk_mb is 63; it can be 64 to 1073741824"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Data: "/data"}
			tt.set(&c)
			_, err := c.filled()
			if soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(soulbox.MessageOf(err), tt.says) {
				t.Errorf("filled: %v, want Invalid and %q", err, tt.says)
			}
		})
	}
	t.Run("a password is not repeated", func(t *testing.T) {
		_, err := Config{Data: "/data", Database: "mysql://root:secret@db"}.filled()
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("filled: %v, want an error without the password", err)
		}
	})
}

// Kernel objects are found again by this name after an upgrade, so it may never
// change; and it becomes part of interface names, which are short.
func TestInstance(t *testing.T) {
	for data, want := range map[string]string{"/var/lib/soulbox": "b681ed", "/data": "bbd474"} {
		if got := (Config{Data: data}).instance(); got != want {
			t.Errorf("instance of %s is %s, want %s", data, got, want)
		}
		if got := (Config{Data: data, Listen: "other", CPUs: 9}).instance(); got != want {
			t.Errorf("instance of %s with other settings is %s, want %s", data, got, want)
		}
	}
	if got := (Config{Data: "/data"}).runDir(); got != "/run/soulbox/"+(Config{Data: "/data"}).instance() {
		t.Errorf("run folder is %s", got)
	}
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func TestServerURL(t *testing.T) {
	for addr, want := range map[net.Addr]string{
		&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7070}:          "http://localhost:7070",
		&net.TCPAddr{IP: net.IPv4(127, 8, 8, 8), Port: 7070}:          "http://localhost:7070",
		&net.TCPAddr{IP: net.IPv6loopback, Port: 7070}:                "http://localhost:7070",
		&net.TCPAddr{IP: net.IPv4zero, Port: 80}:                      "http://localhost:80",
		&net.TCPAddr{IP: net.IPv6unspecified, Port: 80}:               "http://localhost:80",
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 7070}:          "http://192.0.2.7:7070",
		&net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 7070}:      "http://[2001:db8::7]:7070",
		&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.7"), Port: 7070}: "http://192.0.2.7:7070",
		address("box.example.com:7070"):                               "http://box.example.com:7070",
		address("/run/soulbox.sock"):                                  "",
	} {
		if got := serverURL(addr); got != want {
			t.Errorf("URL of %v is %q, want %q", addr, got, want)
		}
	}
}
