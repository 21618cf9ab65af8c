// Command registry is a container registry for the end-to-end suite, which
// cannot count on a public one: it serves images made of one file system.
//
//	registry -listen 127.0.0.1:5000 -data DIR -rootfs FILE.tar
//
// There are library/debian:bookworm for everybody, which stands for the one of
// Docker Hub once a server asks here first, and private/debian:bookworm for
// those who log in: as ada with the password below, or as Google's clients do,
// with a key file as password.
package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The suites know these, too.
const (
	user     = "ada"
	password = "not a secret"
	keyUser  = "_json_key"
	keyMail  = "ada@e2e.example"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:5000", "`address` to listen on")
	data := flag.String("data", "", "`folder` for layers")
	rootfs := flag.String("rootfs", "", "tar `file` of the images' file system")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(context.Background(), log, *listen, *data, *rootfs); err != nil {
		log.Error("registry ended", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, address, data, rootfs string) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	blobs := registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(data)), registry.Logger(slog.NewLogLogger(log.Handler(), slog.LevelDebug)))
	srv := &http.Server{Handler: guard(blobs), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()

	img, err := imageOf(rootfs)
	if err != nil {
		return errors.Join(fmt.Errorf("make an image of %s: %w", rootfs, err), srv.Close())
	}
	for _, repository := range []string{"library", "private"} {
		ref, err := name.ParseReference(l.Addr().String()+"/"+repository+"/debian:bookworm", name.Insecure)
		if err != nil {
			return errors.Join(err, srv.Close())
		}
		if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: user, Password: password}), remote.WithContext(ctx)); err != nil {
			return errors.Join(err, srv.Close())
		}
	}
	log.InfoContext(ctx, "images served", "address", l.Addr().String())
	return <-done
}

// guard asks for a login before it lets anybody at what is private. The
// library's registry does not understand a range without an end, by which
// BuildKit goes on with a transfer that was cut off: it is sent all.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Range"), "-") {
			r.Header.Del("Range")
		}
		if strings.HasPrefix(r.URL.Path, "/v2/private/") {
			who, with, _ := r.BasicAuth()
			var key struct {
				Mail string `json:"client_email"`
			}
			if who == keyUser {
				_ = json.Unmarshal([]byte(with), &key) // or it stays empty
			}
			if (who != user || with != password) && key.Mail != keyMail {
				w.Header().Set("WWW-Authenticate", `Basic realm="the suite's registry"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"log in first"}]}`, http.StatusUnauthorized)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// imageOf returns an image of one layer, as Debian's is.
func imageOf(rootfs string) (v1.Image, error) {
	open := func() (io.ReadCloser, error) { return os.Open(rootfs) }
	layer, err := tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.NoCompression))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	file.Config.Cmd = []string{"bash"}
	return mutate.ConfigFile(img, file)
}
