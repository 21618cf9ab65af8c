package zmtp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/zmtp"
)

var greeting = "\xff" + strings.Repeat("\x00", 8) + "\x7f\x03\x00NULL" + strings.Repeat("\x00", 48)

const routerReady = "\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER"

// peer listens, says what it is given, keeps what it is told, and hangs up when
// hangUp says so.
func peer(t *testing.T, says io.Reader) (address string, told <-chan []byte) {
	t.Helper()
	address = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	c := make(chan []byte, 1)
	go func() {
		defer l.Close()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		go func() {
			b, _ := io.ReadAll(conn)
			c <- b
		}()
		_, _ = io.Copy(conn, says)
		_ = conn.(*net.UnixConn).CloseWrite()
		<-t.Context().Done()
	}()
	return address, c
}

func dial(t *testing.T, says io.Reader) (*zmtp.Conn, <-chan []byte) {
	t.Helper()
	address, told := peer(t, io.MultiReader(strings.NewReader(greeting+routerReady), says))
	c, err := zmtp.Dial(t.Context(), "unix", address, zmtp.Sub)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, told
}

func TestSendAndReceive(t *testing.T) {
	long := strings.Repeat("x", 300)
	c, told := dial(t, strings.NewReader("\x01\x01a\x04\x05\x04PING\x03\x00\x00\x00\x00\x00\x00\x01\x2c"+long+"\x00\x00\x00\x01b"))
	frames, skipped, err := c.Receive(nil)
	if err != nil || skipped != 0 || len(frames) != 3 || string(frames[0]) != "a" || string(frames[1]) != long || len(frames[2]) != 0 {
		t.Errorf("received %q, %d, %v", frames, skipped, err)
	}
	if frames, _, err := c.Receive(nil); err != nil || len(frames) != 1 || string(frames[0]) != "b" {
		t.Errorf("received %q, %v; want b", frames, err)
	}
	if _, _, err := c.Receive(nil); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
	if err := c.Send([]byte("q"), []byte(long)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	want := "\x00\x01\x01" + "\x01\x01q" + "\x02\x00\x00\x00\x00\x00\x00\x01\x2c" + long
	if got := <-told; !bytes.HasSuffix(got, []byte("SUB"+want)) {
		t.Errorf("sent %q, want %q at the end", got, want)
	}
}

// A peer that takes nothing keeps nobody for ever.
func TestSendToNobody(t *testing.T) {
	silent, w := io.Pipe()
	defer w.Close()
	address := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(conn, io.MultiReader(strings.NewReader(greeting+routerReady), silent))
		}
	}()
	c, err := zmtp.Dial(t.Context(), "unix", address, zmtp.Dealer)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(make([]byte, 32<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Send() = %v, want that time is over", err)
	}
}

// A message that is too large is skipped, and the next one is received.
func TestTooLarge(t *testing.T) {
	const size = zmtp.MaxMessage + 1
	frame := io.MultiReader(strings.NewReader("\x01\x01h\x02\x00\x00\x00\x00\x04\x00\x00\x01"), io.LimitReader(zeros{}, size), strings.NewReader("\x00\x01b"))
	c, _ := dial(t, frame)
	frames, skipped, err := c.Receive(nil)
	if err != nil || skipped != size || len(frames) != 2 || string(frames[0]) != "h" || len(frames[1]) != 0 {
		t.Errorf("received %d frames, skipped %d, %v", len(frames), skipped, err)
	}
	if frames, skipped, err := c.Receive(nil); err != nil || skipped != 0 || string(frames[0]) != "b" {
		t.Errorf("the next one: %q, %d, %v", frames, skipped, err)
	}
}

// The largest size that can be written is no reason to reserve memory.
func TestTooLargeToCount(t *testing.T) {
	c, _ := dial(t, strings.NewReader("\x01\x01h\x02\x7f\xff\xff\xff\xff\xff\xff\xff"))
	if frames, _, err := c.Receive(nil); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("received %q, %v; want the end", frames, err)
	}
}

// Who takes a frame takes the message.
func TestTaken(t *testing.T) {
	const size = 3 << 20
	c, _ := dial(t, io.MultiReader(strings.NewReader("\x01\x01h\x03\x00\x00\x00\x00\x00\x30\x00\x00"), io.LimitReader(zeros{}, size), strings.NewReader("\x00\x01z\x00\x01b")))
	var before string
	var read int64
	frames, _, err := c.Receive(func(frames [][]byte, r io.Reader) bool {
		before = string(frames[0])
		read, _ = io.CopyN(io.Discard, r, size/2)
		return true
	})
	if err != nil || before != "h" || read != size/2 || len(frames) != 1 || string(frames[0]) != "b" {
		t.Errorf("before %q, read %d; then %q, %v", before, read, frames, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestRefusesPeers(t *testing.T) {
	for name, says := range map[string]string{
		"nothing": "", "http": "HTTP/1.1 400 Bad Request\r\n\r\n" + strings.Repeat("x", 64), "version 2": greeting[:10] + "\x01" + greeting[11:],
		"curve": strings.Replace(greeting, "NULL\x00", "CURVE", 1), "no ready": greeting + "\x00\x01a", "error": greeting + "\x04\x07\x05ERROR\x00",
		"long": greeting + "\x06\x00\x00\x00\xff\x00\x00\x00\x00",
	} {
		address, _ := peer(t, strings.NewReader(says))
		if c, err := zmtp.Dial(t.Context(), "unix", address, zmtp.Dealer); err == nil {
			c.Close()
			t.Errorf("%s: connected", name)
		}
	}
	silent, w := io.Pipe()
	defer w.Close()
	address, _ := peer(t, silent)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := zmtp.Dial(ctx, "unix", address, zmtp.Dealer); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent peer: %v, want a timeout", err)
	}
}

// No bytes make it hang, or keep more than it may.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x01\x01a\x00\x00"))
	f.Add([]byte("\x02\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Add([]byte("\x02\x7f\xff\xff\xff\xff\xff\xff\xffx"))
	f.Add([]byte("\x06\x00\x00\x00\x00\xff\x00\x00\x00x"))
	f.Add(bytes.Repeat([]byte("\x01\x00"), 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _ := dial(t, bytes.NewReader(b))
		for {
			frames, skipped, err := c.Receive(nil)
			if err != nil {
				return
			}
			size := int64(0)
			for _, frame := range frames {
				size += int64(len(frame))
			}
			if len(frames) == 0 || len(frames) > 64 || size+skipped > int64(len(b)) {
				t.Fatalf("%d frames, %d bytes, %d skipped of %d", len(frames), size, skipped, len(b))
			}
		}
	})
}

// A peer knows who dials with an identity, and who keeps less than others.
func TestIdentityAndLimit(t *testing.T) {
	address, told := peer(t, strings.NewReader(greeting+routerReady+"\x01\x05whole\x00\x05cut..\x00\x01b"))
	c, err := zmtp.DialAs(t.Context(), "unix", address, zmtp.Dealer, "me")
	if err != nil {
		t.Fatal(err)
	}
	c.Limit(7)
	frames, skipped, err := c.Receive(nil)
	if err != nil || skipped != 5 || len(frames) != 2 || string(frames[0]) != "whole" || len(frames[1]) != 0 {
		t.Errorf("received %q, %d, %v; want the first frame", frames, skipped, err)
	}
	if frames, _, err := c.Receive(nil); err != nil || len(frames) != 1 || string(frames[0]) != "b" {
		t.Errorf("received %q, %v; want b", frames, err)
	}
	c.Close()
	if got := <-told; !bytes.HasSuffix(got, []byte("\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x02me")) {
		t.Errorf("sent %q, want an identity", got)
	}
}
