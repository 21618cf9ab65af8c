package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const good = `{"channel":"shell","header":{"msg_id":"1","msg_type":"x"},"parent_header":null,"metadata":{},"content":{"a":1}}`

// FuzzMessages: whatever a client sends is refused, or has the parts of a message.
func FuzzMessages(f *testing.F) {
	text, _, err := compose("shell", kernelHeader{"1", "x"}, &jupyter.Parts{
		Header: []byte(`{"msg_id":"1","msg_type":"x"}`), Parent: []byte("{}"), Metadata: []byte("{}"), Content: []byte("{}"), Buffers: [][]byte{{1}, {}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(good))
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x08" + good))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x08"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, parse := range map[string]func([]byte) (*incoming, error){"text": parseText, "binary": parseBinary} {
			m, err := parse(b)
			if err != nil {
				continue
			}
			for _, part := range []json.RawMessage{m.parts.Header, m.parts.Parent, m.parts.Metadata, m.parts.Content} {
				if !json.Valid(part) || part[0] != '{' {
					t.Errorf("%s: a part is %q", name, part)
				}
			}
			var head kernelHeader
			if err := json.Unmarshal(m.parts.Header, &head); err != nil || m.channel == jupyter.IOPub {
				t.Errorf("%s: %+v, %v", name, m, err)
			}
			again, isBinary, err := compose(m.channel, head, m.parts)
			if err != nil || isBinary != (len(m.parts.Buffers) > 0) {
				t.Errorf("%s: compose: %v, %v", name, isBinary, err)
			}
			back := parseText
			if isBinary {
				back = parseBinary
			}
			if n, err := back(again); err != nil || n.channel != m.channel || !bytes.Equal(n.parts.Content, m.parts.Content) || len(n.parts.Buffers) != len(m.parts.Buffers) {
				t.Errorf("%s: %q comes back as %+v, %v", name, again, n, err)
			}
		}
	})
}

func TestRefusedMessages(t *testing.T) {
	for _, text := range []string{
		"", "x", "[]", "{}", strings.Replace(good, "shell", "iopub", 1), strings.Replace(good, "shell", "hb", 1),
		strings.Replace(good, `"msg_id":"1",`, "", 1), strings.Replace(good, `"x"`, `7`, 1), strings.Replace(good, `{"a":1}`, `[1]`, 1),
	} {
		if m, err := parseText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %+v", text, m)
		}
	}
	for _, b := range []string{
		"", "\x00\x00\x00\x00", "\x00\x00\x00\x01", "\x00\x00\x00\x01\x00\x00\x00\x00" + good, "\x00\x00\x00\x01\x00\x00\xff\x00" + good,
		"\x00\x00\x00\x02\x00\x00\x00\x0c\x00\x00\x00\x0b" + good, "\x00\x00\xff\xff\x00\x00\x00\x08" + good,
	} {
		if m, err := parseBinary([]byte(b)); err == nil {
			t.Errorf("%q is taken for %+v", b, m)
		}
	}
}

// What clients of the interpreter get beside what is shown stays out of notebooks.
func TestPlain(t *testing.T) {
	for content, want := range map[string]string{
		`{"data":{"text/plain":"a"},"metadata":{}}`:                                                                    `{"data":{"text/plain":"a"},"metadata":{}}`,
		`{"data":{"text/plain":"a","e2b/chart":{},"e2b/data":{},"soulbox/note":""},"metadata":{"e2b/data":{}}}`:        `{"data":{"text/plain":"a"},"metadata":{}}`,
		`{"data":{"text/plain":"[1]","application/json":[1]},"metadata":{"application/json":{"expanded":true}},"x":1}`: `{"data":{"text/plain":"[1]"},"metadata":{},"x":1}`,
		`{"data":{"application/json":[1]},"metadata":{"application/json":{"expanded":true}}}`:                          `{"data":{"application/json":[1]},"metadata":{"application/json":{"expanded":true}}}`,
		`{"data":{"text/plain":"[1]","application/json":[1]},"metadata":{"application/json":{"expanded":false}}}`:      `{"data":{"text/plain":"[1]","application/json":[1]},"metadata":{"application/json":{"expanded":false}}}`,
		`{"data":7}`: `{"data":7}`,
		`[]`:         `[]`,
	} {
		if got := string(plain(json.RawMessage(content))); got != want {
			t.Errorf("plain(%s) = %s, want %s", content, got, want)
		}
	}
}

// A flood is let through at its rate, and the client is told once a second.
func TestRate(t *testing.T) {
	var r rate
	now := time.Now()
	passed, told := 0, 0
	for range 20_000 { // ten seconds, twice as many as there may be
		was := r.muted
		r.take(100, now)
		switch {
		case !r.muted:
			passed++
		case !was:
			told++
		}
		now = now.Add(time.Millisecond / 2)
	}
	if passed < 12_000 || passed > 15_000 || told == 0 || told > 11 {
		t.Errorf("%d of 20000 messages passed, and the client was told %d times", passed, told)
	}
	r = rate{}
	if r.take(maxSent, now); r.muted {
		t.Error("one message of the largest size is too much")
	}
	if r.take(1<<20, now); !r.muted {
		t.Error("the next one is not too much")
	}
}
