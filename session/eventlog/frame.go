package eventlog

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/soulbox/soulbox"
)

// errDamaged says that the bytes at some place are no frame.
var errDamaged = errors.New("the log is damaged here")

const (
	frameHead = 8 // length and checksum, both little endian

	// maxFrame is more than any frame takes: the largest is the header of a
	// segment with some dozens of sandboxes.
	maxFrame = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeFrame(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes is more than the %d that are read again", len(b), maxFrame)
	}
	frame := make([]byte, frameHead, frameHead+len(b))
	binary.LittleEndian.PutUint32(frame, uint32(len(b)))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(b, castagnoli))
	return append(frame, b...), nil
}

// readFrame reads the frame at an offset into v, and returns where the next one
// begins. It is io.EOF where a file ends between two frames, and errDamaged
// where no frame is.
func readFrame(r io.ReaderAt, at int64, v any) (next int64, err error) {
	var head [frameHead]byte
	switch n, err := r.ReadAt(head[:], at); {
	case n == 0 && errors.Is(err, io.EOF):
		return 0, io.EOF
	case errors.Is(err, io.EOF) && n < frameHead:
		return 0, errDamaged
	case err != nil && n < frameHead:
		return 0, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size == 0 || size > maxFrame {
		return 0, errDamaged
	}
	b := make([]byte, size)
	if n, err := r.ReadAt(b, at+frameHead); n < len(b) {
		if errors.Is(err, io.EOF) {
			return 0, errDamaged
		}
		return 0, err
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[4:]) || json.Unmarshal(b, v) != nil {
		return 0, errDamaged
	}
	return at + frameHead + int64(size), nil
}

// header is the first frame of a segment.
type header struct {
	First  uint64                 `json:"first"`
	Places map[string]storedPlace `json:"places,omitempty"`
}

type storedPlace struct {
	State  string       `json:"state,omitempty"`
	Epochs []storedSeen `json:"epochs,omitempty"`
}

type storedSeen struct {
	ID    string `json:"id"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

func headerOf(first uint64, places map[soulbox.SandboxID]Place) header {
	h := header{First: first, Places: make(map[string]storedPlace, len(places))}
	for id, p := range places {
		h.Places[string(id)] = storedPlaceOf(p)
	}
	return h
}

func (h header) places() map[soulbox.SandboxID]Place {
	places := make(map[soulbox.SandboxID]Place, len(h.Places))
	for id, p := range h.Places {
		places[soulbox.SandboxID(id)] = p.place()
	}
	return places
}

func storedPlaceOf(p Place) storedPlace {
	s := storedPlace{State: string(p.State)}
	for _, e := range p.Epochs {
		s.Epochs = append(s.Epochs, storedSeen(e))
	}
	return s
}

func (s storedPlace) place() Place {
	p := Place{State: soulbox.State(s.State)}
	for _, e := range s.Epochs {
		p.Epochs = append(p.Epochs, Seen(e))
	}
	return p
}

// stored is an entry as it is written.
type stored struct {
	ID       uint64       `json:"id"`
	At       time.Time    `json:"at"`
	Kind     string       `json:"kind"`
	Sandbox  string       `json:"sandbox,omitempty"`
	Epoch    string       `json:"epoch,omitempty"`
	Seq      uint64       `json:"seq,omitempty"`
	Lost     uint64       `json:"lost,omitempty"`
	Snapshot string       `json:"snapshot,omitempty"`
	Name     string       `json:"name,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	Guest    *storedGuest `json:"guest,omitempty"`
	Place    *storedPlace `json:"place,omitempty"`
}

type storedGuest struct {
	Seq      uint64    `json:"seq"`
	At       time.Time `json:"at"`
	PID      int       `json:"pid,omitempty"`
	Command  string    `json:"command,omitempty"`
	Stream   string    `json:"stream,omitempty"`
	Data     []byte    `json:"data,omitempty"`
	ExitCode int       `json:"exit_code,omitempty"`
	Signal   string    `json:"signal,omitempty"`
	Path     string    `json:"path,omitempty"`
	Op       string    `json:"op,omitempty"`
	Lost     uint64    `json:"lost,omitempty"`
}

func storedOf(e Entry) stored {
	v := e.Event
	s := stored{
		ID: v.ID, At: v.At, Kind: string(v.Kind), Sandbox: string(v.Sandbox), Epoch: v.Epoch, Seq: v.Seq, Lost: v.Lost,
		Snapshot: string(v.Snapshot), Name: v.Name, Reason: v.Reason,
	}
	if g := v.Guest; g != nil {
		s.Guest = &storedGuest{
			Seq: g.Seq, At: plausible(g.At, v.At), PID: g.PID, Command: g.Command, Stream: g.Stream, Data: g.Data, ExitCode: g.ExitCode,
			Signal: g.Signal, Path: g.Path, Op: g.Op, Lost: g.Lost,
		}
	}
	if e.Place != nil {
		s.Place = new(storedPlaceOf(*e.Place))
	}
	return s
}

// plausible returns a sandbox's time, or ours where theirs cannot be written
// down.
func plausible(theirs, ours time.Time) time.Time {
	if y := theirs.UTC().Year(); y < 1 || y > 9999 {
		return ours
	}
	return theirs.UTC()
}

func (s stored) entry() Entry {
	e := Entry{Event: soulbox.SessionEvent{
		ID: s.ID, At: s.At, Kind: soulbox.SessionEventKind(s.Kind), Sandbox: soulbox.SandboxID(s.Sandbox), Epoch: s.Epoch, Seq: s.Seq, Lost: s.Lost,
		Snapshot: soulbox.SnapshotID(s.Snapshot), Name: s.Name, Reason: s.Reason,
	}}
	if g := s.Guest; g != nil {
		e.Event.Guest = &soulbox.GuestEvent{
			Seq: g.Seq, At: g.At, Kind: soulbox.GuestEventKind(s.Kind), PID: g.PID, Command: g.Command, Stream: g.Stream, Data: g.Data,
			ExitCode: g.ExitCode, Signal: g.Signal, Path: g.Path, Op: g.Op, Lost: g.Lost,
		}
	}
	if s.Place != nil {
		e.Place = new(s.Place.place())
	}
	return e
}
