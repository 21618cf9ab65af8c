package e2b_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
	"github.com/soulbox/soulbox/api"
	"github.com/soulbox/soulbox/api/e2b"
)

// TestAnswers asks every row of the table that works, and compares the answer
// with the one on file, or none where there should be none.
func TestAnswers(t *testing.T) {
	const box, cold = "/sandboxes/" + ourBox, "/sandboxes/" + coldBox
	running := []soulbox.State{soulbox.Running, soulbox.Pausing, soulbox.Resuming}
	anyState := append(slices.Clone(running), soulbox.Paused)
	ready := []soulbox.BuildState{soulbox.BuildReady}
	tests := []struct {
		name, verb, path, body string
		code                   int
		asked                  any // what reached the rooms behind; nil: not looked at
	}{
		{"health", "GET", "/health", "", 204, nil},
		{"create-v1", "POST", "/sandboxes", `{"templateID":"base"}`, 201, soulbox.CreateRequest{
			Team: "ours", Template: soulbox.TemplateRef{Name: "base"}, Timeout: 15 * time.Second, Network: soulbox.Network{Internet: true},
		}},
		{"create-v2", "POST", "/v2/sandboxes", `{"templateID":"base"}`, 201, soulbox.CreateRequest{
			Team: "ours", Template: soulbox.TemplateRef{Name: "base"}, Timeout: 5 * time.Minute, Network: soulbox.Network{Internet: true}, Secure: true,
		}},
		{"create-pausing", "POST", "/v2/sandboxes", `{"templateID":"s0snapshot00000000000","autoPause":true,"autoResume":{"enabled":true}}`, 201, soulbox.CreateRequest{
			Team: "ours", Template: soulbox.TemplateRef{Name: snapID}, Timeout: 5 * time.Minute, Network: soulbox.Network{Internet: true}, Secure: true,
			Lifecycle: soulbox.Lifecycle{Pause: true, Wake: true},
		}},
		{"list-v1", "GET", "/sandboxes", "", 200, soulbox.SandboxFilter{Team: "ours", States: running}},
		{"list-v2", "GET", "/v2/sandboxes", "", 200, soulbox.SandboxFilter{Team: "ours", States: anyState, Limit: 100}},
		{"detail", "GET", box, "", 200, nil},
		{"detail-plain", "GET", "/sandboxes/" + plainBox, "", 200, nil},
		{"detail-legacy-id", "GET", box + "-6532622b", "", 200, nil},
		{"detail-paused", "GET", cold, "", 200, nil},
		{"detail-private", "GET", "/sandboxes/" + shutBox, "", 200, nil},
		{"connect-private", "POST", "/v2/sandboxes/" + shutBox + "/connect", ``, 200, connection{D: 5 * time.Minute}},
		{"fork-private", "POST", "/sandboxes/" + shutBox + "/fork", ``, 201, forking{1, 15 * time.Second}},
		{"", "PUT", "/sandboxes/" + shutBox + "/network", `{"allowPublicTraffic":true}`, 204, soulbox.Network{Internet: true}}, // the fleet knows better
		{"kill", "DELETE", box, "", 204, soulbox.ByClient},
		{"connect-v1", "POST", box + "/connect", `{"timeout":60}`, 200, connection{D: time.Minute}},
		{"connect-v2", "POST", "/v2" + box + "/connect", `{"timeout":60,"memory":true}`, 200, connection{D: time.Minute}},
		{"connect-v2-empty", "POST", "/v2" + box + "/connect", ``, 200, connection{D: 5 * time.Minute}},
		{"connect-v1-resumed", "POST", cold + "/connect", `{"timeout":0}`, 201, connection{}},
		{"connect-v2-resumed", "POST", "/v2" + cold + "/connect", `{}`, 201, connection{D: 5 * time.Minute}},
		{"connect-v2-resumed", "POST", "/v2" + cold + "/connect", `{"timeout":60,"memory":false}`, 201, connection{D: time.Minute, Cold: true}},
		{"pause", "POST", box + "/pause", `{"memory":true}`, 204, true},
		{"pause-empty", "POST", box + "/pause", ``, 204, true},
		{"pause-files", "POST", box + "/pause", `{"memory":false}`, 204, false},
		{"resume", "POST", cold + "/resume", ``, 201, connection{D: 15 * time.Second}},
		{"resume", "POST", cold + "/resume", `{"timeout":60,"autoPause":true}`, 201, connection{D: time.Minute}},
		{"resume", "POST", cold + "/resume", `{"timeout":60,"autoPause":false,"memory":false}`, 201, connection{D: time.Minute, Cold: true}},
		{"fork", "POST", box + "/fork", ``, 201, forking{1, 15 * time.Second}},
		{"fork-some-fail", "POST", box + "/fork", `{"count":3,"timeout":60}`, 201, forking{3, time.Minute}},
		{"snapshot", "POST", box + "/snapshots", `{}`, 201, ""},
		{"snapshot-named", "POST", box + "/snapshots", `{"name":"Our-Team/first:default"}`, 201, "first"},
		{"snapshots", "GET", "/snapshots", "", 200, soulbox.SnapshotFilter{Team: "ours", Kind: soulbox.ForCreate, Limit: 100}},
		{"snapshots", "GET", "/snapshots?sandboxID=" + ourBox + "-6532622b&limit=5&nextToken=abc", "", 200, soulbox.SnapshotFilter{
			Team: "ours", Kind: soulbox.ForCreate, Sandbox: ourBox, Limit: 5, Cursor: "abc",
		}},
		{"timeout", "POST", box + "/timeout", `{"timeout":0}`, 204, time.Duration(0)},
		{"refresh", "POST", box + "/refreshes", `{"duration":3600}`, 204, time.Hour},
		{"refresh-short", "POST", box + "/refreshes", `{"duration":3}`, 204, 15 * time.Second},
		{"refresh-empty", "POST", box + "/refreshes", ``, 204, 15 * time.Second},
		{"network-off", "PUT", box + "/network", `{"allow_internet_access":false}`, 204, soulbox.Network{}},
		{"network-deny-all", "PUT", box + "/network", `{"denyOut":["0.0.0.0/0"]}`, 204, soulbox.Network{}},
		{"network-reset", "PUT", box + "/network", `{}`, 204, soulbox.Network{Internet: true}},
		{"metrics", "GET", box + "/metrics?start=1772600000&end=1772699999", "", 200, [2]time.Time{time.Unix(1772600000, 0).UTC(), time.Unix(1772699999, 0).UTC()}},
		{"metrics-before", "GET", box + "/metrics?start=0&end=1", "", 200, nil},
		{"metrics-batch", "GET", "/sandboxes/metrics?sandbox_ids=" + ourBox + ",iunknown", "", 200, []soulbox.SandboxID{ourBox, "iunknown"}},
		{"logs-v1", "GET", box + "/logs?start=1772600000123&limit=99999", "", 200, soulbox.LogQuery{From: time.UnixMilli(1772600000123).UTC(), Limit: 1000}},
		{"logs-v1-none", "GET", box + "/logs?limit=0", "", 200, soulbox.LogQuery{Limit: 1}},
		{"logs-v2", "GET", "/v2" + box + "/logs", "", 200, soulbox.LogQuery{Backward: true, Limit: 1000}},
		{"logs-v2-filter", "GET", "/v2" + box + "/logs?cursor=1772600000123&limit=1&direction=forward&level=warn&search=a%20b", "", 200, soulbox.LogQuery{From: time.UnixMilli(1772600000123).UTC(), Limit: 1, Level: "warn", Search: "a b"}},
		{"teams", "GET", "/teams", "", 200, nil},
		{"keys", "GET", "/api-keys", "", 200, nil},
		{"key-created", "POST", "/api-keys", `{"name":" laptop "}`, 201, "laptop"},
		{"key-renamed", "PATCH", "/api-keys/" + keyID, `{"name":"desk"}`, 200, "desk"},
		{"key-revoked", "DELETE", "/api-keys/" + keyID, ``, 204, nil},
		{"templates-v1", "GET", "/templates?teamID=ours", "", 200, nil},
		{"templates-v2", "GET", "/v2/templates", "", 200, nil},
		{"templates-default", "GET", "/default-templates", "", 200, nil},
		{"template", "GET", "/templates/tpl2", "", 200, soulbox.BuildFilter{Template: "tpl2", Limit: 100}},
		{"template-page", "GET", "/templates/mine?limit=4", "", 200, soulbox.BuildFilter{Template: "tpl2", Limit: 4}},
		{"template-page-2", "GET", "/templates/mine?limit=4&nextToken=from4", "", 200, soulbox.BuildFilter{Template: "tpl2", Limit: 4, Cursor: "from4"}},
		{"template-house", "GET", "/templates/base", "", 200, soulbox.BuildFilter{Template: "tpl1", Limit: 100, States: ready}},
		{"template-theirs", "GET", "/templates/their-team%2Ftool", "", 200, soulbox.BuildFilter{Template: "tpl3", Limit: 100, States: ready}},
		{"template-unbuilt", "GET", "/templates/unbuilt", "", 200, nil},
		{"published", "PATCH", "/templates/mine", `{"public":true}`, 200, publishing{"tpl2", true}},
		{"unpublished", "PATCH", "/templates/tpl2", `{"public":false}`, 200, publishing{"tpl2", false}},
		{"published-v2", "PATCH", "/v2/templates/our-team%2Fmine", `{"public":true}`, 200, publishing{"tpl2", true}},
		{"published-v2", "PATCH", "/v2/templates/mine", `{}`, 200, nil},
		{"template-removed", "DELETE", "/templates/mine", "", 204, soulbox.TemplateID("tpl2")},
		{"template-snapshot", "GET", "/templates/my-snap", "", 200, nil},
		{"snapshot-removed", "DELETE", "/templates/our-team%2Fmy-snap:default", "", 204, soulbox.SnapshotID(namedID)},
		{"snapshot-removed", "DELETE", "/templates/" + snapID, "", 204, soulbox.SnapshotID(snapID)},
		{"alias", "GET", "/templates/aliases/base", "", 200, nil},
		{"alias-snapshot", "GET", "/templates/aliases/my-snap", "", 200, nil},
		{"alias-escaped", "GET", "/templates/aliases/our-team%2Fmine%3Adefault", "", 200, nil},
		{"alias-theirs", "GET", "/templates/aliases/their-team%2Ftool", "", 200, nil},

		{"draft", "POST", "/v3/templates", `{"name":"new"}`, 202, drafting{Name: "new", Tags: []string{"default"}}},
		{"draft-all", "POST", "/v3/templates", `{"name":"Our-Team/New:V1","tags":["v1","Latest"],"cpuCount":1,"memoryMB":1024,"minFreeDiskMb":10240,"teamID":"ours"}`, 202, drafting{
			Name: "new", Tags: []string{"v1", "latest"}, Size: soulbox.Size{CPUs: 1, Memory: soulbox.GiB},
		}},
		{"trigger", "POST", "/v2/templates/tpl2/builds/" + draftBuild, `{"fromImage":"e2bdev/base","force":false}`, 202, triggering{
			ID: "tpl2", Build: draftBuild, Recipe: soulbox.Recipe{Image: "e2bdev/base"},
		}},
		{"status-draft", "GET", "/templates/tpl2/builds/" + draftBuild + "/status", "", 200, nil},
		{"status-queued", "GET", "/templates/tpl2/builds/" + queuedBuild + "/status", "", 200, soulbox.BuildLogQuery{Limit: 100}},
		{"status-running", "GET", "/templates/tpl2/builds/" + runningBuild + "/status?logsOffset=2&limit=2", "", 200, soulbox.BuildLogQuery{Offset: 2, Limit: 2}},
		{"status-none", "GET", "/templates/tpl2/builds/" + runningBuild + "/status?limit=0&level=warn", "", 200, soulbox.BuildLogQuery{Limit: 1, Level: "warn"}},
		{"status-step", "GET", "/templates/tpl2/builds/" + stepBuild + "/status?logsOffset=5", "", 200, soulbox.BuildLogQuery{Offset: 5, Limit: 100}},
		{"status-base", "GET", "/templates/tpl2/builds/" + baseBuild + "/status?logsOffset=5", "", 200, nil},
		{"status-finalize", "GET", "/templates/tpl2/builds/" + finishBuild + "/status?logsOffset=5", "", 200, nil},
		{"status-ready", "GET", "/templates/tpl2/builds/" + readyBuild + "/status?logsOffset=5", "", 200, nil},
		{"build-logs", "GET", "/templates/tpl2/builds/" + readyBuild + "/logs?source=persistent&direction=forward", "", 200, soulbox.BuildLogQuery{}},
		{"build-logs-backward", "GET", "/templates/tpl2/builds/" + readyBuild + "/logs?direction=backward&limit=2&cursor=1772593569999", "", 200, soulbox.BuildLogQuery{}},
		{"build-logs-forward", "GET", "/templates/tpl2/builds/" + readyBuild + "/logs?cursor=1772593569892&level=info", "", 200, soulbox.BuildLogQuery{Level: "info"}},
		{"build-logs-draft", "GET", "/templates/tpl2/builds/" + draftBuild + "/logs", "", 200, nil},

		{"tags", "GET", "/templates/mine/tags", "", 200, nil},
		{"tags", "GET", "/templates/our-team%2Fmine/tags", "", 200, nil},
		{"tags-none", "GET", "/templates/base/tags", "", 200, nil},
		{"tags-count", "GET", "/templates/tpl2/tags/count", "", 200, nil},
		{"tags-exists", "GET", "/templates/tpl2/tags/exists?tag=V1", "", 200, nil},
		{"tags-exists-not", "GET", "/templates/tpl2/tags/exists?tag=v2", "", 200, nil},
		{"tagged", "POST", "/templates/tags", `{"target":"our-team/mine:v1","tags":["Production","latest","production"]}`, 201, tagging{"our-team/mine:v1", []string{"production", "latest"}}},
		{"tags-removed", "DELETE", "/templates/tags", `{"name":"mine","tags":["v1"]}`, 204, tagging{"mine", []string{"v1"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{}
			res := ask(newAPI(t, w, "box.example.test"), tt.verb, tt.path, tt.body)
			if res.Code != tt.code {
				t.Fatalf("%s %s: %d %s, want %d", tt.verb, tt.path, res.Code, res.Body, tt.code)
			}
			if diff := cmp.Diff(tt.asked, w.asked, inside); tt.asked != nil && diff != "" {
				t.Errorf("the rooms behind were asked (-want +got):\n%s", diff)
			}
			if tt.code == http.StatusNoContent || res.Body.Len() == 0 {
				if res.Body.Len() > 0 || strings.HasPrefix(tt.name, "list") {
					t.Errorf("body %q", res.Body)
				}
				return
			}
			golden(t, tt.name, res.Body.Bytes())
		})
	}

	// Every row that is not a door for later was asked.
	asked := map[string]bool{}
	for _, tt := range tests {
		asked[tt.verb+" "+patternOf(tt.path)] = true
	}
	for _, r := range e2b.Routes(nil, nil, nil, e2b.Options{}) {
		if !isLater(r) && !isLink(r) && !asked[r.String()] {
			t.Errorf("%s is not tested", r)
		}
	}
}

var ids = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\?.*`), ""},
	{regexp.MustCompile(`/sandboxes/i[^/]*`), "/sandboxes/{sandboxID}"},
	{regexp.MustCompile(`/api-keys/[^/]+`), "/api-keys/{keyID}"},
	{regexp.MustCompile(`/templates/(tpl2|mine|my-snap|our-team|s0snap)[^/]*`), "/templates/{templateID}"},
	{regexp.MustCompile(`/builds/[^/]*`), "/builds/{buildID}"},
	{regexp.MustCompile(`}/tags/[^/]*`), "}/tags/{part}"},
	{regexp.MustCompile(`}/tags$`), "}/{part}"},
	{regexp.MustCompile(`/aliases/.*`), "/aliases/{alias}"},
}

// patternOf turns the path of a test into that of its row.
func patternOf(path string) string {
	for _, id := range ids {
		path = id.re.ReplaceAllString(path, id.with)
	}
	return path
}

// isLater reports whether the row answers only that it cannot do this yet, or
// not any more. A room without anything behind it could do nothing else.
func isLater(r api.Route) (later bool) {
	defer func() { _ = recover() }()
	req, _ := http.NewRequest(r.Verb, "http://x"+r.Path, http.NoBody)
	err := r.Handle(nil, req, soulbox.Actor{Team: "ours"})
	return err != nil && instead.MatchString(err.Error())
}

var instead = regexp.MustCompile("is not available in this version|not built this way any more")

// isLink reports whether the row is about uploads, which TestUpload has.
func isLink(r api.Route) bool { return strings.HasSuffix(r.Path, "/files/{hash}") }

func TestLater(t *testing.T) {
	n := 0
	h := newAPI(t, &world{}, "")
	for _, r := range e2b.Routes(nil, nil, nil, e2b.Options{}) {
		if !isLater(r) {
			continue
		}
		n++
		path := strings.NewReplacer("{sandboxID}", ourBox, "{", "", "}", "").Replace(r.Path)
		msg := "is not available in this version"
		if r.Verb == "POST" && strings.Contains(r.Path, "/templates") {
			msg = "update the client, or use POST /v3/templates and then POST /v2/templates/{templateID}/builds/{buildID}"
		}
		wantFailure(t, ask(h, r.Verb, path, `{"memory":true}`), 400, msg)
		wantFailure(t, ask(h, r.Verb, path, "", "X-API-KEY", ""), 401, "API key")
	}
	if n < 15 {
		t.Errorf("%d doors for later, want at least 15", n)
	}
	wantFailure(t, ask(h, "GET", "/templates/tpl1/tags/groups", ""), 400, "is not available in this version")
	wantFailure(t, ask(h, "GET", "/templates/tpl1/tags/nonsense", ""), 404, "there is no")
	wantFailure(t, ask(h, "GET", "/templates/tpl1/nonsense", ""), 404, "there is no")
}

// TestPermissions compares what each row asks for with the list on file.
func TestPermissions(t *testing.T) {
	var b strings.Builder
	for _, r := range e2b.Routes(nil, nil, nil, e2b.Options{}) {
		note := ""
		switch {
		case isLater(r):
			note = " (refused)"
		case r.Upload:
			note = " (stream)"
		}
		fmt.Fprintf(&b, "%-15s %s%s\n", r.Permission, r, note)
	}
	goldenText(t, "permissions.txt", b.String())
}

// TestForeign asks every row about somebody else's sandboxes and keys, and
// without or with a wrong key.
func TestForeign(t *testing.T) {
	h := newAPI(t, &world{}, "")
	bodies := map[string]string{
		"POST /sandboxes/{sandboxID}/connect":              `{"timeout":60}`,
		"POST /v2/sandboxes/{sandboxID}/connect":           `{}`,
		"POST /sandboxes/{sandboxID}/timeout":              `{"timeout":60}`,
		"PUT /sandboxes/{sandboxID}/network":               `{}`,
		"PATCH /api-keys/{keyID}":                          `{"name":"x"}`,
		"PATCH /templates/{templateID}":                    `{"public":true}`,
		"PATCH /v2/templates/{templateID}":                 `{"public":true}`,
		"POST /v2/templates/{templateID}/builds/{buildID}": `{"fromImage":"e2bdev/base"}`,
	}
	n := 0
	for _, r := range e2b.Routes(nil, nil, nil, e2b.Options{}) {
		path := strings.NewReplacer("{sandboxID}", ourBox, "{keyID}", keyID, "{templateID}/tags", "tpl2/tags", "{templateID}/{part}", "tpl2/tags", "{part}", "count",
			"{templateID}", "tpl2", "{alias}", "mine", "{buildID}", readyBuild, "{hash}", hereHash, "{", "", "}", "").Replace(r.Path)
		if r.Permission != api.Anyone {
			wantFailure(t, ask(h, r.Verb, path, bodies[r.String()], "X-API-KEY", "e2b_wrong"), 401, "not valid")
			wantFailure(t, ask(h, r.Verb, path, bodies[r.String()], "X-API-KEY", ""), 401, "API key")
		}
		if !strings.Contains(r.Path, "{") || isLater(r) || r.Permission == api.Anyone {
			continue
		}
		n++
		wantFailure(t, ask(h, r.Verb, path, bodies[r.String()], "X-API-KEY", theirKey), 404, "")
	}
	if n < 27 {
		t.Errorf("%d rows tried with a foreign id, want at least 27", n)
	}
	for _, path := range []string{"/sandboxes", "/v2/sandboxes"} {
		if res := ask(h, "GET", path, "", "X-API-KEY", theirKey); res.Code != 200 || strings.TrimSpace(res.Body.String()) != "[]" {
			t.Errorf("GET %s of a team without sandboxes: %d %s, want 200 []", path, res.Code, res.Body)
		}
	}
	for _, name := range []string{"base", "their-team%2Ftool", "tpl3"} {
		wantFailure(t, ask(h, "DELETE", "/templates/"+name, ""), 403, "not your team's")
		wantFailure(t, ask(h, "PATCH", "/templates/"+name, `{"public":true}`), 403, "not your team's")
		wantFailure(t, ask(h, "PATCH", "/v2/templates/"+name, `{}`), 403, "not your team's")
	}
	wantFailure(t, ask(h, "GET", "/templates?teamID=theirs", ""), 400, "another team")
}

// TestBadInput is what anybody might send to each row, and the sentence they get.
func TestBadInput(t *testing.T) {
	const box = "/sandboxes/" + ourBox
	for _, tt := range []struct {
		verb, path, body, msg string
	}{
		{"GET", "/sandboxes/UPPER", "", `"UPPER" is not the id of a sandbox`},
		{"GET", "/sandboxes/a-b-c", "", "is not the id of a sandbox"},
		{"GET", "/sandboxes/..%2f..%2fetc", "", "is not the id of a sandbox"},
		{"GET", "/sandboxes/%00", "", "is not the id of a sandbox"},
		{"GET", "/sandboxes/-x", "", "is not the id of a sandbox"},
		{"DELETE", "/sandboxes/" + strings.Repeat("a", 5000), "", "is not the id of a sandbox"},
		{"POST", "/sandboxes/A/connect", "{}", "is not the id"},
		{"POST", "/sandboxes/A/timeout", "{}", "is not the id"},
		{"POST", "/sandboxes/A/refreshes", "{}", "is not the id"},
		{"PUT", "/sandboxes/A/network", "{}", "is not the id"},
		{"GET", "/sandboxes/A/metrics", "", "is not the id"},
		{"GET", "/sandboxes/A/logs", "", "is not the id"},
		{"GET", "/v2/sandboxes/A/logs", "", "is not the id"},
		{"GET", "/sandboxes/metrics?sandbox_ids=A", "", "is not the id"},

		{"POST", box + "/connect", "", "timeout is needed"},
		{"POST", box + "/connect", "{}", "timeout is needed"},
		{"POST", box + "/connect", `{"timeout":-1}`, "timeout must not be negative"},
		{"POST", "/v2" + box + "/connect", `{"memory":"no"}`, "memory must be true or false"},
		{"POST", "/v2" + box + "/connect", `{"timeout":"60"}`, "timeout must be an integer"},
		{"POST", "/v2" + box + "/connect", `[]`, "must be a JSON object"},
		{"POST", box + "/timeout", "", "needs a body"},
		{"POST", box + "/timeout", "{}", "timeout is needed"},
		{"POST", box + "/timeout", `{"timeout":-5}`, "must not be negative"},
		{"POST", box + "/timeout", `{"timeout":1e99}`, "timeout must be an integer"},
		{"POST", box + "/refreshes", `{"duration":3601}`, "must not be longer than 3600 seconds"},
		{"POST", box + "/refreshes", `{"duration":-1}`, "must not be negative"},
		{"PUT", box + "/network", "", "needs a body"},
		{"PUT", box + "/network", `{"denyOut":["10.0.0.0/8"]}`, "network.denyOut"},
		{"PUT", box + "/network", `{"denyOut":"0.0.0.0/0"}`, "must be an array"},
		{"PUT", box + "/network", `{"allow_internet_access":"no"}`, "allow_internet_access must be true or false"},

		{"GET", "/v2/sandboxes?limit=0", "", "limit must be a whole number from 1 to 100"},
		{"GET", "/v2/sandboxes?limit=101", "", "limit must be"},
		{"GET", "/v2/sandboxes?limit=x", "", "limit must be"},
		{"GET", "/v2/sandboxes?order=up", "", "order must be one of desc, asc"},
		{"GET", "/v2/sandboxes?state=running,dead", "", "state must be running or paused"},
		{"GET", "/v2/sandboxes?startedAfter=yesterday", "", "startedAfter must be a time"},
		{"GET", "/v2/sandboxes?template=base:v1", "", "by the tag"},
		{"GET", "/v2/sandboxes?template=a/b/c", "", "a name has 1 to 128"},
		{"GET", "/v2/sandboxes?metadata=novalue", "", "must be pairs"},
		{"GET", "/v2/sandboxes?metadata=a%3Db%3Dc", "", "must be pairs"},
		{"GET", "/v2/sandboxes?metadata=%3Db", "", "must be pairs"},
		{"GET", "/sandboxes?metadata=a%3D%25zz", "", "badly escaped"},
		{"GET", "/sandboxes?metadata=a%3D1%26a%3D2", "", "there twice"},
		{"GET", "/v2/sandboxes?a=%zz", "", "malformed"},

		{"POST", "/sandboxes/A/pause", "", "is not the id"},
		{"POST", "/sandboxes/A/resume", "", "is not the id"},
		{"POST", "/sandboxes/A/fork", "", "is not the id"},
		{"POST", "/sandboxes/A/snapshots", "", "is not the id"},
		{"POST", box + "/pause", `{"memory":1}`, "memory must be true or false"},
		{"POST", box + "/pause", `[]`, "must be a JSON object"},
		{"POST", box + "/resume", `{"timeout":-1}`, "timeout must not be negative"},
		{"POST", box + "/resume", `{"autoPause":"yes"}`, "autoPause must be true or false"},
		{"POST", box + "/fork", `{"count":0}`, "count must be from 1 to 100, not 0"},
		{"POST", box + "/fork", `{"count":101}`, "count must be from 1 to 100, not 101"},
		{"POST", box + "/fork", `{"count":-1}`, "count must be from 1 to 100"},
		{"POST", box + "/fork", `{"count":1.5}`, "count must be an integer"},
		{"POST", box + "/fork", `{"timeout":0}`, "timeout must be at least 1 second"},
		{"POST", box + "/snapshots", `{"name":"a b"}`, "a name has 1 to 128"},
		{"POST", box + "/snapshots", `{"name":7}`, "name must be a string"},
		{"POST", box + "/snapshots", `{"name":"theirs/x"}`, "is not your team's"},
		{"POST", box + "/snapshots", `{"name":"x:v2"}`, "a snapshot with the tag v2 is not available in this version"},
		{"POST", box + "/snapshots", `{"name":"` + snapID + `"}`, "looks like the id of a snapshot"},
		{"GET", "/snapshots?limit=101", "", "limit must be"},
		{"GET", "/snapshots?sandboxID=A", "", "is not the id"},
		{"GET", "/snapshots?name=a%20b", "", "a name has 1 to 128"},

		{"GET", "/sandboxes/metrics", "", "sandbox_ids is needed"},
		{"GET", "/sandboxes/metrics?sandbox_ids=" + strings.Repeat("a,", 101), "", "must not be more than 100"},
		{"GET", box + "/metrics?start=-1", "", "start must be a whole number"},
		{"GET", box + "/metrics?end=99999999999999999999", "", "end must be a whole number"},
		{"GET", box + "/metrics?start=5&end=4", "", "start must not be after end"},
		{"GET", box + "/logs?start=x", "", "start must be"},
		{"GET", box + "/logs?limit=-1", "", "limit must be"},
		{"GET", "/v2" + box + "/logs?limit=1001", "", "limit must be"},
		{"GET", "/v2" + box + "/logs?direction=up", "", "direction must be"},
		{"GET", "/v2" + box + "/logs?level=fatal", "", "level must be"},
		{"GET", "/v2" + box + "/logs?search=" + strings.Repeat("x", 257), "", "search must not be longer"},

		{"POST", "/api-keys", "", "needs a body"},
		{"POST", "/api-keys", `{"name":"  "}`, "name must have 1 to 128"},
		{"POST", "/api-keys", `{"name":"` + strings.Repeat("n", 129) + `"}`, "name must have"},
		{"POST", "/api-keys", `{"name":"a\u0000"}`, "name must have"},
		{"PATCH", "/api-keys/" + keyID, `{}`, "name must have"},
		{"PATCH", "/api-keys/1", `{"name":"x"}`, "is not the id of a key"},
		{"DELETE", "/api-keys/not-a-uuid", "", "is not the id of a key"},

		{"GET", "/templates/UP%20PER", "", "a name has 1 to 128"},
		{"DELETE", "/templates/%00", "", "a name has 1 to 128"},
		{"GET", "/templates/aliases/a%2Fb%2Fc", "", "a name has 1 to 128"},
		{"GET", "/v2/templates?limit=0", "", "limit must be"},
	} {
		w := &world{}
		res := ask(newAPI(t, w, ""), tt.verb, tt.path, tt.body)
		t.Run(tt.verb+" "+clip(tt.path)+" "+clip(tt.body), func(t *testing.T) {
			wantFailure(t, res, 400, tt.msg)
			if w.asked != nil {
				t.Errorf("the rooms behind were asked all the same: %v", w.asked)
			}
		})
	}
}

func clip(s string) string { return s[:min(len(s), 60)] }

// TestFleetErrors checks that what the rooms behind say reaches the client.
func TestFleetErrors(t *testing.T) {
	for code, err := range map[int]error{
		400: soulbox.Errorf(soulbox.Invalid, "timeout must not be longer than 24h"),
		404: soulbox.Errorf(soulbox.NotFound, "sandbox x ended at noon: its time was up"),
		409: soulbox.Errorf(soulbox.Conflict, "sandbox x is ending"),
		429: soulbox.Errorf(soulbox.Exhausted, "20 sandboxes run already"),
		503: soulbox.Errorf(soulbox.Unavailable, "no node is free"),
	} {
		h := newAPI(t, &world{fail: err}, "")
		wantFailure(t, ask(h, "POST", "/v2/sandboxes", `{"templateID":"base"}`), code, err.Error())
		wantFailure(t, ask(h, "GET", "/sandboxes/"+ourBox, ""), code, err.Error())
		wantFailure(t, ask(h, "GET", "/v2/sandboxes", ""), code, err.Error())
		wantFailure(t, ask(h, "GET", "/sandboxes/metrics?sandbox_ids="+ourBox, ""), code, err.Error())
	}
	h := newAPI(t, &world{fail: errors.New("secret detail")}, "")
	wantFailure(t, ask(h, "DELETE", "/sandboxes/"+ourBox, ""), 500, "internal error (request ")
}

func TestDomain(t *testing.T) {
	res := ask(newAPI(t, &world{}, ""), "POST", "/v2/sandboxes", `{"templateID":"base"}`)
	golden(t, "create-no-domain", res.Body.Bytes())
}

// TestPaused asks what needs a running sandbox of one that is paused, and the
// other way round.
func TestPaused(t *testing.T) {
	const box, cold = "/sandboxes/" + ourBox, "/sandboxes/" + coldBox
	for _, tt := range []struct {
		verb, path, body string
		code             int
		msg              string
	}{
		{"POST", cold + "/pause", "", 409, "is paused already"},
		{"POST", cold + "/fork", "", 409, "is paused"},
		{"POST", cold + "/timeout", `{"timeout":60}`, 404, "is paused; connect to it first"},
		{"POST", cold + "/refreshes", "", 404, "is paused; connect to it first"},
		{"PUT", cold + "/network", `{}`, 404, "is paused; connect to it first"},
		{"POST", box + "/resume", "", 409, "is running already"},
		{"POST", box + "/snapshots", `{"name":"my-snap"}`, 409, "there is a snapshot 'my-snap' already"},
	} {
		t.Run(tt.verb+" "+tt.path, func(t *testing.T) {
			wantFailure(t, ask(newAPI(t, &world{}, ""), tt.verb, tt.path, tt.body), tt.code, tt.msg)
		})
	}
	wantFailure(t, ask(newAPI(t, &world{quicker: true}, ""), "POST", cold+"/resume", ""), 409, "is running already")

	// A promise that would not be kept.
	w := &world{}
	plain := ask(newAPI(t, w, ""), "POST", "/sandboxes/"+plainBox+"/resume", `{"autoPause":true}`)
	if wantFailure(t, plain, 400, "autoPause: changing what becomes"); w.asked != nil {
		t.Errorf("resumed with %v all the same", w.asked)
	}
}

// TestSnapshotNames finds one snapshot by all that clients may call it.
func TestSnapshotNames(t *testing.T) {
	for query, want := range map[string]string{
		"name=my-snap":                     namedID,
		"name=My-Snap:default":             namedID,
		"name=our-team/my-snap":            namedID,
		"name=our-team/my-snap:default":    namedID,
		"name=" + namedID:                  namedID,
		"name=" + snapID + ":default":      snapID,
		"name=my-snap&sandboxID=" + ourBox: namedID,
		"name=my-snap&sandboxID=iother":    "",
		"name=my-snap:v2":                  "",
		"name=theirs/my-snap":              "",
		"name=my-snap-does-not-exist":      "",
	} {
		res := ask(newAPI(t, &world{}, ""), "GET", "/snapshots?"+query, "")
		var got []struct {
			SnapshotID string   `json:"snapshotID"`
			Names      []string `json:"names"`
		}
		if err := json.Unmarshal(res.Body.Bytes(), &got); err != nil || res.Code != 200 || got == nil {
			t.Errorf("%s: %d %s, want a list", query, res.Code, res.Body)
			continue
		}
		switch {
		case want == "" && len(got) > 0:
			t.Errorf("%s: found %v, want nothing", query, got)
		case want != "" && (len(got) != 1 || got[0].SnapshotID != want || got[0].Names == nil):
			t.Errorf("%s: found %v, want %s", query, got, want)
		}
	}
	if next := ask(newAPI(t, &world{}, ""), "GET", "/snapshots?limit=2", "").Header().Get("X-Next-Token"); next != "more" {
		t.Errorf("X-Next-Token %q, want more", next)
	}
	if res := ask(newAPI(t, &world{}, ""), "GET", "/snapshots", "", "X-API-KEY", theirKey); strings.TrimSpace(res.Body.String()) != "[]" {
		t.Errorf("snapshots of a team without any: %s, want []", res.Body)
	}
	w := &world{fail: soulbox.Errorf(soulbox.Unavailable, "the store is closed")}
	wantFailure(t, ask(newAPI(t, w, ""), "GET", "/snapshots?name=my-snap", ""), 503, "the store is closed")
	wantFailure(t, ask(newAPI(t, w, ""), "DELETE", "/templates/my-snap", ""), 503, "the store is closed")
}

// Clients tell a snapshot that was deleted twice by the second answer.
func TestSnapshotRemovedTwice(t *testing.T) {
	h := newAPI(t, &world{}, "")
	if res := ask(h, "DELETE", "/templates/"+snapID, ""); res.Code != 204 {
		t.Errorf("first: %d %s, want 204", res.Code, res.Body)
	}
	wantFailure(t, ask(h, "DELETE", "/templates/"+snapID, ""), 404, "not found")
	wantFailure(t, ask(h, "DELETE", "/templates/"+namedID, "", "X-API-KEY", theirKey), 404, "not found")
}

// A team's snapshot comes before the house's template of the same name, as it
// does when a sandbox is made.
func TestSnapshotNamedAsTheHouses(t *testing.T) {
	w := &world{shadow: true}
	h := newAPI(t, w, "")
	for _, name := range []string{"base", "our-team%2Fbase"} {
		if res := ask(h, "GET", "/templates/aliases/"+name, ""); !strings.Contains(res.Body.String(), namedID) {
			t.Errorf("%s is %s, want %s", name, res.Body, namedID)
		}
	}
	if res := ask(h, "GET", "/templates/aliases/tpl1", ""); !strings.Contains(res.Body.String(), `"tpl1"`) {
		t.Errorf("tpl1 is %s", res.Body)
	}
	if res := ask(h, "DELETE", "/templates/base", ""); res.Code != 204 || w.asked != soulbox.SnapshotID(namedID) {
		t.Errorf("%d %s, removed %v, want %s", res.Code, res.Body, w.asked, namedID)
	}
}
