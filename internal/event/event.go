// Package event is the form in which the events of a sandbox lie on its disk
// and travel to the host: a frame with a length and a checksum for each.
//
//	4 bytes   length of the payload, little endian
//	4 bytes   CRC-32C of the payload
//	payload   kind, number, time, and what the kind has
//
// The numbers in a payload are varints; what is left of it after them is the
// text of the event, so that output is stored as it is. Reading is strict: a
// frame that [Append] could not have made is an error.
package event

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
)

// A Kind says what an event tells.
type Kind byte

// The kinds, as they are stored.
const (
	Alive   Kind = iota // nothing happens; it has no number and is never stored
	Started             // a process; Text is its command
	Output              // of a process; Text is what it wrote to Stream
	Ended               // a process; Text is the signal that killed it, if one did
	File                // Op happened to the file whose path is Text
	Gap                 // Lost events up to this number are gone; it is never stored
	kinds
)

// What a text may have at most, in bytes. Append cuts what is longer.
const (
	MaxOutput  = 64 << 10
	MaxCommand = 4 << 10
	MaxPath    = 4 << 10
	MaxSignal  = 32
)

const (
	headSize = 8
	// MaxSize is the most that a frame takes.
	MaxSize = headSize + 1 + 5*binary.MaxVarintLen64 + MaxOutput
)

// An Event is one thing that happened.
type Event struct {
	Kind     Kind
	Seq      uint64
	At       int64  // nanoseconds since 1970
	PID      int    // Started, Output, Ended
	Stream   string // Output: stdout, stderr or pty
	ExitCode int    // Ended
	Op       string // File: create, write, remove, rename or chmod
	Lost     uint64 // Gap
	Text     []byte
}

var (
	streams = []string{"stdout", "stderr", "pty"}
	ops     = []string{"create", "write", "remove", "rename", "chmod"}
	table   = crc32.MakeTable(crc32.Castagnoli)

	maxText = [kinds]int{Started: MaxCommand, Output: MaxOutput, Ended: MaxSignal, File: MaxPath}
)

// Append appends the frame of e to b.
func Append(b []byte, e *Event) []byte {
	start := len(b)
	b = append(b, make([]byte, headSize)...)
	b = append(b, byte(e.Kind))
	if e.Kind != Alive {
		b = binary.AppendUvarint(b, e.Seq)
		b = binary.AppendVarint(b, e.At)
	}
	switch e.Kind {
	case Started:
		b = binary.AppendUvarint(b, uint64(e.PID))
	case Output:
		b = binary.AppendUvarint(b, uint64(e.PID))
		b = append(b, byte(slices.Index(streams, e.Stream)))
	case Ended:
		b = binary.AppendUvarint(b, uint64(e.PID))
		b = binary.AppendVarint(b, int64(e.ExitCode))
	case File:
		b = append(b, byte(slices.Index(ops, e.Op)))
	case Gap:
		b = binary.AppendUvarint(b, e.Lost)
	case Alive, kinds:
	}
	b = append(b, e.Text[:min(len(e.Text), maxText[e.Kind])]...)
	payload := b[start+headSize:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(payload, table))
	return b
}

// Parse reads the frame at the beginning of b and returns its size. Text is a
// part of b. When b is the beginning of a frame that may be good, the error is
// io.ErrUnexpectedEOF.
func Parse(b []byte) (Event, int, error) {
	if len(b) < headSize {
		return Event{}, 0, io.ErrUnexpectedEOF
	}
	size := uint64(binary.LittleEndian.Uint32(b)) + headSize
	if size > MaxSize {
		return Event{}, 0, fmt.Errorf("an event of %d bytes, more than %d", size, MaxSize)
	}
	if uint64(len(b)) < size {
		return Event{}, 0, io.ErrUnexpectedEOF
	}
	payload := b[headSize:size]
	if crc32.Checksum(payload, table) != binary.LittleEndian.Uint32(b[4:]) {
		return Event{}, 0, errors.New("the checksum of an event is wrong")
	}
	p := parser{rest: payload}
	e := p.event()
	if p.bad {
		return Event{}, 0, errors.New("an event makes no sense")
	}
	return e, int(size), nil
}

// A parser takes a payload apart. Once something is wrong it stays bad.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) event() Event {
	e := Event{Kind: Kind(p.byte())}
	if e.Kind == Alive {
		p.bad = p.bad || len(p.rest) > 0
		return e
	}
	e.Seq, e.At = p.uvarint(), p.varint()
	switch e.Kind {
	case Started:
		e.PID = p.pid()
	case Output:
		e.PID = p.pid()
		e.Stream = p.word(streams)
	case Ended:
		e.PID = p.pid()
		code := p.varint()
		p.bad = p.bad || code < math.MinInt32 || code > math.MaxInt32
		e.ExitCode = int(code)
	case File:
		e.Op = p.word(ops)
	case Gap:
		e.Lost = p.uvarint()
		p.bad = p.bad || e.Lost == 0 || e.Lost > e.Seq
	case Alive, kinds:
		fallthrough
	default:
		p.bad = true
		return e
	}
	p.bad = p.bad || e.Seq == 0 || len(p.rest) > maxText[e.Kind]
	if len(p.rest) > 0 {
		e.Text = p.rest
	}
	return e
}

func (p *parser) byte() byte {
	if len(p.rest) == 0 {
		p.bad = true
		return 0
	}
	b := p.rest[0]
	p.rest = p.rest[1:]
	return b
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	return v * p.skip(n)
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.rest)
	return v * int64(p.skip(n))
}

// skip drops the n bytes of a number and returns 1, or 0 if there was none or
// it took more bytes than it needs.
func (p *parser) skip(n int) uint64 {
	if n <= 0 || n > 1 && p.rest[n-1] == 0 {
		p.bad = true
		return 0
	}
	p.rest = p.rest[n:]
	return 1
}

func (p *parser) pid() int {
	v := p.uvarint()
	p.bad = p.bad || v == 0 || v > math.MaxInt32
	return int(v & math.MaxInt32)
}

func (p *parser) word(words []string) string {
	i := int(p.byte())
	if i >= len(words) {
		p.bad = true
		return ""
	}
	return words[i]
}

// A Reader reads frames one after the other.
type Reader struct {
	in  *bufio.Reader
	buf []byte
}

// NewReader returns a reader of what in has. It may read ahead.
func NewReader(in io.Reader) *Reader {
	const ahead = 32 << 10
	return &Reader{in: bufio.NewReaderSize(in, ahead)}
}

// Next returns the next event, whose Text is good until the next call. The end
// of the input is io.EOF between two frames and io.ErrUnexpectedEOF within one.
func (r *Reader) Next() (Event, error) {
	head, err := r.in.Peek(headSize)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Event{}, err
	}
	// A length is believed before its bytes are there only if it is possible.
	_, _, err = Parse(head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Event{}, err
	}
	size := int(binary.LittleEndian.Uint32(head)) + headSize
	if cap(r.buf) < size {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	if _, err := io.ReadFull(r.in, r.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Event{}, err
	}
	e, _, err := Parse(r.buf)
	return e, err
}
