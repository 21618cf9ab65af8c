package fake_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/driver/drivertest"
	"github.com/soulbox/soulbox/node/driver/fake"
)

func TestDriver(t *testing.T) {
	agent := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	first := fake.New(agent)
	drivertest.Run(t, drivertest.Harness{
		Open: func(*testing.T) driver.Driver { return first.Reopen() },
		Spec: func(t *testing.T, id soulbox.SandboxID) driver.Spec {
			return driver.Spec{ID: id, Dir: t.TempDir(), Image: image(t)}
		},
		Crash: func(_ *testing.T, spec driver.Spec) { first.Crash(spec.Dir) },
	})
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
