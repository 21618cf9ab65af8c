package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	stateFile = "runc.json"
	upperFile = "upper.ext4"
	savedFile = "upper.packed" // where it was saved
	mountDir  = "mnt"          // empty here; the sandbox's process mounts on it
)

// state is how a sandbox is found again by a process that did not start it. It
// need not survive a power cut, because no sandbox does.
type state struct {
	PID     int    `json:"pid"`     // of soulbox-runc; 0: it was never told what to do
	Started uint64 `json:"started"` // the kernel's start time of PID, against reuse
	Addr    string `json:"addr"`
	Saving  bool   `json:"saving,omitempty"` // it is, or is about to be, frozen for as long as it is saved
}

// create writes the first record of a sandbox, or returns os.ErrExist.
func (s state) create(dir string, faults *fault.Points) error {
	return jsonfile.Create(filepath.Join(dir, stateFile), s, func() { faults.Reach("runc/named") })
}

func (s state) save(dir string) error { return jsonfile.Replace(filepath.Join(dir, stateFile), s) }

func load(dir string) (state, error) { return jsonfile.Load[state](filepath.Join(dir, stateFile)) }

// Adopt implements [driver.Driver].
func (d *Driver) Adopt(_ context.Context, id soulbox.SandboxID, dir string) (driver.Instance, error) {
	st, err := load(dir)
	if err != nil || st.PID == 0 {
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s was not started completely", id)
	}
	inst, err := d.watch(id, st, dir)
	if errors.Is(err, unix.ESRCH) {
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s does not run any more", id)
	}
	if err != nil {
		return nil, fmt.Errorf("watch sandbox %s: %w", id, err)
	}
	if st.Saving { // whoever saved it cannot let it go on any more
		inst.mu.Lock()
		defer inst.mu.Unlock()
		inst.still = 1
		if err := inst.saved(); err != nil {
			return nil, fmt.Errorf("adopt sandbox %s: %w", id, err)
		}
	}
	return inst, nil
}

// destroyTimeout bounds the cleanup after a failed start.
const destroyTimeout = 30 * time.Second

// Destroy implements [driver.Driver].
func (d *Driver) Destroy(ctx context.Context, id soulbox.SandboxID, dir string) error {
	st, err := load(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		// Only the first record can be torn, and with that nothing was started.
		st = state{}
	}
	if st.PID != 0 {
		if err := d.kill(ctx, id, st); err != nil {
			return fmt.Errorf("end sandbox %s: %w", id, err)
		}
	}
	if err := d.freezer.remove(ctx, id); err != nil {
		return fmt.Errorf("remove the freezer of sandbox %s: %w", id, err)
	}
	for _, name := range []string{
		upperFile,
		mountDir,
		stateFile + jsonfile.Next,
		stateFile, // last: while it is there, the work is not done
	} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what sandbox %s left: %w", id, err)
		}
	}
	return nil
}

// kill ends a sandbox's process and returns once it is gone, and with it all
// that it was the first of.
func (d *Driver) kill(ctx context.Context, id soulbox.SandboxID, st state) error {
	p, err := pidfd.Open(st.PID, st.Started)
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
	// One that is frozen does not even die.
	if err := d.freezer.release(id, st.PID); err != nil {
		return err
	}
	return p.Wait(ctx)
}
