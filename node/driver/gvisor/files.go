package gvisor

import (
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// detachStandardFiles makes os.Stdin a pipe at its end and the other two a
// pipe that nobody reads, so that a sandbox which finds them can neither read
// nor write anything, and gVisor's change of their owner touches no real file.
func detachStandardFiles() error {
	in, w, err := os.Pipe()
	if err != nil {
		return err
	}
	w.Close()
	r, out, err := os.Pipe()
	if err != nil {
		in.Close()
		return err
	}
	r.Close()
	os.Stdin, os.Stdout, os.Stderr = in, out, out
	return nil
}

// keepFiles keeps every open file of this process out of the programs that it
// starts; those that a sentry is to have are handed to it by number.
//
// gVisor opens sockets that a fork would inherit, the control socket among
// them, so a sentry would hold its own twice, and now and then another's.
func keepFiles() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep files from being inherited: %w", err)
	}
	return nil
}

// A starting sentry moves its standard files to these numbers and gives up
// when one of them is taken (startingStdioFD in gVisor's boot package).
const firstSentryFD, lastSentryFD = 253, 255

// reserveNumbers occupies these numbers in this process for good, so that no
// socket has one at the moment of a fork.
func reserveNumbers() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := firstSentryFD; fd <= lastSentryFD; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			continue // occupied already, perhaps by an earlier call
		}
		if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("reserve file number %d: %w", fd, err)
		}
	}
	return nil
}
