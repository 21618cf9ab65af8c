package interpreter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
	"github.com/soulbox/soulbox/kit/interpreter/notebook"
)

const (
	exportTime = 2 * time.Minute
	// maxExport is of a page. It has what the notebook has, and half a megabyte
	// of styles.
	maxExport = 2 * notebook.MaxSize
	maxStderr = 4 << 10
)

var errPage = errors.New("the page is too large")

// export serves GET /notebooks/{notebook}/export.
func (n *notebooks) export(w http.ResponseWriter, r *http.Request) error {
	format := r.URL.Query().Get("format")
	switch format {
	case "", "ipynb", "html", "script":
	default:
		return bad("A notebook is exported as ipynb, html or script, not as " + shorten(format))
	}
	f, err := n.store.Read(r.PathValue("notebook"))
	if err != nil {
		return err
	}
	name, kind := path.Base(f.Path), "application/x-ipynb+json"
	base := strings.TrimSuffix(name, ".ipynb")
	var text []byte
	switch format {
	case "script":
		code, extension, media := f.Document.Script()
		name, kind, text = base+extension, media+"; charset=utf-8", []byte(code)
	case "html":
		name, kind = base+".html", "text/html; charset=utf-8"
		text, err = n.html(r.Context(), f.Document)
	default:
		text, err = f.Document.Print()
	}
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", disposition(name))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(text) //nolint:gosec // it is to be kept as a file; who has gone does not miss it
	return nil
}

func disposition(name string) string {
	if d := mime.FormatMediaType("attachment", map[string]string{"filename": name}); d != "" {
		return d
	}
	return "attachment"
}

// html has nbconvert make a page.
func (n *notebooks) html(ctx context.Context, d *notebook.Document) ([]byte, error) {
	spec, err := n.in.find("python")
	if errors.Is(err, jupyter.ErrNoKernel) {
		return nil, conflict("A page is made by nbconvert, a Python package, and there is no Python kernel here")
	}
	if err != nil {
		return nil, err
	}
	python, err := spec.Program()
	if err != nil {
		return nil, err
	}
	text, err := d.Print()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ctx, cancel := context.WithTimeoutCause(ctx, exportTime, errTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-m", "nbconvert", "--to", "html", "--stdin", "--stdout", "--log-level", "ERROR")
	cmd.Dir, cmd.Env = n.in.options.Dir, n.in.options.Env
	cmd.Stdin = bytes.NewReader(text)
	page, said := &bounded{most: maxExport, over: func() { stop(errPage) }}, &bounded{most: maxStderr}
	cmd.Stdout, cmd.Stderr = page, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		return nil, conflict(fmt.Sprintf("nbconvert made no page within %.0f minutes", exportTime.Minutes()))
	case errors.Is(context.Cause(ctx), errPage):
		return nil, conflict(fmt.Sprintf("The page is larger than %d MiB", maxExport>>20))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && bytes.Contains(said.text, []byte("No module named")):
		return nil, conflict("A page is made by nbconvert, which the default Python does not have: install the package nbconvert")
	case err != nil:
		return nil, conflict("nbconvert cannot make a page of this notebook: " + lastLine(string(said.text)))
	}
	return page.text, nil
}

func lastLine(text string) string {
	text = strings.ToValidUTF8(strings.TrimSpace(text), "\ufffd")
	return text[strings.LastIndex(text, "\n")+1:]
}

// bounded keeps the beginning of what is written, and says when there is more.
type bounded struct {
	text []byte
	most int
	over func()
}

// Write never fails.
func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.most-len(b.text))
	b.text = append(b.text, p[:n]...)
	if n < len(p) && b.over != nil {
		b.over()
	}
	return len(p), nil
}
