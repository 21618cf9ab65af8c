package buildkit_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/template/buildkit"
)

// A build that is cancelled in the middle of a step ends at once, and its step
// with it.
func TestCancel(t *testing.T) {
	b := newBench(t)
	why := errors.New("somebody wants it")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		b.waitRunning(t, "boot")
		cancel(why)
	}()
	started := time.Now()
	r := b.build(ctx, t, b.steps(t, run("sleep 1000")))
	if !errors.Is(r.err, why) {
		t.Errorf("a cancelled build ends with %v", r.err)
	}
	if took := time.Since(started); took > patience {
		t.Errorf("it takes %v", took)
	}
	b.wantNoStep(t)
	// Nothing of it disturbs the next.
	if r := b.build(t.Context(), t, b.steps(t, run("true"))); r.err != nil {
		t.Error(r.err)
	}
}

// wantNoStep wants no step to be left, and no cell.
func (b *bench) wantNoStep(t *testing.T) {
	t.Helper()
	for _, p := range b.running(t) {
		if strings.Contains(p, "runsc") || strings.Contains(p, " run ") {
			t.Errorf("still running: %s", p)
		}
	}
	if cells := must(filepath.Glob("/sys/fs/cgroup/*/soulbox-" + instance + "/*/")); len(cells) > 0 {
		t.Errorf("cgroups are left: %v", cells)
	}
}

// A build has so much time and no more.
func TestDeadline(t *testing.T) {
	b := newBench(t)
	j := b.steps(t, run("true"), run("sleep 1000"))
	j.Limits.Time = 4 * time.Second
	r := b.build(t.Context(), t, j)
	r.wantFailure(t, 2, "the build took longer than its limit of 4s")
	b.wantNoStep(t)
}

// A step has so much of everything and no more, and the failure says of what.
func TestStepLimits(t *testing.T) {
	b := newBench(t)
	tests := []struct{ name, command, message string }{
		{"disk", "dd if=/dev/zero of=/home/user/big bs=1M count=3000; sleep 1000", "it wrote more than its 200 MiB of disk"},
		{"disk_small_files", "while :; do for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/home/user/$RANDOM-$RANDOM bs=1M count=4 2>/dev/null; done; done", "it wrote more than its 200 MiB of disk"},
		{"memory", "head -c 2000000000 /dev/zero | tail -c 1999999999 >/dev/null", "it needed more than its 512 MiB of memory"},
		{"processes", "f() { f | f & }; f; sleep 1000", "more processes than its limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := b.steps(t, run("true"), run(tt.command))
			r := b.build(t.Context(), t, j)
			r.wantFailure(t, 2, "failed to run command '")
			r.wantFailure(t, 2, tt.message)
			b.wantNoStep(t)
		})
	}
	// What was there before does not count: not in a cache mount either.
	for range 3 {
		j := job(soulbox.Recipe{Dockerfile: b.fill("FROM BASE\nSHELL [\"/bin/bash\", \"-c\"]\nRUN --mount=type=cache,target=/cache dd if=/dev/zero of=/cache/$RANDOM bs=1M count=120 && sleep 2\n"), Force: true})
		if r := b.build(t.Context(), t, j); r.err != nil {
			t.Error(r.err)
		}
	}
	// But what is written there does.
	j := job(soulbox.Recipe{Dockerfile: b.fill("FROM BASE\nRUN --mount=type=cache,target=/cache dd if=/dev/zero of=/cache/big bs=1M count=400 && sleep 1000\n")})
	r := b.build(t.Context(), t, j)
	r.wantFailure(t, 1, "it wrote more than its 200 MiB of disk")
}

// A build ends before the machine's disk is full, whatever fills it.
func TestFullDisk(t *testing.T) {
	b := newBench(t)
	b.build(t.Context(), t, b.steps(t, run("true")))
	b.close(t)
	b.open(t, func(o *buildkit.Options) { o.MinFree = 1 << 60 })
	r := b.build(t.Context(), t, b.steps(t, run("sleep 1000")))
	if soulbox.KindOf(r.err) != soulbox.Unavailable || !strings.Contains(r.err.Error(), "the disk of this machine is full") {
		t.Errorf("with a full disk: %v", r.err)
	}
}

// What runs in a step reaches the internet, unless the build may not, and
// neither this machine, nor private addresses, nor another step.
func TestStepNetwork(t *testing.T) {
	b := newBench(t)
	// Each attempt says in a file what came of it.
	attempt := func(addr, port string) string {
		return "(exec 3<>/dev/tcp/" + addr + "/" + port + " && echo -e 'GET /x HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3) >>/home/user/got 2>&1; "
	}
	host, port, _ := strings.Cut(b.registry, ":") // somebody listens there
	j := b.steps(t, run(attempt(public, "80")+attempt(metadata, "80")+attempt(private, "80")+attempt(host, port)+attempt(hostAddr, port)+"true"))
	r := b.build(t.Context(), t, j)
	if r.err != nil {
		t.Fatal(r.err)
	}
	got := read(t, b.tree(t, r), "home/user/got")
	if n := strings.Count(got, hello); n != 1 || strings.Count(got, "refused") < 3 {
		t.Errorf("a step reached %d of the internet's addresses, want the public one:\n%s", n, got)
	}
	if v := internet.visits(metadata); len(v) > 0 {
		t.Errorf("a step asked the metadata service for %v", v)
	}
	j = b.steps(t, run(attempt(public, "80")+"true"))
	j.Limits.Internet = false
	r = b.build(t.Context(), t, j)
	if got := read(t, b.tree(t, r), "home/user/got"); strings.Contains(got, hello) {
		t.Errorf("a step without internet reached it:\n%s", got)
	}

	// Two steps of one build run at the same time, in networks of their own.
	// One listens, and this machine reaches it; the other looks for it at all
	// addresses that its network could have.
	text := b.fill(`FROM BASE AS server
RUN listen 80 & sleep 6
FROM BASE
SHELL ["/bin/bash", "-c"]
RUN cat /etc/resolv.conf >/resolv; sleep 2; for i in {1..30}; do ((i % 4 == 1 || i % 4 == 2)) || continue; (exec 3<>/dev/tcp/10.219.0.$i/80) 2>>/got && echo $i >>/reached; done; true
COPY --from=server /etc/passwd /passwd
`)
	listens := make(chan string, 1)
	go func() {
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			for i := 2; i <= 30; i += 4 {
				addr := fmt.Sprintf("10.219.0.%d:80", i)
				if c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond); err == nil {
					c.Close()
					listens <- addr
					return
				}
			}
		}
		listens <- ""
	}()
	r = b.build(t.Context(), t, job(soulbox.Recipe{Dockerfile: text}))
	if r.err != nil {
		t.Fatal(r.err)
	}
	if addr := <-listens; addr == "" {
		t.Error("nothing listens in the one step")
	}
	dir := b.tree(t, r)
	if ns := read(t, dir, "resolv"); !strings.HasPrefix(ns, "nameserver 10.219.") {
		t.Errorf("a step's nameserver is %q", ns)
	}
	if _, err := os.Stat(filepath.Join(dir, "reached")); err == nil {
		t.Errorf("a step reached another at 10.219.0.%s", read(t, dir, "reached"))
	}
	if got := read(t, dir, "got"); strings.Count(got, "line 1: /dev/tcp/") != 16 {
		t.Errorf("looking for another step gave\n%s", got)
	}
}

// BuildKit reaches the world through our proxy only, which connects to public
// addresses and to the operator's registries.
func TestEgress(t *testing.T) {
	b := newBench(t)
	tests := []struct{ name, text, message string }{
		{"add_metadata", "FROM BASE\nADD http://" + metadata + "/latest /x\n", "169.254.169.254 is not a public address"},
		{"add_private", "FROM BASE\nADD http://" + private + "/x /x\n", "10.99.7.2 is not a public address"},
		{"add_own", "FROM BASE\nADD http://" + hostAddr + "/x /x\n", "203.0.113.1 is not a public address"},
		{"add_loopback", "FROM BASE\nADD http://127.0.0.1:3128/x /x\n", "400"},
		{"add_nobody", "FROM BASE\nADD http://127.0.0.1:3129/x /x\n", "connection refused"},
		{"add_mapped", "FROM BASE\nADD http://[::ffff:169.254.169.254]/x /x\n", "169.254.169.254 is not a public address"},
		{"add_git", "FROM BASE\nADD https://" + private + "/x.git /x\n", "not a public address"},
		{"from_private", "FROM " + private + "/x:1\n", "10.99.7.2 is not a public address"},
		{"from_metadata", "FROM " + metadata + ":80/x:1\n", "169.254.169.254 is not a public address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := b.build(t.Context(), t, job(soulbox.Recipe{Dockerfile: b.fill(tt.text)}))
			if r.err == nil || !strings.Contains(r.err.Error(), tt.message) {
				t.Errorf("it ends with %v, want %q", r.err, tt.message)
			}
		})
	}
	for _, addr := range []string{metadata, private} {
		if v := internet.visits(addr); len(v) > 0 {
			t.Errorf("%s was asked for %v", addr, v)
		}
	}
	r := b.dockerfile(t, "FROM BASE\nADD http://"+public+"/page /page\n")
	if got := read(t, b.tree(t, r), "page"); got != hello {
		t.Errorf("ADD of a public address gives %q", got)
	}
}

// A daemon that nobody needs is stopped, and started again.
func TestIdle(t *testing.T) {
	b := newBench(t, func(o *buildkit.Options) { o.Idle = 100 * time.Millisecond })
	if got := b.running(t); len(got) > 0 {
		t.Errorf("before the first build: %v", got)
	}
	b.dockerfile(t, "FROM BASE\n")
	for end := time.Now().Add(patience); len(b.running(t)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("long after the last build: %v", b.running(t))
		}
	}
	b.dockerfile(t, "FROM BASE\nRUN true\n")
}

// A daemon that dies takes its builds with it, and the next one works.
func TestDaemonDies(t *testing.T) {
	b := newBench(t)
	go func() {
		b.waitRunning(t, "boot")
		for _, p := range b.running(t) {
			if dir, _, _ := strings.Cut(p, " "); strings.Contains(p, "buildkitd --config") {
				kill(t, filepath.Base(dir))
			}
		}
	}()
	r := b.build(t.Context(), t, b.steps(t, run("sleep 1000")))
	if soulbox.KindOf(r.err) != soulbox.Unavailable {
		t.Errorf("without its daemon a build ends with %v", r.err)
	}
	if r := b.build(t.Context(), t, b.steps(t, run("true"))); r.err != nil {
		t.Error(r.err)
	}
}

// Close ends builds.
func TestCloseEndsBuilds(t *testing.T) {
	b := newBench(t)
	go func() {
		b.waitRunning(t, "boot")
		if err := b.engine.Close(); err != nil {
			t.Error(err)
		}
	}()
	r := b.build(t.Context(), t, b.steps(t, run("sleep 1000")))
	if soulbox.KindOf(r.err) != soulbox.Unavailable {
		t.Errorf("with the engine closed a build ends with %v", r.err)
	}
	if _, err := b.engine.Build(t.Context(), b.steps(t, run("true")), func(soulbox.BuildLine) {}); soulbox.KindOf(err) != soulbox.Unavailable {
		t.Errorf("Build after Close: %v", err)
	}
	b.engine = must(buildkit.Open(b.options))
}

func kill(t *testing.T, pid string) {
	t.Helper()
	var n int
	for _, c := range pid {
		n = 10*n + int(c-'0')
	}
	p := must(os.FindProcess(n))
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
}
