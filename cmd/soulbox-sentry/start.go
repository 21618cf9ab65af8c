package main

import (
	"runtime"
	"sync"
	_ "unsafe" // for go:linkname

	_ "gvisor.dev/gvisor/pkg/gomaxprocs"
	_ "gvisor.dev/gvisor/pkg/sentry/seccheck"
)

// To load memory, gVisor starts 128 readers, and has Go run that many threads
// beside those of the machine's processors. For a kernel's state, which another
// goroutine decodes meanwhile, that means stopped worlds, and a scheduler and a
// garbage collector that are made for a hundred processors and have two. So the
// counter of additional ones starts below zero, and the readers bring it to
// spare. gVisor takes note of a number below zero by a warning that nobody reads.
//
//go:linkname moreProcs gvisor.dev/gvisor/pkg/gomaxprocs.temp
var moreProcs int

const readers = 128

// spare is how many processors Go has beyond those of the machine. A goroutine
// that waits for a program of the sandbox keeps one, and Go takes it back only
// when 10 ms have gone: on two processors, the first packet for a sandbox that was
// restored just now waited for that long, while both had nothing to do.
const spare = 1

// gVisor's trace points are registered before anything else, by reflection, for
// whoever watches sandboxes by them. Nobody can here.
//
//go:linkname tracePoints gvisor.dev/gvisor/pkg/sentry/seccheck.initOnce
var tracePoints sync.Once

// leaveOut makes a start shorter by what it need not do.
func leaveOut() {
	moreProcs = spare - readers
	// gVisor would set them now, and does not below zero. Go looks again how many
	// processors there are until somebody has, by a call that the filter kills for.
	runtime.GOMAXPROCS(runtime.NumCPU() + spare)
	tracePoints.Do(func() {})
}
