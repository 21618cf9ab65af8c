// Package buildkit builds root images from recipes: Dockerfiles, and the steps
// of E2B's SDKs.
//
// BuildKit does the work: it finds results again, copies, pulls, and runs
// Dockerfiles by its own frontend. It is a child of this process, in namespaces
// of its own; see cmd/soulbox-step, which is also what it runs steps with.
//
// # Steps
//
// A step is a program that a recipe starts. It runs in gVisor, in a network and
// a cgroup that it asks for over a socket of ours ([Cell]): so a step belongs to
// a build, which may be over, and what it takes is bounded. Some steps are no
// programs: we do them ourselves, to the tree that the step would have changed.
// So a user is added to any image without a program of that image, and so the
// finished tree becomes an EROFS image without being copied out of BuildKit:
// the last step of a build is to pack its own root, by a token that nobody
// else knows.
//
// # The network
//
// BuildKit has a loopback device and nothing else. On that listens a proxy of
// ours, which connects to public addresses and to the registries that the
// operator names.
//
// # What is found again
//
// Results of steps are kept in the cache and belong to a team: the names that
// they are found by depend on it. Which build a step belongs to is said in a
// variable that they do not depend on.
//
// # Goroutines
//
// One accepts steps, and one for each step follows it to its end. Each build has
// three: for its log, for its time and the disk, and for what BuildKit tells. The
// daemon has one that waits for its end, and those of its proxy. Builds end
// their own, [Engine.Close] the others.
//
// # Locks
//
//	Engine.turn  to start or stop the daemon
//	Engine.mu    the tables of builds; never held over I/O
//	running.mu   what became of a build's steps
//
// They are taken in this order.
package buildkit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/stepwire"
)

// An Engine builds. It starts its daemon with the first build and stops it when
// there was none for a while. Safe for concurrent use.
type Engine struct {
	Options

	network network
	lock    *os.File // of Dir; the daemon has it, too
	steps   *net.UnixListener
	ctx     context.Context //nolint:containedctx // of its life
	end     context.CancelFunc
	work    sync.WaitGroup

	turn   chan struct{} // holds one value while somebody has it
	daemon *daemon       // nil: none runs. Whoever has the turn may look
	users  int           // builds that need it; the same
	idle   *time.Timer   // stops it; the same

	mu      sync.Mutex
	builds  map[string]*running       // +checklocks:mu by token
	ended   map[string]soulbox.TeamID // +checklocks:mu whose the tokens were of builds that are over; emptied when none runs
	allowed map[string]bool           // +checklocks:mu images that a team may have, by its scope and their digest
	bases   sync.Mutex                // one base at a time is made
}

// Options say what an engine is made of.
type Options struct {
	Log    *slog.Logger
	Dir    string // everything the engine keeps: the cache, bases, sockets
	Daemon string // path of the program soulbox-buildkitd
	Step   string // path of the program soulbox-step

	// OpenCell makes a place for one step, with the limits of size, from which
	// the internet can be reached only if internet is set.
	OpenCell func(ctx context.Context, size soulbox.Size, internet bool) (Cell, error)

	// Pack makes the tree at dir fit for sandboxes and an image of it. It may
	// change the tree, which nobody else sees and which is gone afterwards.
	// source says for people where the tree came from.
	Pack func(ctx context.Context, dir, source string) (Packed, error)

	// AddUser makes sure that the tree at dir has the user called name, with a
	// home, and with sudo that asks for no password if sudo is set.
	AddUser func(dir, name string, sudo bool) error

	// MakeDir makes sure that the tree at dir has the folder at path, and that
	// it is the user's, who is root or in the tree's /etc/passwd.
	MakeDir func(dir, path, user string) error

	// Unpack makes the tree of a root image at dir, which does not exist.
	Unpack func(ctx context.Context, image, dir string) error

	Registries []string            // host:port of those that may be reached although their address is not public
	Mirrors    map[string][]string // registry → where to ask before it; http:// means without TLS

	Size    soulbox.Size  // what BuildKit itself may take; zero: all processors, 2 GiB, 4000 threads
	Cache   soulbox.Bytes // of results of earlier steps that are kept; 0: 20 GiB
	MinFree soulbox.Bytes // below this much free disk nothing is built; 0: 1 GiB
	Idle    time.Duration // after which the daemon is stopped; 0: 10 minutes
}

const (
	defaultCache   = 20 * soulbox.GiB
	defaultMinFree = 1 * soulbox.GiB
	defaultIdle    = 10 * time.Minute
	defaultMemory  = 2 * soulbox.GiB
	defaultThreads = 4000
)

// Folders and files below Options.Dir.
func (o *Options) dir(name string) string { return filepath.Join(o.Dir, name) }

const (
	cacheDir   = stepwire.Cache
	runDir     = "run"   // sockets and mounts; emptied by Open
	tempDir    = "tmp"   // BuildKit's /tmp; emptied before it starts
	baseDir    = "bases" // templates as images, by the name of their root image
	lockFile   = "lock"
	configFile = "buildkitd.toml"
)

// Open returns an engine, after it has removed what an earlier one left. That
// one must have ended: its daemon ends with it, for which Open waits a while.
func Open(o Options) (*Engine, error) {
	if o.Cache == 0 {
		o.Cache = defaultCache
	}
	if o.MinFree == 0 {
		o.MinFree = defaultMinFree
	}
	if o.Idle == 0 {
		o.Idle = defaultIdle
	}
	if o.Size == (soulbox.Size{}) {
		o.Size = soulbox.Size{CPUs: runtime.NumCPU(), Memory: defaultMemory, PIDs: defaultThreads}
	}
	e, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("open the build engine: %w", err)
	}
	return e, nil
}

func open(o Options) (_ *Engine, err error) {
	e := &Engine{
		Options: o, turn: make(chan struct{}, 1),
		builds: map[string]*running{}, ended: map[string]soulbox.TeamID{}, allowed: map[string]bool{},
	}
	if e.network, err = o.parseNetwork(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if e.lock, err = lockDir(o.dir(lockFile)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			e.lock.Close()
		}
	}()
	if err := o.sweep(); err != nil {
		return nil, err
	}
	if e.steps, err = listenUnix(stepwire.Network, o.dir(stepwire.Socket)); err != nil {
		return nil, err
	}
	e.ctx, e.end = context.WithCancel(context.Background())
	e.work.Go(e.serveSteps)
	return e, nil
}

// lockPatience is how long a daemon may take to end after its server.
const lockPatience = 20 * time.Second

// lockDir locks the file at path. It is locked for as long as anything is left
// of an engine: the daemon inherits it.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(lockPatience); ; <-tick.C {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end):
			f.Close()
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
	}
}

// sweep removes what an engine that was killed has left, and makes its folders.
// The mounts of its daemon are gone with it; ours are trees that were worked on.
func (o *Options) sweep() error {
	left, err := filepath.Glob(filepath.Join(o.dir(runDir), treePrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return &os.PathError{Op: "unmount", Path: dir, Err: err}
		}
		if err := os.Remove(dir); err != nil { // not with all that is in it: it may still be mounted
			return err
		}
	}
	if err := os.RemoveAll(o.dir(runDir)); err != nil {
		return err
	}
	for _, dir := range []string{cacheDir, runDir, tempDir, baseDir} {
		if err := os.MkdirAll(o.dir(dir), 0o700); err != nil {
			return err
		}
	}
	return sweepBases(o.dir(baseDir))
}

// Close ends what is being built and stops the daemon.
func (e *Engine) Close() error {
	e.end()
	e.turn <- struct{}{} // for good: nobody starts a daemon any more
	for _, b := range e.allRunning() {
		b.cancel(errClosed)
	}
	if e.idle != nil {
		e.idle.Stop()
	}
	d := e.daemon
	e.daemon = nil
	if d != nil {
		d.stop(e.Log)
	}
	err := e.steps.Close()
	e.work.Wait()
	return errors.Join(err, e.lock.Close())
}

var errClosed = soulbox.Errorf(soulbox.Unavailable, "the server is stopped")

// take waits for the turn.
func (e *Engine) take(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.ctx.Done():
		return errClosed
	}
}

// acquire returns the daemon, which runs at least until release.
func (e *Engine) acquire(ctx context.Context) (*daemon, error) {
	if err := e.take(ctx); err != nil {
		return nil, err
	}
	defer func() { <-e.turn }()
	if e.daemon != nil && e.daemon.over() {
		e.daemon.stop(e.Log)
		e.daemon = nil
	}
	if e.daemon == nil {
		started := time.Now()
		d, err := e.startDaemon(ctx)
		if err != nil {
			return nil, fmt.Errorf("start buildkitd: %w", err)
		}
		e.daemon = d
		e.Log.InfoContext(ctx, "buildkitd started", "took", time.Since(started))
	}
	if e.idle != nil {
		e.idle.Stop()
	}
	e.users++
	return e.daemon, nil
}

// release gives the daemon back.
func (e *Engine) release() {
	if err := e.take(context.Background()); err != nil {
		return // Close has stopped it
	}
	defer func() { <-e.turn }()
	if e.users--; e.users == 0 {
		e.idle = time.AfterFunc(e.Idle, e.rest)
	}
}

// rest stops a daemon that nobody needs.
func (e *Engine) rest() {
	if err := e.take(context.Background()); err != nil {
		return
	}
	defer func() { <-e.turn }()
	if e.users == 0 && e.daemon != nil {
		e.daemon.stop(e.Log)
		e.daemon = nil
	}
}
