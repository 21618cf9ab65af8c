package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/driver"
	"github.com/soulbox/soulbox/node/driver/fake"
	"github.com/soulbox/soulbox/node/rootfs"
)

// The tests run in a network and mount namespace of their own, so that their
// rules and devices cannot reach the machine or outlive the process.
const insideVar = "SOULBOX_NODE_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			panic(err)
		}
		if dir := os.Getenv(crashVar); dir != "" {
			crash(dir)
		}
		os.Exit(m.Run())
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

const (
	patience = 20 * time.Second
	instance = "nodet"
	stem     = "sb" + instance + "-" // of the names of its network devices
)

var (
	prefix   = netip.MustParsePrefix("10.217.0.0/16")
	resolver = netip.MustParseAddr("192.0.2.53")
	size     = soulbox.Size{CPUs: 2, Memory: 64 * soulbox.MiB, Disk: 64 * soulbox.MiB, PIDs: 100}
)

// A world is a machine on which a node can be opened again and again, and
// that must be empty in the end.
type world struct {
	dir    string
	driver *testDriver
	agent  *agent
	images *rootfs.Store
	image  string
	gone   chan soulbox.SandboxID // whom Gone was called for
}

func newWorld(t *testing.T) *world {
	t.Helper()
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	w := &world{dir: t.TempDir(), agent: &agent{entries: make(chan string, 100)}, gone: make(chan soulbox.SandboxID, 100)}
	w.driver = &testDriver{Driver: fake.New(w.agent), fails: &atomic.Pointer[failure]{}, seen: &seen{}}
	var err error
	if w.images, err = rootfs.Open(slog.New(slog.DiscardHandler), filepath.Join(w.dir, "images")); err != nil {
		t.Fatal(err)
	}
	img, err := w.images.Build(t.Context(), tree, rootfs.BuildOptions{Source: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w.image = img.ID
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for range 2 { // it repeats
			if err := node.Purge(ctx, slog.New(slog.DiscardHandler), w.dir, instance, w.driver); err != nil {
				t.Errorf("Purge: %v", err)
			}
		}
		w.wantLeft(t, left{})
		if cgroups := glob(t, "/sys/fs/cgroup/*/soulbox-"+instance, "/sys/fs/cgroup/soulbox-"+instance); len(cgroups) > 0 {
			t.Errorf("cgroups after Purge: %v", cgroups)
		}
		for _, fd := range glob(t, "/proc/self/fd/*") {
			if path, err := os.Readlink(fd); err == nil && strings.HasPrefix(path, w.dir+"/") {
				t.Errorf("still open: %s", path)
			}
		}
		if _, err := os.Stat("/run/soulbox/netns/" + instance); !os.IsNotExist(err) {
			t.Errorf("the folder of namespaces after Purge: %v", err)
		}
	})
	return w
}

func (w *world) options(t *testing.T) node.Options {
	return node.Options{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), ID: "n1", Dir: w.dir, Instance: instance, Driver: w.driver, Images: w.images,
		Prefix: prefix, Resolver: resolver, Gone: func(id soulbox.SandboxID) { w.gone <- id },
	}
}

// open opens the node as a server that starts does, and closes it in the end.
func (w *world) open(t *testing.T, change ...func(*node.Options)) *node.Node {
	t.Helper()
	w.driver = &testDriver{Driver: w.driver.Reopen(), fails: w.driver.fails, seen: w.driver.seen}
	o := w.options(t)
	for _, c := range change {
		c(&o)
	}
	n, err := node.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNode(t, n) })
	return n
}

func closeNode(t *testing.T, n *node.Node) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Close does not return")
	}
}

func (w *world) sandbox(id soulbox.SandboxID) *soulbox.Sandbox {
	return &soulbox.Sandbox{ID: id, Size: size, Secure: true, Network: soulbox.Network{Internet: true}, Env: map[string]string{"A": "sandbox"}}
}

func (w *world) template() *soulbox.Template {
	return &soulbox.Template{ID: "tone", Image: w.image, User: "user", Workdir: "/home/user", Env: map[string]string{"A": "template", "B": "template"}}
}

func (w *world) create(t *testing.T, n *node.Node, id soulbox.SandboxID) {
	t.Helper()
	if err := n.Create(t.Context(), w.sandbox(id), w.template()); err != nil {
		t.Fatalf("Create(%s): %v", id, err)
	}
}

func destroy(t *testing.T, n *node.Node, id soulbox.SandboxID) {
	t.Helper()
	if err := n.Destroy(t.Context(), id); err != nil {
		t.Errorf("Destroy(%s): %v", id, err)
	}
}

func (w *world) home(id soulbox.SandboxID) string {
	return filepath.Join(w.dir, "sandboxes", string(id))
}

// left is what of sandboxes can be found on the machine.
type left struct {
	Folders, Cgroups []string
	Networks         int // devices and namespaces
}

// of is what n sandboxes that run have.
func of(ids ...soulbox.SandboxID) left {
	l := left{Networks: 2 * len(ids)}
	for _, id := range ids {
		l.Folders, l.Cgroups = append(l.Folders, string(id)), append(l.Cgroups, string(id))
	}
	return l
}

func (w *world) look(t *testing.T) left {
	t.Helper()
	var l left
	for _, path := range glob(t, filepath.Join(w.dir, "sandboxes", "*")) {
		l.Folders = append(l.Folders, filepath.Base(path))
	}
	seen := map[string]bool{}
	for _, path := range glob(t, "/sys/fs/cgroup/*/soulbox-"+instance+"/*", "/sys/fs/cgroup/soulbox-"+instance+"/*") {
		if fi, err := os.Stat(path); err == nil && fi.IsDir() && !seen[filepath.Base(path)] {
			seen[filepath.Base(path)] = true
			l.Cgroups = append(l.Cgroups, filepath.Base(path))
		}
	}
	links, err := netlink.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // others make and remove devices
		links, err = netlink.LinkList()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, stem) {
			l.Networks++
		}
	}
	l.Networks += len(glob(t, "/run/soulbox/netns/"+instance+"/*"))
	return l
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		paths, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, paths...)
	}
	return all
}

// offline returns the devices that the rules keep from the internet.
func offline(t *testing.T) []string {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var devices []string
	for _, table := range tables {
		if table.Name != "soulbox-"+instance {
			continue
		}
		set, err := c.GetSetByName(table, "offline")
		if err != nil {
			t.Fatal(err)
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range elements {
			devices = append(devices, strings.TrimRight(string(e.Key), "\x00"))
		}
	}
	return devices
}

// wantLeft waits until exactly want is there: removal happens behind.
func (w *world) wantLeft(t *testing.T, want left) {
	t.Helper()
	var diff string
	eventually(t, func() bool { diff = cmp.Diff(want, w.look(t)); return diff == "" }, func() string { return "on the machine: (-want +got)\n" + diff })
}

// eventually waits until ok.
func eventually(t *testing.T, ok func() bool, why func() string) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(why())
		}
	}
}

// exit returns what the node reports next.
func exit(t *testing.T, n *node.Node) soulbox.Exit {
	t.Helper()
	select {
	case e := <-n.Exits():
		if since := time.Since(e.End.At); since < 0 || since > patience {
			t.Errorf("the end of %s is said to be %v ago", e.ID, since)
		}
		return e
	case <-time.After(patience):
		t.Fatal("no exit is reported")
		return soulbox.Exit{}
	}
}

func wantNoExit(t *testing.T, n *node.Node) {
	t.Helper()
	select {
	case e := <-n.Exits():
		t.Errorf("an exit is reported: %+v", e)
	default:
	}
}

// wantGone wants to have heard exactly of ids, each once and in order.
func (w *world) wantGone(t *testing.T, ids ...soulbox.SandboxID) {
	t.Helper()
	var got []soulbox.SandboxID
	for len(w.gone) > 0 {
		got = append(got, <-w.gone)
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("Gone: (-want +got)\n%s", diff)
	}
}

// An agent answers in all sandboxes. As the real one, it asks for the token
// that its guest remembers, and begins without.
type agent struct {
	entries chan string // messages for the log; closed by nobody

	mu      sync.Mutex
	failing int      // status of /init, /health and what Observe and its like ask for; 0: as it should be
	hang    bool     // they do not answer
	got     []byte   // the last /init
	heard   []string // all of them
	token   string   // of the last request
	told    []string // what was said about the record
	asked   int      // how often "third" was run
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.token = r.Header.Get("X-Access-Token")
	failing, hang := a.failing, a.hang
	a.mu.Unlock()
	guest := fake.GuestOf(r)
	if token, _ := guest.Recall(); token != "" && token != r.Header.Get("X-Access-Token") && r.URL.Path != "/health" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	switch r.URL.Path {
	case "/init":
		b := make([]byte, 64<<10)
		n, _ := r.Body.Read(b) // it is sent in one piece
		a.mu.Lock()
		a.got = b[:n]
		a.heard = append(a.heard, string(b[:n]))
		a.mu.Unlock()
		var told struct {
			AccessToken *string // absent: it stays as it is
			SandboxID   string
		}
		if err := json.Unmarshal(b[:n], &told); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		switch {
		case hang:
			<-r.Context().Done()
		case failing != 0:
			w.WriteHeader(failing)
		default:
			token, files := guest.Recall()
			if told.AccessToken != nil {
				token = *told.AccessToken
			}
			if files == "" {
				files = "written by " + told.SandboxID
			}
			guest.Remember(token, files)
			w.WriteHeader(http.StatusNoContent)
		}
	case "/health":
		if failing != 0 {
			w.WriteHeader(failing)
		}
	case "/write":
		b := make([]byte, 64<<10)
		n, _ := r.Body.Read(b) // as above
		token, _ := guest.Recall()
		guest.Remember(token, string(b[:n]))
	case "/process.Process/Start":
		a.program(w, r)
	case "/whoami":
		_, files := guest.Recall()
		fmt.Fprint(w, files)
	case "/soulbox/record", "/soulbox/record/position", "/soulbox/state":
		observed(w, r, failing, hang)
	case "/soulbox/record/hold", "/soulbox/record/release":
		a.mu.Lock()
		a.told = append(a.told, path.Base(r.URL.Path))
		a.mu.Unlock()
		if failing != 0 {
			w.WriteHeader(failing)
		}
	case "/soulbox/logs":
		after, err := strconv.Atoi(r.URL.Query().Get("after"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for flush := http.NewResponseController(w).Flush; flush() == nil; {
			select {
			case message := <-a.entries:
				after++
				fmt.Fprintf(w, `{"seq":%d,"level":"info","message":%q}`+"\n", after, message)
			case <-r.Context().Done():
				return
			}
		}
	}
}

func (a *agent) set(failing int, hang bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failing, a.hang = failing, hang
}

// last returns the body of the last /init and the token of the last request.
func (a *agent) last() (body, token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return string(a.got), a.token
}

// A failure says which calls of a driver fail, and until when Destroy and Save
// take; nil: they do not wait.
type failure struct {
	start, destroy, adopt error
	freeze, thaw, save    error
	restart               error // of a sandbox of files only
	until, saving         chan struct{}
	freezes               bool                                  // Freeze fails after it has frozen
	changes               func(context.Context, *os.File) error // instead of the fake's; nil: that
}

// seen is what the drivers of a world were asked for.
type seen struct {
	mu     sync.Mutex
	starts []string
	saves  int // under way, or over
}

// testDriver is the fake, failing when it is told to.
type testDriver struct {
	*fake.Driver
	fails  *atomic.Pointer[failure]
	seen   *seen
	format string // of snapshots; empty: the fake's
	bare   bool   // it cannot save memory, nor tell changes
	class  soulbox.Isolation
}

func (d *testDriver) failure() failure {
	if f := d.fails.Load(); f != nil {
		return *f
	}
	return failure{}
}

func (d *testDriver) Capabilities() driver.Capabilities {
	c := d.Driver.Capabilities()
	c.Memory, c.Changes = c.Memory && !d.bare, c.Changes && !d.bare
	if d.class != "" {
		c.Isolation = string(d.class)
	}
	if d.format != "" {
		c.Format = d.format
	}
	return c
}

func (d *testDriver) Start(ctx context.Context, spec driver.Spec) (driver.Instance, error) {
	f, what := d.failure(), "boot"
	if spec.Saved != nil {
		what = map[bool]string{true: "memory", false: "files"}[spec.Saved.Memory]
	}
	if what == "files" && f.restart != nil {
		f.start = f.restart
	}
	if f.start != nil {
		spec.Image.Close()
		return nil, f.start
	}
	if spec.Cgroup == nil || spec.Netns == "" || net.ParseIP(spec.Addr) == nil || spec.Size != size {
		spec.Image.Close()
		return nil, fmt.Errorf("spec %+v", spec)
	}
	d.seen.mu.Lock()
	d.seen.starts = append(d.seen.starts, what)
	d.seen.mu.Unlock()
	return d.wrap(d.Driver.Start(ctx, spec))
}

func (d *testDriver) wrap(inst driver.Instance, err error) (driver.Instance, error) {
	if err != nil {
		return nil, err
	}
	return &testInstance{inst, d}, nil
}

func (d *testDriver) Destroy(ctx context.Context, id soulbox.SandboxID, dir string) error {
	f := d.failure()
	if f.until != nil {
		<-f.until
	}
	if f.destroy != nil {
		return f.destroy
	}
	return d.Driver.Destroy(ctx, id, dir)
}

func (d *testDriver) Adopt(ctx context.Context, id soulbox.SandboxID, dir string) (driver.Instance, error) {
	if err := d.failure().adopt; err != nil {
		return nil, err
	}
	return d.wrap(d.Driver.Adopt(ctx, id, dir))
}

// testInstance is the fake's, failing when its driver is told to.
type testInstance struct {
	driver.Instance
	d *testDriver
}

func (i *testInstance) Freeze(ctx context.Context) error {
	f := i.d.failure()
	if f.freeze != nil && !f.freezes {
		return f.freeze
	}
	return errors.Join(i.Instance.Freeze(ctx), f.freeze)
}

func (i *testInstance) Thaw(ctx context.Context) error {
	if err := i.d.failure().thaw; err != nil {
		return err
	}
	return i.Instance.Thaw(ctx)
}

// Save fails, if it does, with a part written.
func (i *testInstance) Save(ctx context.Context, dir string, memory bool) error {
	f := i.d.failure()
	i.d.seen.mu.Lock()
	i.d.seen.saves++
	i.d.seen.mu.Unlock()
	if f.saving != nil {
		<-f.saving
	}
	return errors.Join(i.Instance.Save(ctx, dir, memory), f.save)
}
