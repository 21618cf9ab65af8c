package client_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
)

// folder makes files of names and texts in turn; names that end in / are folders.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(dir, files[i])
		if strings.HasSuffix(files[i], "/") {
			if err := os.MkdirAll(name, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sent builds and returns what the server says was in the context: a line for each
// entry, with its type, owner and mode.
func sent(t *testing.T, c *client.Client, o client.BuildOptions) []string {
	t.Helper()
	started, err := c.Templates.Build(t.Context(), "mine", o)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if _, err := c.Templates.Wait(t.Context(), "mine", string(started.Build.ID), func(l soulbox.BuildLine) {
		if name, ok := strings.CutPrefix(l.Message, "context "); ok {
			names = append(names, name)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestContext(t *testing.T) {
	c, _ := newClient(t)
	dir := folder(t, "Dockerfile", "FROM a\n", "run.sh", "x", "sub/a", "1", "sub/deep/b", "22", "empty/", "")
	for _, err := range []error{
		os.Chmod(filepath.Join(dir, "run.sh"), 0o4755), os.Symlink("../etc/passwd", filepath.Join(dir, "sub/link")), os.Link(filepath.Join(dir, "sub/a"), filepath.Join(dir, "sub/z")),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600), os.Chmod(filepath.Join(dir, "run.sh"), 0o755|os.ModeSetuid),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"Dockerfile 0 0:0 644", "empty/ 5 0:0 755", "run.sh 0 0:0 4755", "sub/ 5 0:0 755", "sub/a 0 0:0 644", "sub/deep/ 5 0:0 755", "sub/deep/b 0 0:0 644", "sub/link 2 0:0 777", "sub/z 0 0:0 644",
	}
	if diff := cmp.Diff(want, sent(t, c, client.BuildOptions{Dir: dir})); diff != "" {
		t.Errorf("the context (-want +got):\n%s", diff)
	}
}

func TestDockerignore(t *testing.T) {
	c, _ := newClient(t)
	files := []string{
		"Dockerfile", "FROM a\n", "a.md", "", "README.md", "", "b.txt", "", "dir/a.md", "", "dir/keep/c.txt", "", "dir/keep/d.md", "", "dir2/x", "", "node_modules/p/index.js", "", "sub/node_modules/q.js", "", "sub/e", "",
	}
	all := []string{"Dockerfile", "README.md", "a.md", "b.txt", "dir/", "dir/a.md", "dir/keep/", "dir/keep/c.txt", "dir/keep/d.md", "dir2/", "dir2/x", "node_modules/", "node_modules/p/", "node_modules/p/index.js", "sub/", "sub/e", "sub/node_modules/", "sub/node_modules/q.js"}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
			return slices.ContainsFunc(names, func(n string) bool { return s == n || strings.HasSuffix(n, "/") && strings.HasPrefix(s, n) })
		})
	}
	for name, tt := range map[string]struct {
		ignore string
		want   []string
	}{
		"nothing":              {"", all},
		"a comment":            {"# b.txt\n\n", all},
		"a file":               {"b.txt", without("b.txt")},
		"at the root only":     {"*.md", without("README.md", "a.md")},
		"everywhere":           {"**/*.md", without("README.md", "a.md", "dir/a.md", "dir/keep/d.md")},
		"a folder":             {"dir/\n/dir2", without("dir/", "dir2/")},
		"folders anywhere":     {"**/node_modules", without("node_modules/", "sub/node_modules/")},
		"but one":              {"*.md\n!README.md", without("a.md")},
		"the order counts":     {"!README.md\n*.md", without("README.md", "a.md")},
		"all but":              {"*\n!dir/keep\n!Dockerfile", []string{"Dockerfile", "dir/", "dir/keep/", "dir/keep/c.txt", "dir/keep/d.md"}},
		"all but, and in that": {"*\n!dir/keep\ndir/keep/*.md", []string{"dir/", "dir/keep/", "dir/keep/c.txt"}},
		"all but what is not":  {"*\n!dir/none", []string{}},
		"one of many letters":  {"?.md\n[b-c].txt", without("a.md", "b.txt")},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, append(slices.Clone(files), ".dockerignore", tt.ignore)...)
			var got []string
			for _, line := range sent(t, c, client.BuildOptions{Dir: dir}) {
				if n, _, _ := strings.Cut(line, " "); n != ".dockerignore" {
					got = append(got, n)
				}
			}
			if diff := cmp.Diff(tt.want, got, cmp.Transformer("orNone", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
				t.Errorf("with %q (-want +got):\n%s", tt.ignore, diff)
			}
		})
	}
	// The one that is called like the Dockerfile wins.
	dir := folder(t, append(slices.Clone(files), ".dockerignore", "sub", "docker/File", "FROM a\n", "docker/File.dockerignore", "**/*.md\nd*\nnode_modules\nsub")...)
	got := sent(t, c, client.BuildOptions{Dir: dir, Dockerfile: filepath.Join(dir, "docker/File")})
	if want := []string{"Dockerfile 0 0:0 644", "b.txt 0 0:0 644"}; !cmp.Equal(want, got) {
		t.Errorf("with docker/File.dockerignore: %q, want %q", got, want)
	}
}

func TestContextMistakes(t *testing.T) {
	c, _ := newClient(t)
	dir := folder(t, "Dockerfile", "FROM a\n")
	for name, tt := range map[string]struct {
		o    client.BuildOptions
		kind soulbox.Kind
		says string
	}{
		"nothing":              {client.BuildOptions{}, soulbox.Invalid, "either a folder, a Dockerfile or a context"},
		"both":                 {client.BuildOptions{Dir: dir, Context: strings.NewReader("")}, soulbox.Invalid, "either a folder"},
		"no folder":            {client.BuildOptions{Dir: filepath.Join(dir, "none")}, soulbox.Invalid, "no such file"},
		"no Dockerfile":        {client.BuildOptions{Dir: folder(t)}, soulbox.Invalid, "no such file"},
		"a file for a folder":  {client.BuildOptions{Dir: filepath.Join(dir, "Dockerfile"), Dockerfile: filepath.Join(dir, "Dockerfile")}, soulbox.Invalid, "is not a folder"},
		"a folder for a file":  {client.BuildOptions{Dir: dir, Dockerfile: dir}, soulbox.Invalid, "is a directory"},
		"a large Dockerfile":   {client.BuildOptions{Dir: folder(t, "Dockerfile", strings.Repeat("#\n", 200<<10))}, soulbox.TooLarge, "larger than 256 KiB"},
		"a bad pattern":        {client.BuildOptions{Dir: folder(t, "Dockerfile", "FROM a\n", ".dockerignore", "[")}, soulbox.Invalid, ".dockerignore"},
		"a bad pattern to see": {client.BuildOptions{Dir: folder(t, "Dockerfile", "FROM a\n", ".dockerignore", "a[")}, soulbox.Invalid, ".dockerignore"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Templates.Build(t.Context(), "mine", tt.o)
			if soulbox.KindOf(err) != tt.kind || err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Build: %v, want kind %d and %q", err, tt.kind, tt.says)
			}
		})
	}
	if all, err := c.Templates.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%d templates, %v, want base alone", len(all), err)
	}
}

// A file that cannot be read half way spoils the build, and says which it was.
func TestContextUnreadable(t *testing.T) {
	c, _ := newClient(t)
	dir := folder(t, "Dockerfile", "FROM a\n", "a", strings.Repeat("x", 1<<20))
	// A file that claims to be larger than it is: what is read of it ends early.
	name := "/proc/self/environ"
	if err := os.Symlink(name, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got := sent(t, c, client.BuildOptions{Dir: dir}); !slices.Contains(got, "link 2 0:0 777") {
		t.Errorf("a link was followed: %q", got)
	}
	sparse := filepath.Join(dir, "shrinks")
	if err := os.WriteFile(sparse, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 4<<30); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Templates.Build(t.Context(), "mine", client.BuildOptions{Dir: dir})
		done <- err
	}()
	time.Sleep(50 * time.Millisecond) // some of it has been read
	if err := os.Truncate(sparse, 100<<20); err != nil {
		t.Fatal(err)
	}
	if err := <-done; soulbox.KindOf(err) != soulbox.Conflict || !strings.Contains(err.Error(), "shrinks became shorter") {
		t.Errorf("Build of a folder that changes: %v", err)
	}
}
