package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/internal/jsonfile"
	"github.com/soulbox/soulbox/internal/pidfd"
	"github.com/soulbox/soulbox/node/driver"
)

// The files of a sandbox's folder that belong to this driver.
const (
	stateFile  = "gvisor.json"
	configFile = "config.json"
	upperFile  = "upper"
	panicFile  = "panic.log"
	rootFolder = "root"
)

// state is how a sentry is found again by a process that did not start it.
// It need not survive a power cut, because no sentry does.
type state struct {
	PID     int    `json:"pid"`     // 0 while the sentry is being started
	Started uint64 `json:"started"` // the kernel's start time of PID, against reuse
	Addr    string `json:"addr"`
	Socket  string `json:"socket"`
}

// create writes the first record of a sandbox, or returns os.ErrExist.
func (s state) create(dir string, faults *fault.Points) error {
	return jsonfile.Create(filepath.Join(dir, stateFile), s, func() { faults.Reach("sentry/named") })
}

func (s state) save(dir string) error { return jsonfile.Replace(filepath.Join(dir, stateFile), s) }

func load(dir string) (state, error) { return jsonfile.Load[state](filepath.Join(dir, stateFile)) }

// Adopt implements [driver.Driver].
func (d *Driver) Adopt(_ context.Context, id soulbox.SandboxID, dir string) (driver.Instance, error) {
	st, err := load(dir)
	if err != nil || st.PID == 0 {
		// Not even the first record may be whole when the server was killed
		// while it wrote it. Destroy ends what may run all the same.
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s was not started completely", id)
	}
	inst, err := watch(st, dir)
	if errors.Is(err, unix.ESRCH) {
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s does not run any more", id)
	}
	if err != nil {
		return nil, fmt.Errorf("watch the sentry of sandbox %s: %w", id, err)
	}
	return inst, nil
}

// destroyTimeout bounds the cleanup after a failed start.
const destroyTimeout = 30 * time.Second

// Destroy implements [driver.Driver].
func (d *Driver) Destroy(ctx context.Context, id soulbox.SandboxID, dir string) error {
	st, err := load(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		// A record that cannot be read must not keep the sandbox alive.
		st = state{}
	}
	if st.Socket == "" {
		st.Socket = filepath.Join(d.runDir, "runsc-"+string(id)+".sock")
	}
	pids := []int{st.PID}
	if st.PID == 0 && !errors.Is(err, os.ErrNotExist) {
		// The server died while the sentry was starting: nobody wrote its
		// number down, but its command line names the folder.
		pids = findSentries(dir)
	}
	for _, pid := range pids {
		if pid == 0 {
			continue
		}
		if err := kill(ctx, pid, st.Started); err != nil {
			return fmt.Errorf("end the sentry of sandbox %s: %w", id, err)
		}
	}
	for _, path := range []string{
		st.Socket,
		filepath.Join(dir, configFile),
		filepath.Join(dir, upperFile),
		filepath.Join(dir, panicFile),
		filepath.Join(dir, rootFolder),
		filepath.Join(dir, stateFile+jsonfile.Next),
		filepath.Join(dir, stateFile), // last: while it is there, the work is not done
	} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what sandbox %s left: %w", id, err)
		}
	}
	return nil
}

// kill ends process pid, if it is the one that began at started (0: any), and
// returns once it is gone. The kernel ends the stubs with it, because the
// sentry is the first process of their PID namespace.
func kill(ctx context.Context, pid int, started uint64) error {
	p, err := pidfd.Open(pid, started)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Kill(); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return p.Wait(ctx)
}

// findSentries returns the processes whose command line says that they are
// the sentry with the bundle folder dir. It reads all of /proc, which only a
// cleanup after a crash does.
func findSentries(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it has just ended
		}
		if commandLineOf(strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00"), dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// children returns the child processes of pid.
func children(pid int) []int {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue
		}
		for f := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	slices.Sort(pids)
	return pids
}
