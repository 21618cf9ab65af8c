package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/flag"

	"github.com/soulbox/soulbox/internal/stepwire"
)

// flags is gVisor's configuration; what is not here is its default.
var flags = []string{
	"root=" + stateDir,
	"platform=systrap",    // works without KVM
	"network=sandbox",     // gVisor's own TCP/IP stack
	"overlay2=none",       // what a step writes is its result
	"ignore-cgroups=true", // the server puts us into one
	"allow-suid=true",     // sudo
	"net-raw=true",        // ping
	"host-settings=ignore",
}

func newConfig() (*config.Config, error) {
	set := flag.NewFlagSet("soulbox-step", flag.ContinueOnError)
	config.RegisterFlags(set)
	for _, f := range flags {
		name, value, _ := strings.Cut(f, "=")
		if err := set.Set(name, value); err != nil {
			return nil, fmt.Errorf("flag %s: %w", f, err)
		}
	}
	// A line of gVisor's log would be taken for one of the step's.
	log.SetLevel(log.Warning)
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: discard{}}})
	return config.NewFromFlags(set)
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// run runs the step in the bundle and returns its exit code.
func run(c call) (int, error) {
	s, err := openStep(c.bundle)
	if err != nil {
		return failed, err
	}
	req := s.request()
	if len(req.Special) == 0 && s.hasMounts() {
		if err := enterMounts(); err != nil {
			return failed, fmt.Errorf("enter a mount namespace: %w", err)
		}
	}
	server, reply, files, err := ask(s, req)
	switch {
	case err != nil:
		return failed, fmt.Errorf("ask for a place to run: %w", err)
	case reply.Refused != "":
		return refused, errors.New(reply.Refused)
	case !reply.Run:
		return 0, nil
	case len(files) != 1:
		return failed, errors.New("the place to run has no network")
	}
	if err := s.mountAll(); err != nil {
		return failed, err
	}
	if err := s.move(fmt.Sprintf("/proc/self/fd/%d", files[0].Fd()), reply.Nameserver); err != nil {
		return failed, err
	}
	return s.run(c.id, server)
}

// ask tells the server what there is to run, and returns its answer.
func ask(s *step, req stepwire.Request) (*net.UnixConn, stepwire.Reply, []*os.File, error) {
	var reply stepwire.Reply
	addr := &net.UnixAddr{Name: filepath.Join(stepwire.Dir, stepwire.Socket), Net: stepwire.Network}
	server, err := net.DialUnix(stepwire.Network, nil, addr)
	if err != nil {
		return nil, reply, nil, err
	}
	open := s.writable
	if len(req.Special) > 0 {
		open = s.copyOfRoot
	}
	folders, err := open()
	if err == nil {
		err = stepwire.Send(server, req, folders...)
	}
	for _, f := range folders {
		f.Close()
	}
	if err != nil {
		return nil, reply, nil, err
	}
	files, err := stepwire.Receive(server, &reply)
	return server, reply, files, err
}

// stopPatience is how long gVisor may take to end a step.
const stopPatience = 5 * time.Second

// run runs the step until its end, or until the server wants it to end.
func (s *step) run(id string, server *net.UnixConn) (int, error) {
	conf, err := newConfig()
	if err != nil {
		return failed, err
	}
	box, err := container.New(conf, container.Args{ID: id, Spec: s.spec, BundleDir: s.bundle, Attached: true})
	if err != nil {
		return failed, err
	}
	go func() {
		var stop stepwire.Stop
		if _, err := stepwire.Receive(server, &stop); err == nil && stop.Why != "" {
			fmt.Fprintln(os.Stderr, stop.Why)
		}
		_ = box.SignalContainer(unix.SIGKILL, true) // or it is not there yet
		time.Sleep(stopPatience)
		os.Exit(signaled + int(unix.SIGKILL)) // and the kernel ends gVisor
	}()
	if err := box.Start(conf); err != nil {
		return failed, errors.Join(err, box.Destroy())
	}
	status, err := box.Wait()
	// BuildKit unmounts the root now, so nobody may use it any more.
	if err = errors.Join(err, box.Destroy()); err != nil {
		return failed, err
	}
	if status.Signaled() {
		return signaled + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// kill ends the step called id. BuildKit repeats it until it succeeds.
func kill(id string) error {
	conf, err := newConfig()
	if err != nil {
		return err
	}
	box, err := container.Load(conf.RootDir, container.FullID{ContainerID: id}, container.LoadOpts{})
	if err != nil {
		return err
	}
	return box.SignalContainer(unix.SIGKILL, true)
}

// remove removes what is left of the step called id. That nothing is left is
// fine.
func remove(id string) error {
	conf, err := newConfig()
	if err != nil {
		return err
	}
	box, err := container.Load(conf.RootDir, container.FullID{ContainerID: id}, container.LoadOpts{})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return box.Destroy()
}
