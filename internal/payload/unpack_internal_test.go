package payload

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

const script = "#!/bin/sh\necho it runs\n"

func packed(t *testing.T, content string) fs.FS {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{"files/prog.gz": {Data: b.Bytes()}}
}

func TestUnpack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "cache")
	path, err := unpack(packed(t, script), "prog", dir)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(script))
	if want := filepath.Join(dir, hex.EncodeToString(sum[:])[:16], "prog"); path != want {
		t.Errorf("path %s, want %s", path, want)
	}
	if out, err := exec.CommandContext(t.Context(), path).Output(); err != nil || string(out) != "it runs\n" {
		t.Errorf("run: %q, %v", out, err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := unpack(packed(t, script), "prog", dir)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(again)
	if err != nil {
		t.Fatal(err)
	}
	if again != path || !os.SameFile(before, after) {
		t.Errorf("the second call wrote %s anew", again)
	}
	// Another version lies beside it and takes nothing away.
	other, err := unpack(packed(t, script+"\n"), "prog", dir)
	if err != nil || other == path {
		t.Errorf("another version: %s, %v", other, err)
	}
	wantFiles(t, dir, path, other)
}

// Several servers that start at once all get the same whole file.
func TestUnpackAtOnce(t *testing.T) {
	dir := t.TempDir()
	content := string(bytes.Repeat([]byte("0123456789abcdef"), 64<<10))
	files := packed(t, content)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, err := unpack(files, "prog", dir)
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != content {
				t.Errorf("what lies at %s when a call returns is not whole: %d bytes, %v", path, len(b), err)
			}
		})
	}
	wg.Wait()
	sum := sha256.Sum256([]byte(content))
	wantFiles(t, dir, filepath.Join(dir, hex.EncodeToString(sum[:])[:16], "prog"))
}

func TestUnpackDamaged(t *testing.T) {
	whole, err := fs.ReadFile(packed(t, script), "files/prog.gz")
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-5] ^= 1 // of the checksum
	for name, b := range map[string][]byte{"cut": whole[:len(whole)-6], "flipped": flipped, "no_gzip": []byte(script), "empty": nil} {
		dir := t.TempDir()
		if path, err := unpack(fstest.MapFS{"files/prog.gz": {Data: b}}, "prog", dir); err == nil {
			t.Errorf("%s: unpacked to %s", name, path)
		}
		wantFiles(t, dir)
	}
}

func TestUnpackNowhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if path, err := unpack(packed(t, script), "prog", file); err == nil {
		t.Errorf("unpacked below a file: %s", path)
	}
}

// wantFiles checks which files are below dir, temporary ones included.
func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	left := map[string]bool{}
	for _, path := range want {
		left[path] = true
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !left[path] {
			t.Errorf("left over: %s", path)
		}
		delete(left, path)
		return nil
	})
	if err != nil || len(left) > 0 {
		t.Errorf("missing: %v, %v", left, err)
	}
}

// What a killed process left goes with the next call, what another one is
// writing stays.
func TestUnpackSweeps(t *testing.T) {
	dir := t.TempDir()
	left, current := filepath.Join(dir, ".prog-1"), filepath.Join(dir, ".prog-2")
	for _, path := range []string{left, current} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-2 * unpackTime)
	if err := os.Chtimes(left, before, before); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(packed(t, script), "prog", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want it gone", left, err)
	}
	if _, err := os.Stat(current); err != nil {
		t.Error(err)
	}
}
