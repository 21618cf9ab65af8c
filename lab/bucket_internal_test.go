package lab

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox/internal/testbin"
)

// TestPresign reads an object by its URL from a server that speaks S3, and not
// with another secret.
func TestPresign(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0") // it is free for a moment only
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	lis.Close()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "my-bucket/a b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "my-bucket/a b/ü+1.csv"), []byte("a,b\n1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testbin.Build(t, "versitygw"), // the cleanup ends it
		"--port", addr, "--access", "soulbox", "--secret", "hush-hush", "--region", "us-east-1", "--quiet", "posix", "--sidecar", t.TempDir(), dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if res, err := http.Get("http://" + addr); err == nil {
			res.Body.Close()
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	for secret, want := range map[string]int{"hush-hush": http.StatusOK, "another": http.StatusForbidden} {
		o := &object{Bucket: "my-bucket", Key: "a b/ü+1.csv", Region: "us-east-1", Endpoint: "http://" + addr, AccessKeyID: "soulbox", SecretAccessKey: secret}
		if err := o.check(); err != nil {
			t.Fatal(err)
		}
		signed, err := o.presign(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Get(signed)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != want || (want == http.StatusOK) != (string(b) == "a,b\n1,2\n") {
			t.Errorf("%s: %d %q, %v; want %d", signed, res.StatusCode, b, err, want)
		}
	}
}

func FuzzReadSource(f *testing.F) {
	for _, s := range []string{`{"name":"a","content":"YQ=="}`, `{"sandbox":"i1","file":"a.csv"}`, `{"s3":{"bucket":"abc","key":"k","region":"r"}}`, `null`, `{"path":null}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		s, err := readSource([]byte(raw), "datasets[0]")
		if err != nil {
			return
		}
		if s.brought() && len(s.Content) > maxContent || strings.ContainsAny(s.extension(), "/\x00") || s.brought() && s.Name != "" && !identifier.MatchString(s.Name) {
			t.Errorf("%q is read as %+v", raw, s)
		}
	})
}

func FuzzKindOf(f *testing.F) {
	for _, s := range []string{`{"type":"end"}`, `[]`, `{"type":7}`, "", "\xff", `{"type":"a"}{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if kind, ok := kindOf(line); ok && (kind == "" || len(kind) > 32 || !isObject(line)) {
			t.Errorf("%q has the type %q", line, kind)
		}
	})
}
