package interpreter

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParseExecute(f *testing.F) {
	f.Add("application/json", []byte(`{"code":"1","context_id":null,"language":"r","env_vars":{"A":"b"}}`))
	f.Add("", []byte(`{"code":1,"env_vars":{"A":[]},"language":{}}`))
	f.Add("text/plain; charset", []byte("\xff"))
	f.Add("application/x+json", []byte(`null`))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		req, err := parseExecute(kind, body)
		if err != nil {
			var all faults
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("error %v, want faults", err)
			}
			text, err := json.Marshal(all)
			if err != nil || !utf8.Valid(text) {
				t.Fatalf("faults %q, %v", text, err)
			}
			return
		}
		for _, s := range []string{req.Code, req.ContextID, req.Language} {
			if !utf8.ValidString(s) {
				t.Errorf("%q is not UTF-8", s)
			}
		}
		var whole struct{ Code *string }
		if json.Unmarshal([]byte(strings.ToValidUTF8(string(body), "\ufffd")), &whole) != nil || whole.Code == nil {
			t.Errorf("%q was taken, and has no code", body)
		}
	})
}

func FuzzASCII(f *testing.F) {
	f.Add("plain")
	f.Add("ä\u2028\U0001f389\ufffd\x00\"")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		text, err := json.Marshal(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		ascii(&out, text)
		var got map[string]string
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got[s] != s || len(got) != 1 {
			t.Errorf("%q became %s, %v", s, out.Bytes(), err)
		}
		if i := bytes.IndexFunc(out.Bytes(), func(r rune) bool { return r >= utf8.RuneSelf }); i >= 0 {
			t.Errorf("%q has something else than ASCII at %d", out.Bytes(), i)
		}
	})
}

func TestUnquote(t *testing.T) {
	for in, want := range map[string]string{`'a'`: "a", `"a"`: "a", `'a"`: `'a"`, `'`: "", `''`: "", `a'`: "a'", ``: "", `'a' + 'b'`: "a' + 'b"} {
		if got := unquote(in); got != want {
			t.Errorf("unquote(%q) = %q, want %q", in, got, want)
		}
	}
}

// Java and R have no kernel here; what would run in them can be read.
func TestDialects(t *testing.T) {
	vars := map[string]string{"A": "it's \"\\\n", "B": ""}
	set, restore := java(vars, true)
	if want := `{ if (System.getProperty("A") != null) System.setProperty("soulbox.env.A", System.getProperty("A")); System.setProperty("A", "it's \"\\\n"); `; !strings.HasPrefix(set, want) {
		t.Errorf("java: %s, want %s", set, want)
	}
	if want := `if (System.getProperty("soulbox.env.A") == null) System.clearProperty("A"); else { System.setProperty("A", System.getProperty("soulbox.env.A")); System.clearProperty("soulbox.env.A"); } `; !strings.Contains(restore, want) {
		t.Errorf("java: %s, want %s", restore, want)
	}
	if set, _ := r(vars, true); !strings.Contains(set, `n <- c("A" = "it's \"\\\n", "B" = "");`) {
		t.Errorf("r: %s", set)
	}
}
