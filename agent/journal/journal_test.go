package journal_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/agent/journal"
)

// all returns every entry that is there.
func all(t *testing.T, j *journal.Journal) []journal.Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	got, err := j.Next(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEntries(t *testing.T) {
	var j journal.Journal
	p := j.Begin(7, []string{"echo", "a b"}, "user", "/home/user")
	p.Output(journal.Stdout, []byte("one\ntw"))
	p.Output(journal.Stderr, []byte("bad\r\n\n"))
	p.Output(journal.Stdout, []byte("o\nth\xffree"))
	p.End(3, "exit status 3")
	got := all(t, &j)
	for i := range got {
		if got[i].Time.IsZero() {
			t.Errorf("entry %d has no time", i)
		}
		got[i].Time = time.Time{}
	}
	want := []journal.Entry{
		{Seq: 1, Level: "info", Message: "process started", Fields: map[string]string{"pid": "7", "cmd": "echo a b", "user": "user", "cwd": "/home/user"}},
		{Seq: 2, Level: "info", Message: "one", Fields: map[string]string{"pid": "7", "stream": "stdout"}},
		{Seq: 3, Level: "warn", Message: "bad", Fields: map[string]string{"pid": "7", "stream": "stderr"}},
		{Seq: 4, Level: "info", Message: "two", Fields: map[string]string{"pid": "7", "stream": "stdout"}},
		{Seq: 5, Level: "info", Message: "th\uFFFDree", Fields: map[string]string{"pid": "7", "stream": "stdout"}},
		{Seq: 6, Level: "warn", Message: "process ended: exit status 3", Fields: map[string]string{"pid": "7", "exit_code": "3"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal.Journal
		p := j.Begin(1, []string{"x"}, "", "")
		got := make(chan []journal.Entry)
		go func() {
			entries, _ := j.Next(t.Context(), 1)
			got <- entries
		}()
		synctest.Wait()
		p.End(0, "exit status 0")
		if entries := <-got; len(entries) != 1 || entries[0].Seq != 2 {
			t.Errorf("Next(1) = %v, want the second entry", entries)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := j.Next(ctx, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next at the end = %v, want the context's error", err)
		}
		// A number from before a rollback starts over.
		if entries, err := j.Next(ctx, 99); err == nil {
			t.Log(entries)
		}
	})
}

func TestRingTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal.Journal
		p := j.Begin(1, []string{"x"}, "", "")
		line := []byte(strings.Repeat("a", 1000) + "\n")
		for range 2000 {
			p.Output(journal.Stdout, line)
			time.Sleep(time.Second) // of the bubble: the rate is no matter here
		}
		got, err := j.Next(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for i, e := range got {
			size += len(e.Message)
			if i > 0 && e.Seq != got[i-1].Seq+1 {
				t.Fatalf("entry %d follows %d", e.Seq, got[i-1].Seq)
			}
		}
		if size > 256<<10 || size < 128<<10 {
			t.Errorf("the ring holds %d bytes, want a little less than 256 KiB", size)
		}
		if got[0].Level != "warn" || got[0].Fields["dropped_entries"] == "" || got[len(got)-1].Seq != 2001 {
			t.Errorf("first = %+v, last = %d", got[0], got[len(got)-1].Seq)
		}
		j.Reset()
		p.End(0, "exit status 0")
		if got, err := j.Next(t.Context(), 5); err != nil || len(got) != 1 || got[0].Seq != 2002 {
			t.Errorf("after Reset, Next = %v, %v; want only entry 2002", got, err)
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal.Journal
		p := j.Begin(1, []string{"yes"}, "", "")
		chunk := []byte(strings.Repeat("y\n", 16<<10))
		for range 1000 { // 32 MB at once
			p.Output(journal.Stdout, chunk)
		}
		p.End(0, "exit status 0")
		got, err := j.Next(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		told := got[len(got)-2]
		if told.Fields["dropped_bytes"] != "32243712" { // all but the burst
			t.Errorf("before the end: %+v, want what was dropped", told)
		}
	})
}

func TestLongLine(t *testing.T) {
	var j journal.Journal
	p := j.Begin(1, []string{"x"}, "", "")
	p.Output(journal.Stdout, []byte(strings.Repeat("é", 5000)+"\nshort\n"))
	for range 10 {
		p.Output(journal.Stderr, []byte(strings.Repeat("b", 1000)))
	}
	p.Output(journal.Stderr, []byte("\nshort\n"))
	var lengths []int
	for _, e := range all(t, &j)[1:] {
		lengths = append(lengths, len(e.Message))
	}
	if diff := cmp.Diff([]int{4096 + 3, 5, 4096 + 3, 5}, lengths); diff != "" {
		t.Errorf("lengths of lines (-want +got):\n%s", diff)
	}
}
