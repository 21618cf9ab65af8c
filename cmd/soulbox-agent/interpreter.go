package main

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/kit/interpreter"
	"github.com/soulbox/soulbox/kit/interpreter/python"
)

const (
	// codeHome is where code runs, as at E2B.
	codeHome = "/home/user"
	// codeUser is whose files are there, and who runs JupyterLab.
	codeUser = "user"
	// whoIAm is a file that the agent writes.
	whoIAm = "/run/e2b/.E2B_SANDBOX_ID"
)

// runInterpreter runs code for clients; see package interpreter. It is another
// program in the same file, started by templates that want it.
func runInterpreter(args []string) error {
	flags := flag.NewFlagSet("soulbox-agent interpreter", flag.ExitOnError)
	listen := flags.String("listen", "0.0.0.0:49999", "`address` to answer on, once the default kernels are ready")
	envs := flags.String("envs", "http://127.0.0.1:49983/envs", "`URL` of the sandbox's default environment")
	dir := flags.String("dir", codeHome, "`directory` in which code runs; the user's own when it is not there")
	specs := flags.String("specs", "", "more `directories` with kernel specs, before the usual ones, separated by colons")
	folder := flags.String("run", "/run", "`directory` for sockets and for what kernels load; that for temporary files when it is not writable")
	_ = flags.Parse(args) // it exits
	debug.SetGCPercent(gcPercent)
	runtime.GOMAXPROCS(min(runtime.NumCPU(), maxProcs))

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE, unix.SIGHUP) // as above

	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	const pattern = "soulbox-" // a short name: sockets have at most 107 bytes
	run, err := os.MkdirTemp(*folder, pattern)
	if err != nil {
		run, err = os.MkdirTemp("", pattern)
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(run)
	packages := filepath.Join(run, "python")
	if err := unpackPython(packages); err != nil {
		return fmt.Errorf("unpack the Python package: %w", err)
	}
	o := interpreter.Options{
		Log: log, Run: run, Python: packages, Envs: *envs, Identity: whoIAm, Dir: *dir, Env: kernelEnv(), User: codeUser,
	}
	if _, port, err := net.SplitHostPort(*listen); err == nil {
		o.URL = "http://" + net.JoinHostPort("127.0.0.1", port)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	if fi, err := os.Stat(o.Dir); err != nil || !fi.IsDir() {
		o.Dir = home
	}
	o.Specs = specFolders(*specs, home)
	return serveInterpreter(ctx, *listen, o)
}

// specFolders returns where kernel specs are, as Jupyter has it.
func specFolders(more, home string) []string {
	roots := filepath.SplitList(os.Getenv("JUPYTER_PATH"))
	roots = append(roots, filepath.Join(home, ".local/share/jupyter"), filepath.Join(codeHome, ".local/share/jupyter"))
	if venv := os.Getenv("VIRTUAL_ENV"); venv != "" {
		roots = append(roots, filepath.Join(venv, "share/jupyter"))
	}
	roots = append(roots, "/usr/local/share/jupyter", "/usr/share/jupyter")
	all := filepath.SplitList(more)
	for _, root := range roots {
		all = append(all, filepath.Join(root, "kernels"))
	}
	return all
}

// kernelEnv returns the environment of kernels: ours, without what says how it
// was started, and without colours.
func kernelEnv() []string {
	var env []string
	path := false
	for _, one := range os.Environ() {
		name, _, _ := strings.Cut(one, "=")
		switch {
		case strings.HasPrefix(name, "SUDO_"), name == "MAIL", name == "TERM", name == "NO_COLOR":
		default:
			path = path || name == "PATH"
			env = append(env, one)
		}
	}
	if !path {
		env = append(env, "PATH="+defaultPath)
	}
	return append(env, "NO_COLOR=1")
}

func unpackPython(dir string) error {
	return fs.WalkDir(python.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, path)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755) //nolint:gosec // every program may read it
		}
		b, err := python.FS.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o644) //nolint:gosec // every program may read it
	})
}

// serveInterpreter answers until ctx ends, as soon as the kernels are there that
// most code needs.
func serveInterpreter(ctx context.Context, listen string, o interpreter.Options) error {
	in := interpreter.New(o)
	defer in.Close()
	if err := in.Warm(ctx, "python", "javascript"); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: in, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	debug.FreeOSMemory() // what starting needed
	return wait(ctx, server, done)
}
