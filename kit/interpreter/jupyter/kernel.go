// Package jupyter starts Jupyter kernels and runs code in them, by version 5 of
// Jupyter's messaging protocol, spoken over ZeroMQ's sockets directly.
//
// A Kernel has these goroutines: two that receive, from its shell and its iopub
// socket; one that waits for its process; one that copies what that writes to
// its standard error. All of them end with the process. Whether a kernel lives
// is what the process says; there are no heartbeats, so a sandbox that sleeps
// for a year wakes up with the kernels that it had.
//
// # When nobody reads
//
// A kernel publishes what it has to say and drops what its socket does not take.
// So a run that has some MiB waiting to be received stops the kernel's process,
// and continues it when there is room: nothing is lost, and nothing grows.
package jupyter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/kit/interpreter/tail"
	"github.com/soulbox/soulbox/kit/interpreter/zmtp"
)

const (
	startTime    = 2 * time.Minute // of a Java kernel on a busy machine, and more
	dialEvery    = 5 * time.Millisecond
	nudgeEvery   = 250 * time.Millisecond
	shutdownTime = 2 * time.Second
	waitDelay    = time.Second
	// oomScore is what kernels have more than the program that starts them, so
	// that they go first.
	oomScore = 200
)

// ErrEnded says that the kernel's process is gone.
var ErrEnded = errors.New("the kernel has ended")

// Options says how a kernel is started.
type Options struct {
	Dir  string   // where it runs
	Env  []string // its environment, before what the spec adds
	Args []string // more arguments
	Run  string   // a folder for its sockets, with a short name
}

// Kernel is a running kernel. It is safe for concurrent use.
type Kernel struct {
	spec    *Spec
	cmd     *exec.Cmd
	dir     string // its connection file and sockets
	session string
	key     []byte
	sockets *connection
	said    tail.Tail
	done    chan struct{}

	shell, iopub, control *zmtp.Conn

	process sync.Mutex
	reaped  bool // +checklocks:process — the process's id may be another's

	mu   sync.Mutex
	runs map[string]*Run // +checklocks:mu
	busy bool            // +checklocks:mu
	last time.Time       // +checklocks:mu — when it said something, to whomever
}

// connection is what a connection file says.
type connection struct {
	Transport string `json:"transport"`
	IP        string `json:"ip"`
	Shell     int    `json:"shell_port"`
	IOPub     int    `json:"iopub_port"`
	Stdin     int    `json:"stdin_port"`
	Control   int    `json:"control_port"`
	Heartbeat int    `json:"hb_port"`
	Key       string `json:"key"`
	Scheme    string `json:"signature_scheme"`
	Name      string `json:"kernel_name"`
}

// address returns where the socket with this port is.
func (c *connection) address(port int) (network, address string) {
	if c.Transport == "ipc" {
		return "unix", c.IP + "-" + strconv.Itoa(port)
	}
	return "tcp4", net.JoinHostPort(c.IP, strconv.Itoa(port))
}

// newConnection chooses sockets for a kernel of spec. Files are better than
// ports, which others may take, see, and connect to, but not every kernel has
// them.
func newConnection(ctx context.Context, spec *Spec, dir string) (*connection, error) {
	c := &connection{Key: NewID(), Scheme: "hmac-sha256", Name: spec.Name}
	if spec.python() {
		c.Transport, c.IP = "ipc", filepath.Join(dir, "s")
		c.Shell, c.IOPub, c.Stdin, c.Control, c.Heartbeat = 1, 2, 3, 4, 5
		return c, nil
	}
	c.Transport, c.IP = "tcp", "127.0.0.1"
	var lc net.ListenConfig
	for _, port := range []*int{&c.Shell, &c.IOPub, &c.Stdin, &c.Control, &c.Heartbeat} {
		l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // not before all are chosen
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			*port = a.Port
		}
	}
	return c, nil
}

// Start starts a kernel and returns when it answers.
func Start(ctx context.Context, spec *Spec, o Options) (*Kernel, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, errors.New("the kernel does not answer"))
	defer cancel()
	if err := os.MkdirAll(o.Run, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Run, "k")
	if err != nil {
		return nil, err
	}
	k := &Kernel{spec: spec, dir: dir, session: NewID(), done: make(chan struct{}), runs: map[string]*Run{}}
	c, err := k.launch(ctx, o)
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start kernel %s: %w", spec.Name, err)
	}
	if err := k.meet(ctx, c); err != nil {
		k.Kill()
		<-k.done
		if said := k.said.String(); said != "" {
			err = fmt.Errorf("%w; it said: %s", err, said)
		}
		return nil, fmt.Errorf("start kernel %s: %w", spec.Name, err)
	}
	return k, nil
}

// launch starts the process.
func (k *Kernel) launch(ctx context.Context, o Options) (*connection, error) {
	c, err := newConnection(ctx, k.spec, k.dir)
	if err != nil {
		return nil, err
	}
	k.key, k.sockets = []byte(c.Key), c
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(k.dir, "connection.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	argv, err := k.spec.command(path)
	if err != nil {
		return nil, err
	}
	argv = append(argv, o.Args...)
	k.cmd = exec.CommandContext(context.WithoutCancel(ctx), argv[0], argv[1:]...)
	k.cmd.Dir = o.Dir
	k.cmd.Env = append([]string(nil), o.Env...)
	for name, value := range k.spec.Env {
		k.cmd.Env = append(k.cmd.Env, name+"="+value)
	}
	k.cmd.Stderr = &k.said
	k.cmd.WaitDelay = waitDelay
	// A session of its own: what interrupts the kernel interrupts the programs
	// that it waits for, and nobody else. It ends with this program; threads of
	// ours do not end before.
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	k.yield()
	go k.wait()
	return c, nil
}

// yield lets the kernel be killed before this program when memory is short. A
// machine that does not allow it has no other use for it.
func (k *Kernel) yield() {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	score, err := strconv.Atoi(string(trimEnd(own)))
	if err != nil {
		return
	}
	path := fmt.Sprintf("/proc/%d/oom_score_adj", k.cmd.Process.Pid)
	_ = os.WriteFile(path, []byte(strconv.Itoa(min(score+oomScore, 1000))), 0o600)
}

func trimEnd(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return b
}

// wait sees the process end.
func (k *Kernel) wait() {
	for {
		err := unix.Waitid(unix.P_PID, k.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	k.process.Lock()
	k.reaped = true
	k.process.Unlock()
	_ = k.cmd.Wait() // its state says it all
	for _, c := range []*zmtp.Conn{k.shell, k.iopub, k.control} {
		if c != nil {
			c.Close()
		}
	}
	os.RemoveAll(k.dir)
	close(k.done)
}

// meet connects to the kernel's sockets and waits until both ways work.
func (k *Kernel) meet(ctx context.Context, c *connection) error {
	var conns [3]*zmtp.Conn
	for i, s := range []struct {
		port int
		kind string
	}{{c.Shell, zmtp.Dealer}, {c.IOPub, zmtp.Sub}, {c.Control, zmtp.Dealer}} {
		network, address := c.address(s.port)
		conn, err := k.dial(ctx, network, address, s.kind)
		if err != nil {
			for _, c := range conns[:i] {
				c.Close()
			}
			return err
		}
		conns[i] = conn
	}
	k.process.Lock()
	gone := k.reaped
	if !gone {
		k.shell, k.iopub, k.control = conns[0], conns[1], conns[2]
	}
	k.process.Unlock()
	if gone {
		for _, c := range conns {
			c.Close()
		}
		return k.ended()
	}
	go k.receive(k.shell)
	go k.receive(k.iopub)
	return k.nudge(ctx)
}

// dial connects as soon as the kernel listens.
func (k *Kernel) dial(ctx context.Context, network, address, kind string) (*zmtp.Conn, error) {
	tick := time.NewTicker(dialEvery)
	defer tick.Stop()
	for {
		conn, err := zmtp.Dial(ctx, network, address, kind)
		if err == nil {
			return conn, nil
		}
		select {
		case <-tick.C:
		case <-k.done:
			return nil, k.ended()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// nudge asks what kind of kernel this is until it hears, on both sockets, that
// it was asked: a kernel does not say when it has taken note of a subscriber.
func (k *Kernel) nudge(ctx context.Context) error {
	again := time.NewTicker(nudgeEvery)
	defer again.Stop()
	for {
		r, err := k.ask("kernel_info_request", struct{}{})
		if err != nil {
			return err
		}
		r.Drop()
		for waiting := true; waiting; {
			if _, err := r.Next(); err != nil {
				r.Close()
				if errors.Is(err, ErrEnded) {
					return k.ended()
				}
				return nil
			}
			select {
			case <-r.Changed():
			case <-again.C:
				waiting = false
			case <-k.done:
			case <-ctx.Done():
				r.Close()
				return context.Cause(ctx)
			}
		}
		r.Close()
	}
}

// receive gives what comes from a socket to those whom it concerns. A kernel
// that says what cannot be read, or closes its sockets, is of no use any more.
func (k *Kernel) receive(c *zmtp.Conn) {
	for {
		frames, skipped, err := c.Receive(k.takeStream)
		if err != nil {
			k.Kill()
			return
		}
		m, err := parse(k.key, frames, skipped)
		if err != nil {
			continue
		}
		if c == k.iopub {
			k.heard(m)
		}
		if r := k.run(m.parent); r != nil {
			r.put(m)
		}
	}
}

// heard notes what the kernel does, for whomever.
func (k *Kernel) heard(m *Message) {
	state := stateOf(m)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = time.Now()
	if state != "" {
		k.busy = state == "busy"
	}
}

// stateOf returns the state that a message says the kernel is in; empty when it
// is no such message.
func stateOf(m *Message) string {
	var s struct {
		State string `json:"execution_state"`
	}
	if m.Type != "status" || json.Unmarshal(m.Content, &s) != nil {
		return ""
	}
	return s.State
}

// Activity reports whether the kernel works, for whomever, and when it last said
// something.
func (k *Kernel) Activity() (busy bool, last time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.busy, k.last
}

// run returns the run with this id, or nil.
func (k *Kernel) run(id string) *Run {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.runs[id]
}

// Done is closed when the process is gone.
func (k *Kernel) Done() <-chan struct{} { return k.done }

// Ended says how the process ended. It is called when Done is closed.
func (k *Kernel) Ended() string { return k.cmd.ProcessState.String() }

func (k *Kernel) ended() error {
	<-k.done
	return fmt.Errorf("%w: %s", ErrEnded, k.Ended())
}

// signal sends a signal to the process, or to its group when the id is negated
// by group.
func (k *Kernel) signal(s syscall.Signal, group bool) {
	k.process.Lock()
	defer k.process.Unlock()
	if k.reaped {
		return
	}
	pid := k.cmd.Process.Pid
	if group {
		pid = -pid
	}
	_ = syscall.Kill(pid, s) // the process is there and ours
}

// Interrupt asks the kernel to end what it runs.
func (k *Kernel) Interrupt() {
	if !k.spec.ByMessage() {
		k.signal(syscall.SIGINT, true)
		return
	}
	if _, frames, err := compose(k.key, k.session, "interrupt_request", struct{}{}); err == nil {
		if k.control.Send(frames...) != nil {
			k.Kill() // it is as good as dead
		}
	}
}

// Kill ends the process and its group at once.
func (k *Kernel) Kill() { k.signal(syscall.SIGKILL, true) }

// Close ends the kernel: it may tidy up, but not for long. It returns when the
// process is gone.
func (k *Kernel) Close() {
	k.signal(syscall.SIGCONT, false)
	k.Interrupt()
	content := map[string]bool{"restart": false}
	if _, frames, err := compose(k.key, k.session, "shutdown_request", content); err == nil {
		_ = k.control.Send(frames...)
	}
	patience := time.NewTimer(shutdownTime)
	defer patience.Stop()
	select {
	case <-k.done:
	case <-patience.C:
		k.Kill()
		<-k.done
	}
}
