// Package journal keeps what a sandbox's agent told of it: which processes
// started and ended, and what they wrote. It outlives the sandbox.
//
// A journal is a folder with at most two segments of JSON lines. When the
// current one is full it becomes the previous one and the oldest entries are
// gone; a sandbox that floods its output therefore costs a bounded amount of
// disk. Lines are appended without fsync: after a power cut the sandbox is
// gone as well.
//
// What cannot be read must not hide the rest: a line that a crash or a full
// disk has torn, or that is too long, is skipped, and writing goes on behind
// it on a line of its own.
package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/guest"
)

const (
	segmentSize  = 4 << 20
	defaultLimit = 1000
	// maxLine is more than an entry of the agent takes: its lines have at most
	// 64 KiB, and the worst byte in them grows to three when it is written.
	maxLine = 256 << 10
)

// A Journal is one sandbox's. Safe for concurrent use.
type Journal struct {
	dir string

	mu   sync.Mutex
	file *os.File // nil until the first entry is written
	size int64
	last uint64
}

// Open returns the journal in dir, which need not exist.
func Open(dir string) (*Journal, error) {
	j := &Journal{dir: dir}
	err := j.scan(func(e guest.Entry) bool {
		j.last = max(j.last, e.Seq)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return j, nil
}

// Last returns the number of the latest entry, or 0.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// line is the stored form.
type line struct {
	Seq     uint64            `json:"seq"`
	At      time.Time         `json:"at"`
	Level   string            `json:"level"`
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// Append adds an entry. One that is not newer than the last is dropped, so
// that reading again from the agent after a restart repeats nothing. One that
// is too long loses its fields and the end of its message.
func (j *Journal) Append(e guest.Entry) error {
	b, err := encode(e)
	if err == nil && len(b) > maxLine {
		const longest = 6 // what one byte of text becomes at most
		e.Message, e.Fields = e.Message[:min(len(e.Message), maxLine/(2*longest))], nil
		b, err = encode(e)
	}
	if err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Seq <= j.last {
		return nil
	}
	if err := j.roomLocked(int64(len(b))); err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	n, err := j.file.Write(b)
	j.size += int64(n)
	if err != nil { // a part may have been written; see openLocked
		err = errors.Join(err, j.file.Close())
		j.file = nil
		return fmt.Errorf("append to journal: %w", err)
	}
	j.last = e.Seq
	return nil
}

// encode returns the line of an entry, with its end.
func encode(e guest.Entry) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // it makes six bytes of one
	err := enc.Encode(line{Seq: e.Seq, At: e.At, Level: e.Level, Message: e.Message, Fields: e.Fields})
	return b.Bytes(), err
}

// roomLocked makes sure that the current segment is open and takes n bytes.
func (j *Journal) roomLocked(n int64) error {
	if j.file == nil {
		if err := j.openLocked(); err != nil {
			return err
		}
	}
	if j.size == 0 || j.size+n <= segmentSize {
		return nil
	}
	err := errors.Join(j.file.Close(), os.Rename(j.current(), j.previous()))
	j.file = nil
	if err != nil {
		return err
	}
	return j.openLocked()
}

// openLocked opens the current segment and ends a torn last line, so that the
// next one is not lost with it.
func (j *Journal) openLocked() (err error) {
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(j.current(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	if size > 0 {
		var end [1]byte
		if _, err := f.ReadAt(end[:], size-1); err != nil {
			return err
		}
		if end[0] != '\n' {
			if _, err := f.WriteString("\n"); err != nil {
				return err
			}
			size++
		}
	}
	j.file, j.size = f, size
	return nil
}

func (j *Journal) current() string  { return filepath.Join(j.dir, "current.jsonl") }
func (j *Journal) previous() string { return filepath.Join(j.dir, "previous.jsonl") }

// Close closes the file; the journal can be read after it.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// scan calls each with the entries, oldest first, until it returns false.
func (j *Journal) scan(each func(guest.Entry) bool) error {
	segments, err := j.segments()
	if err != nil {
		return err
	}
	more := true
	for _, f := range segments {
		if more && err == nil {
			if more, err = scanFile(f, each); err != nil {
				err = fmt.Errorf("%s: %w", f.Name(), err)
			}
		}
		f.Close()
	}
	return err
}

// segments opens those that exist, oldest first and at one moment: between
// two of them a segment could change its place.
func (j *Journal) segments() ([]*os.File, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var segments []*os.File
	for _, path := range []string{j.previous(), j.current()} {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			for _, f := range segments {
				f.Close()
			}
			return nil, err
		}
		segments = append(segments, f)
	}
	return segments, nil
}

func scanFile(r io.Reader, each func(guest.Entry) bool) (more bool, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for begins := true; ; {
		b, err := in.ReadSlice('\n')
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		var l line
		if begins && !tooLong && json.Unmarshal(b, &l) == nil {
			e := guest.Entry{Seq: l.Seq, LogEntry: soulbox.LogEntry{At: l.At, Level: l.Level, Message: l.Message, Fields: l.Fields}}
			if !each(e) {
				return false, nil
			}
		}
		begins = !tooLong
		switch {
		case errors.Is(err, io.EOF):
			return true, nil
		case err != nil && !tooLong:
			return false, err
		}
	}
}

// levels in rising order.
var levels = []string{"debug", "info", "warn", "error"}

// Query returns the entries that q selects, in q's direction.
func (j *Journal) Query(q soulbox.LogQuery) ([]soulbox.LogEntry, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	least := max(0, slices.Index(levels, q.Level))
	var found []soulbox.LogEntry
	err := j.scan(func(e guest.Entry) bool {
		switch {
		case e.At.Before(q.From),
			!q.Until.IsZero() && e.At.After(q.Until),
			slices.Index(levels, e.Level) < least,
			q.Search != "" && !strings.Contains(e.Message, q.Search):
			return true
		}
		found = append(found, e.LogEntry)
		if q.Backward && len(found)-limit > limit { // not 2*limit, which could be too large a number
			found = slices.Delete(found, 0, len(found)-limit)
		}
		return q.Backward || len(found) < limit
	})
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if q.Backward {
		slices.Reverse(found)
		found = found[:min(limit, len(found))]
	}
	return found, nil
}
