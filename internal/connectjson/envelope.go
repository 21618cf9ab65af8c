package connectjson

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"sync"
)

const (
	// maxMessage bounds one message, compressed or not, in both directions of
	// reading. File contents travel outside of this protocol, so nothing near it
	// is ever legitimate.
	maxMessage = 32 << 20

	envelopeSize = 5 // flags and a big-endian length

	flagCompressed = 1
	flagEnd        = 2

	// firstRead is how much of a message is taken on its length's word alone;
	// the rest is allocated as it arrives.
	firstRead = 64 << 10
)

// endStream is the last message of a stream.
type endStream struct {
	Error *Error `json:"error,omitempty"`
}

// readEnvelope reads one enveloped message. The end of the stream between two
// messages is io.EOF; anywhere else it is an error. buf is reused if it is
// large enough.
func readEnvelope(r io.Reader, buf []byte) (flags byte, payload []byte, err error) {
	var head [envelopeSize]byte
	switch _, err := io.ReadFull(r, head[:]); {
	case errors.Is(err, io.EOF):
		return 0, nil, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, nil, Errorf(InvalidArgument, "protocol error: incomplete envelope")
	case err != nil:
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxMessage {
		return 0, nil, Errorf(ResourceExhausted, "message size %d is larger than the limit of %d bytes", size, maxMessage)
	}
	payload, err = readN(r, int(size), buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, nil, Errorf(InvalidArgument, "protocol error: promised %d bytes in the message, got %d", size, len(payload))
	}
	return head[0], payload, err
}

// readN reads exactly n bytes without believing in n before they are there.
func readN(r io.Reader, n int, buf []byte) ([]byte, error) {
	if n <= cap(buf) || n <= firstRead {
		if n > cap(buf) {
			buf = make([]byte, n)
		}
		got, err := io.ReadFull(r, buf[:n])
		if errors.Is(err, io.EOF) && n > 0 {
			err = io.ErrUnexpectedEOF
		}
		return buf[:got], err
	}
	var b bytes.Buffer
	b.Grow(firstRead)
	got, err := io.CopyN(&b, r, int64(n))
	if errors.Is(err, io.EOF) && got < int64(n) {
		err = io.ErrUnexpectedEOF
	}
	return b.Bytes(), err
}

// inflate decompresses one message.
func inflate(data []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, Errorf(InvalidArgument, "decompress message: %v", err)
	}
	return readAll(z)
}

// readAll reads a whole body, but no more than one message may hold.
func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err != nil {
		return nil, Errorf(InvalidArgument, "read message: %v", err)
	}
	if len(data) > maxMessage {
		return nil, Errorf(ResourceExhausted, "message is larger than the limit of %d bytes", maxMessage)
	}
	return data, nil
}

// frames lends buffers for outgoing messages. It is the one variable of this
// package: a stream that is silent, as most are, must not hold a buffer of its
// own.
var frames = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooled keeps one large message from staying in the pool.
const maxPooled = 128 << 10

// writeEnvelope writes v as one enveloped message in a single Write.
func writeEnvelope(w io.Writer, flags byte, v any) error {
	b, ok := frames.Get().(*bytes.Buffer)
	if !ok {
		b = new(bytes.Buffer)
	}
	defer func() {
		if b.Cap() <= maxPooled {
			frames.Put(b)
		}
	}()
	b.Reset()
	b.Write([]byte{flags, 0, 0, 0, 0})
	if err := encode(b, v); err != nil {
		return err
	}
	frame := b.Bytes()
	binary.BigEndian.PutUint32(frame[1:envelopeSize], uint32(len(frame)-envelopeSize))
	_, err := w.Write(frame)
	return err
}

// encode writes v without the trailing newline of json.Encoder and without
// escaping HTML, which nobody embeds this in.
func encode(b *bytes.Buffer, v any) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return Errorf(Internal, "marshal message: %v", err)
	}
	b.Truncate(b.Len() - 1)
	return nil
}
