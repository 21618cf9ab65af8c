package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Kill ends every process in the group and returns once none is left, or ctx
// has ended. Nothing can be started in the group after that. A group that does
// not exist has none.
func (g *Group) Kill(ctx context.Context) error {
	// Those that are killed one by one must not have new ones meanwhile. A
	// hierarchy without a limit has no such file.
	for _, dir := range g.folders {
		if err := write(filepath.Join(dir, "pids.max"), "0"); err != nil {
			return fmt.Errorf("end what is in the cgroup of %s: %w", g.id, err)
		}
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		pids, err := g.processes()
		if err == nil && len(pids) == 0 {
			return nil
		}
		if err == nil {
			err = g.kill(pids)
		}
		if err != nil {
			return fmt.Errorf("end what is in the cgroup of %s: %w", g.id, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("end %d processes in the cgroup of %s: %w", len(pids), g.id, context.Cause(ctx))
		}
	}
}

// write writes a file of the kernel if it is there.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); !errors.Is(err, unix.ENODEV) { // it went away
		return err
	}
	return nil
}

// processes returns what is in the group in any hierarchy: one that was being
// moved when the server died may be in some.
func (g *Group) processes() ([]int, error) {
	var all []int
	for _, dir := range g.folders {
		pids, err := cgroups.GetAllPids(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// kill ends processes that were in the group a moment ago. A number may be
// somebody else's by now, so each is held before one looks again.
func (g *Group) kill(pids []int) error {
	held := make(map[int]int, len(pids)) // number → descriptor
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		// Not internal/pidfd, which takes a process for ended whose first
		// thread has.
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return err
		}
		held[pid] = fd
	}
	still, err := g.processes()
	if err != nil {
		return err
	}
	for _, pid := range still {
		fd, ok := held[pid]
		if !ok {
			continue // the next look finds it
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
