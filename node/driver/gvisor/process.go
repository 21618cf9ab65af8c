package gvisor

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

// A process is one host process, held by a descriptor so that a reused number
// can never be mistaken for it. Waiting costs no thread: the descriptor
// becomes readable when the process has ended, and the runtime polls it.
type process struct {
	pid     int
	started uint64
	file    *os.File // a pidfd
}

// openProcess returns the process with number pid if it began at started; 0
// takes whichever is there. It is unix.ESRCH when there is none.
func openProcess(pid int, started uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	p.started, err = startTime(pid)
	if err != nil || started != 0 && p.started != started {
		p.Close()
		return nil, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	return p, nil
}

func (p *process) Close() error { return p.file.Close() }

func (p *process) kill() error {
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

// wait returns once the process has ended, or ctx has.
func (p *process) wait(ctx context.Context) error {
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

// reap collects the exit status of a child that has ended. ok is false when
// the process is not a child of ours, or was collected before.
func (p *process) reap() (status unix.WaitStatus, ok bool) {
	for {
		pid, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, err == nil && pid == p.pid
		}
	}
}

// startTime returns when the kernel started process pid, in clock ticks since
// boot: field 22 of /proc/pid/stat, see proc_pid_stat(5).
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
