// Package eventlog keeps the events of one session: a ring on disk, of which
// the oldest part goes when it is full.
//
// # On disk
//
// A log is a folder of segments, each named by the id of its first event. A
// segment is a row of frames: length, CRC-32C, JSON. The first frame of a
// segment says where the log stands with the record of each sandbox, so that
// nothing but the newest segment has to be read to go on. A segment appears
// under its name with that frame in it and synced; only the newest one can end
// in the middle of a frame, and [Open] cuts that off.
//
// # What is durable
//
// An append is written before it returns, so it survives the death of this
// process. It is synced before anybody is shown it: what a client has seen
// keeps its id and its content after a power cut, too. What nobody has seen may
// be lost then; the records inside the sandboxes still have it, and since an
// event carries its place there, it is read from there again, exactly once.
//
// # Gaps
//
// Ids have no holes when they are given. Where events are gone, because the
// ring has turned or a segment is damaged, a reader gets one event of kind
// [soulbox.LogGap] in their place, with the id of the last of them.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/soulbox/soulbox"
)

// DefaultSize is how much disk a log takes at most, unless it is told.
const DefaultSize = 64 * soulbox.MiB

const (
	segments    = 8         // of a full log
	leastSize   = 256 << 10 // of a segment: a frame or two
	maxSeen     = 64        // epochs of one sandbox, as many as its agent tells
	suffix      = ".events"
	halfSuffix  = ".half"
	digitsOfIDs = 20
	leastFrame  = 40 // bytes of an event
)

// A Place is where a log stands with a sandbox.
type Place struct {
	State  soulbox.State // that the log has told of it
	Epochs []Seen        // of its record, oldest first; empty: nothing is known
}

// A Seen is what a log has of one epoch of a sandbox's record.
type Seen struct {
	ID          string
	First, Last uint64 // numbers of events in it; Last < First: none
}

func (p Place) clone() Place { return Place{State: p.State, Epochs: slices.Clone(p.Epochs)} }

// An Entry is an event to be written. Place, if set, is from then on where the
// log stands with the event's sandbox.
type Entry struct {
	Event soulbox.SessionEvent
	Place *Place
}

// segment is a file of the log. Its end is guarded by Log.mu.
type segment struct {
	path  string
	first uint64 // id of its first event, also when it has none yet
	size  int64
}

// A Log is safe for concurrent use, by one process at a time. Its methods may
// wait for the disk.
type Log struct {
	dir   string
	limit int64 // of one segment

	syncing sync.Mutex // one sync at a time; taken before mu

	mu      sync.Mutex
	file    *os.File                    // the newest segment; nil once closed; +checklocks:mu
	segs    []*segment                  // oldest first, never empty; +checklocks:mu
	head    uint64                      // id of the newest event; +checklocks:mu
	synced  uint64                      // of the newest that is durable; +checklocks:mu
	torn    bool                        // something may be behind the end of the newest segment; +checklocks:mu
	sealed  bool                        // there will be no more; +checklocks:mu
	places  map[soulbox.SandboxID]Place // +checklocks:mu
	over    bool                        // the last event says that the session has ended; +checklocks:mu
	changed chan struct{}               // closed and replaced at every change; +checklocks:mu
}

// Open opens the log in a folder, which it makes if need be. size bounds the
// log's bytes; zero is [DefaultSize]. The caller closes it.
func Open(dir string, size soulbox.Bytes) (*Log, error) {
	if size <= 0 {
		size = DefaultSize
	}
	l := &Log{
		dir: dir, limit: max(int64(size)/segments, leastSize),
		places: map[soulbox.SandboxID]Place{}, changed: make(chan struct{}),
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open event log %s: %w", dir, err)
	}
	return l, nil
}

// open needs no lock: nobody else knows of l.
//
// +checklocksignore
func (l *Log) open() error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	if err := l.list(); err != nil {
		return err
	}
	var lost uint64 // no id up to here is given again
	for len(l.segs) > 0 {
		newest := l.segs[len(l.segs)-1]
		err := l.resume(newest)
		if err == nil {
			break
		}
		if !errors.Is(err, errDamaged) && !errors.Is(err, io.EOF) {
			return err
		}
		// Not even its beginning can be read, so it tells nothing. What is
		// before it still does.
		lost = max(lost, newest.first+uint64(newest.size)/leastFrame)
		if err := os.Rename(newest.path, newest.path+".damaged"); err != nil {
			return err
		}
		l.segs = l.segs[:len(l.segs)-1]
	}
	if l.file != nil && l.head >= lost {
		return nil
	}
	l.head = max(l.head, lost)
	l.synced = l.head
	return l.add(l.head + 1)
}

// list finds the segments.
//
// +checklocksignore
func (l *Log) list() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(l.dir, e.Name())
		if strings.HasSuffix(e.Name(), halfSuffix) {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		first, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), suffix), 10, 64)
		if err != nil || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		l.segs = append(l.segs, &segment{path: path, first: first, size: info.Size()})
	}
	slices.SortFunc(l.segs, func(a, b *segment) int { return strings.Compare(a.path, b.path) })
	return nil
}

// resume reads the newest segment, cuts off what a crash has torn, and goes on
// behind it.
//
// +checklocksignore
func (l *Log) resume(s *segment) (err error) {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // the other error is the one that matters
		}
	}()
	var head header
	at, err := readFrame(f, 0, &head)
	if err != nil {
		return err
	}
	l.head = s.first - 1
	l.places = head.places()
	for {
		var st stored
		next, err := readFrame(f, at, &st)
		if errors.Is(err, io.EOF) || errors.Is(err, errDamaged) {
			break
		}
		if err != nil {
			return err
		}
		e := st.entry()
		l.head = max(l.head, e.Event.ID) // a mark has none
		l.note(e)
		at = next
	}
	if at != s.size {
		if err := f.Truncate(at); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil { // what an earlier process wrote last may not be durable
		return err
	}
	s.size, l.synced, l.file = at, l.head, f
	return nil
}

// add begins a new segment.
//
// +checklocks:l.mu
func (l *Log) add(first uint64) (err error) {
	path := filepath.Join(l.dir, fmt.Sprintf("%0*d%s", digitsOfIDs, first, suffix))
	f, err := os.OpenFile(path+halfSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(path+halfSuffix))
		}
	}()
	frame, err := encodeFrame(headerOf(first, l.places))
	if err != nil {
		return err
	}
	if _, err := f.Write(frame); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path+halfSuffix, path); err != nil {
		return err
	}
	if err := syncDir(l.dir); err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close() // it is synced
	}
	l.file, l.torn = f, false
	l.segs = append(l.segs, &segment{path: path, first: first, size: int64(len(frame))})
	for len(l.segs) > segments {
		// A reader that is in it has it open, and goes on to its end.
		if err := os.Remove(l.segs[0].path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break // it is tried again with the next
		}
		l.segs = l.segs[1:]
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ErrClosed is what a closed log answers.
var ErrClosed = soulbox.Errorf(soulbox.Unavailable, "the server is stopping; try again in a moment")

// Append gives an event its id and writes it. An event of a sandbox's record
// that the log has already is not written again; then the id is 0.
func (l *Log) Append(e Entry) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return 0, ErrClosed
	}
	if l.sealed {
		return 0, soulbox.Errorf(soulbox.Conflict, "the session has ended")
	}
	if l.has(e.Event) {
		return 0, nil
	}
	id, err := l.append(e)
	if err != nil {
		return 0, fmt.Errorf("write event: %w", err)
	}
	return id, nil
}

// +checklocks:l.mu
func (l *Log) append(e Entry) (uint64, error) {
	e.Event.ID = l.head + 1
	if err := l.write(e); err != nil {
		return 0, err
	}
	l.head = e.Event.ID
	l.note(e)
	l.tell()
	return l.head, nil
}

// Mark writes where the log stands with a sandbox, without an event.
func (l *Log) Mark(id soulbox.SandboxID, p Place) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return ErrClosed
	}
	e := Entry{Event: soulbox.SessionEvent{Sandbox: id}, Place: &p}
	if err := l.write(e); err != nil {
		return fmt.Errorf("write mark: %w", err)
	}
	l.note(e)
	return nil
}

// write writes a frame, in a new segment if the newest is full.
//
// +checklocks:l.mu
func (l *Log) write(e Entry) error {
	frame, err := encodeFrame(storedOf(e))
	if err != nil {
		return err
	}
	newest := l.segs[len(l.segs)-1]
	if newest.size+int64(len(frame)) > l.limit && newest.first <= l.head {
		if err := l.file.Sync(); err != nil {
			return err
		}
		l.synced = l.head
		if err := l.add(l.head + 1); err != nil {
			return err
		}
		newest = l.segs[len(l.segs)-1]
	}
	if l.torn {
		if err := l.file.Truncate(newest.size); err != nil {
			return err
		}
		l.torn = false
	}
	if _, err := l.file.WriteAt(frame, newest.size); err != nil {
		l.torn = true
		return err
	}
	newest.size += int64(len(frame))
	return nil
}

// +checklocks:l.mu
func (l *Log) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// has reports whether an event of a sandbox's record is in the log.
//
// +checklocks:l.mu
func (l *Log) has(e soulbox.SessionEvent) bool {
	if e.Guest == nil {
		return false
	}
	for _, s := range l.places[e.Sandbox].Epochs {
		if s.ID == e.Epoch {
			return e.Guest.Seq <= s.Last
		}
	}
	return false
}

// note keeps in mind where the log stands after an entry.
//
// +checklocks:l.mu
func (l *Log) note(e Entry) {
	id := e.Event.Sandbox
	if e.Event.Kind == soulbox.SessionEnded {
		l.over = true
	}
	if id == "" {
		return
	}
	if e.Event.Kind == soulbox.SandboxLeft {
		delete(l.places, id)
		return
	}
	if e.Place != nil {
		l.places[id] = e.Place.clone()
		return
	}
	if e.Event.Guest == nil {
		return
	}
	p := l.places[id]
	seq, first := e.Event.Guest.Seq, e.Event.Guest.Seq
	if lost := e.Event.Guest.Lost; lost > 0 && lost <= seq {
		first = seq - lost + 1
	}
	if n := len(p.Epochs); n > 0 && p.Epochs[n-1].ID == e.Event.Epoch {
		if p.Epochs[n-1].Last < p.Epochs[n-1].First {
			p.Epochs[n-1].First = first
		}
		p.Epochs[n-1].Last = seq
	} else {
		p.Epochs = append(p.Epochs, Seen{ID: e.Event.Epoch, First: first, Last: seq})
		if len(p.Epochs) > maxSeen {
			p.Epochs = slices.Delete(p.Epochs, 0, len(p.Epochs)-maxSeen)
		}
	}
	l.places[id] = p
}

// Forget drops where the log stands with a sandbox that does not come back.
// Nothing is written; the next segment does not know it any more.
func (l *Log) Forget(id soulbox.SandboxID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.places, id)
}

// Place returns where the log stands with a sandbox.
func (l *Log) Place(id soulbox.SandboxID) (Place, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.places[id]
	return p.clone(), ok
}

// Places returns where the log stands with all sandboxes it follows.
func (l *Log) Places() map[soulbox.SandboxID]Place {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := maps.Clone(l.places)
	for id, p := range all {
		all[id] = p.clone()
	}
	return all
}

// Head returns the id of the newest event, 0 if there is none, once it is
// durable.
func (l *Log) Head() (uint64, error) {
	l.mu.Lock()
	head := l.head
	l.mu.Unlock()
	return head, l.sync(head)
}

// sync returns when the event with an id is durable. Those who wait at the same
// time share one sync.
func (l *Log) sync(id uint64) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.mu.Lock()
	f, head, done := l.file, l.head, l.synced >= id
	l.mu.Unlock()
	if done {
		return nil
	}
	if f == nil {
		return ErrClosed
	}
	err := f.Sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.synced >= id { // it was synced because its segment was full
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync events: %w", err)
	}
	l.synced = max(l.synced, head)
	return nil
}

// Over reports whether the log tells that its session has ended.
func (l *Log) Over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// Seal says that there will be no more events: readers come to an end.
func (l *Log) Seal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sealed = true
	l.tell()
}

// Close syncs the log and lets go of it. Who waits for events gets [ErrClosed].
func (l *Log) Close() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.file.Sync(), l.file.Close())
	l.file = nil
	l.tell()
	return err
}

// Reader returns a reader of the events with greater ids than after. The caller
// closes it. An id that was never given is Invalid.
func (l *Log) Reader(after uint64) (*Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil, ErrClosed
	}
	if after > l.head {
		return nil, soulbox.Errorf(soulbox.Invalid, "there is no event %d yet; the newest has the id %d", after, l.head)
	}
	return &Reader{log: l, next: after + 1}, nil
}

// A Reader reads a log in order. One goroutine uses it.
type Reader struct {
	log  *Log
	next uint64 // the id that comes next

	file *os.File // the segment it is in, or nil
	seg  *segment
	at   int64
	held *soulbox.SessionEvent // read already; a gap was told first
}

// Next returns the next event, and waits for it. It is io.EOF after the last
// one of a log that is sealed.
func (r *Reader) Next(ctx context.Context) (soulbox.SessionEvent, error) {
	for {
		e, err := r.Try()
		if err != nil || e != nil {
			if err != nil {
				return soulbox.SessionEvent{}, err
			}
			return *e, nil
		}
		l := r.log
		l.mu.Lock()
		changed, more, sealed, closed := l.changed, r.next <= l.head, l.sealed, l.file == nil
		l.mu.Unlock()
		switch {
		case more:
			continue
		case sealed:
			return soulbox.SessionEvent{}, io.EOF
		case closed:
			return soulbox.SessionEvent{}, ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return soulbox.SessionEvent{}, context.Cause(ctx)
		}
	}
}

// Try returns the next event if there is one, or nil.
func (r *Reader) Try() (*soulbox.SessionEvent, error) {
	l := r.log
	l.mu.Lock()
	head, synced := l.head, l.synced
	l.mu.Unlock()
	if r.next > head {
		return nil, nil //nolint:nilnil // there is no event and nothing is wrong
	}
	if r.next > synced {
		if err := l.sync(r.next); err != nil {
			return nil, err
		}
	}
	e, err := r.read(head)
	if err != nil {
		return nil, fmt.Errorf("read event %d: %w", r.next, err)
	}
	if e.ID > r.next { // those between are gone
		r.held = e
		e = &soulbox.SessionEvent{ID: e.ID - 1, At: e.At, Kind: soulbox.LogGap, Lost: e.ID - r.next}
	}
	r.next = e.ID + 1
	return e, nil
}

// read returns the first event that is there with the id r.next or a greater
// one; head is the id of one that must be there.
func (r *Reader) read(head uint64) (*soulbox.SessionEvent, error) {
	if e := r.held; e != nil {
		r.held = nil
		return e, nil
	}
	for {
		if r.file == nil {
			if err := r.enter(); err != nil {
				return nil, err
			}
			if r.file == nil { // the rest cannot be read
				return &soulbox.SessionEvent{ID: head, Kind: soulbox.LogGap, Lost: head - r.next + 1}, nil
			}
		}
		var st stored
		next, err := readFrame(r.file, r.at, &st)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errDamaged):
			_ = r.file.Close() // it was only read
			r.file = nil
			continue
		case err != nil:
			return nil, err
		}
		r.at = next
		if e := st.entry().Event; e.ID >= r.next {
			return &e, nil
		}
	}
}

// enter opens the segment that has the event r.next, or the first one behind
// it; the file stays nil if there is none.
func (r *Reader) enter() error {
	l := r.log
	for {
		l.mu.Lock()
		var to *segment
		for _, s := range l.segs {
			if r.seg != nil && s.first <= r.seg.first {
				continue // it was read to its end
			}
			if to == nil || s.first <= r.next {
				to = s
			}
		}
		l.mu.Unlock()
		if to == nil {
			return nil
		}
		f, err := os.Open(to.path)
		if errors.Is(err, fs.ErrNotExist) {
			r.seg = to // the ring has turned
			continue
		}
		if err != nil {
			return err
		}
		var head header
		at, err := readFrame(f, 0, &head)
		if err != nil {
			_ = f.Close() // it was only read
			if errors.Is(err, errDamaged) || errors.Is(err, io.EOF) {
				r.seg = to
				continue
			}
			return err
		}
		r.file, r.seg, r.at = f, to, at
		return nil
	}
}

// Close lets go of the reader.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}
