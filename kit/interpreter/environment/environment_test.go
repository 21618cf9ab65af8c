package environment_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/environment"
	"github.com/soulbox/soulbox/kit/interpreter/kerneltest"
)

// home is where a test's environments are: a virtual environment stands for the
// Python of a sandbox.
type home struct {
	t      *testing.T
	python string
	dir    string
	path   string
}

// tools are the installers that a sandbox may have.
var tools = []string{"uv", "pip"}

func newHome(t *testing.T, tool string) *home {
	t.Helper()
	h := &home{t: t, dir: t.TempDir(), path: "/usr/bin:/bin"}
	data := kerneltest.Venv(t, kerneltest.Python(t), "../python/tests/data.txt")
	venv := filepath.Join(h.dir, "python")
	args := []string{"-m", "venv", venv}
	if tool == "uv" {
		args = append(args, "--without-pip")
	}
	if out, err := exec.CommandContext(t.Context(), data, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.python = filepath.Join(venv, "bin", "python")
	if tool == "uv" { // alone in its folder
		bin := filepath.Join(h.dir, "uv")
		if err := os.Mkdir(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(filepath.Dir(data), "uv"), filepath.Join(bin, "uv")); err != nil {
			t.Fatal(err)
		}
		h.path = bin + ":" + h.path
	}
	return h
}

func (h *home) options() environment.Options {
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") })
	return environment.Options{
		Dir: filepath.Join(h.dir, "environments"), Specs: filepath.Join(h.dir, "kernels"),
		Python: func() (string, error) { return h.python, nil }, Env: append(env, "PATH="+h.path),
		Taken: func(name string) bool { return name == "bash" },
	}
}

func (h *home) open() *environment.Set {
	h.t.Helper()
	s, err := environment.Open(h.options())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// tree returns what every file below a folder contains; what Python makes of
// files when it reads them does not count.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return nil
		}
		if err != nil {
			return err
		}
		switch d.Name() {
		case "__pycache__":
			return filepath.SkipDir
		case ".lock": // uv's, of the environment
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		what := fi.Mode().String()
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(b)
			what += hex.EncodeToString(sum[:])
		}
		all[path] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(t *testing.T, before, after map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if after[path] != before[path] {
			t.Errorf("%s was %q and is %q", path, before[path], after[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[path]; !ok {
			t.Errorf("%s is new", path)
		}
	}
}

func batch(packages ...string) environment.Batch { return environment.Batch{Packages: packages} }

func quietly(environment.Step) {}

// version returns that of a package, "" if it is not there.
func version(t *testing.T, s *environment.Set, name, pkg string) string {
	t.Helper()
	all, err := s.Packages(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if strings.EqualFold(p.Name, pkg) {
			return p.Version
		}
	}
	return ""
}

func (h *home) run(code string) string {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), h.python, "-c", code).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s: %v: %s", code, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Packages come, are replaced, and go; programs that come with them run.
func TestDefault(t *testing.T) {
	for _, tool := range tools {
		t.Run(tool, func(t *testing.T) {
			h := newHome(t, tool)
			s := h.open()
			empty := tree(t, filepath.Dir(filepath.Dir(h.python)))
			steps := map[string]environment.Step{}
			tell := func(st environment.Step) { steps[st.Name] = st }
			got, err := s.Install(t.Context(), "default", batch("tabulate==0.8.10", "python-dateutil==2.8.2"), tell)
			if err != nil {
				t.Fatal(err)
			}
			slices.SortFunc(got, func(a, b environment.Change) int { return strings.Compare(a.Name, b.Name) })
			if len(got) != 3 || got[0] != (environment.Change{Name: "python-dateutil", Version: "2.8.2"}) || got[2] != (environment.Change{Name: "tabulate", Version: "0.8.10"}) {
				t.Errorf("Install = %+v; want dateutil, six and tabulate", got)
			}
			for _, name := range []string{"resolve", "download", "install", "verify"} {
				if st := steps[name]; st.Total == 0 || st.Done != st.Total {
					t.Errorf("the last step %s is %+v", name, st)
				}
			}
			if got := h.run("import dateutil.tz, six, tabulate; print(tabulate.tabulate([[1]], tablefmt='plain'))"); got != "1" {
				t.Errorf("tabulate prints %q", got)
			}
			program := filepath.Join(filepath.Dir(h.python), "tabulate")
			if out, err := exec.CommandContext(t.Context(), program, "--help").CombinedOutput(); err != nil || !strings.Contains(string(out), "Usage") {
				t.Errorf("the program tabulate: %v: %s", err, out)
			}
			text, err := s.Freeze(t.Context(), "default")
			if err != nil || !strings.Contains(text, "tabulate==0.8.10\n") {
				t.Errorf("Freeze = %q, %v", text, err)
			}
			got, err = s.Install(t.Context(), "default", batch("tabulate==0.9.0"), quietly)
			if err != nil || len(got) != 1 || got[0] != (environment.Change{Name: "tabulate", Version: "0.9.0", Was: "0.8.10"}) {
				t.Errorf("Install of a newer tabulate = %+v, %v", got, err)
			}
			if got := h.run("import tabulate; print(tabulate.__version__)"); got != "0.9.0" {
				t.Errorf("tabulate's version is %s", got)
			}
			if got, err := s.Install(t.Context(), "default", batch("tabulate"), quietly); err != nil || len(got) != 0 {
				t.Errorf("Install of what is there = %+v, %v", got, err)
			}
			got, err = s.Install(t.Context(), "default", environment.Batch{Packages: []string{"tabulate"}, Upgrade: true}, quietly)
			if err != nil || len(got) != 1 || got[0].Was != "0.9.0" {
				t.Errorf("Install with Upgrade = %+v, %v", got, err)
			}
			if got, err := s.Uninstall(t.Context(), "default", []string{"Tabulate", "python_dateutil", "six"}, quietly); err != nil || len(got) != 3 {
				t.Errorf("Uninstall = %+v, %v", got, err)
			}
			same(t, empty, tree(t, filepath.Dir(filepath.Dir(h.python))))
		})
	}
}

// What cannot be installed leaves everything as it was, and says why.
func TestFailures(t *testing.T) {
	for _, tool := range tools {
		t.Run(tool, func(t *testing.T) {
			h := newHome(t, tool)
			s := h.open()
			if _, err := s.Install(t.Context(), "default", batch("requests==2.31.0", "six==1.16.0"), quietly); err != nil {
				t.Fatal(err)
			}
			before := tree(t, h.dir)
			broken := sdist(t)
			for _, tt := range []struct {
				name string
				b    environment.Batch
				says []string
			}{
				{"unknown", batch("idna", "soulbox-there-is-no-such-package"), []string{"soulbox-there-is-no-such-package"}},
				{"no such version", batch("six==99.99"), []string{"six"}},
				{"two conflict", batch("requests==2.31.0", "urllib3==1.20"), []string{"urllib3"}},
				{"conflicts with what is there", batch("six==1.15.0", "urllib3==1.20"), []string{"requests", "urllib3"}},
				{"cannot be built", batch("idna==3.4", "soulbox-broken @ file://"+broken), []string{"this package cannot be built"}},
				{"wrong hash", environment.Batch{Requirements: "six==1.15.0 --hash=sha256:" + strings.Repeat("0", 64)}, []string{"six"}},
				{"index that is not there", environment.Batch{Packages: []string{"idna==3.3"}, Index: "http://127.0.0.1:9/simple"}, []string{"idna"}},
			} {
				t.Run(tt.name, func(t *testing.T) {
					rolled := false
					got, err := s.Install(t.Context(), "default", tt.b, func(st environment.Step) { rolled = rolled || st.Name == "rollback" })
					var f *environment.FailureError
					if !errors.As(err, &f) || !f.RolledBack || !rolled {
						t.Fatalf("Install = %+v, %#v, step rollback %v", got, err, rolled)
					}
					for _, w := range tt.says {
						if !strings.Contains(f.Text, w) {
							t.Errorf("the message does not say %q:\n%s", w, f.Text)
						}
					}
					same(t, before, tree(t, h.dir))
				})
			}
			t.Run("needed by another", func(t *testing.T) {
				_, err := s.Uninstall(t.Context(), "default", []string{"idna"}, quietly)
				var f *environment.FailureError
				if !errors.As(err, &f) || !f.RolledBack || !strings.Contains(f.Text, "requests") {
					t.Errorf("Uninstall = %v", err)
				}
				same(t, before, tree(t, h.dir))
			})
			t.Run("interrupted", func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				_, err := s.Install(ctx, "default", batch("pygments==2.18.0"), func(st environment.Step) {
					if st.Name == "install" && st.Done > 100 {
						cancel()
					}
				})
				var f *environment.FailureError
				if !errors.As(err, &f) || !f.RolledBack {
					t.Errorf("Install = %v", err)
				}
				same(t, before, tree(t, h.dir))
			})
		})
	}
}

// sdist returns a package whose build fails.
func sdist(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "soulbox-broken-1.0")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n[project]\nname = \"soulbox-broken\"\nversion = \"1.0\"\n",
		"PKG-INFO":       "Metadata-Version: 2.1\nName: soulbox-broken\nVersion: 1.0\n",
		"backend.py":     "def build_wheel(*args, **kwargs):\n    raise SystemExit('this package cannot be built')\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	archive := dir + ".tar.gz"
	if out, err := exec.CommandContext(t.Context(), "tar", "-czf", archive, "-C", filepath.Dir(dir), filepath.Base(dir)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return archive
}

const (
	killAt  = "SOULBOX_TEST_KILL_AT" // a step, in the child
	killIn  = "SOULBOX_TEST_HOME"
	killEnv = "SOULBOX_TEST_ENVIRONMENT"
)

// A process that is killed in the middle of a change leaves what the next one
// brings back to what it was.
func TestKilled(t *testing.T) {
	if at := os.Getenv(killAt); at != "" {
		die(t, at)
		return
	}
	for _, tool := range tools {
		for _, name := range []string{"default", "fresh"} {
			if tool == "pip" && name == "fresh" {
				continue // a minute for what uv has shown
			}
			h := newHome(t, tool)
			s := h.open()
			if _, err := s.Install(t.Context(), "default", batch("pygments==2.17.2"), quietly); err != nil {
				t.Fatal(err)
			}
			before := tree(t, h.dir)
			for _, at := range []string{"resolve", "download", "install", "middle", "verify"} {
				t.Run(tool+"/"+name+"/"+at, func(t *testing.T) {
					cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
					cmd.Env = append(os.Environ(), killAt+"="+at, killIn+"="+h.dir, killEnv+"="+name, "SOULBOX_TEST_PATH="+h.path)
					out, err := cmd.CombinedOutput()
					var exit *exec.ExitError
					if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
						t.Fatalf("the child ended with %v: %s", err, out)
					}
					if len(tree(t, h.dir)) == len(before) {
						t.Error("the kill left nothing behind: it came before anything was done")
					}
					s := h.open()
					same(t, before, tree(t, h.dir))
					if got := version(t, s, "default", "pygments"); got != "2.17.2" {
						t.Errorf("pygments has version %q", got)
					}
				})
			}
			s = h.open()
			if _, err := s.Install(t.Context(), name, batch("pygments==2.18.0"), quietly); err != nil {
				t.Errorf("Install afterwards: %v", err)
			}
			if got := version(t, s, name, "pygments"); got != "2.18.0" {
				t.Errorf("pygments has version %q", got)
			}
		}
	}
}

// die changes an environment and kills its process at a step.
func die(t *testing.T, at string) {
	t.Helper()
	dir := os.Getenv(killIn)
	h := &home{t: t, dir: dir, python: filepath.Join(dir, "python/bin/python"), path: os.Getenv("SOULBOX_TEST_PATH")}
	_, err := h.open().Install(t.Context(), os.Getenv(killEnv), batch("pygments==2.18.0"), func(st environment.Step) {
		if st.Name == at || at == "middle" && st.Name == "install" && st.Done > 0 && st.Done < st.Total {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	})
	t.Fatalf("nobody died: %v", err)
}

// Named environments are made at once, each for itself; one takes one change.
func TestNamed(t *testing.T) {
	for _, tool := range tools {
		t.Run(tool, func(t *testing.T) {
			h := newHome(t, tool)
			s := h.open()
			before := tree(t, filepath.Dir(filepath.Dir(h.python)))
			var wg sync.WaitGroup
			for name, want := range map[string]string{"old": "1.15.0", "new": "1.17.0"} {
				wg.Go(func() {
					if _, err := s.Install(t.Context(), name, batch("six=="+want), quietly); err != nil {
						t.Errorf("Install in %s: %v", name, err)
					}
				})
			}
			wg.Wait()
			for name, want := range map[string]string{"old": "1.15.0", "new": "1.17.0"} {
				if got := version(t, s, name, "six"); got != want {
					t.Errorf("six in %s is %q, want %s", name, got, want)
				}
			}
			same(t, before, tree(t, filepath.Dir(filepath.Dir(h.python))))
			if b, err := os.ReadFile(filepath.Join(h.dir, "kernels/old/kernel.json")); err != nil || !strings.Contains(string(b), "environments/old/bin/python") {
				t.Errorf("the kernel of old: %s, %v", b, err)
			}
			all, err := s.List(t.Context())
			if err != nil || len(all) != 3 || all[0].Name != "default" || all[1].Name != "new" || all[2].Packages < 10 {
				t.Errorf("List = %+v, %v", all, err)
			}

			// The second into one is refused while the first runs.
			began, finish := make(chan struct{}), make(chan struct{})
			first := make(chan error, 1)
			var once sync.Once
			go func() {
				_, err := s.Install(t.Context(), "old", batch("idna==3.4"), func(environment.Step) {
					once.Do(func() { close(began); <-finish })
				})
				first <- err
			}()
			<-began
			_, err = s.Install(t.Context(), "old", batch("idna==3.5"), quietly)
			var r *environment.RefusalError
			if !errors.As(err, &r) || r.Kind != environment.Conflict {
				t.Errorf("the second Install = %v, want a conflict", err)
			}
			if err := s.Remove(t.Context(), "old"); !errors.As(err, &r) || r.Kind != environment.Conflict {
				t.Errorf("Remove meanwhile = %v, want a conflict", err)
			}
			close(finish)
			if err := <-first; err != nil || version(t, s, "old", "idna") != "3.4" {
				t.Errorf("the first Install: %v, idna %q", err, version(t, s, "old", "idna"))
			}

			if _, err := s.Uninstall(t.Context(), "old", []string{"ipykernel"}, quietly); !errors.As(err, &r) || r.Kind != environment.Conflict {
				t.Errorf("Uninstall of ipykernel = %v", err)
			}
			if err := s.Remove(t.Context(), "old"); err != nil {
				t.Error(err)
			}
			if _, err := s.Packages(t.Context(), "old"); !errors.As(err, &r) || r.Kind != environment.NotFound {
				t.Errorf("Packages of what was removed: %v", err)
			}

			// The first batch fails, or takes too long: there is no environment.
			kernels := tree(t, filepath.Join(h.dir, "kernels"))
			_, err = s.Install(t.Context(), "third", batch("soulbox-there-is-no-such-package"), quietly)
			var f *environment.FailureError
			if !errors.As(err, &f) || !f.RolledBack {
				t.Errorf("Install of nothing = %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err = s.Install(ctx, "third", batch("six"), quietly); !errors.As(err, &f) || !f.RolledBack || !strings.Contains(f.Text, "longer") {
				t.Errorf("Install in a tenth of a second = %v", err)
			}
			same(t, kernels, tree(t, filepath.Join(h.dir, "kernels")))
			if all, err := s.List(t.Context()); err != nil || len(all) != 2 {
				t.Errorf("List = %+v, %v", all, err)
			}
			if _, err := os.Stat(filepath.Join(h.dir, "environments/third")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("environments/third: %v", err)
			}
		})
	}
}

// Bad requests are refused before anything is done.
func TestRefused(t *testing.T) {
	h := newHome(t, "uv")
	s := h.open()
	before := tree(t, h.dir)
	for name, b := range map[string]environment.Batch{
		"nothing":         {},
		"option":          batch("-r"),
		"option behind":   batch("six --index-url http://x"),
		"path":            batch("./six"),
		"folder":          batch("/etc"),
		"scheme":          batch("six @ ftp://x/six.whl"),
		"new line":        batch("six\nidna"),
		"expansion":       batch("six==${HOME}"),
		"no name":         batch("==1"),
		"extras":          batch("six[x"),
		"hash in a name":  batch("six==1 --hash=sha256:00"),
		"option in text":  {Requirements: "six\n-e .\n"},
		"index":           {Packages: []string{"six"}, Index: "file:///etc"},
		"index, too long": {Packages: []string{"six"}, Index: "https://x/" + strings.Repeat("x", 4096)},
		"too many":        {Packages: slices.Repeat([]string{"six"}, 501)},
		"long":            batch("six; " + strings.Repeat("x", 2000)),
		"long text":       {Requirements: strings.Repeat("#\n", 200_000)},
	} {
		_, err := s.Install(t.Context(), "default", b, quietly)
		var r *environment.RefusalError
		if !errors.As(err, &r) || r.Kind != environment.Invalid {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	var r *environment.RefusalError
	for _, name := range []string{"", "A", "a/b", "..", "-x", "a b", strings.Repeat("x", 33), "ä"} {
		if _, err := s.Install(t.Context(), name, batch("six"), quietly); !errors.As(err, &r) || r.Kind != environment.Invalid {
			t.Errorf("Install in %q: %v, want a refusal", name, err)
		}
		if _, err := s.Packages(t.Context(), name); !errors.As(err, &r) || r.Kind != environment.Invalid {
			t.Errorf("Packages of %q: %v, want a refusal", name, err)
		}
		if err := s.Remove(t.Context(), name); !errors.As(err, &r) || r.Kind != environment.Invalid {
			t.Errorf("Remove of %q: %v, want a refusal", name, err)
		}
	}
	if _, err := s.Install(t.Context(), "bash", batch("six"), quietly); !errors.As(err, &r) || r.Kind != environment.Conflict {
		t.Errorf("Install in bash: %v, want a conflict", err)
	}
	if err := s.Remove(t.Context(), "default"); !errors.As(err, &r) || r.Kind != environment.Conflict {
		t.Errorf("Remove of default: %v, want a conflict", err)
	}
	if _, err := s.Uninstall(t.Context(), "default", []string{"six"}, quietly); !errors.As(err, &r) || r.Kind != environment.NotFound {
		t.Errorf("Uninstall of what is not there: %v", err)
	}
	same(t, before, tree(t, h.dir))
}

// Requirements may have hashes, and then they are checked to the end.
func TestHashes(t *testing.T) {
	const six = "six==1.16.0 \\\n  --hash=sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254 \\\n  --hash=sha256:1e61c37477a1626458e36f7b1d82aa5c9b094fa4802892072e49de9c60c4c926\n"
	for _, tool := range tools {
		s := newHome(t, tool).open()
		got, err := s.Install(t.Context(), "default", environment.Batch{Requirements: "# two\n" + six}, quietly)
		if err != nil || len(got) != 1 || got[0].Version != "1.16.0" {
			t.Errorf("%s: Install = %+v, %v", tool, got, err)
		}
	}
}
