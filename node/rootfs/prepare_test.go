package rootfs_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/rootfs"
)

// A file is one entry of a test's tree. A link's content is its target.
type file struct {
	mode    fs.FileMode
	content string
}

func plant(t *testing.T, files map[string]file) string {
	t.Helper()
	dir := t.TempDir()
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case f.mode&fs.ModeSymlink != 0:
			err = os.Symlink(f.content, path)
		case f.mode.IsDir():
			err = os.MkdirAll(path, f.mode.Perm())
		default:
			err = os.WriteFile(path, []byte(f.content), 0o600)
		}
		if err == nil && f.mode&fs.ModeSymlink == 0 {
			err = os.Chmod(path, f.mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func link(to string) file { return file{fs.ModeSymlink, to} }

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func prepare(t *testing.T, dir string) rootfs.User {
	t.Helper()
	u, err := rootfs.Prepare(dir, strings.NewReader("agent"))
	if err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	return u
}

// describe tells type, mode and owner of a file.
func describe(t *testing.T, dir, name string) string {
	t.Helper()
	fi, err := os.Lstat(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("no stat of %s", name)
	}
	return fi.Mode().String() + " " + string(rune('0'+st.Uid/1000)) + string(rune('0'+st.Gid/1000))
}

func TestPrepareEmptyTree(t *testing.T) {
	dir := plant(t, nil)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	want := rootfs.User{Name: "user", UID: 1000, GID: 1000, Home: "/home/user", Shell: "/bin/sh"}
	if diff := cmp.Diff(want, prepare(t, dir)); diff != "" {
		t.Errorf("user (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{
		"proc":               "drwxr-xr-x 00",
		"sys":                "drwxr-xr-x 00",
		"dev":                "drwxr-xr-x 00",
		"tmp":                "dtrwxrwxrwx 00",
		"run":                "drwxr-xr-x 00",
		"run/e2b":            "drwxr-xr-x 00",
		".soulbox":           "drwxr-xr-x 00",
		".soulbox/agent":     "-rwxr-xr-x 00",
		"etc/hosts":          "-rw-r--r-- 00",
		"etc/hostname":       "-rw-r--r-- 00",
		"etc/resolv.conf":    "-rw-r--r-- 00",
		"etc/passwd":         "-rw-r--r-- 00",
		"root":               "drwx------ 00",
		"root/.profile":      "-rw-r--r-- 00",
		"home/user":          "drwxr-xr-x 11",
		"home/user/.profile": "-rw-r--r-- 11",
		"home/user/.bashrc":  "-rw-r--r-- 11",
		"etc/profile":        "-rw-r--r-- 00",
		"etc/bash.bashrc":    "-rw-r--r-- 00",
		"etc/skel/.profile":  "-rw-r--r-- 00",
		".":                  "drwxr-xr-x 00",
	} {
		if got := describe(t, dir, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	wantPasswd := "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
	if diff := cmp.Diff(wantPasswd, read(t, dir, "etc/passwd")); diff != "" {
		t.Errorf("passwd (-want +got):\n%s", diff)
	}
	if got := read(t, dir, "etc/resolv.conf"); got != "" {
		t.Errorf("resolv.conf holds %q, want nothing", got)
	}
	if _, err := os.Lstat(filepath.Join(dir, "etc/sudoers.d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sudoers.d exists without sudo: %v", err)
	}
}

func TestPrepareKeepsWhatTheImageMeant(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/bash"
	dir := plant(t, map[string]file{
		"usr/bin/bash":   {0o755, "#!"},
		"bin":            link("usr/bin"),
		"usr/bin/sudo":   {fs.ModeSetuid | 0o755, "#!"},
		"etc/passwd":     {0o644, passwd},
		"etc/group":      {0o644, "root:x:0:\nnode:x:1000:\n"},
		"etc/shadow":     {0o640, "root:*:1:0:99999:7:::\n"},
		"etc/profile":    {0o644, "export MINE=1\n"},
		"etc/hosts":      link("/elsewhere/hosts"),
		"dev/console":    {0o600, "x"},
		"tmp/kept":       {0o644, "kept"},
		".soulbox/spoof": {0o755, "x"},
		"etc/resolv.conf": link(
			"../run/systemd/resolve/stub-resolv.conf",
		),
	})
	u := prepare(t, dir)
	if u.UID != 1001 || u.GID != 1001 || u.Shell != "/bin/bash" {
		t.Errorf("user is %+v, want id 1001, because 1000 belongs to node, and bash", u)
	}
	for name, want := range map[string]string{
		"etc/passwd":            passwd + "\nuser:x:1001:1001::/home/user:/bin/bash\n",
		"etc/group":             "root:x:0:\nnode:x:1000:\nuser:x:1001:\n",
		"etc/shadow":            "root:*:1:0:99999:7:::\nuser:*:20000:0:99999:7:::\n",
		"etc/profile":           "export MINE=1\n",
		"tmp/kept":              "kept",
		".soulbox/agent":        "agent",
		"etc/sudoers.d/soulbox": "Defaults !fqdn\nuser ALL=(ALL:ALL) NOPASSWD: ALL\n",
	} {
		if diff := cmp.Diff(want, read(t, dir, name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for name, want := range map[string]string{
		"etc/shadow":            "-rw-r----- 00",
		"etc/sudoers.d/soulbox": "-r--r----- 00",
		"etc/hosts":             "-rw-r--r-- 00",
		"etc/resolv.conf":       "-rw-r--r-- 00",
		"usr/bin/sudo":          "urwxr-xr-x 00",
	} {
		if got := describe(t, dir, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, gone := range []string{"dev/console", ".soulbox/spoof"} {
		if _, err := os.Lstat(filepath.Join(dir, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
}

func TestPrepareTwice(t *testing.T) {
	dir := plant(t, nil)
	first := prepare(t, dir)
	passwd := read(t, dir, "etc/passwd")
	if diff := cmp.Diff(first, prepare(t, dir)); diff != "" {
		t.Errorf("second user (-first +second):\n%s", diff)
	}
	if diff := cmp.Diff(passwd, read(t, dir, "etc/passwd")); diff != "" {
		t.Errorf("passwd changed (-first +second):\n%s", diff)
	}
}

// Every tree here tries to reach the folder outside, whose path replaces
// OUTSIDE in link targets.
func TestPrepareHostileTree(t *testing.T) {
	up := strings.Repeat("../", 30)
	tests := []struct {
		name  string
		files map[string]file
		kind  soulbox.Kind // Internal stands for success
	}{
		{"etc is a link to the machine's", map[string]file{"etc": link("OUTSIDE")}, soulbox.Invalid},
		{"etc climbs out", map[string]file{"etc": link(up + "OUTSIDE")}, soulbox.Invalid},
		{"etc is the root", map[string]file{"etc": link("/")}, soulbox.Internal},
		{"passwd is a link to the machine's", map[string]file{"etc/passwd": link("OUTSIDE/passwd")}, soulbox.Internal},
		{"every file is a link", map[string]file{
			"etc/passwd": link("OUTSIDE/passwd"), "etc/group": link(up + "OUTSIDE/passwd"), "etc/shadow": link("OUTSIDE/new"),
			"etc/hosts": link("OUTSIDE/passwd"), "etc/hostname": link("OUTSIDE/new"), "etc/resolv.conf": link(up + "OUTSIDE/new"),
			"etc/profile": link("OUTSIDE/new"), "root/.profile": link("OUTSIDE/passwd"), "etc/bash.bashrc": link("OUTSIDE/passwd"),
			"usr/bin/sudo": {0o4755, ""}, "etc/sudoers.d/soulbox": link("OUTSIDE/passwd"),
		}, soulbox.Internal},
		{"every folder is a link", map[string]file{
			"proc": link("OUTSIDE"), "sys": link("OUTSIDE"), "dev": link(up + "OUTSIDE"), "tmp": link("OUTSIDE"),
			"run": link("OUTSIDE"), ".soulbox": link("OUTSIDE"),
		}, soulbox.Internal},
		{"home is a link", map[string]file{"home": link("OUTSIDE")}, soulbox.Invalid},
		{"home of the user is a link", map[string]file{"home/user": link("OUTSIDE")}, soulbox.Invalid},
		{"root's home is a link", map[string]file{"root": link("OUTSIDE")}, soulbox.Invalid},
		{"run/e2b is a link", map[string]file{"run/e2b": link("OUTSIDE")}, soulbox.Invalid},
		{"sudoers.d is a link", map[string]file{"usr/bin/sudo": {0o4755, ""}, "etc/sudoers.d": link("OUTSIDE")}, soulbox.Invalid},
		{"passwd sends the home away", map[string]file{"etc/passwd": {0o644, "user:x:7:7::/../../../../OUTSIDE/home:/bin/sh\n"}}, soulbox.Internal},
		{"passwd has no home", map[string]file{"etc/passwd": {0o644, "user:x:7:7:::/bin/sh\n"}}, soulbox.Invalid},
		{"passwd has no number", map[string]file{"etc/passwd": {0o644, "user:x:-1:7::/:/bin/sh\n"}}, soulbox.Invalid},
		{"passwd is a directory", map[string]file{"etc/passwd": {fs.ModeDir | 0o755, ""}}, soulbox.Invalid},
		{"passwd is huge", map[string]file{"etc/passwd": {0o644, strings.Repeat("x", 2<<20)}}, soulbox.Invalid},
		{"passwd is a loop", map[string]file{"etc/passwd": link("passwd")}, soulbox.Invalid},
		{"etc is a file", map[string]file{"etc": {0o644, ""}}, soulbox.Invalid},
		{"agent is a directory", map[string]file{".soulbox/agent/x": {0o644, ""}}, soulbox.Internal},
		{"hosts is a directory with a link", map[string]file{"etc/hosts/x": link("OUTSIDE")}, soulbox.Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			outside := plant(t, map[string]file{"passwd": {0o640, "secret"}})
			before := describe(t, outside, ".") + describe(t, outside, "passwd")
			files := map[string]file{}
			for name, f := range tt.files {
				if strings.HasPrefix(f.content, up) {
					f.content = up + strings.TrimPrefix(strings.ReplaceAll(f.content[len(up):], "OUTSIDE", outside), "/")
				}
				f.content = strings.ReplaceAll(f.content, "OUTSIDE", outside)
				files[name] = f
			}
			dir := plant(t, files)
			_, err := rootfs.Prepare(dir, strings.NewReader("agent"))
			if got := soulbox.KindOf(err); got != tt.kind || (err != nil) != (tt.kind != soulbox.Internal) {
				t.Errorf("Prepare: kind %v, %v; want kind %v", got, err, tt.kind)
			}
			names, err := os.ReadDir(outside)
			if err != nil {
				t.Fatal(err)
			}
			if len(names) != 1 || read(t, outside, "passwd") != "secret" {
				t.Errorf("outside now holds %v and %q", names, read(t, outside, "passwd"))
			}
			if after := describe(t, outside, ".") + describe(t, outside, "passwd"); after != before {
				t.Errorf("outside was %s, is %s", before, after)
			}
			if tt.kind == soulbox.Internal && strings.Contains(readAll(t, dir), "secret") {
				t.Error("the machine's own file was copied into the tree")
			}
		})
	}
}

// readAll returns all regular files below dir, one after another.
func readAll(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// The profiles keep what people expect and start no program.
func TestLeanProfiles(t *testing.T) {
	dir := plant(t, nil)
	prepare(t, dir)
	etc, home := filepath.Join(dir, "etc"), filepath.Join(dir, "home/user")
	if err := os.MkdirAll(filepath.Join(etc, "profile.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(etc, "profile.d/x.sh"), []byte("FROM_D=yes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, shell := range []string{"bash", "sh"} {
		t.Run(shell, func(t *testing.T) {
			script := strings.ReplaceAll(read(t, dir, "etc/profile"), "/etc/", etc+"/") + "\n" + read(t, dir, "home/user/.profile") +
				"\nprintf '%s|%s|%s' \"$PATH\" \"$FROM_D\" \"$(umask)\""
			if shell == "bash" {
				// Says so before each command that is a program, in
				// substitutions too.
				script = "set -T; trap 'case $(type -t \"${BASH_COMMAND%% *}\") in file) echo \"starts $BASH_COMMAND\" >&2;; esac' DEBUG\n" + script
			}
			cmd := exec.CommandContext(t.Context(), shell, "-c", script)
			cmd.Env = []string{"HOME=" + home, "PATH=/opt/go/bin:/usr/bin"}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v: %s", shell, err, out)
			}
			want := home + "/.local/bin:" + home + "/bin:/opt/go/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin|yes|0022"
			if diff := cmp.Diff(want, string(out)); diff != "" {
				t.Errorf("PATH|profile.d|umask (-want +got):\n%s", diff)
			}
		})
	}
}
