package buildkit_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/testbin"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/driver/fake"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/template/buildkit"
)

// The tests run in a network and mount namespace of their own, which plays the
// host. Nothing in them can reach the machine or outlive the process.
const insideVar = "SOULBOX_BUILDKIT_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		if dir := os.Getenv(crashVar); dir != "" {
			crash(dir)
		}
		internet.make()
		code := m.Run()
		programs.remove()
		os.Exit(code)
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.CommandContext(context.Background(), self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Addresses of the test's internet. One machine has all of them, and says hello
// on port 80 of each.
const (
	uplink   = "up0"
	hostAddr = "203.0.113.1"
	public   = "203.0.113.2"
	private  = "10.99.7.2"
	metadata = "169.254.169.254"
	hello    = "hello from the internet"
)

// internet is behind an uplink of the test's host.
var internet world1

type world1 struct {
	mu   sync.Mutex
	seen []string // +checklocks:mu "address path" of requests
}

// make makes the internet, for as long as this process lives.
func (w *world1) make() {
	made := make(chan *os.File)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		check(unix.Unshare(unix.CLONE_NEWNET))
		ns := must(os.Open("/proc/thread-self/ns/net"))
		made <- ns
		<-made // there is a device
		up("lo")
		for _, a := range []string{public + "/24", private + "/32", metadata + "/32"} {
			addAddr("eth0", a)
		}
		up("eth0")
		l := must(net.Listen("tcp4", "0.0.0.0:80"))
		go func() { check(http.Serve(l, w)) }()
		close(made)
	}()
	ns := <-made
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace = uplink, "eth0", netlink.NsFd(int(ns.Fd()))
	check(netlink.LinkAdd(veth))
	addAddr(uplink, hostAddr+"/24")
	up("lo")
	up(uplink)
	made <- nil
	<-made
	check(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(public)}))
}

func (w *world1) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.seen = append(w.seen, r.Host+" "+r.URL.Path)
	w.mu.Unlock()
	fmt.Fprintln(rw, hello)
}

// visits returns what the internet was asked for at an address.
func (w *world1) visits(addr string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, s := range w.seen {
		if path, ok := strings.CutPrefix(s, addr+" "); ok {
			all = append(all, path)
		}
	}
	return all
}

func up(device string) {
	l := must(netlink.LinkByName(device))
	check(netlink.LinkSetUp(l))
	_, err := netlink.LinkByName(device) // asking makes it ready to send
	check(err)
}

func addAddr(device, addr string) {
	check(netlink.AddrAdd(must(netlink.LinkByName(device)), must(netlink.ParseAddr(addr))))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

// programs are built once.
var programs binaries

type binaries struct {
	once         sync.Once
	dir          string
	daemon, step string
	listen       string // a program for steps
}

func (b *binaries) build(t *testing.T) {
	t.Helper()
	b.once.Do(func() {
		b.dir = must(os.MkdirTemp("", "soulbox-buildkit-test-")) //nolint:usetesting // it outlives the test that makes it
		for name, to := range map[string]*string{"soulbox-buildkitd": &b.daemon, "soulbox-step": &b.step} {
			*to = filepath.Join(b.dir, name)
			check(os.Rename(testbin.Build(t, name), *to))
		}
		b.listen = filepath.Join(b.dir, "listen")
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", b.listen, "./testdata/listen")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		check(cmd.Run())
	})
}

func (b *binaries) remove() { _ = os.RemoveAll(b.dir) }

// A bench is an engine with what it needs: a node for its cells, images, and a
// registry with one image.
type bench struct {
	dir      string
	node     *node.Node
	images   *rootfs.Store
	engine   *buildkit.Engine
	options  buildkit.Options
	registry string // host:port
	base     string // the image in it
}

const patience = 30 * time.Second

// instance keeps the kernel's names apart from those of another run of these
// tests: cgroups are everybody's.
var instance = cmp.Or(os.Getenv(instanceVar), "b"+strconv.FormatInt(int64(os.Getpid()), 36))

const instanceVar = "SOULBOX_BUILDKIT_TEST_INSTANCE" // for a server that is to be killed

var size = soulbox.Size{CPUs: 2, Memory: 512 * soulbox.MiB, Disk: 200 * soulbox.MiB, PIDs: 600}

// newRegistry is a registry of images in memory. The library's does not
// understand a range without an end, by which BuildKit asks for the rest of a
// layer whose transfer a failed build has cut off. Who is sent all of it instead
// skips what it has, as BuildKit does.
func newRegistry() http.Handler {
	images := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Range"), "-") {
			r.Header.Del("Range")
		}
		images.ServeHTTP(w, r)
	})
}

// newBench opens an engine, and wants everything to be gone when the test ends.
func newBench(t *testing.T, change ...func(*buildkit.Options)) *bench {
	t.Helper()
	programs.build(t)
	b := &bench{dir: t.TempDir()}
	srv := httptest.NewServer(newRegistry())
	t.Cleanup(srv.Close)
	b.registry = strings.TrimPrefix(srv.URL, "http://")
	b.base = b.registry + "/tools:1"
	push(t, b.base, tools(t))
	b.open(t, change...)
	t.Cleanup(func() {
		b.close(t)
		b.wantNothing(t)
		if err := node.Purge(context.WithoutCancel(t.Context()), slog.New(slog.DiscardHandler), b.dir, instance, fake.New(http.NotFoundHandler())); err != nil {
			t.Errorf("Purge: %v", err)
		}
	})
	return b
}

// open opens the engine as a server that starts does.
func (b *bench) open(t *testing.T, change ...func(*buildkit.Options)) {
	t.Helper()
	out := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.images = must(rootfs.Open(out, filepath.Join(b.dir, "images")))
	b.node = must(node.Open(t.Context(), nodeOptions(b.dir, out, b.images)))
	b.options = engineOptions(b.dir, out, b.node, b.images)
	b.options.Registries = []string{b.registry}
	for _, c := range change {
		c(&b.options)
	}
	var err error
	if b.engine, err = buildkit.Open(b.options); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) close(t *testing.T) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- errors.Join(b.engine.Close(), b.node.Close()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Close: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Close does not return")
	}
}

func nodeOptions(dir string, out *slog.Logger, images *rootfs.Store) node.Options {
	return node.Options{
		Log: out, ID: "n1", Dir: dir, Instance: instance, Driver: fake.New(http.NotFoundHandler()), Images: images,
		Prefix: netip.MustParsePrefix("10.219.0.0/16"), Resolver: netip.MustParseAddr("203.0.113.53"),
	}
}

func engineOptions(dir string, out *slog.Logger, n *node.Node, images *rootfs.Store) buildkit.Options {
	return buildkit.Options{
		Log: out, Dir: filepath.Join(dir, "build"), Daemon: programs.daemon, Step: programs.step,
		OpenCell: func(ctx context.Context, size soulbox.Size, internet bool) (buildkit.Cell, error) {
			return n.OpenCell(ctx, size, internet)
		},
		Pack: func(ctx context.Context, dir, source string) (buildkit.Packed, error) {
			started := time.Now()
			u, err := rootfs.Prepare(dir, strings.NewReader("agent"))
			if err != nil {
				return buildkit.Packed{}, err
			}
			img, err := images.Build(ctx, dir, rootfs.BuildOptions{Source: source, Started: started})
			return buildkit.Packed{Image: img.ID, User: u.Name, Facts: soulbox.BuildFacts{Bytes: soulbox.Bytes(img.Size)}}, err
		},
		AddUser: rootfs.AddUser, MakeDir: rootfs.MakeDir, Unpack: images.Unpack, MinFree: soulbox.MiB,
	}
}

// job returns a job with limits.
func job(r soulbox.Recipe) buildkit.Job {
	return buildkit.Job{
		ID: soulbox.NewBuildID(), Team: "team", Recipe: r,
		Limits: buildkit.Limits{Step: size, Time: 2 * time.Minute, Internet: true},
	}
}

// A built is what came of a build.
type built struct {
	buildkit.Result

	lines []soulbox.BuildLine
	err   error
}

// build builds, and shows the log if the test fails.
func (b *bench) build(ctx context.Context, t *testing.T, j buildkit.Job) built {
	t.Helper()
	var r built
	r.Result, r.err = b.engine.Build(ctx, j, func(l soulbox.BuildLine) {
		r.lines = append(r.lines, l)
		t.Logf("%-5s %-8s %s", l.Level, l.Step, l.Message)
	})
	if r.err != nil {
		t.Logf("build: %v", r.err)
	}
	return r
}

// dockerfile builds a Dockerfile, which must succeed.
func (b *bench) dockerfile(t *testing.T, text string) built {
	t.Helper()
	r := b.build(t.Context(), t, job(soulbox.Recipe{Dockerfile: b.fill(text)}))
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r
}

// fill writes the names of this bench into a recipe.
func (b *bench) fill(text string) string {
	return strings.NewReplacer("BASE", b.base, "REGISTRY", b.registry).Replace(text)
}

// said reports whether a line of the log has the text.
func (r *built) said(text string) bool {
	return slices.ContainsFunc(r.lines, func(l soulbox.BuildLine) bool { return strings.Contains(l.Message, text) })
}

func (r *built) wantSaid(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !r.said(text) {
			t.Errorf("the log does not say %q", text)
		}
	}
}

// wantFailure wants the recipe to be at fault, at a step and with a text.
func (r *built) wantFailure(t *testing.T, step int, text string) {
	t.Helper()
	f, ok := errors.AsType[*buildkit.StepError](r.err)
	if !ok {
		t.Fatalf("the build ended with %v, want a StepError about %q", r.err, text)
	}
	if f.Step != step || !strings.Contains(f.Message, text) {
		t.Errorf("step %d failed with %q, want step %d and %q", f.Step, f.Message, step, text)
	}
}

// tree unpacks the image that was built and returns its folder.
func (b *bench) tree(t *testing.T, r built) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if err := b.images.Unpack(t.Context(), r.Image, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSuffix(string(b), "\n")
}

// wantNothing wants nothing of engine and node to be left on the machine.
func (b *bench) wantNothing(t *testing.T) {
	t.Helper()
	var left []string
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if left = b.left(t); len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left on the machine: %v", left)
		}
	}
}

// left returns processes, mounts, cgroups and networks of engine and node.
func (b *bench) left(t *testing.T) []string {
	t.Helper()
	left := b.running(t)
	for line := range strings.Lines(read(t, "/proc/self", "mountinfo") + "\n") {
		if strings.Contains(line, b.dir) {
			left = append(left, strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/soulbox-" + instance + "/*/", "/sys/fs/cgroup/soulbox-" + instance + "/*/", "/run/soulbox/netns/" + instance + "/*"} {
		left = append(left, must(filepath.Glob(pattern))...)
	}
	return left
}

// running returns the processes of our programs: the daemon, steps, gVisor.
// Others on the machine may run the same programs, but not these files.
func (b *bench) running(t *testing.T) []string {
	t.Helper()
	ours := []os.FileInfo{must(os.Stat(programs.daemon)), must(os.Stat(programs.step))}
	var all []string
	for _, exe := range must(filepath.Glob("/proc/[0-9]*/exe")) {
		fi, err := os.Stat(exe)
		if err == nil && slices.ContainsFunc(ours, func(o os.FileInfo) bool { return os.SameFile(o, fi) }) {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(exe), "cmdline"))
			all = append(all, filepath.Dir(exe)+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return all
}

// tools returns a layer with bash and other programs of this machine.
func tools(t *testing.T) []byte {
	t.Helper()
	have := []string{"/bin/bash", "/bin/sh"}
	for _, name := range []string{"cat", "chmod", "chown", "cp", "dd", "env", "head", "id", "ln", "ls", "mkdir", "mknod", "mount", "mv", "rm", "sleep", "stat", "sync", "tail", "tar", "touch", "true", "uname", "wc", "whoami"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		have = append(have, path)
	}
	files := map[string]string{"/bin/listen": programs.listen} // by their names in the layer
	for _, path := range have {
		files[path] = path
		out := must(exec.CommandContext(t.Context(), "ldd", path).CombinedOutput())
		for f := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(f, "/") {
				files[f] = f
			}
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for dir, mode := range map[string]int64{"etc/": 0o755, "root/": 0o700, "tmp/": 0o1777} {
		check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: mode}))
	}
	text := func(name, text string) {
		check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}))
		must(io.WriteString(w, text))
	}
	text("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/bin/sh\n")
	text("etc/group", "root:x:0:\nwww-data:x:33:\n")
	text("etc/os-release", "PRETTY_NAME=\"Tools\"\n")
	for _, name := range slices.Sorted(mapKeys(files)) {
		content := must(os.ReadFile(files[name]))
		check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name[1:], Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(1e9, 0)}))
		must(w.Write(content))
	}
	check(w.Close())
	return b.Bytes()
}

func mapKeys(m map[string]string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// push makes an image of a layer and puts it into a registry.
func push(t *testing.T, ref string, layer []byte, change ...func(*v1.ConfigFile)) v1.Hash {
	t.Helper()
	l := must(tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil }))
	img := must(mutate.AppendLayers(empty.Image, l))
	conf := must(img.ConfigFile()).DeepCopy()
	conf.Architecture, conf.OS = runtime.GOARCH, "linux"
	conf.Config.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "FROM_IMAGE=yes"}
	for _, c := range change {
		c(conf)
	}
	img = must(mutate.ConfigFile(img, conf))
	check(remote.Write(must(name.ParseReference(ref)), img))
	return must(img.Digest())
}

// waitRunning waits until a process of ours has the word in its command line.
func (b *bench) waitRunning(t *testing.T, word string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if slices.ContainsFunc(b.running(t), func(s string) bool { return strings.Contains(s, " "+word+" ") }) {
			return
		}
		if time.Now().After(end) {
			t.Errorf("nothing runs with %q", word)
			return
		}
	}
}
