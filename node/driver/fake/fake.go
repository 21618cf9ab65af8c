// Package fake is a driver without isolation, for tests of the rooms above it:
// a sandbox is an HTTP handler in this process.
package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/guest"
)

var _ driver.Driver = (*Driver)(nil)

// A Driver keeps sandboxes in this process. Make one with [New].
type Driver struct {
	agent http.Handler
	world *world
}

// world is what outlives a driver, as processes outlive a server.
type world struct {
	mu   sync.Mutex
	live map[string]*instance // by folder
}

// New returns a driver whose sandboxes answer on the agent's port with agent.
func New(agent http.Handler) *Driver {
	return &Driver{agent: agent, world: &world{live: map[string]*instance{}}}
}

// Reopen returns the driver that a second process would have.
func (d *Driver) Reopen() *Driver { return &Driver{agent: d.agent, world: d.world} }

// Capabilities implements [driver.Driver].
func (*Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{Isolation: "fake", Memory: true, Format: "fake"}
}

const (
	marker = "fake"  // the only file that a fake sandbox has
	saved  = "saved" // the only file of one that was saved
)

// Start implements [driver.Driver]. An image that is not EROFS does not start.
func (d *Driver) Start(ctx context.Context, spec driver.Spec) (driver.Instance, error) {
	defer spec.Image.Close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	if d.world.live[spec.Dir] != nil {
		return nil, soulbox.Errorf(soulbox.Conflict, "sandbox %s exists on this node", spec.ID)
	}
	// See Documentation/filesystems/erofs.rst: the superblock is at 1024.
	magic := make([]byte, 4)
	if _, err := spec.Image.ReadAt(magic, 1024); err != nil || string(magic) != "\xe2\xe1\xf5\xe0" {
		return nil, fmt.Errorf("start sandbox %s: %s is no EROFS image", spec.ID, spec.Image.Name())
	}
	if spec.Saved != nil {
		if err := spec.Saved.Check(); err != nil {
			return nil, err
		}
		if _, err := os.Stat(filepath.Join(spec.Saved.Dir, saved)); err != nil {
			return nil, fmt.Errorf("restore sandbox %s: %w", spec.ID, err)
		}
	}
	if err := os.WriteFile(filepath.Join(spec.Dir, marker), nil, 0o600); err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.ID, err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0") //nolint:noctx // it listens for as long as the sandbox lives
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.ID, err)
	}
	inst := &instance{
		addr: l.Addr().String(), done: make(chan struct{}),
		srv: &http.Server{Handler: d.agent, ReadHeaderTimeout: time.Minute},
	}
	go func() { _ = inst.srv.Serve(l) }() // always ErrServerClosed; see end
	d.world.live[spec.Dir] = inst
	return inst, nil
}

// Adopt implements [driver.Driver].
func (d *Driver) Adopt(_ context.Context, id soulbox.SandboxID, dir string) (driver.Instance, error) {
	d.world.mu.Lock()
	defer d.world.mu.Unlock()
	inst := d.world.live[dir]
	if inst == nil {
		return nil, soulbox.Errorf(soulbox.NotFound, "sandbox %s does not run", id)
	}
	return inst, nil
}

// Destroy implements [driver.Driver].
func (d *Driver) Destroy(_ context.Context, _ soulbox.SandboxID, dir string) error {
	d.Crash(dir)
	if err := os.Remove(filepath.Join(dir, marker)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// Crash ends the sandbox in dir, if there is one, as if it had been killed.
func (d *Driver) Crash(dir string) {
	d.world.mu.Lock()
	inst := d.world.live[dir]
	delete(d.world.live, dir)
	d.world.mu.Unlock()
	if inst != nil {
		_ = inst.srv.Close() // a listener that cannot be closed is closed already
		close(inst.done)
	}
}

type instance struct {
	addr string
	srv  *http.Server
	done chan struct{}
}

func (i *instance) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	if port != guest.Port {
		return nil, fmt.Errorf("dial port %d: %w", port, syscall.ECONNREFUSED)
	}
	select {
	case <-i.done: // the port may be anybody's by now
		return nil, fmt.Errorf("dial port %d: %w", port, syscall.ECONNREFUSED)
	default:
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp4", i.addr)
}

// Freeze implements [driver.Instance]. Nothing of a fake sandbox runs.
func (i *instance) Freeze(context.Context) error { return i.alive() }

// Thaw implements [driver.Instance].
func (i *instance) Thaw(context.Context) error { return i.alive() }

// Save implements [driver.Instance].
func (i *instance) Save(_ context.Context, dir string, _ bool) error {
	if err := i.alive(); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, saved), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	return f.Close()
}

func (i *instance) alive() error {
	select {
	case <-i.done:
		return errors.New("the sandbox has ended")
	default:
		return nil
	}
}

func (i *instance) Done() <-chan struct{}          { return i.done }
func (*instance) Exit() driver.Exit                { return driver.Exit{Signal: "killed"} }
func (*instance) DiskUsed() (soulbox.Bytes, error) { return 0, nil }
