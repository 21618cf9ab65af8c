package download_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/download"
)

const most = 1 << 20

// site answers as servers do that people get data from, and some that they
// should not.
func site(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == "/data.csv":
		_, _ = fmt.Fprintf(w, "a,b\n%s,%s\n", r.URL.RawQuery, r.Header.Get("Authorization"))
	case path == "/chunked":
		for range 3 {
			_, _ = io.WriteString(w, "part;")
			_ = http.NewResponseController(w).Flush()
		}
	case path == "/hints":
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "late")
	case path == "/full":
		_, _ = w.Write(bytes.Repeat([]byte("x"), most))
	case path == "/large":
		w.Header().Set("Content-Length", fmt.Sprint(most+1))
		_, _ = w.Write(bytes.Repeat([]byte("x"), most+1))
	case path == "/endless":
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	case path == "/headers":
		for i := range 1000 {
			w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
		}
	case path == "/short":
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
	case path == "/silent":
		<-r.Context().Done()
	case path == "/loop":
		http.Redirect(w, r, "/loop", http.StatusFound)
	case strings.HasPrefix(path, "/hop/"):
		next := map[string]string{"1": "/hop/2", "2": "../data.csv?hopped"}[path[5:]]
		http.Redirect(w, r, next, http.StatusTemporaryRedirect)
	case path == "/plain":
		http.Redirect(w, r, "http://127.0.0.1:9/", http.StatusFound)
	case path == "/file":
		w.Header().Set("Location", "file:///etc/passwd")
		w.WriteHeader(http.StatusFound)
	case path == "/nowhere":
		w.WriteHeader(http.StatusFound)
	default:
		http.NotFound(w, r)
	}
}

func TestFetch(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(site))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.HandlerFunc(site))
	defer secure.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	c := &download.Client{Most: most, Roots: roots}
	for _, base := range []string{plain.URL, secure.URL} {
		for path, want := range map[string]string{
			"/data.csv":      "a,b\n,\n",
			"/data.csv?x=1#": "a,b\nx=1,\n",
			"/chunked":       "part;part;part;",
			"/hints":         "late",
			"/hop/1":         "a,b\nhopped,\n",
			"/full":          strings.Repeat("x", most),
		} {
			file := filepath.Join(t.TempDir(), "file")
			if err := c.Fetch(t.Context(), base+path, file); err != nil {
				t.Errorf("Fetch %s: %v", path, err)
				continue
			}
			if got, err := os.ReadFile(file); err != nil || string(got) != want {
				t.Errorf("Fetch %s = %.50q, %v; want %.50q", path, got, err, want)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	withUser := strings.Replace(plain.URL, "http://", "http://me:secret@", 1)
	if err := c.Fetch(t.Context(), withUser+"/data.csv", file); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "a,b\n,Basic bWU6c2VjcmV0\n" {
		t.Errorf("with a user: %q, %v", got, err)
	}
	for address, says := range map[string]string{
		plain.URL + "/large":                    "more than 1048576 bytes",
		plain.URL + "/endless":                  "more than 1048576 bytes",
		plain.URL + "/headers":                  "cannot be read",
		plain.URL + "/short":                    "unexpected EOF",
		plain.URL + "/none?key=k":               "404 Not Found",
		plain.URL + "/loop":                     "redirects more than 5 times",
		secure.URL + "/plain":                   "from https to http",
		plain.URL + "/file":                     "http:// or https://",
		plain.URL + "/nowhere":                  "redirects to nowhere",
		"ftp://example.org/x":                   "http:// or https://",
		"file:///etc/passwd":                    "http:// or https://",
		"http:///x":                             "http:// or https://",
		"http://127.0.0.1:9/x":                  "cannot be downloaded",
		"https://127.0.0.1:1/x?k=":              "cannot be downloaded",
		"http://x/" + strings.Repeat("x", 9000): "more than 8192",
		strings.Replace(plain.URL, "http://", "https://", 1) + "/": "cannot be downloaded",
	} {
		dir := t.TempDir()
		err := c.Fetch(t.Context(), address, filepath.Join(dir, "file"))
		var r *download.RefusalError
		if !errors.As(err, &r) || !strings.Contains(r.Text, says) || r.TooLarge != strings.Contains(says, "bytes") || strings.Contains(r.Text, "k=") {
			t.Errorf("Fetch %.60s = %v; want %q", address, err, says)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("Fetch %.60s leaves %v, %v", address, left, err)
		}
	}
	other := &download.Client{Most: most, Roots: x509.NewCertPool()}
	if err := other.Fetch(t.Context(), secure.URL+"/data.csv", file); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with a certificate that nobody knows: %v", err)
	}
}

// A server that says nothing, and one that is no server, end with the context.
func TestTime(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(site))
	defer s.Close()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &download.Client{Most: most}
	for _, address := range []string{s.URL + "/silent", "http://" + l.Addr().String() + "/", "https://" + l.Addr().String() + "/"} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := c.Fetch(ctx, address, filepath.Join(t.TempDir(), "file"))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Fetch %s = %v, want that time is up", address, err)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"http://x/a.csv", "http://x/", "https://x/..", "http://x/%2e%2e%2fa?b#c", "http://x/é.parquet", "http://x/" + strings.Repeat("y", 300) + ".csv"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		u, err := download.Check(address)
		if err != nil {
			return
		}
		name := download.Name(u)
		if name == "" || len(name) > 100 || strings.HasPrefix(name, ".") || filepath.Base(name) != name {
			t.Errorf("Name(%q) = %q", address, name)
		}
		if _, err := url.Parse(u.String()); err != nil {
			t.Errorf("Check(%q) = %q, which is no URL: %v", address, u, err)
		}
	})
}
