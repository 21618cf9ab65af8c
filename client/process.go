package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
)

// maxInput is how much input is sent in one message.
const maxInput = 64 << 10

// A Process is a program in a sandbox whose output somebody listens to.
type Process struct {
	// PID names the process inside of the sandbox.
	PID int

	s      *Sandbox
	stream *connectjson.Receiver[startResponse]
	cancel context.CancelFunc
	stdout io.Writer // never nil
	stderr io.Writer // never nil
	pty    bool
}

// A Window is the size of a terminal, in characters.
type Window struct{ Cols, Rows int }

// ProcessInfo is an entry of [Sandbox.Processes].
type ProcessInfo struct {
	PID  int
	Args []string
	Dir  string
}

// Processes lists the running programs that were started through the API.
func (s *Sandbox) Processes(ctx context.Context) ([]ProcessInfo, error) {
	r, err := rpc[listProcessesResponse](ctx, s, "/process.Process/List", &struct{}{})
	if err != nil {
		return nil, err
	}
	list := make([]ProcessInfo, 0, len(r.Processes))
	for _, p := range r.Processes {
		list = append(list, ProcessInfo{PID: int(p.PID), Args: append([]string{p.Config.Cmd}, p.Config.Args...), Dir: p.Config.Cwd})
	}
	return list, nil
}

// Attach listens to a program that runs already; nil writers drop what it
// writes. Ending ctx detaches.
func (s *Sandbox) Attach(ctx context.Context, pid int, stdout, stderr io.Writer) (*Process, error) {
	p := &Process{s: s, stdout: orDiscard(stdout), stderr: orDiscard(stderr)}
	if err := open(ctx, p, "/process.Process/Connect", &connectRequest{Process: selector{PID: connectjson.Uint32(pid)}}); err != nil {
		return nil, err
	}
	return p, nil
}

// open starts the stream of p and waits until the server says which process it
// is.
func open[Q any](ctx context.Context, p *Process, procedure string, q *Q) error {
	life, cancel := context.WithCancel(ctx)
	p.cancel = cancel
	err := p.open(ctx, func() (err error) {
		p.stream, err = connectjson.Open[startResponse](life, p.s.rpc(), procedure, q)
		return err
	})
	if err != nil {
		p.Close()
		return p.s.explain(ctx, err)
	}
	return nil
}

func (p *Process) open(ctx context.Context, call func() error) error {
	if err := call(); err != nil {
		return rpcError(ctx, p.s.c.data, err)
	}
	first, err := p.stream.Receive()
	switch {
	case errors.Is(err, io.EOF) || err == nil && first.Event.Start == nil:
		return soulbox.Errorf(soulbox.Unavailable, "sandbox %s did not say which process it started", p.s.ID)
	case err != nil:
		return rpcError(ctx, p.s.c.data, err)
	}
	p.PID = int(first.Event.Start.PID)
	return nil
}

// Wait writes what the program writes until it ends. It returns nil if the
// program ended with 0 and an [ExitError] if not. If ctx ends, or a writer
// fails, Wait stops listening and the program goes on without a listener.
func (p *Process) Wait(ctx context.Context) error {
	defer p.Close()
	defer context.AfterFunc(ctx, p.cancel)()
	for {
		m, err := p.stream.Receive()
		if err != nil {
			return p.broken(ctx, err)
		}
		switch e := m.Event; {
		case e.Data != nil:
			if err := p.write(e.Data); err != nil {
				return err
			}
		case e.End != nil:
			return e.End.err()
		}
	}
}

// broken words the end of a stream that came before the program's.
func (p *Process) broken(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("wait for process %d: %w", p.PID, context.Cause(ctx))
	case connectjson.CodeOf(err) == connectjson.DeadlineExceeded:
		return fmt.Errorf("wait for process %d: %w", p.PID, context.DeadlineExceeded)
	case errors.Is(err, io.EOF) || connectjson.CodeOf(err) == connectjson.InvalidArgument:
		// Nothing is wrong with what we asked any more: the connection was cut
		// off within a message, or right after one.
		err = soulbox.Errorf(soulbox.Unavailable, "the connection to process %d of sandbox %s was lost", p.PID, p.s.ID)
	default:
		err = rpcError(ctx, p.s.c.data, err)
	}
	return p.s.explain(ctx, err)
}

func (p *Process) write(d *dataEvent) error {
	for _, part := range []struct {
		w    io.Writer
		data []byte
	}{{p.stdout, d.Stdout}, {p.stderr, d.Stderr}, {p.stdout, d.PTY}} {
		if len(part.data) == 0 {
			continue
		}
		if _, err := part.w.Write(part.data); err != nil {
			return err
		}
	}
	return nil
}

// Send writes to the program's input, or types on its terminal. It returns when
// the program's pipe has taken everything, which may be never: ctx bounds it.
func (p *Process) Send(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), maxInput)
		in := processInput{Stdin: data[:n]}
		if p.pty {
			in = processInput{PTY: data[:n]}
		}
		// Not rpc, whose timeout would take a program that reads slowly for
		// one that is lost.
		_, err := connectjson.Call[struct{}](ctx, p.s.rpc(), "/process.Process/SendInput", &sendInputRequest{Process: p.selector(), Input: in})
		if err != nil {
			return p.s.explain(ctx, rpcError(ctx, p.s.c.data, err))
		}
		data = data[n:]
	}
	return nil
}

// Feed sends everything r has and then, unless the program runs in a terminal,
// closes its input. That the program does not want it, or has ended, is not an
// error: what it makes of its input is its own affair.
func (p *Process) Feed(ctx context.Context, r io.Reader) error {
	buf := make([]byte, maxInput)
	for {
		n, readErr := r.Read(buf)
		if n > 0 {
			if err := p.Send(ctx, buf[:n]); err != nil {
				return unlessGone(err)
			}
		}
		switch {
		case errors.Is(readErr, io.EOF):
			if p.pty {
				return nil
			}
			return unlessGone(p.CloseInput(ctx))
		case readErr != nil:
			return fmt.Errorf("read the input of process %d: %w", p.PID, readErr)
		}
	}
}

// unlessGone drops the errors by which the agent says that nobody reads: the
// process has ended, or has closed its input.
func unlessGone(err error) error {
	e, ok := errors.AsType[*connectjson.Error](err)
	if ok && (e.Code == connectjson.NotFound || e.Code == connectjson.Internal || e.Code == connectjson.FailedPrecondition) {
		return nil
	}
	return err
}

// CloseInput ends the program's input.
func (p *Process) CloseInput(ctx context.Context) error {
	_, err := rpc[struct{}](ctx, p.s, "/process.Process/CloseStdin", &connectRequest{Process: p.selector()})
	return err
}

// Resize tells a program in a terminal that its window has changed.
func (p *Process) Resize(ctx context.Context, w Window) error {
	_, err := rpc[struct{}](ctx, p.s, "/process.Process/Update", &updateRequest{Process: p.selector(), PTY: newPTY(w)})
	return err
}

// Kill ends the program with SIGKILL. It succeeds if the program has ended.
func (p *Process) Kill(ctx context.Context) error { return p.signal(ctx, "SIGNAL_SIGKILL") }

// Terminate asks the program to end, with SIGTERM. It succeeds if the program
// has ended.
func (p *Process) Terminate(ctx context.Context) error { return p.signal(ctx, "SIGNAL_SIGTERM") }

func (p *Process) signal(ctx context.Context, name string) error {
	_, err := rpc[struct{}](ctx, p.s, "/process.Process/SendSignal", &signalRequest{Process: p.selector(), Signal: name})
	if soulbox.KindOf(err) == soulbox.NotFound {
		return nil
	}
	return err
}

// Close stops listening; the program goes on. Wait closes the process itself.
func (p *Process) Close() {
	p.cancel()
	if p.stream != nil {
		_ = p.stream.Close() // what is left of the stream is not wanted
	}
}

func (p *Process) selector() selector { return selector{PID: connectjson.Uint32(p.PID)} }

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
