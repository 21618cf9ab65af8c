package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Evict ends the processes that are in the network of a slot. Those of a
// sandbox are its driver's to end; other programs may not have one.
func (n *Network) Evict(s Slot) error {
	if _, err := n.Lease(s); err != nil {
		return err
	}
	return n.plan.evict(s)
}

// evict kills every process in the namespaces of some slots, except for this
// one, of which a thread may be on its way.
func (p plan) evict(slots ...Slot) error {
	inside := make(map[string]bool, len(slots))
	for _, s := range slots {
		var st unix.Stat_t
		if bound(p.path(s)) && unix.Stat(p.path(s), &st) == nil {
			inside[fmt.Sprintf("net:[%d]", st.Ino)] = true
		}
	}
	if len(inside) == 0 {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !inside[networkOf(pid)] {
			continue
		}
		errs = append(errs, endIn(pid, inside))
	}
	return errors.Join(errs...)
}

// networkOf names the namespace of a process; empty when there is none.
func networkOf(pid int) string {
	name, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns", "net"))
	if err != nil {
		return ""
	}
	return name
}

// endIn kills a process if it is in one of the namespaces. Its number may be
// somebody else's by now, so it is held before one looks again.
func endIn(pid int, inside map[string]bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(fd)
		if inside[networkOf(pid)] {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return nil
}
