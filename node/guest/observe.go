package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/event"
)

const (
	// silence is after how long an agent that says nothing at all counts as
	// gone. It shows that it is there every 30 seconds.
	silence = 2 * time.Minute

	maxPosition = 64 << 10 // bytes of an answer
	maxState    = 16 << 20

	maxEpochs    = 64
	maxProcesses = 512
	maxPorts     = 512
	maxFiles     = 256
	maxEnv       = 64 << 10 // bytes of one process
)

// ErrNoRecord is that of an agent from before there were records.
var ErrNoRecord = errors.New("the agent is older than records")

// Record switches the record on and has the agent watch folders for it. The
// error is Invalid if it is about them; its sentence then comes from the
// sandbox.
func (a *Agent) Record(ctx context.Context, paths []string) error {
	body, err := json.Marshal(struct {
		Paths []string `json:"paths"`
	}{paths})
	if err != nil {
		return err
	}
	res, err := a.do(ctx, http.MethodPost, "/soulbox/record", bytes.NewReader(body))
	if err != nil {
		return refused(err)
	}
	return res.Body.Close()
}

// Hold has the record shown no further, before the sandbox is saved: what its
// programs do until Release, or until Init tells a copy of it who it is, is the
// copy's own.
func (a *Agent) Hold(ctx context.Context) error { return a.post(ctx, "/soulbox/record/hold") }

// Release has the record shown again, once the sandbox is saved.
func (a *Agent) Release(ctx context.Context) error { return a.post(ctx, "/soulbox/record/release") }

func (a *Agent) post(ctx context.Context, path string) error {
	res, err := a.do(ctx, http.MethodPost, path, nil)
	if err != nil {
		return refused(err)
	}
	return res.Body.Close()
}

// refused gives a refusal its kind.
func refused(err error) error {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return err
	}
	switch r.status {
	case http.StatusBadRequest:
		var why struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(r.text, &why) != nil || why.Message == "" {
			why.Message = "these folders cannot be watched; each must exist and be given by its absolute path"
		}
		return soulbox.Hide(soulbox.Invalid, err, strings.Map(printable, why.Message))
	case http.StatusConflict:
		return soulbox.Hide(soulbox.Conflict, err, "the record of this sandbox is off, or does not go that far; ask for its position")
	case http.StatusNotFound:
		return errors.Join(ErrNoRecord, err)
	}
	return err
}

// printable is r if a person may be shown it.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// ask decodes the answer to a question of at most so many bytes.
func (a *Agent) ask(ctx context.Context, path string, most int64, answer any) error {
	res, err := a.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return refused(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	if err != nil {
		return err
	}
	if int64(len(b)) > most {
		return fmt.Errorf("the agent answers GET %s with more than %d bytes", path, most)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("the agent's answer to GET %s: %w", path, err)
	}
	return nil
}

// Position tells where the record stands.
func (a *Agent) Position(ctx context.Context) (soulbox.GuestPosition, error) {
	var w wirePosition
	if err := a.ask(ctx, "/soulbox/record/position", maxPosition, &w); err != nil {
		return soulbox.GuestPosition{}, err
	}
	p, err := w.position()
	if err != nil {
		return soulbox.GuestPosition{}, fmt.Errorf("the agent's position: %w", err)
	}
	return p, nil
}

type wirePosition struct {
	Epochs []struct {
		ID   string `json:"id"`
		From uint64 `json:"from"`
	} `json:"epochs"`
	Head uint64 `json:"head"`
	Tail uint64 `json:"tail"`
}

// position checks what an agent says.
func (w *wirePosition) position() (soulbox.GuestPosition, error) {
	p := soulbox.GuestPosition{Head: w.Head, Tail: w.Tail}
	if len(w.Epochs) == 0 && w.Head == 0 && w.Tail == 0 {
		return p, nil
	}
	if len(w.Epochs) == 0 || len(w.Epochs) > maxEpochs {
		return p, fmt.Errorf("%d epochs, want 1 to %d", len(w.Epochs), maxEpochs)
	}
	if w.Tail == 0 || w.Tail-1 > w.Head {
		return p, fmt.Errorf("the oldest event is %d and the newest %d", w.Tail, w.Head)
	}
	seen := map[string]bool{}
	from := uint64(1)
	for _, e := range w.Epochs {
		if !isEpoch(e.ID) || seen[e.ID] {
			return p, fmt.Errorf("%.80q is not the name of a further epoch", e.ID)
		}
		if e.From < from || e.From-1 > w.Head {
			return p, fmt.Errorf("an epoch begins with event %d, which is not within %d and %d", e.From, from, w.Head)
		}
		seen[e.ID], from = true, e.From
		p.Epochs = append(p.Epochs, soulbox.GuestEpoch{ID: e.ID, From: e.From})
	}
	return p, nil
}

// isEpoch reports whether id can be the name of an epoch.
func isEpoch(id string) bool {
	const most = 64
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return id != "" && len(id) <= most
}

// Follow calls each with every event after number after, in order and without
// a gap that is not told, and goes on as new ones come, until ctx ends, each
// fails, or the connection breaks. The error is Conflict if the record has not
// come as far as after.
func (a *Agent) Follow(ctx context.Context, after uint64, each func(soulbox.GuestEvent) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(silence, func() { cancel(errSilence) })
	defer alarm.Stop()
	res, err := a.do(ctx, http.MethodGet, "/soulbox/record?after="+strconv.FormatUint(after, 10), nil)
	if err != nil {
		return refused(causeOf(ctx, err))
	}
	defer res.Body.Close()
	frames := event.NewReader(res.Body)
	for {
		e, err := frames.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // a record has no end
			}
			return causeOf(ctx, err)
		}
		if e.Kind != event.Alive {
			g, err := guestEvent(e, after)
			if err != nil {
				return fmt.Errorf("an event of the agent: %w", err)
			}
			after = g.Seq
			alarm.Stop() // each may take its time
			if err := each(g); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		alarm.Reset(silence)
	}
}

var errSilence = fmt.Errorf("the agent said nothing for %v", silence)

// causeOf returns why ctx ended, if it did, or else err.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// guestEvent checks an event that follows number after.
func guestEvent(e event.Event, after uint64) (soulbox.GuestEvent, error) {
	g := soulbox.GuestEvent{Seq: e.Seq, At: believe(time.Unix(0, e.At)), PID: e.PID}
	steps := uint64(1)
	if e.Kind == event.Gap {
		steps = e.Lost
	}
	if e.Seq <= after || e.Seq-after != steps {
		return g, fmt.Errorf("number %d, which stands for %d, does not follow %d", e.Seq, steps, after)
	}
	if e.Kind != event.Output && bytes.IndexByte(e.Text, 0) >= 0 {
		return g, fmt.Errorf("event %d has a text with a zero byte", e.Seq)
	}
	switch e.Kind {
	case event.Started:
		g.Kind, g.Command = soulbox.EventStarted, text(e)
	case event.Output:
		g.Kind, g.Stream, g.Data = soulbox.EventOutput, e.Stream, bytes.Clone(e.Text)
	case event.Ended:
		g.Kind, g.ExitCode, g.Signal = soulbox.EventEnded, e.ExitCode, text(e)
	case event.File:
		g.Kind, g.Op, g.Path = soulbox.EventFile, e.Op, text(e)
		if !strings.HasPrefix(g.Path, "/") {
			return g, fmt.Errorf("event %d is about %.80q, which is not an absolute path", e.Seq, g.Path)
		}
	case event.Gap:
		g.Kind, g.Lost = soulbox.EventGap, e.Lost
	default:
		return g, fmt.Errorf("event %d is of kind %d", e.Seq, e.Kind)
	}
	return g, nil
}

// text returns the text of an event, which may have been cut within a letter.
func text(e event.Event) string { return strings.ToValidUTF8(string(e.Text), "\uFFFD") }

// State tells what goes on in the sandbox.
func (a *Agent) State(ctx context.Context) (soulbox.GuestState, error) {
	var w wireState
	if err := a.ask(ctx, "/soulbox/state", maxState, &w); err != nil {
		return soulbox.GuestState{}, err
	}
	s, err := w.state()
	if err != nil {
		return soulbox.GuestState{}, fmt.Errorf("the agent's state: %w", err)
	}
	return s, nil
}

type wireState struct {
	At        time.Time `json:"at"`
	Processes []struct {
		PID       int32             `json:"pid"`
		PPID      int32             `json:"ppid"`
		Command   string            `json:"command"`
		Dir       string            `json:"dir"`
		Env       map[string]string `json:"env"`
		OpenFiles []string          `json:"openFiles"`
		CPU       time.Duration     `json:"cpu"`
		StartedAt time.Time         `json:"startedAt"`
	} `json:"processes"`
	Ports []struct {
		Port    uint16     `json:"port"`
		Address netip.Addr `json:"address"`
		PID     int32      `json:"pid"`
	} `json:"ports"`
	Truncated bool `json:"truncated"`
}

// state checks what an agent says.
func (w *wireState) state() (soulbox.GuestState, error) {
	s := soulbox.GuestState{At: believe(w.At), Truncated: w.Truncated}
	if len(w.Processes) > maxProcesses || len(w.Ports) > maxPorts {
		return s, fmt.Errorf("%d processes and %d ports, more than %d and %d", len(w.Processes), len(w.Ports), maxProcesses, maxPorts)
	}
	for _, p := range w.Processes {
		if p.PID <= 0 || p.PPID < 0 || p.CPU < 0 || len(p.OpenFiles) > maxFiles {
			return s, fmt.Errorf("process %d, child of %d, with %v of CPU and %d files", p.PID, p.PPID, p.CPU, len(p.OpenFiles))
		}
		env := 0
		for k, v := range p.Env {
			env += len(k) + len(v)
			if !plain(k, longest*maxEnv) || !plain(v, longest*maxEnv) {
				return s, fmt.Errorf("process %d has an environment that none can have", p.PID)
			}
		}
		for _, path := range p.OpenFiles {
			if !plain(path, longest*event.MaxPath) {
				return s, fmt.Errorf("process %d has a file open that cannot be", p.PID)
			}
		}
		if env > longest*maxEnv || !plain(p.Command, longest*event.MaxCommand) || !plain(p.Dir, longest*event.MaxPath) {
			return s, fmt.Errorf("process %d has a text that none can have", p.PID)
		}
		s.Processes = append(s.Processes, soulbox.GuestProcess{
			PID: int(p.PID), PPID: int(p.PPID), Command: p.Command, Dir: p.Dir, Env: p.Env, OpenFiles: p.OpenFiles,
			CPU: p.CPU, StartedAt: believe(p.StartedAt),
		})
	}
	for _, p := range w.Ports {
		if p.Port == 0 || p.PID < 0 || !p.Address.IsValid() {
			return s, fmt.Errorf("port %d of process %d at %v", p.Port, p.PID, p.Address)
		}
		s.Ports = append(s.Ports, soulbox.GuestPort{Port: p.Port, Address: p.Address.WithZone("").String(), PID: int(p.PID)})
	}
	return s, nil
}

// longest is what one byte of a text that is not UTF-8 becomes on its way.
const longest = 3

// plain reports whether a text has no byte that no such text has, and no more
// than most.
func plain(s string, most int) bool { return len(s) <= most && !strings.ContainsRune(s, 0) }
