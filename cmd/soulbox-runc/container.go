package main

import (
	"fmt"
	"os"

	"github.com/moby/profiles/seccomp"
	_ "github.com/opencontainers/cgroups/devices" // runc cannot do without, although here it changes nothing
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities are Docker's, without those that mean nothing in a user
// namespace whose network belongs to another: making devices, raw sockets.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

const rlimitFiles = 1 << 20 // what Linux distributions give to services

// describe returns the container for runc's library. Our own root is as
// buildRoot left it.
func describe(req request) (*specs.Spec, error) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: req.Base, Size: users}}
	spec := &specs.Spec{
		Version:  specs.Version,
		Hostname: req.Hostname,
		Root:     &specs.Root{Path: rootfsDir},
		Process: &specs.Process{
			Args: []string{req.Command, "-ready-fd", "3"},
			Cwd:  "/",
			Env:  []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: rlimitFiles, Soft: rlimitFiles}},
			// Programs inside may become root inside, by sudo: that is what a
			// sandbox is for, and its root is nobody outside.
			NoNewPrivileges: false,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "bind", Source: sysfsDir, Options: []string{"bind", "ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec", "mode=1777"}},
		},
		Linux: &specs.Linux{
			UIDMappings: ids,
			GIDMappings: ids,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.UserNamespace},
				{Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"}, // of our first thread
			},
			// What tells of the host, or could change it if a mapping were wrong.
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	var err error
	spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(spec)
	return spec, err
}

// startContainer starts the agent as the first process of a container and
// returns its number.
func startContainer(req request) (int, error) {
	spec, err := describe(req)
	if err != nil {
		return 0, err
	}
	// The driver has put us into the sandbox's cgroups, and the container is to
	// stay there. Without a path, runc takes a group that it cannot make, as for
	// somebody who is not root, for a wish to have none.
	conf, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "none", RootlessCgroups: true, Spec: spec})
	if err != nil {
		return 0, err
	}
	c, err := libcontainer.Create(stateDir, "box", conf)
	if err != nil {
		return 0, err
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	ready := os.NewFile(readyFD, "ready")
	defer ready.Close()
	p := &libcontainer.Process{
		Args: spec.Process.Args, Env: spec.Process.Env, Cwd: spec.Process.Cwd, Init: true,
		Stdin: null, Stdout: null, Stderr: null, ExtraFiles: []*os.File{ready},
	}
	if err := c.Run(p); err != nil {
		return 0, err
	}
	pid, err := p.Pid()
	if err != nil {
		return 0, fmt.Errorf("the first process: %w", err)
	}
	return pid, nil
}
