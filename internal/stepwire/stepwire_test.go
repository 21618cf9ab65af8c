package stepwire_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/internal/stepwire"
)

// pair returns two ends of a connection.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: stepwire.Network}
	l, err := net.ListenUnix(stepwire.Network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.DialUnix(stepwire.Network, nil, addr); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// A message arrives whole and alone, with files that are the same files.
func TestMessage(t *testing.T) {
	a, b := pair(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	first := stepwire.Request{Build: "token", Special: []string{"/.soulbox/user", "a b\n"}, Offline: true}
	second := stepwire.Request{Build: strings.Repeat("x", 60_000)}
	if err := errors.Join(stepwire.Send(a, first, f, f), stepwire.Send(a, second)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []stepwire.Request{first, second} {
		var got stepwire.Request
		files, err := stepwire.Receive(b, &got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("message %d: (-want +got)\n%s", i, diff)
		}
		if want := []int{2, 0}[i]; len(files) != want {
			t.Errorf("message %d has %d files, want %d", i, len(files), want)
		}
		if i == 0 {
			if got, err := io.ReadAll(files[1]); string(got) != "content" || err != nil {
				t.Errorf("the file holds %q, %v", got, err)
			}
		}
		for _, f := range files {
			f.Close()
		}
	}
	a.Close()
	if _, err := stepwire.Receive(b, &first); !errors.Is(err, io.EOF) {
		t.Errorf("after the other side has gone: %v, want EOF", err)
	}
}

// What is too large or no message is an error.
func TestBadMessage(t *testing.T) {
	a, b := pair(t)
	if err := stepwire.Send(a, stepwire.Stop{Why: strings.Repeat("x", 70_000)}); err == nil {
		t.Error("a message of 70,000 bytes is sent")
	}
	if err := stepwire.Send(a, stepwire.Stop{}, make([]*os.File, 65)...); err == nil {
		t.Error("65 files are sent")
	}
	for _, bad := range []string{"no JSON", `{"Build":1}`, strings.Repeat(" ", 70_000)} {
		if _, err := a.Write([]byte(bad)); err != nil {
			t.Fatal(err)
		}
		var got stepwire.Request
		if _, err := stepwire.Receive(b, &got); err == nil {
			t.Errorf("%.20q of %d bytes is a message: %+v", bad, len(bad), got)
		}
	}
}
