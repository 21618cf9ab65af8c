package python_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/soulbox/soulbox/kit/interpreter/python"
)

// TestPackage runs the tests of soulbox_display, which are Python's, on what is
// embedded: with the newest libraries, with the matplotlib that E2B has, and
// with those of Debian 12.
func TestPackage(t *testing.T) {
	t.Run("newest", func(t *testing.T) {
		runTests(t, venv(t, findPython(t, ""), "requirements.txt"), "", "test_*.py")
	})
	t.Run("matplotlib-3.10", func(t *testing.T) {
		interpreter := venv(t, findPython(t, ""), "requirements.txt")
		runTests(t, interpreter, overlay(t, interpreter, "matplotlib-3.10.txt"), "test_[gr]*.py")
	})
	t.Run("debian", func(t *testing.T) {
		interpreter := findPython(t, "3.11")
		if interpreter == "" {
			// There is no matplotlib of that age for newer Pythons, so nobody has it.
			t.Skip("Debian 12's libraries need Python 3.11")
		}
		runTests(t, venv(t, interpreter, "debian.txt"), "", "test_[!l]*.py") // without polars and pyarrow
	})
}

// runTests has an interpreter run the test files that fit a pattern; libraries
// in front, if any, come before its own.
func runTests(t *testing.T, interpreter, front, pattern string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, python.FS); err != nil {
		t.Fatal(err)
	}
	tests, err := filepath.Abs("tests")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), interpreter, "-W", "ignore", "-m", "unittest", "discover", "-s", tests, "-p", pattern)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"PYTHONPATH="+dir+string(filepath.ListSeparator)+front,
		"PYTHONDONTWRITEBYTECODE=1",
		"IPYTHONDIR="+filepath.Join(dir, "ipython"),
		// The list of fonts takes seconds to make.
		"MPLCONFIGDIR="+filepath.Join(filepath.Dir(interpreter), "matplotlib"),
	)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("Python's tests: %v\n%s", err, out)
	}
	if text := string(out); !strings.HasSuffix(strings.TrimSpace(text), "\nOK") || strings.Contains(text, "\nRan 0 tests") {
		t.Fatalf("Python's tests ended well, but not all ran:\n%s", out)
	}
}

// findPython returns a Python of a version, or one that is new enough for the
// libraries if none is asked for.
func findPython(t *testing.T, version string) string {
	t.Helper()
	check := "import sys, venv; sys.exit(sys.version_info < (3, 11))"
	if version != "" {
		check = fmt.Sprintf("import sys, venv; sys.exit('%%d.%%d' %% sys.version_info[:2] != %q)", version)
	}
	for _, name := range []string{"python3", "python3.13", "python3.12", "python3.11"} {
		path, err := exec.LookPath(name)
		if err == nil && exec.CommandContext(t.Context(), path, "-c", check).Run() == nil {
			return path
		}
	}
	if version == "" {
		t.Fatal("the tests need Python 3.11 or newer, with venv")
	}
	return ""
}

// venv returns the interpreter of a virtual environment with what a lock file
// lists. It stays for the next run.
func venv(t *testing.T, base, lock string) string {
	t.Helper()
	dir := cached(t, base, lock, func(ctx context.Context, dir string) ([]byte, error) {
		if out, err := exec.CommandContext(ctx, base, "-m", "venv", dir).CombinedOutput(); err != nil {
			return out, err
		}
		return install(ctx, filepath.Join(dir, "bin", "python"), lock)
	})
	return filepath.Join(dir, "bin", "python")
}

// overlay returns a folder with what a lock file lists, for PYTHONPATH.
func overlay(t *testing.T, interpreter, lock string) string {
	t.Helper()
	return cached(t, interpreter, lock, func(ctx context.Context, dir string) ([]byte, error) {
		return install(ctx, interpreter, lock, "--no-deps", "--target", dir)
	})
}

func install(ctx context.Context, interpreter, lock string, more ...string) ([]byte, error) {
	args := append([]string{
		"-m", "pip", "install", "--quiet", "--disable-pip-version-check",
		"--only-binary", ":all:", "--require-hashes", "-r", filepath.Join("tests", lock),
	}, more...)
	return exec.CommandContext(ctx, interpreter, args...).CombinedOutput()
}

// cached returns a folder that is made once for a lock file and an interpreter.
// Whoever comes while somebody else makes it waits.
func cached(t *testing.T, interpreter, lock string, fill func(ctx context.Context, dir string) ([]byte, error)) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("tests", lock))
	if err != nil {
		t.Fatal(err)
	}
	version, err := exec.CommandContext(t.Context(), interpreter, "-c", "import sys; print(sys.base_prefix, sys.version)").Output()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append(text, version...))
	dir := filepath.Join(cache, "soulbox", "python-"+hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	guard, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer guard.Close()
	if err := syscall.Flock(int(guard.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := dir + ".done"
	if _, err := os.Stat(done); err == nil {
		return dir
	}
	if err := os.RemoveAll(dir); err != nil { // the half of one
		t.Fatal(err)
	}
	if out, err := fill(t.Context(), dir); err != nil {
		t.Fatalf("install %s: %v\n%s", lock, err, out)
	}
	if err := os.WriteFile(done, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
