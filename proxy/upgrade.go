package proxy

import (
	"bufio"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// upgrade joins the two connections of an exchange after the sandbox has
// agreed to switch protocols, until both directions have ended or one breaks.
func (x *exchange) upgrade(out *http.Request, res *http.Response) {
	back, ok := res.Body.(io.ReadWriteCloser)
	asked := upgradeOf(out.Header)
	if !ok || asked == "" || !strings.EqualFold(asked, upgradeOf(res.Header)) {
		x.status = 0
		x.failed(errSwitch)
		return
	}
	dropHopByHop(res.Header)
	res.Header.Set("Connection", "Upgrade")
	res.Header.Set("Upgrade", asked)

	client, buf, err := x.rc.Hijack()
	if err != nil { // HTTP/2 has no such thing
		x.failed(errSwitch)
		return
	}
	// Hijack cleared the deadline that a drop may have set, and from here on
	// a drop must close the connection itself.
	if !x.hold.replace(func() { abort(client) }) {
		x.proxy.meter.errors.WithLabelValues(kindDropped).Inc()
		abort(client)
		return
	}
	switched := &http.Response{StatusCode: res.StatusCode, Status: res.Status, ProtoMajor: 1, ProtoMinor: 1, Header: res.Header}
	if err := writeSwitch(buf.Writer, switched); err != nil {
		x.proxy.meter.errors.WithLabelValues(kindClient).Inc()
		abort(client)
		return
	}

	up := make(chan error, 1)
	go func() { // ends when either connection does
		_, err := x.proxy.join(back, buf.Reader)
		if err != nil {
			abort(client)
			_ = back.Close() // ends the other direction
		}
		up <- err
	}()
	n, down := x.proxy.join(client, back)
	x.sent = n
	if down != nil {
		abort(client) // ends the other direction
		_ = back.Close()
	}
	if err := <-up; (err != nil || down != nil) && x.hold.dropped() {
		x.proxy.meter.errors.WithLabelValues(kindDropped).Inc()
	}
	_ = client.Close() // closed, or both directions are
}

func writeSwitch(w *bufio.Writer, res *http.Response) error {
	if err := res.Write(w); err != nil {
		return err
	}
	return w.Flush()
}

// join copies one direction, and then tells dst that no more comes. Where that
// is impossible the connection has to end.
func (p *Proxy) join(dst io.Writer, src io.Reader) (int64, error) {
	n, rerr, werr := p.buffers.pump(dst, src, nil)
	switch half, ok := dst.(interface{ CloseWrite() error }); {
	case rerr != nil:
		return n, rerr
	case werr != nil:
		return n, werr
	case !ok:
		return n, http.ErrNotSupported
	default:
		return n, half.CloseWrite()
	}
}

// upgradeOf returns the protocol that h asks to switch to, or "".
func upgradeOf(h http.Header) string {
	if !hasToken(h["Connection"], "upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// dropHopByHop removes what is meant for the next hop only, by name or
// because Connection says so (RFC 9110, section 7.6.1).
func dropHopByHop(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, k := range []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade",
	} {
		h.Del(k)
	}
}

// hasToken reports whether a comma-separated list in values contains token.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(part), token) {
				return true
			}
		}
	}
	return false
}
