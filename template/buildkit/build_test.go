package buildkit_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

// What a Dockerfile says about the image is what comes out.
func TestDockerfile(t *testing.T) {
	b := newBench(t)
	r := b.dockerfile(t, `FROM BASE
LABEL a=b
ENV GREETING=hello
RUN echo $GREETING $FROM_IMAGE >/greeting && id -u >/uid
WORKDIR /srv/app
USER www-data
RUN id -un >/tmp/who && pwd >/tmp/where
EXPOSE 8080 53/udp
VOLUME /data
ENTRYPOINT ["server"]
CMD ["-v"]
`)
	dir := b.tree(t, r)
	for name, want := range map[string]string{"greeting": "hello yes", "uid": "0", "tmp/who": "www-data", "tmp/where": "/srv/app"} {
		if got := read(t, dir, name); got != want {
			t.Errorf("/%s is %q, want %q", name, got, want)
		}
	}
	if r.User != "www-data" || r.Workdir != "/srv/app" || r.Env["GREETING"] != "hello" || r.Env["FROM_IMAGE"] != "yes" {
		t.Errorf("user %q, workdir %q, env %v", r.User, r.Workdir, r.Env)
	}
	f := r.Facts
	if !slices.Equal(f.Ports, []string{"53/udp", "8080/tcp"}) || !slices.Equal(f.Volumes, []string{"/data"}) ||
		!slices.Equal(f.Entrypoint, []string{"server"}) || !slices.Equal(f.Command, []string{"-v"}) || !maps.Equal(f.Labels, map[string]string{"a": "b"}) {
		t.Errorf("facts %+v", f)
	}
	if !strings.HasPrefix(f.Base, b.base+"@sha256:") || f.Layers < 3 || f.Bytes == 0 {
		t.Errorf("base %q, %d layers, %d bytes", f.Base, f.Layers, f.Bytes)
	}
	for name := range r.Env {
		if strings.Contains(strings.ToLower(name), "proxy") || strings.HasPrefix(name, "OTEL") {
			t.Errorf("variable %s of ours is in the image", name)
		}
	}
	r = b.dockerfile(t, "FROM BASE\nRUN env >/env\n")
	if r.User != "user" || r.Workdir != "" {
		t.Errorf("without USER and WORKDIR it is %q in %q", r.User, r.Workdir)
	}
	if env := strings.ToLower(read(t, b.tree(t, r), "env")); strings.Contains(env, "ftp_proxy") || strings.Contains(env, "otel") || strings.Contains(env, "traceparent") {
		t.Errorf("a step sees variables of ours:\n%s", env)
	}
}

// What Dockerfiles can do besides.
func TestDockerfileFeatures(t *testing.T) {
	b := newBench(t)
	push(t, b.registry+"/onbuild:1", tools(t), func(c *v1.ConfigFile) {
		c.Config.OnBuild = []string{"RUN echo triggered >/onbuild"}
	})
	up := t.TempDir()
	write(t, up, "data/a", "A")
	write(t, up, "data/b.skip", "B")
	write(t, up, ".dockerignore", "**/*.skip\n")
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	check(w.WriteHeader(&tar.Header{Name: "inside", Mode: 0o600, Size: 1}))
	must(w.Write([]byte("T")))
	check(w.Close())
	write(t, up, "files.tar", packed.String())

	j := job(soulbox.Recipe{
		Context: "up", Args: map[string]string{"TAG": "1"},
		Dockerfile: b.fill(`# syntax=docker/dockerfile:1.7
ARG TAG
FROM REGISTRY/tools:${TAG} AS build
RUN mkdir /out && echo built >/out/file && ln -s file /out/link
FROM REGISTRY/onbuild:1 AS more
RUN echo more >/more
FROM BASE
COPY --from=build --chown=33:33 /out /from
COPY --from=more /onbuild /more /
COPY --chmod=0640 data /data
ADD files.tar /added/
RUN <<END
echo one >/heredoc
echo two >>/heredoc
END
COPY <<END /copied
text
END
RUN --mount=type=bind,from=build,source=/out,target=/mnt cat /mnt/file >/bound && ! touch /mnt/new
RUN --mount=type=bind,from=build,source=/out,target=/mnt,rw touch /mnt/new && ls /mnt >/listed
RUN --mount=type=cache,target=/cache echo x >>/cache/file && cat /cache/file >/cached
RUN --mount=type=secret,id=token cat /run/secrets/token | wc -c >/secret
RUN --mount=type=tmpfs,target=/scratch touch /scratch/file && ls /scratch >/scratched
RUN --network=none (exec 3<>/dev/tcp/203.0.113.2/80) 2>/dev/null && echo reached >/offline || echo refused >/offline
SHELL ["/bin/bash", "-e", "-c"]
HEALTHCHECK CMD true
RUN [[ -n $BASH_VERSION ]] && echo bash >/shell
`),
	})
	j.Uploads = func(context.Context, string) (string, error) { return up, nil }
	j.Secrets = map[string][]byte{"token": []byte("12345")}
	r := b.build(t.Context(), t, j)
	if r.err != nil {
		t.Fatal(r.err)
	}
	dir := b.tree(t, r)
	for name, want := range map[string]string{
		"from/file": "built", "onbuild": "triggered", "more": "more", "data/a": "A", "added/inside": "T", "heredoc": "one\ntwo",
		"copied": "text", "bound": "built", "listed": "file\nlink\nnew", "cached": "x", "secret": "5", "scratched": "file", "offline": "refused", "shell": "bash",
	} {
		if got := read(t, dir, name); got != want {
			t.Errorf("/%s is %q, want %q", name, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data/b.skip")); err == nil {
		t.Error(".dockerignore is ignored")
	}
	if st := stat(t, dir, "from/file"); st.Uid != 33 || st.Gid != 33 {
		t.Errorf("--chown gives %d:%d", st.Uid, st.Gid)
	}
	if st := stat(t, dir, "data/a"); st.Mode&0o777 != 0o640 {
		t.Errorf("--chmod gives %o", st.Mode)
	}
	for _, gone := range []string{"mnt/new", "cache/file", "scratch/file", "run/secrets/token"} {
		if _, err := os.Stat(filepath.Join(dir, gone)); err == nil {
			t.Errorf("/%s of a mount is in the image", gone)
		}
	}
	// A cache mount stays for the team, and is nobody else's.
	again := "FROM BASE\nRUN --mount=type=cache,target=/cache echo y >>/cache/file && cat /cache/file >/cached\n"
	if got := read(t, b.tree(t, b.dockerfile(t, again)), "cached"); got != "x\ny" {
		t.Errorf("the team's cache mount has %q", got)
	}
	other := job(soulbox.Recipe{Dockerfile: b.fill(again)})
	other.Team = "stranger"
	if got := read(t, b.tree(t, b.build(t.Context(), t, other)), "cached"); got != "y" {
		t.Errorf("a stranger's cache mount has %q", got)
	}
}

// A context may have links that lead anywhere. They are followed inside it, as
// Docker does it, or copied; what is there on this machine never comes along.
func TestLinksOutOfContext(t *testing.T) {
	b := newBench(t)
	outside := t.TempDir()
	write(t, outside, "secret", "of the machine")
	up := t.TempDir()
	write(t, up, "etc/inside", "of the context")
	for name, to := range map[string]string{
		"all/file": outside + "/secret", "all/folder": outside, "all/above": strings.Repeat("../", 20) + strings.TrimPrefix(outside, "/"),
		"file": outside + "/secret", "folder": outside, "inside": "/etc/inside",
	} {
		check(os.MkdirAll(filepath.Dir(filepath.Join(up, name)), 0o755))
		check(os.Symlink(to, filepath.Join(up, name)))
	}
	build := func(text string) built {
		j := job(soulbox.Recipe{Context: "up", Dockerfile: b.fill("FROM BASE\n" + text)})
		j.Uploads = func(context.Context, string) (string, error) { return up, nil }
		return b.build(t.Context(), t, j)
	}
	r := build("COPY all /all\nCOPY inside /copied\nCOPY f*/secret /matched/\nRUN ! cat /all/file /all/folder/secret /all/above/secret\n")
	if r.err != nil {
		t.Fatal(r.err)
	}
	dir := b.tree(t, r)
	if got := read(t, dir, "copied"); got != "of the context" {
		t.Errorf("what a link leads to in the context is %q", got)
	}
	if _, err := os.Lstat(filepath.Join(dir, "matched/secret")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a pattern matched what is behind a link out: %v", err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "all/file")); to != outside+"/secret" {
		t.Errorf("the copied link leads to %q, %v", to, err)
	}
	for _, text := range []string{
		"COPY file /x", "COPY folder/secret /x", "COPY all/above/secret /x", "ADD folder/secret /x",
	} {
		r := build(text)
		r.wantFailure(t, 1, "not found")
	}
	r = build("RUN --mount=type=bind,source=folder,target=/mnt cat /mnt/secret")
	r.wantFailure(t, 1, "")
	check(os.Symlink(outside+"/secret", filepath.Join(up, "Dockerfile.dockerignore")))
	if r = build("COPY all /all"); soulbox.KindOf(r.err) != soulbox.Invalid {
		t.Errorf("a .dockerignore that is a link out: %v, want Invalid", r.err)
	}
}

// Results of earlier builds are found again, by the team that they are of.
func TestCached(t *testing.T) {
	b := newBench(t)
	const text = "FROM BASE\nRUN head -c 16 /dev/urandom >/random\nRUN touch /x\n"
	first := b.dockerfile(t, text)
	if first.said("CACHED") {
		t.Error("the first build is cached")
	}
	second := b.dockerfile(t, text)
	second.wantSaid(t, "CACHED [2/3] RUN head -c 16 /dev/urandom >/random", "CACHED [3/3] RUN touch /x")
	if first.Image != second.Image {
		t.Errorf("images %s and %s", first.Image, second.Image)
	}
	// After the daemon was stopped, too.
	b.close(t)
	b.open(t)
	third := b.dockerfile(t, text)
	third.wantSaid(t, "CACHED [3/3] RUN touch /x")
	j := job(soulbox.Recipe{Dockerfile: b.fill(text)})
	j.Team = "stranger"
	if r := b.build(t.Context(), t, j); r.said("CACHED") || r.err != nil || r.Image == first.Image {
		t.Errorf("a stranger gets results of another team: %v", r.err)
	}
	j = job(soulbox.Recipe{Dockerfile: b.fill(text), Force: true})
	if r := b.build(t.Context(), t, j); r.said("CACHED") || r.err != nil || r.Image == first.Image {
		t.Errorf("a forced build is cached: %v", r.err)
	}
}

// Two builds at once do not disturb each other, also when they are the same.
func TestAtOnce(t *testing.T) {
	b := newBench(t)
	var wg sync.WaitGroup
	results := make([]built, 3)
	for i, text := range []string{"same", "same", "other"} {
		wg.Go(func() {
			j := job(soulbox.Recipe{Dockerfile: b.fill("FROM BASE\nRUN sleep 1; echo " + text + " >/text\n")})
			results[i].Result, results[i].err = b.engine.Build(t.Context(), j, func(l soulbox.BuildLine) {
				results[i].lines = append(results[i].lines, l)
			})
		})
	}
	wg.Wait()
	for i, want := range []string{"same", "same", "other"} {
		if results[i].err != nil {
			t.Fatalf("build %d: %v", i, results[i].err)
		}
		if got := read(t, b.tree(t, results[i]), "text"); got != want {
			t.Errorf("build %d has %q, want %q", i, got, want)
		}
	}
}

// Of two builds that share a step, the end of one is not that of the other.
func TestSharedStepGoesOn(t *testing.T) {
	b := newBench(t)
	b.dockerfile(t, "FROM BASE\n") // it is pulled
	text := b.fill("FROM BASE\nRUN sleep 4; echo done >/text\n")
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan struct{})
	var once sync.Once
	ended := make(chan error)
	go func() {
		_, err := b.engine.Build(ctx, job(soulbox.Recipe{Dockerfile: text}), func(l soulbox.BuildLine) {
			if strings.Contains(l.Message, "RUN sleep") {
				once.Do(func() { close(began) })
			}
		})
		ended <- err
	}()
	<-began
	go func() {
		b.waitRunning(t, "boot")
		cancel()
	}()
	r := b.build(t.Context(), t, job(soulbox.Recipe{Dockerfile: text}))
	if err := <-ended; err == nil {
		t.Error("the cancelled build succeeds")
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
	if got := read(t, b.tree(t, r), "text"); got != "done" {
		t.Errorf("/text is %q", got)
	}
}

// What is wrong with a Dockerfile is said with its place.
func TestWrongDockerfile(t *testing.T) {
	b := newBench(t)
	tests := []struct {
		name, text string
		step       int
		message    string
	}{
		{"exit", "FROM BASE\nRUN true\nRUN echo to stderr >&2; exit 3\nRUN touch /x", 2, "RUN echo to stderr >&2; exit 3: exit status 3"},
		{"unknown_command", "FROM BASE\nRUN nosuchprogram", 1, "exit status 127"},
		{"copy", "FROM BASE\nCOPY nothing /", 1, "not found"},
		{"no_image", "FROM REGISTRY/nothing:1\nRUN true", 0, "not found"},
		{"digest", "FROM REGISTRY/tools@sha256:" + strings.Repeat("a", 64), 0, "cannot be had: the registry answers 404 Not Found"},
		{"user", "FROM BASE\nUSER nobody123\nRUN true", 1, "unable to find user nobody123"},
		{"insecure", "FROM BASE\nRUN --security=insecure true", 0, "security.insecure is not allowed"},
		{"host_network", "FROM BASE\nRUN --network=host true", 0, "network.host is not allowed"},
		{"ssh", "FROM BASE\nRUN --mount=type=ssh,required=true true\n", 1, "ssh"},
		{"secret", "FROM BASE\nRUN --mount=type=secret,id=x,required=true true\n", 1, "secret x: not found"},
		{"special", `FROM BASE` + "\n" + `RUN ["/.soulbox/pack", "guess"]` + "\n", 1, "there is no program"},
		{"empty", "FROM scratch\n", 0, "the image is empty"},
		{"target", "FROM BASE AS a\n", 0, ""},
	}
	for _, tt := range tests[:len(tests)-1] {
		t.Run(tt.name, func(t *testing.T) {
			r := b.build(t.Context(), t, job(soulbox.Recipe{Dockerfile: b.fill(tt.text)}))
			r.wantFailure(t, tt.step, tt.message)
			if last := r.lines[len(r.lines)-1]; last.Level != "error" {
				t.Errorf("the last line is %+v, want the failure", last)
			}
		})
	}
	for name, r := range map[string]soulbox.Recipe{
		"syntax":      {Dockerfile: b.fill("FROM BASE\nRUM true\n")},
		"no_stage":    {Dockerfile: "RUN true\n"},
		"target":      {Dockerfile: b.fill("FROM BASE\n"), Target: "nothing"},
		"frontend":    {Dockerfile: "# syntax=evil.example/frontend\nFROM x\n"},
		"cache_arg":   {Dockerfile: b.fill("FROM BASE\n"), Args: map[string]string{"BUILDKIT_CACHE_MOUNT_NS": "x"}},
		"syntax_arg":  {Dockerfile: b.fill("FROM BASE\n"), Args: map[string]string{"buildkit_syntax": "evil.example/x"}},
		"token_arg":   {Dockerfile: b.fill("FROM BASE\n"), Args: map[string]string{"ftp_proxy": "x"}},
		"both":        {Dockerfile: b.fill("FROM BASE\n"), Image: "x"},
		"too_large":   {Dockerfile: "FROM x\n" + strings.Repeat("# \n", 1<<20)},
		"no_base":     {Steps: []soulbox.Step{{Kind: soulbox.StepRun, Args: []string{"true"}}}},
		"no_template": {Template: "gone"},
	} {
		if r := b.build(t.Context(), t, job(r)); soulbox.KindOf(r.err) != soulbox.Invalid && soulbox.KindOf(r.err) != soulbox.TooLarge {
			t.Errorf("%s: %v, want Invalid", name, r.err)
		}
	}
	if _, err := b.engine.Build(t.Context(), buildkit.Job{ID: soulbox.NewBuildID(), Recipe: soulbox.Recipe{Image: "x"}}, nil); soulbox.KindOf(err) != soulbox.Invalid {
		t.Errorf("without limits: %v", err)
	}
}
