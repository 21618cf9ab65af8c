package server_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// createE2B asks for a sandbox as E2B's clients do and returns the status and
// the answer's id, or its message.
func createE2B(t *testing.T, s *servertest.Server, body string) (int, string) {
	t.Helper()
	url, key := s.Credentials(t)
	res, err := post(t, url+"/v2/sandboxes", key, body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ SandboxID, Message string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer.SandboxID + answer.Message
}

// createNative is createE2B under /v1.
func createNative(t *testing.T, s *servertest.Server, body string) (int, string) {
	t.Helper()
	url, key := s.Credentials(t)
	res, err := post(t, url+"/v1/sandboxes", key, body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ ID, Message, Isolation string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == http.StatusCreated && !strings.Contains(body, answer.Isolation) {
		t.Errorf("%s made one of isolation %q", body, answer.Isolation)
	}
	return res.StatusCode, answer.ID + answer.Message
}

func post(t *testing.T, url, key, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", key)
	req.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(req)
}

// A sandbox of isolation runc is there for those whom the operator lets, lives
// through restarts, and is paused with its files only.
func TestRunc(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	const wanted = `{"template":"base","isolation":"runc","timeout":3600}`
	if status, message := createNative(t, s, wanted); status != http.StatusForbidden || !strings.Contains(message, "not allowed on this server") {
		t.Errorf("without leave: %d %s, want 403 and why", status, message)
	}
	s.Stop(t)

	s.Settings = "isolation: [gvisor, runc]\n"
	s.Start(t)
	c := connect(t, s)
	if status, message := createNative(t, s, `{"template":"base","isolation":"runc","lifecycle":{"on_timeout":"pause"}}`); status != http.StatusBadRequest || !strings.Contains(message, "files only") {
		t.Errorf("to be paused with its memory: %d %s, want 400 and why", status, message)
	}
	status, id := createNative(t, s, wanted)
	if status != http.StatusCreated {
		t.Fatalf("with leave: %d %s", status, id)
	}
	other := create(t, c, time.Hour) // it does not say, so it is gVisor's
	sb := reach(t, c, id)
	if got := run(t, sb, "echo hello; whoami; hostname; sudo id -u; nproc >/dev/null && python3 -c 'print(6*7)'"); got != "hello\nuser\nsandbox\n0\n42\n" {
		t.Errorf("it says %q", got)
	}
	// It has the host's kernel, and the other has one of its own.
	kernel := hostKernel(t)
	if got := run(t, sb, "uname -r"); got != kernel {
		t.Errorf("its kernel is %q, want %q", got, kernel)
	}
	if got := run(t, other, "uname -r"); got == kernel {
		t.Errorf("a sandbox that did not ask for it is on the host's kernel")
	}
	// What root may not do here, although it is root.
	for _, script := range []string{
		"sudo mount -t tmpfs none /mnt", "sudo mknod /tmp/disk b 7 0", "sudo sh -c 'echo x > /proc/sys/kernel/core_pattern'",
		"sudo sh -c 'echo 1 > /proc/sysrq-trigger'", "sudo unshare -r true", "sudo dmesg", "sudo chroot /proc/1/root/../../.. ls /data",
	} {
		if got := run(t, sb, script+" >/dev/null 2>&1 && echo done || echo refused"); got != "refused\n" {
			t.Errorf("%s: %q", script, got)
		}
	}

	run(t, sb, "echo kept > note")
	s.Kill()
	s.Start(t)
	c = connect(t, s)
	sb = reach(t, c, id)
	if got := run(t, sb, "cat note"); got != "kept\n" {
		t.Errorf("after a restart of the server its file holds %q", got)
	}

	for what, err := range map[string]error{
		"a pause with memory": c.Sandboxes.Pause(t.Context(), id, client.PauseOptions{}),
		"a fork":              second(c.Sandboxes.Fork(t.Context(), id, 1, time.Hour)),
		"a checkpoint":        second(c.Sandboxes.Checkpoint(t.Context(), id, "")),
	} {
		if err == nil || !strings.Contains(err.Error(), "isolation runc") {
			t.Errorf("%s: %v, want a refusal that names the reason", what, err)
		}
	}
	if got := run(t, sb, "cat note"); got != "kept\n" {
		t.Errorf("after what was refused its file holds %q", got)
	}
	if err := c.Sandboxes.Pause(t.Context(), id, client.PauseOptions{FilesOnly: true}); err != nil {
		t.Fatalf("a pause with files only: %v", err)
	}
	sb = reach(t, c, id) // it resumes
	if got := run(t, sb, "cat note; uname -r"); got != "kept\n"+kernel {
		t.Errorf("after a pause it says %q", got)
	}

	// A server that does not allow it any more still looks after it.
	s.Stop(t)
	s.Settings = ""
	s.Start(t)
	c = connect(t, s)
	if got := run(t, reach(t, c, id), "cat note"); got != "kept\n" {
		t.Errorf("after the leave was withdrawn its file holds %q", got)
	}
	for _, id := range []string{id, other.ID} {
		if err := c.Sandboxes.Kill(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}

// hostKernel is what uname -r says outside.
func hostKernel(t *testing.T) string {
	t.Helper()
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	return string(host.Release[:bytes.IndexByte(host.Release[:], 0)]) + "\n"
}

// smallTar returns a tar of the few files of the base template that these tests
// need.
func smallTar(t *testing.T, c *client.Client) []byte {
	t.Helper()
	sb := create(t, c, time.Hour)
	run(t, sb, `cd / && tar -chf /tmp/small.tar bin/bash bin/sh bin/cat bin/uname $(ldd bin/bash bin/sh bin/cat bin/uname | grep -o '/lib[^ ]*' | sort -u)`)
	var b bytes.Buffer
	if _, err := sb.ReadFile(t.Context(), "/tmp/small.tar", &b); err != nil {
		t.Fatal(err)
	}
	if err := sb.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is made of a template of isolation runc has it, also where the client
// cannot say so, unless the client says otherwise. The operator has the last
// word each time.
func TestRuncTemplate(t *testing.T) {
	s := servertest.New(t)
	s.Start(t)
	c := connect(t, s)
	tree := smallTar(t, c)
	importBare := func(class *soulbox.Isolation) (*client.Template, error) {
		return c.Templates.Import(t.Context(), "bare", client.ImportOptions{Archive: bytes.NewReader(tree), Isolation: class})
	}
	const why = "not allowed on this server"
	if _, err := importBare(new(soulbox.Runc)); soulbox.KindOf(err) != soulbox.Forbidden || !strings.Contains(err.Error(), why) {
		t.Errorf("an import without leave: %v, want Forbidden and why", err)
	}
	if made, err := importBare(nil); err != nil || made.Isolation != soulbox.GVisor {
		t.Fatalf("an import that does not say: %+v, %v, want gvisor", made, err)
	}
	if _, err := c.Templates.SetIsolation(t.Context(), "bare", soulbox.Runc); soulbox.KindOf(err) != soulbox.Forbidden || !strings.Contains(err.Error(), why) {
		t.Errorf("a change without leave: %v, want Forbidden and why", err)
	}
	kernel := hostKernel(t)
	const plain = `{"templateID":"bare","timeout":3600}`
	status, id := createE2B(t, s, plain)
	if status != http.StatusCreated {
		t.Fatalf("E2B's create: %d %s", status, id)
	}
	before := reach(t, c, id)
	if got := run(t, before, "uname -r"); got == kernel {
		t.Error("E2B's create of a template of isolation gvisor made a sandbox on the host's kernel")
	}
	s.Stop(t)

	s.Settings = "isolation: [gvisor, runc]\n"
	s.Start(t)
	c = connect(t, s)
	if _, err := c.Templates.SetIsolation(t.Context(), "base", soulbox.Runc); soulbox.KindOf(err) != soulbox.Forbidden || !strings.Contains(err.Error(), "belongs to the house") {
		t.Errorf("a change of the house's: %v, want Forbidden and why", err)
	}
	if changed, err := c.Templates.SetIsolation(t.Context(), "bare", soulbox.Runc); err != nil || changed.Isolation != soulbox.Runc {
		t.Fatalf("a change: %+v, %v, want runc", changed, err)
	}
	if status, message := createE2B(t, s, `{"templateID":"bare","autoPause":true}`); status != http.StatusBadRequest || !strings.Contains(message, "isolation runc cannot be paused with its memory") {
		t.Errorf("to be paused with its memory: %d %s, want 400 and why", status, message)
	}
	if status, id = createE2B(t, s, plain); status != http.StatusCreated {
		t.Fatalf("E2B's create: %d %s", status, id)
	}
	sb := reach(t, c, id)
	if got := run(t, sb, "uname -r; echo kept >note"); got != kernel {
		t.Errorf("its kernel is %q, want the host's %q", got, kernel)
	}
	if info, err := c.Sandboxes.Get(t.Context(), id); err != nil || info.Isolation != soulbox.Runc {
		t.Errorf("it is %+v, %v, want isolation runc", info, err)
	}
	if err := c.Sandboxes.Pause(t.Context(), id, client.PauseOptions{}); soulbox.KindOf(err) != soulbox.Invalid || !strings.Contains(err.Error(), "isolation runc") {
		t.Errorf("a pause with memory: %v, want a refusal that names the reason", err)
	}
	walled, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: "bare", Timeout: time.Hour, Isolation: new(soulbox.GVisor)})
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, walled, "uname -r"); got == kernel {
		t.Error("one that asked for gvisor is on the host's kernel")
	}
	if got := run(t, reach(t, c, before.ID), "uname -r"); got == kernel {
		t.Error("one that was made before the change is on the host's kernel")
	}
	s.Stop(t)

	s.Settings = ""
	s.Start(t)
	c = connect(t, s)
	if status, message := createE2B(t, s, plain); status != http.StatusForbidden || !strings.Contains(message, why) {
		t.Errorf("after the leave was withdrawn: %d %s, want 403 and why", status, message)
	}
	if got := run(t, reach(t, c, id), "cat note"); got != "kept\n" {
		t.Errorf("after the leave was withdrawn its file holds %q", got)
	}
	last, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: "bare", Timeout: time.Hour, Isolation: new(soulbox.GVisor)})
	if err != nil {
		t.Fatalf("gvisor is always allowed: %v", err)
	}
	for _, id := range []string{id, before.ID, walled.ID, last.ID} {
		if err := c.Sandboxes.Kill(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	s.Stop(t)
	s.WantNothingLeft(t)
}

// TestRuncKilledAtEachStep kills the server in the middle of making such a
// sandbox. Nothing is left of it, and another one lives on.
func TestRuncKilledAtEachStep(t *testing.T) {
	t.Parallel()
	s := servertest.New(t)
	s.Settings = "isolation: [runc]\n"
	for _, step := range []string{"runc/named", "runc/recorded", "runc/forked", "runc/saved", "runc/running", "node/started"} {
		t.Run(step, func(t *testing.T) {
			const wanted = `{"template":"base","isolation":"runc","timeout":3600}`
			s.Start(t)
			status, bystander := createNative(t, s, wanted)
			if status != http.StatusCreated {
				t.Fatalf("%d %s", status, bystander)
			}
			run(t, reach(t, connect(t, s), bystander), "echo still here > note")
			s.Stop(t)

			s.Start(t, "SOULBOX_FAULT="+step)
			url, key := s.Credentials(t)
			if res, err := post(t, url+"/v1/sandboxes", key, wanted); err == nil {
				res.Body.Close()
				t.Error("the client was answered by a dead server")
			}
			if err := s.WaitEnd(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the server ended with %v, want killed at the step", err)
			}

			s.Start(t)
			c := connect(t, s)
			for info, err := range c.Sandboxes.List(t.Context(), client.ListOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				if info.ID != bystander {
					t.Errorf("%s lives, which nobody knows of", info.ID)
				}
			}
			if got := run(t, reach(t, c, bystander), "cat note"); got != "still here\n" {
				t.Errorf("the file of the other holds %q", got)
			}
			if err := c.Sandboxes.Kill(t.Context(), bystander); err != nil {
				t.Error(err)
			}
			s.Stop(t)
			s.WantNothingLeft(t)
		})
	}
}

func second[T any](_ T, err error) error { return err }
