// Package record keeps what happens in a sandbox, for somebody who was away:
// which processes started and ended, every byte that they wrote, and which
// files changed below folders of interest. Unlike the journal, which is for
// reading and forgets what comes too fast, it leaves nothing out, keeps its
// events on the sandbox's disk, and survives the agent.
//
// It is off until [Recorder.Start], and costs nothing until then: no file, no
// goroutine, one comparison per piece of output.
//
// # The ring
//
// Events are frames of package event in up to eight files, of two MiB each
// unless told otherwise. A file's name is the number of its first event. When
// the newest is full another one is begun and the oldest removed; nothing else
// ever removes an event. One write(2) to the page cache is all that a process
// whose output is recorded waits for. An event that could not be written, for
// want of disk, leaves a hole in the numbers. A reader finds holes, wherever
// they come from, and gets a gap that says how many events it will not see.
//
// An agent that dies in the middle of a write leaves a torn end, which the
// next one cuts off.
//
// # Epochs
//
// A sandbox can be restored from an image more than once, and each copy goes
// on counting where the image was. So numbers are told together with epochs: a
// new one begins whenever the agent starts, and when the host says that this is
// a restored sandbox ([Recorder.Restored]). But programs run before the host
// can say so, and no clock or other thing in the sandbox shows that it was
// restored. So the host says before it saves a sandbox that it will
// ([Recorder.Hold]). From then on events are recorded but shown to nobody, until
// the host lets go of the one that was saved ([Recorder.Release]), where they
// belong to the epoch that was, or restores a copy, where they are the
// beginning of the copy's own. So two events that were ever shown never have
// the same number in the same epoch.
//
// An epoch is written down before its first event is shown.
//
// # Goroutines
//
// One for each watched folder, beside those of the watch itself. Start
// replaces them and [Recorder.Close] ends them.
//
// # Locks
//
// switching orders Start and Close and is held over walks through folders; mu
// guards the rest and is held over single writes. switching comes first.
package record

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soulbox/soulbox/internal/event"
)

const (
	// MaxPaths bounds how many folders are watched.
	MaxPaths = 64
	// standardSize is what the ring takes on disk, in bytes.
	standardSize = 16 << 20
	// maxEpochs bounds how many are remembered.
	maxEpochs = 64
)

// Errors of a [Recorder].
var (
	// ErrOff is that of a record that was never switched on, or was closed.
	ErrOff = errors.New("nothing is recorded")
	// ErrPaths is that of folders which cannot be watched.
	ErrPaths = errors.New("these folders cannot be watched")
	// ErrAhead is that of a reader who knows of events that have not happened
	// here.
	ErrAhead = errors.New("the record does not go that far")
)

// A Watch tells what happens below one folder.
type Watch interface {
	// Run calls tell with each change until ctx ends or the watch breaks, and
	// closes the watch. op is create, write, remove, rename or chmod.
	Run(ctx context.Context, tell func(path, op string)) error
}

// Options is what a recorder needs.
type Options struct {
	Dir   string                          // where the record is kept; it is made when it is needed
	Size  int64                           // of the ring, in bytes; 0: 16 MiB
	Watch func(dir string) (Watch, error) // starts to watch a folder; nil: none can be
	Warn  func(problem string)            // hears of what the record goes on without; nil: nobody does
}

// An Epoch is the part of a record between two starts or restores.
type Epoch struct {
	ID   string `json:"id"`
	From uint64 `json:"from"` // the number of its first event
}

// A Position tells where a record stands.
type Position struct {
	Epochs []Epoch `json:"epochs"`
	Head   uint64  `json:"head"` // the number of the newest event, or 0
	Tail   uint64  `json:"tail"` // of the oldest that is kept; Head+1 if none is
}

// A Recorder keeps the record of one sandbox. It is safe for concurrent use.
type Recorder struct {
	o  Options
	on atomic.Bool

	switching sync.Mutex
	watching  sync.WaitGroup
	unwatch   context.CancelFunc // +checklocks:switching — ends the watches; nil without

	mu     sync.Mutex
	paths  []string      // +checklocks:mu — that are watched
	epochs []Epoch       // +checklocks:mu
	ring   ring          // +checklocks:mu
	buf    []byte        // +checklocks:mu — of the frame that is being written
	held   uint64        // +checklocks:mu — events from this number on are not shown; 0: all are
	wake   chan struct{} // +checklocks:mu — closed by the next event; nil if nobody waits
}

// New returns a recorder. One that was on when the last agent ended is on
// again; what it cannot do it tells Warn. The caller closes it.
func New(o Options) *Recorder {
	if o.Size == 0 {
		o.Size = standardSize
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	r := &Recorder{o: o}
	if o.Dir == "" {
		return r
	}
	was, err := loadNotes(o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	if err == nil {
		err = r.start(was.Paths, true)
	}
	if err != nil {
		r.o.Warn(fmt.Sprintf("the record is off: %v", err))
	}
	return r
}

// Start switches the recorder on and has it watch the given folders and no
// others. When it fails everything is as it was; the error is [ErrPaths] if it
// is the caller's.
func (r *Recorder) Start(paths []string) error {
	if r.o.Dir == "" {
		return ErrOff
	}
	if len(paths) > MaxPaths {
		return fmt.Errorf("%w: they are %d, more than %d", ErrPaths, len(paths), MaxPaths)
	}
	clean := make([]string, 0, len(paths))
	for _, path := range paths {
		if !filepath.IsAbs(path) || len(path) > event.MaxPath || strings.ContainsRune(path, 0) {
			return fmt.Errorf("%w: %.100q is not an absolute path", ErrPaths, path)
		}
		clean = append(clean, filepath.Clean(path))
	}
	slices.Sort(clean)
	return r.start(slices.Compact(clean), false)
}

// start is Start for good paths. With lenient, folders that cannot be watched
// are left out.
func (r *Recorder) start(paths []string, lenient bool) (err error) {
	r.switching.Lock()
	defer r.switching.Unlock()
	r.mu.Lock()
	same := r.on.Load() && slices.Equal(paths, r.paths)
	r.mu.Unlock()
	if same {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	watches := make(map[string]Watch, len(paths))
	defer func() {
		if err != nil { // Run closes the watches
			cancel()
			for _, w := range watches {
				_ = w.Run(ctx, func(string, string) {}) // it ends at once
			}
		}
	}()
	for _, path := range paths {
		w, err := r.watch(path)
		if err != nil && !lenient {
			return fmt.Errorf("%w: %w", ErrPaths, err)
		}
		if err != nil {
			r.o.Warn(fmt.Sprintf("%s is not watched any more: %v", path, err))
			continue
		}
		watches[path] = w
	}
	if err := r.open(slices.Sorted(maps.Keys(watches))); err != nil {
		return err
	}
	if r.unwatch != nil {
		r.unwatch()
		r.watching.Wait()
	}
	r.unwatch = cancel
	for path, w := range watches {
		r.watching.Go(func() { r.follow(ctx, path, w) })
	}
	return nil
}

func (r *Recorder) watch(path string) (Watch, error) {
	if r.o.Watch == nil {
		return nil, errors.New("this record does not watch folders")
	}
	return r.o.Watch(path)
}

// open writes down what is recorded from now on, and opens the ring if it is
// not open yet.
func (r *Recorder) open(paths []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on.Load() {
		if err := (notes{Paths: paths, Epochs: r.epochs, Held: r.held}).save(r.o.Dir); err != nil {
			return err
		}
		r.paths = paths
		return nil
	}
	was, err := loadNotes(r.o.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.o.Warn(fmt.Sprintf("the epochs of the record are lost: %v", err))
	}
	if err := r.ring.open(r.o.Dir, r.o.Size); err != nil {
		return err
	}
	// What an epoch had may have been lost with the end of the ring. What was
	// held belongs to this copy.
	epochs := slices.DeleteFunc(was.Epochs, func(e Epoch) bool { return e.From > r.ring.head+1 })
	if was.Held != 0 && was.Held <= r.ring.head {
		epochs = another(epochs, was.Held)
	}
	epochs = another(epochs, r.ring.head+1)
	if err := (notes{Paths: paths, Epochs: epochs}).save(r.o.Dir); err != nil {
		r.ring.close()
		return err
	}
	r.paths, r.epochs, r.held = paths, epochs, 0
	r.on.Store(true)
	return nil
}

// another returns epochs with one more.
func another(epochs []Epoch, from uint64) []Epoch {
	drop := max(0, len(epochs)+1-maxEpochs)
	return append(slices.Clone(epochs[drop:]), Epoch{ID: strings.ToLower(rand.Text()), From: from})
}

// follow records what a watch tells until ctx ends. A watch that breaks, as it
// does when more happens than it can hold, has lost something nobody can
// count; it leaves one hole and begins anew.
func (r *Recorder) follow(ctx context.Context, path string, w Watch) {
	for {
		err := w.Run(ctx, func(path, op string) {
			r.add(&event.Event{Kind: event.File, Op: op, Text: []byte(path)})
		})
		if ctx.Err() != nil {
			return
		}
		r.o.Warn(fmt.Sprintf("changes below %s are missing from the record: %v", path, err))
		r.lose()
		if w, err = r.watch(path); err != nil {
			r.o.Warn(fmt.Sprintf("%s is not watched any more: %v", path, err))
			r.mu.Lock() // whoever asks for it again does not ask in vain
			r.paths = slices.DeleteFunc(slices.Clone(r.paths), func(p string) bool { return p == path })
			r.mu.Unlock()
			return
		}
	}
}

// Hold stops showing events, before the sandbox is saved.
func (r *Recorder) Hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on.Load() && r.held == 0 {
		r.noteLocked(r.epochs, r.ring.head+1)
	}
}

// Release shows what was held back: this is the sandbox that was saved.
func (r *Recorder) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on.Load() && r.held != 0 {
		r.noteLocked(r.epochs, 0)
		r.wakeLocked()
	}
}

// Restored shows what was held back as the beginning of a new epoch: this is a
// copy of the sandbox that was saved.
func (r *Recorder) Restored() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on.Load() {
		r.noteLocked(another(r.epochs, cmp.Or(r.held, r.ring.head+1)), 0)
		r.wakeLocked()
	}
}

// noteLocked changes what is shown under which epochs. That it may not be on
// disk matters only to an agent that starts from there.
//
// +checklocks:r.mu
func (r *Recorder) noteLocked(epochs []Epoch, held uint64) {
	if err := (notes{Paths: r.paths, Epochs: epochs, Held: held}).save(r.o.Dir); err != nil {
		r.o.Warn(fmt.Sprintf("an epoch of the record is not written down: %v", err))
	}
	r.epochs, r.held = epochs, held
}

// headLocked returns the number of the newest event that is shown.
//
// +checklocks:r.mu
func (r *Recorder) headLocked() uint64 {
	if r.held != 0 {
		return r.held - 1
	}
	return r.ring.head
}

// Started records that a process has started.
func (r *Recorder) Started(pid int, argv []string) {
	if r.on.Load() {
		r.add(&event.Event{Kind: event.Started, PID: pid, Text: []byte(strings.Join(argv, " "))})
	}
}

// Output records what a process wrote to a stream: stdout, stderr or pty.
// What belongs to one stream must come in order.
func (r *Recorder) Output(pid int, stream string, data []byte) {
	if !r.on.Load() {
		return
	}
	for part := range slices.Chunk(data, event.MaxOutput) {
		r.add(&event.Event{Kind: event.Output, PID: pid, Stream: stream, Text: part})
	}
}

// Ended records that a process is gone and its output complete. signal names
// what killed it; it is empty if the process exited.
func (r *Recorder) Ended(pid, exitCode int, signal string) {
	if r.on.Load() {
		r.add(&event.Event{Kind: event.Ended, PID: pid, ExitCode: exitCode, Text: []byte(signal)})
	}
}

// add gives an event its number and writes it down.
func (r *Recorder) add(e *event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.on.Load() {
		return
	}
	e.At = time.Now().UnixNano()
	e.Seq = r.ring.head + 1
	r.buf = event.Append(r.buf[:0], e)
	if r.ring.write(r.buf) == nil {
		r.wakeLocked()
	}
}

// lose leaves a hole.
func (r *Recorder) lose() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on.Load() {
		r.ring.head++
	}
}

// +checklocks:r.mu
func (r *Recorder) wakeLocked() {
	if r.wake != nil {
		close(r.wake)
		r.wake = nil
	}
}

// Position returns where the record stands; the zero Position if it is off.
func (r *Recorder) Position() Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.on.Load() {
		return Position{}
	}
	head := r.headLocked()
	return Position{Epochs: slices.Clone(r.epochs), Head: head, Tail: min(r.ring.segments[0].first, head+1)}
}

// Close ends the watches and closes the ring. Readers get [ErrOff].
func (r *Recorder) Close() {
	r.switching.Lock()
	defer r.switching.Unlock()
	if r.unwatch != nil {
		r.unwatch()
		r.watching.Wait()
		r.unwatch = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on.Swap(false) {
		r.ring.close()
		r.wakeLocked()
	}
}
