package kerneltest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Venv returns the interpreter of a virtual environment with what a lock file
// lists, made by another interpreter. It stays for the next run.
func Venv(t testing.TB, base, lock string) string {
	t.Helper()
	dir := cached(t, base, lock, func(ctx context.Context, dir string) ([]byte, error) {
		if out, err := exec.CommandContext(ctx, base, "-m", "venv", dir).CombinedOutput(); err != nil {
			return out, err
		}
		return installLock(ctx, filepath.Join(dir, "bin", "python"), lock)
	})
	return filepath.Join(dir, "bin", "python")
}

// Overlay returns a folder with what a lock file lists, for PYTHONPATH.
func Overlay(t testing.TB, interpreter, lock string) string {
	t.Helper()
	return cached(t, interpreter, lock, func(ctx context.Context, dir string) ([]byte, error) {
		return installLock(ctx, interpreter, lock, "--no-deps", "--target", dir)
	})
}

// Python returns a Python that is new enough for what the tests install.
func Python(t testing.TB) string {
	t.Helper()
	name, err := findPython(t)
	if err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func installLock(ctx context.Context, interpreter, lock string, more ...string) ([]byte, error) {
	args := append([]string{
		"-m", "pip", "install", "--quiet", "--disable-pip-version-check",
		"--only-binary", ":all:", "--require-hashes", "-r", lock,
	}, more...)
	return exec.CommandContext(ctx, interpreter, args...).CombinedOutput()
}

// cached returns a folder that is made once for a lock file and an interpreter.
// Whoever comes while somebody else makes it waits.
func cached(t testing.TB, interpreter, lock string, fill func(ctx context.Context, dir string) ([]byte, error)) string {
	t.Helper()
	text, err := os.ReadFile(lock)
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
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil { //nolint:gosec // in the user's own cache
		t.Fatal(err)
	}
	guard, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // likewise
	if err != nil {
		t.Fatal(err)
	}
	defer guard.Close()
	if err := syscall.Flock(int(guard.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := dir + ".done"
	if _, err := os.Stat(done); err == nil { //nolint:gosec // likewise
		return dir
	}
	if err := os.RemoveAll(dir); err != nil { //nolint:gosec // likewise; it is the half of one
		t.Fatal(err)
	}
	if out, err := fill(t.Context(), dir); err != nil {
		t.Fatalf("install %s: %v\n%s", lock, err, out)
	}
	if err := os.WriteFile(done, nil, 0o600); err != nil { //nolint:gosec // likewise
		t.Fatal(err)
	}
	return dir
}
