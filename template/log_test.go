package template_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template"
	"github.com/soulbox/soulbox/template/buildkit"
)

// chatty is an engine that tells what it is told to and blocks.
type chatty struct {
	*engine
	lines chan []soulbox.BuildLine
	told  chan struct{}
}

// chat makes a build of ours tell lines, as many times as wanted.
func (w *world) chat(t *testing.T) (b *soulbox.Build, tell func(...soulbox.BuildLine)) {
	t.Helper()
	c := &chatty{engine: w.engine, lines: make(chan []soulbox.BuildLine), told: make(chan struct{})}
	w.change = func(o *template.Options) { o.Engine = c }
	w.reopen(t)
	w.start(t)
	b = w.ask(t, "app", run("x"))
	w.await(t, b.ID, soulbox.BuildRunning)
	return b, func(lines ...soulbox.BuildLine) {
		c.lines <- lines
		<-c.told
	}
}

func (*chatty) Lint(context.Context, string) ([]buildkit.Problem, error) { return nil, nil }

func (c *chatty) Build(ctx context.Context, _ buildkit.Job, say func(soulbox.BuildLine)) (buildkit.Result, error) {
	for {
		select {
		case lines := <-c.lines:
			for _, l := range lines {
				say(l)
			}
			c.told <- struct{}{}
		case <-ctx.Done():
			return buildkit.Result{}, ctx.Err()
		}
	}
}

func (w *world) page(t *testing.T, b *soulbox.Build, q soulbox.BuildLogQuery) []string {
	t.Helper()
	all, err := w.BuildLog(t.Context(), ours, b.Template, b.ID, q)
	if err != nil {
		t.Fatalf("BuildLog %+v: %v", q, err)
	}
	text := []string{}
	for _, l := range all {
		text = append(text, l.Message)
	}
	return text
}

// Pages of a log, as a client reads them while it grows, are the log.
func TestBuildLogPages(t *testing.T) {
	w := open(t)
	b, tell := w.chat(t)
	all := map[string][]string{}
	levels := []string{"debug", "info", "warn", "error"}
	add := func(level, message string) {
		for i := range levels {
			if slices.Index(levels, level) >= i {
				all[levels[i]] = append(all[levels[i]], message)
			}
		}
	}
	add("info", "building")
	seen := map[string]int{}
	for n := range 1500 {
		level := levels[(n*7+n/11)%4]
		line := soulbox.BuildLine{Level: level, Step: "1", Message: fmt.Sprintf("line %d", n)}
		if level == "info" && n%2 == 0 {
			line.Level = "" // stands for info
		}
		tell(line)
		add(level, line.Message)
		if n%97 != 0 {
			continue
		}
		for _, level := range levels { // each as a client of its own
			for {
				page := w.page(t, b, soulbox.BuildLogQuery{Level: level, Offset: seen[level], Limit: 100})
				if want := all[level][seen[level]:min(len(all[level]), seen[level]+100)]; !slices.Equal(page, want) {
					t.Fatalf("lines of %s from %d on: %d, want %d", level, seen[level], len(page), len(want))
				}
				seen[level] += len(page)
				if len(page) < 100 {
					break
				}
			}
		}
	}
	check := func() {
		t.Helper()
		for _, level := range append(levels, "") {
			want := all[level]
			if level == "" {
				want = all["debug"]
			}
			if got := w.page(t, b, soulbox.BuildLogQuery{Level: level}); !slices.Equal(got, want) {
				t.Errorf("log of level %q: %d lines, want %d", level, len(got), len(want))
			}
			for _, offset := range []int{0, 1, 63, 64, 65, 127, 128, 255, 256, len(want) - 1, len(want), len(want) + 1, len(want) + 300, 1 << 40} {
				rest := []string{}
				if offset < len(want) {
					rest = want[offset:min(len(want), offset+3)]
				}
				if got := w.page(t, b, soulbox.BuildLogQuery{Level: level, Offset: offset, Limit: 3}); !slices.Equal(got, rest) {
					t.Errorf("3 lines of level %q from %d on: %q, want %q", level, offset, got, rest)
				}
			}
		}
	}
	check()
	w.reopen(t) // nothing of the log is in memory then
	check()
	for what, q := range map[string]soulbox.BuildLogQuery{"a level": {Level: "loud"}, "an offset": {Offset: -1}, "a limit": {Limit: -1}} {
		_, err := w.BuildLog(t.Context(), ours, b.Template, b.ID, q)
		wantError(t, "BuildLog with a bad "+what, err, soulbox.Invalid, "")
	}
}

// A log that a crash has cut off in a line goes on in the next one.
func TestBuildLogTorn(t *testing.T) {
	w := open(t)
	b, tell := w.chat(t)
	tell(soulbox.BuildLine{Message: "whole"})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.dir, "builds", string(b.ID), "log.jsonl")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"at":1,"level":"info","mess`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	w.change = nil
	w.reopen(t)
	if got := w.page(t, b, soulbox.BuildLogQuery{}); !slices.Equal(got, []string{"building", "whole"}) {
		t.Errorf("log with half a line: %q", got)
	}
	w.start(t)
	w.await(t, b.ID, soulbox.BuildReady)
	got := w.page(t, b, soulbox.BuildLogQuery{})
	if len(got) < 4 || !slices.Equal(got[:3], []string{"building", "whole", "building"}) {
		t.Errorf("log after half a line: %q", got)
	}
	if got := w.page(t, b, soulbox.BuildLogQuery{Offset: 2, Limit: 1}); !slices.Equal(got, []string{"building"}) {
		t.Errorf("the third line: %q", got)
	}
}

// What floods is cut off, and the end of the build is told all the same.
func TestBuildLogBound(t *testing.T) {
	w := open(t)
	b, tell := w.chat(t)
	long := soulbox.BuildLine{Message: strings.Repeat("é", 20<<10) + "\xff"}
	tell(long)
	if got := w.page(t, b, soulbox.BuildLogQuery{Offset: 1})[0]; len(got) > 17<<10 || !strings.HasSuffix(got, "é…") {
		t.Errorf("a long line has %d bytes and ends in %q", len(got), got[len(got)-8:])
	}
	many := slices.Repeat([]soulbox.BuildLine{long}, 100)
	for range 14 {
		tell(many...)
	}
	if err := w.Cancel(t.Context(), ours, b.Template, b.ID); err != nil {
		t.Fatal(err)
	}
	got := w.page(t, b, soulbox.BuildLogQuery{})
	last := got[len(got)-2:]
	if !slices.Equal(last, []string{"this log has reached 16 MiB; what follows is not kept", "the build was cancelled"}) {
		t.Errorf("the log ends with %q", last)
	}
	fi, err := os.Stat(filepath.Join(w.dir, "builds", string(b.ID), "log.jsonl"))
	if err != nil || fi.Size() > template.MaxLog+1<<17 || fi.Size() < template.MaxLog-1<<17 {
		t.Errorf("the log has %d bytes, %v", fi.Size(), err)
	}
	if n := strings.Count(strings.Join(got, "\n"), "has reached"); n != 1 {
		t.Errorf("the log says %d times that it is full", n)
	}
	// Who looks at its end does not read all of it.
	started := time.Now()
	w.page(t, b, soulbox.BuildLogQuery{})
	all := time.Since(started)
	started = time.Now()
	for range 10 {
		w.page(t, b, soulbox.BuildLogQuery{Offset: len(got) - 1, Limit: 100})
	}
	if took := time.Since(started); took > 5*all {
		t.Errorf("10 looks at the end of a long log take %v, and all of it %v", took, all)
	}
}
