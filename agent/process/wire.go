package process

import (
	"encoding/json"
	"strconv"

	"github.com/soulbox/soulbox/internal/connectjson"
)

// The messages of E2B's process.Process service, in the names of its JSON.

type ptySize struct {
	Cols connectjson.Uint32 `json:"cols,omitempty"`
	Rows connectjson.Uint32 `json:"rows,omitempty"`
}

type ptySpec struct {
	Size *ptySize `json:"size,omitempty"`
}

type config struct {
	Cmd  string            `json:"cmd,omitempty"`
	Args []string          `json:"args,omitempty"`
	Envs map[string]string `json:"envs,omitempty"`
	Cwd  *string           `json:"cwd,omitempty"`
}

type selector struct {
	PID *connectjson.Uint32 `json:"pid,omitempty"`
	Tag *string             `json:"tag,omitempty"`
}

type empty struct{}

type listResponse struct {
	Processes []info `json:"processes,omitempty"`
}

type info struct {
	Config *config            `json:"config,omitempty"`
	PID    connectjson.Uint32 `json:"pid,omitempty"`
	Tag    *string            `json:"tag,omitempty"`
}

type startRequest struct {
	Process *config  `json:"process,omitempty"`
	PTY     *ptySpec `json:"pty,omitempty"`
	Tag     *string  `json:"tag,omitempty"`
	// Stdin is true when absent: clients from before the field rely on it.
	Stdin *bool `json:"stdin,omitempty"`
}

type connectRequest struct {
	Process *selector `json:"process,omitempty"`
}

// eventResponse is what Start and Connect stream.
type eventResponse struct {
	Event event `json:"event"`
}

type event struct {
	Start     *startEvent `json:"start,omitempty"`
	Data      *dataEvent  `json:"data,omitempty"`
	End       *endEvent   `json:"end,omitempty"`
	Keepalive *empty      `json:"keepalive,omitempty"`
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
	ExitCode int32   `json:"exitCode,omitempty"`
	Exited   bool    `json:"exited,omitempty"`
	Status   string  `json:"status,omitempty"`
	Error    *string `json:"error,omitempty"`
}

type updateRequest struct {
	Process *selector `json:"process,omitempty"`
	PTY     *ptySpec  `json:"pty,omitempty"`
}

type input struct {
	Stdin *connectjson.Bytes `json:"stdin,omitempty"`
	PTY   *connectjson.Bytes `json:"pty,omitempty"`
}

type sendInputRequest struct {
	Process *selector `json:"process,omitempty"`
	Input   *input    `json:"input,omitempty"`
}

type streamInputRequest struct {
	Start     *connectRequest   `json:"start,omitempty"`
	Data      *sendInputRequest `json:"data,omitempty"`
	Keepalive *empty            `json:"keepalive,omitempty"`
}

type sendSignalRequest struct {
	Process *selector  `json:"process,omitempty"`
	Signal  signalName `json:"signal,omitempty"`
}

// signalName is a Signal of the service: a name, or the number behind it.
type signalName string

const (
	sigTerm signalName = "SIGNAL_SIGTERM"
	sigKill signalName = "SIGNAL_SIGKILL"
)

// UnmarshalJSON reads a name or a number.
func (s *signalName) UnmarshalJSON(data []byte) error {
	var name string
	if json.Unmarshal(data, &name) == nil {
		*s = signalName(name)
		return nil
	}
	n, err := strconv.ParseInt(string(data), 10, 32)
	if err != nil {
		return err
	}
	switch n {
	case 15:
		*s = sigTerm
	case 9:
		*s = sigKill
	default:
		*s = signalName(strconv.FormatInt(n, 10))
	}
	return nil
}
