package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// Bounds of a signed URL. They keep the price of a wrong one low, since it is
// compared with every sandbox that lives.
const (
	maxSignedPath = 4096 // PATH_MAX
	maxSignedUser = 256
	maxSigned     = 50_000 // sandboxes looked at
	signatureLen  = len("v1_") + 43
)

// A signed request for a file names no sandbox; E2B's clients make such URLs
// from the bare sandbox URL. The signature is
//
//	"v1_" + base64(sha256(path:read|write:user:token[:expiry])), unpadded
//
// in which the token belongs to one sandbox only.
type signed struct {
	path, operation, user, expiry, signature string

	until int64 // the expiry in seconds since 1970; 0 without one
}

// signedFile reads a signed file URL. ok is false for all other requests.
func signedFile(r *http.Request) (s signed, ok bool) {
	if r.URL.Path != "/files" || !strings.Contains(r.URL.RawQuery, "signature=") {
		return signed{}, false
	}
	q := r.URL.Query()
	s = signed{path: q.Get("path"), user: q.Get("username"), signature: q.Get("signature")}
	method := r.Method
	if method == http.MethodOptions { // a browser asks first
		method = r.Header.Get("Access-Control-Request-Method")
	}
	switch method {
	case http.MethodGet, http.MethodHead:
		s.operation = "read"
	default:
		s.operation = "write"
	}
	if e := q.Get("signature_expiration"); e != "" {
		n, err := strconv.ParseInt(e, 10, 64)
		if err != nil {
			s.signature = "" // nobody signed that
		}
		s.expiry = ":" + strconv.FormatInt(n, 10)
		s.until = max(n, 1) // 0 is no expiry; what is below it has passed as well
	}
	return s, true
}

// bounded reports whether s is small enough to be looked at.
func (s signed) bounded() bool {
	return len(s.signature) == signatureLen && len(s.path) <= maxSignedPath && len(s.user) <= maxSignedUser
}

// prefix is what is hashed before the token.
func (s signed) prefix() string { return s.path + ":" + s.operation + ":" + s.user + ":" }

// madeWith reports whether token made the signature.
func (s signed) madeWith(token string) bool {
	sum := sha256.Sum256([]byte(s.prefix() + token + s.expiry))
	got := "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
	return subtle.ConstantTimeCompare([]byte(got), []byte(s.signature)) == 1
}

// expired reports whether the time that s was good for has passed.
func (s signed) expired(now time.Time) bool { return s.until != 0 && now.Unix() > s.until }

// signer finds the sandbox whose token made the signature, be it paused or
// not. Whether it has expired is for the agent to say.
func (p *Proxy) signer(s signed) (target, error) {
	unknown := soulbox.Errorf(soulbox.Unauthenticated, "invalid signature")
	if !s.bounded() {
		return target{}, unknown
	}
	want := []byte(s.signature)
	prefix := sha256.New()
	_, _ = io.WriteString(prefix, s.prefix()) // a hash takes everything
	cloner, ok := prefix.(hash.Cloner)
	if !ok {
		return target{}, unknown
	}
	var found soulbox.SandboxID
	seen := 0
	got := make([]byte, 0, signatureLen)
	p.sandboxes.All(func(sb *soulbox.Sandbox) bool {
		if seen++; seen > maxSigned {
			return false
		}
		if !sb.Secure || sb.Token == "" || !sb.State.Live() {
			return true
		}
		h, err := cloner.Clone()
		if err != nil {
			return false
		}
		_, _ = io.WriteString(h, sb.Token+s.expiry) // a hash takes everything
		got = base64.RawStdEncoding.AppendEncode(append(got[:0], "v1_"...), h.Sum(nil))
		if subtle.ConstantTimeCompare(got, want) == 1 {
			found = sb.ID
			return false
		}
		return true
	})
	if found == "" {
		return target{}, unknown
	}
	return target{id: found, port: agentPort}, nil
}
