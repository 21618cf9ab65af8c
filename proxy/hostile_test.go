package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answer returns a program that reads a request's headers and sends text.
func answer(text string) func(net.Conn) {
	return func(c net.Conn) {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		io.WriteString(c, text)
	}
}

func TestMalformedAnswers(t *testing.T) {
	tests := map[string]string{
		"nothing":             "",
		"not HTTP":            "SSH-2.0-OpenSSH_9.2\r\n",
		"bad status":          "HTTP/1.1 abc OK\r\n\r\n",
		"status 000":          "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
		"status 099":          "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
		"negative status":     "HTTP/1.1 -20 OK\r\n\r\n",
		"endless status line": "HTTP/1.1 200 " + strings.Repeat("x", 1<<20),
		"giant header":        "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"many headers":        "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<17) + "\r\n",
		"header without name": "HTTP/1.1 200 OK\r\n: y\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"negative length":     "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
		"unknown encoding":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
		"flood of 1xx":        strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 100_000),
		"giant 1xx":           "HTTP/1.1 103 Early Hints\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"unasked switch":      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nxyz",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.raw(boxA, 80, answer(text))
			r := w.request("GET", boxA, 80, "/", nil)
			r.Header.Set("Accept", "application/json")
			res := w.do(r)
			p := w.problem(res)
			if res.StatusCode != http.StatusBadGateway || p["port"] != 80. || !strings.Contains(p["message"].(string), "no proper HTTP answer") {
				t.Errorf("%d %v, want 502 about the answer", res.StatusCode, p)
			}
			for deadline := time.Now().Add(5 * time.Second); w.gauge("soulbox_proxy_connections") != 0; {
				if time.Now().After(deadline) {
					t.Fatal("the connection is kept")
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
}

func TestTruncatedAnswersAreResets(t *testing.T) {
	tests := map[string]string{
		"short of its length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
		"chunk cut off":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc",
		"no last chunk":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"bad chunk":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
		"large chunk header":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;" + strings.Repeat("x", 100_000) + "\r\nabc\r\n0\r\n\r\n",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.raw(boxA, 80, answer(text))
			res, err := w.client.Do(w.request("GET", boxA, 80, "/", nil))
			if err == nil {
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			if err == nil {
				t.Error("the client saw a complete answer")
			}
		})
	}
}

// More than was announced may be taken for the same program's next answer,
// which it could have spoilt anyway; it is never anybody else's.
func TestSurplusIsNobodyElses(t *testing.T) {
	w := newWorld(t)
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	w.raw(boxA, agent, answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"+evil))
	w.raw(boxA, 80, answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nport"))
	w.add(boxB)
	w.raw(boxB, agent, answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbox"))
	for range 30 {
		if _, body := w.get(boxA, agent, "/"); body != "ok" && body != "evil" {
			t.Fatalf("got %q, want ok or evil", body)
		}
		if _, body := w.get(boxA, 80, "/"); body != "port" {
			t.Fatalf("another port's answer is %q, want port", body)
		}
		if _, body := w.get(boxB, agent, "/"); body != "box" {
			t.Fatalf("another sandbox's answer is %q, want box", body)
		}
	}
}

func TestClosedByLengthlessAnswer(t *testing.T) {
	w := newWorld(t)
	w.raw(boxA, 80, answer("HTTP/1.0 200 OK\r\nServer: SimpleHTTP\r\n\r\nall of it"))
	if res, body := w.get(boxA, 80, "/"); body != "all of it" || res.Close {
		t.Errorf("got %q (close %v), want all of it on a connection that lasts", body, res.Close)
	}
}

func TestEarlyAnswerToUpload(t *testing.T) {
	w := newWorld(t)
	w.raw(boxA, 80, answer("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"))
	pr, pw := io.Pipe()
	res := w.do(w.request("POST", boxA, 80, "/", pr))
	if body := w.read(res); res.StatusCode != http.StatusRequestEntityTooLarge || body != "big" {
		t.Errorf("%d %q, want 413 big", res.StatusCode, body)
	}
	pw.Close()
}

// The program dies while a client that expects no answer yet sends nothing.
func TestProgramDiesDuringStalledUpload(t *testing.T) {
	w := newWorld(t)
	w.raw(boxA, 80, answer(""))
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: 80-%s.x\r\nContent-Length: 100\r\n\r\nabc", boxA)
	b, err := io.ReadAll(c)
	if !strings.HasPrefix(string(b), "HTTP/1.1 502 ") || !strings.Contains(string(b), "no proper HTTP answer") || err != nil {
		t.Errorf("got %q, %v; want 502 about the answer", b, err)
	}
}

func TestClientGoesAway(t *testing.T) {
	w := newWorld(t)
	begun, ended := make(chan struct{}), make(chan error, 1)
	w.serve(boxA, 80, func(rw http.ResponseWriter, r *http.Request) {
		close(begun)
		_, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			<-r.Context().Done()
			err = errors.New("request cancelled")
		}
		ended <- err
	})
	for name, head := range map[string]string{
		"during an upload":   "POST / HTTP/1.1\r\nHost: 80-%s.x\r\nContent-Length: 100\r\n\r\nabc",
		"during the waiting": "GET / HTTP/1.1\r\nHost: 80-%s.x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			begun = make(chan struct{})
			c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(c, head, boxA)
			wait(t, begun, "the request")
			c.Close()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the sandbox saw a complete request")
				}
			case <-time.After(10 * time.Second):
				t.Error("the sandbox did not learn of it")
			}
		})
	}
}

func TestUpgradeEndsWithEitherSide(t *testing.T) {
	const head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"
	dial := func(w *world) (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		// The word after the request comes early, as some protocols do it.
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: 80-%s.x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: raw\r\n\r\nping", boxA)
		br := bufio.NewReader(c)
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "raw" {
			t.Fatalf("no upgrade: %v %v", res, err)
		}
		return c, br
	}
	t.Run("half close", func(t *testing.T) {
		w := newWorld(t)
		w.raw(boxA, 80, func(c net.Conn) {
			br := bufio.NewReader(c)
			http.ReadRequest(br)
			io.WriteString(c, head)
			b, _ := io.ReadAll(br) // until the client ends its half
			fmt.Fprintf(c, "%s pong", b)
		})
		c, br := dial(w)
		defer c.Close()
		c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(br); string(b) != "ping pong" || err != nil {
			t.Errorf("got %q, %v; want ping pong", b, err)
		}
	})
	t.Run("client vanishes", func(t *testing.T) {
		w := newWorld(t)
		ended := make(chan struct{})
		w.raw(boxA, 80, func(c net.Conn) {
			defer close(ended)
			br := bufio.NewReader(c)
			http.ReadRequest(br)
			io.WriteString(c, head)
			io.Copy(io.Discard, br)
		})
		c, _ := dial(w)
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		wait(t, ended, "the sandbox to see the end")
	})
	t.Run("sandbox vanishes", func(t *testing.T) {
		w := newWorld(t)
		w.raw(boxA, 80, func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, head)
			c.(*net.TCPConn).SetLinger(0)
		})
		c, br := dial(w)
		defer c.Close()
		if b, err := io.ReadAll(br); err == nil {
			t.Errorf("got %q and a clean end, want a reset", b)
		}
	})
}
