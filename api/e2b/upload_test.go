package e2b_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api/e2b"
)

// linkFor asks for a link with the given key and headers.
func linkFor(t *testing.T, h http.Handler, hash string, header ...string) (present bool, link *url.URL) {
	t.Helper()
	res := ask(h, "GET", "/templates/tpl2/files/"+hash, "", header...)
	var a struct {
		Present *bool  `json:"present"`
		URL     string `json:"url"`
	}
	if err := json.Unmarshal(res.Body.Bytes(), &a); err != nil || res.Code != 201 || a.Present == nil {
		t.Fatalf("%d %s, %v; want 201 with present and url", res.Code, res.Body, err)
	}
	link, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	return *a.Present, link
}

// put uploads without a key or a content type, as SDKs do.
func put(h http.Handler, link, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPut, link, strings.NewReader(body))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestUpload(t *testing.T) {
	w := &world{}
	h := newAPI(t, w, "")
	if present, _ := linkFor(t, h, hereHash); !present {
		t.Error("files that are there are not present")
	}
	present, link := linkFor(t, h, otherHash)
	if present {
		t.Error("files that are not there are present")
	}
	if link.Scheme != "http" || link.Host != "example.com" || link.Path != "/templates/tpl2/files/"+otherHash {
		t.Errorf("link %s", link)
	}
	if res := put(h, link.String(), "a tar"); res.Code != 204 || res.Body.Len() > 0 {
		t.Fatalf("%d %s, want 204 and nothing", res.Code, res.Body)
	}
	if diff := cmp.Diff(any(uploading{"tpl2", otherHash, "a tar"}), w.asked); diff != "" {
		t.Errorf("PutUpload was given (-want +got):\n%s", diff)
	}
	if res := put(h, link.String(), "another"); res.Code != 204 {
		t.Errorf("a second time: %d %s", res.Code, res.Body)
	}

	// The scheme is the one that the client speaks.
	if _, link := linkFor(t, h, otherHash, "X-Forwarded-Proto", "https"); link.Scheme != "https" {
		t.Errorf("behind TLS the link is %s", link)
	}
	if _, link := linkFor(t, h, otherHash, "X-Forwarded-Proto", "gopher"); link.Scheme != "http" {
		t.Errorf("behind nonsense the link is %s", link)
	}
	srv := httptest.NewTLSServer(h)
	defer srv.Close()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/templates/tpl2/files/"+otherHash, http.NoBody)
	req.Header.Set("X-API-KEY", ourKey)
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); !strings.Contains(string(b), `"url":"`+srv.URL+`/templates/`) {
		t.Errorf("at %s the link is %s", srv.URL, b)
	}
}

// TestForged changes each part of a link.
func TestForged(t *testing.T) {
	w := &world{}
	h := newAPI(t, w, "")
	_, link := linkFor(t, h, otherHash)
	_, here := linkFor(t, h, hereHash)
	change := func(path string, query ...string) string {
		l := *link
		if path != "" {
			l.Path = path
		}
		q := l.Query()
		for i := 0; i < len(query); i += 2 {
			q.Set(query[i], query[i+1])
		}
		l.RawQuery = q.Encode()
		return l.String()
	}
	token := link.Query().Get("token")
	later := fmt.Sprint(time.Now().Add(48 * time.Hour).Unix())
	for name, tt := range map[string]struct {
		link string
		code int
		msg  string
	}{
		"another template":  {change("/templates/tpl3/files/" + otherHash), 403, "not a link for uploading"},
		"another hash":      {change("/templates/tpl2/files/" + hereHash), 403, "not a link for uploading"},
		"another team":      {change("", "team", "theirs"), 403, "not a link for uploading"},
		"more time":         {change("", "expires", later), 403, "not a link for uploading"},
		"another token":     {change("", "token", here.Query().Get("token")), 403, "not a link for uploading"},
		"no token":          {change("", "token", ""), 403, "not a link for uploading"},
		"upper case":        {change("", "token", strings.ToUpper(token)), 403, "not a link for uploading"},
		"a sandbox's token": {change("", "token", seed.AgentToken("ours")), 403, "not a link for uploading"},
		"no query":          {"http://example.com" + link.Path, 403, "not a link for uploading"},
		"a time of words":   {change("", "expires", "tomorrow"), 400, "expires must be"},
		"a time before":     {change("", "expires", "-1"), 400, "expires must be"},
		"a query of noise":  {"http://example.com" + link.Path + "?a=%zz", 400, "malformed"},
		"a hash of noise":   {change("/templates/tpl2/files/x"), 400, "the hash of the files must be 64"},
		"a path of noise":   {change("/templates/A/files/" + otherHash), 400, "is not the id of a template"},
		"nothing":           {link.String(), 400, "the upload is empty"},
	} {
		body := "a tar"
		if name == "nothing" {
			body = ""
		}
		wantFailure(t, put(h, tt.link, body), tt.code, tt.msg)
		if w.asked != nil {
			t.Errorf("%s: the upload was taken all the same", name)
		}
	}
	// A key is no link.
	wantFailure(t, ask(h, "PUT", link.Path, "a tar"), 403, "not a link for uploading")
}

// A link is good for an hour.
func TestLinkExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		// Without the stand-in for AWS, whose goroutines would have to end.
		h := apiOf(t, w, e2b.Options{Seed: seed})
		_, link := linkFor(t, h, otherHash)
		time.Sleep(time.Hour - time.Second)
		if res := put(h, link.String(), "a tar"); res.Code != 204 {
			t.Errorf("after an hour less a second: %d %s", res.Code, res.Body)
		}
		time.Sleep(2 * time.Second)
		w.asked = nil
		if wantFailure(t, put(h, link.String(), "a tar"), 403, "was good until "); w.asked != nil {
			t.Error("an upload was taken after an hour")
		}
	})
}

// TestUploadCutOff speaks HTTP by hand, since no client sends such things.
func TestUploadCutOff(t *testing.T) {
	w := &world{uploaded: make(chan error, 1)}
	srv := httptest.NewServer(newAPI(t, w, ""))
	defer srv.Close()
	_, link := linkFor(t, newAPI(t, &world{}, ""), otherHash)
	send := func(rest string) net.Conn {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\n%s", link.RequestURI(), rest)
		return conn
	}

	conn := send("Transfer-Encoding: chunked\r\n\r\n5\r\na tar\r\n0\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "needs a Content-Length") {
		t.Errorf("without a length: %d %s", res.StatusCode, body)
	}

	// Whoever leaves before the end gets no answer, but what is behind must not
	// take the half for the whole.
	send("Content-Length: 1000\r\n\r\na tar").Close()
	if err := <-w.uploaded; soulbox.KindOf(err) != soulbox.Invalid || err.Error() != "the body ended early" {
		t.Errorf("half an upload was read with %v, want an Invalid error", err)
	}
}

// What is behind the door says what is wrong with a tar.
func TestUploadRefused(t *testing.T) {
	for code, err := range map[int]error{
		400: soulbox.Errorf(soulbox.Invalid, "the upload is not a tar"),
		413: soulbox.Errorf(soulbox.TooLarge, "the upload has more than 10 GiB"),
		404: soulbox.Errorf(soulbox.NotFound, "template 'tpl2' not found"),
	} {
		_, link := linkFor(t, newAPI(t, &world{}, ""), otherHash)
		wantFailure(t, put(newAPI(t, &world{fail: err}, ""), link.String(), "a tar"), code, err.Error())
	}
}
