package interpreter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	maxDrawing  = 64 << 20 // bytes of an answer: two pictures and a program
	maxComplain = 16 << 10
	drawDelay   = 5 * time.Second // for who holds the output of a killed process
)

// drawing is the answer to POST /visualize.
type drawing struct {
	PNG   string          `json:"png"`
	SVG   string          `json:"svg"`
	Code  string          `json:"code"`
	Chart json.RawMessage `json:"chart,omitempty"`
	Rows  int64           `json:"rows"`
}

// visualize serves POST /visualize. Pictures are drawn by a process of its own, so
// that no context has to wait, and none is changed.
func (s *science) visualize(w http.ResponseWriter, r *http.Request) (err error) {
	var req struct {
		Dataset *dataset        `json:"dataset"`
		Data    json.RawMessage `json:"data"`
		Kind    string          `json:"kind"`
		Options json.RawMessage `json:"options"`
		Timeout *float64        `json:"timeout_seconds"`
	}
	if err := s.read(w, r, &req); err != nil {
		return err
	}
	limit, err := seconds(req.Timeout, drawTime)
	if err != nil {
		return err
	}
	if len(req.Options) > maxOptions {
		return refused(http.StatusBadRequest, "options must have at most %d bytes", maxOptions)
	}
	if string(req.Data) == "null" {
		req.Data = nil
	}
	if (req.Dataset == nil) == (req.Data == nil) {
		return refused(http.StatusBadRequest, "there must be one of dataset and data")
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	ask := map[string]any{"kind": req.Kind, "options": req.Options, "data": req.Data}
	if req.Dataset != nil {
		if req.Dataset.Name == "" {
			req.Dataset.Name = "df"
		}
		if err := req.Dataset.check(); err != nil {
			return err
		}
		files, forget, bad := s.local(ctx, []dataset{*req.Dataset})
		if bad != nil {
			return bad
		}
		// The program that is returned reads what was downloaded; it stays when
		// there is a picture.
		defer func() {
			if err != nil {
				forget()
			}
		}()
		ask["dataset"] = files[0]
	}
	var d *drawing
	if d, err = s.draw(ctx, ask); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

// draw has soulbox_data draw.
func (s *science) draw(ctx context.Context, ask any) (*drawing, error) {
	request, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	python, err := s.python()
	if err != nil {
		return nil, refused(http.StatusConflict, "there is no Python in this sandbox: %v", err)
	}
	// -P: a file of the user's called random.py is not a module of Python's.
	cmd := exec.CommandContext(ctx, python, "-P", "-m", "soulbox_data.draw")
	cmd.Dir = s.in.options.Dir
	cmd.Env = drawEnv(s.in.options.Env, s.in.options.Python)
	cmd.Stdin = bytes.NewReader(request)
	out, complaint := &capped{most: maxDrawing}, &capped{most: maxComplain}
	cmd.Stdout, cmd.Stderr = out, complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = drawDelay
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, refused(http.StatusBadRequest, "nothing was drawn in the time that there was")
		case errors.As(err, &exit) && !exit.Exited():
			return nil, refused(http.StatusRequestEntityTooLarge, "the process that draws ended (%v); the sandbox may have too little memory for this dataset", exit)
		}
		return nil, fmt.Errorf("draw: %w: %s", err, complaint.String())
	}
	var answer struct {
		drawing
		Refused string `json:"refused"`
		Status  int    `json:"status"`
	}
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return nil, fmt.Errorf("what soulbox_data has drawn: %w", err)
	}
	if answer.Refused != "" {
		return nil, told(answer.Status, answer.Refused)
	}
	if string(answer.Chart) == "null" {
		answer.Chart = nil
	}
	return &answer.drawing, nil
}

// told is a refusal of soulbox_data's.
func told(status int, text string) error {
	switch status {
	case http.StatusNotFound, http.StatusConflict, http.StatusRequestEntityTooLarge:
	default:
		status = http.StatusBadRequest
	}
	return refused(status, "%s", text)
}

// drawEnv puts a folder in front of where Python looks for packages.
func drawEnv(env []string, folder string) []string {
	var out []string
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PYTHONPATH="); ok {
			folder += string(filepath.ListSeparator) + path
		} else {
			out = append(out, e)
		}
	}
	return append(out, "PYTHONPATH="+folder, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUTF8=1")
}

// capped keeps the beginning of what is written.
type capped struct {
	bytes.Buffer
	most int
}

// Write never fails: a process need not end because it says too much.
func (c *capped) Write(p []byte) (int, error) {
	c.Buffer.Write(p[:max(0, min(len(p), c.most-c.Len()))])
	return len(p), nil
}
