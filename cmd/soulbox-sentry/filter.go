package main

import (
	"os"
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"
)

// gVisor compiles the filter of its own system calls in every sentry, which
// takes as long as a tenth of a start, unless it finds a program in this map. Its
// own build fills that by a generated file, which its Go module does not have.
//
//go:linkname known gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var known map[string]precompiledseccomp.Program

// giveFilter lets the sentry find compiled, which is what it would compile
// itself: TestFilter holds the two together. A sentry that has another
// configuration than ours, or another architecture, compiles as ever.
func giveFilter() {
	const first = 1 // in a PID namespace of its own; the program has the number in it
	if compiled.Name == "" || os.Getpid() != first {
		return
	}
	filter.ListPrecompiled() // once, it makes the map anew
	known[compiled.Name] = compiled
}
