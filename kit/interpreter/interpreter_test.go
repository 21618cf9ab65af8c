package interpreter_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/kit/interpreter"
	"github.com/soulbox/soulbox/kit/interpreter/kerneltest"
	"github.com/soulbox/soulbox/kit/interpreter/python"
)

// server is an interpreter that answers on a port.
type server struct {
	*interpreter.Interpreter
	url string
}

// start runs an interpreter until the test ends.
func start(t *testing.T, change func(*interpreter.Options), languages ...string) *server {
	t.Helper()
	run, err := os.MkdirTemp("", "soulbox-") //nolint:usetesting // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	packages := t.TempDir()
	if err := os.CopyFS(packages, python.FS); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(nil)
	o := interpreter.Options{
		URL: "http://" + web.Listener.Addr().String(),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Run: run, Dir: t.TempDir(), Python: packages, Env: append(os.Environ(), "NO_COLOR=1"),
	}
	if change != nil {
		change(&o)
	}
	if o.Specs == nil {
		o.Specs = []string{kerneltest.Specs(t)}
	}
	in := interpreter.New(o)
	t.Cleanup(in.Close)
	if err := in.Warm(t.Context(), languages...); err != nil {
		t.Fatal(err)
	}
	web.Config.Handler = in
	web.Start()
	t.Cleanup(web.Close)
	return &server{in, web.URL}
}

// line is any line of a stream.
type line struct {
	Type      string          `json:"type"`
	Text      *string         `json:"text"`
	Timestamp string          `json:"timestamp"`
	Name      string          `json:"name"`
	Value     string          `json:"value"`
	Traceback string          `json:"traceback"`
	Count     int             `json:"execution_count"`
	HTML      string          `json:"html"`
	PNG       string          `json:"png"`
	JSON      json.RawMessage `json:"json"`
	LaTeX     string          `json:"latex"`
	Extra     map[string]any  `json:"extra"`
	Main      *bool           `json:"is_main_result"`
}

// outcome is what became of an execution.
type outcome struct {
	lines          []line
	stdout, stderr string
	err            *line
	results        []line
	count          int
	ended          bool
}

// text returns the main result's.
func (o *outcome) text() string {
	for _, r := range o.results {
		if r.Main != nil && *r.Main && r.Text != nil {
			return *r.Text
		}
	}
	return ""
}

type request = map[string]any

// post sends a request and returns the answer, whose body the caller closes.
func (s *server) post(ctx context.Context, path string, body any) (*http.Response, error) {
	text, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		text = string(b)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(req)
}

// execute runs code and reads everything.
func (s *server) execute(t *testing.T, r request) *outcome {
	t.Helper()
	o, err := s.try(t.Context(), r)
	if err != nil {
		t.Fatalf("execute %.100v: %v", r, err)
	}
	return o
}

func (s *server) try(ctx context.Context, r request) (*outcome, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/execute", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return s.do(req)
}

// do sends a request to execute something, and reads everything.
func (s *server) do(req *http.Request) (*outcome, error) {
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s", resp.Status, b)
	}
	o := &outcome{}
	in := bufio.NewReader(resp.Body)
	for {
		b, err := in.ReadBytes('\n')
		if err != nil {
			if err == io.EOF && len(b) == 0 && o.ended {
				return o, nil
			}
			return nil, fmt.Errorf("after %d lines: %w; %q", len(o.lines), err, b)
		}
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			return nil, fmt.Errorf("%w: %.200q", err, b)
		}
		o.add(l)
	}
}

func (o *outcome) add(l line) {
	o.lines = append(o.lines, l)
	switch l.Type {
	case "stdout":
		o.stdout += *l.Text
	case "stderr":
		o.stderr += *l.Text
	case "error":
		o.err = &l
	case "result":
		o.results = append(o.results, l)
	case "number_of_executions":
		o.count = l.Count
	case "end_of_execution":
		o.ended = true
	}
}

// answer sends any request and returns status and body.
func (s *server) answer(t *testing.T, method, path, kind, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

type object struct{ ID, Language, Cwd string }

// contexts lists the contexts.
func (s *server) contexts(t *testing.T) []object {
	t.Helper()
	status, text := s.answer(t, "GET", "/contexts", "", "")
	var all []object
	if err := json.Unmarshal([]byte(text), &all); err != nil || status != http.StatusOK {
		t.Fatalf("GET /contexts: %d %s, %v", status, text, err)
	}
	return all
}

// create makes a context.
func (s *server) create(t *testing.T, body string) object {
	t.Helper()
	status, text := s.answer(t, "POST", "/contexts", "application/json", body)
	var c object
	if err := json.Unmarshal([]byte(text), &c); err != nil || status != http.StatusOK {
		t.Fatalf("POST /contexts %s: %d %s, %v", body, status, text, err)
	}
	return c
}

// eventually waits until f says that it is so.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 30 s it is not so that %s", what)
		}
	}
}

func TestExecute(t *testing.T) {
	s := start(t, nil, "python", "javascript", "nothing-of-this-name")
	t.Run("lines", func(t *testing.T) {
		o := s.execute(t, request{"code": "print(1)"})
		kinds := make([]string, 0, len(o.lines))
		for _, l := range o.lines {
			kinds = append(kinds, l.Type)
		}
		if want := []string{"number_of_executions", "stdout", "end_of_execution"}; !slices.Equal(kinds, want) || o.stdout != "1\n" || o.count != 1 {
			t.Errorf("print(1): %v, %q, count %d; want %v, \"1\\n\", 1", kinds, o.stdout, o.count, want)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.999999-07:00", o.lines[1].Timestamp); err != nil {
			t.Errorf("timestamp: %v", err)
		}
	})
	for _, test := range []struct {
		name, code, language string
		stdout, stderr, text string
		err                  string
	}{
		{name: "state", code: "x = 20", text: ""},
		{name: "state kept", code: "x += 1; x", text: "21"},
		{name: "quotes", code: "'it is'", text: "it is"},
		{name: "double quotes", code: `"it's"`, text: "it's"},
		{name: "quotes inside", code: `"'"`, text: "'"},
		{name: "nothing", code: ""},
		{name: "indented", code: "\n    y = 2\n    y", text: "2"},
		{name: "stderr", code: "import sys; print('no', file=sys.stderr)", stderr: "no\n"},
		{name: "shell", code: "!echo $((6*7))", stdout: "42\r\n"},
		{name: "a long list", code: "len(str(list(range(3000)))), print(list(range(3000))[-1])", stdout: "2999\n", text: "(16890, None)"},
		{name: "whole list shown", code: "list(range(1500))[1499:] + ['' for _ in range(1500)] == 0", text: "False"},
		{name: "await", code: "import asyncio\nawait asyncio.sleep(0.01, 7)", text: "7"},
		{name: "error", code: "1/0", err: "ZeroDivisionError: division by zero"},
		{name: "syntax", code: "1 +", err: "SyntaxError: invalid syntax"},
		{name: "input", code: "input('?')", err: "StdinNotImplementedError: raw_input was called, but this frontend does not support input requests."},
		{name: "not UTF-8", code: `import os; os.write(1, b"a\xff\xfeb\n"); None`, stdout: "a\ufffd\ufffdb\n"},
		{name: "zeros", code: `print("a\0b")`, stdout: "a\x00b\n"},
		{name: "javascript", language: "js", code: "const a = 6; console.log(a); a * 7", stdout: "6\n", text: "42"},
		{name: "javascript string", language: " JavaScript ", code: "'b' + 1", text: "b1"},
		{name: "typescript", language: "ts", code: "const m: string = 'types'; console.log(m)", stdout: "types\n"},
		{name: "bash", language: "bash", code: "A=5; echo $((A+1))", stdout: "6\n"},
		{name: "any spec", language: "python3", code: "1+1", text: "2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request{"code": test.code}
			if test.language != "" {
				r["language"] = test.language
			}
			o := s.execute(t, r)
			err := ""
			if o.err != nil {
				err = o.err.Name + ": " + o.err.Value
			}
			if o.stdout != test.stdout || o.stderr != test.stderr || o.text() != test.text || !strings.HasPrefix(err, test.err) || (test.err == "") != (err == "") {
				t.Errorf("stdout %q, stderr %q, text %q, error %q; want %q, %q, %q, %q",
					o.stdout, o.stderr, o.text(), err, test.stdout, test.stderr, test.text, test.err)
			}
		})
	}
	t.Run("traceback", func(t *testing.T) {
		o := s.execute(t, request{"code": "def f():\n    1/0\nf()"})
		if o.err == nil || !strings.Contains(o.err.Traceback, "----> 2     1/0") || strings.Contains(o.err.Traceback, "\x1b") {
			t.Errorf("error %+v, want a traceback without colours", o.err)
		}
	})
	t.Run("displayed", func(t *testing.T) {
		o := s.execute(t, request{"code": `from IPython.display import display
display({"text/html": "<b>x</b>", "image/png": "aGk=", "application/json": {"a": [1,
 2]}, "text/latex": "$x$", "x/y": "z"}, raw=True)
display(None)
"last"`})
		if len(o.results) != 3 {
			t.Fatalf("results %+v, want three", o.results)
		}
		r := o.results[0]
		if r.HTML != "<b>x</b>" || r.PNG != "aGk=" || string(r.JSON) != `{"a":[1,2]}` || r.LaTeX != "$x$" || r.Extra["x/y"] != "z" || *r.Main || r.Text != nil {
			t.Errorf("displayed: %+v", r)
		}
		if last := o.results[2]; !*last.Main || *last.Text != "last" || len(last.Extra) != 0 {
			t.Errorf("last: %+v", last)
		}
	})
}

func TestContexts(t *testing.T) {
	s := start(t, nil, "python", "javascript")
	all := s.contexts(t)
	if len(all) != 2 || all[0].Language != "python" || all[1].Language != "javascript" {
		t.Fatalf("at first there are %+v, want one of Python and one of JavaScript", all)
	}
	dir := t.TempDir()
	c := s.create(t, fmt.Sprintf(`{"language": "Python", "cwd": %q}`, dir))
	if c.Language != "python" || c.Cwd != dir {
		t.Errorf("created %+v, want Python in %s", c, dir)
	}
	if all := s.contexts(t); len(all) != 3 || all[2] != c {
		t.Errorf("contexts %+v, want %+v last", all, c)
	}
	if o := s.execute(t, request{"code": "x = 1\nimport os\nos.getcwd()", "context_id": c.ID}); o.text() != dir {
		t.Errorf("it is in %q, want %q; %+v", o.text(), dir, o)
	}
	if o := s.execute(t, request{"code": "x"}); o.err == nil || o.err.Name != "NameError" {
		t.Errorf("the default context knows x: %+v", o)
	}
	if o := s.execute(t, request{"code": "x", "context_id": c.ID}); o.text() != "1" || o.count != 2 {
		t.Errorf("x is %q, count %d; want 1, 2", o.text(), o.count)
	}
	if status, text := s.answer(t, "POST", "/contexts/"+c.ID+"/restart", "", ""); status != 200 || text != "null" {
		t.Errorf("restart: %d %q", status, text)
	}
	if o := s.execute(t, request{"code": "x", "context_id": c.ID}); o.err == nil || o.err.Name != "NameError" || o.stderr != "" || o.count != 1 {
		t.Errorf("after a restart x is there: %+v", o)
	}
	if o := s.execute(t, request{"code": "import os\nos.getcwd()", "context_id": c.ID}); o.text() != dir {
		t.Errorf("after a restart it is in %q, want %q", o.text(), dir)
	}
	if status, text := s.answer(t, "DELETE", "/contexts/"+c.ID, "", ""); status != 200 || text != "null" {
		t.Errorf("delete: %d %q", status, text)
	}
	for _, r := range [][2]string{{"DELETE", "/contexts/" + c.ID}, {"POST", "/contexts/" + c.ID + "/restart"}} {
		if status, text := s.answer(t, r[0], r[1], "", ""); status != 404 || text != "Context "+c.ID+" not found" {
			t.Errorf("%s %s: %d %q, want 404", r[0], r[1], status, text)
		}
	}
	// The default context of a language is made anew when it was deleted.
	s.answer(t, "DELETE", "/contexts/"+all[0].ID, "", "")
	if o := s.execute(t, request{"code": "1"}); o.text() != "1" || len(s.contexts(t)) != 2 {
		t.Errorf("after its end the default context says %+v", o)
	}
}

func TestRefuses(t *testing.T) {
	s := start(t, nil)
	const kind = "application/json"
	big := `{"code": "` + strings.Repeat("#", 33<<20) + `"}`
	for _, test := range []struct {
		name, method, path, kind, body string
		status                         int
		want                           string
	}{
		{"health", "GET", "/health", "", "", 200, `"OK"`},
		{"both", "POST", "/execute", kind, `{"code":"1","language":"python","context_id":"x"}`, 400, "Only one of context_id or language can be provided"},
		{"unknown context", "POST", "/execute", kind, `{"code":"1","context_id":"x"}`, 404, "Context x not found"},
		{
			"unknown language", "POST", "/execute", kind, `{"code":"1","language":"Cobol"}`, 500,
			`Failed to create context: {"message": "The 'cobol' kernel is not available. Please pick another suitable kernel instead, or install that kernel.", "short_message": "cobol not found"}`,
		},
		{"a path", "POST", "/contexts", kind, `{"language":"../../etc"}`, 500, `Failed to create context: {"message": "The '../../etc' kernel`},
		{"no folder", "POST", "/contexts", kind, `{"cwd":"/nowhere"}`, 500, "Failed to set working directory"},
		{"no code", "POST", "/execute", kind, `{}`, 422, `{"detail":[{"type":"missing","loc":["body","code"],"msg":"Field required","input":{}}]}`},
		{"null code", "POST", "/execute", kind, `{"code":null}`, 422, `{"detail":[{"type":"string_type","loc":["body","code"],"msg":"Input should be a valid string","input":null}]}`},
		{"a number", "POST", "/execute", kind, `{"code":7}`, 422, `{"detail":[{"type":"string_type","loc":["body","code"],"msg":"Input should be a valid string","input":7}]}`},
		{"no JSON", "POST", "/execute", kind, `{"code":`, 422, `{"detail":[{"type":"json_invalid","loc":["body",`},
		{"a list", "POST", "/execute", kind, `[1]`, 422, `{"detail":[{"type":"model_attributes_type","loc":["body"],"msg":"Input should be a valid dictionary or object to extract fields from","input":[1]}]}`},
		{"nothing", "POST", "/execute", kind, ``, 422, `{"detail":[{"type":"missing","loc":["body"],"msg":"Field required","input":null}]}`},
		{"text", "POST", "/execute", "text/plain", `{"code":"1"}`, 422, `{"detail":[{"type":"model_attributes_type"`},
		{"variables", "POST", "/execute", kind, `{"code":"1","env_vars":[]}`, 422, `{"detail":[{"type":"dict_type","loc":["body","env_vars"]`},
		{"a variable", "POST", "/execute", kind, `{"code":"1","env_vars":{"A":1}}`, 422, `{"detail":[{"type":"string_type","loc":["body","env_vars","A"]`},
		{"a bad name", "POST", "/execute", kind, `{"code":"1","env_vars":{"A=B":"1"}}`, 400, `"A=B" cannot be the name of an environment variable`},
		{"a bad value", "POST", "/execute", kind, `{"code":"1","env_vars":{"A":"\u0000"}}`, 400, `the value of environment variable A contains a NUL`},
		{"bad cwd", "POST", "/contexts", kind, `{"cwd":1}`, 422, `{"detail":[{"type":"string_type","loc":["body","cwd"]`},
		{"too large", "POST", "/execute", kind, big, 413, "The request is larger than 33554432 bytes"},
		{"no route", "GET", "/nothing", "", "", 404, `{"detail":"Not Found"}`},
		{"method", "PUT", "/execute", kind, "{}", 405, `{"detail":"Method Not Allowed"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, text := s.answer(t, test.method, test.path, test.kind, test.body)
			if status != test.status || !strings.HasPrefix(text, test.want) {
				t.Errorf("%d %.300s, want %d %s", status, text, test.status, test.want)
			}
		})
	}
	if all := s.contexts(t); len(all) > 1 {
		t.Errorf("bad requests left contexts behind: %+v", all)
	}
}

func TestOrigins(t *testing.T) {
	s := start(t, nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, s.url+"/execute", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://example.com")
	req.Header.Set("Access-Control-Request-Method", "POST")
	req.Header.Set("Access-Control-Request-Headers", "x-access-token")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Access-Control-Allow-Origin") != "*" || resp.Header.Get("Access-Control-Allow-Headers") != "x-access-token" {
		t.Errorf("preflight: %s %v", resp.Status, resp.Header)
	}
}

// Code of ten megabytes runs.
func TestLongCode(t *testing.T) {
	s := start(t, nil, "python")
	code := "s = '" + strings.Repeat("ä", 5<<20) + "'\nlen(s)"
	if o := s.execute(t, request{"code": code}); o.text() != "5242880" {
		t.Errorf("length %q, want 5242880; %+v", o.text(), o.err)
	}
	var buf bytes.Buffer
	for i := range 20000 {
		fmt.Fprintf(&buf, "x%d = %d\n", i, i)
	}
	if o := s.execute(t, request{"code": buf.String() + "x19999"}); o.text() != "19999" {
		t.Errorf("x19999 is %q; %+v", o.text(), o.err)
	}
}
