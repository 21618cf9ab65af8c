package interpreter_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestJupyterLab uses JupyterLab's own server as a browser would.
func TestJupyterLab(t *testing.T) {
	s := startLab(t)
	if status, text := s.answer(t, "GET", "/jupyterlab", "", ""); status != http.StatusNotFound {
		t.Errorf("GET before it was started: %d %s", status, text)
	}
	began := time.Now()
	s.access(t)
	t.Logf("started in %v", time.Since(began).Round(time.Millisecond))
	token := s.token
	if s.access(t); s.token != token {
		t.Error("a second POST has another token")
	}

	t.Run("kernels", func(t *testing.T) {
		var specs struct {
			Default     string
			Kernelspecs map[string]struct {
				Spec      struct{ Language string }
				Resources map[string]string
			}
		}
		s.lab(t, "GET", "/api/kernelspecs", s.token, nil, &specs)
		if specs.Default != "python3" || specs.Kernelspecs["bash"].Spec.Language != "bash" {
			t.Errorf("kernel specs: %+v", specs)
		}
		logo := specs.Kernelspecs["python3"].Resources["logo-64x64"]
		if status := s.lab(t, "GET", logo, s.token, nil, nil); logo == "" || status != http.StatusOK {
			t.Errorf("the logo %q: %d", logo, status)
		}
		if status := s.lab(t, "GET", "/api/kernelspecs", "other", nil, nil); status != http.StatusForbidden {
			t.Errorf("JupyterLab answers %d to another token", status)
		}
	})

	t.Run("shared", func(t *testing.T) {
		// First run by the API, then opened.
		id, err := s.OpenNotebook(t.Context(), "a.ipynb", "python")
		if err != nil {
			t.Fatal(err)
		}
		s.execute(t, request{"code": "x = 20", "context_id": id})
		opened := s.open(t, "a.ipynb", "python3")
		if opened.Kernel.ID != id {
			t.Fatalf("JupyterLab has kernel %s, the API %s", opened.Kernel.ID, id)
		}
		one, two := s.connect(t, id), s.connect(t, id)
		if got := one.run(t, "y = x + 22\nprint(y)"); got != "42\n" {
			t.Errorf("in JupyterLab: %q", got)
		}
		if got := s.execute(t, request{"code": "y", "context_id": id}).text(); got != "42" {
			t.Errorf("in the API: %q", got)
		}
		if got := two.run(t, "print(y + 1)"); got != "43\n" {
			t.Errorf("in another browser: %q", got)
		}
		// Each hears the output of the other, and not its answers.
		var heard []string
		two.reply(t, two.send(t, "shell", "kernel_info_request", request{}), nil)
		one.run(t, "print('hello')")
		two.reply(t, two.send(t, "shell", "kernel_info_request", request{}), func(m *message) {
			if m.kind() == "stream" || m.kind() == "execute_reply" {
				heard = append(heard, fmt.Sprint(m.kind(), m.Content["text"]))
			}
		})
		if len(heard) != 1 || heard[0] != "streamhello\n" {
			t.Errorf("the other browser heard %q", heard)
		}

		// First opened, then run by the API; and renamed.
		if err := os.Mkdir(filepath.Join(s.dir, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
		opened = s.open(t, "sub/b.ipynb", "python3")
		if got := s.NotebookContext("sub/b.ipynb"); got != opened.Kernel.ID || got == id {
			t.Errorf("the notebook has context %q, JupyterLab kernel %q", got, opened.Kernel.ID)
		}
		if got := s.execute(t, request{"code": "import os; os.getcwd()", "context_id": opened.Kernel.ID}).text(); !strings.HasSuffix(got, "/sub") {
			t.Errorf("it runs in %q", got)
		}
		if status := s.lab(t, "PATCH", "/api/sessions/"+opened.ID, s.token, request{"path": "sub/c.ipynb"}, nil); status != http.StatusOK {
			t.Errorf("rename: %d", status)
		}
		if got, err := s.OpenNotebook(t.Context(), "sub/c.ipynb", "python"); err != nil || got != opened.Kernel.ID {
			t.Errorf("after it was renamed: %q, %v; want %q", got, err, opened.Kernel.ID)
		}
		// Ended there, gone here.
		if status := s.lab(t, "DELETE", "/api/sessions/"+opened.ID, s.token, nil, nil); status != http.StatusNoContent {
			t.Errorf("shut down: %d", status)
		}
		if got := s.NotebookContext("sub/c.ipynb"); got != "" {
			t.Errorf("after its kernel was shut down the notebook has context %q", got)
		}
	})

	t.Run("input", func(t *testing.T) {
		b := s.connect(t, s.open(t, "input.ipynb", "python3").Kernel.ID)
		other := s.connect(t, s.NotebookContext("input.ipynb"))
		id := b.execute(t, "name = input('Who? ')\nprint('hello', name)")
		_, printed := b.reply(t, id, func(m *message) {
			if m.kind() == "input_request" && m.Content["prompt"] == "Who? " {
				b.send(t, "stdin", "input_reply", request{"value": "Ada"})
			}
		})
		if printed != "hello Ada\n" {
			t.Errorf("it printed %q", printed)
		}
		other.reply(t, other.send(t, "shell", "kernel_info_request", request{}), func(m *message) {
			if m.kind() == "input_request" {
				t.Error("another browser was asked, too")
			}
		})
	})

	t.Run("interrupt and restart", func(t *testing.T) {
		kernel := s.open(t, "stop.ipynb", "python3").Kernel.ID
		b := s.connect(t, kernel)
		id := b.execute(t, "x = 1\nprint('on', flush=True)\nimport time; time.sleep(300)")
		answer, _ := b.reply(t, id, func(m *message) {
			if m.kind() == "stream" && m.Parent["msg_id"] == id {
				if status := s.lab(t, "POST", "/api/kernels/"+kernel+"/interrupt", s.token, request{}, nil); status != http.StatusNoContent {
					t.Errorf("interrupt: %d", status)
				}
			}
		})
		if answer["ename"] != "KeyboardInterrupt" {
			t.Errorf("interrupted: %v", answer)
		}
		if status := s.lab(t, "POST", "/api/kernels/"+kernel+"/restart", s.token, request{}, nil); status != http.StatusOK {
			t.Errorf("restart: %d", status)
		}
		// "restarting" would be an accident to JupyterLab.
		var state any
		for state != "starting" {
			if state = b.next(t).Content["execution_state"]; state == "restarting" {
				t.Fatal("whoever asks for a restart is told of an accident")
			}
		}
		if got := b.run(t, "print('x' in globals())"); got != "False\n" {
			t.Errorf("after a restart x is there: %s", got)
		}
		// Nobody in JupyterLab has asked for the API's restart.
		if status, text := s.answer(t, "POST", "/contexts/"+kernel+"/restart", "", ""); status != http.StatusOK {
			t.Errorf("restart: %d %s", status, text)
		}
		for b.next(t).Content["execution_state"] != "restarting" {
		}
		b.run(t, "y = 1")
	})

	t.Run("death", func(t *testing.T) {
		kernel := s.open(t, "death.ipynb", "python3").Kernel.ID
		b := s.connect(t, kernel)
		b.execute(t, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
		for b.next(t).Content["execution_state"] != "restarting" {
		}
		if got := b.run(t, "print(6 * 7)"); got != "42\n" {
			t.Errorf("in the next kernel: %q", got)
		}
		if o := s.execute(t, request{"code": "1", "context_id": kernel}); !strings.Contains(o.stderr, "variables are gone") {
			t.Errorf("the API was not told that the kernel ended: %q", o.stderr)
		}
		if status, text := s.answer(t, "DELETE", "/contexts/"+kernel, "", ""); status != http.StatusOK {
			t.Fatalf("DELETE: %d %s", status, text)
		}
		for b.next(t).Content["execution_state"] != "dead" {
		}
	})

	t.Run("flood", func(t *testing.T) {
		kernel := s.open(t, "flood.ipynb", "python3").Kernel.ID
		b := s.connect(t, kernel)
		id := b.execute(t, "print('x' * (100 << 20))\nfor i in range(20000): display(i)\nprint('end')")
		bytes, notes, displays := 0, 0, 0
		answer, _ := b.reply(t, id, func(m *message) {
			text, _ := m.Content["text"].(string)
			bytes += len(text)
			switch {
			case strings.Contains(text, "left out"):
				notes++
			case m.kind() == "display_data":
				displays++
			}
		})
		t.Logf("%d bytes, %d displays, %d notes", bytes, displays, notes)
		if answer["status"] != "ok" || bytes == 0 || bytes > 80<<20 || displays == 0 || notes == 0 || notes > 120 {
			t.Errorf("a flood: %v; %d bytes, %d displays, %d notes", answer, bytes, displays, notes)
		}
		// One that is too large for JupyterLab's server.
		id = b.execute(t, "import time; time.sleep(6); display({'text/plain': 'x' * (20 << 20)}, raw=True)")
		_, printed := b.reply(t, id, nil)
		if !strings.Contains(printed, "[display_data of 20971") || !strings.Contains(printed, "left out") {
			t.Errorf("a huge result: %.300q", printed)
		}
		b.run(t, "y = 1")
	})

	t.Run("buffers", func(t *testing.T) {
		kernel := s.open(t, "buffers.ipynb", "python3").Kernel.ID
		b := s.connect(t, kernel)
		b.run(t, `
from comm import create_comm
def on_open(comm, msg):
    comm.send({"n": len(msg["buffers"])}, buffers=[bytes(reversed(bytes(x))) for x in msg["buffers"]])
get_ipython().kernel.comm_manager.register_target("echo", on_open)`)
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		b.send(t, "shell", "comm_open", request{"comm_id": "c", "target_name": "echo", "data": request{}}, all, nil)
		var m *message
		for m = b.next(t); m.kind() != "comm_msg"; m = b.next(t) {
		}
		if len(m.buffers) != 2 || len(m.buffers[0]) != 256 || m.buffers[0][0] != 255 || m.buffers[0][255] != 0 || len(m.buffers[1]) != 0 {
			t.Errorf("came back: %v %q", m.Content, m.buffers)
		}
	})

	t.Run("plain", func(t *testing.T) {
		b := s.connect(t, s.open(t, "plain.ipynb", "python3").Kernel.ID)
		var data map[string]any
		b.reply(t, b.execute(t, "display({'text/plain': 'a', 'e2b/chart': {'x': 1}, 'application/geo+json': {}}, raw=True)\n{'a': 1}"), func(m *message) {
			switch got, _ := m.Content["data"].(map[string]any); m.kind() {
			case "display_data":
				data = got
			case "execute_result":
				if len(got) != 1 || got["text/plain"] != "{'a': 1}" {
					t.Errorf("a result is %v", got)
				}
			}
		})
		if len(data) != 2 || data["text/plain"] != "a" || data["application/geo+json"] == nil {
			t.Errorf("what is displayed is %v", data)
		}
	})

	t.Run("languages", func(t *testing.T) {
		for spec, code := range map[string]string{"javascript": "console.log(6 * 7)", "bash": "echo $((6 * 7))"} {
			kernel := s.open(t, spec+".ipynb", spec).Kernel.ID
			// Deno says that it is idle, and then what it printed.
			b := s.connect(t, kernel)
			b.execute(t, code)
			m := b.next(t)
			for m.kind() != "stream" {
				m = b.next(t)
			}
			if m.Content["text"] != "42\n" {
				t.Errorf("%s printed %v", spec, m.Content)
			}
		}
	})

	t.Run("its own death", func(t *testing.T) {
		id := s.NotebookContext("a.ipynb")
		pid := labPID(t, s.dir)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+"/api/status", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "token "+s.token)
			resp, err := http.DefaultClient.Do(req)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK && labPID(t, s.dir) != pid {
					break
				}
			}
			if time.Now().After(end) {
				t.Fatal("it does not come back")
			}
		}
		if got := s.open(t, "a.ipynb", "python3").Kernel.ID; id == "" || got != id {
			t.Errorf("the notebook has kernel %q, before %q", got, id)
		}
		if got := s.connect(t, id).run(t, "print(y)"); got != "42\n" {
			t.Errorf("y is %q", got)
		}
	})

	t.Run("stop", func(t *testing.T) {
		id := s.NotebookContext("a.ipynb")
		if status, text := s.answer(t, "DELETE", "/jupyterlab", "", ""); status != http.StatusOK || text != "{}" {
			t.Errorf("DELETE: %d %s", status, text)
		}
		if status, _ := s.answer(t, "GET", "/jupyterlab", "", ""); status != http.StatusNotFound {
			t.Errorf("GET afterwards: %d", status)
		}
		if got := s.execute(t, request{"code": "y", "context_id": id}).text(); got != "42" {
			t.Errorf("with JupyterLab the variables went: %q", got)
		}
		token := s.token
		if s.access(t); s.token == token {
			t.Error("another start has the same token")
		}
	})
}

// labPID returns the process of the JupyterLab that shows dir.
func labPID(t *testing.T, dir string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		line, err := os.ReadFile(path)
		cwd, err2 := os.Readlink(filepath.Join(filepath.Dir(path), "cwd"))
		if err == nil && err2 == nil && cwd == dir && bytes.Contains(line, []byte("jupyter-lab")) {
			var pid int
			fmt.Sscan(filepath.Base(filepath.Dir(path)), &pid)
			return pid
		}
	}
	return 0
}

// TestGatewayRefuses: nobody without the token gets in, and nonsense gets nowhere.
func TestGatewayRefuses(t *testing.T) {
	s := startLab(t)
	if status, _ := s.answer(t, "GET", "/gateway/api/kernels", "", ""); status != http.StatusUnauthorized {
		t.Errorf("before JupyterLab was started: %d", status)
	}
	s.access(t)
	for _, token := range []string{"", "token ", "token x", "token " + s.token} {
		for _, path := range []string{"/gateway/api/kernels", "/gateway/api/kernelspecs", "/gateway/api/kernels/x/channels"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s with %q: %s", path, token, resp.Status)
			}
		}
	}
	kernel := s.open(t, "a.ipynb", "python3").Kernel.ID
	if status := s.lab(t, "POST", "/api/kernels", s.token, request{"name": "cobol"}, nil); status != http.StatusNotFound && status != http.StatusBadRequest {
		t.Errorf("a kernel that is not there: %d", status)
	}
	// JupyterLab passes on whatever a browser sends.
	for _, text := range []string{"no JSON", `{"channel":"iopub"}`, `{"channel":"shell","header":{"msg_id":"1","msg_type":"x"},"content":[]}`} {
		b := s.connect(t, kernel)
		if err := b.ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	b := s.connect(t, kernel)
	if err := b.ws.Write(t.Context(), websocket.MessageBinary, []byte("\x00\x00\xff\xff")); err != nil {
		t.Fatal(err)
	}
	if got := s.connect(t, kernel).run(t, "print(1)"); got != "1\n" {
		t.Errorf("afterwards: %q", got)
	}
}
