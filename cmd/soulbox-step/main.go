// Command soulbox-step is what BuildKit lives in, and what it runs the steps of
// builds with. It is never started by hand.
//
// As `soulbox-step hold` it is the first process of the namespaces that the
// server makes for BuildKit: it builds a root in which there is nothing that
// BuildKit does not need, starts it, and ends when the server does. Everything
// that was made in the namespaces, programs and mounts, ends with it.
//
// To BuildKit it is an OCI runtime: of runc's commands it knows run, kill and
// delete. Every step runs in gVisor, in a place that the server gives to it, or
// is not run at all but done by the server; see internal/stepwire.
//
// To gVisor it is runsc: started under that name it is the kernel of a step or
// serves its files. For that it must be a static binary (CGO_ENABLED=0).
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

func main() {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "runsc-") || len(os.Args) > 1 && os.Args[1] == "umount" {
		cli.Run(nil, map[util.SubCommand]string{
			new(sentrycmd.Boot):   "",
			new(sentrycmd.Umount): "",
			new(cmd.Gofer):        "",
		}, nil)
		return
	}
	code, err := do(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// Exit codes.
const (
	failed   = 1
	misused  = 2
	refused  = 125 // a step did not run; docker run says it by the same number
	signaled = 128 // and the number of the signal
)

func do(args []string) (code int, err error) {
	c, err := parse(args)
	if err != nil {
		return misused, err
	}
	switch c.verb {
	case "hold":
		return hold()
	case "become":
		return failed, become(c.rest)
	case "run":
		return run(c)
	case "kill":
		err = kill(c.id)
	case "delete":
		err = remove(c.id)
	default:
		return misused, errors.New("soulbox-step is started by soulbox serve")
	}
	if err != nil {
		return failed, err
	}
	return 0, nil
}
