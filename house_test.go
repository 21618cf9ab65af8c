package soulbox_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/soulbox/soulbox"

// doors lists, for each room, the rooms it may enter; the first match wins.
// "." is the root, "x/" is x and everything below it, "..." is everything.
//
// Rooms on one floor do not know each other: server introduces them.
var doors = []struct {
	room string
	may  []string
}{
	{".", nil},
	{"internal/", []string{"internal/"}},

	// Inside the sandbox. The agent must stay small, so it may not even
	// know the nouns.
	{"agent/", []string{"internal/", "agent/"}},
	{"kit/", []string{"internal/", "kit/"}},

	// Doing.
	{"image", []string{".", "internal/"}},
	{"node/", []string{".", "internal/", "node/", "image"}},
	{"template/", []string{".", "internal/", "image", "template/"}},
	{"templates", []string{".", "internal/"}},

	{"depot", []string{".", "internal/", "blob"}},

	// Remembering.
	{"blob/", []string{".", "internal/", "blob/"}},
	{"store/", []string{".", "internal/", "store/"}},

	// Deciding.
	{"fleet", []string{".", "internal/"}},
	{"team", []string{".", "internal/"}},
	{"ledger/", []string{".", "internal/", "ledger/"}},
	{"session/", []string{".", "internal/", "session/"}},
	{"lab", []string{".", "internal/"}},

	// Asking.
	{"proxy", []string{".", "internal/"}},
	{"api/", []string{".", "internal/", "api/"}},
	{"client/", []string{".", "internal/", "client/"}},

	// Putting together.
	{"server/", []string{"..."}},
	{"cmd/soulbox", []string{".", "internal/", "bench", "client", "server"}},
	{"cmd/soulbox-agent", []string{"internal/", "agent/", "kit/"}},
	{"cmd/soulbox-sentry", nil},
	{"cmd/soulbox-boot", nil},
	{"cmd/soulbox-step", []string{"internal/"}},
	{"bench", []string{".", "internal/", "client"}},
	{"bench/alone", []string{".", "internal/", "bench", "client"}},
	{"e2e/front", nil},
	{"e2e/registry", nil},
}

// noName lists package names that say where code is kept, not what it is.
var noName = []string{"base", "common", "consts", "handlers", "helpers", "lib", "misc", "models", "services", "shared", "types", "util", "utils"}

const (
	maxLines = 700 // of a file written by hand
	maxDoor  = 15  // exported functions and types of a room
)

// wideDoors lists the rooms that may exceed maxDoor.
var wideDoors = []string{".", "client", "internal/gen/"}

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

type pkg struct {
	ImportPath, Dir, Name, Doc string
	Imports, GoFiles           []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Name,Doc,Imports,GoFiles", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// rel turns an import path of this module into a room; "." is the root.
func rel(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func match(pattern, room string) bool {
	if pattern == "..." || pattern == room {
		return true
	}
	return strings.HasSuffix(pattern, "/") && strings.HasPrefix(room+"/", pattern)
}

func TestRooms(t *testing.T) {
	for _, p := range packages(t) {
		room, _ := rel(p.ImportPath)
		if p.Doc == "" {
			t.Errorf("%s: no package comment", room)
		}
		if slices.Contains(noName, p.Name) {
			t.Errorf("%s: package name %q says nothing", room, p.Name)
		}
		var may []string
		found := false
		for _, d := range doors {
			if match(d.room, room) {
				may, found = d.may, true
				break
			}
		}
		if !found {
			t.Errorf("%s: no rule in doors; add the room to the plan first", room)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := rel(imp)
			if ours && !slices.ContainsFunc(may, func(m string) bool { return match(m, to) }) {
				t.Errorf("%s must not import %s", room, to)
			}
		}
	}
}

var exported = regexp.MustCompile(`(?m)^(?:func|type) [A-Z]`)

func TestDoors(t *testing.T) {
	for _, p := range packages(t) {
		room, _ := rel(p.ImportPath)
		if slices.ContainsFunc(wideDoors, func(w string) bool { return match(w, room) }) {
			continue
		}
		n := 0
		for _, f := range p.GoFiles {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			n += len(exported.FindAll(b, -1))
		}
		if n > maxDoor {
			t.Errorf("%s exports %d functions and types, more than %d: is it two rooms?", room, n, maxDoor)
		}
	}
}

func TestFileLength(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := bytes.Count(b, []byte("\n")); n > maxLines && !generated.Match(b) {
			t.Errorf("%s has %d lines, more than %d", path, n, maxLines)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
