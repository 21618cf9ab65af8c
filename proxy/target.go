package proxy

import (
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/soulbox/soulbox"
)

// agentPort is where the agent of every sandbox listens.
const agentPort = 49983

const (
	headerID   = "E2b-Sandbox-Id"
	headerPort = "E2b-Sandbox-Port"

	headerToken   = "X-Access-Token"           // what the agent of a secure sandbox asks for
	headerTraffic = "E2b-Traffic-Access-Token" // what we ask for on the other ports of a private one
)

// A target is what a request is for. The zero target is the control plane.
type target struct {
	id   soulbox.SandboxID
	port uint16
}

// class names the target in counters.
func (t target) class() string {
	if t.port == agentPort {
		return "agent"
	}
	return "user"
}

// target finds out what r is for. An error means that it is for a sandbox,
// but does not say properly for which.
func (p *Proxy) target(r *http.Request) (target, error) {
	name := hostname(r.Host)
	// A host that names a sandbox is believed before any header: it is an
	// origin of its own for browsers, and a page served from one sandbox must
	// not reach another by adding headers.
	if t, ok, err := hostTarget(name); ok {
		return t, err
	}
	// On every other host the headers count: whoever installs a server gives
	// it the name they like, and only clients that mean a sandbox send them.
	if t, ok, err := headerTarget(r.Header); ok {
		return t, err
	}
	if s, ok := signedFile(r); ok {
		return p.signer(s)
	}
	return target{}, nil
}

// hostname returns the lower-case host name without its port and brackets.
func hostname(host string) string {
	return strings.ToLower((&url.URL{Host: host}).Hostname())
}

// hostTarget reads <port>-<id> or <port>-<id>-<client> in the first label of
// name; the last form is what old clients make. ok says that the label is of
// that form at all. It is strict, so that hosts such as 10-0-0-1.sslip.io or
// 2024-report.example.com stay what they are.
func hostTarget(name string) (t target, ok bool, err error) {
	label, _, _ := strings.Cut(name, ".")
	port, rest, _ := strings.Cut(label, "-")
	id, client, suffixed := strings.Cut(rest, "-")
	if port == "" || !all(port, digit) || !houseID(id) || suffixed && (client == "" || !all(client, alphanumeric)) {
		return target{}, false, nil
	}
	t.id = soulbox.SandboxID(id)
	t.port, err = parsePort(port)
	return t, true, err
}

// headerTarget reads the routing headers. ok says that at least one is there.
func headerTarget(h http.Header) (t target, ok bool, err error) {
	ids, ports := h[headerID], h[headerPort]
	id, port := h.Get(headerID), h.Get(headerPort)
	switch {
	case id == "" && port == "" && len(ids) < 2 && len(ports) < 2:
		return target{}, false, nil
	case len(ids) > 1 || len(ports) > 1:
		err = soulbox.Errorf(soulbox.Invalid, "the headers %s and %s may appear once only", headerID, headerPort)
	case id == "":
		err = soulbox.Errorf(soulbox.Invalid, "missing header %s", headerID)
	case !soulbox.SandboxID(id).Valid():
		err = soulbox.Errorf(soulbox.Invalid, "invalid sandbox id in header %s", headerID)
	case port == "":
		t.id, err = soulbox.SandboxID(id), soulbox.Errorf(soulbox.Invalid, "missing header %s", headerPort)
	default:
		t.id = soulbox.SandboxID(id)
		t.port, err = parsePort(port)
	}
	return t, true, err
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, soulbox.Errorf(soulbox.Invalid, "invalid sandbox port; it is a number from 1 to 65535")
	}
	return uint16(n), nil
}

// houseID reports whether id is of the form that soulbox.NewSandboxID makes.
func houseID(id string) bool {
	return len(id) == 21 && id[0] == 'i' && all(id, alphanumeric)
}

func digit(c byte) bool        { return '0' <= c && c <= '9' }
func alphanumeric(c byte) bool { return digit(c) || 'a' <= c && c <= 'z' }

func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

// controlPath reports whether u addresses what only the node may ask of an
// agent. It errs on the safe side: every spelling that some router could take
// for such a path counts, and so does everything below it.
func controlPath(u *url.URL) bool {
	if reserved(u.Path) {
		return true
	}
	// Cleaning before decoding gives another path when a slash or a dot is
	// encoded; net/http's ServeMux does it in this order.
	cleaned := path.Clean("/" + u.EscapedPath())
	decoded, err := url.PathUnescape(cleaned)
	return err != nil || reserved(decoded)
}

func reserved(p string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+p), "/"), "/")
	switch strings.ToLower(first) {
	case "init", "freeze", "unfreeze", "collapse", "fsfreeze", "fsthaw", "upgrade", "soulbox":
		return true
	}
	return false
}
