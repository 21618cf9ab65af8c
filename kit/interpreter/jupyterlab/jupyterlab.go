// Package jupyterlab runs JupyterLab in a sandbox: one process, which is started
// when somebody wants it, started again when it dies, and ended with the
// interpreter. Its kernels are those of a gateway (package gateway), so it runs
// notebooks in the interpreter's contexts.
//
// # Who runs it
//
// JupyterLab is the sandbox's user, not root as kernels are: notebooks and files
// that are made in it belong to whom files belong that clients upload, and either
// side can change the other's. What code writes is root's; in JupyterLab it can be
// read, renamed and removed, since the folder is the user's, but not edited.
//
// # Secrets
//
// Each start has a new token for browsers and another one for the gateway. They are
// in a file of mode 0600, not in arguments that every program can read. A sandbox
// that was forked has its parent's until Start is called in it.
package jupyterlab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/fetch"
	"github.com/soulbox/soulbox/kit/interpreter/tail"
)

const (
	// Port is where JupyterLab answers, in a sandbox.
	Port = 8888

	startTime = 2 * time.Minute // on a busy machine, and more
	askEvery  = 50 * time.Millisecond
	askTime   = time.Second

	// A process that ended is started again after a second, and then after twice
	// as long each time; one that lived for wellTime begins anew.
	firstPause = time.Second
	maxStarts  = 6
	wellTime   = 30 * time.Second

	waitDelay   = time.Second
	maxSessions = 4 << 20 // bytes of a list
	oomScore    = "200"   // it goes before the interpreter when memory is short
)

// Errors of Start.
var (
	ErrNotInstalled = errors.New("JupyterLab is not installed in this sandbox; the template data-science has it")
	ErrClosed       = errors.New("the interpreter is shutting down")
)

// Options says how JupyterLab is run.
type Options struct {
	Log *slog.Logger
	// Program is its name or path.
	Program string
	// Dir is the folder that it shows.
	Dir string
	// Env is its environment.
	Env []string
	// User is whose process it is, when this one is root's and there is that user.
	User string
	// Python holds the package soulbox_jupyterlab.
	Python fs.FS
	// Gateway is the gateway's URL, and Admit tells it which token is good.
	Gateway string
	Admit   func(token string)
	// Identity says which sandbox this is. One that is another than that which
	// started JupyterLab has it started anew.
	Identity func() string
	// Port is where it answers; Port when it is 0.
	Port int
}

// Access is how JupyterLab is reached.
type Access struct {
	Port  int    `json:"port"`
	Token string `json:"token"`
	Path  string `json:"path"`
}

// Server is JupyterLab, running or not. It is safe for concurrent use. It has one
// goroutine while it runs, which Stop waits for.
type Server struct {
	o Options

	mu     sync.Mutex
	closed bool     // +checklocks:mu
	now    *started // +checklocks:mu — nil while it does not run
}

// started is JupyterLab from Start to Stop, however often its process ends.
type started struct {
	access   Access
	identity string
	said     tail.Tail
	stop     context.CancelFunc
	answered chan struct{} // closed when it does
	done     chan struct{} // closed when there are no more processes
	err      error         // why, when nobody has stopped it
}

// New returns a server that does not run. The caller closes it.
func New(o Options) *Server {
	if o.Port == 0 {
		o.Port = Port
	}
	return &Server{o: o}
}

// Start starts JupyterLab unless it runs, and returns when it answers.
func (s *Server) Start(ctx context.Context) (*Access, error) {
	program, err := exec.LookPath(s.o.Program)
	if err != nil {
		return nil, ErrNotInstalled
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	now := s.now
	if now != nil && now.identity != s.o.Identity() {
		now.stop()
		<-now.done // its process is killed, which takes no time
		now = nil
	}
	if now == nil {
		if now, err = s.launch(program); err != nil {
			s.mu.Unlock()
			return nil, fmt.Errorf("start JupyterLab: %w", err)
		}
		s.now = now
	}
	s.mu.Unlock()
	select {
	case <-now.answered:
		return &now.access, nil
	case <-now.done:
		if now.err == nil {
			return nil, errors.New("JupyterLab was stopped")
		}
		return nil, now.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Access returns how JupyterLab is reached; nil when it does not run, or not yet.
func (s *Server) Access() *Access {
	if now := s.running(); now != nil {
		return &now.access
	}
	return nil
}

// running returns what answers, or nil.
func (s *Server) running() *started {
	s.mu.Lock()
	now := s.now
	s.mu.Unlock()
	if now == nil {
		return nil
	}
	select {
	case <-now.done:
		return nil
	default:
	}
	select {
	case <-now.answered:
		return now
	default:
		return nil
	}
}

// Stop ends JupyterLab and waits until it is gone. Its kernels stay.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		s.now.stop()
		<-s.now.done
		s.now = nil
	}
}

// Close is Stop, for good.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Stop()
}

// launch writes what JupyterLab must know and starts it.
func (s *Server) launch(program string) (*started, error) {
	dir, err := os.MkdirTemp("", "soulbox-jupyterlab-")
	if err != nil {
		return nil, err
	}
	owner, err := s.owner()
	now := &started{
		access:   Access{Port: s.o.Port, Token: rand.Text(), Path: "/lab"},
		identity: s.o.Identity(),
		answered: make(chan struct{}), done: make(chan struct{}),
	}
	gateway := rand.Text()
	if err == nil {
		err = s.prepare(dir, owner, now.access.Token, gateway)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s.o.Admit(gateway)
	ctx, cancel := context.WithCancel(context.Background())
	now.stop = cancel
	go func() {
		defer close(now.done)
		defer cancel()
		now.err = s.keep(ctx, now, program, dir, owner)
		s.o.Admit("")
		os.RemoveAll(dir)
	}()
	return now, nil
}

// owner returns whose process it will be; nil when it is ours.
func (s *Server) owner() (*user.User, error) {
	if os.Getuid() != 0 || s.o.User == "" {
		return nil, nil
	}
	u, err := user.Lookup(s.o.User)
	if _, ok := errors.AsType[user.UnknownUserError](err); ok {
		return nil, nil
	}
	return u, err
}

// ids returns the numbers of an owner.
func ids(u *user.User) (uid, gid uint32, err error) {
	a, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, 0, err
	}
	b, err := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(a), uint32(b), err
}

// settings is JupyterLab's configuration: no browser, no news, no questions, and
// no button that ends the server, and with it everybody's kernels.
func (s *Server) settings(token, gateway string) map[string]any {
	return map[string]any{
		"ServerApp": map[string]any{
			"ip": "0.0.0.0", "port": s.o.Port, "port_retries": 0, "root_dir": s.o.Dir, "open_browser": false,
			"allow_remote_access": true, "allow_root": true, "quit_button": false, "log_level": "WARN",
			"kernel_websocket_connection_class": "soulbox_jupyterlab.Connection",
		},
		"IdentityProvider": map[string]any{"token": token},
		"GatewayClient": map[string]any{
			"url": s.o.Gateway, "auth_token": gateway, "request_timeout": startTime.Seconds(), "allowed_envs": "JPY_SESSION_NAME",
		},
		"LabApp": map[string]any{
			"news_url": nil, "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate", "extension_manager": "readonly",
		},
	}
}

// prepare fills a folder that only the owner may enter.
func (s *Server) prepare(dir string, owner *user.User, token, gateway string) error {
	text, err := json.Marshal(s.settings(token, gateway))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
		return err
	}
	// The page asks about news whatever the settings are.
	const page = `{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}`
	if err := os.Mkdir(filepath.Join(dir, "labconfig"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "labconfig/page_config.json"), []byte(page), 0o600); err != nil {
		return err
	}
	if s.o.Python != nil {
		sub, err := fs.Sub(s.o.Python, "soulbox_jupyterlab")
		if err != nil {
			return err
		}
		if err := os.CopyFS(filepath.Join(dir, "soulbox_jupyterlab"), sub); err != nil {
			return err
		}
	}
	if owner == nil {
		return nil
	}
	uid, gid, err := ids(owner)
	if err != nil {
		return err
	}
	// The folder itself comes last: until then nobody can change what is in it.
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return os.Lchown(path, int(uid), int(gid)) //nolint:gosec // see above
	})
	if err != nil {
		return err
	}
	return os.Chown(dir, int(uid), int(gid))
}

// command returns the process that is to be started.
func (s *Server) command(ctx context.Context, program, dir string, owner *user.User) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, program, "--config="+filepath.Join(dir, "config.json"))
	cmd.Dir = s.o.Dir
	cmd.WaitDelay = waitDelay
	// A session of its own, which ends with this program. Nothing is to be tidied
	// up: a server that is asked to end would end its kernels first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	for _, one := range s.o.Env {
		switch name, _, _ := strings.Cut(one, "="); name {
		case "NO_COLOR", "PYTHONPATH": // terminals have colours
		case "HOME", "USER", "LOGNAME", "SHELL":
			if owner == nil {
				cmd.Env = append(cmd.Env, one)
			}
		default:
			cmd.Env = append(cmd.Env, one)
		}
	}
	cmd.Env = append(cmd.Env, "PYTHONPATH="+dir, "PYTHONUNBUFFERED=1", "JUPYTER_CONFIG_PATH="+dir)
	if owner == nil {
		return cmd, nil
	}
	uid, gid, err := ids(owner)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	groups, _ := owner.GroupIds() // whoever has no others has this one
	for _, g := range groups {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil {
			cmd.SysProcAttr.Credential.Groups = append(cmd.SysProcAttr.Credential.Groups, uint32(n))
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+owner.HomeDir, "USER="+owner.Username, "LOGNAME="+owner.Username, "SHELL=/bin/bash")
	return cmd, nil
}

// keep runs the process, and another one when it ends, until ctx does. It returns
// nil when somebody has stopped it.
func (s *Server) keep(ctx context.Context, now *started, program, dir string, owner *user.User) error {
	pause := firstPause
	for starts := 1; ; starts++ {
		began := time.Now()
		err := s.once(ctx, now, program, dir, owner)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was to end
		}
		select {
		case <-now.answered:
		default:
			return fmt.Errorf("JupyterLab did not start: %w; it said: %s", err, now.said.String())
		}
		if time.Since(began) > wellTime {
			starts, pause = 1, firstPause
		}
		s.o.Log.WarnContext(ctx, "jupyterlab ended", "err", err, "said", now.said.String())
		if starts == maxStarts {
			return fmt.Errorf("JupyterLab has ended too often: %w", err)
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
		pause *= 2
	}
}

// once runs the process until it ends.
func (s *Server) once(ctx context.Context, now *started, program, dir string, owner *user.User) error {
	cmd, err := s.command(ctx, program, dir, owner)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = &now.said, &now.said
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte(oomScore), 0o600) // where it is allowed
	ask, cancel := context.WithTimeout(ctx, startTime)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		if s.answers(ask, now) {
			now.answeredOnce()
		} else if ask.Err() == context.DeadlineExceeded {
			_ = cmd.Cancel() // it would never answer
		}
	}()
	err = cmd.Wait()
	cancel()
	<-waited
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it has left
	if err == nil {
		err = errors.New("it has ended by itself")
	}
	return err
}

// answeredOnce is called by the goroutine of one process at a time.
func (n *started) answeredOnce() {
	select {
	case <-n.answered:
	default:
		close(n.answered)
	}
}

// answers waits until JupyterLab does, and not another program on its port.
func (s *Server) answers(ctx context.Context, now *started) bool {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		if _, err := s.ask(ctx, now, "/api/status"); err == nil {
			return true
		}
	}
}

func (s *Server) ask(ctx context.Context, now *started, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	at := url.URL{Scheme: "http", Host: "127.0.0.1:" + strconv.Itoa(now.access.Port), Path: path}
	return fetch.Get(ctx, at.String(), http.Header{"Authorization": {"token " + now.access.Token}}, maxSessions)
}

// Kernel returns the id of the kernel that JupyterLab runs the notebook at path
// with, which is relative to its folder; empty when it does not.
func (s *Server) Kernel(ctx context.Context, path string) string {
	now := s.running()
	if now == nil {
		return ""
	}
	b, err := s.ask(ctx, now, "/api/sessions")
	if err != nil {
		return ""
	}
	var sessions []struct {
		Path   string
		Kernel struct{ ID string }
	}
	if json.Unmarshal(b, &sessions) != nil {
		return ""
	}
	for _, one := range sessions {
		if strings.TrimPrefix(one.Path, "/") == path {
			return one.Kernel.ID
		}
	}
	return ""
}
