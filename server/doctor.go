package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/cgroup"
)

// A Check is one thing that the server needs of its machine.
type Check struct {
	Name   string
	OK     bool
	Found  string // what is there
	Remedy string // what to do, when it is not OK
}

const (
	kernelMajor, kernelMinor = 5, 10 // pidfds that can be polled, openat2, EROFS as our images are
	wantMemory               = 2 * soulbox.GiB
	wantDisk                 = 5 * soulbox.GiB
)

// Doctor looks whether this machine can run the server that cfg describes. It
// changes nothing.
func Doctor(ctx context.Context, cfg Config) ([]Check, error) {
	cfg, err := cfg.filled()
	if err != nil {
		return nil, err
	}
	checks := []Check{
		checkRoot(),
		checkKernel(),
		checkUserNamespaces(),
		checkCgroups(),
		checkNftables(),
		checkProgram("mkfs.erofs", "makes the templates' images", "apt-get install erofs-utils"),
		checkProgram("mmdebstrap", "makes the base template", "apt-get install mmdebstrap, or start with --base IMAGE"),
		checkMemory(),
		checkFree(cfg.Data),
		checkListen(ctx, "clients", cfg.Listen, "--listen"),
		checkListen(ctx, "Prometheus", cfg.Metrics, "--metrics"),
	}
	if len(cfg.allowed()) > 0 {
		checks = append(checks,
			checkProgram("mkfs.ext4", "makes the disks of sandboxes of isolation runc", "apt-get install e2fsprogs"),
			checkFilesystems("/proc/filesystems"))
	}
	return checks, nil
}

// checkFilesystems looks for what sandboxes of isolation runc are mounted with.
func checkFilesystems(path string) Check {
	c := Check{Name: "file systems", OK: true, Found: "erofs, ext4 and overlay", Remedy: "load the kernel's modules for them, or leave runc out of the setting isolation"}
	b, err := os.ReadFile(path)
	if err != nil {
		return Check{c.Name, false, err.Error(), c.Remedy}
	}
	for _, name := range []string{"erofs", "ext4", "overlay"} {
		if !slices.Contains(strings.Fields(string(b)), name) {
			c.OK, c.Found = false, "the kernel has no "+name
		}
	}
	return c
}

func checkRoot() Check {
	uid := os.Geteuid()
	return Check{"root", uid == 0, fmt.Sprintf("user id %d", uid), "run it with sudo: namespaces and cgroups need root"}
}

func checkKernel() Check {
	c := Check{Name: "kernel", Remedy: fmt.Sprintf("install Linux %d.%d or newer", kernelMajor, kernelMinor)}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		c.Found = err.Error()
		return c
	}
	c.Found = unix.ByteSliceToString(u.Release[:])
	parts := strings.SplitN(c.Found, ".", 3)
	if len(parts) < 2 {
		return c
	}
	major, _ := strconv.Atoi(parts[0]) // not a number: 0, which is not enough
	minor, _ := strconv.Atoi(strings.TrimRight(parts[1], "-+abcdefghijklmnopqrstuvwxyz"))
	c.OK = major > kernelMajor || major == kernelMajor && minor >= kernelMinor
	return c
}

func checkUserNamespaces() Check {
	c := Check{Name: "user namespaces", Remedy: "sysctl user.max_user_namespaces=65536"}
	b, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err != nil {
		c.Found, c.Remedy = err.Error(), "use a kernel with CONFIG_USER_NS"
		return c
	}
	c.Found = strings.TrimSpace(string(b)) + " allowed"
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	c.OK = err == nil && n >= 1000
	return c
}

func checkCgroups() Check {
	if _, err := cgroup.Open("soulbox-doctor"); err != nil {
		return Check{"cgroups", false, err.Error(), "mount cgroup v2, or the memory, cpu, cpuacct and pids hierarchies of v1"}
	}
	return Check{Name: "cgroups", OK: true, Found: "memory, cpu and pids can be limited"}
}

func checkNftables() Check {
	c := Check{Name: "nftables", Found: "the kernel answers", Remedy: "modprobe nf_tables, or use a kernel with CONFIG_NF_TABLES"}
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTables()
	}
	if err != nil {
		c.Found = err.Error()
		return c
	}
	c.OK = true
	return c
}

func checkProgram(name, what, remedy string) Check {
	path, err := exec.LookPath(name)
	if err != nil {
		return Check{name, false, "not installed; it " + what, remedy}
	}
	return Check{Name: name, OK: true, Found: path}
}

func checkMemory() Check {
	c := Check{Name: "memory", Remedy: "an idle sandbox takes about 10 MiB, the server about 100; a busy one up to its limit"}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		c.Found = err.Error()
		return c
	}
	total := soulbox.Bytes(si.Totalram) * soulbox.Bytes(si.Unit)
	c.Found = fmt.Sprintf("%d MiB", total/soulbox.MiB)
	c.OK = total >= wantMemory
	return c
}

// checkFree looks at the disk on which the data folder is, or will be.
func checkFree(dir string) Check {
	c := Check{Name: "disk", Remedy: fmt.Sprintf("make room, or choose another folder with --data; below %d MiB free no sandbox is made", minFree/soulbox.MiB)}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, unix.ENOENT) && dir != "/" {
			dir = dir[:max(1, strings.LastIndexByte(dir, '/'))]
			continue
		}
		if err != nil {
			c.Found = err.Error()
			return c
		}
		free := soulbox.Bytes(st.Bavail) * soulbox.Bytes(st.Bsize)
		c.Found = fmt.Sprintf("%d MiB free in %s", free/soulbox.MiB, dir)
		c.OK = free >= wantDisk
		return c
	}
}

func checkListen(ctx context.Context, who, addr, flag string) Check {
	c := Check{Name: "port for " + who, OK: true, Found: addr + " is free", Remedy: "is a server running already? Otherwise choose another with " + flag}
	if addr == "off" {
		c.Found = "off"
		return c
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		c.OK, c.Found = false, err.Error()
		return c
	}
	l.Close()
	return c
}
