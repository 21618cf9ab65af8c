// Package pidfd holds processes by a descriptor, so that a process which gets
// the number of another that has ended is never mistaken for it.
package pidfd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// past is a deadline that has been over for long.
var past = time.Unix(1, 0)

// A Process is one process of this machine. Waiting for it costs no thread:
// the descriptor becomes readable when it has ended, and the runtime polls it.
type Process struct {
	Started uint64 // when it began, in clock ticks since boot

	pid  int
	file *os.File
}

// Open returns the process with number pid if it began at started; 0 takes
// whichever is there. It is unix.ESRCH when there is none, or when it has
// ended and only waits to be collected.
func Open(pid int, started uint64) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &Process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	p.Started, err = startTime(pid)
	if err != nil || started != 0 && p.Started != started {
		p.Close()
		return nil, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	return p, nil
}

// Close lets go of the process. It does not end it.
func (p *Process) Close() error { return p.file.Close() }

// Kill sends it SIGKILL. It is unix.ESRCH when it has ended.
func (p *Process) Kill() error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }); err != nil {
		return err
	}
	return sent
}

// Wait returns once the process has ended, or ctx has. After it returned for
// ctx, it returns at once.
func (p *Process) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(past) })
	defer stop()
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Reap collects the exit status of a child that has ended. ok is false when
// the process is not a child of ours, or was collected before.
func (p *Process) Reap() (status unix.WaitStatus, ok bool) {
	for {
		pid, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, err == nil && pid == p.pid
		}
	}
}

// startTime returns field 22 of /proc/pid/stat, see proc_pid_stat(5).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	started, err := parseStat(string(b))
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return started, nil
}

// parseStat returns the start time in the text of a /proc/pid/stat, or
// unix.ESRCH when the process has ended and only waits to be collected.
func parseStat(s string) (uint64, error) {
	// The second field is a name in parentheses that may itself hold spaces
	// and parentheses, so count from the last one.
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("%d fields", len(fields)+2)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, unix.ESRCH
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
