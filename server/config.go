package server

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/blob/s3"
	"github.com/soulbox/soulbox/templates"
)

// Config is everything that an operator can say. The zero value of a field is
// its default. The tags are the keys of the configuration file.
type Config struct {
	Listen   string `koanf:"listen"`   // where clients connect; 127.0.0.1:7070
	Data     string `koanf:"data"`     // the data folder
	Database string `koanf:"database"` // "sqlite", or a postgres:// URL
	Metrics  string `koanf:"metrics"`  // where Prometheus connects; 127.0.0.1:7071, or "off"
	Domain   string `koanf:"domain"`   // of sandbox URLs, <port>-<id>.<domain>; what clients are told
	Base     string `koanf:"base"`     // OCI image of the base template; empty: Debian's packages
	Cache    string `koanf:"cache"`    // for programs that this binary carries; /var/cache/soulbox
	Network  string `koanf:"network"`  // IPv4 prefix of the sandboxes; empty: chosen
	Resolver string `koanf:"resolver"` // DNS server of the sandboxes; empty: the host's

	// MaxSandboxes and MaxHours are the limits of the default team.
	MaxSandboxes int `koanf:"max_sandboxes"`
	MaxHours     int `koanf:"max_hours"`

	// MemoryMB, CPUs and DiskMB are the size of a sandbox, unless its
	// template says otherwise.
	MemoryMB int `koanf:"memory_mb"`
	CPUs     int `koanf:"cpus"`
	DiskMB   int `koanf:"disk_mb"`

	// WarmMB is the memory that sandboxes made ahead may take; -1: none are.
	WarmMB int `koanf:"warm_mb"`
	// SnapshotsMB is the disk that snapshots may take; -1: all there is.
	SnapshotsMB int `koanf:"snapshots_mb"`

	// Isolation lists the classes that clients may ask for; gvisor always is
	// one of them.
	Isolation []string `koanf:"isolation"`

	// ReadyNetworks is how many network namespaces wait for sandboxes: a
	// burst of creates takes them faster than they can be made.
	ReadyNetworks int `koanf:"ready_networks"`

	// Registries are those, as HOST:PORT or http://HOST:PORT, that builds may
	// reach although their address is not public.
	Registries []string `koanf:"registries"`
	// RegistryMirrors says where builds ask before a registry, such as docker.io.
	RegistryMirrors map[string][]string `koanf:"registry_mirrors"`

	// Templates are the house's, besides base, that are built in the background
	// and kept built.
	Templates []string `koanf:"templates"`

	// Builds is how many templates are built at the same time, BuildMinutes how
	// long each may take, BuildCacheMB the disk for what is kept of them.
	Builds       int `koanf:"builds"`
	BuildMinutes int `koanf:"build_minutes"`
	BuildCacheMB int `koanf:"build_cache_mb"`
	// BuildMemoryMB and BuildDiskMB bound each program that a recipe starts.
	BuildMemoryMB int `koanf:"build_memory_mb"`
	BuildDiskMB   int `koanf:"build_disk_mb"`

	// Blobs is where images that are pushed are kept: s3://BUCKET/PREFIX, or
	// empty for the data folder. BlobsEndpoint is the URL of a server that
	// speaks S3, unless it is Amazon's.
	Blobs         string `koanf:"blobs"`
	BlobsEndpoint string `koanf:"blobs_endpoint"`
	BlobsRegion   string `koanf:"blobs_region"`

	// Version is what this program calls itself.
	Version string `koanf:"-"`

	// Fault names the step at which a test wants this process to die.
	Fault string `koanf:"-"`
}

// Defaults.
const (
	DefaultListen  = "127.0.0.1:7070"
	defaultMetrics = "127.0.0.1:7071"
	defaultCache   = "/var/cache/soulbox"

	defaultMaxSandboxes = 1000
	defaultMaxHours     = 24
	defaultMemoryMB     = 1024
	defaultCPUs         = 2
	defaultDiskMB       = 10 << 10
	defaultWarmMB       = 512
	defaultSnapshotsMB  = 50 << 10

	defaultReadyNetworks = 24

	defaultBuilds        = 1
	defaultBuildMinutes  = 60
	defaultBuildCacheMB  = 20 << 10
	defaultBuildMemoryMB = 2048
	defaultBuildDiskMB   = 10 << 10

	// sandboxPIDs bounds the host threads of one sandbox. An idle one has
	// about 30; each process that runs at the same time adds one or two.
	sandboxPIDs = 4096
)

// filled returns the configuration with its defaults, or what is wrong.
func (c Config) filled() (Config, error) {
	or := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	orInt := func(n *int, d int) {
		if *n == 0 {
			*n = d
		}
	}
	or(&c.Listen, DefaultListen)
	or(&c.Database, "sqlite")
	or(&c.Metrics, defaultMetrics)
	or(&c.Cache, defaultCache)
	orInt(&c.MaxSandboxes, defaultMaxSandboxes)
	orInt(&c.MaxHours, defaultMaxHours)
	orInt(&c.MemoryMB, defaultMemoryMB)
	orInt(&c.CPUs, defaultCPUs)
	orInt(&c.DiskMB, defaultDiskMB)
	orInt(&c.WarmMB, defaultWarmMB)
	orInt(&c.SnapshotsMB, defaultSnapshotsMB)
	orInt(&c.ReadyNetworks, defaultReadyNetworks)
	orInt(&c.Builds, defaultBuilds)
	orInt(&c.BuildMinutes, defaultBuildMinutes)
	orInt(&c.BuildCacheMB, defaultBuildCacheMB)
	orInt(&c.BuildMemoryMB, defaultBuildMemoryMB)
	orInt(&c.BuildDiskMB, defaultBuildDiskMB)
	if c.Data == "" {
		return c, soulbox.Errorf(soulbox.Invalid, "the data folder is not set; name one with --data")
	}
	data, err := filepath.Abs(c.Data)
	if err != nil {
		return c, soulbox.Errorf(soulbox.Invalid, "data folder %q: %w", c.Data, err)
	}
	c.Data = data
	return c, c.check()
}

func (c Config) check() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return soulbox.Errorf(soulbox.Invalid, "listen address %q: write HOST:PORT, such as %s", c.Listen, DefaultListen)
	}
	if _, _, err := net.SplitHostPort(c.Metrics); err != nil && c.Metrics != "off" {
		return soulbox.Errorf(soulbox.Invalid, "metrics address %q: write HOST:PORT or off", c.Metrics)
	}
	if c.Database != "sqlite" {
		if u, err := url.Parse(c.Database); err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
			return soulbox.Errorf(soulbox.Invalid, "the database is sqlite or a URL that begins with postgres://")
		}
	}
	if c.Network != "" {
		if p, err := netip.ParsePrefix(c.Network); err != nil || !p.Addr().Is4() {
			return soulbox.Errorf(soulbox.Invalid, "network %q: write an IPv4 prefix, such as 10.213.0.0/16", c.Network)
		}
	}
	if c.Resolver != "" {
		if a, err := netip.ParseAddr(c.Resolver); err != nil || !a.Is4() {
			return soulbox.Errorf(soulbox.Invalid, "resolver %q: write an IPv4 address", c.Resolver)
		}
	}
	if err := c.checkBlobs(); err != nil {
		return err
	}
	for _, s := range c.Isolation {
		if _, err := soulbox.ParseIsolation(s); err != nil {
			return soulbox.Errorf(soulbox.Invalid, "isolation: %q is none of gvisor and runc", s)
		}
	}
	if _, err := templates.Choose(c.Templates); err != nil {
		return soulbox.Errorf(soulbox.Invalid, "templates: %w", err)
	}
	for _, n := range []struct {
		name             string
		value, low, high int
	}{
		{"max_sandboxes", c.MaxSandboxes, 1, 10_000},
		{"max_hours", c.MaxHours, 1, 24 * 365},
		{"memory_mb", c.MemoryMB, 128, 1 << 20},
		{"cpus", c.CPUs, 1, 1024},
		{"disk_mb", c.DiskMB, 64, 1 << 30},
		{"warm_mb", c.WarmMB, -1, 1 << 20},
		{"snapshots_mb", c.SnapshotsMB, -1, 1 << 30},
		{"ready_networks", c.ReadyNetworks, 1, 1000},
		{"builds", c.Builds, 1, 100},
		{"build_minutes", c.BuildMinutes, 1, 24 * 60},
		{"build_cache_mb", c.BuildCacheMB, 256, 1 << 30},
		{"build_memory_mb", c.BuildMemoryMB, 128, 1 << 20},
		{"build_disk_mb", c.BuildDiskMB, 64, 1 << 30},
	} {
		if n.value < n.low || n.value > n.high {
			return soulbox.Errorf(soulbox.Invalid, "%s is %d; it can be %d to %d", n.name, n.value, n.low, n.high)
		}
	}
	return nil
}

func (c Config) checkBlobs() error {
	if c.Blobs != "" {
		if _, _, err := s3.ParseURL(c.Blobs); err != nil {
			return soulbox.Errorf(soulbox.Invalid, "blobs %w", err)
		}
	} else if c.BlobsEndpoint != "" || c.BlobsRegion != "" {
		return soulbox.Errorf(soulbox.Invalid, "blobs_endpoint and blobs_region belong to blobs, which is not set")
	}
	if c.BlobsEndpoint != "" {
		if u, err := url.Parse(c.BlobsEndpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return soulbox.Errorf(soulbox.Invalid, "blobs_endpoint %q: write a URL, such as http://localhost:9000", c.BlobsEndpoint)
		}
	}
	return nil
}

// size is what a sandbox gets unless its template says otherwise.
func (c Config) size() soulbox.Size {
	return soulbox.Size{
		CPUs:   c.CPUs,
		Memory: soulbox.Bytes(c.MemoryMB) * soulbox.MiB,
		Disk:   soulbox.Bytes(c.DiskMB) * soulbox.MiB,
		PIDs:   sandboxPIDs,
	}
}

// step is what bounds each program that a recipe starts.
func (c Config) step() soulbox.Size {
	return soulbox.Size{
		CPUs:   c.CPUs,
		Memory: soulbox.Bytes(c.BuildMemoryMB) * soulbox.MiB,
		Disk:   soulbox.Bytes(c.BuildDiskMB) * soulbox.MiB,
		PIDs:   sandboxPIDs,
	}
}

// snapshots is what snapshots may take of the disk; 0 is no bound.
func (c Config) snapshots() soulbox.Bytes { return soulbox.Bytes(max(0, c.SnapshotsMB)) * soulbox.MiB }

// allowed are the classes of isolation that clients may have besides gVisor.
func (c Config) allowed() []soulbox.Isolation {
	var all []soulbox.Isolation
	for _, s := range c.Isolation {
		if class, err := soulbox.ParseIsolation(s); err == nil && class != soulbox.GVisor { // check has seen them
			all = append(all, class)
		}
	}
	return all
}

// warm is what sandboxes made ahead may take of the machine's memory.
func (c Config) warm() soulbox.Bytes { return soulbox.Bytes(max(0, c.WarmMB)) * soulbox.MiB }

// instance is a short name for this installation, which keeps its kernel
// objects (cgroups, devices, rules) apart from another's on the same machine.
// It follows from the data folder, so that a restart finds its own again.
func (c Config) instance() string {
	sum := sha256.Sum256([]byte(c.Data))
	return "b" + hex.EncodeToString(sum[:])[:5]
}

// runDir holds the sentries' control sockets, which a reboot may empty.
func (c Config) runDir() string { return filepath.Join("/run/soulbox", c.instance()) }

// serverURL is where clients on this machine find the server.
func serverURL(listen net.Addr) string {
	host, port, err := net.SplitHostPort(listen.String())
	if err != nil {
		return ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		host = "localhost"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "http://" + host + ":" + port
}
