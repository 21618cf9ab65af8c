// Package gvisor is the driver that puts a user-space kernel between a
// sandbox and the host.
//
// Each sandbox is one sentry process (cmd/soulbox-sentry) and its stubs, in
// its own PID, mount, IPC, UTS, user and network namespaces, running as nobody
// in an empty root under gVisor's own seccomp filter. There is no gofer and no
// daemon: the root is one EROFS image that all sandboxes of a template share
// through the page cache, and what they write goes to an overlay whose pages
// live in one file on disk, bounded by a quota.
//
// # Why runsc/sandbox and not the runsc command
//
// The driver speaks to gVisor in-process through its runsc/sandbox package,
// one level below runsc/container: forking the command line costs 15 ms per
// call, and the container package cannot put an EROFS root's overlay on disk.
// The price is that everything the container package remembers is ours to
// remember: a sandbox's folder holds config.json (the OCI spec), upper (the
// overlay), and gvisor.json (how to find the sentry again).
//
// # Standard files
//
// gVisor hands the calling process's os.Stdin, os.Stdout and os.Stderr to
// every sandbox, and gives them to the user nobody. [New] therefore replaces
// the three with pipes that lead nowhere; whoever needs the real ones keeps
// them from before.
package gvisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"
	"gvisor.dev/gvisor/runsc/gvisorbinaries"
	"gvisor.dev/gvisor/runsc/specutils"
	"gvisor.dev/gvisor/runsc/version"

	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/node/driver"
)

var _ driver.Driver = (*Driver)(nil)

// Driver runs sandboxes in gVisor. Make one with [New]; it is safe for
// concurrent use. A process has at most one, because gVisor keeps the path of
// its binary in a global variable.
type Driver struct {
	conf   *config.Config
	runDir string
	faults *fault.Points
}

// New returns a driver that starts the static binary sentry (soulbox-sentry) by
// the static binary boot (soulbox-boot), and keeps control sockets in runDir,
// which it creates. The binaries must lie where the user nobody can execute them,
// which is not below a private data folder. runDir should be on a file system that
// a reboot empties and have a short path, because a socket's path is limited to
// 108 bytes. faults may be nil; its steps are sentry/named, sentry/recorded,
// sentry/booted, sentry/saved and sentry/running.
func New(sentry, boot, runDir string, faults *fault.Points) (*Driver, error) {
	if n := len(runDir); n > 60 {
		return nil, fmt.Errorf("gvisor driver: the folder for sockets %q has %d characters, more than 60", runDir, n)
	}
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("gvisor driver: %w", err)
	}
	for _, program := range []string{sentry, boot} {
		if err := openToAll(program); err != nil {
			return nil, fmt.Errorf("gvisor driver: %w", err)
		}
	}
	for _, step := range []func() error{detachStandardFiles, reserveNumbers, keepFiles} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("gvisor driver: %w", err)
		}
	}
	conf, err := newConfig(runDir)
	if err != nil {
		return nil, fmt.Errorf("gvisor driver: %w", err)
	}
	specutils.ExePath = sentry
	if err := runAhead(boot); err != nil {
		return nil, fmt.Errorf("gvisor driver: %w", err)
	}
	log.SetLevel(log.Warning)
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: discard{}}})
	return &Driver{conf: conf, runDir: runDir, faults: faults}, nil
}

// runAhead has gVisor start boot with the sentry's path and arguments, instead
// of the sentry: that is what it does with the program of its own that belongs
// there, and looks for in a folder.
func runAhead(boot string) error {
	dir, err := gvisorbinaries.Dir()
	if err != nil {
		return err
	}
	ahead := &gvisorbinaries.GvisorSentryPrewarmer
	if ahead.Name, err = filepath.Rel(dir, boot); err != nil {
		return err
	}
	path, err := ahead.Path()
	if err == nil && path != boot {
		err = fmt.Errorf("gVisor finds %q and not %q", path, boot)
	}
	return err
}

// openToAll checks that every user may execute the file at path.
func openToAll(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("the path of the program %q is not absolute", path)
	}
	for p := path; ; p = filepath.Dir(p) {
		fi, err := os.Stat(p)
		if err != nil {
			return err
		}
		if fi.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("%s has mode %#o; the sentry runs as nobody, who must be able to execute %s", p, fi.Mode().Perm(), path)
		}
		if p == "/" {
			return nil
		}
	}
}

// Capabilities implements [driver.Driver].
func (*Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{Isolation: "gvisor", Memory: true, Changes: true, Format: "gvisor " + version.Version()}
}

// flags is the sentry's configuration; what is not here is gVisor's default.
var flags = []string{
	"platform=systrap",    // works without KVM
	"network=sandbox",     // gVisor's own TCP/IP stack
	"overlay2=none",       // the driver sets up its own
	"directfs=false",      // no host files; the sentry runs as nobody
	"ignore-cgroups=true", // the node's cgroup room does that, beside the start
	"allow-suid=true",     // sudo
	"net-raw=true",        // ping
	"host-settings=ignore",
}

func newConfig(runDir string) (*config.Config, error) {
	set := flag.NewFlagSet("soulbox", flag.ContinueOnError)
	config.RegisterFlags(set)
	for _, f := range append([]string{"root=" + runDir}, flags...) {
		name, value, _ := strings.Cut(f, "=")
		if err := set.Set(name, value); err != nil {
			return nil, fmt.Errorf("sentry flag %s: %w", f, err)
		}
	}
	return config.NewFromFlags(set)
}

// discard swallows gVisor's own log lines: they are about flags and sidecars,
// not about a sandbox. Errors come back as errors.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
