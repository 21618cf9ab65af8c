package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// hierarchy is the name of the one that [QuickMoves] makes. All servers of a
// machine share it.
const hierarchy = "soulbox"

// QuickMoves asks the kernel to move processes between groups at once, on the
// whole machine, until what it returns is closed or this process ends: Add
// takes 0.2 ms then instead of 6 to 12. It fails without permission, and with a
// kernel older than 6.0; everything works then, only slower.
//
// Otherwise the kernel lets forks and exits on all processors go on without a
// lock, and a move waits until each of them has taken note of it. That is the
// option favordynmods of any hierarchy (Documentation/admin-guide/cgroup-v2.rst
// of Linux), so we have one without controllers and groups, which is mounted
// nowhere: a mount of the machine's own with other options would change them
// for everybody. See docs/decisions/0019.
func QuickMoves() (io.Closer, error) { return quickMoves(hierarchy) }

func quickMoves(name string) (io.Closer, error) {
	// Where the last holder of the hierarchy has just let go of it, the kernel
	// waits 10 ms and starts the call anew, on a context that has failed by
	// then: EBUSY.
	var err error
	for range 100 {
		var fs *os.File
		if fs, err = open(name); err == nil {
			return fs, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return nil, fmt.Errorf("make a cgroup hierarchy: %w", err)
}

func open(name string) (*os.File, error) {
	fd, err := unix.Fsopen("cgroup", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	fs := os.NewFile(uintptr(fd), "cgroup hierarchy "+name)
	for _, set := range []func() error{
		func() error { return unix.FsconfigSetFlag(fd, "none") },
		func() error { return unix.FsconfigSetString(fd, "name", name) },
		func() error { return unix.FsconfigSetFlag(fd, "favordynmods") },
		func() error { return unix.FsconfigCreate(fd) },
	} {
		if err := set(); err != nil {
			fs.Close()
			return nil, err
		}
	}
	return fs, nil
}
