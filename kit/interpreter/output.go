package interpreter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
	"github.com/soulbox/soulbox/kit/interpreter/zmtp"
)

const (
	keepalive = 5 * time.Second // of silence
	// stallTime is how long a client may read nothing.
	stallTime = 10 * time.Minute
	// gather is how much is written at once.
	gather = 32 << 10
	piece  = 256 << 10
)

// Lines of the stream, as E2B has them.
type (
	plainLine struct {
		Type string `json:"type"`
	}
	countLine struct {
		Type  string `json:"type"`
		Count int64  `json:"execution_count"`
	}
	textLine struct {
		Type      string `json:"type"`
		Text      string `json:"text"`
		Timestamp string `json:"timestamp"`
	}
	cellError struct {
		Type      string `json:"type"`
		Name      string `json:"name"`
		Value     string `json:"value"`
		Traceback string `json:"traceback"`
	}
	resultLine struct {
		Type       string                     `json:"type"`
		Text       any                        `json:"text,omitempty"`
		HTML       json.RawMessage            `json:"html,omitempty"`
		Markdown   json.RawMessage            `json:"markdown,omitempty"`
		SVG        json.RawMessage            `json:"svg,omitempty"`
		PNG        json.RawMessage            `json:"png,omitempty"`
		JPEG       json.RawMessage            `json:"jpeg,omitempty"`
		PDF        json.RawMessage            `json:"pdf,omitempty"`
		LaTeX      json.RawMessage            `json:"latex,omitempty"`
		JSON       json.RawMessage            `json:"json,omitempty"`
		JavaScript json.RawMessage            `json:"javascript,omitempty"`
		Data       json.RawMessage            `json:"data,omitempty"`
		Chart      json.RawMessage            `json:"chart,omitempty"`
		Extra      map[string]json.RawMessage `json:"extra"`
		Main       bool                       `json:"is_main_result"`
	}
)

// Error makes a kernel's error one of Go's.
func (e *cellError) Error() string { return e.Name + ": " + e.Value }

func newError(name, value, traceback string) *cellError {
	return &cellError{Type: "error", Name: name, Value: value, Traceback: traceback}
}

// unexpectedEnd is E2B's text.
func unexpectedEnd() *cellError {
	return newError("UnexpectedEndOfExecution", "Connection to the execution was closed before the execution was finished", "")
}

// line returns what the client hears of a message; nil when that is nothing.
func line(m *jupyter.Message) any {
	if m.Skipped > 0 {
		text := fmt.Sprintf("[%s of %d bytes was left out: more than %d MiB are not passed on]\n", m.Type, m.Skipped, zmtp.MaxMessage>>20)
		return &textLine{Type: "stderr", Text: text, Timestamp: timestamp(m.Date)}
	}
	switch m.Type {
	case "stream":
		s := struct{ Name, Text string }{m.Stream, m.Text}
		if (s.Name != "" || json.Unmarshal(m.Content, &s) == nil) && (s.Name == "stdout" || s.Name == "stderr") {
			return &textLine{Type: s.Name, Text: s.Text, Timestamp: timestamp(m.Date)}
		}
	case "execute_input":
		var s struct {
			Count int64 `json:"execution_count"`
		}
		if json.Unmarshal(m.Content, &s) == nil {
			return &countLine{Type: "number_of_executions", Count: s.Count}
		}
	case "display_data", "execute_result":
		var s struct{ Data map[string]json.RawMessage }
		if json.Unmarshal(m.Content, &s) == nil {
			return result(s.Data, m.Type == "execute_result")
		}
	case "error":
		return kernelError(m.Content)
	}
	return nil
}

// timestamp returns when something was printed: what the kernel says, when it
// says it in the usual way.
func timestamp(date string) string {
	t, err := time.Parse(time.RFC3339Nano, date)
	if err != nil {
		t = time.Now()
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000+00:00")
}

// result sorts the forms of a result. What has no name of its own is extra.
func result(data map[string]json.RawMessage, main bool) *resultLine {
	take := func(kind string) json.RawMessage {
		v := data[kind]
		delete(data, kind)
		if string(v) == "null" {
			return nil
		}
		return v
	}
	r := &resultLine{
		Type: "result", Main: main,
		HTML: take("text/html"), Markdown: take("text/markdown"), SVG: take("image/svg+xml"),
		PNG: take("image/png"), JPEG: take("image/jpeg"), PDF: take("application/pdf"), LaTeX: take("text/latex"),
		JSON: take("application/json"), JavaScript: take("application/javascript"),
		Data: take("e2b/data"), Chart: take("e2b/chart"),
	}
	if text := take("text/plain"); text != nil {
		var s string
		if json.Unmarshal(text, &s) == nil {
			r.Text = unquote(s)
		} else {
			r.Text = text
		}
	}
	if r.Extra = data; data == nil {
		r.Extra = map[string]json.RawMessage{}
	}
	return r
}

// unquote takes the quotes off a string's representation, as E2B does: the same
// at both ends, whatever is between them.
func unquote(s string) string {
	for _, q := range []string{"'", `"`} {
		if strings.HasPrefix(s, q) && strings.HasSuffix(s, q) {
			return s[1:max(1, len(s)-1)]
		}
	}
	return s
}

// kernelError makes a line of an error's content, or of an execute_reply's.
func kernelError(content json.RawMessage) *cellError {
	var s struct {
		Ename, Evalue string
		Traceback     []string
	}
	if json.Unmarshal(content, &s) != nil {
		return newError("Error", "The kernel reported an error that cannot be read", "")
	}
	return newError(s.Ename, s.Evalue, strings.Join(s.Traceback, ""))
}

// failure returns the error in a reply, a *cellError; nil when there is none.
func failure(reply json.RawMessage) error {
	var s struct{ Status string }
	_ = json.Unmarshal(reply, &s) // what cannot be read says nothing
	switch s.Status {
	case "error":
		return kernelError(reply)
	case "abort", "aborted":
		return newError("ExecutionAborted", "Execution was aborted", "")
	}
	return nil
}

// stream writes lines to a client. A nil stream writes nothing. One goroutine
// uses it.
type stream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	quiet *time.Timer
	buf   bytes.Buffer // what is to be written
	one   bytes.Buffer // the line that is being made
	enc   *json.Encoder
}

// newStream tells the client at once that there will be an answer.
func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	s := &stream{w: w, rc: http.NewResponseController(w), quiet: time.NewTimer(keepalive)}
	s.enc = json.NewEncoder(&s.one)
	s.enc.SetEscapeHTML(false)
	_ = s.rc.Flush() // the next write says whether the client is there
	return s
}

// add writes a line, soon.
func (s *stream) add(line any) error {
	s.one.Reset()
	if err := s.enc.Encode(line); err != nil {
		return fmt.Errorf("a line: %w", err)
	}
	ascii(&s.buf, s.one.Bytes())
	if s.one.Cap() > 4*piece {
		s.one = bytes.Buffer{}
	}
	if s.buf.Len() < gather {
		return nil
	}
	return s.flush()
}

// ascii writes JSON with nothing in it that is not ASCII. E2B's server does so,
// and its JavaScript client relies on it: it decodes what comes bit by bit, and a
// character that is cut in two is lost.
func ascii(to *bytes.Buffer, text []byte) {
	const digits = "0123456789abcdef"
	escape := func(u rune) {
		to.Write([]byte{'\\', 'u', digits[u>>12&0xf], digits[u>>8&0xf], digits[u>>4&0xf], digits[u&0xf]})
	}
	for len(text) > 0 {
		n := 0
		for n < len(text) && text[n] < utf8.RuneSelf {
			n++
		}
		to.Write(text[:n])
		text = text[n:]
		for len(text) > 0 && text[0] >= utf8.RuneSelf {
			u, size := utf8.DecodeRune(text)
			if high, low := utf16.EncodeRune(u); low != utf8.RuneError {
				escape(high)
				escape(low)
			} else {
				escape(u)
			}
			text = text[size:]
		}
	}
}

// flush writes what was added.
func (s *stream) flush() error {
	if s.buf.Len() == 0 {
		return nil
	}
	for s.buf.Len() > 0 {
		_ = s.rc.SetWriteDeadline(time.Now().Add(stallTime)) // connections have deadlines
		if _, err := s.w.Write(s.buf.Next(piece)); err != nil {
			return err
		}
	}
	if s.buf.Cap() > 4*piece {
		s.buf = bytes.Buffer{}
	}
	s.quiet.Reset(keepalive)
	return s.rc.Flush()
}

// alive says that nothing has happened yet.
func (s *stream) alive() error {
	if err := s.add(&plainLine{Type: "keepalive"}); err != nil {
		return err
	}
	return s.flush()
}

// wait waits until c is closed, and keeps the client informed.
func (s *stream) wait(ctx context.Context, c <-chan struct{}) error {
	var quiet <-chan time.Time
	if s != nil {
		quiet = s.quiet.C
	}
	for {
		select {
		case <-c:
			return nil
		case <-quiet:
			if err := s.alive(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
