// Package download brings a file from a URL, within limits.
//
// It is a client for HTTP/1.1 of its own: that of net/http would cost every
// sandbox a megabyte of memory, used or not. It follows redirects, and neither
// cookies nor proxies.
package download

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	maxURL       = 8 << 10 // bytes: addresses that are signed are long
	maxRedirects = 5
	maxHeader    = 256 << 10
	dialTime     = 30 * time.Second
	headerTime   = time.Minute
	partEnding   = ".part"
)

// Client downloads. It is safe for concurrent use.
type Client struct {
	Most  int64          // bytes of a file
	Roots *x509.CertPool // whom to believe; the system's when nil
}

// RefusalError says why there is no file, in a sentence for whoever wanted it.
type RefusalError struct {
	Text     string
	TooLarge bool
}

// Error returns the sentence.
func (r *RefusalError) Error() string { return r.Text }

func refuse(format string, args ...any) error {
	return &RefusalError{Text: fmt.Sprintf(format, args...)}
}

// Check reads an address, and says what is wrong with it.
func Check(address string) (*url.URL, error) {
	if len(address) > maxURL {
		return nil, refuse("the URL has more than %d characters", maxURL)
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, refuse("the URL must begin with http:// or https:// and a host")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// Fetch writes what is behind an address into a file. When it fails, there is no
// file.
func (c *Client) Fetch(ctx context.Context, address, path string) error {
	u, err := Check(address)
	if err != nil {
		return err
	}
	for range maxRedirects + 1 {
		next, err := c.once(ctx, u, path)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if _, ok := errors.AsType[*RefusalError](err); ok {
				return err
			}
			return refuse("%s cannot be downloaded: %v", shown(u), err)
		}
		if next == nil {
			return nil
		}
		if u.Scheme == "https" && next.Scheme != "https" {
			return refuse("%s redirects from https to %s", shown(u), next.Scheme)
		}
		u = next
	}
	return refuse("%s redirects more than %d times", shown(u), maxRedirects)
}

// shown is an address without what may be secret: who asks, and with which keys.
func shown(u *url.URL) string { return u.Scheme + "://" + u.Host + u.EscapedPath() }

// once asks one server. It returns where to go on, if the answer says so.
func (c *Client) once(ctx context.Context, u *url.URL, path string) (*url.URL, error) {
	conn, err := c.dial(ctx, u)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "soulbox")
	req.Header.Set("Accept-Encoding", "identity")
	if password, ok := u.User.Password(); ok {
		req.SetBasicAuth(u.User.Username(), password)
	}
	req.Close = true
	_ = conn.SetDeadline(time.Now().Add(headerTime)) // it fails when what follows does
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: conn, N: maxHeader}
	in := bufio.NewReader(limited)
	resp, err := http.ReadResponse(in, req)
	for err == nil && resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		resp, err = http.ReadResponse(in, req)
	}
	if err != nil {
		return nil, fmt.Errorf("its answer cannot be read: %w", err)
	}
	defer func() {
		conn.Close() // first: closing a body reads what is left of it
		resp.Body.Close()
	}()
	_ = conn.SetDeadline(time.Time{}) // from here the context decides
	limited.N = math.MaxInt64
	switch resp.StatusCode {
	case http.StatusOK:
		return nil, c.save(u, resp, path)
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		next, err := u.Parse(resp.Header.Get("Location"))
		if err != nil || resp.Header.Get("Location") == "" {
			return nil, refuse("%s redirects to nowhere", shown(u))
		}
		return Check(next.String())
	}
	return nil, refuse("%s cannot be downloaded: the server answers %d %s", shown(u), resp.StatusCode, http.StatusText(resp.StatusCode))
}

func (c *Client) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil || u.Scheme == "http" {
		return conn, err
	}
	secure := tls.Client(conn, &tls.Config{
		ServerName: u.Hostname(), RootCAs: c.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	})
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// save writes the body of an answer into a file, which is there when it is whole.
func (c *Client) save(u *url.URL, resp *http.Response, path string) (err error) {
	large := func() error {
		return &RefusalError{Text: fmt.Sprintf("%s has more than %d bytes", shown(u), c.Most), TooLarge: true}
	}
	if resp.ContentLength > c.Most {
		return large()
	}
	f, err := os.OpenFile(path+partEnding, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) //nolint:gosec // what runs in the sandbox may read it
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path + partEnding) // the first error is the one that matters
		}
	}()
	n, err := io.Copy(f, io.LimitReader(resp.Body, c.Most+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if n > c.Most {
		return large()
	}
	return os.Rename(path+partEnding, path)
}

// Name returns what the file behind an address is called, as far as that is fit
// for a file's name; "data" when it is not.
func Name(u *url.URL) string {
	const most = 100
	name := u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	clean := strings.Map(func(c rune) rune {
		if c == '.' || c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '_'
	}, name)
	if len(clean) > most {
		clean = clean[len(clean)-most:] // its ending says something
	}
	if clean = strings.TrimLeft(clean, "."); clean == "" {
		return "data"
	}
	return clean
}
