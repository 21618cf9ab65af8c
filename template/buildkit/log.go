package buildkit

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/soulbox/soulbox"
)

// A buildLog turns what BuildKit tells into lines, and remembers which step is
// which. Safe for concurrent use.
type buildLog struct {
	lines chan soulbox.BuildLine
	told  chan struct{} // closed when say has had all lines

	mu       sync.Mutex
	closed   bool                      // +checklocks:mu
	vertices map[digest.Digest]*vertex // +checklocks:mu
	statuses map[string]bool           // +checklocks:mu that were told
	current  *vertex                   // +checklocks:mu that began last
	from     []string                  // +checklocks:mu images, with their digests
	first    map[string]int            // what a stage's first instruction behind FROM counts as; not listed: 2
}

// A vertex is what BuildKit calls a step, or a part of one.
type vertex struct {
	label string // such as "[builder 1/3]"; empty: it is nobody's business
	text  string // what it does
	step  string // as in BuildLine
	shown bool
	parts [3]bytes.Buffer // of a line that has not ended, by stream
}

const (
	stepBase   = "base"
	stepFinish = "finalize"

	levelDebug = "debug"
	levelInfo  = "info"
	levelWarn  = "warn"
	levelError = "error"

	maxLine    = 4 << 10
	maxMessage = 2 << 10 // of a failure
)

func newLog(say func(soulbox.BuildLine)) *buildLog {
	l := &buildLog{
		lines: make(chan soulbox.BuildLine, 64), told: make(chan struct{}),
		vertices: map[digest.Digest]*vertex{}, statuses: map[string]bool{},
	}
	go func() {
		defer close(l.told)
		for line := range l.lines {
			say(line)
		}
	}()
	return l
}

// close returns when all lines were said.
func (l *buildLog) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.lines)
	}
	l.mu.Unlock()
	<-l.told
}

// +checklocks:l.mu
func (l *buildLog) sayLocked(at time.Time, level, step, message string) {
	if l.closed {
		return
	}
	l.lines <- soulbox.BuildLine{At: at, Level: level, Step: step, Message: clean(message)}
}

// clean makes a line of text of what a stranger's program wrote.
func clean(s string) string {
	if len(s) > maxLine {
		s = s[:maxLine] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// finish says something about what comes after the last step.
func (l *buildLog) finish(message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = &vertex{label: "[finalize]", step: stepFinish}
	l.sayLocked(time.Now(), levelInfo, stepFinish, "[finalize] "+message)
}

// failed says why the build came to nothing, if that is the recipe's business.
func (l *buildLog) failed(err error) {
	f, ok := errors.AsType[*StepError](err)
	if !ok {
		return
	}
	step := ""
	switch {
	case f.Finish:
		step = stepFinish
	case f.Step > 0:
		step = strconv.Itoa(f.Step)
	case f.Step == 0:
		step = stepBase
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sayLocked(time.Now(), levelError, step, f.Message)
}

// Names of vertices: ours, and those of BuildKit's Dockerfile frontend.
var (
	ownName   = regexp.MustCompile(`(?s)^(\[(?:base|builder (\d+)/\d+)\]) (.*)$`)
	stageName = regexp.MustCompile(`(?s)^(\[(?:(\S+) )?(\d+)/\d+\]) (.*)$`)
	fromName  = regexp.MustCompile(`^FROM (\S+@sha256:[0-9a-f]{64})$`)
)

// parseName reads the name of a vertex. first is as in buildLog.
func parseName(name string, first map[string]int) *vertex {
	if m := ownName.FindStringSubmatch(name); m != nil {
		v := &vertex{label: m[1], text: m[3], step: m[2]}
		if v.step == "" {
			v.step = stepBase
		}
		return v
	}
	if m := stageName.FindStringSubmatch(name); m != nil {
		v := &vertex{label: m[1], text: m[4], step: stepBase}
		one, ok := first[m[2]]
		if !ok {
			one = 2 // FROM is the first
		}
		if n, err := strconv.Atoi(m[3]); err == nil && n >= one {
			v.step = strconv.Itoa(n - one + 1)
		}
		return v
	}
	return &vertex{text: name}
}

// status takes what BuildKit tells next.
func (l *buildLog) status(s *client.SolveStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range s.Vertexes {
		l.vertexLocked(v)
	}
	for _, t := range s.Statuses {
		l.partLocked(t)
	}
	for _, e := range s.Logs {
		l.outputLocked(e)
	}
	for _, w := range s.Warnings {
		l.warningLocked(w)
	}
}

// +checklocks:l.mu
func (l *buildLog) vertexLocked(v *client.Vertex) {
	known := l.vertices[v.Digest]
	if known == nil {
		known = parseName(v.Name, l.first)
		l.vertices[v.Digest] = known
		if m := fromName.FindStringSubmatch(known.text); m != nil {
			l.from = append(l.from, m[1])
		}
	}
	if v.Started != nil && !known.shown {
		known.shown = true
		level, message := levelInfo, known.label+" "+known.text
		switch {
		case known.label == "":
			level, message = levelDebug, known.text
		case v.Cached:
			message = "CACHED " + message
		default:
			l.current = known
		}
		if hex := v.Digest.Encoded(); known.label != "" && len(hex) > 12 {
			message += " [" + hex[:12] + "]"
		}
		l.sayLocked(*v.Started, level, known.step, message)
	}
	if v.Completed != nil {
		for stream := range known.parts {
			l.flushLocked(*v.Completed, known, stream)
		}
	}
}

// partLocked tells of a part that is done, such as a layer that was pulled.
//
// +checklocks:l.mu
func (l *buildLog) partLocked(t *client.VertexStatus) {
	v := l.vertices[t.Vertex]
	id := t.Vertex.String() + t.ID
	if v == nil || t.Completed == nil || l.statuses[id] {
		return
	}
	l.statuses[id] = true
	message := t.ID
	if t.Current > 0 {
		message += fmt.Sprintf(" %.1f MB", float64(t.Current)/1e6)
	}
	if t.Started != nil {
		message += " " + t.Completed.Sub(*t.Started).Round(time.Millisecond).String()
	}
	l.sayLocked(*t.Completed, levelDebug, v.step, strings.TrimSpace(v.label+" "+message))
}

// outputLocked takes a piece of a step's output, which ends where it likes.
//
// +checklocks:l.mu
func (l *buildLog) outputLocked(e *client.VertexLog) {
	v := l.vertices[e.Vertex]
	if v == nil {
		return
	}
	stream := min(max(e.Stream, 0), len(v.parts)-1)
	part := &v.parts[stream]
	for rest := e.Data; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		part.Write(line)
		rest = after
		if ended || part.Len() > maxLine {
			l.flushLocked(e.Timestamp, v, stream)
		}
	}
}

// flushLocked says what there is of a line.
//
// +checklocks:l.mu
func (l *buildLog) flushLocked(at time.Time, v *vertex, stream int) {
	part := &v.parts[stream]
	text := strings.TrimRight(part.String(), "\r")
	part.Reset()
	// A progress bar writes the same line again and again.
	text = text[strings.LastIndexByte(text, '\r')+1:]
	if text == "" {
		return
	}
	name := " [stdout]: "
	if stream == 2 {
		name = " [stderr]: "
	}
	l.sayLocked(at, levelInfo, v.step, v.label+name+text)
}

// +checklocks:l.mu
func (l *buildLog) warningLocked(w *client.VertexWarning) {
	message := string(w.Short)
	if len(w.Range) > 0 && w.Range[0].GetStart() != nil {
		message += fmt.Sprintf(" (line %d)", w.Range[0].GetStart().GetLine())
	}
	l.sayLocked(time.Now(), levelWarn, "", message)
}

// at returns the vertex of a failure: the one with that digest, or else the one
// that began last.
func (l *buildLog) at(dgst digest.Digest) *vertex {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := l.vertices[dgst]; v != nil && v.label != "" {
		return v
	}
	return l.current
}

// origin returns the image that a Dockerfile's FROM meant by name, with its
// digest.
func (l *buildLog) origin(name string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.from {
		if bare, _, _ := strings.Cut(f, "@"); bare == name {
			return f
		}
	}
	return name
}
