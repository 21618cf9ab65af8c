package guest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soulbox/soulbox/node/guest"
)

func TestTunnelHostile(t *testing.T) {
	const opened = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: soulbox-tunnel\r\n\r\n"
	say := func(text string) func(net.Conn) {
		return func(conn net.Conn) { io.WriteString(conn, text); silence(conn) }
	}
	tests := []struct {
		name string
		say  func(net.Conn)
		want error // nil: any
	}{
		{"hangs_up", func(net.Conn) {}, nil},
		{"refused", say("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9\r\n\r\n"), syscall.ECONNREFUSED},
		{"another_status", say("HTTP/1.1 401 Unauthorized\r\n\r\n"), nil},
		{"no_upgrade", say("HTTP/1.1 200 OK\r\n\r\n"), nil},
		{"other_protocol", say("SSH-2.0\r\n\r\n"), nil},
		{"long_status", say("HTTP/1.1 1011 " + strings.Repeat("x", 3<<10) + "\r\n\r\n"), nil},
		{"answer_without_an_end", func(conn net.Conn) { flood(conn, "HTTP/1.1 101 x\r\n") }, nil},
		{"one_byte_too_long", say(strings.Repeat("x", 4<<10)), nil},
		{"silence", silence, nil},
		{"drips", func(conn net.Conn) {
			for range 100 {
				if _, err := io.WriteString(conn, "x"); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := raw(t, tt.say)
			within(t, "Tunnel", patience, func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				conn, err := a.Tunnel(ctx, 80)
				if err == nil {
					conn.Close()
					t.Fatal("there is a tunnel")
				}
				if tt.want != nil && !errors.Is(err, tt.want) || tt.want == nil && errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("Tunnel: %v, want %v", err, tt.want)
				}
				if len(err.Error()) > 1<<10 {
					t.Errorf("Tunnel: an error of %d bytes", len(err.Error()))
				}
			})
		})
	}
	// What comes right behind the head belongs to whoever uses the tunnel.
	conn, err := raw(t, say(opened+"hello")).Tunnel(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var b [5]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil || string(b[:]) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
}

// Nobody has to bring a deadline: an agent that never answers, and a sandbox
// that cannot even be reached, are given up.
func TestTunnelBound(t *testing.T) {
	unreachable := guest.New(func(ctx context.Context, _ uint16) (net.Conn, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}, "")
	for name, a := range map[string]*guest.Agent{"silent": raw(t, silence), "unreachable": unreachable} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within(t, "Tunnel", patience, func() {
				conn, err := a.Tunnel(context.WithoutCancel(t.Context()), 80)
				if ne, ok := errors.AsType[net.Error](err); conn != nil && err == nil || !ok || !ne.Timeout() {
					t.Errorf("Tunnel: %v, want a timeout", err)
				}
			})
		})
	}
}

// The context ends the making of a tunnel and not the tunnel.
func TestTunnelOutlivesContext(t *testing.T) {
	a := raw(t, func(conn net.Conn) {
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		io.Copy(conn, conn)
	})
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := a.Tunnel(ctx, 80)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	wantEcho(t, conn)

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if conn, err := a.Tunnel(ctx, 80); !errors.Is(err, context.Canceled) {
		t.Errorf("Tunnel with a context that is over: %v, %v", conn, err)
	}
}

// wantEcho says something and wants to hear it.
func wantEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := []byte("are you there?")
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(b))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != string(b) {
		t.Errorf("echo: %q, %v", got, err)
	}
}
