// Package fetch sends single requests to servers in the same sandbox. A client of
// net/http would cost every sandbox a megabyte, used or not.
package fetch

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const maxTime = 10 * time.Second

// StatusError is an answer that is not 200.
type StatusError struct{ Status string }

// Error says what the answer was.
func (e *StatusError) Error() string { return "the answer is " + e.Status }

// Get returns what is at a URL, as long as the answer is 200; most is how many
// bytes of it are read.
func Get(ctx context.Context, url string, header http.Header, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	req.Close = true
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", req.URL.Host)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &StatusError{resp.Status}
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("the answer has more than %d bytes", most)
	}
	return b, err
}
