package jupyter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	maxSpec   = 1 << 20 // bytes of a kernel.json
	maxSpecs  = 1000    // that are listed
	byMessage = "message"
)

// ErrNoKernel says that no kernel of a name is installed.
var ErrNoKernel = errors.New("no such kernel")

// A Spec says how a kernel is started.
type Spec struct {
	Name        string            `json:"-"`
	Dir         string            `json:"-"` // where the spec and its resources are
	Argv        []string          `json:"argv"`
	DisplayName string            `json:"display_name"`
	Language    string            `json:"language"`
	Interrupt   string            `json:"interrupt_mode"` // "signal" or "message"
	Env         map[string]string `json:"env"`
	Metadata    json.RawMessage   `json:"metadata,omitempty"` // for clients, such as whether it can be debugged
}

// isName reports whether a spec may have this name. It is a folder's.
func isName(name string) bool {
	const most = 100
	for _, c := range []byte(name) {
		if c != '.' && c != '_' && c != '-' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return len(name) <= most && strings.Trim(name, ".") != ""
}

// Find returns the spec called name from the first of these folders that has
// one. The error is ErrNoKernel when none has.
func Find(dirs []string, name string) (*Spec, error) {
	if !isName(name) {
		return nil, ErrNoKernel
	}
	for _, dir := range dirs {
		s, err := read(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kernel %s: %w", name, err)
		}
		s.Name = name
		return s, nil
	}
	return nil, ErrNoKernel
}

// List returns the specs in these folders, sorted by their names. Those that
// cannot be read, or started, are left out.
func List(dirs []string) []*Spec {
	found := map[string]*Spec{}
	for _, dir := range dirs {
		all, _ := os.ReadDir(dir) // most of the folders are not there
		for _, e := range all {
			if len(found) == maxSpecs || found[e.Name()] != nil || !isName(e.Name()) {
				continue
			}
			if s, err := Find(dirs, e.Name()); err == nil {
				found[e.Name()] = s
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *Spec) int { return strings.Compare(a.Name, b.Name) })
}

func read(dir string) (*Spec, error) {
	f, err := os.Open(filepath.Join(dir, "kernel.json"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSpec))
	if err != nil {
		return nil, err
	}
	s := &Spec{Dir: dir}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, err
	}
	if len(s.Argv) == 0 {
		return nil, errors.New("its argv is empty")
	}
	if s.Interrupt == "" && filepath.Base(s.Argv[0]) == "deno" {
		s.Interrupt = byMessage // its own spec does not say so, but it dies of a signal
	}
	return s, nil
}

// ByMessage reports whether the kernel is interrupted by a message. It obeys at
// once or not at all.
func (s *Spec) ByMessage() bool { return s.Interrupt == byMessage }

// python reports whether the kernel is a Python program. Those are made with
// ipykernel, whose sockets may be files.
func (s *Spec) python() bool { return strings.HasPrefix(filepath.Base(s.Argv[0]), "python") }

// Program returns the path of the kernel's program.
func (s *Spec) Program() (string, error) {
	argv, err := s.command("")
	if err != nil {
		return "", err
	}
	return argv[0], nil
}

// command returns the program and its arguments. A program without a folder is
// looked for beside the spec first: <prefix>/share/jupyter/kernels/name is an
// environment with a bin.
func (s *Spec) command(connection string) ([]string, error) {
	argv := make([]string, len(s.Argv))
	fill := strings.NewReplacer("{connection_file}", connection, "{resource_dir}", s.Dir)
	for i, a := range s.Argv {
		argv[i] = fill.Replace(a)
	}
	if strings.Contains(argv[0], "/") {
		return argv, nil
	}
	beside := filepath.Join(s.Dir, "../../../../bin", argv[0])
	if path, err := exec.LookPath(beside); err == nil {
		argv[0] = path
		return argv, nil
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, err
	}
	argv[0] = path
	return argv, nil
}
