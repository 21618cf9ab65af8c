package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/soulbox/soulbox"
)

// mode returns the mode of a file, whose absence fails the test.
func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode()
}

func TestOpenData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "data")
	first, err := openData(dir)
	if err != nil {
		t.Fatalf("openData: %v", err)
	}
	if first == (soulbox.TokenSeed{}) {
		t.Error("the seed is all zeros")
	}
	if got := mode(t, dir); got != fs.ModeDir|0o700 {
		t.Errorf("the folder has mode %v, want 0700", got)
	}
	if got := mode(t, filepath.Join(dir, "seed")); got != 0o600 {
		t.Errorf("the seed has mode %v, want 0600", got)
	}
	again, err := openData(dir)
	if err != nil || again != first {
		t.Errorf("openData again: another seed, %v", err)
	}
	if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
		t.Errorf("the folder holds %v, %v; want the seed alone", left, err)
	}
	other, err := openData(filepath.Join(t.TempDir(), "data"))
	if err != nil || other == first {
		t.Errorf("another folder has the same seed, %v", err)
	}
}

// A folder that was there before is closed to everybody else.
func TestOpenDataTightens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	if _, err := openData(dir); err != nil {
		t.Fatalf("openData: %v", err)
	}
	if got := mode(t, dir); got != fs.ModeDir|0o700 {
		t.Errorf("the folder has mode %v, want 0700", got)
	}
}

// A seed that is not whole is not replaced: sandboxes may run that know it.
func TestOpenDataTornSeed(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "short": "0123456789", "long": strings.Repeat("x", 33)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "seed")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			seed, err := openData(dir)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "not 32") || seed != (soulbox.TokenSeed{}) {
				t.Errorf("openData: %v, want an error that names %s and 32 bytes", err, path)
			}
			if b, err := os.ReadFile(path); string(b) != content || err != nil {
				t.Errorf("the seed is now %q, %v", b, err)
			}
		})
	}
}

func TestOpenDataFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	folder := t.TempDir()
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(filepath.Join(folder, "seed"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"a file": file, "below a file": filepath.Join(file, "data"), "seed is a folder": folder} {
		if _, err := openData(dir); err == nil || !strings.HasPrefix(err.Error(), "open the data folder: ") {
			t.Errorf("%s: %v, want an error", name, err)
		}
	}
}

// Servers that start at once in a new folder agree on the seed, whichever of
// them then gets the database.
func TestOpenDataTogether(t *testing.T) {
	for range 50 {
		dir := filepath.Join(t.TempDir(), "data")
		var seeds [8]soulbox.TokenSeed
		var wg sync.WaitGroup
		for i := range seeds {
			wg.Go(func() {
				var err error
				if seeds[i], err = openData(dir); err != nil {
					t.Errorf("openData: %v", err)
				}
			})
		}
		wg.Wait()
		kept, err := openData(dir)
		if err != nil {
			t.Fatalf("openData: %v", err)
		}
		for i := range seeds {
			if seeds[i] != kept {
				t.Fatalf("start %d has another seed than the folder", i)
			}
		}
		if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
			t.Fatalf("the folder holds %v, %v; want the seed alone", left, err)
		}
	}
}
