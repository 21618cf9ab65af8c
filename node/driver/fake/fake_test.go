package fake_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/driver/drivertest"
	"github.com/soulbox/soulbox/node/driver/fake"
	"github.com/soulbox/soulbox/node/guest"
)

func TestDriver(t *testing.T) {
	agent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/files" { // an upload
			f, _, err := r.FormFile("file")
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			b, err := io.ReadAll(f)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			fake.GuestOf(r).Remember("", string(b))
		}
		w.WriteHeader(http.StatusNoContent)
	})
	first := fake.New(agent)
	drivertest.Run(t, drivertest.Harness{
		Open: func(*testing.T) driver.Driver { return first.Reopen() },
		Spec: func(t *testing.T, id soulbox.SandboxID) driver.Spec {
			return driver.Spec{ID: id, Dir: t.TempDir(), Image: image(t)}
		},
		Crash: func(_ *testing.T, spec driver.Spec) { first.Crash(spec.Dir) },
	})
}

// get asks the agent of a sandbox for path.
func get(t *testing.T, inst driver.Instance, path string) (string, error) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return inst.Dial(ctx, guest.Port) }}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// A saved sandbox remembers what it was saved with, does not answer while it
// is frozen, and ends when it is thawed once too often, as gVisor's does.
func TestGuest(t *testing.T) {
	d := fake.New(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g := fake.GuestOf(r)
		if r.URL.Path != "/" {
			g.Remember("memory of "+r.URL.Path, "files of "+r.URL.Path)
		}
		memory, files := g.Recall()
		fmt.Fprintf(w, "%q %q", memory, files)
	}))
	start := func(spec driver.Spec) driver.Instance {
		inst, err := d.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Crash(spec.Dir) })
		return inst
	}
	one := start(driver.Spec{ID: "ione", Dir: t.TempDir(), Image: image(t)})
	if got, err := get(t, one, "/a"); err != nil || got != `"memory of /a" "files of /a"` {
		t.Errorf("%s, %v", got, err)
	}
	for memory, want := range map[bool]string{true: `"memory of /a" "files of /a"`, false: `"" "files of /a"`} {
		from := &driver.Saved{Dir: t.TempDir(), Memory: memory, Check: func() error { return nil }}
		if err := one.Save(t.Context(), from.Dir, memory); err != nil {
			t.Fatal(err)
		}
		copied := start(driver.Spec{ID: "itwo", Dir: t.TempDir(), Image: image(t), Saved: from})
		if got, err := get(t, copied, "/"); err != nil || got != want {
			t.Errorf("restored with memory %v: %s, %v; want %s", memory, got, err, want)
		}
		if _, err := get(t, copied, "/b"); err != nil { // its own from now on
			t.Error(err)
		}
		larger := driver.Spec{ID: "ithree", Dir: t.TempDir(), Image: image(t), Saved: from, Size: soulbox.Size{CPUs: 4}}
		if _, err := d.Start(t.Context(), larger); err == nil {
			t.Error("it is restored with another size")
		}
		wrong := *from
		wrong.Memory = !memory
		if _, err := d.Start(t.Context(), driver.Spec{ID: "ithree", Dir: t.TempDir(), Image: image(t), Saved: &wrong}); err == nil {
			t.Errorf("what was saved with memory %v is restored as if it had not been", memory)
		}
	}
	if err := one.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, one, "/"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen sandbox answers %s, %v", got, err)
	}
	if err := one.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, one, "/"); err != nil || got != `"memory of /a" "files of /a"` {
		t.Errorf("thawed: %s, %v", got, err)
	}
	if err := one.Thaw(t.Context()); err == nil {
		t.Error("a second Thaw succeeds")
	}
	select {
	case <-one.Done():
	default:
		t.Error("a sandbox survives a Thaw without a Freeze")
	}
}

// image returns a file that begins like an EROFS image.
func image(t *testing.T) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	b := make([]byte, 4096)
	copy(b[1024:], "\xe2\xe1\xf5\xe0")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
