package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where things are once this process has its own root.
const (
	lowerDir  = "/lower" // the image, with its users moved
	dataDir   = "/data"  // the ext4 file system, with its users moved
	upperDir  = dataDir + "/upper"
	workDir   = dataDir + "/work"
	rootfsDir = "/rootfs" // the two as one
	sysfsDir  = "/sysfs"
	stateDir  = "/state" // runc's notes
)

// users is how many users and groups a sandbox has.
const users = 1 << 16

// enterNetwork brings the first thread into the sandbox's network namespace.
// That belongs to the host's user namespace, in which the sandbox's root is
// nobody, so what root usually may is allowed to everyone in there: to listen
// on low ports, and to ping.
func enterNetwork() error {
	if err := unix.Setns(networkFD, unix.CLONE_NEWNET); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"ip_unprivileged_port_start": "0",
		"ping_group_range":           "0 2147483647",
	} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// buildRoot makes this process's own root, a small memory file system, and in
// it the sandbox's. Nothing of the host's tree is left in sight but its cgroups,
// which cannot be changed from here.
func buildRoot(req request) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Processes are to have the numbers that they have for us.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", req.Mount, "tmpfs", unix.MS_NOSUID, "mode=0755,size=16m"); err != nil {
		return fmt.Errorf("mount a root: %w", err)
	}
	at := func(dir string) string { return filepath.Join(req.Mount, dir) }
	for _, dir := range []string{lowerDir, dataDir, rootfsDir, sysfsDir, stateDir, "/proc", "/dev", "/sys/fs/cgroup", "/old"} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil { //nolint:gosec // the sandbox's root passes through it and is nobody here
			return err
		}
	}
	if err := makeDevices(at("/dev")); err != nil {
		return fmt.Errorf("make devices: %w", err)
	}
	for _, m := range []struct {
		source, dir, kind string
		flags             uintptr
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", sysfsDir, "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY},
		{"/sys/fs/cgroup", "/sys/fs/cgroup", "", unix.MS_BIND | unix.MS_REC},
	} {
		if err := unix.Mount(m.source, at(m.dir), m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, at("/sys/fs/cgroup"), unix.AT_RECURSIVE, readOnly); err != nil {
		return fmt.Errorf("make cgroups read-only: %w", err)
	}
	if err := mountLayers(req, at); err != nil {
		return err
	}
	return enterRoot(req.Mount)
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
		return fmt.Errorf("leave the host's root: %w", err)
	}
	return os.Remove("/old")
}

// mountLayers mounts the image and, above it, what the sandbox writes. On both
// file systems users have the numbers that they have in the sandbox; on the
// host, and for the kernel, they are other people.
func mountLayers(req request, at func(string) string) error {
	usersOf, err := moveUsers(req.Base)
	if err != nil {
		return fmt.Errorf("move users: %w", err)
	}
	defer usersOf.Close()
	image, err := shareLoop(imageFD, at("/dev"))
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer image.Close()
	if err := mountMoved(image, "erofs", unix.MS_RDONLY|unix.MS_NODEV, "", at(lowerDir), usersOf); err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	data, err := newLoop(upperFD, at("/dev"), unix.LO_FLAGS_AUTOCLEAR|unix.LO_FLAGS_DIRECT_IO)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	defer data.Close()
	// Freed blocks leave the file. What mkfs has not zeroed is a hole, and
	// zeroing it in the background would fill it.
	if err := mountMoved(data, "ext4", unix.MS_NODEV|unix.MS_NOATIME, "discard,noinit_itable", at(dataDir), usersOf); err != nil {
		return fmt.Errorf("mount the disk: %w", err)
	}
	// The sandbox can read these names, and the host's folders are none of its
	// business.
	if err := unix.Chdir(req.Mount); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lowerDir[1:], upperDir[1:], workDir[1:])
	if err := unix.Mount("overlay", at(rootfsDir), "overlay", unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount the overlay: %w", err)
	}
	return nil
}

// mountMoved mounts a device on dir with the users that usersOf tells.
func mountMoved(device *os.File, kind string, flags uintptr, options, dir string, usersOf *os.File) error {
	if err := unix.Mount(device.Name(), dir, kind, flags, options); err != nil {
		return err
	}
	if kind == "ext4" {
		if err := makeUpper(dir); err != nil {
			return err
		}
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(usersOf.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return fmt.Errorf("map users: %w", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// makeUpper makes the overlay's two folders, which a disk that was used before
// has already.
func makeUpper(dir string) error {
	for _, name := range []string{filepath.Base(upperDir), filepath.Base(workDir)} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // it becomes the sandbox's /
			return err
		}
	}
	return nil
}

// moveUsers returns a user namespace in which root is the host's user base.
func moveUsers(base uint32) (*os.File, error) {
	in, end, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	ids := []syscall.SysProcIDMap{
		{ContainerID: 0, HostID: int(base), Size: users},
		// overlayfs works on the disk as whoever mounted it. Nobody in the
		// sandbox can be this user, or give anything to it.
		{ContainerID: users, HostID: 0, Size: 1},
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"soulbox-runc", "hold"}, &os.ProcAttr{
		Files: []*os.File{in},
		Sys:   &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids},
	})
	if err != nil {
		end.Close()
		return nil, err
	}
	defer func() {
		end.Close()
		_, _ = p.Wait() // it did nothing
	}()
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", p.Pid))
}

const (
	loopControl = 237 // minor of the misc device that hands out loop devices
	miscMajor   = 10
	loopMajor   = 7
)

// shareLoop returns a loop device that shows the file fd. If there is one
// already, it is that: then all sandboxes of an image have one copy of it in
// memory.
func shareLoop(fd int, dev string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, err
	}
	shown, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, s := range shown {
		b, err := os.ReadFile(s)
		if err != nil || strings.TrimSuffix(string(b), "\n") != path {
			continue
		}
		f, err := openLoop(dev, filepath.Base(filepath.Dir(filepath.Dir(s))), os.O_RDONLY)
		if err != nil {
			continue
		}
		// While it is open it cannot become another's.
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		if err == nil && info.Device == st.Dev && info.Inode == st.Ino && info.Offset == 0 && info.Flags&unix.LO_FLAGS_READ_ONLY != 0 {
			return f, nil
		}
		f.Close()
	}
	return newLoop(fd, dev, unix.LO_FLAGS_AUTOCLEAR|unix.LO_FLAGS_READ_ONLY)
}

// newLoop returns a loop device that shows the file fd and is free again when
// nobody uses it any more.
func newLoop(fd int, dev string, flags uint32) (*os.File, error) {
	control, err := openDevice(filepath.Join(dev, "loop-control"), miscMajor, loopControl, unix.S_IFCHR, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	mode := os.O_RDWR
	conf := &unix.LoopConfig{Fd: uint32(fd), Info: unix.LoopInfo64{Flags: flags}}
	if flags&unix.LO_FLAGS_READ_ONLY != 0 {
		mode = os.O_RDONLY
	} else {
		conf.Size = 4096 // of a block; direct writes need the disk's
	}
	const tries = 1000 // others look for a free one, too
	for range tries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		f, err := openLoop(dev, "loop"+strconv.Itoa(n), mode)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(f.Fd()), conf)
		if err == nil {
			return f, nil
		}
		f.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("set up %s: %w", f.Name(), err)
		}
		time.Sleep(time.Millisecond)
	}
	return nil, errors.New("no loop device stays free long enough")
}

// openLoop opens the loop device called name, such as loop7, by a node in dev.
func openLoop(dev, name string, mode int) (*os.File, error) {
	b, err := os.ReadFile("/sys/block/" + name + "/dev")
	if err != nil {
		return nil, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err != nil || major != loopMajor {
		return nil, fmt.Errorf("%s is device %q", name, b)
	}
	return openDevice(filepath.Join(dev, name), major, minor, unix.S_IFBLK, mode)
}

// openDevice makes a node for a device, if there is none yet, and opens it: the
// host's /dev may lack it, in a container above all.
func openDevice(path string, major, minor, kind uint32, mode int) (*os.File, error) {
	if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(major, minor))); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("mknod %s: %w", path, err)
	}
	return os.OpenFile(path, mode, 0)
}
