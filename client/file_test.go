package client_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
)

func TestFiles(t *testing.T) {
	box, _ := newSandbox(t)
	ctx := t.Context()
	content := make([]byte, 3<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(content)
	const name = "deep/ly/odd name & ü?.bin"
	if err := box.WriteFile(ctx, name, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	n, err := box.ReadFile(ctx, name, &got)
	if err != nil || n != int64(len(content)) || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("ReadFile: %d bytes, %v, want the %d that were written", n, err, len(content))
	}
	e, err := box.Stat(ctx, name)
	if err != nil || e.Size != soulbox.Bytes(len(content)) || e.Dir || e.Name != "odd name & ü?.bin" {
		t.Errorf("Stat: %+v, %v", e, err)
	}
	if err := box.MakeDir(ctx, "deep/er"); err != nil {
		t.Error(err)
	}
	if err := box.MakeDir(ctx, "deep/er"); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("MakeDir again: %v, want Conflict", err)
	}
	if err := box.Rename(ctx, name, "deep/er/f"); err != nil {
		t.Error(err)
	}
	all, err := box.List(ctx, "deep")
	if err != nil || len(all) != 2 || !all[0].Dir || all[0].Name != "er" {
		t.Errorf("List: %+v, %v", all, err)
	}
	for range 2 {
		if err := box.Remove(ctx, "deep"); err != nil {
			t.Error(err)
		}
	}
	if _, err := box.Stat(ctx, "deep"); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Stat of what was removed: %v, want NotFound", err)
	}
	if _, err := box.ReadFile(ctx, "deep", io.Discard); soulbox.KindOf(err) != soulbox.NotFound || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("ReadFile of what was removed: %v, want NotFound", err)
	}
}

func TestWriteFileEmpty(t *testing.T) {
	box, _ := newSandbox(t)
	if err := box.WriteFile(t.Context(), "empty", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if e, err := box.Stat(t.Context(), "empty"); err != nil || e.Size != 0 {
		t.Errorf("Stat: %+v, %v", e, err)
	}
}

// A source that fails half way is an error, not a short file that looks whole.
func TestWriteFileFails(t *testing.T) {
	box, _ := newSandbox(t)
	broken := errors.New("the disk is on fire")
	r := io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), readerFunc(func([]byte) (int, error) { return 0, broken }))
	if err := box.WriteFile(t.Context(), "half", r); !errors.Is(err, broken) {
		t.Errorf("WriteFile from a broken source: %v, want its error", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
