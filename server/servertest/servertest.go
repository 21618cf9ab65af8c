// Package servertest runs the real server, as the process that users run, for
// tests that drive it from outside or kill it.
package servertest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Server is one data folder and the process that may be serving it.
type Server struct {
	Data    string
	Binary  string
	Warm    bool   // sandboxes are made ahead, as an operator's server does
	Network string // of its sandboxes; empty: it chooses, which two that start at the same time must not

	// Settings are further lines of the configuration file.
	Settings string

	cmd *exec.Cmd
	log *output
}

// Binary returns the path of bin/soulbox, which `make build` makes.
func Binary(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			path := filepath.Join(dir, "bin", "soulbox")
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("%s is missing: run `make build` first", path)
			}
			return path
		}
	}
	t.Fatal("not in a checkout of soulbox")
	return ""
}

// New returns a server that is not started yet, with a data folder in which
// the base template exists already. Everything is removed when t ends.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{Binary: Binary(t), Data: filepath.Join(t.TempDir(), "data")}
	if err := clone(prepared(t, s.Binary), s.Data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		s.purge(t)
		if t.Failed() && s.log != nil {
			t.Logf("the server's log ends with:\n%s", s.log.tail())
		}
	})
	return s
}

// prepared returns a data folder with the base template. It is kept in the
// user's cache and made again when what the template is made of has changed.
func prepared(t testing.TB, binary string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "soulbox", "test-data-"+recipe(t, filepath.Dir(filepath.Dir(binary))))
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	// Packages are tested at the same time; one of them prepares.
	lock, err := os.OpenFile(filepath.Join(filepath.Dir(dir), "test-data.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "test-data-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range old { // of an earlier build, or half made
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	s := &Server{Binary: binary, Data: dir + ".next"}
	t.Logf("preparing the base template in %s", dir)
	s.Start(t)
	s.Stop(t)
	s.purge(t)
	if err := os.Rename(s.Data, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// recipe is a name for what the base template is made of: the recipe, the
// agent, and the room that puts them together.
func recipe(t testing.TB, root string) string {
	t.Helper()
	hash := sha256.New()
	for _, part := range []string{
		"bin/soulbox-agent", "templates/base", "templates/templates.go", "templates/debootstrap.go", "templates/mirror.go", "templates/trust.go", "templates/pip.go", "node/rootfs", "store/migration",
	} {
		err := filepath.WalkDir(filepath.Join(root, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			fmt.Fprintf(hash, "%s %d\n", path, len(b))
			hash.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:6])
}

// purge removes what the server has in the kernel.
func (s *Server) purge(t testing.TB) {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), s.Binary, "purge", "--yes", "--data", s.Data).CombinedOutput()
	if err != nil {
		t.Errorf("purge: %v\n%s", err, out)
	}
}

// clone copies a data folder; images, which never change, are linked.
func clone(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case !d.Type().IsRegular(): // a socket is nothing without its server
			return nil
		case strings.HasSuffix(path, ".erofs") && os.Link(path, target) == nil:
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, 0o600)
	})
}

// Arm makes the process die when it comes to a step from now on, whether it
// runs already or not. The empty step makes it safe again.
func (s *Server) Arm(t testing.TB, step string) {
	t.Helper()
	next := s.faultFile() + ".next" // the process must not read half a name
	if err := os.WriteFile(next, []byte(step), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, s.faultFile()); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) faultFile() string { return s.Data + ".fault" }

const (
	startTimeout = 5 * time.Minute // the first start builds the base template
	stopTimeout  = time.Minute
)

// Start starts the process with further environment variables, and returns
// when it listens. It fails the test if the process ends before.
func (s *Server) Start(t testing.TB, env ...string) {
	t.Helper()
	if err := s.TryStart(env...); err != nil {
		t.Fatalf("%v\n%s", err, s.log.tail())
	}
}

// TryStart is Start for a server that may die while it starts.
func (s *Server) TryStart(env ...string) error {
	s.log = &output{listening: make(chan struct{})}
	s.cmd = exec.Command(s.Binary, "serve", "--data", s.Data, "--listen", "127.0.0.1:0", "--metrics", "off", "--log", "text") //nolint:noctx // it ends when Kill says so
	config := filepath.Join(s.Data, "test.yaml")
	settings := s.Settings + "ready_networks: 4\n" // those of a dead server are removed when the next one starts
	if !s.Warm {
		// A step that a test wants to die at must be one of its own creates.
		settings += "warm_mb: -1\n"
	}
	if s.Network != "" {
		settings += "network: " + s.Network + "\n"
	}
	if err := os.MkdirAll(s.Data, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		return err
	}
	s.cmd.Args = append(s.cmd.Args, "--config", config)
	s.cmd.Env = append(append(os.Environ(), "SOULBOX_FAULT=file:"+s.faultFile()), env...)
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func(cmd *exec.Cmd) { ended <- cmd.Wait() }(s.cmd)
	s.log.ended = ended
	select {
	case <-s.log.listening:
		return nil
	case err := <-ended:
		ended <- err
		return fmt.Errorf("the server ended before it listened: %w", err)
	case <-time.After(startTimeout):
		return errors.New("the server does not listen")
	}
}

// Stop ends the process as an operator would.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitEnd(); err != nil {
		t.Fatalf("the server did not end well: %v\n%s", err, s.log.tail())
	}
}

// Kill ends the process as an accident would. It may have ended already.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.WaitEnd()          // by a signal, that is
}

// WaitEnd returns when the process has ended.
func (s *Server) WaitEnd() error {
	select {
	case err := <-s.log.ended:
		s.log.ended <- err // for whoever asks again
		return err
	case <-time.After(stopTimeout):
		return errors.New("the server does not end")
	}
}

// PID is the process's number.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Credentials returns where the server is and the operator's key.
func (s *Server) Credentials(t testing.TB) (url, key string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Data, "client.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		URL string `json:"api_url"`
		Key string `json:"api_key"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c.URL, c.Key
}

// output keeps the end of what a server writes and notices when it listens.
type output struct {
	listening chan struct{}
	ended     chan error

	mu       sync.Mutex
	text     []byte
	seen     bool
	instance string
}

func (o *output) Write(p []byte) (int, error) {
	const most = 16 << 10
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if !o.seen {
		for lines := bufio.NewScanner(bytes.NewReader(o.text)); lines.Scan(); {
			if _, rest, ok := strings.Cut(lines.Text(), " instance="); ok {
				o.instance = strings.TrimSpace(rest)
			}
			if strings.HasPrefix(lines.Text(), "SoulBox listens on") {
				o.seen = true
				close(o.listening)
				break
			}
		}
	}
	if len(o.text) > most {
		o.text = append(o.text[:0], o.text[len(o.text)-most:]...)
	}
	return len(p), nil
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}
