// Package fake is a driver without isolation, for tests of the rooms above it:
// a sandbox is an HTTP handler in this process. What a sandbox remembers is two
// strings, one in memory and one on disk; see [GuestOf].
package fake

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	return driver.Capabilities{Isolation: "fake", Memory: true, Changes: true, Format: "fake"}
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
	base, err := baseOf(spec)
	if err != nil {
		return nil, fmt.Errorf("start sandbox %s: %w", spec.ID, err)
	}
	guest := &Guest{}
	if spec.Saved != nil {
		if guest, err = restore(spec.Saved, base); err != nil {
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
		addr: l.Addr().String(), done: make(chan struct{}), base: base, guest: guest, agent: d.agent,
		crash: func() { d.Crash(spec.Dir) },
	}
	inst.srv = &http.Server{Handler: inst, ReadHeaderTimeout: time.Minute}
	go func() { _ = inst.srv.Serve(l) }() // always ErrServerClosed; see end
	d.world.live[spec.Dir] = inst
	return inst, nil
}

// base is what a saved sandbox needs to be the same again.
type base struct {
	Image string // SHA-256, in hex
	Size  soulbox.Size
}

func baseOf(spec driver.Spec) (base, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(spec.Image, 0, 1<<30)); err != nil {
		return base{}, err
	}
	return base{hex.EncodeToString(h.Sum(nil)), spec.Size}, nil
}

// content is what is in a saved sandbox's file.
type content struct {
	Base       base
	WithMemory bool
	Memory     string
	Files      string
}

func restore(from *driver.Saved, on base) (*Guest, error) {
	if err := from.Check(); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(from.Dir, saved))
	if err != nil {
		return nil, err
	}
	var c content
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	if c.Base != on || c.WithMemory != from.Memory {
		return nil, fmt.Errorf("it was saved as %+v with memory %v, which is not %+v with memory %v", c.Base, c.WithMemory, on, from.Memory)
	}
	return &Guest{memory: c.Memory, files: c.Files}, nil
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

// A Guest is what a sandbox remembers. It is safe for concurrent use.
type Guest struct {
	mu            sync.Mutex
	memory, files string
}

type guestKey struct{}

// GuestOf returns the guest for which an agent's handler answers.
func GuestOf(r *http.Request) *Guest {
	g, ok := r.Context().Value(guestKey{}).(*Guest)
	if !ok {
		panic("the request was not made of a fake sandbox")
	}
	return g
}

// Recall returns what was remembered last, or empty strings. A sandbox that was
// restored remembers what the saved one did, with memory or files only.
func (g *Guest) Recall() (memory, files string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.memory, g.files
}

// Remember replaces both.
func (g *Guest) Remember(memory, files string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.memory, g.files = memory, files
}

type instance struct {
	addr  string
	srv   *http.Server
	done  chan struct{}
	base  base
	guest *Guest
	agent http.Handler
	crash func()

	mu     sync.Mutex
	frozen int           // how many a Thaw is missing for
	thawed chan struct{} // closed when that is none again; nil while it is
}

// ServeHTTP answers when the sandbox is not frozen.
func (i *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	thawed := i.thawed
	i.mu.Unlock()
	if thawed != nil {
		select {
		case <-thawed:
		case <-r.Context().Done():
			return
		}
	}
	i.agent.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), guestKey{}, i.guest)))
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

// Freeze implements [driver.Instance]: no request is answered any more.
func (i *instance) Freeze(ctx context.Context) error {
	if err := i.able(ctx); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.frozen++; i.frozen == 1 {
		i.thawed = make(chan struct{})
	}
	return nil
}

// Thaw implements [driver.Instance]. Without a Freeze it ends the sandbox.
func (i *instance) Thaw(ctx context.Context) error {
	if err := i.able(ctx); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.frozen == 0 {
		i.crash()
		return errors.New("the sandbox was not frozen, and has ended")
	}
	if i.frozen--; i.frozen == 0 {
		close(i.thawed)
		i.thawed = nil
	}
	return nil
}

// Save implements [driver.Instance].
func (i *instance) Save(ctx context.Context, dir string, memory bool) error {
	if err := i.able(ctx); err != nil {
		return err
	}
	c := content{Base: i.base, WithMemory: memory}
	if c.Memory, c.Files = i.guest.Recall(); !memory {
		c.Memory = ""
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, saved), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("save sandbox: %w", err)
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// Changes implements [driver.Instance]: what a sandbox remembers on disk is in
// its file "files".
func (i *instance) Changes(ctx context.Context, w *os.File) error {
	if err := i.able(ctx); err != nil {
		return err
	}
	out := tar.NewWriter(w)
	if err := out.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		return err
	}
	if _, files := i.guest.Recall(); files != "" {
		if err := out.WriteHeader(&tar.Header{Name: "./files", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files))}); err != nil {
			return err
		}
		if _, err := io.WriteString(out, files); err != nil {
			return err
		}
	}
	return out.Close()
}

// able returns why nothing can be asked of the sandbox.
func (i *instance) able(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return i.alive()
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
