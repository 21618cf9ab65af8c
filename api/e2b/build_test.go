package e2b_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/soulbox/soulbox"
)

const triggerPath = "/v2/templates/tpl2/builds/" + draftBuild

// TestTrigger gives a build all that a recipe can have, as the SDKs send it.
func TestTrigger(t *testing.T) {
	const account = `{"type": "service_account"}`
	copied := func(args ...string) soulbox.Step {
		return soulbox.Step{Kind: soulbox.StepCopy, Args: args, Files: otherHash}
	}
	for _, tt := range []struct {
		name, body string
		want       soulbox.Recipe
		logins     map[string]soulbox.Login
	}{
		{
			"every kind of step",
			`{"fromTemplate":" base:v1 ","startCmd":"node server.js","readyCmd":"sleep 1","force":true,"steps":[
			  {"type":"COPY","args":["folder/*","/app/","","0755"],"filesHash":"` + otherHash + `","force":true,"forceUpload":true,"resolveSymlinks":false,"gzip":true},
			  {"type":"COPY","args":["a","b"],"filesHash":"` + otherHash + `"},
			  {"type":"RUN","args":["a && b"],"force":false,"forceUpload":null,"filesHash":null},
			  {"type":"run","args":["whoami","root"],"filesHash":""},
			  {"type":"ENV","args":["A","1","B","$A=2\n","EMPTY",""]},
			  {"type":"WORKDIR","args":["../x"]},
			  {"type":"USER","args":["; exit 1"]},
			  {"type":"USER","args":["dev","true"]}]}`,
			soulbox.Recipe{
				Template: "base:v1", Start: "node server.js", Ready: "sleep 1", Force: true,
				Steps: []soulbox.Step{
					{Kind: soulbox.StepCopy, Args: []string{"folder/*", "/app/", "", "0755"}, Files: otherHash, Force: true},
					copied("a", "b"),
					{Kind: soulbox.StepRun, Args: []string{"a && b"}},
					{Kind: soulbox.StepRun, Args: []string{"whoami", "root"}},
					{Kind: soulbox.StepEnv, Args: []string{"A", "1", "B", "$A=2\n", "EMPTY", ""}},
					{Kind: soulbox.StepWorkdir, Args: []string{"../x"}},
					{Kind: soulbox.StepUser, Args: []string{"; exit 1"}},
					{Kind: soulbox.StepUser, Args: []string{"dev", "true"}},
				},
			},
			nil,
		},
		{"nothing but a base", `{"fromImage":"debian","fromTemplate":"","steps":[],"startCmd":null}`, soulbox.Recipe{Image: "debian"}, nil},
		{"newer than we are", `{"fromImage":"debian","shiny":{"a":[1]},"steps":[{"type":"RUN","args":["x"],"cache":"no"}]}`, soulbox.Recipe{
			Image: "debian", Steps: []soulbox.Step{{Kind: soulbox.StepRun, Args: []string{"x"}}},
		}, nil},
		{"paths that stay inside", `{"fromImage":"debian","steps":[{"type":"COPY","args":["./a/../b","."],"filesHash":"` + otherHash + `"},{"type":"COPY","args":["..b","."],"filesHash":"` + otherHash + `"}]}`, soulbox.Recipe{
			Image: "debian", Steps: []soulbox.Step{copied("./a/../b", "."), copied("..b", ".")},
		}, nil},
		{
			"a login", `{"fromImage":"ghcr.io/a/b:c","fromImageRegistry":{"type":"registry","username":"ada","password":"p:w "}}`,
			soulbox.Recipe{Image: "ghcr.io/a/b:c"},
			map[string]soulbox.Login{"ghcr.io": {User: "ada", Password: "p:w "}},
		},
		{
			"a login at Docker Hub", `{"fromImage":"debian:12","fromImageRegistry":{"type":"registry","username":"ada","password":"p"}}`,
			soulbox.Recipe{Image: "debian:12"},
			map[string]soulbox.Login{"docker.io": {User: "ada", Password: "p"}},
		},
		{
			"a login with a port", `{"fromImage":"localhost:5000/a@sha256:` + hereHash + `","fromImageRegistry":{"type":"registry","username":"ada","password":"p"}}`,
			soulbox.Recipe{Image: "localhost:5000/a@sha256:" + hereHash},
			map[string]soulbox.Login{"localhost:5000": {User: "ada", Password: "p"}},
		},
		{
			"Google", `{"fromImage":"eu.gcr.io/p/i","fromImageRegistry":{"type":"gcp","serviceAccountJson":"{\"type\": \"service_account\"}"}}`,
			soulbox.Recipe{Image: "eu.gcr.io/p/i"},
			map[string]soulbox.Login{"eu.gcr.io": {User: "_json_key", Password: account}},
		},
		{
			"Amazon", `{"fromImage":"1.dkr.ecr.us-east-1.amazonaws.com/i","fromImageRegistry":{"type":"aws","awsAccessKeyId":"AKIDGOOD","awsSecretAccessKey":"s","awsRegion":"us-east-1"}}`,
			soulbox.Recipe{Image: "1.dkr.ecr.us-east-1.amazonaws.com/i"},
			map[string]soulbox.Login{"1.dkr.ecr.us-east-1.amazonaws.com": {User: "AWS", Password: "password"}},
		},
		{
			// A builder that was first told an image and then a template.
			"a login for nothing", `{"fromTemplate":"base","fromImageRegistry":{"type":"registry","username":"","password":""}}`,
			soulbox.Recipe{Template: "base"},
			nil,
		},
		{
			// What cannot be read fails the build, at its first line.
			"an image that is none", `{"fromImage":"No Such:Image","fromImageRegistry":{"type":"registry","username":"ada","password":"p"}}`,
			soulbox.Recipe{Image: "No Such:Image"},
			nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{}
			res := ask(newAPI(t, w, ""), "POST", triggerPath, tt.body)
			if res.Code != 202 || res.Body.Len() > 0 {
				t.Fatalf("%d %s, want 202 and nothing", res.Code, res.Body)
			}
			want := triggering{ID: "tpl2", Build: draftBuild, Recipe: tt.want, Logins: tt.logins}
			if diff := cmp.Diff(any(want), w.asked); diff != "" {
				t.Errorf("Trigger was asked (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTriggerRefused is what no SDK sends.
func TestTriggerRefused(t *testing.T) {
	steps := func(s string) string {
		return `{"fromImage":"debian","steps":[{"type":"RUN","args":["true"]},` + s + `]}`
	}
	login := func(s string) string { return `{"fromImage":"debian","fromImageRegistry":` + s + `}` }
	for _, tt := range []struct{ body, msg string }{
		{``, "needs a body"},
		{`{}`, "either fromImage or fromTemplate"},
		{`{"fromImage":"","fromTemplate":" "}`, "either fromImage or fromTemplate"},
		{`{"fromImage":"debian","fromTemplate":"base"}`, "either fromImage or fromTemplate"},
		{`{"fromImage":7}`, "fromImage must be a string"},
		{`{"fromImage":"a\u0000b"}`, "fromImage must not hold NUL"},
		{`{"fromImage":"` + strings.Repeat("a", 1025) + `"}`, "fromImage must not be longer than 1024"},
		{`{"fromTemplate":"` + strings.Repeat("a", 1025) + `"}`, "fromTemplate must not be longer than 1024"},
		{`{"fromImage":"debian","startCmd":"` + strings.Repeat("a", 128<<10+1) + `"}`, "startCmd must not be longer than 131072"},
		{`{"fromImage":"debian","readyCmd":"\u0000"}`, "readyCmd must not hold NUL"},
		{`{"fromImage":"debian","readyCmd":["sleep"]}`, "readyCmd must be a string"},
		{`{"fromImage":"debian","force":"yes"}`, "force must be true or false"},
		{`{"fromImage":"debian","steps":{}}`, "steps must be an array"},
		{`{"fromImage":"debian","steps":["RUN"]}`, "steps must be an object"},
		{`{"fromImage":"debian","steps":[` + strings.Repeat(`{"type":"RUN","args":["a"]},`, 1000) + `{"type":"RUN","args":["a"]}]}`, "must not be more than 1000, and there are 1001"},

		{steps(`{}`), `step 2: "" is not a type of step`},
		{steps(`{"type":"ADD","args":["a","b"]}`), `step 2: "ADD" is not a type of step; there are COPY, RUN, ENV, WORKDIR and USER`},
		{steps(`{"type":"RUN","args":"a"}`), "steps.args must be an array"},
		{steps(`{"type":"RUN","args":[1]}`), "steps.args must be a string"},
		{steps(`{"type":"RUN","args":[null]}`), "step 2: RUN: args must be strings, not null"},
		{steps(`{"type":"RUN","args":["a\u0000"]}`), "step 2: RUN: args must not hold NUL"},
		{steps(`{"type":"RUN"}`), "step 2: RUN takes a command, and perhaps a user, not 0 arguments"},
		{steps(`{"type":"RUN","args":[""]}`), "step 2: RUN: the first argument must not be empty"},
		{steps(`{"type":"RUN","args":["a","b","c"]}`), "not 3 arguments"},
		{steps(`{"type":"RUN","args":["` + strings.Repeat("a", 1<<20+1) + `"]}`), "step 2: RUN: args must not be larger than 1024 KiB in all"},
		{steps(`{"type":"RUN","args":["a"],"filesHash":"` + otherHash + `"}`), "step 2: RUN: filesHash belongs to COPY"},
		{steps(`{"type":"RUN","args":["a"],"force":1}`), "steps.force must be true or false"},
		{steps(`{"type":"ENV","args":[]}`), "step 2: ENV takes names and values in turn, not 0 arguments"},
		{steps(`{"type":"ENV","args":["A","1","B"]}`), "not 3 arguments"},
		{steps(`{"type":"ENV","args":["A","1","","2"]}`), `step 2: ENV: "" cannot be the name of a variable`},
		{steps(`{"type":"ENV","args":["A=B","1"]}`), `"A=B" cannot be the name of a variable`},
		{steps(`{"type":"ENV","args":[` + strings.Repeat(`"A","1",`, 1000) + `"A","1"]}`), "not 2002 arguments"},
		{steps(`{"type":"WORKDIR","args":[]}`), "step 2: WORKDIR takes a path, not 0 arguments"},
		{steps(`{"type":"WORKDIR","args":["/a","/b"]}`), "WORKDIR takes a path, not 2 arguments"},
		{steps(`{"type":"WORKDIR","args":[""]}`), "must not be empty"},
		{steps(`{"type":"USER","args":[]}`), "USER takes a name"},
		{steps(`{"type":"USER","args":[""]}`), "must not be empty"},
		{steps(`{"type":"USER","args":["a","true","b"]}`), "not 3 arguments"},
		{steps(`{"type":"COPY","args":["a"],"filesHash":"` + otherHash + `"}`), "step 2: COPY takes a source, a destination, and perhaps a user and a mode, not 1 arguments"},
		{steps(`{"type":"COPY","args":["a","b","","","x"],"filesHash":"` + otherHash + `"}`), "not 5 arguments"},
		{steps(`{"type":"COPY","args":["a","b"]}`), "step 2: COPY: filesHash must be 64 of 0-9 and a-f"},
		{steps(`{"type":"COPY","args":["a","b"],"filesHash":"` + strings.ToUpper(otherHash) + `"}`), "filesHash must be 64"},
		{steps(`{"type":"COPY","args":["a","b"],"filesHash":"../../etc/passwd"}`), "filesHash must be 64"},
		{steps(`{"type":"COPY","args":["","b"],"filesHash":"` + otherHash + `"}`), "must not be empty"},
		{steps(`{"type":"COPY","args":["a",""],"filesHash":"` + otherHash + `"}`), "must not be empty"},
		{steps(`{"type":"COPY","args":["/etc/passwd","b"],"filesHash":"` + otherHash + `"}`), `step 2: COPY: the source "/etc/passwd" is not below the folder`},
		{steps(`{"type":"COPY","args":["a/../../b","b"],"filesHash":"` + otherHash + `"}`), "is not below the folder"},
		{steps(`{"type":"COPY","args":["..","b"],"filesHash":"` + otherHash + `"}`), "is not below the folder"},
		{steps(`{"type":"COPY","args":["a","b","","u+x"],"filesHash":"` + otherHash + `"}`), `the mode "u+x" is not an octal number`},
		{steps(`{"type":"COPY","args":["a","b","","0888"],"filesHash":"` + otherHash + `"}`), "is not an octal number"},
		{steps(`{"type":"COPY","args":["a","b","","777777"],"filesHash":"` + otherHash + `"}`), "is not an octal number"},

		{login(`"x"`), "fromImageRegistry must be an object"},
		{login(`{}`), `fromImageRegistry: type must be registry, aws or gcp, not ""`},
		{login(`{"type":"azure"}`), `not "azure"`},
		{login(`{"type":"registry"}`), "fromImageRegistry: username is needed"},
		{login(`{"type":"registry","username":"a"}`), "password is needed"},
		{login(`{"type":"registry","username":"a:b","password":"c"}`), "username must not hold a colon"},
		{login(`{"type":"registry","username":"a","password":"\u0000"}`), "password must not hold NUL"},
		{login(`{"type":"registry","username":"a","password":"` + strings.Repeat("x", 64<<10+1) + `"}`), "password must not be longer than 64 KiB"},
		{login(`{"type":"gcp"}`), "serviceAccountJson is needed"},
		{login(`{"type":"gcp","serviceAccountJson":{"type":"service_account"}}`), "serviceAccountJson must be a string"},
		{login(`{"type":"gcp","serviceAccountJson":"secret"}`), "serviceAccountJson must be a JSON object"},
		{login(`{"type":"gcp","serviceAccountJson":"null"}`), "serviceAccountJson must be a JSON object"},
		{login(`{"type":"aws","awsAccessKeyId":"A","awsSecretAccessKey":"b"}`), "awsRegion is needed"},
		{login(`{"type":"aws","awsAccessKeyId":"A","awsSecretAccessKey":"b","awsRegion":"evil.example/#"}`), "is not an AWS region"},
	} {
		w := &world{}
		res := ask(newAPI(t, w, ""), "POST", triggerPath, tt.body)
		t.Run(clip(tt.body), func(t *testing.T) {
			wantFailure(t, res, 400, tt.msg)
			if w.asked != nil {
				t.Errorf("the registry was asked for %+v", w.asked)
			}
			if len(res.Body.String()) > 1000 {
				t.Errorf("an answer of %d bytes", res.Body.Len())
			}
		})
	}
	h := newAPI(t, &world{}, "")
	long := `{"fromImage":"debian","steps":[{"type":"RUN","args":["` + strings.Repeat("x", 2<<20) + `"]}]}`
	wantFailure(t, ask(h, "POST", triggerPath, long), 413, "too large")
	wantFailure(t, ask(h, "POST", "/v2/templates/tpl2/builds/"+readyBuild, `{"fromImage":"debian"}`), 400, "has its recipe already")
	wantFailure(t, ask(h, "POST", "/v2/templates/tpl1/builds/"+draftBuild, `{"fromImage":"debian"}`), 404, "does not exist")
}

// A build whose keys AWS does not take ends as one whose base cannot be had:
// the SDK then points at the line that has the keys.
func TestAmazonRefuses(t *testing.T) {
	const keys = `"fromImageRegistry":{"type":"aws","awsAccessKeyId":"AKIDBAD","awsSecretAccessKey":"s","awsRegion":"us-east-1"}}`
	w := &world{}
	h := newAPI(t, w, "")
	if res := ask(h, "POST", triggerPath, `{"fromImage":"1.dkr.ecr.us-east-1.amazonaws.com/i",`+keys); res.Code != 202 {
		t.Fatalf("%d %s, want 202", res.Code, res.Body)
	}
	want := soulbox.BuildFailure{Message: "AWS does not let these keys into ECR: UnrecognizedClientException: The security token included in the request is invalid."}
	if diff := cmp.Diff(any(want), w.asked); diff != "" {
		t.Errorf("Fail was asked (-want +got):\n%s", diff)
	}

	// AWS is not asked for builds that do not wait for it.
	for build, code := range map[string]int{readyBuild: 400, queuedBuild: 400, theirBuild: 404} {
		w.asked = nil
		res := ask(h, "POST", "/v2/templates/tpl2/builds/"+build, `{"fromImage":"1.dkr.ecr.us-east-1.amazonaws.com/i",`+keys)
		if wantFailure(t, res, code, build); w.asked != nil {
			t.Errorf("%s: asked for %v", build, w.asked)
		}
	}
	wantFailure(t, ask(h, "POST", "/v2/templates/tpl3/builds/"+theirBuild, `{"fromImage":"a.example/i",`+keys), 400, "is not waiting")
}

func TestDraftRefused(t *testing.T) {
	for _, tt := range []struct{ body, msg string }{
		{``, "needs a body"},
		{`{}`, "name is needed"},
		{`{"name":""}`, "name is needed"},
		{`{"name":7}`, "name must be a string"},
		{`{"name":"a b"}`, "name: template \"a b\": a name has 1 to 128"},
		{`{"name":"a/b/c"}`, "a name has 1 to 128"},
		{`{"name":"` + strings.Repeat("a", 129) + `"}`, "a name has 1 to 128"},
		{`{"name":"a:"}`, "the tag may hold"},
		{`{"name":"a@1.2"}`, "has a version; a build gets that when it is ready"},
		{`{"name":"their-team/a"}`, "name: namespace 'their-team' must match your team 'our-team'"},
		{`{"name":"a","teamID":"theirs"}`, "the key belongs to another team"},
		{`{"alias":"a b"}`, "a name has 1 to 128"},
		{`{"name":"a:` + readyBuild + `"}`, "could be the id of a build"},
		{`{"name":"a","tags":["` + readyBuild + `"]}`, "could be the id of a build"},
		{`{"name":"a","tags":["v1",""]}`, "a tag has 1 to 128"},
		{`{"name":"a","tags":["a:b"]}`, "a tag has 1 to 128"},
		{`{"name":"a","tags":[null]}`, "tags must be strings, not null"},
		{`{"name":"a","tags":"v1"}`, "tags must be an array"},
		{`{"name":"a","tags":["v1"` + strings.Repeat(`,"v1"`, 100) + `]}`, "there must not be more than 32"},
		{`{"name":"a","cpuCount":0}`, "cpuCount must be from 1 to 4, not 0"},
		{`{"name":"a","cpuCount":5}`, "cpuCount must be from 1 to 4, not 5"},
		{`{"name":"a","cpuCount":-1}`, "cpuCount must be from 1 to 4"},
		{`{"name":"a","cpuCount":1.5}`, "cpuCount must be an integer"},
		{`{"name":"a","memoryMB":127}`, "memoryMB must be from 128 to 2048, not 127"},
		{`{"name":"a","memoryMB":2050}`, "memoryMB must be from 128 to 2048, not 2050"},
		{`{"name":"a","memoryMB":1023}`, "memoryMB must be an even number, not 1023"},
		{`{"name":"a","memoryMB":-2147483648}`, "memoryMB must be from 128"},
		{`{"name":"a","minFreeDiskMb":-1}`, "minFreeDiskMb must be from 0 to 10240, not -1"},
		{`{"name":"a","minFreeDiskMb":10241}`, "minFreeDiskMb must be from 0 to 10240, not 10241"},
	} {
		w := &world{}
		res := ask(newAPI(t, w, ""), "POST", "/v3/templates", tt.body)
		t.Run(clip(tt.body), func(t *testing.T) {
			wantFailure(t, res, 400, tt.msg)
			if w.asked != nil {
				t.Errorf("the registry was asked for %+v", w.asked)
			}
		})
	}
	for code, err := range map[int]error{
		403: soulbox.Errorf(soulbox.Forbidden, "template 'a' is not your team's"),
		409: soulbox.Errorf(soulbox.Conflict, "there is a template 'a' already"),
		429: soulbox.Errorf(soulbox.Exhausted, "20 builds wait already"),
		503: soulbox.Errorf(soulbox.Unavailable, "the disk is full"),
	} {
		wantFailure(t, ask(newAPI(t, &world{fail: err}, ""), "POST", "/v3/templates", `{"name":"a"}`), code, err.Error())
	}
}

// TestDraftNames reads names as clients write them.
func TestDraftNames(t *testing.T) {
	for body, want := range map[string]drafting{
		`{"name":" My-Template_2 "}`:                       {Name: "my-template_2", Tags: []string{"default"}},
		`{"name":"our-team/a"}`:                            {Name: "a", Tags: []string{"default"}},
		`{"alias":"a"}`:                                    {Name: "a", Tags: []string{"default"}},
		`{"name":"a","alias":"b"}`:                         {Name: "a", Tags: []string{"default"}},
		`{"name":"a:default","tags":[]}`:                   {Name: "a", Tags: []string{"default"}},
		`{"name":"a:v1"}`:                                  {Name: "a", Tags: []string{"v1"}},
		`{"name":"a:v1","tags":["default"]}`:               {Name: "a", Tags: []string{"v1", "default"}},
		`{"name":"a","tags":["V1 "," v1","1.0"]}`:          {Name: "a", Tags: []string{"v1", "1.0"}},
		`{"name":"a","cpuCount":null,"memoryMB":null}`:     {Name: "a", Tags: []string{"default"}},
		`{"name":"a","minFreeDiskMb":0}`:                   {Name: "a", Tags: []string{"default"}},
		`{"name":"a","cpuCount":4,"memoryMB":128}`:         {Name: "a", Tags: []string{"default"}, Size: soulbox.Size{CPUs: 4, Memory: 128 * soulbox.MiB}},
		`{"name":"a","memoryMB":2048,"minFreeDiskMb":512}`: {Name: "a", Tags: []string{"default"}, Size: soulbox.Size{Memory: 2 * soulbox.GiB}},
	} {
		w := &world{}
		if res := ask(newAPI(t, w, ""), "POST", "/v3/templates", body); res.Code != 202 {
			t.Errorf("%s: %d %s", body, res.Code, res.Body)
		}
		if diff := cmp.Diff(any(want), w.asked); diff != "" {
			t.Errorf("%s: Draft was asked (-want +got):\n%s", body, diff)
		}
	}
}

func TestTagsRefused(t *testing.T) {
	for _, tt := range []struct {
		verb, body string
		code       int
		msg        string
	}{
		{"POST", ``, 400, "needs a body"},
		{"POST", `{"tags":["a"]}`, 400, "target is needed"},
		{"POST", `{"target":"mine"}`, 400, "tags: at least one is needed"},
		{"POST", `{"target":"mine","tags":[]}`, 400, "tags: at least one is needed"},
		{"POST", `{"target":"mine","tags":[":invalid-tag"]}`, 400, "a tag has 1 to 128"},
		{"POST", `{"target":"mine","tags":["mine:"]}`, 400, "a tag has 1 to 128"},
		{"POST", `{"target":"mine","tags":["` + strings.ToUpper(readyBuild) + `"]}`, 400, "could be the id of a build"},
		{"POST", `{"target":"a b","tags":["a"]}`, 400, "target: "},
		{"POST", `{"target":"their-team/tool","tags":["a"]}`, 400, "target: namespace 'their-team' must match your team 'our-team'"},
		{"POST", `{"target":"nothing","tags":["a"]}`, 404, "template 'nothing' not found"},
		{"POST", `{"target":"private","tags":["a"]}`, 404, "template 'private' not found"},
		{"POST", `{"target":"mine:v9","tags":["a"]}`, 404, "tag 'v9' does not exist for template 'mine'"},
		{"POST", `{"target":"tpl1","tags":["a"]}`, 403, "is not your team's"},
		{"DELETE", ``, 400, "needs a body"},
		{"DELETE", `{"tags":["a"]}`, 400, "name is needed"},
		{"DELETE", `{"name":"mine"}`, 400, "tags: at least one is needed"},
		{"DELETE", `{"name":"mine","tags":["v1","default"]}`, 400, `"default" cannot be removed`},
		{"DELETE", `{"name":"mine","tags":["Default"]}`, 400, `"default" cannot be removed`},
		{"DELETE", `{"name":"mine:v1","tags":["v1"]}`, 400, "names one build of a template"},
		{"DELETE", `{"name":"mine@1","tags":["v1"]}`, 400, "names one build of a template"},
		{"DELETE", `{"name":"their-team/tool","tags":["v1"]}`, 400, "must match your team"},
		{"DELETE", `{"name":"nothing","tags":["v1"]}`, 404, "template 'nothing' not found"},
		{"DELETE", `{"name":"tpl3","tags":["v1"]}`, 403, "is not your team's"},
	} {
		w := &world{}
		res := ask(newAPI(t, w, ""), tt.verb, "/templates/tags", tt.body)
		t.Run(tt.verb+" "+clip(tt.body), func(t *testing.T) {
			if wantFailure(t, res, tt.code, tt.msg); tt.code == 400 && w.asked != nil {
				t.Errorf("the registry was asked all the same: %v", w.asked)
			}
		})
	}
}

// TestBuildsRefused asks about builds and templates that are not there, or not
// to be seen.
func TestBuildsRefused(t *testing.T) {
	for _, tt := range []struct {
		verb, path, body string
		code             int
		msg              string
	}{
		{"GET", "/templates/tpl2/builds/1/status", "", 400, `"1" is not the id of a build`},
		{"GET", "/templates/tpl2/builds/" + strings.ToUpper(readyBuild) + "/status", "", 400, "is not the id of a build"},
		{"GET", "/templates/our-team%2Fmine/builds/" + readyBuild + "/status", "", 400, "is not the id of a template"},
		{"GET", "/templates/..%2f..%2fetc/builds/" + readyBuild + "/logs", "", 400, "is not the id of a template"},
		{"GET", "/templates/UP/builds/" + readyBuild + "/logs", "", 400, "is not the id of a template"},
		{"GET", "/templates/tpl2/builds/" + readyBuild + "/status?logsOffset=-1", "", 400, "logsOffset must be"},
		{"GET", "/templates/tpl2/builds/" + readyBuild + "/status?logsOffset=99999999999", "", 400, "logsOffset must be"},
		{"GET", "/templates/tpl2/builds/" + readyBuild + "/status?limit=101", "", 400, "limit must be a whole number from 0 to 100"},
		{"GET", "/templates/tpl2/builds/" + readyBuild + "/status?level=fatal", "", 400, "level must be"},
		{"GET", "/templates/tpl2/builds/" + readyBuild + "/logs?limit=101", "", 400, "limit must be"},
		{"GET", "/templates/tpl2/builds/" + readyBuild + "/logs?cursor=x", "", 400, "cursor must be"},
		{"GET", "/templates/tpl2/builds/" + readyBuild + "/logs?direction=up", "", 400, "direction must be"},
		{"GET", "/templates/tpl2/builds/" + readyBuild + "/logs?source=moon", "", 400, "source must be one of temporary, persistent"},
		{"POST", "/v2/templates/tpl2/builds/x", `{"fromImage":"a"}`, 400, "is not the id of a build"},
		{"GET", "/templates/tpl2/files/abc", "", 400, "the hash of the files must be 64"},
		{"GET", "/templates/UP/files/" + hereHash, "", 400, "is not the id of a template"},
		{"PATCH", "/templates/mine", ``, 400, "needs a body"},
		{"PATCH", "/templates/mine", `{"public":"yes"}`, 400, "public must be true or false"},
		{"PATCH", "/v2/templates/a%20b", `{"public":true}`, 400, "a name has 1 to 128"},
		{"GET", "/templates/mine?limit=101", "", 400, "limit must be"},
		{"GET", "/templates/a%20b/tags", "", 400, "a name has 1 to 128"},
		{"GET", "/templates/mine/tags/exists", "", 400, "a tag has 1 to 128"},

		{"GET", "/templates/tpl2/builds/" + theirBuild + "/status", "", 404, "does not exist"},
		{"GET", "/templates/nothing/builds/" + readyBuild + "/logs", "", 404, "template 'nothing' not found"},
		{"GET", "/templates/tpl4/builds/" + readyBuild + "/logs", "", 404, "template 'tpl4' not found"},
		{"GET", "/templates/tpl3/builds/" + theirBuild + "/logs", "", 403, "is not your team's"},
		{"GET", "/templates/tpl1/files/" + hereHash, "", 403, "is not your team's"},
		{"GET", "/templates/tpl4/files/" + hereHash, "", 404, "template 'tpl4' not found"},
		{"PATCH", "/templates/private", `{"public":true}`, 404, "template 'private' not found"},
		{"PATCH", "/templates/my-snap", `{"public":true}`, 404, "template 'my-snap' not found"},
		{"GET", "/templates/nothing/tags", "", 404, "template 'nothing' not found"},
		{"GET", "/templates/nothing/tags/count", "", 404, "template 'nothing' not found"},
		{"GET", "/templates/mine:v9", "", 404, "tag 'v9' does not exist for template 'mine'"},
		{"DELETE", "/templates/private", "", 404, "template 'private' not found"},
	} {
		t.Run(tt.verb+" "+tt.path, func(t *testing.T) {
			wantFailure(t, ask(newAPI(t, &world{}, ""), tt.verb, tt.path, tt.body), tt.code, tt.msg)
		})
	}

	// Whoever lives in the template is named in the way.
	w := &world{fail: soulbox.Errorf(soulbox.Invalid, "template 'mine' has 2 sandboxes that live")}
	wantFailure(t, ask(newAPI(t, w, ""), "DELETE", "/templates/mine", ""), 400, "2 sandboxes that live")
}

// TestHidden asks for what another team keeps to itself in every way there is.
// Whatever is said about that behind this room, the answer must be that of a
// name that nobody has.
func TestHidden(t *testing.T) {
	for _, talks := range []bool{false, true} {
		h := newAPI(t, &world{talks: talks}, "")
		for _, row := range [][2]string{
			{"GET", "/templates/%s"},
			{"DELETE", "/templates/%s"},
			{"PATCH", "/templates/%s"},
			{"PATCH", "/v2/templates/%s"},
			{"GET", "/templates/aliases/%s"},
			{"GET", "/templates/%s/tags"},
			{"GET", "/templates/%s/tags/count"},
			{"GET", "/templates/%s/tags/exists?tag=v1"},
			{"GET", "/v2/sandboxes?template=%s"},
		} {
			for _, name := range [][2]string{{"their-team%2Fprivate", "their-team%2Fnothing"}, {"tpl4", "tpl0"}, {"private", "nothing"}} {
				hidden := ask(h, row[0], fmt.Sprintf(row[1], name[0]), `{"public":true}`)
				nothing := ask(h, row[0], fmt.Sprintf(row[1], name[1]), `{"public":true}`)
				said := func(s, name string) string {
					_, bare, _ := strings.Cut("x%2F"+strings.ReplaceAll(name, "their-team%2F", ""), "%2F")
					return strings.ReplaceAll(s, bare, "NAME")
				}
				if a, b := said(hidden.Body.String(), name[0]), said(nothing.Body.String(), name[1]); hidden.Code != nothing.Code || a != b {
					t.Errorf("%s %s: %d %s, but %d %s for nothing", row[0], row[1], hidden.Code, a, nothing.Code, b)
				}
			}
		}
	}
}

// FuzzRecipe sends recipes. What is taken must be in the form that the builder
// counts on.
func FuzzRecipe(f *testing.F) {
	for _, s := range []string{
		`{"fromImage":"debian"}`,
		`{"fromTemplate":"a/b:c","steps":[{"type":"COPY","args":["a","b","u","0755"],"filesHash":"` + otherHash + `","force":true}]}`,
		`{"fromImage":"debian","steps":[{"type":"RUN","args":["a","root"]},{"type":"ENV","args":["A","1"]},{"type":"WORKDIR","args":["/"]},{"type":"USER","args":["a","true"]}]}`,
		`{"fromImage":"a.example/b","fromImageRegistry":{"type":"registry","username":"a","password":"b"},"startCmd":"a","readyCmd":"b"}`,
		`{"fromImage":"a.example/b","fromImageRegistry":{"type":"gcp","serviceAccountJson":"{}"}}`,
		`{"fromImage":"a.example/b","fromImageRegistry":{"type":"aws","awsAccessKeyId":"a","awsSecretAccessKey":"b","awsRegion":"us-east-1"}}`,
		`{"fromImage":"debian","steps":[{"type":"COPY","args":["../a","b"],"filesHash":"x"}]}`,
		`{"fromImage":"debian","steps":[{"type":"ENV","args":["A=","1","B"]}]}`,
	} {
		f.Add(s)
	}
	w := &world{}
	h := newAPI(f, w, "")
	f.Fuzz(func(t *testing.T, body string) {
		w.asked = nil
		res := ask(h, "POST", triggerPath, body)
		if res.Code != 202 {
			if w.asked != nil || res.Code != 400 && res.Code != 413 {
				t.Fatalf("%q: %d %s after asking for %+v", body, res.Code, res.Body, w.asked)
			}
			return
		}
		if _, failed := w.asked.(soulbox.BuildFailure); failed {
			return // AWS said no
		}
		got := w.asked.(triggering)
		r := got.Recipe
		if (r.Image == "") == (r.Template == "") || len(r.Steps) > 1000 {
			t.Errorf("%q became %+v", body, r)
		}
		all := []string{r.Image, r.Template, r.Start, r.Ready}
		for _, s := range r.Steps {
			n := len(s.Args)
			ok := map[soulbox.StepKind]bool{
				soulbox.StepCopy: n >= 2 && n <= 4, soulbox.StepRun: n == 1 || n == 2, soulbox.StepEnv: n >= 2 && n%2 == 0,
				soulbox.StepWorkdir: n == 1, soulbox.StepUser: n == 1 || n == 2,
			}
			if !ok[s.Kind] || s.Args[0] == "" || (s.Kind == soulbox.StepCopy) != (len(s.Files) == 64) {
				t.Errorf("%q: step %+v", body, s)
			}
			if s.Kind == soulbox.StepCopy && (strings.HasPrefix(s.Args[0], "/") || s.Args[0] == ".." || strings.HasPrefix(s.Args[0], "../")) {
				t.Errorf("%q copies %q", body, s.Args[0])
			}
			all = append(all, s.Args...)
		}
		if strings.ContainsRune(strings.Join(all, ""), 0) {
			t.Errorf("%q: NUL in %+v", body, r)
		}
		for host, l := range got.Logins {
			if host == "" || l.User == "" || l.Password == "" {
				t.Errorf("%q: login %+v at %q", body, l, host)
			}
		}
		var said struct {
			Steps []struct{} `json:"steps"`
		}
		if err := json.Unmarshal([]byte(body), &said); err != nil || len(said.Steps) != len(r.Steps) {
			t.Errorf("%q: %d steps became %d: %v", body, len(said.Steps), len(r.Steps), err)
		}
	})
}
