package gvisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/soulbox/soulbox/node/driver"
)

// agentPath is where every SoulBox image has the agent.
const agentPath = "/.soulbox/agent"

// readyFD is the agent's end of the pipe on which it says that it listens.
const readyFD = 3

// rlimitFiles is what Linux distributions give to services.
const rlimitFiles = 1 << 20

// capabilities are those of a machine's root. They are capabilities in the
// sentry's kernel; the host never sees them.
var capabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_CHOWN",
	"CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN",
	"CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
	"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_NICE", "CAP_SYS_PACCT",
	"CAP_SYS_PTRACE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_SYSLOG",
	"CAP_WAKE_ALARM",
}

// ociSpec describes the sandbox to the sentry. Its root path is an empty
// folder: the annotations make the image the root instead.
func ociSpec(s driver.Spec) *specs.Spec {
	return &specs.Spec{
		Version:  "1.2.1",
		Hostname: s.Hostname,
		Root:     &specs.Root{Path: filepath.Join(s.Dir, "root")},
		Process: &specs.Process{
			Args: []string{agentPath, "-ready-fd", strconv.Itoa(readyFD)},
			Cwd:  "/",
			Env:  []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: rlimitFiles, Soft: rlimitFiles}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts"},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}},
		},
		Annotations: map[string]string{
			// The image is handed over open. Its name must not differ between
			// the sandbox that was saved and the one that is restored.
			"dev.gvisor.spec.rootfs.source":  "/image",
			"dev.gvisor.spec.rootfs.type":    "erofs",
			"dev.gvisor.spec.rootfs.overlay": "memory",
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: s.Netns},
			},
		},
	}
}

// writeSpec puts config.json where the sentry looks for it.
func writeSpec(dir string, spec *specs.Spec) error {
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, configFile), b, 0o600)
}

// limits tells the sentry how much memory and how many processors its guest
// is to see. It is not a cgroup: nothing but the four questions is asked of
// it, because ignore-cgroups is set.
//
// MemoryLimit is the last thing that gVisor asks before it forks, which makes
// it the place to keep our files out of the new sentry; see keepFiles.
type limits struct {
	cpus   int
	memory uint64
}

func (limits) Install(*specs.LinuxResources) error { return errNoCgroup }
func (limits) Update(*specs.LinuxResources) error  { return errNoCgroup }
func (limits) Uninstall() error                    { return errNoCgroup }
func (limits) Join() (func(), error)               { return nil, errNoCgroup }
func (limits) CloneIntoCgroup() (*os.File, error)  { return nil, errNoCgroup }
func (limits) CPUQuota() (int64, error)            { return -1, nil }
func (limits) CPUPeriod() (int64, error)           { return 0, nil }
func (limits) CPUUsage() (uint64, error)           { return 0, errNoCgroup }
func (l limits) NumCPU() (int, error)              { return l.cpus, nil }
func (l limits) MemoryLimit() (uint64, error)      { return l.memory, keepFiles() }
func (limits) MakePath(string) string              { return "" }

var errNoCgroup = fmt.Errorf("the node keeps the cgroup")

// commandLineOf reports whether a process's arguments are those of the sentry
// that was started with the bundle folder dir.
func commandLineOf(args []string, dir string) bool {
	return len(args) > 0 && args[0] == "runsc-sandbox" && slices.Contains(args, "--bundle="+dir)
}
