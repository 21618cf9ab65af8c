package api

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	maxJSON   = 1 << 20  // bytes of a JSON body, unless its route says otherwise
	maxUpload = 64 << 30 // bytes of an upload; images of more than this are a mistake

	jsonTime   = 30 * time.Second // for all of a JSON body to arrive
	uploadTime = time.Minute      // for the next bytes of an upload to arrive
	leaveTime  = 5 * time.Second  // for what a handler did not want to read
)

// body guards the body of a request: it bounds its size, and a sender who
// stands still loses the connection instead of holding it for ever.
type body struct {
	io.ReadCloser
	conn   *http.ResponseController
	upload bool
	begun  bool
	done   bool
}

// guardBody returns r with the guard in front of its body. It is a copy, because
// net/http looks into the body of the request that it has made: only there does
// it find that something was left unread, and that the connection must not serve
// another request, which what is left would be taken for.
func guardBody(w http.ResponseWriter, r *http.Request, route Route) (*http.Request, *body) {
	size := cmp.Or(route.Body, maxJSON)
	if route.Upload {
		size = maxUpload
	}
	b := &body{
		ReadCloser: http.MaxBytesReader(w, r.Body, size),
		conn:       http.NewResponseController(w),
		upload:     route.Upload,
		done:       r.Body == nil || r.Body == http.NoBody,
	}
	r = r.WithContext(r.Context())
	r.Body = b
	return r, b
}

// Read reads on under a deadline. Once the body has ended the deadline goes
// away, because net/http would take its passing for a client that has left.
func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.done:
	case b.upload:
		b.deadline(uploadTime)
	case !b.begun:
		b.deadline(jsonTime)
	}
	b.begun = true
	n, err := b.ReadCloser.Read(p)
	if err != nil && !b.done {
		b.done = true
		b.deadline(0)
	}
	return n, bodyError(err)
}

// abandon bounds how long the server waits for what nobody has read.
func (b *body) abandon() {
	if !b.done {
		b.deadline(leaveTime)
	}
}

// deadline sets when the connection ends if nothing comes; 0 is never. Writers
// in memory, as tests have them, know no deadlines.
func (b *body) deadline(d time.Duration) {
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	_ = b.conn.SetReadDeadline(t)
}

// bodyError says what went wrong with a body, for whoever sent it.
func bodyError(err error) error {
	switch {
	case err == nil || err == io.EOF: //nolint:errorlint // readers must return io.EOF itself
		return err
	case errors.As(err, new(*http.MaxBytesError)):
		return soulbox.Hide(soulbox.TooLarge, err, "the body is too large")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return soulbox.Hide(soulbox.Invalid, err, "the body did not arrive in time")
	}
	return soulbox.Hide(soulbox.Invalid, err, "the body ended early")
}
