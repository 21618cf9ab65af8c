// Package testbin builds the programs of this module for tests that run them.
package testbin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Programs that are modules of their own. The first needs a C compiler, and the
// others are somebody else's.
const (
	withC     = "soulbox-runc"
	buildkitd = "soulbox-buildkitd"
	versitygw = "versitygw" // speaks S3; no part of ours
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
	switch name {
	case withC:
		cmd.Args = []string{"go", "build", "-trimpath", "-tags=netgo,osusergo,seccomp", `-ldflags=-s -w -linkmode external -extldflags "-static"`, "-o", path, "."}
		cmd.Dir = filepath.Join(root(t), "cmd", name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	case buildkitd:
		cmd.Args[len(cmd.Args)-1] = "github.com/moby/buildkit/cmd/buildkitd"
		cmd.Dir = filepath.Join(root(t), "cmd", name)
	case versitygw:
		cmd.Args[len(cmd.Args)-1] = "github.com/versity/versitygw/cmd/versitygw"
		cmd.Dir = filepath.Join(root(t), "tools", "s3")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("build %s: %w\n%s", name, err, out))
	}
	return path
}

// root returns the folder of this module.
func root(t testing.TB) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/soulbox/soulbox").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
