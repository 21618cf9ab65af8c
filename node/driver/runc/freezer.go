package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
)

const cgroups = "/sys/fs/cgroup"

// A freezer stops all processes of a sandbox at once, by their cgroup. With v2
// that is the group in which the node has put them. With v1 freezing has a
// hierarchy of its own, in which this driver makes a group for each sandbox.
type freezer struct {
	unified bool
}

func findFreezer() (freezer, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroups, &st); err != nil {
		return freezer{}, fmt.Errorf("look at %s: %w", cgroups, err)
	}
	return freezer{unified: st.Type == unix.CGROUP2_SUPER_MAGIC}, nil
}

// own returns the group that this driver makes, with v1.
func (freezer) own(id soulbox.SandboxID) string {
	return filepath.Join(cgroups, "freezer", "soulbox-runc-"+string(id))
}

// add makes the group of a sandbox, if it needs one, and moves a process there.
func (f freezer) add(id soulbox.SandboxID, pid int) error {
	if f.unified {
		return nil
	}
	if err := os.Mkdir(f.own(id), 0o755); errors.Is(err, os.ErrNotExist) { //nolint:gosec // as all cgroups are
		return fmt.Errorf("the freezer hierarchy of cgroup v1 is not mounted: %w", err)
	} else if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.WriteFile(filepath.Join(f.own(id), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// remove removes the group. It may take the kernel a moment to notice that a
// process has left.
func (f freezer) remove(ctx context.Context, id soulbox.SandboxID) error {
	if f.unified {
		return nil
	}
	return poll(ctx, func() (bool, error) {
		err := unix.Rmdir(f.own(id))
		if errors.Is(err, unix.EBUSY) {
			return false, nil
		}
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return true, err
	})
}

// group returns the folder of the group that process pid is frozen with.
func (f freezer) group(id soulbox.SandboxID, pid int) (string, error) {
	if !f.unified {
		return f.own(id), nil
	}
	his, err := unifiedGroup(strconv.Itoa(pid))
	if err != nil {
		return "", err
	}
	ours, err := unifiedGroup("self")
	if err != nil {
		return "", err
	}
	if his == ours || his == "/" {
		return "", errors.New("the sandbox has no cgroup of its own to be frozen with")
	}
	return filepath.Join(cgroups, his), nil
}

func unifiedGroup(pid string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, nil
		}
	}
	return "", fmt.Errorf("process %s is in no cgroup", pid)
}

// freeze returns when all processes stand still. When it fails, they go on.
func (f freezer) freeze(ctx context.Context, id soulbox.SandboxID, pid int) error {
	dir, err := f.group(id, pid)
	if err != nil {
		return err
	}
	err = poll(ctx, func() (bool, error) {
		if f.unified {
			if err := set(dir, "cgroup.freeze", "1"); err != nil {
				return false, err
			}
			return is(dir, "cgroup.events", "frozen 1")
		}
		// Writing it again moves along processes that were too busy before.
		if err := set(dir, "freezer.state", "FROZEN"); err != nil {
			return false, err
		}
		return is(dir, "freezer.state", "FROZEN")
	})
	if err != nil {
		return errors.Join(err, f.release(id, pid))
	}
	return nil
}

// frozen tells whether the processes stand still.
func (f freezer) frozen(id soulbox.SandboxID, pid int) bool {
	dir, err := f.group(id, pid)
	if err != nil {
		return false
	}
	file, want := "freezer.state", "THAWED"
	if f.unified {
		file, want = "cgroup.freeze", "0"
	}
	moving, err := is(dir, file, want)
	return err == nil && !moving
}

// release lets all processes go on. If there are none, it succeeds.
func (f freezer) release(id soulbox.SandboxID, pid int) error {
	dir, err := f.group(id, pid)
	if err != nil {
		return nil //nolint:nilerr // it has ended, or was never frozen
	}
	file, value := "freezer.state", "THAWED"
	if f.unified {
		file, value = "cgroup.freeze", "0"
	}
	if err := set(dir, file, value); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

func set(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// is tells whether one line of the file is want.
func is(dir, file, want string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if strings.TrimSuffix(line, "\n") == want {
			return true, nil
		}
	}
	return false, nil
}

// poll calls try until it is done or fails, or ctx ends: the kernel tells
// nobody when it is through.
func poll(ctx context.Context, try func() (done bool, err error)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		done, err := try()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
