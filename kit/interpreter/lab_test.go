package interpreter_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/soulbox/soulbox/kit/interpreter"
	"github.com/soulbox/soulbox/kit/interpreter/kerneltest"
)

// labServer is an interpreter with JupyterLab beside it.
type labServer struct {
	*server
	dir   string
	base  string // JupyterLab's
	token string
}

// startLab runs both until the test ends.
func startLab(t *testing.T) *labServer {
	t.Helper()
	probe, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.Addr().(*net.TCPAddr).Port
	probe.Close()
	s := &labServer{base: fmt.Sprintf("http://127.0.0.1:%d", port)}
	s.server = start(t, func(o *interpreter.Options) {
		o.LabPort, o.JupyterLab = port, filepath.Join(kerneltest.Specs(t), "../../../bin/jupyter-lab")
		s.dir = o.Dir
	})
	return s
}

// access starts JupyterLab, if it does not run, and remembers the token.
func (s *labServer) access(t *testing.T) {
	t.Helper()
	status, text := s.answer(t, "POST", "/jupyterlab", "application/json", "{}")
	var got struct {
		Port  int
		Token string
		Path  string
	}
	if err := json.Unmarshal([]byte(text), &got); status != 200 || err != nil || got.Token == "" || got.Path != "/lab" || !strings.HasSuffix(s.base, fmt.Sprintf(":%d", got.Port)) {
		t.Fatalf("POST /jupyterlab: %d %s, %v", status, text, err)
	}
	s.token = got.Token
}

// lab asks JupyterLab's server and returns status and body.
func (s *labServer) lab(t *testing.T, method, path, token string, body, answer any) int {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.base+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "token "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer != nil {
		if err := json.Unmarshal(b, answer); err != nil {
			t.Fatalf("%s %s: %s %.500s: %v", method, path, resp.Status, b, err)
		}
	}
	return resp.StatusCode
}

type session struct {
	ID     string `json:"id"`
	Path   string `json:"path"`
	Kernel struct {
		ID    string `json:"id"`
		Name  string `json:"name"`
		State string `json:"execution_state"`
	} `json:"kernel"`
}

// open opens a notebook as JupyterLab in a browser does.
func (s *labServer) open(t *testing.T, path, kernel string) session {
	t.Helper()
	var got session
	status := s.lab(t, "POST", "/api/sessions", s.token, request{"path": path, "name": filepath.Base(path), "type": "notebook", "kernel": request{"name": kernel}}, &got)
	if status != http.StatusCreated || got.Kernel.ID == "" {
		t.Fatalf("open %s: %d %+v", path, status, got)
	}
	return got
}

// browser is a browser's WebSocket to a kernel, through JupyterLab's server.
type browser struct {
	ws  *websocket.Conn
	id  string
	ids int
}

// message is one of Jupyter's.
type message struct {
	Channel string         `json:"channel"`
	Header  map[string]any `json:"header"`
	Parent  map[string]any `json:"parent_header"`
	Meta    map[string]any `json:"metadata"`
	Content map[string]any `json:"content"`
	buffers [][]byte
}

func (m *message) kind() string {
	kind, _ := m.Header["msg_type"].(string)
	return kind
}

func (s *labServer) connect(t *testing.T, kernel string) *browser {
	t.Helper()
	b := &browser{id: fmt.Sprintf("%s-%d", t.Name(), time.Now().UnixNano())}
	url := "ws" + strings.TrimPrefix(s.base, "http") + "/api/kernels/" + kernel + "/channels?session_id=" + b.id
	ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"token " + s.token}}})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { ws.CloseNow() })
	b.ws = ws
	b.reply(t, b.send(t, "shell", "kernel_info_request", request{}), nil)
	return b
}

func (b *browser) send(t *testing.T, channel, kind string, content any, buffers ...[]byte) (id string) {
	t.Helper()
	b.ids++
	id = fmt.Sprintf("%s-%d", b.id, b.ids)
	text, err := json.Marshal(request{
		"channel": channel, "parent_header": request{}, "metadata": request{}, "content": content, "buffers": []any{},
		"header": request{"msg_id": id, "msg_type": kind, "session": b.id, "username": "", "date": time.Now().UTC().Format(time.RFC3339), "version": "5.3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	sent := websocket.MessageText
	if len(buffers) > 0 {
		sent = websocket.MessageBinary
		parts := append([][]byte{text}, buffers...)
		head := binary.BigEndian.AppendUint32(nil, uint32(len(parts)))
		at := 4 * (1 + len(parts))
		for _, p := range parts {
			head = binary.BigEndian.AppendUint32(head, uint32(at))
			at += len(p)
		}
		text = bytes.Join(append([][]byte{head}, parts...), nil)
	}
	if err := b.ws.Write(t.Context(), sent, text); err != nil {
		t.Fatal(err)
	}
	return id
}

func (b *browser) execute(t *testing.T, code string) (id string) {
	t.Helper()
	return b.send(t, "shell", "execute_request", request{"code": code, "silent": false, "store_history": true, "allow_stdin": true, "stop_on_error": true, "user_expressions": request{}})
}

// next receives a message.
func (b *browser) next(t *testing.T) *message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kind, text, err := b.ws.Read(ctx)
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	m := &message{}
	if kind == websocket.MessageBinary {
		n := binary.BigEndian.Uint32(text)
		at := func(i uint32) uint32 {
			if i > n {
				return uint32(len(text))
			}
			return binary.BigEndian.Uint32(text[4*i:])
		}
		for i := uint32(2); i <= n; i++ {
			m.buffers = append(m.buffers, text[at(i):at(i+1)])
		}
		text = text[at(1):at(2)]
	}
	if err := json.Unmarshal(text, m); err != nil {
		t.Fatalf("%v: %.300q", err, text)
	}
	return m
}

// reply receives until a request is answered and its output is over, and returns
// the answer and what was printed. Each message is shown to see as well.
func (b *browser) reply(t *testing.T, id string, see func(*message)) (answer map[string]any, printed string) {
	t.Helper()
	idle := false
	for answer == nil || !idle {
		m := b.next(t)
		if see != nil {
			see(m)
		}
		if m.Parent["msg_id"] != id {
			continue
		}
		switch kind := m.kind(); {
		case m.Channel != "iopub" && strings.HasSuffix(kind, "_reply"):
			answer = m.Content
		case kind == "status":
			idle = m.Content["execution_state"] == "idle"
		case kind == "stream":
			text, _ := m.Content["text"].(string)
			printed += text
		}
	}
	return answer, printed
}

// run runs code and returns what it printed.
func (b *browser) run(t *testing.T, code string) string {
	t.Helper()
	answer, printed := b.reply(t, b.execute(t, code), nil)
	if answer["status"] != "ok" {
		t.Fatalf("%q: %v, %s", code, answer, printed)
	}
	return printed
}
