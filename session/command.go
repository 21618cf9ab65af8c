package session

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
)

const (
	agentPort    = 49983 // E2B's
	startTimeout = 30 * time.Second
	maxArgs      = 256 << 10 // bytes of arguments and environment together
	maxAtOnce    = 4         // sandboxes of a session to which something is done at the same time
)

// Run starts a program in a sandbox of an open session. One that is paused is
// resumed for it. The program runs on when the caller, or the server, goes.
func (r *Registry) Run(ctx context.Context, team soulbox.TeamID, id soulbox.SessionID, c soulbox.SessionCommand) (*soulbox.StartedCommand, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	defer r.wg.Done()
	l, err := r.get(ctx, team, id)
	if err != nil {
		return nil, err
	}
	m, err := l.target(c)
	if err != nil {
		return nil, err
	}
	sb, err := r.opts.Fleet.Get(ctx, team, m.id)
	if err != nil {
		return nil, err
	}
	if sb.State != soulbox.Running {
		if sb, err = l.wake(ctx, l.session(), m.id); err != nil {
			return nil, err
		}
	}
	m.touch(time.Now())
	// The follower does this, too, and may be a moment late.
	if _, err := m.position(ctx); err != nil {
		return nil, err
	}
	after, err := l.log.Head()
	if err != nil {
		return nil, err
	}
	pid, err := r.start(ctx, sb, c)
	if err != nil {
		return nil, fmt.Errorf("start %.100q in sandbox %s: %w", c.Args[0], m.id, err)
	}
	return &soulbox.StartedCommand{Sandbox: m.id, PID: pid, After: after}, nil
}

// target returns the member that a command is for.
func (l *live) target(c soulbox.SessionCommand) (*member, error) {
	size := len(c.Dir) + len(c.User)
	for _, a := range c.Args {
		size += len(a) + 1
	}
	for k, v := range c.Env {
		size += len(k) + len(v) + 2
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return nil, soulbox.Errorf(soulbox.Invalid, "%.100q cannot be an environment variable", k)
		}
	}
	switch {
	case len(c.Args) == 0 || c.Args[0] == "":
		return nil, soulbox.Errorf(soulbox.Invalid, "there is no program to run")
	case size > maxArgs:
		return nil, soulbox.Errorf(soulbox.TooLarge, "the arguments and variables have %d bytes, and may have %d", size, maxArgs)
	case strings.ContainsRune(strings.Join(c.Args, "")+c.Dir+c.User, 0):
		return nil, soulbox.Errorf(soulbox.Invalid, "a command must not hold a NUL byte")
	}
	if c.Sandbox != "" {
		return l.member(c.Sandbox)
	}
	all := l.present()
	if len(all) != 1 {
		return nil, soulbox.Errorf(soulbox.Invalid, "session %s has %d sandboxes; say in which one the command is to run", l.id, len(all))
	}
	return all[0], nil
}

type startRequest struct {
	Process struct {
		Cmd  string            `json:"cmd"`
		Args []string          `json:"args,omitempty"`
		Envs map[string]string `json:"envs,omitempty"`
		Cwd  string            `json:"cwd,omitempty"`
	} `json:"process"`
	Stdin bool `json:"stdin"`
}

type startResponse struct {
	Event struct {
		Start *struct {
			PID connectjson.Uint32 `json:"pid"`
		} `json:"start"`
	} `json:"event"`
}

// start asks the agent to start a program, and does not stay to listen: what
// the program writes is in the record.
func (r *Registry) start(ctx context.Context, sb *soulbox.Sandbox, c soulbox.SessionCommand) (int, error) {
	// A deadline would be told to the agent, which would end the program then.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer time.AfterFunc(startTimeout, func() {
		cancel(soulbox.Errorf(soulbox.Unavailable, "the agent did not answer for %v", startTimeout))
	}).Stop()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return r.opts.Guests.Dial(ctx, sb.ID, agentPort)
		},
		DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
	}
	agent := &connectjson.Client{
		HTTP: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Base: "http://agent", Header: http.Header{},
	}
	if sb.Token != "" {
		agent.Header.Set("X-Access-Token", sb.Token)
	}
	if c.User != "" {
		agent.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.User+":")))
	}
	var q startRequest
	q.Process.Cmd, q.Process.Args, q.Process.Envs, q.Process.Cwd = c.Args[0], c.Args[1:], c.Env, c.Dir
	stream, err := connectjson.Open[startResponse](ctx, agent, "/process.Process/Start", &q)
	if err != nil {
		return 0, refused(ctx, err)
	}
	defer stream.Close()
	first, err := stream.Receive()
	if err != nil {
		return 0, refused(ctx, err)
	}
	if first.Event.Start == nil {
		return 0, soulbox.Errorf(soulbox.Unavailable, "the agent did not say which process it started")
	}
	return int(first.Event.Start.PID), nil
}

// refused words an agent's refusal.
func refused(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	e, ok := errors.AsType[*connectjson.Error](err)
	if !ok {
		return soulbox.Hide(soulbox.Unavailable, err, "the sandbox's agent cannot be reached")
	}
	switch e.Code {
	case connectjson.InvalidArgument, connectjson.NotFound, connectjson.FailedPrecondition, connectjson.PermissionDenied, connectjson.Unauthenticated:
		return soulbox.Hide(soulbox.Invalid, err, fmt.Sprintf("the sandbox's agent says: %.300q", e.Message))
	case connectjson.ResourceExhausted:
		return soulbox.Hide(soulbox.Exhausted, err, fmt.Sprintf("the sandbox's agent says: %.300q", e.Message))
	default:
		return soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("the sandbox's agent says: %.300q", e.Message))
	}
}

// together does something to several sandboxes, a few at a time, and returns
// what became of each, in their order.
func together(ids []soulbox.SandboxID, do func(soulbox.SandboxID) error) []soulbox.MemberResult {
	results := make([]soulbox.MemberResult, len(ids))
	limit := make(chan struct{}, maxAtOnce)
	var wg sync.WaitGroup
	for i, id := range ids {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			results[i] = soulbox.MemberResult{Sandbox: id, Err: do(id)}
		})
	}
	wg.Wait()
	return results
}
