package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/soulbox/soulbox/internal/testbin"
	"github.com/soulbox/soulbox/node/guest"
)

// realAgent runs the agent as a plain program and returns its address.
func realAgent(t *testing.T) (addr, root string) {
	t.Helper()
	program := testbin.Build(t, "soulbox-agent")
	root = t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(root, "etc"), 0o755), os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	probe, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = probe.Addr().String()
	probe.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.CommandContext(t.Context(), program, "-listen", addr, "-ready-fd", "3", "-root", root, "-oom-score-adj", "0")
	cmd.ExtraFiles = []*os.File{w}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	if b, err := io.ReadAll(r); err != nil || string(b) != "ready\n" {
		t.Fatalf("the agent said %q, %v; %s", b, err, said.String())
	}
	return addr, root
}

func TestRealAgent(t *testing.T) {
	addr, root := realAgent(t)
	stranger, owner := agentAt(t, addr, ""), agentAt(t, addr, "secret")
	id := guest.Identity{Sandbox: "ione", Template: "tone", Hostname: "box", Token: "secret", Env: map[string]string{"GREETING": "hello"}, Nameservers: []string{"10.9.8.7"}, Seed: make([]byte, 32)}
	if err := owner.Init(t.Context(), id); err != nil {
		t.Fatal(err)
	}

	t.Run("init", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(root, "etc/resolv.conf"))
		if err != nil || !strings.Contains(string(b), "10.9.8.7") {
			t.Errorf("resolv.conf: %q, %v", b, err)
		}
		if b, err := os.ReadFile(filepath.Join(root, "etc/hostname")); err != nil || strings.TrimSpace(string(b)) != "box" {
			t.Errorf("hostname: %q, %v", b, err)
		}
	})

	t.Run("token", func(t *testing.T) {
		if err := stranger.Init(t.Context(), id); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("Init without the token: %v", err)
		}
		err := stranger.Logs(t.Context(), 0, func(guest.Entry) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("Logs without the token: %v", err)
		}
		if conn, err := stranger.Tunnel(t.Context(), 80); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("Tunnel without the token: %v, %v", conn, err)
		}
	})

	t.Run("logs", func(t *testing.T) {
		say(t, addr, "first")
		say(t, addr, "second")
		first := until(t, owner, 0, "first")
		second := until(t, owner, first.Seq, "second")
		if first.Seq == 0 || second.Seq <= first.Seq || first.Level != "info" || first.At.IsZero() {
			t.Errorf("entries %+v and %+v", first, second)
		}
		say(t, addr, "third")
		err := owner.Logs(t.Context(), second.Seq, func(e guest.Entry) error {
			if e.Seq <= second.Seq {
				t.Errorf("after %d comes %d", second.Seq, e.Seq)
			}
			if e.Message == "third" {
				return errFound
			}
			return nil
		})
		if !errors.Is(err, errFound) {
			t.Errorf("Logs: %v", err)
		}
	})

	for network, host := range map[string]string{"tcp4": "127.0.0.1", "tcp6": "::1"} {
		t.Run("tunnel_"+network, func(t *testing.T) { testTunnel(t, owner, network, host) })
	}

	t.Run("tunnel_refused", func(t *testing.T) {
		_, port := listen(t, "tcp4", "127.0.0.1", true)
		if conn, err := owner.Tunnel(t.Context(), port); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Tunnel to a closed port: %v, %v; want ECONNREFUSED", conn, err)
		}
		if conn, err := owner.Tunnel(t.Context(), 0); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Tunnel to port 0: %v, %v", conn, err)
		}
	})
}

var errFound = errors.New("found")

// until returns the first entry after number after that is message.
func until(t *testing.T, a *guest.Agent, after uint64, message string) (found guest.Entry) {
	t.Helper()
	err := a.Logs(t.Context(), after, func(e guest.Entry) error {
		if e.Message == message {
			found = e
			return errFound
		}
		return nil
	})
	if !errors.Is(err, errFound) {
		t.Fatalf("no %q in the log: %v", message, err)
	}
	return found
}

// say has a process in the sandbox write text.
func say(t *testing.T, addr, text string) {
	t.Helper()
	run(t, addr, "/bin/echo", text)
}

// run runs a program in the sandbox until it ends.
func run(t *testing.T, addr, cmd string, args ...string) {
	t.Helper()
	if err := runContext(t.Context(), addr, cmd, args...); err != nil {
		t.Errorf("run %s: %v", cmd, err)
	}
}

func runContext(ctx context.Context, addr, cmd string, args ...string) error {
	message, err := json.Marshal(map[string]any{"process": map[string]any{"cmd": cmd, "args": args}})
	if err != nil {
		return err
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/process.Process/Start", bytes.NewReader(frame))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/connect+json")
	req.Header.Set("Connect-Protocol-Version", "1")
	req.Header.Set("X-Access-Token", "secret")
	req.SetBasicAuth("root", "")
	tr := &http.Transport{DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || !bytes.Contains(b, []byte(`"end"`))) {
		err = fmt.Errorf("%s %.200q", res.Status, b)
	}
	return err
}

// listen returns a listener of the loopback and its port.
func listen(t *testing.T, network, host string, closed bool) (net.Listener, uint16) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), network, net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	if closed {
		l.Close()
	} else {
		t.Cleanup(func() { l.Close() })
	}
	addr, err := net.ResolveTCPAddr("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return l, uint16(addr.Port)
}

// testTunnel ends each direction on its own.
func testTunnel(t *testing.T, a *guest.Agent, network, host string) {
	l, port := listen(t, network, host, false)
	const answers = 3 << 20
	type heard struct {
		text string
		err  error
	}
	said := make(chan heard, 1)
	go func() { // it ends with the listener or the connection
		conn, err := l.Accept()
		if err != nil {
			said <- heard{err: err}
			return
		}
		defer conn.Close()
		b, err := io.ReadAll(conn) // until the client's direction ends
		said <- heard{string(b), err}
		_, _ = conn.Write(bytes.Repeat([]byte("y"), answers)) // the reader counts
	}()
	conn, err := a.Tunnel(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		t.Fatalf("a direction of %T cannot be ended alone", conn)
	}
	text := strings.Repeat("x", 1<<20)
	within(t, "the tunnel", patience, func() {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Error(err)
		}
		if err := half.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got := <-said; got.err != nil || got.text != text {
			t.Errorf("the program heard %d bytes, %v; want %d", len(got.text), got.err, len(text))
		}
		if n, err := io.Copy(io.Discard, conn); err != nil || n != answers {
			t.Errorf("the answer has %d bytes, %v; want %d", n, err, answers)
		}
	})
}
