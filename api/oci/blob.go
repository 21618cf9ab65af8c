package oci

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// blob gives a layer, a configuration or a part of one. Blobs never change, so
// that a client may go on where it was cut off.
func (o *room) blob(w http.ResponseWriter, r *http.Request, who soulbox.Actor) error {
	repo, err := repository(r)
	if err != nil {
		return err
	}
	digest, err := parseDigest(r.PathValue("digest"))
	if err != nil {
		return err
	}
	head := r.Method == http.MethodHead // a push asks like this
	size, err := o.depot.Blob(r.Context(), who.Team, repo, digest, head)
	if err != nil {
		return err
	}
	from, length, part := span(r.Header.Get("Range"), size)
	if part && length <= 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return coded(http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID",
			soulbox.Errorf(soulbox.Invalid, "the blob has %d bytes; there are none from %d on", size, from))
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", string(digest))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	status := http.StatusOK
	if part {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+length-1, size))
		status = http.StatusPartialContent
	}
	if head {
		w.WriteHeader(status)
		return nil
	}
	rc, err := o.depot.OpenBlob(r.Context(), digest, from, length)
	if err != nil {
		return err
	}
	defer rc.Close()
	w.WriteHeader(status)
	return send(w, rc)
}

// span reads a Range header: where to begin and how many bytes to send. What is
// not one range of bytes from somewhere on is no Range, as HTTP allows.
func span(header string, size int64) (from, length int64, part bool) {
	s, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(s, "-")
	from, err := strconv.ParseInt(first, 10, 64)
	if !ok || !dash || err != nil || from < 0 {
		return 0, size, false
	}
	to := size - 1
	if last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < from {
			return 0, size, false
		}
		to = min(n, to)
	}
	return from, to - from + 1, true
}

// sendTime is how long a client may leave a piece of a blob unread.
const sendTime = time.Minute

// send sends all of r, to whoever takes it.
func send(w http.ResponseWriter, r io.Reader) error {
	conn := http.NewResponseController(w)
	defer func() { _ = conn.SetWriteDeadline(time.Time{}) }() // the connection may serve more
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			_ = conn.SetWriteDeadline(time.Now().Add(sendTime))
			if _, err := w.Write(buf[:n]); err != nil {
				return nil // a client that has gone is not our error
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
