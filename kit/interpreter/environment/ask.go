package environment

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

//go:embed tell.py
var tellProgram string

const (
	maxAnswer = 64 << 20 // bytes: a large package has fifty thousand files
	maxTail   = 64 << 10 // bytes of an installer's output that are kept
	maxLine   = 4 << 10
	waitDelay = 5 * time.Second // for who holds a killed program's output
)

// about is what a Python says of itself.
type about struct {
	Version    string `json:"version"`
	Executable string `json:"executable"`
	Paths      struct {
		Pure    string `json:"purelib"`
		Plat    string `json:"platlib"`
		Scripts string `json:"scripts"`
		Data    string `json:"data"`
	} `json:"paths"`
	Packages []struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Own     bool   `json:"own"` // it is where installers put them
	} `json:"packages"`
	Files map[string][]string `json:"files"`
}

// versions returns what is installed, by normalized name.
func (a *about) versions() map[string]string {
	all := map[string]string{}
	for _, p := range a.Packages {
		all[normal(p.Name)] = p.Version
	}
	return all
}

// ask has an environment's Python tell about itself, and about the files of some
// packages.
func (s *Set) ask(ctx context.Context, e *env, packages ...string) (*about, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	question, err := json.Marshal(map[string][]string{"files": packages})
	if err != nil {
		return nil, err
	}
	cmd := s.command(ctx, e.python, "-I", "-c", tellProgram)
	cmd.Stdin = bytes.NewReader(question)
	out, tail := &bounded{most: maxAnswer}, &output{}
	cmd.Stdout, cmd.Stderr = out, tail
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("ask the Python of environment %s: %w: %s", e.name, err, tail.last())
	}
	a := &about{}
	if err := json.Unmarshal(out.Bytes(), a); err != nil {
		return nil, fmt.Errorf("what the Python of environment %s says: %w", e.name, err)
	}
	return a, nil
}

// command returns a program that ends with all that it started when ctx ends.
func (s *Set) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(append([]string{}, s.options.Env...),
		"NO_COLOR=1", "PYTHONNOUSERSITE=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUTF8=1",
		"PIP_NO_INPUT=1", "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_ROOT_USER_ACTION=ignore", "PIP_PROGRESS_BAR=off",
		"UV_NO_PROGRESS=1", "UV_PYTHON_DOWNLOADS=never", "UV_SYSTEM_CERTS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = waitDelay
	return cmd
}

// bounded keeps what is written, as long as it is not too much.
type bounded struct {
	bytes.Buffer
	most int
}

// Write refuses what is too much.
func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.most {
		return 0, errors.New("the answer is too long")
	}
	return b.Buffer.Write(p)
}

// output takes a program's output line by line, and keeps the end of it.
type output struct {
	line func(string) // nil: nobody listens
	rest []byte       // of a line that is not whole
	tail []string
	size int // bytes in tail
}

// Write never fails.
func (o *output) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			o.rest = append(o.rest, p[:min(len(p), max(0, maxLine-len(o.rest)))]...)
			break
		}
		o.rest = append(o.rest, p[:min(i, max(0, maxLine-len(o.rest)))]...)
		p = p[i+1:]
		o.end()
	}
	return n, nil
}

func (o *output) end() {
	text := strings.TrimRight(strings.ToValidUTF8(string(o.rest), "\ufffd"), " \t")
	o.rest = o.rest[:0]
	if text == "" {
		return
	}
	o.tail = append(o.tail, text)
	for o.size += len(text); o.size > maxTail; o.tail = o.tail[1:] {
		o.size -= len(o.tail[0])
	}
	if o.line != nil {
		o.line(text)
	}
}

// lines returns the end of the output.
func (o *output) lines() []string {
	o.end()
	return o.tail
}

// last returns what an installer said at last about what went wrong.
func (o *output) last() string {
	const most = 4 << 10
	all := o.lines()
	for i, l := range all {
		if low := strings.ToLower(strings.TrimSpace(l)); strings.HasPrefix(low, "error:") || strings.HasPrefix(low, "error ") || strings.HasPrefix(l, "  × ") {
			all = all[i:]
			break
		}
	}
	text := strings.Join(all, "\n")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most/2], "") + "\n[…]\n" + strings.ToValidUTF8(text[len(text)-most/2:], "")
	}
	return text
}
