package buildkit_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// long ago is the time of last change of everything that is not built.
var longAgo = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// A treeArchive collects the files of an image.
type treeArchive struct {
	*tar.Writer

	buf  bytes.Buffer
	have map[string]bool
}

func newArchive() *treeArchive {
	a := &treeArchive{have: map[string]bool{}}
	a.Writer = tar.NewWriter(&a.buf)
	return a
}

// add adds a file, with the folders that lead to it. h.Size is found out.
func (a *treeArchive) add(t *testing.T, h tar.Header, content []byte) {
	t.Helper()
	h.Name = strings.TrimPrefix(h.Name, "/")
	if a.have[h.Name] {
		return
	}
	if dir := path.Dir(h.Name); dir != "." {
		a.dir(t, dir, 0o755, 0, 0)
	}
	a.have[h.Name] = true
	h.Size, h.ModTime = int64(len(content)), longAgo
	if err := a.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write(content); err != nil {
		t.Fatal(err)
	}
}

func (a *treeArchive) dir(t *testing.T, name string, mode int64, uid, gid int) {
	a.add(t, tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: uid, Gid: gid}, nil)
}

func (a *treeArchive) file(t *testing.T, name string, mode int64, content string) {
	a.add(t, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, []byte(content))
}

func (a *treeArchive) link(t *testing.T, name, to string) {
	a.add(t, tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

// program adds one of this machine's programs under the name that it has here.
func (a *treeArchive) program(t *testing.T, name, from string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	mode := int64(fi.Mode().Perm())
	if fi.Mode()&os.ModeSetuid != 0 {
		mode |= 0o4000
	}
	a.add(t, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, b)
}

// skeleton adds what every Unix has.
func (a *treeArchive) skeleton(t *testing.T) {
	for _, dir := range []string{"dev", "proc", "sys", "run", "mnt", "opt", "srv", "home", "var/lib", "var/log", "usr/local/bin"} {
		a.dir(t, dir, 0o755, 0, 0)
	}
	a.dir(t, "root", 0o700, 0, 0)
	a.dir(t, "tmp", 0o1777, 0, 0)
	a.dir(t, "var/tmp", 0o1777, 0, 0)
	a.dir(t, "home/app", 0o755, 1000, 1000)
	a.file(t, "etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"+
		"app:x:1000:1000:App:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")
	a.file(t, "etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nstaff:x:50:app\napp:x:1000:\nnogroup:x:65534:\n")
	a.add(t, tar.Header{Typeflag: tar.TypeReg, Name: "etc/shadow", Mode: 0o640, Gid: 42}, []byte("root:*:19000:0:99999:7:::\napp:!:19000:0:99999:7:::\n"))
}

const busybox = "/bin/busybox" // Debian's busybox-static

// tinyTree is a shell, the programs that go with it, and some files to be
// changed: a folder with a tree below, a link to it, and one file of two names.
func tinyTree(t *testing.T) []byte {
	t.Helper()
	a := newArchive()
	a.skeleton(t)
	a.program(t, busybox, busybox)
	out, err := exec.CommandContext(t.Context(), busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for applet := range strings.FieldsSeq(string(out)) {
		a.link(t, path.Join("/bin", applet), "busybox")
	}
	a.file(t, "etc/os-release", 0o644, "ID=tiny\nPRETTY_NAME=\"Tiny\"\n")
	a.file(t, "data/one", 0o644, "one\n")
	a.file(t, "data/two", 0o640, "two\n")
	a.file(t, "data/deep/er/three", 0o600, "three\n")
	a.dir(t, "data/hollow", 0o750, 1000, 50)
	a.link(t, "shortcut", "data/deep")
	a.add(t, tar.Header{Typeflag: tar.TypeLink, Name: "data/uno", Linkname: "data/one", Mode: 0o644}, nil)
	return a.end(t)
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// gnuTree is as a Debian is laid out, with programs of the packages that every
// Debian has, as they are on this machine.
func gnuTree(t *testing.T) []byte {
	t.Helper()
	a := newArchive()
	a.skeleton(t)
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		a.dir(t, "usr/"+dir, 0o755, 0, 0)
		a.link(t, dir, "usr/"+dir)
	}
	merged := func(name string) string {
		if top, _, _ := strings.Cut(name[1:], "/"); slices.Contains([]string{"bin", "sbin", "lib", "lib64"}, top) {
			return "/usr" + name
		}
		return name
	}
	out, err := exec.CommandContext(t.Context(), "dpkg", "-L", "bash", "coreutils", "dash", "findutils", "grep", "gzip", "passwd", "sed", "tar").Output()
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{"/usr/bin/busybox": busybox, "/usr/bin/sh": "/bin/dash"}
	for file := range strings.FieldsSeq(string(out)) {
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && strings.HasSuffix(path.Dir(file), "bin") {
			programs[merged(file)] = file
		}
	}
	for to, from := range programs {
		a.program(t, to, from)
		libraries, err := exec.CommandContext(t.Context(), "ldd", from).Output()
		if err != nil {
			continue // a script, or static
		}
		for _, m := range library.FindAllStringSubmatch(string(libraries), -1) {
			file, err := filepath.EvalSymlinks(m[1])
			if err != nil {
				t.Fatal(err)
			}
			a.program(t, merged(m[1]), file)
		}
	}
	a.file(t, "etc/os-release", 0o644, "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n")
	a.file(t, "etc/login.defs", 0o644, "UID_MIN 1000\nGID_MIN 1000\nUMASK 022\nHOME_MODE 0750\nUSERGROUPS_ENAB yes\n")
	a.file(t, "etc/gshadow", 0o640, "root:*::\nstaff:*::app\napp:!::\n")
	a.file(t, "etc/skel/.profile", 0o644, "umask 022\n")
	return a.end(t)
}

func (a *treeArchive) end(t *testing.T) []byte {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return a.buf.Bytes()
}

// serveImages serves the images that the corpus builds on, as they are named in
// its Dockerfiles. It returns where, and what is in them by their only layer.
func serveImages(t *testing.T) (host string, trees map[string]manifest) {
	t.Helper()
	trees = map[string]manifest{}
	srv := httptest.NewServer(newRegistry())
	t.Cleanup(srv.Close)
	host = strings.TrimPrefix(srv.URL, "http://")
	tiny := tinyTree(t)
	path := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for image, c := range map[string]struct {
		tree   []byte
		config v1.Config
	}{
		"tiny": {tiny, v1.Config{Env: path, Cmd: []string{"/bin/sh"}}},
		"gnu":  {gnuTree(t), v1.Config{Env: append(path, "LANG=C.UTF-8"), Cmd: []string{"bash"}, Labels: map[string]string{"distribution": "debian"}}},
		// Its Dockerfiles find work to do in it.
		"trigger": {tiny, v1.Config{
			Env: append(path, "FROM_TRIGGER=yes"), WorkingDir: "/trigger", Entrypoint: []string{"/bin/busybox"}, Cmd: []string{"sh"},
			OnBuild: []string{"ARG WHO=nobody", "COPY hello.txt /trigger/", "RUN echo built for $WHO > /trigger/built", "ENV TRIGGERED=1"},
		}},
	} {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.tree)), nil })
		if err != nil {
			t.Fatal(err)
		}
		id, err := layer.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		onDisk := filepath.Join(t.TempDir(), "tree.tar")
		if err := os.WriteFile(onDisk, c.tree, 0o600); err != nil {
			t.Fatal(err)
		}
		if trees[id.String()], err = treeOf(t.Context(), onDisk, t.TempDir()); err != nil {
			t.Fatal(err)
		}
		img, err := mutate.AppendLayers(empty.Image, layer)
		if err != nil {
			t.Fatal(err)
		}
		file, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		file = file.DeepCopy()
		file.Architecture, file.OS, file.Config = runtime.GOARCH, "linux", c.config
		if img, err = mutate.ConfigFile(img, file); err != nil {
			t.Fatal(err)
		}
		ref, err := name.NewTag(fmt.Sprintf("%s/library/%s:latest", host, image))
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img, remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	return host, trees
}
