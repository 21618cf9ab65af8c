// Command soulbox-sentry is gVisor's sentry, the user-space kernel that stands
// between a sandbox and the host, pinned to the version in go.mod.
//
// It is never started by hand. The gvisor driver starts cmd/soulbox-boot, which
// becomes this program inside an empty root, so it must be a static binary
// (CGO_ENABLED=0). Of gVisor's commands it has only boot, which is the kernel, and
// umount, which belongs to it where it makes that root itself.
package main

import (
	"math"
	"runtime/debug"
	"time"

	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

// Starting a sandbox makes a lot of garbage in a heap that is still small, so
// that collecting it takes as long as all the rest: nothing is collected below
// startMemory then. Once it has started, memory is what every idle sandbox pays
// for, and processor time is worth less. The environment is cleared on the way
// here, so GOGC cannot say this.
const (
	startMemory = 64 << 20
	startTime   = 2 * time.Second
	restPercent = 20
)

func main() {
	giveFilter()
	leaveOut()
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(startMemory)
	time.AfterFunc(startTime, func() {
		debug.SetGCPercent(restPercent)
		debug.SetMemoryLimit(math.MaxInt64)
		debug.FreeOSMemory()
	})
	cli.Run(nil, map[util.SubCommand]string{
		new(sentrycmd.Boot):   "",
		new(sentrycmd.Umount): "",
	}, nil)
}
