package rootfs_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/rootfs"
)

func put(t *testing.T, dir, name, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func ownerOf(t *testing.T, dir, name string) (uid, gid, mode uint32) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid, st.Gid, st.Mode & 0o7777
}

// A user is added once, with a home, and sudo where there is sudo.
func TestAddUser(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nold:x:1000:1000::/srv/old:/bin/sh\n", 0o644)
	put(t, dir, "etc/group", "root:x:0:\nold:x:1000:\n", 0o644)
	for range 2 {
		for _, name := range []string{"root", "old", "new"} {
			if err := rootfs.AddUser(dir, name, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	passwd, err := os.ReadFile(filepath.Join(dir, "etc/passwd"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(passwd), "\n"); got != 3 || !strings.Contains(string(passwd), "new:x:1001:1001::/home/new:") {
		t.Errorf("/etc/passwd is\n%s", passwd)
	}
	if uid, gid, _ := ownerOf(t, dir, "home/new"); uid != 1001 || gid != 1001 {
		t.Errorf("/home/new is %d:%d", uid, gid)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/sudoers.d")); err == nil {
		t.Error("sudoers are written where there is no sudo")
	}
	put(t, dir, "usr/bin/sudo", "x", 0o755)
	if err := rootfs.AddUser(dir, "new", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/sudoers.d")); err == nil {
		t.Error("sudo is given to somebody who shall not have it")
	}
	if err := rootfs.AddUser(dir, "new", true); err != nil {
		t.Fatal(err)
	}
	if _, _, mode := ownerOf(t, dir, "etc/sudoers.d/soulbox-new"); mode != 0o440 {
		t.Errorf("sudoers have mode %o", mode)
	}
	for _, bad := range []string{"", "a b", "../x", "A", "x\ny", strings.Repeat("a", 33), "a:b"} {
		if err := rootfs.AddUser(dir, bad, true); soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("AddUser(%q): %v, want Invalid", bad, err)
		}
	}
}

// A folder is made for somebody, and what is there keeps its content and mode.
func TestMakeDir(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "etc/passwd", "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/var/www:/bin/sh\nodd:x:y:z::/:\n", 0o644)
	put(t, dir, "etc/group", "root:x:0:\nstaff:x:50:\nodd:x::\n", 0o644)
	put(t, dir, "there/file", "x", 0o600)
	if err := os.Chmod(filepath.Join(dir, "there"), 0o711); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, user     string
		uid, gid, mode uint32
	}{
		{"/srv/app", "www", 33, 34, 0o755}, {"there", "root", 0, 0, 0o711}, {"/a", "7", 7, 7, 0o755}, {"/b", "www:staff", 33, 50, 0o755}, {"/c", "7:8", 7, 8, 0o755},
	} {
		if err := rootfs.MakeDir(dir, tt.name, tt.user); err != nil {
			t.Errorf("MakeDir(%q, %q): %v", tt.name, tt.user, err)
			continue
		}
		if uid, gid, mode := ownerOf(t, dir, tt.name); uid != tt.uid || gid != tt.gid || mode != tt.mode {
			t.Errorf("MakeDir(%q, %q) gives %d:%d %o", tt.name, tt.user, uid, gid, mode)
		}
	}
	if uid, _, _ := ownerOf(t, dir, "srv"); uid != 0 {
		t.Errorf("a parent belongs to %d", uid)
	}
	for _, bad := range [][2]string{{"/x", "nobody"}, {"/x", "www:nobody"}, {"/x", "odd"}, {"/x", "www:odd"}, {"/there/file", "www"}, {"/there/file/x", "www"}} {
		if err := rootfs.MakeDir(dir, bad[0], bad[1]); err == nil {
			t.Errorf("MakeDir(%q, %q) succeeds", bad[0], bad[1])
		}
	}
	if err := rootfs.MakeDir(dir, "/out/new", "www"); err == nil {
		t.Error("a folder is made behind a link that leads out of the tree")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside the tree there is %v, %v", left, err)
	}
}
