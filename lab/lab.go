// Package lab is the way to the code interpreters in sandboxes: it asks them for
// notebooks, packages, analyses and charts, and brings the data.
//
// All the work is done inside of the sandbox, by what listens on its port 49999
// (see kit/interpreter). Whoever asks must own the sandbox, and it must run; one
// that is paused is resumed if traffic resumes it.
//
// # Trust
//
// A sandbox's owner may put any program on that port, so its answers are
// hostile. Of its headers only the status is heard, and the media type if it is
// one of those that were expected. JSON is one valid object, errors are short
// printable sentences, lines and answers and the time for them are bounded, and
// so is the memory that all answers take together. A redirect, a compressed body
// or a status that nobody expects ends the conversation.
//
// # Data
//
// Data that is sent along, or that is in another sandbox, is streamed through
// the agents into a folder of its own, from which it goes when the question is
// answered. When the server dies in between, the folder stays and goes before
// the next data is brought. For data in a bucket the sandbox gets a URL that is
// good for a while, and nothing else of what opens the bucket.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/soulbox/soulbox"
)

// fleet has the sandboxes.
type fleet interface {
	// Live returns a team's sandbox that has not ended.
	Live(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error)
	// Wake resumes a sandbox if traffic does, and is a Conflict otherwise.
	Wake(ctx context.Context, id soulbox.SandboxID) error
}

// dialer reaches into sandboxes. The connections that it makes count as traffic
// and are cut when their sandbox ends or is paused. Its error matches
// syscall.ECONNREFUSED when nothing listens on the port.
type dialer interface {
	Dial(ctx context.Context, id soulbox.SandboxID, port uint16) (net.Conn, error)
}

// Options say what a [Lab] works with.
type Options struct {
	Fleet     fleet    // required
	Traffic   dialer   // required
	Templates []string // that have a code interpreter, for people to be told
}

// A Lab asks code interpreters. It is safe for concurrent use.
type Lab struct {
	opts Options
	http *http.Transport
	room atomic.Int64 // bytes that answers may still take
}

const (
	interpreterPort = 49999
	agentPort       = 49983

	maxHeader = 16 << 10  // of an answer; those of the contract have some hundred bytes
	maxAnswer = 64 << 20  // a notebook full of pictures
	maxLine   = 16 << 20  // one picture, as text
	maxStream = 256 << 20 // of one run
	maxSay    = 64 << 10  // of an answer that says no

	// allAnswers is what all answers together may take of the server's memory.
	allAnswers = 512 << 20
	// piece is what an answer grows by.
	piece = 256 << 10

	// mostWakes is how often one question resumes its sandbox.
	mostWakes = 3
	// restarts and restartTime are how often and how long an interpreter is
	// waited for that does not listen: it may have crashed and come back.
	restarts    = 3
	restartTime = 500 * time.Millisecond
)

// New returns a lab.
func New(o Options) *Lab {
	l := &Lab{opts: o}
	l.room.Store(allAnswers)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	l.http = &http.Transport{
		DialContext:            l.dial,
		DisableCompression:     true, // a small body must not become a large one
		DisableKeepAlives:      true, // the next question may be somebody else's
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              protocols,
	}
	return l
}

// A dialError says that nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return "dial: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dial connects to addr, which is <id>:<port>.
func (l *Lab) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	id, text, _ := strings.Cut(addr, ":")
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", addr, err)
	}
	for try := 1; ; try++ {
		c, err := l.opts.Traffic.Dial(ctx, soulbox.SandboxID(id), uint16(port))
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || try > restarts {
			return nil, &dialError{err}
		}
		select {
		case <-time.After(restartTime):
		case <-ctx.Done():
			return nil, &dialError{context.Cause(ctx)}
		}
	}
}

// running returns a sandbox of the team once it runs.
func (l *Lab) running(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID) (*soulbox.Sandbox, error) {
	for wakes := 0; ; wakes++ {
		sb, err := l.opts.Fleet.Live(ctx, team, id)
		if err != nil || sb.State == soulbox.Running {
			return sb, err
		}
		if wakes == mostWakes {
			return nil, soulbox.Errorf(soulbox.Unavailable, "sandbox %s is paused again and again", id)
		}
		if err := l.opts.Fleet.Wake(ctx, id); err != nil {
			return nil, err
		}
	}
}

// A message is a request to a port of a sandbox.
type message struct {
	verb string
	port uint16
	path string // with its query, escaped
	kind string // the media type of body
	body io.Reader
	size int64 // of body; -1: unknown
}

// send sends m to a sandbox of the team. Until the connection is made nothing
// of the body is read, and a sandbox that was paused is waited for.
func (l *Lab) send(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, m message) (*http.Response, error) {
	for try := 0; ; try++ {
		sb, err := l.running(ctx, team, id)
		if err != nil {
			return nil, err
		}
		u, err := url.Parse("http://" + string(id) + ":" + strconv.Itoa(int(m.port)) + m.path)
		if err != nil {
			return nil, fmt.Errorf("ask sandbox %s: %w", id, err)
		}
		req := (&http.Request{
			Method: m.verb, URL: u, Host: "localhost:" + strconv.Itoa(int(m.port)), Header: http.Header{"User-Agent": {"soulbox"}},
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		}).WithContext(ctx)
		if m.body != nil {
			req.Body, req.ContentLength = io.NopCloser(m.body), m.size // the caller closes it, and may send it again
			req.Header.Set("Content-Type", m.kind)
		}
		if sb.Token != "" {
			req.Header.Set("X-Access-Token", sb.Token)
		}
		res, err := l.http.RoundTrip(req)
		if err == nil {
			if e := res.Header.Get("Content-Encoding"); e != "" {
				_ = res.Body.Close() // it is not wanted
				return nil, soulbox.Errorf(soulbox.Unavailable, "the answer of the sandbox is compressed, which nobody asked for")
			}
			return res, nil
		}
		missed := errors.As(err, new(*dialError))
		now, liveErr := l.opts.Fleet.Live(ctx, team, id)
		switch {
		case context.Cause(ctx) != nil:
			return nil, context.Cause(ctx)
		case liveErr != nil: // how it ended says more
			return nil, liveErr
		case missed && now.State != soulbox.Running && try < mostWakes:
			continue
		case missed && m.port == interpreterPort && errors.Is(err, syscall.ECONNREFUSED):
			return nil, l.without(id)
		}
		return nil, soulbox.Hide(soulbox.Unavailable, err, fmt.Sprintf("sandbox %s does not answer as it should", id))
	}
}

// without says that a sandbox has no code interpreter.
func (l *Lab) without(id soulbox.SandboxID) error {
	return soulbox.Errorf(soulbox.Conflict, "sandbox %s has no code interpreter; %s", id, l.advice())
}

// advice names the templates that have one.
func (l *Lab) advice() string {
	if len(l.opts.Templates) == 0 {
		return "make one of a template that has"
	}
	return "make one of the template " + strings.Join(l.opts.Templates, " or ")
}

// ask sends q and returns the answer if it has the status that a good one has.
// The caller closes its body.
func (l *Lab) ask(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, q soulbox.Question) (*http.Response, error) {
	m := message{verb: q.Verb, port: interpreterPort, path: q.Path}
	if q.Body != nil {
		m.kind, m.body, m.size = "application/json", bytes.NewReader(q.Body), int64(len(q.Body))
	}
	res, err := l.send(ctx, team, id, m)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != q.Status {
		defer func() { _ = res.Body.Close() }() // as much was read as is wanted
		return nil, l.refused(ctx, id, res)
	}
	return res, nil
}

// Ask asks the interpreter of a sandbox of the team, and calls give with the
// answer if it is a good one.
func (l *Lab) Ask(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, q soulbox.Question, give func(soulbox.Reply) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, q.Within, soulbox.Errorf(soulbox.Unavailable, "the sandbox's code interpreter did not answer within %v", q.Within))
	defer cancel()
	res, err := l.ask(ctx, team, id, q)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // as much was read as is wanted
	if q.Status == http.StatusNoContent {
		return give(soulbox.Reply{})
	}
	p := parcel{room: &l.room, most: maxAnswer}
	defer p.release()
	if err := p.fill(res.Body); err != nil {
		return broken(ctx, err)
	}
	r := soulbox.Reply{Type: "application/json", Body: p.bytes}
	if len(q.Types) > 0 {
		r.Type = typeOf(res.Header.Get("Content-Type"), q.Types)
	} else if !isObject(p.bytes) {
		return errNonsense
	}
	return give(r)
}

// Follow asks the interpreter of a sandbox of the team for something that is
// told in lines, and calls each with every line, without its end. The line is
// valid until each returns.
func (l *Lab) Follow(ctx context.Context, team soulbox.TeamID, id soulbox.SandboxID, q soulbox.Question, each func(line []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // which interrupts what runs, unless it is over
	quiet := time.AfterFunc(q.Within, func() {
		cancel(soulbox.Errorf(soulbox.Unavailable, "the sandbox's code interpreter was silent for %v", q.Within))
	})
	defer quiet.Stop()
	res, err := l.ask(ctx, team, id, q)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // as much was read as is wanted
	in := newLines(res.Body, &l.room)
	defer in.release()
	for {
		line, kind, err := in.next()
		if err != nil {
			return broken(ctx, err)
		}
		quiet.Stop() // a client that is slow to read has a deadline of its own
		if err := each(line); err != nil {
			return err
		}
		if slices.Contains(q.Last, kind) {
			return nil
		}
		quiet.Reset(q.Within)
	}
}
