package template_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template"
)

// watched is what somebody sees who watches a build.
type watched struct {
	lines []string // as number|step|message
	build *soulbox.Build
	err   error
}

// watch watches a build of ours from a line on, until stop says that it is enough.
func (w *world) watch(ctx context.Context, b *soulbox.Build, after int, stop func(line string) error) watched {
	var seen watched
	seen.build, seen.err = w.Watch(ctx, ours, b.Template, b.ID, after, func() error { return nil }, func(n int, l soulbox.BuildLine) error {
		seen.lines = append(seen.lines, fmt.Sprintf("%d|%s|%s", n, l.Step, l.Message))
		if stop != nil {
			return stop(l.Message)
		}
		return nil
	})
	return seen
}

// numbered are the lines of a build as who watches it sees them.
func (w *world) numbered(t *testing.T, b *soulbox.Build) []string {
	t.Helper()
	all := w.lines(t, b)
	for i := range all {
		all[i] = fmt.Sprintf("%d|%s", i+1, all[i])
	}
	return all
}

func TestWatch(t *testing.T) {
	w := open(t)
	w.start(t)
	for range 10 { // each time it ends a little differently
		b := w.ask(t, "mine", run("write a 1", "wait", "write b 2"))
		waits := make(chan struct{})
		var once sync.Once
		results := make(chan watched, 3)
		for range 3 {
			go func() {
				results <- w.watch(t.Context(), b, 0, func(line string) error {
					if line == "RUN wait" {
						once.Do(func() { close(waits) })
					}
					return nil
				})
			}()
		}
		<-waits
		w.engine.proceed(b.ID)
		var all []string
		for range 3 {
			got := <-results
			if got.err != nil || got.build.State != soulbox.BuildReady || got.build.Version.IsZero() {
				t.Fatalf("Watch = %+v, %v", got.build, got.err)
			}
			if all = w.numbered(t, b); !strings.HasSuffix(all[len(all)-1], "|ready") {
				t.Fatalf("the log ends with %q", all[len(all)-1])
			}
			if diff := cmp.Diff(all, got.lines); diff != "" {
				t.Fatalf("who watched saw (-log +seen):\n%s", diff)
			}
		}
		// Later, from any line on.
		for after := range all {
			if got := w.watch(t.Context(), b, after, nil); got.err != nil || !cmp.Equal(all[after:], got.lines) {
				t.Errorf("behind line %d: %q, %v", after, got.lines, got.err)
			}
		}
		if got := w.watch(t.Context(), b, len(all), nil); got.err != nil || len(got.lines) != 0 || got.build.State != soulbox.BuildReady {
			t.Errorf("behind the last line: %+v", got)
		}
		_, err := w.Watch(t.Context(), ours, b.Template, b.ID, len(all)+1, nil, nil)
		wantError(t, "Watch behind a line that there is not", err, soulbox.Invalid, "no line")
	}
}

// TestWatchEnds ends builds, watchers and the registry in all ways.
func TestWatchEnds(t *testing.T) {
	w := open(t)
	w.start(t)
	begun := func(b *soulbox.Build, after int) (chan watched, func()) {
		ctx, cancel := context.WithCancel(t.Context())
		began, once := make(chan struct{}), sync.Once{}
		out := make(chan watched, 1)
		go func() {
			out <- w.watch(ctx, b, after, func(string) error {
				once.Do(func() { close(began) })
				return nil
			})
		}()
		<-began
		return out, cancel
	}
	last := func(got watched) string { return got.lines[len(got.lines)-1] }

	b := w.ask(t, "mine", run("block"))
	out, _ := begun(b, 0)
	if err := w.Cancel(t.Context(), ours, b.Template, b.ID); err != nil {
		t.Fatal(err)
	}
	if got := <-out; got.err != nil || got.build.State != soulbox.BuildFailed || !strings.Contains(last(got), "cancelled") {
		t.Errorf("of a build that was cancelled: %+v", got)
	}

	b = w.ask(t, "mine", run("fail it fails"))
	out, _ = begun(b, 0)
	if got := <-out; got.err != nil || got.build.Failure == nil || got.build.Failure.Step != 1 || !strings.HasSuffix(last(got), "|1|fail it fails") {
		t.Errorf("of a build that failed: %+v", got)
	}

	b = w.ask(t, "mine", run("block"))
	out, cancel := begun(b, 0)
	cancel()
	if got := <-out; !errors.Is(got.err, context.Canceled) {
		t.Errorf("by one who has left: %+v", got)
	}
	enough := errors.New("enough")
	if got := w.watch(t.Context(), b, 0, func(string) error { return enough }); !errors.Is(got.err, enough) || len(got.lines) != 1 {
		t.Errorf("by one who has seen enough: %+v", got)
	}
	if now, err := w.Watch(t.Context(), ours, b.Template, b.ID, 0, nil, func(int, soulbox.BuildLine) error { return nil }); err != nil || now.State.Over() {
		t.Errorf("by one who does not wait: %+v, %v", now, err)
	}
	_, err := w.Watch(t.Context(), theirs, b.Template, b.ID, 0, nil, nil)
	wantError(t, "Watch by another team", err, soulbox.NotFound, "not found")
	_, err = w.Watch(t.Context(), ours, b.Template, soulbox.NewBuildID(), 0, nil, nil)
	wantError(t, "Watch of a build that there is not", err, soulbox.NotFound, "not found")

	// Nothing happens for a while.
	template.Silence(w.Registry, 20*time.Millisecond)
	idle := 0
	_, err = w.Watch(t.Context(), ours, b.Template, b.ID, 0, func() error {
		if idle++; idle == 3 {
			return enough
		}
		return nil
	}, func(int, soulbox.BuildLine) error { return nil })
	if !errors.Is(err, enough) || idle != 3 {
		t.Errorf("after %d signs of life: %v", idle, err)
	}

	out, _ = begun(b, 0)
	w.Disconnect()
	w.Disconnect()
	got := <-out
	wantError(t, "Watch when the server disconnects", got.err, soulbox.Unavailable, "stopping")
	w.reopen(t)
	w.start(t)
	out, _ = begun(b, 0)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got = <-out
	wantError(t, "Watch when the registry closes", got.err, soulbox.Unavailable, "stopping")
	w.reopen(t)
	w.start(t)
	if err := w.Cancel(t.Context(), ours, b.Template, b.ID); err != nil {
		t.Fatal(err)
	}
}
