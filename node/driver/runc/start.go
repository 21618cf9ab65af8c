package runc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/cleanup"
	"github.com/soulbox/soulbox/node/driver"
)

// agentPath is where every SoulBox image has the agent.
const agentPath = "/.soulbox/agent"

// request tells soulbox-runc what to do; see there.
type request struct {
	Hostname string `json:"hostname"`
	Mount    string `json:"mount"`
	Base     uint32 `json:"base"`
	Command  string `json:"command"`
}

// Start implements [driver.Driver].
func (d *Driver) Start(ctx context.Context, spec driver.Spec) (_ driver.Instance, err error) {
	defer spec.Image.Close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	base, err := firstUser(spec.Addr)
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.ID, err)
	}
	if spec.Saved != nil && spec.Saved.Memory {
		return nil, soulbox.Errorf(soulbox.Invalid, "a sandbox of isolation \"runc\" cannot be started with the memory of another, only with its files")
	}
	// The record comes before the side effect; it also is the lock on the id.
	st := state{Addr: spec.Addr}
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
	d.faults.Reach("runc/recorded")

	var files cleanup.Stack // what the other process has of its own by the end
	defer func() { _ = files.Run() }()
	upper, err := d.prepare(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("make the disk of sandbox %s: %w", spec.ID, err)
	}
	files.Push(upper.Close)
	network, err := os.Open(spec.Netns)
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.ID, err)
	}
	files.Push(network.Close)
	ready, readyW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	files.Push(ready.Close)
	control, far, err := socketPair()
	if err != nil {
		readyW.Close()
		return nil, err
	}
	files.Push(control.Close)

	pid, err := d.fork(spec.Dir, far, readyW, spec.Image, upper, network)
	far.Close()
	readyW.Close()
	if err != nil {
		return nil, fmt.Errorf("start soulbox-runc for sandbox %s: %w", spec.ID, err)
	}
	d.faults.Reach("runc/forked")
	st.PID = pid
	inst, err := d.watch(spec.ID, st, spec.Dir)
	if err != nil {
		// It has ended already, or does when the socket is closed.
		return nil, fmt.Errorf("watch sandbox %s: %w", spec.ID, err)
	}
	if err := inst.state.save(spec.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("record the process of sandbox %s: %w", spec.ID, err), d.kill(ctx, spec.ID, inst.state))
	}
	d.faults.Reach("runc/saved")

	// What it starts from now on is born into its groups.
	if spec.Cgroup != nil {
		if err := spec.Cgroup.Add(pid); err != nil {
			return nil, err
		}
	}
	if err := d.freezer.add(spec.ID, pid); err != nil {
		return nil, fmt.Errorf("make the freezer of sandbox %s: %w", spec.ID, err)
	}
	req := request{Hostname: spec.Hostname, Mount: filepath.Join(spec.Dir, mountDir), Base: base, Command: agentPath}
	if err := tell(ctx, control, req); err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.ID, err)
	}
	d.faults.Reach("runc/running")
	if err := awaitReady(ctx, ready); err != nil {
		return nil, fmt.Errorf("wait for the agent of sandbox %s: %w", spec.ID, err)
	}
	return inst, nil
}

// firstUser returns the host's number of the root of the sandbox at addr. The
// numbers begin above those that distributions give away, and each address of
// a network of 32,768 has 65,536 of its own.
func firstUser(addr string) (uint32, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil || !a.Is4() {
		return 0, fmt.Errorf("%q is not an IPv4 address", addr)
	}
	b := a.As4()
	const first = 1 << 30
	return first + (uint32(b[2]&0x7f)<<8+uint32(b[3]))<<16, nil
}

// prepare makes what the sandbox's folder needs, and returns the disk.
func (d *Driver) prepare(ctx context.Context, spec driver.Spec) (*os.File, error) {
	if err := os.Mkdir(filepath.Join(spec.Dir, mountDir), 0o700); err != nil {
		return nil, err
	}
	from := ""
	if spec.Saved != nil {
		if err := spec.Saved.Check(); err != nil {
			return nil, err
		}
		from = filepath.Join(spec.Saved.Dir, savedFile)
	}
	return d.makeUpper(ctx, filepath.Join(spec.Dir, upperFile), spec.Size.Disk, from)
}

// fork starts soulbox-runc with files as its descriptors from 3 on. The
// sandbox's folder is for whoever reads the list of processes.
func (d *Driver) fork(dir string, files ...*os.File) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	p, err := os.StartProcess(d.program, []string{"soulbox-runc", "run", dir}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: append([]*os.File{null, null, null}, files...),
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS},
	})
	if err != nil {
		return 0, err
	}
	pid := p.Pid
	return pid, p.Release() // its instance collects it
}

// socketPair returns two ends of a stream.
func socketPair() (near, far *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// past is a deadline that has been over for long.
var past = time.Unix(1, 0)

// tell sends the request and returns when the container runs.
func tell(ctx context.Context, control *os.File, req request) error {
	stop := context.AfterFunc(ctx, func() { _ = control.SetDeadline(past) })
	defer stop()
	err := json.NewEncoder(control).Encode(req)
	var said []byte
	if err == nil {
		const most = 4 << 10
		said, err = io.ReadAll(io.LimitReader(control, most))
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case len(said) > 0:
		return errors.New(string(said))
	}
	return err
}

// awaitReady returns once the agent has written a line to its end of the pipe
// and has closed it.
func awaitReady(ctx context.Context, ready *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(past) })
	defer stop()
	const want = "ready\n"
	line, err := io.ReadAll(io.LimitReader(ready, int64(len(want)+1)))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case len(line) == 0:
		return errors.New("it ended without saying that it listens")
	case string(line) != want:
		return fmt.Errorf("it said %q", line)
	}
	return nil
}
