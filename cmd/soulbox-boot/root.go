package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// host returns, as the sentry's arguments, what it cannot read in its root. What
// the machine does not say is left out, and the sentry then has its defaults.
func host() []string {
	var args []string
	if name, err := os.ReadFile("/sys/devices/virtual/dmi/id/product_name"); err == nil {
		args = append(args, "--product-name="+strings.TrimSpace(string(name)))
	}
	for flag, file := range map[string]string{"host-thp-shmem-enabled": "shmem_enabled", "host-thp-defrag": "defrag"} {
		all, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/" + file)
		_, rest, ok := strings.Cut(string(all), "[") // always defer [madvise] never
		if chosen, _, closed := strings.Cut(rest, "]"); err == nil && ok && closed {
			args = append(args, "--"+flag+"="+chosen)
		}
	}
	return args
}

// emptyRoot makes the root that gVisor's sentry makes for itself: a file system
// in memory, read-only, with the time zone and just enough of /proc to start;
// the umounter takes that away. It is mounted on dir, which is seen by nobody
// else: this process has mounts of its own.
func emptyRoot(dir string) error {
	const inert = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	proc := filepath.Join(dir, "proc")
	for _, step := range []func() error{
		func() error { return mount("", "/", "", unix.MS_SLAVE|unix.MS_REC) }, // nothing gets out
		func() error { return mount("runsc-root", dir, "tmpfs", inert) },
		func() error { return os.Mkdir(filepath.Join(dir, "etc"), 0o755) }, //nolint:gosec // it is empty but for public files
		func() error { return copyTimeZone(dir) },
		func() error { return os.Mkdir(proc, 0o755) }, //nolint:gosec // as above
		func() error { return mount("runsc-proc", proc, "tmpfs", inert) },
		func() error { return fillProc(proc, inert) },
		func() error { return os.Chmod(proc, 0o111) }, //nolint:gosec // names in it can be used, not listed
		func() error { return mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_BIND|inert) },
		func() error { return pivot(dir) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("make an empty root: %w", err)
		}
	}
	return nil
}

// fillProc makes what the sentry reads of /proc: itself, the processors and two
// numbers. A proc of its own cannot be mounted where the machine's is partly
// hidden, as in a container; then it is the machine's.
func fillProc(proc string, inert uintptr) error {
	sub := "sandbox-proc"
	if err := os.Mkdir(filepath.Join(proc, sub), 0o755); err != nil { //nolint:gosec // a place to mount on
		return err
	}
	if err := mount("proc", filepath.Join(proc, sub), "proc", inert|unix.MS_RDONLY); err != nil {
		if err = mount("/proc", filepath.Join(proc, sub), "", unix.MS_BIND|unix.MS_REC); err != nil {
			return err
		}
	}
	for _, file := range []string{"sys/vm/mmap_min_addr", "sys/kernel/cap_last_cap"} {
		if err := os.MkdirAll(filepath.Join(proc, filepath.Dir(file)), 0o755); err != nil { //nolint:gosec // public
			return err
		}
		if err := copyFile(filepath.Join(proc, file), filepath.Join("/proc", file)); err != nil {
			return err
		}
	}
	for _, name := range []string{"self", "cpuinfo"} {
		if err := os.Symlink(filepath.Join(sub, name), filepath.Join(proc, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyTimeZone lets the sentry know the machine's, if that has one.
func copyTimeZone(dir string) error {
	err := copyFile(filepath.Join(dir, "etc/localtime"), "/etc/localtime")
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// pivot makes dir the root, and the machine's root unreachable: both are at "/"
// for a moment, and the upper one is taken away (pivot_root(2), under "pivot_root(".", ".")").
func pivot(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	return os.NewSyscallError("umount of the old root", unix.Unmount(".", unix.MNT_DETACH))
}

func mount(source, target, kind string, flags uintptr) error {
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		return fmt.Errorf("mount %s %s on %s: %w", kind, source, target, err)
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, in)
	return err
}
