package facts_test

import (
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/facts"
)

// plant makes a tree of files; a content that begins with "-> " is a link.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = errors.Join(err, os.Symlink(to, path))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, dir string) soulbox.BuildFacts {
	t.Helper()
	f, err := facts.Read(t.Context(), dir)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	return f
}

func lines(f soulbox.BuildFacts) []string {
	var all []string
	for _, p := range f.Packages {
		all = append(all, p.Manager+" "+p.Name+" "+p.Version)
	}
	return all
}

func TestPackages(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"nothing", nil, nil},
		{
			"dpkg",
			map[string]string{"var/lib/dpkg/status": `Package: curl
Status: install ok installed
Priority: optional
Version: 7.88.1-10+deb12u8
Description: tool
 Version: 9
 .
 Package: nothing

Package: gone
Status: deinstall ok config-files
Version: 1

Package: held
Status: hold ok installed
Version: 2:1.0

Package: half
Status: install ok half-configured
Version: 3
`},
			[]string{"dpkg curl 7.88.1-10+deb12u8", "dpkg held 2:1.0"},
		},
		{
			"Distroless",
			map[string]string{
				"var/lib/dpkg/status.d/base":          "Package: base-files\nVersion: 12.4\n",
				"var/lib/dpkg/status.d/base.md5sums":  "Package: no\nVersion: 1\n",
				"var/lib/dpkg/status.d/linked":        "-> /etc/hostname",
				"var/lib/dpkg/status.d/folder/nested": "Package: no\nVersion: 1\n",
			},
			[]string{"dpkg base-files 12.4"},
		},
		{
			"apk",
			map[string]string{"lib/apk/db/installed": "C:Q1a=\nP:musl\nV:1.2.5-r0\nA:x86_64\nT:the musl c library\nF:lib\nR:ld-musl.so\n\nC:Q1b=\nP:busybox\nV:1.36.1-r29\n\n"},
			[]string{"apk busybox 1.36.1-r29", "apk musl 1.2.5-r0"},
		},
		{
			"apk in usr",
			map[string]string{"lib": "-> usr/lib", "usr/lib/apk/db/installed": "P:musl\nV:1.2.5-r0\n"},
			[]string{"apk musl 1.2.5-r0"},
		},
		{
			"pip",
			map[string]string{
				"usr/lib/python3/dist-packages/PyYAML-6.0.dist-info/METADATA":                   "Metadata-Version: 2.1\nName: PyYAML\nVersion: 6.0\n\nName: readme\nVersion: 7\n",
				"home/user/.venv/lib/python3.11/site-packages/requests-2.31.dist-info/METADATA": "Name: requests\nVersion: 2.31\n",
				"srv/other-1.dist-info/METADATA":                                                "Name: other\nVersion: 1\n",
				"opt/site-packages/none.dist-info/RECORD":                                       "",
			},
			[]string{"pip PyYAML 6.0", "pip requests 2.31"},
		},
		{
			"npm",
			map[string]string{
				"usr/lib/node_modules/npm/package.json":                       `{"name": "npm", "version": "10.2.0", "dependencies": {}}`,
				"usr/lib/node_modules/npm/node_modules/nested/package.json":   `{"name": "nested", "version": "1.0.0"}`,
				"usr/lib/node_modules/npm/lib/package.json":                   `{"name": "inner", "version": "1.0.0"}`,
				"app/node_modules/@scope/pkg/package.json":                    `{"name": "@scope/pkg", "version": "0.1.0"}`,
				"app/node_modules/@scope/pkg/dist/package.json":               `{"name": "inner", "version": "1.0.0"}`,
				"app/node_modules/.bin/package.json":                          `{"name": "bin", "version": "1.0.0"}`,
				"app/node_modules/broken/package.json":                        `{"name": "broken"`,
				"app/node_modules/odd/package.json":                           `{"name": 7}`,
				"app/package.json":                                            `{"name": "app", "version": "1.0.0"}`,
				"app/node_modules/linked/package.json":                        "-> ../../package.json",
				"app/node_modules/.pnpm/a@1/node_modules/stored/package.json": `{"name": "stored", "version": "1.0.0"}`,
			},
			[]string{"npm @scope/pkg 0.1.0", "npm app 1.0.0", "npm npm 10.2.0"},
		},
		{
			"twice, and from several managers",
			map[string]string{
				"a/site-packages/x.dist-info/METADATA": "Name: x\nVersion: 1\n",
				"b/site-packages/x.dist-info/METADATA": "Name: x\nVersion: 1\n",
				"c/site-packages/x.dist-info/METADATA": "Name: x\nVersion: 2\n",
				"d/node_modules/x/package.json":        `{"name": "x", "version": "1"}`,
			},
			[]string{"npm x 1", "pip x 1", "pip x 2"},
		},
		{
			"names that cannot be shown",
			map[string]string{
				"a/node_modules/a/package.json": `{"name": "a\u0007", "version": "1"}`,
				"a/node_modules/b/package.json": `{"name": "b", "version": "` + strings.Repeat("1", 300) + `"}`,
				"a/node_modules/c/package.json": `{"version": "1"}`,
				"lib/apk/db/installed":          "P:\xff\xfe\nV:1\n\nP:ok\nV:\n\nP:  \nV:1\n",
			},
			[]string{"apk ok "},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, lines(read(t, plant(t, test.files)))); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
		})
	}
}

// What dpkg itself says of the packages of this machine is what we read.
func TestDpkgAgrees(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "installed "); ok {
			want = append(want, "dpkg "+rest)
		}
	}
	status, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		t.Fatal(err)
	}
	got := lines(read(t, plant(t, map[string]string{"var/lib/dpkg/status": string(status)})))
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(slices.Compact(want), got); diff != "" || len(got) < 50 {
		t.Errorf("%d packages (-dpkg-query +Read):\n%s", len(got), diff)
	}
}

// A database that rpm 4.18 made; testdata/README says how.
func TestRPM(t *testing.T) {
	f, err := os.Open("testdata/rpmdb.sqlite.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"rpm plain 1.0-1", "rpm with-epoch 3:2.5-4.el9"}
	for _, where := range []string{"var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite"} {
		if diff := cmp.Diff(want, lines(read(t, plant(t, map[string]string{where: string(b)})))); diff != "" {
			t.Errorf("packages (-want +got):\n%s", diff)
		}
	}
	// Bits that are turned over change what is found, and nothing else.
	for i := 0; i < len(b); i += 97 {
		bad := slices.Clone(b)
		bad[i] ^= 0xff
		if n := len(lines(read(t, plant(t, map[string]string{"var/lib/rpm/rpmdb.sqlite": string(bad)})))); n > 100 {
			t.Errorf("%d packages with byte %d changed", n, i)
		}
	}
	for _, n := range []int{0, 50, 100, 4096, len(b) / 2} {
		read(t, plant(t, map[string]string{"var/lib/rpm/rpmdb.sqlite": string(b[:n])}))
	}
}

// A schema may not make us compute for ever.
func TestRPMHostile(t *testing.T) {
	for name, script := range map[string]string{
		"view":  `CREATE VIEW Packages AS WITH RECURSIVE r(blob) AS (SELECT x'00' UNION ALL SELECT blob FROM r) SELECT blob FROM r;`,
		"none":  `CREATE TABLE Other (blob);`,
		"text":  `CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB); INSERT INTO Packages VALUES (1, 'text'), (2, 7), (3, NULL), (4, zeroblob(20000000));`,
		"other": `CREATE TABLE Packages (hnum);`,
	} {
		path := filepath.Join(t.TempDir(), "db")
		db, err := sql.Open("sqlite", path)
		if err == nil {
			_, err = db.ExecContext(t.Context(), script)
		}
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		got := read(t, plant(t, map[string]string{"var/lib/rpm/rpmdb.sqlite": string(b)}))
		if took := time.Since(started); len(got.Packages) != 0 || took > 10*time.Second {
			t.Errorf("%s: %d packages after %v", name, len(got.Packages), took)
		}
	}
}

func TestDistribution(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"none":          {nil, ""},
		"pretty":        {map[string]string{"etc/os-release": "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"}, "Debian GNU/Linux 12 (bookworm)"},
		"linked":        {map[string]string{"etc/os-release": "-> ../usr/lib/os-release", "usr/lib/os-release": "PRETTY_NAME='Alpine Linux v3.20'\n"}, "Alpine Linux v3.20"},
		"plain":         {map[string]string{"usr/lib/os-release": "NAME=Thing\nVERSION=2\n# comment\n"}, "Thing 2"},
		"linked out":    {map[string]string{"etc/os-release": "-> /usr/lib/os-release"}, ""},
		"climbing out":  {map[string]string{"etc/os-release": "-> ../../../../../../../../../../etc/os-release"}, ""},
		"in circles":    {map[string]string{"etc/os-release": "-> ../usr/lib/os-release", "usr/lib/os-release": "-> ../../etc/os-release"}, ""},
		"too long":      {map[string]string{"etc/os-release": "PRETTY_NAME=" + strings.Repeat("x", 300) + "\n"}, ""},
		"with controls": {map[string]string{"etc/os-release": "PRETTY_NAME=a\x1b[31mb\n"}, ""},
		"too large":     {map[string]string{"etc/os-release": "PRETTY_NAME=x\n" + strings.Repeat("\n", 300<<10)}, ""},
	} {
		if got := read(t, plant(t, test.files)).Distribution; got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestBytes(t *testing.T) {
	dir := plant(t, map[string]string{"a": "1234", "d/b": "123456", "d/e/c": "", "link": "-> a", "out": "-> /etc"})
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "d/again")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir).Bytes; got != 10 {
		t.Errorf("%d bytes, want 10", got)
	}
}

// Nothing in a tree keeps a reader busy, leads it out or ends it.
func TestHostileTree(t *testing.T) {
	dir := plant(t, map[string]string{
		"var/lib/apk": "", "lib": "-> /lib", "usr/lib/apk/db/installed": "P:" + strings.Repeat("x", 1<<20) + "\nV:1\n\nP:fine\nV:1\n",
		"loop": "-> loop", "up": "-> ..", "app/node_modules": "-> /usr/lib/node_modules",
	})
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "var/lib/dpkg"), 0o755), unix.Mkfifo(filepath.Join(dir, "var/lib/dpkg/status"), 0o644)); err != nil {
		t.Fatal(err)
	}
	deep := dir
	for range 300 {
		deep = filepath.Join(deep, "d")
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(deep, "file"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan soulbox.BuildFacts, 1)
	go func() { done <- read(t, dir) }()
	select {
	case got := <-done:
		if diff := cmp.Diff([]string{"apk fine 1"}, lines(got), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("packages (-want +got):\n%s", diff)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Read does not return")
	}
	if _, err := facts.Read(t.Context(), filepath.Join(dir, "none")); err == nil {
		t.Error("Read of a tree that is not there succeeds")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := facts.Read(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("Read after cancel: %v", err)
	}
}

func TestManyPackages(t *testing.T) {
	var b strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&b, "P:p%d\nV:1\n\n", i)
	}
	if n := len(read(t, plant(t, map[string]string{"lib/apk/db/installed": b.String()})).Packages); n != 50_000 {
		t.Errorf("%d packages, want 50000", n)
	}
}
