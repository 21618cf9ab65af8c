package interpreter_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soulbox/soulbox/agent"
	"github.com/soulbox/soulbox/kit/interpreter"
)

// Values that would do harm if they were part of a program.
var nasty = []string{
	"bar", "", "it's", `"double"`, `back\slash\n`, "two\nlines\r\n", "$(touch /tmp/x) `id` ${HOME} !!", "'); import os; os._exit(1); ('",
	"\"; process.exit(1); \"", "ünïcödé 🎉", "\u2028\t\x01\x7f", `\u0041 \x41 \101`, "%d%s", "<&>", "{}[]",
}

// read is code that prints the variable A in JSON, or null.
var read = map[string]string{
	"python":     `import os, json; print(json.dumps(os.environ.get("A")))`,
	"javascript": `console.log(JSON.stringify(process.env.A ?? null))`,
	"bash":       `if [[ -v A ]]; then env -0 | python3 -c 'import sys, json; print(json.dumps(dict(e.split("=", 1) for e in sys.stdin.read().split("\0") if "=" in e)["A"]))'; else echo null; fi`,
}

// variable runs code that prints A.
func (s *server) variable(t *testing.T, language string, vars map[string]string) string {
	t.Helper()
	o := s.execute(t, request{"code": read[language], "language": language, "env_vars": vars})
	var value *string
	if err := json.Unmarshal([]byte(o.stdout), &value); err != nil {
		t.Fatalf("%s with %q: %v; %+v", language, vars, err, o)
	}
	if value == nil {
		return "(none)"
	}
	return *value
}

// Variables of one execution are there as they are, and gone afterwards.
func TestEnvOfExecution(t *testing.T) {
	s := start(t, nil, "python")
	for language := range read {
		for _, value := range nasty {
			if got := s.variable(t, language, map[string]string{"A": value, "B": "b"}); got != value {
				t.Errorf("%s: %q, want %q", language, got, value)
			}
		}
		if got := s.variable(t, language, nil); got != "(none)" {
			t.Errorf("%s: afterwards it is %q, want none", language, got)
		}
	}
	// A value that the code set itself comes back, also after an error.
	s.execute(t, request{"code": "os.environ['A'] = 'own'"})
	if o := s.execute(t, request{"code": "1/0", "env_vars": map[string]string{"A": "other"}}); o.err == nil || o.err.Name != "ZeroDivisionError" {
		t.Errorf("the error: %+v", o)
	}
	if got := s.variable(t, "python", nil); got != "own" {
		t.Errorf("afterwards it is %q, want the code's own", got)
	}
	// Whoever goes away does not leave his variables.
	s.begin(t, request{"code": "print('on', flush=True)\nimport time; time.sleep(300)", "env_vars": map[string]string{"A": "left"}})()
	if got := s.variable(t, "python", nil); got != "own" {
		t.Errorf("after its client has gone it is %q, want the code's own", got)
	}
	// Nothing of it is to be seen, or counted.
	o := s.execute(t, request{"code": "sorted(n for n in globals() if 'soulbox' in n or n in 'esnkv'), In[-1][:6], _", "env_vars": map[string]string{"A": "x"}})
	if o.text() != "([], 'sorted', '')" {
		t.Errorf("the user's names: %s, %+v", o.text(), o.err)
	}
	if o := s.execute(t, request{"code": "compgen -v | grep -c soulbox", "language": "bash"}); o.stdout != "0\n" {
		t.Errorf("Bash's names: %+v", o)
	}
	if status, text := s.answer(t, "POST", "/execute", "application/json", `{"code":"1","language":"bash","env_vars":{"A-B":"1"}}`); status != 400 || !strings.Contains(text, "in Bash") {
		t.Errorf("a name that Bash does not have: %d %s", status, text)
	}
}

// The sandbox's default environment is the agent's, asked with the client's token.
func TestEnvOfSandbox(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"etc", "run"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a := agent.New(agent.Options{Root: root, Path: os.Getenv("PATH")})
	t.Cleanup(a.Close)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/envs" {
			asked++
		}
		a.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	tell := func(body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/init", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Access-Token", "secret")
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusNoContent {
			t.Fatalf("init: %v, %v", resp, err)
		}
		resp.Body.Close()
	}
	tell(`{"accessToken": "secret", "sandboxId": "one", "envVars": {"A": "sandbox's"}}`)
	s := start(t, func(o *interpreter.Options) {
		o.Envs, o.Identity = server.URL+"/envs", filepath.Join(root, "run/e2b/.E2B_SANDBOX_ID")
	})
	run := func(token string, vars map[string]string) string {
		t.Helper()
		text, err := json.Marshal(request{"code": read["python"], "env_vars": vars})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/execute", strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Access-Token", token)
		o, err := s.do(req)
		if err != nil {
			t.Fatal(err)
		}
		return o.stdout
	}
	if got := run("wrong", nil); got != "null\n" {
		t.Errorf("with a wrong token it is %q, want null", got)
	}
	if got := run("secret", nil); got != "\"sandbox's\"\n" {
		t.Errorf("it is %q, want the sandbox's", got)
	}
	if got := run("secret", map[string]string{"A": "own"}); got != "\"own\"\n" {
		t.Errorf("with a value of its own it is %q", got)
	}
	if got := run("", nil); got != "\"sandbox's\"\n" || asked != 2 {
		t.Errorf("afterwards it is %q, the agent was asked %d times; want the sandbox's, 2", got, asked)
	}
	// A fork, or a sandbox that is made of a snapshot, has an environment of its own.
	tell(`{"sandboxId": "two", "envVars": {"A": "fork's"}}`)
	if got := run("secret", nil); got != "\"fork's\"\n" {
		t.Errorf("in a fork it is %q", got)
	}
	// So has a kernel that was started again.
	s.answer(t, "POST", "/contexts/"+s.contexts(t)[0].ID+"/restart", "", "")
	if got := run("secret", nil); got != "\"fork's\"\n" {
		t.Errorf("after a restart it is %q", got)
	}
}
