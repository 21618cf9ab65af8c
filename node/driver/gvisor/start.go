package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/sandbox"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/driver"
)

// Start implements [driver.Driver].
func (d *Driver) Start(ctx context.Context, spec driver.Spec) (_ driver.Instance, err error) {
	image := spec.Image // a lock that lies on it lasts as long as the sentry
	defer func() {
		if image != nil {
			image.Close()
		}
	}()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	// The record comes before the side effect; it also is the lock on the id.
	st := state{Addr: spec.Addr, Socket: filepath.Join(d.runDir, "runsc-"+string(spec.ID)+".sock")}
	if err := st.create(spec.Dir, d.faults); errors.Is(err, os.ErrExist) {
		return nil, soulbox.Errorf(soulbox.Conflict, "sandbox %s exists on this node", spec.ID)
	} else if err != nil {
		return nil, fmt.Errorf("record sandbox %s: %w", spec.ID, err)
	}
	defer func() {
		if err != nil {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
			defer cancel()
			err = errors.Join(err, d.Destroy(clean, spec.ID, spec.Dir))
		}
	}()

	d.faults.Reach("sentry/recorded")

	oci := ociSpec(spec)
	if err := errors.Join(os.MkdirAll(oci.Root.Path, 0o700), writeSpec(spec.Dir, oci)); err != nil {
		return nil, fmt.Errorf("write the spec of sandbox %s: %w", spec.ID, err)
	}
	upper, err := os.OpenFile(filepath.Join(spec.Dir, upperFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the overlay of sandbox %s: %w", spec.ID, err)
	}
	ready, readyW, err := os.Pipe()
	if err != nil {
		upper.Close()
		return nil, err
	}
	defer ready.Close()

	conf := *d.conf
	conf.PanicLog = filepath.Join(spec.Dir, panicFile)
	args := &sandbox.Args{
		ID:                  string(spec.ID),
		Spec:                oci,
		BundleDir:           spec.Dir,
		IOFiles:             []*os.File{image},
		GoferFilestoreFiles: []*os.File{upper},
		GoferMountConfs: specutils.GoferMountConfFlags{{
			Lower: specutils.Erofs,
			Upper: specutils.AnonOverlay,
			Size:  strconv.FormatInt(int64(spec.Size.Disk), 10),
		}},
		MountHints: &boot.PodMountHints{},
		Cgroup:     limits{cpus: spec.Size.CPUs, memory: uint64(spec.Size.Memory)},
	}
	saved := spec.Saved
	awake := saved != nil && saved.Memory // its agent listens already
	if !awake {
		args.PassFiles = map[int]*os.File{readyFD: readyW}
	}
	if saved != nil && !saved.Memory {
		// The sentry begins to read as soon as it is there.
		if err := saved.Check(); err != nil {
			upper.Close()
			readyW.Close()
			return nil, err
		}
		args.FSRestoreImagePath = saved.Dir
	}
	check := func() error { return nil }
	if awake {
		// Nothing is read before Restore, and to start the sentry takes as long.
		checked := make(chan error, 1)
		go func() { checked <- saved.Check() }()
		check = sync.OnceValue(func() error { return <-checked })
		defer func() { _ = check() }() // the folder may be gone once we return; who waits for the result has it
	}
	sb, err := sandbox.New(&conf, args) // closes image and upper in any case
	image = nil
	readyW.Close()
	if err != nil {
		return nil, fmt.Errorf("boot the sentry of sandbox %s: %w%s", spec.ID, err, panicText(spec.Dir))
	}
	d.faults.Reach("sentry/booted")
	st.PID = sb.Getpid()
	inst, err := watch(st, spec.Dir)
	if err != nil {
		return nil, fmt.Errorf("watch the sentry of sandbox %s: %w", spec.ID, err)
	}
	if err := inst.state.save(spec.Dir); err != nil {
		return nil, fmt.Errorf("record the sentry of sandbox %s: %w", spec.ID, err)
	}

	d.faults.Reach("sentry/saved")

	// Moving a process between cgroups may wait for the kernel (6–12 ms), so it
	// happens beside the start; stubs that are born meanwhile are moved after.
	grouped := make(chan error, 1)
	go func() { grouped <- join(spec.Cgroup, st.PID) }()
	if awake {
		if err = check(); err == nil {
			err = sb.Restore(&conf, oci, string(spec.ID), saved.Dir, false, false, nil)
		}
	} else {
		err = sb.StartRoot(&conf, oci)
	}
	err = errors.Join(err, <-grouped)
	if err == nil {
		err = join(spec.Cgroup, children(st.PID)...)
	}
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.ID, err)
	}
	d.faults.Reach("sentry/running")
	if awake {
		return inst, nil
	}
	if err := awaitReady(ctx, ready, inst); err != nil {
		return nil, fmt.Errorf("wait for the agent of sandbox %s: %w", spec.ID, err)
	}
	return inst, nil
}

// join moves processes into the cgroup, if there is one.
func join(g driver.Cgroup, pids ...int) error {
	if g == nil || len(pids) == 0 {
		return nil
	}
	return g.Add(pids...)
}

// awaitReady returns once the agent has written a line to its end of the pipe
// and has closed it. A sandbox saved with the pipe in it could not be restored.
func awaitReady(ctx context.Context, ready *os.File, inst *instance) error {
	// A read that is under way ends when the deadline is moved into the past.
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	const want = "ready\n"
	line, err := io.ReadAll(io.LimitReader(ready, int64(len(want)+1)))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case len(line) == 0: // the last writer has gone: the agent did not start
		select {
		case <-inst.done:
			return fmt.Errorf("the sentry ended: %+v%s", inst.Exit(), panicText(inst.dir))
		default:
			return errors.New("the agent ended without saying that it listens")
		}
	case string(line) != want:
		return fmt.Errorf("the agent said %q", line)
	}
	return nil
}
