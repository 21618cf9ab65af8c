package journal

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxCommand is where a command line is cut.
const maxCommand = 1 << 10

// Process writes the entries of one process. Its methods are safe for
// concurrent use, but the output of one stream must arrive in order.
type Process struct {
	j    *Journal
	pid  string
	tail [3]tail
}

// tail is the beginning of a line whose end has not been written yet.
type tail struct {
	mu   sync.Mutex
	data []byte // +checklocks:mu
}

// Stream names where output came from.
type Stream int

// The streams of a process.
const (
	Stdout Stream = iota
	Stderr
	PTY
)

// String returns the stream's name in an entry.
func (s Stream) String() string {
	return [...]string{"stdout", "stderr", "pty"}[s]
}

// Begin records that a process has started.
func (j *Journal) Begin(pid int, cmd []string, user, cwd string) *Process {
	p := &Process{j: j, pid: strconv.Itoa(pid)}
	j.add("info", "process started", map[string]string{
		"pid": p.pid, "cmd": cut(strings.Join(cmd, " "), maxCommand), "user": user, "cwd": cwd,
	})
	return p
}

// Output records what a process has written: one entry for each line that is
// now complete.
func (p *Process) Output(s Stream, data []byte) {
	if !p.j.take(len(data)) {
		return
	}
	t := &p.tail[s]
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			break
		}
		if len(t.data) > 0 {
			t.data = append(t.data, data[:min(end, maxLine)]...)
			p.line(s, t.data)
			t.data = nil
		} else {
			p.line(s, data[:end])
		}
		data = data[end+1:]
	}
	if len(data) > 0 && len(t.data) <= maxLine {
		t.data = append(t.data, data[:min(len(data), maxLine+1)]...)
	}
}

// line records one line without its end.
func (p *Process) line(s Stream, line []byte) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return
	}
	level := "info"
	if s == Stderr {
		level = "warn"
	}
	p.j.add(level, cut(string(line[:min(len(line), maxLine+utf8.UTFMax)]), maxLine), map[string]string{"pid": p.pid, "stream": s.String()})
}

// End records how a process has ended, and lines it left unfinished. A
// process that was ended by a signal has the exit code -1.
func (p *Process) End(exitCode int, status string) {
	for s := range p.tail {
		t := &p.tail[s]
		t.mu.Lock()
		p.line(Stream(s), t.data)
		t.data = nil
		t.mu.Unlock()
	}
	p.j.tellDropped()
	level := "info"
	if exitCode != 0 {
		level = "warn"
	}
	p.j.add(level, fmt.Sprintf("process ended: %s", status), map[string]string{
		"pid": p.pid, "exit_code": strconv.Itoa(exitCode),
	})
}

// cut shortens text to at most n bytes of valid UTF-8.
func cut(text string, n int) string {
	if len(text) > n {
		for n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
