package proxy

import (
	"context"
	"crypto/subtle"
	"net/http"
	"time"

	"github.com/soulbox/soulbox"
)

// waker makes paused sandboxes run. It is safe for concurrent use.
type waker interface {
	// Wake returns when sandbox id runs. Those who ask for the same one at
	// the same time share one resume, and a pause that is under way is waited
	// for. A Conflict says that its state forbids it for now, Exhausted that
	// the team's quota is used up.
	Wake(ctx context.Context, id soulbox.SandboxID) error
}

// mostWakes is how often one request resumes its sandbox. A second time takes a
// sandbox that is paused again between its resume and the request.
const mostWakes = 3

// sleeps reports whether traffic resumes sb, which does not run. One that is
// paused without its memory would boot, and no stranger's request may cause
// that.
func (p *Proxy) sleeps(sb *soulbox.Sandbox) bool {
	if p.waker == nil || sb == nil || !sb.Lifecycle.Wake || sb.Pause == nil || !sb.Pause.Memory {
		return false
	}
	switch sb.State {
	case soulbox.Pausing, soulbox.Paused, soulbox.Resuming:
		return true
	default:
		return false
	}
}

// wake holds r until sb runs, or answers it and returns false. It leaves the
// body unread: there is nowhere to put it yet.
func (p *Proxy) wake(w http.ResponseWriter, r *http.Request, t target, sb *soulbox.Sandbox) bool {
	if !mayWake(r, t, sb, time.Now()) {
		p.fail(w, r, kindDenied, problem{
			SandboxID: t.id, Code: http.StatusForbidden, Message: msgDenied,
			Reason: "it is " + string(sb.State) + ", and only a request with its access token resumes it",
		})
		return false
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	hold, err := p.pool.await(t.id, cancel)
	if err != nil {
		p.busy(w, r, t, err)
		return false
	}
	defer hold.release()
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})  // a writer without deadlines has none to clear
	_ = rc.SetWriteDeadline(time.Time{}) // as above

	err = p.waker.Wake(ctx, t.id)
	if err == nil {
		return true
	}
	if r.Context().Err() != nil {
		p.meter.errors.WithLabelValues(kindClient).Inc()
		hold.release()
		reset(w)
		return false
	}
	// net/http reads what is left of a small body; not for long.
	_ = rc.SetReadDeadline(time.Now().Add(time.Second))
	if hold.dropped() { // nothing but Close does that
		p.busy(w, r, t, errStopping())
		return false
	}
	switch soulbox.KindOf(err) {
	case soulbox.Conflict:
		p.fail(w, r, kindAsleep, problem{SandboxID: t.id, Code: http.StatusConflict, Message: soulbox.MessageOf(err)})
	case soulbox.Exhausted:
		p.fail(w, r, kindAsleep, problem{SandboxID: t.id, Code: http.StatusTooManyRequests, Message: soulbox.MessageOf(err)})
	default:
		now, _ := p.sandboxes.Find(t.id)
		pr := gone(t.id, now)
		if now != nil && now.State.Live() {
			pr.Reason = "it is paused and could not be resumed: " + soulbox.MessageOf(err)
		}
		p.fail(w, r, kindAsleep, pr)
	}
	return false
}

// mayWake reports whether r may resume sb. What reaches the agent of a secure
// sandbox must come from somebody whom the agent would hear, or anybody who
// has seen the id could keep the sandbox running. Other ports are open to all,
// unless the sandbox is private.
func mayWake(r *http.Request, t target, sb *soulbox.Sandbox, now time.Time) bool {
	if t.port != agentPort {
		return untrusted(r, t, sb) == ""
	}
	if !sb.Secure {
		return true
	}
	if sb.Token == "" {
		return false
	}
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(headerToken)), []byte(sb.Token)) == 1 {
		return true
	}
	s, ok := signedFile(r)
	return ok && s.bounded() && s.madeWith(sb.Token) && !s.expired(now)
}
