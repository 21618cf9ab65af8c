package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// maxEvent bounds a line of a stream of events: the largest has 64 KiB of
	// output in base64.
	maxEvent = 1 << 20

	// eventSilence is after what time without a byte a stream is given up: the
	// server says every 15 seconds that it is there.
	eventSilence = 50 * time.Second

	// firstRetry and lastRetry are how long Events waits before it connects
	// again, at first and at most.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// EventsOptions select events of a session or a build. The zero value selects
// all that the server still has.
type EventsOptions struct {
	// After is the id of the last event that the caller has.
	After uint64
	// Follow waits for more until the session or build ends. When the connection
	// is lost or the server restarts, the loop connects again and goes on where
	// it was, until ctx ends or the server says that it may not.
	Follow bool
	// Lost is called when that happens, with why and how long it waits; nil:
	// nobody asks.
	Lost func(err error, wait time.Duration)
}

// Events returns events of a session in the order of their ids. None is missing
// and none comes twice; where the server does not have them any more, there is
// one of kind [soulbox.LogGap]. The first error ends the loop.
func (s *Sessions) Events(ctx context.Context, id string, o EventsOptions) iter.Seq2[soulbox.SessionEvent, error] {
	return func(yield func(soulbox.SessionEvent, error) bool) {
		path, err := sessionPath(id, "/events")
		if err != nil {
			yield(soulbox.SessionEvent{}, err)
			return
		}
		for w, err := range told[eventWire](ctx, s.c, path, o) {
			if err != nil {
				yield(soulbox.SessionEvent{}, err)
				return
			}
			if !yield(w.event(), nil) {
				return
			}
		}
	}
}

// A numbered event is one of a stream, which has an id unless it is the last.
type numbered interface {
	number() uint64
	last() bool // nothing comes after it
}

// told returns events W of a stream, over as many connections as it takes. The
// first error ends the loop.
func told[W numbered](ctx context.Context, c *Client, path string, o EventsOptions) iter.Seq2[W, error] {
	return func(yield func(W, error) bool) {
		after, wait := o.After, firstRetry
		for {
			stopped := false
			err := stream(ctx, c, path, after, o.Follow, func(w W) error {
				if n := w.number(); n != 0 {
					if n <= after {
						return nil // a server that begins too early
					}
					after, wait = n, firstRetry
				}
				if !yield(w, nil) {
					stopped = true
					return errStopped
				}
				return nil
			})
			switch {
			case stopped || err == nil:
				return
			case ctx.Err() != nil:
				err = context.Cause(ctx)
			case o.Follow && soulbox.KindOf(err) == soulbox.Unavailable:
				if o.Lost != nil {
					o.Lost(err, wait)
				}
				select {
				case <-time.After(wait):
				case <-ctx.Done():
				}
				wait = min(2*wait, lastRetry)
				continue
			}
			var none W
			yield(none, err)
			return
		}
	}
}

var (
	errStopped = errors.New("the caller has seen enough")
	errSilent  = soulbox.Errorf(soulbox.Unavailable, "the server was silent for %v", eventSilence)
)

// stream reads one stream. It returns nil when that has ended as it should:
// with its last event, or without follow when there is no more.
func stream[W numbered](ctx context.Context, c *Client, path string, after uint64, follow bool, each func(W) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(eventSilence, func() { cancel(errSilent) })
	defer silence.Stop()
	query := url.Values{"last_event_id": {strconv.FormatUint(after, 10)}, "follow": {strconv.FormatBool(follow)}}
	req, err := c.request(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answerError(resp)
	}
	lines := bufio.NewScanner(&heard{resp.Body, silence})
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue // an id and a kind, which are in the data, or a comment
		}
		var w W
		if err := json.Unmarshal(data, &w); err != nil {
			return soulbox.Errorf(soulbox.Unavailable, "an event is not what a SoulBox server says: %w", err)
		}
		if err := each(w); err != nil {
			return err
		}
		if w.last() {
			return nil
		}
	}
	err = lines.Err()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("read events: %w", err)
	case err == nil && !follow:
		return nil
	case err == nil:
		err = io.ErrUnexpectedEOF
	}
	return soulbox.Errorf(soulbox.Unavailable, "the stream of events was cut: %w", err)
}

// heard puts off a timer at every byte.
type heard struct {
	io.Reader
	silence *time.Timer
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if n > 0 {
		h.silence.Reset(eventSilence)
	}
	return n, err
}

type eventWire struct {
	ID         uint64                   `json:"id"`
	At         time.Time                `json:"at"`
	Kind       soulbox.SessionEventKind `json:"kind"`
	Sandbox    soulbox.SandboxID        `json:"sandbox"`
	Epoch      string                   `json:"epoch"`
	Seq        uint64                   `json:"seq"`
	GuestAt    time.Time                `json:"guest_at"`
	PID        int                      `json:"pid"`
	Command    string                   `json:"command"`
	Stream     string                   `json:"stream"`
	Data       []byte                   `json:"data"`
	ExitCode   int                      `json:"exit_code"`
	Signal     string                   `json:"signal"`
	Path       string                   `json:"path"`
	Op         string                   `json:"op"`
	Lost       uint64                   `json:"lost"`
	Checkpoint string                   `json:"checkpoint"`
	Reason     string                   `json:"reason"`
}

func (w eventWire) number() uint64 { return w.ID }

func (w eventWire) last() bool { return w.Kind == soulbox.SessionEnded }

func (w eventWire) event() soulbox.SessionEvent {
	e := soulbox.SessionEvent{ID: w.ID, At: w.At, Kind: w.Kind, Sandbox: w.Sandbox, Epoch: w.Epoch, Reason: w.Reason}
	switch kind := soulbox.GuestEventKind(w.Kind); kind {
	case soulbox.EventStarted, soulbox.EventOutput, soulbox.EventEnded, soulbox.EventFile, soulbox.EventGap:
		e.Guest = &soulbox.GuestEvent{
			Seq: w.Seq, At: w.GuestAt, Kind: kind, PID: w.PID, Command: w.Command, Stream: w.Stream, Data: w.Data,
			ExitCode: w.ExitCode, Signal: w.Signal, Path: w.Path, Op: w.Op, Lost: w.Lost,
		}
		return e
	default:
	}
	e.Seq, e.Lost = w.Seq, w.Lost
	if w.Kind == soulbox.SandboxRolledBack {
		e.Snapshot = soulbox.SnapshotID(w.Checkpoint)
	} else {
		e.Name = w.Checkpoint
	}
	return e
}
