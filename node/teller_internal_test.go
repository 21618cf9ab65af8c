package node

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestTeller(t *testing.T) {
	type piece struct{ stream, data string }
	long := strings.Repeat("x", lineMost)
	tests := []struct {
		name   string
		pieces []piece
		want   []string
		last   string
	}{
		{name: "nothing"},
		{"lines", []piece{{"stdout", "one\ntwo\n"}}, []string{"[stdout]: one", "[stdout]: two"}, "two"},
		{"in pieces", []piece{{"stdout", "o"}, {"stderr", "t"}, {"stdout", "ne\n"}, {"stderr", "wo\n"}}, []string{"[stdout]: one", "[stderr]: two"}, "two"},
		{"without an end", []piece{{"stderr", "two"}, {"stdout", "one"}}, []string{"[stdout]: one", "[stderr]: two"}, "two"},
		{"empty lines", []piece{{"stdout", "one\n\n \n"}}, []string{"[stdout]: one", "[stdout]: ", "[stdout]: "}, "one"},
		{"as for Windows", []piece{{"stdout", "one\r\ntwo\r\n"}}, []string{"[stdout]: one", "[stdout]: two"}, "two"},
		{"written over", []piece{{"stdout", "10 %\r20 %\r100 %\n"}}, []string{"[stdout]: 100 %"}, "100 %"},
		{"colours", []piece{{"stdout", "\x1b[31mred\x1b[0m\tdot\x00\n"}}, []string{"[stdout]: [31mred[0m\tdot"}, "[31mred[0m\tdot"},
		{"no text", []piece{{"stdout", "a\xff\xfeb\n"}}, []string{"[stdout]: a\ufffdb"}, "a\ufffdb"},
		{"letters in pieces", []piece{{"stdout", "\xc3"}, {"stdout", "\xa4\n"}}, []string{"[stdout]: ä"}, "ä"},
		{"long", []piece{{"stdout", long + "y\n"}}, []string{"[stdout]: " + long, "[stdout]: y"}, "y"},
		{"cut within a letter", []piece{{"stdout", long[1:] + "ää\n"}}, []string{"[stdout]: " + long[1:], "[stdout]: \ufffdä"}, "\ufffdä"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			tell := &teller{say: func(l soulbox.BuildLine) {
				if l.Level != "info" || l.Step != "finalize" || time.Since(l.At) > time.Minute {
					t.Errorf("a line is %+v", l)
				}
				got = append(got, strings.TrimPrefix(l.Message, "[finalize] "))
			}}
			quiet := &teller{}
			for _, p := range tt.pieces {
				if !tell.take(p.stream, []byte(p.data)) || !quiet.take(p.stream, []byte(p.data)) {
					t.Errorf("after %.100q it was enough", p)
				}
			}
			tell.flush()
			tell.flush() // it repeats
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
			if a, b := tell.last(), quiet.last(); a != tt.last || b != tt.last {
				t.Errorf("last() = %q and %q, want %q", a, b, tt.last)
			}
		})
	}
}

// What is told has an end, and what is not told is taken at a bounded pace.
func TestTellerEnough(t *testing.T) {
	size, lines, last := 0, 0, ""
	tell := &teller{say: func(l soulbox.BuildLine) { size, lines, last = size+len(l.Message), lines+1, l.Message }}
	out := tell.output(t.Context())
	began := time.Now()
	for range 3 * tellMost / lineCost {
		if err := out("stdout", []byte("\n")); err != nil {
			t.Fatal(err)
		}
	}
	if want := tellMost/lineCost + 1; lines != want || !strings.HasSuffix(last, "The output is too long, and the rest of it is not shown") {
		t.Errorf("%d lines, of which the last is %q; want %d", lines, last, want)
	}
	for range 2 {
		if err := out("stdout", make([]byte, dropMost)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 2*dropEvery {
		t.Errorf("%d bytes were dropped in %v", 2*dropMost, took)
	}
	if out("stdout", []byte("the end\n")); tell.last() != "the end" {
		t.Errorf("last() = %.100q", tell.last())
	}
}

// FuzzTeller: whatever is written, in whatever pieces, what is told is text in
// lines, and bounded.
func FuzzTeller(f *testing.F) {
	f.Add([]byte("one\ntwo\r\n\xff\x1b[0m"), uint8(3))
	f.Add([]byte(strings.Repeat("ä", 3*lineMost)), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		tell := &teller{say: func(l soulbox.BuildLine) {
			if len(l.Message) > lineMost+100 || !utf8.ValidString(l.Message) || strings.ContainsAny(l.Message, "\n\r\x00\x1b") {
				t.Errorf("a line is %q", l.Message)
			}
		}}
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+int(size))
			tell.take([]string{"stdout", "stderr"}[n%2], rest[:n])
			rest = rest[n:]
		}
		if last := tell.last(); len(last) > lastMost || !utf8.ValidString(last) {
			t.Errorf("last() = %q", last)
		}
	})
}
