package buildkit_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

func run(args ...string) soulbox.Step     { return soulbox.Step{Kind: soulbox.StepRun, Args: args} }
func env(args ...string) soulbox.Step     { return soulbox.Step{Kind: soulbox.StepEnv, Args: args} }
func workdir(args ...string) soulbox.Step { return soulbox.Step{Kind: soulbox.StepWorkdir, Args: args} }

func user(args ...string) soulbox.Step { return soulbox.Step{Kind: soulbox.StepUser, Args: args} }

func copies(args ...string) soulbox.Step {
	return soulbox.Step{Kind: soulbox.StepCopy, Args: args, Files: "up"}
}

// steps returns a job of steps on the bench's image, with files to copy.
func (b *bench) steps(t *testing.T, steps ...soulbox.Step) buildkit.Job {
	t.Helper()
	up := t.TempDir()
	write(t, up, "file", "F")
	write(t, up, "app/main.py", "print()")
	write(t, up, "app/lib/x.py", "x")
	write(t, up, "more.txt", "M")
	check(os.Mkdir(filepath.Join(up, "links"), 0o755))
	check(os.Symlink("/etc/shadow", filepath.Join(up, "links/link")))
	check(os.Symlink("nowhere", filepath.Join(up, "links/dangling")))
	matched := t.TempDir() // what a client sends for a pattern
	write(t, matched, "some/more.txt", "M")
	write(t, matched, "some/deep/er.txt", "D")
	check(os.Symlink("nowhere", filepath.Join(matched, "some/dangling")))
	j := job(soulbox.Recipe{Image: b.base, Steps: steps})
	j.Uploads = func(_ context.Context, hash string) (string, error) {
		dir, ok := map[string]string{"up": up, "matched": matched}[hash]
		if !ok {
			return "", soulbox.Errorf(soulbox.NotFound, "there is no upload %s", hash)
		}
		return dir, nil
	}
	return j
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	check(os.MkdirAll(filepath.Dir(path), 0o755))
	check(os.WriteFile(path, []byte(text), 0o644))
}

func stat(t *testing.T, dir, name string) syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return st
}

// Every kind of step does what E2B's does.
func TestSteps(t *testing.T) {
	b := newBench(t)
	r := b.build(t.Context(), t, b.steps(t,
		run("whoami >who; pwd >where; echo $HOME >home; shopt -q login_shell && echo login >login"),
		env("A", "1", "B", "${A}2", "C", `$(whoami) \$A $NOTHING!`, "P", "$PATH:/x"),
		run("echo \"$B $C\" >env"),
		workdir("/srv/app"),
		run("pwd >where"),
		workdir("sub"),
		run("pwd >where; echo to stdout; echo to stderr >&2"),
		run("id -un >/asroot", "root"),
		user("builder", "true"),
		run("whoami >/tmp/who2"),
		copies("file", "/home/builder/file"),
		copies("app", "/srv/code/", "www-data", "0755"),
		soulbox.Step{Kind: soulbox.StepCopy, Args: []string{"some/{*.txt,d*}", "/srv/texts"}, Files: "matched"},
		copies("file", "relative", "root:www-data"),
		copies("links", "/srv/links"),
		copies("links/link", "/srv/alone"),
		copies("file", "/srv/shut/away", "root", "0600"),
		copies("app", "/srv/open/app", "root", "0700"),
		run("cat /srv/code/main.py >/tmp/code"),
	))
	if r.err != nil {
		t.Fatal(r.err)
	}
	dir := b.tree(t, r)
	for name, want := range map[string]string{
		"home/user/who": "user", "home/user/where": "/home/user", "home/user/home": "/home/user", "home/user/login": "login",
		"home/user/env": "12 $(whoami) $A !", "srv/app/where": "/srv/app", "srv/app/sub/where": "/srv/app/sub",
		"asroot": "root", "tmp/who2": "builder", "home/builder/file": "F", "srv/code/main.py": "print()", "srv/code/lib/x.py": "x",
		"srv/texts/more.txt": "M", "srv/texts/deep/er.txt": "D", "srv/app/sub/relative": "F", "tmp/code": "print()",
	} {
		if got := read(t, dir, name); got != want {
			t.Errorf("/%s is %q, want %q", name, got, want)
		}
	}
	passwd := read(t, dir, "etc/passwd")
	if !strings.Contains(passwd, "user:x:1000:1000:") || !strings.Contains(passwd, "builder:x:1001:1001:") {
		t.Errorf("/etc/passwd is\n%s", passwd)
	}
	for name, want := range map[string][3]uint32{
		"srv/app": {1000, 1000, 0o755}, "srv/app/sub": {1000, 1000, 0o755}, "home/builder/file": {1001, 1001, 0o644},
		"srv/code/main.py": {33, 33, 0o755}, "srv/texts/more.txt": {1001, 1001, 0o644}, "srv/app/sub/relative": {0, 33, 0o644},
		"srv/shut": {0, 0, 0o755}, "srv/shut/away": {0, 0, 0o600}, "srv/open": {0, 0, 0o755}, "srv/open/app/lib": {0, 0, 0o700},
		"home/user": {1000, 1000, 0o755}, "home/builder": {1001, 1001, 0o755},
	} {
		if st := stat(t, dir, name); st.Uid != want[0] || st.Gid != want[1] || st.Mode&0o7777 != want[2] {
			t.Errorf("/%s is %d:%d %o, want %d:%d %o", name, st.Uid, st.Gid, st.Mode&0o7777, want[0], want[1], want[2])
		}
	}
	for name, want := range map[string]string{
		"srv/links/link": "/etc/shadow", "srv/links/dangling": "nowhere", "srv/alone": "/etc/shadow", "srv/texts/dangling": "nowhere",
	} {
		if to, err := os.Readlink(filepath.Join(dir, name)); err != nil || to != want {
			t.Errorf("the link %s leads to %q, %v; want %q", name, to, err, want)
		}
	}
	if r.User != "builder" || r.Workdir != "/srv/app/sub" || r.Env["B"] != "12" || r.Env["FROM_IMAGE"] != "yes" || r.Env["P"] != "/usr/local/bin:/usr/bin:/bin:/x" {
		t.Errorf("user %q, workdir %q, env %v", r.User, r.Workdir, r.Env)
	}
	if !strings.HasPrefix(r.Facts.Base, b.base+"@sha256:") {
		t.Errorf("base is %q", r.Facts.Base)
	}
	r.wantSaid(t, "[base] FROM "+b.base, "[builder 1/19] RUN whoami", "[builder 7/19] [stdout]: to stdout", "[builder 7/19] [stderr]: to stderr",
		"[builder 12/19] COPY app /srv/code/", "[finalize] packing")
	for _, l := range r.lines {
		if strings.Contains(l.Message, "to stdout") && strings.Contains(l.Message, "[stdout]") && l.Step != "7" {
			t.Errorf("output of step 7 is of step %q", l.Step)
		}
	}
}

// A failure names the step as the client counts, in E2B's words.
func TestFailingStep(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		name    string
		steps   []soulbox.Step
		step    int
		message string
	}{
		{"exit", []soulbox.Step{run("true"), env("A", "1"), run("exit 7"), run("true")}, 3, "failed to run command 'exit 7': command failed: exit status 7"},
		{"unknown_user", []soulbox.Step{run("true"), run("whoami", "root123")}, 2, "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'"},
		{"no_file", []soulbox.Step{copies("nothing", "/x")}, 1, "failed to copy 'nothing' to '/x'"},
		{"no_upload", []soulbox.Step{run("true"), {Kind: soulbox.StepCopy, Args: []string{"a", "b"}, Files: "other"}}, 2, "there is no upload other"},
		{"killed", []soulbox.Step{run("kill -9 $$")}, 1, "exit status 137"},
		{"workdir_on_file", []soulbox.Step{run("touch /tmp/file"), workdir("/tmp/file/x")}, 2, "WORKDIR /tmp/file/x"},
		{"bad_step", []soulbox.Step{run("true"), {Kind: "EXPOSE", Args: []string{"80"}}}, 2, "there is no step"},
		{"bad_env", []soulbox.Step{env("A")}, 1, "in pairs"},
		{"bad_user", []soulbox.Step{user("Robert'); DROP")}, 1, "cannot be a user"},
		{"bad_mode", []soulbox.Step{copies("file", "/x", "", "9")}, 1, "octal"},
		{"nul", []soulbox.Step{run("a\x00b")}, 1, "NUL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := b.build(t.Context(), t, b.steps(t, tt.steps...))
			r.wantFailure(t, tt.step, tt.message)
		})
	}
	j := b.steps(t)
	j.Recipe.Image = b.registry + "/nothing:1"
	r := b.build(t.Context(), t, j)
	r.wantFailure(t, 0, "not found")
	j.Recipe.Image = "not an image"
	r = b.build(t.Context(), t, j)
	r.wantFailure(t, 0, "cannot be an image")
}

// A step that is forced, and what follows it, is built again.
func TestForcedStep(t *testing.T) {
	b := newBench(t)
	j := b.steps(t, run("echo 1"), run("echo 2"), run("echo 3"))
	b.build(t.Context(), t, j)
	j.Recipe.Steps[1].Force = true
	r := b.build(t.Context(), t, j)
	r.wantSaid(t, "CACHED [builder 1/3] RUN echo 1")
	if r.said("CACHED [builder 2/3]") || r.said("CACHED [builder 3/3]") || r.err != nil {
		t.Errorf("a forced step is cached: %v", r.err)
	}
}

// A template is built on, with what it has and says, also by a Dockerfile.
func TestOnTemplate(t *testing.T) {
	b := newBench(t)
	first := b.build(t.Context(), t, b.steps(t, env("MINE", "1"), user("app"), workdir("/app"), run("echo first >file; ln file other; ln -s file soft; chmod 4711 other")))
	if first.err != nil {
		t.Fatal(first.err)
	}
	tpl := &soulbox.Template{
		ID: "one", Name: "one", Image: first.Image, User: first.User, Workdir: first.Workdir, Env: maps.Clone(first.Env), Build: soulbox.NewBuildID(),
	}
	j := b.steps(t, run("whoami >who; echo $MINE >mine; pwd >where"))
	j.Recipe.Image, j.Recipe.Template, j.Base = "", "one", tpl
	r := b.build(t.Context(), t, j)
	if r.err != nil {
		t.Fatal(r.err)
	}
	dir := b.tree(t, r)
	for name, want := range map[string]string{"app/file": "first", "app/who": "app", "app/mine": "1", "app/where": "/app"} {
		if got := read(t, dir, name); got != want {
			t.Errorf("/%s is %q, want %q", name, got, want)
		}
	}
	if a, z := stat(t, dir, "app/file"), stat(t, dir, "app/other"); a.Ino != z.Ino || a.Mode&0o7777 != 0o4711 || a.Uid != 1001 {
		t.Errorf("a file of two names became %+v and %+v", a, z)
	}
	if r.User != "app" || r.Workdir != "/app" || r.Env["MINE"] != "1" || r.Facts.Base != "one@"+string(tpl.Build) {
		t.Errorf("user %q, workdir %q, env %v, base %q", r.User, r.Workdir, r.Env, r.Facts.Base)
	}
	r.wantSaid(t, "[base] FROM one@"+string(tpl.Build))

	again := b.build(t.Context(), t, j)
	again.wantSaid(t, "CACHED [builder 1/1]")

	// Templates of the house say nothing about the path.
	delete(tpl.Env, "PATH")
	p := b.steps(t, env("PATH", "/app:$PATH"), run("whoami"))
	p.Recipe.Image, p.Recipe.Template, p.Base = "", "one", tpl
	if r := b.build(t.Context(), t, p); r.err != nil || r.Env["PATH"] != "/app:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" {
		t.Errorf("the path with something before it is %q, %v", r.Env["PATH"], r.err)
	}

	d := job(soulbox.Recipe{Dockerfile: "FROM one AS x\nRUN whoami >who\nFROM x\nCOPY --from=team/one:v1 /app/file /copied\n"})
	names, err := buildkit.Bases(d.Recipe.Dockerfile, nil)
	if err != nil || strings.Join(names, " ") != "one team/one:v1" {
		t.Fatalf("Bases() = %q, %v", names, err)
	}
	d.Named = map[string]*soulbox.Template{"one": tpl, "team/one:v1": tpl}
	r = b.build(t.Context(), t, d)
	if r.err != nil {
		t.Fatal(r.err)
	}
	dir = b.tree(t, r)
	r.wantSaid(t, "[x 1/2] RUN whoami >who", "[stage-1 1/1] COPY")
	for _, l := range r.lines {
		if strings.Contains(l.Message, "[x 1/2] RUN") && l.Step != "1" {
			t.Errorf("the first step behind FROM is %q", l.Step)
		}
	}
	if got := read(t, dir, "app/who") + " " + read(t, dir, "copied"); got != "app first" {
		t.Errorf("from a Dockerfile: %q", got)
	}
	tpl2 := *tpl
	tpl2.Image = ""
	j.Base = &tpl2
	if r := b.build(t.Context(), t, j); soulbox.KindOf(r.err) != soulbox.Conflict {
		t.Errorf("on a template that is not ready: %v", r.err)
	}
}
