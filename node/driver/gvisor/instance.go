package gvisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/pidfd"
	"github.com/soulbox/soulbox/node/driver"
)

// An instance watches one sentry. Its single goroutine ends when the sentry
// does.
type instance struct {
	state state
	dir   string
	done  chan struct{}
	exit  driver.Exit // written before done is closed
}

// watch returns the instance of the sentry that st tells of, or unix.ESRCH.
func watch(st state, dir string) (*instance, error) {
	p, err := pidfd.Open(st.PID, st.Started)
	if err != nil {
		return nil, err
	}
	st.Started = p.Started
	inst := &instance{state: st, dir: dir, done: make(chan struct{})}
	go func() {
		defer close(inst.done)
		defer p.Close()
		// Without a deadline, waiting can only fail by the descriptor being
		// broken; then nobody can tell how the sentry ends.
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
	// With the sentry gone nobody answers at all, not even with a reset, and
	// the kernel would try for two minutes.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-i.done:
			cancel(errEnded)
		case <-stop:
		}
	}()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort(i.state.Addr, strconv.Itoa(int(port))))
	if err != nil {
		if errors.Is(context.Cause(ctx), errEnded) {
			err = errEnded
		}
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

// panicText returns what a dying sentry wrote, for the log.
func panicText(dir string) string {
	const most = 4 << 10
	f, err := os.Open(filepath.Join(dir, panicFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, most)
	n, _ := f.Read(b) // nothing to read is nothing to tell
	if n == 0 {
		return ""
	}
	return "\n" + string(b[:n])
}
