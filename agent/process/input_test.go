package process_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/soulbox/soulbox/internal/connectjson"
)

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func stdin(pid uint32, text string) object {
	return object{"process": object{"pid": pid}, "input": object{"stdin": b64(text)}}
}

func terminal(pid uint32, text string) object {
	return object{"process": object{"pid": pid}, "input": object{"pty": b64(text)}}
}

func TestStdin(t *testing.T) {
	f := serve(t)
	s := f.start(t, object{"process": object{"cmd": "cat"}})
	for _, text := range []string{"a", "", "b\n"} {
		if err := f.call(t, "/SendInput", stdin(s.pid, text)); err != nil {
			t.Fatal(err)
		}
	}
	s.until(&s.stdout, "ab\n")
	wantCode(t, f.call(t, "/SendInput", terminal(s.pid, "x")), connectjson.Internal, "tty not assigned to process")
	wantCode(t, f.call(t, "/SendInput", object{"process": pid(s.pid)}), connectjson.Unimplemented, "invalid input type")
	wantCode(t, f.call(t, "/Update", object{"process": pid(s.pid), "pty": object{"size": object{"cols": 1}}}), connectjson.Internal, "tty not assigned")
	if err := f.call(t, "/CloseStdin", object{"process": pid(s.pid)}); err != nil {
		t.Fatal(err)
	}
	if s.wait(); s.end.End == nil || s.end.End.ExitCode != 0 {
		t.Errorf("end of cat = %+v, %v", s.end.End, s.err)
	}

	s = f.start(t, bash("exec sleep 60"))
	wantCode(t, f.call(t, "/SendInput", stdin(s.pid, "x")), connectjson.Internal, "stdin not enabled or closed")
	if err := f.call(t, "/CloseStdin", object{"process": pid(s.pid)}); err != nil {
		t.Errorf("closing what is closed: %v", err)
	}
}

// A process that does not read holds the caller only for as long as the caller
// wants, and the next one gets its turn.
func TestStdinOfDeafProcess(t *testing.T) {
	f := serve(t)
	s := f.start(t, object{"process": object{"cmd": "bash", "args": []string{"-c", "read -n1 x; head -c 5 >/dev/null; cat >/dev/null; echo done"}}})
	if err := f.call(t, "/SendInput", object{"process": pid(s.pid), "input": object{"stdin": ""}}); err != nil {
		t.Fatal(err)
	}
	deaf := f.start(t, object{"process": object{"cmd": "sleep", "args": []string{"60"}}})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	big := stdin(deaf.pid, strings.Repeat("x", 1<<20))
	_, err := connectjson.Call[object](ctx, f.Client, "/SendInput", &big)
	wantCode(t, err, connectjson.DeadlineExceeded, "deadline")
	if err := f.call(t, "/CloseStdin", object{"process": pid(deaf.pid)}); err != nil {
		t.Error(err)
	}
	big = stdin(s.pid, strings.Repeat("x", 1<<20))
	if _, err := connectjson.Call[object](t.Context(), f.Client, "/SendInput", &big); err != nil {
		t.Error(err)
	}
	if err := f.call(t, "/CloseStdin", object{"process": pid(s.pid)}); err != nil {
		t.Error(err)
	}
	if s.wait(); s.stdout.String() != "done\n" {
		t.Errorf("output %q", s.stdout.String())
	}
}

func TestStreamInput(t *testing.T) {
	f := serve(t)
	s := f.start(t, object{"process": object{"cmd": "cat"}})
	send := func(messages ...object) string {
		var body []byte
		for _, m := range messages {
			data, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			body = append(binary.BigEndian.AppendUint32(append(body, 0), uint32(len(data))), data...)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.Base+"/StreamInput", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/connect+json")
		resp, err := f.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	start := object{"start": object{"process": pid(s.pid)}}
	data := func(text string) object { return object{"data": object{"input": object{"stdin": b64(text)}}} }
	if got := send(start, data("one "), object{"keepalive": object{}}, data("two\n")); !strings.HasSuffix(got, "\x02\x00\x00\x00\x02{}") {
		t.Errorf("answer %q", got)
	}
	s.until(&s.stdout, "one two\n")
	for want, messages := range map[string][]object{
		"not_found":        {{"start": object{"process": pid(999999)}}},
		"invalid_argument": {data("x")},
		"unimplemented":    {{}},
	} {
		if got := send(messages...); !strings.Contains(got, want) {
			t.Errorf("%v answered with %q, want %s", messages, got, want)
		}
	}
}

func TestPTY(t *testing.T) {
	f := serve(t)
	s := f.as("user").start(t, object{
		"process": object{"cmd": "/bin/bash", "args": []string{"--norc", "-i"}, "envs": object{"ABC": "123", "TERM": "xterm-256color", "PS1": "$ "}},
		"pty":     object{"size": object{"cols": 100, "rows": 30}},
	})
	send := func(text string) {
		t.Helper()
		if err := f.call(t, "/SendInput", terminal(s.pid, text)); err != nil {
			t.Fatal(err)
		}
	}
	send("stty size; echo x${ABC}x\n")
	s.until(&s.pty, "30 100")
	s.until(&s.pty, "x123x")
	if err := f.call(t, "/Update", object{"process": pid(s.pid), "pty": object{"size": object{"cols": 50, "rows": 20}}}); err != nil {
		t.Fatal(err)
	}
	send("stty size\n")
	s.until(&s.pty, "20 50")
	send("echo $(echo via >$(tty))end\n") // the user may open the terminal
	s.until(&s.pty, "via")
	wantCode(t, f.call(t, "/SendInput", stdin(s.pid, "x")), connectjson.Internal, "tty assigned to process")
	wantCode(t, f.call(t, "/CloseStdin", object{"process": pid(s.pid)}), connectjson.Unknown, "Ctrl+D")
	send("sleep 60\n")
	send("\x03")
	send("exit 9\n")
	if s.wait(); s.end.End == nil || s.end.End.ExitCode != 9 {
		t.Errorf("end = %+v, %v; want exit code 9; screen %q", s.end.End, s.err, s.pty.String())
	}

	s = f.start(t, object{"process": object{"cmd": "sleep", "args": []string{"60"}}, "pty": object{}})
	if err := f.call(t, "/SendSignal", object{"process": pid(s.pid), "signal": "SIGNAL_SIGKILL"}); err != nil {
		t.Fatal(err)
	}
	if s.wait(); s.end.End == nil || s.end.End.Status != "signal: killed" {
		t.Errorf("end = %+v, %v", s.end.End, s.err)
	}
}
