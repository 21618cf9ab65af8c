// Command soulbox-agent runs inside every sandbox, as its pid 1, and answers
// there on port 49983. See package agent.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/agent"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// The host keeps connections for a shorter time than this, so that it is
	// never the agent that closes one which is about to be used.
	idleTimeout   = 640 * time.Second
	headerTimeout = 30 * time.Second

	// An idle agent is mostly the heap's slack, so it is kept small. Under load
	// the collector still has room, because large buffers are reused.
	gcPercent = 25
	// More threads than this would wait for the sandbox's network anyway.
	maxProcs = 4
)

func main() {
	start := run
	if len(os.Args) > 1 && os.Args[1] == "interpreter" {
		start = func() error { return runInterpreter(os.Args[2:]) }
	}
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, "soulbox-agent:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "0.0.0.0:49983", "`address` to answer on")
	readyFD := flag.Int("ready-fd", -1, "file `descriptor` to write \"ready\" to, and close, when listening")
	root := flag.String("root", "/", "`directory` whose etc and run hold the sandbox's identity and accounts")
	subreaper := flag.Bool("subreaper", false, "reap orphans although this is not pid 1")
	oomScore := flag.Int("oom-score-adj", 100, "what processes get, so that they are killed before the agent; 0 leaves it alone")
	version := flag.Bool("version", false, "print the version of envd that this is like")
	flag.Parse()
	if *version {
		_, err := fmt.Fprintln(os.Stdout, agent.Version)
		return err
	}
	debug.SetGCPercent(gcPercent)
	// Set, the number also stops the runtime from looking for a new limit now
	// and then.
	runtime.GOMAXPROCS(min(runtime.NumCPU(), maxProcs))
	unix.Umask(0o022)
	pid1 := os.Getpid() == 1
	if *subreaper && !pid1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("become a subreaper", err)
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	// Caught and not ignored: programs inherit that a signal is ignored, and
	// whoever starts the agent may ignore some, as a shell does for what it
	// puts in the background.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE, unix.SIGHUP)

	o := agent.Options{
		Root:        *root,
		Path:        defaultPath,
		Adopt:       pid1 || *subreaper,
		OOMScoreAdj: *oomScore,
	}
	if o.Root == "/" {
		o.Root = ""
	}
	if path := os.Getenv("PATH"); path != "" {
		o.Path = path
	}
	if pid1 {
		o.SetHostname = func(name string) error { return unix.Sethostname([]byte(name)) }
		o.SetClock = setClock
	}
	return serve(ctx, *listen, *readyFD, o)
}

// serve answers until ctx ends.
func serve(ctx context.Context, listen string, readyFD int, o agent.Options) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", listen)
	if err != nil {
		return err
	}
	a := agent.New(o)
	defer a.Close()
	server := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	if readyFD >= 0 {
		f := os.NewFile(uintptr(readyFD), "ready")
		if f == nil {
			return errors.New("the descriptor to report to is not open")
		}
		_, _ = f.WriteString("ready\n") // nobody waits if this fails
		f.Close()
	}
	return wait(ctx, server, done)
}

// wait waits until a server is done, which it is when ctx ends.
func wait(ctx context.Context, server *http.Server, done <-chan error) (err error) {
	select {
	case err = <-done:
	case <-ctx.Done():
		server.Close()
		err = <-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// setClock sets the sandbox's clock.
func setClock(now time.Time) error {
	tv := unix.NsecToTimeval(now.UnixNano())
	return unix.Settimeofday(&tv)
}
