package s3_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/blob"
	"github.com/soulbox/soulbox/blob/blobtest"
	"github.com/soulbox/soulbox/blob/s3"
	"github.com/soulbox/soulbox/internal/testbin"
)

// A gateway is a server that speaks S3, on a folder: each folder in it is a
// bucket.
type gateway struct {
	url, dir string
	buckets  atomic.Int32
}

const key, secret = "soulbox", "hush-hush"

func serve(t *testing.T) *gateway {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0") // it is free for a moment only
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	lis.Close()
	g := &gateway{url: "http://" + addr, dir: t.TempDir()}
	parts := t.TempDir()
	var log strings.Builder
	cmd := exec.Command(testbin.Build(t, "versitygw"), // the cleanup ends it
		"--port", addr, "--access", key, "--secret", secret, "--region", "us-east-1", "--quiet", "posix", "--sidecar", parts, g.dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("the gateway says:\n%s", log.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get(g.url)
		if err == nil {
			res.Body.Close()
			return g
		}
		if time.Now().After(deadline) {
			t.Fatalf("the gateway does not answer: %v", err)
		}
	}
}

// options are those for a new bucket.
func (g *gateway) options(t *testing.T) s3.Options {
	t.Helper()
	bucket := fmt.Sprintf("bucket-%d", g.buckets.Add(1))
	if err := os.Mkdir(filepath.Join(g.dir, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	return s3.Options{Bucket: bucket, Prefix: "some/prefix", Endpoint: g.url, Region: "us-east-1", Key: key, Secret: secret}
}

func open(t *testing.T, o s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func TestStore(t *testing.T) {
	g := serve(t)
	t.Run("Suite", func(t *testing.T) {
		blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, g.options(t)) })
	})
	t.Run("WithoutPrefix", func(t *testing.T) {
		blobtest.Run(t, func(t *testing.T) blob.Store {
			o := g.options(t)
			o.Prefix = ""
			return open(t, o)
		})
	})
	// Two stores in one bucket know nothing of each other, or of what else is
	// in it.
	t.Run("Beside", func(t *testing.T) {
		o := g.options(t)
		one := open(t, o)
		d := soulbox.DigestOf([]byte("one"))
		if err := one.Put(t.Context(), d, 3, strings.NewReader("one")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(g.dir, o.Bucket, "some/prefix/sha256/note"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Prefix = "some"
		for info, err := range open(t, o).List(t.Context()) {
			t.Errorf("List() has %+v, %v", info, err)
		}
		n := 0
		for info, err := range one.List(t.Context()) {
			if n++; err != nil || info.Digest != d {
				t.Errorf("List() has %+v, %v", info, err)
			}
		}
		if n != 1 {
			t.Errorf("List() has %d blobs, want 1", n)
		}
	})
	t.Run("Wrong", func(t *testing.T) {
		good := g.options(t)
		for name, change := range map[string]func(*s3.Options){
			"no bucket":   func(o *s3.Options) { o.Bucket = "missing" },
			"wrong key":   func(o *s3.Options) { o.Secret = "wrong" },
			"no server":   func(o *s3.Options) { o.Endpoint = "http://127.0.0.1:1" },
			"no endpoint": func(o *s3.Options) { o.Endpoint = "http://nowhere.invalid" },
		} {
			o := good
			change(&o)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			s, err := s3.Open(ctx, o)
			cancel()
			if kind := soulbox.KindOf(err); err == nil || kind != soulbox.Invalid && kind != soulbox.Unavailable || !strings.Contains(soulbox.MessageOf(err), o.Bucket) {
				t.Errorf("%s: %v, %v; want a sentence about the bucket", name, s, err)
			}
		}
	})
}

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"s3://bucket": "bucket|", "s3://bucket/": "bucket|", "s3://bucket/a": "bucket|a", "s3://bucket/a/b/": "bucket|a/b", "s3://bucket//a/../b": "bucket|b",
		"": "", "bucket": "", "s3://": "", "s3:///a": "", "http://bucket": "", "s3://bucket?x=1": "", "s3://user@bucket": "", "s3://bucket#a": "", "s3://bucket:1": "",
	} {
		bucket, prefix, err := s3.ParseURL(in)
		got := bucket + "|" + prefix
		if err != nil {
			got = ""
		}
		if got != want || (want == "") != (soulbox.KindOf(err) == soulbox.Invalid) {
			t.Errorf("ParseURL(%q) = %q, %q, %v; want %q", in, bucket, prefix, err, want)
		}
	}
}
