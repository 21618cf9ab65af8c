package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func unpainted(s, _ string) string { return s }

// shownAt is when the lines of a test are shown; the server's clock is an hour off.
var shownAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// picture gives a view lines at seconds and returns what it shows after the last.
func picture(t *testing.T, v *buildView, height int, after time.Duration, lines ...string) []string {
	t.Helper()
	now := shownAt
	for _, l := range lines {
		var seconds int
		var step, text string
		at, rest, _ := strings.Cut(l, " ")
		if _, err := fmt.Sscan(at, &seconds); err != nil {
			t.Fatal(err)
		}
		step, text, _ = strings.Cut(rest, " ")
		now = shownAt.Add(time.Duration(seconds) * time.Second)
		level := "info"
		if step == "debug" {
			level = "debug"
		}
		if step == "-" {
			step = ""
		}
		v.add(soulbox.BuildLine{At: now.Add(time.Hour), Level: level, Step: step, Message: text}, now)
	}
	return v.picture(now.Add(after), height, unpainted)
}

func rows(lines []string) string {
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return strings.Join(lines, "\n")
}

func TestBuildView(t *testing.T) {
	v := &buildView{name: "mine", began: shownAt}
	if got, want := rows(picture(t, v, 20, time.Second, "0 - waits; 1 is before it")), "building mine 1.0s waits; 1 is before it"; got != want {
		t.Errorf("in the queue: %q, want %q", got, want)
	}
	got := rows(picture(t, v, 20, 2500*time.Millisecond,
		"3 debug nothing", "3 base [base] FROM debian [0123456789abcdef]", "4 1 CACHED [builder 1/3] RUN a", "4 2 [builder 2/3] RUN make", "5 2 [builder 2/3] [stdout]: one", "6 2 [builder 2/3] [stderr]: \x1b[31mtwo",
		"6 2 [builder 2/3] [stdout]:"))
	want := `building mine 8.5s
✓ [base] FROM debian 1.0s
✓ [builder 1/3] RUN a cached
• [builder 2/3] RUN make 4.5s
│ one
│ �[31mtwo
│`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("while it runs (-want +got):\n%s", diff)
	}
	got = rows(picture(t, v, 6, 0, "7 2 [builder 2/3] [stdout]: three", "7 2 [builder 2/3] [stdout]: four"))
	want = `building mine 7.0s
… 4 lines before
│ �[31mtwo
│
│ three
│ four`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in a small terminal (-want +got):\n%s", diff)
	}
	// What belongs to a step need not say so again.
	f := &buildView{name: "mine", began: shownAt}
	if got := rows(picture(t, f, 20, 0, "0 finalize [finalize] packing", "1 finalize [finalize] Running start command", "1 finalize ready")); !strings.HasSuffix(got, "[finalize] packing 1.0s\n│ Running start command\n│ ready") {
		t.Errorf("in the end:\n%s", got)
	}
	// A step that has ended may have more to say, where stages are built side by side.
	got = rows(picture(t, v, 20, 0, "8 3 [other 3/3] RUN b", "9 2 [builder 2/3] [stdout]: five"))
	if !strings.Contains(got, "✓ [builder 2/3] RUN make 4.0s\n• [other 3/3] RUN b 1.0s") || strings.Contains(got, "five") {
		t.Errorf("two steps:\n%s", got)
	}
	v.end(&soulbox.Build{Failure: &soulbox.BuildFailure{Step: 2}}, shownAt.Add(10*time.Second))
	got = rows(v.picture(shownAt.Add(10*time.Second), 0, unpainted))
	want = `building mine 10.0s
✓ [base] FROM debian 1.0s
✓ [builder 1/3] RUN a cached
✗ [builder 2/3] RUN make 4.0s
│ one
│ �[31mtwo
│
│ three
│ four
│ five
✓ [other 3/3] RUN b 2.0s`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("when it has failed (-want +got):\n%s", diff)
	}
}

func TestElapsed(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0.0s", 1240 * time.Millisecond: "1.2s", 59 * time.Second: "59.0s", time.Minute: "1m00s", 61*time.Minute + 5*time.Second: "61m05s"} {
		if got := elapsed(d); got != want {
			t.Errorf("elapsed(%v) = %s, want %s", d, got, want)
		}
	}
}

// FuzzBuildView gives a view whatever a build may say. What it shows fits the
// terminal and cannot speak to it.
func FuzzBuildView(f *testing.F) {
	f.Add("base", "[base] FROM debian", "1", "CACHED [builder 1/2] RUN x", 5)
	f.Add("1", "[builder 1/2] [stdout]: \x1b]0;title\x07", "", "\n\n", 3)
	f.Fuzz(func(t *testing.T, step1, text1, step2, text2 string, height int) {
		v := &buildView{name: text1, began: shownAt}
		for range 3 {
			v.add(soulbox.BuildLine{At: shownAt, Step: step1, Message: text1}, shownAt)
			v.add(soulbox.BuildLine{At: shownAt, Step: step2, Message: text2}, shownAt)
		}
		height = 3 + max(0, height)%100
		for _, over := range []bool{false, true} {
			if over {
				v.end(&soulbox.Build{}, shownAt)
			}
			lines := v.picture(shownAt, height, unpainted)
			if len(lines) > height {
				t.Errorf("%d lines for a height of %d", len(lines), height)
			}
			for _, l := range lines {
				if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Errorf("line %q", l)
				}
			}
		}
	})
}

// dockerfileIn makes a folder with a Dockerfile.
func dockerfileIn(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What people see of a build is one picture that changes.
func TestBuildOnTerminal(t *testing.T) {
	server := newServer(t)
	dir := dockerfileIn(t, "FROM debian\nRUN echo hello\n")
	got := onTerminal(t, soulboxCommand(t, server, "template", "build", dir, "-t", "mine", "--watch"))
	for _, want := range []string{"\x1b[1mbuilding mine\x1b[0m", "\x1b[32m✓\x1b[0m [builder 1/1] RUN echo hello", "mine@1.0.0\r\n", "\x1b[J"} {
		if !strings.Contains(got, want) {
			t.Errorf("soulbox template build --watch on a terminal: %q has no %q", got, want)
		}
	}
	if strings.LastIndex(got, "\x1b[?7h") < strings.LastIndex(got, "\x1b[?7l") {
		t.Errorf("the terminal was left without wrapping: %q", got)
	}
	cmd := soulboxCommand(t, server, "template", "build", dir, "-t", "mine", "--watch")
	cmd.Env = append(cmd.Env, "NO_COLOR=1")
	if got = onTerminal(t, cmd); !strings.Contains(got, "✓ [builder 1/1] RUN echo hello") || !strings.Contains(got, " cached\r\n") {
		t.Errorf("soulbox template build --watch with NO_COLOR: %q", got)
	}
}

// Ctrl-C cancels a build that is watched, other signals leave it alone.
func TestBuildInterrupted(t *testing.T) {
	for sig, want := range map[syscall.Signal]string{syscall.SIGINT: "error", syscall.SIGTERM: "building"} {
		t.Run(sig.String(), func(t *testing.T) {
			server := newServer(t)
			cmd := soulboxCommand(t, server, "template", "build", dockerfileIn(t, "FROM debian\nRUN hold\n"), "-t", "mine", "--watch")
			ptmx, err := pty.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			defer ptmx.Close()
			s := newScreen(ptmx)
			s.waitFor(t, "RUN hold")
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			for part := range s.parts {
				s.seen += part
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 128+int(sig) {
				t.Errorf("after %v: %v, want exit code %d", sig, err, 128+int(sig))
			}
			out, err := soulboxCommand(t, server, "template", "builds", "mine").Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Split(string(out), "\t")[1]; got != want {
				t.Errorf("after %v the build is %s, want %s", sig, got, want)
			}
		})
	}
}

// Every starter can be written, and says how to build what it writes.
func TestStarters(t *testing.T) {
	names := starterNames()
	if len(names) < 3 {
		t.Fatalf("starters: %v", names)
	}
	for _, name := range names {
		dir := filepath.Join(t.TempDir(), "new", "folder")
		written, err := writeStarter("starter/"+name, dir)
		if err != nil {
			t.Fatal(err)
		}
		readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
		if err != nil || !strings.Contains(string(readme), "soulbox template build -t ") {
			t.Errorf("%s: its README: %s, %v", name, readme, err)
		}
		if len(written) != 3 {
			t.Errorf("%s: %v were written", name, written)
		}
		before, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		// With one file in the way, nothing else may come.
		for _, file := range before {
			other := t.TempDir()
			if err := os.Symlink("nowhere", filepath.Join(other, file.Name())); err != nil {
				t.Fatal(err)
			}
			if _, err := writeStarter("starter/"+name, other); soulbox.KindOf(err) != soulbox.Conflict {
				t.Errorf("%s over %s: %v, want a Conflict", name, file.Name(), err)
			}
			if left, err := os.ReadDir(other); err != nil || len(left) != 1 {
				t.Errorf("%s over %s left %v, %v", name, file.Name(), left, err)
			}
		}
	}
}
