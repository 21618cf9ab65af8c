package server_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// createNative asks for a sandbox under /v1 and returns the status and the
// answer's id, or its message.
func createNative(t *testing.T, s *servertest.Server, body string) (int, string) {
	t.Helper()
	url, key := s.Credentials(t)
	res, err := postNative(t, url, key, body)
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

func postNative(t *testing.T, url, key, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/sandboxes", strings.NewReader(body))
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
	other := create(t, c, time.Hour) // E2B's way is gVisor's
	sb := reach(t, c, id)
	if got := run(t, sb, "echo hello; whoami; hostname; sudo id -u; nproc >/dev/null && python3 -c 'print(6*7)'"); got != "hello\nuser\nsandbox\n0\n42\n" {
		t.Errorf("it says %q", got)
	}
	// It has the host's kernel, and the other has one of its own.
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	kernel := string(host.Release[:bytes.IndexByte(host.Release[:], 0)]) + "\n"
	if got := run(t, sb, "uname -r"); got != kernel {
		t.Errorf("its kernel is %q, want %q", got, kernel)
	}
	if got := run(t, other, "uname -r"); got == kernel {
		t.Errorf("E2B's create made a sandbox on the host's kernel")
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

// TestRuncKilledAtEachStep kills the server in the middle of making such a
// sandbox. Nothing is left of it, and another one lives on.
func TestRuncKilledAtEachStep(t *testing.T) {
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
			if res, err := postNative(t, url, key, wanted); err == nil {
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
