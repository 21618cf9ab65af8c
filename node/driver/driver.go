// Package driver defines how a node talks to an isolation runtime.
//
// A driver boots a sandbox whose first process is the SoulBox agent, tells
// when it is gone, and removes every trace of it. What the sandbox is made of
// (root image, network namespace, cgroup) is prepared by the node and handed
// over in a [Spec]; what runs in it is the agent's business.
//
// # The life of a sandbox
//
// Start writes what is needed to find the sandbox again into Spec.Dir before
// it starts the first process, and returns once the agent listens. The
// runtime's processes are not children that die with the server: a later
// process calls Adopt with the same folder and gets the sandbox back. Done is
// closed when the runtime has ended, whoever ended it. Destroy may be called
// at any time, any number of times, by a process that never saw the sandbox.
//
// # Saving and restoring
//
// A driver that is capable of it saves a running sandbox into a folder, as a
// whole or its files only, and starts another from that folder: any number,
// at any later time, with the same image below and the same size. What is in
// the folder is the driver's affair; that it comes back unharmed is the
// caller's. A restored sandbox still believes to be the one that was saved,
// until somebody tells its agent otherwise.
//
// The suite in drivertest says all this in code; every driver passes it.
package driver

import (
	"context"
	"net"
	"os"

	"github.com/soulbox/soulbox"
)

// A Driver creates and destroys sandboxes with one isolation technology. All
// methods are safe for concurrent use.
type Driver interface {
	// Capabilities tells what sandboxes of this driver can do.
	Capabilities() Capabilities

	// Start boots a sandbox, or restores one if the spec says so, and returns
	// once its agent listens. An id that was started before and not destroyed
	// is a Conflict. When Start fails or ctx ends, nothing is left behind.
	Start(ctx context.Context, spec Spec) (Instance, error)

	// Adopt returns a sandbox that an earlier process started in dir. It is
	// NotFound when it does not run any more; Destroy then cleans up.
	Adopt(ctx context.Context, id soulbox.SandboxID, dir string) (Instance, error)

	// Destroy ends the sandbox and removes every trace of it except dir
	// itself. An unknown or half-started sandbox succeeds, so that cleanup
	// can be repeated.
	Destroy(ctx context.Context, id soulbox.SandboxID, dir string) error
}

// An Instance is one sandbox that runs. All methods are safe for concurrent
// use.
type Instance interface {
	// Dial opens a connection to a port of the sandbox.
	Dial(ctx context.Context, port uint16) (net.Conn, error)

	// Done is closed when the runtime has ended.
	Done() <-chan struct{}

	// Exit tells how it ended. It is valid once Done is closed.
	Exit() Exit

	// DiskUsed returns how much the sandbox has written on top of its image.
	DiskUsed() (soulbox.Bytes, error)

	// Freeze stops every program of the sandbox where it is. Each Freeze needs
	// one Thaw, and a Thaw without a Freeze may end the sandbox.
	Freeze(ctx context.Context) error
	Thaw(ctx context.Context) error

	// Save writes the sandbox into the empty folder dir: its files, and with
	// memory also its programs as they are. Programs stand still while it is
	// written and go on after it, also when it fails; those of a frozen
	// sandbox stay frozen. Nothing is synced to disk. When ctx ends first, the
	// runtime may still write to the files for a while, and then goes on.
	Save(ctx context.Context, dir string, memory bool) error

	// Changes writes to w, as a tar, what the sandbox has on top of its image,
	// and is Invalid of a driver that is not capable of it: every entry of the upper layer, a folder before what is in it and the
	// root "./" first, with SCHILY.xattr records of extended attributes. What
	// was removed is a character device 0/0, perhaps all of it the same one
	// under many names, and a folder that the image does not shine through has
	// trusted.overlay.opaque. Sockets are left out. The caller closes w, and
	// reads it in the meantime if it is a pipe. A file must not change under
	// it, so the sandbox is frozen. Reading a file may take as much of the
	// sandbox's memory as the file is big, and so end the sandbox.
	Changes(ctx context.Context, w *os.File) error
}

// Capabilities says what sandboxes of a driver can do. A new field is false
// for every driver that does not know it.
type Capabilities struct {
	Isolation string // the honest name of the class: "gvisor", "runc", "fake"
	Memory    bool   // sandboxes can be saved with their programs
	Changes   bool   // sandboxes tell what they have on top of their image
	Format    string // of what Save writes; only the same can be restored
}

// A Spec is everything a driver needs to start a sandbox.
type Spec struct {
	ID       soulbox.SandboxID
	Dir      string       // the sandbox's own folder; exists, mode 0700
	Image    *os.File     // the read-only root image; Start closes it in any case
	Size     soulbox.Size // Memory and CPUs are told to the guest; Disk is enforced here
	Netns    string       // path of the network namespace
	Addr     string       // the sandbox's address in it
	Hostname string
	Cgroup   Cgroup // where the runtime's processes go; nil: leave them alone
	Saved    *Saved // what the sandbox is restored from; nil: it boots
}

// Saved is a sandbox in a folder, as Save has written it.
type Saved struct {
	Dir    string
	Memory bool // as it was given to Save

	// Check is called before anything is read of the folder, as late as
	// possible and beside what takes time; an error of it is that of Start.
	Check func() error
}

// Cgroup takes in processes of a sandbox.
type Cgroup interface {
	// Add moves the processes into the group. A process that has ended in
	// the meantime is not an error.
	Add(pids ...int) error
}

// Exit tells how a runtime ended.
type Exit struct {
	Signal string // "killed" for SIGKILL; empty when it exited by itself or nobody knows
	Code   int
}
