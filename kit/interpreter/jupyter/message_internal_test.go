package jupyter

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestComposeAndParse(t *testing.T) {
	key := []byte("secret")
	id, frames, err := compose(key, "session", "execute_request", map[string]string{"code": "1 < 2"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := parse(key, append([][]byte{[]byte("a topic")}, frames...), 0)
	if err != nil || m.Type != "execute_request" || string(m.Content) != `{"code":"1 \u003c 2"}` || m.parent != "" {
		t.Errorf("parse: %+v, %v", m, err)
	}
	var h header
	if err := json.Unmarshal(frames[2], &h); err != nil || h.ID != id || h.Session != "session" || h.Version != protocol {
		t.Errorf("header %+v, %v; want id %s", h, err, id)
	}
	if m, err := parse([]byte("other"), frames, 0); err == nil {
		t.Errorf("with another key: %+v, want an error", m)
	}
	if m, err := parse(key, frames[:5], 0); err == nil {
		t.Errorf("without content: %+v, want an error", m)
	}
}

func signed(head, parent, content string) [][]byte {
	h, p, c := []byte(head), []byte(parent), []byte(content)
	return [][]byte{[]byte(delimiter), sign(nil, h, p, nil, c), h, p, nil, c}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"msg_type":"stream"}`, `{"msg_id":"x"}`, `{"name":"stdout","text":"a"}`, int64(0))
	f.Add(`{}`, `{}`, "{\"a\":\"\xff\"}", int64(7))
	f.Add(`[]`, ``, `{"a":`, int64(0))
	f.Fuzz(func(t *testing.T, head, parent, content string, skipped int64) {
		m, err := parse(nil, signed(head, parent, content), skipped)
		if err != nil {
			return
		}
		if skipped != 0 && m.Content != nil {
			t.Errorf("what was not whole is believed: %s", m.Content)
		}
		if skipped == 0 && (!json.Valid(m.Content) || !utf8.Valid(m.Content)) {
			t.Errorf("content %q is not JSON", m.Content)
		}
	})
}

// Whatever a text is, and however it is cut, its pieces are the text.
func FuzzPieces(f *testing.F) {
	f.Add("plain", uint16(1))
	f.Add("quotes \" and \\ and\nlines \u2028 \U0001f389", uint16(255))
	f.Add("\U0001f389\U0001f389é", uint16(3))
	f.Fuzz(func(t *testing.T, text string, repeat uint16) {
		text = strings.ToValidUTF8(strings.Repeat(text, int(repeat)), "?")
		if len(text) > 2<<20 {
			return // long enough is long enough
		}
		for _, ascii := range []bool{false, true} {
			b, err := json.Marshal(text)
			if err != nil {
				t.Fatal(err)
			}
			if ascii {
				b = escapeAll(b)
			}
			var got strings.Builder
			err = pieces(strings.NewReader(`{ "name":"stderr", "text" : `+string(b)+`}`), func(name, part string) {
				if name != "stderr" {
					t.Errorf("name %q", name)
				}
				got.WriteString(part)
			})
			if err != nil || got.String() != text {
				t.Errorf("%d bytes of %d, %v", got.Len(), len(text), err)
			}
		}
	})
}

// escapeAll writes runes as Python does when it is asked for ASCII.
func escapeAll(b []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case r < utf8.RuneSelf:
			out.WriteRune(r)
		case r < 0x10000:
			writeEscape(&out, r)
		default:
			r -= 0x10000
			writeEscape(&out, 0xd800+r>>10)
			writeEscape(&out, 0xdc00+r&0x3ff)
		}
	}
	return out.Bytes()
}

func writeEscape(out *bytes.Buffer, r rune) {
	const digits = "0123456789abcdef"
	out.WriteString(`\u`)
	for shift := 12; shift >= 0; shift -= 4 {
		out.WriteByte(digits[r>>shift&0xf])
	}
}

// Content that is not what kernels send ends in an error, not in a loop.
func FuzzBrokenPieces(f *testing.F) {
	f.Add([]byte(`{"name":"stdout","text":"abc`))
	f.Add([]byte(`{"name":"stdout","text":"\ud83d`))
	f.Add([]byte(`{"text":"abc","name":"stdout"}`))
	f.Add([]byte("{\"name\":\"stdout\",\"text\":\"\xf0\x9f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := 0
		err := pieces(bytes.NewReader(b), func(_, text string) {
			if size += len(text); !utf8.ValidString(text) {
				t.Errorf("piece %q is not UTF-8", text)
			}
		})
		if size > 3*len(b) { // each bad byte is a rune of three
			t.Errorf("%d bytes came out of %d", size, len(b))
		}
		if err == nil && !bytes.Contains(b, []byte(`"text"`)) {
			t.Errorf("%q has no text, and no error", b)
		}
	})
}

func TestFind(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../x", "a/b", "a\x00", strings.Repeat("x", 101)} {
		if s, err := Find([]string{"/"}, name); !errors.Is(err, ErrNoKernel) {
			t.Errorf("Find(%q) = %v, %v; want ErrNoKernel", name, s, err)
		}
	}
}
