package template_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
	"github.com/soulbox/soulbox/template"
)

// archive is a tar of files; a name that ends in / is a folder.
func archive(t *testing.T, files ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f[0], Mode: 0o644, Size: int64(len(f[1])), ModTime: time.Unix(1_600_000_000, 0)}
		if strings.HasSuffix(f[0], "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zip(t *testing.T, b []byte) []byte {
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

// container is an image for this machine with one layer.
func container(t *testing.T, cfg v1.Config, layer []byte) v1.Image {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, cfg
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// layoutOf is an archive of an OCI layout that holds img.
func layoutOf(t *testing.T, img v1.Image) []byte {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// serve starts a registry that holds img, and returns the image's name.
func serve(t *testing.T, img v1.Image) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(s.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(s.URL, "http://") + "/org/app:1")
	if err == nil {
		err = remote.Write(ref, img, remote.WithContext(t.Context()))
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

func TestImport(t *testing.T) {
	files := [][2]string{{"etc/", ""}, {"etc/motd", "hello"}, {"file", "content"}}
	root := archive(t, files...)
	img := container(t, v1.Config{
		Env: []string{"PATH=/opt/bin:/bin", "LANG=C.UTF-8", "EMPTY=", "=odd", "odd"}, User: "app", WorkingDir: "srv/app/",
	}, root)
	env := map[string]string{"PATH": "/opt/bin:/bin", "LANG": "C.UTF-8", "EMPTY": ""}
	reference := serve(t, img)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		source   soulbox.ImageSource
		from     string
		env      map[string]string
		workdir  string
		progress string // a pattern of what people read
	}{
		{"tar", soulbox.ImageSource{Tar: bytes.NewReader(root)}, "archive", nil, "", "^receiving the archive\nreceived 0 MiB\n.*packing the root file system\n$"},
		{"compressed tar", soulbox.ImageSource{Tar: bytes.NewReader(zip(t, root))}, "archive", nil, "", "^receiving the archive\n"},
		{"tar of a folder", soulbox.ImageSource{Tar: bytes.NewReader(archive(t, append([][2]string{{"./", ""}}, files...)...))}, "archive", nil, "", ""},
		{"OCI archive", soulbox.ImageSource{Tar: bytes.NewReader(layoutOf(t, img))}, "archive@" + digest.String(), env, "/srv/app", "layer 1 of"},
		{"registry", soulbox.ImageSource{Ref: reference}, reference + "@" + digest.String(), env, "/srv/app", "layer 1 of"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := open(t)
			var lines strings.Builder
			got, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: "MyApp", Source: tt.source}, func(l string) { lines.WriteString(l + "\n") })
			if err != nil {
				t.Fatalf("Import: %v", err)
			}
			if !regexp.MustCompile(`^[a-z0-9]{20}$`).MatchString(string(got.ID)) || time.Since(got.CreatedAt) > time.Minute || !got.UpdatedAt.Equal(got.CreatedAt) {
				t.Errorf("template has id %q, was made %v, changed %v", got.ID, got.CreatedAt, got.UpdatedAt)
			}
			want := &soulbox.Template{
				Team: ours, Name: "myapp", Version: soulbox.Version{Major: 1}, Size: w.Defaults, User: "user", Source: tt.from, Env: tt.env, Workdir: tt.workdir,
			}
			diff := cmp.Diff(want, got, cmpopts.IgnoreFields(soulbox.Template{}, "ID", "Build", "Image", "CreatedAt", "UpdatedAt"), cmpopts.EquateEmpty())
			if diff != "" {
				t.Errorf("template (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(w.row(t, got.ID), got); diff != "" {
				t.Errorf("the store has another template (-stored +got):\n%s", diff)
			}
			if s := lines.String(); !regexp.MustCompile(`(?s)`+tt.progress).MatchString(s) || !strings.HasSuffix(s, "packing the root file system\n") {
				t.Errorf("progress is %q, want a match of %q", s, tt.progress)
			}
			tree := w.tree(t, got.Image)
			for name, want := range map[string]string{"etc/motd": "hello", "file": "content", ".soulbox/agent": "agent 1"} {
				if got := content(t, tree, name); got != want {
					t.Errorf("%s holds %q, want %q", name, got, want)
				}
			}
			w.have(t, got.Image)
			w.idle(t)
		})
	}
}

// The same source twice, even at different times, is the same image.
func TestImportRepeats(t *testing.T) {
	w := open(t)
	source := archive(t, [2]string{"a", "a"})
	var got []string
	for i, name := range []string{"one", "two"} {
		if i > 0 {
			time.Sleep(1100 * time.Millisecond) // times in images have seconds
		}
		tpl, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: name, Source: soulbox.ImageSource{Tar: bytes.NewReader(source)}}, nil)
		if err != nil {
			t.Fatalf("Import: %v", err)
		}
		got = append(got, tpl.Image)
	}
	if got[0] != got[1] {
		t.Errorf("images %s and %s differ", got[0], got[1])
	}
	w.have(t, got[0])
}

// A name that is used keeps its id, its size and its birth, and gets another
// version. The images of those before stay, so that it can go back to them.
func TestImportReplaces(t *testing.T) {
	w := open(t)
	put := func(text string) *soulbox.Template {
		t.Helper()
		tpl, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: "app", Source: soulbox.ImageSource{Tar: bytes.NewReader(archive(t, [2]string{"a", text}))}}, nil)
		if err != nil {
			t.Fatalf("Import: %v", err)
		}
		return tpl
	}
	w.Defaults.CPUs = 7
	first := put("1")
	w.Defaults.CPUs = 2
	second := put("2")
	if second.ID != first.ID || second.Build == first.Build || second.Image == first.Image || second.Size.CPUs != 7 ||
		!second.CreatedAt.Equal(first.CreatedAt) || !second.UpdatedAt.After(first.UpdatedAt) {
		t.Errorf("replaced %+v by %+v", first, second)
	}
	if a, b := first.Version.String(), second.Version.String(); a != "1.0.0" || b != "1.0.1" {
		t.Errorf("versions are %s and %s", a, b)
	}
	third := put("3")
	w.have(t, first.Image, second.Image, third.Image)
	old, err := w.store.Build(t.Context(), first.Build)
	if err != nil || old.Image != first.Image || old.State != soulbox.BuildReady {
		t.Errorf("the first build is %+v, %v", old, err)
	}
	if all, err := w.Templates(t.Context(), ours); len(all) != 1 || err != nil {
		t.Errorf("Templates: %v, %v; want one", all, err)
	}

	held, err := w.images.Hold(second.Image) // a sandbox's
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(t.Context(), ours, first.ID); err != nil {
		t.Fatal(err)
	}
	other := w.ensure(t, "other", "4")
	w.have(t, second.Image, other.Image)
	held.Close()
	w.have(t, other.Image, w.ensure(t, "another", "5").Image)
}

func TestImportRefuses(t *testing.T) {
	good := archive(t, [2]string{"a", "a"})
	tests := []struct {
		test, name string
		source     soulbox.ImageSource
		kind       soulbox.Kind
		says       string
	}{
		{"no name", "", soulbox.ImageSource{Tar: bytes.NewReader(good)}, soulbox.Invalid, "1 to 128 of"},
		{"namespace", "ours/app", soulbox.ImageSource{Tar: bytes.NewReader(good)}, soulbox.Invalid, "without namespace and tag"},
		{"version", "app@1", soulbox.ImageSource{Tar: bytes.NewReader(good)}, soulbox.Invalid, "without namespace and tag"},
		{"tag", "app:v1", soulbox.ImageSource{Tar: bytes.NewReader(good)}, soulbox.Invalid, "without namespace and tag"},
		{"blank in the name", "my app", soulbox.ImageSource{Tar: bytes.NewReader(good)}, soulbox.Invalid, "1 to 128 of"},
		{"name like a path", "../app", soulbox.ImageSource{Tar: bytes.NewReader(good)}, soulbox.Invalid, "namespace may hold"},
		{"long name", strings.Repeat("a", 129), soulbox.ImageSource{Tar: bytes.NewReader(good)}, soulbox.Invalid, "1 to 128 of"},
		{"neither", "app", soulbox.ImageSource{}, soulbox.Invalid, ""},
		{"absolute path", "app", soulbox.ImageSource{Ref: "/etc"}, soulbox.Invalid, "is a path; send its content instead"},
		{"relative path", "app", soulbox.ImageSource{Ref: "./x"}, soulbox.Invalid, "is a path; send its content instead"},
		{"parent path", "app", soulbox.ImageSource{Ref: "../x"}, soulbox.Invalid, "is a path; send its content instead"},
		{"working directory", "app", soulbox.ImageSource{Ref: "."}, soulbox.Invalid, "is a path; send its content instead"},
		{"parent directory", "app", soulbox.ImageSource{Ref: ".."}, soulbox.Invalid, "is a path; send its content instead"},
		{"blank path", "app", soulbox.ImageSource{Ref: " /etc"}, soulbox.Invalid, ""},
		{"not a reference", "app", soulbox.ImageSource{Ref: "No Image"}, soulbox.Invalid, ""},
		{"nobody there", "app", soulbox.ImageSource{Ref: "127.0.0.1:1/app"}, soulbox.Unavailable, ""},
		{"no tar", "app", soulbox.ImageSource{Tar: strings.NewReader(strings.Repeat("no tar", 300))}, soulbox.Invalid, ""},
		{"empty", "app", soulbox.ImageSource{Tar: strings.NewReader("")}, soulbox.Invalid, ""},
		{"cut off", "app", soulbox.ImageSource{Tar: io.MultiReader(bytes.NewReader(good[:600]), broken{io.ErrUnexpectedEOF})}, soulbox.Invalid, "the archive was cut off after 600 bytes"},
		{
			"cut off by a door", "app",
			soulbox.ImageSource{Tar: io.MultiReader(bytes.NewReader(good[:600]), broken{soulbox.Errorf(soulbox.TooLarge, "the body is too large")})},
			soulbox.TooLarge, "the archive was cut off after 600 bytes: the body is too large",
		},
		{"ends early", "app", soulbox.ImageSource{Tar: bytes.NewReader(good[:600])}, soulbox.Invalid, ""},
		{"too large", "app", soulbox.ImageSource{Tar: io.LimitReader(zeros{}, 17<<20)}, soulbox.TooLarge, "the archive is larger than 16777216 bytes"},
		{
			"environment with NUL", "app",
			soulbox.ImageSource{Tar: bytes.NewReader(layoutOf(t, container(t, v1.Config{Env: []string{"A=b\x00c"}}, good)))},
			soulbox.Invalid, `environment variable "A" holds NUL`,
		},
		{
			"working directory of two lines", "app",
			soulbox.ImageSource{Tar: bytes.NewReader(layoutOf(t, container(t, v1.Config{WorkingDir: "/a\nb"}, good)))},
			soulbox.Invalid, `working directory "/a\nb" holds a control character`,
		},
		{
			"accounts that make no sense", "app",
			soulbox.ImageSource{Tar: bytes.NewReader(archive(t, [2]string{"etc/passwd", "user:x:nobody:\n"}))},
			soulbox.Invalid, "/etc/passwd has a user",
		},
	}
	w := open(t)
	for _, tt := range tests {
		t.Run(tt.test, func(t *testing.T) {
			_, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: tt.name, Source: tt.source}, nil)
			if err == nil || soulbox.KindOf(err) != tt.kind || !strings.Contains(soulbox.MessageOf(err), tt.says) {
				t.Errorf("Import: kind %v, %v; want kind %v and %q", soulbox.KindOf(err), err, tt.kind, tt.says)
			}
			if all, err := w.store.AllTemplates(t.Context()); len(all) != 0 || err != nil {
				t.Errorf("templates: %v, %v; want none", all, err)
			}
			w.have(t)
			w.idle(t)
		})
	}
}

// broken is a connection that ends with an error.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A client that leaves, or a server that stops, leaves nothing behind.
func TestImportCanceled(t *testing.T) {
	w := open(t)
	good := archive(t, [2]string{"a", "a"})
	left := errors.New("the client has left")
	for _, tt := range []struct {
		name string
		at   string // the line of progress at which it happens
	}{
		{"before", ""},
		{"receiving", "receiving"},
		{"unpacking", "received"},
		{"packing", "packing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			if tt.at == "" {
				cancel(left)
			}
			_, err := w.Import(ctx, soulbox.ImportRequest{Team: ours, Name: "app", Source: soulbox.ImageSource{Tar: bytes.NewReader(good)}}, func(line string) {
				if strings.HasPrefix(line, tt.at) {
					cancel(left)
				}
			})
			if !errors.Is(err, left) {
				t.Errorf("Import: %v, want %v", err, left)
			}
			w.have(t)
			w.idle(t)
		})
	}
	t.Run("waiting for the turn", func(t *testing.T) {
		packing, proceed := make(chan struct{}), make(chan struct{})
		w.packer.packing = func() error { close(packing); <-proceed; return nil }
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: "first", Source: soulbox.ImageSource{Tar: bytes.NewReader(good)}}, nil); err != nil {
				t.Errorf("Import: %v", err)
			}
		})
		<-packing
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, left)
		defer cancel()
		if _, err := w.Import(ctx, soulbox.ImportRequest{Team: ours, Name: "second", Source: soulbox.ImageSource{Tar: bytes.NewReader(good)}}, nil); !errors.Is(err, left) {
			t.Errorf("Import while another packs: %v, want %v", err, left)
		}
		close(proceed)
		wg.Wait()
	})
}

// Two imports under one new name end as one template.
func TestImportTogether(t *testing.T) {
	w := open(t)
	var wg sync.WaitGroup
	for _, text := range []string{"a", "b", "c", "d"} {
		source := archive(t, [2]string{"a", text})
		wg.Go(func() {
			if _, err := w.Import(t.Context(), soulbox.ImportRequest{Team: ours, Name: "app", Source: soulbox.ImageSource{Tar: bytes.NewReader(source)}}, nil); err != nil {
				t.Errorf("Import: %v", err)
			}
		})
	}
	wg.Wait()
	all, err := w.store.AllTemplates(t.Context())
	if len(all) != 1 || err != nil {
		t.Fatalf("templates: %v, %v; want one", all, err)
	}
	if _, err := w.images.Get(all[0].Image); err != nil {
		t.Errorf("the template's image: %v", err)
	}
}

func TestEnsureOnlyOnce(t *testing.T) {
	w := open(t)
	var lines []string
	first, err := w.Ensure(t.Context(), "base", plain("1"), func(l string) { lines = append(lines, l) })
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	if diff := cmp.Diff([]string{"making a tree", "packing the root file system"}, lines); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if first.Team != house || !first.Public || first.Name != "base" || first.Source != "a test" || first.User != "user" || first.Workdir != "" {
		t.Errorf("template is %+v", first)
	}
	again, err := w.Ensure(t.Context(), "base", func(context.Context, string, func(string)) (image.Image, error) {
		t.Error("built again")
		return image.Image{}, nil
	}, nil)
	if diff := cmp.Diff(first, again, cmpopts.EquateApproxTime(time.Millisecond), cmpopts.EquateEmpty()); diff != "" || err != nil {
		t.Errorf("second time (-first +second):\n%s%v", diff, err)
	}
	w.idle(t)
}

// A template of the house keeps what its image's author meant, like any other.
func TestEnsureFromImage(t *testing.T) {
	w := open(t)
	reference := serve(t, container(t, v1.Config{Env: []string{"PATH=/usr/local/go/bin:/bin"}, WorkingDir: "/go"}, archive(t, [2]string{"a", "a"})))
	got, err := w.Ensure(t.Context(), "base", template.FromImage(reference), nil)
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	if got.Env["PATH"] != "/usr/local/go/bin:/bin" || got.Workdir != "/go" || !strings.HasPrefix(got.Source, reference+"@sha256:") || got.Team != house {
		t.Errorf("template is %+v", got)
	}
}

func TestEnsureFails(t *testing.T) {
	w := open(t)
	broke := errors.New("no packages")
	if _, err := w.Ensure(t.Context(), "base", func(_ context.Context, dir string, _ func(string)) (image.Image, error) {
		return image.Image{}, errors.Join(os.MkdirAll(filepath.Join(dir, "half"), 0o755), broke)
	}, nil); !errors.Is(err, broke) {
		t.Errorf("Ensure: %v, want %v", err, broke)
	}
	w.idle(t)
	w.packer.packing = func() error { return broke }
	if _, err := w.Ensure(t.Context(), "base", plain("1"), nil); !errors.Is(err, broke) {
		t.Errorf("Ensure: %v, want %v", err, broke)
	}
	w.idle(t)
	w.packer.packing = nil
	w.ensure(t, "base", "1") // nothing stands in the way
}

// What a server that was killed had under work goes when the next one opens.
func TestOpenRemovesLeftovers(t *testing.T) {
	w := open(t)
	half := filepath.Join(w.dir, "work", "import-1", "tree", "etc")
	if err := errors.Join(os.MkdirAll(half, 0o755), os.WriteFile(filepath.Join(half, "passwd"), nil, 0o400), os.Chmod(half, 0)); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "mine")
	if err := errors.Join(os.WriteFile(outside, nil, 0o600), os.Symlink(filepath.Dir(outside), filepath.Join(w.dir, "work", "link"))); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	w.idle(t)
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("what a link led to: %v", err)
	}
	if fi, err := os.Stat(filepath.Join(w.dir, "work")); err != nil || fi.Mode() != fs.ModeDir|0o700 {
		t.Errorf("the work folder: %v, %v; want mode 0700", fi.Mode(), err)
	}
	if _, err := template.Open(template.Options{Dir: filepath.Join(outside, "below-a-file")}); err == nil {
		t.Error("Open where no folder can be: no error")
	}
}
