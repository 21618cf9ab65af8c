package image_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/image"
)

// noKeys keeps a developer's own logins out of the tests.
var noKeys = authn.NewMultiKeychain()

// serve starts a registry; wrap, if given, stands in front of it.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t *testing.T, reference string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err == nil {
		err = remote.Write(ref, img, remote.WithContext(t.Context()))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportFromRegistry(t *testing.T) {
	host := serve(t, nil)
	img := imageOf(t, twoLayers(t)...)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	push(t, host+"/org/app:1", img)
	other := configured(t, imageOf(t, archive(t, file("wrong", ""))), "riscv64")
	ref, err := name.ParseReference(host + "/org/multi:1")
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "riscv64"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}},
	)
	if err := remote.WriteIndex(ref, index, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"org/app:1", "org/app@" + digest.String(), "org/multi:1"} {
		t.Run(reference, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			var last image.Progress
			got, err := image.Import(t.Context(), host+"/"+reference, dir, image.Options{Keychain: noKeys, Progress: func(p image.Progress) { last = p }})
			if err != nil {
				t.Fatalf("Import: %v", err)
			}
			want := meant()
			want.Reference, want.Digest, want.Entries, want.Bytes, want.Skipped = host+"/"+reference, digest.String(), 16, 27, 1
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("image (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(wantTree, tree(t, dir)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
			checkSu(t, dir)
			if last.Step != "layer 2 of 2" || last.Done != last.Total || last.Total == 0 {
				t.Errorf("last progress is %+v, want all of layer 2 of 2", last)
			}
		})
	}
}

func TestImportFromBadRegistry(t *testing.T) {
	img := imageOf(t, archive(t, file("a", strings.Repeat("hard to compress? no. ", 1000))))
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	// onLayer answers requests for the layer and passes the others on.
	onLayer := func(f http.HandlerFunc) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, layer.String()) {
					f(w, r)
					return
				}
				h.ServeHTTP(w, r)
			})
		}
	}
	onGet := func(status int) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
					w.WriteHeader(status)
					return
				}
				h.ServeHTTP(w, r)
			})
		}
	}
	compressed := func() []byte {
		rc, err := layers[0].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		b, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}()
	flipped := slices.Clone(compressed)
	flipped[len(flipped)-20] ^= 1

	tests := []struct {
		name      string
		wrap      func(http.Handler) http.Handler
		reference string // HOST stands for the registry
		kind      soulbox.Kind
	}{
		{"not a reference", nil, "Not A Reference", soulbox.Invalid},
		{"not a digest", nil, "HOST/app@sha256:12", soulbox.Invalid},
		{"empty", nil, "", soulbox.Invalid},
		{"a URL", nil, "http://HOST/app:1", soulbox.Invalid},
		{"nobody listens", nil, "127.0.0.1:1/app:1", soulbox.Unavailable},
		{"unknown tag", nil, "HOST/app:2", soulbox.NotFound},
		{"unknown image", nil, "HOST/other:1", soulbox.NotFound},
		{"unknown digest", nil, "HOST/app@sha256:" + strings.Repeat("0", 64), soulbox.NotFound},
		{"forbidden", onGet(http.StatusForbidden), "HOST/app:1", soulbox.Forbidden},
		{"unauthorized", onGet(http.StatusUnauthorized), "HOST/app:1", soulbox.Forbidden},
		{"broken", onGet(http.StatusNotImplemented), "HOST/app:1", soulbox.Unavailable},
		{"layer lost", onLayer(http.NotFound), "HOST/app:1", soulbox.NotFound},
		{"another layer", onLayer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(flipped) }), "HOST/app:1", soulbox.Invalid},
		{"layer cut off", onLayer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(compressed[:len(compressed)/2]) }), "HOST/app:1", soulbox.Unavailable},
		{"connection lost", onLayer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(compressed[:len(compressed)/2])
			panic(http.ErrAbortHandler)
		}), "HOST/app:1", soulbox.Unavailable},
		{"not a manifest", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
					_, _ = io.WriteString(w, "<html>")
					return
				}
				h.ServeHTTP(w, r)
			})
		}, "HOST/app:1", soulbox.Unavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			host := serve(t, tt.wrap)
			push(t, host+"/app:1", img)
			dir := filepath.Join(t.TempDir(), "tree")
			_, err := image.Import(t.Context(), strings.ReplaceAll(tt.reference, "HOST", host), dir, image.Options{Keychain: noKeys})
			if err == nil || soulbox.KindOf(err) != tt.kind {
				t.Errorf("Import: kind %v, %v; want kind %v", soulbox.KindOf(err), err, tt.kind)
			}
			if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*")); len(left) != 0 || err != nil {
				t.Errorf("left over: %v, %v", left, err)
			}
		})
	}
	t.Run("no image for this machine", func(t *testing.T) {
		host := serve(t, nil)
		push(t, host+"/app:1", img)
		_, err := image.Import(t.Context(), host+"/app:1", filepath.Join(t.TempDir(), "tree"), image.Options{Keychain: noKeys, Architecture: "s390x"})
		if soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("Import: %v, want Invalid", err)
		}
	})
}
