package connectjson

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// Receiver reads the messages of a stream, at either end of it. One goroutine
// may use it.
type Receiver[M any] struct {
	body   io.ReadCloser
	gzip   bool
	client bool // an end-of-stream message is expected
	done   error
	buf    []byte
}

func newReceiver[M any](r *http.Request) (*Receiver[M], error) {
	in := &Receiver[M]{body: r.Body}
	switch enc := r.Header.Get(streamEncodingHeader); enc {
	case "", "identity":
	case "gzip":
		in.gzip = true
	default:
		return nil, Errorf(Unimplemented, "unknown compression %q: supported encodings are gzip", enc)
	}
	return in, nil
}

// Receive returns the next message. After the last one it returns io.EOF, or
// the [Error] with which the other side ended the stream.
func (r *Receiver[M]) Receive() (*M, error) {
	if r.done != nil {
		return nil, r.done
	}
	m, err := r.receive()
	if err != nil {
		r.done = err
		return nil, err
	}
	return m, nil
}

func (r *Receiver[M]) receive() (*M, error) {
	flags, data, err := readEnvelope(r.body, r.buf)
	if err != nil {
		if r.client && errors.Is(err, io.EOF) {
			// A stream without its end was cut off.
			return nil, Errorf(Unavailable, "the stream ended without its last message")
		}
		return nil, err
	}
	if cap(data) <= maxPooled {
		r.buf = data[:0]
	}
	if flags&flagCompressed != 0 {
		if !r.gzip {
			return nil, Errorf(Internal, "protocol error: compressed message without a named compression")
		}
		if data, err = inflate(data); err != nil {
			return nil, err
		}
	}
	if flags&flagEnd != 0 {
		return nil, r.last(data)
	}
	m := new(M)
	if err := unmarshal(data, m); err != nil {
		return nil, err
	}
	return m, nil
}

// last interprets the message that ends a stream.
func (r *Receiver[M]) last(data []byte) error {
	if !r.client {
		return Errorf(InvalidArgument, "protocol error: a request does not end with a message")
	}
	var end endStream
	if err := json.Unmarshal(data, &end); err != nil {
		return Errorf(Unknown, "unmarshal the end of the stream: %v", err)
	}
	if end.Error != nil {
		return end.Error
	}
	return io.EOF
}

// Close gives up the rest of the stream. A client must call it.
func (r *Receiver[M]) Close() error {
	return r.body.Close()
}
