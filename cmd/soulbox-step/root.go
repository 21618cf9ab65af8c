package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/internal/stepwire"
)

// stateDir is where gVisor keeps its notes about steps that run.
const stateDir = "/run/steps"

// host lists what of the machine can be seen and not changed: programs that
// BuildKit calls, such as git and xz, with their libraries, and whom to trust.
var host = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ssl", "/etc/pki", "/etc/ca-certificates"}

// etc is all of /etc besides certificates. Names are resolved by the server.
var etc = map[string]string{ //nolint:gosec // nobody has a password
	"passwd":      "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"group":       "root:x:0:\nnogroup:x:65534:\n",
	"hosts":       "127.0.0.1\tlocalhost\n",
	"resolv.conf": "",
}

// buildRoot makes this process's own root, a small memory file system, and
// mounts in it what BuildKit needs. Of the machine's files only the engine's
// folder can be changed.
func buildRoot(req stepwire.Hold) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root := filepath.Join(req.Dir, "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID, "mode=0755,size=64m"); err != nil {
		return fmt.Errorf("mount a root: %w", err)
	}
	at := func(dir string) string { return filepath.Join(root, dir) }
	for _, dir := range []string{"/proc", "/dev", "/sys", "/etc", "/root", "/tmp", "/old", stateDir, stepwire.Dir, stepwire.Programs} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil { //nolint:gosec // steps are kept out by gVisor
			return err
		}
	}
	const dull = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		source, dir, kind string
		flags             uintptr
	}{
		{"proc", "/proc", "proc", dull},
		{"sysfs", "/sys", "sysfs", dull | unix.MS_RDONLY},
		{"tmpfs", "/dev", "tmpfs", unix.MS_NOSUID | unix.MS_NOEXEC},
		{req.Dir, stepwire.Dir, "", unix.MS_BIND},
		{filepath.Join(req.Dir, "tmp"), "/tmp", "", unix.MS_BIND},
	} {
		if err := unix.Mount(m.source, at(m.dir), m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	for _, dir := range []string{stepwire.Dir, "/tmp"} {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if err := unix.MountSetattr(unix.AT_FDCWD, at(dir), 0, attr); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	for _, name := range host {
		if err := show(name, at(name)); err != nil {
			return fmt.Errorf("show %s: %w", name, err)
		}
	}
	for _, program := range req.Programs {
		if err := show(program, at(filepath.Join(stepwire.Programs, filepath.Base(program)))); err != nil {
			return fmt.Errorf("show %s: %w", program, err)
		}
	}
	if err := makeDevices(at("/dev")); err != nil {
		return fmt.Errorf("make devices: %w", err)
	}
	for name, text := range etc {
		if err := os.WriteFile(filepath.Join(at("/etc"), name), []byte(text), 0o644); err != nil { //nolint:gosec // it says nothing
			return err
		}
	}
	return enterRoot(root)
}

// show makes a file or folder of the machine visible at place, where it can
// only be read. A link becomes the same link, and what does not exist nothing.
func show(name, place string) error {
	fi, err := os.Lstat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case fi.Mode()&os.ModeSymlink != 0:
		to, err := os.Readlink(name)
		if err != nil {
			return err
		}
		return os.Symlink(to, place)
	case fi.IsDir():
		err = os.MkdirAll(place, 0o755) //nolint:gosec // it gets hidden
	default:
		err = os.WriteFile(place, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(name, place, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	return unix.MountSetattr(unix.AT_FDCWD, place, unix.AT_RECURSIVE, attr)
}

func makeDevices(dir string) error {
	old := unix.Umask(0)
	defer unix.Umask(old)
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return err
		}
	}
	return unix.Mknod(filepath.Join(dir, "tty"), unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0)))
}

// enterRoot makes dir the root and forgets the old one.
func enterRoot(dir string) error {
	if err := unix.PivotRoot(dir, filepath.Join(dir, "old")); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	return os.Remove("/old")
}
