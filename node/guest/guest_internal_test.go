package guest

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// FuzzParseEntry: whatever a sandbox says becomes an error or an entry that
// can be sorted, filtered and written down.
func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-01-02T12:00:00Z","level":"warn","message":"m","fields":{"k":"v"}}`))
	f.Add([]byte(`{"seq":18446744073709551615,"time":"0000-01-01T00:00:00+23:59"}`))
	f.Add([]byte(`{"time":"9999-12-31T23:59:59-23:59","level":"\u0000","message":"` + "\xff" + `"}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEntry(line)
		if err != nil {
			return
		}
		switch e.Level {
		case "debug", "info", "warn", "error":
		default:
			t.Errorf("level %q", e.Level)
		}
		if e.At.Before(time.Unix(0, 0)) || e.At.After(time.Now()) || e.At.Location() != time.UTC {
			t.Errorf("time %v", e.At)
		}
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
	})
}

// FuzzReadHead: the head ends at its empty line, and not one byte behind it
// is taken.
func FuzzReadHead(f *testing.F) {
	f.Add("HTTP/1.1 101 Switching Protocols\r\nUpgrade: soulbox-tunnel\r\n\r\nhello")
	f.Add("\r\n\r\n\r\n\r\n")
	f.Add(strings.Repeat("x", 4<<10) + "\r\n\r\n")
	f.Add(strings.Repeat("x", 4<<10-4) + "\r\n\r\nx")
	f.Fuzz(func(t *testing.T, answer string) {
		conn := &answering{Reader: strings.NewReader(answer)}
		status, err := readHead(conn)
		head, rest, whole := strings.Cut(answer, "\r\n\r\n")
		if whole = whole && len(head)+4 <= 4<<10; !whole {
			if err == nil {
				t.Errorf("readHead(%q) = %q, want an error", answer, status)
			}
			return
		}
		if want, _, _ := strings.Cut(head, "\r\n"); err != nil || status != want {
			t.Errorf("readHead(%q) = %q, %v; want %q", answer, status, err, want)
		}
		if left, err := io.ReadAll(conn); err != nil || string(left) != rest {
			t.Errorf("readHead(%q) leaves %q, %v; want %q", answer, left, err, rest)
		}
	})
}

// answering is a connection that has something to say.
type answering struct {
	net.Conn
	io.Reader
}

func (a *answering) Read(p []byte) (int, error) { return a.Reader.Read(p) }
