package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// A yard is a folder that templates are built of, and the way to a server.
type yard struct {
	*client.Client

	t      *testing.T
	dir    string
	server *servertest.Server
}

// write makes files of names and texts in turn.
func (y *yard) write(files ...string) {
	y.t.Helper()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(y.dir, files[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			y.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(files[i+1]), 0o644); err != nil {
			y.t.Fatal(err)
		}
	}
}

// build builds the folder to its end, and returns the build and what it said.
func (y *yard) build(name string, o client.BuildOptions) (b *soulbox.Build, said string) {
	y.t.Helper()
	ctx, cancel := context.WithTimeout(y.t.Context(), 5*time.Minute)
	defer cancel()
	o.Dir = y.dir
	started, err := y.Templates.Build(ctx, name, o)
	if err != nil {
		y.t.Fatalf("Build of %s: %v", name, err)
	}
	var log strings.Builder
	b, err = y.Templates.Wait(ctx, started.Template.ID, string(started.Build.ID), func(l soulbox.BuildLine) {
		log.WriteString(l.Step + "|" + l.Message + "\n")
	})
	if b == nil {
		y.t.Fatalf("Wait for %s: %v\n%s", name, err, &log)
	}
	return b, log.String()
}

// in runs a command in a new sandbox of a template.
func (y *yard) in(template, command string) string {
	y.t.Helper()
	box, err := y.Sandboxes.Create(y.t.Context(), client.CreateOptions{Template: template})
	if err != nil {
		y.t.Fatalf("Create of %s: %v", template, err)
	}
	defer box.Kill(context.WithoutCancel(y.t.Context()))
	got, err := box.Run(y.t.Context(), command, client.RunOptions{})
	if err != nil {
		y.t.Errorf("in a sandbox of %s, %q: %v\n%s", template, command, err, got.Stdout)
	}
	return got.Stdout
}

// TestTemplate is the worked example of docs/templates.md: a Dockerfile becomes
// a server that runs in every sandbox from the beginning, then another version,
// and back.
func TestTemplate(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	url, key := s.Credentials(t)
	c, err := client.New(client.Options{APIURL: url, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	y := &yard{c, t, t.TempDir(), s}
	const dockerfile = "FROM base\nARG GREETING=hello\nENV GREETED=$GREETING\nWORKDIR /home/user/app\nCOPY . .\n" +
		"RUN --mount=type=secret,id=token grep -qx hus[h] /run/secrets/token && echo \"$GREETING from 1\" >greeting\nEXPOSE 8000\n"
	y.write("Dockerfile", dockerfile, ".dockerignore", "*.secret\nkeys", "a.secret", "must not be there", "keys/b", "must not be there", "public", "seen")
	start := client.BuildOptions{
		Start: "python3 -m http.server 8000", Ready: "curl -sf localhost:8000", Args: map[string]string{"GREETING": "good morning"}, Secrets: map[string][]byte{"token": []byte("hush")},
	}
	first, said := y.build("hello", start)
	if first.State != soulbox.BuildReady || first.Version.String() != "1.0.0" {
		t.Fatalf("the first build: %+v, %+v\n%s", first, first.Failure, said)
	}
	if strings.Contains(said, "hush") {
		t.Errorf("the log tells the secret:\n%s", said)
	}
	if got := y.in("hello", "curl -s localhost:8000/greeting; ls; pwd"); got != "good morning from 1\nDockerfile\ngreeting\npublic\n/home/user/app\n" {
		t.Errorf("a sandbox of the first version has %q", got)
	}
	facts, err := c.Templates.Facts(t.Context(), "hello", "")
	if err != nil {
		t.Fatal(err)
	}
	if f := facts.Facts; len(f.Packages) < 20 || f.Distribution == "" || f.Base == "" || len(f.Ports) != 1 || f.Ports[0] != "8000/tcp" || f.Bytes < soulbox.MiB ||
		facts.Env["GREETED"] != "good morning" || facts.User != "user" || facts.Workdir != "/home/user/app" {
		t.Errorf("what was found out: base %q, distribution %q, %d packages, ports %q, %d bytes, env %q, user %q, workdir %q",
			f.Base, f.Distribution, len(f.Packages), f.Ports, f.Bytes, facts.Env, facts.User, facts.Workdir)
	}

	// A late step that changes: the others are known.
	y.write("Dockerfile", strings.Replace(dockerfile, "from 1", "from 2", 1))
	second, said := y.build("hello", start)
	if second.State != soulbox.BuildReady || second.Version.String() != "1.0.1" || !strings.Contains(said, "CACHED") {
		t.Fatalf("the second build: %+v, %+v\n%s", second, second.Failure, said)
	}
	if got := y.in("hello@^1", "curl -s localhost:8000/greeting"); got != "good morning from 2\n" {
		t.Errorf("a sandbox of the second version says %q", got)
	}
	d, err := c.Templates.Diff(t.Context(), "hello", "1.0.0", "1.0.1")
	if err != nil || d.Bump != soulbox.Patch || len(d.Packages) != 0 || !strings.Contains(d.Recipe, "from 2") {
		t.Errorf("what differs: %+v, %v", d, err)
	}
	if back, err := c.Templates.Rollback(t.Context(), "hello", ""); err != nil || back.Version != first.Version || !back.Started {
		t.Errorf("Rollback = %+v, %v", back, err)
	}
	if got := y.in("hello", "curl -s localhost:8000/greeting"); got != "good morning from 1\n" {
		t.Errorf("a sandbox after the rollback says %q", got)
	}
	if got := y.in("hello:"+string(second.ID), "curl -s localhost:8000/greeting"); got != "good morning from 2\n" {
		t.Errorf("a sandbox of the second build says %q", got)
	}

	// What comes to nothing.
	y.write("Dockerfile", "FROM base\nRUN true\nRUN echo so much >&2; exit 3\nRUN true\n")
	broken, said := y.build("hello", client.BuildOptions{})
	if broken.State != soulbox.BuildFailed || broken.Failure == nil || broken.Failure.Step != 2 || !strings.Contains(said, "so much") {
		t.Errorf("a step that fails: %+v, %+v\n%s", broken, broken.Failure, said)
	}
	y.write("Dockerfile", "FROM base\n")
	unready, said := y.build("hello", client.BuildOptions{Start: "exit 3"})
	if unready.State != soulbox.BuildFailed || unready.Failure == nil || !unready.Failure.Finish {
		t.Errorf("a start command that ends: %+v, %+v\n%s", unready, unready.Failure, said)
	}
	y.write("Dockerfile", "FROM base\nRUN sleep 600\n")
	started, err := c.Templates.Build(t.Context(), "hello", client.BuildOptions{Dir: y.dir})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range c.Templates.Watch(t.Context(), "hello", string(started.Build.ID), client.EventsOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(e.Line.Message, "RUN sleep 600") {
			break
		}
	}
	began := time.Now()
	cancelled, err := c.Templates.CancelBuild(t.Context(), "hello", string(started.Build.ID))
	if err != nil || cancelled.State != soulbox.BuildFailed || time.Since(began) > 30*time.Second {
		t.Errorf("CancelBuild = %+v, %v after %v", cancelled, err, time.Since(began))
	}
	if got, err := c.Templates.Get(t.Context(), "hello"); err != nil || got.Version != first.Version {
		t.Errorf("after all that the template is %+v, %v", got, err)
	}
	y.commandLine()
}

// commandLine does it again with the program that people have.
func (y *yard) commandLine() {
	y.t.Helper()
	soulboxIn := func(dir string, args ...string) string {
		y.t.Helper()
		cmd := exec.CommandContext(y.t.Context(), y.server.Binary, args...)
		url, key := y.server.Credentials(y.t)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "E2B_API_URL="+url, "E2B_API_KEY="+key)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			y.t.Fatalf("soulbox %v: %v\n%s%s", args, err, out, &stderr)
		}
		return string(out)
	}
	dir := filepath.Join(y.dir, "new")
	soulboxIn(y.dir, "template", "init", "new", "--starter", "python")
	// Its base image is at a registry that the test does not ask.
	text, err := os.ReadFile(filepath.Join(dir, "Dockerfile"))
	if err != nil {
		y.t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	lines[0] = "FROM base"
	kept := lines[:0]
	for _, l := range lines {
		if !strings.HasPrefix(l, "RUN apt-get") {
			kept = append(kept, l)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(strings.Join(kept, "\n")), 0o644); err != nil {
		y.t.Fatal(err)
	}
	if got := soulboxIn(dir, "template", "validate"); strings.Contains(got, "error") {
		y.t.Errorf("soulbox template validate: %s", got)
	}
	got := soulboxIn(dir, "template", "build", "-t", "starter", "--watch", "--start", "python3 server.py", "--ready", "curl -sf localhost:8000")
	if got != "starter@1.0.0\n" {
		y.t.Errorf("soulbox template build --watch: %q", got)
	}
	if got := soulboxIn(dir, "run", "-t", "starter", "--", "curl", "-s", "localhost:8000"); got != "hello from Python\n" {
		y.t.Errorf("a sandbox of the starter says %q", got)
	}
	var doc struct {
		Version  string `json:"spdxVersion"`
		Packages []any  `json:"packages"`
	}
	if err := json.Unmarshal([]byte(soulboxIn(dir, "template", "info", "starter", "--sbom")), &doc); err != nil || doc.Version != "SPDX-2.3" || len(doc.Packages) < 20 {
		y.t.Errorf("its SBOM has version %q and %d packages, %v", doc.Version, len(doc.Packages), err)
	}
	if got := soulboxIn(dir, "template", "info", "starter"); !strings.Contains(got, "\nversion 1.0.0\t") || !strings.Contains(got, "workdir\t/home/user/app") {
		y.t.Errorf("soulbox template info: %s", got)
	}
	soulboxIn(dir, "template", "rm", "starter")
}
