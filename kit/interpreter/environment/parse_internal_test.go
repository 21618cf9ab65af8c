package environment

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"numpy":                                        "numpy",
		" NumPy == 2.1 ":                               "numpy",
		"ruamel.yaml>=0.18,<1":                         "ruamel-yaml",
		"zope__interface[test, docs]":                  "zope-interface",
		"six; python_version<'4'":                      "six",
		"six ~= 1.16 ; extra == 'x'":                   "six",
		"a @ https://example.org/a-1-py3-none-any.whl": "a",
		"a[x]@file:///home/user/a.whl":                 "a",
		"six==1.0 --hash=sha256:00 --hash=sha256:11":   "six",
	} {
		r, err := parse(text)
		if err != nil || r.name != want {
			t.Errorf("parse(%q) = %+v, %v; want %s", text, r, err, want)
		}
	}
}

func TestPlans(t *testing.T) {
	lines := strings.Split("Resolved 2 packages in 1ms\nWould install 3 packages\n - six==1.15.0\n + six==1.16.0\n ~ idna==3.1\n"+
		" + a @ file:///x/a.whl\n + b==1 (from https://x/b.whl)\n", "\n")
	want := []item{{"six", "1.16.0", ""}, {"idna", "3.1", ""}, {"a", unknown, "file:///x/a.whl"}, {"b", "1", "https://x/b.whl"}}
	if got := uvPlan(lines); !slices.Equal(got, want) {
		t.Errorf("uvPlan = %v, want %v", got, want)
	}
	got, err := pipPlan([]byte(`{"install": [{"download_info": {"url": "https://x/a.whl"}, "is_direct": false, "metadata": {"name": "a", "version": "1"}},
		{"download_info": {"url": "https://x/b.whl"}, "is_direct": true, "metadata": {"name": "b", "version": "2"}}]}`))
	if want := []item{{"a", "1", ""}, {"b", "2", "https://x/b.whl"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("pipPlan = %v, %v; want %v", got, err, want)
	}
	args := uvSettings("global.index-url='https://old/simple'\n:env:.index-url='https://mirror/simple'\nglobal.extra-index-url='https://a/x\\nhttps://b/y'\n" +
		"global.timeout='60'\n:env:.find-links='/opt/wheels'\n")
	if got, want := strings.Join(args, " "), "--default-index https://mirror/simple --index https://a/x --index https://b/y --find-links /opt/wheels"; got != want {
		t.Errorf("uvSettings = %s, want %s", got, want)
	}
}

// What installers unpack goes where the environment has it: Debian's Python has
// packages elsewhere than others, and pip's stage for it looks different from uv's.
func TestArrivals(t *testing.T) {
	for _, lib := range []string{"lib/python3.11/site-packages", "local/lib/python3.11/dist-packages"} {
		stage, target := t.TempDir(), t.TempDir()
		root := strings.TrimSuffix(lib, "lib/python3.11/site-packages")
		root = strings.TrimSuffix(root, "lib/python3.11/dist-packages")
		for _, file := range []string{lib + "/a/b.py", root + "bin/a", root + "share/man/a.1", ".lock"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(stage, file)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(stage, file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a := &about{}
		a.Paths.Data, a.Paths.Scripts = target, filepath.Join(target, "bin")
		a.Paths.Pure = filepath.Join(target, "lib/python3.11/dist-packages")
		a.Paths.Plat = a.Paths.Pure
		moves, made, err := arrivals(stage, a)
		if err != nil {
			t.Fatal(err)
		}
		var to []string
		for _, m := range moves {
			to = append(to, strings.TrimPrefix(m.To, target+"/"))
		}
		slices.Sort(to)
		if want := []string{"bin/a", "lib/python3.11/dist-packages/a/b.py", "share/man/a.1"}; !slices.Equal(to, want) {
			t.Errorf("%s: files go to %q, want %q", lib, to, want)
		}
		if len(made) != 7 || made[0] != filepath.Join(target, "bin") {
			t.Errorf("%s: folders to be made are %q", lib, made)
		}
	}
}

// Whatever is taken for a requirement is one line, and neither an option nor two
// of them.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"six", "six==1.16", "-r x", "six -e .", "six\n-e .", "a[b", "a @ file:x", "a@https://x", "six==1 --hash=sha256:00", "ſix", "six \\\n x", "six # x", "six;x", "$A",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parse(text)
		if err != nil {
			return
		}
		l := r.line()
		if r.name == "" || strings.ContainsAny(l, "\n\r\\$\x00") || strings.HasPrefix(l, "-") {
			t.Errorf("parse(%q) = %+v", text, r)
		}
		for i, word := range strings.Fields(l) {
			if strings.HasPrefix(word, "-") && !strings.HasPrefix(word, "--hash=") {
				t.Errorf("parse(%q): word %d of %q is an option", text, i, l)
			}
		}
		again, err := parse(l)
		if err != nil || again.name != r.name || again.line() != l {
			t.Errorf("parse(%q) = %+v, %v; want what it was before", l, again, err)
		}
	})
}

func FuzzPlans(f *testing.F) {
	f.Add(" + six==1.16.0\n + a @ b", "global.index-url='x'\n", []byte(`{"install":[{}]}`))
	f.Fuzz(func(t *testing.T, plan, settings string, report []byte) {
		for _, i := range uvPlan(strings.Split(plan, "\n")) {
			if i.version == "" && i.name == "" && i.url == "" && !strings.Contains(plan, "==") && !strings.Contains(plan, " @ ") {
				t.Errorf("uvPlan(%q) has an item of nothing", plan)
			}
		}
		if args := uvSettings(settings); len(args)%2 != 0 {
			t.Errorf("uvSettings(%q) = %q, which are not pairs", settings, args)
		}
		_, _ = pipPlan(report)
		out := &output{}
		if n, err := out.Write([]byte(plan)); n != len(plan) || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		if got := out.last(); len(got) > 5<<10 {
			t.Errorf("last has %d bytes", len(got))
		}
	})
}
