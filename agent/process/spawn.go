package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/internal/connectjson"
)

// shell reports in its own words why a program cannot be run.
const shell = "/bin/sh"

// program is what is to be run.
type program struct {
	user *account.User
	argv []string
	cwd  string
	env  []string
	size *ptySize // of the terminal; nil for pipes
	in   bool     // stdin is a pipe, not /dev/null
}

// program reads a start request.
func (s *Service) program(req *startRequest, u *account.User) (*program, error) {
	c := req.Process
	if c == nil || c.Cmd == "" {
		return nil, connectjson.Errorf(connectjson.InvalidArgument, "no command is given")
	}
	p := &program{user: u, argv: append([]string{c.Cmd}, c.Args...), in: req.Stdin == nil || *req.Stdin}
	var cwd string
	if c.Cwd != nil {
		cwd = *c.Cwd
	}
	var err error
	if p.cwd, err = s.accounts.Resolve(u, cwd); err != nil {
		return nil, connectjson.Errorf(connectjson.InvalidArgument, "%v", err)
	}
	if p.env, err = s.environ(u, c.Envs); err != nil {
		return nil, err
	}
	for _, arg := range p.argv {
		if strings.IndexByte(arg, 0) >= 0 {
			return nil, connectjson.Errorf(connectjson.InvalidArgument, "the command contains a NUL byte")
		}
	}
	if req.PTY != nil {
		p.size = &ptySize{}
		if req.PTY.Size != nil {
			p.size = req.PTY.Size
		}
	}
	return p, nil
}

// environ builds an environment without duplicates: the user's, then the
// sandbox's, then the request's.
func (s *Service) environ(u *account.User, request map[string]string) ([]string, error) {
	vars := map[string]string{"PATH": s.path, "HOME": u.Home, "USER": u.Name, "LOGNAME": u.Name}
	for _, set := range []map[string]string{s.accounts.Envs(), request} {
		for k, v := range set {
			if strings.IndexByte(k, 0) >= 0 || strings.IndexByte(v, 0) >= 0 {
				return nil, connectjson.Errorf(connectjson.InvalidArgument, "an environment variable contains a NUL byte")
			}
			vars[k] = v
		}
	}
	env := make([]string, 0, len(vars))
	for k, v := range vars {
		env = append(env, k+"="+v)
	}
	return env, nil
}

// wiring is the files of a program: the child's ends and ours.
type wiring struct {
	child  [3]uintptr
	closed []int // the child's ends that are ours to close

	stdin          *os.File // nil if there is no pipe
	stdout, stderr *os.File
	tty            *os.File // the terminal's master, instead of the three
}

// wire makes the files of a program.
func (s *Service) wire(p *program) (w *wiring, err error) {
	w = &wiring{}
	defer func() {
		if err != nil {
			w.closeChild()
			w.closeOurs()
		}
	}()
	if p.size != nil {
		return w, w.terminal(p)
	}
	if p.in {
		if w.stdin, err = w.pipe(0, true); err != nil {
			return w, err
		}
	} else {
		null, err := s.devNull()
		if err != nil {
			return w, err
		}
		w.child[0] = null.Fd()
	}
	if w.stdout, err = w.pipe(1, false); err != nil {
		return w, err
	}
	w.stderr, err = w.pipe(2, false)
	return w, err
}

// pipe makes a pipe whose one end is the child's descriptor n. Only our end
// is non-blocking: programs do not expect that of theirs.
func (w *wiring) pipe(n int, childReads bool) (*os.File, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	theirs, ours := ends[1], ends[0]
	if childReads {
		theirs, ours = ours, theirs
	}
	w.child[n] = uintptr(theirs)
	w.closed = append(w.closed, theirs)
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(ours)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(ours), "pipe"), nil
}

// terminal makes a pseudo-terminal. It is not made with a library because
// those leave the master in blocking mode, where a read cannot be given up.
func (w *wiring) terminal(p *program) error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	w.tty = os.NewFile(uintptr(fd), "ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("unlock the terminal", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return os.NewSyscallError("name the terminal", err)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	slave, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	w.closed = append(w.closed, slave)
	for i := range w.child {
		w.child[i] = uintptr(slave)
	}
	// Programs such as sudo open the terminal by its name. Where this cannot be
	// granted they still have it as stdin.
	_ = unix.Fchown(slave, int(p.user.UID), -1)
	return resize(w.tty, p.size)
}

// resize sets the size of a terminal.
func resize(tty *os.File, size *ptySize) error {
	conn, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	ws := &unix.Winsize{Row: clamp(uint32(size.Rows)), Col: clamp(uint32(size.Cols))}
	var ioctlErr error
	if err := conn.Control(func(fd uintptr) { ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, ws) }); err != nil {
		return err
	}
	return os.NewSyscallError("set the size of the terminal", ioctlErr)
}

func clamp(n uint32) uint16 {
	return uint16(min(n, 1<<16-1))
}

func (w *wiring) closeChild() {
	for _, fd := range w.closed {
		unix.Close(fd)
	}
	w.closed = nil
}

func (w *wiring) closeOurs() {
	for _, f := range []*os.File{w.stdin, w.stdout, w.stderr, w.tty} {
		if f != nil {
			f.Close()
		}
	}
}

// spawn forks the program and returns its pid.
func (s *Service) spawn(p *program, w *wiring, ended func(syscall.WaitStatus)) (int, error) {
	attr := &syscall.ProcAttr{
		Dir:   p.cwd,
		Env:   p.env,
		Files: w.child[:],
		Sys:   &syscall.SysProcAttr{},
	}
	if p.size != nil {
		attr.Sys.Setsid, attr.Sys.Setctty = true, true // stdin is the terminal
	} else {
		// A group of its own, so that `kill 0` in a script does not reach us.
		attr.Sys.Setpgid = true
	}
	if os.Geteuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: p.user.UID, Gid: p.user.GID, Groups: p.user.Groups}
	}
	path := search(p.argv[0], p.env)
	pid, err := s.reaper.fork(path, p.argv, attr, ended)
	if err == nil {
		return pid, nil
	}
	// Only now is it worth asking why; a successful start pays nothing for it.
	if _, serr := os.Stat(p.cwd); os.IsNotExist(serr) {
		return 0, connectjson.Errorf(connectjson.InvalidArgument, "cwd '%s' does not exist", p.cwd)
	}
	// A program that is missing, not executable or not a program is the
	// program's failure, not the call's: a shell says so and exits with 127 or
	// 126. If the shell cannot start either, the directory is to blame.
	argv := append([]string{shell, "-c", `exec "$@"`, shell}, p.argv...)
	if pid, serr := s.reaper.fork(shell, argv, attr, ended); serr == nil {
		return pid, nil
	}
	return 0, connectjson.Errorf(connectjson.InvalidArgument, "error starting process '%s' in '%s': %v", strings.Join(p.argv, " "), p.cwd, err)
}

// search finds a program as execvp(3) would, in the PATH that the program
// itself will see. What is not found is returned as it is.
func search(name string, env []string) string {
	if strings.Contains(name, "/") {
		return name
	}
	for _, kv := range env {
		dirs, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(dirs) {
			path := filepath.Join(dir, name)
			if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				return path
			}
		}
	}
	return "/nonexistent/" + name
}
