package jupyter

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

const (
	pieceSize = 256 << 10 // of long output
	maxPrefix = 256       // bytes before its text
)

// takeStream passes on what was printed, in pieces, when it is long: kernels
// gather what is printed at once in one message, and that can be a gigabyte. It
// is a zmtp.Taker. The signature is not checked, since it comes with the text.
func (k *Kernel) takeStream(before [][]byte, frame io.Reader) bool {
	for len(before) > 0 && string(before[0]) != delimiter {
		before = before[1:]
	}
	if len(before) != 5 { // the next one is the content
		return false
	}
	m, err := parseHeaders(before[2], before[3])
	if err != nil || m.Type != "stream" {
		return false
	}
	r := k.run(m.parent)
	if r == nil {
		return true
	}
	err = pieces(frame, func(name, text string) {
		r.put(&Message{Type: m.Type, Date: m.Date, Stream: name, Text: text, parent: m.parent})
	})
	if err != nil { // what came before it is true nevertheless
		rest, _ := io.Copy(io.Discard, frame) // whoever receives next sees the error
		r.put(&Message{Type: m.Type, Date: m.Date, Skipped: max(1, rest), parent: m.parent})
	}
	return true
}

// pieces reads the content of a stream message, which says the stream's name and
// then its text, and writes parts of the text.
func pieces(frame io.Reader, write func(name, text string)) error {
	in := bufio.NewReaderSize(frame, pieceSize)
	prefix, err := in.Peek(maxPrefix)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	name, at, err := parsePrefix(prefix)
	if err != nil {
		return err
	}
	if _, err := in.Discard(at); err != nil {
		return err
	}
	for {
		b, err := in.Peek(pieceSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		n, end := whole(b)
		if n == 0 && !end {
			return errors.New("the text of a stream has no end")
		}
		var text string
		quoted := append(append(append(make([]byte, 0, n+2), '"'), bytes.ToValidUTF8(b[:n], []byte("\ufffd"))...), '"')
		if err := json.Unmarshal(quoted, &text); err != nil {
			return err
		}
		if text != "" {
			write(name, text)
		}
		if end {
			return nil
		}
		if _, err := in.Discard(n); err != nil {
			return err
		}
	}
}

// parsePrefix returns the stream's name and where its text begins.
func parsePrefix(b []byte) (name string, at int, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	want := []any{json.Delim('{'), "name", nil, "text"}
	for _, w := range want {
		token, err := dec.Token()
		if err != nil {
			return "", 0, err
		}
		if s, ok := token.(string); ok && w == nil {
			name = s
		} else if token != w {
			return "", 0, errors.New("a stream's content is not in the usual order")
		}
	}
	at = int(dec.InputOffset())
	for _, c := range []byte(":\"") {
		for at < len(b) && (b[at] == ' ' || b[at] == '\t' || b[at] == '\n' || b[at] == '\r') {
			at++
		}
		if at >= len(b) || b[at] != c {
			return "", 0, errors.New("a stream's text is not a string")
		}
		at++
	}
	return name, at, nil
}

// whole returns how much of b, which begins inside a JSON string, can be decoded
// by itself, and whether the string ends there.
func whole(b []byte) (n int, end bool) {
	for n < len(b) {
		i := bytes.IndexAny(b[n:], `"\`)
		if i < 0 {
			n = len(b)
			break
		}
		n += i
		if b[n] == '"' {
			return n, true
		}
		size := escape(b[n:])
		if size == 0 {
			return n, false
		}
		n += size
	}
	// A rune that is not whole waits for the rest of it.
	for back := 1; back < utf8.UTFMax && back <= n; back++ {
		if utf8.RuneStart(b[n-back]) {
			if !utf8.FullRune(b[n-back : n]) {
				n -= back
			}
			break
		}
	}
	return n, false
}

// escape returns the length of the escape that b begins with, with its second
// half when it is a surrogate; 0 when b is too short to say.
func escape(b []byte) int {
	const short, long = 2, 6
	switch {
	case len(b) < short:
		return 0
	case b[1] != 'u':
		return short
	case len(b) < long:
		return 0
	case (b[2] == 'd' || b[2] == 'D') && (b[3] == '8' || b[3] == '9' || b[3]|0x20 == 'a' || b[3]|0x20 == 'b'):
		if len(b) < 2*long {
			return 0
		}
		if b[6] == '\\' && b[7] == 'u' {
			return 2 * long
		}
	}
	return long
}
