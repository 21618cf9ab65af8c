package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/bench"
	"github.com/soulbox/soulbox/client"
)

const (
	interpreterTemplate = "code-interpreter-v1"
	withInterpreter     = "templates: [" + interpreterTemplate + "]\n"

	buildTime   = 20 * time.Minute
	jupyterTime = time.Minute
)

// interpreter measures E2B's code interpreter by its published package, and a
// Jupyter server on this machine beside it. srv builds the template.
func interpreter(ctx context.Context, srv *server, rounds int) (_ []*bench.Row, err error) {
	fmt.Fprintln(os.Stderr, "bench: waiting for the template", interpreterTemplate)
	if err := awaitTemplate(ctx, srv, interpreterTemplate); err != nil {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "bench: starting a Jupyter server")
	j, err := startJupyter(ctx, srv.data+".jupyter")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, j.stop()) }()
	fmt.Fprintln(os.Stderr, "bench: measuring the code interpreter")
	cmd := exec.CommandContext(ctx, "node", "--experimental-websocket", "--no-warnings", "bench/interpreter.mjs", strconv.Itoa(rounds), j.url, j.token)
	cmd.Env = srv.env()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("bench/interpreter.mjs: %w", err)
	}
	var got struct {
		Ours   struct{ Create, First, Print, Memory []float64 }
		Theirs struct{ First, Print []float64 }
	}
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, fmt.Errorf("bench/interpreter.mjs: %w", err)
	}
	row := func(name, unit, what, note string, samples []float64) *bench.Row {
		r := &bench.Row{Name: name, What: what, Unit: unit, WarmUp: 1, Note: note}
		r.Add(samples...)
		r.Summarize()
		return r
	}
	const ours, theirs = "@e2b/code-interpreter 2.8.0", "on this machine, without a sandbox"
	return []*bench.Row{
		row("interpreter-create", "ms", "Sandbox.create of the code interpreter, one waits", ours, got.Ours.Create),
		row("interpreter-first", "ms", "then the first runCode('print(1)')", ours, got.Ours.First),
		row("interpreter-print", "ms", "runCode('print(1)') in a context that has run something", ours, got.Ours.Print),
		row("interpreter-memory", "MB", "a sandbox with idle contexts of Python and JavaScript, by its own count", ours, got.Ours.Memory),
		row("jupyter-first", "ms", "a new kernel of a Jupyter server, and print(1)", theirs, got.Theirs.First),
		row("jupyter-print", "ms", "print(1) in a kernel that has run something", theirs, got.Theirs.Print),
	}, nil
}

// awaitTemplate returns when the server has built a template of the house.
func awaitTemplate(ctx context.Context, srv *server, name string) error {
	c, err := client.New(client.Options{APIURL: srv.url, APIKey: srv.key})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, buildTime, fmt.Errorf("the template %s was not built within %v", name, buildTime))
	defer cancel()
	for {
		_, err := c.Templates.Get(ctx, name)
		if err == nil {
			sb, err := c.Sandboxes.Create(ctx, client.CreateOptions{Template: name, Timeout: time.Minute})
			if err == nil {
				return c.Sandboxes.Kill(ctx, sb.ID)
			}
			if kind := soulbox.KindOf(err); kind != soulbox.NotFound && kind != soulbox.Conflict && kind != soulbox.Unavailable && kind != soulbox.Invalid {
				return err
			}
		} else if soulbox.KindOf(err) != soulbox.NotFound {
			return err
		}
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// jupyter is a Jupyter server.
type jupyter struct {
	cmd        *exec.Cmd
	dir        string
	url, token string
}

// startJupyter installs what the interpreter's tests pin into a new folder, and
// runs its Jupyter server.
func startJupyter(ctx context.Context, dir string) (_ *jupyter, err error) {
	j := &jupyter{dir: dir, token: rand.Text()}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.stop())
		}
	}()
	for _, args := range [][]string{
		{"python3", "-m", "venv", dir},
		{dir + "/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes", "-r", "kit/interpreter/kerneltest/requirements.txt"},
	} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(args[:2], " "), err, out)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err := errors.Join(err, l.Close()); err != nil {
		return nil, err
	}
	j.url = "http://" + address
	j.cmd = exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(dir, "bin/jupyter-server"),
		"--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port="+port, "--IdentityProvider.token="+j.token, "--ServerApp.root_dir="+dir)
	j.cmd.Stdout, j.cmd.Stderr = io.Discard, io.Discard
	j.cmd.Env = append(os.Environ(), "JUPYTER_CONFIG_DIR="+dir, "JUPYTER_DATA_DIR="+filepath.Join(dir, "data"), "JUPYTER_RUNTIME_DIR="+filepath.Join(dir, "run"))
	if err := j.cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, jupyterTime, errors.New("the Jupyter server does not answer"))
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.url+"/api/status?token="+j.token, http.NoBody)
		if err != nil {
			return nil, err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return j, nil
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// stop ends the server with its kernels, and removes it.
func (j *jupyter) stop() error {
	if j.cmd != nil && j.cmd.Process != nil {
		_ = j.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = j.cmd.Wait()                          // with whatever status
	}
	return os.RemoveAll(j.dir)
}
