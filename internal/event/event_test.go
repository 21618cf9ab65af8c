package event_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/internal/event"
)

var examples = []event.Event{
	{Kind: event.Alive},
	{Kind: event.Started, Seq: 1, At: 1, PID: 7, Text: []byte("sh -c true")},
	{Kind: event.Started, Seq: 2, At: -1, PID: math.MaxInt32},
	{Kind: event.Output, Seq: 3, At: math.MaxInt64, PID: 1, Stream: "stdout", Text: bytes.Repeat([]byte{0, 255}, event.MaxOutput/2)},
	{Kind: event.Output, Seq: 4, At: math.MinInt64, PID: 1, Stream: "stderr", Text: []byte{0}},
	{Kind: event.Output, Seq: 5, PID: 1, Stream: "pty"},
	{Kind: event.Ended, Seq: 300, PID: 1, ExitCode: 255},
	{Kind: event.Ended, Seq: 301, PID: 1, ExitCode: -1, Text: []byte("SIGKILL")},
	{Kind: event.File, Seq: 302, Op: "create", Text: []byte("/a")},
	{Kind: event.File, Seq: 303, Op: "chmod", Text: []byte("/\xff")},
	{Kind: event.Gap, Seq: math.MaxUint64, Lost: math.MaxUint64},
}

func TestRoundTrip(t *testing.T) {
	var all []byte
	for i := range examples {
		all = event.Append(all, &examples[i])
	}
	for name, in := range map[string]io.Reader{"whole": bytes.NewReader(all), "bytewise": iotest.OneByteReader(bytes.NewReader(all))} {
		r := event.NewReader(in)
		for _, want := range examples {
			got, err := r.Next()
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s: %v (-want +got)\n%s", name, err, diff)
			}
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: at the end %v, want io.EOF", name, err)
		}
	}
}

// Every beginning of a frame is incomplete, and every flipped bit is found.
func TestDamage(t *testing.T) {
	for _, e := range examples {
		if len(e.Text) > 1<<10 {
			e.Text = e.Text[:1<<10]
		}
		b := event.Append(nil, &e)
		for n := range b {
			if _, _, err := event.Parse(b[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%d of %d bytes: %v, want io.ErrUnexpectedEOF", n, len(b), err)
			}
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if _, err := event.NewReader(bytes.NewReader(b[:n])).Next(); !errors.Is(err, want) {
				t.Fatalf("reading %d of %d bytes: %v, want %v", n, len(b), err, want)
			}
		}
		for bit := range 8 * len(b) {
			broken := bytes.Clone(b)
			broken[bit/8] ^= 1 << (bit % 8)
			if got, _, err := event.Parse(broken); err == nil {
				t.Fatalf("bit %d flipped: %+v", bit, got)
			}
		}
	}
}

func TestCuts(t *testing.T) {
	long := []byte(strings.Repeat("x", 1<<20))
	for kind, most := range map[event.Kind]int{event.Started: event.MaxCommand, event.Output: event.MaxOutput, event.Ended: event.MaxSignal, event.File: event.MaxPath} {
		b := event.Append(nil, &event.Event{Kind: kind, Seq: math.MaxUint64, At: math.MinInt64, PID: 1, Stream: "pty", Op: "write", ExitCode: math.MinInt32, Text: long})
		got, n, err := event.Parse(b)
		if err != nil || n != len(b) || n > event.MaxSize || len(got.Text) != most {
			t.Errorf("kind %d: %d bytes of text in %d, %v; want %d", kind, len(got.Text), n, err, most)
		}
	}
}

// FuzzParse: what is read is what would be written.
func FuzzParse(f *testing.F) {
	for i := range examples {
		b := event.Append(nil, &examples[i])
		f.Add(b, false)
		f.Add(b[8:], true)
	}
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0}, false)
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, b []byte, bare bool) {
		if bare { // the checksum keeps nobody out who can count
			head := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
			head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
			b = append(head, b...)
		}
		e, n, err := event.Parse(b)
		if err != nil {
			return
		}
		if again := event.Append(nil, &e); !bytes.Equal(again, b[:n]) {
			t.Errorf("%x is %+v, which is %x", b[:n], e, again)
		}
	})
}
