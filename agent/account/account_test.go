package account_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/internal/connectjson"
)

const (
	passwd = "# a comment\nroot:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/bash\nnohome:x:7:7:::\n" +
		"broken:x:abc:1::/:\nshort:x\nuser:x:5:5::/other:\nbig:x:4294967295:4294967295::/big:\n+nis\n"
	group = "root:x:0:\nuser:x:1000:user\nsudo:x:27:user,root\nbad:x:y:user\ndocker:x:999:user,nobody\n"
)

func registry(t *testing.T, passwd, group string) (*account.Registry, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return account.New(dir+"/passwd", dir+"/group"), dir
}

func TestLookup(t *testing.T) {
	r, _ := registry(t, passwd, group)
	tests := []struct {
		name string
		want *account.User
	}{
		{"root", &account.User{Name: "root", Groups: []uint32{0, 27}, Home: "/root"}},
		{"user", &account.User{Name: "user", UID: 1000, GID: 1000, Groups: []uint32{1000, 27, 999}, Home: "/home/user"}},
		{"", &account.User{Name: "user", UID: 1000, GID: 1000, Groups: []uint32{1000, 27, 999}, Home: "/home/user"}},
		{"nohome", &account.User{Name: "nohome", UID: 7, GID: 7, Groups: []uint32{7}, Home: "/"}},
		{"big", &account.User{Name: "big", UID: 1<<32 - 1, GID: 1<<32 - 1, Groups: []uint32{1<<32 - 1}, Home: "/big"}},
		{"broken", nil},
		{"short", nil},
		{"ghost", nil},
		{"1000", nil},
	}
	for _, tt := range tests {
		got, err := r.Lookup(tt.name)
		if (err == nil) != (tt.want != nil) {
			t.Errorf("Lookup(%q) error %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Lookup(%q) (-want +got):\n%s", tt.name, diff)
		}
	}
	names := r.Names()
	if u, g, n := names.User(1000), names.Group(27), names.User(4242); u != "user" || g != "sudo" || n != "4242" {
		t.Errorf("names of 1000, 27, 4242 = %q, %q, %q", u, g, n)
	}
}

// Accounts made in the sandbox are found at once.
func TestLookupSeesChanges(t *testing.T) {
	r, dir := registry(t, passwd, group)
	if _, err := r.Lookup("new"); err == nil {
		t.Fatal("there is a user new already")
	}
	path := filepath.Join(dir, "passwd")
	if err := os.WriteFile(path, []byte(passwd+"new:x:8:8::/new:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lookup("new"); err != nil {
		t.Error(err)
	}
}

func TestCaller(t *testing.T) {
	r, _ := registry(t, passwd, group)
	tests := []struct{ header, want, err string }{
		{"", "user", ""},
		{"Bearer x", "user", ""},
		{"Basic !!", "user", ""},
		{"Basic cm9vdDo=", "root", ""},
		{"Basic Z2hvc3Q6", "", "unauthenticated: invalid username: 'ghost'"},
		{"Basic Og==", "", "unauthenticated: invalid username: ''"},
	}
	for _, tt := range tests {
		h := http.Header{}
		h.Set("Authorization", tt.header)
		u, err := r.Caller(h)
		switch {
		case tt.err != "":
			if err == nil || err.Error() != tt.err || connectjson.CodeOf(err) != connectjson.Unauthenticated {
				t.Errorf("Caller(%q) = %v, want %s", tt.header, err, tt.err)
			}
		case err != nil || u.Name != tt.want:
			t.Errorf("Caller(%q) = %v, %v; want %s", tt.header, u, err, tt.want)
		}
	}
	r.SetDefaults("ghost", "")
	if _, err := r.Caller(http.Header{}); err == nil || !strings.Contains(err.Error(), "invalid default user: 'ghost'") {
		t.Errorf("Caller with a default user that does not exist = %v", err)
	}
}

func TestResolve(t *testing.T) {
	r, _ := registry(t, passwd, group)
	u, err := r.Lookup("user")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ path, want string }{
		{"", "/home/user"},
		{"a", "/home/user/a"},
		{"./a/../b/", "/home/user/b"},
		{"../../../../x", "/x"},
		{"/", "/"},
		{"//a//b", "/a/b"},
		{"/a/../../b", "/b"},
		{"~", "/home/user"},
		{"~/", "/home/user"},
		{"~/a", "/home/user/a"},
		{"~root", ""},
		{"~root/x", ""},
		{"a\x00b", ""},
		{"/a~b", "/a~b"},
	}
	for _, tt := range tests {
		got, err := r.Resolve(u, tt.path)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("Resolve(%q) = %q, %v; want %q", tt.path, got, err, tt.want)
		}
	}
	r.SetDefaults("", "/work")
	for path, want := range map[string]string{"": "/work", "a": "/home/user/a"} {
		if got, err := r.Resolve(u, path); got != want {
			t.Errorf("with a default directory, Resolve(%q) = %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestEnvs(t *testing.T) {
	r, _ := registry(t, passwd, group)
	r.SetSystem("E2B_SANDBOX", "true")
	r.ReplaceEnvs(map[string]string{"A": "1", "B": "2"})
	r.ReplaceEnvs(map[string]string{"A": "3", "E2B_SANDBOX": "no"})
	if diff := cmp.Diff(map[string]string{"A": "3", "E2B_SANDBOX": "true"}, r.Envs()); diff != "" {
		t.Errorf("Envs (-want +got):\n%s", diff)
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("../x")
	f.Add("~/a\x00")
	f.Add("/a/b/../../..")
	f.Fuzz(func(t *testing.T, path string) {
		r := account.New("", "")
		got, err := r.Resolve(&account.User{Name: "user", Home: "/home/user"}, path)
		if err != nil {
			return
		}
		if got != filepath.Clean(got) || !filepath.IsAbs(got) || strings.Contains(got, "\x00") {
			t.Errorf("Resolve(%q) = %q, which is not a clean absolute path", path, got)
		}
	})
}

func FuzzAccounts(f *testing.F) {
	f.Add(passwd, group)
	f.Add("a:x:1:2:::\n", "g:x:2:a,a,\n")
	f.Fuzz(func(t *testing.T, passwd, group string) {
		r, _ := registry(t, passwd, group)
		for name := range strings.SplitSeq(passwd, ":") {
			if u, err := r.Lookup(name); err == nil && u.Name != "" {
				if name != "" && u.Name != name || u.Home[0] != '/' || u.Groups[0] != u.GID {
					t.Errorf("Lookup(%q) = %+v", name, u)
				}
			}
		}
	})
}
