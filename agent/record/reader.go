package record

import (
	"context"
	"io"
	"slices"

	"github.com/soulbox/soulbox/internal/event"
)

// batch is how much a reader takes at once. Every event fits in it.
const batch = 2 * event.MaxSize

// A Reader walks through a record. It is for one goroutine.
type Reader struct {
	r    *Recorder
	seq  uint64 // of the last event that was returned
	file uint64 // the segment that comes next, by its first event; 0: find it
	off  int64  // where in it
	held uint64 // where the record was held when this got there; 0 if it did not
}

// After returns a reader of the events after seq, which may be 0. It is
// [ErrAhead] if the record has not come that far.
func (r *Recorder) After(seq uint64) (*Reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.on.Load():
		return nil, ErrOff
	case seq > r.headLocked():
		return nil, ErrAhead
	}
	return &Reader{r: r, seq: seq}, nil
}

// Next returns the frames of the next events, at least one, and waits for them
// if it must. Each event follows the one before by number, or a gap says how
// many are missing.
func (d *Reader) Next(ctx context.Context) ([]byte, error) {
	for {
		d.r.mu.Lock()
		if !d.r.on.Load() {
			d.r.mu.Unlock()
			return nil, ErrOff
		}
		held := d.r.held
		if held == 0 || d.held != held {
			if s, end := d.locate(d.r.ring.segments); s != nil {
				d.r.mu.Unlock()
				if frames := d.read(s.file, end, held); len(frames) > 0 {
					return frames, nil
				}
				continue
			}
		}
		if d.r.wake == nil {
			d.r.wake = make(chan struct{})
		}
		wake := d.r.wake
		d.r.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// locate returns the segment to read from next and where what is written of it
// ends; nil if everything has been read.
func (d *Reader) locate(segments []*segment) (*segment, int64) {
	i := slices.IndexFunc(segments, func(s *segment) bool { return s.first == d.file })
	if i < 0 { // it is a new reader, or the ring has turned
		for i = 0; i+1 < len(segments) && segments[i+1].first <= d.seq+1; {
			i++
		}
	}
	for _, s := range segments[i:] {
		if s.first != d.file {
			d.file, d.off = s.first, int64(len(magic))
		}
		if d.off < s.size {
			return s, s.size
		}
	}
	return nil, 0
}

// read returns the frames of events that lie before end and, unless that is 0,
// before number held; or nothing if there is none of interest in what was read.
// What cannot be read is skipped, up to the end of the segment at this moment;
// the next event shows how much it was.
func (d *Reader) read(f io.ReaderAt, end int64, held uint64) []byte {
	b := make([]byte, min(end-d.off, batch))
	if _, err := f.ReadAt(b, d.off); err != nil {
		// Either the segment was removed meanwhile, then locate finds another
		// one, or somebody has tampered with it.
		d.off = end
		return nil
	}
	out := make([]byte, 0, len(b))
	for read := 0; read < len(b); {
		e, n, err := event.Parse(b[read:])
		if err != nil {
			if read == 0 || int64(len(b)) == end-d.off {
				d.off = end
				return out
			}
			b = b[:read] // the rest of this one comes with the next batch
			break
		}
		if held != 0 && e.Seq >= held {
			d.held, b = held, b[:read] // and no further
			break
		}
		frame := b[read : read+n]
		read += n
		if e.Seq <= d.seq {
			continue
		}
		if lost := e.Seq - d.seq - 1; lost > 0 {
			out = event.Append(out, &event.Event{Kind: event.Gap, Seq: e.Seq - 1, At: e.At, Lost: lost})
		}
		out = append(out, frame...)
		d.seq = e.Seq
	}
	d.off += int64(len(b))
	return out
}
