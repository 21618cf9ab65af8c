package native_test

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api/native"
)

// version reads a range of versions.
func version(t testing.TB, s string) soulbox.VersionRange {
	t.Helper()
	r, err := soulbox.ParseVersionRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTemplateAnswers(t *testing.T) {
	const one = "/v1/templates/mine"
	ref := func(tag, versions string) soulbox.TemplateRef {
		r := soulbox.TemplateRef{Name: "tpl1", Tag: tag}
		if versions != "" {
			r.Versions = version(t, versions)
		}
		return r
	}
	for _, tt := range []struct {
		name, verb, path, body string
		code                   int
		asked                  any
	}{
		{"templates", "GET", "/v1/templates", "", 200, nil},
		{"templates-found", "GET", "/v1/templates?q=web+server", "", 200, soulbox.ListingFilter{Team: "ours", Query: "web server", Sort: soulbox.ByRelevance, Limit: 100}},
		{"", "GET", "/v1/templates?sort=name", "", 200, soulbox.ListingFilter{Team: "ours", Sort: soulbox.ByName, Limit: 100}},
		{"", "GET", "/v1/templates?q=a&category=Data&package=pip:numpy&mine=true&sort=stars&limit=5&cursor=c", "", 200, soulbox.ListingFilter{
			Team: "ours", Query: "a", Category: "data", Package: "pip:numpy", Mine: true, Sort: soulbox.ByStars, Limit: 5, Cursor: "c",
		}},
		{"", "GET", "/v1/templates?limit=1", "", 200, soulbox.ListingFilter{Team: "ours", Sort: soulbox.ByStarts, Limit: 1}},
		{"template", "GET", one, "", 200, nil},
		{"template", "GET", "/v1/templates/tpl1", "", 200, ref("", "")},
		{"template-listed", "PATCH", one, `{"description":" A line ","licence":"Apache-2.0 OR MIT","categories":["Data","data"],"keywords":[]}`, 200, soulbox.ListingChange{
			Description: new("A line"), Licence: new("Apache-2.0 OR MIT"), Categories: &[]string{"data"}, Keywords: &[]string{},
		}},
		{"", "PATCH", one, `{"licence":""}`, 200, soulbox.ListingChange{Licence: new("")}},
		{"", "PATCH", one, `{"isolation":"runc"}`, 200, soulbox.Runc},
		{"", "PATCH", one, `{"isolation":"gvisor","description":"x"}`, 200, soulbox.ListingChange{Description: new("x")}},
		{"", "DELETE", one, "", 204, soulbox.TemplateID("tpl1")},
		{"builds", "GET", one + "/builds", "", 200, soulbox.BuildFilter{Template: "tpl1", Limit: 100}},
		{"builds", "GET", one + "/builds?state=ready&state=error&limit=5&cursor=c", "", 200, soulbox.BuildFilter{
			Template: "tpl1", States: []soulbox.BuildState{soulbox.BuildReady, soulbox.BuildFailed}, Limit: 5, Cursor: "c",
		}},
		{"build", "GET", one + "/builds/" + buildID, "", 200, nil},
		{"build-steps", "GET", one + "/builds/" + olderID, "", 200, nil},
		{"build-failed", "GET", one + "/builds/" + brokenID, "", 200, nil},
		{"build-log", "GET", one + "/builds/" + buildID + "/log", "", 200, soulbox.BuildLogQuery{Limit: 100}},
		{"", "GET", one + "/builds/" + buildID + "/log?offset=7&limit=3&level=warn", "", 200, soulbox.BuildLogQuery{Offset: 7, Limit: 3, Level: "warn"}},
		{"build-failed-short", "POST", one + "/builds/" + brokenID + "/cancel", "", 200, soulbox.BuildID(brokenID)},
		{"template-versions", "GET", one + "/versions", "", 200, nil},
		{"template-diff", "GET", one + "/versions/1.0.0/diff/default", "", 200, []soulbox.TemplateRef{ref("", "1.0.0"), ref("default", "")}},
		{"", "GET", one + "/versions/^1/diff/" + buildID, "", 200, []soulbox.TemplateRef{ref("", "^1"), ref(buildID, "")}},
		{"template-deprecated", "PUT", one + "/versions/:1.4/deprecation", `{"reason":"use 2"}`, 200, []any{ref("1.4", ""), "use 2"}},
		{"template-version", "DELETE", one + "/versions/1.4/deprecation", "", 200, []any{ref("", "1.4"), ""}},
		{"template-version", "POST", one + "/promote", `{"to":"1.4.0"}`, 200, []any{ref("", "1.4.0"), "default"}},
		{"", "POST", one + "/promote", `{"to":"next","tag":"Stable"}`, 200, []any{ref("next", ""), "stable"}},
		{"template-version", "POST", one + "/rollback", "", 200, ref("", "")},
		{"", "POST", one + "/rollback", `{"to":"` + olderID + `"}`, 200, ref(olderID, "")},
		{"template-tags", "GET", one + "/tags", "", 200, nil},
		{"", "DELETE", one + "/tags/Old", "", 204, []string{"old"}},
		{"template-facts", "GET", one + "/facts", "", 200, ref("", "")},
		{"", "GET", one + "/facts?at=^1", "", 200, ref("", "^1")},
		{"", "GET", one + "/sbom?at=next", "", 200, ref("next", "")},
		{"categories", "GET", "/v1/categories", "", 200, soulbox.TeamID("ours")},
		{"", "PUT", one + "/readme", "# é\n\n\ttext\n", 204, soulbox.ListingChange{Readme: new("# é\n\n\ttext\n")}},
		{"", "PUT", one + "/readme", "", 204, soulbox.ListingChange{Readme: new("")}},
		{"template-listed", "POST", one + "/publish", "", 200, true},
		{"template-listed", "POST", one + "/unpublish", "", 200, false},
		{"template-listed", "PUT", one + "/rating", `{"stars":5}`, 200, 5},
		{"template-listed", "DELETE", one + "/rating", "", 200, 0},
		{"", "POST", one + "/report", `{"reason":" it mines\ncoins "}`, 204, "it mines\ncoins"},
		{"template-forked", "POST", one + "/fork", "", 201, []any{ref("", ""), ""}},
		{"", "POST", one + "/fork", `{"name":"Other","at":"1.4"}`, 201, []any{ref("", "1.4"), "other"}},
	} {
		t.Run(tt.verb+" "+tt.path, func(t *testing.T) {
			s := &shelf{}
			res := ask(newTemplateAPI(t, s), tt.verb, tt.path, tt.body, "ours")
			if res.Code != tt.code {
				t.Fatalf("%d %s, want %d", res.Code, res.Body, tt.code)
			}
			if diff := cmp.Diff(tt.asked, s.asked); diff != "" {
				t.Errorf("the register was asked (-want +got):\n%s", diff)
			}
			if tt.name != "" {
				golden(t, tt.name, res.Body.Bytes())
			}
		})
	}
}

func TestReadme(t *testing.T) {
	h := newTemplateAPI(t, &shelf{})
	res := ask(h, "GET", "/v1/templates/mine/readme", "", "ours")
	if res.Code != 200 || res.Body.String() != "# Mine\n<script>" || res.Header().Get("Content-Type") != "text/markdown; charset=utf-8" ||
		res.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(res.Header().Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("%d %v %s", res.Code, res.Header(), res.Body)
	}
	wantFailure(t, ask(h, "GET", "/v1/templates/open/readme", "", "theirs"), 404, "has no readme")
}

func TestExport(t *testing.T) {
	const path = "/v1/templates/open/export?at=1.4"
	wantFailure(t, ask(newTemplateAPI(t, &shelf{}), "GET", path, "", "theirs"), 503, "cannot export")
	s := &shelf{exported: func(w io.Writer) error {
		_, err := io.WriteString(w, "a tar")
		return err
	}}
	res := ask(newTemplateAPI(t, s), "GET", path, "", "theirs")
	if res.Code != 200 || res.Body.String() != "a tar" || res.Header().Get("Content-Type") != "application/x-tar" || res.Header().Get("Content-Disposition") != `attachment; filename="open.tar"` {
		t.Errorf("%d %v %s", res.Code, res.Header(), res.Body)
	}
	if diff := cmp.Diff(soulbox.TemplateRef{Name: "tpl2", Versions: version(t, "1.4")}, s.asked); diff != "" {
		t.Errorf("exported (-want +got):\n%s", diff)
	}
	s.exported = func(io.Writer) error { return soulbox.Errorf(soulbox.Conflict, "it is being built") }
	res = ask(newTemplateAPI(t, s), "GET", path, "", "theirs")
	wantFailure(t, res, 409, "being built")
	if res.Header().Get("Content-Disposition") != "" {
		t.Errorf("an error is sent as a file: %v", res.Header())
	}
}

// TestExportBreaks lets an export fail half way, on a real connection: the client
// must not take what it has for all.
func TestExportBreaks(t *testing.T) {
	s := &shelf{exported: func(w io.Writer) error {
		_, err := w.Write(make([]byte, 1<<20))
		return errors.Join(err, errors.New("the disk is on fire"))
	}}
	server := httptest.NewServer(newTemplateAPI(t, s))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v1/templates/open/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", "theirs")
	res, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); res.StatusCode != http.StatusOK || err == nil {
		t.Errorf("status %d, %d bytes and then %v, want an error", res.StatusCode, n, err)
	}
}

func TestTemplateRefused(t *testing.T) {
	const one = "/v1/templates/mine"
	long := strings.Repeat("x", 3000)
	h := newTemplateAPI(t, &shelf{})
	for _, tt := range []struct {
		verb, path, body string
		code             int
		says             string
	}{
		{"GET", "/v1/templates?query=a", "", 400, `a search has no "query"`},
		{"GET", "/v1/templates?q=a&q=b", "", 400, "twice"},
		{"GET", "/v1/templates?q=" + long, "", 400, "at most 200 bytes"},
		{"GET", "/v1/templates?q=a%00b", "", 400, "printable"},
		{"GET", "/v1/templates?q=a%0Ab", "", 400, "printable"},
		{"GET", "/v1/templates?category=a+b", "", 400, "category"},
		{"GET", "/v1/templates?package=%ff", "", 400, "package"},
		{"GET", "/v1/templates?sort=best", "", 400, "relevance, stars, starts, updated or name"},
		{"GET", "/v1/templates?mine=perhaps", "", 400, "mine must be"},
		{"GET", "/v1/templates?limit=0", "", 400, "limit must be"},
		{"GET", "/v1/templates/a%20b", "", 400, "a name has"},
		{"GET", one + ":default", "", 400, "leave the tag or version out"},
		{"GET", one + "@1.4", "", 400, "leave the tag or version out"},
		{"PATCH", one, ``, 400, "needs a body"},
		{"PATCH", one, `{}`, 400, "nothing to change"},
		{"PATCH", one, `{"isolation":"docker"}`, 400, `the isolation is gvisor or runc, not "docker"`},
		{"PATCH", one, `{"isolation":7}`, 400, "isolation must be a string"},
		{"PATCH", one, `{"description":"a\nb"}`, 400, "description must be text"},
		{"PATCH", one, `{"description":"` + long + `"}`, 400, "at most 300 bytes"},
		{"PATCH", one, `{"licence":"<b>"}`, 400, "SPDX expression"},
		{"PATCH", one, `{"keywords":"a"}`, 400, "keywords must be an array"},
		{"PATCH", one, `{"keywords":["a b"]}`, 400, "keywords: a word"},
		{"PATCH", one, `{"categories":[""]}`, 400, "categories: a word"},
		{"PATCH", one, `{"categories":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17","18","19","20","21"]}`, 400, "at most 20"},
		{"GET", one + "/builds?state=done", "", 400, "waiting, building, ready or error"},
		{"GET", one + "/builds?limit=x", "", 400, "limit must be"},
		{"GET", one + "/builds/1", "", 400, "is not the id of a build"},
		{"GET", one + "/builds/22222222-3f5a-4a59-8c3e-0f5a1c2b3d4e", "", 404, "has no build"},
		{"GET", one + "/builds/1/log", "", 400, "is not the id of a build"},
		{"GET", one + "/builds/" + buildID + "/log?level=loud", "", 400, "debug, info, warn or error"},
		{"GET", one + "/builds/" + buildID + "/log?offset=-1", "", 400, "offset must be"},
		{"GET", one + "/builds/" + buildID + "/log?offset=x", "", 400, "offset must be"},
		{"GET", one + "/builds/" + buildID + "/log?limit=0", "", 400, "limit must be"},
		{"GET", one + "/builds/22222222-3f5a-4a59-8c3e-0f5a1c2b3d4e/log", "", 404, "has no build"},
		{"GET", one + "/builds/1/events", "", 400, "is not the id of a build"},
		{"GET", one + "/builds/22222222-3f5a-4a59-8c3e-0f5a1c2b3d4e/events", "", 404, "has no build"},
		{"GET", one + "/builds/" + buildID + "/events?last_event_id=x", "", 400, "last_event_id"},
		{"GET", one + "/builds/" + buildID + "/events?last_event_id=9", "", 400, "no line 9 yet"},
		{"GET", one + "/builds/" + buildID + "/events?last_event_id=18446744073709551615", "", 400, "no line"},
		{"GET", one + "/builds/" + buildID + "/events?last_event_id=9&follow=false", "", 400, "no line 9 yet"},
		{"GET", one + "/builds/" + buildID + "/events?follow=so", "", 400, "follow"},
		{"POST", one + "/builds/" + buildID + "/cancel", "", 409, "is ready already"},
		{"POST", one + "/builds/x/cancel", "", 400, "is not the id of a build"},
		{"GET", one + "/versions/a%20b/diff/1", "", 400, "is not a tag, a version or the id of a build"},
		{"GET", one + "/versions/1/diff/a%20b", "", 400, "is not a tag, a version or the id of a build"},
		{"PUT", one + "/versions/1/deprecation", ``, 400, "needs a body"},
		{"PUT", one + "/versions/1/deprecation", `{"reason":" "}`, 400, "reason is needed"},
		{"PUT", one + "/versions/1/deprecation", `{"reason":"` + long + `"}`, 400, "at most 2000 bytes"},
		{"PUT", one + "/versions/a%20b/deprecation", `{"reason":"x"}`, 400, "is not a tag"},
		{"DELETE", one + "/versions/a%20b/deprecation", ``, 400, "is not a tag"},
		{"POST", one + "/promote", ``, 400, "needs a body"},
		{"POST", one + "/promote", `{}`, 400, "to is needed"},
		{"POST", one + "/promote", `{"to":"a b"}`, 400, "is not a tag"},
		{"POST", one + "/promote", `{"to":"1","tag":"` + buildID + `"}`, 400, "could be the id of a build"},
		{"POST", one + "/promote", `{"to":"1","tag":"a b"}`, 400, "a tag has 1 to 128"},
		{"POST", one + "/rollback", `{"to":"a b"}`, 400, "is not a tag"},
		{"POST", one + "/rollback", `{"to":1}`, 400, "to must be a string"},
		{"DELETE", one + "/tags/a%20b", "", 400, "a tag has 1 to 128"},
		{"DELETE", one + "/tags/default", "", 400, "cannot be removed"},
		{"DELETE", one + "/tags/nosuch", "", 404, "tag 'nosuch' does not exist"},
		{"GET", one + "/facts?at=none", "", 404, "tag 'none' does not exist"},
		{"GET", one + "/facts?at=a+b", "", 400, "is not a tag"},
		{"GET", one + "/sbom?at=a+b", "", 400, "is not a tag"},
		{"GET", one + "/export?at=a+b", "", 400, "is not a tag"},
		{"PUT", one + "/readme", strings.Repeat("x", 256<<10+1), 413, "larger than 256 KiB"},
		{"PUT", one + "/readme", strings.Repeat("x", 2<<20), 413, "too large"},
		{"PUT", one + "/readme", "\xff", 400, "UTF-8"},
		{"PUT", one + "/readme", "a\x00", 400, "UTF-8"},
		{"PUT", one + "/rating", ``, 400, "needs a body"},
		{"PUT", one + "/rating", `{}`, 400, "from 1 to 5"},
		{"PUT", one + "/rating", `{"stars":6}`, 400, "from 1 to 5"},
		{"PUT", one + "/rating", `{"stars":4.5}`, 400, "stars must be an integer"},
		{"POST", one + "/report", `{}`, 400, "reason is needed"},
		{"POST", one + "/report", `{"reason":"\u0000"}`, 400, "printable"},
		{"POST", one + "/fork", `{"name":"a b"}`, 400, "a name has"},
		{"POST", one + "/fork", `{"name":"a:b"}`, 400, "plain name"},
		{"POST", one + "/fork", `{"name":"a/b"}`, 400, "plain name"},
		{"POST", one + "/fork", `{"at":"a b"}`, 400, "is not a tag"},
		{"DELETE", "/v1/templates/a%2Fb%2Fc", "", 400, "a name has"},
		{"POST", "/v1/templates/import", "tar", 400, "a name has 1 to 128"},
		{"POST", "/v1/templates/import?name=a/b", "tar", 400, "without namespace, tag and version"},
		{"POST", "/v1/templates/import?name=a:b", "tar", 400, "without namespace, tag and version"},
		{"POST", "/v1/templates/import?name=a@1", "tar", 400, "without namespace, tag and version"},
		{"POST", "/v1/templates/import?name=a&isolation=docker", "tar", 400, `the isolation is gvisor or runc, not "docker"`},
		{"POST", "/v1/templates/import?name=a", "", 400, "needs image=NAME or a tar"},
		{"POST", "/v1/templates/import?name=a&image=debian", "tar", 400, "not both"},
		{"POST", "/v1/templates/import?name=a&image=" + strings.Repeat("x", 513), "", 400, "image must not be longer"},
		{"DELETE", one + "/publish", "", 405, "not possible here"},
	} {
		t.Run(tt.verb+" "+tt.path[:min(len(tt.path), 60)]+" "+tt.body[:min(len(tt.body), 30)], func(t *testing.T) {
			wantFailure(t, ask(h, tt.verb, tt.path, tt.body, "ours"), tt.code, tt.says)
		})
	}
}

// fill puts a template, and what is good otherwise, into the path of a row.
func fill(path, template string) string {
	build := buildID
	if strings.HasSuffix(path, "/cancel") {
		build = brokenID // the other one is over
	}
	return strings.NewReplacer("{template}", template, "{build}", build, "{version}", "1.4", "{a}", "1", "{b}", "1.4", "{tag}", "old").Replace(path)
}

// TestTemplateReaders asks for every row as everybody who might: whoever owns a
// private and a public template, another team, and somebody without a key. To
// another team the private one must be like one that does not exist, in status, header and
// body.
func TestTemplateReaders(t *testing.T) {
	// What another team may do with a public template.
	open := map[string]bool{
		"GET /v1/templates/{template}": true, "GET /v1/templates/{template}/builds": true, "GET /v1/templates/{template}/builds/{build}": true, "GET /v1/templates/{template}/versions/{a}/diff/{b}": true, "GET /v1/templates/{template}/versions": true, "GET /v1/templates/{template}/tags": true,
		"GET /v1/templates/{template}/facts": true, "GET /v1/templates/{template}/sbom": true, "GET /v1/templates/{template}/export": true, "GET /v1/templates/{template}/readme": true,
		"PUT /v1/templates/{template}/rating": true, "DELETE /v1/templates/{template}/rating": true, "POST /v1/templates/{template}/report": true, "POST /v1/templates/{template}/fork": true,
	}
	bodies := map[string]string{
		"PATCH /v1/templates/{template}": `{"description":"x"}`, "PUT /v1/templates/{template}/versions/{version}/deprecation": `{"reason":"x"}`,
		"POST /v1/templates/{template}/promote": `{"to":"1.4"}`, "PUT /v1/templates/{template}/rating": `{"stars":4}`, "POST /v1/templates/{template}/report": `{"reason":"x"}`,
		"POST /v1/templates/validate": `{"dockerfile":"FROM x"}`,
	}
	queries := map[string]string{"POST /v1/templates/import": "?name=new"}
	export := func(w io.Writer) error {
		_, err := io.WriteString(w, "a tar")
		return err
	}
	seen := 0
	for _, row := range native.TemplateRoutes(nil, nil) {
		name := row.String()
		t.Run(name, func(t *testing.T) {
			as := func(key, template string) *httptest.ResponseRecorder {
				body := bodies[name]
				if row.Upload {
					body = tarOf(t, "Dockerfile", dockerfile)
				}
				return ask(newTemplateAPI(t, &shelf{exported: export}), row.Verb, fill(row.Path, template)+queries[name], body, key)
			}
			for key, says := range map[string]string{"": "is needed", "wrong": "not valid"} {
				wantFailure(t, as(key, "mine"), 401, says)
			}
			if res := as("ours", "mine"); res.Code >= 400 {
				t.Errorf("its owner: %d %s", res.Code, res.Body)
			}
			if !strings.Contains(row.Path, "{template}") || row.Upload {
				return // it makes what it names, in the team's own namespace
			}
			seen++
			if res := as("ours", "open"); res.Code >= 400 && (name != "GET /v1/templates/{template}/readme" || res.Code != 404) {
				t.Errorf("the owner of a public one: %d %s", res.Code, res.Body)
			}
			hidden, absent := as("theirs", "mine"), as("theirs", "none")
			wantFailure(t, hidden, 404, "template 'mine' not found")
			if strings.ReplaceAll(hidden.Body.String(), "mine", "none") != absent.Body.String() || hidden.Code != absent.Code {
				t.Errorf("a private one: %d %s\none that does not exist: %d %s", hidden.Code, hidden.Body, absent.Code, absent.Body)
			}
			for _, h := range []http.Header{hidden.Header(), absent.Header()} {
				h.Del("X-Request-Id")
			}
			if diff := cmp.Diff(absent.Header(), hidden.Header()); diff != "" {
				t.Errorf("the headers differ: %s", diff)
			}
			switch res := as("theirs", "open"); {
			case name == "GET /v1/templates/{template}/readme":
				wantFailure(t, res, 404, "has no readme")
			case open[name] && res.Code >= 400:
				t.Errorf("another team, of a public one: %d %s", res.Code, res.Body)
			case !open[name]:
				wantFailure(t, res, 403, "belongs to another team")
			}
		})
	}
	if seen < len(open) {
		t.Errorf("%d rows were asked for", seen)
	}
	// Lists leave out what the reader may not see.
	for _, query := range []string{"", "?q=mine"} {
		res := ask(newTemplateAPI(t, &shelf{}), "GET", "/v1/templates"+query, "", "theirs")
		if body := res.Body.String(); !strings.Contains(body, `"open"`) || strings.Contains(body, `"mine"`) && query == "" || strings.Contains(body, "tpl1") {
			t.Errorf("GET /v1/templates%s: %s", query, body)
		}
	}
}

// TestNothingSecret looks for what must not be told to those who do not own a template.
func TestNothingSecret(t *testing.T) {
	for _, path := range []string{"", "/builds", "/versions", "/versions/1/diff/1.4", "/tags", "/facts", "/sbom"} {
		res := ask(newTemplateAPI(t, &shelf{}), "GET", "/v1/templates/open"+path, "", "theirs")
		for _, word := range []string{"RUN", "dockerfile", "must not show", "curl localhost", "context of", firstID} {
			if strings.Contains(res.Body.String(), word) {
				t.Errorf("GET …%s tells a stranger %q: %s", path, word, res.Body)
			}
		}
	}
	// Nor does anybody see what is only in the server's own books.
	for _, path := range slices.Collect(maps.Keys(map[string]bool{"/builds": true, "/builds/" + buildID: true, "/versions": true})) {
		res := ask(newTemplateAPI(t, &shelf{}), "GET", "/v1/templates/mine"+path, "", "ours")
		if strings.Contains(res.Body.String(), "must not show") {
			t.Errorf("GET …%s: %s", path, res.Body)
		}
	}
}

// FuzzVersionReference reads what people write for a version. What is taken must
// be one thing and only one.
func FuzzVersionReference(f *testing.F) {
	for _, s := range []string{"", "1", "1.4", "^1", ":1.4", "default", buildID, "a/b", "a:b", "a@1", "@1", "1.4.2.1", "..", "\x00"} {
		f.Add(s)
	}
	s := &shelf{}
	h := newTemplateAPI(f, s)
	f.Fuzz(func(t *testing.T, at string) {
		s.asked = nil
		r := httptest.NewRequest(http.MethodGet, "/v1/templates/mine/facts", nil)
		r.URL.RawQuery = "at=" + strings.NewReplacer("%", "%25", "&", "%26", "+", "%2B", ";", "%3B").Replace(at)
		r.Header.Set("X-API-KEY", "ours")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		ref, asked := s.asked.(soulbox.TemplateRef)
		switch {
		case w.Code == 400 && !asked:
		case w.Code == 404 && ref.Tag == "none":
		case w.Code != 200 || ref.Name != "tpl1" || ref.Tag != "" && ref.Versions.String() != "" || at != "" && ref.Tag == "" && ref.Versions.String() == "":
			t.Errorf("at=%q: %d, asked for %+v", at, w.Code, s.asked)
		}
	})
}
