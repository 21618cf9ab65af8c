package connectjson

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	unaryType  = "application/json"
	streamType = "application/connect+json"

	versionHeader        = "Connect-Protocol-Version"
	timeoutHeader        = "Connect-Timeout-Ms"
	streamEncodingHeader = "Connect-Content-Encoding"

	maxTimeoutDigits = 10 // from the protocol
)

// Unary serves a call with one message each way. fn sees the request's headers;
// its context ends with the connection or with the caller's deadline.
func Unary[Q, R any](fn func(context.Context, http.Header, *Q) (*R, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !accept(w, r, unaryType) {
			return
		}
		resp, err := unary(r, fn)
		if err != nil {
			writeError(w, err)
			return
		}
		var b bytes.Buffer
		if err := encode(&b, resp); err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", unaryType)
		w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
		_, _ = w.Write(b.Bytes()) // the caller has gone if this fails
	})
}

func unary[Q, R any](r *http.Request, fn func(context.Context, http.Header, *Q) (*R, error)) (*R, error) {
	ctx, cancel, err := deadline(r)
	if err != nil {
		return nil, err
	}
	defer cancel()
	body := io.Reader(r.Body)
	switch enc := r.Header.Get("Content-Encoding"); enc {
	case "", "identity":
	case "gzip":
		if body, err = gzip.NewReader(r.Body); err != nil {
			return nil, Errorf(InvalidArgument, "decompress message: %v", err)
		}
	default:
		return nil, Errorf(Unimplemented, "unknown compression %q: supported encodings are gzip", enc)
	}
	data, err := readAll(body)
	if err != nil {
		return nil, err
	}
	req := new(Q)
	if err := unmarshal(data, req); err != nil {
		return nil, err
	}
	return fn(ctx, r.Header, req)
}

// writeError answers a unary call, or any request before it is one, with err.
func writeError(w http.ResponseWriter, err error) {
	e := asError(err)
	var b bytes.Buffer
	if encode(&b, e) != nil {
		b.WriteString(`{"code":"internal"}`) // cannot happen: two strings
	}
	w.Header().Set("Content-Type", unaryType)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(e.Code.HTTPStatus())
	_, _ = w.Write(b.Bytes()) // the caller has gone if this fails
}

// ServerStream serves a call with one request and any number of responses. The
// stream ends when fn returns; its error, if any, is the last thing sent.
func ServerStream[Q, R any](fn func(context.Context, http.Header, *Q, *Sender[R]) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !accept(w, r, streamType) {
			return
		}
		w.Header().Set("Content-Type", streamType)
		end(w, serverStream(w, r, fn))
	})
}

func serverStream[Q, R any](w http.ResponseWriter, r *http.Request, fn func(context.Context, http.Header, *Q, *Sender[R]) error) error {
	ctx, cancel, err := deadline(r)
	if err != nil {
		return err
	}
	defer cancel()
	in, err := newReceiver[Q](r)
	if err != nil {
		return err
	}
	req, err := in.Receive()
	if errors.Is(err, io.EOF) {
		return Errorf(Unimplemented, "the request has no message")
	}
	if err != nil {
		return err
	}
	// Reading on to the end of the body lets net/http notice when the caller
	// goes away.
	if _, err := in.Receive(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = Errorf(Unimplemented, "the request has more than one message")
		}
		return err
	}
	return fn(ctx, r.Header, req, &Sender[R]{w: w, flush: http.NewResponseController(w).Flush})
}

// ClientStream serves a call with any number of requests and one response.
func ClientStream[Q, R any](fn func(context.Context, http.Header, *Receiver[Q]) (*R, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !accept(w, r, streamType) {
			return
		}
		w.Header().Set("Content-Type", streamType)
		end(w, clientStream(w, r, fn))
	})
}

func clientStream[Q, R any](w http.ResponseWriter, r *http.Request, fn func(context.Context, http.Header, *Receiver[Q]) (*R, error)) error {
	ctx, cancel, err := deadline(r)
	if err != nil {
		return err
	}
	defer cancel()
	in, err := newReceiver[Q](r)
	if err != nil {
		return err
	}
	resp, err := fn(ctx, r.Header, in)
	if err != nil {
		return err
	}
	return writeEnvelope(w, 0, resp)
}

// end writes the last message of a stream.
func end(w io.Writer, err error) {
	var last endStream
	if err != nil {
		last.Error = asError(err)
	}
	_ = writeEnvelope(w, flagEnd, last) // the caller has gone if this fails
}

// accept answers requests that are not calls of the wanted kind.
func accept(w http.ResponseWriter, r *http.Request, want string) bool {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return false
	}
	typ, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || typ != want || charset != "" && !strings.EqualFold(charset, "utf-8") {
		w.Header().Set("Accept-Post", want)
		w.WriteHeader(http.StatusUnsupportedMediaType)
		return false
	}
	return true
}

// deadline checks the protocol's version and applies the caller's timeout. A
// timeout of 0 means none.
func deadline(r *http.Request) (context.Context, context.CancelFunc, error) {
	if v := r.Header.Get(versionHeader); v != "" && v != "1" {
		return nil, nil, Errorf(InvalidArgument, "Connect-Protocol-Version must be \"1\": got %q", v)
	}
	d, err := timeout(r.Header)
	if err != nil {
		return nil, nil, err
	}
	if d == 0 {
		return r.Context(), func() {}, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), d)
	return ctx, cancel, nil
}

// timeout returns the caller's Connect-Timeout-Ms, 0 if there is none.
func timeout(h http.Header) (time.Duration, error) {
	text := h.Get(timeoutHeader)
	if text == "" {
		return 0, nil
	}
	ms, err := strconv.ParseUint(text, 10, 63)
	if err != nil || len(text) > maxTimeoutDigits {
		return 0, Errorf(InvalidArgument, "Connect-Timeout-Ms is not a number of at most %d digits: %q", maxTimeoutDigits, text)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// Sender sends the messages of a server stream. One goroutine may use it.
type Sender[R any] struct {
	w     io.Writer
	flush func() error
}

// Send writes one message and pushes it out to the caller.
func (s *Sender[R]) Send(m *R) error {
	if err := writeEnvelope(s.w, 0, m); err != nil {
		return err
	}
	return s.flush()
}

// SendLast writes the message before the end of the stream; it leaves in one
// packet with it, so it may wait until the handler returns.
func (s *Sender[R]) SendLast(m *R) error {
	return writeEnvelope(s.w, 0, m)
}
