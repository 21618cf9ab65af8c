package clienttest

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/creack/pty"

	"github.com/soulbox/soulbox/internal/connectjson"
)

// An agent stands in for the program inside of every sandbox.
type agent struct {
	http.Handler

	home string
	env  map[string]string

	mu    sync.Mutex
	procs map[int]*process // +checklocks:mu
}

func newAgent(home string, env map[string]string) *agent {
	a := &agent{home: home, env: env, procs: map[int]*process{}}
	mux := http.NewServeMux()
	mux.Handle("/process.Process/Start", connectjson.ServerStream(a.start))
	mux.Handle("/process.Process/Connect", connectjson.ServerStream(a.connect))
	mux.Handle("/process.Process/List", connectjson.Unary(a.list))
	mux.Handle("/process.Process/SendInput", connectjson.Unary(a.sendInput))
	mux.Handle("/process.Process/CloseStdin", connectjson.Unary(a.closeStdin))
	mux.Handle("/process.Process/SendSignal", connectjson.Unary(a.sendSignal))
	mux.Handle("/process.Process/Update", connectjson.Unary(a.update))
	mux.Handle("/filesystem.Filesystem/Stat", connectjson.Unary(a.stat))
	mux.Handle("/filesystem.Filesystem/ListDir", connectjson.Unary(a.listDir))
	mux.Handle("/filesystem.Filesystem/MakeDir", connectjson.Unary(a.makeDir))
	mux.Handle("/filesystem.Filesystem/Move", connectjson.Unary(a.move))
	mux.Handle("/filesystem.Filesystem/Remove", connectjson.Unary(a.remove))
	mux.HandleFunc("GET /files", a.download)
	mux.HandleFunc("POST /files", a.upload)
	a.Handler = mux
	return a
}

func (a *agent) killAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.procs {
		p.kill(syscall.SIGKILL)
	}
}

type selector struct {
	PID connectjson.Uint32 `json:"pid,omitempty"`
}

type bySelector struct {
	Process selector `json:"process"`
}

type size struct {
	Size struct {
		Cols connectjson.Uint32 `json:"cols,omitempty"`
		Rows connectjson.Uint32 `json:"rows,omitempty"`
	} `json:"size"`
}

type config struct {
	Cmd  string            `json:"cmd,omitempty"`
	Args []string          `json:"args,omitempty"`
	Envs map[string]string `json:"envs,omitempty"`
	Cwd  string            `json:"cwd,omitempty"`
}

type startRequest struct {
	Process config `json:"process"`
	PTY     *size  `json:"pty,omitempty"`
	Stdin   *bool  `json:"stdin,omitempty"`
}

type started struct {
	PID connectjson.Uint32 `json:"pid,omitempty"`
}

type output struct {
	Stdout connectjson.Bytes `json:"stdout,omitempty"`
	Stderr connectjson.Bytes `json:"stderr,omitempty"`
	PTY    connectjson.Bytes `json:"pty,omitempty"`
}

type ended struct {
	ExitCode int    `json:"exitCode,omitempty"`
	Exited   bool   `json:"exited,omitempty"`
	Status   string `json:"status,omitempty"`
	Error    string `json:"error,omitempty"`
}

type event struct {
	Start     *started  `json:"start,omitempty"`
	Data      *output   `json:"data,omitempty"`
	Keepalive *struct{} `json:"keepalive,omitempty"`
	End       *ended    `json:"end,omitempty"`
}

type eventMessage struct {
	Event event `json:"event"`
}

type empty struct{}

func (a *agent) start(ctx context.Context, _ http.Header, q *startRequest, out *connectjson.Sender[eventMessage]) error {
	// The program outlives the request that started it.
	//nolint:contextcheck // see above
	cmd := exec.CommandContext(context.WithoutCancel(ctx), q.Process.Cmd, q.Process.Args...)
	cmd.Dir = a.path(q.Process.Cwd)
	if _, err := os.Stat(cmd.Dir); err != nil {
		return connectjson.Errorf(connectjson.InvalidArgument, "cwd '%s' does not exist", cmd.Dir)
	}
	inherited := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "TERM=") })
	cmd.Env = slices.Concat(inherited, []string{"HOME=" + a.home})
	for _, env := range []map[string]string{a.env, q.Process.Envs} {
		for k, v := range env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	p := &process{cmd: cmd, config: q.Process, done: make(chan struct{}), hear: map[chan *eventMessage]chan struct{}{}}
	events, quit := p.listen()
	defer close(quit)
	var err error
	if q.PTY != nil {
		err = p.startPTY(&pty.Winsize{Cols: uint16(q.PTY.Size.Cols), Rows: uint16(q.PTY.Size.Rows)})
	} else {
		err = p.start(q.Stdin == nil || *q.Stdin)
	}
	if err != nil {
		// A shell in between would say so, as the real agent's does.
		_ = out.Send(&eventMessage{event{Start: &started{PID: 1}}})
		_ = out.Send(&eventMessage{event{Data: &output{Stderr: []byte(err.Error() + "\n")}}})
		return out.Send(&eventMessage{event{End: &ended{ExitCode: 127, Exited: true, Status: "exit status 127", Error: "exit status 127"}}})
	}
	a.mu.Lock()
	a.procs[cmd.Process.Pid] = p
	a.mu.Unlock()
	go func() { // ends with the program, which killAll ends
		p.wait()
		a.mu.Lock()
		delete(a.procs, cmd.Process.Pid)
		a.mu.Unlock()
	}()
	return p.stream(ctx, events, out)
}

func (a *agent) connect(ctx context.Context, _ http.Header, q *bySelector, out *connectjson.Sender[eventMessage]) error {
	p, err := a.find(q.Process)
	if err != nil {
		return err
	}
	events, quit := p.listen()
	defer close(quit)
	return p.stream(ctx, events, out)
}

func (a *agent) find(s selector) (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.procs[int(s.PID)]
	if p == nil {
		return nil, connectjson.Errorf(connectjson.NotFound, "process with pid %d not found", s.PID)
	}
	return p, nil
}

type listed struct {
	Config config             `json:"config"`
	PID    connectjson.Uint32 `json:"pid,omitempty"`
}

type listResponse struct {
	Processes []listed `json:"processes,omitempty"`
}

func (a *agent) list(context.Context, http.Header, *empty) (*listResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &listResponse{}
	for pid, p := range a.procs {
		r.Processes = append(r.Processes, listed{Config: p.config, PID: connectjson.Uint32(pid)})
	}
	slices.SortFunc(r.Processes, func(a, b listed) int { return int(a.PID) - int(b.PID) })
	return r, nil
}

type inputRequest struct {
	Process selector `json:"process"`
	Input   struct {
		Stdin connectjson.Bytes `json:"stdin,omitempty"`
		PTY   connectjson.Bytes `json:"pty,omitempty"`
	} `json:"input"`
}

func (a *agent) sendInput(_ context.Context, _ http.Header, q *inputRequest) (*empty, error) {
	p, err := a.find(q.Process)
	if err != nil {
		return nil, err
	}
	if p.input == nil {
		return nil, connectjson.Errorf(connectjson.Internal, "stdin not enabled or closed")
	}
	if _, err := p.input.Write(append(q.Input.Stdin, q.Input.PTY...)); err != nil {
		return nil, connectjson.Errorf(connectjson.Internal, "error writing to stdin: %v", err)
	}
	return &empty{}, nil
}

func (a *agent) closeStdin(_ context.Context, _ http.Header, q *bySelector) (*empty, error) {
	p, err := a.find(q.Process)
	if err != nil {
		return nil, err
	}
	if p.input != nil {
		_ = p.input.Close() // closed before, by the program's end
	}
	return &empty{}, nil
}

type signalRequest struct {
	Process selector `json:"process"`
	Signal  string   `json:"signal,omitempty"`
}

func (a *agent) sendSignal(_ context.Context, _ http.Header, q *signalRequest) (*empty, error) {
	p, err := a.find(q.Process)
	if err != nil {
		return nil, err
	}
	sig := syscall.SIGKILL
	if q.Signal == "SIGNAL_SIGTERM" {
		sig = syscall.SIGTERM
	}
	p.kill(sig)
	return &empty{}, nil
}

type updateRequest struct {
	Process selector `json:"process"`
	PTY     *size    `json:"pty,omitempty"`
}

func (a *agent) update(_ context.Context, _ http.Header, q *updateRequest) (*empty, error) {
	p, err := a.find(q.Process)
	if err != nil {
		return nil, err
	}
	if p.pty == nil || q.PTY == nil {
		return nil, connectjson.Errorf(connectjson.InvalidArgument, "not a terminal")
	}
	if err := pty.Setsize(p.pty, &pty.Winsize{Cols: uint16(q.PTY.Size.Cols), Rows: uint16(q.PTY.Size.Rows)}); err != nil {
		return nil, connectjson.Errorf(connectjson.Internal, "%v", err)
	}
	return &empty{}, nil
}
