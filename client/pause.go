package client

import (
	"context"
	"net/http"
	"time"

	"github.com/soulbox/soulbox"
)

// DefaultTimeout is how long a fork lives unless one says otherwise. It is the
// same as that of a new sandbox; E2B's protocol has a much shorter one for
// forks, so it is always sent.
const DefaultTimeout = 5 * time.Minute

// PauseOptions say how a sandbox is paused. The zero value keeps its memory.
type PauseOptions struct {
	// FilesOnly keeps the files and ends the programs: it boots anew when it
	// is resumed.
	FilesOnly bool
}

// Pause writes a sandbox down and takes it off the machine. Connections into it
// are cut. It stays paused until somebody resumes or kills it. One that is
// paused already is a Conflict.
func (s *Sandboxes) Pause(ctx context.Context, id string, o PauseOptions) error {
	path, err := sandboxPath("/sandboxes/", id, "/pause")
	if err != nil {
		return err
	}
	_, err = s.c.work(ctx, path, memoryWire{Memory: !o.FilesOnly}, nil)
	return err
}

// ResumeOptions say how a paused sandbox runs again.
type ResumeOptions struct {
	// Timeout is how long it lives from now; it is sent in whole seconds. 0:
	// the server's default, five minutes.
	Timeout time.Duration
	// Cold ignores the memory that was kept: the sandbox boots with its files
	// only. It does nothing to one that runs.
	Cold bool
}

// Resume makes a paused sandbox run and returns a handle on it, with
// [Sandbox.Resumed] set. One that runs already is left running, and its time is
// made longer if need be.
func (s *Sandboxes) Resume(ctx context.Context, id string, o ResumeOptions) (*Sandbox, error) {
	path, err := sandboxPath("/v2/sandboxes/", id, "/connect")
	if err != nil {
		return nil, err
	}
	in := connectWire{Timeout: seconds(o.Timeout)}
	if o.Cold {
		in.Memory = new(false)
	}
	var out sandboxWire
	status, err := s.c.work(ctx, path, in, &out)
	if err != nil {
		return nil, err
	}
	box := s.c.handle(out)
	box.Resumed = status == http.StatusCreated
	return box, nil
}

// A Fork is what became of one copy of a sandbox: it runs, or why it does not.
type Fork struct {
	Sandbox *Sandbox // nil if there is an Err
	Err     error
}

// Fork makes n copies of a running sandbox as it is now, files and programs,
// while it runs on. Each lives for timeout, 0 being [DefaultTimeout]. There is
// an error if nothing was copied; otherwise each copy has its own.
func (s *Sandboxes) Fork(ctx context.Context, id string, n int, timeout time.Duration) ([]Fork, error) {
	path, err := sandboxPath("/sandboxes/", id, "/fork")
	if err != nil {
		return nil, err
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	var out []forkWire
	if _, err := s.c.work(ctx, path, forkRequest{Count: n, Timeout: seconds(timeout)}, &out); err != nil {
		return nil, err
	}
	forks := make([]Fork, 0, len(out))
	for _, w := range out {
		forks = append(forks, s.c.fork(w))
	}
	return forks, nil
}

func (c *Client) fork(w forkWire) Fork {
	switch {
	case w.Error != nil:
		return Fork{Err: w.Error.err()}
	case w.Sandbox == nil:
		return Fork{Err: soulbox.Errorf(soulbox.Unavailable, "the server does not say what became of this copy")}
	default:
		return Fork{Sandbox: c.handle(*w.Sandbox)}
	}
}

type memoryWire struct {
	Memory bool `json:"memory"`
}

type connectWire struct {
	Timeout int   `json:"timeout,omitempty"`
	Memory  *bool `json:"memory,omitempty"` // absent means true
}

type forkRequest struct {
	Count   int `json:"count"`
	Timeout int `json:"timeout"`
}

// forkWire is one copy: either of the two is there.
type forkWire struct {
	Sandbox *sandboxWire `json:"sandbox"`
	Error   *errorWire   `json:"error"`
}
