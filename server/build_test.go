package server_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// buildContext is a tar with a Dockerfile and a file.
func buildContext(t *testing.T, dockerfile, file string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{"Dockerfile": dockerfile, "file": file} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// page serves the file /srv/page on port 8000.
const (
	page      = `cd /srv && exec python3 -m http.server 8000`
	pageReady = `python3 -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:8000/page")'`
	lookAt    = `python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8000/page").read().decode())'`
)

// startBuild asks for a template of the base with a page in it that is served.
func startBuild(t *testing.T, c *client.Client, name, text string) (*client.StartedBuild, error) {
	t.Helper()
	return c.Templates.Build(t.Context(), name, client.BuildOptions{
		Context: buildContext(t, "FROM base\nCOPY file /srv/page\nRUN echo made of $(cat /srv/page) >/made\nEXPOSE 8000\n", text),
		Start:   page, Ready: pageReady,
	})
}

// build is startBuild that must succeed.
func build(t *testing.T, c *client.Client, name, text string) *client.StartedBuild {
	t.Helper()
	b, err := startBuild(t, c, name, text)
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	return b
}

// wait waits for a build that must be ready, and returns it with its log.
func wait(t *testing.T, c *client.Client, b *client.StartedBuild) (*soulbox.Build, string) {
	t.Helper()
	return waitFor(t, c, b.Template.ID, b.Build.ID)
}

func waitFor(t *testing.T, c *client.Client, template string, id soulbox.BuildID) (*soulbox.Build, string) {
	t.Helper()
	var log strings.Builder
	done, err := c.Templates.Wait(t.Context(), template, string(id), func(l soulbox.BuildLine) {
		fmt.Fprintf(&log, "%s|%s\n", l.Step, l.Message)
	})
	if err != nil {
		t.Fatalf("wait for build %s: %v\n%s", id, err, &log)
	}
	return done, log.String()
}

// onlyBuild returns the build of a template that has one.
func onlyBuild(t *testing.T, c *client.Client, name string) *soulbox.Build {
	t.Helper()
	var all []*soulbox.Build
	for b, err := range c.Templates.Builds(t.Context(), name) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	if len(all) != 1 {
		t.Fatalf("%s has %d builds, want one", name, len(all))
	}
	return all[0]
}

// wantKept compares what the data folder has of templates: so many images, so
// many snapshots, and the folders of so many builds.
func wantKept(t *testing.T, s *servertest.Server, images, snapshots, builds int) {
	t.Helper()
	for pattern, want := range map[string]int{
		"images/*.erofs": images, "snapshots/s*": snapshots, "builds/*-*": builds, "builds/*/secrets*": 0, "builds/uploads/*/*": 0, "work/*": 0,
	} {
		all, err := filepath.Glob(filepath.Join(s.Data, pattern))
		if err != nil || len(all) != want {
			t.Errorf("%s: %v, %v; want %d", pattern, all, err, want)
		}
	}
}

// A template from a Dockerfile on: built, started with what it serves, changed,
// compared, rolled back and removed.
func TestBuild(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	c := connect(t, s)
	b, log := wait(t, c, build(t, c, "app", "one"))
	if b.Version.String() != "1.0.0" || !strings.Contains(log, "RUN echo made of") || !strings.HasSuffix(log, "finalize|ready\n") {
		t.Errorf("version %s, log:\n%s", b.Version, log)
	}
	sandbox := func(template, want string) *client.Sandbox {
		t.Helper()
		sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: template, Timeout: time.Hour})
		if err != nil {
			t.Fatalf("create of %s: %v", template, err)
		}
		// It is served already: nobody waits for a start.
		if got := run(t, sb, lookAt+"; cat /made"); got != want+"\nmade of "+want+"\n" {
			t.Errorf("a sandbox of %s serves %q, want %q", template, got, want)
		}
		return sb
	}
	first := sandbox("app", "one")
	second, _ := wait(t, c, build(t, c, "app", "two"))
	if second.Version.String() != "1.0.1" {
		t.Errorf("the second version is %s", second.Version)
	}
	var all []*client.Sandbox
	for template, want := range map[string]string{"app": "two", "app@1.0.0": "one", "app:" + string(b.ID): "one", "app:default": "two"} {
		all = append(all, sandbox(template, want))
	}
	diff, err := c.Templates.Diff(t.Context(), "app", "1.0.0", "1.0.1")
	if err != nil || diff.Bump != soulbox.Patch || len(diff.Packages) != 0 {
		t.Errorf("Diff: %+v, %v", diff, err)
	}
	if _, err := c.Templates.Rollback(t.Context(), "app", ""); err != nil {
		t.Errorf("Rollback: %v", err)
	}
	all = append(all, sandbox("app", "one"))
	if got := run(t, first, lookAt); got != "one\n" {
		t.Errorf("the first sandbox serves %q after all that", got)
	}
	facts, err := c.Templates.Facts(t.Context(), "app", "")
	if err != nil || !strings.HasPrefix(facts.Facts.Distribution, "Debian GNU/Linux") || !slices.Equal(facts.Facts.Ports, []string{"8000/tcp"}) ||
		!slices.ContainsFunc(facts.Facts.Packages, func(p soulbox.Package) bool { return p.Manager == "dpkg" && p.Name == "bash" }) {
		t.Errorf("Facts: %+v, %v", facts, err)
	}

	if err := c.Templates.Delete(t.Context(), b2id(t, c, "app")); soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(err.Error(), "sandboxes that run or are paused") {
		t.Errorf("Delete with sandboxes: %v, want Invalid", err)
	}
	for _, sb := range append(all, first) {
		if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
			t.Error(err)
		}
	}
	if err := c.Templates.Delete(t.Context(), b2id(t, c, "app")); err != nil {
		t.Errorf("Delete: %v", err)
	}
	// The images go with the next sweep, which a build brings.
	if _, err := c.Templates.Build(t.Context(), "none", client.BuildOptions{Context: buildContext(t, "FROM base\nRUN exit 3\n", "")}); err != nil {
		t.Fatal(err)
	}
	failed := failing(t, c, "none")
	if failed.Failure.Step != 1 || !strings.Contains(failed.Failure.Message, "3") {
		t.Errorf("a build that fails says %+v", failed.Failure)
	}
	s.Stop(t)
	s.WantNothingLeft(t)
	wantKept(t, s, 1, 0, 1)
}

// b2id returns the id of a template.
func b2id(t *testing.T, c *client.Client, name string) string {
	t.Helper()
	tpl, err := c.Templates.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return tpl.ID
}

// failing waits for the only build of a template, which must fail.
func failing(t *testing.T, c *client.Client, name string) *soulbox.Build {
	t.Helper()
	b := onlyBuild(t, c, name)
	done, err := c.Templates.Wait(t.Context(), name, string(b.ID), nil)
	if _, ok := errors.AsType[*soulbox.BuildFailure](err); !ok {
		t.Fatalf("build %s: %+v, %v; want a failure", b.ID, done, err)
	}
	return done
}

// TestBuildKilledAtEachStep kills the server with SIGKILL in the middle of a
// build, alone, and starts it again: the build goes on to its end without
// anybody asking, and nothing is left of the first attempt.
func TestBuildKilledAtEachStep(t *testing.T) {
	t.Parallel()
	s := servertest.New(t)
	for _, step := range []string{
		"build/recorded", "build/solved", "build/packed", "bake/booted", "bake/ready", "bake/frozen", "bake/written", "build/baked", "build/finished",
	} {
		t.Run(step, func(t *testing.T) {
			s.Start(t)
			c := connect(t, s)
			s.Arm(t, step)
			// What it is asked for may be on record before the answer is sent.
			_, _ = startBuild(t, c, "app", step)
			if err := s.WaitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the server ended with %v, want killed at the step", err)
			}
			s.Arm(t, "")

			s.Start(t)
			c = connect(t, s)
			done, log := waitFor(t, c, "app", onlyBuild(t, c, "app").ID)
			if begun := strings.Count(log, "|building\n"); begun != map[bool]int{true: 1, false: 2}[step == "build/finished" || step == "build/recorded"] {
				t.Errorf("it was begun %d times:\n%s", begun, log)
			}
			sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: "app", Timeout: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			if got := run(t, sb, lookAt+"; cat /made"); got != step+"\nmade of "+step+"\n" {
				t.Errorf("it serves %q", got)
			}
			if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
				t.Error(err)
			}
			s.Stop(t)
			s.WantNothingLeft(t)
			wantKept(t, s, 2, 1, 1)
			if _, err := os.Stat(filepath.Join(s.Data, "builds", string(done.ID), "log.jsonl")); err != nil {
				t.Error(err)
			}

			s.Start(t)
			c = connect(t, s)
			if err := c.Templates.Delete(t.Context(), b2id(t, c, "app")); err != nil {
				t.Error(err)
			}
			s.Stop(t)
			s.Start(t) // sweeps
			if diff := cmp.Diff([]string{"base"}, templateNames(t, connect(t, s))); diff != "" {
				t.Errorf("templates (-want +got):\n%s", diff)
			}
			s.Stop(t)
			wantKept(t, s, 1, 0, 0)
		})
	}
}

func templateNames(t *testing.T, c *client.Client) []string {
	t.Helper()
	all, err := c.Templates.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tpl := range all {
		names = append(names, tpl.Name)
	}
	return names
}
