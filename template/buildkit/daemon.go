package buildkit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/cleanup"
	"github.com/soulbox/soulbox/internal/stepwire"
)

// A daemon is BuildKit, in namespaces of its own: it sees no process, no mount
// and no network of this machine.
type daemon struct {
	client  *client.Client
	egress  *egress
	control *net.UnixConn
	cmd     *exec.Cmd
	cell    Cell          // only for its limits: a Dockerfile can make BuildKit need much
	ended   chan struct{} // closed once nothing of it is left
	asked   atomic.Bool   // it was told to end
}

const (
	apiSocket    = "api.sock"
	proxyIP      = "127.0.0.1"
	proxyPort    = 3128 // by habit; of a namespace in which all are free
	startTimeout = time.Minute
	stopTimeout  = 5 * time.Second
	maxLogLine   = 4 << 10
)

// startDaemon starts BuildKit. It is ready once the first call to it is
// answered. The caller has the turn.
func (e *Engine) startDaemon(ctx context.Context) (_ *daemon, err error) {
	var undo cleanup.Stack
	defer func() { err = errors.Join(err, undo.Run()) }()
	if err := emptyDir(e.dir(tempDir)); err != nil {
		return nil, err
	}
	config := filepath.Join(runDir, configFile)
	if err := os.WriteFile(e.dir(config), []byte(e.config()), 0o600); err != nil {
		return nil, err
	}
	api, err := listenUnix("unix", e.dir(filepath.Join(runDir, apiSocket)))
	if err != nil {
		return nil, err
	}
	defer api.Close()
	apiFile, err := api.File()
	if err != nil {
		return nil, err
	}
	defer apiFile.Close()
	d := &daemon{ended: make(chan struct{})}
	theirs, err := d.pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	undo.Push(d.control.Close)
	if d.cell, err = e.OpenCell(ctx, e.Size, false); err != nil {
		return nil, err
	}
	undo.Push(d.cell.Close)
	if err := d.start(e, theirs, apiFile, e.lock); err != nil {
		return nil, err
	}
	undo.Push(d.kill)
	if err := d.cell.Add(d.cmd.Process.Pid); err != nil { // it starts nothing until it is told to
		return nil, err
	}
	listeners, err := d.hold(e.request(config))
	if err != nil {
		return nil, err
	}
	d.egress = newEgress(e.network.hosts)
	d.egress.serve(listeners[0], listeners[1:], e.network.wires())
	undo.Push(func() error { d.egress.close(); return nil })
	d.client, err = client.New(ctx, "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return dialUnix(ctx, "unix", e.dir(filepath.Join(runDir, apiSocket)))
	}))
	if err != nil {
		return nil, err
	}
	undo.Keep()
	return d, nil
}

// request returns what the daemon is to be like.
func (e *Engine) request(config string) stepwire.Hold {
	proxy := net.JoinHostPort(proxyIP, strconv.Itoa(e.network.proxyPort()))
	return stepwire.Hold{
		Dir:      e.Dir,
		Programs: []string{e.Daemon, e.Step},
		Command:  []string{inside(e.Daemon), "--config", filepath.Join(stepwire.Dir, config)},
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
			"HTTP_PROXY=http://" + proxy, "HTTPS_PROXY=http://" + proxy,
			"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none",
		},
		Listen: append([]string{proxy}, e.network.wires()...),
	}
}

// inside returns where the daemon finds a program.
func inside(program string) string {
	return filepath.Join(stepwire.Programs, filepath.Base(program))
}

// pair makes the control socket and returns the end that is for the child.
func (d *daemon) pair() (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, err
	}
	d.control = c.(*net.UnixConn) //nolint:errcheck,forcetypeassert // that is what a pair is
	return theirs, nil
}

// start starts the first process of the daemon's namespaces.
func (d *daemon) start(e *Engine, files ...*os.File) error {
	d.cmd = exec.CommandContext(context.WithoutCancel(e.ctx), e.Step, "hold") // stop ends it
	d.cmd.Env = []string{}
	d.cmd.ExtraFiles = files
	d.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Setsid:     true, // a terminal's signals are not for it
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	d.cmd.Stderr = d.cmd.Stdout
	if err := d.cmd.Start(); err != nil {
		return err
	}
	go func() { // ends with the daemon, for which stop waits
		defer close(d.ended)
		forwardLog(e.Log, out)
		err := d.cmd.Wait()
		if !d.asked.Load() {
			e.Log.Error("buildkitd ended", "err", err)
		}
	}()
	return nil
}

// forwardLog writes the daemon's log into ours. Whatever matters to a build is
// said to that, too.
func forwardLog(log *slog.Logger, r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, long, err := lines.ReadLine()
		if err != nil {
			return
		}
		log.Debug("buildkitd said", "line", string(line), "cut", long)
	}
}

// hold tells the first process what to hold, and returns what listens there.
func (d *daemon) hold(req stepwire.Hold) ([]net.Listener, error) {
	if err := d.control.SetDeadline(time.Now().Add(startTimeout)); err != nil {
		return nil, err
	}
	if err := stepwire.Send(d.control, req); err != nil {
		return nil, err
	}
	var held stepwire.Held
	files, err := stepwire.Receive(d.control, &held)
	if err != nil {
		return nil, fmt.Errorf("no answer: %w", err)
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if held.Failed != "" {
		return nil, errors.New(held.Failed)
	}
	if len(files) != len(req.Listen) {
		return nil, fmt.Errorf("it listens on %d addresses, not on %d", len(files), len(req.Listen))
	}
	var listeners []net.Listener
	for _, f := range files {
		l, err := net.FileListener(f)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, d.control.SetDeadline(time.Time{})
}

// over reports whether the daemon has ended.
func (d *daemon) over() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// diedPatience is how long it may take to see that a daemon has died, once its
// socket is closed.
const diedPatience = 2 * time.Second

// died returns what to say instead of err if that is because the daemon has
// died, or nil.
func (d *daemon) died(err error) error {
	if err == nil || grpcerrors.Code(err) != codes.Unavailable {
		return nil
	}
	patience := time.NewTimer(diedPatience)
	defer patience.Stop()
	select {
	case <-d.ended:
		return d.obituary()
	case <-patience.C:
		return nil // somebody else is unavailable
	}
}

// obituary returns why the daemon has died.
func (d *daemon) obituary() error {
	if why, ok := d.cell.Blame(); ok {
		return soulbox.Errorf(soulbox.Exhausted, "the build engine has stopped: %s", why)
	}
	return soulbox.Errorf(soulbox.Unavailable, "the build engine has stopped; build once more")
}

// kill ends the daemon, and with it everything in its namespaces.
func (d *daemon) kill() error {
	d.asked.Store(true)
	_ = d.cmd.Process.Kill() // or it has ended
	<-d.ended
	return nil
}

// stop ends the daemon. What it is writing down it may finish.
func (d *daemon) stop(log *slog.Logger) {
	d.asked.Store(true)
	_ = d.client.Close()                          // it only reports that it is closed
	_ = stepwire.Send(d.control, stepwire.Stop{}) // or it has ended
	patience := time.NewTimer(stopTimeout)
	defer patience.Stop()
	select {
	case <-d.ended:
	case <-patience.C:
		log.Warn("buildkitd did not end and is killed")
	}
	_ = d.kill()
	if err := d.cell.Close(); err != nil {
		log.Error("buildkitd's cell not closed", "err", err)
	}
	_ = d.control.Close() // nobody is there
	d.egress.close()
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Sockets are reached by a number of their folder, because a socket's path may
// have 108 bytes and a data folder's can be longer.

func listenUnix(network, path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: numbered(dir, path), Net: network})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the number is another's by then
	return l, nil
}

func dialUnix(ctx context.Context, network, path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return (&net.Dialer{}).DialContext(ctx, network, numbered(dir, path))
}

func numbered(dir *os.File, path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}

// proxyPort returns a port that no wire needs.
func (n *network) proxyPort() int {
	port := proxyPort
	for slices.ContainsFunc(n.wires(), func(w string) bool { _, p, _ := net.SplitHostPort(w); return p == strconv.Itoa(port) }) {
		port++
	}
	return port
}
