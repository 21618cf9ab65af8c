package main

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
)

func TestRegistryRef(t *testing.T) {
	for s, want := range map[string]string{
		"out.tar": "", "out": "", "-": "", "./ghcr.io/a": "", "../a.b/c": "", "/tmp/a.b/c": "", "dir/out": "", "ghcr.io/a/b.tar": "", "hello:1": "", ".hidden/x": "", "": "",
		"ghcr.io/acme/hello": "ghcr.io/acme/hello:latest", "ghcr.io/acme/hello:1.2": "ghcr.io/acme/hello:1.2", "localhost/x": "localhost/x:latest",
		"localhost:5000/x:y": "localhost:5000/x:y", "127.0.0.1:5000/x": "127.0.0.1:5000/x:latest", "docker.io/me/x": "index.docker.io/me/x:latest",
		"ghcr.io/": "!", "ghcr.io/UPPER": "!", "ghcr.io/a:b:c": "!", "ghcr.io/a@sha256:" + strings.Repeat("0", 64): "!", "a.b/c d": "!",
	} {
		got, err := registryRef(s)
		switch {
		case want == "!":
			if soulbox.KindOf(err) != soulbox.Invalid || got != nil {
				t.Errorf("registryRef(%q) = %v, %v; want Invalid", s, got, err)
			}
		case err != nil, (got == nil) != (want == ""), got != nil && got.Name() != want:
			t.Errorf("registryRef(%q) = %v, %v; want %q", s, got, err, want)
		}
	}
}

// archiveOf is an archive as the server makes it, of a tree with one file.
func archiveOf(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	e := image.Export{Name: "hello", Version: "1.0.0", Dir: t.TempDir(), Tree: func(w io.Writer) error {
		out := tar.NewWriter(w)
		text := strings.Repeat("file ", 1000)
		if err := out.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(text))}); err != nil {
			return err
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
		return out.Close()
	}}
	if err := e.Write(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestPush pushes what a server sends to a registry that asks who one is.
func TestPush(t *testing.T) {
	const user, password = "ada", "not a secret"
	blobs := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who, with, _ := r.BasicAuth(); who != user || with != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		blobs.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	dir := t.TempDir()
	if err := unpackLayout(bytes.NewReader(archiveOf(t)), dir); err != nil {
		t.Fatalf("unpackLayout: %v", err)
	}
	img, err := onlyImage(dir)
	if err != nil {
		t.Fatalf("onlyImage: %v", err)
	}
	to, err := registryRef(host + "/acme/hello:1")
	if err != nil || to == nil {
		t.Fatal(to, err)
	}
	docker := t.TempDir()
	t.Setenv("DOCKER_CONFIG", docker)
	if _, err := pushImage(t.Context(), img, to, func(int64, int64) {}); soulbox.KindOf(err) != soulbox.Forbidden || !strings.Contains(err.Error(), "docker login "+host) {
		t.Errorf("without a login: %v, want Forbidden", err)
	}
	login := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(login), 0o600); err != nil {
		t.Fatal(err)
	}
	var done, total int64
	digest, err := pushImage(t.Context(), img, to, func(d, t int64) { done, total = d, t })
	if err != nil || done == 0 || done != total {
		t.Fatalf("pushImage: %v, %d of %d bytes", err, done, total)
	}
	got, err := remote.Image(to, remote.WithAuth(&authn.Basic{Username: user, Password: password}), remote.WithContext(t.Context()))
	if err == nil {
		err = validate.Image(got)
	}
	if err != nil {
		t.Fatalf("what the registry has: %v", err)
	}
	if d, err := got.Digest(); err != nil || d != digest {
		t.Errorf("the registry has %s, %v; want %s", d, err, digest)
	}
	server.Close()
	if _, err := pushImage(t.Context(), img, to, func(int64, int64) {}); soulbox.KindOf(err) != soulbox.Unavailable {
		t.Errorf("to nobody: %v, want Unavailable", err)
	}
}

// FuzzUnpackLayout unpacks what a server sends. Nothing of it lands outside of
// the folder, or under a name that no layout has.
func FuzzUnpackLayout(f *testing.F) {
	whole := archiveOf(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	for _, name := range []string{"../escape", "/etc/passwd", "blobs/sha256/../../../escape", "blobs/sha256/" + strings.Repeat("0", 64), "index.json", "oci-layout"} {
		for _, kind := range []byte{tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeDir} {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			if err := w.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Linkname: map[byte]string{tar.TypeSymlink: "/etc/passwd", tar.TypeLink: "/etc/passwd"}[kind]}); err != nil {
				f.Fatal(err)
			}
			f.Add(b.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		above := t.TempDir()
		dir := filepath.Join(above, "layout")
		if err := unpackLayout(bytes.NewReader(b), dir); err == nil {
			_, _ = onlyImage(dir) // an error is fine, too
		}
		err := filepath.WalkDir(above, func(path string, d os.DirEntry, err error) error {
			name, _ := filepath.Rel(dir, path)
			if known := []string{"..", ".", "blobs", "blobs/sha256"}; !slices.Contains(known, name) && (!layoutFile.MatchString(name) || !d.Type().IsRegular()) {
				t.Errorf("there is %s, %v", path, d.Type())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
