package server_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/server/servertest"
)

// odd has one of each thing that an image could lose on its way.
const odd = `FROM base
ENV GREETING="hello world"
LABEL who="A < B"
RUN mkdir /srv/odd && cd /srv/odd && cp /bin/true su && chown 7:8 su && chmod 4755 su && echo one >first && ln first second && \
    ln -s /nowhere dangling && ln dangling twin && truncate -s 32M holes && echo end >>holes && mkdir -m 1777 sticky && \
    touch -d '2001-02-03 04:05:06.789' first && echo é >'é ' && chmod 0 first && mkdir -m 2750 empty && chgrp 1234567 empty && chmod 2750 empty
EXPOSE 8080 53/udp
VOLUME /data
WORKDIR /srv/odd
HEALTHCHECK --interval=9s CMD true
STOPSIGNAL SIGINT
USER www-data:users
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["id"]
`

// cli runs the program that people have.
func cli(t *testing.T, s *servertest.Server, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Binary, args...)
	url, key := s.Credentials(t)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "E2B_API_URL="+url, "E2B_API_KEY="+key)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("soulbox %v: %w: %s", args, err, &stderr)
	}
	return string(out), err
}

// roots lists the root images that the server has, oldest first.
func roots(t *testing.T, s *servertest.Server) (*rootfs.Store, []rootfs.Image) {
	t.Helper()
	store, err := rootfs.Open(slog.New(slog.DiscardHandler), filepath.Join(s.Data, "images"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return store, all
}

// treeOf lists what is in a root image: all but the times of folders, and of
// files that the server puts in whenever it makes one.
func treeOf(t *testing.T, store *rootfs.Store, id string) []string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if err := store.Unpack(t.Context(), id, dir); err != nil {
		t.Fatal(err)
	}
	const script = `cd "$1" && find . -type d -printf '%P %y %m %U:%G\n' -o -printf '%P %y %m %U:%G %n %s %T@ %l\n' && find . -type f -print0 | xargs -0 sha256sum`
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, " ")
		switch name {
		case ".soulbox/agent", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/sudoers.d/soulbox":
		default:
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// layer reads the one layer of an image.
func layer(t *testing.T, img v1.Image) map[string]*tar.Header {
	t.Helper()
	all, err := img.Layers()
	if err != nil || len(all) != 1 {
		t.Fatalf("the image has layers %v, %v; want one", all, err)
	}
	r, err := all[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	headers := map[string]*tar.Header{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return headers
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
	}
}

// TestExport takes templates out of the real server and brings them in again: the
// base, which is the same to the byte, for the server makes no other root image of
// it, and one of a Dockerfile with whatever could get lost.
// Others, who know nothing of SoulBox, read the same.
func TestExport(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	c := connect(t, s)
	y := &yard{c, t, t.TempDir(), s}
	out := t.TempDir()
	must := func(args ...string) string {
		t.Helper()
		got, err := cli(t, s, out, args...)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}

	began := time.Now()
	must("template", "export", "base", "base.tar")
	t.Logf("base exported in %v", time.Since(began))
	must("template", "import", "base.tar", "again")
	if _, all := roots(t, s); len(all) != 1 {
		t.Errorf("there are %d root images; the base came back as another", len(all))
	}
	if got := y.in("again", "id -un; sudo -n id -u; python3 -c 'print(6*7)'"); got != "user\n0\n42\n" {
		t.Errorf("a sandbox of the base that came back says %q", got)
	}

	y.write("Dockerfile", odd)
	if b, said := y.build("odd", client.BuildOptions{}); b.State != soulbox.BuildReady {
		t.Fatalf("%+v\n%s", b.Failure, said)
	}
	must("template", "export", "odd@1.0.0", "odd.tar")
	must("template", "export", "odd", "odd.again")
	if a, b := filepath.Join(out, "odd.tar"), filepath.Join(out, "odd.again"); read(t, a) != read(t, b) {
		t.Error("the second export is another")
	}
	must("template", "import", "./odd.tar", "odd-again")
	// It may be another root image, because what was built a moment ago is as new
	// as what the server puts in.
	store, all := roots(t, s)
	if len(all) < 2 || len(all) > 3 {
		t.Fatalf("there are %d root images", len(all))
	}
	if diff := cmp.Diff(treeOf(t, store, all[1].ID), treeOf(t, store, all[len(all)-1].ID)); diff != "" {
		t.Errorf("what was built came back as another (-was +is):\n%s", diff)
	}
	img, err := tarball.ImageFromPath(filepath.Join(out, "odd.tar"), nil)
	if err == nil {
		err = validate.Image(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	wantOdd(t, img)
	wantSkopeo(t, img, filepath.Join(out, "odd.tar"))

	// To a registry and back.
	server := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	defer server.Close()
	to := strings.TrimPrefix(server.URL, "http://") + "/acme/odd"
	printed := strings.TrimSpace(must("template", "export", "odd", to+":1"))
	ref, err := name.NewDigest(printed)
	if err != nil {
		t.Fatalf("what was pushed is called %q: %v", printed, err)
	}
	pushed, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err == nil {
		err = validate.Image(pushed)
	}
	if err != nil {
		t.Fatalf("what the registry has: %v", err)
	}
	wantOdd(t, pushed)
	must("template", "import", to+":1", "pulled")
	if _, now := roots(t, s); len(now) != len(all) {
		t.Errorf("there are %d root images; what was pushed came back as another", len(now))
	}
	if got, err := cli(t, s, out, "template", "export", "odd@7", "none.tar"); err == nil {
		t.Errorf("a version that does not exist: %q", got)
	}
	if left, err := filepath.Glob(filepath.Join(out, "*none*")); err != nil || len(left) != 0 {
		t.Errorf("of an export that failed is left: %v, %v", left, err)
	}
	s.Stop(t)
	s.WantNothingLeft(t)
	wantKept(t, s, len(all), 0, 1)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantOdd compares an image with what the Dockerfile says.
func wantOdd(t *testing.T, img v1.Image) {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.Config
	var env []string
	for _, e := range got.Env {
		if !strings.HasPrefix(e, "PATH=") {
			env = append(env, e)
		}
	}
	got.Env = env
	want := v1.Config{
		User: "www-data:users", WorkingDir: "/srv/odd", Env: []string{"GREETING=hello world"}, Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"id"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "53/udp": {}}, Volumes: map[string]struct{}{"/data": {}}, Labels: map[string]string{"who": "A < B"},
		StopSignal: "SIGINT", ArgsEscaped: true, Healthcheck: &v1.HealthConfig{Test: []string{"CMD-SHELL", "true"}, Interval: 9 * time.Second},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if b, err := json.Marshal(cfg.History); err != nil || bytes.Contains(b, []byte("truncate")) {
		t.Errorf("the history tells how it was made: %s, %v", b, err)
	}
	files := layer(t, img)
	line := func(name string) string {
		h := files[name]
		if h == nil {
			return "none"
		}
		return fmt.Sprintf("%c %o %d:%d %d %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size, h.Linkname)
	}
	for name, want := range map[string]string{
		"srv/odd/": "5 755 0:0 0 ", "srv/odd/first": "0 0 0:0 4 ", "srv/odd/second": "1 0 0:0 0 srv/odd/first", "srv/odd/dangling": "2 777 0:0 0 /nowhere",
		"srv/odd/twin": "1 777 0:0 0 srv/odd/dangling", "srv/odd/holes": "0 644 0:0 33554436 ", "srv/odd/sticky/": "5 1777 0:0 0 ",
		"srv/odd/empty/": "5 2750 0:1234567 0 ", "srv/odd/é ": "0 644 0:0 3 ", "data/": "none", ".soulbox/": "none", ".soulbox/agent": "none", "run/e2b/": "none", //nolint:gocritic // it ends with a space
		"etc/sudoers.d/soulbox": "none", "etc/hosts": "none", "etc/resolv.conf": "none", "tmp/": "5 1777 0:0 0 ", "home/user/": "5 755 1000:1000 0 ",
	} {
		if got := line(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if h := files["srv/odd/su"]; h == nil || h.Mode != 0o4755 || h.Uid != 7 || h.Gid != 8 || h.Size == 0 {
		t.Errorf("su is %+v", h)
	}
	if h := files["srv/odd/first"]; h == nil || !h.ModTime.Equal(time.Date(2001, 2, 3, 4, 5, 6, 789e6, time.UTC)) {
		t.Errorf("first is %+v", h)
	}
}

// wantSkopeo asks a program that knows nothing of us.
func wantSkopeo(t *testing.T, img v1.Image, file string) {
	t.Helper()
	skopeo := func(args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "skopeo", append([]string{"--insecure-policy", "--tmpdir", t.TempDir()}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %v: %v\n%s", args, err, out)
		}
		return out
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := cfg.Config
	want.Healthcheck = nil // docker's own; the specification of OCI has none
	dir := t.TempDir()
	copied := filepath.Join(dir, "copied.tar")
	skopeo("copy", "oci-archive:"+file, "docker-archive:"+copied+":a:b")
	skopeo("copy", "oci-archive:"+file+":1.0.0", "dir:"+filepath.Join(dir, "dir"))
	skopeo("copy", "docker-archive:"+file+":odd:1.0.0", "dir:"+filepath.Join(dir, "docker"))
	for _, from := range []string{"oci-archive:" + file, "docker-archive:" + file, "docker-archive:" + copied} {
		var got v1.ConfigFile
		if err := json.Unmarshal(skopeo("inspect", "--config", from), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Config); diff != "" || cmp.Diff(cfg.RootFS, got.RootFS) != "" {
			t.Errorf("skopeo reads of %s (-want +got):\n%s\n%+v", from, diff, got.RootFS)
		}
	}
}

// TestExportKilled kills the server with SIGKILL when the layer is there, and
// again while it is sent: the client hears of it, and nothing is left.
func TestExportKilled(t *testing.T) {
	t.Parallel()
	s := servertest.New(t)
	for _, during := range []string{"packing", "sending"} {
		t.Run(during, func(t *testing.T) {
			s.Start(t)
			c := connect(t, s)
			out := t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if during == "packing" {
				s.Arm(t, "export/packed")
				if got, err := cli(t, s, out, "template", "export", "base", "base.tar"); err == nil {
					t.Errorf("a dead server has exported: %q", got)
				}
			} else {
				killer := &killer{s: s, after: 8 << 20}
				if err := c.Templates.Export(ctx, "base", "", killer); err == nil || killer.after > 0 {
					t.Errorf("Export: %v, with %d bytes left until the server dies", err, killer.after)
				}
			}
			if err := s.WaitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the server ended with %v, want killed", err)
			}
			s.Arm(t, "")
			if left, err := os.ReadDir(out); err != nil || len(left) != 0 {
				t.Errorf("the client left %v, %v", left, err)
			}
			for _, left := range s.Leftovers(t) {
				if strings.HasPrefix(left, "mount") || strings.HasPrefix(left, "loop") {
					t.Errorf("left behind: %s", left)
				}
			}
			wantKept(t, s, 1, 0, 0)

			s.Start(t)
			var whole bytes.Buffer
			if err := connect(t, s).Templates.Export(ctx, "base", "", &whole); err != nil {
				t.Fatalf("afterwards: %v", err)
			}
			if _, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(whole.Bytes())), nil }, nil); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			s.Stop(t)
			s.WantNothingLeft(t)
			wantKept(t, s, 1, 0, 0)
		})
	}
}

// A killer reads so many bytes and kills the server.
type killer struct {
	s     *servertest.Server
	after int
}

func (k *killer) Write(p []byte) (int, error) {
	if k.after > 0 {
		if k.after -= len(p); k.after <= 0 {
			k.s.Kill()
		}
	}
	return len(p), nil
}
