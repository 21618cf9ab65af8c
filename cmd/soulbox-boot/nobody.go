package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// nobody's number on every Linux, as user and as group. The user namespace has
// no other.
const nobody = 65534

// becomeNobody gives up all that the calling thread could do beyond what any
// user can, for itself and all that it executes: capabilities(7). The thread
// must be locked.
func becomeNobody() error {
	// Of the thread: Go's own would change all threads.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGID, nobody, 0, 0); errno != 0 {
		return os.NewSyscallError("setgid", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETUID, nobody, 0, 0); errno != 0 {
		return os.NewSyscallError("setuid", errno)
	}
	// What no program can be given, as long as there is a right to say so.
	for c := uintptr(0); ; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); errors.Is(err, unix.EINVAL) {
			break // the kernel knows no further ones
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("clear the ambient capabilities", err)
	}
	var none [2]unix.CapUserData
	return os.NewSyscallError("capset", unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]))
}
