package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	maxReceived = 16 << 20 // bytes of a client's message
	// maxWaiting is how much waits for a client before output is dropped. What is
	// no output may take as much again; then the client is of no use.
	maxWaiting = 16 << 20
	// Output comes at this rate, on average, after a burst of some seconds.
	bytesASecond    = 2 << 20
	messagesASecond = 1000
	burst           = 5 * time.Second

	writeTime = 30 * time.Second // for one message
	endTime   = 5 * time.Second  // between the end of a kernel's sockets and its own
)

// session is a client's WebSocket. Beside the handler it has a goroutine that
// reads from the client and one that writes to it; the channels to the kernel have
// theirs.
type session struct {
	g       *Gateway
	context Context
	ws      *websocket.Conn
	in      chan *incoming // what the client has sent; a kernel that is not there yet is waited for
	cancel  context.CancelCauseFunc
	wake    chan struct{} // of one: something waits

	mu      sync.Mutex
	waiting []sent // +checklocks:mu
	size    int    // +checklocks:mu — bytes that wait
	rate    rate   // +checklocks:mu
}

// sent is a message for the client.
type sent struct {
	text           []byte
	isBinary, last bool
}

// errLast ends a session whose client knows why.
var errLast = errors.New("the client has been told")

// channels serves a WebSocket until one side has enough.
func (g *Gateway) channels(w http.ResponseWriter, r *http.Request) {
	c, ok := g.context(w, r)
	if !ok {
		return
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		refuse(w, http.StatusServiceUnavailable, "the interpreter is shutting down")
		return
	}
	g.wg.Add(1)
	g.mu.Unlock()
	defer g.wg.Done()
	defer g.count(g.sessions, c.ID())()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // the client has been told
	}
	defer func() { _ = ws.CloseNow() }() // it may be closed
	ws.SetReadLimit(maxReceived)
	// The request's own context has ended by now, or will not.
	ctx, cancel := context.WithCancelCause(g.life)
	defer cancel(nil)
	s := &session{g: g, context: c, ws: ws, in: make(chan *incoming), cancel: cancel, wake: make(chan struct{}, 1)}
	var wg sync.WaitGroup
	wg.Go(func() { cancel(s.read(ctx)) })
	wg.Go(func() { cancel(s.write(ctx)) })
	s.serve(ctx)
	if bad, ok := errors.AsType[*messageError](context.Cause(ctx)); ok {
		_ = ws.Close(websocket.StatusInvalidFramePayloadData, bad.Error()) // it is over in any case
	}
	cancel(nil)
	_ = ws.CloseNow() // ends the reader
	wg.Wait()
}

// messageError says what is wrong with a client's message.
type messageError struct{ err error }

func (b *messageError) Error() string {
	const maxReason = 120 // of a WebSocket's last word
	why := b.err.Error()
	return why[:min(len(why), maxReason)]
}

// read takes what the client sends.
func (s *session) read(ctx context.Context) error {
	for {
		kind, b, err := s.ws.Read(ctx)
		if err != nil {
			return err
		}
		parse := parseText
		if kind == websocket.MessageBinary {
			parse = parseBinary
		}
		m, err := parse(b)
		if err != nil {
			return &messageError{err}
		}
		select {
		case s.in <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write sends the client what waits for it.
func (s *session) write(ctx context.Context) error {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for m, ok := s.next(); ok; m, ok = s.next() {
			kind := websocket.MessageText
			if m.isBinary {
				kind = websocket.MessageBinary
			}
			ctx, cancel := context.WithTimeout(ctx, writeTime)
			err := s.ws.Write(ctx, kind, m.text)
			cancel()
			if err != nil {
				return err
			}
			if m.last {
				return errLast
			}
		}
	}
}

func (s *session) next() (sent, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.waiting = nil
		return sent{}, false
	}
	m := s.waiting[0]
	s.waiting[0] = sent{}
	s.waiting = s.waiting[1:]
	s.size -= len(m.text)
	return m, true
}

// serve connects the client to the kernel, and to the next one when that ends,
// until the client goes.
func (s *session) serve(ctx context.Context) {
	for {
		k, err := s.context.Ready(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.add(message(state("dead")), false, nil)
				s.add(sent{last: true}, false, nil)
				<-ctx.Done()
			}
			return
		}
		err = s.relay(ctx, k)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, jupyter.ErrEnded):
			s.add(message(state(s.g.after(s.context.ID()))), false, nil)
		default: // the client may come back
			s.g.log.WarnContext(ctx, "client disconnected from a kernel", "context", s.context.ID(), "err", err)
			return
		}
	}
}

// relay passes messages on until the kernel has ended, which is jupyter.ErrEnded.
func (s *session) relay(ctx context.Context, k *jupyter.Kernel) error {
	ch, err := k.Open(ctx, s.say)
	if err != nil {
		return ended(ctx, k, err)
	}
	defer ch.Close()
	for {
		select {
		case m := <-s.in:
			err := ch.Send(m.channel, m.parts)
			switch {
			case errors.Is(err, jupyter.ErrEnded):
				return ended(ctx, k, err)
			case err != nil:
				s.cancel(&messageError{err})
				return err
			}
		case <-ch.Done():
			return ended(ctx, k, errors.New("the kernel has closed the connection"))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ended returns jupyter.ErrEnded when err comes from the end of the kernel, and
// else err.
func ended(ctx context.Context, k *jupyter.Kernel, err error) error {
	soon := time.NewTimer(endTime)
	defer soon.Stop()
	select {
	case <-k.Done():
		return jupyter.ErrEnded
	case <-soon.C:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rate is what a client may be sent of output: it fills up with time.
type rate struct {
	last            time.Time
	bytes, messages float64
	muted           bool // until there is room for a second's worth again
}

// take takes a message of n bytes, or mutes.
func (r *rate) take(n int, now time.Time) {
	const full = float64(burst / time.Second)
	if r.last.IsZero() {
		r.bytes, r.messages = full*bytesASecond, full*messagesASecond
	} else {
		passed := now.Sub(r.last).Seconds()
		r.bytes = min(r.bytes+passed*bytesASecond, full*bytesASecond)
		r.messages = min(r.messages+passed*messagesASecond, full*messagesASecond)
	}
	r.last = now
	if r.muted && (r.messages < messagesASecond || r.bytes < bytesASecond) {
		return
	}
	if r.muted = r.messages < 1 || r.bytes < min(float64(n), full*bytesASecond); r.muted {
		return
	}
	r.bytes, r.messages = r.bytes-float64(n), r.messages-1
}

// outputs are the messages that a flood consists of, and a notebook can do
// without.
var outputs = map[string]bool{
	"stream": true, "display_data": true, "execute_result": true, "update_display_data": true, "comm_msg": true,
}

// say puts a message of the kernel's, or about it, into what waits for the client.
func (s *session) say(channel string, p *jupyter.Parts) {
	var head kernelHeader
	if json.Unmarshal(p.Header, &head) != nil {
		return
	}
	if p.Skipped > 0 {
		s.tooLarge(channel, head, p)
		return
	}
	switch head.Type {
	case "display_data", "execute_result", "update_display_data":
		p.Content = plain(p.Content)
	}
	text, isBinary, err := compose(channel, head, p)
	if err != nil {
		return
	}
	if len(text) > maxSent {
		p.Skipped = int64(len(text))
		s.tooLarge(channel, head, p)
		return
	}
	s.add(sent{text: text, isBinary: isBinary}, channel == jupyter.IOPub && outputs[head.Type], p.Parent)
}

// tooLarge says that a message cannot be passed on.
func (s *session) tooLarge(channel string, head kernelHeader, p *jupyter.Parts) {
	if channel == jupyter.IOPub {
		s.say(channel, note(p.Parent, "[%s of %d bytes was left out: it is too large for a notebook]\n", head.Type, p.Skipped))
		return
	}
	s.say(channel, &jupyter.Parts{
		Header: p.Header, Parent: p.Parent, Metadata: json.RawMessage("{}"),
		Content: json.RawMessage(`{"status":"error","ename":"TooLarge","evalue":"The kernel's answer is too large","traceback":[]}`),
	})
}

// add makes a message wait for the client, unless there is too much.
func (s *session) add(m sent, isOutput bool, parent json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isOutput {
		told := s.rate.muted
		if s.size > maxWaiting {
			s.rate.muted = true
		} else {
			s.rate.take(len(m.text), time.Now())
		}
		if s.rate.muted && told {
			return
		}
		if s.rate.muted {
			m = message(note(parent, "[output comes too fast for a notebook; some of it was left out]\n"))
		}
	}
	if s.size > 2*maxWaiting {
		s.cancel(errors.New("the client does not read"))
		return
	}
	s.waiting = append(s.waiting, m)
	s.size += len(m.text)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
