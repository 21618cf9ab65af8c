package templates

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestHostMirror(t *testing.T) {
	const debian822 = `Types: deb
# a comment in between
URIs: http://mirror.test/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`
	official := mirror{main: debianMain, security: debianSecurity}
	tests := []struct {
		name  string
		files map[string]string
		want  mirror
	}{
		{"no sources", nil, official},
		{
			"Debian's new format",
			map[string]string{"sources.list.d/debian.sources": debian822},
			mirror{main: "http://mirror.test/debian", security: "http://mirror.test/debian-security"},
		},
		{
			"one line each",
			map[string]string{"sources.list": `
			# deb http://old.test/debian bookworm main
			deb-src http://src.test/debian bookworm main
			deb [ arch=amd64 ] https://mirror.test/debian bookworm main contrib # ours
			deb https://mirror.test/debian-security/ bookworm-security main`},
			mirror{main: "https://mirror.test/debian", security: "https://mirror.test/debian-security"},
		},
		{
			"another release",
			map[string]string{"sources.list": "deb http://mirror.test/debian trixie main\n"},
			mirror{main: "http://mirror.test/debian"},
		},
		{
			"our release first",
			map[string]string{"sources.list": "deb http://new.test/debian trixie main\ndeb http://mirror.test/debian bookworm main\n"},
			mirror{main: "http://mirror.test/debian"},
		},
		{"Ubuntu", map[string]string{
			"sources.list":                  "deb http://archive.test/ubuntu noble main universe\n",
			"sources.list.d/ubuntu.sources": "Types: deb\nURIs: http://archive.test/ubuntu\nSuites: noble noble-updates\nComponents: main\n",
		}, official},
		{"others that use Debian's names", map[string]string{"sources.list": `
			deb [signed-by=/k/docker.gpg] https://a.test/linux/debian bookworm stable
			deb [signed-by=/k/other.gpg] https://b.test/stable/debian bookworm main
			deb https://c.test/debian/12/prod bookworm main
			deb https://d.test/pub/repos/apt bookworm-pgdg main
			deb https://e.test/chrome/deb stable main`}, official},
		{
			"own key, own updates",
			map[string]string{"sources.list": `
			deb [signed-by=/etc/apt/keyrings/own.gpg] https://own.test/bookworm bookworm main
			deb [signed-by=/etc/apt/keyrings/own.gpg] https://own.test/bookworm bookworm-updates main`},
			mirror{main: "https://own.test/bookworm", keyring: "/etc/apt/keyrings/own.gpg"},
		},
		{
			"trusted",
			map[string]string{"sources.list": "deb [trusted=yes] http://mirror.test/debian bookworm main\n"},
			mirror{main: "http://mirror.test/debian", trusted: true},
		},
		{"switched off", map[string]string{"sources.list.d/x.sources": "Enabled: no\n" + first(strings.Cut(debian822, "\n\n"))}, official},
		{"a list of mirrors", map[string]string{
			"sources.list":        "deb mirror+file:/etc/apt/mirrors/debian.list bookworm main\n",
			"mirrors/debian.list": "# near\nhttps://near.test/debian\tpriority:1\nhttps://far.test/debian\n",
		}, mirror{main: "https://near.test/debian"}},
		{"a key in the file", map[string]string{"sources.list.d/x.sources": "Types: deb\nURIs: http://k.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n"}, official},
		{"not a web address", map[string]string{"sources.list": "deb cdrom:[Debian]/ bookworm main\ndeb file:/srv/debian bookworm main\n"}, official},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			etc := fstest.MapFS{}
			for name, text := range tt.files {
				etc[name] = &fstest.MapFile{Data: []byte(text)}
			}
			got, err := hostMirror(etc)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(mirror{})); diff != "" {
				t.Errorf("mirror (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMirrorSources(t *testing.T) {
	for _, tt := range []struct {
		m    mirror
		want []string
	}{
		{mirror{main: "http://a/debian", security: "http://a/sec"}, []string{
			"deb http://a/debian bookworm main", "deb http://a/debian bookworm-updates main", "deb http://a/sec bookworm-security main",
		}},
		{mirror{main: "http://a/debian", keyring: "/k.gpg"}, []string{
			"deb [signed-by=/k.gpg] http://a/debian bookworm main", "deb [signed-by=/k.gpg] http://a/debian bookworm-updates main",
		}},
		{mirror{main: "http://a/debian", trusted: true}, []string{
			"deb [trusted=yes] http://a/debian bookworm main", "deb [trusted=yes] http://a/debian bookworm-updates main",
		}},
	} {
		if diff := cmp.Diff(tt.want, tt.m.sources()); diff != "" {
			t.Errorf("sources of %+v (-want +got):\n%s", tt.m, diff)
		}
	}
}

// Whatever a machine's files hold, there is a mirror, and nothing in its lines
// can begin another line or another option.
func FuzzHostMirror(f *testing.F) {
	f.Add("deb http://a.test/debian bookworm main\n", "Types: deb\nURIs: http://b.test/debian\nSuites: trixie\nComponents: main\n")
	f.Add("deb [signed-by=\"/a b\"] http://x bookworm-updates main", ": \n\n x\nTypes:deb")
	f.Add("deb [", "\t")
	f.Fuzz(func(t *testing.T, list, stanzas string) {
		m, err := hostMirror(fstest.MapFS{
			"sources.list":             {Data: []byte(list)},
			"sources.list.d/x.sources": {Data: []byte(stanzas)},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range m.sources() {
			if strings.ContainsAny(line, "\n\r") || !strings.Contains(line, " http") {
				t.Errorf("line %q", line)
			}
		}
	})
}

func TestWantedSettings(t *testing.T) {
	got, err := wanted(strings.NewReader(`APT "";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://proxy.test:3128";
Acquire::https::CaInfo "/etc/ca.pem";
Acquire::Check-Valid-Until "false";
Acquire::Languages:: "none";
`))
	want := []string{`Acquire::http::Proxy "http://proxy.test:3128";`, `Acquire::https::CaInfo "/etc/ca.pem";`, `Acquire::Check-Valid-Until "false";`}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("settings (-want +got):\n%s%v", diff, err)
	}
}

func TestListener(t *testing.T) {
	var got []Progress
	l := &listener{progress: func(p Progress) { got = append(got, p) }}
	said := "I: installing essential packages...\nUnpacking a (1) ...\nSetting up a (1) ...\nSetting up b (2) ...\n" +
		strings.Repeat("x", 3*maxLine) + "\nE: Unable to locate package z\nI: done\n"
	for chunk := range strings.SplitAfterSeq(said, "a") { // lines arrive in pieces
		if n, err := l.Write([]byte(chunk)); n != len(chunk) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	want := []Progress{{"installing essential packages", 0}, {"installing essential packages", 1}, {"installing essential packages", 2}, {"done", 2}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if got, want := l.reason(), "E: Unable to locate package z"; got != want {
		t.Errorf("reason = %q, want %q", got, want)
	}
}

func TestFinish(t *testing.T) {
	dir, key := t.TempDir(), filepath.Join(t.TempDir(), "own.gpg")
	for name, content := range map[string]string{
		filepath.Join(dir, "var/lib/apt/lists/a"):             "x",
		filepath.Join(dir, "etc/apt/apt.conf.d/99mmdebstrap"): "x",
		filepath.Join(dir, "etc/passwd-"):                     "x",
		filepath.Join(dir, "etc/passwd"):                      "stays",
		filepath.Join(dir, "var/lib/dpkg/status"):             "Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: deinstall ok config-files\n",
		key: "key",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := finish(root, mirror{keyring: key}); err != nil {
		t.Fatalf("finish: %v", err)
	}
	for name, want := range map[string]bool{
		"var/lib/apt/lists/a": false, "etc/apt/apt.conf.d/99mmdebstrap": false, "etc/passwd-": false,
		"etc/passwd": true, "var/lib/apt/lists": true, "etc/apt/apt.conf.d/90soulbox": true, "etc/pip.conf": true, "etc/machine-id": true, key: true,
	} {
		if _, err := root.Lstat(strings.TrimPrefix(name, "/")); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
	if n, err := installed(root); n != 1 || err != nil {
		t.Errorf("installed = %d, %v; want 1", n, err)
	}
}

// The recipe's lists are ones that mmdebstrap takes as they are.
func TestRecipe(t *testing.T) {
	packages, err := lines("base/packages")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		if strings.ContainsAny(p, ", \t") {
			t.Errorf("package %q", p)
		}
	}
	if len(packages) < 10 {
		t.Errorf("only %d packages", len(packages))
	}
	opts, err := lines("base/dpkg.cfg")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range opts {
		if !strings.HasPrefix(o, "path-exclude=/") && !strings.HasPrefix(o, "path-include=/") {
			t.Errorf("option %q", o)
		}
	}
	paths, err := lines("base/remove")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if strings.HasPrefix(p, "/") || strings.Contains(p, "..") {
			t.Errorf("path %q does not start at the root of the tree", p)
		}
	}
}

// first is the part before a separator.
func first(before, _ string, _ bool) string { return before }
