package buildkit_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	gocmp "github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// A manifest says what a tree has, by path: what kind of file, its mode, owner,
// extended attributes, and what is in it, as text to be read and compared.
type manifest map[string]string

const (
	// A time of last change that is older was set by somebody: it is in the
	// context, or a step said so. It must survive. Later ones are those of the
	// build, and no two builds have the same.
	buildEra = 1_500_000_000

	maxQuoted = 1000       // bytes of a file that are shown as they are
	sumMark   = "SHA-256 " // in front of the hash of others
)

// manifestOf reads the tree at dir.
func manifestOf(dir string) (manifest, error) {
	m := manifest{}
	type inode struct{ dev, ino uint64 }
	first := map[inode]string{}
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		path := "/" + strings.TrimPrefix(strings.TrimPrefix(name, dir), "/")
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if id := (inode{st.Dev, st.Ino}); !isDir && st.Nlink > 1 {
			if other, ok := first[id]; ok {
				m[path] = "same file as " + quoteIf(other)
				return nil
			}
			first[id] = path
		}
		line, err := describe(name, &st)
		m[path] = line
		return err
	})
	return m, err
}

func describe(name string, st *unix.Stat_t) (string, error) {
	var kind, what string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		kind = "dir"
	case unix.S_IFLNK:
		kind = "link"
		to, err := os.Readlink(name)
		if err != nil {
			return "", err
		}
		what = " -> " + quoteIf(to)
	case unix.S_IFREG:
		kind = "file"
		text, err := content(name, st.Size)
		if err != nil {
			return "", err
		}
		what = " " + text
	case unix.S_IFIFO:
		kind = "fifo"
	case unix.S_IFSOCK:
		kind = "socket"
	case unix.S_IFCHR:
		kind, what = "char", fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFBLK:
		kind, what = "block", fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	at := ""
	if st.Mtim.Sec < buildEra {
		at = time.Unix(st.Mtim.Sec, 0).UTC().Format(" 2006-01-02T15:04:05")
	}
	attrs, err := attributes(name)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %04o %d:%d%s%s%s", kind, st.Mode&^unix.S_IFMT, st.Uid, st.Gid, at, attrs, what), nil
}

// content returns what is in a file, or its size and hash if that is much.
func content(name string, size int64) (string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	if int64(len(b)) != size {
		return "", fmt.Errorf("%s: read %d bytes of %d", name, len(b), size)
	}
	if len(b) <= maxQuoted && utf8.Valid(b) {
		return strconv.Quote(string(b)), nil
	}
	return fmt.Sprintf("%s%x of %d bytes", sumMark, sha256.Sum256(b), len(b)), nil
}

func attributes(name string) (string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(name, list)
	if err != nil {
		return "", &fs.PathError{Op: "list attributes", Path: name, Err: err}
	}
	var b strings.Builder
	for _, attr := range slices.Sorted(strings.SplitSeq(strings.Trim(string(list[:n]), "\x00"), "\x00")) {
		if attr == "" || strings.HasPrefix(attr, "trusted.overlay.") || attr == "security.selinux" {
			continue // the file system's own
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(name, attr, value)
		if err != nil {
			return "", &fs.PathError{Op: "get attribute " + attr, Path: name, Err: err}
		}
		fmt.Fprintf(&b, " %s=%q", attr, value[:n])
	}
	return b.String(), nil
}

// quoteIf returns s, in quotes if it would not be read as it is.
func quoteIf(s string) string {
	plain := func(r rune) bool { return r < '!' || r > '~' || r == '"' || r == '\\' }
	if s == "" || strings.ContainsFunc(s, plain) {
		return strconv.QuoteToASCII(s)
	}
	return s
}

// sum puts one line in the place of all that is below each of the folders.
func (m manifest) sum(folders []string) manifest {
	m = maps.Clone(m)
	for _, dir := range folders {
		var lines []string
		for _, line := range m.since(nil) {
			if strings.HasPrefix(line, dir+"/") {
				lines = append(lines, line)
			}
		}
		maps.DeleteFunc(m, func(path, _ string) bool { return strings.HasPrefix(path, dir+"/") })
		m[dir+"/…"] = fmt.Sprintf("%d lines, SHA-256 %x", len(lines), sha256.Sum256([]byte(strings.Join(lines, "\n"))))
	}
	return m
}

// since returns the lines in which m differs from an earlier tree.
func (m manifest) since(before manifest) []string {
	var lines []string
	for _, path := range m.paths(before) {
		switch now, ok := m[path]; {
		case !ok:
			lines = append(lines, quoteIf(path)+" is gone")
		case now != before[path]:
			lines = append(lines, quoteIf(path)+" "+now)
		}
	}
	return lines
}

// paths returns those of m and other, without duplicates, sorted.
func (m manifest) paths(other manifest) []string {
	all := maps.Clone(m)
	maps.Copy(all, other)
	return slices.Sorted(maps.Keys(all))
}

// differences says in which lines two trees differ.
func differences(plain, ours manifest) string {
	var b strings.Builder
	for _, path := range plain.paths(ours) {
		p, o := plain[path], ours[path]
		if p == o {
			continue
		}
		fmt.Fprintf(&b, "%s\n\tBuildKit: %s\n\tengine:   %s\n", quoteIf(path), cmp.Or(p, "nothing"), cmp.Or(o, "nothing"))
	}
	return b.String()
}

// configLines returns an image's configuration as lines, one a field: what the
// image means, and how its history says it was made.
func configLines(config []byte) (meaning, history []string, err error) {
	var img struct {
		dockerspec.DockerOCIImage

		Config map[string]json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(img.Config)) {
		var b bytes.Buffer
		if err := json.Compact(&b, img.Config[name]); err != nil {
			return nil, nil, err
		}
		meaning = append(meaning, name+" "+b.String())
	}
	if img.Author != "" {
		meaning = append(meaning, "Author "+img.Author)
	}
	history = append(history, img.OS+"/"+img.Architecture)
	for _, h := range img.History {
		history = append(history, fmt.Sprintf("%q empty=%v", h.CreatedBy, h.EmptyLayer))
	}
	return meaning, history, nil
}

// TestManifest makes one file of each kind and looks for it in the manifest, and
// changes each thing that a manifest shows.
func TestManifest(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Chmod(dir, 0o755))
	check(os.Mkdir(at("dir"), 0o700))
	check(os.Chmod(at("dir"), os.ModeSticky|0o777))
	check(os.WriteFile(at("dir/file"), []byte("a\nb"), 0o600))
	check(os.Chown(at("dir/file"), 1000, 50))
	check(os.Chmod(at("dir/file"), os.ModeSetuid|0o755))
	check(os.Link(at("dir/file"), at("dir/hard")))
	check(os.WriteFile(at("big"), bytes.Repeat([]byte("x"), maxQuoted+1), 0o644))
	check(os.Symlink("a b", at("soft")))
	check(unix.Mkfifo(at("pipe"), 0o644))
	check(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(os.WriteFile(at("old"), nil, 0o644))
	check(unix.Setxattr(at("old"), "user.x", []byte("y"), 0))
	check(os.Chtimes(at("old"), time.Time{}, time.Unix(1_000_000_000, 0)))
	before, err := manifestOf(dir)
	check(err)
	want := []string{
		"/ dir 0755 0:0",
		fmt.Sprintf("/big file 0644 0:0 SHA-256 %x of 1001 bytes", sha256.Sum256(bytes.Repeat([]byte("x"), maxQuoted+1))),
		"/dir dir 1777 0:0",
		`/dir/file file 4755 1000:50 "a\nb"`,
		"/dir/hard same file as /dir/file",
		"/null char 0644 0:0 1:3",
		`/old file 0644 0:0 2001-09-09T01:46:40 user.x="y" ""`,
		"/pipe fifo 0644 0:0",
		`/soft link 0777 0:0 -> "a b"`,
	}
	if d := gocmp.Diff(want, before.since(nil)); d != "" {
		t.Errorf("manifest (-want +got):\n%s", d)
	}

	check(os.Remove(at("dir/hard")))
	check(os.Chmod(at("dir"), 0o777))
	check(os.Chown(at("big"), 0, 1))
	after, err := manifestOf(dir)
	check(err)
	if d := gocmp.Diff([]string{"/dir dir 0777 0:0", "/dir/hard is gone"}, slices.DeleteFunc(after.since(before), func(l string) bool { return strings.HasPrefix(l, "/big") })); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	const diff = "/dir\n\tBuildKit: dir 1777 0:0\n\tengine:   dir 0777 0:0\n/dir/hard\n\tBuildKit: same file as /dir/file\n\tengine:   nothing\n"
	delete(before, "/big")
	delete(after, "/big")
	if got := differences(before, after); got != diff {
		t.Errorf("differences: %q, want %q", got, diff)
	}
}
