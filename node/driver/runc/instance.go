package runc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/pidfd"
	"github.com/soulbox/soulbox/node/driver"
)

// An instance watches one sandbox's process. Its single goroutine ends when
// that does.
type instance struct {
	id      soulbox.SandboxID
	state   state
	dir     string
	freezer freezer
	done    chan struct{}
	exit    driver.Exit // written before done is closed

	mu    sync.Mutex // one change of what is frozen at a time, and no change during a Save
	still int        // how many Freezes are without their Thaw
}

// watch returns the instance of the process that st tells of, or unix.ESRCH.
func (d *Driver) watch(id soulbox.SandboxID, st state, dir string) (*instance, error) {
	p, err := pidfd.Open(st.PID, st.Started)
	if err != nil {
		return nil, err
	}
	st.Started = p.Started
	inst := &instance{id: id, state: st, dir: dir, freezer: d.freezer, done: make(chan struct{})}
	if d.freezer.frozen(id, st.PID) {
		inst.still = 1
	}
	go func() {
		defer close(inst.done)
		defer p.Close()
		// Without a deadline, waiting can only fail by the descriptor being
		// broken; then nobody can tell how it ends.
		if err := p.Wait(context.Background()); err != nil {
			return
		}
		if status, ok := p.Reap(); ok && status.Signaled() {
			inst.exit = driver.Exit{Signal: status.Signal().String()}
		} else if ok {
			inst.exit = driver.Exit{Code: status.ExitStatus()}
		}
	}()
	return inst, nil
}

// Dial implements [driver.Instance].
func (i *instance) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	// The namespace stays when the sandbox has ended, and its kernel would go
	// on to say that nobody listens.
	select {
	case <-i.done:
		return nil, fmt.Errorf("dial port %d: %w", port, errEnded)
	default:
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort(i.state.Addr, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("dial port %d: %w", port, err)
	}
	return conn, nil
}

var errEnded = errors.New("the sandbox has ended")

// Done implements [driver.Instance].
func (i *instance) Done() <-chan struct{} { return i.done }

// Exit implements [driver.Instance].
func (i *instance) Exit() driver.Exit { return i.exit }

// DiskUsed implements [driver.Instance].
func (i *instance) DiskUsed() (soulbox.Bytes, error) {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(i.dir, upperFile), &st); errors.Is(err, syscall.ENOENT) {
		return 0, nil // destroyed in the meantime
	} else if err != nil {
		return 0, err
	}
	return soulbox.Bytes(st.Blocks * 512), nil
}

// Freeze implements [driver.Instance].
func (i *instance) Freeze(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.freezeLocked(ctx)
}

func (i *instance) freezeLocked(ctx context.Context) error {
	if err := i.alive(); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	if i.still == 0 {
		if err := i.freezer.freeze(ctx, i.id, i.state.PID); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
	}
	i.still++
	return nil
}

// Thaw implements [driver.Instance].
func (i *instance) Thaw(context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.thawLocked()
}

func (i *instance) thawLocked() error {
	if err := i.alive(); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	if i.still > 1 {
		i.still--
		return nil
	}
	if err := i.freezer.release(i.id, i.state.PID); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	i.still = 0
	return nil
}

func (i *instance) alive() error {
	select {
	case <-i.done:
		return errEnded
	default:
		return nil
	}
}

// Save implements [driver.Instance]. The disk is copied while nobody can write
// to it: programs stand still, and what they wrote before has left the memory.
func (i *instance) Save(ctx context.Context, dir string, memory bool) (err error) {
	if memory {
		return soulbox.Errorf(soulbox.Invalid, "a sandbox of isolation \"runc\" cannot be saved with its memory, only its files can")
	}
	to, err := os.OpenFile(filepath.Join(dir, savedFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.still > 0 {
		return i.copyDisk(ctx, to)
	}
	i.state.Saving = true
	if err := i.state.save(i.dir); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	defer func() { err = errors.Join(err, i.saved()) }()
	if err := i.freezeLocked(ctx); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	return i.copyDisk(ctx, to)
}

// Changes implements [driver.Instance]: the host does not read what a sandbox
// has made of its own file system.
func (*instance) Changes(context.Context, *os.File) error {
	return soulbox.Errorf(soulbox.Invalid, "a sandbox of isolation \"runc\" does not tell what it has changed")
}

// saved lets a sandbox go on that was only frozen to be saved.
func (i *instance) saved() error {
	if i.still > 0 {
		if err := i.thawLocked(); err != nil {
			return err
		}
	}
	i.state.Saving = false
	return i.state.save(i.dir)
}

func (i *instance) copyDisk(ctx context.Context, to *os.File) error {
	if err := i.alive(); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	if err := i.flush(); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	from, err := os.Open(filepath.Join(i.dir, upperFile))
	if err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	defer from.Close()
	if err := pack(ctx, to, from); err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	return nil
}

// flush has the kernel write to the disk's file what it still has in memory.
func (i *instance) flush() error {
	// Its root is that of soulbox-runc, which the sandbox cannot change.
	mounted, err := os.Open(fmt.Sprintf("/proc/%d/root/data", i.state.PID))
	if err != nil {
		return err
	}
	defer mounted.Close()
	if err := i.alive(); err != nil { // it may have been another's root
		return err
	}
	return os.NewSyscallError("syncfs", unix.Syncfs(int(mounted.Fd())))
}
