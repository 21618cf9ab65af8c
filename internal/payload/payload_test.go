package payload_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soulbox/soulbox/internal/payload"
)

// Whether the programs are in this binary depends on what was built before.
// Either way, what is said and done must be right.
func TestPrograms(t *testing.T) {
	for _, name := range []string{payload.Agent, payload.Sentry, payload.Boot, payload.Runc, "soulbox-nothing"} {
		t.Run(name, func(t *testing.T) {
			_, err := os.Stat(filepath.Join("files", name+".gz"))
			built := !errors.Is(err, fs.ErrNotExist)
			if got := payload.Has(name); got != built {
				t.Errorf("Has() = %v, want %v", got, built)
			}
			dir := filepath.Join(t.TempDir(), "cache")
			path, unpackErr := payload.Unpack(name, dir)
			r, openErr := payload.Open(name)
			if !built {
				for _, err := range []error{unpackErr, openErr} {
					if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "`make build`") {
						t.Errorf("without the program: %v, want a sentence that says what to do", err)
					}
				}
				if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("without the program there is a folder: %v", err)
				}
				return
			}
			if unpackErr != nil || openErr != nil {
				t.Fatal(unpackErr, openErr)
			}
			defer r.Close()
			var begins [4]byte
			if _, err := io.ReadFull(r, begins[:]); err != nil || string(begins[:]) != "\x7fELF" {
				t.Errorf("it begins with %q, %v", begins, err)
			}
			fi, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if fi.Size() == 0 || fi.Mode().Perm() != 0o755 {
				t.Errorf("unpacked: %d bytes, mode %o; want some, 755", fi.Size(), fi.Mode().Perm())
			}
		})
	}
}
