package guest

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/internal/event"
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

// FuzzFollow: whatever a sandbox sends instead of a record, the events that
// come out of it follow each other and are within their bounds.
func FuzzFollow(f *testing.F) {
	f.Add([]byte(nil), uint64(7))
	all := []event.Event{
		{Kind: event.Started, Seq: 8, PID: 1, Text: []byte("x")},
		{Kind: event.Output, Seq: 9, PID: 1, Stream: "pty", Text: []byte("x")},
		{},
		{Kind: event.Ended, Seq: 10, PID: 1, ExitCode: 3},
		{Kind: event.Gap, Seq: 20, Lost: 10},
		{Kind: event.File, Seq: 21, Op: "write", Text: []byte("/\xff")},
	}
	var b []byte
	for i := range all {
		b = event.Append(b, &all[i])
	}
	f.Add(b, uint64(7))
	f.Fuzz(func(t *testing.T, b []byte, after uint64) {
		for frames := event.NewReader(bytes.NewReader(b)); ; {
			e, err := frames.Next()
			if err != nil {
				return
			}
			if e.Kind == event.Alive {
				continue
			}
			g, err := guestEvent(e, after)
			if err != nil {
				return
			}
			if g.Seq <= after || g.Kind != soulbox.EventGap && g.Seq != after+1 || g.At.After(time.Now()) || len(g.Data) > 64<<10 {
				t.Errorf("%+v after %d", g, after)
			}
			if _, err := json.Marshal(g); err != nil || !utf8.ValidString(g.Command+g.Path+g.Signal) {
				t.Error(g, err)
			}
			after = g.Seq
		}
	})
}

// FuzzAnswers: what is accepted as a position or a state can be relied on.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"epochs":[{"id":"a","from":1},{"id":"b","from":6}],"head":5,"tail":2}`))
	f.Add([]byte(`{"processes":[{"pid":2,"ppid":1,"env":{"A":"b"},"openFiles":["/"],"startedAt":"0000-01-01T00:00:00+23:59"}],"ports":[{"port":80,"address":"::1%a"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var wp wirePosition
		if json.Unmarshal(b, &wp) == nil {
			if p, err := wp.position(); err == nil {
				if len(p.Epochs) > 0 && p.Epochs[len(p.Epochs)-1].From-1 > p.Head || len(p.Epochs) == 0 && p.Head > 0 {
					t.Errorf("%+v", p)
				}
			}
		}
		var ws wireState
		if json.Unmarshal(b, &ws) == nil {
			if s, err := ws.state(); err == nil {
				if out, err := json.Marshal(s); err != nil || bytes.Contains(out, []byte(`\u0000`)) && !bytes.Contains(out, []byte(`\\u0000`)) {
					t.Errorf("%s, %v", out, err)
				}
			}
		}
	})
}
