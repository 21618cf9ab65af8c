package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/internal/stepwire"
)

// The files that the server hands over. A further one is locked for as long as
// anything is left of us.
const (
	controlFD = 3 // a socket: a Hold comes in, a Held goes out
	apiFD     = 4 // on which BuildKit listens
	lockFD    = 5
)

// hold is the first process of its PID namespace.
func hold() (int, error) {
	for fd := controlFD; fd <= lockFD; fd++ {
		unix.CloseOnExec(fd)
	}
	control, err := fileConn(os.NewFile(controlFD, "control"))
	if err != nil {
		return failed, err
	}
	var req stepwire.Hold
	if _, err := stepwire.Receive(control, &req); err != nil {
		return failed, fmt.Errorf("read the request: %w", err)
	}
	daemon, listeners, err := furnish(req)
	if err != nil {
		return failed, errors.Join(err, stepwire.Send(control, stepwire.Held{Failed: err.Error()}))
	}
	if err := stepwire.Send(control, stepwire.Held{}, listeners...); err != nil {
		return failed, err
	}
	for _, l := range listeners {
		l.Close()
	}
	go obey(control, daemon)
	return reap(daemon.Pid), nil
}

// furnish makes the root and the network, and starts BuildKit in them.
func furnish(req stepwire.Hold) (*os.Process, []*os.File, error) {
	listeners, err := listen(req.Listen)
	if err != nil {
		return nil, nil, err
	}
	if err := buildRoot(req); err != nil {
		return nil, nil, err
	}
	p, err := os.StartProcess("/proc/self/exe", append([]string{"soulbox-step", "become"}, req.Command...), &os.ProcAttr{
		Dir: "/", Env: req.Env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, os.NewFile(apiFD, "api")},
	})
	return p, listeners, err
}

// obey ends everything once the server is no more, and asks BuildKit to end
// when the server says so.
func obey(control *net.UnixConn, daemon *os.Process) {
	for {
		var stop stepwire.Stop
		if _, err := stepwire.Receive(control, &stop); err != nil {
			os.Exit(0) // and the kernel ends all others in the namespace
		}
		_ = daemon.Signal(unix.SIGTERM) // or it has ended
	}
}

// reap collects processes that have lost their parents, until the one with
// number pid has ended, and returns the exit code of that.
func reap(pid int) int {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return failed
		case err != nil || got != pid:
		case status.Signaled():
			return signaled + int(status.Signal())
		case status.Exited():
			return status.ExitStatus()
		}
	}
}

// become replaces this process by the program that args say. It finds its
// socket as services of systemd do, for which it needs to hear its own number.
func become(args []string) error {
	if len(args) == 0 {
		return errors.New("there is no program to become")
	}
	env := append(os.Environ(), "LISTEN_FDS=1", "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	return &exec.Error{Name: args[0], Err: unix.Exec(args[0], args, env)}
}

// listen listens on addresses of the loopback device, which is nobody's but
// this namespace's.
func listen(addrs []string) ([]*os.File, error) {
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("set up the loopback device: %w", err)
	}
	var files []*os.File
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr) //nolint:noctx // it takes no time
		if err != nil {
			return nil, err
		}
		f, err := l.(*net.TCPListener).File() //nolint:errcheck,forcetypeassert // that is what tcp is
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		l.Close()
	}
	return files, nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

func fileConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%s is no local socket", f.Name())
	}
	return u, nil
}
