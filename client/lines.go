package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/soulbox/soulbox"
)

const (
	// lineSilence is how long a stream of lines may be silent; the server says
	// something every few seconds.
	lineSilence = time.Minute
	// maxTold bounds one line: an output may be a large picture.
	maxTold = 32 << 20
)

var errMute = soulbox.Errorf(soulbox.Unavailable, "the server was silent for %v", lineSilence)

// lines returns the lines W of an answer, which ends with one of the types last.
// A line of type error is the error that ends the loop. Whoever leaves the loop
// early ends what is told.
func lines[W any](ctx context.Context, c *Client, method, path string, in any, last string) iter.Seq2[W, error] {
	return func(yield func(W, error) bool) {
		var none W
		err := eachLine(ctx, c, method, path, in, func(line []byte) (bool, error) {
			var head struct {
				Type    string `json:"type"`
				Message string `json:"message"`
			}
			if err := json.Unmarshal(line, &head); err != nil {
				return false, soulbox.Errorf(soulbox.Unavailable, "a line is not what a SoulBox server says: %w", err)
			}
			switch head.Type {
			case "keepalive":
				return true, nil
			case "error":
				return false, soulbox.Errorf(soulbox.Unavailable, "%s", head.Message)
			}
			var w W
			if err := json.Unmarshal(line, &w); err != nil {
				return false, soulbox.Errorf(soulbox.Unavailable, "a line is not what a SoulBox server says: %w", err)
			}
			return yield(w, nil) && head.Type != last, nil
		})
		if err != nil {
			yield(none, err)
		}
	}
}

// eachLine calls do with each line of an answer until it returns false.
func eachLine(ctx context.Context, c *Client, method, path string, in any, do func([]byte) (bool, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(lineSilence, func() { cancel(errMute) })
	defer silence.Stop()
	body, err := json.Marshal(in)
	if err != nil {
		return soulbox.Errorf(soulbox.Invalid, "%s %s: the request is not JSON: %w", method, path, err)
	}
	req, err := c.request(ctx, method, path, nil, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answerError(resp)
	}
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(nil, maxTold)
	for scan.Scan() {
		silence.Stop() // the caller may take its time
		if more, err := do(scan.Bytes()); err != nil || !more {
			return err
		}
		silence.Reset(lineSilence)
	}
	err = scan.Err()
	switch {
	case ctx.Err() != nil:
		return contextError(ctx, c.api)
	case err == nil || errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return soulbox.Errorf(soulbox.Unavailable, "the answer was cut: %w", err)
}
