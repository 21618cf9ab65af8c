package jupyter

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter/zmtp"
)

// Channels of a kernel, as clients of Jupyter's servers call them.
const (
	Shell   = "shell"
	Control = "control"
	Stdin   = "stdin"
	IOPub   = "iopub"
)

const (
	// maxParts is how many bytes of a message are passed on between a kernel and
	// a client of its own. What is printed comes in pieces, however long it is.
	maxParts = 8 << 20
	// greetTime is how long a client waits for a kernel to know of it. One that
	// does not answer requests while it works gets to it later.
	greetTime = 2 * time.Second
)

// Parts are a message as it goes over the wire: JSON objects, and bytes that
// belong to them.
type Parts struct {
	Header, Parent, Metadata, Content json.RawMessage
	Buffers                           [][]byte
	// Skipped is how many bytes were too many; then there is no content.
	Skipped int64
}

// Channels are a client's own connections to a kernel. What it asks is answered
// to it, and what the kernel publishes comes to it whoever has asked. There is a
// goroutine for each channel; they end when the kernel does, or with Close.
//
// Channels are safe for concurrent use.
type Channels struct {
	k     *Kernel
	id    string // who this is, and the session of our own messages
	put   func(channel string, p *Parts)
	conns map[string]*zmtp.Conn
	heard chan struct{} // of one: there was something on iopub
	wg    sync.WaitGroup
	done  chan struct{} // closed with the first connection that ends
	once  sync.Once
}

// Open connects a client. Whatever comes is given to put, by one goroutine for
// each channel, which must not wait for long. The caller closes the channels.
func (k *Kernel) Open(ctx context.Context, put func(channel string, p *Parts)) (*Channels, error) {
	c := &Channels{
		k: k, id: NewID(), put: put, conns: map[string]*zmtp.Conn{}, heard: make(chan struct{}, 1), done: make(chan struct{}),
	}
	for _, s := range []struct {
		channel, kind string
		port          int
	}{
		{Shell, zmtp.Dealer, k.sockets.Shell},
		{Control, zmtp.Dealer, k.sockets.Control},
		{Stdin, zmtp.Dealer, k.sockets.Stdin},
		{IOPub, zmtp.Sub, k.sockets.IOPub},
	} {
		network, address := k.sockets.address(s.port)
		conn, err := zmtp.DialAs(ctx, network, address, s.kind, c.id)
		if err != nil {
			c.end()
			return nil, fmt.Errorf("connect to kernel %s: %w", k.spec.Name, err)
		}
		conn.Limit(maxParts)
		c.conns[s.channel] = conn
	}
	for channel, conn := range c.conns {
		c.wg.Go(func() {
			defer c.end()
			c.receive(channel, conn)
		})
	}
	if err := c.greet(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet asks until the kernel has published something: it does not say when it
// has taken note of a subscriber.
func (c *Channels) greet(ctx context.Context) error {
	limit := time.NewTimer(greetTime)
	defer limit.Stop()
	again := time.NewTicker(nudgeEvery)
	defer again.Stop()
	for {
		_, frames, err := compose(c.k.key, c.id, "kernel_info_request", struct{}{})
		if err != nil {
			return err
		}
		if err := c.conns[Control].Send(frames...); err != nil {
			return fmt.Errorf("greet kernel %s: %w", c.k.spec.Name, err)
		}
		select {
		case <-c.heard:
			return nil
		case <-limit.C:
			return nil
		case <-again.C:
		case <-c.done:
			return ErrEnded
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// receive passes on what comes from a socket.
func (c *Channels) receive(channel string, conn *zmtp.Conn) {
	take := func(before [][]byte, frame io.Reader) bool { return c.takeStream(channel, before, frame) }
	for {
		frames, skipped, err := conn.Receive(take)
		if err != nil {
			return
		}
		if channel == IOPub {
			wake(c.heard)
		}
		p, err := parseParts(c.k.key, frames, skipped)
		if err != nil {
			continue // it is not the kernel's, or of no use to anybody
		}
		var parent header
		if json.Unmarshal(p.Parent, &parent) == nil && parent.Session == c.id {
			continue // we asked, nobody else
		}
		c.put(channel, p)
	}
}

// takeStream passes on long output in pieces, as the kernel's own connection does.
func (c *Channels) takeStream(channel string, before [][]byte, frame io.Reader) bool {
	for len(before) > 0 && string(before[0]) != delimiter {
		before = before[1:]
	}
	if len(before) != 5 {
		return false
	}
	m, err := parseHeaders(before[2], before[3])
	if err != nil || m.Type != "stream" {
		return false
	}
	p := Parts{Header: before[2], Parent: before[3], Metadata: before[4]}
	if p.check() != nil {
		return false
	}
	_ = pieces(frame, func(name, text string) { // what comes before an error is true
		content, err := json.Marshal(map[string]string{"name": name, "text": text})
		if err != nil {
			return // it does not fail
		}
		piece := p
		piece.Content = content
		c.put(channel, &piece)
	})
	return true
}

// parseParts takes a message apart. One that was skipped in part cannot be
// checked, so nothing of its content is believed.
func parseParts(key []byte, frames [][]byte, skipped int64) (*Parts, error) {
	for len(frames) > 0 && string(frames[0]) != delimiter {
		frames = frames[1:]
	}
	if len(frames) < 6 {
		return nil, errors.New("a message is not whole")
	}
	p := &Parts{Header: frames[2], Parent: frames[3], Metadata: frames[4], Content: frames[5], Buffers: frames[6:], Skipped: skipped}
	if skipped > 0 {
		p.Content, p.Metadata, p.Buffers = json.RawMessage("{}"), json.RawMessage("{}"), nil
	} else if !hmac.Equal(frames[1], sign(key, frames[2], frames[3], frames[4], frames[5])) {
		return nil, errors.New("a message is not signed by the kernel")
	}
	return p, p.check()
}

// check reports whether the parts are what they have to be, and makes them valid
// UTF-8.
func (p *Parts) check() error {
	if len(p.Header) > maxHeader || len(p.Parent) > maxHeader {
		return errors.New("a header is too long")
	}
	for _, part := range []*json.RawMessage{&p.Header, &p.Parent, &p.Metadata, &p.Content} {
		*part = bytes.ToValidUTF8(bytes.TrimSpace(*part), []byte("\ufffd"))
		if len(*part) == 0 {
			*part = json.RawMessage("{}")
		}
		if (*part)[0] != '{' || !json.Valid(*part) {
			return errors.New("a part of a message is not a JSON object")
		}
	}
	return nil
}

// Send sends a message of the client's on a channel. The error is ErrEnded when the
// kernel is gone, or takes nothing; others are the message's own.
func (c *Channels) Send(channel string, p *Parts) error {
	conn, ok := c.conns[channel]
	if !ok || channel == IOPub {
		return fmt.Errorf("there is no channel %q to send on", channel)
	}
	if err := p.check(); err != nil {
		return err
	}
	frames := [][]byte{
		[]byte(delimiter), sign(c.k.key, p.Header, p.Parent, p.Metadata, p.Content), p.Header, p.Parent, p.Metadata, p.Content,
	}
	if err := conn.Send(append(frames, p.Buffers...)...); err != nil {
		return fmt.Errorf("%w, or takes no messages: %w", ErrEnded, err)
	}
	return nil
}

// Done is closed when the kernel has ended, or a connection to it.
func (c *Channels) Done() <-chan struct{} { return c.done }

// end closes the connections.
func (c *Channels) end() {
	c.once.Do(func() {
		close(c.done)
		for _, conn := range c.conns {
			_ = conn.Close() // who reads from it sees it
		}
	})
}

// Close ends the connections. When it returns put is called no more.
func (c *Channels) Close() {
	c.end()
	c.wg.Wait()
}
