package e2b_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestListFilters(t *testing.T) {
	running := []soulbox.State{soulbox.Running, soulbox.Pausing, soulbox.Resuming}
	base := soulbox.SandboxFilter{Team: "ours", States: append(slices.Clone(running), soulbox.Paused), Limit: 100}
	for _, tt := range []struct {
		query string
		want  func(*soulbox.SandboxFilter)
	}{
		{"", func(*soulbox.SandboxFilter) {}},
		{"state=running", func(f *soulbox.SandboxFilter) { f.States = running }},
		{"state=paused", func(f *soulbox.SandboxFilter) { f.States = []soulbox.State{soulbox.Paused} }},
		{"state=running,paused", func(*soulbox.SandboxFilter) {}},
		{"state=paused&state=running", func(*soulbox.SandboxFilter) {}},
		{"state=running&order=asc&limit=2&nextToken=abc", func(f *soulbox.SandboxFilter) {
			f.States, f.Ascending, f.Limit, f.Cursor = running, true, 2, "abc"
		}},
		{"order=desc", func(*soulbox.SandboxFilter) {}},
		{"startedAfter=2026-03-04T05:06:07.891Z", func(f *soulbox.SandboxFilter) {
			f.StartedAfter = time.Date(2026, 3, 4, 5, 6, 7, 891e6, time.UTC)
		}},
		{"startedAfter=2026-03-04T07:06:07.891234%2B02:00", func(f *soulbox.SandboxFilter) {
			f.StartedAfter = time.Date(2026, 3, 4, 5, 6, 7, 891234e3, time.UTC)
		}},
		{"startedAfter=2026-03-04T07:06:07+02:00", func(f *soulbox.SandboxFilter) {
			f.StartedAfter = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
		}},
		{"template=BASE", func(f *soulbox.SandboxFilter) { f.Template = "tpl1" }},
		{"template=our-team/mine", func(f *soulbox.SandboxFilter) { f.Template = "tpl2" }},
		{"metadata=user%3Dada%26app%3Dprod", func(f *soulbox.SandboxFilter) {
			f.Metadata = map[string]string{"user": "ada", "app": "prod"}
		}},
		// What the JavaScript SDK sends for {"a b": "x&y=z+1%"}.
		{"metadata=a%252520b%3Dx%252526y%25253Dz%25252B1%252525", func(f *soulbox.SandboxFilter) {
			f.Metadata = map[string]string{"a b": "x&y=z+1%"}
		}},
		// The same escaped once less, as by hand.
		{"metadata=a%2520b%3Dx%2526y%253Dz%252B1", func(f *soulbox.SandboxFilter) {
			f.Metadata = map[string]string{"a b": "x&y=z+1"}
		}},
		{"metadata=a%3D100%2525", func(f *soulbox.SandboxFilter) { f.Metadata = map[string]string{"a": "100%"} }},
	} {
		w := &world{}
		res := ask(newAPI(t, w, ""), "GET", "/v2/sandboxes?"+tt.query, "")
		want := base
		tt.want(&want)
		if res.Code != 200 {
			t.Errorf("%s: %d %s", tt.query, res.Code, res.Body)
		} else if diff := cmp.Diff(any(want), w.asked); diff != "" {
			t.Errorf("%s: the fleet was asked (-want +got):\n%s", tt.query, diff)
		}
	}
}

func TestListHeaders(t *testing.T) {
	for _, tt := range []struct {
		query, total, next, body string
		lists                    int
	}{
		{"", "2", "", "", 1}, // those on the page, which is all there is
		{"limit=2", "7", "more", "", 2},
		{"nextToken=abc", "7", "", "", 2},
		{"state=running", "7", "", "", 1},
		{"state=running&limit=2", "7", "more", "", 1},
		{"state=paused", "", "", "", 1},
		{"template=unknown", "0", "", "[]", 0},
		{"template=unknown&state=paused", "", "", "[]", 0},
		{"template=private", "0", "", "[]", 0},
	} {
		w := &world{}
		res := ask(newAPI(t, w, ""), "GET", "/v2/sandboxes?"+tt.query, "")
		if total, next := res.Header().Get("X-Total-Running"), res.Header().Get("X-Next-Token"); total != tt.total || next != tt.next {
			t.Errorf("%s: X-Total-Running %q, X-Next-Token %q, want %q and %q", tt.query, total, next, tt.total, tt.next)
		}
		if w.lists != tt.lists {
			t.Errorf("%s: the fleet was asked for %d lists, want %d", tt.query, w.lists, tt.lists)
		}
		if tt.body != "" && (strings.TrimSpace(res.Body.String()) != tt.body || w.asked != nil) {
			t.Errorf("%s: %s after asking the fleet for %v, want %s at once", tt.query, res.Body, w.asked, tt.body)
		}
	}
}

func TestTemplatePages(t *testing.T) {
	h := newAPI(t, &world{}, "")
	var ids []string
	token := ""
	for range 5 {
		res := ask(h, "GET", "/v2/templates?limit=1&nextToken="+token, "")
		ids = append(ids, strings.SplitN(res.Body.String(), `"`, 5)[3])
		if token = res.Header().Get("X-Next-Token"); token == "" {
			break
		}
	}
	if want := []string{"tpl1", "tpl2", "tpl5"}; !cmp.Equal(ids, want) {
		t.Errorf("pages of one: %v, want %v", ids, want)
	}
}

// FuzzMetadata sends pairs the way the SDKs do, which must come out as they
// went in, and the raw text, which must not break anything.
func FuzzMetadata(f *testing.F) {
	f.Add("user", "ada", "app", "prod")
	f.Add("a b", "x&y=z+1%", "ключ", "值")
	f.Add("%41", "%2541", "+", "%zz")
	w := &world{}
	h := newAPI(f, w, "")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		if k1 == "" || k2 == "" || k1 == k2 {
			return
		}
		once := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
		inner := url.Values{once(k1): {once(v1)}, once(k2): {once(v2)}}.Encode()
		res := ask(h, "GET", "/v2/sandboxes?"+url.Values{"metadata": {inner}}.Encode(), "")
		got, _ := w.asked.(soulbox.SandboxFilter)
		if want := map[string]string{k1: v1, k2: v2}; res.Code != 200 || !cmp.Equal(got.Metadata, want) {
			t.Errorf("%q: %d, metadata %q, want %q", inner, res.Code, got.Metadata, want)
		}
		raw := ask(h, "GET", "/v2/sandboxes?"+url.Values{"metadata": {k1 + v1 + k2 + v2}}.Encode(), "")
		if raw.Code != 200 && raw.Code != 400 {
			t.Errorf("%q: %d %s", k1+v1+k2+v2, raw.Code, raw.Body)
		}
	})
}
