package server_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// What differs between two moments of a real sandbox is told exactly, however
// they were written down, and what cannot be read harms nobody.
func TestDiffOfRealSandboxes(t *testing.T) {
	s, base := openNode(t)
	sb := &soulbox.Sandbox{ID: soulbox.NewSandboxID(), Size: base.Size, Secure: true, Network: soulbox.Network{Internet: true}}
	if err := s.node.Create(t.Context(), sb, base); err != nil {
		t.Fatal(err)
	}
	take := func(memory bool) *soulbox.Snapshot {
		t.Helper()
		snap := &soulbox.Snapshot{ID: soulbox.NewSnapshotID(), Sandbox: sb.ID, Memory: memory, Secure: true, Size: base.Size, User: base.User, Image: base.Image, Template: base.ID}
		if _, err := s.node.Snapshot(t.Context(), sb.ID, snap, false); err != nil {
			t.Fatal(err)
		}
		return snap
	}
	want := func(what string, a, b *soulbox.Snapshot, want ...soulbox.Change) {
		t.Helper()
		got, err := s.node.Diff(t.Context(), sb.ID, a, b)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(soulbox.Changes{List: want}, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", what, diff)
		}
	}
	s.run(t, sb.ID, "cd ~; mkdir old; echo kept > kept; echo one > note; echo x > old/x; echo y > gone; ln -s kept link")
	a := take(true)
	s.run(t, sb.ID, `cd ~; echo other > note; chmod 600 kept; rm -r old gone; mkdir -p new/empty; ln -sf note link
echo atomic > note2.tmp; mv note2.tmp note2; head -c 5M /dev/urandom > big; touch short-lived; rm short-lived
sudo rm -r /etc/skel; sudo sed -i '' /etc/hosts; sudo mkdir -p /var/new; sudo chmod 700 /etc/profile; sudo rm -r /etc/profile.d; sudo mkdir /etc/profile.d`)
	b := take(true)
	list := []soulbox.Change{
		{Path: "/etc/profile", Kind: soulbox.Changed, Type: soulbox.File},
		{Path: "/etc/skel/.bash_logout", Kind: soulbox.Removed, Type: soulbox.File},
		{Path: "/etc/skel/.bashrc", Kind: soulbox.Removed, Type: soulbox.File},
		{Path: "/etc/skel/.profile", Kind: soulbox.Removed, Type: soulbox.File},
		{Path: "/home/user/big", Kind: soulbox.Created, Type: soulbox.File, Size: 5 * soulbox.MiB},
		{Path: "/home/user/gone", Kind: soulbox.Removed, Type: soulbox.File},
		{Path: "/home/user/kept", Kind: soulbox.Changed, Type: soulbox.File, Size: 5},
		{Path: "/home/user/link", Kind: soulbox.Changed, Type: soulbox.Link},
		{Path: "/home/user/new/empty", Kind: soulbox.Created, Type: soulbox.Folder},
		{Path: "/home/user/note", Kind: soulbox.Changed, Type: soulbox.File, Size: 6},
		{Path: "/home/user/note2", Kind: soulbox.Created, Type: soulbox.File, Size: 7},
		{Path: "/home/user/old/x", Kind: soulbox.Removed, Type: soulbox.File},
		{Path: "/var/new", Kind: soulbox.Created, Type: soulbox.Folder},
	}
	got, err := s.node.Diff(t.Context(), sb.ID, a, b)
	if err != nil {
		t.Fatal(err)
	}
	// What the image has in them is its own affair.
	got.List = slices.DeleteFunc(got.List, func(c soulbox.Change) bool {
		return strings.HasPrefix(c.Path, "/etc/profile.d/") && c.Kind == soulbox.Removed
	})
	for i := range got.List {
		if got.List[i].Path == "/etc/profile" {
			got.List[i].Size = 0
		}
	}
	if diff := cmp.Diff(soulbox.Changes{List: list}, got); diff != "" {
		t.Errorf("a and b: (-want +got)\n%s", diff)
	}
	want("a and itself", a, a)
	want("b and its files", b, take(false))
	want("b and now", b, nil)

	for holes, kind := range map[string]soulbox.Kind{"1T": soulbox.Invalid, "3G": soulbox.Unavailable} {
		s.run(t, sb.ID, "truncate -s "+holes+" ~/holes")
		began := time.Now()
		if _, err := s.node.Diff(t.Context(), sb.ID, a, nil); soulbox.KindOf(err) != kind {
			t.Errorf("with a file of %s: %v, want kind %d", holes, err, kind)
		}
		t.Logf("with a file of %s: %v", holes, time.Since(began))
		if got := s.run(t, sb.ID, "cat ~/kept"); got != "kept" {
			t.Errorf("the sandbox says %q after its files were read", got)
		}
	}
	s.run(t, sb.ID, "rm ~/holes")
	want("b and now, in the end", b, nil)
}

// TestDiffAndCrash compares checkpoints by the API, and kills the server while
// the hidden sandbox is there.
func TestDiffAndCrash(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	c := connect(t, s)
	sb := create(t, c, time.Hour)
	run(t, sb, "echo one > note")
	for _, name := range []string{"first", "second"} {
		if _, err := c.Sandboxes.Checkpoint(t.Context(), sb.ID, name); err != nil {
			t.Fatal(err)
		}
		run(t, sb, "echo "+name+" > note; touch "+name)
	}
	wantDiff(t, c, sb.ID, "first", "second", "created /home/user/first", "changed /home/user/note")
	wantDiff(t, c, sb.ID, "first", "", "created /home/user/first", "changed /home/user/note", "created /home/user/second")
	wantOnly(t, s, sb.ID)
	s.Stop(t)

	s.Start(t, "SOULBOX_FAULT=node/opened")
	c = connect(t, s)
	if _, err := c.Sandboxes.Diff(t.Context(), sb.ID, "first", ""); err == nil {
		t.Error("a dead server has compared")
	}
	if err := s.WaitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the server ended with %v, want killed at the step", err)
	}
	s.Start(t)
	wantOnly(t, s, sb.ID)
	c = connect(t, s)
	if got := run(t, reach(t, c, sb.ID), "cat note"); got != "second\n" {
		t.Errorf("its file holds %q", got)
	}
	wantDiff(t, c, sb.ID, "second", "", "changed /home/user/note", "created /home/user/second")
	if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
		t.Fatal(err)
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}

func wantDiff(t *testing.T, c *client.Client, id, a, b string, want ...string) {
	t.Helper()
	found, err := c.Sandboxes.Diff(t.Context(), id, a, b)
	if err != nil {
		t.Fatalf("Diff(%s, %q): %v", a, b, err)
	}
	var got []string
	for _, c := range found.List {
		got = append(got, string(c.Kind)+" "+c.Path)
	}
	if diff := cmp.Diff(want, got); diff != "" || found.Truncated {
		t.Errorf("Diff(%s, %q): truncated %v, (-want +got)\n%s", a, b, found.Truncated, diff)
	}
}

// wantOnly waits until one sandbox has a folder, and no other.
func wantOnly(t *testing.T, s *servertest.Server, id string) {
	t.Helper()
	var got []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = s.Folders(t); len(got) == 1 && strings.HasSuffix(got[0], "/"+id) {
			return
		}
	}
	t.Errorf("there are %v, want only that of %s", got, id)
}
