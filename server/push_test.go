package server_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// A pusher pushes to and pulls from a server as its default team, and counts
// what it asks.
type pusher struct {
	t    *testing.T
	s    *servertest.Server
	host string
	key  string

	mu    sync.Mutex
	asked map[string]int // by verb and what it is about
}

func newPusher(t *testing.T, s *servertest.Server) *pusher {
	t.Helper()
	url, key := s.Credentials(t)
	return &pusher{t: t, s: s, host: strings.TrimPrefix(url, "http://"), key: key, asked: map[string]int{}}
}

// RoundTrip implements [http.RoundTripper].
func (p *pusher) RoundTrip(r *http.Request) (*http.Response, error) {
	_, what, _ := strings.Cut(r.URL.Path, "/app/")
	what, _, _ = strings.Cut(what, "/sha256:")
	if strings.HasPrefix(what, "blobs/uploads/") {
		what = "uploads"
	}
	p.mu.Lock()
	p.asked[r.Method+" "+what]++
	p.mu.Unlock()
	return http.DefaultTransport.RoundTrip(r)
}

func (p *pusher) options() []remote.Option {
	return []remote.Option{
		remote.WithAuth(&authn.Basic{Username: "any", Password: p.key}), remote.WithTransport(p), remote.WithContext(p.t.Context()), remote.WithJobs(1),
	}
}

func (p *pusher) ref(s string) name.Reference {
	p.t.Helper()
	ref, err := name.ParseReference(p.host + "/default/" + s)
	if err != nil {
		p.t.Fatal(err)
	}
	return ref
}

// push pushes an image that must be accepted.
func (p *pusher) push(ref string, img v1.Image) {
	p.t.Helper()
	if err := p.try(ref, img); err != nil {
		p.t.Fatalf("push of %s: %v", ref, err)
	}
}

func (p *pusher) try(ref string, img v1.Image) error {
	p.t.Helper()
	clear(p.asked)
	return remote.Write(p.ref(ref), img, p.options()...)
}

// wantPulled pulls an image and compares it, to the last byte of its layers.
func (p *pusher) wantPulled(ref string, want v1.Image) {
	p.t.Helper()
	got, err := remote.Image(p.ref(ref), p.options()...)
	if err != nil {
		p.t.Errorf("pull of %s: %v", ref, err)
		return
	}
	digest, err := got.Digest()
	if d, err2 := want.Digest(); err != nil || err2 != nil || digest != d {
		p.t.Errorf("pulled %s as %s, %v; want %s, %v", ref, digest, err, d, err2)
	}
	layers, err := got.Layers()
	if err != nil {
		p.t.Errorf("layers of %s: %v", ref, err)
	}
	for _, l := range layers {
		rc, err := l.Compressed() // the library compares its digest
		if err == nil {
			_, err = io.Copy(io.Discard, rc)
			err = errors.Join(err, rc.Close())
		}
		if err != nil {
			p.t.Errorf("a layer of %s: %v", ref, err)
		}
	}
}

// blobs counts those that the server keeps, and what is under way.
func (p *pusher) blobs() int {
	p.t.Helper()
	all, err := filepath.Glob(filepath.Join(p.s.Data, "blobs/sha256/*/*"))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, pattern := range []string{"blobs/half/*", "uploads/*", "work/*"} {
		left, err := filepath.Glob(filepath.Join(p.s.Data, pattern))
		if err != nil || len(left) != 0 {
			p.t.Errorf("%s: %v, %v; want none", pattern, left, err)
		}
	}
	return len(all)
}

// busyboxImage is an image with a shell in its first layer, and in the second a
// program that proves itself.
func busyboxImage(t *testing.T, says string) v1.Image {
	t.Helper()
	shell, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var layers []v1.Layer
	for _, files := range []map[string]string{
		{"bin/busybox": string(shell), "bin/sh": "->busybox", "bin/bash": "#!/bin/busybox sh\nexec /bin/busybox sh \"$@\"\n"},
		{"bin/prove": "#!/bin/sh\necho " + says + "\n"},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, file := range slices.Sorted(maps.Keys(files)) {
			h := &tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: 0o755, Size: int64(len(files[file])), ModTime: time.Unix(1_700_000_000, 0)}
			text := files[file]
			if to, ok := strings.CutPrefix(text, "->"); ok {
				h.Typeflag, h.Linkname, h.Size, text = tar.TypeSymlink, to, 0, ""
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config.Env = "linux", runtime.GOARCH, []string{"PUSHED=yes"}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// wantSays starts a sandbox of a template and runs its program.
func wantSays(t *testing.T, c *client.Client, template, want string) {
	t.Helper()
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: template, Timeout: time.Hour})
	if err != nil {
		t.Errorf("create of %s: %v", template, err)
		return
	}
	if got := run(t, sb, "prove; echo $PUSHED"); got != want+"\nyes\n" {
		t.Errorf("a sandbox of %s says %q, want %q", template, got, want)
	}
	if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
		t.Error(err)
	}
}

// An image is pushed, and sandboxes are made of it; it is pulled as it was
// pushed, also after a restart; what is there is not sent again; and it goes
// with its template.
func TestPush(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	c, p := connect(t, s), newPusher(t, s)
	one := busyboxImage(t, "one")
	p.push("app", one)
	wantSays(t, c, "app", "one")
	p.wantPulled("app:latest", one)
	if n := p.blobs(); n != 4 { // two layers, a configuration and a manifest
		t.Errorf("%d blobs, want 4", n)
	}

	s.Stop(t)
	s.Start(t)
	c, p = connect(t, s), newPusher(t, s)
	p.wantPulled("app:default", one)
	p.push("app", one)
	if p.asked["POST uploads"]+p.asked["PATCH uploads"] != 0 {
		t.Errorf("what was there was sent again: %v", p.asked)
	}
	two := busyboxImage(t, "two")
	p.push("app:v2", two)
	if p.asked["PATCH uploads"] != 2 { // a layer and the configuration; the other layer is there
		t.Errorf("a push of one new layer: %v", p.asked)
	}
	wantSays(t, c, "app:v2", "two")
	wantSays(t, c, "app", "one")
	p.wantPulled("app:v2", two)
	p.wantPulled("app", one)
	var versions []string
	for b, err := range c.Templates.Builds(t.Context(), "app") {
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, b.Version.String())
	}
	if diff := cmp.Diff([]string{"1.0.1", "1.0.0"}, versions); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	tags, err := remote.List(p.ref("app").Context(), p.options()...)
	if err != nil || !slices.Equal(tags, []string{"default", "latest", "v2"}) {
		t.Errorf("tags %v, %v", tags, err)
	}

	p.skopeo(two)

	// Whoever is nobody, or wants somebody else's place, gets neither.
	p.key = "e2b_" + strings.Repeat("0", 40)
	if err := p.try("app", one); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") && !strings.Contains(err.Error(), "401") {
		t.Errorf("push with a wrong key: %v", err)
	}
	_, p.key = s.Credentials(t)
	other, err := name.ParseReference(p.host + "/other/app")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(other, one, p.options()...); err == nil || !strings.Contains(err.Error(), "DENIED") {
		t.Errorf("push to another team's place: %v, want DENIED", err)
	}
	if _, err := remote.Image(p.ref("base"), p.options()...); err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
		t.Errorf("pull of what is not there: %v", err)
	}

	for _, app := range []string{"app", "copied"} {
		if err := c.Templates.Delete(t.Context(), b2id(t, c, app)); err != nil {
			t.Error(err)
		}
	}
	if _, err := remote.Image(p.ref("app"), p.options()...); err == nil {
		t.Error("what was removed can be pulled")
	}
	s.Stop(t)
	s.WantNothingLeft(t)
	wantKept(t, s, 1+2, 0, 0) // the base, and what the next sweep takes; the copy has the image that it is of
}

// skopeo copies what was pushed to another template and out of the server: it is
// a client that was written by others.
func (p *pusher) skopeo(want v1.Image) {
	p.t.Helper()
	dir := p.t.TempDir()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	copied := "docker://" + p.host + "/default/copied:v1"
	for _, args := range [][]string{
		{"--preserve-digests", "docker://" + p.host + "/default/app:v2", copied, "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds=me:" + p.key, "--dest-creds=me:" + p.key},
		{copied, "oci:" + dir + ":v1", "--src-tls-verify=false", "--src-creds=me:" + p.key}, // a layout has no manifests of Docker's
	} {
		if out, err := exec.CommandContext(ctx, "skopeo", append([]string{"--insecure-policy", "copy"}, args...)...).CombinedOutput(); err != nil {
			p.t.Fatalf("skopeo %q: %v\n%s", args, err, out)
		}
	}
	p.wantPulled("copied:v1", want)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		p.t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		p.t.Fatalf("skopeo wrote %+v, %v", m, err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		p.t.Fatal(err)
	}
	// A layout has its configuration in another form.
	got, err := img.ConfigFile()
	if err != nil {
		p.t.Fatal(err)
	}
	file, err := want.ConfigFile()
	if err != nil {
		p.t.Fatal(err)
	}
	if diff := cmp.Diff(file.RootFS, got.RootFS); diff != "" {
		p.t.Errorf("what skopeo pulled (-want +got):\n%s", diff)
	}
}

// TestPushKilledAtEachStep kills the server with SIGKILL in the middle of a push
// and starts it again: the same push works then, and nothing is left of the
// first attempt.
func TestPushKilledAtEachStep(t *testing.T) {
	t.Parallel()
	s := servertest.New(t)
	for i, step := range []string{"push/stored", "push/stored@3", "push/claimed", "import/packed", "push/built"} {
		t.Run(step, func(t *testing.T) {
			s.Start(t)
			s.Arm(t, step)
			p := newPusher(t, s)
			img := busyboxImage(t, step)
			if err := p.try("app", img); err == nil {
				t.Error("the push was accepted by a dead server")
			}
			if err := s.WaitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the server ended with %v, want killed at the step", err)
			}
			s.Arm(t, "")

			s.Start(t)
			c, p := connect(t, s), newPusher(t, s)
			p.push("app", img)
			wantSays(t, c, "app", step)
			p.wantPulled("app", img)
			b := onlyBuild(t, c, "app")
			if b.State != soulbox.BuildReady {
				t.Errorf("the build is %s", b.State)
			}
			// The layer with the shell is shared by all, and was sent once.
			if n := p.blobs(); n != 1+3*(i+1) {
				t.Errorf("%d blobs, want %d", n, 1+3*(i+1))
			}
			if err := c.Templates.Delete(t.Context(), b2id(t, c, "app")); err != nil {
				t.Error(err)
			}
			s.Stop(t)
			s.WantNothingLeft(t)
			s.Start(t) // sweeps
			s.Stop(t)
			wantKept(t, s, 1, 0, 0)
		})
	}
}
