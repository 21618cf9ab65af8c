package dir_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/blob"
	"github.com/soulbox/soulbox/blob/blobtest"
	"github.com/soulbox/soulbox/blob/dir"
)

func open(t *testing.T, path string) *dir.Store {
	t.Helper()
	s, err := dir.Open(path)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func TestStore(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, filepath.Join(t.TempDir(), "blobs")) })
}

// What a process that was killed has half written goes with the next start;
// what is whole stays, and what is not ours is left alone.
func TestOpenAgain(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	d := soulbox.DigestOf([]byte("whole"))
	if err := s.Put(t.Context(), d, 5, strings.NewReader("whole")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"half/left", "sha256/" + d.Hex()[:2] + "/note"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, path)
	if left, err := os.ReadDir(filepath.Join(path, "half")); len(left) != 0 || err != nil {
		t.Errorf("half written: %v, %v; want nothing", left, err)
	}
	var all []soulbox.Digest
	for info, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, info.Digest)
	}
	if len(all) != 1 || all[0] != d {
		t.Errorf("List() = %v, want only %v", all, d)
	}
}
