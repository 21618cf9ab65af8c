package jsonfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/soulbox/soulbox/internal/jsonfile"
)

type value struct {
	N int `json:"n"`
}

func wantValue(t *testing.T, path string, want int) {
	t.Helper()
	if got, err := jsonfile.Load[value](path); err != nil || got.N != want {
		t.Errorf("Load() = %+v, %v; want %d", got, err, want)
	}
}

func TestValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "value.json")
	if _, err := jsonfile.Load[value](path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of none: %v", err)
	}
	named := 0
	if err := jsonfile.Create(path, value{1}, func() { named++ }); err != nil || named != 1 {
		t.Fatalf("Create: %v, named %d times", err, named)
	}
	wantValue(t, path, 1)
	if err := jsonfile.Create(path, value{2}, func() { named++ }); !errors.Is(err, os.ErrExist) || named != 1 {
		t.Errorf("Create again: %v, named %d times", err, named)
	}
	if err := os.WriteFile(path+jsonfile.Next, []byte(`{"n":9`), 0o600); err != nil { // a kill left it
		t.Fatal(err)
	}
	wantValue(t, path, 1)
	if err := jsonfile.Replace(path, value{3}); err != nil {
		t.Fatal(err)
	}
	wantValue(t, path, 3)
	if err := jsonfile.Replace(path, func() {}); err == nil {
		t.Error("Replace writes what JSON cannot say")
	}
	wantValue(t, path, 3)
	if left, err := filepath.Glob(path + "?*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A file that was torn is no value, and not even part of one.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "value.json")
	for _, text := range []string{"", `{"n":1`, `{"n":1}}`, `{"n":"1"}`, "\x00\x00"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := jsonfile.Load[value](path); err == nil || got != (value{}) {
			t.Errorf("Load of %q = %+v, %v", text, got, err)
		}
	}
}
