package changes_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/changes"
	"github.com/soulbox/soulbox/node/rootfs"
)

const mib = 1 << 20

// layer makes a tar of entries as a sandbox's kernel does, root first: a name
// that ends with a slash is a folder, with a star an opaque one, "->" leads a
// symbolic link, "=" another name, "!" is a whiteout, "|" a pipe; ":" parts a
// file from what is in it. "@" gives an entry to user 7.
func layer(t testing.TB, entries ...string) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range append([]string{"/"}, entries...) {
		h := &tar.Header{Mode: 0o644}
		e, mine := strings.CutSuffix(e, "@")
		if mine {
			h.Uid = 7
		}
		content := ""
		switch {
		case strings.HasSuffix(e, "*"):
			e = strings.TrimSuffix(e, "*")
			h.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}
			fallthrough
		case strings.HasSuffix(e, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case strings.HasSuffix(e, "!"):
			e = strings.TrimSuffix(e, "!")
			h.Typeflag = tar.TypeChar
		case strings.HasSuffix(e, "|"):
			e = strings.TrimSuffix(e, "|")
			h.Typeflag = tar.TypeFifo
		case strings.Contains(e, "->"):
			e, h.Linkname, _ = strings.Cut(e, "->")
			h.Typeflag = tar.TypeSymlink
		case strings.Contains(e, "="):
			e, h.Linkname, _ = strings.Cut(e, "=")
			h.Linkname = "./" + h.Linkname
			h.Typeflag = tar.TypeLink
		default:
			e, content, _ = strings.Cut(e, ":")
			h.Typeflag = tar.TypeReg
		}
		h.Name, h.Size = "./"+strings.TrimPrefix(e, "/"), int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// image opens a root image with etc/{conf,old}, lib/{a,b/{c,d}} and a link.
func image(t testing.TB) *changes.Image {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	for name, content := range map[string]string{"etc/conf": "conf", "etc/old": "old", "lib/a": "a", "lib/b/c": "c", "lib/b/d": "d"} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("lib", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	images, err := rootfs.Open(slog.New(slog.DiscardHandler), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	built, err := images.Build(t.Context(), tree, rootfs.BuildOptions{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(images.Path(built.ID))
	if err != nil {
		t.Fatal(err)
	}
	img, err := changes.OpenImage(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(img.Close)
	return img
}

func TestCompare(t *testing.T) {
	img := image(t)
	type list = []string
	for name, tt := range map[string]struct{ a, b, want list }{
		"nothing":                   {},
		"the same":                  {list{"etc/", "etc/conf:x"}, list{"etc/", "etc/conf:x"}, nil},
		"folder copied":             {nil, list{"etc/"}, nil},
		"file copied":               {nil, list{"etc/", "etc/conf:conf"}, nil},
		"copied, then changed":      {list{"etc/", "etc/conf:conf"}, list{"etc/", "etc/conf:cone"}, list{"changed file /etc/conf 4"}},
		"changed":                   {nil, list{"etc/", "etc/conf:longer"}, list{"changed file /etc/conf 6"}},
		"changed back":              {list{"etc/", "etc/conf:longer"}, nil, list{"changed file /etc/conf 4"}},
		"same size":                 {nil, list{"etc/", "etc/conf:cone"}, list{"changed file /etc/conf 4"}},
		"another owner":             {nil, list{"etc/@", "etc/conf:conf@"}, list{"changed folder /etc 0", "changed file /etc/conf 4"}},
		"created":                   {nil, list{"new:x", "etc/", "etc/new:"}, list{"created file /etc/new 0", "created file /new 1"}},
		"created, told by content":  {nil, list{"d/", "d/e/", "d/e/f:x", "d/g/"}, list{"created file /d/e/f 1", "created folder /d/g 0"}},
		"created there, gone later": {list{"d/", "d/f:x"}, list{"d/"}, list{"removed file /d/f 0"}},
		"folder gone later":         {list{"d/", "d/e/", "d/e/f:x"}, list{"d!"}, list{"removed file /d/e/f 0"}},
		"empty folder gone later":   {list{"d/"}, nil, list{"removed folder /d 0"}},
		"removed":                   {nil, list{"etc/", "etc/old!"}, list{"removed file /etc/old 0"}},
		"removed twice":             {list{"etc/", "etc/old!"}, list{"etc/", "etc/old!"}, nil},
		"removed together":          {nil, list{"etc/", "etc/old!", "etc/conf=etc/old", "link=etc/old"}, list{"removed file /etc/conf 0", "removed file /etc/old 0", "removed link /link 0"}},
		"comes back":                {list{"etc/", "etc/old!"}, list{"etc/", "etc/old:old"}, list{"created file /etc/old 3"}},
		"renamed over":              {nil, list{"etc/", "etc/conf.new!", "etc/conf:x"}, list{"changed file /etc/conf 1"}},
		"folder removed":            {nil, list{"lib!"}, list{"removed file /lib/a 0", "removed file /lib/b/c 0", "removed file /lib/b/d 0"}},
		"folder made again":         {nil, list{"lib/*", "lib/b/*", "lib/b/c:c", "lib/new:"}, list{"removed file /lib/a 0", "removed file /lib/b/d 0", "created file /lib/new 0"}},
		"part of it seen before":    {list{"lib/", "lib/b/", "lib/b/c!"}, list{"lib!"}, list{"removed file /lib/a 0", "removed file /lib/b/d 0"}},
		"folder becomes file":       {nil, list{"lib:x"}, list{"changed file /lib 1", "removed file /lib/a 0", "removed file /lib/b/c 0", "removed file /lib/b/d 0"}},
		"file becomes folder":       {list{"f:"}, list{"f/", "f/g:"}, list{"changed folder /f 0", "created file /f/g 0"}},
		"link":                      {nil, list{"link->etc", "l->x"}, list{"created link /l 0", "changed link /link 0"}},
		"link as it was":            {nil, list{"link->lib"}, nil},
		"another name":              {list{"x:1"}, list{"x:1", "y=x"}, list{"created file /y 1"}},
		"names change places":       {list{"x:1", "y=x"}, list{"y:1", "x=y"}, nil},
		"pipe":                      {list{"p|"}, list{"p:"}, list{"changed file /p 0"}},
		"new pipe":                  {nil, list{"p|"}, list{"created special /p 0"}},
		"order":                     {nil, list{"a/", "a-b:", "a/b:", "a0:"}, list{"created file /a-b 0", "created file /a/b 0", "created file /a0 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := read(t, tt.a...), read(t, tt.b...)
			got, err := changes.Compare(a, b, img)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, words(got.List)); diff != "" || got.Truncated {
				t.Errorf("truncated %v, (-want +got)\n%s", got.Truncated, diff)
			}
		})
	}
}

func read(t *testing.T, entries ...string) *changes.Layer {
	t.Helper()
	l, err := changes.Read(layer(t, entries...), changes.Limits{Content: mib})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTruncated(t *testing.T) {
	entries := make([]string, 10_001)
	for i := range entries {
		entries[i] = strings.Repeat("x", i/100+1) + strings.Repeat("y", i%100) + ":"
	}
	got, err := changes.Compare(read(t), read(t, entries...), image(t))
	if err != nil || !got.Truncated || len(got.List) != 10_000 {
		t.Errorf("%d changes, truncated %v, %v; want 10000 and that there are more", len(got.List), got.Truncated, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		tar  *bytes.Buffer
		want string
	}{
		"content":         {layer(t, "a:"+strings.Repeat("x", 600<<10), "b:"+strings.Repeat("x", 600<<10)), "more than the 1 MiB"},
		"cut off":         {bytes.NewBuffer(layer(t, "a:"+strings.Repeat("x", 2000)).Bytes()[:3000]), "cannot be read"},
		"empty":           {&bytes.Buffer{}, "cannot be read"},
		"no tar":          {bytes.NewBufferString(strings.Repeat("no tar", 1000)), "cannot be read"},
		"twice":           {layer(t, "a:", "a:"), "out of place"},
		"before folder":   {layer(t, "d/f:", "d/"), "out of place"},
		"below a file":    {layer(t, "d:", "d/f:"), "out of place"},
		"below nothing":   {layer(t, "d!", "d/f:"), "out of place"},
		"name of nothing": {layer(t, "x=y"), "another name of nothing"},
		"name of folder":  {layer(t, "d/", "x=d"), "another name of nothing"},
		"long name":       {layer(t, strings.Repeat("x", 5000)+":"), "longer than 4096"},
		"long link":       {layer(t, "x->"+strings.Repeat("x", 5000)), "longer than 4096"},
	} {
		_, err := changes.Read(tt.tar, changes.Limits{Content: mib})
		kind := soulbox.Unavailable
		if strings.Contains(tt.want, "than") {
			kind = soulbox.Invalid
		}
		if soulbox.KindOf(err) != kind || !strings.Contains(soulbox.MessageOf(err), tt.want) {
			t.Errorf("%s: %v, want kind %d: %s", name, err, kind, tt.want)
		}
	}
}

// A file may say that it has an enormous hole. Nobody reads that to its end.
func TestHole(t *testing.T) {
	raw := layer(t, "a:"+strings.Repeat("x", 512)).Bytes()
	h := raw[512:1024]
	copy(h[124:136], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\x00") // the size, in base 256
	copy(h[148:156], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:156], []byte(octal(sum)))
	if _, err := changes.Read(bytes.NewReader(raw), changes.Limits{Content: mib}); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("%v, want Invalid", err)
	}
}

// FuzzRead reads anything. What is taken must be comparable, and is no
// different from itself.
func FuzzRead(f *testing.F) {
	f.Add(layer(f, "etc/", "etc/conf:x", "etc/old!", "lib/*", "l->m", "p|", "x:1", "y=x").Bytes())
	f.Add(layer(f, "lib!", "etc:x").Bytes())
	f.Add([]byte{})
	img := image(f)
	empty, err := changes.Read(layer(f), changes.Limits{Content: mib})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := changes.Read(bytes.NewReader(raw), changes.Limits{Content: mib})
		if err != nil {
			if kind := soulbox.KindOf(err); kind != soulbox.Invalid && kind != soulbox.Unavailable {
				t.Errorf("%v, want Invalid or Unavailable", err)
			}
			return
		}
		if got, err := changes.Compare(l, l, img); err != nil || len(got.List) > 0 {
			t.Errorf("it differs from itself: %v, %v", got, err)
		}
		there, err := changes.Compare(empty, l, img)
		if err != nil {
			t.Fatal(err)
		}
		back, err := changes.Compare(l, empty, img)
		if err != nil {
			t.Fatal(err)
		}
		if len(there.List) == 0 != (len(back.List) == 0) {
			t.Errorf("there %v, and back %v", there, back)
		}
	})
}

// words makes lines of changes.
func words(list []soulbox.Change) (lines []string) {
	for _, c := range list {
		lines = append(lines, fmt.Sprintf("%s %s %s %d", c.Kind, c.Type, c.Path, c.Size))
	}
	return lines
}

func octal(n int) string { return fmt.Sprintf("%06o\x00 ", n) }
