package templates

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/soulbox/soulbox"
)

// debianKeyring is where the package debian-archive-keyring puts Debian's keys.
const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// debootstrap installs Debian with these packages into the empty folder dir.
func debootstrap(ctx context.Context, dir string, m mirror, packages, leaveOut []string, progress func(Progress)) error {
	if m.keyring == "" && !m.trusted {
		if _, err := os.Stat(debianKeyring); err != nil {
			return soulbox.Errorf(soulbox.Unavailable, "Debian's keys are not on this machine; install the package debian-archive-keyring")
		}
	}
	settings, err := aptSettings(ctx)
	if err != nil {
		return err
	}
	args := []string{"--mode=root", "--variant=apt", "--format=directory", "--verbose", "--include=" + strings.Join(packages, ",")}
	for _, s := range settings {
		args = append(args, "--aptopt="+s)
	}
	for _, s := range leaveOut {
		args = append(args, "--dpkgopt="+s)
	}
	args = append(args, release, dir)
	args = append(args, m.sources()...)

	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	// It mounts parts of this machine into the tree, and apt and dpkg run below
	// it. In namespaces of its own all of that ends with it, and it ends with us:
	// otherwise whoever removes the tree after kill -9 would remove what is
	// mounted there. The kernel takes the end of the thread for ours.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS,
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	said := &listener{progress: progress}
	cmd.Stdout, cmd.Stderr = said, said // one writer for both: calls do not overlap
	err = cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return soulbox.Errorf(soulbox.Unavailable, "mmdebstrap is not installed on this machine; install the package mmdebstrap")
	default:
		return soulbox.Hide(soulbox.Unavailable, err, "Debian could not be installed from "+m.main+": "+said.reason())
	}
}

// aptSettings returns those settings of this machine's apt without which it
// might not reach its mirror. A machine without apt has none.
func aptSettings(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w", err)
	}
	return wanted(bytes.NewReader(out))
}

// wanted picks settings out of what apt-config dumps.
func wanted(dump io.Reader) ([]string, error) {
	var all []string
	s := bufio.NewScanner(dump)
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), " ")
		if value == `"";` || value == "" {
			continue
		}
		for _, prefix := range []string{"Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::ForceIPv"} {
			if strings.HasPrefix(key, prefix) {
				all = append(all, s.Text())
			}
		}
	}
	return all, s.Err()
}

// A listener turns what mmdebstrap says into progress, and keeps its complaints.
type listener struct {
	progress func(Progress)
	step     Progress
	part     []byte // a line without its end
	errors   []string
}

const (
	maxLine   = 4 << 10 // longer ones are cut
	maxErrors = 5       // the last of them say most
)

// Write never fails.
func (l *listener) Write(p []byte) (int, error) {
	for rest := p; ; {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		l.part = append(l.part, line[:min(len(line), maxLine-len(l.part))]...)
		if !ok {
			return len(p), nil
		}
		l.line(string(l.part))
		l.part, rest = l.part[:0], after
	}
}

func (l *listener) line(s string) {
	switch {
	case strings.HasPrefix(s, "I: "):
		l.step.Step = strings.TrimRight(strings.TrimPrefix(s, "I: "), ".")
		l.progress(l.step)
	case strings.HasPrefix(s, "Setting up "):
		l.step.Done++
		l.progress(l.step)
	case strings.HasPrefix(s, "E: "), strings.HasPrefix(s, "Err:"), strings.HasPrefix(s, "dpkg: error"):
		l.errors = append(l.errors, s)
		l.errors = slices.Delete(l.errors, 0, max(0, len(l.errors)-maxErrors))
	}
}

func (l *listener) reason() string {
	if len(l.errors) == 0 {
		return "mmdebstrap gives no reason"
	}
	return strings.Join(l.errors, "; ")
}
