package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/soulbox/soulbox"
)

func FuzzHostTarget(f *testing.F) {
	id := string(soulbox.NewSandboxID())
	for _, s := range []string{
		"3000-" + id + ".example.com", "3000-" + strings.ToUpper(id) + ":80", "0-" + id, "99999999999999999999-" + id,
		"127-0-0-1.sslip.io", "-", "", "[::1]:80", "3000-" + id + "-abc.d", "3000-" + id + "-", "٣-" + id,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		got, ok, err := hostTarget(hostname(host))
		switch {
		case !ok && (err != nil || got != target{}):
			t.Errorf("hostTarget(%q) = %v, false, %v; want nothing", host, got, err)
		case ok && err == nil && (got.port == 0 || !got.id.Valid()):
			t.Errorf("hostTarget(%q) = %v", host, got)
		case ok && !strings.Contains(strings.ToLower(host), "-"+string(got.id)):
			t.Errorf("hostTarget(%q) found %v, which is not in it", host, got)
		}
	})
}

func FuzzHeaderTarget(f *testing.F) {
	f.Add("iabc", "3000")
	f.Add("", "3000")
	f.Add("iabc", "")
	f.Add("i/..", "-1")
	f.Add("i", "00080")
	f.Fuzz(func(t *testing.T, id, port string) {
		h := http.Header{}
		h.Set(headerID, id)
		h.Set(headerPort, port)
		got, ok, err := headerTarget(h)
		if ok != (id != "" || port != "") {
			t.Fatalf("headerTarget(%q, %q): ok %v", id, port, ok)
		}
		if ok && err == nil && (got.port == 0 || string(got.id) != id || !got.id.Valid()) {
			t.Errorf("headerTarget(%q, %q) = %v", id, port, got)
		}
		if soulbox.KindOf(err) != soulbox.Invalid && err != nil {
			t.Errorf("headerTarget(%q, %q): kind of %v is not Invalid", id, port, err)
		}
	})
}

func TestHeaderTwice(t *testing.T) {
	h := http.Header{headerID: {"ia", "ib"}, headerPort: {"80"}}
	if got, ok, err := headerTarget(h); !ok || soulbox.KindOf(err) != soulbox.Invalid || err == nil {
		t.Errorf("two ids: %v, %v, %v; want an error", got, ok, err)
	}
}

func TestControlPath(t *testing.T) {
	tests := map[string]bool{
		"/init": true, "//init": true, "/./init": true, "/%69nit": true, "/init/": true, "/INIT": true, "/init?x=1": true,
		"/files/../init": true, "/files/%2e%2e/init": true, "/a%2fb/../init": true, "/%2Finit": true, "/init/x": true, "/init%2Fx": true,
		"/freeze": true, "/unfreeze": true, "/collapse": true, "/fsfreeze": true, "/fsthaw": true, "/upgrade": true,
		"/soulbox": true, "/soulbox/tunnel": true, "/SoulBox%2ftunnel": true, "/x/..//soulbox/x": true,
		"/": false, "/health": false, "/files": false, "/initial": false, "/files/init": false, "/process.Process/Start": false,
		"/%2569nit": false, "/init;x": false, "/in/it": false,
	}
	for p, want := range tests {
		u, err := url.ParseRequestURI(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := controlPath(u); got != want {
			t.Errorf("controlPath(%s) = %v, want %v", p, got, want)
		}
	}
}

// Whatever a ServeMux would take for a control path, or redirect to one, must
// have been held back.
func FuzzControlPath(f *testing.F) {
	reached := false
	mux := http.NewServeMux()
	for _, p := range []string{"/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade", "/soulbox/", "POST /soulbox/tunnel/{port}"} {
		mux.HandleFunc(p, func(http.ResponseWriter, *http.Request) { reached = true })
	}
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	for _, s := range []string{"/init", "//init", "/%69nit", "/a%2fb/../init", "/soulbox", "/soulbox%2f..%2finit", "/.%2e/init", "/x/../soulbox/y", "/init/../health"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		u, err := url.ParseRequestURI(p)
		if err != nil || !strings.HasPrefix(p, "/") {
			return
		}
		for range 5 { // redirects
			reached = false
			rec := httptest.NewRecorder()
			mux.ServeHTTP(rec, &http.Request{Method: http.MethodGet, URL: u, Host: "localhost", Header: http.Header{}})
			if reached && !controlPath(u) {
				t.Fatalf("controlPath(%s) = false, but a ServeMux serves it", u)
			}
			next, err := u.Parse(rec.Header().Get("Location"))
			if rec.Code < 300 || rec.Code > 399 || err != nil {
				return
			}
			u = next // comes through the proxy again
		}
	})
}

func FuzzSignedFile(f *testing.F) {
	f.Add("path=/a&username=u&signature=v1_x&signature_expiration=17", "GET")
	f.Add("signature=&path=%00", "OPTIONS")
	f.Fuzz(func(t *testing.T, query, method string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: "/files", RawQuery: query}, Header: http.Header{}}
		s, ok := signedFile(r)
		if ok && s.operation != "read" && s.operation != "write" {
			t.Errorf("signedFile(%q): operation %q", query, s.operation)
		}
		if ok && ((s.expiry == "") != (s.until == 0) || s.until < 0) {
			t.Errorf("signedFile(%q): expiry %q, until %d", query, s.expiry, s.until)
		}
	})
}
