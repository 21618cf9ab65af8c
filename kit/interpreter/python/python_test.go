package python_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soulbox/soulbox/kit/interpreter/kerneltest"
	"github.com/soulbox/soulbox/kit/interpreter/python"
)

// TestPackage runs the tests of soulbox_display, which are Python's, on what is
// embedded: with the newest libraries, with the matplotlib that E2B has, and
// with those of Debian 12.
func TestPackage(t *testing.T) {
	t.Run("newest", func(t *testing.T) {
		runTests(t, kerneltest.Venv(t, kerneltest.Python(t), "tests/requirements.txt"), "", "test_*.py")
	})
	t.Run("matplotlib-3.10", func(t *testing.T) {
		interpreter := kerneltest.Venv(t, kerneltest.Python(t), "tests/requirements.txt")
		runTests(t, interpreter, kerneltest.Overlay(t, interpreter, "tests/matplotlib-3.10.txt"), "test_[gr]*.py")
	})
	t.Run("debian", func(t *testing.T) {
		interpreter := findPython(t)
		if interpreter == "" {
			// There is no matplotlib of that age for newer Pythons, so nobody has it.
			t.Skip("Debian 12's libraries need Python 3.11")
		}
		runTests(t, kerneltest.Venv(t, interpreter, "tests/debian.txt"), "", "test_[!l]*.py") // without polars and pyarrow
	})
}

// TestData runs the tests of soulbox_data: with the pandas of the template
// data-science, and with that of code-interpreter-v1.
func TestData(t *testing.T) {
	interpreter := kerneltest.Venv(t, kerneltest.Python(t), "tests/data.txt")
	t.Run("pandas-3", func(t *testing.T) { runTests(t, interpreter, "", "data_*.py") })
	t.Run("pandas-2", func(t *testing.T) {
		runTests(t, interpreter, kerneltest.Overlay(t, interpreter, "tests/pandas-2.3.txt"), "data_*.py")
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

// findPython returns Debian 12's Python, or nothing.
func findPython(t *testing.T) string {
	t.Helper()
	const check = "import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))"
	for _, name := range []string{"python3", "python3.11"} {
		path, err := exec.LookPath(name)
		if err == nil && exec.CommandContext(t.Context(), path, "-c", check).Run() == nil {
			return path
		}
	}
	return ""
}
