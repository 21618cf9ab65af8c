package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
)

var when = time.Date(2022, 3, 4, 5, 6, 7, 0, time.UTC)

// entry makes a header; content is a file's content or a link's target.
func entry(kind byte, name string, mode int64, content string) tar.Header {
	h := tar.Header{Typeflag: kind, Name: name, Mode: mode, ModTime: when, Format: tar.FormatPAX}
	if kind == tar.TypeReg {
		h.Size, h.PAXRecords = int64(len(content)), map[string]string{"SOULBOX.content": content}
	} else {
		h.Linkname = content
	}
	return h
}

func file(name, content string) tar.Header { return entry(tar.TypeReg, name, 0o644, content) }

// archive writes a tar of these entries.
func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := h.PAXRecords["SOULBOX.content"]
		delete(h.PAXRecords, "SOULBOX.content")
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// imageOf is an image of these layers, for this machine.
func imageOf(t *testing.T, layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return configured(t, img, runtime.GOARCH)
}

func configured(t *testing.T, img v1.Image, arch string) v1.Image {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config = v1.Config{
		Env: []string{"PATH=/bin", "A=b"}, User: "app", WorkingDir: "/srv", Entrypoint: []string{"/bin/run"}, Cmd: []string{"-v"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}},
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// meant is what describes every image of imageOf.
func meant() image.Image {
	return image.Image{
		Architecture: runtime.GOARCH, Env: []string{"PATH=/bin", "A=b"}, User: "app", WorkDir: "/srv",
		Entrypoint: []string{"/bin/run"}, Cmd: []string{"-v"}, Ports: []string{"53/udp", "8080/tcp"},
		Meant: []byte(`{"config":{"Cmd":["-v"],"Entrypoint":["/bin/run"],"Env":["PATH=/bin","A=b"],"User":"app","WorkingDir":"/srv","ExposedPorts":{"53/udp":{},"8080/tcp":{}}}}`),
	}
}

func save(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func compress(t *testing.T, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

// dockerSave writes img the way `docker save` does.
func dockerSave(t *testing.T, img v1.Image) []byte {
	t.Helper()
	tag, err := name.NewTag("example/app:1")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ociLayout writes images into one OCI layout, as an archive.
func ociLayout(t *testing.T, arches []string, imgs ...v1.Image) []byte {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for i, img := range imgs {
		if err := p.AppendImage(img, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: arches[i]})); err != nil {
			t.Fatal(err)
		}
	}
	var entries []tar.Header
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		h := file("./"+strings.TrimPrefix(path, dir+"/"), "")
		h.Size = int64(len(b))
		h.PAXRecords["SOULBOX.content"] = string(b)
		entries = append(entries, h)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return archive(t, entries...)
}

// tree lists what lies below dir, a line for each name.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		line := strings.TrimPrefix(path, dir+"/") + " " + fi.Mode().String()
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			lines = append(lines, line+" → "+to)
			return err
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(path)
			lines = append(lines, line+" "+string(b))
			return err
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// twoLayers exercise everything that layers can say.
func twoLayers(t *testing.T) [][]byte {
	t.Helper()
	su := entry(tar.TypeReg, "bin/su", 0o4755, "su")
	su.Uid, su.Gid = 7, 8
	su.PAXRecords["SCHILY.xattr.user.secret"] = "x"
	twin := entry(tar.TypeLink, "bin/su2", 0o4755, "bin/su")
	twin.Uid, twin.Gid = 7, 8
	lower := archive(t,
		entry(tar.TypeDir, "bin/", 0o755, ""), su, twin,
		entry(tar.TypeSymlink, "sbin", 0o777, "/bin"), file("sbin/through", "lands in bin"),
		file("etc/gone", "x"), file("etc/stays", "old"), file("opaque/a", "x"), file("opaque/deep/b", "x"),
		entry(tar.TypeDir, "tmp", 0o1777, ""), entry(tar.TypeChar, "dev/null", 0o666, ""), file("/abs", "abs"),
	)
	upper := archive(t, file("etc/.wh.gone", ""), file("etc/stays", "new"), file("opaque/.wh..wh..opq", ""), file("opaque/c", "c"))
	return [][]byte{lower, upper}
}

var wantTree = []string{
	"abs -rw-r--r-- abs",
	"bin drwxr-xr-x",
	"bin/su urwxr-xr-x su",
	"bin/su2 urwxr-xr-x su",
	"bin/through -rw-r--r-- lands in bin",
	"etc drwxr-xr-x",
	"etc/stays -rw-r--r-- new",
	"opaque drwxr-xr-x",
	"opaque/c -rw-r--r-- c",
	"sbin Lrwxrwxrwx → /bin",
	"tmp dtrwxrwxrwx",
}

func TestImportArchive(t *testing.T) {
	img := imageOf(t, twoLayers(t)...)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	other := configured(t, imageOf(t, archive(t, file("wrong", ""))), "riscv64")
	multi := ociLayout(t, []string{"riscv64", runtime.GOARCH}, other, img)
	for name, tt := range map[string]struct {
		b      []byte
		digest string
	}{
		"docker save":                 {dockerSave(t, img), id.String()},
		"docker save, compressed":     {compress(t, dockerSave(t, img)), id.String()},
		"OCI layout":                  {ociLayout(t, []string{runtime.GOARCH}, img), digest.String()},
		"OCI layout for two machines": {multi, digest.String()},
		"OCI layout, compressed":      {compress(t, multi), digest.String()},
	} {
		t.Run(name, func(t *testing.T) {
			path, dir := save(t, tt.b), filepath.Join(t.TempDir(), "tree")
			got, err := image.Import(t.Context(), path, dir, image.Options{})
			if err != nil {
				t.Fatalf("Import: %v", err)
			}
			want := meant()
			want.Reference, want.Digest, want.Entries, want.Bytes, want.Skipped = path, tt.digest, 16, 27, 1
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("image (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(wantTree, tree(t, dir)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
			checkSu(t, dir)
		})
	}
}

// checkSu looks at what a listing does not show of bin/su of twoLayers.
func checkSu(t *testing.T, dir string) {
	t.Helper()
	var st, twin syscall.Stat_t
	if err := errors.Join(syscall.Lstat(filepath.Join(dir, "bin/su"), &st), syscall.Lstat(filepath.Join(dir, "bin/su2"), &twin)); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 7 || st.Gid != 8 || st.Ino != twin.Ino || st.Mtim.Sec != when.Unix() {
		t.Errorf("su belongs to %d:%d, time %d, inode %d; want 7:8, %d, %d", st.Uid, st.Gid, st.Mtim.Sec, st.Ino, when.Unix(), twin.Ino)
	}
	if n, err := syscall.Listxattr(filepath.Join(dir, "bin/su"), nil); n != 0 || err != nil {
		t.Errorf("su has extended attributes: %d bytes, %v", n, err)
	}
}

func TestImportPlainArchive(t *testing.T) {
	b := archive(t, file("./etc/hosts", "h"), file("etc/.wh.kept", "k"), entry(tar.TypeFifo, "run/pipe", 0o600, ""), file("manifest.json", "[]"), file("index.json", "{}"))
	for name, b := range map[string][]byte{"plain": b, "compressed": compress(t, b)} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			var last image.Progress
			got, err := image.Import(t.Context(), save(t, b), dir, image.Options{Progress: func(p image.Progress) { last = p }})
			if err != nil {
				t.Fatalf("Import: %v", err)
			}
			if got.Entries != 5 || got.Bytes != 6 || got.Digest != "" || got.Env != nil {
				t.Errorf("image is %+v", got)
			}
			want := []string{
				"etc drwxr-xr-x", "etc/.wh.kept -rw-r--r-- k", "etc/hosts -rw-r--r-- h", "index.json -rw-r--r-- {}",
				"manifest.json -rw-r--r-- []", "run drwxr-xr-x", "run/pipe prw-------",
			}
			if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
			if last.Done < int64(len(archive(t, file("x", "")))) {
				t.Errorf("last progress is %+v", last)
			}
		})
	}
}

func TestImportDirectory(t *testing.T) {
	src := t.TempDir()
	first := filepath.Join(t.TempDir(), "tree")
	if _, err := image.Import(t.Context(), save(t, archive(t, slices.Concat([]tar.Header{
		entry(tar.TypeSymlink, "out", 0, "/etc/passwd"), entry(tar.TypeFifo, "pipe", 0o600, ""),
		file("name with \xff", "x"), entry(tar.TypeDir, "shut", 0o000, ""), file("shut/in", "y"),
	})...)), first, image.Options{}); err != nil {
		t.Fatal(err)
	}
	su := filepath.Join(first, "su")
	if err := errors.Join(os.WriteFile(su, []byte("su"), 0o600), os.Chown(su, 7, 8), os.Chmod(su, fs.ModeSetuid|0o755),
		os.Link(su, filepath.Join(first, "su2")), os.Chtimes(su, when, when), os.Chtimes(filepath.Join(first, "shut"), when, when)); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(src, "tree")
	got, err := image.Import(t.Context(), first, second, image.Options{})
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	if got.Skipped != 1 || got.Reference != first || got.Bytes != 4 {
		t.Errorf("image is %+v, want a skipped pipe and 4 bytes", got)
	}
	if err := os.Remove(filepath.Join(first, "pipe")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tree(t, first), tree(t, second)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	var a, b, shut syscall.Stat_t
	if err := errors.Join(syscall.Lstat(filepath.Join(second, "su"), &a), syscall.Lstat(filepath.Join(second, "su2"), &b),
		syscall.Lstat(filepath.Join(second, "shut"), &shut)); err != nil {
		t.Fatal(err)
	}
	if a.Uid != 7 || a.Gid != 8 || a.Ino != b.Ino || a.Mtim.Sec != when.Unix() || shut.Mtim.Sec != when.Unix() {
		t.Errorf("su is %+v, su2 %+v, shut %+v", a, b, shut)
	}
}

func TestImportBadSources(t *testing.T) {
	good := archive(t, file("a", strings.Repeat("a", 5000)), file("b", "b"))
	img := imageOf(t, good)
	saved := dockerSave(t, img)
	wrong := ociLayout(t, []string{runtime.GOARCH}, img)
	two := archive(t, file("manifest.json", `[{"Config":"a.json"},{"Config":"b.json"}]`))
	parent := t.TempDir()
	tests := []struct {
		name   string
		source string
		kind   soulbox.Kind
		limits image.Limits
	}{
		{"no such path", "/nowhere/at/all.tar", soulbox.NotFound, image.Limits{}},
		{"a device", "/dev/null", soulbox.Invalid, image.Limits{}},
		{"a folder around the target", parent, soulbox.Invalid, image.Limits{}},
		{"an empty file", save(t, nil), soulbox.Invalid, image.Limits{}},
		{"an empty archive", save(t, archive(t)), soulbox.Invalid, image.Limits{}},
		{"no archive", save(t, bytes.Repeat([]byte("no tar "), 500)), soulbox.Invalid, image.Limits{}},
		{"other compression", save(t, []byte("\xfd7zXZ\x00......")), soulbox.Invalid, image.Limits{}},
		{"cut off in a file", save(t, good[:2000]), soulbox.Invalid, image.Limits{}},
		{"cut off between files", save(t, good[:512+5120]), soulbox.Invalid, image.Limits{}},
		{"gzip cut off", save(t, compress(t, good)[:60]), soulbox.Invalid, image.Limits{}},
		{"docker save cut off", save(t, saved[:len(saved)-3000]), soulbox.Invalid, image.Limits{}},
		{"docker save of two", save(t, two), soulbox.Invalid, image.Limits{}},
		{"docker save without its configuration", save(t, archive(t, file("manifest.json", `[{"Config":"a.json"}]`))), soulbox.Invalid, image.Limits{}},
		{"docker save with a linked configuration", save(t, archive(t, file("manifest.json", `[{"Config":"a.json"}]`), entry(tar.TypeSymlink, "a.json", 0, "manifest.json"))), soulbox.TooLarge, image.Limits{}},
		{"a huge configuration", save(t, archive(t, file("manifest.json", `[{"Config":"a.json"}]`), file("a.json", strings.Repeat(" ", 5<<20)))), soulbox.TooLarge, image.Limits{}},
		{"a layout for another machine", save(t, ociLayout(t, []string{"riscv64"}, img)), soulbox.NotFound, image.Limits{}},
		{"an image for another machine", save(t, dockerSave(t, configured(t, img, "riscv64"))), soulbox.Invalid, image.Limits{}},
		{"a layout with a changed blob", save(t, bytes.Replace(wrong, []byte(`"/srv"`), []byte(`"/sry"`), 1)), soulbox.Invalid, image.Limits{}},
		{"a docker save with another layer", save(t, archive(t,
			file("manifest.json", `[{"Config":"a.json","Layers":["l.tar"]}]`),
			file("a.json", `{"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:`+strings.Repeat("0", 64)+`"]}}`),
			file("l.tar", string(good)))), soulbox.Invalid, image.Limits{}},
		{"a layout that leads nowhere", save(t, archive(t, file("oci-layout", "{}"), file("index.json", `{"schemaVersion":2,"manifests":[]}`))), soulbox.NotFound, image.Limits{}},
		{"too many files", save(t, good), soulbox.TooLarge, image.Limits{Entries: 1}},
		{"too many bytes", save(t, good), soulbox.TooLarge, image.Limits{Bytes: 5000}},
		{"too many bytes in layers", save(t, saved), soulbox.TooLarge, image.Limits{Bytes: 5000}},
		{"a bomb", save(t, compress(t, archive(t, file("zeros", strings.Repeat("\x00", 2<<20))))), soulbox.TooLarge, image.Limits{Bytes: 1 << 20}},
		{"an end that never ends", save(t, compress(t, append(slices.Clone(good), make([]byte, 1<<20)...))), soulbox.TooLarge, image.Limits{Bytes: 10000, Entries: 2}},
		{"a name that climbs", save(t, archive(t, file("../../evil", "x"))), soulbox.Invalid, image.Limits{}},
		{"a name that is ..", save(t, archive(t, file("a/../..", "x"))), soulbox.Invalid, image.Limits{}},
		{"a hard link that climbs", save(t, archive(t, entry(tar.TypeLink, "evil", 0o644, "../../etc/passwd"))), soulbox.Invalid, image.Limits{}},
		{"a hard link to nothing", save(t, archive(t, entry(tar.TypeLink, "evil", 0o644, "nothing"))), soulbox.Invalid, image.Limits{}},
		{"a file used as a folder", save(t, archive(t, file("a", "x"), file("a/b", "x"))), soulbox.Invalid, image.Limits{}},
		{"a name that is too long", save(t, archive(t, file(strings.Repeat("a", 300), "x"))), soulbox.Invalid, image.Limits{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(parent, "tree")
			_, err := image.Import(t.Context(), tt.source, dir, image.Options{Limits: tt.limits})
			if err == nil || soulbox.KindOf(err) != tt.kind {
				t.Errorf("Import: kind %v, %v; want kind %v", soulbox.KindOf(err), err, tt.kind)
			}
			if left, err := os.ReadDir(parent); len(left) != 0 || err != nil {
				t.Errorf("left over: %v, %v", left, err)
			}
		})
	}
}

// Links in an image lead to the machine's own files; what comes later in the
// archive tries to go through them.
func TestImportHostileLinks(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 40)
	hostile := archive(t,
		entry(tar.TypeSymlink, "abs", 0, outside), file("abs/new", "evil"), file("abs/secret", "evil"),
		entry(tar.TypeSymlink, "rel", 0, up+outside[1:]), file("rel/new2", "evil"), entry(tar.TypeDir, "rel/secret", 0o777, ""),
		entry(tar.TypeSymlink, "file", 0, secret), entry(tar.TypeReg, "file", 0o777, "evil"),
		entry(tar.TypeSymlink, "a", 0, "b"), entry(tar.TypeSymlink, "b", 0, up+outside[1:]), file("a/new3", "evil"),
		entry(tar.TypeSymlink, "deep", 0, outside), file("deep/.wh.secret", ""), file("deep/.wh..wh..opq", ""),
	)
	stolen := archive(t, entry(tar.TypeSymlink, "d", 0, outside), entry(tar.TypeLink, "got", 0o644, "d/secret"))
	for name, b := range map[string][]byte{"plain": hostile, "layer": dockerSave(t, imageOf(t, hostile)), "hard link": stolen} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			_, err := image.Import(t.Context(), save(t, b), dir, image.Options{})
			if err != nil && soulbox.KindOf(err) != soulbox.Invalid {
				t.Errorf("Import: %v, want success or Invalid", err)
			}
			left, rerr := os.ReadDir(outside)
			got, ferr := os.ReadFile(secret)
			fi, serr := os.Stat(secret)
			if err := errors.Join(rerr, ferr, serr); err != nil {
				t.Fatal(err)
			}
			if len(left) != 1 || string(got) != "secret" || fi.Mode() != 0o600 {
				t.Errorf("outside now holds %v; secret is %q with mode %v", left, got, fi.Mode())
			}
			if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Nlink != 1 {
				t.Errorf("the secret has a second name")
			}
		})
	}
}

func TestImportIntoExisting(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Import(t.Context(), save(t, archive(t, file("a", ""))), dir, image.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Import: %v, want %v", err, fs.ErrExist)
	}
	if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
}

func TestImportCancelled(t *testing.T) {
	s := httptest.NewServer(nil)
	defer s.Close()
	for _, source := range []string{
		save(t, archive(t, file("a", ""))), t.TempDir(), strings.TrimPrefix(s.URL, "http://") + "/a/b:1",
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("shut down")
		cancel(stop)
		dir := filepath.Join(t.TempDir(), "tree")
		if _, err := image.Import(ctx, source, dir, image.Options{}); !errors.Is(err, stop) {
			t.Errorf("Import of %s: %v, want %v", source, err, stop)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left over: %v", dir, err)
		}
	}
}
