package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soulbox/soulbox"
)

// maxInformational is how many 1xx responses one request may get.
const maxInformational = 16

var (
	errInformational = errors.New("too many informational responses")
	errSwitch        = errors.New("unasked switch of protocols")
	errStatus        = errors.New("status code out of range")
)

// An exchange is one request on its way to a sandbox and back.
type exchange struct {
	proxy  *Proxy
	w      http.ResponseWriter
	r      *http.Request
	rc     *http.ResponseController
	target target
	hold   *tie

	status int   // of the sandbox's answer; 0 without one
	sent   int64 // bytes of its body

	mu sync.Mutex
	// +checklocks:mu
	answered bool // informational responses come too late
	// +checklocks:mu
	informed int
	// +checklocks:mu
	up *upload // nil without a body
	// +checklocks:mu
	conn *conn // the latest
}

// run carries the exchange to its end. It returns false when it did not even
// begin: see [Proxy.carry].
func (x *exchange) run() (done bool) {
	out := x.request()
	if up, ok := out.Body.(*upload); ok {
		// Without this, net/http would read all of the body before it sends
		// the first byte of an answer.
		_ = x.rc.EnableFullDuplex() // HTTP/2 always is
		// The transport may read on after this handler has returned.
		defer up.stop()
	}
	res, err := x.proxy.pool.transportFor(x.target).RoundTrip(out)
	x.mu.Lock()
	x.answered = true
	if x.conn != nil {
		x.conn.user.CompareAndSwap(x, nil)
	}
	x.mu.Unlock()
	if err != nil {
		if x.missed(err) {
			return false
		}
		x.failed(err)
		return true
	}
	defer func() { _ = res.Body.Close() }() // read to its end, or not wanted
	x.status = res.StatusCode
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.upgrade(out, res)
		return true
	}
	if res.StatusCode < 200 || res.StatusCode > 999 {
		x.failed(errStatus)
		return true
	}
	x.respond(res)
	return true
}

// missed reports whether the sandbox went to sleep before a connection to it
// was made: then nothing has been sent or read, and all can begin again.
func (x *exchange) missed(err error) bool {
	if !errors.Is(err, errGone) && !errors.As(err, new(*dialError)) || x.r.Context().Err() != nil {
		return false
	}
	x.mu.Lock()
	up := x.up
	x.mu.Unlock()
	if up != nil && (up.begun.Load() || up.is(broken)) {
		return false
	}
	if sb, ok := x.proxy.sandboxes.Find(x.target.id); !ok || !x.proxy.sleeps(sb) {
		return false
	}
	x.hold.release() // from here on no drop sets a deadline; carry clears them
	return true
}

// request builds what the sandbox gets.
func (x *exchange) request() *http.Request {
	r, t := x.r, x.target
	h := r.Header.Clone()
	protocol := ""
	// The agent speaks HTTP only, and a switch could carry control paths. A
	// body and what follows the switch would be read from the same place.
	if t.port != agentPort && r.ContentLength == 0 {
		protocol = upgradeOf(h)
	}
	trailers := hasToken(h["Te"], "trailers")
	dropHopByHop(h)
	if trailers {
		h.Set("Te", "trailers")
	}
	if protocol != "" {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", protocol)
	}
	// Who asked, and by which name, is neither believed nor told: servers
	// build absolute URLs from these, and get the scheme wrong.
	for _, k := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		h.Del(k)
	}
	dropKeys(h, t)
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // or net/http adds its own
	}
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: x.connected, Got1xxResponse: x.inform})
	out := (&http.Request{
		Method: r.Method,
		URL: &url.URL{
			Scheme: "http", Host: string(t.id) + ":" + strconv.Itoa(int(t.port)),
			Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery,
		},
		Host:          r.Host,
		Header:        h,
		ContentLength: r.ContentLength,
		Trailer:       r.Trailer, // the same map: it is filled when the body ends
		Proto:         "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if r.ContentLength != 0 && r.Body != nil {
		up := &upload{body: r.Body}
		x.mu.Lock()
		x.up = up // a drop may look for it by now
		x.mu.Unlock()
		out.Body = up
	}
	return out
}

// dropKeys removes the control plane's credentials, which a client may send
// by mistake. A program in a sandbox may use these headers for keys of its
// own, so on its ports only ours are taken away.
func dropKeys(h http.Header, t target) {
	ours := func(v string) bool {
		v = strings.ToLower(strings.TrimSpace(v))
		v = strings.TrimSpace(strings.TrimPrefix(v, "bearer "))
		return strings.HasPrefix(v, "e2b_") || strings.HasPrefix(v, "sk_e2b_")
	}
	for _, k := range []string{"X-Api-Key", "Authorization"} {
		for _, v := range h[k] {
			if ours(v) || k == "X-Api-Key" && t.port == agentPort {
				h.Del(k)
				break
			}
		}
	}
}

// connected remembers which connection carries the exchange.
func (x *exchange) connected(info httptrace.GotConnInfo) {
	c, ok := info.Conn.(*conn)
	if !ok {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.answered {
		x.conn = c
		c.user.Store(x)
	}
}

// sever ends what a drop finds: a client that has stopped to read or to send
// must not keep the exchange alive, hence deadlines in the past.
func (x *exchange) sever() {
	_ = x.rc.SetWriteDeadline(time.Unix(1, 0)) // a writer without deadlines has a client that reads
	x.interrupt()
}

// interrupt stops an upload that nobody takes any more. The transport would
// wait for the client's next byte before it tells that the sandbox has gone.
func (x *exchange) interrupt() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.answered && x.up != nil && x.up.state.CompareAndSwap(uploading, interrupted) {
		_ = x.rc.SetReadDeadline(time.Unix(1, 0)) // as in sever
	}
}

// inform passes an informational response on. The transport calls it while
// RoundTrip waits, and perhaps a little longer.
func (x *exchange) inform(code int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.informed++; x.informed > maxInformational {
		return errInformational
	}
	// Continue is sent by net/http itself when the transport, told the same,
	// begins to read the body; a second one would be one too many.
	if x.answered || !x.r.ProtoAtLeast(1, 1) || code == http.StatusContinue {
		return nil
	}
	h := x.w.Header()
	before := maps.Clone(h)
	passed := http.Header(header).Clone()
	dropHopByHop(passed)
	maps.Copy(h, passed)
	x.w.WriteHeader(code)
	clear(h)
	maps.Copy(h, before)
	return nil
}

// respond sends the sandbox's answer.
func (x *exchange) respond(res *http.Response) {
	h := x.w.Header()
	dropHopByHop(res.Header)
	maps.Copy(h, res.Header)
	if _, ok := res.Header["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http guesses one
	}
	announced := len(res.Trailer)
	for k := range res.Trailer {
		h.Add("Trailer", k)
	}
	x.w.WriteHeader(res.StatusCode)

	var rerr, werr error
	// The headers of a stream go out before its first byte. A short answer of
	// known length is sent in one piece.
	if res.ContentLength < 0 || res.ContentLength > smallBuffer {
		werr = x.rc.Flush()
	}
	if werr == nil {
		x.sent, rerr, werr = x.proxy.buffers.pump(x.w, res.Body, x.rc.Flush)
	}
	if rerr != nil || werr != nil {
		x.cut(rerr)
		return
	}
	_ = res.Body.Close() // fills in the trailers
	if len(res.Trailer) > 0 {
		_ = x.rc.Flush() // forces chunks, without which there are no trailers
	}
	for k, v := range res.Trailer {
		if len(res.Trailer) != announced { // they were not announced
			k = http.TrailerPrefix + k
		}
		h[k] = v
	}
	x.drain()
}

// drain reads what is left of a request that was answered before its end,
// which as a rule was a refusal. Closing a connection with unread data resets
// it, and a client that is still writing would never see the answer.
func (x *exchange) drain() {
	const (
		most    = 64 << 20
		longest = 5 * time.Second
	)
	x.mu.Lock()
	up := x.up
	x.mu.Unlock()
	if up == nil || !up.is(uploading) {
		return
	}
	up.stop()
	_ = x.rc.Flush()
	_ = x.rc.SetReadDeadline(time.Now().Add(longest)) // the bound in bytes holds in any case
	_, _ = io.CopyN(io.Discard, x.r.Body, most)       // whatever came is dropped
}

// cut ends an exchange whose answer has begun and cannot be completed. rerr
// is the sandbox's fault; without one it is the client's.
func (x *exchange) cut(rerr error) {
	kind := kindClient
	switch {
	case x.hold.dropped():
		kind = kindDropped
	case rerr != nil && x.r.Context().Err() == nil:
		kind = kindBroken
	}
	x.proxy.meter.errors.WithLabelValues(kind).Inc()
	x.abandon()
}

// abandon resets the client's connection.
func (x *exchange) abandon() {
	x.hold.release() // its deadline is not needed any more
	reset(x.w)
}

// failed answers an exchange that got no answer from the sandbox.
func (x *exchange) failed(err error) {
	p, t := x.proxy, x.target
	var dial *dialError
	ended := x.hold.dropped() || errors.Is(err, errGone) || !p.running(t.id) ||
		errors.As(err, &dial) && soulbox.KindOf(err) == soulbox.NotFound
	x.mu.Lock()
	up := x.up
	x.mu.Unlock()
	switch {
	case ended && up != nil && !up.is(uploaded):
		// The client is still sending; it would not read an answer.
		p.meter.errors.WithLabelValues(kindDropped).Inc()
		x.abandon()
		return
	case up != nil && up.is(interrupted):
		// Our own deadline has cancelled the request's context, too.
	case x.r.Context().Err() != nil || up != nil && up.is(broken):
		p.meter.errors.WithLabelValues(kindClient).Inc()
		x.abandon()
		return
	}
	x.hold.release()
	_ = x.rc.SetWriteDeadline(time.Time{}) // a drop has set it
	if up != nil && up.is(interrupted) {
		// net/http reads what is left of a small body; not for long.
		_ = x.rc.SetReadDeadline(time.Now().Add(time.Second))
		x.w.Header().Set("Connection", "close")
	}
	switch {
	case ended:
		sb, _ := p.sandboxes.Find(t.id)
		p.fail(x.w, x.r, kindNotFound, gone(t.id, sb))
	case dial != nil:
		pr := problem{SandboxID: t.id, Port: t.port, Code: http.StatusBadGateway, Message: msgClosed}
		if errors.Is(err, context.DeadlineExceeded) {
			pr.Reason = "nothing answered within " + dialTimeout.String()
		}
		p.fail(x.w, x.r, kindClosed, pr)
	default:
		p.fail(x.w, x.r, kindBroken, problem{SandboxID: t.id, Port: t.port, Code: http.StatusBadGateway, Message: msgBroken})
	}
}

// An upload is the body of a request on its way. It is not the transport's
// to close, and not to be read once its handler has returned.
type upload struct {
	body  io.Reader
	state atomic.Int32
	begun atomic.Bool // somebody has read
}

// States of an upload.
const (
	uploading   int32 = iota
	uploaded          // all of it has been read
	broken            // the client has gone
	interrupted       // the sandbox has gone
	stopped           // the handler has returned
)

func (u *upload) is(state int32) bool { return u.state.Load() == state }

func (u *upload) Read(p []byte) (int, error) {
	if u.is(stopped) {
		return 0, http.ErrBodyReadAfterClose
	}
	u.begun.Store(true)
	n, err := u.body.Read(p)
	switch {
	case err == io.EOF:
		u.state.CompareAndSwap(uploading, uploaded)
	case err != nil:
		u.state.CompareAndSwap(uploading, broken)
	}
	return n, err
}

// Close leaves the body alone; net/http's server closes it.
func (u *upload) Close() error { return nil }

func (u *upload) stop() { u.state.Store(stopped) }
