package native_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestImport(t *testing.T) {
	readAll := func(source soulbox.ImageSource, progress func(string)) error {
		b, err := io.ReadAll(source.Tar)
		if err == nil {
			progress("read " + string(b))
		}
		return err
	}
	for _, tt := range []struct {
		name, query, body string
		class             *soulbox.Isolation
		imports           func(soulbox.ImageSource, func(string)) error
		want              []string // the keys of the lines
		last              string   // a part of the last line
	}{
		{"tar", "name=mine", "some tar", nil, readAll, []string{"progress", "template"}, `"id":"tpl1"`},
		{"image", "name=mine&image=debian:bookworm&isolation=runc", "", new(soulbox.Runc), func(s soulbox.ImageSource, progress func(string)) error {
			if s.Tar != nil {
				return errors.New("a tar as well")
			}
			progress("pull " + s.Ref)
			progress("unpack")
			return nil
		}, []string{"progress", "progress", "template"}, `"name":"mine"`},
		{"fails at once", "name=mine&isolation=gvisor", "x", new(soulbox.GVisor), func(soulbox.ImageSource, func(string)) error {
			return soulbox.Errorf(soulbox.Conflict, "there is a template 'mine' already")
		}, nil, "there is a template 'mine' already"},
		{"fails later", "name=mine&isolation=", "x", nil, func(_ soulbox.ImageSource, progress func(string)) error {
			progress("begin")
			return soulbox.Errorf(soulbox.Invalid, "the tar holds a device")
		}, []string{"progress", "error"}, `"code":400,"message":"the tar holds a device"`},
		{"breaks later", "name=mine", "x", nil, func(_ soulbox.ImageSource, progress func(string)) error {
			progress("begin")
			return errors.New("secret detail")
		}, []string{"progress", "error"}, `"code":500,"message":"internal error"`},
		{"no progress", "name=mine", "x", nil, func(soulbox.ImageSource, func(string)) error { return nil }, []string{"template"}, `"id":"tpl1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &shelf{imports: tt.imports}
			res := ask(newTemplateAPI(t, s), "POST", "/v1/templates/import?"+tt.query, tt.body, "ours")
			if diff := cmp.Diff(soulbox.ImportRequest{Team: "ours", Name: "mine", Isolation: tt.class}, s.asked); diff != "" {
				t.Errorf("asked for (-want +got):\n%s", diff)
			}
			if tt.want == nil {
				wantFailure(t, res, 409, tt.last)
				return
			}
			if ct := res.Header().Get("Content-Type"); res.Code != 200 || ct != "application/x-ndjson" {
				t.Errorf("%d, %s, want 200, application/x-ndjson", res.Code, ct)
			}
			var got []string
			last := ""
			for last = range strings.Lines(res.Body.String()) {
				var line map[string]json.RawMessage
				if err := json.Unmarshal([]byte(last), &line); err != nil || len(line) != 1 {
					t.Fatalf("line %q: %v, want an object with one key", last, err)
				}
				for k := range line {
					got = append(got, k)
				}
			}
			if !cmp.Equal(got, tt.want) || !strings.Contains(last, tt.last) {
				t.Errorf("lines %v, the last %s, want %v, the last with %s", got, last, tt.want, tt.last)
			}
		})
	}
}

// TestImportStreams sends a tar in two parts and the second only after the
// progress of the first has come back, on a real connection.
func TestImportStreams(t *testing.T) {
	s := &shelf{imports: func(s soulbox.ImageSource, progress func(string)) error {
		in := bufio.NewReader(s.Tar)
		for range 2 {
			line, err := in.ReadString('\n')
			if err != nil {
				return err
			}
			progress(line)
		}
		return nil
	}}
	server := httptest.NewServer(newTemplateAPI(t, s))
	defer server.Close()
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/templates/import?name=mine", pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", "ours")
	first := make(chan error, 1)
	go func() {
		_, err := pw.Write([]byte("first\n"))
		first <- err
	}()
	client := &http.Client{Timeout: 20 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(res.Body)
	if line, err := in.ReadString('\n'); err != nil || line != `{"progress":"first\n"}`+"\n" {
		t.Fatalf("first line %q, %v", line, err)
	}
	if _, err := pw.Write([]byte("second\n")); err != nil {
		t.Fatal(err)
	}
	pw.Close()
	rest, err := io.ReadAll(in)
	if err != nil || !strings.HasPrefix(string(rest), `{"progress":"second\n"}`+"\n"+`{"template":{"id":"tpl1"`) {
		t.Errorf("the rest %q, %v", rest, err)
	}
}

// TestImportCutOff drops the connection half way through the tar: the import
// must see an error, not the end of a tar.
func TestImportCutOff(t *testing.T) {
	got := make(chan error, 1)
	s := &shelf{imports: func(s soulbox.ImageSource, progress func(string)) error {
		progress("reading")
		_, err := io.Copy(io.Discard, s.Tar)
		got <- err
		return err
	}}
	server := httptest.NewServer(newTemplateAPI(t, s))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	pr, _ := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/v1/templates/import?name=mine", pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", "ours")
	client := &http.Client{Timeout: 20 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	cancel()
	select {
	case err := <-got:
		if soulbox.KindOf(err) != soulbox.Invalid {
			t.Errorf("the import read %v, want an Invalid error", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the import still waits for the rest of the tar")
	}
}

// TestImportLeavesNoRequest sends a body that nobody reads and that looks like
// requests. Whatever becomes of the import, they must not be answered: whoever
// shares the connection would get the answers of others.
func TestImportLeavesNoRequest(t *testing.T) {
	body := strings.Repeat("GET /v1/version HTTP/1.1\r\nHost: x\r\nX-API-KEY: ours\r\n\r\n", 50_000)
	for name, tt := range map[string]struct {
		code    int
		imports func(soulbox.ImageSource, func(string)) error
	}{
		"fails at once": {409, func(soulbox.ImageSource, func(string)) error { return soulbox.Errorf(soulbox.Conflict, "no") }},
		"fails later": {200, func(_ soulbox.ImageSource, progress func(string)) error {
			progress("begin")
			return soulbox.Errorf(soulbox.Conflict, "no")
		}},
		"ends early": {200, func(soulbox.ImageSource, func(string)) error { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(newTemplateAPI(t, &shelf{imports: tt.imports}))
			defer server.Close()
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() {
				fmt.Fprintf(c, "POST /v1/templates/import?name=mine HTTP/1.1\r\nHost: x\r\nX-API-KEY: ours\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}()
			in := bufio.NewReader(c)
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != tt.code {
				t.Errorf("%d, %v, want %d and all of the answer", res.StatusCode, err, tt.code)
			}
			if next, err := http.ReadResponse(in, nil); err == nil {
				t.Errorf("a part of the body was answered with %s", next.Status)
			}
		})
	}
}
