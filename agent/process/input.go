package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/soulbox/soulbox/internal/connectjson"
)

// sendInput serves SendInput.
func (s *Service) sendInput(ctx context.Context, _ http.Header, req *sendInputRequest) (*empty, error) {
	p, err := s.find(req.Process, false)
	if err != nil {
		return nil, err
	}
	return &empty{}, p.input(ctx, req.Input)
}

// streamInput serves StreamInput: input for one process, in order.
func (s *Service) streamInput(ctx context.Context, _ http.Header, in *connectjson.Receiver[streamInputRequest]) (*empty, error) {
	var p *process
	for {
		req, err := in.Receive()
		if errors.Is(err, io.EOF) {
			return &empty{}, nil
		}
		if err != nil {
			return nil, err
		}
		switch {
		case req.Start != nil:
			if p, err = s.find(req.Start.Process, false); err != nil {
				return nil, err
			}
		case req.Data != nil:
			if p == nil {
				return nil, connectjson.Errorf(connectjson.InvalidArgument, "data came before the process was selected")
			}
			if err := p.input(ctx, req.Data.Input); err != nil {
				return nil, err
			}
		case req.Keepalive != nil:
		default:
			return nil, connectjson.Errorf(connectjson.Unimplemented, "invalid event type")
		}
	}
}

// input writes to the process and waits until it has room for all of it, or
// ctx ends.
func (p *process) input(ctx context.Context, in *input) error {
	switch {
	case in == nil || (in.Stdin == nil) == (in.PTY == nil):
		return connectjson.Errorf(connectjson.Unimplemented, "invalid input type: input is either stdin or pty")
	case in.PTY != nil:
		if p.files.tty == nil {
			return connectjson.Errorf(connectjson.Internal, "error writing to tty: tty not assigned to process — input should be written to the stdin, not the tty")
		}
		return p.write(ctx, p.files.tty, *in.PTY, "tty")
	default:
		f := p.stdin.Load()
		switch {
		case p.files.tty != nil:
			return connectjson.Errorf(connectjson.Internal, "error writing to stdin: tty assigned to process — input should be written to the pty, not the stdin")
		case f == nil:
			return connectjson.Errorf(connectjson.Internal, "error writing to stdin: stdin not enabled or closed")
		}
		return p.write(ctx, f, *in.Stdin, "stdin")
	}
}

func (p *process) write(ctx context.Context, f *os.File, data []byte, name string) error {
	p.inMu.Lock()
	defer p.inMu.Unlock()
	// A process that does not read must not hold the caller for longer than the
	// caller wants.
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = f.SetWriteDeadline(time.Unix(1, 0)) // a closed file needs no deadline
	})
	_, err := f.Write(data)
	if !stop() {
		<-stopped
		_ = f.SetWriteDeadline(time.Time{}) // for the next writer
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("write to %s: %w", name, ctx.Err())
	case errors.Is(err, os.ErrClosed):
		return connectjson.Errorf(connectjson.Internal, "error writing to %s: %s not enabled or closed", name, name)
	default:
		return connectjson.Errorf(connectjson.Internal, "error writing to %s of process '%d': %v", name, p.pid, err)
	}
}

// closeStdin serves CloseStdin: the process reads an end of file.
func (s *Service) closeStdin(_ context.Context, _ http.Header, req *connectRequest) (*empty, error) {
	p, err := s.find(req.Process, false)
	if err != nil {
		return nil, err
	}
	if p.files.tty != nil {
		return nil, connectjson.Errorf(connectjson.Unknown, "error closing stdin: cannot close stdin for PTY process — send Ctrl+D (0x04) instead")
	}
	if f := p.stdin.Swap(nil); f != nil {
		if err := f.Close(); err != nil {
			return nil, connectjson.Errorf(connectjson.Unknown, "error closing stdin: %v", err)
		}
	}
	return &empty{}, nil
}
