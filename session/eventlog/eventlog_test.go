package eventlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/session/eventlog"
)

func open(t *testing.T, dir string, size soulbox.Bytes) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Open(dir, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func output(seq uint64, data []byte) eventlog.Entry {
	g := soulbox.GuestEvent{Seq: seq, At: time.Unix(int64(seq), 0).UTC(), Kind: soulbox.EventOutput, PID: 3, Stream: "stdout", Data: data}
	return eventlog.Entry{Event: soulbox.SessionEvent{
		At: time.Unix(int64(seq), 5).UTC(), Kind: soulbox.SessionEventKind(g.Kind), Sandbox: "ia", Epoch: "e1", Guest: &g,
	}}
}

func write(t *testing.T, l *eventlog.Log, from, to uint64, size int) {
	t.Helper()
	for seq := from; seq <= to; seq++ {
		if id, err := l.Append(output(seq, bytes.Repeat([]byte{byte(seq)}, size))); err != nil || id != seq {
			t.Fatalf("Append of %d = %d, %v", seq, id, err)
		}
	}
}

func read(t *testing.T, l *eventlog.Log, after uint64) []soulbox.SessionEvent {
	t.Helper()
	r, err := l.Reader(after)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []soulbox.SessionEvent
	for {
		e, err := r.Try()
		if err != nil {
			t.Fatal(err)
		}
		if e == nil {
			return all
		}
		all = append(all, *e)
	}
}

// wantIDs checks that what is read are events without holes, and returns how
// many a gap at the beginning tells are lost.
func wantIDs(t *testing.T, got []soulbox.SessionEvent, after, head uint64) (lost uint64) {
	t.Helper()
	next := after + 1
	for i, e := range got {
		if e.Kind == soulbox.LogGap {
			if e.ID != next+e.Lost-1 || i > 0 && got[i-1].Kind == soulbox.LogGap {
				t.Fatalf("gap %+v, want one that begins at %d", e, next)
			}
			lost += e.Lost
		} else if e.ID != next || e.Guest == nil || e.Guest.Seq != e.ID || len(e.Guest.Data) > 0 && e.Guest.Data[0] != byte(e.ID) {
			t.Fatalf("event %+v, want number %d", e, next)
		}
		next = e.ID + 1
	}
	if next != head+1 {
		t.Fatalf("read up to %d, want %d", next-1, head)
	}
	return lost
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	entries := []eventlog.Entry{
		{Event: soulbox.SessionEvent{At: time.Unix(1, 0).UTC(), Kind: soulbox.SessionStarted}},
		{
			Event: soulbox.SessionEvent{At: time.Unix(2, 0).UTC(), Kind: soulbox.SandboxJoined, Sandbox: "ia", Reason: "雪\x00"},
			Place: &eventlog.Place{State: soulbox.Running, Epochs: []eventlog.Seen{{ID: "e1", First: 1, Last: 0}}},
		},
		output(1, []byte("\x00\xff\n")),
		{Event: soulbox.SessionEvent{Kind: soulbox.EventsUndone, Sandbox: "ia", Epoch: "e1", Seq: 7, Lost: 8, Snapshot: "s1", Name: "n"}},
	}
	var want []soulbox.SessionEvent
	for i, e := range entries {
		if _, err := l.Append(e); err != nil {
			t.Fatal(err)
		}
		e.Event.ID = uint64(i + 1)
		want = append(want, e.Event)
	}
	for range 2 {
		if diff := cmp.Diff(want, read(t, l, 0)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		place, _ := l.Place("ia")
		if diff := cmp.Diff(eventlog.Place{State: soulbox.Running, Epochs: []eventlog.Seen{{ID: "e1", First: 1, Last: 1}}}, place); diff != "" {
			t.Errorf("place (-want +got):\n%s", diff)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, 0)
	}
	if _, err := l.Reader(5); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("Reader behind the end: %v, want Invalid", err)
	}
}

func TestOnce(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	write(t, l, 1, 3, 1)
	for range 2 {
		if id, err := l.Append(output(2, nil)); id != 0 || err != nil {
			t.Errorf("Append of what is there = %d, %v", id, err)
		}
		_ = l.Close()
		l = open(t, dir, 0)
	}
	again := output(2, nil)
	again.Event.Epoch = "e2" // another branch
	if id, err := l.Append(again); id != 4 || err != nil {
		t.Errorf("Append in another epoch = %d, %v", id, err)
	}
}

func TestRing(t *testing.T) {
	dir := t.TempDir()
	const size = 2 * soulbox.MiB // the smallest
	l := open(t, dir, size)
	slow, err := l.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := func() (any, error) { write(t, l, 1, 1, 100); return slow.Try() }(); err != nil {
		t.Fatal(err)
	}
	const n = 3000
	write(t, l, 2, n, 1000)
	for range 2 {
		if lost := wantIDs(t, read(t, l, 0), 0, n); lost == 0 || lost > 2*n/3 {
			t.Errorf("%d of %d events are lost", lost, n)
		}
		if lost := wantIDs(t, read(t, l, n-10), n-10, n); lost != 0 {
			t.Errorf("%d of the last ten events are lost", lost)
		}
		var used int64
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			used += info.Size()
		}
		if used > int64(size) || used < int64(size)/2 {
			t.Errorf("the log takes %d bytes, want up to %d", used, size)
		}
		_ = l.Close()
		l = open(t, dir, size)
	}
	if place, ok := l.Place("ia"); !ok || place.Epochs[0].Last != n || place.Epochs[0].First != 1 {
		t.Errorf("Place = %+v", place)
	}
}

// TestTorn cuts the newest segment at every byte of its last two frames.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 0)
	write(t, l, 1, 4, 10)
	_ = l.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "*.events"))
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var ends []int // of frames
	for at := 0; at < len(whole); {
		at += 8 + int(whole[at]) + int(whole[at+1])<<8
		ends = append(ends, at)
	}
	for cut := ends[len(ends)-3]; cut <= len(whole); cut++ {
		for _, junk := range [][]byte{nil, make([]byte, 20), []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff")} {
			if err := os.WriteFile(files[0], append(slices.Clone(whole[:cut]), junk...), 0o600); err != nil {
				t.Fatal(err)
			}
			l := open(t, dir, 0)
			head := uint64(0)
			for i, end := range ends[1:] {
				if end <= cut {
					head = uint64(i + 1)
				}
			}
			wantIDs(t, read(t, l, 0), 0, head)
			write(t, l, head+1, head+2, 5)
			wantIDs(t, read(t, l, 0), 0, head+2)
			_ = l.Close()
			l = open(t, dir, 0)
			wantIDs(t, read(t, l, 0), 0, head+2)
			_ = l.Close()
		}
	}
}

// TestDamage flips bits in older segments.
func TestDamage(t *testing.T) {
	const n = 1000
	for _, at := range []float64{0, 0.3, 0.7} {
		dir := t.TempDir()
		l := open(t, dir, 2*soulbox.MiB)
		write(t, l, 1, n, 1000)
		_ = l.Close()
		files, _ := filepath.Glob(filepath.Join(dir, "*.events"))
		if len(files) < 3 {
			t.Fatalf("%d segments are too few", len(files))
		}
		b, err := os.ReadFile(files[1])
		if err != nil {
			t.Fatal(err)
		}
		b[int(at*float64(len(b)))+20] ^= 4
		if err := os.WriteFile(files[1], b, 0o600); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir, 2*soulbox.MiB)
		if lost := wantIDs(t, read(t, l, 0), 0, n); lost == 0 || lost > n/2 {
			t.Errorf("damage at %v: %d events are lost", at, lost)
		}
	}
}

func TestFollow(t *testing.T) {
	l := open(t, t.TempDir(), 2*soulbox.MiB)
	const n, readers = 2000, 4
	var wg sync.WaitGroup
	for range readers {
		r, err := l.Reader(0)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer r.Close()
			var got []soulbox.SessionEvent
			for {
				e, err := r.Next(t.Context())
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Error(err)
					return
				}
				got = append(got, e)
			}
			wantIDs(t, got, 0, n)
		})
	}
	write(t, l, 1, n, 500)
	l.Seal()
	wg.Wait()
	if _, err := l.Append(output(n+1, nil)); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Append to a sealed log: %v, want Conflict", err)
	}
}

func TestWaiting(t *testing.T) {
	l := open(t, t.TempDir(), 0)
	r, err := l.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := r.Next(ctx); !errors.Is(err, why) {
		t.Errorf("Next = %v, want %v", err, why)
	}
	ended := make(chan error, 1)
	go func() { _, err := r.Next(context.Background()); ended <- err }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, eventlog.ErrClosed) {
		t.Errorf("Next of a closed log = %v", err)
	}
	if _, err := l.Append(output(1, nil)); !errors.Is(err, eventlog.ErrClosed) {
		t.Errorf("Append to a closed log = %v", err)
	}
}

// FuzzOpen opens folders with a segment of anything.
func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	l, err := eventlog.Open(dir, 0)
	if err != nil {
		f.Fatal(err)
	}
	for seq := range uint64(3) {
		if _, err := l.Append(output(seq+1, []byte("x"))); err != nil {
			f.Fatal(err)
		}
	}
	_ = l.Close()
	name := fmt.Sprintf("%020d.events", 1)
	whole, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := eventlog.Open(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		id, err := l.Append(eventlog.Entry{Event: soulbox.SessionEvent{Kind: soulbox.SessionStarted}})
		if err != nil || id == 0 {
			t.Fatalf("Append = %d, %v", id, err)
		}
		r, err := l.Reader(id - 1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if e, err := r.Try(); err != nil || e == nil || e.ID != id || e.Kind != soulbox.SessionStarted {
			t.Fatalf("the event is read as %+v, %v", e, err)
		}
	})
}
