package port_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/agent/port"
)

func serve(t *testing.T) (*port.Tunnel, string) {
	t.Helper()
	tunnel := port.New()
	srv := httptest.NewServer(tunnel)
	t.Cleanup(func() {
		tunnel.Close()
		srv.Close()
	})
	return tunnel, strings.TrimPrefix(srv.URL, "http://")
}

// listen starts a program that handles one connection.
func listen(t *testing.T, address string, handle func(*net.TCPConn)) int {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn.(*net.TCPConn))
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).Port
}

// dial opens a tunnel; early is sent together with the request.
func dial(t *testing.T, server string, port int, early string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET /?port=%d HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: soulbox-tunnel\r\n\r\n%s", port, early)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "soulbox-tunnel" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	return conn.(*net.TCPConn), r
}

// The client ends its direction first; the program answers afterwards.
func TestClientEndsFirst(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		_, server := serve(t)
		p := listen(t, address, func(c *net.TCPConn) {
			all, _ := io.ReadAll(c)
			fmt.Fprintf(c, "%d %s", len(all), all[:10])
		})
		conn, r := dial(t, server, p, "early ")
		io.WriteString(conn, strings.Repeat("x", 1<<20))
		conn.CloseWrite()
		got, err := io.ReadAll(r)
		if want := "1048582 early xxxx"; err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", address, got, err, want)
		}
	}
}

// The program ends its direction first and still reads.
func TestProgramEndsFirst(t *testing.T) {
	_, server := serve(t)
	heard := make(chan string, 1)
	p := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		io.WriteString(c, "bye")
		c.CloseWrite()
		all, _ := io.ReadAll(c)
		heard <- string(all)
	})
	conn, r := dial(t, server, p, "")
	if got, err := io.ReadAll(r); err != nil || string(got) != "bye" {
		t.Errorf("%q, %v", got, err)
	}
	io.WriteString(conn, "last words")
	conn.CloseWrite()
	if got := <-heard; got != "last words" {
		t.Errorf("the program heard %q", got)
	}
}

func TestRefused(t *testing.T) {
	_, server := serve(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().(*net.TCPAddr).Port
	l.Close()
	for _, tt := range []struct {
		port, upgrade string
		status        int
	}{
		{fmt.Sprint(free), "soulbox-tunnel", 502},
		{fmt.Sprint(free), "websocket", 426},
		{fmt.Sprint(free), "", 426},
		{"0", "soulbox-tunnel", 400},
		{"65536", "soulbox-tunnel", 400},
		{"-1", "soulbox-tunnel", 400},
		{"http", "soulbox-tunnel", 400},
		{"", "soulbox-tunnel", 400},
	} {
		req, _ := http.NewRequest(http.MethodGet, "http://"+server+"/?port="+tt.port, nil)
		if tt.upgrade != "" {
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", tt.upgrade)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || !strings.Contains(string(body), fmt.Sprintf(`"code":%d`, tt.status)) {
			t.Errorf("port %q, upgrade %q: %s %s, want %d", tt.port, tt.upgrade, resp.Status, body, tt.status)
		}
	}
}

func TestClose(t *testing.T) {
	tunnel, server := serve(t)
	p := listen(t, "127.0.0.1:0", func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	_, r := dial(t, server, p, "")
	tunnel.Close()
	if _, err := r.ReadByte(); err == nil {
		t.Error("a closed tunnel goes on")
	}
}
