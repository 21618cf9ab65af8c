package native_test

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestRegisterExport asks for images as everybody who might, and of versions
// that are none.
func TestRegisterExport(t *testing.T) {
	s := newShop(t)
	first := s.build(t, "ours", "mine", "", "FROM debian\nENV A=b\n")
	broken := s.start(t, "ours", "mine", "", "FROM debian\nRUN fail\n")
	s.wait(t, "ours", "mine", broken)
	going := s.start(t, "ours", "slow", "", "FROM debian\nRUN wait\n")
	s.get(t, "ours", "PUT", "/v1/templates/mine/versions/1.0.0/deprecation", `{"reason":"old"}`, 200, nil)
	const one = "/v1/templates/mine/export"
	saved := func(key, path string) string {
		t.Helper()
		res := ask(s, "GET", path, "", key)
		if res.Code != 200 || res.Header().Get("Content-Type") != "application/x-tar" {
			t.Fatalf("GET %s: %d %s", path, res.Code, res.Body)
		}
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(res.Body.Bytes())), nil }
		img, err := tarball.Image(open, nil)
		if err == nil {
			err = validate.Image(img)
		}
		if err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
		cfg, err := img.ConfigFile()
		if err != nil || !slices.Contains(cfg.Config.Env, "A=b") || cfg.Config.User != "" {
			t.Errorf("GET %s: %+v, %v", path, cfg, err)
		}
		return res.Body.String()
	}
	want := saved("ours", one)
	for _, at := range []string{"1", "^1", "1.0.0", "default", first.ID} {
		if saved("ours", one+"?at="+at) != want {
			t.Errorf("at %s is another image", at)
		}
	}
	for path, says := range map[string]string{
		one + "?at=2": "no version", one + "?at=" + broken: "does not exist", "/v1/templates/slow/export": "no build that is ready",
		"/v1/templates/slow/export?at=" + going: "does not exist", "/v1/templates/none/export": "not found", "/v1/templates/nobody%2Fmine/export": "not found",
	} {
		wantFailure(t, ask(s, "GET", path, "", "ours"), 404, says)
	}
	wantFailure(t, ask(s, "GET", one, "", ""), 401, "is needed")
	for _, path := range []string{"/v1/templates/ours%2Fmine/export", "/v1/templates/ours%2Fmine/export?at=" + first.ID} {
		wantFailure(t, ask(s, "GET", path, "", "theirs"), 404, "template 'ours/mine' not found")
	}
	s.get(t, "ours", "POST", "/v1/templates/mine/publish", "", 200, nil)
	if saved("theirs", "/v1/templates/ours%2Fmine/export?at=1") != want {
		t.Error("another team gets another image")
	}
	close(s.workshop.goOn)
	s.wait(t, "ours", "slow", going)
}
