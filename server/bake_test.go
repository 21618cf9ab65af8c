package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/fault"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/server/servertest"
)

// bakeVar makes the test the server that dies while it bakes: it holds what is
// to be baked, as JSON.
const bakeVar = "SOULBOX_SERVER_TEST_BAKE"

func TestMain(m *testing.M) {
	if job := os.Getenv(bakeVar); job != "" {
		bakeAndDie(job)
	}
	os.Exit(m.Run())
}

// serve is a start command as people write them: a server, beside it what holds
// a connection and a terminal, and a line that says that it begins.
const serve = `echo "serving as $(whoami) in $PWD for $GREETING"
script -qfc 'sleep 1h' /dev/null >/dev/null 2>&1 &
exec python3 -c '
import http.server, os, socket, sys
held = socket.create_server(("127.0.0.1", 0))
there = socket.create_connection(held.getsockname())
here, _ = held.accept()
kept = os.urandom(4).hex()
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass
    def do_GET(self):
        body = (kept + " " + os.getcwd()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
print("no newline at the end", end="", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
'`

// A told collects what a bake tells.
type told struct {
	mu    sync.Mutex
	lines []soulbox.BuildLine
}

func (l *told) say(line soulbox.BuildLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *told) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, line := range l.lines {
		b.WriteString(line.Message + "\n")
	}
	return b.String()
}

// bake bakes a template like base and returns it with its snapshot.
func (s shell) bake(t *testing.T, base *soulbox.Template, b soulbox.Baking, say func(soulbox.BuildLine)) *soulbox.Template {
	t.Helper()
	tpl := *base
	tpl.ID, tpl.Name, tpl.Env, tpl.Workdir = "tbaked", "baked", map[string]string{"GREETING": "hello"}, "/tmp"
	b.Snapshot = soulbox.NewSnapshotID()
	began := time.Now()
	baked, err := s.node.Bake(t.Context(), &tpl, b, say)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("baked in %v, %d KiB", time.Since(began), baked.Bytes>>10)
	tpl.Snapshot, tpl.Baked = b.Snapshot, baked.Sandbox
	return &tpl
}

func (s shell) sandbox(tpl *soulbox.Template) *soulbox.Sandbox {
	return &soulbox.Sandbox{ID: soulbox.NewSandboxID(), Size: tpl.Size, Secure: true, Network: soulbox.Network{Internet: true}}
}

// get asks a port of a sandbox, once.
func (s shell) get(t *testing.T, id soulbox.SandboxID, port uint16) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.node.Dial(ctx, id, port)
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://sandbox/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Errorf("ask %s: %v", id, err)
		return ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("%s answers %s, %v", id, res.Status, err)
	}
	return string(b)
}

// in lists a folder of the node's data.
func (s shell) in(t *testing.T, name string) []string {
	t.Helper()
	return names(t, filepath.Join(s.data, name))
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// Sandboxes of a template with a start command have it running when they begin,
// and nothing else in common.
func TestBake(t *testing.T) {
	s, base := openNode(t)
	var l told
	tpl := s.bake(t, base, soulbox.Baking{Start: serve, Ready: "curl -sf http://localhost:8000"}, l.say)

	want := `[finalize] Running start command
[finalize] Waiting for the template to be ready
[finalize] [stdout]: serving as user in /tmp for hello
[finalize] [stdout]: no newline at the end
[finalize] Template is ready
`
	got := l.text()
	if sorted(got) != sorted(want) { // the second and the third race
		t.Errorf("it told\n%swant\n%s", got, want)
	}
	for _, line := range l.lines {
		if line.Level != "info" || line.Step != "finalize" || time.Since(line.At) > 5*time.Minute {
			t.Errorf("a line is %+v", line)
		}
	}
	for _, folder := range []string{"sandboxes", "journals"} {
		if left := s.in(t, folder); len(left) > 0 {
			t.Errorf("the bake left %v in %s", left, folder)
		}
	}

	const random = `cat /proc/sys/kernel/random/uuid
python3 -c 'import random, secrets, ssl; print(random.random(), secrets.token_hex(8), ssl.RAND_bytes(8).hex())'
echo $RANDOM$RANDOM $E2B_SANDBOX_ID`
	seen := map[string]soulbox.SandboxID{}
	answers := map[string]bool{}
	for range 10 {
		sb := s.sandbox(tpl)
		sb.Env = map[string]string{"MINE": string(sb.ID)}
		began := time.Now()
		if err := s.node.Create(t.Context(), sb, tpl); err != nil {
			t.Fatal(err)
		}
		made := time.Since(began)
		answers[s.get(t, sb.ID, 8000)] = true
		t.Logf("created in %v, answered after %v", made, time.Since(began))
		out := s.run(t, sb.ID, random)
		for word := range strings.FieldsSeq(out) {
			if other, twice := seen[word]; twice {
				t.Errorf("%s and %s both have %q", other, sb.ID, word)
			}
			seen[word] = sb.ID
		}
		if got := s.run(t, sb.ID, "echo $GREETING $MINE $(hostname); cat /run/e2b/.E2B_SANDBOX_ID"); got != "hello "+string(sb.ID)+" sandbox\n"+string(sb.ID) {
			t.Errorf("%s believes to be %q", sb.ID, got)
		}
		if got := s.run(t, sb.ID, "date +%s"); !nowish(got) {
			t.Errorf("the clock of %s says %q", sb.ID, got)
		}
		for who, token := range map[string]string{"the one that was baked": s.seed.AgentToken(tpl.Baked), "nobody": ""} {
			if status := s.knock(t, sb.ID, token); status != http.StatusUnauthorized {
				t.Errorf("%s answers %d to who has the token of %s", sb.ID, status, who)
			}
		}
		if err := s.node.Destroy(t.Context(), sb.ID); err != nil {
			t.Error(err)
		}
	}
	if len(answers) != 1 || !strings.HasSuffix(slices.Collect(maps.Keys(answers))[0], " /tmp") {
		t.Errorf("the start command says %v, want one thing, as it runs since before", answers)
	}
}

func sorted(lines string) string {
	all := strings.SplitAfter(lines, "\n")
	slices.Sort(all)
	return strings.Join(all, "")
}

func nowish(date string) bool {
	var at int64
	_, err := fmt.Sscanf(date, "%d", &at)
	return err == nil && time.Since(time.Unix(at, 0)).Abs() < 5*time.Second
}

// knock returns the status that an agent has for who has a token.
func (s shell) knock(t *testing.T, id soulbox.SandboxID, token string) int {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.node.Dial(ctx, id, guest.Port)
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent/envs", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Access-Token", token)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// What is made of a baked template can be written down and made again as any
// other sandbox, and many are made at once, also while the snapshot goes.
func TestBakedAreLikeOthers(t *testing.T) {
	s, base := openNode(t)
	tpl := s.bake(t, base, soulbox.Baking{Start: serve, Ready: "curl -sf http://localhost:8000"}, func(soulbox.BuildLine) {})
	first := s.sandbox(tpl)
	if err := s.node.Create(t.Context(), first, tpl); err != nil {
		t.Fatal(err)
	}
	says := s.get(t, first.ID, 8000)
	s.run(t, first.ID, "echo kept > ~/file")

	snap := &soulbox.Snapshot{
		ID: soulbox.NewSnapshotID(), Sandbox: first.ID, Memory: true, Secure: true, Size: tpl.Size, User: tpl.User, Image: tpl.Image, Template: tpl.ID, Env: tpl.Env,
	}
	if _, err := s.node.Snapshot(t.Context(), first.ID, snap, false); err != nil {
		t.Fatal(err)
	}
	for _, id := range []soulbox.SnapshotID{tpl.Snapshot, snap.ID} {
		if err := s.node.Verify(t.Context(), id); err != nil { // the root image, too
			t.Error(err)
		}
	}
	if found, err := s.node.Diff(t.Context(), first.ID, snap, nil); err != nil || len(found.List) > 20 {
		t.Errorf("since it was written down %d files have changed, %v", len(found.List), err)
	}
	copied := s.sandbox(tpl)
	if err := s.node.Restore(t.Context(), copied, snap); err != nil {
		t.Fatal(err)
	}
	if got := s.get(t, copied.ID, 8000); got != says {
		t.Errorf("a copy says %q, want %q", got, says)
	}

	// Its files without its memory: another boot, in which nothing is started.
	cold := s.sandbox(tpl)
	files := *snap
	files.Memory = false
	if err := s.node.Restore(t.Context(), cold, &files); err != nil {
		t.Fatal(err)
	}
	if got := s.run(t, cold.ID, "cat ~/file; echo $GREETING; pgrep -c python3"); got != "kept\nhello\n0" {
		t.Errorf("from its files alone: %q", got)
	}
	if conn, err := s.node.Dial(t.Context(), cold.ID, 8000); err == nil {
		conn.Close()
		t.Error("a server answers in a sandbox that has booted")
	}
	for _, id := range []soulbox.SandboxID{first.ID, copied.ID, cold.ID} {
		if err := s.node.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if err := s.node.RemoveSnapshot(t.Context(), snap.ID); err != nil {
		t.Error(err)
	}

	const together = 8
	var wg sync.WaitGroup
	errs := make(chan error, together)
	began := time.Now()
	for i := range together {
		wg.Go(func() {
			sb := s.sandbox(tpl)
			err := s.node.Create(t.Context(), sb, tpl)
			if soulbox.KindOf(err) == soulbox.NotFound && i > 0 {
				err = nil // the snapshot had gone before it was held
			} else if err == nil {
				if got := s.get(t, sb.ID, 8000); got != says {
					err = fmt.Errorf("%s says %q, want %q", sb.ID, got, says)
				}
				err = errors.Join(err, s.node.Destroy(t.Context(), sb.ID))
			}
			errs <- err
		})
	}
	if err := <-errs; err != nil {
		t.Error(err)
	}
	if err := s.node.RemoveSnapshot(t.Context(), tpl.Snapshot); err != nil {
		t.Error(err)
	}
	wg.Wait()
	t.Logf("%d were made and ended in %v", together, time.Since(began))
	for range together - 1 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if left := s.in(t, "snapshots"); len(left) > 0 {
		t.Errorf("snapshots that are left: %v", left)
	}
	if err := s.node.Create(t.Context(), s.sandbox(tpl), tpl); soulbox.KindOf(err) != soulbox.NotFound {
		t.Errorf("Create without the snapshot: %v, want NotFound", err)
	}
}

// A sandbox of a baked template that was made ahead is taken in no time, and
// its program answers the first request.
func TestBakedAhead(t *testing.T) {
	const budget = 600 * soulbox.MiB
	s, base := openNode(t, func(o *node.Options) { o.WarmMemory = budget })
	tpl := s.bake(t, base, soulbox.Baking{Start: serve, Ready: "curl -sf http://localhost:8000"}, func(soulbox.BuildLine) {})
	s.node.Expect(tpl, 4)
	for range 12 {
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if pools := s.node.Pools().Pools; len(pools) == 1 && pools[0].Ready == 4 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("within a minute: %+v", s.node.Pools())
			}
		}
		id, ok := s.node.Reserve(tpl)
		if !ok {
			t.Fatal("none waits")
		}
		sb := s.sandbox(tpl)
		sb.ID = id
		began := time.Now()
		if err := s.node.Create(t.Context(), sb, tpl); err != nil {
			t.Fatal(err)
		}
		made := time.Since(began)
		s.get(t, id, 8000)
		t.Logf("taken in %v, answered after %v", made, time.Since(began))
		if status := s.knock(t, id, s.seed.AgentToken(id)); status != http.StatusOK {
			t.Errorf("%s answers %d to its own token", id, status)
		}
		if err := s.node.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	pools := s.node.Pools()
	if each := pools.Pools[0].Each; each <= pools.Each || each > budget/4 {
		t.Errorf("one takes %d MiB, and one that has booted %d", each/soulbox.MiB, pools.Each/soulbox.MiB)
	}

	// Once the template is another, one of before is of no use.
	id, ok := s.node.Reserve(tpl)
	if !ok {
		t.Fatal("none waits")
	}
	again := s.bake(t, base, soulbox.Baking{Start: serve, Ready: "curl -sf http://localhost:8000"}, func(soulbox.BuildLine) {})
	sb := s.sandbox(again)
	sb.ID = id
	if err := s.node.Create(t.Context(), sb, again); err != nil {
		t.Fatal(err)
	}
	other := s.sandbox(again)
	if err := s.node.Create(t.Context(), other, again); err != nil {
		t.Fatal(err)
	}
	if a, b := s.get(t, id, 8000), s.get(t, other.ID, 8000); a != b {
		t.Errorf("of one template, sandboxes say %q and %q", a, b)
	}
}

// What is wrong with the commands is said in a sentence, and nothing is left.
func TestBakeFails(t *testing.T) {
	s, base := openNode(t)
	small := *base
	small.Size.Memory = 256 * soulbox.MiB
	tests := []struct {
		name   string
		tpl    *soulbox.Template
		baking soulbox.Baking
		within time.Duration // it is called off after
		kind   soulbox.Kind
		want   string
	}{
		{name: "start exits", baking: soulbox.Baking{Start: "echo a reason >&2; exit 3", Ready: "sleep 60"}, kind: soulbox.Invalid, want: "the start command ended before the template was ready, with exit status 3: a reason"},
		{name: "start does not exist", baking: soulbox.Baking{Start: "no-such-program"}, kind: soulbox.Invalid, want: "with exit status 127: /bin/bash: line 1: no-such-program: command not found"},
		{name: "start is killed", baking: soulbox.Baking{Start: "kill -9 $$", Ready: "false"}, kind: soulbox.Invalid, want: "the start command ended before the template was ready, with signal: killed"},
		{
			name: "start takes all memory", tpl: &small, kind: soulbox.Invalid, want: "it needed more than its 256 MiB of memory",
			baking: soulbox.Baking{Start: "exec tail /dev/zero", Ready: "false"},
		},
		{
			name: "never ready", baking: soulbox.Baking{Start: "sleep 1h", Ready: "echo not yet; exit 7", Within: 3 * time.Second}, kind: soulbox.Invalid,
			want: "the ready command did not succeed within 3s; when it was last run, it ended with exit status 7: not yet",
		},
		{name: "ready does not end", baking: soulbox.Baking{Ready: "sleep 1h", Within: 2 * time.Second}, kind: soulbox.Invalid, want: "did not succeed within 2s; when it was last run, it did not end"},
		{name: "called off", baking: soulbox.Baking{Start: "sleep 1h", Ready: "sleep 1h"}, within: 3 * time.Second, want: context.DeadlineExceeded.Error()},
		{name: "called off before it is ready", baking: soulbox.Baking{Start: "sleep 1h"}, within: 3 * time.Second, want: context.DeadlineExceeded.Error()},
		{
			name: "no such user", tpl: like(base, func(t *soulbox.Template) { t.User = "root123" }), baking: soulbox.Baking{Start: "sleep 1h", Ready: "true"}, kind: soulbox.Invalid,
			want: "the start command could not be run: unauthenticated: invalid default user: 'root123'",
		},
		{name: "no such folder", tpl: like(base, func(t *soulbox.Template) { t.Workdir = "/nowhere" }), baking: soulbox.Baking{Start: "sleep 1h", Ready: "false"}, kind: soulbox.Invalid, want: "/nowhere"},
		{name: "too patient", baking: soulbox.Baking{Within: time.Hour}, kind: soulbox.Invalid, want: "up to 10m0s"},
		{name: "no such image", tpl: like(base, func(t *soulbox.Template) { t.Image = strings.Repeat("0", 64) }), kind: soulbox.KindOf(errors.New("")), want: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tpl := tt.tpl
			if tpl == nil {
				tpl = base
			}
			ctx := t.Context()
			if tt.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.within)
				defer cancel()
			}
			tt.baking.Snapshot = soulbox.NewSnapshotID()
			began := time.Now()
			baked, err := s.node.Bake(ctx, tpl, tt.baking, func(soulbox.BuildLine) {})
			if err == nil || tt.name != "no such image" && soulbox.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Bake = %+v, %v; want %q", baked, err, tt.want)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %v", took)
			}
			for _, folder := range []string{"sandboxes", "journals", "snapshots"} {
				if left := s.in(t, folder); len(left) > 0 {
					t.Errorf("it left %v in %s", left, folder)
				}
			}
		})
	}
}

func like(tpl *soulbox.Template, change func(*soulbox.Template)) *soulbox.Template {
	other := *tpl
	change(&other)
	return &other
}

// What commands do that is strange, but not wrong.
func TestBakeOdd(t *testing.T) {
	s, base := openNode(t)
	tests := []struct {
		name   string
		baking soulbox.Baking
		after  string // a command in a sandbox of it, which succeeds
		told   int    // at least so many bytes, and not much more; 0: any
	}{
		{name: "nothing", after: "true"},
		{name: "start daemonises", baking: soulbox.Baking{Start: "setsid sleep 1h >/dev/null 2>&1 </dev/null & exit 0", Ready: "sleep 1"}, after: "pgrep -x sleep"},
		{name: "ready later", baking: soulbox.Baking{Start: "sleep 5; touch /tmp/there; sleep 1h", Ready: "test -f /tmp/there"}, after: "test -f /tmp/there"},
		{name: "only ready", baking: soulbox.Baking{Ready: "echo x >> /tmp/tries; test $(wc -l </tmp/tries) = 2"}, after: "test $(wc -l </tmp/tries) = 2"},
		{name: "writes for ever", baking: soulbox.Baking{Start: "yes 0123456789012345678901234567890123456789", Ready: "sleep 5"}, after: "pgrep -x yes", told: 400 << 10},
		{name: "one endless line", baking: soulbox.Baking{Start: "tr '\\0' x </dev/zero", Ready: "sleep 5"}, after: "pgrep -x tr", told: 1000 << 10},
		{name: "no text", baking: soulbox.Baking{Start: "head -c 100000 /dev/urandom; sleep 1h", Ready: "sleep 2"}, after: "pgrep -x sleep"},
		{name: "as E2B has it", baking: soulbox.Baking{Start: "sleep 15; touch /tmp/there; sleep 1h"}, after: "test -f /tmp/there"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l told
			tpl := s.bake(t, base, tt.baking, l.say)
			sb := s.sandbox(tpl)
			if err := s.node.Create(t.Context(), sb, tpl); err != nil {
				t.Fatal(err)
			}
			if got := s.run(t, sb.ID, "("+tt.after+") >/dev/null && echo yes"); got != "yes" {
				t.Errorf("%s does not succeed: %q", tt.after, got)
			}
			text := l.text()
			if size := len(text); size > 3<<19 || size < tt.told {
				t.Errorf("it told %d bytes in %d lines, want at least %d", size, len(l.lines), tt.told)
			}
			if tt.told > 0 && !strings.Contains(text, "[finalize] The output is too long") {
				t.Error("it does not say that this is not all")
			}
			for _, line := range l.lines {
				if len(line.Message) > 5<<10 || strings.ContainsFunc(line.Message, func(r rune) bool { return r < ' ' && r != '\t' }) {
					t.Errorf("a line is %.200q", line.Message)
				}
			}
			if err := s.node.Destroy(t.Context(), sb.ID); err != nil {
				t.Error(err)
			}
			if err := s.node.RemoveSnapshot(t.Context(), tpl.Snapshot); err != nil {
				t.Error(err)
			}
		})
	}
}

// A bakeJob is for a server that is to die while it bakes.
type bakeJob struct {
	Data, Instance, Fault string
	Template              *soulbox.Template
	Baking                soulbox.Baking
}

func bakeAndDie(text string) {
	var job bakeJob
	err := json.Unmarshal([]byte(text), &job)
	if err == nil {
		err = job.run()
	}
	panic(fmt.Sprint("it did not die: ", err))
}

func (j *bakeJob) run() error {
	o, err := nodeOptions(slog.New(slog.DiscardHandler), j.Data, j.Instance)
	if err != nil {
		return err
	}
	o.Faults = fault.Arm(j.Fault)
	n, err := node.Open(context.Background(), o)
	if err != nil {
		return err
	}
	_, err = n.Bake(context.Background(), j.Template, j.Baking, func(soulbox.BuildLine) {})
	return err
}

// TestKilledWhileBaking kills a server at each step of a bake. The next one
// removes what is left, the snapshot included, which nobody has heard of.
func TestKilledWhileBaking(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	s.Stop(t)
	base := baseOf(t, s.Data)
	for _, step := range []string{
		"node/recorded", "node/started", "bake/booted", "bake/started", "bake/ready", "bake/frozen", "snapshot/saved", "snapshot/synced", "bake/written",
	} {
		t.Run(step, func(t *testing.T) {
			job, err := json.Marshal(bakeJob{
				Data: s.Data, Instance: s.Instance(t), Fault: step, Template: base,
				Baking: soulbox.Baking{Snapshot: soulbox.NewSnapshotID(), Start: serve, Ready: "curl -sf http://localhost:8000"},
			})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), bakeVar+"="+string(job))
			if out, err := cmd.CombinedOutput(); err == nil || err.Error() != "signal: killed" {
				t.Fatalf("the server ended with %v: %s", err, out)
			}
			if len(s.Leftovers(t)) == 0 {
				t.Error("nothing was left: the check below proves nothing")
			}
			s.Start(t)
			s.Stop(t)
			s.WantNothingLeft(t)
			for _, folder := range []string{"snapshots", "journals"} {
				if left := names(t, filepath.Join(s.Data, folder)); len(left) > 0 {
					t.Errorf("left in %s: %v", folder, left)
				}
			}
		})
	}
}
