package client

import "github.com/soulbox/soulbox/internal/connectjson"

// The messages of the agent's process service, as its protocol spells them.

type processConfig struct {
	Cmd  string            `json:"cmd,omitempty"`
	Args []string          `json:"args,omitempty"`
	Envs map[string]string `json:"envs,omitempty"`
	Cwd  string            `json:"cwd,omitempty"`
}

type ptySize struct {
	Cols connectjson.Uint32 `json:"cols,omitempty"`
	Rows connectjson.Uint32 `json:"rows,omitempty"`
}

type ptyConfig struct {
	Size ptySize `json:"size"`
}

func newPTY(w Window) *ptyConfig {
	return &ptyConfig{Size: ptySize{Cols: connectjson.Uint32(w.Cols), Rows: connectjson.Uint32(w.Rows)}}
}

type startRequest struct {
	Process processConfig `json:"process"`
	PTY     *ptyConfig    `json:"pty,omitempty"`
	Tag     string        `json:"tag,omitempty"`
	Stdin   *bool         `json:"stdin,omitempty"` // absent means true
}

type startResponse struct {
	Event processEvent `json:"event"`
}

type processEvent struct {
	Start *startEvent `json:"start,omitempty"`
	Data  *dataEvent  `json:"data,omitempty"`
	End   *endEvent   `json:"end,omitempty"`
}

type startEvent struct {
	PID connectjson.Uint32 `json:"pid,omitempty"`
}

type dataEvent struct {
	Stdout connectjson.Bytes `json:"stdout,omitempty"`
	Stderr connectjson.Bytes `json:"stderr,omitempty"`
	PTY    connectjson.Bytes `json:"pty,omitempty"`
}

type endEvent struct {
	ExitCode int    `json:"exitCode,omitempty"`
	Exited   bool   `json:"exited,omitempty"`
	Status   string `json:"status,omitempty"`
	Error    string `json:"error,omitempty"`
}

func (e *endEvent) err() error {
	if e.ExitCode == 0 && (e.Exited || e.Error == "") {
		return nil
	}
	return &ExitError{Code: e.ExitCode, Status: e.Status}
}

type selector struct {
	PID connectjson.Uint32 `json:"pid,omitempty"`
}

type connectRequest struct {
	Process selector `json:"process"`
}

type processInput struct {
	Stdin connectjson.Bytes `json:"stdin,omitempty"`
	PTY   connectjson.Bytes `json:"pty,omitempty"`
}

type sendInputRequest struct {
	Process selector     `json:"process"`
	Input   processInput `json:"input"`
}

type signalRequest struct {
	Process selector `json:"process"`
	Signal  string   `json:"signal,omitempty"`
}

type updateRequest struct {
	Process selector   `json:"process"`
	PTY     *ptyConfig `json:"pty,omitempty"`
}

type listProcessesResponse struct {
	Processes []struct {
		Config processConfig      `json:"config"`
		PID    connectjson.Uint32 `json:"pid,omitempty"`
	} `json:"processes,omitempty"`
}
