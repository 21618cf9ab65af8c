package template_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/soulbox/soulbox/template"
)

// What we print applies with patch, and has as many changed lines as diff's.
func TestUnified(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "", "RUN x", "-", "+ y"}), 0, 40)
		a, b := text.Draw(rt, "a"), text.Draw(rt, "b")
		if rapid.Bool().Draw(rt, "similar") {
			b = append([]string{}, a...)
			for range rapid.IntRange(0, 3).Draw(rt, "changes") {
				i := rapid.IntRange(0, len(b)).Draw(rt, "at")
				b = append(b[:i:i], append([]string{"new"}, b[min(len(b), i+rapid.IntRange(0, 2).Draw(rt, "gone")):]...)...)
			}
		}
		got := template.Unified(a, b)
		one, two := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		for path, lines := range map[string][]string{one: a, two: b} {
			content := ""
			for _, l := range lines {
				content += l + "\n"
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				rt.Fatal(err)
			}
		}
		out, err := exec.CommandContext(rt.Context(), "diff", "--minimal", "-U", "3", one, two).Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() > 1) {
			rt.Fatal(err)
		}
		if (got == "") != (len(out) == 0) {
			rt.Fatalf("diff prints %q, and we %q", out, got)
		}
		if got == "" {
			return
		}
		if ours, theirs := changed(got), changed(string(out)); ours != theirs {
			rt.Errorf("%d lines change, with diff %d:\n%s%s", ours, theirs, got, out)
		}
		cmd := exec.CommandContext(rt.Context(), "patch", "--quiet", "--fuzz=0", "--force", "-r", "-", "-o", "-", one)
		cmd.Stdin = strings.NewReader("--- a\n+++ b\n" + got)
		patched, err := cmd.Output()
		want, readErr := os.ReadFile(two)
		if err != nil || readErr != nil || string(patched) != string(want) {
			rt.Fatalf("patch makes %q of it, %v; want %q\n%s", patched, err, want, got)
		}
	})
}

// changed counts lines that are added or removed.
func changed(diff string) (n int) {
	for line := range strings.Lines(diff) {
		if strings.HasPrefix(line, "+++ ") || strings.HasPrefix(line, "--- ") && strings.Contains(line, "/") {
			continue
		}
		if line[0] == '+' || line[0] == '-' {
			n++
		}
	}
	return n
}

// Texts that are too long to be compared line by line are, all the same.
func TestUnifiedLong(t *testing.T) {
	var a, b []string
	for i := range 5000 {
		a, b = append(a, strings.Repeat("a", i%7)), append(b, strings.Repeat("b", i%5))
	}
	got := template.Unified(a, b)
	if n := changed(got); n < 5000 || n > 10_000 || !strings.HasPrefix(got, "@@ -") {
		t.Errorf("%d lines change of 5000 others", n)
	}
}
