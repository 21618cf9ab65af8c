// Package zmtp speaks ZMTP 3.0, ZeroMQ's protocol, as far as a client of
// Jupyter kernels needs it: it connects, as a DEALER or SUB, without encryption.
//
// It does not trust its peer: frames are bounded in size and number, and what is
// too large is skipped and counted, not stored. There are no queues: a message
// that nobody receives stays in the socket, and a Send waits for the peer, but not
// for ever.
//
// See https://rfc.zeromq.org/spec/23/.
package zmtp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Kinds of sockets.
const (
	Dealer = "DEALER"
	Sub    = "SUB"
)

const (
	// MaxMessage is how many bytes of a message are kept.
	MaxMessage = 64 << 20
	// Large is how many bytes a frame has at least that a Taker is asked about.
	Large = 1 << 20

	maxFrames    = 64      // of a message; Jupyter's have about seven
	maxCommand   = 4 << 10 // bytes; there are no long ones
	greetingSize = 64
	handshake    = 10 * time.Second // libzmq gives up after 30
	readBuffer   = 16 << 10
	sendTime     = 10 * time.Second // a peer that takes nothing for so long is lost
)

// Bits of a frame's first byte.
const (
	flagMore    = 1
	flagLong    = 2
	flagCommand = 4
)

// Conn is a connection to one socket. One goroutine may receive while others
// send.
type Conn struct {
	nc  net.Conn
	r   *bufio.Reader
	max int64 // bytes of a message that are kept

	mu sync.Mutex // orders what is sent
}

// Dial connects to the socket at address. A SUB is subscribed to everything;
// messages that were published before are not received.
func Dial(ctx context.Context, network, address, kind string) (*Conn, error) {
	return DialAs(ctx, network, address, kind, "")
}

// DialAs is Dial for a peer that knows who this is: a kernel asks for input on
// one socket whoever has the same identity, of at most 100 bytes, on another.
func DialAs(ctx context.Context, network, address, kind, identity string) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &Conn{nc: nc, r: bufio.NewReaderSize(nc, readBuffer), max: MaxMessage}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(handshake)) // every socket has deadlines
	err = c.open(kind, identity)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("greet %s: %w", address, err)
	}
	_ = nc.SetDeadline(time.Time{})
	return c, nil
}

// Limit sets how many bytes of a message are kept, instead of MaxMessage. It is
// called before the first Receive.
func (c *Conn) Limit(n int64) { c.max = n }

// Close ends the connection and whoever sends or receives.
func (c *Conn) Close() error { return c.nc.Close() }

// open greets the peer and says what kind of socket this is.
func (c *Conn) open(kind, identity string) error {
	var hello [greetingSize]byte
	hello[0], hello[9] = 0xff, 0x7f
	hello[10] = 3 // and minor version 0
	copy(hello[12:32], "NULL")
	if _, err := c.nc.Write(append(hello[:], ready(kind, identity)...)); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.r, hello[:]); err != nil {
		return err
	}
	if hello[0] != 0xff || hello[9]&1 == 0 || hello[10] < 3 {
		return errors.New("the peer does not speak ZMTP 3")
	}
	if string(hello[12:17]) != "NULL\x00" {
		return errors.New("the peer wants to know who this is")
	}
	flags, size, err := c.frame()
	if err != nil {
		return err
	}
	if flags&flagCommand == 0 || size > maxCommand {
		return errors.New("the peer does not say what it is")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return err
	}
	if len(body) < 6 || string(body[:6]) != "\x05READY" {
		return fmt.Errorf("the peer says %q", body)
	}
	if kind == Sub {
		return c.Send([]byte{1}) // to every topic
	}
	return nil
}

// ready returns the command that ends a handshake.
func ready(kind, identity string) []byte {
	body := append([]byte("\x05READY\x0bSocket-Type"), 0, 0, 0, byte(len(kind)))
	body = append(body, kind...)
	if identity != "" {
		body = append(append(body, "\x08Identity"...), 0, 0, 0, byte(len(identity)))
		body = append(body, identity...)
	}
	return append([]byte{flagCommand, byte(len(body))}, body...)
}

// Send sends a message of these frames. After an error, such as that the peer does
// not take it, the connection is of no use.
func (c *Conn) Send(frames ...[]byte) error {
	var head [9]byte
	var all net.Buffers
	for i, f := range frames {
		flags := byte(flagMore)
		if i == len(frames)-1 {
			flags = 0
		}
		if len(f) < 256 {
			all = append(all, []byte{flags, byte(len(f))}, f)
			continue
		}
		head[0] = flags | flagLong
		binary.BigEndian.PutUint64(head[1:], uint64(len(f)))
		all = append(all, append([]byte(nil), head[:]...), f)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.nc.SetWriteDeadline(time.Now().Add(sendTime)) // every socket has deadlines
	_, err := all.WriteTo(c.nc)
	return err
}

// A Taker is asked about a large frame, after those that come before it. When
// it returns true it has read what it wanted of the frame, and the message is not
// received. Before that it must not read.
type Taker func(before [][]byte, frame io.Reader) (taken bool)

// Receive waits for the next message. Frames that would make it larger than
// MaxMessage, or the limit, are empty; skipped is how many bytes they had. The taker may be nil.
func (c *Conn) Receive(take Taker) (frames [][]byte, skipped int64, err error) {
	var kept int64
	taken := false
	for {
		flags, size, err := c.frame()
		if err != nil {
			return nil, 0, err
		}
		if flags&flagCommand != 0 { // a ping of a newer version, at most
			if size > maxCommand {
				return nil, 0, errors.New("a command is too long")
			}
			if _, err := c.r.Discard(int(size)); err != nil {
				return nil, 0, err
			}
			continue
		}
		if len(frames) == maxFrames {
			return nil, 0, errors.New("a message has too many frames")
		}
		rest := &io.LimitedReader{R: c.r, N: size}
		if size >= Large && take != nil && !taken {
			taken = take(frames, rest)
		}
		var body []byte
		switch {
		case taken:
			if _, err := io.CopyN(io.Discard, rest, rest.N); err != nil {
				return nil, 0, err
			}
		case size > c.max-kept:
			if _, err := io.CopyN(io.Discard, rest, size); err != nil {
				return nil, 0, err
			}
			skipped += size
		default:
			body = make([]byte, size)
			if _, err := io.ReadFull(c.r, body); err != nil {
				return nil, 0, err
			}
			kept += size
		}
		frames = append(frames, body)
		if flags&flagMore != 0 {
			continue
		}
		if !taken {
			return frames, skipped, nil
		}
		frames, kept, skipped, taken = nil, 0, 0, false
	}
}

// frame reads what precedes a frame's body.
func (c *Conn) frame() (flags byte, size int64, err error) {
	flags, err = c.r.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	if flags&flagLong == 0 {
		b, err := c.r.ReadByte()
		return flags, int64(b), err
	}
	var long [8]byte
	if _, err := io.ReadFull(c.r, long[:]); err != nil {
		return 0, 0, err
	}
	size = int64(binary.BigEndian.Uint64(long[:]))
	if size < 0 {
		return 0, 0, errors.New("a frame has no sensible length")
	}
	return flags, size, nil
}
