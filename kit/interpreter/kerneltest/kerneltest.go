// Package kerneltest has Jupyter kernels for tests: Python's, Bash's, and Deno's
// for JavaScript and TypeScript.
package kerneltest

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

//go:embed requirements.txt
var requirements []byte

// Specs returns a folder with the specs of the kernels. They are installed from
// PyPI once, into the user's cache, and again when requirements.txt changes.
func Specs(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(requirements)
	dir := filepath.Join(cache, "soulbox", "test-kernels-"+hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	// Packages are tested at the same time; one of them installs.
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(dir), "test-kernels.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	specs := filepath.Join(dir, "share/jupyter/kernels")
	if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
		return specs
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "test-kernels-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range old { // of other requirements, or half made
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("installing kernels in %s", dir)
	if err := install(t, dir, specs); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return specs
}

func install(t testing.TB, dir, specs string) error {
	t.Helper()
	python, err := findPython(t)
	if err != nil {
		return err
	}
	list := filepath.Join(dir, "requirements.txt")
	bin := filepath.Join(dir, "bin")
	if err := run(t, python, "-m", "venv", dir); err != nil {
		return err
	}
	if err := os.WriteFile(list, requirements, 0o600); err != nil {
		return err
	}
	if err := run(t, filepath.Join(bin, "pip"), "install", "--quiet", "--disable-pip-version-check",
		"--only-binary", ":all:", "--require-hashes", "-r", list); err != nil {
		return err
	}
	deno := []string{filepath.Join(bin, "deno"), "jupyter", "--kernel", "--conn", "{connection_file}"}
	return errors.Join(
		spec(specs, "javascript", "javascript", deno), spec(specs, "typescript", "typescript", deno),
		spec(specs, "bash", "bash", []string{filepath.Join(bin, "python"), "-m", "bash_kernel", "-f", "{connection_file}"}),
	)
}

// spec writes a kernel's spec.
func spec(dir, name, language string, argv []string) error {
	text, err := json.Marshal(map[string]any{"argv": argv, "display_name": name, "language": language})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name, "kernel.json"), text, 0o600)
}

// findPython returns a Python that is new enough for the kernels.
func findPython(t testing.TB) (string, error) {
	t.Helper()
	for _, name := range []string{"python3", "python3.13", "python3.12", "python3.11"} {
		if run(t, name, "-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))") == nil {
			return name, nil
		}
	}
	return "", errors.New("the kernels need Python 3.11 or newer, with venv; `make setup` installs it")
}

func run(t testing.TB, name string, args ...string) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return nil
}
