package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/connectjson"
	"github.com/soulbox/soulbox/internal/payload"
	"github.com/soulbox/soulbox/node"
	"github.com/soulbox/soulbox/node/driver/gvisor"
	"github.com/soulbox/soulbox/node/guest"
	"github.com/soulbox/soulbox/node/rootfs"
	"github.com/soulbox/soulbox/server/servertest"
	"github.com/soulbox/soulbox/store/sqlite"
)

// A shell speaks to the sandboxes of a node without a server in between.
type shell struct {
	node *node.Node
	seed soulbox.TokenSeed
	data string // its folder
}

type started struct {
	Event struct {
		Data *struct{ Stdout connectjson.Bytes }
		End  *struct{ ExitCode int }
	}
}

// run runs a script in a sandbox and returns what it printed.
func (s shell) run(t *testing.T, id soulbox.SandboxID, script string) string {
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
		t.Fatalf("run in %s: %v", id, err)
	}
	defer in.Close()
	var out strings.Builder
	for {
		m, err := in.Receive()
		if err != nil {
			t.Fatalf("run in %s: %v after %q", id, err, out.String())
		}
		if m.Event.Data != nil {
			out.Write(m.Event.Data.Stdout)
		}
		if m.Event.End != nil {
			return strings.TrimSpace(out.String())
		}
	}
}

// openNode opens a node of real sandboxes, and returns the base template.
func openNode(t *testing.T, change ...func(*node.Options)) (shell, *soulbox.Template) {
	t.Helper()
	in, out, errs := os.Stdin, os.Stdout, os.Stderr // the driver replaces them
	t.Cleanup(func() { os.Stdin, os.Stdout, os.Stderr = in, out, errs })
	data := servertest.New(t).Data
	base := baseOf(t, data)
	s := shell{seed: soulbox.TokenSeed{7}, data: data}
	o, err := nodeOptions(slog.New(slog.NewTextHandler(t.Output(), nil)), data, "snapt")
	if err != nil {
		t.Fatal(err)
	}
	o.Seed = s.seed
	for _, c := range change {
		c(&o)
	}
	if s.node, err = node.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := s.node.Close(); err != nil {
			t.Error(err)
		}
		if err := node.Purge(ctx, o.Log, data, o.Instance, o.Driver); err != nil {
			t.Error(err)
		}
	})
	return s, base
}

// baseOf returns the base template of a data folder that no server uses.
func baseOf(t *testing.T, data string) *soulbox.Template {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(data, "soulbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	base, err := db.TemplateByName(t.Context(), "", "base")
	if err != nil {
		t.Fatal(err)
	}
	return base
}

// nodeOptions are those of a node of real sandboxes.
func nodeOptions(log *slog.Logger, data, instance string) (node.Options, error) {
	images, err := rootfs.Open(log, filepath.Join(data, "images"))
	if err != nil {
		return node.Options{}, err
	}
	sentry, err := payload.Unpack(payload.Sentry, "/var/cache/soulbox")
	if err != nil {
		return node.Options{}, err
	}
	boot, err := payload.Unpack(payload.Boot, "/var/cache/soulbox")
	if err != nil {
		return node.Options{}, err
	}
	driver, err := gvisor.New(sentry, boot, filepath.Join("/run/soulbox", instance), nil)
	if err != nil {
		return node.Options{}, err
	}
	return node.Options{Log: log, ID: "local", Dir: data, Instance: instance, Driver: driver, Images: images, Ready: 2}, nil
}

// What a sandbox comes back from has its files and its running programs, and
// nothing in it that several sandboxes must not share.
func TestSnapshotOfRealSandboxes(t *testing.T) {
	s, base := openNode(t)
	make1 := func() *soulbox.Sandbox {
		return &soulbox.Sandbox{ID: soulbox.NewSandboxID(), Size: base.Size, Secure: true, Network: soulbox.Network{Internet: true}}
	}
	first := make1()
	if err := s.node.Create(t.Context(), first, base); err != nil {
		t.Fatal(err)
	}
	const counter = `nohup python3 -c '
import time
n = 0
while True:
    n += 1
    open("/tmp/n", "w").write(str(n))
    time.sleep(0.02)
' >/dev/null 2>&1 & echo $!`
	pid := s.run(t, first.ID, "echo kept > file; "+counter)
	boot := s.run(t, first.ID, "cat /proc/sys/kernel/random/boot_id")

	snap := &soulbox.Snapshot{ID: soulbox.NewSnapshotID(), Sandbox: first.ID, Memory: true, Secure: true, Size: base.Size, User: base.User, Image: base.Image, Template: base.ID}
	began := time.Now()
	size, err := s.node.Snapshot(t.Context(), first.ID, snap, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("written in %v, %d KiB", time.Since(began), size>>10)
	if err := s.node.Destroy(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}

	// The same sandbox again: nothing between the snapshot and now has happened.
	began = time.Now()
	if err := s.node.Restore(t.Context(), first, snap); err != nil {
		t.Fatal(err)
	}
	t.Logf("back after %v", time.Since(began))
	if got := s.run(t, first.ID, "cat file; ps -o pid= -p "+pid+" | tr -d ' '"); got != "kept\n"+pid {
		t.Errorf("after a resume: %q, want the file and the program %s", got, pid)
	}
	if a, b := s.run(t, first.ID, "sleep 0.2; cat /tmp/n"), s.run(t, first.ID, "sleep 0.2; cat /tmp/n"); a == b {
		t.Errorf("its program stands still at %s", a)
	}

	// Ten others of the same moment.
	const random = `cat /proc/sys/kernel/random/uuid
python3 -c 'import random, secrets, ssl; print(random.random(), secrets.token_hex(8), ssl.RAND_bytes(8).hex())'
node -e 'console.log(crypto.randomUUID())'
echo $RANDOM$RANDOM $E2B_SANDBOX_ID`
	seen := map[string]soulbox.SandboxID{}
	for range 10 {
		fork := make1()
		if err := s.node.Restore(t.Context(), fork, snap); err != nil {
			t.Fatal(err)
		}
		out := s.run(t, fork.ID, random)
		for word := range strings.FieldsSeq(out) {
			if other, twice := seen[word]; twice {
				t.Errorf("%s and %s both have %q", other, fork.ID, word)
			}
			seen[word] = fork.ID
		}
		if !strings.HasSuffix(out, string(fork.ID)) {
			t.Errorf("a fork does not know its id: %q", out)
		}
		if got := s.run(t, fork.ID, "cat file; date +%s"); !strings.HasPrefix(got, "kept\n") {
			t.Errorf("a fork has %q", got)
		} else {
			var at int64
			if _, err := fmt.Sscanf(got, "kept\n%d", &at); err != nil || time.Since(time.Unix(at, 0)).Abs() > 5*time.Second {
				t.Errorf("a fork's clock says %q", got)
			}
		}
		if err := s.node.Destroy(t.Context(), fork.ID); err != nil {
			t.Error(err)
		}
	}

	// Its files without its memory: another boot.
	cold := make1()
	files := *snap
	files.Memory = false
	if err := s.node.Restore(t.Context(), cold, &files); err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(s.run(t, cold.ID, "cat file /proc/sys/kernel/random/boot_id; pgrep -c python3"))
	if len(got) != 3 || got[0] != "kept" || got[1] == boot || got[2] != "0" {
		t.Errorf("from its files alone: %q; want the file, another boot than %s and no program", got, boot)
	}
	for _, id := range []soulbox.SandboxID{first.ID, cold.ID} {
		if err := s.node.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if err := s.node.RemoveSnapshot(t.Context(), snap.ID); err != nil {
		t.Error(err)
	}
}
