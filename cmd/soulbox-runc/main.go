// Command soulbox-runc holds one sandbox of isolation "runc": a container made
// by runc's library, with the host's kernel below it.
//
// It is never started by hand. The runc driver starts one for each sandbox, as
// the first process of a PID namespace and in a mount namespace of its own. It
// builds the root file system, starts the container, and then replaces itself
// by a few instructions of C that wait for the container's end (see hold.go).
// Everything it makes lives in its two namespaces, so the kernel removes all of
// it, programs and mounts, when this process ends, however it ends.
//
// It is a module of its own, with cgo and static: runc's library needs a newer
// runtime-spec than the pinned gVisor can be built with, and a constructor in C.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces before Go's runtime starts
)

// The files that the driver hands over.
const (
	controlFD  = 3 // a socket: the request comes in, an error goes out; closed without one: it runs
	readyFD    = 4 // the agent's
	imageFD    = 5 // the root image, with the lock that lies on it
	upperFD    = 6 // an ext4 file system in a file, for what the sandbox writes
	networkFD  = 7 // the network namespace
	maxRequest = 64 << 10
)

// A request is what the driver says once it has written down who we are.
type request struct {
	Hostname string `json:"hostname"`
	Mount    string `json:"mount"`   // an empty folder that we may mount on
	Base     uint32 `json:"base"`    // the host's number of the sandbox's root
	Command  string `json:"command"` // the agent, in the image
}

func init() { //nolint:gochecknoinits // only during initialisation is the first thread certain to be ours
	// The first thread enters the network namespace, and its children with it.
	runtime.LockOSThread()
}

func main() {
	verb := ""
	if len(os.Args) > 1 {
		verb = os.Args[1]
	}
	switch verb {
	case "init":
		libcontainer.Init() // does not return
	case "run":
		control := os.NewFile(controlFD, "control")
		if err := run(control); err != nil {
			_, _ = control.WriteString(err.Error()) // or nobody listens any more
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "soulbox-runc is started by soulbox serve")
		os.Exit(2)
	}
}

// run returns only when it fails.
func run(control io.Reader) error {
	for fd := controlFD; fd <= networkFD; fd++ {
		closeOnExec(fd)
	}
	// The driver sends the request when our number is on its disk. If it dies
	// before, the stream ends, and so do we: nobody would find us.
	var req request
	if err := json.NewDecoder(io.LimitReader(control, maxRequest)).Decode(&req); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	if err := enterNetwork(); err != nil {
		return fmt.Errorf("enter the network: %w", err)
	}
	if err := buildRoot(req); err != nil {
		return fmt.Errorf("build the root file system: %w", err)
	}
	pid, err := startContainer(req)
	if err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return hold(pid)
}
