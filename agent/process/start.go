package process

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/agent/journal"
	"github.com/soulbox/soulbox/internal/connectjson"
)

// process is one program that was started, until it is forgotten.
type process struct {
	service *Service
	config  *config
	tag     *string
	pid     uint32
	files   *wiring
	log     *journal.Process
	hub     hub

	stdin    atomic.Pointer[os.File] // nil if there is none, or no longer
	inMu     sync.Mutex              // orders writes to stdin or the terminal
	deadline *time.Timer             // nil without one

	parts  atomic.Int32  // what is still to come: each pump, and the reaper
	exited chan struct{} // closed when reaped
	status syscall.WaitStatus

	cutMu sync.Mutex
	cut   bool // +checklocks:cutMu — the end of the process is the end of its output
	dead  bool // +checklocks:cutMu

	// Set before hub.over is closed.
	end     *endEvent
	endedAt time.Time
}

// start serves Start: it runs a program and streams what it says.
func (s *Service) start(ctx context.Context, h http.Header, req *startRequest, out *connectjson.Sender[eventResponse]) error {
	u, err := s.accounts.Caller(h)
	if err != nil {
		return err
	}
	prog, err := s.program(req, u)
	if err != nil {
		return err
	}
	// The caller's deadline is the program's as well, but not the caller's
	// connection: a program outlives those who watch it.
	p, l, err := s.launch(prog, req, ctx)
	if err != nil {
		return err
	}
	defer p.hub.leave(l)
	return p.stream(ctx, h, l, out)
}

// launch starts a program, with a first listener so that none of its output is
// lost.
//
//nolint:revive // the context is only asked for its deadline
func (s *Service) launch(prog *program, req *startRequest, ctx context.Context) (*process, *listener, error) {
	w, err := s.wire(prog)
	if err != nil {
		return nil, nil, connectjson.Errorf(connectjson.Internal, "error opening the files of the process: %v", err)
	}
	p := &process{
		service: s,
		config:  req.Process,
		tag:     req.Tag,
		files:   w,
		hub:     hub{over: make(chan struct{})},
		exited:  make(chan struct{}),
	}
	p.stdin.Store(w.stdin)
	l := p.hub.join()

	pumps := 2
	if w.tty != nil {
		pumps = 1
	}
	p.parts.Store(int32(pumps) + 1)
	ready := make(chan struct{})
	pid, err := s.spawn(prog, w, func(ws syscall.WaitStatus) {
		<-ready
		p.reaped(ws)
	})
	w.closeChild()
	if err != nil {
		w.closeOurs()
		return nil, nil, err
	}
	p.pid = uint32(pid)
	p.log = s.journal.Begin(pid, prog.argv, prog.user.Name, prog.cwd)
	s.record.Started(pid, prog.argv)
	if d, ok := ctx.Deadline(); ok {
		p.deadline = time.AfterFunc(time.Until(d), p.kill)
	}
	s.add(p)
	close(ready)
	if w.tty != nil {
		go p.pump(journal.PTY, w.tty, ptyChunk)
	} else {
		go p.pump(journal.Stdout, w.stdout, stdChunk)
		go p.pump(journal.Stderr, w.stderr, stdChunk)
	}
	return p, l, nil
}

// connect serves Connect: it streams what a running program says from now on,
// or how it ended a moment ago.
func (s *Service) connect(ctx context.Context, h http.Header, req *connectRequest, out *connectjson.Sender[eventResponse]) error {
	p, err := s.find(req.Process, true)
	if err != nil {
		return err
	}
	l := p.hub.join()
	defer p.hub.leave(l)
	return p.stream(ctx, h, l, out)
}

// stream sends the events of a process until it is over or the caller leaves.
func (p *process) stream(ctx context.Context, h http.Header, l *listener, out *connectjson.Sender[eventResponse]) error {
	if err := out.Send(&eventResponse{event{Start: &startEvent{PID: connectjson.Uint32(p.pid)}}}); err != nil {
		return err
	}
	interval := keepalive(h)
	alive := time.NewTimer(interval)
	defer alive.Stop()
	last := time.Now()
	for {
		select {
		case c := <-l.chunks:
			err := out.Send(dataOf(c))
			c.release()
			if err != nil {
				return err
			}
			last = time.Now()
		case <-alive.C:
			// Data counts as a sign of life, so the timer is only ever moved when
			// it fires.
			if quiet := time.Since(last); quiet < interval {
				alive.Reset(interval - quiet)
				continue
			}
			if err := out.Send(&eventResponse{event{Keepalive: &empty{}}}); err != nil {
				return err
			}
			last = time.Now()
			alive.Reset(interval)
		case <-ctx.Done():
			return ctx.Err()
		case <-p.hub.over:
			return out.SendLast(&eventResponse{event{End: p.end}})
		}
	}
}

func dataOf(c *chunk) *eventResponse {
	d := &dataEvent{}
	switch c.stream {
	case journal.Stdout:
		d.Stdout = c.data
	case journal.Stderr:
		d.Stderr = c.data
	case journal.PTY:
		d.PTY = c.data
	}
	return &eventResponse{event{Data: d}}
}

// keepalive returns how often a silent stream shows that it is alive.
func keepalive(h http.Header) time.Duration {
	const standard, longest = 90, 24 * 60 * 60
	n, err := strconv.Atoi(h.Get("Keepalive-Ping-Interval"))
	if err != nil || n <= 0 || n > longest {
		n = standard
	}
	return time.Duration(n) * time.Second
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.signal(syscall.SIGKILL) // it fails only if the process is gone
}

// signal sends a signal. From then on nobody waits for more output than the
// process itself has made.
func (p *process) signal(sig syscall.Signal) error {
	p.cutMu.Lock()
	p.cut = true
	if p.dead {
		p.stopOutputLocked()
	}
	p.cutMu.Unlock()
	return p.service.reaper.kill(int(p.pid), sig)
}

// reaped is called when the process is gone. Grandchildren may still write.
func (p *process) reaped(ws syscall.WaitStatus) {
	p.status = ws
	p.cutMu.Lock()
	p.dead = true
	if p.cut {
		p.stopOutputLocked()
	}
	p.cutMu.Unlock()
	close(p.exited)
	p.partDone()
}

// stopOutputLocked makes the pumps take what is there and end.
//
// +checklocks:p.cutMu
func (p *process) stopOutputLocked() {
	for _, f := range []*os.File{p.files.stdout, p.files.stderr, p.files.tty} {
		if f != nil {
			_ = f.SetReadDeadline(time.Unix(1, 0)) // a closed file has no pump
		}
	}
}

// partDone is called by each pump and by the reaper; the last one ends the
// process.
func (p *process) partDone() {
	if p.parts.Add(-1) > 0 {
		return
	}
	if p.deadline != nil {
		p.deadline.Stop()
	}
	p.stdin.Store(nil)
	p.files.closeOurs()
	p.end = endOf(p.status)
	p.endedAt = time.Now()
	p.log.End(int(p.end.ExitCode), p.end.Status)
	signal := ""
	if p.status.Signaled() {
		signal = unix.SignalName(p.status.Signal())
	}
	p.service.record.Ended(int(p.pid), int(p.end.ExitCode), signal)
	p.service.retire(p)
	close(p.hub.over)
}

// endOf puts an exit status in the words of os.ProcessState, which clients
// show.
func endOf(ws syscall.WaitStatus) *endEvent {
	e := &endEvent{ExitCode: -1}
	if ws.Exited() {
		e.ExitCode, e.Exited = int32(ws.ExitStatus()), true
		e.Status = fmt.Sprintf("exit status %d", ws.ExitStatus())
	} else {
		e.Status = "signal: " + ws.Signal().String()
		if ws.CoreDump() {
			e.Status += " (core dumped)"
		}
	}
	if e.ExitCode != 0 {
		e.Error = &e.Status
	}
	return e
}

// sendSignal serves SendSignal.
func (s *Service) sendSignal(ctx context.Context, _ http.Header, req *sendSignalRequest) (*empty, error) {
	p, err := s.find(req.Process, false)
	if err != nil {
		return nil, err
	}
	switch req.Signal {
	case sigKill:
		if err := p.signal(syscall.SIGKILL); err != nil {
			return nil, connectjson.Errorf(connectjson.Internal, "error sending signal: %v", err)
		}
		// Death is certain now, so whoever looks after this call should not see
		// the process any more. Waiting has a limit: a process in the middle of
		// slow I/O dies late.
		const patience = time.Second
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-p.exited:
		case <-timer.C:
		case <-ctx.Done():
		}
	case sigTerm:
		if err := p.signal(syscall.SIGTERM); err != nil {
			return nil, connectjson.Errorf(connectjson.Internal, "error sending signal: %v", err)
		}
	default:
		return nil, connectjson.Errorf(connectjson.Unimplemented, "invalid signal: %s", req.Signal)
	}
	return &empty{}, nil
}

// update serves Update: it resizes a terminal.
func (s *Service) update(_ context.Context, _ http.Header, req *updateRequest) (*empty, error) {
	p, err := s.find(req.Process, false)
	if err != nil {
		return nil, err
	}
	if req.PTY == nil {
		return &empty{}, nil
	}
	size := req.PTY.Size
	if size == nil {
		size = &ptySize{}
	}
	err = errors.New("tty not assigned to process")
	if p.files.tty != nil {
		err = resize(p.files.tty, size)
	}
	if err != nil {
		return nil, connectjson.Errorf(connectjson.Internal, "error resizing tty: %v", err)
	}
	return &empty{}, nil
}
