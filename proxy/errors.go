package proxy

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// The messages by which E2B's clients tell what happened. The Python SDK looks
// for "was not found" and "port is not open" in them.
const (
	msgNotFound = "The sandbox was not found"
	msgClosed   = "The sandbox is running but port is not open"
	msgDenied   = "The sandbox is paused and this request may not resume it"
	msgMissing  = "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing"
	msgWrong    = "Sandbox is secured with traffic access token. Provided token in header 'e2b-traffic-access-token' is invalid"
	msgBroken   = "The sandbox is running but the program on this port gave no proper HTTP answer"
)

// Kinds of error, as the counter names them.
const (
	kindInvalid  = "invalid"   // malformed routing
	kindRefused  = "refused"   // not something we carry
	kindBlocked  = "blocked"   // a control path
	kindNotFound = "not_found" // no such sandbox, or it does not run
	kindDenied   = "denied"    // may not reach a private port, or not resume a paused sandbox
	kindAsleep   = "asleep"    // a paused sandbox could not be resumed
	kindBusy     = "busy"      // too many requests at once, or stopping
	kindClosed   = "closed"    // nothing listens on the port
	kindBroken   = "broken"    // the answer was malformed or cut off
	kindDropped  = "dropped"   // cut because the sandbox ended
	kindClient   = "client"    // the client went away
)

// A problem is the body of an answer that does not come from a sandbox.
type problem struct {
	SandboxID soulbox.SandboxID `json:"sandboxId,omitempty"`
	Message   string            `json:"message"`
	Port      uint16            `json:"port,omitempty"`
	Code      int               `json:"code"`
	Reason    string            `json:"reason,omitempty"` // ours: what we know beyond the message
}

// gone describes a sandbox that takes no traffic; sb may be nil.
func gone(id soulbox.SandboxID, sb *soulbox.Sandbox) problem {
	pr := problem{SandboxID: id, Message: msgNotFound, Code: http.StatusBadGateway}
	switch {
	case sb == nil:
	case sb.End != nil:
		pr.Reason = fmt.Sprintf("ended by %s at %s", sb.End.By, sb.End.At.UTC().Format(time.RFC3339))
		if sb.End.Reason != "" {
			pr.Reason += ": " + sb.End.Reason
		}
	case sb.State == soulbox.Starting:
		pr.Reason = "it has not started yet"
	case sb.State == soulbox.Paused:
		pr.Reason = "it is paused; POST /v2/sandboxes/" + string(id) + "/connect resumes it"
	case sb.State != soulbox.Running:
		pr.Reason = "it is " + string(sb.State)
	}
	return pr
}

// busy answers a request that was one too many, or came too late.
func (p *Proxy) busy(w http.ResponseWriter, r *http.Request, t target, err error) {
	code := http.StatusTooManyRequests
	if soulbox.KindOf(err) != soulbox.Exhausted {
		code = http.StatusServiceUnavailable
	}
	p.fail(w, r, kindBusy, problem{SandboxID: t.id, Port: t.port, Code: code, Message: soulbox.MessageOf(err)})
}

// refuse answers a request whose target is malformed or unknown.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, t target, err error) {
	code := http.StatusBadRequest
	if soulbox.KindOf(err) == soulbox.Unauthenticated {
		code = http.StatusUnauthorized
	}
	p.fail(w, r, kindInvalid, problem{SandboxID: t.id, Message: soulbox.MessageOf(err), Code: code})
}

//go:embed error.html
var errorPage string

var errorTemplate = template.Must(template.New("error").Parse(errorPage))

// fail answers with pr: as a page to a browser that shows it to a person, as
// JSON to everybody else.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, kind string, pr problem) {
	p.meter.errors.WithLabelValues(kind).Inc()
	p.log.LogAttrs(r.Context(), slog.LevelDebug, "request not carried",
		slog.String("sandbox", string(pr.SandboxID)), slog.Int("status", pr.Code), slog.String("kind", kind))
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if wantsPage(r) {
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		w.WriteHeader(pr.Code)
		_ = errorTemplate.Execute(w, pr) // the client may be gone
		return
	}
	h.Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(pr.Code)
	_ = json.NewEncoder(w).Encode(pr) // the client may be gone
}

// wantsPage reports whether a person looks at the answer. A script in a page
// sends the headers of its browser, but says how it fetches.
func wantsPage(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" && !strings.EqualFold(mode, "navigate") {
		return false
	}
	return strings.Contains(strings.ToLower(r.Header.Get("Accept")), "text/html")
}
