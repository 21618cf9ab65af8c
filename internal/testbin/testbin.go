// Package testbin builds the programs of this module for tests that run them.
package testbin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Build compiles cmd/name as `make build` does, into a folder that every user
// may enter (the sentry runs as nobody), and returns its path. The folder is
// removed when t ends. The compiler's cache makes repetitions cheap.
func Build(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "soulbox-"+name+"-") //nolint:usetesting // t.TempDir makes folders that only root may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/soulbox/soulbox/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("build %s: %w\n%s", name, err, out))
	}
	return path
}
