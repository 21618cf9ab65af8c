package main

import (
	"fmt"
	"sync"
	"time"
)

const (
	// patience is how long one waits before being told that one waits.
	patience = time.Second
	frame    = 120 * time.Millisecond
)

// progress is a line on a terminal that says what one is waiting for. Without a
// terminal it is silent. Its goroutine ends in stop.
type progress struct {
	quit chan struct{} // nil: silent
	done chan struct{}

	mu   sync.Mutex
	text string // +checklocks:mu
}

// progress starts one. The caller stops it.
func (c *cli) progress(text string) *progress {
	p := &progress{text: text}
	if !c.errTTY {
		return p
	}
	p.quit, p.done = make(chan struct{}), make(chan struct{})
	go p.run(c)
	return p
}

// say changes the text.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

// stop takes the line away. The second call does nothing.
func (p *progress) stop() {
	if p.quit == nil {
		return
	}
	close(p.quit)
	<-p.done
	p.quit = nil
}

func (p *progress) run(c *cli) {
	defer close(p.done)
	select {
	case <-p.quit:
		return
	case <-time.After(patience):
	}
	tick := time.NewTicker(frame)
	defer tick.Stop()
	// A terminal that is gone cannot be told so: the errors are ignored.
	defer func() { _, _ = fmt.Fprint(c.err, "\r\x1b[K") }()
	for wheel := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"); ; wheel = append(wheel[1:], wheel[0]) {
		p.mu.Lock()
		text := clean(p.text)
		p.mu.Unlock()
		_, _ = fmt.Fprintf(c.err, "\r\x1b[K%c %s", wheel[0], text)
		select {
		case <-p.quit:
			return
		case <-tick.C:
		}
	}
}
