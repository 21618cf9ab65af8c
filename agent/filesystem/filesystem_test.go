package filesystem_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/agent/filesystem"
	"github.com/soulbox/soulbox/internal/connectjson"
)

// What a client sees of the service, written down once more: a change of the
// wire must fail here.
type (
	object = map[string]any

	entry struct {
		Name, Type, Path, Size, Permissions, Owner, Group, ModifiedTime, SymlinkTarget string

		Mode     uint32
		Metadata map[string]string
	}
	entryResponse struct{ Entry entry }
	listResponse  struct{ Entries []entry }
)

// fixture is a service behind a real server, with accounts root and user.
type fixture struct {
	*connectjson.Client
	url  string
	home string
}

const testUID = 54321

func serve(t *testing.T) *fixture {
	t.Helper()
	old := syscall.Umask(0o022)
	t.Cleanup(func() { syscall.Umask(old) })
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	for _, err := range []error{
		os.Mkdir(home, 0o755),
		os.Chown(home, testUID, testUID),
		os.WriteFile(dir+"/passwd", fmt.Appendf(nil, "root:x:0:0::/root:/bin/bash\nuser:x:%d:%d::%s:/bin/bash\n", testUID, testUID, home), 0o600),
		os.WriteFile(dir+"/group", fmt.Appendf(nil, "root:x:0:\nuser:x:%d:\n", testUID), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := filesystem.New(account.New(dir+"/passwd", dir+"/group"))
	mux := http.NewServeMux()
	s.Register(mux)
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		s.Close()
		srv.Close()
	})
	return &fixture{
		Client: &connectjson.Client{HTTP: &http.Client{}, Base: srv.URL + "/filesystem.Filesystem"},
		url:    srv.URL,
		home:   home,
	}
}

func call[R any](t *testing.T, f *fixture, procedure string, req object) (*R, error) {
	t.Helper()
	return connectjson.Call[R](t.Context(), f.Client, procedure, &req)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, what string, err error, code connectjson.Code, text string) {
	t.Helper()
	if connectjson.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v, want %s with %q", what, err, code, text)
	}
}

func TestStat(t *testing.T) {
	f := serve(t)
	path := f.home + "/a.txt"
	write(t, path, "hello")
	when := time.Date(2024, 2, 29, 1, 2, 3, 4005, time.UTC)
	for _, err := range []error{
		os.Chtimes(path, when, when),
		os.Chown(path, testUID, 7777),
		os.Symlink("a.txt", f.home+"/link"),
		os.Symlink("nowhere", f.home+"/dangling"),
		os.Mkdir(f.home+"/dir", 0o750),
		os.Symlink("dir", f.home+"/dirlink"),
		syscall.Mkfifo(f.home+"/pipe", 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	file := entry{
		Name: "a.txt", Type: "FILE_TYPE_FILE", Path: path, Size: "5", Mode: 0o644, Permissions: "-rw-r--r--",
		Owner: "user", Group: "7777", ModifiedTime: "2024-02-29T01:02:03.000004005Z",
	}
	link := entry{
		Name: "link", Type: "FILE_TYPE_FILE", Path: f.home + "/link", Size: "5", Mode: 0o644, Permissions: "Lrwxrwxrwx",
		Owner: "root", Group: "root", SymlinkTarget: path,
	}
	tests := []struct {
		path string
		want entry
	}{
		{"a.txt", file},
		{"./x/../a.txt", file},
		{path, file},
		{"~/a.txt", file},
		{"link", link},
		{"dangling", entry{Name: "dangling", Path: f.home + "/dangling", Size: "7", Permissions: "Lrwxrwxrwx", Owner: "root", Group: "root", SymlinkTarget: f.home + "/dangling"}},
		{"dir", entry{Name: "dir", Type: "FILE_TYPE_DIRECTORY", Path: f.home + "/dir", Mode: 0o750, Permissions: "drwxr-x---", Owner: "root", Group: "root"}},
		{"dirlink", entry{Name: "dirlink", Type: "FILE_TYPE_DIRECTORY", Path: f.home + "/dirlink", Size: "3", Mode: 0o750, Permissions: "Lrwxrwxrwx", Owner: "root", Group: "root", SymlinkTarget: f.home + "/dir"}},
		{"pipe", entry{Name: "pipe", Path: f.home + "/pipe", Mode: 0o600, Permissions: "prw-------", Owner: "root", Group: "root"}},
	}
	for _, tt := range tests {
		got, err := call[entryResponse](t, f, "/Stat", object{"path": tt.path})
		if err != nil {
			t.Errorf("Stat(%q): %v", tt.path, err)
			continue
		}
		if tt.want.ModifiedTime == "" {
			if got.Entry.ModifiedTime == "" {
				t.Errorf("Stat(%q) has no time", tt.path)
			}
			got.Entry.ModifiedTime = ""
		}
		if got.Entry.Type == "FILE_TYPE_DIRECTORY" && tt.path == "dir" {
			got.Entry.Size = ""
		}
		if diff := cmp.Diff(tt.want, got.Entry); diff != "" {
			t.Errorf("Stat(%q) (-want +got):\n%s", tt.path, diff)
		}
	}
	for path, code := range map[string]connectjson.Code{
		"none": connectjson.NotFound, "a.txt/x": connectjson.NotFound, "a\x00b": connectjson.InvalidArgument,
		"~root/x": connectjson.InvalidArgument, strings.Repeat("x", 300): connectjson.InvalidArgument,
	} {
		_, err := call[entryResponse](t, f, "/Stat", object{"path": path})
		wantCode(t, "Stat", err, code, "")
	}
	f.Header = http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("ghost:"))}}
	_, err := call[entryResponse](t, f, "/Stat", object{"path": "a.txt"})
	wantCode(t, "as ghost", err, connectjson.Unauthenticated, "invalid username: 'ghost'")
}

func TestListDir(t *testing.T) {
	f := serve(t)
	write(t, f.home+"/d/one/two/file", "x")
	write(t, f.home+"/d/top", "x")
	for _, err := range []error{
		os.Symlink("d", f.home+"/l"),
		os.Symlink("loop", f.home+"/loop"),
		os.Symlink("one", f.home+"/d/tolink"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	list := func(path string, depth int) ([]string, error) {
		got, err := call[listResponse](t, f, "/ListDir", object{"path": path, "depth": depth})
		if err != nil {
			return nil, err
		}
		paths := []string{}
		for _, e := range got.Entries {
			paths = append(paths, strings.TrimPrefix(e.Path, f.home+"/"))
		}
		return paths, nil
	}
	tests := []struct {
		path  string
		depth int
		want  []string
	}{
		{"d", 0, []string{"d/one", "d/tolink", "d/top"}},
		{"d", 1, []string{"d/one", "d/tolink", "d/top"}},
		{"d", 2, []string{"d/one", "d/one/two", "d/tolink", "d/top"}},
		{"d", 4_000_000_000, []string{"d/one", "d/one/two", "d/one/two/file", "d/tolink", "d/top"}},
		{"l", 1, []string{"l/one", "l/tolink", "l/top"}},
		{"d/one/two/../two", 1, []string{"d/one/two/file"}},
	}
	for _, tt := range tests {
		got, err := list(tt.path, tt.depth)
		if err != nil {
			t.Errorf("ListDir(%s, %d): %v", tt.path, tt.depth, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("ListDir(%s, %d) (-want +got):\n%s", tt.path, tt.depth, diff)
		}
	}
	for path, code := range map[string]connectjson.Code{
		"d/top": connectjson.InvalidArgument, "none": connectjson.NotFound, "loop": connectjson.FailedPrecondition,
	} {
		_, err := list(path, 1)
		wantCode(t, "ListDir "+path, err, code, "")
	}
	if got, err := list("/", 1); err != nil || len(got) < 5 || got[0][0] != '/' || strings.HasPrefix(got[0], "//") {
		t.Errorf("ListDir(/) = %v, %v", got, err)
	}
}

func TestMakeDirMoveRemove(t *testing.T) {
	f := serve(t)
	got, err := call[entryResponse](t, f, "/MakeDir", object{"path": "a/b/c"})
	if err != nil || got.Entry.Path != f.home+"/a/b/c" || got.Entry.Owner != "user" || got.Entry.Permissions != "drwxr-xr-x" {
		t.Fatalf("MakeDir = %+v, %v", got, err)
	}
	if fi, err := os.Stat(f.home + "/a"); err != nil || fi.Sys().(*syscall.Stat_t).Uid != testUID {
		t.Errorf("a parent is not the user's: %v, %v", fi, err)
	}
	write(t, f.home+"/file", "content")
	_, err = call[entryResponse](t, f, "/MakeDir", object{"path": "a"})
	wantCode(t, "MakeDir again", err, connectjson.AlreadyExists, "already exists")
	_, err = call[entryResponse](t, f, "/MakeDir", object{"path": "file"})
	wantCode(t, "MakeDir on a file", err, connectjson.InvalidArgument, "not a directory")
	_, err = call[entryResponse](t, f, "/MakeDir", object{"path": "file/x"})
	wantCode(t, "MakeDir below a file", err, connectjson.InvalidArgument, "path is a file")

	got, err = call[entryResponse](t, f, "/Move", object{"source": "file", "destination": "new/place"})
	if err != nil || got.Entry.Path != f.home+"/new/place" {
		t.Fatalf("Move = %+v, %v", got, err)
	}
	_, err = call[entryResponse](t, f, "/Move", object{"source": "file", "destination": "never/made"})
	wantCode(t, "Move of nothing", err, connectjson.NotFound, "source file not found")
	if _, err := os.Stat(f.home + "/never"); err == nil {
		t.Error("a failed move left a directory behind")
	}

	for range 2 { // the second time there is nothing left
		if _, err := call[object](t, f, "/Remove", object{"path": "new"}); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(f.home + "/new"); err == nil {
		t.Error("removed directory is there")
	}
	_, err = call[object](t, f, "/Remove", object{"path": "/"})
	wantCode(t, "Remove of everything", err, connectjson.InvalidArgument, "root directory")
}

// seen is one event of a watch.
type seen struct {
	Name, Type string
	Entry      *entry
}

type watchResponse struct {
	Start      *struct{}
	Filesystem *seen
	Keepalive  *struct{}
}

// watch starts a watch and returns a function that waits for an event.
func watch(t *testing.T, f *fixture, req object) (wait func(name, kind string) *seen) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	in, err := connectjson.Open[watchResponse](ctx, f.Client, "/WatchDir", &req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	if m, err := in.Receive(); err != nil || m.Start == nil {
		t.Fatalf("first message = %+v, %v; want start", m, err)
	}
	return func(name, kind string) *seen {
		t.Helper()
		var before []string
		for {
			m, err := in.Receive()
			if err != nil {
				t.Fatalf("%v while waiting for %s of %s, after %v", err, kind, name, before)
			}
			if e := m.Filesystem; e != nil {
				if e.Name == name && e.Type == "EVENT_TYPE_"+kind {
					return e
				}
				before = append(before, e.Name+" "+e.Type)
			}
		}
	}
}

func TestWatchDir(t *testing.T) {
	f := serve(t)
	dir := f.home + "/w"
	write(t, dir+"/old", "x")
	wait := watch(t, f, object{"path": "w", "include_entry": true})
	if resp := upload(t, f, "w/old", "new content"); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	if e := wait("old", "WRITE"); e.Entry == nil || e.Entry.Path != dir+"/old" || e.Entry.Type != "FILE_TYPE_FILE" {
		t.Errorf("entry of a write = %+v", e.Entry)
	}
	if resp := upload(t, f, "w/new", "x"); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	wait("new", "CREATE")
	wait("new", "CHMOD")
	wait("new", "WRITE")
	os.Rename(dir+"/new", dir+"/newer")
	if e := wait("new", "RENAME"); e.Entry != nil {
		t.Errorf("a rename has the entry %+v", e.Entry)
	}
	wait("newer", "CREATE")
	os.Mkdir(dir+"/sub", 0o755)
	wait("sub", "CREATE")
	write(t, dir+"/sub/unseen", "x")
	os.RemoveAll(dir + "/sub")
	wait("sub", "REMOVE")
}

func TestWatchRecursive(t *testing.T) {
	f := serve(t)
	dir := f.home + "/w"
	write(t, dir+"/a/b/file", "x")
	wait := watch(t, f, object{"path": "w", "recursive": true})
	write(t, dir+"/a/b/file", "y")
	wait("a/b/file", "WRITE")
	// Made faster than it can be watched, and still complete.
	write(t, dir+"/n1/n2/n3/deep", "x")
	wait("n1", "CREATE")
	wait("n1/n2", "CREATE")
	wait("n1/n2/n3", "CREATE")
	wait("n1/n2/n3/deep", "CREATE")
	// wait has seen the creation; the directory may not be watched yet at the
	// moment of the first write, so write until it is.
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
				os.WriteFile(dir+"/n1/n2/n3/deep", []byte("z"), 0o600)
			}
		}
	}()
	wait("n1/n2/n3/deep", "WRITE")
	close(done)
	os.Rename(dir+"/n1", dir+"/m1")
	wait("n1", "RENAME")
	wait("m1", "CREATE")
	wait("m1/n2", "CREATE")
	write(t, dir+"/m1/n2/fresh", "x")
	wait("m1/n2/fresh", "CREATE")
	os.RemoveAll(dir + "/m1")
	wait("m1", "REMOVE")
}

func TestWatchRefused(t *testing.T) {
	f := serve(t)
	write(t, f.home+"/file", "x")
	for _, procedure := range []string{"/WatchDir", "/CreateWatcher"} {
		for path, code := range map[string]connectjson.Code{"file": connectjson.InvalidArgument, "none": connectjson.NotFound} {
			var err error
			if req := (object{"path": path}); procedure == "/CreateWatcher" {
				_, err = call[object](t, f, procedure, req)
			} else {
				in, oerr := connectjson.Open[watchResponse](t.Context(), f.Client, procedure, &req)
				if oerr != nil {
					t.Fatal(oerr)
				}
				_, err = in.Receive()
				in.Close()
			}
			wantCode(t, procedure+" "+path, err, code, path)
		}
	}
}

func TestWatcher(t *testing.T) {
	f := serve(t)
	write(t, f.home+"/w/x", "")
	made, err := call[object](t, f, "/CreateWatcher", object{"path": "w", "includeEntry": true})
	if err != nil {
		t.Fatal(err)
	}
	id := object{"watcher_id": (*made)["watcherId"]}
	type events struct{ Events []seen }
	if got, err := call[events](t, f, "/GetWatcherEvents", id); err != nil || len(got.Events) != 0 {
		t.Errorf("first events = %+v, %v; want none", got, err)
	}
	write(t, f.home+"/w/test.txt", "hello")
	var got []seen
	for end := time.Now().Add(10 * time.Second); len(got) == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		e, err := call[events](t, f, "/GetWatcherEvents", id)
		if err != nil {
			t.Fatal(err)
		}
		got = e.Events
	}
	if len(got) == 0 || got[0].Name != "test.txt" || got[0].Type != "EVENT_TYPE_CREATE" || got[0].Entry == nil {
		t.Errorf("events = %+v", got)
	}
	if _, err := call[object](t, f, "/RemoveWatcher", id); err != nil {
		t.Error(err)
	}
	_, err = call[events](t, f, "/GetWatcherEvents", id)
	wantCode(t, "events of a removed watcher", err, connectjson.NotFound, "not found")
	_, err = call[object](t, f, "/RemoveWatcher", id)
	wantCode(t, "second removal", err, connectjson.NotFound, "not found")
}

// noFile fails unless path does not exist.
func noFile(t *testing.T, path string) {
	t.Helper()
	if fi, err := os.Lstat(path); err == nil {
		t.Errorf("%s is there: %s", path, fs.FormatFileInfo(fi))
	}
}
