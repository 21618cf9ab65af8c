package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/client/clienttest"
)

func TestTree(t *testing.T) {
	tests := []struct {
		name string
		list string // pairs of id and parent
		want []string
	}{
		{"none", "", nil},
		{"chain", "a: b:a c:b", []string{"a", "b", "c"}},
		{"branches", "a: b:a c:b d:a e:d f:d", []string{"a", "├─ b", "│  c", "└─ d", "   ├─ e", "   └─ f"}},
		{"several roots", "a: b:gone c:b d:a", []string{"├─ a", "│  d", "└─ b", "   c"}},
		{"parents that come later", "a:b b:a", []string{"a", "b"}},
		{"its own parent", "a:a b:a", []string{"a", "b"}},
		{"the same twice", "a: a: b:a", []string{"├─ a", "└─ a", "   b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var list []*client.Snapshot
			for pair := range strings.FieldsSeq(tt.list) {
				id, parent, _ := strings.Cut(pair, ":")
				list = append(list, &client.Snapshot{ID: id, Parent: parent})
			}
			var got []string
			for _, tw := range asTree(list) {
				got = append(got, tw.branch+tw.ID)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("asTree of %q (-want +got):\n%s", tt.list, d)
			}
		})
	}
}

// Whatever the list says, each checkpoint is drawn once.
func FuzzTree(f *testing.F) {
	f.Add("ab", "\x00a")
	f.Add("aab", "aaa")
	f.Fuzz(func(t *testing.T, ids, parents string) {
		n := min(len(ids), len(parents))
		var list []*client.Snapshot
		for i := range n {
			list = append(list, &client.Snapshot{ID: strings.Trim(ids[i:i+1], "0"), Parent: strings.Trim(parents[i:i+1], "0")})
		}
		drawn := map[*client.Snapshot]bool{}
		for _, tw := range asTree(list) {
			if drawn[tw.Snapshot] {
				t.Errorf("%q is drawn twice", tw.ID)
			}
			drawn[tw.Snapshot] = true
		}
		if len(drawn) != n {
			t.Errorf("%d of %d are drawn", len(drawn), n)
		}
	})
}

// People see a tree with its place marked, and what snapshots take together.
func TestSnapshotsOnTerminal(t *testing.T) {
	server := newServer(t)
	id := create(t, server)
	for _, args := range [][]string{
		{"checkpoint", "create", id, "base"},
		{"checkpoint", "create", id, "try a"},
		{"checkpoint", "rollback", id, "base"},
		{"checkpoint", "create", id},
		{"snapshot", "create", id, "ready"},
	} {
		if out, err := soulboxCommand(t, server, args...).CombinedOutput(); err != nil {
			t.Fatalf("soulbox %v: %v\n%s", args, err, out)
		}
	}
	got := onTerminal(t, plain(soulboxCommand(t, server, "checkpoint", "ls", id)))
	for _, want := range []string{"   CHECKPOINT", "\n   base ", "\n   ├─ try a ", "\n*  └─ (no name) "} {
		if !strings.Contains(got, want) {
			t.Errorf("soulbox checkpoint ls on a terminal: %q has no %q", got, want)
		}
	}
	if !strings.Contains(got, "now\r\n") && !strings.Contains(got, " ago\r\n") { // the test may take less than a second
		t.Errorf("soulbox checkpoint ls on a terminal: %q does not say how old they are", got)
	}
	got = onTerminal(t, plain(soulboxCommand(t, server, "snapshot", "ls")))
	if !strings.HasSuffix(got, "\r\n1 snapshot, 0 B\r\n") {
		t.Errorf("soulbox snapshot ls on a terminal: %q has no total", got)
	}
}

// plain makes a command use no colours.
func plain(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, "NO_COLOR=1")
	return cmd
}

// A person is asked; what is no yes is a no.
func TestPruneAsks(t *testing.T) {
	server := newServer(t)
	id := create(t, server)
	c, err := client.New(client.Options{APIURL: server.URL, APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sandboxes.Snapshot(t.Context(), id, "x"); err != nil {
		t.Fatal(err)
	}
	left := func() int {
		n := 0
		for _, err := range c.Sandboxes.Snapshots(t.Context(), soulbox.ForCreate) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	for _, tt := range []struct {
		answer string
		left   int
	}{{"\n", 1}, {"no\n", 1}, {"Yes\n", 0}} {
		got := answering(t, soulboxCommand(t, server, "snapshot", "prune", "--older-than", "0s"), tt.answer)
		if !strings.Contains(got, "this removes 1 snapshot, 0 B. Go on? [y/N] ") {
			t.Errorf("soulbox snapshot prune on a terminal shows %q", got)
		}
		if n := left(); n != tt.left {
			t.Errorf("after %q %d are left, want %d", tt.answer, n, tt.left)
		}
	}
}
