package e2b_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

func TestCreate(t *testing.T) {
	for _, tt := range []struct {
		name, path, body string
		want             func(*soulbox.CreateRequest)
	}{
		{
			"all that we can do", "/sandboxes",
			`{"templateID":"Our-Team/Base:V1","timeout":60,"secure":true,"allow_internet_access":false,
			  "metadata":{"a":"1"},"envVars":{"PATH":"/bin","EMPTY":""}}`,
			func(r *soulbox.CreateRequest) {
				r.Template = soulbox.TemplateRef{Namespace: "our-team", Name: "base", Tag: "v1"}
				r.Timeout = time.Minute
				r.Secure = true
				r.Network.Internet = false
				r.Metadata = map[string]string{"a": "1"}
				r.Env = map[string]string{"PATH": "/bin", "EMPTY": ""}
			},
		},
		{
			// The defaults, all of them said aloud.
			"defaults", "/sandboxes",
			`{"templateID":"base","timeout":15,"secure":false,"allow_internet_access":true,"metadata":{},"envVars":null,
			  "autoPause":false,"autoPauseMemory":true,"autoResume":{"enabled":false},"mcp":null,"iam":{"tokens":{}},"volumeMounts":[],
			  "network":{"allowOut":[],"denyOut":[],"dnsServers":[],"egressProxy":null,"rules":{},"allowPublicTraffic":true,"httpsPorts":[]}}`,
			func(*soulbox.CreateRequest) {},
		},
		{
			"secure by default in v2", "/v2/sandboxes", `{"templateID":"base","mcp":{},"network":null,"autoResume":null}`,
			func(r *soulbox.CreateRequest) { r.Timeout, r.Secure = 5*time.Minute, true },
		},
		{
			"paused when its time is up", "/v2/sandboxes", `{"templateID":"base","autoPause":true,"autoPauseMemory":false,"autoResume":{"enabled":false}}`,
			func(r *soulbox.CreateRequest) {
				r.Timeout, r.Secure, r.Lifecycle = 5*time.Minute, true, soulbox.Lifecycle{Pause: true, FilesOnly: true}
			},
		},
		{
			"woken by traffic", "/v2/sandboxes", `{"templateID":"base","autoPause":true,"autoPauseMemory":true,"autoResume":{"enabled":true}}`,
			func(r *soulbox.CreateRequest) {
				r.Timeout, r.Secure, r.Lifecycle = 5*time.Minute, true, soulbox.Lifecycle{Pause: true, Wake: true}
			},
		},
		{
			"woken by traffic once somebody has paused it", "/v2/sandboxes", `{"templateID":"base","autoResume":{"enabled":true}}`,
			func(r *soulbox.CreateRequest) {
				r.Timeout, r.Secure, r.Lifecycle = 5*time.Minute, true, soulbox.Lifecycle{Wake: true}
			},
		},
		{
			"deny all", "/v2/sandboxes", `{"templateID":"base","allow_internet_access":true,"network":{"denyOut":["0.0.0.0/0"]}}`,
			func(r *soulbox.CreateRequest) { r.Timeout, r.Secure, r.Network.Internet = 5*time.Minute, true, false },
		},
		{
			"private", "/v2/sandboxes", `{"templateID":"base","network":{"allowPublicTraffic":false}}`,
			func(r *soulbox.CreateRequest) { r.Timeout, r.Secure, r.Network.Private = 5*time.Minute, true, true },
		},
		{
			"private in v1", "/sandboxes", `{"templateID":"base","secure":true,"network":{"allowPublicTraffic":false,"denyOut":["0.0.0.0/0"]}}`,
			func(r *soulbox.CreateRequest) { r.Secure, r.Network = true, soulbox.Network{Private: true} },
		},
		{
			"allow all", "/sandboxes", `{"templateID":"base","network":{"allowOut":["0.0.0.0/0"]}}`,
			func(*soulbox.CreateRequest) {},
		},
		{
			"unknown fields", "/sandboxes", `{"templateID":"base","shiny":{"new":[1]}}`,
			func(*soulbox.CreateRequest) {},
		},
	} {
		w := &world{}
		res := ask(newAPI(t, w, ""), "POST", tt.path, tt.body)
		if res.Code != 201 {
			t.Errorf("%s: %d %s, want 201", tt.name, res.Code, res.Body)
			continue
		}
		want := soulbox.CreateRequest{
			Team: "ours", Template: soulbox.TemplateRef{Name: "base"}, Timeout: 15 * time.Second, Network: soulbox.Network{Internet: true},
		}
		tt.want(&want)
		if diff := cmp.Diff(any(want), w.asked, inside); diff != "" {
			t.Errorf("%s: the fleet was asked (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	for _, path := range []string{"/sandboxes", "/v2/sandboxes"} {
		for _, tt := range []struct{ body, msg string }{
			{``, "needs a body"},
			{`{}`, "templateID is needed"},
			{`{"templateID":7}`, "templateID must be a string"},
			{`{"templateID":"../../etc"}`, "the namespace may hold"},
			{`{"templateID":"a b"}`, "a name has 1 to 128"},
			{`{"templateID":"base:"}`, "the tag may hold"},
			{`{"templateID":"` + strings.Repeat("t", 129) + `"}`, "a name has 1 to 128"},
			{`{"templateID":"base","timeout":0}`, "timeout must be at least 1 second"},
			{`{"templateID":"base","timeout":-1}`, "timeout must be at least 1 second"},
			{`{"templateID":"base","timeout":2147483648}`, "timeout must be an integer below 2^31"},
			{`{"templateID":"base","timeout":1.5}`, "timeout must be an integer"},
			{`{"templateID":"base","timeout":"60"}`, "timeout must be an integer"},
			{`{"templateID":"base","secure":1}`, "secure must be true or false"},
			{`{"templateID":"base","metadata":[]}`, "metadata must be an object"},
			{`{"templateID":"base","metadata":{"a":1}}`, "must be a string, not number"},
			{`{"templateID":"base","metadata":{"a":null}}`, `metadata: the value of "a" must be a string, not null`},
			{`{"templateID":"base","metadata":{"":"x"}}`, "metadata: a key must not be empty"},
			{`{"templateID":"base","metadata":{"a\u0000":"x"}}`, "must not hold NUL"},
			{`{"templateID":"base","metadata":{"a":"\u0000"}}`, "must not hold NUL"},
			{`{"templateID":"base","metadata":{"a":"` + long + `"}}`, "metadata must not be larger than 64 KiB"},
			{`{"templateID":"base","envVars":{"":"x"}}`, "envVars: a key must not be empty"},
			{`{"templateID":"base","envVars":{"A=B":"x"}}`, `must not hold "=" or NUL`},
			{`{"templateID":"base","envVars":{"A":"\u0000"}}`, "must not hold NUL"},
			{`{"templateID":"base","envVars":{"` + long + `":"x"}}`, "envVars must not be larger than 64 KiB"},
			{`{"templateID":"base","templateID":"other"}`, "in the body twice"},

			{`{"templateID":"base","autoPause":1}`, "autoPause must be true or false"},
			{`{"templateID":"base","autoPauseMemory":false}`, "autoPauseMemory may be false only where autoPause is true"},
			{`{"templateID":"base","autoPause":false,"autoPauseMemory":false}`, "autoPauseMemory may be false only where autoPause is true"},
			{`{"templateID":"base","autoPause":true,"autoPauseMemory":false,"autoResume":{"enabled":true}}`, "exclude each other"},
			{`{"templateID":"base","autoResume":true}`, "autoResume must be an object"},
			{`{"templateID":"base","mcp":{"browserbase":{}}}`, "mcp"},
			{`{"templateID":"base","iam":{"tokens":{"a":{"audience":"x","tokenType":"JWT-SVID"}}}}`, "iam"},
			{`{"templateID":"base","volumeMounts":[{"name":"a","path":"/a"}]}`, "volumeMounts"},
			{`{"templateID":"base","network":{"allowOut":["example.com"]}}`, "network.allowOut"},
			{`{"templateID":"base","network":{"denyOut":["0.0.0.0/0","::/0"]}}`, "network.denyOut"},
			{`{"templateID":"base","network":{"denyOut":["1.2.3.4"]}}`, "network.denyOut"},
			{`{"templateID":"base","network":{"dnsServers":["8.8.8.8"]}}`, "network.dnsServers"},
			{`{"templateID":"base","network":{"egressProxy":{"address":"a:1"}}}`, "network.egressProxy"},
			{`{"templateID":"base","network":{"rules":{"a.com":[]}}}`, "network.rules"},
			{`{"templateID":"base","network":{"allowPublicTraffic":0}}`, "allowPublicTraffic must be true or false"},
			{`{"templateID":"base","network":{"maskRequestHost":"localhost"}}`, "network.maskRequestHost"},
			{`{"templateID":"base","network":{"httpsPorts":[443]}}`, "network.httpsPorts"},
			{`{"templateID":"base","network":{"allowOut":["0.0.0.0/0"],"denyOut":["0.0.0.0/0"]}}`, "both allowed and denied"},
			{`{"templateID":"base","allow_internet_access":false,"network":{"allowOut":["0.0.0.0/0"]}}`, "both allowed and denied"},
			{`{"templateID":"base","network":[]}`, "network must be an object"},
		} {
			w := &world{}
			res := ask(newAPI(t, w, ""), "POST", path, tt.body)
			t.Run(path+" "+clip(tt.body), func(t *testing.T) {
				wantFailure(t, res, 400, tt.msg)
				if w.asked != nil {
					t.Errorf("the fleet was asked for %+v", w.asked)
				}
			})
		}
	}
	w := &world{}
	wantFailure(t, ask(newAPI(t, w, ""), "POST", "/v2/sandboxes", `{"templateID":"base","secure":false}`), 400, "always secured")
	for _, secure := range []string{"", `"secure":false,`} {
		wantFailure(t, ask(newAPI(t, w, ""), "POST", "/sandboxes", `{"templateID":"base",`+secure+`"network":{"allowPublicTraffic":false}}`), 400, "only where secure is true")
	}
	wantFailure(t, ask(newAPI(t, w, ""), "PUT", "/sandboxes/"+ourBox+"/network", `{"allowPublicTraffic":false}`), 400, "is said when it is created")
	if w.asked != nil {
		t.Errorf("the fleet was asked for %+v", w.asked)
	}
	wantFailure(t, ask(newAPI(t, w, ""), "POST", "/v2/sandboxes", `{"templateID":"base","metadata":{"a":"`+strings.Repeat("x", 2<<20)+`"}}`), 413, "too large")
	wantFailure(t, ask(newAPI(t, w, ""), "POST", "/sandboxes", `templateID=base`, "Content-Type", "application/x-www-form-urlencoded"), 400, "application/json")
}

func FuzzCreate(f *testing.F) {
	for _, s := range []string{
		`{"templateID":"base"}`,
		`{"templateID":"a/b:c","timeout":60,"secure":true,"metadata":{"a":"b"},"envVars":{"A":"b"}}`,
		`{"templateID":"base","network":{"denyOut":["0.0.0.0/0"]},"allow_internet_access":true}`,
		`{"templateID":"base","autoPause":false,"autoResume":{"enabled":false},"mcp":{},"iam":{},"volumeMounts":[]}`,
		`{"templateID":"base","autoPause":true,"autoPauseMemory":false,"autoResume":{"enabled":true}}`,
		`{"templateID":"base","timeout":-1}`,
		`{"templateID":"base","envVars":{"A=":"\u0000"}}`,
		`{"templateID":"base","secure":true,"network":{"allowPublicTraffic":false}}`,
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	w := &world{}
	h := newAPI(f, w, "")
	f.Fuzz(func(t *testing.T, body string, v2 bool) {
		w.asked = nil
		path := "/sandboxes"
		if v2 {
			path = "/v2/sandboxes"
		}
		res := ask(h, "POST", path, body)
		if res.Code != 201 {
			if w.asked != nil || res.Code != 400 && res.Code != 413 {
				t.Fatalf("%q: %d %s after asking for %+v", body, res.Code, res.Body, w.asked)
			}
			return
		}
		req := w.asked.(soulbox.CreateRequest)
		if req.Team != "ours" || req.Timeout < time.Second || req.Timeout > 1<<31*time.Second || (v2 || req.Network.Private) && !req.Secure {
			t.Errorf("%q became %+v", body, req)
		}
		if again, err := soulbox.ParseTemplateRef(req.Template.String()); err != nil || again != req.Template {
			t.Errorf("%q: template %+v reads back as %+v, %v", body, req.Template, again, err)
		}
		for _, m := range []map[string]string{req.Metadata, req.Env} {
			size := 0
			for k, v := range m {
				size += len(k) + len(v)
				if k == "" || strings.ContainsRune(k+v, 0) {
					t.Errorf("%q: pair %q=%q", body, k, v)
				}
			}
			if size > 64<<10 {
				t.Errorf("%d bytes of pairs", size)
			}
		}
		for k := range req.Env {
			if strings.Contains(k, "=") {
				t.Errorf("%q: variable %q", body, k)
			}
		}
		var said struct {
			AutoPause bool `json:"autoPause"`
		}
		if err := json.Unmarshal([]byte(body), &said); err != nil || said.AutoPause != req.Lifecycle.Pause {
			t.Errorf("%q became %+v: %v", body, req.Lifecycle, err)
		}
		if l := req.Lifecycle; l.FilesOnly && (!l.Pause || l.Wake) {
			t.Errorf("%q became %+v", body, l)
		}
	})
}

// FuzzSnapshotName names snapshots. What is taken must find the snapshot when
// it stands where a template's name stands, and not be taken for an id.
func FuzzSnapshotName(f *testing.F) {
	for _, s := range []string{"", "a", "Our-Team/a:default", "a:v1", "theirs/a", snapID, "a/b/c", "é"} {
		f.Add(s)
	}
	w := &world{}
	h := newAPI(f, w, "")
	f.Fuzz(func(t *testing.T, name string) {
		w.asked = nil
		body, err := json.Marshal(map[string]string{"name": name})
		if err != nil {
			t.Fatal(err)
		}
		res := ask(h, "POST", "/sandboxes/"+ourBox+"/snapshots", string(body))
		if res.Code != 201 {
			if res.Code != 400 && res.Code != 413 || w.asked != nil {
				t.Errorf("%q: %d %s after asking for %v", name, res.Code, res.Body, w.asked)
			}
			return
		}
		got := w.asked.(string)
		ref, err := soulbox.ParseTemplateRef(got)
		if got == "" && name == "" {
			return
		}
		if err != nil || ref != (soulbox.TemplateRef{Name: got}) || soulbox.SnapshotID(got).Valid() {
			t.Errorf("%q became %q: %v", name, got, err)
		}
	})
}
