package guest

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/soulbox/soulbox/internal/connectjson"
)

// An Exit tells how a program ended.
type Exit struct {
	Code   int    // -1: it did not exit by itself
	Status string // in words, of the sandbox's
}

// A Program is one that a sandbox runs for us, and whose output we hear. One
// goroutine may use it.
type Program struct {
	in *connectjson.Receiver[programResponse]
}

// Start has a shell run a command as the sandbox's own user, in its folder and
// with its environment, as clients do, and returns once it runs. The caller
// calls Wait.
//
// The program has ctx's deadline as well, and is killed then. Otherwise it goes
// on when nobody listens any more; ending ctx ends listening.
func (a *Agent) Start(ctx context.Context, command string) (*Program, error) {
	header := http.Header{}
	if a.token != "" {
		header.Set("X-Access-Token", a.token)
	}
	none := false
	in, err := connectjson.Open[programResponse](ctx, &connectjson.Client{HTTP: a.http, Base: "http://agent", Header: header}, "/process.Process/Start",
		&programRequest{Process: programConfig{Cmd: "/bin/bash", Args: []string{"-l", "-c", command}}, Stdin: &none})
	if err != nil {
		return nil, short(err)
	}
	m, err := in.Receive()
	if err == nil && m.Event.Start == nil {
		err = errors.New("the agent does not say that the program has started")
	}
	if err != nil {
		return nil, errors.Join(short(err), in.Close())
	}
	return &Program{in: in}, nil
}

// Wait calls each with what the program writes to "stdout" and "stderr", piece
// by piece, until it ends or each fails. A slow each slows the program down.
func (p *Program) Wait(each func(stream string, data []byte) error) (Exit, error) {
	defer p.in.Close()
	for {
		m, err := p.in.Receive()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Exit{}, short(err)
		}
		if d := m.Event.Data; d != nil {
			if len(d.Stdout) > 0 {
				err = each("stdout", d.Stdout)
			}
			if len(d.Stderr) > 0 && err == nil {
				err = each("stderr", d.Stderr)
			}
			if err != nil {
				return Exit{}, err
			}
		}
		if e := m.Event.End; e != nil {
			return Exit{Code: int(e.ExitCode), Status: e.Status}, nil
		}
	}
}

// short bounds what an agent says of why it does not do something.
func short(err error) error {
	const most = 512
	if e, ok := errors.AsType[*connectjson.Error](err); ok && len(e.Code)+len(e.Message) > most {
		return connectjson.Errorf(connectjson.Unknown, "%.*s", most, e.Message)
	}
	return err
}

// The messages of the agent's process service, as far as we need them.
type (
	programRequest struct {
		Process programConfig `json:"process"`
		Stdin   *bool         `json:"stdin,omitempty"` // absent means true
	}
	programConfig struct {
		Cmd  string   `json:"cmd,omitempty"`
		Args []string `json:"args,omitempty"`
	}
	programResponse struct {
		Event struct {
			Start *struct{} `json:"start,omitempty"`
			Data  *struct {
				Stdout connectjson.Bytes `json:"stdout,omitempty"`
				Stderr connectjson.Bytes `json:"stderr,omitempty"`
			} `json:"data,omitempty"`
			End *struct {
				ExitCode int32  `json:"exitCode,omitempty"`
				Status   string `json:"status,omitempty"`
			} `json:"end,omitempty"`
		} `json:"event"`
	}
)
