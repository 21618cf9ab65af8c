package gvisor

import "runtime"

// init keeps the process's first thread out of every namespace but its own.
//
// gVisor's specutils.ApplyNS, which brings a thread into a sandbox's network
// namespace and back, takes the way back from /proc/self/ns, which is that of
// the first thread. Would that one be inside another sandbox's namespace at
// the moment, the thread would come back there, and connections that the
// runtime later opens from it would start in the wrong network. Locked here,
// the first thread runs only the main goroutine.
func init() { //nolint:gochecknoinits // only during initialisation is the first thread certain to be ours
	runtime.LockOSThread()
}
