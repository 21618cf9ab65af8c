package guest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/event"
	"github.com/soulbox/soulbox/node/guest"
)

// chatter has a process in the sandbox write about n bytes of random lines,
// on both streams, and returns them.
func chatter(t *testing.T, addr, dir string, n int, rnd *rand.Rand) (stdout, stderr []byte) {
	t.Helper()
	for len(stdout)+len(stderr) < n {
		line := make([]byte, rnd.IntN(3000))
		for i := range line {
			line[i] = byte(rnd.UintN(256))
		}
		if rnd.IntN(10) == 0 {
			stderr = append(append(stderr, line...), '\n')
		} else {
			stdout = append(append(stdout, line...), '\n')
		}
	}
	for name, b := range map[string][]byte{"out": stdout, "err": stderr} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, addr, "/bin/sh", "-c", fmt.Sprintf("cat %s/err >&2 & cat %s/out; wait", dir, dir))
	return stdout, stderr
}

// A follower that is cut off again and again, anywhere, ends with every byte.
func TestFollowCut(t *testing.T) {
	addr, _ := realAgent(t)
	owner := agentAt(t, addr, "secret")
	if err := owner.Init(t.Context(), guest.Identity{Sandbox: "ione", Token: "secret"}); err != nil {
		t.Fatal(err)
	}
	if err := owner.Record(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	type written struct{ stdout, stderr []byte }
	done := make(chan written, 1)
	ours := rand.New(rand.NewPCG(seed, 1))
	go func() {
		stdout, stderr := chatter(t, addr, dir, 5<<20, ours)
		done <- written{stdout, stderr}
	}()

	got := map[string][]byte{}
	var after uint64
	cuts := 0
	for ended := false; !ended; cuts++ {
		// The connection breaks in the middle of a frame, most times.
		left := rnd.Int64N(400 << 10)
		a := guest.New(func(ctx context.Context, _ uint16) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", addr)
			return &shortConn{conn, left}, err
		}, "secret")
		err := a.Follow(t.Context(), after, func(e soulbox.GuestEvent) error {
			if e.Seq != after+1 || e.Kind == soulbox.EventGap {
				t.Errorf("%d %s (lost %d) after %d", e.Seq, e.Kind, e.Lost, after)
			}
			after = e.Seq
			switch e.Kind { //nolint:exhaustive // the others are of other tests
			case soulbox.EventOutput:
				got[e.Stream] = append(got[e.Stream], e.Data...)
			case soulbox.EventEnded:
				ended = true
				return errFound
			}
			return nil
		})
		a.Close()
		if err == nil || ended != errors.Is(err, errFound) {
			t.Fatalf("Follow: %v", err)
		}
		if t.Failed() {
			break
		}
	}
	want := <-done
	if !bytes.Equal(got["stdout"], want.stdout) || !bytes.Equal(got["stderr"], want.stderr) || cuts < 5 {
		t.Errorf("after %d cuts %d and %d bytes of %d and %d, or others", cuts, len(got["stdout"]), len(got["stderr"]), len(want.stdout), len(want.stderr))
	}
}

// shortConn breaks after so many bytes.
type shortConn struct {
	net.Conn
	left int64
}

func (c *shortConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("the connection broke")
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

func TestRealRecord(t *testing.T) {
	addr, root := realAgent(t)
	stranger, owner := agentAt(t, addr, ""), agentAt(t, addr, "secret")
	id := guest.Identity{Sandbox: "ione", Token: "secret"}
	if err := owner.Init(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if p, err := owner.Position(t.Context()); err != nil || p.Head != 0 || p.Tail != 0 || len(p.Epochs) != 0 {
		t.Errorf("a record that is off is at %+v, %v", p, err)
	}
	nothing := func(soulbox.GuestEvent) error { return errors.New("an event") }
	if err := owner.Follow(t.Context(), 0, nothing); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Follow of a record that is off: %v", err)
	}
	for _, bad := range [][]string{{"relative"}, {root + "/none"}, {root + "/etc/passwd"}} {
		if err := owner.Record(t.Context(), bad); soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(err.Error(), "watched") {
			t.Errorf("Record(%q): %v", bad, err)
		}
	}
	watched := filepath.Join(root, "watched")
	if err := os.Mkdir(watched, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := owner.Record(t.Context(), []string{watched}); err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range map[string]error{
		"Record": stranger.Record(t.Context(), nil), "Follow": stranger.Follow(t.Context(), 0, nothing),
	} {
		if err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("%s without the token: %v", what, err)
		}
	}
	if _, err := stranger.Position(t.Context()); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("Position without the token: %v", err)
	}
	if _, err := stranger.State(t.Context()); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("State without the token: %v", err)
	}

	say(t, addr, "hello")
	if err := os.WriteFile(filepath.Join(watched, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var events []soulbox.GuestEvent
	within(t, "Follow", patience, func() {
		err := owner.Follow(t.Context(), 0, func(e soulbox.GuestEvent) error {
			if e.At.Before(time.Now().Add(-time.Minute)) {
				t.Errorf("event %d is of %v", e.Seq, e.At)
			}
			e.At = time.Time{}
			events = append(events, e)
			if e.Kind == soulbox.EventFile {
				return errFound
			}
			return nil
		})
		if !errors.Is(err, errFound) {
			t.Errorf("Follow: %v", err)
		}
	})
	if len(events) != 4 {
		t.Fatalf("events %+v", events)
	}
	pid := events[0].PID
	want := []soulbox.GuestEvent{
		{Seq: 1, Kind: soulbox.EventStarted, PID: pid, Command: "/bin/echo hello"},
		{Seq: 2, Kind: soulbox.EventOutput, PID: pid, Stream: "stdout", Data: []byte("hello\n")},
		{Seq: 3, Kind: soulbox.EventEnded, PID: pid},
		{Seq: 4, Kind: soulbox.EventFile, Path: filepath.Join(watched, "file"), Op: "create"},
	}
	if diff := cmp.Diff(want, events); diff != "" || pid == 0 {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	before, err := owner.Position(t.Context())
	if err != nil || before.Tail != 1 || before.Head < 4 || before.Epochs[0].From != 1 {
		t.Errorf("position %+v, %v", before, err)
	}
	if err := owner.Init(t.Context(), id); err != nil { // as after a restore
		t.Fatal(err)
	}
	p, err := owner.Position(t.Context())
	if n := len(before.Epochs); err != nil || len(p.Epochs) <= n || !cmp.Equal(p.Epochs[:n], before.Epochs) || p.Epochs[n].From <= before.Head {
		t.Errorf("after a restore %+v, %v; was %+v", p, err, before)
	}
	if err := owner.Follow(t.Context(), p.Head+100, nothing); soulbox.KindOf(err) != soulbox.Conflict {
		t.Errorf("Follow from the future: %v", err)
	}
}

// When more was written than is kept, the reader is told how much is missing.
func TestRealRecordTurns(t *testing.T) {
	addr, _ := realAgent(t)
	owner := agentAt(t, addr, "secret")
	if err := owner.Init(t.Context(), guest.Identity{Sandbox: "ione", Token: "secret"}); err != nil {
		t.Fatal(err)
	}
	if err := owner.Record(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	stdout, _ := chatter(t, addr, t.TempDir(), 30<<20, rand.New(rand.NewPCG(seed, 0)))
	var got []byte
	gaps := 0
	err := owner.Follow(t.Context(), 0, func(e soulbox.GuestEvent) error {
		switch e.Kind { //nolint:exhaustive // the others are of other tests
		case soulbox.EventGap:
			gaps++
			if e.Seq != e.Lost || len(got) > 0 {
				t.Errorf("a gap of %d up to %d", e.Lost, e.Seq)
			}
		case soulbox.EventOutput:
			if e.Stream == "stdout" {
				got = append(got, e.Data...)
			}
		case soulbox.EventEnded:
			return errFound
		}
		return nil
	})
	if !errors.Is(err, errFound) || gaps != 1 || !bytes.HasSuffix(stdout, got) || len(got) < 8<<20 || len(got) > 16<<20 {
		t.Errorf("%v: %d gaps, %d bytes of %d", err, gaps, len(got), len(stdout))
	}
}

func TestRealState(t *testing.T) {
	addr, _ := realAgent(t)
	owner := agentAt(t, addr, "secret")
	if err := owner.Init(t.Context(), guest.Identity{Sandbox: "ione", Token: "secret", Env: map[string]string{"GREETING": "hello"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = runContext(ctx, addr, "/bin/sh", "-c", "cd /usr; sleep 1000; true") // until the agent ends
	}()
	within(t, "the process", patience, func() {
		for {
			s, err := owner.State(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			for _, p := range s.Processes {
				if p.Command == "sleep 1000" && p.Dir == "/usr" && p.Env["GREETING"] == "hello" && !s.At.IsZero() && !p.StartedAt.After(time.Now()) {
					return
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	cancel()
	<-done
}

// frames returns what an agent with these events sends.
func frames(events ...event.Event) []byte {
	var b []byte
	for i := range events {
		b = event.Append(b, &events[i])
	}
	return b
}

func TestFollowHostile(t *testing.T) {
	file := func(seq uint64, path string) event.Event {
		return event.Event{Kind: event.File, Seq: seq, Op: "write", Text: []byte(path)}
	}
	tests := map[string]struct {
		send []byte
		good int
		text string
	}{
		"nothing":          {nil, 0, "unexpected EOF"},
		"not_a_frame":      {[]byte("HTTP/1.1 200 OK\r\n"), 0, "event of"},
		"half_a_frame":     {frames(file(8, "/a"), file(9, "/b"))[:20], 1, "unexpected EOF"},
		"checksum":         {append(frames(file(8, "/a")), 1, 0, 0, 0, 0, 0, 0, 0, 0), 1, "checksum"},
		"again":            {frames(file(8, "/a"), file(8, "/a")), 1, "does not follow 8"},
		"backwards":        {frames(file(7, "/a")), 0, "does not follow 7"},
		"a_silent_gap":     {frames(file(8, "/a"), file(10, "/a")), 1, "does not follow 8"},
		"a_short_gap":      {frames(event.Event{Kind: event.Gap, Seq: 10, Lost: 2}), 0, "does not follow 7"},
		"a_gap_too_long":   {frames(event.Event{Kind: event.Gap, Seq: 10, Lost: 10}), 0, "does not follow 7"},
		"a_gap_to_the_end": {frames(event.Event{Kind: event.Gap, Seq: math.MaxUint64, Lost: math.MaxUint64 - 7}, file(1, "/a")), 1, "does not follow"},
		"relative":         {frames(file(8, "a")), 0, "absolute"},
		"zero":             {frames(file(8, "/a\x00")), 0, "zero byte"},
		"alive":            {frames(event.Event{}, file(8, "/a"), event.Event{}, file(9, "/a")), 2, "unexpected EOF"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := standIn(t, "", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.String() != "/soulbox/record?after=7" {
					t.Errorf("asked for %s", r.URL)
				}
				_, _ = w.Write(tt.send)
			})
			got := 0
			err := a.Follow(t.Context(), 7, func(soulbox.GuestEvent) error { got++; return nil })
			if got != tt.good || err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%d events, then %v; want %d and %q", got, err, tt.good, tt.text)
			}
		})
	}
	t.Run("text", func(t *testing.T) {
		a := standIn(t, "", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(frames(event.Event{Kind: event.Started, Seq: 8, PID: 1, At: math.MaxInt64, Text: []byte("a\xffb")}))
		})
		var got soulbox.GuestEvent
		_ = a.Follow(t.Context(), 7, func(e soulbox.GuestEvent) error { got = e; return io.EOF })
		if got.Command != "a\uFFFDb" || got.At.After(time.Now()) {
			t.Errorf("%+v", got)
		}
	})
}

func TestObserveHostile(t *testing.T) {
	answer := func(status int, text string) *guest.Agent {
		return standIn(t, "", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		})
	}
	many := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	epochs := func(list string) string { return `{"epochs":[` + list + `],"head":5,"tail":2}` }
	for _, bad := range []string{
		"", "null!", `{"head":-1}`, `{"head":1}`, `{"tail":1}`, epochs(""), `{"epochs":[{"id":"a","from":1}],"head":5,"tail":0}`, `{"epochs":[{"id":"a","from":1}],"head":5,"tail":7}`,
		epochs(`{"id":"","from":1}`), epochs(`{"id":"A","from":1}`), epochs(`{"id":"` + strings.Repeat("a", 65) + `","from":1}`), epochs(`{"id":"a","from":0}`),
		epochs(`{"id":"a","from":7}`), epochs(`{"id":"a","from":3},{"id":"b","from":2}`), epochs(`{"id":"a","from":3},{"id":"a","from":3}`), epochs(many(65, `{"id":"a","from":1}`)),
		`{"epochs":[` + strings.Repeat(" ", 70<<10) + `]}`,
	} {
		if p, err := answer(200, bad).Position(t.Context()); err == nil || len(err.Error()) > 4<<10 {
			t.Errorf("%.100s is the position %+v, %v", bad, p, err)
		}
	}
	want := soulbox.GuestPosition{Epochs: []soulbox.GuestEpoch{{ID: "a", From: 1}, {ID: "b", From: 6}}, Head: 5, Tail: 2}
	if p, err := answer(200, epochs(`{"id":"a","from":1},{"id":"b","from":6}`)).Position(t.Context()); err != nil || !cmp.Equal(p, want) {
		t.Errorf("position %+v, %v", p, err)
	}

	process := func(rest string) string { return `{"processes":[{"pid":1` + rest + `}]}` }
	for _, bad := range []string{
		"", "[]", `{"processes":[{}]}`, process(`,"pid":99999999999`), process(`,"ppid":-1`), process(`,"cpu":-1`), process(`,"command":"\u0000"`),
		process(`,"command":"` + strings.Repeat("x", 13<<10) + `"`), process(`,"dir":"` + strings.Repeat("x", 13<<10) + `"`), process(`,"env":{"A":"\u0000"}`),
		process(`,"env":{"A":"` + strings.Repeat("x", 200<<10) + `"}`), process(`,"openFiles":[` + many(257, `"/a"`) + `]`), process(`,"openFiles":["/\u0000"]`),
		`{"processes":[` + many(513, `{"pid":1}`) + `]}`, `{"ports":[{"port":0,"address":"::"}]}`, `{"ports":[{"port":70000,"address":"::"}]}`, `{"ports":[{"port":1,"address":"here"}]}`, `{"ports":[{"port":1}]}`,
		`{"ports":[` + many(513, `{"port":1,"address":"::"}`) + `]}`, `{"at":"` + strings.Repeat("x", 17<<20) + `"}`,
	} {
		if s, err := answer(200, bad).State(t.Context()); err == nil || len(err.Error()) > 4<<10 {
			t.Errorf("%.100s is the state %.100v, %v", bad, s, err)
		}
	}
	s, err := answer(200, `{"at":"2026-01-02T12:00:00Z","processes":[{"pid":2,"ppid":1,"command":"c","env":{"A":"b"},"cpu":5,"startedAt":"9999-12-31T23:59:59-23:00"}],"ports":[{"port":80,"address":"fe80::1%eth0","pid":2}],"truncated":true}`).State(t.Context())
	if err != nil || len(s.Processes) != 1 || s.Processes[0].CPU != 5 || s.Processes[0].StartedAt.After(time.Now()) || s.Ports[0].Address != "fe80::1" || !s.Truncated {
		t.Errorf("state %+v, %v", s, err)
	}
	if _, err := json.Marshal(s); err != nil {
		t.Error(err)
	}

	for status, kind := range map[int]soulbox.Kind{400: soulbox.Invalid, 404: soulbox.Internal, 409: soulbox.Conflict, 500: soulbox.Internal} {
		err := answer(status, `{"message":"why \u0000 not"}`).Record(t.Context(), nil)
		if soulbox.KindOf(err) != kind || kind == soulbox.Invalid && err.Error() != "why \uFFFD not" || (status == 404) != errors.Is(err, guest.ErrNoRecord) {
			t.Errorf("status %d: %v", status, err)
		}
	}
	for _, text := range []string{"", "no", `{"message":"` + strings.Repeat("x", 1000)} {
		if err := answer(400, text).Record(t.Context(), nil); soulbox.KindOf(err) != soulbox.Invalid || err.Error() == "" || len(err.Error()) > 1000 {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}
