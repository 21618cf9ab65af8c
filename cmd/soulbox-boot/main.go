// Command soulbox-boot is what a sentry's process runs first. It makes the
// empty root that the sentry lives in, gives up everything that a process can
// do to its machine, and becomes the sentry.
//
// gVisor's sentry can do so itself, and then executes itself a second time. But
// it is a large program: to load and initialise it takes several milliseconds
// each time, and once more in the helper that takes /proc away when the sentry
// has started. This one takes one millisecond. gVisor has a place for a program
// that runs ahead of the sentry, which is how it comes to be here: it is called
// with the sentry's path, and then with the sentry's own arguments (argv[0]
// included), in the sentry's new namespaces, as nobody, with the capabilities
// that the root takes.
//
// It is never started by hand.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// umounter, as the only argument, makes this program the one that takes /proc
// away.
const umounter = "umount"

func main() {
	var err error
	var args []string
	switch {
	case len(os.Args) == 2 && os.Args[1] == umounter:
		err = umount()
	case len(os.Args) > 3:
		args = os.Args[2:]
		err = boot(os.Args[1], args)
	default:
		err = errors.New("soulbox-boot is started by soulbox serve")
	}
	if err != nil {
		report(args, err)
		os.Exit(1)
	}
}

// boot becomes the sentry, and returns only if it cannot.
func boot(sentry string, args []string) error {
	i := slices.Index(args, "boot")
	if i < 0 || !slices.Contains(args[i:], "--setup-root") {
		return fmt.Errorf("these are not a sentry's arguments: %q", args)
	}
	program, err := unix.Open(sentry, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", sentry, err)
	}
	known := host() // while it can be seen
	if err := emptyRoot(os.TempDir()); err != nil {
		return err
	}
	said, err := startUmounter()
	if err != nil {
		return err
	}
	// The root is there, and this is how the sentry has /proc taken away.
	rest := slices.DeleteFunc(slices.Clone(args[i+1:]), func(s string) bool { return s == "--setup-root" })
	argv := slices.Concat(args[:i+1], []string{"--setup-root=false", "--proc-mount-sync-fd=" + strconv.Itoa(said)}, known, rest)

	runtime.LockOSThread() // what it gives up, the thread that executes gives up
	if err := becomeNobody(); err != nil {
		return err
	}
	path := "/proc/self/fd/" + strconv.Itoa(program)
	return fmt.Errorf("execute %s: %w", sentry, unix.Exec(path, argv, os.Environ()))
}

// startUmounter starts the program that takes /proc away once a byte was
// written to the returned descriptor, which the sentry inherits: by then, it has
// no right to do that itself.
func startUmounter() (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", umounter)                    //nolint:noctx // it lives as long as the sentry takes
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr // there is no /dev/null to open
	cmd.ExtraFiles = []*os.File{r}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the umounter: %w", err)
	}
	said, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD, 0) // without close-on-exec
	if err != nil {
		return 0, err
	}
	return said, w.Close()
}

// umount is the umounter's life.
func umount() error {
	if n, err := os.NewFile(3, "sync").Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("the sentry did not start: %w", err)
	}
	return os.NewSyscallError("umount /proc", unix.Unmount("/proc", unix.MNT_DETACH))
}

// report writes to where the sentry would write why it panicked, which the
// driver reads.
func report(args []string, err error) {
	for _, arg := range args {
		if number, ok := strings.CutPrefix(arg, "--panic-log-fd="); ok {
			if fd, convErr := strconv.Atoi(number); convErr == nil {
				fmt.Fprintln(os.NewFile(uintptr(fd), "panic log"), "soulbox-boot:", err)
			}
			return
		}
	}
	fmt.Fprintln(os.Stderr, "soulbox-boot:", err)
}
