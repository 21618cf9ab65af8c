package template

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/soulbox/soulbox"
)

const (
	logName = "log.jsonl"

	// maxLog bounds the log of one build. Behind it there is room for how the
	// build ended.
	maxLog     = 16 << 20
	maxMessage = 16 << 10 // of one line; the rest of it is cut off
	maxLast    = 4 * maxMessage

	// marksEvery is how many lines are between two places in a log that are
	// known, so that a page of it needs no reading from its beginning.
	marksEvery = 64
	// maxIndexed bounds the builds whose places are known and whose files are
	// open.
	maxIndexed = 128
)

// levels are those of a line, from the one that matters least.
var levels = []string{"debug", "info", "warn", "error"}

// logs are those of all builds.
type logs struct {
	dir string

	mu   sync.Mutex
	open map[soulbox.BuildID]*buildLog // +checklocks:mu
}

// A buildLog is the file that one build tells its lines to, and what is known of
// it. One process at a time writes and reads it.
type buildLog struct {
	path string

	mu    sync.Mutex
	file  *os.File // for writing; nil: nobody has written since it was opened or finished; +checklocks:mu
	size  int64    // as far as it was written; +checklocks:mu
	full  bool     // it says that there will be no more; +checklocks:mu
	read  int64    // as far as it is indexed; +checklocks:mu
	seen  [4]int   // lines up to there of each level and worse; +checklocks:mu
	marks [4][]int64
}

// line is how a line is written. A new field must mean the old behaviour when it
// is absent.
type line struct {
	At      int64  `json:"at"` // microseconds since 1970
	Level   string `json:"level"`
	Step    string `json:"step,omitempty"`
	Message string `json:"message"`
}

// of returns the log of a build.
func (l *logs) of(id soulbox.BuildID) *buildLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.open[id]
	if b == nil {
		b = &buildLog{path: filepath.Join(l.dir, string(id), logName)}
		if len(l.open) >= maxIndexed {
			for other, o := range l.open {
				if o.rest() {
					delete(l.open, other)
					break
				}
			}
		}
		l.open[id] = b
	}
	return b
}

// rest closes a log that nobody uses at this moment, which costs whoever does
// next a little time. It is not ok when somebody does.
func (b *buildLog) rest() (ok bool) {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	if b.file != nil {
		_ = b.file.Close() // what is written is written
		b.file = nil
	}
	return true
}

// finish closes the log of a build that is over.
func (l *logs) finish(id soulbox.BuildID) error {
	l.mu.Lock()
	b := l.open[id]
	delete(l.open, id)
	l.mu.Unlock()
	if b == nil {
		return nil
	}
	return b.close()
}

// close closes all.
func (l *logs) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, b := range l.open {
		errs = append(errs, b.close())
	}
	clear(l.open)
	return errors.Join(errs...)
}

func (b *buildLog) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	b.file = nil
	return err
}

// say writes a line of a build. One that cannot be written is of no use to
// anybody who could be told, so the server's own log is.
func (r *Registry) say(id soulbox.BuildID, l soulbox.BuildLine) {
	if err := r.logs.of(id).write(l); err != nil {
		r.Log.Warn("a line of a build is lost", "build", id, "err", err)
	}
	r.news.tell(id)
}

func (b *buildLog) write(l soulbox.BuildLine) error {
	if l.At.IsZero() {
		l.At = time.Now()
	}
	if !slices.Contains(levels, l.Level) {
		l.Level = "info"
	}
	text, err := json.Marshal(line{l.At.UnixMicro(), l.Level, cut(l.Step, 64), cut(l.Message, maxMessage)})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.append(); err != nil {
		return err
	}
	// What it ended with is worth more than what came before.
	last := l.Level == "error" || l.Step == "finalize"
	switch size := b.size + int64(len(text)) + 1; {
	case size <= maxLog, last && size <= maxLog+maxLast:
		return b.put(text)
	case b.full:
		return nil
	}
	b.full = true
	text, err = json.Marshal(line{l.At.UnixMicro(), "warn", "", fullText})
	if err != nil {
		return err
	}
	return b.put(text)
}

// fullText is the last line of a log that has reached its bound.
var fullText = fmt.Sprintf("this log has reached %d MiB; what follows is not kept", maxLog>>20)

// cut shortens a text that is too long, and mends one that is none.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// append opens the file for writing, with b.mu held. A line of which a crash
// left the beginning ends here.
func (b *buildLog) append() error {
	if b.file != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	b.file, b.size = f, fi.Size()
	tail := make([]byte, min(b.size, maxLast))
	if _, err := f.ReadAt(tail, b.size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	b.full = b.size > maxLog-int64(2*maxMessage) && strings.Contains(string(tail), fullText)
	if len(tail) > 0 && tail[len(tail)-1] != '\n' {
		return b.put(nil)
	}
	return nil
}

// put writes a line, with b.mu held.
func (b *buildLog) put(text []byte) error {
	n, err := b.file.Write(append(text, '\n'))
	b.size += int64(n)
	return err
}

// BuildLog returns lines that a build told, oldest first.
func (r *Registry) BuildLog(ctx context.Context, team soulbox.TeamID, id soulbox.TemplateID, build soulbox.BuildID, q soulbox.BuildLogQuery) ([]soulbox.BuildLine, error) {
	level := 0
	if q.Level != "" {
		if level = slices.Index(levels, q.Level); level < 0 {
			return nil, soulbox.Errorf(soulbox.Invalid, "a level is one of %s, not %.50q", strings.Join(levels, ", "), q.Level)
		}
	}
	if q.Offset < 0 || q.Limit < 0 {
		return nil, soulbox.Errorf(soulbox.Invalid, "the offset and the limit of a log must not be less than 0")
	}
	if _, err := r.own(ctx, team, id, build); err != nil {
		return nil, err
	}
	lines, err := r.logs.of(build).lines(ctx, level, q.Offset, q.Limit)
	if err != nil {
		return nil, fmt.Errorf("read log of build %s: %w", build, err)
	}
	return lines, nil
}

// lines returns up to limit lines of a level and worse, from the one with that
// number on; limit 0 is all of them.
func (b *buildLog) lines(ctx context.Context, level, offset, limit int) ([]soulbox.BuildLine, error) {
	f, err := os.Open(b.path)
	if missing(err) {
		return nil, nil // it has not told anything yet
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, skip, err := b.place(ctx, f, level, offset)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return nil, err
	}
	var all []soulbox.BuildLine
	err = eachLine(ctx, f, func(l line, n int, _ int64) bool {
		switch {
		case n < level:
		case skip > 0:
			skip--
		default:
			all = append(all, soulbox.BuildLine{At: time.UnixMicro(l.At).UTC(), Level: l.Level, Step: l.Step, Message: l.Message})
		}
		return limit == 0 || len(all) < limit
	})
	return all, err
}

// place returns a place in the file that is not behind the line with that
// number, and how many of that level and worse are in between.
func (b *buildLog) place(ctx context.Context, f *os.File, level, number int) (at int64, skip int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := f.Seek(b.read, io.SeekStart); err != nil {
		return 0, 0, err
	}
	begin := b.read
	err = eachLine(ctx, f, func(_ line, n int, end int64) bool {
		for l := range n + 1 {
			if b.seen[l]%marksEvery == 0 {
				b.marks[l] = append(b.marks[l], b.read)
			}
			b.seen[l]++
		}
		b.read = begin + end
		return true
	})
	if err != nil {
		return 0, 0, err
	}
	if number >= b.seen[level] {
		return b.read, number - b.seen[level], nil
	}
	return b.marks[level][number/marksEvery], number % marksEvery, nil
}

// eachLine calls f with every whole line, its level, and where it ends as
// counted from the beginning of r, until f returns false. What is no line, such
// as the beginning of one that a crash cut off, is left out.
func eachLine(ctx context.Context, r io.Reader, f func(l line, level int, end int64) bool) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var end int64
	for n := 0; ; n++ {
		if n%marksEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		end += int64(len(text))
		var l line
		if json.Unmarshal(text, &l) != nil {
			continue
		}
		if !f(l, max(0, slices.Index(levels, l.Level)), end) {
			return nil
		}
	}
}
