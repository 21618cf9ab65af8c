package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox/node/guest"
)

// runShell starts a command and waits for it.
func runShell(ctx context.Context, a *guest.Agent, command string, each func(stream string, data []byte) error) (guest.Exit, error) {
	p, err := a.Start(ctx, command)
	if err != nil {
		return guest.Exit{}, err
	}
	return p.Wait(each)
}

func TestStart(t *testing.T) {
	addr, root := realAgent(t)
	a := agentAt(t, addr, "secret")
	if err := a.Init(t.Context(), guest.Identity{Sandbox: "ione", Token: "secret", User: "root", Env: map[string]string{"GREETING": "hello"}}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, command string
		want          map[string]string
		exit          guest.Exit
	}{
		{"succeeds", "echo $GREETING; echo no >&2", map[string]string{"stdout": "hello\n", "stderr": "no\n"}, guest.Exit{Status: "exit status 0"}},
		{"says nothing", "exit 0", map[string]string{}, guest.Exit{Status: "exit status 0"}},
		{"fails", "exit 7", map[string]string{}, guest.Exit{Code: 7, Status: "exit status 7"}},
		{"is killed", "kill -9 $$", map[string]string{}, guest.Exit{Code: -1, Status: "signal: killed"}},
		{"has no input", "cat", map[string]string{}, guest.Exit{Status: "exit status 0"}},
		{"writes much", "head -c 1000000 /dev/zero | tr '\\0' x", map[string]string{"stdout": strings.Repeat("x", 1000000)}, guest.Exit{Status: "exit status 0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]string{}
			exit, err := runShell(t.Context(), a, tt.command, func(stream string, data []byte) error {
				got[stream] += string(data)
				return nil
			})
			if err != nil || exit != tt.exit {
				t.Errorf("Start(%q) = %+v, %v; want %+v", tt.command, exit, err, tt.exit)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("it wrote (-want +got):\n%.1000s", diff)
			}
		})
	}

	t.Run("without the token", func(t *testing.T) {
		_, err := agentAt(t, addr, "other").Start(t.Context(), "true")
		if err == nil || !strings.Contains(err.Error(), "unauthenticated") {
			t.Errorf("Start: %v", err)
		}
	})

	// Whoever listens may leave: the program goes on. With a deadline, it does not.
	left := errors.New("left")
	for _, deadline := range []bool{false, true} {
		name := map[bool]string{false: "goes on", true: "has a deadline"}[deadline]
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if deadline {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
			}
			file := filepath.Join(root, strings.ReplaceAll(name, " ", "-"))
			_, err := runShell(ctx, a, "echo $$; sleep 4; echo done >"+file, func(string, []byte) error { return left })
			if !errors.Is(err, left) {
				t.Errorf("Wait: %v, want what each said", err)
			}
			time.Sleep(6 * time.Second)
			if _, err := os.Stat(file); (err == nil) == deadline {
				t.Errorf("the program has done its work: %v", err == nil)
			}
		})
	}
}

// envelope is a message of a stream; flag 2 is the last one.
func envelope(flag byte, message string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message)))) + message
}

// What an agent answers instead of a stream of events makes us fail in bounded
// time, with an error of bounded size.
func TestStartHostile(t *testing.T) {
	const start, data = `{"event":{"start":{"pid":1}}}`, `{"event":{"data":{"stdout":"aGk="}}}`
	tests := []struct {
		name, answer string
		flood        string // without end, after answer
	}{
		{name: "nothing"},
		{name: "no envelope", answer: "hello"},
		{name: "promises much", answer: "\x00\xff\xff\xff\xffx"},
		{name: "another type", answer: envelope(0, `[1]`)},
		{name: "wrong types", answer: envelope(0, `{"event":{"end":{"exitCode":"x"}}}`)},
		{name: "no base64", answer: envelope(0, `{"event":{"data":{"stdout":"%"}}}`)},
		{name: "compressed", answer: envelope(1, start)},
		{name: "breaks off", answer: envelope(0, start)},
		{name: "begins with the end", answer: envelope(0, `{"event":{"end":{}}}`)},
		{name: "ends without an end", answer: envelope(0, start) + envelope(2, `{}`)},
		{name: "says why for ever", answer: envelope(2, `{"error":{"code":"internal","message":"`+strings.Repeat("why ", 100<<10)+`"}}`)},
		{name: "has a long code", answer: envelope(2, `{"error":{"code":"`+strings.Repeat("x", 100<<10)+`"}}`)},
		{name: "is alive for ever", answer: envelope(0, start), flood: envelope(0, `{"event":{"keepalive":{}}}`)},
		{name: "writes for ever", answer: envelope(0, start), flood: envelope(0, data)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := standIn(t, "", func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, tt.answer)
				for err := error(nil); err == nil && tt.flood != ""; {
					_, err = io.WriteString(w, tt.flood)
				}
			})
			within(t, "a program", patience, func() {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				exit, err := runShell(ctx, a, "true", func(string, []byte) error { return nil })
				if err == nil || len(err.Error()) > 4<<10 {
					t.Errorf("the program ended with %+v, %.100v", exit, err)
				}
			})
		})
	}
}

// FuzzStart: whatever is answered, there is an exit or an error, and what was
// written comes in pieces that a listener can expect.
func FuzzStart(f *testing.F) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\n\r\n"
	f.Add([]byte(head + envelope(0, `{"event":{"start":{"pid":1}}}`) + envelope(0, `{"event":{"data":{"stdout":"aGk=","stderr":"aGk="}}}`) + envelope(0, `{"event":{"end":{"exit_code":3,"status":"x"}}}`)))
	f.Add([]byte(head + envelope(2, `{"error":{"code":"not_found"}}`)))
	f.Add([]byte("HTTP/1.1 401 No\r\n\r\n{\"code\":\"unauthenticated\",\"message\":\"x\"}"))
	f.Add([]byte(head + "\x00\x00\x00\x00\x02[]"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		var conns []net.Conn
		a := guest.New(func(context.Context, uint16) (net.Conn, error) {
			ours, theirs := net.Pipe()
			conns = append(conns, theirs)
			go func() { // it ends with either end of the pipe
				_, _ = theirs.Read(make([]byte, 64<<10))
				_, _ = io.Copy(theirs, bytes.NewReader(answer))
				theirs.Close()
			}()
			return ours, nil
		}, "")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := runShell(ctx, a, "true", func(stream string, data []byte) error {
			if stream != "stdout" && stream != "stderr" || len(data) == 0 {
				t.Errorf("%q writes %q", stream, data)
			}
			return nil
		})
		if errors.Is(err, syscall.ETIMEDOUT) || ctx.Err() != nil {
			t.Errorf("the program ended with %v", err)
		}
		a.Close()
		for _, c := range conns {
			c.Close()
		}
	})
}
