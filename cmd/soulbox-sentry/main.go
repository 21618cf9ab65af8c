// Command soulbox-sentry is gVisor's sentry, the user-space kernel that stands
// between a sandbox and the host, pinned to the version in go.mod.
//
// It is never started by hand. The gvisor driver starts it, and it starts
// itself again inside its own empty root, so it must be a static binary
// (CGO_ENABLED=0). Of gVisor's commands it has only the two that this needs:
// boot, which is the kernel, and umount, by which a booting kernel drops the
// last view of the host's /proc.
package main

import (
	"runtime/debug"

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

// gcPercent trades a little processor time for memory that every idle sandbox
// would pay for. The environment is cleared on the way here, so GOGC cannot.
const gcPercent = 20

func main() {
	debug.SetGCPercent(gcPercent)
	cli.Run(nil, map[util.SubCommand]string{
		new(sentrycmd.Boot):   "",
		new(sentrycmd.Umount): "",
	}, nil)
}
