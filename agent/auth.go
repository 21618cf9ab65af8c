package agent

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const tokenHeader = "X-Access-Token"

// authorize lets a request pass to next if it may be made.
func (a *Agent) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.RLock()
		token := a.token
		a.mu.RUnlock()
		if token != "" {
			if err := permit(r, token); err != nil {
				writeError(w, http.StatusUnauthorized, err.Error())
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// permit returns why a request may not be made.
func permit(r *http.Request, token string) error {
	given := r.Header.Get(tokenHeader)
	switch r.Method + r.URL.Path {
	case "GET/health", "POST/init": // init checks for itself
		return nil
	case "GET/files", "POST/files":
		switch {
		case given == "":
			operation := "read"
			if r.Method == http.MethodPost {
				operation = "write"
			}
			return checkSignature(r.URL.Query(), operation, token, time.Now())
		case !same(given, token):
			return errors.New("access token present in header but does not match")
		}
		return nil
	}
	if !same(given, token) {
		return errors.New("unauthorized access, please provide a valid access token or method signing if supported")
	}
	return nil
}

// same compares secrets in constant time.
func same(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// checkSignature checks the signature in a query: proof that whoever made the
// URL knew the token.
func checkSignature(query url.Values, operation, token string, now time.Time) error {
	if !query.Has("signature") {
		return errors.New("missing signature query parameter")
	}
	parts := []string{query.Get("path"), operation, query.Get("username"), token}
	var expires int64
	expiring := query.Has("signature_expiration")
	if expiring {
		var err error
		if expires, err = strconv.ParseInt(query.Get("signature_expiration"), 10, 64); err != nil {
			return errors.New("invalid signature")
		}
		parts = append(parts, strconv.FormatInt(expires, 10))
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, ":")))
	if !same(query.Get("signature"), "v1_"+base64.RawStdEncoding.EncodeToString(sum[:])) {
		return errors.New("invalid signature")
	}
	if expiring && expires < now.Unix() {
		return errors.New("signature is already expired")
	}
	return nil
}

// allowOrigins answers browsers that ask whether a page may use the agent:
// any may, as the token is what counts.
func allowOrigins(next http.Handler) http.Handler {
	const exposed = "Content-Encoding, Connect-Content-Encoding, Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, " +
		"Location, Cache-Control, X-Content-Type-Options"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Origin")
		h.Set("Access-Control-Allow-Origin", "*")
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			h.Set("Access-Control-Expose-Headers", exposed)
			next.ServeHTTP(w, r)
			return
		}
		h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
		h.Set("Access-Control-Allow-Methods", "HEAD, GET, POST, PUT, PATCH, DELETE")
		if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
			h.Set("Access-Control-Allow-Headers", asked)
		}
		h.Set("Access-Control-Max-Age", "7200")
		w.WriteHeader(http.StatusNoContent)
	})
}

// writeError answers a plain HTTP request with an error.
func writeError(w http.ResponseWriter, status int, message string) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	writeJSON(w, status, struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone if this fails
}
