// Package journal remembers what the processes of a sandbox did and said, for
// the host to read: one entry when a process starts, one per line of output,
// one when it ends.
//
// It lives in a ring of bounded size and takes output at a bounded rate, so
// that neither a flood nor an absent reader costs the sandbox anything; an
// entry says how much is missing. Appending copies a line into memory and
// never waits, so a process is never slowed down by its own log. Nothing runs
// here while no process does.
package journal

import (
	"context"
	"strconv"
	"sync"
	"time"
)

const (
	// maxText bounds the ring: the bytes of all messages and fields in it.
	maxText = 256 << 10
	// entryOverhead is what an entry costs beside its text.
	entryOverhead = 128
	// maxLine is where a line of output is cut.
	maxLine = 4 << 10
	// rate and burst bound the output that is taken, in bytes.
	rate  = 256 << 10
	burst = 512 << 10
)

// Entry is one line of the journal.
type Entry struct {
	Seq     uint64            `json:"seq"`
	Time    time.Time         `json:"time"`
	Level   string            `json:"level"` // info, warn or error
	Message string            `json:"message"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// size is what an entry counts against the ring.
func (e *Entry) size() int {
	n := entryOverhead + len(e.Message)
	for k, v := range e.Fields {
		n += len(k) + len(v)
	}
	return n
}

// Journal is safe for concurrent use. The zero value is ready.
type Journal struct {
	mu      sync.Mutex
	entries []Entry       // +checklocks:mu — ascending by Seq, without gaps
	text    int           // +checklocks:mu
	last    uint64        // +checklocks:mu
	base    uint64        // +checklocks:mu — what is up to here was forgotten on purpose
	tokens  float64       // +checklocks:mu
	filled  time.Time     // +checklocks:mu
	dropped int           // +checklocks:mu — bytes of output the rate refused
	wake    chan struct{} // +checklocks:mu — closed by the next append; nil if nobody waits
}

// Next returns the entries after seq, waiting until there is one or ctx ends.
// If entries after seq have left the ring, the first one returned says how
// many. A seq from the future is one that a rolled-back sandbox has forgotten;
// it starts over.
func (j *Journal) Next(ctx context.Context, seq uint64) ([]Entry, error) {
	for {
		j.mu.Lock()
		if seq > j.last {
			seq = 0
		}
		if got := j.afterLocked(seq); len(got) > 0 {
			j.mu.Unlock()
			return got, nil
		}
		if j.wake == nil {
			j.wake = make(chan struct{})
		}
		wake := j.wake
		j.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// afterLocked copies the entries after seq.
//
// +checklocks:j.mu
func (j *Journal) afterLocked(seq uint64) []Entry {
	seq = max(seq, j.base)
	if len(j.entries) == 0 || seq >= j.last {
		return nil
	}
	oldest := j.entries[0].Seq
	if seq+1 >= oldest {
		return append([]Entry(nil), j.entries[seq+1-oldest:]...)
	}
	missing := oldest - seq - 1
	out := make([]Entry, 1, len(j.entries)+1)
	out[0] = Entry{
		Seq:     oldest - 1,
		Time:    j.entries[0].Time,
		Level:   "warn",
		Message: strconv.FormatUint(missing, 10) + " log entries were dropped",
		Fields:  map[string]string{"dropped_entries": strconv.FormatUint(missing, 10)},
	}
	return append(out, j.entries...)
}

// Reset forgets all entries: a snapshot has become another sandbox, whose log
// starts empty. Sequence numbers go on.
func (j *Journal) Reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries, j.text, j.dropped, j.base = nil, 0, 0, j.last
}

// Warn records something that is amiss in the sandbox.
func (j *Journal) Warn(message string) {
	j.add("warn", cut(message, maxLine), nil)
}

// add appends an entry.
func (j *Journal) add(level, message string, fields map[string]string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.addLocked(time.Now(), level, message, fields)
}

// +checklocks:j.mu
func (j *Journal) addLocked(now time.Time, level, message string, fields map[string]string) {
	j.last++
	e := Entry{Seq: j.last, Time: now.UTC(), Level: level, Message: message, Fields: fields}
	j.entries = append(j.entries, e)
	j.text += e.size()
	cut := 0
	for j.text > maxText && cut < len(j.entries)-1 {
		j.text -= j.entries[cut].size()
		cut++
	}
	if cut > 0 {
		clear(j.entries[:cut])
		j.entries = j.entries[cut:]
	}
	if j.wake != nil {
		close(j.wake)
		j.wake = nil
	}
}

// take asks whether n bytes of output may be recorded now. When output is let
// in again after a refusal, an entry says what was lost.
func (j *Journal) take(n int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	if j.filled.IsZero() {
		j.tokens = burst
	} else {
		j.tokens = min(burst, j.tokens+now.Sub(j.filled).Seconds()*rate)
	}
	j.filled = now
	if j.tokens < float64(n) {
		j.dropped += n
		return false
	}
	j.tokens -= float64(n)
	j.tellDroppedLocked(now)
	return true
}

// tellDropped reports lost output, if there is any.
func (j *Journal) tellDropped() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tellDroppedLocked(time.Now())
}

// +checklocks:j.mu
func (j *Journal) tellDroppedLocked(now time.Time) {
	if j.dropped == 0 {
		return
	}
	n := strconv.Itoa(j.dropped)
	j.dropped = 0
	j.addLocked(now, "warn", n+" bytes of output were dropped from the log", map[string]string{"dropped_bytes": n})
}
