package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
	"github.com/soulbox/soulbox/node/guest"
)

// spawn starts a script in a sandbox and leaves it alone.
func (s shell) spawn(t *testing.T, id soulbox.SandboxID, script string) {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.node.Dial(ctx, id, guest.Port)
	}}
	defer tr.CloseIdleConnections()
	c := &connectjson.Client{
		HTTP: &http.Client{Transport: tr}, Base: "http://agent",
		Header: http.Header{"X-Access-Token": {s.seed.AgentToken(id)}, "Authorization": {"Basic dXNlcjo="}},
	}
	type object = map[string]any
	in, err := connectjson.Open[started](t.Context(), c, "/process.Process/Start",
		&object{"process": object{"cmd": "/bin/bash", "args": []string{"-l", "-c", script}}, "stdin": false})
	if err != nil {
		t.Fatalf("spawn in %s: %v", id, err)
	}
	defer in.Close()
	if _, err := in.Receive(); err != nil {
		t.Fatalf("spawn in %s: %v", id, err)
	}
}

var errRead = errors.New("read")

// record returns the events of a sandbox up to its head, and where it stands.
func (s shell) record(t *testing.T, id soulbox.SandboxID) ([]soulbox.GuestEvent, soulbox.GuestPosition) {
	t.Helper()
	p, err := s.node.Position(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var events []soulbox.GuestEvent
	err = s.node.Follow(t.Context(), id, 0, func(e soulbox.GuestEvent) error {
		events = append(events, e)
		if e.Seq >= p.Head {
			return errRead
		}
		return nil
	})
	if !errors.Is(err, errRead) {
		t.Fatalf("Follow %s: %v", id, err)
	}
	return events, p
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s", what)
		}
	}
}

// The record of a sandbox goes on in all that is restored from it, and what
// two of them do differently never has the same number in the same epoch.
func TestRecordOfRealSandboxes(t *testing.T) {
	s, base := openNode(t)
	sandbox := func() *soulbox.Sandbox {
		return &soulbox.Sandbox{ID: soulbox.NewSandboxID(), Size: base.Size, Secure: true, Network: soulbox.Network{Internet: true}}
	}
	first := sandbox()
	if err := s.node.Create(t.Context(), first, base); err != nil {
		t.Fatal(err)
	}
	s.run(t, first.ID, "mkdir work; echo before")
	if err := s.node.Record(t.Context(), first.ID, []string{"/home/user/work"}); err != nil {
		t.Fatal(err)
	}
	// It writes all the time, also while it is written down and right after it
	// is restored.
	s.spawn(t, first.ID, "while :; do echo $RANDOM$RANDOM$RANDOM; sleep 0.002; done")
	if got := s.run(t, first.ID, "echo hello | tee work/file; ls /var/lib/soulbox 2>&1"); !strings.HasPrefix(got, "hello") {
		t.Error(got)
	}
	snap := &soulbox.Snapshot{ID: soulbox.NewSnapshotID(), Sandbox: first.ID, Memory: true, Secure: true, Size: base.Size, User: base.User, Image: base.Image, Template: base.ID}
	if _, err := s.node.Snapshot(t.Context(), first.ID, snap, false); err != nil {
		t.Fatal(err)
	}
	s.run(t, first.ID, "sleep 0.1")

	type key struct {
		epoch string
		seq   uint64
	}
	seen := map[key]string{}
	tell := func(id soulbox.SandboxID) (events []soulbox.GuestEvent, p soulbox.GuestPosition) {
		events, p = s.record(t, id)
		next := uint64(0)
		at := -1
		for _, e := range events {
			if next++; e.Seq != next || e.Kind == soulbox.EventGap {
				t.Fatalf("%s: event %d is %d", id, next, e.Seq)
			}
			for at+1 < len(p.Epochs) && p.Epochs[at+1].From <= e.Seq {
				at++
			}
			k, what := key{p.Epochs[at].ID, e.Seq}, fmt.Sprintf("%s %d %s%s%s %d", e.Kind, e.PID, e.Command, e.Data, e.Path, e.At.UnixNano())
			if other, ok := seen[k]; ok && other != what {
				t.Errorf("%s: event %d of epoch %s is %q and %q", id, e.Seq, k.epoch, what, other)
			}
			seen[k] = what
		}
		return events, p
	}
	events, was := tell(first.ID)
	if !slices.ContainsFunc(events, func(e soulbox.GuestEvent) bool {
		return e.Kind == soulbox.EventFile && e.Path == "/home/user/work/file" && e.Op == "create"
	}) {
		t.Error("no event about work/file")
	}
	if slices.ContainsFunc(events, func(e soulbox.GuestEvent) bool { return strings.Contains(string(e.Data), "before") }) {
		t.Error("something is recorded of the time before")
	}
	for range 3 {
		fork := sandbox()
		if err := s.node.Restore(t.Context(), fork, snap); err != nil {
			t.Fatal(err)
		}
		s.run(t, fork.ID, "echo there > work/"+string(fork.ID))
		eventually(t, "the file in the record", func() bool {
			events, _ := s.record(t, fork.ID)
			return slices.ContainsFunc(events, func(e soulbox.GuestEvent) bool {
				return e.Kind == soulbox.EventFile && e.Path == "/home/user/work/"+string(fork.ID)
			})
		})
		_, p := tell(fork.ID)
		t.Logf("first at %+v, fork at %+v", was, p)
		if p.Epochs[0] != was.Epochs[0] || len(p.Epochs) < 2 || p.Epochs[1].From > was.Head {
			t.Errorf("a fork is at %+v, the first one at %+v", p, was)
		}
		if err := s.node.Destroy(t.Context(), fork.ID); err != nil {
			t.Error(err)
		}
	}

	// From the files alone: its agent starts anew.
	bare := *snap
	bare.Memory = false
	fork := sandbox()
	if err := s.node.Restore(t.Context(), fork, &bare); err != nil {
		t.Fatal(err)
	}
	s.run(t, fork.ID, "echo cold > work/cold")
	eventually(t, "the file in the record", func() bool {
		events, _ := s.record(t, fork.ID)
		return slices.ContainsFunc(events, func(e soulbox.GuestEvent) bool { return e.Path == "/home/user/work/cold" })
	})
	_, p := tell(fork.ID)
	if p.Epochs[0] != was.Epochs[0] || len(p.Epochs) < 2 {
		t.Errorf("from files %+v, the first one at %+v", p, was)
	}
}

func TestStateOfRealSandboxes(t *testing.T) {
	s, base := openNode(t)
	sb := &soulbox.Sandbox{ID: soulbox.NewSandboxID(), Size: base.Size, Secure: true, Network: soulbox.Network{Internet: true}}
	if err := s.node.Create(t.Context(), sb, base); err != nil {
		t.Fatal(err)
	}
	s.spawn(t, sb.ID, `cd /usr/share; export NAME=value; exec python3 -c '
import socket, sys
f = open("/etc/hostname")
a = socket.socket(); a.bind(("127.0.0.1", 8001)); a.listen()
b = socket.socket(socket.AF_INET6); b.bind(("::", 8002)); b.listen()
n = 0
while n < 3000000: n += 1
import time
time.sleep(1000)
'`)
	var st soulbox.GuestState
	var p soulbox.GuestProcess
	eventually(t, "as it should be", func() bool {
		var err error
		if st, err = s.node.Observe(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(st.Processes, func(p soulbox.GuestProcess) bool { return strings.HasPrefix(p.Command, "python3 -c") })
		if i >= 0 {
			p = st.Processes[i]
		}
		return i >= 0 && len(st.Ports) == 2 && p.CPU > 0
	})
	p.Command = ""
	if p.PID <= 1 || p.PPID != 1 || p.Dir != "/usr/share" || p.Env["NAME"] != "value" || !slices.Contains(p.OpenFiles, "/etc/hostname") {
		t.Errorf("%+v", p)
	}
	if age := time.Since(p.StartedAt); age < -2*time.Second || age > time.Minute {
		t.Errorf("it started %v ago", age)
	}
	want := []soulbox.GuestPort{{Port: 8001, Address: "127.0.0.1", PID: p.PID}, {Port: 8002, Address: "::", PID: p.PID}}
	if !slices.Equal(st.Ports, want) || st.Truncated {
		t.Errorf("ports %+v, want %+v", st.Ports, want)
	}
}
