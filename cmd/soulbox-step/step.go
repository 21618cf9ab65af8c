package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/internal/stepwire"
)

// A step is what BuildKit wants to have run.
type step struct {
	bundle string
	spec   *specs.Spec
}

const specFile = "config.json"

// openStep reads what BuildKit has written.
func openStep(bundle string) (*step, error) {
	b, err := os.ReadFile(filepath.Join(bundle, specFile))
	if err != nil {
		return nil, err
	}
	s := &step{bundle: bundle, spec: &specs.Spec{}}
	if err := json.Unmarshal(b, s.spec); err != nil {
		return nil, fmt.Errorf("%s: %w", specFile, err)
	}
	if s.spec.Root == nil || s.spec.Process == nil || s.spec.Linux == nil {
		return nil, fmt.Errorf("%s is incomplete", specFile)
	}
	return s, nil
}

// ours are the variables that no step is to see: of BuildKit's tracing, which
// has a socket that a step cannot reach, and the token.
var ours = []string{
	"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=unix://", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc", "TRACEPARENT=",
	stepwire.TokenEnv + "=" + stepwire.TokenTag, strings.ToLower(stepwire.TokenEnv) + "=" + stepwire.TokenTag,
}

// request returns what to ask the server for.
func (s *step) request() stepwire.Request {
	var req stepwire.Request
	for _, e := range s.spec.Process.Env {
		if token, ok := strings.CutPrefix(e, stepwire.TokenEnv+"="+stepwire.TokenTag); ok {
			req.Build = token
		}
	}
	if args := s.spec.Process.Args; len(args) > 0 && strings.HasPrefix(args[0], stepwire.Special) {
		req.Special = args
	}
	// A step without network has a namespace of its own; others have
	// BuildKit's, which is no place for them either.
	req.Offline = slices.ContainsFunc(s.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	return req
}

// move changes the specification so that the step runs in the network
// namespace netns, with its nameserver.
func (s *step) move(netns, nameserver string) error {
	resolv := filepath.Join(s.bundle, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+nameserver+"\n"), 0o644); err != nil { //nolint:gosec // the step's users read it
		return err
	}
	for i, m := range s.spec.Mounts {
		if m.Destination == "/etc/resolv.conf" {
			s.spec.Mounts[i].Source = resolv
		}
	}
	s.spec.Mounts = slices.DeleteFunc(s.spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/otel-grpc.sock" })
	if !slices.ContainsFunc(s.spec.Mounts, func(m specs.Mount) bool { return filepath.Clean(m.Destination) == "/tmp" }) {
		// gVisor mounts memory on a /tmp that is empty, where what is written
		// would be lost. It does not if there is a mount, and skips one of unknown type.
		s.spec.Mounts = append(s.spec.Mounts, specs.Mount{Destination: "/tmp", Type: "nothing", Source: "nothing"})
	}
	s.spec.Process.Env = slices.DeleteFunc(s.spec.Process.Env, func(e string) bool {
		return slices.ContainsFunc(ours, func(o string) bool { return strings.HasPrefix(e, o) })
	})
	l := s.spec.Linux
	l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns})
	l.CgroupsPath, l.Resources = "", nil // see where gVisor is told to ignore cgroups
	s.spec.Annotations = nil             // by which gVisor could be told anything
	b, err := json.Marshal(s.spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.bundle, specFile), b, 0o600) // the gofer reads it
}

// copyOfRoot returns a copy of the mount of the step's root, which the server
// can mount where it likes.
func (s *step) copyOfRoot() ([]*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, s.spec.Root.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "copy the mount of", Path: s.spec.Root.Path, Err: err}
	}
	return []*os.File{os.NewFile(uintptr(fd), s.spec.Root.Path)}, nil
}

// writable opens the folders of BuildKit's in which what the step writes ends
// up: that of its root, and those of cache mounts.
func (s *step) writable() ([]*os.File, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	dirs := []string{upperOf(string(b), s.spec.Root.Path)}
	for _, m := range s.spec.Mounts {
		if slices.Contains(m.Options, "ro") {
			continue
		}
		switch m.Type {
		case "overlay":
			dirs = append(dirs, option(m.Options, "upperdir="))
		case "bind":
			dirs = append(dirs, upperOf(string(b), m.Source))
		}
	}
	var files []*os.File
	for _, dir := range dirs {
		if !strings.HasPrefix(dir, filepath.Join(stepwire.Dir, stepwire.Cache)+"/") {
			continue // in memory, such as a secret
		}
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// upperOf returns where the overlay that mountinfo says is mounted on dir keeps
// what is written to it. If there is none that is dir itself.
func upperOf(mountinfo, dir string) string {
	upper := dir
	for line := range strings.Lines(mountinfo) {
		// See proc_pid_mountinfo(5). BuildKit's paths have no blanks.
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			upper = dir
			if u := option(strings.Split(f[len(f)-1], ","), "upperdir="); u != "" {
				upper = u
			}
		}
	}
	return upper
}

// option returns the value of the mount option that begins with prefix.
func option(options []string, prefix string) string {
	for _, o := range options {
		if v, ok := strings.CutPrefix(o, prefix); ok {
			return v
		}
	}
	return ""
}
