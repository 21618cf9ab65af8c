package templates_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// network is for benchmarks: nobody routes it, and no server chooses it, such as
// those of other tests that run at the same time.
const network = "198.18.0.0/16"

// built waits until a template of the house is ready and says what it is, and
// returns its only version.
func built(t *testing.T, c *client.Client, name string) *soulbox.Build {
	t.Helper()
	for deadline := time.Now().Add(6 * time.Minute); ; time.Sleep(250 * time.Millisecond) {
		tpl, err := c.Templates.Get(t.Context(), name)
		if err != nil && soulbox.KindOf(err) != soulbox.NotFound {
			t.Fatal(err)
		}
		if err == nil && tpl.Build != "" && tpl.Listing != nil && tpl.Listing.Description != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not built: %+v, %v", name, tpl, err)
		}
	}
	var only *soulbox.Build
	for b, err := range c.Templates.Builds(t.Context(), name) {
		if err != nil || only != nil {
			t.Fatalf("builds of %s: %+v, %+v, %v; want one", name, only, b, err)
		}
		only = b
	}
	return only
}

// TestHouseBuilt has the server build the templates that it brings along, dies in the
// middle of the first, and uses each for what it is for.
func TestHouseBuilt(t *testing.T) {
	s := servertest.New(t)
	s.Network = network
	s.Settings = "templates: [python, node, go, httpbin]\n"
	s.Arm(t, "build/recorded")
	err := s.TryStart()
	if err == nil {
		err = s.WaitEnd()
	}
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the server ended with %v, want killed at the step", err)
	}
	s.Arm(t, "")
	s.Start(t)
	url, key := s.Credentials(t)
	c, err := client.New(client.Options{APIURL: url, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}

	for _, tt := range []struct{ name, command, want string }{
		{
			"python",
			`python -m venv v && . v/bin/activate && pip --version && python -c 'print(sum(range(10)))' && ` +
				`echo '#include <Python.h>' | gcc -c -x c -o x.o $(python3-config --includes) - && ls x.o`,
			`^pip \d+.* from /home/user/v/lib/.*\(python 3\.\d+\)\n45\nx\.o\n$`,
		},
		{"node", `node --version && npm --version && node -e 'console.log(6 * 7)' && npm init -y >/dev/null && npm pkg get name`, `^v\d+\.\d+\.\d+\n\d+\.\d+\.\d+\n42\n"user"\n$`},
		{
			"go",
			`go version && mkdir hello && cd hello && go mod init hello 2>/dev/null && printf 'package main\n\nfunc main() { println("hello from", "Go") }\n' >main.go && ` +
				`go build && ./hello 2>&1 && git --version`,
			`^go version go1\.\d+\.\d+ linux/\w+\nhello from Go\ngit version .*\n$`,
		},
	} {
		b := built(t, c, tt.name)
		size(t, s, c, tt.name, b)
		sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: tt.name, Timeout: time.Hour})
		if err != nil {
			t.Fatalf("create of %s: %v", tt.name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		began := time.Now()
		res, err := sb.Run(ctx, tt.command, client.RunOptions{})
		cancel()
		if err != nil || !regexp.MustCompile(tt.want).MatchString(res.Stdout) {
			t.Errorf("in a sandbox of %s: %v\n%s%s", tt.name, err, res.Stdout, res.Stderr)
		}
		t.Logf("%s: the commands took %v and said:\n%s", tt.name, time.Since(began).Round(time.Millisecond), res.Stdout)
		if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
			t.Error(err)
		}
	}

	size(t, s, c, "httpbin", built(t, c, "httpbin"))
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: "httpbin", Timeout: time.Hour})
	if err != nil {
		t.Fatalf("create of httpbin: %v", err)
	}
	began := time.Now()
	answer := ask(t, url+"/get?a=b", sb.ID) // the first request of all
	t.Logf("httpbin: the first answer took %v: %s", time.Since(began).Round(time.Microsecond), answer)
	var got struct {
		Args    map[string]string
		Headers map[string]string
	}
	if err := json.Unmarshal(answer, &got); err != nil || got.Args["a"] != "b" || got.Headers["X-Asked"] != "yes" {
		t.Errorf("it answers %s, %v", answer, err)
	}
	if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
		t.Error(err)
	}
	found := 0
	for tpl, err := range c.Templates.Search(t.Context(), client.SearchOptions{Category: "web"}) {
		if found++; err != nil || tpl.Name != "httpbin" {
			t.Errorf("in the category web is %+v, %v", tpl, err)
		}
	}
	if found != 1 {
		t.Errorf("%d templates are in the category web, want httpbin", found)
	}
	s.Stop(t)
	s.WantNothingLeft(t)
	for pattern, want := range map[string]int{"images/*.erofs": 5, "snapshots/s*": 1, "builds/*-*": 4, "work/*": 0} {
		if all, err := filepath.Glob(filepath.Join(s.Data, pattern)); err != nil || len(all) != want {
			t.Errorf("%s: %v, %v; want %d", pattern, all, err, want)
		}
	}
}

// ask sends a request to port 8080 of a sandbox, as E2B's clients do, and returns
// the answer, which must be good.
func ask(t *testing.T, url, id string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("E2b-Sandbox-Id", id)
	req.Header.Set("E2b-Sandbox-Port", "8080")
	req.Header.Set("X-Asked", "yes")
	res, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %d: %s, %v", url, res.StatusCode, b, err)
	}
	return b
}

// size prints the figures of docs/templates.md.
func size(t *testing.T, s *servertest.Server, c *client.Client, name string, b *soulbox.Build) {
	t.Helper()
	facts, err := c.Templates.Facts(t.Context(), name, "")
	if err != nil {
		t.Fatal(err)
	}
	if facts.Version.String() != "1.0.0" || !strings.HasPrefix(facts.Facts.Base, "base@") {
		t.Errorf("%s is version %s on %q", name, facts.Version, facts.Facts.Base)
	}
	image, err := os.Stat(filepath.Join(s.Data, "images", facts.Image+".erofs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: built in %v; %d packages, files of %d MiB, an image of %d MiB", name, b.EndedAt.Sub(b.StartedAt).Round(100*time.Millisecond),
		len(facts.Facts.Packages), facts.Facts.Bytes/soulbox.MiB, image.Size()>>20)
}
