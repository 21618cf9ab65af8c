package node

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
)

// What is told of a command is bounded, because it may write for ever.
const (
	tellMost = 1 << 20 // bytes in all
	lineMost = 4 << 10 // of one line; longer ones are cut into several
	lineCost = 64      // what a line counts besides its text
	lastMost = 200     // of a line that becomes part of a sentence

	// Once enough was told, what comes is dropped, so much so often: to read
	// as fast as it may come would cost a processor.
	dropMost  = 1 << 20
	dropEvery = time.Second
)

// finalize is what E2B calls the part of a build that comes after its steps.
const finalize = "finalize"

// A teller makes lines of what a command writes. It is safe for concurrent use.
type teller struct {
	mu    sync.Mutex
	say   func(soulbox.BuildLine) // nil: nobody is told
	spent int                     // of tellMost
	parts map[string][]byte       // by stream, what its line begins with
	final string                  // the last line that says anything
}

// line tells something of our own.
func (t *teller) line(message string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tellLocked(message)
}

func (t *teller) tellLocked(message string) {
	if t.say != nil {
		t.say(soulbox.BuildLine{At: time.Now(), Level: "info", Step: finalize, Message: "[" + finalize + "] " + message})
	}
}

// output returns what takes a command's output. It waits where the command is
// to be slowed down, but not when ctx has ended.
func (t *teller) output(ctx context.Context) func(stream string, data []byte) error {
	dropped := 0
	return func(stream string, data []byte) error {
		if t.take(stream, data) {
			return nil
		}
		if dropped += len(data); dropped >= dropMost {
			dropped = 0
			wait(ctx, dropEvery)
		}
		return context.Cause(ctx)
	}
}

// take tells the lines that end in data, and reports whether it still does.
func (t *teller) take(stream string, data []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	part := t.parts[stream]
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		if room := lineMost - len(part); len(line) > room {
			line, rest, ended = data[:room], data[room:], true
		}
		part, data = append(part, line...), rest
		if ended {
			t.endLocked(stream, part)
			part = part[:0]
		}
	}
	if t.parts == nil {
		t.parts = map[string][]byte{}
	}
	t.parts[stream] = part
	return t.spent < tellMost
}

// flush tells the lines that have not ended.
func (t *teller) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, stream := range []string{"stdout", "stderr"} {
		if part := t.parts[stream]; len(part) > 0 {
			t.endLocked(stream, part)
			t.parts[stream] = part[:0]
		}
	}
}

// last returns the last line that says anything.
func (t *teller) last() string {
	t.flush()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.final
}

func (t *teller) endLocked(stream string, line []byte) {
	text := printable(line, lineMost)
	if text != "" {
		t.final = printable([]byte(text), lastMost)
	}
	if t.spent >= tellMost {
		return
	}
	t.tellLocked("[" + stream + "]: " + text)
	if t.spent += lineCost + len(text); t.spent >= tellMost {
		t.tellLocked("The output is too long, and the rest of it is not shown")
	}
}

// printable returns what can be shown of a line that may hold anything, at most
// so many bytes of it. Of what was written over itself it is the last.
func printable(line []byte, most int) string {
	line = bytes.TrimRight(line, "\r")
	line = line[bytes.LastIndexByte(line, '\r')+1:]
	text := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(line), "\ufffd"))
	if len(text) > most {
		text = text[:most]
		for !utf8.ValidString(text) { // cut within a letter
			text = text[:len(text)-1]
		}
	}
	return strings.TrimRightFunc(text, unicode.IsSpace)
}
