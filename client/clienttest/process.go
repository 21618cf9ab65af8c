package clienttest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/creack/pty"

	"github.com/soulbox/soulbox/internal/connectjson"
)

// A process is a program and those who listen to it.
type process struct {
	cmd    *exec.Cmd
	config config
	pty    *os.File       // nil if it has no terminal
	input  io.WriteCloser // nil if it has none
	pipes  sync.WaitGroup
	done   chan struct{} // closed when the program has ended and its output is out

	mu   sync.Mutex
	hear map[chan *eventMessage]chan struct{} // +checklocks:mu; each with what its listener closes to leave
	over bool                                 // +checklocks:mu
}

func (p *process) start(stdin bool) (err error) {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if stdin {
		if p.input, err = p.cmd.StdinPipe(); err != nil {
			return err
		}
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.pipes.Go(func() { p.pump(stdout, func(b []byte) *output { return &output{Stdout: b} }) })
	p.pipes.Go(func() { p.pump(stderr, func(b []byte) *output { return &output{Stderr: b} }) })
	return nil
}

func (p *process) startPTY(size *pty.Winsize) (err error) {
	p.cmd.Env = append([]string{"TERM=xterm-256color"}, p.cmd.Env...) // the last one counts
	if p.pty, err = pty.StartWithSize(p.cmd, size); err != nil {
		return err
	}
	p.input = p.pty
	p.pipes.Go(func() { p.pump(p.pty, func(b []byte) *output { return &output{PTY: b} }) })
	return nil
}

// pump tells the listeners what comes out of r.
func (p *process) pump(r io.Reader, wrap func([]byte) *output) {
	for {
		buf := make([]byte, 32<<10)
		n, err := r.Read(buf)
		if n > 0 {
			p.tell(&eventMessage{event{Data: wrap(buf[:n])}})
		}
		if err != nil {
			return
		}
	}
}

// wait tells the listeners how the program ended.
func (p *process) wait() {
	p.pipes.Wait()
	err := p.cmd.Wait()
	end := &ended{ExitCode: p.cmd.ProcessState.ExitCode(), Exited: p.cmd.ProcessState.Exited(), Status: p.cmd.ProcessState.String()}
	if err != nil {
		end.Error = err.Error()
	}
	p.tell(&eventMessage{event{End: end}})
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	close(p.done)
}

func (p *process) listen() (events chan *eventMessage, quit chan struct{}) {
	events, quit = make(chan *eventMessage, 16), make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hear[events] = quit
	return events, quit
}

func (p *process) tell(m *eventMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for events, quit := range p.hear {
		select {
		case events <- m:
		case <-quit:
			delete(p.hear, events)
		}
	}
}

// stream sends events until the program ends or the listener leaves.
func (p *process) stream(ctx context.Context, events chan *eventMessage, out *connectjson.Sender[eventMessage]) error {
	if err := out.Send(&eventMessage{event{Start: &started{PID: connectjson.Uint32(p.cmd.Process.Pid)}}}); err != nil {
		return err
	}
	for {
		select {
		case m := <-events:
			if err := out.Send(m); err != nil {
				return err
			}
			if m.Event.End != nil {
				return nil
			}
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				p.kill(syscall.SIGKILL)
			}
			return ctx.Err()
		}
	}
}

// kill signals the program and what it has started.
func (p *process) kill(sig syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, sig) // it may have ended
}
