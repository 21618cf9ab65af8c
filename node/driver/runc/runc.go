// Package runc is the driver for sandboxes that share the host's kernel.
//
// It is the second class: a program in such a sandbox runs at the machine's
// full speed and talks to the same kernel as everybody else, so whoever finds a
// hole in that kernel is outside. docs/security.md says what stands between;
// an operator has to allow it.
//
// Each sandbox is one process of cmd/soulbox-runc with a container below it. It
// is the first process of a PID namespace and has a mount namespace of its own,
// and all that it makes lives in these two: when it ends, however it ends, the
// kernel ends every program of the sandbox and removes every mount. What is
// left are files of the sandbox's folder and, with cgroup v1, an empty group.
//
// # Starting
//
// The process is started, its number is written down, and only then is it told
// what to do, over a socket. If this process dies before, the stream ends and
// so does the other: nothing runs that no record knows.
//
// # Disks
//
// What a sandbox writes goes to an ext4 file system in a file of its folder.
// Its size is the quota, of which the file system takes some per cent for
// itself; the file holds only what is used. To save a sandbox is to pack that
// into another file while all programs stand still. Their memory cannot be
// saved.
//
// # Users
//
// The sandbox's users are numbers of the host that nobody else has, and
// different ones for each address, which keeps sandboxes apart if one gets out.
package runc

import (
	"fmt"
	"path/filepath"

	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/node/driver"
)

var _ driver.Driver = (*Driver)(nil)

// Driver runs sandboxes as containers. Make one with [New]; it is safe for
// concurrent use.
type Driver struct {
	program string
	dir     string // of empty disks
	freezer freezer
	faults  *fault.Points
}

// New returns a driver that starts the static binary program (soulbox-runc) and
// keeps disks that nobody has written to in dir, which it creates when the first is made. faults may
// be nil; its steps are runc/named, runc/recorded, runc/forked, runc/saved and
// runc/running.
func New(program, dir string, faults *fault.Points) (*Driver, error) {
	if !filepath.IsAbs(program) {
		return nil, fmt.Errorf("runc driver: the path of the program %q is not absolute", program)
	}
	f, err := findFreezer()
	if err != nil {
		return nil, fmt.Errorf("runc driver: %w", err)
	}
	return &Driver{program: program, dir: dir, freezer: f, faults: faults}, nil
}

// format is of the disks that Save writes.
const format = "runc ext4 1"

// Capabilities implements [driver.Driver].
func (*Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{Isolation: "runc", Format: format}
}
