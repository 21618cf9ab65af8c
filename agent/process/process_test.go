package process_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/agent/account"
	"github.com/soulbox/soulbox/agent/journal"
	"github.com/soulbox/soulbox/agent/process"
	"github.com/soulbox/soulbox/agent/record"
	"github.com/soulbox/soulbox/internal/connectjson"
	wire "github.com/soulbox/soulbox/internal/event"
)

// What a client sees of the service, written down once more: a change of the
// wire must fail here.
type (
	object = map[string]any

	event struct {
		Start *struct {
			PID uint32 `json:"pid"`
		} `json:"start"`
		Data *struct {
			Stdout, Stderr, PTY connectjson.Bytes
		} `json:"data"`
		End *struct {
			ExitCode int    `json:"exitCode"`
			Exited   bool   `json:"exited"`
			Status   string `json:"status"`
			Error    string `json:"error"`
		} `json:"end"`
		Keepalive *struct{} `json:"keepalive"`
	}
	response struct {
		Event event `json:"event"`
	}
)

// fixture is a service behind a real server, with accounts root and user.
type fixture struct {
	*connectjson.Client
	accounts *account.Registry
	journal  *journal.Journal
	record   *record.Recorder
	home     string
}

const testUID = 54321

func serve(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	for _, err := range []error{
		os.Chmod(filepath.Dir(dir), 0o755), // the test's user must get in
		os.Mkdir(home, 0o755),
		os.Chown(home, testUID, testUID),
		os.WriteFile(dir+"/passwd", fmt.Appendf(nil, "root:x:0:0::/root:/bin/bash\nuser:x:%d:%d::%s:/bin/bash\n", testUID, testUID, home), 0o600),
		os.WriteFile(dir+"/group", fmt.Appendf(nil, "root:x:0:\nuser:x:%d:\nextra:x:61234:user\n", testUID), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f := &fixture{accounts: account.New(dir+"/passwd", dir+"/group"), journal: &journal.Journal{}, record: record.New(record.Options{Dir: dir + "/record"}), home: home}
	t.Cleanup(f.record.Close)
	s := process.New(process.Options{Accounts: f.accounts, Journal: f.journal, Record: f.record, Path: "/usr/bin:/bin", OOMScoreAdj: 100})
	mux := http.NewServeMux()
	s.Register(mux)
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		s.Close()
		srv.Close()
	})
	f.Client = &connectjson.Client{HTTP: &http.Client{}, Base: srv.URL + "/process.Process"}
	return f
}

// as returns a fixture whose calls name a user.
func (f *fixture) as(user string) *fixture {
	other := *f
	c := *f.Client
	c.Header = http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"))}}
	other.Client = &c
	return &other
}

// started is a program that has sent its pid.
type started struct {
	t   *testing.T
	f   *fixture
	in  *connectjson.Receiver[response]
	pid uint32

	stdout, stderr, pty bytes.Buffer
	err                 error // how the stream ended
	end                 event
}

func (f *fixture) start(t *testing.T, req object) *started {
	t.Helper()
	return f.startContext(t, t.Context(), req)
}

func (f *fixture) startContext(t *testing.T, ctx context.Context, req object) *started { //nolint:revive // t first
	t.Helper()
	in, err := connectjson.Open[response](ctx, f.Client, "/Start", &req)
	if err != nil {
		t.Fatal(err)
	}
	return f.follow(t, in)
}

func (f *fixture) connect(t *testing.T, selector object) *started {
	t.Helper()
	in, err := connectjson.Open[response](t.Context(), f.Client, "/Connect", &object{"process": selector})
	if err != nil {
		t.Fatal(err)
	}
	return f.follow(t, in)
}

func (f *fixture) follow(t *testing.T, in *connectjson.Receiver[response]) *started {
	t.Helper()
	t.Cleanup(func() { in.Close() })
	s := &started{t: t, f: f, in: in}
	m, err := in.Receive()
	if err != nil {
		s.err = err
		return s
	}
	if m.Event.Start == nil {
		t.Fatalf("first event = %+v, want start", m.Event)
	}
	s.pid = m.Event.Start.PID
	return s
}

// next takes one event.
func (s *started) next() bool {
	m, err := s.in.Receive()
	if err != nil {
		s.err = err
		return false
	}
	switch e := m.Event; {
	case e.Data != nil:
		s.stdout.Write(e.Data.Stdout)
		s.stderr.Write(e.Data.Stderr)
		s.pty.Write(e.Data.PTY)
	case e.End != nil:
		s.end = e
	}
	return true
}

// wait takes events until the stream ends.
func (s *started) wait() *started {
	s.t.Helper()
	for s.err == nil && s.next() {
		continue
	}
	if s.end.End != nil && !errors.Is(s.err, io.EOF) {
		s.t.Fatalf("after the end: %v", s.err)
	}
	return s
}

// until takes events until a buffer holds text.
func (s *started) until(b *bytes.Buffer, text string) {
	s.t.Helper()
	for !strings.Contains(b.String(), text) {
		if !s.next() {
			s.t.Fatalf("stream ended with %v before %q; output so far %q", s.err, text, b.String())
		}
	}
}

func (f *fixture) call(t *testing.T, procedure string, req object) error {
	t.Helper()
	_, err := connectjson.Call[object](t.Context(), f.Client, procedure, &req)
	return err
}

func bash(script string) object {
	return object{"process": object{"cmd": "/bin/bash", "args": []string{"-c", script}}, "stdin": false}
}

func pid(n uint32) object { return object{"pid": n} }

// alive reports whether a process exists and is not a zombie.
func alive(pid uint32) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return rest[0] != 'Z' && rest[0] != 'X'
}

// eventually waits for a condition that another process brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 10 s: not %s", what)
		}
	}
}

func wantCode(t *testing.T, err error, code connectjson.Code, text string) {
	t.Helper()
	if connectjson.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want %s with %q", err, code, text)
	}
}

func TestRun(t *testing.T) {
	f := serve(t)
	tests := []struct {
		name           string
		req            object
		stdout, stderr string
		code           int
		status         string
	}{
		{"output", bash("echo out; echo err >&2"), "out\n", "err\n", 0, "exit status 0"},
		{"exit code", bash("exit 3"), "", "", 3, "exit status 3"},
		{"signal", bash("kill -9 $$"), "", "", -1, "signal: killed"},
		{"by name", object{"process": object{"cmd": "echo", "args": []string{"a b"}}}, "a b\n", "", 0, "exit status 0"},
		{"missing", object{"process": object{"cmd": "no-such-program"}}, "", "/bin/sh: 1: exec: no-such-program: not found\n", 127, "exit status 127"},
		{"missing path", object{"process": object{"cmd": "/no/such"}}, "", "/bin/sh: 1: exec: /no/such: not found\n", 127, "exit status 127"},
		{"not executable", object{"process": object{"cmd": "/etc/passwd"}}, "", "/bin/sh: 1: exec: /etc/passwd: Permission denied\n", 126, "exit status 126"},
		{"stdin is empty", bash("read x; echo $?"), "1\n", "", 0, "exit status 0"},
		{"oom score", bash("cat /proc/self/oom_score_adj"), "100\n", "", 0, "exit status 0"},
		{"own group", bash(`trap "" TERM; kill 0; echo alive`), "alive\n", "", 0, "exit status 0"},
		{"default signals", bash("yes | head -1; exit ${PIPESTATUS[0]}"), "y\n", "", 141, "exit status 141"},
		{"unknown fields", object{"process": object{"cmd": "true", "x": 1}, "future": true}, "", "", 0, "exit status 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := f.start(t, tt.req).wait()
			if s.end.End == nil {
				t.Fatalf("no end: %v", s.err)
			}
			end := *s.end.End
			if s.stdout.String() != tt.stdout || s.stderr.String() != tt.stderr || end.ExitCode != tt.code || end.Status != tt.status {
				t.Errorf("stdout %q, stderr %q, end %+v; want %q, %q, %d %s", s.stdout.String(), s.stderr.String(), end, tt.stdout, tt.stderr, tt.code, tt.status)
			}
			if end.Exited != (tt.code >= 0) || (end.Error == "") != (tt.code == 0) {
				t.Errorf("end = %+v", end)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	f := serve(t)
	f.accounts.ReplaceEnvs(map[string]string{"GLOBAL": "g", "BOTH": "g", "USER": "changed"})
	req := bash(`id -u; id -g; id -G; pwd; echo $HOME $LOGNAME $USER $GLOBAL $BOTH $PATH; env | grep -c ^BOTH=`)
	req["process"].(object)["envs"] = object{"BOTH": "request"}
	want := fmt.Sprintf("%d\n%[1]d\n%[1]d 61234\n%s\n%[2]s user changed g request /usr/bin:/bin\n1\n", testUID, f.home)
	if s := f.as("user").start(t, req).wait(); s.stdout.String() != want {
		t.Errorf("output = %q, want %q; stderr %q", s.stdout.String(), want, s.stderr.String())
	}
}

func TestRefused(t *testing.T) {
	f := serve(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.Mkdir(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	cwd := func(dir string) object {
		return object{"process": object{"cmd": "true", "cwd": dir}}
	}
	tests := []struct {
		name string
		user string
		req  object
		code connectjson.Code
		text string
	}{
		{"no command", "root", object{}, connectjson.InvalidArgument, "no command"},
		{"cwd missing", "root", cwd("/nope"), connectjson.InvalidArgument, "cwd '/nope' does not exist"},
		{"cwd is a file", "root", cwd("/etc/passwd"), connectjson.InvalidArgument, "not a directory"},
		{"cwd forbidden", "user", cwd(secret), connectjson.InvalidArgument, "permission denied"},
		{"cwd with NUL", "root", cwd("a\x00b"), connectjson.InvalidArgument, "NUL"},
		{"argument with NUL", "root", bash("\x00"), connectjson.InvalidArgument, "NUL"},
		{"variable with NUL", "root", object{"process": object{"cmd": "true", "envs": object{"A": "\x00"}}}, connectjson.InvalidArgument, "NUL"},
		{"unknown user", "ghost", bash("true"), connectjson.Unauthenticated, "invalid username: 'ghost'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantCode(t, f.as(tt.user).start(t, tt.req).err, tt.code, tt.text)
		})
	}
}

func TestDeadlineKills(t *testing.T) {
	f := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	s := f.startContext(t, ctx, bash("exec sleep 60")).wait()
	wantCode(t, s.err, connectjson.DeadlineExceeded, "deadline")
	eventually(t, "dead", func() bool { return !alive(s.pid) })
}

func TestDisconnectDoesNotKill(t *testing.T) {
	f := serve(t)
	flag := filepath.Join(t.TempDir(), "go")
	s := f.start(t, bash("echo before; while [ ! -e "+flag+" ]; do sleep 0.01; done; echo after; exit 4"))
	s.until(&s.stdout, "before")
	s.in.Close()
	again := f.connect(t, pid(s.pid))
	if again.err != nil || again.pid != s.pid {
		t.Fatalf("connect = %d, %v; want %d", again.pid, again.err, s.pid)
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again.wait()
	if again.end.End == nil || again.end.End.ExitCode != 4 || again.stdout.String() != "after\n" {
		t.Errorf("second stream: %q, %+v, %v; want only what came after", again.stdout.String(), again.end.End, again.err)
	}
}

func TestLateConnect(t *testing.T) {
	f := serve(t)
	req := bash("exit 5")
	req["tag"] = "late"
	s := f.start(t, req).wait()
	for _, sel := range []object{pid(s.pid), {"tag": "late"}} {
		late := f.connect(t, sel).wait()
		if late.end.End == nil || late.end.End.ExitCode != 5 {
			t.Errorf("late connect by %v = %+v, %v; want exit code 5", sel, late.end.End, late.err)
		}
	}
	// Only Connect looks back.
	wantCode(t, f.call(t, "/SendSignal", object{"process": pid(s.pid), "signal": 9}), connectjson.NotFound, "not found")
	wantCode(t, f.connect(t, pid(999999)).err, connectjson.NotFound, "process with pid 999999 not found")
	wantCode(t, f.connect(t, object{"tag": "x"}).err, connectjson.NotFound, "process with tag x not found")
	wantCode(t, f.connect(t, object{}).err, connectjson.InvalidArgument, "either pid or tag")
}

func TestKill(t *testing.T) {
	f := serve(t)
	for _, sig := range []any{"SIGNAL_SIGKILL", 9, "SIGNAL_SIGTERM", 15} {
		s := f.start(t, bash("exec sleep 60"))
		if err := f.call(t, "/SendSignal", object{"process": pid(s.pid), "signal": sig}); err != nil {
			t.Fatal(err)
		}
		// After KILL it is gone when the call returns.
		if sig == "SIGNAL_SIGKILL" && syscall.Kill(int(s.pid), 0) == nil {
			t.Errorf("pid %d is there after it was killed", s.pid)
		}
		if s.wait(); s.end.End == nil || s.end.End.ExitCode != -1 || s.end.End.Exited || !strings.HasPrefix(s.end.End.Status, "signal: ") {
			t.Errorf("end after %v = %+v", sig, s.end.End)
		}
	}
	s := f.start(t, bash("exec sleep 60"))
	for _, sig := range []any{"SIGNAL_SIGHUP", 1, nil} {
		wantCode(t, f.call(t, "/SendSignal", object{"process": pid(s.pid), "signal": sig}), connectjson.Unimplemented, "invalid signal")
	}
	wantCode(t, f.call(t, "/SendSignal", object{"process": pid(999999), "signal": 9}), connectjson.NotFound, "not found")
}

// A grandchild that keeps the output open keeps the stream open, until the
// process is killed through us.
func TestGrandchildHoldsOutput(t *testing.T) {
	f := serve(t)
	s := f.start(t, bash("echo first; (sleep 0.3; echo last) & exit 6")).wait()
	if s.stdout.String() != "first\nlast\n" || s.end.End.ExitCode != 6 {
		t.Errorf("output %q, end %+v; want both lines and 6", s.stdout.String(), s.end.End)
	}

	s = f.start(t, bash("sleep 60 & echo $!; exit 7"))
	s.until(&s.stdout, "\n")
	var grandchild int
	fmt.Sscan(s.stdout.String(), &grandchild)
	defer syscall.Kill(grandchild, syscall.SIGKILL)
	eventually(t, "dead", func() bool { return !alive(s.pid) })
	if err := f.call(t, "/SendSignal", object{"process": pid(s.pid), "signal": 9}); err != nil {
		t.Fatal(err)
	}
	if s.wait(); s.end.End == nil || s.end.End.ExitCode != 7 {
		t.Errorf("end = %+v, %v; want exit code 7", s.end.End, s.err)
	}
	if !alive(uint32(grandchild)) {
		t.Error("the grandchild was killed, too")
	}

	// What the process itself wrote before it was killed is not lost.
	s = f.start(t, bash("sleep 60 & head -c 60000 /dev/zero; echo; echo ready >&2; exec sleep 60"))
	s.until(&s.stderr, "ready")
	if err := f.call(t, "/SendSignal", object{"process": pid(s.pid), "signal": 9}); err != nil {
		t.Fatal(err)
	}
	if s.wait(); s.stdout.Len() != 60001 {
		t.Errorf("%d bytes of output, want 60001", s.stdout.Len())
	}
}

func TestList(t *testing.T) {
	f := serve(t)
	req := bash("exec sleep 60")
	req["tag"] = "mine"
	s := f.start(t, req)
	type list struct {
		Processes []struct {
			PID    uint32
			Tag    string
			Config struct {
				Cmd  string
				Args []string
			}
		}
	}
	got, err := connectjson.Call[list](t.Context(), f.Client, "/List", &object{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Processes) != 1 || got.Processes[0].PID != s.pid || got.Processes[0].Tag != "mine" || got.Processes[0].Config.Args[1] != "exec sleep 60" {
		t.Errorf("list = %+v", got)
	}
	if err := f.call(t, "/SendSignal", object{"process": object{"tag": "mine"}, "signal": 9}); err != nil {
		t.Fatal(err)
	}
	s.wait()
	if got, err = connectjson.Call[list](t.Context(), f.Client, "/List", &object{}); err != nil || len(got.Processes) != 0 {
		t.Errorf("list after the end = %+v, %v", got, err)
	}
}

func TestKeepalive(t *testing.T) {
	f := serve(t)
	f.Header = http.Header{"Keepalive-Ping-Interval": {"1"}}
	s := f.start(t, bash("exec sleep 60"))
	m, err := s.in.Receive()
	if err != nil || m.Event.Keepalive == nil {
		t.Errorf("first event of a silent process = %+v, %v; want keepalive", m, err)
	}
}

func TestJournal(t *testing.T) {
	f := serve(t)
	f.start(t, bash("echo hello; exit 3")).wait()
	entries, err := f.journal.Next(t.Context(), 0)
	if err != nil || len(entries) != 3 || entries[1].Message != "hello" || entries[2].Fields["exit_code"] != "3" {
		t.Errorf("journal = %+v, %v", entries, err)
	}
}

// The record has every byte of each stream in order, between a start and an
// end, and nothing of the time before it was on.
func TestRecord(t *testing.T) {
	f := serve(t)
	f.start(t, bash("echo before")).wait()
	if err := f.record.Start(nil); err != nil {
		t.Fatal(err)
	}
	const script = "for i in {1..3000}; do echo line $i $RANDOM; done; printf '\\xff\\0end' >&2; exit 3"
	s := f.start(t, bash(script)).wait()
	terminal := f.start(t, object{"process": object{"cmd": "/bin/echo", "args": []string{"hello"}}, "pty": object{"size": object{"cols": 80, "rows": 24}}}).wait()
	killed := f.start(t, bash("kill -9 $$")).wait()

	got := map[uint32]*strings.Builder{s.pid: {}, terminal.pid: {}, killed.pid: {}}
	streams := map[string]string{}
	d, err := f.record.After(0)
	if err != nil {
		t.Fatal(err)
	}
	for seq, head := uint64(0), f.record.Position().Head; seq < head; {
		frames, err := d.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for len(frames) > 0 {
			e, n, err := wire.Parse(frames)
			if err != nil || e.Seq != seq+1 || got[uint32(e.PID)] == nil {
				t.Fatalf("%+v, %v after %d", e, err, seq)
			}
			switch e.Kind {
			case wire.Started:
				fmt.Fprintf(got[uint32(e.PID)], "<%.20s>", e.Text)
			case wire.Output:
				streams[fmt.Sprint(e.PID, e.Stream)] += string(e.Text)
			case wire.Ended:
				fmt.Fprintf(got[uint32(e.PID)], "<%d %s>", e.ExitCode, e.Text)
			default:
				t.Errorf("%+v", e)
			}
			frames, seq = frames[n:], e.Seq
		}
	}
	for pid, want := range map[uint32]string{
		s.pid:        "</bin/bash -c for i i><3 >",
		terminal.pid: "</bin/echo hello><0 >",
		killed.pid:   "</bin/bash -c kill -9><-1 SIGKILL>",
	} {
		if got[pid].String() != want {
			t.Errorf("got %q, want %q", got[pid], want)
		}
	}
	want := map[string]string{
		fmt.Sprint(s.pid, "stdout"): s.stdout.String(), fmt.Sprint(s.pid, "stderr"): "\xff\x00end", fmt.Sprint(terminal.pid, "pty"): "hello\r\n",
	}
	if diff := cmp.Diff(want, streams); diff != "" || s.stdout.Len() < 30000 {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestManyAtOnce(t *testing.T) {
	f := serve(t)
	const n = 60
	codes := make(chan int, n)
	for i := range n {
		go func() {
			in, err := connectjson.Open[response](t.Context(), f.Client, "/Start", &object{"process": object{"cmd": "/bin/sh", "args": []string{"-c", fmt.Sprintf("exit %d", i)}}})
			if err != nil {
				codes <- -100
				return
			}
			defer in.Close()
			code := -200
			for {
				m, err := in.Receive()
				if err != nil {
					break
				}
				if m.Event.End != nil {
					code = m.Event.End.ExitCode
				}
			}
			codes <- code - i
		}()
	}
	for range n {
		if d := <-codes; d != 0 {
			t.Errorf("an exit code is off by %d", d)
		}
	}
}
