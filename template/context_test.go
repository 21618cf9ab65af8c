package template_test

import (
	"archive/tar"
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template"
)

// contextOf is a tar with one file of a size.
func contextOf(t *testing.T, size int) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(size)}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(make([]byte, size))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// allUploads returns what is there of the uploads of all teams.
func (w *world) allUploads(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(w.dir, "builds/uploads/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestContextUnused leaves contexts of which no build is made.
func TestContextUnused(t *testing.T) {
	w := open(t)
	w.start(t)
	if _, err := w.TakeContext(t.Context(), ours, contextOf(t, 10)); err != nil {
		t.Fatal(err)
	}
	hash := strings.Repeat("ab", 32)
	if err := w.Upload(t.Context(), ours, hash, contextOf(t, 10)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		after time.Duration
		left  int
	}{{time.Hour, 2}, {25 * time.Hour, 1}, {8 * 24 * time.Hour, 0}} {
		if err := template.Prune(t.Context(), w.Registry, time.Now().Add(tt.after)); err != nil {
			t.Fatal(err)
		}
		if left := w.allUploads(t); len(left) != tt.left {
			t.Errorf("after %v there is %v, want %d", tt.after, left, tt.left)
		}
	}
}

func TestContextRefused(t *testing.T) {
	w := open(t)
	w.start(t)
	for name, r := range map[string]io.Reader{
		"no tar": strings.NewReader(strings.Repeat("no tar ", 200)), "a cut tar": io.LimitReader(contextOf(t, 9000), 5000), "more than a team may": contextOf(t, 4<<20),
	} {
		_, err := w.TakeContext(t.Context(), ours, r)
		if kind := soulbox.KindOf(err); kind != soulbox.Invalid && kind != soulbox.TooLarge {
			t.Errorf("TakeContext of %s: kind %v, %v", name, kind, err)
		}
		if left := w.allUploads(t); len(left) != 0 {
			t.Errorf("of %s there is %v", name, left)
		}
	}
}

// TestContextLeft ends the server when a context is there and no build of it:
// the next one removes it, and nothing that a build may still ask for.
func TestContextLeft(t *testing.T) {
	w := open(t)
	if _, err := w.TakeContext(t.Context(), ours, contextOf(t, 10)); err != nil {
		t.Fatal(err)
	}
	// What comes before it holds the second build up.
	if _, _, err := w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "first", Recipe: run("block")}); err != nil {
		t.Fatal(err)
	}
	hash, err := w.TakeContext(t.Context(), ours, contextOf(t, 20))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Request(t.Context(), soulbox.BuildRequest{Team: ours, Name: "app", Recipe: soulbox.Recipe{Dockerfile: "FROM base\nCOPY file /\n", Context: hash}}); err != nil {
		t.Fatal(err)
	}
	shared := strings.Repeat("ab", 32)
	if err := w.Upload(t.Context(), ours, shared, contextOf(t, 10)); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	w.start(t)
	var left []string
	for _, path := range w.allUploads(t) {
		left = append(left, filepath.Base(path))
	}
	slices.Sort(left)
	want := []string{hash, shared}
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}
