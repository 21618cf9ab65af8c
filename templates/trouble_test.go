package templates_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/client"
)

// cells is the code interpreter in a sandbox, as E2B's packages reach it: by the
// server's proxy.
type cells struct{ web http.Client }

// post sends a request with a body of JSON and returns the answer, which must
// be good.
func (c *cells) post(ctx context.Context, path string, body map[string]any) (*http.Response, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sandbox"+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.web.Do(req)
	if err == nil && resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	return resp, err
}

// open makes a context for Python and returns its id.
func (c *cells) open(t *testing.T) string {
	t.Helper()
	resp, err := c.post(t.Context(), "/contexts", map[string]any{"language": "python"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var made struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil || made.ID == "" {
		t.Fatalf("a new context: %+v, %v", made, err)
	}
	return made.ID
}

// A line is one of the answer to code.
type line struct{ Type, Text, Name, Value string }

// run runs code in a context and hands on each line of the answer.
func (c *cells) run(ctx context.Context, id, code string, each func(line) error) error {
	resp, err := c.post(ctx, "/execute", map[string]any{"code": code, "context_id": id})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for in := json.NewDecoder(bufio.NewReader(resp.Body)); ; {
		var l line
		if err := in.Decode(&l); err != nil {
			return fmt.Errorf("before the end of the answer: %w", err)
		}
		if l.Type == "end_of_execution" {
			return nil
		}
		if err := each(l); err != nil {
			return err
		}
	}
}

// says runs code in a context and returns what it printed, its last value and
// its error.
func (c *cells) says(t *testing.T, id, code string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var said strings.Builder
	err := c.run(ctx, id, code, func(l line) error {
		switch l.Type {
		case "stdout", "stderr", "result":
			said.WriteString(l.Text)
		case "error":
			fmt.Fprintf(&said, "%s: %s", l.Name, l.Value)
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", code, err)
	}
	return said.String()
}

// troubles does harm in cells, and looks whether the sandbox can be used
// afterwards, in contexts that there were and in new ones.
func troubles(t *testing.T, boxes *client.Sandboxes, template string) {
	sb, err := boxes.Create(t.Context(), client.CreateOptions{Template: template, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	c := &cells{http.Client{Transport: sb.Transport(49999)}}
	usable := func(t *testing.T, ids ...string) {
		t.Helper()
		for _, id := range append(ids, c.open(t)) {
			if said := c.says(t, id, "import subprocess\nprint(subprocess.run(['echo', 'on'], capture_output=True, text=True).stdout, end='')\n6 * 7"); said != "on\n42" {
				t.Errorf("afterwards a context says %q, want on and 42", said)
			}
		}
		if res, err := sb.Run(t.Context(), "echo on", client.RunOptions{}); err != nil || res.Stdout != "on\n" {
			t.Errorf("afterwards a command says %+v, %v", res, err)
		}
	}

	t.Run("disk full", func(t *testing.T) {
		id := c.open(t)
		said := c.says(t, id, "kept = 5\nwith open('/home/user/full', 'wb', buffering=0) as f:\n    while True: f.write(bytes(1 << 20))")
		if !strings.HasPrefix(said, "OSError: ") || !strings.Contains(said, "No space left on device") {
			t.Errorf("what fills the disk ends with %q", said)
		}
		if said := c.says(t, id, "print(kept)\nimport os\nos.path.getsize('/home/user/full') >> 20 > 500"); said != "5\nTrue" {
			t.Errorf("while the disk is full: %q", said)
		}
		if res, err := sb.Run(t.Context(), "rm full", client.RunOptions{}); err != nil {
			t.Errorf("rm: %+v, %v", res, err)
		}
		if said := c.says(t, id, "open('/home/user/more', 'wb').write(bytes(50 << 20))"); said != "52428800" {
			t.Errorf("with room again: %q", said)
		}
		usable(t, id)
	})

	// All memory and all threads of a sandbox are bounded together, so it is the
	// sandbox that ends, and says why; nobody else notices.
	t.Run("fork bomb", func(t *testing.T) {
		for _, bomb := range []string{
			"import os\nwhile True: os.fork()",
			"import subprocess\nsubprocess.run(['bash', '-c', 'bomb() { bomb | bomb & }; bomb; while true; do wait; done'])",
		} {
			box, err := boxes.Create(t.Context(), client.CreateOptions{Template: template, Timeout: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			bombed := &cells{http.Client{Transport: box.Transport(49999)}}
			id := bombed.open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			began := time.Now()
			err = bombed.run(ctx, id, bomb, func(line) error { return nil })
			cancel()
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s ends with %v, want the end of the connection", bomb, err)
			}
			for gone := time.Now(); ; time.Sleep(100 * time.Millisecond) {
				_, err = bombed.post(t.Context(), "/contexts", map[string]any{})
				if err != nil && (strings.Contains(err.Error(), "ended by oom") || strings.Contains(err.Error(), "ended by quota")) {
					break
				}
				if time.Since(gone) > 20*time.Second {
					t.Fatalf("after %s: %v, want that a limit was the end", bomb, err)
				}
			}
			t.Logf("after %v: %v", time.Since(began).Round(100*time.Millisecond), err)
		}
		usable(t)
	})

	t.Run("a million results", func(t *testing.T) {
		id := c.open(t)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		// The same message again and again, a hundred at once, or the kernel would
		// need minutes for it.
		const code = `import threading
k = get_ipython().kernel
m = k.session.serialize(k.session.msg("display_data", {"data": {"text/plain": "one of many"}, "metadata": {}, "transient": {}}, parent=k.get_parent()))
def hundred():
    for _ in range(100): k.iopub_thread.socket.send_multipart(m)
    sent.set()
for _ in range(10000):
    sent = threading.Event()
    k.iopub_thread.schedule(hundred)
    sent.wait()
print("all")`
		results, all := 0, false
		began := time.Now()
		err := c.run(ctx, id, code, func(l line) error {
			switch {
			case l.Type == "result" && l.Text == "one of many":
				results++
			case l.Type == "stdout":
				all = l.Text == "all\n"
			case l.Type != "keepalive" && l.Type != "number_of_executions":
				return fmt.Errorf("after %d results: %+v", results, l)
			}
			return nil
		})
		if err != nil || results != 1000000 || !all {
			t.Errorf("%d of a million results arrived, the end %v, %v", results, all, err)
		}
		t.Logf("a million results took %v", time.Since(began).Round(100*time.Millisecond))
		usable(t, id)
	})
	if err := boxes.Kill(t.Context(), sb.ID); err != nil {
		t.Error(err)
	}
}
