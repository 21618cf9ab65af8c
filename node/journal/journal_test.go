package journal_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/journal"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// entry is number seq, told seq seconds after noon.
func entry(seq uint64, level, message string) guest.Entry {
	return guest.Entry{Seq: seq, LogEntry: soulbox.LogEntry{
		At: noon.Add(time.Duration(seq) * time.Second), Level: level, Message: message,
	}}
}

func open(t *testing.T, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func add(t *testing.T, j *journal.Journal, entries ...guest.Entry) {
	t.Helper()
	for _, e := range entries {
		if err := j.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

// wantMessages queries j.
func wantMessages(t *testing.T, j *journal.Journal, q soulbox.LogQuery, want ...string) {
	t.Helper()
	found, err := j.Query(q)
	if err != nil {
		t.Fatalf("Query(%+v): %v", q, err)
	}
	var got []string
	for _, e := range found {
		got = append(got, e.Message)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Query(%+v): (-want +got)\n%s", q, diff)
	}
}

func TestEmpty(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	j := open(t, dir)
	if j.Last() != 0 {
		t.Errorf("Last() = %d, want 0", j.Last())
	}
	wantMessages(t, j, soulbox.LogQuery{})
	wantMessages(t, j, soulbox.LogQuery{Backward: true})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a journal that nobody wrote to has a folder: %v", err)
	}
}

func TestAppend(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "journal")
	j := open(t, dir)
	full := entry(3, "warn", "<b> & \u2028 \x00 \n \"quoted\" ☃")
	full.Fields = map[string]string{"pid": "7", "<": ">"}
	add(t, j, full)
	add(t, j, entry(3, "info", "the same number"), entry(2, "info", "an older one"), entry(0, "info", "zero"))
	if j.Last() != 3 {
		t.Errorf("Last() = %d, want 3", j.Last())
	}
	add(t, j, entry(9, "info", "later"))
	want := []soulbox.LogEntry{full.LogEntry, entry(9, "info", "later").LogEntry}
	for _, j := range []*journal.Journal{j, open(t, dir)} {
		got, err := j.Query(soulbox.LogQuery{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	add(t, j, entry(1, "info", "one"), entry(2, "info", "two"))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantMessages(t, j, soulbox.LogQuery{}, "one", "two") // it can be read after Close
	j = open(t, dir)
	if j.Last() != 2 {
		t.Errorf("Last() after reopening = %d, want 2", j.Last())
	}
	add(t, j, entry(2, "info", "two again"), entry(3, "info", "three"))
	wantMessages(t, j, soulbox.LogQuery{}, "one", "two", "three")
}

func TestQuery(t *testing.T) {
	j := open(t, t.TempDir())
	for i, level := range []string{"debug", "info", "warn", "error", "info", "warn"} {
		add(t, j, entry(uint64(i+1), level, fmt.Sprintf("%s %d", level, i+1)))
	}
	at := func(seq int) time.Time { return noon.Add(time.Duration(seq) * time.Second) }
	tests := []struct {
		name string
		q    soulbox.LogQuery
		want []string
	}{
		{"all", soulbox.LogQuery{}, []string{"debug 1", "info 2", "warn 3", "error 4", "info 5", "warn 6"}},
		{"backward", soulbox.LogQuery{Backward: true}, []string{"warn 6", "info 5", "error 4", "warn 3", "info 2", "debug 1"}},
		{"limit", soulbox.LogQuery{Limit: 2}, []string{"debug 1", "info 2"}},
		{"limit_backward", soulbox.LogQuery{Limit: 2, Backward: true}, []string{"warn 6", "info 5"}},
		{"limit_of_one_backward", soulbox.LogQuery{Limit: 1, Backward: true}, []string{"warn 6"}},
		{"limit_is_the_number", soulbox.LogQuery{Limit: 6, Backward: true}, []string{"warn 6", "info 5", "error 4", "warn 3", "info 2", "debug 1"}},
		{"largest_limit", soulbox.LogQuery{Limit: math.MaxInt, Backward: true, Level: "warn"}, []string{"warn 6", "error 4", "warn 3"}},
		{"negative_limit", soulbox.LogQuery{Limit: -1, Level: "error"}, []string{"error 4"}},
		{"level", soulbox.LogQuery{Level: "warn"}, []string{"warn 3", "error 4", "warn 6"}},
		{"level_debug", soulbox.LogQuery{Level: "debug", Limit: 1}, []string{"debug 1"}},
		{"level_and_limit_backward", soulbox.LogQuery{Level: "warn", Limit: 2, Backward: true}, []string{"warn 6", "error 4"}},
		{"search", soulbox.LogQuery{Search: "o 2"}, []string{"info 2"}},
		{"search_nothing", soulbox.LogQuery{Search: "INFO"}, nil},
		{"from_is_included", soulbox.LogQuery{From: at(5)}, []string{"info 5", "warn 6"}},
		{"until_is_included", soulbox.LogQuery{Until: at(2), Backward: true}, []string{"info 2", "debug 1"}},
		{"between", soulbox.LogQuery{From: at(2), Until: at(3)}, []string{"info 2", "warn 3"}},
		{"from_the_future", soulbox.LogQuery{From: at(7)}, nil},
		{"everything_at_once", soulbox.LogQuery{From: at(2), Until: at(5), Level: "info", Search: "info", Limit: 1, Backward: true}, []string{"info 5"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantMessages(t, j, tt.q, tt.want...) })
	}
}

func TestDefaultLimit(t *testing.T) {
	j := open(t, t.TempDir())
	for seq := range uint64(2500) {
		add(t, j, entry(seq+1, "info", fmt.Sprint(seq+1)))
	}
	for backward, first := range map[bool]string{false: "1", true: "2500"} {
		got, err := j.Query(soulbox.LogQuery{Backward: backward})
		if err != nil || len(got) != 1000 || got[0].Message != first {
			t.Errorf("backward %v: %d entries, %v; want 1000 from %s on", backward, len(got), err, first)
		}
	}
}

// segment is half of what the journal promises of the disk.
const segment = 4 << 20

func size(t *testing.T, dir string) int64 {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, f := range files {
		fi, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += fi.Size()
	}
	return n
}

// A flood costs two segments of disk, also when every entry is written by
// another process, and what stays is the latest without a gap.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	text := strings.Repeat("x", 50<<10)
	var seq uint64
	for _, reopened := range []bool{false, true} {
		j := open(t, dir)
		for range 3 * segment / len(text) {
			if reopened {
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			}
			seq++
			add(t, j, entry(seq, "info", text))
			if n := size(t, dir); n > 2*segment {
				t.Fatalf("after %d entries the journal has %d bytes, more than two segments (reopened each time: %v)", seq, n, reopened)
			}
		}
	}
	j := open(t, dir)
	if j.Last() != seq {
		t.Errorf("Last() = %d, want %d", j.Last(), seq)
	}
	got, err := j.Query(soulbox.LogQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) < segment/len(text)-1 {
		t.Errorf("only %d entries stay, less than a segment", len(got))
	}
	for i, e := range got {
		if want := noon.Add(time.Duration(seq-uint64(len(got)-1-i)) * time.Second); !e.At.Equal(want) {
			t.Fatalf("entry %d of %d is of %v, want %v", i, len(got), e.At, want)
		}
	}
}

// TestTorn cuts the file at every place of the last line, as a crash may.
func TestTorn(t *testing.T) {
	first := t.TempDir()
	j := open(t, first)
	add(t, j, entry(1, "info", "one"), entry(2, "info", "two"))
	whole, err := os.ReadFile(filepath.Join(first, "current.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	begin := strings.Index(string(whole), "\n") + 1
	for cut := begin; cut <= len(whole); cut++ {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "current.jsonl"), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j := open(t, dir)
		want, last := []string{"one"}, uint64(1)
		if cut >= len(whole)-1 { // only its end is missing
			want, last = []string{"one", "two"}, 2
		}
		if j.Last() != last {
			t.Errorf("cut at %d: Last() = %d, want %d", cut, j.Last(), last)
		}
		wantMessages(t, j, soulbox.LogQuery{}, want...)
		// What comes next is not lost with the torn line.
		add(t, j, entry(3, "info", "three"))
		wantMessages(t, j, soulbox.LogQuery{}, append(want, "three")...)
		wantMessages(t, open(t, dir), soulbox.LogQuery{}, append(want, "three")...)
	}
}

// A line that is too long, wherever it comes from, hides nothing but itself.
func TestLongLine(t *testing.T) {
	line := func(e guest.Entry) string {
		b, err := json.Marshal(map[string]any{"seq": e.Seq, "at": e.At, "level": e.Level, "message": e.Message})
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	long := line(entry(2, "info", strings.Repeat("y", 1<<20)))
	for name, content := range map[string]string{
		"middle": line(entry(1, "info", "one")) + long + line(entry(3, "info", "three")),
		"end":    line(entry(1, "info", "one")) + line(entry(3, "info", "three")) + long,
		"torn":   line(entry(1, "info", "one")) + line(entry(3, "info", "three")) + long[:900<<10],
		"begin":  long + line(entry(1, "info", "one")) + line(entry(3, "info", "three")),
		"zeros":  line(entry(1, "info", "one")) + strings.Repeat("\x00", 600<<10) + "\n" + line(entry(3, "info", "three")),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "current.jsonl"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			j := open(t, dir)
			wantMessages(t, j, soulbox.LogQuery{}, "one", "three")
			wantMessages(t, j, soulbox.LogQuery{Backward: true, Limit: 1}, "three")
			add(t, j, entry(4, "info", "four"))
			wantMessages(t, open(t, dir), soulbox.LogQuery{}, "one", "three", "four")
		})
	}
}

// Whatever text an entry has, it can be read again once it was taken: what
// takes more room written down than it had in the agent's line, and what is
// longer than any agent may send.
func TestLongEntry(t *testing.T) {
	const agentLine = 64 << 10
	tests := []struct {
		name, text string
		n          int
		whole      bool
	}{
		{"plain", "a", agentLine, true},
		{"html", "<", agentLine, true},
		{"quotes", `"`, agentLine / 2, true},
		{"replaced", "\ufffd", agentLine, true}, // each was one byte that is not UTF-8
		{"separators", "\u2028", agentLine / 3, true},
		{"control", "\x01", agentLine / 6, true},
		{"too_long", "a", 1 << 20, false},
		{"too_long_control", "\x01", 1 << 20, false},
		{"too_long_unicode", "☃", 1 << 18, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir)
			text := strings.Repeat(tt.text, tt.n)
			e := entry(2, "info", text)
			e.Fields = map[string]string{"k": "v"}
			add(t, j, entry(1, "info", "one"), e, entry(3, "info", "three"))
			got, err := open(t, dir).Query(soulbox.LogQuery{})
			if err != nil || len(got) != 3 {
				t.Fatalf("%d entries, %v; want 3", len(got), err)
			}
			switch m := got[1].Message; {
			case tt.whole && (m != text || got[1].Fields["k"] != "v"):
				t.Errorf("%d bytes with %v, want all %d", len(m), got[1].Fields, len(text))
			case !tt.whole && (len(m) < 1000 || len(m) >= len(text) || !strings.HasPrefix(text, strings.TrimRight(m, "\ufffd"))):
				t.Errorf("%d bytes that begin with %.20q, want a long beginning of %.20q", len(m), m, text)
			}
		})
	}
}

func TestUnwritable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	j := open(t, dir)
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(entry(1, "info", "one")); err == nil {
		t.Error("an entry is written below a file")
	}
	if j.Last() != 0 {
		t.Errorf("Last() = %d after a failure, want 0: the entry must be asked for again", j.Last())
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	add(t, j, entry(1, "info", "one"))
	wantMessages(t, j, soulbox.LogQuery{}, "one")
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "current.jsonl"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(dir); err == nil {
		t.Error("Open finds nothing wrong with a folder in place of a file")
	}
}

// Readers see every entry that was there when they asked, in order and without
// a gap, while a writer makes segments change places.
func TestAtOnce(t *testing.T) {
	j := open(t, t.TempDir())
	text := strings.Repeat("x", 40<<10)
	const count = 3 * segment / (40 << 10)
	var wg sync.WaitGroup
	written := make(chan struct{})
	wg.Go(func() {
		defer close(written)
		for seq := range uint64(count) {
			if err := j.Append(entry(seq+1, "info", text)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		wg.Go(func() {
			for over := false; !over; {
				select {
				case <-written:
					over = true
				default:
				}
				least := j.Last()
				found, err := j.Query(soulbox.LogQuery{Limit: count})
				if err != nil {
					t.Error(err)
					return
				}
				if least > 0 && (len(found) == 0 || found[len(found)-1].At.Before(entry(least, "", "").At)) {
					t.Errorf("entry %d was written and is not found", least)
				}
				for i := 1; i < len(found); i++ {
					if d := found[i].At.Sub(found[i-1].At); d != time.Second {
						t.Errorf("between entries %d and %d are %v", i-1, i, d)
					}
				}
			}
		})
	}
	wg.Wait()
}

// FuzzJournal opens whatever lies in the files, and writes behind it.
func FuzzJournal(f *testing.F) {
	const good = `{"seq":1,"at":"2026-01-02T12:00:00Z","level":"info","message":"one"}` + "\n"
	f.Add(good, good)
	f.Add(good+"{", `{"seq":18446744073709551615,"level":"warn"}`)
	f.Add("\x00\xff\n\n[]\nnull\n{}\n", strings.Repeat("z", 300)+good)
	f.Fuzz(func(t *testing.T, previous, current string) {
		dir := t.TempDir()
		for name, content := range map[string]string{"previous.jsonl": previous, "current.jsonl": current} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		j, err := journal.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if j.Last() == math.MaxUint64 {
			return // nothing can be newer
		}
		before, err := j.Query(soulbox.LogQuery{Limit: math.MaxInt})
		if err != nil {
			t.Fatal(err)
		}
		mine := guest.Entry{Seq: j.Last() + 1, LogEntry: soulbox.LogEntry{At: noon, Level: "error", Message: "mine"}}
		if err := j.Append(mine); err != nil {
			t.Fatal(err)
		}
		after, err := j.Query(soulbox.LogQuery{Limit: math.MaxInt})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(append(before, mine.LogEntry), after); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		for _, e := range after {
			if !utf8.ValidString(e.Message) {
				t.Errorf("message %q", e.Message)
			}
		}
	})
}
