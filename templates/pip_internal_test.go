package templates

import (
	"os"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestHostIndex(t *testing.T) {
	for _, tt := range []struct {
		name, conf string
		want       []string
	}{
		{"nothing of the kind", "[global]\ncert = /etc/x.crt\ntimeout=9\n", nil},
		{"an index", "# ours\n[global]\nindex_url=https://pypi.example.com/simple \n", []string{"index-url = https://pypi.example.com/simple"}},
		{
			"several lines", "[global]\nextra-index-url =\n    https://a.example.com\n\thttps://b.example.com\ncert = /etc/x.crt\n  more\ntrusted-host: no\ntrusted-host = a.example.com\n",
			[]string{"extra-index-url = ", "    https://a.example.com", "\thttps://b.example.com", "trusted-host = a.example.com"},
		},
		{"passwords", "[global]\nindex-url = https://me:secret@pypi.example.com\nextra-index-url = https://a.example.com\n  https://me@b.example.com\n", []string{"extra-index-url = https://a.example.com"}},
		{"of one command only", "[install]\nindex-url = https://pypi.example.com\n", nil},
		{"before any section", "index-url = https://pypi.example.com\n", nil},
		{"nothing", "", nil},
	} {
		got, err := hostIndex(fstest.MapFS{pipConf: {Data: []byte(tt.conf)}})
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tt.name, err, diff)
		}
	}
	if got, err := hostIndex(fstest.MapFS{}); got != nil || err != nil {
		t.Errorf("a machine without the file: %q, %v", got, err)
	}
}

func TestAsk(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := ask(root, nil); err != nil {
		t.Errorf("nothing to say: %v", err)
	}
	if err := ask(root, []string{"index-url = x"}); err == nil {
		t.Error("in a tree without the file: no error")
	}
	if err := put(root, pipConf, []byte("[global]\na = b\n")); err != nil {
		t.Fatal(err)
	}
	if err := ask(root, []string{"extra-index-url =", "  x", "trusted-host = y"}); err != nil {
		t.Fatal(err)
	}
	got, err := root.ReadFile(pipConf)
	if want := "[global]\na = b\nextra-index-url =\n  x\ntrusted-host = y\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
