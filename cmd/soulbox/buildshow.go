package main

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/soulbox/soulbox"
)

// A buildShow shows what a build does to whoever watches it.
type buildShow interface {
	line(number uint64, l soulbox.BuildLine) error
	lost(err error)       // the connection, which is made again
	end(b *soulbox.Build) // nil: nobody waited until it was over
}

// newShow returns one that suits who is at the other end: a program that wants
// JSON, a person at a terminal, or a log.
func (c *cli) newShow(name string, asJSON bool) buildShow {
	switch {
	case asJSON:
		return jsonShow{c}
	case c.errTTY:
		p := &painter{c: c, view: buildView{name: name, began: time.Now()}, quit: make(chan struct{}), done: make(chan struct{})}
		go p.run()
		return p
	default:
		return plainShow{c}
	}
}

// jsonShow prints every line, and last the build.
type jsonShow struct{ c *cli }

func (s jsonShow) line(number uint64, l soulbox.BuildLine) error {
	return s.c.jsonLine(buildLineJSON{number, l.At, l.Level, l.Step, l.Message})
}

func (s jsonShow) lost(error) {}

func (s jsonShow) end(b *soulbox.Build) {
	if b != nil {
		_ = s.c.jsonLine(newBuildJSON(b)) // whoever read the lines before is gone if this fails
	}
}

// plainShow writes the messages to standard error.
type plainShow struct{ c *cli }

func (s plainShow) line(_ uint64, l soulbox.BuildLine) error {
	if l.Level != "debug" {
		_, _ = fmt.Fprintln(s.c.err, clean(l.Message)) // the build is what matters
	}
	return nil
}

func (s plainShow) lost(err error) {
	_, _ = fmt.Fprintf(s.c.err, "soulbox: %s; connecting again\n", clean(err.Error())) // as above
}

func (s plainShow) end(*soulbox.Build) {}

// painter keeps a picture of a build on a terminal. Its goroutine ends in end.
type painter struct {
	c          *cli
	quit, done chan struct{}
	drawn      int // lines on the screen that the next picture covers

	mu   sync.Mutex
	view buildView // +checklocks:mu
}

func (p *painter) line(_ uint64, l soulbox.BuildLine) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.view.add(l, time.Now())
	return nil
}

func (p *painter) lost(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.view.notice = err.Error() + "; connecting again"
}

func (p *painter) end(b *soulbox.Build) {
	close(p.quit)
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	p.view.end(b, time.Now())
	p.paint(p.view.picture(time.Now(), 0, p.c.paint))
}

func (p *painter) run() {
	defer close(p.done)
	tick := time.NewTicker(frame)
	defer tick.Stop()
	for {
		p.mu.Lock()
		p.paint(p.view.picture(time.Now(), p.height()-1, p.c.paint))
		p.mu.Unlock()
		select {
		case <-p.quit:
			return
		case <-tick.C:
		}
	}
}

// height returns how many lines the terminal has.
func (p *painter) height() int {
	if f, ok := p.c.err.(interface{ Fd() uintptr }); ok {
		if _, h, err := term.GetSize(int(f.Fd())); err == nil && h > 2 {
			return h
		}
	}
	return 24
}

// paint covers the last picture with the next. Lines that are too long are cut by
// the terminal itself, which is told not to wrap them for as long as that takes.
func (p *painter) paint(lines []string) {
	var b strings.Builder
	b.WriteString("\x1b[?7l")
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	b.WriteString("\x1b[?7h")
	p.drawn = len(lines)
	_, _ = io.WriteString(p.c.err, b.String()) // a terminal that is gone cannot be told so
}

const (
	tailLines  = 6  // of what a step writes, below it while it runs
	tailFailed = 20 // and when it has failed
)

// buildView is what is known of a build, as far as it is shown.
type buildView struct {
	name   string
	began  time.Time
	notice string // of the build as a whole, such as its place in the queue
	steps  []*stepView
	over   *soulbox.Build

	late   time.Duration // how long lines took to get here, clocks included
	isLate bool          // late is known
}

type stepView struct {
	key    string // as its lines name it
	title  string
	cached bool
	failed bool
	began  time.Time // by the server's clock, like ended
	ended  time.Time // zero: it goes on
	tail   []string
}

var (
	// said takes apart what a step's program writes: [builder 1/3] [stdout]: text.
	said = regexp.MustCompile(`^\[[^\]]*\] \[(?:stdout|stderr)\]: ?(.*)$`)
	// hashed is what ends the title of a step.
	hashed = regexp.MustCompile(` \[[0-9a-f]{8,64}\]$`)
)

// add takes a line that came in at a time.
func (v *buildView) add(l soulbox.BuildLine, now time.Time) {
	if late := now.Sub(l.At); !v.isLate || late < v.late {
		v.late, v.isLate = late, true // the quickest line tells most about the clocks
	}
	if l.Level == "debug" {
		return
	}
	if v.notice = ""; l.Step == "" {
		v.notice = l.Message
		return
	}
	s := v.step(l)
	text, cached := strings.CutPrefix(l.Message, "CACHED ")
	m := said.FindStringSubmatch(text)
	switch {
	case m != nil:
		s.write(m[1])
	case s.title == "":
		s.title = hashed.ReplaceAllString(text, "")
	case text != s.title:
		head, _, _ := strings.Cut(s.title, "] ")
		s.write(strings.TrimPrefix(text, head+"] "))
	}
	if cached {
		s.cached, s.ended = true, l.At
	}
}

// step returns the step that a line is about. When another one begins, the one
// before has ended; should it have more to say after all, it goes on.
func (v *buildView) step(l soulbox.BuildLine) *stepView {
	for _, s := range v.steps {
		if s.key == l.Step {
			return s
		}
	}
	for _, s := range v.steps {
		if s.ended.IsZero() {
			s.ended = l.At
		}
	}
	s := &stepView{key: l.Step, began: l.At}
	v.steps = append(v.steps, s)
	return s
}

func (s *stepView) write(text string) {
	s.tail = append(s.tail, text)
	if len(s.tail) > tailFailed {
		s.tail = s.tail[1:]
	}
}

// end takes the build as it is when it is over; nil if nobody waited for that.
func (v *buildView) end(b *soulbox.Build, now time.Time) {
	if v.over = b; b == nil {
		return
	}
	failed := ""
	if f := b.Failure; f != nil {
		failed = "base"
		switch {
		case f.Finish:
			failed = "finalize"
		case f.Step > 0:
			failed = strconv.Itoa(f.Step)
		}
	}
	for _, s := range v.steps {
		if s.ended.IsZero() {
			s.ended = now.Add(-v.late)
		}
		s.failed = s.key == failed
	}
}

// picture returns the lines to be shown, at most height of them unless that is 0.
func (v *buildView) picture(now time.Time, height int, paint func(s, colour string) string) []string {
	head := paint("building "+clean(v.name), bold) + "  " + elapsed(now.Sub(v.began))
	if v.notice != "" && v.over == nil {
		head += "  " + clean(v.notice)
	}
	var lines []string
	for _, s := range v.steps {
		lines = append(lines, v.row(s, now, paint))
		tail := 0
		switch {
		case s.failed:
			tail = tailFailed
		case s.ended.IsZero():
			tail = tailLines
		}
		for _, t := range s.tail[max(0, len(s.tail)-tail):] {
			lines = append(lines, "    │ "+clean(t))
		}
	}
	if height > 0 && len(lines) > height-1 {
		hidden := len(lines) - (height - 2)
		lines = append([]string{fmt.Sprintf("  … %d lines before", hidden)}, lines[hidden:]...)
	}
	return append([]string{head}, lines...)
}

// row is the line about one step.
func (v *buildView) row(s *stepView, now time.Time, paint func(s, colour string) string) string {
	mark := paint("✓", green)
	switch {
	case s.failed:
		mark = paint("✗", red)
	case s.ended.IsZero():
		mark = paint("•", yellow)
	}
	var took string
	switch {
	case s.cached:
		took = paint("cached", cyan)
	case s.ended.IsZero():
		took = elapsed(now.Add(-v.late).Sub(s.began))
	default:
		took = elapsed(s.ended.Sub(s.began))
	}
	const room = 60 // for the title; what is longer moves the time to the right
	title := clean(s.title)
	return "  " + mark + " " + title + strings.Repeat(" ", max(1, room-utf8.RuneCountInString(title))) + took
}

// elapsed words a duration to a tenth of a second, and to seconds when it is long.
func elapsed(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", max(0, d).Seconds())
	}
	return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}
